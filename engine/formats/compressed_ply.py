"""Writing PlayCanvas' compressed .ply: 16 bytes a splat plus one byte for each SH coefficient.

Splats go in Morton order, in chunks of 256 that share minimum and maximum of position, log scale
and colour; inside them positions and scales have 11 + 10 + 11 bits, rotations 2 + 3 x 10 (index of
the largest component of w x y z, then the others), colour and opacity 8 bits each, SH
coefficients 8 bits over -4..4. Reading lives in `splat_file.read_ply`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..bridge.harmonics import SH_C0
from ..bridge.splats import Splats, sigmoid
from ..bridge.whole_file import replacing
from ..scene.morton import morton_order
from .floaters import drawn_in, floaters, said
from .packing import smallest_three
from .ply import provenance
from .scene import SplatScene, log

LOSSY = (
    "all values rounded to 8..11 bits within chunks of 256 splats",
    "the order of the splats changes",
)
_CHUNK = 256
_CHUNK_PROPERTIES = [
    f"{end}_{group}{name}"
    for group, names in (("", "xyz"), ("scale_", "xyz"), ("", "rgb"))
    for end in ("min", "max")
    for name in names
]


def _unit(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[chunks, 256, 3] -> 0..1 between each chunk's limits [chunks, 3]."""
    span = high - low
    safe = np.where(span < 1e-5, 1, span)
    return np.where(
        span[:, None] < 1e-5, 0.0, np.clip((values - low[:, None]) / safe[:, None], 0, 1)
    )


def _levels(unit: np.ndarray, bits: int) -> np.ndarray:
    top = (1 << bits) - 1
    return np.clip(np.floor(unit * top + 0.5), 0, top).astype(np.uint32)


def _pack_11_10_11(unit: np.ndarray) -> np.ndarray:
    return (
        _levels(unit[..., 0], 11) << 21
        | _levels(unit[..., 1], 10) << 11
        | _levels(unit[..., 2], 11)
    )


def _pack_quaternions(quats: np.ndarray) -> np.ndarray:
    """[n, 4] w x y z -> [n] uint32: index of the largest component, then the other three in
    order.
    """
    largest, others = smallest_three(quats)
    three = _levels(others * np.sqrt(0.5) + 0.5, 10)
    return largest.astype(np.uint32) << 30 | three[:, 0] << 20 | three[:, 1] << 10 | three[:, 2]


def _padded(values: np.ndarray, chunks: int) -> np.ndarray:
    """[n, 3] -> [chunks, 256, 3], the last row repeated."""
    missing = chunks * _CHUNK - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]).reshape(
        chunks, _CHUNK, 3
    )


def _ordered(splats: Splats) -> tuple[Splats, list[str]]:
    """In Morton order, floaters drawn in to four times the scene's size; a sentence if there were
    any.
    """
    far, sentences = floaters(splats.means), []
    if far.any():
        sentences = [said(int(far.sum()), float(np.abs(splats.means).max()))]
        splats = drawn_in(splats, far, 4 * float(np.abs(splats.means[~far]).max()))
    order = morton_order(splats.means)
    return Splats(*(array[order] for array in splats)), sentences


def position_step(splats: Splats) -> tuple[float, list[str]]:
    """The coarsest step of a position in any chunk, in units, and what is said of floaters."""
    ordered, sentences = _ordered(splats)
    blocks = _padded(ordered.means, -(-len(ordered.means) // _CHUNK))
    return float(np.ptp(blocks, axis=1).max()) / 1023, sentences


def write(path: Path, scene: SplatScene) -> None:
    """Raises UserError when the file cannot be written."""
    s, moved = _ordered(scene.splats)
    for sentence in moved:
        log.warning("%s", sentence)
    n = len(s.means)
    chunks = -(-n // _CHUNK)
    packed = np.empty((n, 4), "<u4")
    limits = []
    for column, values in (
        (0, s.means),
        (2, np.clip(s.scales_log, -20, 20)),
        (3, s.sh_dc * SH_C0 + 0.5),
    ):
        blocks = _padded(values.astype(np.float32), chunks)
        low, high = blocks.min(axis=1), blocks.max(axis=1)
        limits += [low, high]
        unit = _unit(blocks, low, high).reshape(-1, 3)[:n]
        if column == 3:
            rgb = _levels(unit, 8)
            packed[:, 3] = (
                rgb[:, 0] << 24
                | rgb[:, 1] << 16
                | rgb[:, 2] << 8
                | _levels(sigmoid(s.opacities_logit), 8)
            )
        else:
            packed[:, column] = _pack_11_10_11(unit)
    packed[:, 1] = _pack_quaternions(s.quats)
    coefficients = s.sh_rest.transpose(0, 2, 1).reshape(
        n, s.sh_rest.shape[1] * 3
    )  # channel-major, as in the plain .ply
    sh = np.clip((coefficients / 8 + 0.5) * 256, 0, 255).astype(np.uint8)
    with replacing(path) as file:
        file.write(_header(n, chunks, sh.shape[1], provenance(scene.metadata)))
        file.write(np.concatenate(limits, axis=1).astype("<f4").tobytes())
        file.write(packed.tobytes())
        file.write(sh.tobytes())


def _header(n: int, chunks: int, coefficients: int, comments: list[str]) -> bytes:
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {c}" for c in comments),
        f"element chunk {chunks}",
    ]
    lines += [f"property float {name}" for name in _CHUNK_PROPERTIES]
    lines += [f"element vertex {n}"] + [
        f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")
    ]
    if coefficients:
        lines += [f"element sh {n}"] + [f"property uchar f_rest_{i}" for i in range(coefficients)]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii", "replace")
