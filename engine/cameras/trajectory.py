"""Camera paths: reading them, and their scale."""

from __future__ import annotations

import logging
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ..bridge import camera_file, moves
from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.kinds import refuse_foreign
from ..bridge.moves import is_move, move
from ..bridge.reading import head_of, npy_of, parsed_json, reading, text_of
from ..bridge.segments import ASPECT_TOLERANCE, kept_frames
from . import colmap, readers
from .readers import inverse

log = logging.getLogger(__name__)

__all__ = [
    "check_path",
    "every",
    "focus_distance",
    "is_move",
    "load",
    "move",
    "relative_to_first",
    "scale_to_depth",
    "scaled_to",
    "seen_share",
]

_RE10K_NEAR = 1.25  # RealEstate10K scales each path so that its nearest points lie 1.25 units away
_UNKNOWN_REACH = 0.3
_MAX_BYTES = 256 << 20
_ARRAY_BYTES = 64 << 20  # of one array of an NPZ: half a million cameras
_FORMATS = (
    "Readable are our JSON, RealEstate10K text, camera_path.json, transforms.json, COLMAP, a "
    "3DGS training's cameras.json and official camera JSON or NPZ."
)


def load(path: str | Path, *, image_size: tuple[int, int] | None = None) -> CameraPath:
    """Read a camera path of any known format; what the file holds decides, not its name.

    `image_size` (width, height) is the picture's: K comes back in its pixels, and a format that
    says its own size must have its aspect to 2 % (K is then scaled per axis). Without it, sizes
    are the file's own. Poses stay in the file's world, see `relative_to_first`.

    Raises UserError for anything that is not a usable camera path, pickles included: those can
    run code, so they are never opened.
    """
    path = Path(path)
    with reading(path, "Export the camera path again."):
        found = colmap.find(path)
        if found is None and not path.exists():
            raise _missing(path)
        if found is None and path.is_dir():
            raise _missing(path)
        result = colmap.read(*found) if found else _load_file(path, image_size)
        jumps = order_jumps(result)
        if jumps:
            result = result._replace(notes=(*result.notes, jumps))
    for note in result.notes:
        log.warning("%s: %s", path.name, note)
    return _fitted(result, image_size, path.name) if image_size else result


def order_jumps(path: CameraPath) -> str:
    """Say in a sentence that cameras follow one another in an order that is no path; empty if all
    is well.

    So it is when a step is, in the median, over three times as long as the way to the nearest other
    camera, and steps turn back more than they go on: a path may pass the same places again. Where
    cameras stand still, their viewing directions are compared.
    """
    if path.count < 5:
        return ""
    every_nth = max(1, path.count // 2000)
    places = path.world_from_camera[::every_nth, :3, 3]
    if np.ptp(places, axis=0).max() < 1e-9:
        places = path.world_from_camera[::every_nth, :3, 2]
    distance, _ = cKDTree(places).query(places, k=2)
    nearest = float(np.median(distance[:, 1]))
    steps = np.diff(places, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    if not np.median(lengths) > 3 * nearest + 1e-9:
        return ""
    onward = steps[lengths > 1e-9] / lengths[lengths > 1e-9, None]
    if np.mean(np.sum(onward[1:] * onward[:-1], axis=1)) > 0.0:
        return ""
    return (
        "The order of the cameras jumps back and forth: their file does not say which follows "
        "which. "
        "Number the pictures in the order of the path."
    )


def _missing(path: Path) -> UserError:
    if path.is_dir():
        for name in ("transforms.json", "cameras.json", "camera_path.json"):
            if (path / name).is_file():
                return UserError(f"{path} is a folder.", f"Give the file itself: {path / name}")
        return UserError(
            f"{path} is a folder with no COLMAP model in it.", "Give a camera path file."
        )
    return UserError(
        f"The camera path {path} does not exist.",
        f"Give a file, or a move (of {', '.join(moves.DEFAULTS)}), e.g. dolly:1.0+orbit:20.",
    )


def _load_file(path: Path, image_size: tuple[int, int] | None) -> CameraPath:
    head = head_of(path)
    if path.suffix.lower() in (".pkl", ".pickle") or head[:2] == b"\x1f\x8b":
        raise UserError(
            f"{path.name} is a pickle or a compressed file; pickles can run code and are never "
            "opened.",
            "Unpack it if it is compressed; of a pickle, save the arrays w2c and intrinsics with "
            "numpy.savez, and give the .npz.",
        )
    if head[:4] == b"PK\x03\x04":
        return readers.arrays(_archived(path), path.name, image_size)
    refuse_foreign(path, "a camera path", (), head)
    text = text_of(path, _MAX_BYTES)
    if not text.strip():
        raise UserError(f"{path.name} is empty.", "Export the camera path again.")
    # numbers in brackets, a line each, are no JSON
    rows = readers.numbers_of(text.strip().splitlines()[0]) and "\n" in text.strip()
    if text.lstrip()[0] in "{[" and not rows:
        return _load_json(text, path.name, image_size)
    return _load_text(text, path.name, image_size)


def _archived(path: Path) -> dict[str, Any]:
    """The arrays of an NPZ that cameras have, each within _ARRAY_BYTES. UserError for pickles and
    larger ones.
    """
    remedy = "Save w2c and intrinsics with numpy.savez."
    with reading(path, remedy), zipfile.ZipFile(path) as archive:
        found: dict[str, Any] = {}
        for info in archive.infolist()[:1000]:
            name, _, ending = info.filename.rpartition(".")
            if ending != "npy":
                continue
            if name not in readers.ARRAY_NAMES:
                found[name] = None
                continue
            if info.file_size > _ARRAY_BYTES:
                raise UserError(
                    f"The array {name} of {path.name} has {info.file_size:,} bytes.",
                    "That is no camera path: check the file.",
                )
            with archive.open(info) as file:
                found[name] = npy_of(file, info.file_size, f"{name} of {path.name}")
        return found


def _load_json(text: str, name: str, image_size: tuple[int, int] | None) -> CameraPath:
    data = parsed_json(text, name, "Export the camera path again.")
    if isinstance(data, list):
        return camera_file.from_training(data, name)
    if isinstance(data, dict):
        if "format" in data:
            return camera_file.from_json(data, name)
        if isinstance(data.get("cameras"), list):
            return camera_file.from_training(data["cameras"], name)
        if "camera_path" in data:
            return readers.nerfstudio(data, name)
        if "frames" in data:
            return readers.transforms(data, name, image_size)
        if "w2c" in data or "intrinsics" in data:
            return readers.arrays(data, name, image_size)
    raise UserError(f"{name} is not a camera path that this engine knows.", _FORMATS)


def _load_text(text: str, name: str, image_size: tuple[int, int] | None) -> CameraPath:
    lines = [n for line in text.splitlines() if line.strip() for n in [readers.numbers_of(line)]]
    shapes = Counter(len(line) for line in lines if line)
    framed = [line for line in text.splitlines() if readers.real_estate_line(line)]
    if 19 in shapes or len(framed) > 1 or text.lstrip().startswith("http"):
        return readers.real_estate(text.lstrip(), name, image_size)
    if len(lines) == 3 and all(lines):
        return readers.viewcrafter(text, name, image_size)
    for width, kind in ((12, "KITTI poses"), (16, "poses as 4x4 matrices"), (8, "TUM poses")):
        if shapes.get(width, 0) > 1:
            raise UserError(
                f"{name} looks like {kind}, which say nothing of the lens.",
                "Give the cameras with their focal length, e.g. as transforms.json or a COLMAP "
                "model.",
            )
    raise UserError(f"{name} is not a camera path that this engine knows.", _FORMATS)


def _fitted(path: CameraPath, image_size: tuple[int, int], name: str) -> CameraPath:
    width, height = image_size
    if abs(path.width * height / (path.height * width) - 1) > ASPECT_TOLERANCE:
        raise UserError(
            f"The cameras of {name} are {path.width}x{path.height}, the picture is "
            f"{width}x{height}: the shapes differ.",
            f"Crop the picture to {path.width}:{path.height}, or export the path for "
            f"{width}x{height}.",
        )
    return scaled_to(path, width, height)


def scaled_to(path: CameraPath, width: int, height: int) -> CameraPath:
    """Make the same cameras for pictures resized to width x height, each axis by its own factor.

    This is exact for a picture that was stretched the same way (a working size is a multiple of
    something, so its aspect is a little off). Pixel centres at +0.5 make K scale with no shift.
    """
    factor = np.array([[width / path.width], [height / path.height], [1.0]])
    return path._replace(K=path.K * factor, width=width, height=height)


def relative_to_first(path: CameraPath) -> CameraPath:
    """Move the path into the axes of its first camera, whose pose becomes exactly the identity."""
    poses = inverse(path.world_from_camera[:1]) @ path.world_from_camera
    poses[0] = np.eye(4)
    poses[:, 3] = [0, 0, 0, 1]
    return path._replace(world_from_camera=poses)


def every(path: CameraPath, step: int) -> CameraPath:
    """Keep frames 0, step, 2 step ... and the last; the rate drops so that the duration stays."""
    frames = kept_frames(path.count, step)
    return path._replace(
        K=path.K[frames],
        world_from_camera=path.world_from_camera[frames],
        fps=max(path.fps / step, 1.0),
    )


def scale_to_depth(
    path: CameraPath, depth_m: Any, motion_scale: float = 0.0
) -> tuple[CameraPath, str]:
    """Bring the path into metres, relative to its first camera, and say in a sentence by which
    rule.

    depth_m [h, w] is the first view's depth; 0, inf and NaN are no depth. `motion_scale` is the
    length of one path unit in metres where the user says it. Otherwise:

    * "m": metres are taken as they are.
    * "depth": one unit is the scene's median depth.
    * "re10k": RealEstate10K puts the nearest points of a path (the smallest over its cameras of
      the 5th percentile of depth) 1.25 units away. The nearest is met where the path has come
      farthest forward, so the first view's 5th percentile is 1.25 units plus that advance.
    * "unknown": where the cameras turn round a point, that point lies at the median depth. Else the
      farthest camera is 0.3 median depths from the first.
    """
    path = relative_to_first(path)
    depth = np.asarray(depth_m, np.float64)
    depth = depth[np.isfinite(depth) & (depth > 0)]
    if not depth.size:
        raise ValueError("depth_m: expected at least one finite depth above 0")
    median, near = float(np.median(depth)), float(np.percentile(depth, 5))
    positions = path.world_from_camera[:, :3, 3]
    reach = float(np.linalg.norm(positions, axis=1).max())
    if motion_scale > 0:
        scale, rule = motion_scale, "as set (motion_scale)"
    elif path.unit == "m":
        scale, rule = 1.0, "the path is in metres"
    elif path.unit == "depth":
        scale, rule = median, f"the scene's median depth ({median:.3g} m)"
    elif path.unit == "re10k":
        units = _RE10K_NEAR + max(0.0, float(positions[:, 2].max()))
        scale, rule = (
            near / units,
            f"the near depth ({near:.3g} m, 5th percentile) is {units:.3g} units, as "
            "RealEstate10K scales its paths",
        )
    elif (focus := focus_distance(path)) is not None:
        scale, rule = (
            median / focus,
            f"the point that the cameras turn round ({focus:.3g} units away) is at the median "
            f"depth ({median:.3g} m)",
        )
    elif reach > 0:
        scale = _UNKNOWN_REACH * median / reach
        rule = (
            f"the farthest camera is {_UNKNOWN_REACH:g} of the median depth ({median:.3g} m) "
            "from the first"
        )
    else:
        scale, rule = 1.0, "the path does not move"
    poses = path.world_from_camera.copy()
    poses[:, :3, 3] *= scale
    sentence = (
        f"One path unit is {scale:.4g} m: {rule}. The farthest camera is {reach * scale:.3g} "
        "m from the first."
    )
    return path._replace(world_from_camera=poses, unit="m"), sentence


def focus_distance(path: CameraPath) -> float | None:
    """Find how far ahead of the first camera the point lies that all cameras look at; None if there
    is none.

    Least squares over the viewing axes. There is such a point if the axes differ by 15 degrees or
    more, it lies before every camera, and all axes pass it within a fifth of its distance.
    """
    origins, axes = path.world_from_camera[:, :3, 3], path.world_from_camera[:, :3, 2]
    if path.count < 2 or np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1).min())) < 15:
        return None
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # removes what lies along an axis
    point, *_ = np.linalg.lstsq(
        across.sum(0), (across @ origins[:, :, None]).sum(0)[:, 0], rcond=None
    )
    ahead = ((point - origins) * axes).sum(1)
    missed = np.linalg.norm((across @ (point - origins)[:, :, None])[:, :, 0], axis=1)
    if ahead.min() <= 0 or (missed > 0.2 * ahead).any():
        return None
    return float(ahead[0])


def seen_share(path: CameraPath, depth_m: Any) -> np.ndarray:
    """Compute the share of the first view's pixels that each camera has in its frame, [f] in 0..1.

    The path is relative to its first camera and in metres; depth_m [h, w] is the first view's.
    A coarse grid of pixels stands for all; occlusion is not considered.
    """
    depth = np.asarray(depth_m, np.float64)
    h, w = depth.shape
    v, u = (np.unique(np.linspace(0, side - 1, 48).astype(int)) for side in (h, w))
    z = depth[np.ix_(v, u)]
    usable = np.isfinite(z) & (z > 0)
    if not usable.any():
        raise ValueError("depth_m: expected at least one finite depth above 0")
    uu, vv = np.meshgrid((u + 0.5) * path.width / w, (v + 0.5) * path.height / h)
    rays = np.linalg.inv(path.K[0]) @ np.stack([uu[usable], vv[usable], np.ones(usable.sum())])
    points = np.concatenate([rays * z[usable], np.ones((1, usable.sum()))])
    seen = (inverse(path.world_from_camera) @ points)[:, :3]
    pixels = path.K @ seen
    front = seen[:, 2] > 1e-3
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
    return (front & (x >= 0) & (x <= path.width) & (y >= 0) & (y <= path.height)).mean(1)


def check_path(path: CameraPath, depth_m: Any = None) -> list[str]:
    """Warn in plain words about a path relative to its first camera; empty if all is well.

    Jumps are steps over ten times the median step (and over 1 % of the path) or turns over 15
    degrees. With the first view's depth_m [h, w] and a path in metres, views that show little
    of the scene are named too. Raises UserError if no camera after the first sees any of it.
    """
    warnings = []
    positions, R = path.world_from_camera[:, :3, 3], path.world_from_camera[:, :3, :3]
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    cosine = (np.einsum("fij,fij->f", R[1:], R[:-1]) - 1) / 2
    turns = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    if path.count > 2:
        jump = (
            (steps > 10 * np.median(steps)) & (steps > 0.01 * steps.sum())
            if np.median(steps) > 0
            else steps < 0
        )
        warnings += [
            f"The camera jumps between frames {i} and {i + 1}." for i in np.flatnonzero(jump)[:3]
        ]
    warnings += [
        f"The camera turns {turns[i]:.0f} degrees between frames {i} and {i + 1}."
        for i in np.flatnonzero(turns > 15)[:3]
    ]
    if path.count > 1 and steps.sum() == 0 and turns.sum() < 0.01:
        warnings.append("The camera does not move.")
    if depth_m is not None and path.count > 1:
        share = seen_share(path, depth_m)
        if share[1:].max() < 0.01:
            raise UserError(
                "No camera after the first sees the scene.",
                "Check the path's axes (OpenCV: x right, y down, z forward) and its scale "
                "(motion_scale).",
            )
        if (share < 0.1).any():
            few = np.flatnonzero(share < 0.1)
            warnings.append(
                f"{len(few)} of {path.count} views, from frame {few[0]} on, show under a tenth "
                "of the picture: most is invented there."
            )
    return warnings
