"""Cameras of a COLMAP model as a camera path: cameras and images, text or binary.

Formats as documented by COLMAP ("Output format"): world-to-camera quaternion w x y z and
translation, OpenCV axes, pixel centres at +0.5. The path runs in the order of the images'
names, numbers compared as numbers.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from .readers import inverse, path_of, read_text

_UNDISTORT = "Undistort the pictures first: colmap image_undistorter."
# number in binary files, name -> (focal lengths, distortion parameters); order f (or fx fy) cx cy k...
_MODELS = {
    "SIMPLE_PINHOLE": (0, 1, 0),
    "PINHOLE": (1, 2, 0),
    "SIMPLE_RADIAL": (2, 1, 1),
    "RADIAL": (3, 1, 2),
    "OPENCV": (4, 2, 4),
    "FULL_OPENCV": (6, 2, 8),
}
_BY_NUMBER = {number: name for name, (number, _, _) in _MODELS.items()}


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
    """The (cameras, images) files of a model: `path` is one of them or a folder that holds them."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name not in {
        f"{stem}{end}" for stem in ("images", "cameras", "points3D") for end in (".txt", ".bin")
    }:
        return None
    ends = [path.suffix] if path.is_file() else [".txt", ".bin"]
    for candidate in (
        (folder, folder / "sparse" / "0", folder / "sparse") if path.is_dir() else (folder,)
    ):
        for end in ends:
            if (candidate / f"images{end}").is_file():
                return candidate / f"cameras{end}", candidate / f"images{end}"
    return None


def read(cameras_file: Path, images_file: Path) -> CameraPath:
    """The path of a COLMAP model. Raises UserError for distortion, different sizes, broken files."""
    if not cameras_file.is_file():
        raise UserError(
            f"{images_file.name} needs {cameras_file.name} beside it.",
            "Copy both files of the COLMAP model.",
        )
    binary = images_file.suffix == ".bin"
    try:
        cameras = (_cameras_binary if binary else _cameras_text)(cameras_file)
        images = (_images_binary if binary else _images_text)(images_file)
    except (ValueError, IndexError, struct.error) as error:
        raise UserError(
            f"The COLMAP model in {images_file.parent} is damaged ({error}).",
            "Export the model again.",
        ) from error
    if not images:
        raise UserError(
            f"{images_file} has no registered images.", "Export a model with at least one image."
        )
    images.sort(
        key=lambda image: [
            int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", image.name)
        ]
    )
    missing = {image.camera for image in images} - cameras.keys()
    if missing:
        raise UserError(
            f"{cameras_file.name} lacks camera {min(missing)}.",
            "Copy both files of the same COLMAP model.",
        )
    used = [cameras[image.camera] for image in images]
    if len({(camera.width, camera.height) for camera in used}) > 1:
        raise UserError(
            f"The cameras of {images_file.parent} have different sizes.",
            "All cameras of a path must share one size.",
        )
    camera_from_world = np.tile(np.eye(4), (len(images), 1, 1))
    for m, image in zip(camera_from_world, images, strict=True):
        m[:3, :3], m[:3, 3] = _rotation(image.wxyz), image.translation
    K = np.stack([_intrinsics(camera) for camera in used])
    return path_of(
        K,
        inverse(camera_from_world),
        used[0].width,
        used[0].height,
        24.0,
        "unknown",
        images_file.name,
    )


def _intrinsics(camera: _Camera) -> np.ndarray:
    _, focals, distortions = _MODELS[camera.model]
    values = camera.parameters
    if len(values) != focals + 2 + distortions:
        raise UserError(
            f"A {camera.model} camera has {len(values)} parameters, not {focals + 2 + distortions}.",
            "Export the COLMAP model again.",
        )
    if any(abs(k) > 1e-9 for k in values[focals + 2 :]):
        raise UserError(f"The COLMAP cameras have lens distortion ({camera.model}).", _UNDISTORT)
    cx, cy = values[focals : focals + 2]
    return np.array([[values[0], 0, cx], [0, values[focals - 1], cy], [0, 0, 1.0]])


def _rotation(wxyz: tuple[float, ...]) -> np.ndarray:
    q = np.array(wxyz, np.float64)
    norm = np.linalg.norm(q)
    if not (np.isfinite(norm) and norm > 1e-9):
        raise UserError("A COLMAP image has no valid rotation.", "Export the model again.")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _known(model: str) -> str:
    if model not in _MODELS:
        raise UserError(f"The COLMAP camera model {model} is not a pinhole.", _UNDISTORT)
    return model


def _cameras_text(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for line in read_text(path).splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            cameras[int(words[0])] = _Camera(
                _known(words[1]), int(words[2]), int(words[3]), tuple(map(float, words[4:]))
            )
    return cameras


def _images_text(path: Path) -> list[_Image]:
    # Two lines an image; the second lists its points and may be empty.
    lines = [line for line in read_text(path).splitlines() if not line.startswith("#")]
    while lines and not lines[0].strip():
        lines.pop(0)
    images = []
    for line in lines[::2]:
        if line.strip():
            words = line.split(maxsplit=9)
            pose = tuple(map(float, words[1:8]))
            images.append(_Image(words[9], int(words[8]), pose[:4], pose[4:]))
    return images


def _cameras_binary(path: Path) -> dict[int, _Camera]:
    data, at = path.read_bytes(), 8
    cameras = {}
    for _ in range(struct.unpack_from("<Q", data)[0]):
        key, model, width, height = struct.unpack_from("<iiQQ", data, at)
        name = _known(_BY_NUMBER.get(model, f"number {model}"))
        count = _MODELS[name][1] + 2 + _MODELS[name][2]
        cameras[key] = _Camera(name, width, height, struct.unpack_from(f"<{count}d", data, at + 24))
        at += 24 + 8 * count
    return cameras


def _images_binary(path: Path) -> list[_Image]:
    data, at = path.read_bytes(), 8
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
