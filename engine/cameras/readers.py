"""Readers of other programs' camera paths: each gives a `CameraPath` in the file's own world.

RealEstate10K text, the official Scene Splatter cameras (JSON, NPZ), nerfstudio's
camera_path.json, transforms.json, ViewCrafter's path text. COLMAP has a file of its own.
Conventions are in the README's table of formats; `trajectory.load` picks the reader.

`image_size` (width, height) is the picture's. Formats that say their own size must have the
picture's aspect. Formats that do not (K divided by width and height) are taken as if the
source frame, with square pixels, were cropped to the picture's aspect: never is more seen
than the source camera saw.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from ..bridge.camera_file import CameraPath, checked, number, of_one_size, whole
from ..bridge.errors import UserError
from ..bridge.moves import around_point
from ..bridge.reading import natural_order

_DEFAULT_FPS = 24.0
_CV_FROM_GL = np.diag([1.0, -1.0, -1.0, 1.0])
_OTHER_LENSES = {"is_fisheye": "fisheye", "orthographic": "orthographic"}
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


_BRACKETS = str.maketrans("[](){}", "      ")


def numbers_of(line: str) -> list[float] | None:
    """Read the numbers of a line of text, parted by blanks, commas or semicolons, with decimal
    points or commas; None if it holds words.
    """
    words = line.translate(_BRACKETS).split()
    if any("," in word or ";" in word for word in words):
        line = line.translate(_BRACKETS)
        if ";" in line:
            words = line.replace(";", " ").split()
        elif len(words) == 1 or all("," not in word.rstrip(",") for word in words):
            words = line.replace(",", " ").split()
    try:
        return [float(word.replace(",", ".")) for word in words]
    except ValueError:
        return None


def real_estate_line(line: str) -> list[float] | None:
    """The 19 numbers of a frame, told by their shape: the time, the two zeros and a word (the
    picture's name) at either end may lack or be there. None for any other line.
    """
    words = line.replace("\t", " ").strip().rstrip(",;").split(" ")
    tries = [line, " ".join(words[1:]), " ".join(words[:-1])]
    for values in map(numbers_of, tries):
        if values is None:
            continue
        count = len(values)
        if count in (16, 18):  # without a time
            values = [math.nan, *values]
        if count in (16, 17):  # without the zeros
            values[5:5] = [0.0, 0.0]
        if len(values) == 19 and _is_frame(values):
            return values
    return None


def _is_frame(values: list[float]) -> bool:
    """Whether 19 numbers can be a time, K over size, two zeros and a rigid 3x4 matrix."""
    fx, fy, cx, cy = values[1:5]
    R = np.array(values[7:]).reshape(3, 4)[:, :3]
    return (
        0 < fx < 50
        and 0 < fy < 50
        and abs(cx) < 10
        and abs(cy) < 10
        and bool(np.abs(R @ R.T - np.eye(3)).max() < 0.05)
    )


def real_estate(text: str, name: str, image_size: tuple[int, int] | None) -> CameraPath:
    """Read RealEstate10K: lines of time, K over size, 0 0, 3x4 world-to-camera; the video's address
    before them may lack.

    Frames go by their times, where they have some. UserError for a line of another shape after the
    first of this one.
    """
    rows: list[list[float]] = []
    for count, line in enumerate(text.splitlines(), 1):
        values = numbers_of(line)
        if values is None or len(values) != 19:
            values = real_estate_line(line) or values
        if values is not None and len(values) == 19:
            rows.append(values)
        elif line.strip() and not line.lstrip().startswith("#") and (rows or values):
            raise UserError(
                f"Line {count} of {name} does not hold 19 numbers.",
                "RealEstate10K lines hold time, K, 0 0 and a 3x4 matrix.",
            )
    if not rows:
        raise UserError(
            f"{name} has no frames.",
            "A RealEstate10K file has one line per frame after the video's address.",
        )
    table = np.array(rows)
    notes: tuple[str, ...] = ()
    order = np.argsort(table[:, 0], kind="stable")
    if (np.diff(order) < 0).any() and len(np.unique(table[:, 0])) == len(table):
        table, notes = table[order], ("Frames were put in the order of their times.",)
    seconds = np.diff(table[:, 0]) / 1e6
    step = float(np.median(seconds)) if len(seconds) else 0.0
    fps = min(max(1.0 / step, 1.0), 240.0) if math.isfinite(step) and step > 0 else _DEFAULT_FPS
    path = normalised(table[:, 1:5], table[:, 7:].reshape(-1, 3, 4), name, image_size, fps)
    return path._replace(notes=notes)


def normalised(
    intrinsics: np.ndarray,
    camera_from_world: np.ndarray,
    name: str,
    image_size: tuple[int, int] | None,
    fps: float = _DEFAULT_FPS,
) -> CameraPath:
    """Make a path of K as (fx/W, fy/H, cx/W, cy/H) [f, 4] and 3x4 or 4x4 world-to-camera, OpenCV
    axes.

    The source's aspect follows from square pixels: W/H = (fy/H) / (fx/W). Its frame is scaled
    to cover the picture and cropped round the centre.
    """
    n = np.asarray(intrinsics, np.float64)
    if n.ndim != 2 or n.shape[1] != 4:
        raise UserError(
            f"The intrinsics of {name} are not (fx, fy, cx, cy) per frame.",
            "Give K divided by width and height.",
        )
    if not len(n):
        raise UserError(f"{name} has no frames.")
    if not (np.isfinite(n).all() and (n[:, :2] > 0).all()):
        raise UserError(
            f"The intrinsics of {name} are not all finite and positive.",
            "Give K divided by width and height.",
        )
    if n[:, :2].max() > 50:
        raise UserError(
            f"The intrinsics of {name} are not divided by the picture's size.",
            "fx/W and fy/H lie around 1.",
        )
    aspect = n[0, 1] / n[0, 0]
    if not 0.1 <= aspect <= 10:
        raise UserError(
            f"The intrinsics of {name} imply a picture of {aspect:.3g} to 1.",
            "Give K divided by width and height.",
        )
    width, height = image_size or (1024, max(1, round(1024 / aspect)))
    covered = (
        max(width, height * aspect),
        max(height, width / aspect),
    )  # the source frame, in the picture's pixels
    K = np.zeros((len(n), 3, 3))
    K[:, 0, 0], K[:, 1, 1], K[:, 2, 2] = n[:, 0] * covered[0], n[:, 1] * covered[1], 1.0
    K[:, 0, 2] = n[:, 2] * covered[0] - (covered[0] - width) / 2
    K[:, 1, 2] = n[:, 3] * covered[1] - (covered[1] - height) / 2
    return path_of(
        K, inverse(four_by_four(camera_from_world, name)), width, height, fps, "re10k", name
    )


def arrays(data: Any, name: str, image_size: tuple[int, int] | None) -> CameraPath:
    """Read named arrays, from NPZ or JSON: w2c (or viewmats) and intrinsics (or Ks).

    Official Scene Splatter cameras hold normalised (fx, fy, cx, cy); files with 3x3 pixel
    matrices (gsplat, Lyra) also hold width and height (or image_width, image_height).
    """
    keys = {key: next((k for k in names if k in data), None) for key, names in _ARRAY_NAMES.items()}
    if keys["w2c"] is None or keys["intrinsics"] is None:
        raise UserError(
            f"{name} holds no cameras: it needs the arrays w2c and intrinsics.",
            f"It holds {', '.join(map(str, data)) or 'nothing'}.",
        )
    try:
        w2c = np.atleast_1d(np.asarray(data[keys["w2c"]], np.float64))
        intrinsics = np.atleast_1d(np.asarray(data[keys["intrinsics"]], np.float64))
    except (
        TypeError,
        ValueError,
        OverflowError,
    ) as error:  # NPZ entries that are pickles raise ValueError here, and are not loaded
        raise UserError(
            f"The cameras in {name} are not plain numbers.",
            "Save w2c and intrinsics as float arrays.",
        ) from error
    if len(w2c) != len(intrinsics):
        raise UserError(
            f"{name} has {len(w2c)} poses and {len(intrinsics)} intrinsics.",
            "Give one of each per frame.",
        )
    if intrinsics.ndim == 2:
        return normalised(intrinsics, w2c, name, image_size, 30.0)
    if keys["width"] is None or keys["height"] is None or intrinsics.shape[1:] != (3, 3):
        raise UserError(
            f"The intrinsics of {name} are neither (fx, fy, cx, cy) over size nor 3x3 with a size.",
            "Add width and height in pixels.",
        )
    width, height = (
        whole(data[keys["width"]], "width", name),
        whole(data[keys["height"]], "height", name),
    )
    return path_of(
        intrinsics, inverse(four_by_four(w2c, name)), width, height, _DEFAULT_FPS, "unknown", name
    )


_ARRAY_NAMES = {
    "w2c": ("w2c", "viewmats"),
    "intrinsics": ("intrinsics", "Ks"),
    "width": ("width", "image_width"),
    "height": ("height", "image_height"),
}
ARRAY_NAMES = {name for names in _ARRAY_NAMES.values() for name in names}


def nerfstudio(data: dict[str, Any], name: str) -> CameraPath:
    """Read nerfstudio's camera_path.json: camera_to_world (16 numbers, OpenGL axes), a vertical
    fov.
    """
    kind = str(data.get("camera_type", "perspective"))
    if kind.lower() not in ("perspective", "pinhole"):
        raise UserError(f"{name} holds {kind} cameras.", "Export a path of perspective cameras.")
    width, height = (
        whole(data.get("render_width"), "render_width", name),
        whole(data.get("render_height"), "render_height", name),
    )
    frames = frame_list(data["camera_path"], name)
    K, poses = np.tile(np.eye(3), (len(frames), 1, 1)), []
    for i, frame in enumerate(frames):
        fov = number(frame.get("fov"), f"fov of frame {i} of {name}")
        if not 0 < fov < 180:
            raise UserError(
                f"fov of frame {i} of {name} is {fov:g}.",
                "It is the vertical field of view in degrees, between 0 and 180.",
            )
        f = height / 2 / math.tan(math.radians(fov) / 2)
        K[i, :2] = [[f, 0, width / 2], [0, f, height / 2]]
        poses.append(
            matrix(frame.get("camera_to_world"), f"camera_to_world of frame {i} of {name}")
        )
    fps = number(data.get("fps", _DEFAULT_FPS), f"fps of {name}")
    return path_of(K, np.stack(poses) @ _CV_FROM_GL, width, height, fps, "unknown", name)


def transforms(data: dict[str, Any], name: str, image_size: tuple[int, int] | None) -> CameraPath:
    """Read transforms.json of NeRF, instant-ngp and nerfstudio: OpenGL axes, intrinsics at the top
    or per frame.

    The poses stay in the file's world: `applied_transform` and `applied_scale` tell how it was
    made from COLMAP's, and the scene that goes with the file is in it too. Metres are assumed
    only where the file has a depth unit and no other scale was applied.
    """
    frames = frame_list(data["frames"], name)
    frames, notes = _by_name(frames)
    Ks, poses, sizes, lens = [], [], [], ""
    for i, frame in enumerate(frames):
        values = {**data, **frame}
        what = f"frame {i} of {name}"
        for key in ("camera_model", "camera_type", "lens"):
            refuse_lens(str(values.get(key) or "PINHOLE"), name)
        for key, kind in _OTHER_LENSES.items():
            if values.get(key) not in (None, False, 0, "false"):
                raise _other_lens(kind, name)
        lens = lens or distortion_of(values, what)
        K, size = _transforms_intrinsics(values, what, image_size)
        Ks.append(K)
        sizes.append(size)
        poses.append(matrix(frame.get("transform_matrix"), f"transform_matrix of {what}"))
    if lens:
        notes += (undistorted(lens),)
    K_all, size, more = of_one_size(np.stack(Ks), sizes)
    metric = "depth_unit_scale_factor" in data and data.get("applied_scale", 1.0) == 1.0
    path = path_of(
        K_all,
        np.stack(poses) @ _CV_FROM_GL,
        *size,
        _DEFAULT_FPS,
        "m" if metric else "unknown",
        name,
    )
    return path._replace(notes=(*notes, *more))


def _by_name(frames: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The frames in the natural order of their file_path, as COLMAP's are, where every one has a
    name of its own.
    """
    names = [str(frame.get("file_path") or "") for frame in frames]
    if not all(names) or len(set(names)) < len(names):
        return frames, ()
    order = sorted(range(len(names)), key=lambda i: natural_order(names[i]))
    if order == list(range(len(names))):
        return frames, ()
    return [frames[i] for i in order], ("Frames were put in the order of their file names.",)


def refuse_lens(model: str, name: str) -> None:
    """Raise UserError for a camera model (a name as COLMAP and nerfstudio have it) that is no
    pinhole with mild distortion.
    """
    low = model.lower()
    if "fisheye" in low:
        raise _other_lens("fisheye", name)
    if re.search("equirect|omni|panoram|spherical|vr180|vr360|360", low):
        raise _other_lens("360 degree panorama", name)
    if "ortho" in low:
        raise _other_lens("orthographic", name)


def _other_lens(kind: str, name: str) -> UserError:
    return UserError(
        f"{name} holds {kind} cameras.",
        "Undistort the pictures to a pinhole camera first, and export the path of those.",
    )


def distortion_of(values: dict[str, Any], what: str) -> str:
    """Name the coefficients of lens distortion that are not 0, for people; empty if none is."""
    found = {key: number(values[key], f"{key} of {what}") for key in _DISTORTION if values.get(key)}
    return ", ".join(f"{key} {value:.3g}" for key, value in found.items() if abs(value) > 1e-9)


def undistorted(coefficients: str) -> str:
    """Write the note that lens distortion was left out."""
    return f"Lens distortion ({coefficients}) was left out: the cameras of a path are pinholes."


def _transforms_intrinsics(
    values: dict[str, Any], what: str, image_size: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """K [3, 3] and (width, height). The old NeRF form has an angle only, and takes the picture's
    size.
    """
    if "w" in values and "h" in values:
        width, height = whole(values["w"], "w", what), whole(values["h"], "h", what)
    elif "fl_x" in values:
        raise UserError(f"{what} gives fl_x but not the picture's size.", "Add w and h in pixels.")
    else:
        width, height = image_size or (800, 800)
    if "fl_x" in values:
        fx = number(values["fl_x"], f"fl_x of {what}")
    elif "camera_angle_x" in values:
        angle = number(values["camera_angle_x"], f"camera_angle_x of {what}")
        if not 0 < angle < math.pi:
            raise UserError(
                f"camera_angle_x of {what} is {angle:g}.",
                "It is the horizontal field of view in radians.",
            )
        fx = width / 2 / math.tan(angle / 2)
    else:
        raise UserError(
            f"{what} has neither fl_x nor camera_angle_x.",
            "Add the focal length in pixels as fl_x.",
        )
    fy = number(values.get("fl_y", fx), f"fl_y of {what}")
    cx, cy = (
        number(values.get(key, side / 2), f"{key} of {what}")
        for key, side in (("cx", width), ("cy", height))
    )
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), (width, height)


def viewcrafter(
    text: str,
    name: str,
    image_size: tuple[int, int] | None,
    *,
    frames: int = 25,
    fov_deg: float = 60.0,
) -> CameraPath:
    """Read ViewCrafter's path text: d_phi, d_theta (degrees) and d_r, a line each, resampled to
    `frames`.

    Cameras look at the point one unit ahead, where one unit is the scene's depth. Four numbers
    and more are joined by a natural cubic spline, fewer by straight lines.
    """
    lines = [numbers_of(line) for line in text.splitlines() if line.strip()]
    try:
        phi, theta, radius = (resample(line or [math.nan], frames) for line in lines)
    except ValueError as error:
        raise UserError(
            f"{name} is not a path of ViewCrafter's.",
            "It has three lines of numbers: d_phi, d_theta and d_r.",
        ) from error
    width, height = image_size or (1024, 576)
    f = width / 2 / math.tan(math.radians(fov_deg) / 2)
    K = np.tile(np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]]), (frames, 1, 1))
    return path_of(
        K, around_point(phi, theta, radius, 1.0), width, height, _DEFAULT_FPS, "depth", name
    )


def resample(values: list[float], count: int) -> np.ndarray:
    """Spread a line of values over `count` values of the same span, ends kept: natural cubic spline
    from four on.
    """
    y = np.asarray(values, np.float64)
    t, x = np.linspace(0, len(y) - 1, count), np.arange(len(y))
    if len(y) < 4:
        return np.interp(t, x, y)
    # Second derivatives m of the natural spline with unit spacing: m[i-1] + 4 m[i] + m[i+1] = 6
    # (y[i-1] - 2 y[i] + y[i+1]).
    inner = len(y) - 2
    system = 4 * np.eye(inner) + np.eye(inner, k=1) + np.eye(inner, k=-1)
    m = np.concatenate([[0.0], np.linalg.solve(system, 6 * (y[:-2] - 2 * y[1:-1] + y[2:])), [0.0]])
    i = np.minimum(t.astype(int), len(y) - 2)
    a, b = i + 1 - t, t - i
    return a * y[i] + b * y[i + 1] + ((a**3 - a) * m[i] + (b**3 - b) * m[i + 1]) / 6


def path_of(
    K: np.ndarray,
    world_from_camera: np.ndarray,
    width: int,
    height: int,
    fps: float,
    unit: str,
    name: str,
) -> CameraPath:
    """Check a path and make its rotations exact: files round them to a few decimals."""
    path = checked(CameraPath(K, world_from_camera, width, height, fps, unit), name)
    u, _, vt = np.linalg.svd(path.world_from_camera[:, :3, :3])
    poses = path.world_from_camera.copy()
    poses[:, :3, :3] = u @ vt
    return path._replace(world_from_camera=poses)


def four_by_four(matrices: Any, name: str) -> np.ndarray:
    """Complete 3x4 or 4x4 matrices: [f, r, 4] -> [f, 4, 4]."""
    m = np.asarray(matrices, np.float64)
    if m.ndim != 3 or m.shape[1:] not in ((3, 4), (4, 4)) or not len(m):
        raise UserError(
            f"The poses of {name} are not 3x4 or 4x4 matrices, one per frame.",
            "Export the path again.",
        )
    full = np.tile(np.eye(4), (len(m), 1, 1))
    full[:, : m.shape[1]] = m
    return full


def inverse(rigid: np.ndarray) -> np.ndarray:
    """Invert rigid [f, 4, 4] (any invertible matrix: bad rotations are refused later)."""
    with np.errstate(all="ignore"):
        try:
            return np.linalg.inv(rigid)
        except np.linalg.LinAlgError:
            return np.full_like(rigid, np.nan)


def frame_list(value: Any, name: str) -> list[dict[str, Any]]:
    """Return a list of objects that is not empty, or raise UserError."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{name} has no frames.", "Export at least one camera.")
    for i, frame in enumerate(value):
        if not isinstance(frame, dict):
            raise UserError(f"Frame {i} of {name} is not an object.", "Export the path again.")
    return value


def matrix(value: Any, what: str) -> np.ndarray:
    """Read a 4x4 from nested rows or 16 numbers, or raise UserError."""
    try:
        flat = np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        flat = np.empty(0)
    if flat.size not in (12, 16):
        raise UserError(f"{what} is not a 4x4 matrix of numbers.", "Export the path again.")
    return np.concatenate([flat, [0, 0, 0, 1.0]])[:16].reshape(4, 4)
