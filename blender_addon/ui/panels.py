"""The N-panel. It draws what the scene and the session say and decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
import bpy.utils.previews
import numpy as np

from ...engine.bridge import settings as engine_settings
from ..cameras import operators
from ..jobs import delivery, places, request
from ..jobs.session import Phase, Status
from ..splats import layout_view
from . import properties
from .layout import clock, draw_wrapped, sidebar_width

_SHOWN_SEGMENTS = 6
_GROUP_LABELS = {
    "cameras": "Path and Segments",
    "method": "Momentum",
    "video": "Video Prior",
    "refine": "Refinement",
}
_previews: dict[str, bpy.utils.previews.ImagePreviewCollection] = {}


class _InSidebar:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Scene Splatter"


class SCENESPLATTER_PT_main(_InSidebar, bpy.types.Panel):
    """Image, camera, the main choices, Generate, progress, result, error."""

    bl_idname = "SCENESPLATTER_PT_main"
    bl_label = "Generate Scene from Image"

    def draw(self, context: bpy.types.Context) -> None:
        """The whole of it; sub-panels follow."""
        layout, scene = self.layout, context.scene
        status = delivery.session.status
        _draw_problem(layout, context, status)
        _draw_waiting(layout, context)
        if status.busy:
            _draw_progress(layout, context, status)
            return
        _draw_inputs(layout, scene)
        _draw_choices(layout, scene.scene_splatter)
        _draw_generate(layout, context)
        if status.outcome:
            draw_wrapped(layout, status.outcome, sidebar_width(context), icon="INFO")
        if scene.scene_splatter.last_object is not None and layout_view.shows_no_colours(
            context.space_data
        ):
            layout.operator("scene_splatter.show_colours", icon="SHADING_TEXTURE")


def _draw_inputs(layout: bpy.types.UILayout, scene: bpy.types.Scene) -> None:
    group = scene.scene_splatter
    column = _settings_column(layout)
    column.prop(group, "shot")
    column.row().prop(group, "image_from", expand=True)
    if group.image_from == "FILE":
        column.prop(group, "image_path", text=" ")
    else:
        column.template_ID(group, "image", open="image.open")
    column.prop(group, "camera", text="Camera")
    if group.camera is None and scene.camera is not None:
        row = column.split(factor=0.4)
        row.label(text="")
        row.label(text=f"{scene.camera.name} (scene's)", icon="CAMERA_DATA")
    column.prop(group, "use_scene_range")
    if not group.use_scene_range:
        frames = column.column(align=True)
        frames.prop(group, "frame_start")
        frames.prop(group, "frame_end")
    column.prop(group.settings, "frame_step")
    column.prop(group, "samples_per_frame", text="Per Frame")


def _settings_column(layout: bpy.types.UILayout) -> bpy.types.UILayout:
    """Names at the left, values at the right, no keyframe dots."""
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    return column


def _draw_choices(layout: bpy.types.UILayout, group: properties.SCENESPLATTER_PG_scene) -> None:
    column = _settings_column(layout)
    column.prop(group, "preset")
    column.prop(group, "depth_source")
    if group.depth_source == "FILE":
        column.prop(group, "depth_file")
    elif group.depth_source == "MODEL":
        column.prop(group, "depth_model")
    column.prop(group.settings, "prior")
    column.prop(group.settings, "seed")
    column.prop(group, "replace_last", text="Replace Last")
    if group.replace_last and group.last_object is None:
        column.label(text="There is no last result yet: a new object is made", icon="INFO")


def _draw_generate(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    row = layout.row()
    row.scale_y = 1.6
    row.operator("scene_splatter.generate", icon="OUTLINER_OB_POINTCLOUD")
    reason = request.why_not(context)
    if reason:
        draw_wrapped(layout, reason, sidebar_width(context), icon="INFO")
    if reason and reason == request.why_not_shape(context.scene):
        layout.operator("scene_splatter.match_camera", icon="IMAGE_BACKGROUND")
    if places.why_no_engine(context):
        layout.operator(
            "preferences.addon_show", text="Open Preferences", icon="PREFERENCES"
        ).module = places.ROOT


def _draw_progress(layout: bpy.types.UILayout, context: bpy.types.Context, status: Status) -> None:
    column = layout.column()
    stage = status.stage or "Working"
    column.label(text=stage[0].upper() + stage[1:], icon="TIME")
    remaining = status.remaining_s()
    left = f", {clock(remaining)} left in this stage" if remaining is not None else ""
    column.progress(
        factor=status.factor, text=f"{status.done} of {status.total}" if status.total else ""
    )
    column.label(text=f"{clock(status.elapsed_s())} so far{left}")
    if status.text:
        column.label(text=status.text)
    row = column.row()
    row.scale_y = 1.4
    row.enabled = status.phase is not Phase.CANCELLING
    row.operator("scene_splatter.cancel", icon="CANCEL")
    icon = _preview_icon(status.preview)
    if icon:
        column.template_icon(icon, scale=9.0)
    if status.phase is not Phase.PREPARING:
        _draw_notes(column, context)


def _draw_notes(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """What the last check of the path said."""
    for note in operators.notes.get(context.scene.name, []):
        draw_wrapped(layout, note, sidebar_width(context), icon="DOT")


def _preview_icon(path: str) -> int:
    """The icon of the newest preview frame; 0 where there is none. A file is read again only when it has changed.

    Blender can load pictures for previews itself, but in threads that crash it (5.2) when one file is asked for twice.
    """
    collection = _previews.get("frames")
    if not path or collection is None:
        return 0
    try:
        key = f"{path} {Path(path).stat().st_mtime_ns}"
        if key not in collection:
            _add_preview(collection, key, np.load(path, allow_pickle=False))
    except (OSError, ValueError):
        return 0
    return collection[key].icon_id


def _add_preview(
    collection: bpy.utils.previews.ImagePreviewCollection, key: str, picture: np.ndarray
) -> None:
    """A picture uint8 [h, w, 3]; the last one stays too, because a region may still be drawn with it."""
    for old in list(collection)[:-1]:
        del collection[old]
    height, width = picture.shape[:2]
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = picture[::-1] / np.float32(255)  # Blender's first row is the lowest
    preview = collection.new(key)
    preview.image_size = width, height
    preview.image_pixels_float.foreach_set(rgba.ravel())


def _draw_problem(layout: bpy.types.UILayout, context: bpy.types.Context, status: Status) -> None:
    problem = status.problem
    if problem is None:
        return
    box = layout.box()
    width = sidebar_width(context)
    row = box.row()
    row.alert = True
    draw_wrapped(row, problem.message, width - 6, icon="ERROR")
    row.operator("scene_splatter.forget_problem", text="", icon="X", emboss=False)
    if problem.hint:
        draw_wrapped(box, problem.hint, width)
    row = box.row(align=True)
    row.operator("scene_splatter.copy_details", icon="COPYDOWN")
    row.operator("scene_splatter.open_log", icon="TEXT")


def _draw_waiting(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    found = delivery.waiting_job(context.scene)
    if found is None:
        return
    box = layout.box()
    state = "is finished but not imported" if found.finished else "is not finished"
    draw_wrapped(box, f"{found.folder.name} {state}.", sidebar_width(context), icon="RECOVER_LAST")
    row = box.row(align=True)
    row.operator(
        "scene_splatter.import_result" if found.finished else "scene_splatter.resume",
        icon="IMPORT" if found.finished else "PLAY",
    )
    row.operator("scene_splatter.dismiss", text="", icon="X")


class SCENESPLATTER_PT_camera(_InSidebar, bpy.types.Panel):
    """Help with the camera, and what is wrong with its path."""

    bl_idname = "SCENESPLATTER_PT_camera"
    bl_parent_id = "SCENESPLATTER_PT_main"
    bl_label = "Camera Path"
    bl_options: ClassVar[set[str]] = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Operators, then the notes of the last check."""
        column = self.layout.column()
        column.operator("scene_splatter.match_camera", icon="IMAGE_BACKGROUND")
        column.operator_menu_enum("scene_splatter.add_move", "move", icon="ANIM")
        column.operator("scene_splatter.check_path", icon="VIEWZOOM")
        _draw_notes(column, context)


def _draw_segments(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """How the path will be cut: a line for each segment, in scene frames."""
    scene = context.scene
    taken = properties.frames(scene)[:: scene.scene_splatter.settings.frame_step]
    planned = request.segments(scene)
    if not planned:
        why = "No segments: the range is empty, or the overlap is not below the length."
        draw_wrapped(layout, why, sidebar_width(context), icon="ERROR")
        return
    column = layout.column(align=True)
    column.label(
        text=f"{len(taken)} cameras in {len(planned)} segment{'s' if len(planned) > 1 else ''}"
    )
    for number, segment in enumerate(planned[:_SHOWN_SEGMENTS], start=1):
        first, last = taken[segment.start], taken[segment.stop - 1]
        column.label(
            text=f"{number}:  frames {first:g} to {last:g},  {segment.stop - segment.new} new"
        )
    if len(planned) > _SHOWN_SEGMENTS:
        column.label(text=f"and {len(planned) - _SHOWN_SEGMENTS} more")


class SCENESPLATTER_PT_result(_InSidebar, bpy.types.Panel):
    """Numbers of the last result."""

    bl_idname = "SCENESPLATTER_PT_result"
    bl_parent_id = "SCENESPLATTER_PT_main"
    bl_label = "Result"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where there is one."""
        return not delivery.session.status.busy and bool(delivery.result_lines(context.scene))

    def draw(self, context: bpy.types.Context) -> None:
        """As the engine reported them."""
        width = sidebar_width(context)
        column = self.layout.column(align=True)
        for name, value in delivery.result_lines(context.scene):
            draw_wrapped(column, f"{name}: {value}", width)
        self.layout.operator("scene_splatter.open_folder", icon="FILE_FOLDER")


def _make_settings_panel(name: str) -> type:
    """The sub-panel of one group of the settings table."""
    rows = [
        row
        for row in engine_settings.table()
        if row.group == name and row.name not in properties.ON_THE_MAIN_PANEL
    ]
    rows.sort(key=lambda row: not row.basic)  # stable

    def draw(self: bpy.types.Panel, context: bpy.types.Context) -> None:
        column = _settings_column(self.layout)
        values = context.scene.scene_splatter.settings
        for row in rows:
            column.prop(values, row.name)
        if name == "cameras":
            _draw_segments(self.layout, context)

    namespace = {
        "bl_idname": f"SCENESPLATTER_PT_{name}",
        "bl_parent_id": "SCENESPLATTER_PT_main",
        "bl_label": _GROUP_LABELS.get(name, name.title()),
        "bl_options": {"DEFAULT_CLOSED"},
        "draw": draw,
        "__doc__": f"Settings of the group {name}.",
        "__module__": __name__,
    }
    return type(f"SCENESPLATTER_PT_{name}", (_InSidebar, bpy.types.Panel), namespace)


SETTINGS_PANELS = tuple(
    _make_settings_panel(name)
    for name in dict.fromkeys(row.group for row in engine_settings.table())
)
CLASSES = (
    SCENESPLATTER_PT_main,
    SCENESPLATTER_PT_result,
    SCENESPLATTER_PT_camera,
    *SETTINGS_PANELS,
)


def register() -> None:
    """Add the panels."""
    _previews["frames"] = bpy.utils.previews.new()
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Remove them."""
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
    bpy.utils.previews.remove(_previews.pop("frames"))
