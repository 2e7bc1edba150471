"""What a format costs this scene: measured on its values, not promised for the format."""

from __future__ import annotations

import numpy as np

from ..bridge.harmonics import SH_C0
from ..bridge.splats import OPACITY_LOGIT_LIMIT, SCALE_LOG_FLOOR, Splats
from . import compressed_ply, spz
from .scene import SplatScene


def lost(name: str, scene: SplatScene, *, as_spz: bool = False) -> list[str]:
    """What a write of the prepared `scene` in the format `name` changes, a phrase each; empty if
    every bit stays.
    """
    if as_spz or name == "spz":
        return _spz(scene.splats)
    measure = {
        "ply": _nothing,
        "compressed_ply": _compressed,
        "splat": _splat,
        "gltf": _floats,
        "usd": _floats,
        "sog": _sog,
    }
    return measure[name](scene.splats)


def _nothing(_: Splats) -> list[str]:
    return []


def _counted(count: int, what: str) -> list[str]:
    return [f"{count:,} {what}"] if count else []


def _outside(splats: Splats, low: float, high: float) -> int:
    """How many splats have a constant colour outside low..high."""
    rgb = splats.sh_dc * SH_C0 + 0.5
    return int(((rgb < low - 0.5 / 255) | (rgb > high + 0.5 / 255)).any(axis=1).sum())


def _floats(s: Splats) -> list[str]:
    """Formats with linear scales and opacities in float32."""
    opaque = int((np.abs(s.opacities_logit) > OPACITY_LOGIT_LIMIT).sum())
    tiny = int(((s.scales_log < SCALE_LOG_FLOOR) | (s.scales_log > 88)).any(axis=1).sum())
    return [
        "float rounding of scales, opacities and rotations",
        *_counted(opaque, "opacities nearer to 0 or 1 than a float can say are clamped"),
        *_counted(tiny, "scales that a float cannot hold are clamped"),
    ]


def _spz(s: Splats) -> list[str]:
    bits, _, moved = spz.placed(s)
    clamped = spz.clamped(s)
    colours = int((np.abs(s.sh_dc) > 0.5 / spz.COLOUR_GAIN).any(axis=1).sum())
    return [
        f"positions in steps of {2.0**-bits:.2g} units",
        *moved,
        "scales in steps of 6 %, 8-bit opacity and colour, 10-bit rotations",
        *(["6-bit SH"] if s.sh_rest.shape[1] else []),
        *_counted(clamped, "scales clamped to e^-10..e^5.9"),
        *_counted(colours, "colours clamped"),
    ]


def _compressed(s: Splats) -> list[str]:
    step, moved = compressed_ply.position_step(s)
    return [
        f"positions in steps of up to {step:.2g} units within chunks of 256",
        *moved,
        "11-bit scales, 10-bit rotations, 8-bit opacity and colour",
        *(["8-bit SH over -4..4"] if s.sh_rest.shape[1] else []),
        "the order of the splats changes",
    ]


def _splat(s: Splats) -> list[str]:
    return [
        "8-bit colour, opacity and rotation",
        *_counted(_outside(s, 0.0, 1.0), "colours outside 0..1 clamped"),
        *(["view-dependent colour dropped"] if s.sh_rest.shape[1] else []),
    ]


def _sog(s: Splats) -> list[str]:
    logarithm = np.log1p(np.abs(s.means.astype(np.float64))) * np.sign(s.means)
    step = np.ptp(logarithm, axis=0) / 65535
    coarse = float((step * (1 + np.abs(s.means))).max())
    return [
        f"positions in steps of up to {coarse:.2g} units",
        "scales and colours from codebooks of 256, 8-bit opacity and rotations",
        *(["SH from a palette"] if s.sh_rest.shape[1] else []),
        "the order of the splats changes",
    ]
