"""The N-panel. It draws what the scene and the session say and decides nothing."""

from __future__ import annotations

from pathlib import Path

import bpy
import bpy.utils.previews
import numpy as np

from ...engine.bridge import settings as engine_settings
from ..cameras import moves, operators
from ..jobs import delivery, engine_location, request
from ..jobs.session import Phase, Status
from ..jobs.side_job_operator import side_job
from ..splats import layout_view
from . import pictures, progress, properties, steps, weights_panel
from .layout import InSidebar, box_width, clock, draw_wrapped, sidebar_width

_SHOWN_SEGMENTS = 6
_GROUP_LABELS = {
    "cameras": "Path and Segments",
    "method": "Momentum",
    "video": "Video Prior",
    "refine": "Refinement",
}
_previews: dict[str, bpy.utils.previews.ImagePreviewCollection] = {}


class SCENESPLATTER_PT_main(InSidebar, bpy.types.Panel):
    """The straight path: picture, camera, move, scene; or the progress of the job; problems
    before all.
    """

    bl_idname = "SCENESPLATTER_PT_main"
    bl_label = "Generate Scene from Image"

    def draw(self, context: bpy.types.Context) -> None:
        """The whole of it; sub-panels follow."""
        layout, scene = self.layout, context.scene
        status = delivery.session.status
        _draw_problem(layout, context, status)
        _draw_waiting(layout, context)
        _draw_side_jobs(layout, context)
        if status.busy:
            _draw_progress(layout, context, status)
            return
        _draw_engine(layout, context)
        reached = steps.of(scene)
        _draw_picture(_step(layout, 1, "Picture", reached.picture, True), scene)
        ready = not reached.picture
        _draw_camera(_step(layout, 2, "Camera", reached.camera, ready), context, reached)
        ready = ready and not reached.camera
        _draw_move(_step(layout, 3, "Move", reached.move, ready), context, reached)
        _draw_generate(layout, context, reached)
        _draw_notes(layout, context)
        _draw_outcome(layout, context)


def _step(
    layout: bpy.types.UILayout, number: int, title: str, why_not: str, lit: bool
) -> bpy.types.UILayout:
    """A box for one step; its body is grey until the steps before are done."""
    box = layout.box()
    icon = "CHECKMARK" if lit and not why_not else "RADIOBUT_ON" if lit else "RADIOBUT_OFF"
    box.label(text=f"{number}. {title}", icon=icon)
    body = box.column()
    body.enabled = lit
    return body


def _draw_picture(layout: bpy.types.UILayout, scene: bpy.types.Scene) -> None:
    group = scene.scene_splatter
    reason = request.why_not_image(group)
    if reason and reason != request.NO_IMAGE:
        draw_wrapped(layout, reason, 40, icon="ERROR")
    if not reason:
        row = layout.row()
        icon = pictures.thumbnail(group)
        if icon:
            row.template_icon(icon, scale=3.5)
        header = request.header_of(group)
        column = row.column()
        column.label(
            text=Path(group.image_path).name if group.image_from == "FILE" else group.image.name
        )
        if header is not None:
            column.label(text=f"{header.width} x {header.height}")
    row = layout.row(align=True)
    if group.image_from == "FILE":
        row.scale_y = 1.0 if not reason else 1.4
        row.operator(
            "scene_splatter.choose_picture", text="Choose Picture" if reason else "Choose Another"
        )
    else:
        row.template_ID(group, "image", open="image.open")
    row.prop(group, "image_from", text="")


def _draw_camera(
    layout: bpy.types.UILayout, context: bpy.types.Context, reached: steps.Steps
) -> None:
    scene = context.scene
    group, width = scene.scene_splatter, box_width(context)
    column = _settings_column(layout)
    column.prop(group, "camera", text="Camera")
    if group.camera is None and scene.camera is not None:
        row = column.split(factor=0.4)
        row.label(text="")
        row.label(text=f"{scene.camera.name} (scene's)", icon="CAMERA_DATA")
    if reached.camera and not reached.picture:
        draw_wrapped(layout, reached.camera, width, icon="INFO")
    row = layout.row(align=True)
    row.operator("scene_splatter.new_camera")
    row.operator("scene_splatter.match_camera", text="Match")


def _draw_move(
    layout: bpy.types.UILayout, context: bpy.types.Context, reached: steps.Steps
) -> None:
    scene = context.scene
    group = scene.scene_splatter
    halves = layout.split(factor=0.54)  # "Pedestal" is the longest name
    for unit, names in (("Metres", moves.MOVES[:3]), ("Degrees", moves.MOVES[3:])):
        column = halves.column(align=True)
        column.label(text=unit)
        for name in names:
            column.prop(group, f"move_{name}", text=name.title())
    if group.move_orbit:
        layout.prop(group, "move_distance")
    column = layout.column(align=True)
    column.prop(group, "use_scene_range", toggle=True)
    if not group.use_scene_range:
        row = column.row(align=True)
        row.prop(group, "frame_start")
        row.prop(group, "frame_end")
    if reached.move and not (reached.picture or reached.camera):
        draw_wrapped(layout, reached.move, box_width(context), icon="INFO")
    row = layout.row(align=True)
    row.operator("scene_splatter.add_move", text="Add Move")
    row.operator("scene_splatter.check_path", text="Check Path")


def _settings_column(layout: bpy.types.UILayout) -> bpy.types.UILayout:
    """Names at the left, values at the right, no keyframe dots."""
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    return column


def _draw_generate(
    layout: bpy.types.UILayout, context: bpy.types.Context, reached: steps.Steps
) -> None:
    scene = context.scene
    group, width = scene.scene_splatter, box_width(context)
    reason = request.why_not(context)
    body = _step(layout, 4, "Scene", reason or "to do", reached.done)
    _settings_column(body).prop(group, "preset")
    if reached.done:
        _draw_forecast(body, scene, width)
    row = body.row()
    row.scale_y = 1.6
    row.operator("scene_splatter.generate", icon="OUTLINER_OB_POINTCLOUD")
    if reason and reached.done and reason != engine_location.why_no_engine(context):
        draw_wrapped(body, reason, width, icon="INFO")


def _draw_forecast(layout: bpy.types.UILayout, scene: bpy.types.Scene, width: int) -> None:
    """How much there is to do, and what it will take."""
    count, planned = len(request.taken_frames(scene)), len(request.segments(scene))
    if planned:
        draw_wrapped(layout, f"{count} frames in {planned} segment{'s' * (planned > 1)}", width)
    forecast = request.forecast(scene)
    if forecast is not None:
        text = forecast.text()
        draw_wrapped(layout, f"{text[0].upper()}{text[1:]}", width, icon="TIME")
    elif planned:
        draw_wrapped(
            layout, "How long it takes is known after the first job here", width, icon="TIME"
        )


def _draw_engine(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """What to do where there is no engine yet: here, not only in the preferences."""
    reason = engine_location.why_no_engine(context)
    if not reason:
        return
    box = layout.box()
    draw_wrapped(box, reason, box_width(context), icon="INFO")
    row = box.row(align=True)
    if engine_location.uses_own_engine(context):
        row.operator("scene_splatter.install_engine", icon="IMPORT")
    row.operator(
        "preferences.addon_show", text="Preferences", icon="PREFERENCES"
    ).module = engine_location.ROOT


def _draw_side_jobs(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """What else runs, and how the last of it ended."""
    for running in progress.side_jobs():
        progress.draw_running(layout, running)
    if side_job.problem:
        draw_wrapped(layout, side_job.problem, sidebar_width(context), icon="ERROR")
    elif side_job.outcome:
        draw_wrapped(layout, side_job.outcome, sidebar_width(context), icon="INFO")


def _draw_outcome(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    scene = context.scene
    outcome = delivery.outcome(scene)
    if outcome:
        draw_wrapped(layout, outcome, sidebar_width(context), icon="INFO")
    if delivery.is_gone(scene):
        layout.operator("scene_splatter.import_result", text="Import Again", icon="IMPORT")
    if delivery.last_object(scene) is not None and layout_view.shows_no_colours(context.space_data):
        layout.operator("scene_splatter.show_colours", icon="SHADING_TEXTURE")


def _draw_progress(layout: bpy.types.UILayout, context: bpy.types.Context, status: Status) -> None:
    column = layout.column()
    at_hand = progress.job()
    assert at_hand is not None  # busy
    column.progress(factor=at_hand.factor, text=at_hand.text)
    stage = status.stage or "Working"
    count = f", {status.done} of {status.total}" if status.total > 1 else ""
    if stage != at_hand.text:
        stage_text = f"{stage[0].upper()}{stage[1:]}{count}"
        draw_wrapped(column, stage_text, sidebar_width(context), icon="TIME")
    column.label(text=f"{clock(status.elapsed_s())} so far")
    if status.text and status.text != at_hand.text:
        draw_wrapped(column, status.text, sidebar_width(context))
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
    """What the last camera tool said."""
    for note in operators.notes.get(context.scene.name, []):
        draw_wrapped(layout, note, sidebar_width(context), icon="DOT")


def _preview_icon(path: str) -> int:
    """The icon of the newest preview frame; 0 where there is none. A file is read again only when
    it has changed.

    Blender can load pictures for previews itself, but in threads that crash it (5.2) when one file
    is asked for twice.
    """
    collection = _previews.get("frames")
    if not path or collection is None:
        return 0
    try:
        key = f"{path} {Path(path).stat().st_mtime_ns}"
        if key not in collection:
            pictures.add_preview(collection, key, np.load(path, allow_pickle=False))
    except (OSError, ValueError):
        return 0
    return collection[key].icon_id


def _draw_problem(layout: bpy.types.UILayout, context: bpy.types.Context, status: Status) -> None:
    problem = status.problem
    if problem is None:
        return
    box = layout.box()
    width = box_width(context)
    row = box.row()
    row.alert = True
    message, hint = map(properties.in_panel_words, (problem.message, problem.hint))
    draw_wrapped(row, message, width - 4, icon="ERROR")  # beside the X
    row.operator("scene_splatter.forget_problem", text="", icon="X", emboss=False)
    if hint:
        draw_wrapped(box, hint, width)
    row = box.row(align=True)
    row.operator("scene_splatter.copy_details", icon="COPYDOWN")
    row.operator("scene_splatter.open_log", icon="TEXT")


def _draw_waiting(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    found = delivery.waiting_job(context.scene)
    if found is None:
        return
    box = layout.box()
    state = "is finished but not imported" if found.finished else "is not finished"
    draw_wrapped(box, f"{found.folder.name} {state}.", box_width(context), icon="RECOVER_LAST")
    row = box.row(align=True)
    row.operator(
        "scene_splatter.import_result" if found.finished else "scene_splatter.resume",
        icon="IMPORT" if found.finished else "PLAY",
    )
    row.operator("scene_splatter.dismiss", text="", icon="X")


class SCENESPLATTER_PT_settings(InSidebar, bpy.types.Panel):
    """The settings that matter first."""

    bl_idname = "SCENESPLATTER_PT_settings"
    bl_parent_id = "SCENESPLATTER_PT_main"
    bl_label = "Settings"
    bl_order = 1  # after the result and its variants

    def draw(self, context: bpy.types.Context) -> None:
        """Name, depth, and what the table marks as basic."""
        group = context.scene.scene_splatter
        column = _settings_column(self.layout)
        column.prop(group, "shot")
        column.prop(group, "depth_source")
        if group.depth_source == "FILE":
            column.prop(group, "depth_file")
        elif group.depth_source == "MODEL":
            column.prop(group, "depth_model")
        elif group.depth_source in ("AUTO", "SMALL"):
            weights_panel.draw_better_depth(column, sidebar_width(context))
        elif group.depth_source == "BOX":
            text = "A plain box: what stands on its floor is smeared"
            draw_wrapped(column, text, sidebar_width(context), icon="INFO")
        for row in properties.basic():
            column.prop(group.settings, row.name)
        column.prop(group, "replace_last", text="Replace Last")
        if group.replace_last and delivery.last_object(context.scene) is None:
            text = "There is no last result: a new object is made"
            draw_wrapped(column, text, sidebar_width(context), icon="INFO")


def _draw_segments(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """How the path will be cut: a line for each segment, in scene frames."""
    scene = context.scene
    taken = request.taken_frames(scene)
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


class SCENESPLATTER_PT_result(InSidebar, bpy.types.Panel):
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
            draw_wrapped(column, f"{name}: {properties.in_panel_words(value)}", width)
        self.layout.operator("scene_splatter.open_folder", icon="FILE_FOLDER")


def _make_settings_panel(name: str) -> type:
    """The sub-panel of one group of the settings table."""
    rows = [
        row
        for row in engine_settings.table()
        if row.group == name and not row.basic and row.name not in properties.NOT_HERE
    ]

    def draw(self: bpy.types.Panel, context: bpy.types.Context) -> None:
        column = _settings_column(self.layout)
        values = context.scene.scene_splatter.settings
        for row in rows:
            place = column
            if row.name in ("finisher_weight", "finisher_steps"):
                place = column.row()
                place.active = values.finisher != engine_settings.NO_FINISHER
            place.prop(values, row.name)
        if name == "cameras":
            column.prop(context.scene.scene_splatter, "samples_per_frame", text="Per Frame")
            _draw_segments(self.layout, context)

    namespace = {
        "bl_idname": f"SCENESPLATTER_PT_{name}",
        "bl_parent_id": "SCENESPLATTER_PT_main",
        "bl_label": _GROUP_LABELS.get(name, name.title()),
        "bl_options": {"DEFAULT_CLOSED"},
        "bl_order": 1,
        "draw": draw,
        "__doc__": f"Settings of the group {name}.",
        "__module__": __name__,
    }
    return type(f"SCENESPLATTER_PT_{name}", (InSidebar, bpy.types.Panel), namespace)


SETTINGS_PANELS = tuple(
    _make_settings_panel(name)
    for name in dict.fromkeys(row.group for row in engine_settings.table())
)
CLASSES = (
    SCENESPLATTER_PT_main,
    SCENESPLATTER_PT_result,
    SCENESPLATTER_PT_settings,
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
