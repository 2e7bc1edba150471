"""From what the panel says to a job folder that the engine can start on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np

from ...engine.bridge import camera_file, estimate, speeds
from ...engine.bridge import settings as engine_settings
from ...engine.bridge.camera_file import CameraPath
from ...engine.bridge.colour import linear_to_srgb
from ...engine.bridge.errors import UserError
from ...engine.bridge.segments import ASPECT_TOLERANCE, Segment, kept_frames, plan_segments
from ...engine.bridge.settings import SceneSettings
from ..cameras import blockout, conversion, picture_header
from ..cameras.picture_header import Header
from ..ui import properties
from . import delivery, engine_location, folders
from .slices import Step, run

_SUFFIXES = {
    "JPEG": ".jpg",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TARGA": ".tga",
    "JPEG2000": ".jp2",
    "OPEN_EXR": ".exr",
}
_REC709_LIGHT = ("Linear Rec.709", "Linear")  # what EXR files hold if nothing else is said
_REFUSED_SOURCES = {
    "MOVIE": "a movie",
    "SEQUENCE": "an image sequence",
    "TILED": "a set of tiles",
    "VIEWER": "a render result",
}
_CAMERA_TYPES = {"ORTHO": "orthographic", "PANO": "panoramic"}


NO_IMAGE = "Choose a picture"


class Job(NamedTuple):
    """A job folder whose inputs are complete."""

    folder: Path
    ticket: folders.Ticket


def why_not(context: bpy.types.Context) -> str:
    """Why Generate cannot be pressed now, or an empty text. Cheap: it is asked at every drawing."""
    return "A job is running" if delivery.session.status.busy else why_not_inputs(context)


def why_not_inputs(context: bpy.types.Context) -> str:
    """What is missing for a job, or an empty text."""
    scene = context.scene
    group = scene.scene_splatter
    reason = (
        engine_location.why_no_engine(context)
        or why_not_camera(scene)
        or why_not_image(group)
        or properties.depth_problem(group)
    )
    return reason or why_not_shape(scene)


def why_not_camera(scene: bpy.types.Scene) -> str:
    """Why the panel's camera cannot be used, or an empty text."""
    camera = properties.camera_of(scene)
    if camera is None:
        return "There is no camera: add one, or choose one in the panel"
    return why_not_lens(camera) or why_not_range(scene)


def why_not_lens(camera: bpy.types.Object) -> str:
    """Why the engine cannot see through this camera, or an empty text."""
    if camera.data.type == "PERSP":
        return ""
    kind = _CAMERA_TYPES.get(camera.data.type, camera.data.type.lower())
    return f"{camera.name} is {kind}: only perspective cameras can be used"


def why_not_range(scene: bpy.types.Scene) -> str:
    """Why the frame range is none, or an empty text."""
    start, end = properties.frame_range(scene)
    return (
        ""
        if end >= start
        else f"The frame range is empty: it ends ({end}) before it starts ({start})"
    )


def why_not_image(group: properties.SCENESPLATTER_PG_scene) -> str:
    """Why the chosen picture cannot be used, or an empty text. Cheap: it is asked at every
    drawing.
    """
    if group.image_from == "IMAGE":
        image = group.image
        if image is None:
            return NO_IMAGE
        if image.source in _REFUSED_SOURCES:
            return f"{image.name} is {_REFUSED_SOURCES[image.source]}: choose a single picture"
        packed_or_made = (
            image.packed_file is not None or image.source == "GENERATED" or image.is_dirty
        )
        return (
            ""
            if packed_or_made or Path(bpy.path.abspath(image.filepath)).is_file()
            else f"The file of {image.name} is missing"
        )
    if not group.image_path:
        return NO_IMAGE
    path = Path(bpy.path.abspath(group.image_path))
    if path.suffix.lower() in bpy.path.extensions_movie:
        return f"{path.name} is a movie: choose a single picture"
    return picture_header.damage(path) if path.is_file() else f"{path.name} does not exist"


def refuse_unreadable(path: Path) -> None:
    """Raises UserError, naming the user's own file, where neither its head nor Blender can read
    it.
    """
    if path.suffix.lower() in bpy.path.extensions_movie:
        raise UserError(f"{path.name} is a movie.", "Choose a single picture.")
    reason = (
        picture_header.damage(path) if path.is_file() else f"{path.name or 'It'} does not exist"
    )
    if reason:
        raise UserError(f"{reason}.", "Choose another picture.")
    if picture_header.read(path) is not None:
        return
    known = set(bpy.data.images)
    with _reported():  # a kind that only Blender knows
        image = bpy.data.images.load(str(path), check_existing=True)
    readable = bool(image.size[0] and image.size[1])
    if image not in known and not readable:
        bpy.data.images.remove(image)
    if not readable:
        raise UserError(f"{path.name} is no picture that can be read.", "Choose another picture.")


def header_of(group: properties.SCENESPLATTER_PG_scene) -> Header | None:
    """Size, orientation and lens of the chosen picture, as the engine will see it; None where
    only the engine can tell.
    """
    if group.image_from == "FILE":
        return picture_header.read(Path(bpy.path.abspath(group.image_path)))
    image = group.image
    if image is None:
        return None
    if image.source == "FILE" and not image.is_dirty and image.packed_file is None:
        return picture_header.read(Path(bpy.path.abspath(image.filepath)))
    width, height = image.size if image.has_data and image.packed_file is None else (0, 0)
    return Header(width, height, 1, None) if width and height else None


def why_not_shape(scene: bpy.types.Scene) -> str:
    """Why the chosen picture cannot be what the camera sees, or an empty text."""
    header = header_of(scene.scene_splatter)
    if header is None:
        return ""
    width, height = conversion.render_size(scene.render)
    if abs(width * header.height / (height * header.width) - 1) <= ASPECT_TOLERANCE:
        return ""
    return (
        f"The render is {width} x {height}, the picture {header.width} x {header.height}: "
        "press Match"
    )


def image_of(group: properties.SCENESPLATTER_PG_scene) -> bpy.types.Image:
    """The chosen picture as a datablock; a file is loaded. Raises UserError."""
    reason = why_not_image(group)
    if reason:
        raise UserError(reason + ".", "Choose a picture in the panel.")
    if group.image_from == "IMAGE":
        return group.image
    with _reported():
        return bpy.data.images.load(bpy.path.abspath(group.image_path), check_existing=True)


def taken_frames(scene: bpy.types.Scene) -> list[float]:
    """The scene times of the path's cameras, with the frame step."""
    frames = properties.frames(scene)
    return [frames[i] for i in kept_frames(len(frames), scene.scene_splatter.settings.frame_step)]


def segments(scene: bpy.types.Scene) -> list[Segment]:
    """How the path will be cut, in frames of the path; empty if the settings do not allow it."""
    values = scene.scene_splatter.settings
    count = len(taken_frames(scene))
    if count == 0 or values.overlap >= values.segment_length:
        return []
    return plan_segments(count, values.segment_length, values.overlap)


def forecast(scene: bpy.types.Scene) -> estimate.Estimate | None:
    """Time and memory of the job that the panel describes; None while the panel lacks something,
    or nobody knows.
    """
    group = scene.scene_splatter
    count = len(taken_frames(scene))
    width, height = conversion.render_size(scene.render)
    try:
        work = estimate.work_of(properties.read(group), count, height / width)
    except (UserError, ValueError, ZeroDivisionError):
        return None
    return estimate.predict(work, _speeds(work, _changed()))


def _changed() -> tuple[int, int]:
    def when(name: str) -> int:
        try:
            return (speeds.user_cache() / name).stat().st_mtime_ns
        except OSError:
            return 0

    return when(speeds.HISTORY), when(speeds.MACHINE)


@functools.lru_cache(maxsize=8)
def _speeds(work: estimate.Work, _changed: tuple[int, int]) -> estimate.Speeds | None:
    """Once for every job that changed it: the panel asks at every drawing."""
    return speeds.speeds_for(work)


def make(context: bpy.types.Context, parent: Path | None = None) -> Job:
    """`make_in_slices`, all at once."""
    return run(make_in_slices(context, parent))


def make_in_slices(
    context: bpy.types.Context, parent: Path | None = None
) -> Generator[Step, None, Job]:
    """Write a new job folder (under `parent`, else where job folders go) for the scene of
    `context`.

    Raises UserError for whatever is wrong with the input; then, and when it is closed, no folder is
    left behind, and the scene is as it was. `context` must have the same scene at every slice.
    """
    reason = why_not_inputs(context)
    if reason:
        raise UserError(reason + ".")
    properties.read(
        context.scene.scene_splatter
    )  # a bad setting is found before anything is written
    if context.scene.scene_splatter.image_from == "FILE":
        refuse_unreadable(Path(bpy.path.abspath(context.scene.scene_splatter.image_path)))
    camera = properties.camera_of(context.scene)
    assert camera is not None  # why_not_inputs
    name = camera.name
    path = yield from conversion.export_in_slices(
        context.scene, camera, properties.frames(context.scene)
    )
    _refuse_standstill(path, name)
    folder = folders.new_folder(parent or delivery.jobs_parent(), context.scene.scene_splatter.shot)
    try:
        yield Step("Writing the picture", 0, 2)
        camera_file.write(folder / "input" / "path.json", path)
        save_image(context.scene.scene_splatter, folder / "input")
        yield Step("Writing the depth", 1, 2)
        depth = yield from _write_depth(context, folder)
        group = (
            context.scene.scene_splatter
        )  # asked for anew: an undo between two slices makes new objects
        settings = _with_first_gaussians(properties.read(group, depth), folder)
        folders.write_json(folder / "settings.json", engine_settings.to_json(settings))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        where = error.filename2 or error.filename or folder
        raise UserError(
            f"{error.strerror}: {where}.", "Free some space, or save in another place."
        ) from error
    except BaseException:  # also when the user cancels, which closes the generator
        shutil.rmtree(folder, ignore_errors=True)
        raise
    last = delivery.last_object(context.scene)
    replaced = last.name if group.replace_last and last is not None else ""
    picture = Path(group.image_path).name if group.image_from == "FILE" else group.image.name
    return Job(
        folder,
        folders.Ticket(
            bpy.data.filepath, context.scene.name, group.shot, name, replaced, picture=picture
        ),
    )


def _with_first_gaussians(settings: SceneSettings, folder: Path) -> SceneSettings:
    """The settings, with a .ply that they start from copied into the job, so that the job is all
    in its folder.
    """
    source = Path(settings.geometry.initialiser.strip())
    if source.suffix.lower() != ".ply":
        return settings
    shutil.copyfile(source, folder / "input" / "initial.ply")
    geometry = dataclasses.replace(settings.geometry, initialiser="input/initial.ply")
    return dataclasses.replace(settings, geometry=geometry)


def _refuse_standstill(path: CameraPath, name: str) -> None:
    moves = np.ptp(path.world_from_camera, axis=0).max() if path.count > 1 else 1.0
    if moves < 1e-6:
        raise UserError(
            f"{name} does not move in this frame range.",
            "Animate it, add a camera move, or choose a single frame.",
        )


def _write_depth(context: bpy.types.Context, folder: Path) -> Generator[Step, None, str]:
    """Give the job its own depth map, where the panel asks for one; its name relative to the
    folder, so that a job can be moved.
    """
    group = context.scene.scene_splatter
    if group.depth_source == "BLOCKOUT":
        depth = folder / "input" / "depth.npy"
        yield from blockout.write_depth_in_slices(
            context, properties.camera_of(context.scene), properties.frames(context.scene)[0], depth
        )
    elif group.depth_source == "FILE":
        source = Path(bpy.path.abspath(group.depth_file))
        depth = Path(shutil.copyfile(source, folder / "input" / f"depth{source.suffix.lower()}"))
    else:
        return ""
    return f"input/{depth.name}"


def save_image(group: properties.SCENESPLATTER_PG_scene, folder: Path) -> Path:
    """Copy the chosen picture into `folder` as image.<suffix>. Raises UserError, OSError.

    Files and packed files go over byte by byte, so that nothing is lost on the way; what was
    painted in Blender is saved as it looks; floating point pictures of this file, whose colour
    space may be any, become display-referred PNG.
    """
    if group.image_from == "FILE":
        source = Path(bpy.path.abspath(group.image_path))
        suffix = source.suffix.lower()  # the engine reads all others, and takes light as Rec. 709's
        if suffix == ".hdr" or (suffix == ".exr" and picture_header.names_other_primaries(source)):
            image = bpy.data.images.load(str(source))
            try:
                return _save_pixels(image, folder / "image.png")
            finally:
                bpy.data.images.remove(image)
        return Path(shutil.copyfile(source, folder / f"image{suffix}"))
    image = group.image
    as_the_engine_reads_it = (
        image.file_format == "OPEN_EXR" and image.colorspace_settings.name in _REC709_LIGHT
    )
    if (
        (image.is_float and not as_the_engine_reads_it)
        or image.is_dirty
        or image.source == "GENERATED"
    ):
        return _save_pixels(image, folder / "image.png")
    if image.packed_file is not None:
        target = folder / f"image{_SUFFIXES.get(image.file_format, '.png')}"
        target.write_bytes(image.packed_file.data)
        return target
    source = Path(bpy.path.abspath(image.filepath))
    return Path(shutil.copyfile(source, folder / f"image{source.suffix.lower()}"))


def _save_pixels(image: bpy.types.Image, target: Path) -> Path:
    """What an image [h, w] shows under the Standard view, as 8-bit PNG; the image itself stays
    as it is.
    """
    width, height = image.size
    if not width or not height:
        raise UserError(
            f"{image.name} cannot be read.", "Open it in Blender's image editor to see why."
        )
    pixels = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    pixels = pixels.reshape(-1, image.channels)
    rgba = np.ones((pixels.shape[0], 4), np.float32)
    rgba[:, :3] = np.clip(
        np.nan_to_num(pixels[:, :3] if image.channels >= 3 else pixels[:, :1]), 0.0, 1.0
    )
    if image.is_float:  # light; bytes are coded already
        rgba[:, :3] = linear_to_srgb(rgba[:, :3])
    if image.channels == 4:
        rgba[:, 3] = np.clip(pixels[:, 3], 0.0, 1.0)
    shown = bpy.data.images.new(
        "scene_splatter_input", width, height, alpha=True, float_buffer=False
    )
    try:
        shown.pixels.foreach_set(rgba.ravel())
        shown.filepath_raw, shown.file_format = str(target), "PNG"
        with _reported():
            shown.save()
    finally:
        bpy.data.images.remove(shown)
    return target


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Blender reports a picture that it cannot save or load as RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"The picture failed: {str(error).strip()}",
            "Free some space, or choose another picture.",
        ) from error
