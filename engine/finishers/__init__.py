"""Finishers by name: networks that repair a frame of the finished scene in one step.

A module is imported only when its finisher is asked for. The room imports `models` and `bridge`.
`job` and `commands` may import it; `method` knows `base` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bridge.settings import NO_FINISHER
from ..models import registry

if TYPE_CHECKING:
    from ..bridge.settings import SceneSettings
    from .base import Finisher


def make_finisher(settings: SceneSettings, size: tuple[int, int], device: str) -> Finisher | None:
    """The finisher that `settings.refine.finisher` names, for frames of `size` (height, width);
    None for "none". Raises UserError where its weights are missing.
    """
    name = settings.refine.finisher
    if name == NO_FINISHER:
        return None
    return registry.factory(registry.FINISHERS[name], __package__)(name, size, device)
