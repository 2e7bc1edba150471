"""Splats for a page: the values of an SPZ file, ordered so that gzip makes a third less of them.

A browser undoes gzip itself (DecompressionStream) and `packing.js` puts the SPZ file together
again. Splats are in an order that keeps neighbours together, so positions and colours differ
little from one to the next; bytes of one kind stand together. In order, gzipped as one:

    16 bytes       the header of SPZ version 3
    9 n            positions: the difference to the splat before, zigzag, x y z; of each the lowest
                   bytes of all splats, then the middle ones, then the highest
    n              opacities
    3 n            colours: the difference to the splat before, modulo 256, r g b of each splat
    3 n            scales: x of all splats, then y, then z
    4 n            rotations: which of x y z w is left out as the largest, then the other three in 8
                   bits, -127 to 127 for -sqrt(1/2) to sqrt(1/2)
    rest           spherical harmonics as SPZ has them
"""

from __future__ import annotations

import gzip
import itertools
import struct

import numpy as np

_HEAD = 16
_LEVEL = 9
_FULL, _KEPT = 511, 127  # steps of a rotation's component, in SPZ and here


def packed(spz: bytes) -> bytes:
    """A gzipped SPZ file of version 3 in the order above. Rotations keep a third of a degree."""
    body = gzip.decompress(spz)
    version, n = struct.unpack_from("<II", body, 4)
    if version != 3:
        raise ValueError(f"spz: expected version 3, got {version}")
    ends = _HEAD + n * np.cumsum([0, 9, 1, 3, 3, 4])
    values = np.frombuffer(body, np.uint8)
    position, opacity, colour, scale, rotation = (values[a:b] for a, b in itertools.pairwise(ends))
    parts = (
        values[:_HEAD],
        _positions(position.reshape(n, 3, 3)),
        opacity,
        np.diff(colour.reshape(n, 3), axis=0, prepend=np.uint8(0)),
        scale.reshape(n, 3).T,
        _rotations(rotation.view("<u4") if rotation.flags.aligned else rotation.copy().view("<u4")),
        values[ends[-1] :],
    )
    return gzip.compress(b"".join(part.tobytes() for part in parts), _LEVEL, mtime=0)


def _positions(position: np.ndarray) -> np.ndarray:
    """[n, axis, byte] -> [axis, byte, n]."""
    wide = position.astype(np.int32)
    fixed = wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16
    step = np.diff(fixed, axis=0, prepend=np.int32(0))
    step = (step << 8) >> 8  # modulo 2^24, with the sign of 24 bits
    zigzag = (step << 1) ^ (step >> 31)
    return np.stack([(zigzag >> shift & 255).T for shift in (0, 8, 16)], axis=1).astype(np.uint8)


def _rotations(word: np.ndarray) -> np.ndarray:
    """[n] 2 + 3 x (sign and 9 bits) -> [4, n] bytes."""
    fields = [word >> np.uint32(shift) & np.uint32(1023) for shift in (20, 10, 0)]
    rows = [(word >> np.uint32(30)).astype(np.uint8)]
    for field in fields:
        size = np.rint((field & _FULL) * (_KEPT / _FULL)).astype(np.int8)
        rows.append(np.where(field & 512, -size, size).astype(np.int8).view(np.uint8))
    return np.stack(rows)
