"""Camera operators of the panel: match to the picture, add a move, check the path."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ...engine.bridge.camera_file import CameraPath
from ...engine.bridge.errors import UserError
from ..jobs import delivery, request
from ..jobs.slices import Step
from ..ui import properties
from ..ui.greyed import GreyWithReason
from . import blockout, conversion, coverage, moves

_MOVE_TEXT = {
    "dolly": "Forward, in metres",
    "truck": "To the right, in metres",
    "orbit": "To the right round a point ahead, in degrees",
}
_COVERAGE_WIDTH = 96  # pixels of the depth that a coverage check looks at

notes: dict[str, list[str]] = {}  # what the last check said, by scene


def check_in_slices(
    context: bpy.types.Context, path: CameraPath, depth_file: Path | None = None
) -> Generator[Step, None, list[str]]:
    """Warnings about the path of the panel's camera, and how much of it has to be invented. Raises UserError.

    depth_file: a depth map of the first view that is there already, NPY. The warnings stay in `notes`.
    `context` must have the same scene at every slice.
    """
    scene = context.scene
    found = moves.path_warnings(path, properties.frames(scene), scene, properties.camera_of(scene))
    depth = (
        (yield from _first_depth(context, path))
        if depth_file is None
        else np.load(depth_file, allow_pickle=False)
    )
    if depth is None:
        found.append("How much has to be invented is known when the depth is estimated.")
    else:
        share = yield from coverage.invented_in_slices(path, depth)
        found.append(
            f"To be invented: {share.mean():.0%} of the path's views, {share.max():.0%} of the worst."
        )
    notes[context.scene.name] = found
    return found


def export_and_check(context: bpy.types.Context) -> Generator[Step, None, list[str]]:
    """Read the panel's camera path and `check_in_slices` it."""
    scene = context.scene
    path = yield from conversion.export_in_slices(
        scene, properties.camera_of(scene), properties.frames(scene)
    )
    return (yield from check_in_slices(context, path))


def _first_depth(
    context: bpy.types.Context, path: CameraPath
) -> Generator[Step, None, np.ndarray | None]:
    """Depth of the first view, coarse; None where only the engine can tell."""
    scene = context.scene
    group = scene.scene_splatter
    width, height = _COVERAGE_WIDTH, max(1, round(_COVERAGE_WIDTH * path.height / path.width))
    if group.depth_source == "BLOCKOUT":
        camera, frame = properties.camera_of(scene), properties.frames(scene)[0]
        return (yield from blockout.measure_in_slices(context, camera, frame, width, height))
    if group.depth_source in (
        "BOX",
        "AUTO",
    ):  # automatic: which model is here only the engine can tell, so the box stands for it
        K = np.diag([width / path.width, height / path.height, 1.0]) @ path.K[0]
        return coverage.box_depth(K, width, height, properties.read(group).geometry)
    file = Path(bpy.path.abspath(group.depth_file))
    if group.depth_source == "FILE" and file.suffix.lower() == ".npy" and file.is_file():
        depth = np.load(file, allow_pickle=False)
        return depth if depth.ndim == 2 else None
    return None


class _OnCamera(GreyWithReason):
    """Operators on the panel's camera."""

    bl_options: ClassVar[set[str]] = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only with a perspective camera and frames."""
        return request.why_not_camera(context.scene)


class SCENESPLATTER_OT_match_camera(_OnCamera, bpy.types.Operator):
    """Give the render the picture's shape and the camera its lens, and show the picture behind the camera's view"""

    bl_idname = "scene_splatter.match_camera"
    bl_label = "Match Camera to Image"

    place: bpy.props.BoolProperty(
        name="Place Camera",
        description="Also stand the camera level above the origin, looking along +Y",
        default=False,
    )
    height_m: bpy.props.FloatProperty(
        name="Height", description="Metres above the origin", default=1.6, min=0.0, max=1000.0
    )
    fov_deg: bpy.props.FloatProperty(
        name="Field of View",
        description="Horizontal, in degrees; 0 takes the photo's own, if its file tells",
        default=0.0,
        min=0.0,
        max=170.0,
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """One undo step."""
        group = context.scene.scene_splatter
        try:
            image = request.image_of(group)
            camera = properties.camera_of(context.scene)
            conversion.match_camera_to_image(
                context.scene,
                camera,
                image,
                request.header_of(group),
                place=self.place,
                height_m=self.height_m,
                fov_deg=self.fov_deg,
            )
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class SCENESPLATTER_OT_add_move(_OnCamera, bpy.types.Operator):
    """Animate the camera from where it stands, with ordinary keyframes over the panel's frame range"""

    bl_idname = "scene_splatter.add_move"
    bl_label = "Add Camera Move"

    move: bpy.props.EnumProperty(
        name="Move", items=[(name, name.title(), text) for name, text in _MOVE_TEXT.items()]
    )
    amount: bpy.props.FloatProperty(
        name="Amount", description="Metres, or degrees of an orbit", default=0.5
    )
    distance: bpy.props.FloatProperty(
        name="Distance",
        description="Metres to the point that an orbit goes round",
        default=4.0,
        min=0.01,
        max=1e4,
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """One undo step."""
        scene = context.scene
        start, end = properties.frame_range(scene)
        try:
            moves.add_move(
                scene,
                properties.camera_of(scene),
                self.move,
                self.amount,
                start=start,
                end=end,
                distance=self.distance,
            )
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class SCENESPLATTER_OT_check_path(_OnCamera, bpy.types.Operator):
    """Look for jumps, stops and cuts in the path, and estimate how much has to be invented"""

    bl_idname = "scene_splatter.check_path"
    bl_label = "Check Path"
    bl_options: ClassVar[set[str]] = {"REGISTER"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Not while a job runs: the panel shows one progress."""
        return "A job is running" if delivery.session.status.busy else super().why_not(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The panel shows what was found."""
        try:
            delivery.prepare(context, export_and_check(context), " ".join)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if bpy.app.background:
            self.report({"INFO"}, delivery.session.status.outcome)
        return {"FINISHED"}


CLASSES = (SCENESPLATTER_OT_match_camera, SCENESPLATTER_OT_add_move, SCENESPLATTER_OT_check_path)

_add_classes, _remove_classes = bpy.utils.register_classes_factory(CLASSES)


@persistent
def _forget_notes(*_: Any) -> None:
    """Another file's scene may have the same name."""
    notes.clear()


def register() -> None:
    """Add the operators and the handler."""
    _add_classes()
    bpy.app.handlers.load_post.append(_forget_notes)


def unregister() -> None:
    """Remove them."""
    if _forget_notes in bpy.app.handlers.load_post:
        bpy.app.handlers.load_post.remove(_forget_notes)
    _remove_classes()
