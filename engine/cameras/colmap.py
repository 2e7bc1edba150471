"""Cameras of a COLMAP model as a camera path: cameras and images, text or binary.

Formats as documented by COLMAP ("Output format"): world-to-camera quaternion w x y z and
translation, OpenCV axes, pixel centres at +0.5. The path runs in the order of the images'
names, numbers compared as numbers.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..bridge.camera_file import CameraPath, of_one_size, whole
from ..bridge.errors import UserError
from ..bridge.quaternions import rotation_of
from ..bridge.reading import bytes_of, natural_order, reading, text_of
from .readers import inverse, path_of, refuse_lens, undistorted

_MAX_BYTES = 4 << 30
# number in binary files, name -> (focal lengths, distortion parameters); order f (or fx fy) cx cy
# k...
_MODELS = {
    "SIMPLE_PINHOLE": (0, 1, 0),
    "PINHOLE": (1, 2, 0),
    "SIMPLE_RADIAL": (2, 1, 1),
    "RADIAL": (3, 1, 2),
    "OPENCV": (4, 2, 4),
    "FULL_OPENCV": (6, 2, 8),
    "FOV": (7, 2, 1),
    "SIMPLE_DIVISION": (-1, 1, 1),  # known by name alone
    "DIVISION": (-2, 2, 1),
}
_OTHERS = {  # named when they are refused
    5: "OPENCV_FISHEYE",
    8: "SIMPLE_RADIAL_FISHEYE",
    9: "RADIAL_FISHEYE",
    10: "THIN_PRISM_FISHEYE",
    11: "RAD_TAN_THIN_PRISM_FISHEYE",
}
_BY_NUMBER = {number: name for name, (number, _, _) in _MODELS.items() if number >= 0}


class _Image(NamedTuple):
    name: str
    camera: int
    wxyz: tuple[float, ...]
    translation: tuple[float, ...]


class _Camera(NamedTuple):
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


def find(path: Path) -> tuple[Path, Path] | None:
    """Find the (cameras, images) files of a model: `path` is one of them or a folder that holds
    them.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name not in {
        f"{stem}{end}" for stem in ("images", "cameras", "points3D") for end in (".txt", ".bin")
    }:
        return None
    ends = [path.suffix] if path.is_file() else [".txt", ".bin"]
    inside = ("", "sparse/0", "sparse", "colmap/sparse/0", "colmap/text", "0", "text")
    for candidate in [folder / name for name in inside] if path.is_dir() else [folder]:
        for end in ends:
            if (candidate / f"images{end}").is_file():
                return candidate / f"cameras{end}", candidate / f"images{end}"
    return None


def read(cameras_file: Path, images_file: Path) -> CameraPath:
    """Read the path of a COLMAP model, of one size and without distortion. Raises UserError for
    fisheyes and broken files.
    """
    if not cameras_file.is_file():
        raise UserError(
            f"{images_file.name} needs {cameras_file.name} beside it.",
            "Copy both files of the COLMAP model.",
        )
    binary = images_file.suffix == ".bin"
    with reading(images_file.parent, "Export the COLMAP model again."):
        cameras = (_cameras_binary if binary else _cameras_text)(cameras_file)
        images = _images_binary(images_file) if binary else _images_text(images_file, cameras)
    if not images:
        raise UserError(
            f"{images_file} has no registered images.", "Export a model with at least one image."
        )
    images.sort(key=lambda image: natural_order(image.name))
    missing = {image.camera for image in images} - cameras.keys()
    if missing:
        raise UserError(
            f"{cameras_file.name} lacks camera {min(missing)}.",
            "Copy both files of the same COLMAP model.",
        )
    used = [cameras[image.camera] for image in images]
    for model in {camera.model for camera in used}:
        _known(model, cameras_file.name)
    camera_from_world = np.tile(np.eye(4), (len(images), 1, 1))
    for m, image in zip(camera_from_world, images, strict=True):
        m[:3, :3], m[:3, 3] = _rotation(image.wxyz), image.translation
    with reading(cameras_file, "Export the COLMAP model again."):
        each = {key: _intrinsics(cameras[key]) for key in {image.camera for image in images}}
    K, size, notes = of_one_size(
        np.stack([each[image.camera] for image in images]), [(c.width, c.height) for c in used]
    )
    lens = next((text for text in map(_distortion, used) if text), "")
    path = path_of(K, inverse(camera_from_world), *size, 24.0, "unknown", images_file.name)
    return path._replace(notes=(*notes, *((undistorted(lens),) if lens else ())))


def _intrinsics(camera: _Camera) -> np.ndarray:
    _, focals, distortions = _MODELS[camera.model]
    values = camera.parameters
    if len(values) != focals + 2 + distortions:
        raise UserError(
            f"A {camera.model} camera has {len(values)} parameters, not "
            f"{focals + 2 + distortions}.",
            "Export the COLMAP model again.",
        )
    cx, cy = values[focals : focals + 2]
    return np.array([[values[0], 0, cx], [0, values[focals - 1], cy], [0, 0, 1.0]])


def _distortion(camera: _Camera) -> str:
    """What of the lens a pinhole has not, for people; empty if nothing."""
    values = [k for k in camera.parameters[_MODELS[camera.model][1] + 2 :] if abs(k) > 1e-9]
    return f"{camera.model} {', '.join(f'{k:.3g}' for k in values)}" if values else ""


def _rotation(wxyz: tuple[float, ...]) -> np.ndarray:
    q = np.array(wxyz, np.float64)
    norm = np.linalg.norm(q)
    if not (np.isfinite(norm) and norm > 1e-9):
        raise UserError("A COLMAP image has no valid rotation.", "Export the model again.")
    return rotation_of(q[None])[0]


def _known(model: str, where: str) -> str:
    if model not in _MODELS:
        refuse_lens(model, where)
        raise UserError(
            f"The COLMAP camera model {model} is not a pinhole.",
            "Undistort the pictures first: colmap image_undistorter.",
        )
    return model


def _number(word: str) -> float:
    return float(word.replace(",", "."))


def _cameras_text(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for line in text_of(path).splitlines():
        words = line.replace(";", " ").split()
        if words and not words[0].startswith("#"):
            model = words[1].upper()  # of what no image was taken with, any
            width = whole(words[2], "width", path.name)
            height = whole(words[3], "height", path.name)
            parameters = tuple(map(_number, words[4:]))
            cameras[int(words[0])] = _Camera(model, width, height, parameters)
    return cameras


def _images_text(path: Path, cameras: dict[int, _Camera]) -> list[_Image]:
    """Lines of poses, told by their shape from the lines of points, which may lack or be empty."""
    images: list[_Image] = []
    after_pose = False
    for count, line in enumerate(text_of(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            after_pose = after_pose and not line.strip()
            continue
        image = _pose(line, cameras)
        if image is not None and not (after_pose and _are_points(line)):
            images.append(image)
            after_pose = True
        elif _are_points(line):
            after_pose = False
        else:
            raise UserError(
                f"Line {count} of {path.name} is neither a camera's pose nor a list of points.",
                "Export the COLMAP model again.",
            )
    return images


def _pose(line: str, cameras: dict[int, _Camera]) -> _Image | None:
    """IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; None for a line of another shape."""
    words = line.split(maxsplit=9)
    try:
        int(words[0])
        values, camera = [_number(word) for word in words[1:8]], int(words[8])
    except (ValueError, IndexError):
        return None
    if len(words) < 10 or not 0.25 < math.hypot(*values[:4]) < 4:
        return None
    return _Image(words[9].strip(), camera, tuple(values[:4]), tuple(values[4:]))


def _are_points(line: str) -> bool:
    """Whether a line can be triples of X, Y, POINT3D_ID."""
    words = line.split()
    try:
        return (
            len(words) % 3 == 0
            and all(int(w) >= -1 for w in words[2::3])
            and len([_number(w) for w in words]) > 0
        )
    except ValueError:
        return False


def _cameras_binary(path: Path) -> dict[int, _Camera]:
    data, at = bytes_of(path, _MAX_BYTES), 8
    cameras = {}
    for _ in range(struct.unpack_from("<Q", data)[0]):
        key, model, width, height = struct.unpack_from("<iiQQ", data, at)
        name = _known(_BY_NUMBER.get(model) or _OTHERS.get(model) or f"number {model}", path.name)
        count = _MODELS[name][1] + 2 + _MODELS[name][2]
        width, height = whole(width, "width", path.name), whole(height, "height", path.name)
        cameras[key] = _Camera(name, width, height, struct.unpack_from(f"<{count}d", data, at + 24))
        at += 24 + 8 * count
    return cameras


def _images_binary(path: Path) -> list[_Image]:
    data, at = bytes_of(path, _MAX_BYTES), 8
    images = []
    for _ in range(struct.unpack_from("<Q", data)[0]):
        _, *pose, camera = struct.unpack_from("<i7di", data, at)
        end = data.index(b"\0", at + 64)
        images.append(
            _Image(
                data[at + 64 : end].decode("utf-8", "replace"),
                camera,
                tuple(pose[:4]),
                tuple(pose[4:]),
            )
        )
        at = end + 1
        at += 8 + 24 * struct.unpack_from("<Q", data, at)[0]
    return images
