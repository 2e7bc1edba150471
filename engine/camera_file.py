"""Our own camera path file. Shared with Blender: numpy and the standard library only.

A JSON object: {"format": "scene_splatter_camera_path", "version": 1, "fps", "width", "height",
"unit", "frames": [{"K": 3x3, "world_from_camera": 4x4}, ...]}. K is in pixels with pixel
centres at +0.5; world_from_camera is rigid, in OpenCV axes (x right, y down, z forward).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FORMAT = "scene_splatter_camera_path"
VERSION = 1
UNITS = ("m", "unknown")  # "unknown": up to scale; the engine scales it by the scene's depth


class CameraPath(NamedTuple):
    """f cameras of one size."""

    K: np.ndarray  # [f, 3, 3] float64, pixels
    world_from_camera: np.ndarray  # [f, 4, 4] float64, OpenCV axes
    width: int
    height: int
    fps: float
    unit: str  # one of UNITS

    @property
    def count(self) -> int:
        return self.K.shape[0]
