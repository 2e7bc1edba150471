"""The layout view: points while orbiting freely, the exact form while looking through the camera.

Geometry nodes know whether they run for the viewport, not from where it looks. So a timer looks at
the 3D views, and sets `Exact in Viewport` of the file's splat objects when the answer changes.
"""

from __future__ import annotations

import bpy

from . import splat_object

_INTERVAL_S = 0.25
_ITEMS = (
    ("AUTO", "Automatic", "Exact while a 3D view with Material Preview or Rendered shading looks through the camera, else points"),
    ("POINTS", "Points", "Plain points from every side: fast"),
    ("EXACT", "Exact", "The quads of the render; they face the scene camera, so other views are off"),
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
            if area.type == "VIEW_3D" and space.region_3d is not None and space.region_3d.view_perspective == "CAMERA":
                camera = space.camera if space.use_local_camera else scene.camera
                if camera == scene.camera and space.shading.type in ("MATERIAL", "RENDERED"):
                    return True
    return False


def sync(window_manager: bpy.types.WindowManager) -> int:
    """Bring all splat objects of the open scenes into the wanted form; returns how many were changed."""
    changed = 0
    for scene in {window.scene for window in window_manager.windows}:
        exact = wants_exact(window_manager, scene)
        for ob in scene.objects:
            modifier = splat_object.modifier_of(ob) if ob.type == "POINTCLOUD" else None
            if modifier is not None and ob.is_editable and bool(splat_object.get_input(modifier, "Exact in Viewport")) != exact:
                splat_object.set_input(modifier, "Exact in Viewport", exact)
                changed += 1
    return changed


def _tick() -> float:
    if not bpy.app.is_job_running("RENDER"):
        sync(bpy.context.window_manager)
    return _INTERVAL_S


def register() -> None:
    """Add the scene's choice and, where there is a viewport, the timer."""
    bpy.types.Scene.scene_splatter_view = bpy.props.EnumProperty(
        name="Layout View", description="How the viewport shows Gaussians; renders are always exact", items=_ITEMS
    )
    if not bpy.app.background:
        bpy.app.timers.register(_tick, first_interval=_INTERVAL_S, persistent=True)


def unregister() -> None:
    """Take them out again."""
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    del bpy.types.Scene.scene_splatter_view
