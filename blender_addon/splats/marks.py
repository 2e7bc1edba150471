"""Where a few points of a cloud were when it was made: what tells that all have been moved as one
since.
"""

from __future__ import annotations

import bpy
import numpy as np

from ...engine.bridge import axes

# custom property of a cloud: places of _COUNT points, evenly spread over their numbers
_MARKS = "scene_splatter_marks"
_COUNT = 24
_RESIDUAL = 1e-4  # of the marks' extent: what single precision leaves of a similarity
_MOVED = 1e-5  # of the extent: less is rounding


def mark(cloud: bpy.types.PointCloud) -> None:
    """Remember where a few points are."""
    cloud[_MARKS] = [float(len(cloud.points)), *_places(cloud).ravel().tolist()]


def is_marked(cloud: bpy.types.PointCloud) -> bool:
    """Whether `mark` was called for the cloud, with as many points as it has now."""
    return _MARKS in cloud and int(cloud[_MARKS][0]) == len(cloud.points)


def _places(cloud: bpy.types.PointCloud) -> np.ndarray:
    numbers = np.linspace(0, len(cloud.points) - 1, _COUNT).astype(int)
    data = cloud.attributes["position"].data
    return np.array([data[int(i)].vector for i in numbers], np.float64)


def move_of(cloud: bpy.types.PointCloud) -> np.ndarray | None:
    """[4, 4] by which all points have been moved since `mark`; None where they were not, or not as
    one.
    """
    if not is_marked(cloud):
        return None
    before = np.array(cloud[_MARKS][1:], np.float64).reshape(_COUNT, 3)
    return similarity_between(before, _places(cloud))


def similarity_between(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """[4, 4] that carries points [n, 3] to others by move, turn and one scale (Umeyama 1991); None
    where none does.

    None as well where nothing moved, and where the points do not fix it (all on one line).
    """
    middle, there = before.mean(0), after.mean(0)
    a, b = before - middle, after - there
    extent = float(np.abs(a).max())
    if extent == 0.0 or np.abs(after - before).max() <= _MOVED * extent:
        return None
    u, strengths, vt = np.linalg.svd(b.T @ a)
    if strengths[1] < 1e-6 * strengths[0]:
        return None
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    scale = float((strengths * np.diag(sign)).sum() / (a * a).sum())
    if scale <= 0 or np.abs(b - scale * a @ rotation.T).max() > _RESIDUAL * np.abs(b).max():
        return None
    return axes.similarity(rotation, scale, there - scale * rotation @ middle)
