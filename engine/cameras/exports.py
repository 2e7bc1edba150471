"""Camera paths in the formats of other programs; `trajectory.load` reads each of them back.

transforms.json    NeRF, instant-ngp, nerfstudio: camera-to-world, OpenGL camera axes, pixels
camera_path.json   nerfstudio's render path: camera-to-world, OpenGL, vertical field of view
*.txt              RealEstate10K: world-to-camera, OpenCV axes, K over size
a folder           COLMAP text model: world-to-camera quaternions, PINHOLE cameras
any other *.json   our own camera path file
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..bridge import camera_file
from ..bridge.axes import preset
from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.harmonics import SH_C0
from ..bridge.quaternions import quaternion_of
from ..bridge.splat_file import Splats
from ..bridge.splats import sigmoid
from ..bridge.whole_file import replacing

_GL_FROM_CV = np.diag([1.0, -1.0, -1.0, 1.0])
_MOST_POINTS = 100_000

log = logging.getLogger(__name__)


def export(
    target: Path,
    path: CameraPath,
    *,
    axes: str = "opencv",
    pictures: str = "frames/{:04d}.png",
    splats: Splats | None = None,
) -> str:
    """Write `path` in the format that `target`'s name asks for; return that format's name.

    `axes` are the axes of the exported world: use those in which the splats were exported.
    `pictures` names frame i (from 1) where the format wants a file name. `splats` (in OpenCV axes)
    become the COLMAP model's points. Raises UserError for left-handed axes and files that cannot be
    written.
    """
    target, path = Path(target), camera_file.checked(path)
    if preset(axes).mirrored:
        raise UserError(
            f"Cameras cannot be written in {axes} axes, which are left-handed.",
            "Choose right-handed axes such as gltf or blender.",
        )
    turn = np.eye(4)
    turn[:3, :3] = preset(axes).from_opencv
    path = path._replace(world_from_camera=turn @ path.world_from_camera)
    if target.suffix == "" or target.is_dir():
        return _colmap(target, path, pictures, splats, turn[:3, :3])
    writers: dict[str, tuple[str, Callable[..., str]]] = {
        "transforms.json": ("transforms", _transforms),
        "camera_path.json": ("nerfstudio", _camera_path),
    }
    if target.name in writers:
        name, make = writers[target.name]
        _write(target, make(path, pictures))
        return name
    if target.suffix.lower() == ".txt":
        _write(target, _real_estate(path))
        return "re10k"
    if target.suffix.lower() == ".json":
        if axes != "opencv":
            log.info(
                "the world of %s has %s axes; its cameras are OpenCV's all the same", target, axes
            )
        camera_file.write(target, path)
        return "scene_splatter"
    raise UserError(
        f"{target.name} names no camera format.",
        "Use transforms.json, camera_path.json, a .txt, another .json, or a folder for COLMAP.",
    )


def _write(target: Path, text: str) -> None:
    with replacing(target) as file:
        file.write(text.encode())


def _transforms(path: CameraPath, pictures: str) -> str:
    frames: list[dict[str, Any]] = []
    same = bool(np.ptp(path.K, axis=0).max() == 0)
    lens = [
        {"fl_x": float(k[0, 0]), "fl_y": float(k[1, 1]), "cx": float(k[0, 2]), "cy": float(k[1, 2])}
        for k in path.K
    ]
    for i, matrix in enumerate(path.world_from_camera @ _GL_FROM_CV):
        frame: dict[str, Any] = {
            "file_path": pictures.format(i + 1),
            "transform_matrix": matrix.tolist(),
        }
        frames.append(frame if same else frame | lens[i])
    data: dict[str, Any] = {
        "camera_model": "PINHOLE",
        "w": path.width,
        "h": path.height,
        "fps": path.fps,
    }
    if same:
        data |= lens[0]
    if path.unit == "m":
        data["depth_unit_scale_factor"] = 0.001
    return json.dumps(data | {"frames": frames}, indent=1, allow_nan=False) + "\n"


def _camera_path(path: CameraPath, _: str) -> str:
    """nerfstudio knows one field of view a frame, square pixels and a central principal point."""
    fov = np.degrees(2 * np.arctan(path.height / (2 * path.K[:, 1, 1])))
    lost = (
        np.abs(path.K[:, :2, 2] - (path.width / 2, path.height / 2)).max(),
        np.abs(path.K[:, 0, 0] / path.K[:, 1, 1] - 1).max(),
    )
    if lost[0] > 0.5 or lost[1] > 1e-3:
        log.warning("camera_path.json cannot say lens shift or stretched pixels: they are lost")
    frames = [
        {
            "camera_to_world": matrix.reshape(-1).tolist(),
            "fov": float(angle),
            "aspect": path.width / path.height,
        }
        for matrix, angle in zip(path.world_from_camera @ _GL_FROM_CV, fov, strict=True)
    ]
    data = {
        "camera_type": "perspective",
        "render_height": path.height,
        "render_width": path.width,
        "fps": path.fps,
        "seconds": path.count / path.fps,
        "smoothness_value": 0,
        "is_cycle": False,
        "crop": None,
        "keyframes": [],
        "camera_path": frames,
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _real_estate(path: CameraPath) -> str:
    size = np.array([path.width, path.height, path.width, path.height])
    lines = ["scene_splatter"]
    for i, (k, pose) in enumerate(zip(path.K, np.linalg.inv(path.world_from_camera), strict=True)):
        lens = np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]) / size
        numbers = [*lens, 0, 0, *pose[:3].reshape(-1)]
        lines.append(f"{round(i / path.fps * 1e6)} " + " ".join(f"{v:.12g}" for v in numbers))
    return "\n".join(lines) + "\n"


def _colmap(
    folder: Path, path: CameraPath, pictures: str, splats: Splats | None, turn: np.ndarray
) -> str:
    """cameras.txt, images.txt and points3D.txt; images last, since it is what makes the folder a
    model.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Choose another place."
        ) from error
    lenses = np.stack([path.K[:, 0, 0], path.K[:, 1, 1], path.K[:, 0, 2], path.K[:, 1, 2]], axis=1)
    distinct, index = np.unique(lenses, axis=0, return_inverse=True)
    cameras = [
        f"{i + 1} PINHOLE {path.width} {path.height} " + " ".join(f"{v:.12g}" for v in lens)
        for i, lens in enumerate(distinct)
    ]
    images = []
    for i, pose in enumerate(np.linalg.inv(path.world_from_camera)):
        numbers = " ".join(f"{v:.12g}" for v in (*quaternion_of(pose[:3, :3]), *pose[:3, 3]))
        images += [f"{i + 1} {numbers} {index.reshape(-1)[i] + 1} {pictures.format(i + 1)}", ""]
    _write(folder / "cameras.txt", "\n".join(cameras) + "\n")
    _write(folder / "points3D.txt", _points(splats, turn))
    _write(folder / "images.txt", "\n".join(images) + "\n")
    return "colmap"


def _points(splats: Splats | None, turn: np.ndarray) -> str:
    """The most opaque splats as points: id, place, colour, error 0, no tracks."""
    if splats is None:
        return ""
    chosen = np.argsort(-sigmoid(splats.opacities_logit), kind="stable")[:_MOST_POINTS]
    places = splats.means[chosen] @ turn.T
    colours = np.rint(np.clip(splats.sh_dc[chosen] * SH_C0 + 0.5, 0, 1) * 255).astype(int)
    lines = [
        f"{i + 1} {p[0]:.9g} {p[1]:.9g} {p[2]:.9g} {c[0]} {c[1]} {c[2]} 0"
        for i, (p, c) in enumerate(zip(places, colours, strict=True))
    ]
    return "\n".join(lines) + "\n"
