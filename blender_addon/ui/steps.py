"""The straight path from a picture to a scene: what is still to do, step by step. Cheap: it is
asked at every drawing.
"""

from __future__ import annotations

from typing import NamedTuple

import bpy

from ..cameras import first_camera, moves
from ..jobs import request
from . import properties


class Steps(NamedTuple):
    """Why each step is not done, or an empty text."""

    picture: str
    camera: str
    move: str

    @property
    def done(self) -> bool:
        """Whether a scene can be generated, as far as the steps go."""
        return not (self.picture or self.camera or self.move)


def of(scene: bpy.types.Scene) -> Steps:
    """Where `scene` stands."""
    return Steps(request.why_not_image(scene.scene_splatter), _camera(scene), _move(scene))


def _camera(scene: bpy.types.Scene) -> str:
    camera = properties.camera_of(scene)
    if camera is None:
        return "Press New Camera, or choose one of your own"
    if scene.scene_splatter.camera is None and first_camera.is_default_camera(camera):
        return "Blender's default camera looks down on things: press New Camera, or choose one"
    return request.why_not_lens(camera) or request.why_not_shape(scene)


def _move(scene: bpy.types.Scene) -> str:
    camera = properties.camera_of(scene)
    reason = request.why_not_range(scene)
    if reason or camera is None:
        return reason
    start, end = properties.frame_range(scene)
    if end > start and not moves.may_move(camera):
        return f"{camera.name} stands still: press Add Move, or animate it"
    return ""
