"""Files that are dropped on a 3D view. Blender hands add-ons files alone, never folders."""

from __future__ import annotations

from typing import Any

import bpy
from bpy.props import StringProperty
from bpy_extras.io_utils import ImportHelper


class TakesDrops(ImportHelper):
    """For operators that import: a dropped file is taken at once, its options are in the panel of
    the last operation; from a menu the file browser asks.
    """

    filepath: StringProperty(  # not the one of last time, or a menu would take that as dropped
        name="File", description="The file to import", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """What Blender calls for a drop and for a menu's entry."""
        if self.filepath:
            taken: Any = self.execute(context)  # of the operator
            return taken
        return super().invoke(context, event)


class OnView:
    """For file handlers: 3D views take the drop."""

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        """In a 3D view."""
        return context.area is not None and context.area.type == "VIEW_3D"
