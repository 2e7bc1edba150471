"""Reading .ksplat (mkkellogg): sections of splats at three compression levels.

A 4096-byte header, one 1024-byte header a section, then each section's bucket table and splats.
Level 0 stores float32; levels 1 and 2 store positions as 16-bit offsets from bucket centres,
scales and rotations as halves; SH are float32, half or 8 bits. Colour has 8 bits throughout. SH are
ordered by band, then channel, then coefficient. Not written: no tool needs it that lacks .ply or
SPZ.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..bridge.errors import UserError
from ..bridge.harmonics import COEFFICIENTS, SH_C0
from ..bridge.splat_file import Splats
from .scene import Metadata, SplatScene, damaged, log_scale, logit, read_bytes

_MAIN, _SECTION = 4096, 1024
_SH_TYPES = ("<f4", "<f2", "u1")


class _Section(NamedTuple):
    splats: int
    capacity: int
    bucket_size: int
    buckets: int
    block_m: float
    bucket_bytes: int
    quantum: int
    full: int
    partial: int
    degree: int


def read(path: Path) -> SplatScene:
    """UserError for damage, unknown versions and sizes that do not fit."""
    data = read_bytes(path)
    if len(data) < _MAIN:
        raise damaged(path, "it ends inside the header")
    if data[0] != 0 or data[1] < 1:
        raise UserError(
            f"{path} is .ksplat version {data[0]}.{data[1]}.",
            "Only versions 0.1 and later 0.x are known.",
        )
    sections, count, level = (
        struct.unpack_from("<I", data, 4)[0],
        struct.unpack_from("<I", data, 16)[0],
        struct.unpack_from("<H", data, 20)[0],
    )
    low, high = struct.unpack_from("<ff", data, 36)
    if level > 2 or _MAIN + sections * _SECTION > len(data):
        raise damaged(path, f"its header claims {sections} sections at level {level}")
    offset = _MAIN + sections * _SECTION
    parts = []
    for i in range(sections):
        section = _section_header(data, _MAIN + i * _SECTION, level, path)
        part, offset = _read_section(data, offset, section, level, (low or -1.5, high or 1.5), path)
        if part is not None:
            parts.append(part)
    if not parts or sum(len(p.means) for p in parts) != count:
        raise damaged(
            path,
            f"its header claims {count} splats, its sections hold "
            f"{sum(len(p.means) for p in parts)}",
        )
    most = max(p.sh_rest.shape[1] for p in parts)
    parts = [
        p._replace(sh_rest=np.pad(p.sh_rest, ((0, 0), (0, most - p.sh_rest.shape[1]), (0, 0))))
        for p in parts
    ]
    splats = Splats(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return SplatScene(splats, Metadata(source="ksplat", lossy=("colour to 8 bits",)))


def _section_header(data: bytes, at: int, level: int, path: Path) -> _Section:
    count, capacity, size, buckets, block, stored = struct.unpack_from("<IIIIfH", data, at)
    quantum, full, partial, degree = (
        *struct.unpack_from("<I", data, at + 24),
        *struct.unpack_from("<IIH", data, at + 32),
    )
    if degree > 3 or count > capacity:
        raise damaged(path, f"a section claims {count} of {capacity} splats of SH degree {degree}")
    return _Section(
        count,
        capacity,
        size,
        buckets,
        block,
        stored,
        quantum or (1 if level == 0 else 32767),
        full,
        partial,
        degree,
    )


def _record(level: int, degree: int) -> np.dtype:
    sh = (_SH_TYPES[level], 3 * COEFFICIENTS[degree])
    position, rest = ("<f4", "<f4") if level == 0 else ("<u2", "<f2")
    return np.dtype(
        [
            ("mean", position, 3),
            ("scale", rest, 3),
            ("quat", rest, 4),
            ("rgba", "u1", 4),
            ("sh", *sh),
        ]
    )


def _read_section(
    data: bytes, offset: int, s: _Section, level: int, limits: tuple[float, float], path: Path
) -> tuple[Splats | None, int]:
    record = _record(level, s.degree)
    table = s.bucket_bytes * s.buckets + s.partial * 4
    end = offset + table + record.itemsize * s.capacity
    if end > len(data):
        raise damaged(path, f"a section of {s.capacity} splats ends at byte {end} of {len(data)}")
    if s.splats == 0:
        return None, end
    rows = np.frombuffer(data, record, count=s.splats, offset=offset + table)
    means = rows["mean"].astype(np.float64)
    if level > 0:
        means = (means - s.quantum) * (s.block_m / 2 / s.quantum) + _bucket_centres(
            data, offset, s, path
        )
    rgba = rows["rgba"].astype(np.float64) / 255.0
    sh = rows["sh"].astype(np.float32)
    if level == 2:
        sh = (limits[0] + sh / 255 * (limits[1] - limits[0])).astype(np.float32)
    bands = [
        sh[:, 3 * COEFFICIENTS[d - 1] : 3 * COEFFICIENTS[d]].reshape(s.splats, 3, 2 * d + 1)
        for d in range(1, s.degree + 1)
    ]
    splats = Splats(
        means=means.astype(np.float32),
        quats=rows["quat"].astype(np.float32),
        scales_log=log_scale(rows["scale"]),
        opacities_logit=logit(rgba[:, 3]),
        sh_dc=((rgba[:, :3] - 0.5) / SH_C0).astype(np.float32),
        sh_rest=np.concatenate([np.zeros((s.splats, 3, 0), np.float32), *bands], axis=2)
        .transpose(0, 2, 1)
        .astype(np.float32),
    )
    return splats, end


def _bucket_centres(data: bytes, offset: int, s: _Section, path: Path) -> np.ndarray:
    """[count, 3] centre of each splat's bucket: full buckets first, then those whose sizes are
    listed.
    """
    if s.bucket_bytes < 12 or s.bucket_size < 1 or s.full + s.partial > s.buckets:
        raise damaged(path, "its bucket table does not fit")
    sizes = np.concatenate(
        [
            np.full(min(s.full, s.splats), s.bucket_size, np.int64),
            np.frombuffer(data, "<u4", s.partial, offset).astype(np.int64),
        ]
    )
    stop = (
        int(np.searchsorted(np.cumsum(sizes), s.splats)) + 1
    )  # no more buckets than the splats need: a listed size may lie
    index = np.repeat(np.arange(min(stop, len(sizes))), np.minimum(sizes[:stop], s.splats))
    if len(index) < s.splats:
        raise damaged(path, "its buckets hold fewer splats than it claims")
    raw = np.frombuffer(data, np.uint8, s.bucket_bytes * s.buckets, offset + s.partial * 4).reshape(
        s.buckets, s.bucket_bytes
    )
    centres = np.ascontiguousarray(raw[:, :12]).view("<f4")
    return centres[index[: s.splats]]
