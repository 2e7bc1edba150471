"""Buttons that are grey and say why."""

from __future__ import annotations

import bpy


class GreyWithReason:
    """For operators: `why_not` says why it cannot be pressed now, or nothing; Blender shows that
    where the button is grey.
    """

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Asked at every drawing, so it must be cheap."""
        raise NotImplementedError

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Blender asks this."""
        reason = cls.why_not(context)
        if reason:
            cls.poll_message_set(reason)  # type: ignore[attr-defined]
        return not reason
