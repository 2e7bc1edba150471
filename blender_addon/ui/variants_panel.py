"""Variants of the scene's job: the list with one click to swap, Redo from Here, and Repaint."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import ClassVar

import blf
import bpy
import gpu
from bpy.props import StringProperty
from gpu_extras.batch import batch_for_shader

from ...engine.bridge.errors import UserError
from ...engine.bridge.variants import job_of
from ..cameras import picture_header, strokes
from ..cameras.strokes import Rectangle, Stroke
from ..jobs import delivery, variants
from . import pictures, properties
from .grey_with_reason import GreyWithReason
from .layout import InSidebar, draw_wrapped, sidebar_width

_BRUSH_PX = 24.0  # radius at first
_SMALLEST_PX, _LARGEST_PX = 2.0, 400.0
_FINER = 1.15  # a step of the wheel
_CIRCLE = 32  # corners
MASKS = "masks"  # folder of the job that holds what was drawn


class SCENESPLATTER_OT_use_variant(GreyWithReason, bpy.types.Operator):
    """Give the object of the last result the Gaussians of this variant; where it stands, its
    materials and links stay
    """

    bl_idname = "scene_splatter.use_variant"
    bl_label = "Use Variant"

    name: StringProperty(name="Variant", description="v1, v2 and so on", options={"SKIP_SAVE"})

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only between jobs."""
        if delivery.session.status.busy:
            return "A job is running"
        return "" if variants.of(context.scene) else "This scene has no finished job yet"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Through the import operator, one undo step."""
        try:
            made = variants.use(context, self.name)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, f"{made} shows {self.name}")
        return {"FINISHED"}


class _Redo(GreyWithReason):
    """Operators that begin a redo of the variant that is shown."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """A finished job, and nothing that runs."""
        return variants.why_not(context)


class SCENESPLATTER_OT_redo_from_here(_Redo, bpy.types.Operator):
    """Begin the job again at the segment that made the current frame, and keep what was before. The
    result is a variant of its own
    """

    bl_idname = "scene_splatter.redo_from_here"
    bl_label = "Redo from Here"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The engine makes the variant; then it runs as every job does."""
        try:
            segment = variants.place(context.scene).segment
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return variants.begin(self, context, {"segment": segment})


class SCENESPLATTER_OT_repaint(_Redo, bpy.types.Operator):
    """Draw on the camera's view what shall be invented again. Everything else stays, and the result
    is a variant of its own
    """

    bl_idname = "scene_splatter.repaint"
    bl_label = "Repaint"

    mask: StringProperty(
        name="Mask",
        description="A picture of the frame's size, white where to invent again; empty: draw it",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )

    _radius: ClassVar[float] = _BRUSH_PX  # as it was left

    def execute(self, context: bpy.types.Context) -> set[str]:
        """With the mask that is given, of the camera nearest to the current frame."""
        try:
            if not self.mask:
                raise UserError("There is no mask.", "Draw one, or name a file.")
            index = variants.place(context.scene).camera
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        mask = Path(bpy.path.abspath(self.mask))
        return variants.begin(self, context, {"mask": str(mask), "frame": index})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Go to the nearest camera of the job, look through it, and wait for strokes."""
        if self.mask:
            return self.execute(context)
        try:
            self._begin(context)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self._mouse = (event.mouse_region_x, event.mouse_region_y)
        self._strokes: list[Stroke] = []
        self._drawing = False
        self._handle = bpy.types.SpaceView3D.draw_handler_add(
            self._draw, (context,), "WINDOW", "POST_PIXEL"
        )
        context.window_manager.modal_handler_add(self)
        context.workspace.status_text_set(
            "Drag: mark   Wheel: brush   Backspace: take back   Enter: invent again   Escape: end"
        )
        context.area.tag_redraw()
        return {"RUNNING_MODAL"}

    def _begin(self, context: bpy.types.Context) -> None:
        if context.area is None or context.area.type != "VIEW_3D":
            raise UserError("Strokes are drawn in a 3D view.", "Start Repaint there.")
        scene = context.scene
        camera = properties.camera_of(scene)
        if camera is None:
            raise UserError("There is no camera.", "Choose the job's camera in the panel.")
        self._place = variants.place(scene)
        frame = int(self._place.scene_frame)
        scene.frame_set(frame, subframe=self._place.scene_frame - frame)
        scene.camera = camera
        context.area.spaces.active.region_3d.view_perspective = "CAMERA"

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """The left button draws; Enter begins, Escape or the right button ends."""
        region = next((r for r in context.area.regions if r.type == "WINDOW"), None)
        if region is None or event.type in {"ESC", "RIGHTMOUSE"}:
            self._end(context)
            return {"CANCELLED"}
        self._mouse = (event.mouse_x - region.x, event.mouse_y - region.y)
        inside = all(
            0 <= place < side
            for place, side in zip(self._mouse, (region.width, region.height), strict=True)
        )
        context.area.tag_redraw()
        if event.type in {"RET", "NUMPAD_ENTER"} and event.value == "PRESS":
            return self._finish(context, region)
        if event.type == "BACK_SPACE" and event.value == "PRESS":
            del self._strokes[-1:]
        elif event.type in {"WHEELUPMOUSE", "WHEELDOWNMOUSE"} and inside:
            step = _FINER if event.type == "WHEELUPMOUSE" else 1 / _FINER
            radius = SCENESPLATTER_OT_repaint._radius * step
            SCENESPLATTER_OT_repaint._radius = min(max(radius, _SMALLEST_PX), _LARGEST_PX)
        elif event.type == "LEFTMOUSE" and event.value == "RELEASE":
            self._drawing = False
        elif event.type == "LEFTMOUSE" and event.value == "PRESS" and inside:
            self._drawing = True
            self._strokes.append(Stroke([self._mouse], SCENESPLATTER_OT_repaint._radius))
        elif event.type in {"MOUSEMOVE", "INBETWEEN_MOUSEMOVE"} and self._drawing:
            self._strokes[-1].points.append(self._mouse)
        elif not inside:
            return {"PASS_THROUGH"}
        return {"RUNNING_MODAL"}

    def _finish(self, context: bpy.types.Context, region: bpy.types.Region) -> set[str]:
        view = context.area.spaces.active.region_3d
        camera = properties.camera_of(context.scene)
        picture = (
            strokes.picture_in(region, view, context.scene, camera) if camera is not None else None
        )
        self._end(context)
        try:
            if picture is None:
                raise UserError(
                    "The view does not look through the camera any more.", "Repaint again."
                )
            self.mask = str(self._written(context.scene, picture))
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return self.execute(context)

    def _written(self, scene: bpy.types.Scene, picture: Rectangle) -> Path:
        return write_mask(
            Path(scene.scene_splatter.job_folder), self._place.camera, self._strokes, picture
        )

    def _end(self, context: bpy.types.Context) -> None:
        bpy.types.SpaceView3D.draw_handler_remove(self._handle, "WINDOW")
        context.workspace.status_text_set(None)
        context.area.tag_redraw()

    def _draw(self, context: bpy.types.Context) -> None:
        shader = gpu.shader.from_builtin("UNIFORM_COLOR")
        gpu.state.blend_set("ALPHA")
        shader.uniform_float("color", (1.0, 0.35, 0.1, 0.5))
        for stroke in self._strokes:
            discs = [_round(place, stroke.radius) for place in _along(stroke)]
            corners = [corner for disc in discs for corner in _triangles(disc)]
            batch_for_shader(shader, "TRIS", {"pos": corners}).draw(shader)
        shader.uniform_float("color", (1.0, 1.0, 1.0, 0.9))
        gpu.state.line_width_set(2.0)
        ring = _round(self._mouse, SCENESPLATTER_OT_repaint._radius)
        batch_for_shader(shader, "LINE_STRIP", {"pos": ring}).draw(shader)
        gpu.state.line_width_set(1.0)
        gpu.state.blend_set("NONE")
        blf.size(0, 13)
        blf.position(0, 20, 20, 0)
        blf.draw(0, f"Mark what shall be invented again: frame {self._place.camera} of the job")


def _round(place: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    turns = [i * 2.0 * math.pi / _CIRCLE for i in range(_CIRCLE + 1)]
    return [(place[0] + radius * math.cos(t), place[1] + radius * math.sin(t)) for t in turns]


def _triangles(disc: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners of the triangles that fill a closed convex outline."""
    pairs = itertools.pairwise(disc[1:])
    return [corner for pair in pairs for corner in (disc[0], *pair)]


def _along(stroke: Stroke) -> list[tuple[float, float]]:
    """Places so close to each other that discs there look like the stroke."""
    places = stroke.points[:1]
    for (x, y), (to_x, to_y) in itertools.pairwise(stroke.points):
        steps = max(1, math.ceil(math.hypot(to_x - x, to_y - y) / (0.5 * stroke.radius)))
        shares = [i / steps for i in range(1, steps + 1)]
        places += [(x + (to_x - x) * share, y + (to_y - y) * share) for share in shares]
    return places


def write_mask(folder: Path, index: int, drawn: list[Stroke], picture: Rectangle) -> Path:
    """Write what strokes cover of frame `index` of the job in `folder` as a new PNG in the job's
    own folder. Raises UserError where they cover nothing.
    """
    frame = folder / "frames" / f"{index:04d}.png"
    header = picture_header.read(frame) if frame.is_file() else None
    if header is None:
        raise UserError(f"{frame} cannot be read.", "Resume the job: it is made again.")
    mask = strokes.mask_of(drawn, picture, (header.width, header.height))
    if not mask.any():
        raise UserError("Nothing of the picture is marked.", "Draw over what shall be new.")
    home = job_of(folder) / MASKS
    number = 1
    while (home / f"frame_{index:04d}_{number:03d}.png").exists():
        number += 1
    try:
        home.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{home} cannot be made: {error.strerror or error}.", "Free some space on that disk."
        ) from error
    target = home / f"frame_{index:04d}_{number:03d}.png"
    strokes.write_png(target, mask)
    return target


class SCENESPLATTER_PT_variants(InSidebar, bpy.types.Panel):
    """The variants of the scene's job, and what begins another."""

    bl_idname = "SCENESPLATTER_PT_variants"
    bl_parent_id = "SCENESPLATTER_PT_main"
    bl_label = "Variants"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where there is a finished job."""
        return not delivery.session.status.busy and bool(variants.of(context.scene))

    def draw(self, context: bpy.types.Context) -> None:
        """A row for each, then the redo."""
        scene, width = context.scene, sidebar_width(context)
        now = variants.shown(scene)
        for variant in variants.of(scene):
            row = self.layout.row()
            icon = pictures.thumbnail_of(variant.picture) if variant.picture else 0
            if icon:
                row.template_icon(icon, scale=3.5)
            column = row.column()
            draw_wrapped(column, f"{variant.name}: {variant.text}", width - 14)
            if not variant.finished:
                column.label(text="Not finished", icon="TIME")
            elif variant.name == now:
                column.label(text="Shown", icon="CHECKMARK")
            else:
                column.operator("scene_splatter.use_variant", text="Use").name = variant.name
        box = self.layout.box()
        group = scene.scene_splatter
        column = box.column()
        for name in ("redo_seed", "redo_prior", "redo_prompt"):
            column.prop(group, name)
        column.operator("scene_splatter.redo_from_here", icon="FILE_REFRESH")
        column.operator("scene_splatter.repaint", icon="BRUSH_DATA")


register, unregister = bpy.utils.register_classes_factory(
    (
        SCENESPLATTER_OT_use_variant,
        SCENESPLATTER_OT_redo_from_here,
        SCENESPLATTER_OT_repaint,
        SCENESPLATTER_PT_variants,
    )
)
