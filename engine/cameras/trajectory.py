"""Camera paths: reading them, and their scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..bridge import camera_file
from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.segments import ASPECT_TOLERANCE
from . import colmap, readers
from .moves import is_move, move
from .readers import inverse

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
_MAX_BYTES = 512 * 2**20
_FORMATS = "Readable are our JSON, RealEstate10K text, camera_path.json, transforms.json, COLMAP and official camera JSON or NPZ."


def load(path: str | Path, *, image_size: tuple[int, int] | None = None) -> CameraPath:
    """Read a camera path of any known format; what the file holds decides, not its name.

    `image_size` (width, height) is the picture's: K comes back in its pixels, and a format that
    says its own size must have its aspect to 2 % (K is then scaled per axis). Without it, sizes
    are the file's own. Poses stay in the file's world, see `relative_to_first`.

    Raises UserError for anything that is not a usable camera path, pickles included: those can
    run code, so they are never opened.
    """
    path = Path(path)
    try:
        found = colmap.find(path)
        if found is None and not path.is_file():
            raise _missing(path)
        if found is None and path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path.name} is larger than 512 MB.", "That is no camera path.")
        result = colmap.read(*found) if found else _load_file(path, image_size)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}.",
            "Check the file's name and its permissions.",
        ) from error
    return _fitted(result, image_size, path.name) if image_size else result


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
        "Give a file, or a move such as dolly:1.0 or orbit:20.",
    )


def _load_file(path: Path, image_size: tuple[int, int] | None) -> CameraPath:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"\x1f\x8b" or head[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        raise UserError(
            f"{path.name} is a pickle or a compressed file; pickles can run code and are never opened.",
            "Save its intrinsics and w2c arrays with numpy.savez, and give the .npz.",
        )
    if head[:2] == b"PK":
        try:
            with np.load(path, allow_pickle=False) as data:
                return readers.arrays(data, path.name, image_size)
        except (ValueError, BadZipFile, EOFError) as error:
            raise UserError(
                f"{path.name} is not a readable NPZ file ({error}).",
                "Save w2c and intrinsics with numpy.savez.",
            ) from error
    text = readers.read_text(path)
    if not text.strip():
        raise UserError(f"{path.name} is empty.", "Export the camera path again.")
    return (
        _load_json(text, path.name, image_size)
        if text.lstrip()[0] in "{["
        else _load_text(text, path.name, image_size)
    )


def _load_json(text: str, name: str, image_size: tuple[int, int] | None) -> CameraPath:
    try:
        data: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(
            f"{name} is not a JSON file ({error}).", "Export the camera path again."
        ) from error
    if isinstance(data, dict):
        if "format" in data:
            return camera_file.from_json(data, name)
        if "camera_path" in data:
            return readers.nerfstudio(data, name)
        if "frames" in data:
            return readers.transforms(data, name, image_size)
        if "w2c" in data or "intrinsics" in data:
            return readers.arrays(data, name, image_size)
    raise UserError(f"{name} is not a camera path that this engine knows.", _FORMATS)


def _load_text(text: str, name: str, image_size: tuple[int, int] | None) -> CameraPath:
    lines = [line for line in text.splitlines() if line.strip()]
    if (len(lines) > 1 and len(lines[1].split()) == 19) or lines[0].startswith("http"):
        return readers.real_estate(text.lstrip(), name, image_size)
    if len(lines) == 3:
        return readers.viewcrafter(text, name, image_size)
    raise UserError(f"{name} is not a camera path that this engine knows.", _FORMATS)


def _fitted(path: CameraPath, image_size: tuple[int, int], name: str) -> CameraPath:
    width, height = image_size
    if abs(path.width * height / (path.height * width) - 1) > ASPECT_TOLERANCE:
        raise UserError(
            f"The cameras of {name} are {path.width}x{path.height}, the picture is {width}x{height}: the shapes differ.",
            f"Crop the picture to {path.width}:{path.height}, or export the path for {width}x{height}.",
        )
    return scaled_to(path, width, height)


def scaled_to(path: CameraPath, width: int, height: int) -> CameraPath:
    """The same cameras for pictures resized to width x height, each axis by its own factor.

    This is exact for a picture that was stretched the same way (a working size is a multiple of
    something, so its aspect is a little off). Pixel centres at +0.5 make K scale with no shift.
    """
    factor = np.array([[width / path.width], [height / path.height], [1.0]])
    return path._replace(K=path.K * factor, width=width, height=height)


def relative_to_first(path: CameraPath) -> CameraPath:
    """The same path in the axes of its first camera, whose pose becomes exactly the identity."""
    poses = inverse(path.world_from_camera[:1]) @ path.world_from_camera
    poses[0] = np.eye(4)
    poses[:, 3] = [0, 0, 0, 1]
    return path._replace(world_from_camera=poses)


def every(path: CameraPath, step: int) -> CameraPath:
    """Frames 0, step, 2 step ...; the rate drops so that the duration stays."""
    if step < 1:
        raise ValueError(f"step: expected at least 1, got {step}")
    return path._replace(
        K=path.K[::step],
        world_from_camera=path.world_from_camera[::step],
        fps=max(path.fps / step, 1.0),
    )


def scale_to_depth(
    path: CameraPath, depth_m: Any, motion_scale: float = 0.0
) -> tuple[CameraPath, str]:
    """The path in metres, relative to its first camera, and a sentence that says by which rule.

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
            f"the near depth ({near:.3g} m, 5th percentile) is {units:.3g} units, as RealEstate10K scales its paths",
        )
    elif (focus := focus_distance(path)) is not None:
        scale, rule = (
            median / focus,
            f"the point that the cameras turn round ({focus:.3g} units away) is at the median depth ({median:.3g} m)",
        )
    elif reach > 0:
        scale = _UNKNOWN_REACH * median / reach
        rule = f"the farthest camera is {_UNKNOWN_REACH:g} of the median depth ({median:.3g} m) from the first"
    else:
        scale, rule = 1.0, "the path does not move"
    poses = path.world_from_camera.copy()
    poses[:, :3, 3] *= scale
    sentence = f"One path unit is {scale:.4g} m: {rule}. The farthest camera is {reach * scale:.3g} m from the first."
    return path._replace(world_from_camera=poses, unit="m"), sentence


def focus_distance(path: CameraPath) -> float | None:
    """How far ahead of the first camera the point lies that all cameras look at; None if there is none.

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
    """Share of the first view's pixels that each camera has in its frame, [f] in 0..1.

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
    """Warnings in plain words about a path relative to its first camera; empty if all is well.

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
                "Check the path's axes (OpenCV: x right, y down, z forward) and its scale (motion_scale).",
            )
        if (share < 0.1).any():
            few = np.flatnonzero(share < 0.1)
            warnings.append(
                f"{len(few)} of {path.count} views, from frame {few[0]} on, show under a tenth of the picture: most is invented there."
            )
    return warnings
