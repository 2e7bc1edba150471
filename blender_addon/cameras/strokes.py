"""Strokes drawn on a camera's view, and the mask of its picture that they make."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
from bpy_extras import view3d_utils

from ...engine.bridge.whole_file import replacing


class Stroke(NamedTuple):
    """A round brush on its way over a region."""

    points: list[tuple[float, float]]  # pixels of the region, from its lower left corner
    radius: float  # pixels of the region


class Rectangle(NamedTuple):
    """Where the camera's picture lies in a region, in its pixels."""

    left: float
    bottom: float
    right: float
    top: float


def picture_in(
    region: bpy.types.Region,
    view: bpy.types.RegionView3D,
    scene: bpy.types.Scene,
    camera: bpy.types.Object,
) -> Rectangle | None:
    """Where a region that looks through a camera shows its picture; None where it does not."""
    if view.view_perspective != "CAMERA":
        return None
    corners = [camera.matrix_world @ corner for corner in camera.data.view_frame(scene=scene)]
    places = [view3d_utils.location_3d_to_region_2d(region, view, corner) for corner in corners]
    if any(place is None for place in places):
        return None
    x, y = zip(*((place.x, place.y) for place in places), strict=True)
    return Rectangle(min(x), min(y), max(x), max(y))


def mask_of(strokes: Sequence[Stroke], picture: Rectangle, size: tuple[int, int]) -> np.ndarray:
    """Say which pixels of the picture strokes cover: [height, width] bool for `size` (width,
    height), row 0 at the top. A stroke covers the pixels whose centres its brush passed over.
    """
    width, height = size
    mask = np.zeros((height, width), bool)
    across = (picture.right - picture.left) / width  # region pixels of one of the picture's
    x = picture.left + (np.arange(width) + 0.5) * across
    y = picture.top - (np.arange(height) + 0.5) * (picture.top - picture.bottom) / height
    for stroke in strokes:
        points = np.array(stroke.points, np.float64)
        ends = points[1:] if len(points) > 1 else points
        # never finer than a pixel of the picture: what was touched is marked
        reach = max(stroke.radius, 0.75 * across)
        for start, end in zip(points, ends, strict=False):
            low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
            columns = np.flatnonzero((x >= low[0]) & (x <= high[0]))
            rows = np.flatnonzero((y >= low[1]) & (y <= high[1]))
            if not len(columns) or not len(rows):
                continue
            dx, dy = x[columns][None] - start[0], y[rows][:, None] - start[1]
            along = end - start
            share = (dx * along[0] + dy * along[1]) / max(float(along @ along), 1e-12)
            share = np.clip(share, 0.0, 1.0)
            distance = np.hypot(dx - share * along[0], dy - share * along[1])
            mask[np.ix_(rows, columns)] |= distance <= reach
    return mask


def write_png(path: Path, mask: np.ndarray) -> None:
    """Write a mask [h, w] bool as a grey PNG, white where it says yes. Raises UserError.

    By hand: Blender's own images pass through its colour management.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = mask.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = np.where(mask, 255, 0)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    with replacing(path, "Free some space on that disk.") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        file.write(chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b""))
