"""Cameras as scene nodes: the matrices and angles that glTF and USD both need.

Both let a camera look along -Z with +Y up. A node matrix is therefore
A @ world_from_camera @ diag(1, -1, -1, 1), with A from OpenCV metres to the file's axes and unit.
"""

from __future__ import annotations

import numpy as np

from ..bridge.axes import preset
from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.quaternions import quaternion_of
from .scene import log

_LOOKS_BACK = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV camera -> camera that looks along -Z, +Y up


def node_matrices(path: CameraPath, axes: str, metres_per_unit: float) -> np.ndarray:
    """[f, 4, 4] rigid node matrices in the file's axes and unit. ValueError for mirrored axes."""
    chosen = preset(axes)
    if chosen.mirrored:
        raise ValueError(f"{axes} is left-handed: a camera node there would mirror the picture")
    turn = np.eye(4)
    turn[:3, :3] = chosen.from_opencv
    matrices = turn @ path.world_from_camera @ _LOOKS_BACK
    matrices[:, :3, 3] /= metres_per_unit
    return matrices


def path_from_nodes(
    matrices: np.ndarray,
    K: np.ndarray,
    size: tuple[int, int],
    fps: float,
    axes: str,
    metres_per_unit: float,
) -> CameraPath:
    """Inverse of `node_matrices`: [f, 4, 4] node matrices and K [f, 3, 3] -> CameraPath in metres.

    Scale that a node inherits (a scene exported in centimetres under a scaled root) is taken off
    the camera's axes; its position keeps it. UserError when a number is not finite.
    """
    if not (
        np.isfinite(matrices).all()
        and np.isfinite(K).all()
        and np.isfinite([fps, metres_per_unit]).all()
    ):
        raise UserError(
            "The file's camera holds numbers that are not finite.",
            "Export it again, or without the camera.",
        )
    turn = np.eye(4)
    turn[:3, :3] = preset(axes).from_opencv
    world = turn.T @ np.asarray(matrices, np.float64) @ _LOOKS_BACK
    u, _, vt = np.linalg.svd(world[:, :3, :3])
    world[:, :3, :3] = u @ vt
    world[:, :3, 3] *= metres_per_unit
    world[:, 3] = (0, 0, 0, 1)
    return CameraPath(np.asarray(K, np.float64), world, size[0], size[1], fps, "m")


def quaternions_xyzw(matrices: np.ndarray) -> np.ndarray:
    """[f, 4, 4] -> [f, 4] unit quaternions x y z w, signs chosen so that neighbours are near."""
    quats = np.array([quaternion_of(m[:3, :3]) for m in matrices])[:, [1, 2, 3, 0]]
    for i in range(1, len(quats)):
        if quats[i] @ quats[i - 1] < 0:
            quats[i] = -quats[i]
    return quats


def vertical_fov(path: CameraPath) -> np.ndarray:
    """[f] radians, as if the principal point were central (which is logged when it is not)."""
    offset = np.abs(path.K[:, :2, 2] - (path.width / 2, path.height / 2)).max()
    if offset > 0.5:
        log.warning(
            "glTF cameras have no lens shift: a principal point %.1f px off the centre is lost",
            offset,
        )
    return 2 * np.arctan(path.height / (2 * path.K[:, 1, 1]))


def plane_corners(K: np.ndarray, width: int, height: int, distance: float) -> np.ndarray:
    """[4, 3] corners of the picture at `distance` in the node's camera axes: bottom-left,
    bottom-right, top-right, top-left.
    """
    pixels = np.array([(0, height), (width, height), (width, 0), (0, 0)], np.float64)
    x = (pixels[:, 0] - K[0, 2]) / K[0, 0] * distance
    y = (pixels[:, 1] - K[1, 2]) / K[1, 1] * distance
    return np.stack([x, -y, np.full(4, -distance)], axis=1)
