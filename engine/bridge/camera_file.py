"""Our own camera path file. Shared with Blender: numpy and the standard library only.

A JSON object: {"format": "scene_splatter_camera_path", "version": 1, "fps", "width", "height",
"unit", "frames": [{"K": 3x3, "world_from_camera": 4x4}, ...]}. K is in pixels with pixel
centres at +0.5; world_from_camera is rigid, in OpenCV axes (x right, y down, z forward).
Keys that are not named here are ignored, so a writer may add notes of its own; "notes", a list of
sentences, says what was left out of the file that the path came from.

The cameras.json that a 3DGS training writes is read as well: a list of {"img_name", "width",
"height", "position", "rotation" (world from camera), "fx", "fy"}.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import UserError
from .kinds import refuse_foreign
from .reading import json_of, natural_order, reading
from .whole_file import replacing

FORMAT = "scene_splatter_camera_path"
VERSION = 1
# "depth": multiples of the scene's median depth; "re10k": RealEstate10K's normalisation;
# "unknown": up to scale. The engine scales the last three by the scene's depth.
UNITS = ("m", "depth", "re10k", "unknown")
MAX_SIDE_PX = 32768
MAX_FRAMES = 100_000  # an hour at 24 frames a second
_MAX_BYTES = 256 << 20
_SAME_ASPECT = 0.02
_RIGID_TOLERANCE = 1e-3  # files with three or four decimals pass, a camera scaled by 1 % does not


class CameraPath(NamedTuple):
    """A path of f cameras that all have one size."""

    K: np.ndarray  # [f, 3, 3] float64, pixels
    world_from_camera: np.ndarray  # [f, 4, 4] float64, OpenCV axes
    width: int
    height: int
    fps: float
    unit: str  # one of UNITS
    notes: tuple[str, ...] = ()  # what was left out of the file, a sentence each

    @property
    def count(self) -> int:  # type: ignore[override]  # a tuple of fields has no use for tuple.count
        return self.K.shape[0]


def read(path: str | Path) -> CameraPath:
    """Read and check a camera path file, ours or a 3DGS training's cameras.json.

    Raises UserError that names the file, the frame and what is wrong with it.
    """
    path = Path(path)
    with reading(path, "Export the camera path again."):
        refuse_foreign(path, "a camera path", ())
        return from_json(json_of(path, _MAX_BYTES), path.name)


def write(path: str | Path, camera_path: CameraPath) -> None:
    """Check `camera_path` and write it; the file appears whole or not at all.

    Raises UserError as `read` does, so that whatever was written can be read back exactly.
    """
    path = Path(path)
    camera_path = checked(camera_path, path.name)
    text = json.dumps(to_json(camera_path), allow_nan=False, indent=1) + "\n"
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def to_json(camera_path: CameraPath) -> dict[str, Any]:
    """Turn a camera path into the JSON object of the file, as plain values."""
    frames = [
        {"K": k.tolist(), "world_from_camera": m.tolist()}
        for k, m in zip(camera_path.K, camera_path.world_from_camera, strict=True)
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "fps": float(camera_path.fps),
        "width": int(camera_path.width),
        "height": int(camera_path.height),
        "unit": camera_path.unit,
        **({"notes": list(camera_path.notes)} if camera_path.notes else {}),
        "frames": frames,
    }


def from_json(data: Any, name: str = "camera path") -> CameraPath:
    """Read what `to_json` made; `name` stands in the messages of UserError."""
    if isinstance(data, list):
        return from_training(data, name)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(
            f'{name} is not a camera path of ours: "format" is not "{FORMAT}".',
            "Export the path again from Blender.",
        )
    if data.get("version") != VERSION:
        raise UserError(
            f"{name} has version {data.get('version')!r}; this engine reads version {VERSION}.",
            "Update the add-on and the engine to the same version and export the path again.",
        )
    frames = data.get("frames")
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{name} has no frames.", "Export at least one camera.")
    width, height = (_size(data.get(key), key, name) for key in ("width", "height"))
    K, poses = [], []
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise UserError(f"Frame {i} of {name} is not an object.", "Export the path again.")
        if (frame.get("width", width), frame.get("height", height)) != (width, height):
            raise UserError(
                f"Frame {i} of {name} has another size than {width}x{height}.",
                "All cameras of a path must share one size.",
            )
        K.append(_matrix(frame.get("K"), (3, 3), f"K of frame {i} of {name}"))
        poses.append(
            _matrix(
                frame.get("world_from_camera"), (4, 4), f"world_from_camera of frame {i} of {name}"
            )
        )
    fps = data.get("fps", 24.0)
    if isinstance(fps, bool) or not isinstance(fps, (int, float)):
        raise UserError(f"fps of {name} is {fps!r}.", "It must be a number above 0.")
    said = data.get("notes", [])
    notes = tuple(str(note)[:500] for note in said[:20]) if isinstance(said, list) else ()
    unit = data.get("unit", "unknown")
    return checked(
        CameraPath(np.stack(K), np.stack(poses), width, height, float(fps), unit, notes), name
    )


def from_training(data: list[Any], name: str = "cameras.json") -> CameraPath:
    """The cameras.json of a 3DGS training: cameras in the order of their pictures' names, of one
    size.

    A camera without a picture's name stands where its number says. UserError for anything else.
    """
    if not data or not all(
        isinstance(entry, dict) and {"position", "rotation"} <= entry.keys() for entry in data
    ):
        raise UserError(
            f"{name} is not a list of cameras with position and rotation.",
            "Give the cameras.json that 3DGS training wrote.",
        )
    data = sorted(
        data, key=lambda entry: natural_order(str(entry.get("img_name", entry.get("id", ""))))
    )
    K, poses, sizes = (
        np.tile(np.eye(3), (len(data), 1, 1)),
        np.tile(np.eye(4), (len(data), 1, 1)),
        [],
    )
    for i, entry in enumerate(data):
        what = f"camera {entry.get('img_name', i)} of {name}"
        width, height = (whole(entry.get(key), key, what) for key in ("width", "height"))
        fx, fy = _focal_lengths(entry, (width, height), what)
        cx = number(entry.get("cx", width / 2), f"cx of {what}")
        cy = number(entry.get("cy", height / 2), f"cy of {what}")
        K[i, :2] = [[fx, 0, cx], [0, fy, cy]]
        poses[i, :3, :3] = _matrix(entry.get("rotation"), (3, 3), f"rotation of {what}")
        poses[i, :3, 3] = _numbers(entry.get("position"), 3, f"position of {what}")
        sizes.append((width, height))
    K, size, notes = of_one_size(K, sizes)
    return checked(CameraPath(K, poses, *size, 24.0, "unknown", notes), name)


def _focal_lengths(entry: dict[str, Any], size: tuple[int, int], what: str) -> tuple[float, float]:
    """fx and fy in pixels, or from FoVx and FoVy in radians; one stands for both."""
    found = []
    for focal, angle, side in zip(("fx", "fy"), ("FoVx", "FoVy"), size, strict=True):
        if focal not in entry and angle in entry:
            fov = number(entry[angle], f"{angle} of {what}")
            if not 0 < fov < math.pi:
                raise UserError(f"{angle} of {what} is {fov:g}.", "It is an angle in radians.")
            found.append(side / 2 / math.tan(fov / 2))
        elif focal in entry:
            found.append(number(entry[focal], f"{focal} of {what}"))
    if not found:
        raise UserError(
            f"{what} has no focal length.", "Give fx and fy in pixels, or FoVx and FoVy in radians."
        )
    return found[0], found[-1]


def of_one_size(
    K: np.ndarray, sizes: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, tuple[int, int], tuple[str, ...]]:
    """K [f, 3, 3] for pictures that all have the commonest of the sizes (width, height), and a note
    if some had not.

    A picture of the same shape (to 2 %) is stretched to it; of another shape, it is scaled to cover
    it and cropped round its centre, so that never is more seen than the source camera saw.
    """
    counts = Counter(sizes)
    size = max(counts, key=lambda s: (counts[s], -sizes.index(s)))
    if len(counts) == 1:
        return K, size, ()
    K = K.copy()
    for k, (width, height) in zip(K, sizes, strict=True):
        across, down = size[0] / width, size[1] / height
        if abs(across / down - 1) > _SAME_ASPECT:
            across = down = max(across, down)
        k[0] *= across
        k[1] *= down
        k[0, 2] += (size[0] - width * across) / 2
        k[1, 2] += (size[1] - height * down) / 2
    others = len(sizes) - counts[size]
    return (
        K,
        size,
        (
            f"{others} of {len(sizes)} cameras had another size than {size[0]}x{size[1]}; they "
            "were brought to it.",
        ),
    )


def number(value: Any, what: str) -> float:
    """A finite number, also one that stands in quotes; or UserError."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value.strip().replace(",", "."))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise UserError(f"{what} is {str(value)[:80]!r}, not a number.", "Export the path again.")
    return float(value)


def whole(value: Any, key: str, name: str) -> int:
    """A whole number of pixels, or UserError."""
    if isinstance(value, (np.ndarray, np.generic)) and value.size == 1:
        value = value.reshape(()).item()
    try:
        size = number(value, key)
    except UserError:
        size = math.nan
    if not (0 < size <= MAX_SIDE_PX and size == round(size)):
        raise UserError(
            f"{key} of {name} is {str(value)[:80]!r}.",
            f"It must be a whole number of pixels from 1 to {MAX_SIDE_PX}.",
        )
    return int(size)


def _numbers(value: Any, count: int, what: str) -> np.ndarray:
    try:
        values = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.shape != (count,):
        raise UserError(f"{what} is not {count} numbers.", "Export the path again.")
    return values


def checked(camera_path: CameraPath, name: str = "camera path") -> CameraPath:
    """The same path as float64, after every check that does not need the picture.

    Raises UserError for no frames, values that are not finite, matrices that are not rigid,
    K that is not a pinhole camera's, a bad size, rate or unit.
    """
    K = np.asarray(camera_path.K, np.float64)
    poses = np.asarray(camera_path.world_from_camera, np.float64)
    if K.ndim != 3 or K.shape[1:] != (3, 3) or poses.shape != (len(K), 4, 4):
        raise ValueError(
            f"expected K [f, 3, 3] and world_from_camera [f, 4, 4], got {K.shape} and {poses.shape}"
        )
    if not len(K):
        raise UserError(f"{name} has no frames.", "Export at least one camera.")
    if len(K) > MAX_FRAMES:
        raise UserError(
            f"{name} has {len(K):,} frames, more than {MAX_FRAMES:,}.", "Export fewer frames."
        )
    width, height = (
        _size(camera_path.width, "width", name),
        _size(camera_path.height, "height", name),
    )
    if not (np.isfinite(camera_path.fps) and 0 < camera_path.fps <= 1000):
        raise UserError(
            f"fps of {name} is {camera_path.fps}.", "It must be above 0 and at most 1000."
        )
    if camera_path.unit not in UNITS:
        raise UserError(
            f"The unit of {name} is {camera_path.unit!r}.", f"It must be one of {', '.join(UNITS)}."
        )
    _refuse(
        ~np.isfinite(K).all((1, 2)),
        name,
        "has values in K that are not finite",
        "Export the path again.",
    )
    _refuse(
        ~np.isfinite(poses).all((1, 2)),
        name,
        "has a position or rotation that is not finite",
        "Export the path again.",
    )
    _check_pinhole(K, name)
    _check_rigid(poses, name)
    return CameraPath(
        K, poses, width, height, float(camera_path.fps), camera_path.unit, camera_path.notes
    )


def _check_pinhole(K: np.ndarray, name: str) -> None:
    _refuse(
        (K[:, 0, 0] <= 0) | (K[:, 1, 1] <= 0),
        name,
        "has a focal length that is not positive",
        "K holds fx and fy in pixels.",
    )
    fixed = np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 1]], bool
    )  # the entries below the diagonal and K[2, 2]
    wanted = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1.0]])
    wrong = (np.abs(K - wanted) > 1e-6) & fixed
    _refuse(
        wrong.any((1, 2)),
        name,
        "has a K that is not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]",
        "Give K in pixels, row by row.",
    )
    _refuse(
        np.abs(K[:, 0, 1]) > 1e-6 * K[:, 0, 0],
        name,
        "has a skewed K",
        "Use a camera without skew (K[0][1] = 0).",
    )


def _check_rigid(poses: np.ndarray, name: str) -> None:
    R = poses[:, :3, :3]
    error = np.abs(R.transpose(0, 2, 1) @ R - np.eye(3)).max((1, 2))
    _refuse(
        error > _RIGID_TOLERANCE,
        name,
        "has a rotation that is not a rotation (scaled or sheared)",
        "Remove the scale from the camera.",
    )
    _refuse(
        np.linalg.det(R) < 0,
        name,
        "has a mirrored rotation",
        "Remove negative scale from the camera; axes must be OpenCV's.",
    )
    bottom = np.abs(poses[:, 3] - [0, 0, 0, 1]).max(1)
    _refuse(
        bottom > 1e-6,
        name,
        "has a matrix whose last row is not 0 0 0 1",
        "Give world_from_camera row by row.",
    )


def _refuse(bad: Any, name: str, what: str, hint: str) -> None:
    if bad.any():
        raise UserError(f"Frame {int(np.argmax(bad))} of {name} {what}.", hint)


def _size(value: Any, key: str, name: str) -> int:
    if (
        isinstance(value, (bool, np.bool_))
        or not isinstance(value, (int, np.integer))
        or not 1 <= value <= MAX_SIDE_PX
    ):
        raise UserError(
            f"{key} of {name} is {value!r}.",
            f"It must be a whole number of pixels from 1 to {MAX_SIDE_PX}.",
        )
    return int(value)


def _matrix(value: Any, shape: tuple[int, int], what: str) -> np.ndarray:
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape != shape:
        raise UserError(
            f"{what} is not a {shape[0]}x{shape[1]} matrix of numbers.", "Export the path again."
        )
    return matrix
