"""Camera operators of the panel: a new camera, match to the picture, add a move, check the path."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ...engine.bridge.camera_file import CameraPath
from ...engine.bridge.errors import UserError
from ...engine.bridge.reading import npy_of, open_file
from ...engine.bridge.settings import USUAL_CAMERA_HEIGHT_M, USUAL_HORIZON
from ..jobs import delivery, request
from ..jobs.slices import Step
from ..ui import properties
from ..ui.grey_with_reason import GreyWithReason
from . import blockout, conversion, coverage, first_camera, moves, views

_FIRST_PATH = 49  # frames of a newcomer's path: three segments of the default length
_COVERAGE_WIDTH = 96  # pixels of the depth that a coverage check looks at

notes: dict[str, list[str]] = {}  # what the last camera tool said, by scene


def forget(scene: bpy.types.Scene) -> None:
    """What was said of a path does not hold for another one."""
    notes.pop(scene.name, None)


def check_in_slices(
    context: bpy.types.Context, path: CameraPath, depth_file: Path | None = None
) -> Generator[Step, None, list[str]]:
    """Warnings about the path of the panel's camera, and how much of it has to be invented. Raises
    UserError.

    depth_file: a depth map of the first view that is there already, NPY. The warnings stay in
    `notes`. `context` must have the same scene at every slice.
    """
    yield Step("Looking at the camera path", 0, 1)
    scene = context.scene
    found = moves.path_warnings(path, properties.frames(scene), scene, properties.camera_of(scene))
    yield Step("Looking at the camera path", 1, 1)
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
            f"To be invented: {share.mean():.0%} of the path's views, {share.max():.0%} of the "
            "worst."
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
        "SMALL",
        "AUTO",
    ):  # only the engine can read a depth from the picture, so the box stands for it
        K = np.diag([width / path.width, height / path.height, 1.0]) @ path.K[0]
        return coverage.box_depth(K, width, height, properties.read(group).geometry)
    file = Path(bpy.path.abspath(group.depth_file))
    if group.depth_source == "FILE" and file.suffix.lower() == ".npy" and file.is_file():
        try:
            with open_file(file) as stream:
                depth = npy_of(stream, file.stat().st_size, str(file))
        except UserError:
            return None  # which the job itself says
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
    """Give the render the picture's shape and the camera its lens, and show the picture behind
    the camera's view
    """

    bl_idname = "scene_splatter.match_camera"
    bl_label = "Match Camera to Image"

    fov_deg: bpy.props.FloatProperty(
        name="Field of View",
        description="Horizontal, in degrees; 0 takes the photo's own, if its file tells",
        default=0.0,
        min=0.0,
        max=170.0,
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """One undo step."""
        scene = context.scene
        try:
            match(scene, properties.camera_of(scene), self.fov_deg)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        forget(scene)
        views.look_through_camera(scene)
        return {"FINISHED"}


def match(scene: bpy.types.Scene, camera: bpy.types.Object, fov_deg: float = 0.0) -> None:
    """Give render and camera what the panel's picture has. Raises UserError."""
    group = scene.scene_splatter
    conversion.match_camera_to_image(
        scene, camera, request.image_of(group), request.header_of(group), fov_deg=fov_deg
    )


def set_up_camera(context: bpy.types.Context) -> list[str]:
    """Make the camera of a newcomer for the panel's picture, moving as the panel says; what was
    done beside, in sentences.

    It stands upright at eye height, is the scene's camera, and the 3D view looks through it. Raises
    UserError, before anything is changed, where the picture cannot be read.
    """
    scene = context.scene
    group, values = scene.scene_splatter, scene.scene_splatter.settings
    request.image_of(group)
    header = request.header_of(group)
    told = header.fov_deg if header is not None else None
    camera = first_camera.add(scene, f"{group.shot} camera")
    group.camera = camera
    match(scene, camera, values.fov or told or first_camera.USUAL_FOV_DEG)
    first_camera.stand_upright(
        scene,
        camera,
        values.camera_height or USUAL_CAMERA_HEIGHT_M,
        values.horizon or USUAL_HORIZON,
    )
    said = []
    first, last = properties.frame_range(scene)
    if group.use_scene_range and last - first + 1 > _FIRST_PATH:
        group.use_scene_range = False
        group.frame_start, group.frame_end = first, first + _FIRST_PATH - 1
        said.append(
            f"The path takes {_FIRST_PATH} of the scene's {last - first + 1} frames: a long one "
            "takes long."
        )
    spec = properties.move_of(group)
    if spec:
        start, end = properties.frame_range(scene)
        moves.add_move(scene, camera, spec, start=start, end=end)
    hidden = first_camera.hide_default_objects(scene, context.view_layer)
    if hidden:
        said.append(
            f"{' and '.join(hidden)} of Blender's default file are hidden; undo or the "
            "Outliner's eye shows them."
        )
    views.look_through_camera(scene)
    return said


class SCENESPLATTER_OT_new_camera(GreyWithReason, bpy.types.Operator):
    """Add an upright camera at eye height with the picture's shape and the move below, and look
    through it
    """

    bl_idname = "scene_splatter.new_camera"
    bl_label = "New Camera"
    bl_options: ClassVar[set[str]] = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only with a picture."""
        return request.why_not_image(context.scene.scene_splatter)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """One undo step."""
        try:
            notes[context.scene.name] = set_up_camera(context)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class SCENESPLATTER_OT_add_move(_OnCamera, bpy.types.Operator):
    """Animate the camera from where it stands by the sum of the amounts above, with ordinary
    keyframes over the frame range
    """

    bl_idname = "scene_splatter.add_move"
    bl_label = "Add Camera Move"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only with an amount."""
        if not properties.move_of(context.scene.scene_splatter):
            return "All amounts are 0: nothing would move"
        return super().why_not(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """One undo step. The move starts where the camera stands at the range's first frame."""
        scene = context.scene
        start, end = properties.frame_range(scene)
        camera = properties.camera_of(scene)
        assert camera is not None  # poll
        before = scene.frame_current, scene.frame_subframe
        try:
            scene.frame_set(start)
            replaced = moves.add_move(
                scene,
                camera,
                properties.move_of(scene.scene_splatter),
                start=start,
                end=end,
            )
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        finally:
            scene.frame_set(before[0], subframe=before[1])
        forget(scene)
        if replaced:
            said = (
                f"{replaced} keys of {camera.name} in the range were replaced; undo brings "
                "them back."
            )
            notes[scene.name] = [said]
            self.report({"INFO"}, said)
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
            delivery.prepare(context, export_and_check(context), lambda _: "")
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if bpy.app.background:
            self.report({"INFO"}, " ".join(notes.get(context.scene.name, [])))
        return {"FINISHED"}


CLASSES = (
    SCENESPLATTER_OT_match_camera,
    SCENESPLATTER_OT_new_camera,
    SCENESPLATTER_OT_add_move,
    SCENESPLATTER_OT_check_path,
)
_EVENTS = ("load_post", "undo_post", "redo_post")

_add_classes, _remove_classes = bpy.utils.register_classes_factory(CLASSES)


@persistent
def _forget_notes(*_: Any) -> None:
    """Another file's scene may have the same name, and undo takes back what a note speaks of."""
    notes.clear()


def register() -> None:
    """Add the operators and the handler."""
    _add_classes()
    for event in _EVENTS:
        getattr(bpy.app.handlers, event).append(_forget_notes)


def unregister() -> None:
    """Remove them."""
    for event in _EVENTS:
        handlers = getattr(bpy.app.handlers, event)
        if _forget_notes in handlers:
            handlers.remove(_forget_notes)
    _remove_classes()
