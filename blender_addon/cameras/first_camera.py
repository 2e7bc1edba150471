"""The camera of a newcomer: upright at eye height, in a file that may still be Blender's default
one.
"""

from __future__ import annotations

import math

import bpy
from mathutils import Euler, Matrix

from .conversion import FAR_M, NEAR_M, intrinsics, widen_clip

MARK = "scene_splatter_camera"  # custom property of the cameras that are made here
USUAL_FOV_DEG = 60.0  # the engine's own guess, where no file tells
_DEFAULT_CAMERA = Matrix.LocRotScale(
    (7.3589, -6.9258, 4.9583), Euler((1.109319, 0.0, 0.814928)), None
)
_DEFAULT_LIGHT = (4.07625, 1.00545, 5.90386)
_NEAR = 1e-3


def add(scene: bpy.types.Scene, name: str) -> bpy.types.Object:
    """A new camera of the scene's, which becomes its camera; `stand_upright` puts it in its
    place.
    """
    lens = bpy.data.cameras.new(name)
    lens.sensor_fit = "HORIZONTAL"
    camera = bpy.data.objects.new(name, lens)
    camera[MARK] = True
    scene.collection.objects.link(camera)
    scene.camera = camera
    return camera


def stand_upright(
    scene: bpy.types.Scene, camera: bpy.types.Object, height_m: float, horizon: float
) -> None:
    """Stand `camera` level above the origin, looking along +y, so that the floor lies at z = 0.

    height_m: metres above the floor. horizon: its height in the picture, 0 top to 1 bottom; a
    horizon off the middle means that the photographer looked up or down, and so does the camera.
    Its near and far ends are set for a scene of that size.
    """
    K = intrinsics(camera.data, scene.render)
    _, height = K[0, 2] * 2, K[1, 2] * 2
    down = math.atan2(K[1, 2] - horizon * height, K[1, 1])
    metres = scene.unit_settings.scale_length
    camera.matrix_world = Matrix.Translation((0, 0, height_m / metres)) @ Matrix.Rotation(
        math.pi / 2 - down, 4, "X"
    )
    widen_clip(scene, camera.data, NEAR_M, FAR_M)


def is_ours(camera: bpy.types.Object | None) -> bool:
    """Whether `add` made it."""
    return camera is not None and bool(camera.get(MARK))


def is_default_camera(ob: bpy.types.Object | None) -> bool:
    """Whether it is the camera of Blender's default file as it came: it looks down on a cube, at 26
    degrees.
    """
    return (
        ob is not None
        and ob.type == "CAMERA"
        and _untouched(ob)
        and _alike(ob.matrix_basis, _DEFAULT_CAMERA)
    )


def hide_default_objects(scene: bpy.types.Scene, view_layer: bpy.types.ViewLayer) -> list[str]:
    """Hide cube and light of Blender's default file where they are as they came; returns their
    names.

    They are hidden as by the H key, and in renders: nothing is deleted.
    """
    hidden = []
    for ob in scene.objects:
        if ob.name in view_layer.objects and not ob.hide_get() and _is_default(ob):
            ob.hide_set(True, view_layer=view_layer)
            ob.hide_render = True
            hidden.append(ob.name)
    return hidden


def _is_default(ob: bpy.types.Object) -> bool:
    if not _untouched(ob):
        return False
    if ob.type == "MESH":
        return (
            ob.name == "Cube"
            and len(ob.data.vertices) == 8
            and _alike(ob.matrix_basis, Matrix.Identity(4))
            and all(abs(abs(c) - 1) < _NEAR for v in ob.data.vertices for c in v.co)
        )
    return (
        ob.type == "LIGHT"
        and ob.name == "Light"
        and ob.data.type == "POINT"
        and (ob.location - Matrix.Translation(_DEFAULT_LIGHT).to_translation()).length < _NEAR
    )


def _untouched(ob: bpy.types.Object) -> bool:
    return (
        ob.parent is None
        and ob.animation_data is None
        and not ob.constraints
        and not ob.modifiers
        and ob.library is None
    )


def _alike(one: Matrix, other: Matrix) -> bool:
    return all(
        abs(a - b) < _NEAR
        for row, line in zip(one, other, strict=True)
        for a, b in zip(row, line, strict=True)
    )
