"""What the 3D views of a scene show: through the camera, and in colour. Without a window they are
there too, unseen.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy

from .conversion import FAR_M


def of(scene: bpy.types.Scene) -> Iterator[bpy.types.SpaceView3D]:
    """The 3D views that show `scene`."""
    for window in bpy.context.window_manager.windows:
        if window.scene == scene:
            for area in window.screen.areas:
                if area.type == "VIEW_3D" and area.spaces.active.region_3d is not None:
                    yield area.spaces.active


def look_through_camera(scene: bpy.types.Scene) -> None:
    """Have the first 3D view look through the scene's camera, if none does; free views then reach
    as far as a scene is deep.
    """
    spaces = list(of(scene))
    if spaces and not any(s.region_3d.view_perspective == "CAMERA" for s in spaces):
        spaces[0].region_3d.view_perspective = "CAMERA"
    for space in spaces:
        space.clip_end = max(space.clip_end, FAR_M / scene.unit_settings.scale_length)


def show_colours(scene: bpy.types.Scene) -> None:
    """Show colours in the views that look through the camera: Solid shading knows none of a point
    cloud.
    """
    for space in of(scene):
        if space.region_3d.view_perspective == "CAMERA" and space.shading.type == "SOLID":
            space.shading.type = "MATERIAL"
