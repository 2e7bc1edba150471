"""How much of a path's views nobody has seen: a coarse render of the first view's depth. numpy
only, no bpy.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np

from ...engine.bridge.camera_file import CameraPath
from ...engine.bridge.settings import USUAL_CAMERA_HEIGHT_M, USUAL_HORIZON
from ..jobs.slices import Step, run

CELLS = 64  # across the picture
_SAMPLES = (
    4  # points a cell and axis: a surface may come four times closer and still be without holes
)
_FAR_M = 1e4  # stands for the sky
_VIEWS = 9


def box_depth(K: np.ndarray, width: int, height: int, geometry: Any) -> np.ndarray:
    """[height, width] metres of the engine's perspective box (engine/geometry/box.py), inf for open
    sky.

    K [3, 3] in pixels; geometry: the settings' GeometrySettings.
    """
    x, y = np.meshgrid(
        (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0], (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    )
    pitch = math.atan2(K[1, 2] - (geometry.horizon or USUAL_HORIZON) * height, K[1, 1])
    stands = geometry.camera_height or USUAL_CAMERA_HEIGHT_M
    down, ahead = y * math.cos(pitch) + math.sin(pitch), math.cos(pitch) - y * math.sin(pitch)
    walls = [(down, stands), (ahead, geometry.box_depth)]
    if geometry.box_width > 0:
        walls += [(-x, geometry.box_width / 2), (x, geometry.box_width / 2)]
    if geometry.box_height > 0:
        walls.append((-down, geometry.box_height - stands))
    lengths = [
        np.where(rate > 1e-9, distance / np.maximum(rate, 1e-9), np.inf) for rate, distance in walls
    ]
    return np.minimum.reduce(lengths)


def invented_share(path: CameraPath, depth_m: np.ndarray) -> np.ndarray:
    """Share of each view that the first view's surfaces do not cover, for up to nine views along
    the path, in 0..1.

    depth_m [h, w]: the first view's depth along z in metres, inf for sky; 0 and NaN cover nothing.
    """
    return run(invented_in_slices(path, depth_m))


def invented_in_slices(path: CameraPath, depth_m: np.ndarray) -> Generator[Step, None, np.ndarray]:
    """`invented_share`, a view at a time."""
    h, w = depth_m.shape
    columns = CELLS
    rows = max(1, round(columns * path.height / path.width))
    v, u = np.meshgrid(
        np.arange(rows * _SAMPLES) + 0.5, np.arange(columns * _SAMPLES) + 0.5, indexing="ij"
    )
    v, u = v.ravel() / (rows * _SAMPLES), u.ravel() / (columns * _SAMPLES)  # 0..1
    z = depth_m[(v * h).astype(int), (u * w).astype(int)].astype(np.float64)
    known = (z > 0) & ~np.isnan(z)
    z = np.minimum(z[known], _FAR_M)
    rays = np.linalg.inv(path.K[0]) @ np.stack(
        [u[known] * path.width, v[known] * path.height, np.ones(len(z))]
    )
    world = path.world_from_camera[0] @ np.concatenate([rays * z, np.ones((1, len(z)))])
    views = np.unique(np.linspace(0, path.count - 1, min(path.count, _VIEWS)).round().astype(int))
    shares = []
    for number, view in enumerate(views):
        yield Step("Looking for what has to be invented", number, len(views))
        shares.append(1.0 - _covered(path, view, world, rows, columns))
    return np.array(shares)


def _covered(path: CameraPath, view: int, world: np.ndarray, rows: int, columns: int) -> float:
    """Share of the cells of a view in which at least one of the points [4, n] lies."""
    seen = (np.linalg.inv(path.world_from_camera[view]) @ world)[:3]
    seen = seen[:, seen[2] > 1e-3]
    pixels = path.K[view] @ seen
    column = np.floor(pixels[0] / pixels[2] / path.width * columns).astype(np.int64)
    row = np.floor(pixels[1] / pixels[2] / path.height * rows).astype(np.int64)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    return len(np.unique(row[inside] * columns + column[inside])) / (rows * columns)
