"""From a splat file to a set in the scene: what File > Import and a finished job both call.

Everything is read and checked before the first change, so a file that cannot be imported leaves
the scene as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import tomllib
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np

from ...engine.bridge import camera_file, splat_file
from ...engine.bridge.camera_file import CameraPath
from ...engine.bridge.errors import UserError
from ...engine.bridge.reading import json_of
from ...engine.bridge.splat_file import Splats
from ..cameras import conversion, picture_header
from ..publish import collections
from ..splats import render_check, splat_object
from . import folders

log = logging.getLogger(__name__)

_IMAGES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".tga",
    ".jp2",
    ".exr",
    ".hdr",
)


_ALMOST_ALL = 0.9999  # of the Gaussians: one that strayed shall not cost the precision of depth


class Source(NamedTuple):
    """A splat file and what lies around it in a job folder."""

    path: Path
    prepared: splat_object.Prepared
    blending: str  # what the Gaussians were made for
    comments: list[str]
    cameras: CameraPath | None  # the path as it was asked for, in the world of the one who asked
    image: Path | None  # the picture that the scene was made from
    camera_name: str  # of the camera object whose path it was, empty if none
    notes: tuple[str, ...] = ()  # what was mended or left out, a sentence each

    @property
    def splats(self) -> Splats:
        """The Gaussians as the file has them."""
        return self.prepared.splats


_Version = tuple[Path, int, int]
_ahead: dict[_Version, Future[Source]] = {}  # files that a thread reads, or has read


def read_ahead(path: Path) -> bool:
    """Have a thread read a file that will be asked for soon; whether it is ready. Nothing of
    Blender is touched.
    """
    version = _version(path)
    if version not in _ahead:
        future: Future[Source] = Future()
        _ahead.clear()  # one is enough: what nobody fetched is let go
        _ahead[version] = future
        threading.Thread(
            target=_read_into, args=(future, path), name="read splats", daemon=True
        ).start()
    return _ahead[version].done()


def forget_ahead() -> None:
    """Let go of what was read and not asked for."""
    _ahead.clear()


def _version(path: Path) -> _Version:
    try:
        found = path.stat()
    except OSError:
        return path, 0, 0
    return path, found.st_mtime_ns, found.st_size


def _read_into(future: Future[Source], path: Path) -> None:
    try:
        future.set_result(_read(path))
    except BaseException as error:  # it is raised where the result is asked for
        future.set_exception(error)


def read(path: Path, blending: str = "") -> Source:
    """Read a splat file; `blending` overrides what the file says. Raises UserError."""
    future = _ahead.pop(_version(path), None)
    source = future.result() if future is not None else _read(path)
    return source._replace(blending=blending or source.blending)


def _read(path: Path) -> Source:
    found = splat_file.read(path)
    prepared = splat_object.prepare(found.splats)
    comments, notes = list(found.comments), (*found.repairs, *found.lost)
    blending = splat_file.blending_of(comments)
    folder = path.parent / "input"
    if not (path.parent / "settings.json").is_file() or not folder.is_dir():
        return Source(path, prepared, blending, comments, None, None, "", notes)
    image = next(
        (file for file in sorted(folder.glob("image.*")) if file.suffix.lower() in _IMAGES), None
    )
    ticket = folders.read_ticket(path.parent)
    return Source(
        path,
        prepared,
        blending,
        comments,
        _job_path(folder / "path.json"),
        image,
        ticket.camera if ticket else "",
        notes,
    )


def read_cameras(path: Path) -> CameraPath:
    """Read a camera path file; the cameras of a job's result come where `add` puts its Gaussians.
    Raises UserError.
    """
    found = camera_file.read(path)
    if path.name != "cameras.json" or not (path.parent / "settings.json").is_file():
        return found
    asked = _job_path(path.parent / "input" / "path.json")
    if asked is None:
        return found
    return found._replace(world_from_camera=asked.world_from_camera[0] @ found.world_from_camera)


def _job_path(path: Path) -> CameraPath | None:
    try:
        return camera_file.read(path)
    except (
        UserError
    ) as error:  # another program's format, or a named move: the result is upright without it
        log.info("no camera path of ours in %s: %s", path, error)
        return None


def add(
    scene: bpy.types.Scene,
    source: Source,
    *,
    shot: str = "",
    number: int = 0,
    collection: bpy.types.Collection | None = None,
) -> bpy.types.Object:
    """A new splat object for `source`, where the camera that made it saw it, else upright at the
    origin.

    shot: make a set (`collections.new_set`) of that name, with `number` if that is free, and with
    camera and picture; empty: just the object, in `collection` or the scene's own.
    """
    root = collections.new_set(scene, shot, number) if shot else None
    where = collections.part_of(root, "splats") if root else collection
    ob = splat_object.create(
        f"{root.name} Gaussians" if root else source.path.stem,
        source.prepared,
        blending=source.blending,
        collection=where,
    )
    if source.cameras is not None:
        ob.matrix_world = conversion.placement(source.cameras, scene)
        _let_cameras_reach(scene, source)
    _write_facts(ob, root, source)
    if root is not None:
        camera = _camera(scene, root, source)
        image = _picture(source)
        if image is not None and source.image is not None:
            if camera is not None:
                conversion.show_behind(camera, image, picture_header.read(source.image))
            _show_source(root, image)
    render_check.prepare_scene(scene)
    return ob


def replace(scene: bpy.types.Scene, ob: bpy.types.Object, source: Source) -> None:
    """Give an object other Gaussians; where it stands, its materials, animation and links stay.
    Raises UserError.
    """
    splat_object.replace(ob, source.prepared, blending=source.blending)
    if source.cameras is not None:
        _let_cameras_reach(scene, source)
    _write_facts(ob, collections.set_of(ob), source)
    render_check.prepare_scene(scene)


def _let_cameras_reach(scene: bpy.types.Scene, source: Source) -> None:
    """Widen the clip range of the scene's camera, and of the one that asked, to what they will see
    of the Gaussians.

    The path tells how near and far that is; in a scene whose unit is a centimetre Blender's usual
    far end of 100 units is one metre.
    """
    assert source.cameras is not None
    first = source.cameras.world_from_camera[0]
    centres = (np.linalg.inv(first) @ source.cameras.world_from_camera)[:, :3, 3]
    means = source.splats.means
    travelled = float(np.linalg.norm(centres, axis=1).max())
    far_m = (
        float(np.quantile(np.linalg.norm(means, axis=1), _ALMOST_ALL)) + travelled
        if len(means)
        else 0.0
    )
    for camera in {scene.camera, scene.objects.get(source.camera_name)} - {None}:
        if camera.type == "CAMERA" and camera.data.is_editable:
            conversion.widen_clip(scene, camera.data, conversion.NEAR_M, 1.1 * far_m)


def _camera(
    scene: bpy.types.Scene, root: bpy.types.Collection, source: Source
) -> bpy.types.Object | None:
    """The camera of the shot: the one in the file that asked, else a new one from the path."""
    part = collections.part_of(root, "cameras")
    asked = scene.objects.get(source.camera_name)
    if asked is not None and asked.type == "CAMERA":
        collections.link(asked, part)
        return asked
    if source.cameras is None:
        return None
    made = conversion.add_camera(
        scene, source.cameras, f"{root.name} camera", start=scene.frame_start, collection=part
    )
    scene.camera = scene.camera or made
    return made


def _picture(source: Source) -> bpy.types.Image | None:
    if source.image is None:
        return None
    try:
        return bpy.data.images.load(str(source.image), check_existing=True)
    except RuntimeError as error:  # a format that this Blender was built without
        log.warning("the picture %s cannot be shown: %s", source.image, error)
        return None


def _show_source(root: bpy.types.Collection, image: bpy.types.Image) -> None:
    empty = bpy.data.objects.new(f"{root.name} source", None)
    empty.empty_display_type = "IMAGE"
    empty.data = image
    empty.hide_render = empty.hide_viewport = True
    collections.part_of(root, "source").objects.link(empty)


def _write_facts(ob: bpy.types.Object, root: bpy.types.Collection | None, source: Source) -> None:
    facts: dict[str, str | int | float] = {
        "file": bpy.path.relpath(str(source.path)) if bpy.data.filepath else str(source.path),
        "blending": source.blending,
        "tool": f"Scene Splatter {version()}",
        **collections.facts_of_comments(source.comments),
    }
    if source.image is not None:
        facts["image_sha256"] = hashlib.sha256(source.image.read_bytes()).hexdigest()
    settings = source.path.parent / "settings.json"
    if source.image is not None and settings.is_file():
        with contextlib.suppress(UserError):  # what is damaged is no fact of the scene
            facts["settings"] = json.dumps(json_of(settings), sort_keys=True)
    for block in (ob, root):
        if block is not None:
            collections.write_provenance(block, facts)


def version() -> str:
    """The extension's own version, from its manifest."""
    manifest = Path(__file__).resolve().parents[2] / "blender_manifest.toml"
    return tomllib.loads(manifest.read_text(encoding="utf-8"))["version"]
