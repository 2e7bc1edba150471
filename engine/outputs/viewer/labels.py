"""Where each Gaussian of a scene was first seen: in the picture, in a segment, or by no camera.

A job keeps no such note of its Gaussians, and refinement moves, drops and adds them; so it is read
off the finished scene, from its cameras alone, for scenes of any origin.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...bridge.camera_file import CameraPath
from ...rasterize import rasterize
from ...scene.gaussians import Gaussians

PICTURE = 0  # seen by the first camera, the picture's
NEVER = 255  # seen by none; labels between are segments, counted from 1
_MOST_LABELS = 254
_WIDTH_PX = 256  # of the depth maps that visibility is read from
_SURFACE = 0.04  # a Gaussian this share of its depth behind the surface is still part of it
_SLOPE = 0.15  # share of its depth that a pixel's surface may span
_MOST_CAMERAS = 64  # more are thinned out evenly


def labels(
    gaussians: Gaussians, path: CameraPath, segments: tuple[tuple[int, int], ...]
) -> np.ndarray:
    """[n] uint8: PICTURE, 1 for the first segment and so on, or NEVER.

    `gaussians` and `path` share OpenCV axes and metres. `segments` are (first frame, first frame
    of the next) of the new frames of each; the part of the first after frame 0 is segment 1.
    """
    found = torch.full((gaussians.count,), NEVER, dtype=torch.uint8)
    step = max(1, -(-path.count // _MOST_CAMERAS))
    cameras = sorted({*range(0, path.count, step), *(start for start, _ in segments)})
    for index in cameras:
        unseen = found == NEVER
        if not bool(unseen.any()):
            break
        seen = _seen(gaussians, path, index)
        found[unseen & seen] = PICTURE if index == 0 else _segment_of(index, segments)
    return found.numpy()


def _segment_of(frame: int, segments: tuple[tuple[int, int], ...]) -> int:
    for number, (start, stop) in enumerate(segments, 1):
        if start <= frame < stop:
            return min(number, _MOST_LABELS)
    return 1


def _seen(gaussians: Gaussians, path: CameraPath, index: int) -> Tensor:
    """[n] whether a camera sees a Gaussian's centre: it lies at or before the surface there."""
    scale = min(1.0, _WIDTH_PX / path.width)
    width, height = max(1, round(path.width * scale)), max(1, round(path.height * scale))
    K = torch.from_numpy(path.K[index]).float() * scale
    K[2, 2] = 1
    camera_from_world = torch.from_numpy(np.linalg.inv(path.world_from_camera[index])).float()
    with torch.no_grad():
        drawn = rasterize(
            gaussians, K[None], camera_from_world[None], width, height, sh_degree=0
        ).depth[0, None, ..., 0]
    # a pixel of a floor that is seen along spans many depths, up to those of the next pixels
    farthest = torch.nn.functional.max_pool2d(drawn, 3, stride=1, padding=1)
    drawn = torch.minimum(farthest, drawn * (1 + _SLOPE))
    points = gaussians.means @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    depth = points[:, 2]
    before = depth > 0
    pixels = (points @ K.T)[:, :2] / depth.clamp_min(1e-6)[:, None]
    column, row = pixels[:, 0].floor(), pixels[:, 1].floor()
    inside = before & (column >= 0) & (row >= 0) & (column < width) & (row < height)
    at = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).nan_to_num(0).long()
    surface = drawn.reshape(-1)[at]
    return inside & (depth <= surface * (1 + _SURFACE))
