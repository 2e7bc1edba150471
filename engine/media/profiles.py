"""Colour profiles judged by what they hold, not by what they are called (ICC.1:2022).

A profile of curves and a matrix is worked out here in floats, so 16 bits and linear light keep
their precision; profiles of tables go through LittleCMS.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from ..bridge.colour import linear_to_srgb

# sRGB's primaries adapted to D50, columns red, green, blue (the profile connection space's white)
_SRGB_D50 = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
_NEAR = 1.2 / 255  # a conversion that changes no colour by more is none
_BLOCK = 1 << 18


class Matrix(NamedTuple):
    """A display profile: light = matrix @ curve(value), with sRGB's primaries."""

    curves: tuple[np.ndarray, ...]  # one table [4096] a channel, value -> light
    matrix: np.ndarray  # [3, c], to linear light with sRGB's primaries

    def to_srgb(self, values: np.ndarray) -> np.ndarray:
        """[..., c] in 0..1 -> [..., 3] sRGB-coded in 0..1, float32; colours outside sRGB are cut
        off.
        """
        flat = values.reshape(-1, len(self.curves))
        out = np.empty((len(flat), 3), np.float32)
        grid = np.linspace(0, 1, len(self.curves[0]))
        for start in range(0, len(flat), _BLOCK):
            part = flat[start : start + _BLOCK]
            light = np.stack(
                [np.interp(part[:, i], grid, curve) for i, curve in enumerate(self.curves)], axis=1
            )
            out[start : start + _BLOCK] = _coded(light @ self.matrix.T)
        return out.reshape(*values.shape[:-1], 3)

    @property
    def is_srgb(self) -> bool:
        """Whether converting would change nothing that 8 bits can show."""
        side = np.linspace(0, 1, 9)
        if len(self.curves) == 1:
            values = side[:, None]
            return bool(np.abs(self.to_srgb(values) - values).max() < _NEAR)
        values = np.stack(np.meshgrid(side, side, side), axis=-1).reshape(-1, 3)
        return bool(np.abs(self.to_srgb(values) - values).max() < _NEAR)


def _coded(light: np.ndarray) -> np.ndarray:
    return linear_to_srgb(np.clip(light, 0, 1))


def parsed(profile: bytes) -> Matrix | None:
    """The curves and matrix of an RGB or grey profile; None for one of tables, or that is
    damaged.
    """
    try:
        space, tags = profile[16:20], _tags(profile)
        if space == b"GRAY" and b"kTRC" in tags:
            return Matrix((_curve(tags[b"kTRC"]),), np.ones((3, 1)))
        names = (b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
        if space != b"RGB " or b"A2B0" in tags or not all(name in tags for name in names):
            return None
        primaries = np.stack([_xyz(tags[name]) for name in names[:3]], axis=1)
        matrix = np.linalg.inv(_SRGB_D50) @ primaries
        if not np.isfinite(matrix).all() or np.abs(matrix.sum(axis=1) - 1).max() > 0.1:
            return None
        return Matrix(tuple(_curve(tags[name]) for name in names[3:]), matrix)
    except (struct.error, ValueError, IndexError, np.linalg.LinAlgError):
        return None


def of_gamma(gamma: float) -> Matrix:
    """sRGB's primaries with value = light ** gamma, as a PNG's gAMA chunk says."""
    curve = np.linspace(0, 1, 4096) ** (1 / gamma)
    return Matrix((curve, curve, curve), np.eye(3))


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > 1000:
        raise ValueError("more tags than a profile has")
    found = {}
    for i in range(count):
        name, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        found[name] = profile[start : start + size]
    return found


def _fixed(data: bytes, at: int, count: int) -> np.ndarray:
    return np.array(struct.unpack_from(f">{count}i", data, at)) / 65536


def _xyz(tag: bytes) -> np.ndarray:
    if tag[:4] != b"XYZ ":
        raise ValueError("no XYZ")
    return _fixed(tag, 8, 3)


def _curve(tag: bytes) -> np.ndarray:
    """[4096] light at even steps of the coded value."""
    x = np.linspace(0, 1, 4096)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return x
        if count == 1:
            return x ** (struct.unpack_from(">H", tag, 12)[0] / 256)
        if count > 70_000:
            raise ValueError("a curve without end")
        table = np.array(struct.unpack_from(f">{count}H", tag, 12)) / 65535
        return np.interp(x, np.linspace(0, 1, count), table)
    if tag[:4] == b"para":
        kind = struct.unpack_from(">H", tag, 8)[0]
        if kind > 4:
            raise ValueError("an unknown curve")
        g, a, b, c, d, e, f = np.concatenate([_fixed(tag, 12, (1, 3, 4, 5, 7)[kind]), np.zeros(7)])[
            :7
        ]
        with np.errstate(all="ignore"):
            if kind == 0:
                light = x**g
            elif kind in (1, 2):
                light = np.where(x >= -b / a, np.maximum(a * x + b, 0) ** g, 0.0) + (
                    c if kind == 2 else 0
                )
            else:
                light = np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
        if not np.isfinite(light).all():
            raise ValueError("a curve that is not finite")
        return np.clip(light, 0, 1)
    raise ValueError("no curve")
