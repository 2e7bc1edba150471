"""The layout view: points while orbiting freely, the exact form while looking through the camera.

Geometry nodes know whether they run for the viewport, not from where it looks. So a timer looks at
the 3D views, and sets `Exact in Viewport` of the file's splat objects when the answer changes.
"""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ..ui.greyed import GreyWithReason
from . import splat_object

_INTERVAL_S = 0.25
_ITEMS = (
    (
        "AUTO",
        "Automatic",
        "Exact while a 3D view with Material Preview or Rendered shading looks through the camera, else points",
    ),
    ("POINTS", "Points", "Plain points from every side: fast"),
    (
        "EXACT",
        "Exact",
        "The quads of the render; they face the scene camera, so other views are off",
    ),
)


def wants_exact(window_manager: bpy.types.WindowManager, scene: bpy.types.Scene) -> bool:
    """Whether the viewport should show `scene`'s splats in their exact form now."""
    if scene.scene_splatter_view != "AUTO":
        return scene.scene_splatter_view == "EXACT"
    for window in window_manager.windows:
        if window.scene != scene:
            continue
        for area in window.screen.areas:
            space = area.spaces.active
            if (
                area.type == "VIEW_3D"
                and space.region_3d is not None
                and space.region_3d.view_perspective == "CAMERA"
            ):
                camera = space.camera if space.use_local_camera else scene.camera
                if camera == scene.camera and space.shading.type in ("MATERIAL", "RENDERED"):
                    return True
    return False


def sync(window_manager: bpy.types.WindowManager) -> int:
    """Bring all splat objects of the open scenes into the wanted form; returns how many were changed."""
    changed = 0
    if not bpy.data.pointclouds:  # the common case, and a file may have very many objects
        return 0
    for scene in {window.scene for window in window_manager.windows}:
        exact = wants_exact(window_manager, scene)
        for ob in scene.objects:
            modifier = splat_object.modifier_of(ob) if ob.type == "POINTCLOUD" else None
            if (
                modifier is not None
                and ob.is_editable
                and bool(splat_object.get_input(modifier, "Exact in Viewport")) != exact
            ):
                splat_object.set_input(modifier, "Exact in Viewport", exact)
                changed += 1
    return changed


def shows_no_colours(space: bpy.types.Space | None) -> bool:
    """Whether a 3D view draws points without their colours: Solid and Wireframe shading know none of a point cloud."""
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
    """Add a box round the active splats, outside of which the viewport shows nothing; scale and move it as you like"""

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
        """An empty that holds nine tenths of the Gaussians' means on every axis, stray ones aside."""
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
