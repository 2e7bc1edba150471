"""The layout view: the exact form while looking through the camera, splats turned to the eye or
points while orbiting.

Geometry nodes know whether they run for the viewport, not from where it looks. So a timer looks at
the 3D views and sets inputs of the nodes when the answer changes. In a free view Blender 5.3 draws
the Gaussians itself. Before, the nodes' quads are turned to the eye and sorted for it, at most
FREE_LIMIT of them, each time the view comes to rest; while it moves they stay as they were, which
looks right for some degrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ..ui.grey_with_reason import GreyWithReason
from . import splat_object, view_colours

_INTERVAL_S = 0.25
_ITEMS = (
    (
        "AUTO",
        "Automatic",
        "Exact through the camera; in a free view the splats as seen from there, brought up to "
        "date when the view rests",
    ),
    ("POINTS", "Points", "Plain points from every side: fast"),
    (
        "EXACT",
        "Exact",
        "The quads of the render; they face the scene camera, so other views are off",
    ),
)
_FAR = 200.0  # an orthographic view is a perspective one from this many view distances away


class Eye(NamedTuple):
    """From where a 3D view looks: world place and unit directions [3], pixels."""

    centre: Vector
    right: Vector
    up: Vector
    forward: Vector
    focal: float
    width: float
    height: float


def eye_of(region: bpy.types.Region, view: bpy.types.RegionView3D) -> Eye:
    """The eye of a 3D view; of an orthographic one a far eye with the same picture."""
    pose, width = view.view_matrix.inverted(), float(region.width)
    right, up, back = (pose.to_3x3().col[i].normalized() for i in range(3))
    focal, centre = view.window_matrix[0][0] * width / 2, pose.translation.copy()
    if not view.is_perspective:  # there the matrix gives pixels a unit
        distance = max(view.view_distance, 1e-3) * _FAR
        centre, focal = view.view_location + back * distance, focal * distance
    return Eye(centre, right, up, -back, focal, width, float(region.height))


def turn_to(ob: bpy.types.Object, eye: Eye) -> None:
    """Have the viewport's quads of `ob` face an eye, sorted for it."""
    inverse, modifier = ob.matrix_world.inverted(), splat_object.modifier_of(ob)
    turned = {
        f"View {name}": (inverse.to_3x3() @ direction).normalized()
        for name, direction in (("Right", eye.right), ("Up", eye.up), ("Forward", eye.forward))
    }
    values = {
        **turned,
        "View Centre": inverse @ eye.centre,
        "View Focal": eye.focal,
        "View Width": eye.width,
        "View Height": eye.height,
        "From View": True,
        "Exact in Viewport": True,
    }
    for name, value in values.items():
        splat_object.set_input(modifier, name, value)


def _spaces(
    window_manager: bpy.types.WindowManager, scene: bpy.types.Scene
) -> Iterator[tuple[bpy.types.Area, bpy.types.SpaceView3D]]:
    for window in window_manager.windows:
        if window.scene == scene:
            for area in window.screen.areas:
                space = area.spaces.active
                if area.type == "VIEW_3D" and space.region_3d is not None:
                    yield area, space


def wants_exact(window_manager: bpy.types.WindowManager, scene: bpy.types.Scene) -> bool:
    """Whether the viewport should show `scene`'s splats in their exact form now."""
    if scene.scene_splatter_view != "AUTO":
        return scene.scene_splatter_view == "EXACT"
    for _, space in _spaces(window_manager, scene):
        camera = space.camera if space.use_local_camera else scene.camera
        if (
            space.region_3d.view_perspective == "CAMERA"
            and camera == scene.camera
            and space.shading.type in ("MATERIAL", "RENDERED")
        ):
            return True
    return False


def free_eye(window_manager: bpy.types.WindowManager, scene: bpy.types.Scene) -> Eye | None:
    """The eye of the first free 3D view that shows colours, None where there is none or points are
    wanted.
    """
    if scene.scene_splatter_view != "AUTO":
        return None
    for area, space in _spaces(window_manager, scene):
        region = next((r for r in area.regions if r.type == "WINDOW"), None)
        if (
            region is not None
            and space.region_3d.view_perspective != "CAMERA"
            and space.shading.type in ("MATERIAL", "RENDERED")
        ):
            return eye_of(region, space.region_3d)
    return None


_last_eye: dict[str, tuple] = {}  # scene -> what its free view was at the last look
_turned: dict[str, tuple] = {}  # object -> the eye and place that its quads face


def _rests(scene: bpy.types.Scene, eye: Eye) -> bool:
    """Whether the view is where it was at the last look."""
    now = _rounded(eye)
    before, _last_eye[scene.name] = _last_eye.get(scene.name), now
    return before == now


def _rounded(eye: Eye) -> tuple:
    numbers = (*eye.centre, *eye.right, *eye.up, eye.focal, eye.width, eye.height)
    return tuple(round(float(number), 4) for number in numbers)


def sync(window_manager: bpy.types.WindowManager) -> int:
    """Bring all splat objects of the open scenes into the wanted form; returns how many were
    changed.
    """
    changed = 0
    if not bpy.data.pointclouds:  # the common case, and a file may have very many objects
        return 0
    for scene in {window.scene for window in window_manager.windows}:
        exact = wants_exact(window_manager, scene)
        eye = None if exact or splat_object.is_native() else free_eye(window_manager, scene)
        rests = eye is not None and _rests(scene, eye)
        for ob in scene.objects:
            modifier = splat_object.modifier_of(ob) if ob.type == "POINTCLOUD" else None
            if modifier is None or not ob.is_editable:
                continue
            if not has_free_view(modifier):
                changed += _set(modifier, {"Exact in Viewport": exact})
            elif eye is None:
                native = splat_object.is_native() and scene.scene_splatter_view == "AUTO"
                wanted = {"Exact in Viewport": exact, "From View": False, "As Splats": native}
                changed += _set(modifier, wanted)
            elif rests:
                key = (*_rounded(eye), *(round(x, 4) for row in ob.matrix_world for x in row))
                facing = splat_object.get_input(modifier, "From View")
                if _turned.get(ob.name) != key or not facing:
                    turn_to(ob, eye)
                    _turned[ob.name] = key
                    changed += 1
    return changed


def has_free_view(modifier: bpy.types.NodesModifier) -> bool:
    """Whether a modifier's nodes can face a free view; those of older files cannot."""
    return any(item.name == "From View" for item in modifier.node_group.interface.items_tree)


def _set(modifier: bpy.types.NodesModifier, wanted: dict[str, bool]) -> bool:
    different = {
        name: value
        for name, value in wanted.items()
        if bool(splat_object.get_input(modifier, name)) != value
    }
    for name, value in different.items():
        splat_object.set_input(modifier, name, value)
    return bool(different)


def shows_no_colours(space: bpy.types.Space | None) -> bool:
    """Whether a 3D view draws points without their colours: Solid and Wireframe shading know none
    of a point cloud.
    """
    return (
        space is not None
        and space.type == "VIEW_3D"
        and space.shading.type in ("SOLID", "WIREFRAME")
    )


class SCENESPLATTER_OT_show_colours(GreyWithReason, bpy.types.Operator):
    """Switch this view to Material Preview: Solid shading draws point clouds without colours"""

    bl_idname = "scene_splatter.show_colours"
    bl_label = "Show in Colour"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only in a 3D view without colours."""
        return "" if shows_no_colours(context.space_data) else "This view shows colours already"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """A setting of the view, so there is nothing to undo."""
        context.space_data.shading.type = "MATERIAL"
        return {"FINISHED"}


class SCENESPLATTER_OT_add_crop_box(GreyWithReason, bpy.types.Operator):
    """Add a box round the active splats, outside of which the viewport shows nothing; scale and
    move it as you like
    """

    bl_idname = "scene_splatter.add_crop_box"
    bl_label = "Add Crop Box"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender reads a plain set)

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only with an active splat object that our nodes draw."""
        ob = context.view_layer.objects.active
        ours = (
            splat_object.is_splat_object(ob)
            and splat_object.modifier_of(ob) is not None
            and ob.is_editable
        )
        return "" if ours else "Make a splat object active that the add-on's nodes draw"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """An empty that holds nine tenths of the Gaussians' means on every axis, stray ones
        aside.
        """
        ob = context.view_layer.objects.active
        points = splat_object.positions(ob)
        low, high = np.quantile(points, 0.05, axis=0), np.quantile(points, 0.95, axis=0)
        size = np.maximum(high - low, 1e-3)
        box = bpy.data.objects.new(f"{ob.name} crop", None)
        box.empty_display_type = "CUBE"
        for collection in ob.users_collection:
            collection.objects.link(box)
        box.matrix_world = ob.matrix_world @ Matrix.LocRotScale(
            Vector((low + high) / 2), None, Vector(size / 2)
        )
        modifier = splat_object.modifier_of(ob)
        splat_object.set_input(modifier, "Crop Box", box)
        splat_object.set_input(modifier, "Crop", True)
        return {"FINISHED"}


def _tick() -> float:
    if not bpy.app.is_job_running("RENDER"):
        for scene in {window.scene for window in bpy.context.window_manager.windows}:
            view_colours.sync(scene)
        sync(bpy.context.window_manager)
    return _INTERVAL_S


_add_classes, _remove_classes = bpy.utils.register_classes_factory(
    (SCENESPLATTER_OT_show_colours, SCENESPLATTER_OT_add_crop_box)
)


def register() -> None:
    """Add the operators, the scene's choice and, where there is a viewport, the timer."""
    _add_classes()
    bpy.types.Scene.scene_splatter_view = bpy.props.EnumProperty(
        name="Layout View",
        description="How the viewport shows Gaussians; renders are always exact",
        items=_ITEMS,
    )
    if not bpy.app.background:
        bpy.app.timers.register(_tick, first_interval=_INTERVAL_S, persistent=True)


def unregister() -> None:
    """Take them out again."""
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    del bpy.types.Scene.scene_splatter_view
    _remove_classes()
