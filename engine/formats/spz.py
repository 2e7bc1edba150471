"""Niantic's SPZ: versions 2 and 3 (one gzip stream), version 4 (zstd streams behind a plain
header).

Quantised attributes, one stream each: positions 3 x 24-bit fixed point, opacities 8 bit, colours
3 x 8 bit around 0.5 with gain 0.15 on the raw DC coefficient, log scales 3 x 8 bit (1/16, from
-10), rotations (version 2: x y z as bytes; later: the three smallest of x y z w in 10 bits each),
SH 8 bit, colour channel fastest. Axes are x right, y up, z back unless an extension record names
others. From the public format description in the SPZ repository's README (MIT).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

from ..bridge.axes import similarity, transform_splats
from ..bridge.errors import UserError
from ..bridge.harmonics import COEFFICIENTS, degree_of
from ..bridge.splat_file import Splats
from ..bridge.splats import sigmoid
from ..bridge.whole_file import replacing
from .floaters import drawn_in, floaters, said
from .packing import from_smallest_three, smallest_three
from .scene import (
    MOST_SPLATS,
    Metadata,
    SplatScene,
    damaged,
    log,
    logit,
    read_bytes,
)

LOSSY = (
    "positions to 24-bit fixed point",
    "opacity, colour and scales to 8 bits",
    "rotations to 10 bits",
    "SH to 6 bits",
)
_MAGIC = 0x5053474E  # "NGSP"
COLOUR_GAIN = 0.15
SCALE_LOG_LEAST, SCALE_LOG_MOST = -10.0, 255 / 16 - 10
_SH_BITS = 6
_ANTIALIASED, _EXTENSIONS = 1, 2
_ADOBE_AXES = 0xADBE0003
_SH_COUNTS = (0, 3, 8, 15, 24)
_MOST_FIXED = 0x7FFFFF - 1
_MOST_RATIO = 60  # real scenes pack to a half or a third; a header claiming more is a lie or a bomb
_FREE_BYTES = 1 << 26  # small files may be of any ratio up to this size
# letters of the named systems 1..16: where x, y and z point
_ADOBE_SYSTEMS = [
    "LDB",
    "RDB",
    "LUB",
    "RUB",
    "LDF",
    "RDF",
    "LUF",
    "RUF",
    "LFD",
    "RFD",
    "LFU",
    "RFU",
    "LBD",
    "RBD",
    "LBU",
    "RBU",
]
_DIRECTIONS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "U": (0, 1, 0),
    "D": (0, -1, 0),
    "B": (0, 0, 1),
    "F": (0, 0, -1),
}


class _Header(NamedTuple):
    version: int
    splats: int
    degree: int
    fraction_bits: int
    flags: int

    def sizes(self) -> list[int]:
        """Bytes of positions, opacities, colours, scales, rotations, SH."""
        return [
            9 * self.splats,
            self.splats,
            3 * self.splats,
            3 * self.splats,
            (3 if self.version == 2 else 4) * self.splats,
            3 * _SH_COUNTS[self.degree] * self.splats,
        ]


def _parse_header(data: bytes, path: Path | str, file_size: int) -> _Header:
    if len(data) < 16:
        raise damaged(path, "it ends inside the header")
    magic, version, count, degree, bits, flags = struct.unpack_from("<IIIBBB", data)
    if magic != _MAGIC:
        raise damaged(path, "it does not begin like an SPZ file")
    if version not in (2, 3, 4):
        raise UserError(
            f"{path} is SPZ version {version}.",
            "Versions 2, 3 and 4 can be read: export it again with one of these.",
        )
    if degree > 4:
        raise damaged(path, f"SH degree {degree} is unknown")
    if bits > 24:
        raise damaged(path, f"{bits} fraction bits do not fit 24-bit positions")
    header = _Header(version, count, degree, bits, flags)
    total = sum(header.sizes())
    if count == 0:
        raise UserError(f"{path} holds no splats.", "Export it again.")
    if count > MOST_SPLATS or total > max(_FREE_BYTES, _MOST_RATIO * file_size):
        raise damaged(
            path, f"its header claims {count} splats, more than {file_size} bytes can hold"
        )
    return header


def decode(data: bytes, path: Path | str = "the SPZ data") -> tuple[Splats, Metadata]:
    """SPZ bytes -> splats in the stored axes ("gltf" unless the file says otherwise, then turned to
    it).
    """
    extension_axes = None
    if data[:2] == b"\x1f\x8b":
        header, streams = _legacy_streams(data, path)
    else:
        header = _parse_header(data, path, len(data))
        if header.version == 4:
            streams, extension_axes = _zstd_streams(data, header, path)
        else:  # a bare, uncompressed version 2 or 3 body
            streams = _split(data[16:], header, path)
    if header.degree == 4:
        log.warning(
            "%s: SH degree 4 is more than this engine keeps; the fourth band is dropped", path
        )
    splats = _unpack(header, streams)
    if extension_axes is not None:
        splats = transform_splats(splats, similarity(extension_axes))
    lossy = LOSSY if header.degree else LOSSY[:3]
    return splats, Metadata(
        axes="gltf", antialiased=bool(header.flags & _ANTIALIASED), source="spz", lossy=lossy
    )


def read(path: Path) -> SplatScene:
    """Raises UserError for damaged files, unknown versions and headers that lie about their
    size.
    """
    splats, metadata = decode(read_bytes(path), path)
    return SplatScene(splats, metadata)


def _split(body: bytes, header: _Header, path: Path | str) -> list[np.ndarray]:
    sizes = header.sizes()
    if len(body) < sum(sizes):
        raise damaged(
            path, f"{header.splats} splats need {sum(sizes)} bytes, there are {len(body)}"
        )
    ends = np.cumsum(sizes)
    view = np.frombuffer(body, np.uint8, count=int(ends[-1]))
    return list(np.split(view, ends[:-1]))


def _legacy_streams(data: bytes, path: Path | str) -> tuple[_Header, list[np.ndarray]]:
    try:
        head = zlib.decompressobj(31).decompress(data, 16)
        header = _parse_header(head, path, len(data))
        if header.version == 4:
            raise damaged(path, "version 4 must not be gzipped")
        inflater = zlib.decompressobj(31)
        body = inflater.decompress(
            data, 16 + sum(header.sizes())
        )  # never more than the header's own size
    except zlib.error as error:
        raise damaged(path, f"the gzip stream is broken ({error})") from error
    return header, _split(body[16:], header, path)


def _zstd_streams(
    data: bytes, header: _Header, path: Path | str
) -> tuple[list[np.ndarray], np.ndarray | None]:
    if len(data) < 32:
        raise damaged(path, "it ends inside the header")
    stream_count, toc = struct.unpack_from("<BI", data, 15)
    sizes = header.sizes() if header.degree else header.sizes()[:5]
    if stream_count < len(sizes) or toc < 32 or toc + 16 * stream_count > len(data):
        raise damaged(path, f"its table of {stream_count} streams at byte {toc} does not fit")
    axes = _extension_axes(data[32:toc], path) if header.flags & _EXTENSIONS else None
    offset = toc + 16 * stream_count
    streams = []
    for i, expected in enumerate(sizes):
        packed, size = struct.unpack_from("<QQ", data, toc + 16 * i)
        if size != expected or offset + packed > len(data):
            raise damaged(
                path, f"stream {i} claims {packed} bytes for {size}; {expected} were expected"
            )
        streams.append(_inflate_zstd(data[offset : offset + packed], expected, path))
        offset += packed
    if len(streams) == 5:
        streams.append(np.empty(0, np.uint8))
    return streams, axes


def _inflate_zstd(packed: bytes, expected: int, path: Path | str) -> np.ndarray:
    try:
        claimed = zstandard.frame_content_size(packed)
        if claimed not in (-1, expected):
            raise damaged(path, f"a stream claims {claimed} bytes where {expected} were expected")
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=expected)
    except zstandard.ZstdError as error:
        raise damaged(path, f"a zstd stream is broken ({error})") from error
    if len(raw) != expected:
        raise damaged(path, f"a stream holds {len(raw)} bytes where {expected} were expected")
    return np.frombuffer(raw, np.uint8)


def _extension_axes(records: bytes, path: Path | str) -> np.ndarray | None:
    """[3, 3] that turns stored axes into x right, y up, z back, or None when nothing is said."""
    offset, axes = 0, None
    while offset + 8 <= len(records):
        kind, size = struct.unpack_from("<II", records, offset)
        payload = records[offset + 8 : offset + 8 + size]
        if len(payload) != size:
            raise damaged(path, "an extension record runs past its zone")
        if kind == _ADOBE_AXES and size == 4:
            (system,) = struct.unpack("<I", payload)
            if 1 <= system <= len(_ADOBE_SYSTEMS):
                axes = np.array(
                    [_DIRECTIONS[letter] for letter in _ADOBE_SYSTEMS[system - 1]], np.float64
                ).T
        else:
            log.info("%s: extension record %#x skipped", path, kind)
        offset += 8 + size
    return axes


def _unpack(header: _Header, streams: list[np.ndarray]) -> Splats:
    n = header.splats
    positions, opacities, colours, scales, rotations, sh = streams
    fixed = positions.reshape(n, 3, 3).astype(np.int32)
    fixed = fixed[:, :, 0] | fixed[:, :, 1] << 8 | fixed[:, :, 2] << 16
    fixed = (fixed ^ 0x800000) - 0x800000  # sign of 24 bits
    coefficients = _SH_COUNTS[header.degree]
    rest = sh.reshape(n, coefficients, 3)[:, : COEFFICIENTS[3]]
    return Splats(
        means=(fixed * (1.0 / (1 << header.fraction_bits))).astype(np.float32),
        quats=_unpack_first_three(rotations)
        if header.version == 2
        else _unpack_smallest_three(rotations),
        scales_log=scales.reshape(n, 3).astype(np.float32) / 16 - 10,
        opacities_logit=logit(opacities / 255.0),
        sh_dc=((colours.reshape(n, 3) / 255.0 - 0.5) / COLOUR_GAIN).astype(np.float32),
        sh_rest=(rest.astype(np.float32) - 128) / 128,
    )


def _unpack_first_three(raw: np.ndarray) -> np.ndarray:
    xyz = raw.reshape(-1, 3).astype(np.float64) / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1).astype(np.float32)


def _unpack_smallest_three(raw: np.ndarray) -> np.ndarray:
    word = raw.reshape(-1, 4).copy().view("<u4")[:, 0]
    field = np.stack(
        [word >> np.uint32(shift) & np.uint32(1023) for shift in (20, 10, 0)], axis=1
    )  # the first kept has the highest bits
    value = (field & 511) * (np.sqrt(0.5) / 511)
    xyzw = from_smallest_three((word >> 30).astype(np.intp), np.where(field & 512, -value, value))
    return np.ascontiguousarray(xyzw[:, [3, 0, 1, 2]])


def _pack_smallest_three(quats: np.ndarray) -> np.ndarray:
    """[n, 4] w x y z -> [n, 4] bytes."""
    largest, three = smallest_three(quats[:, [1, 2, 3, 0]].astype(np.float64))
    size = np.minimum(np.rint(np.abs(three) * (511 / np.sqrt(0.5))), 511).astype(np.uint32) | (
        three < 0
    ).astype(np.uint32) << np.uint32(9)
    word = largest.astype(np.uint32) << 30 | size[:, 0] << 20 | size[:, 1] << 10 | size[:, 2]
    return word.astype("<u4").view(np.uint8).reshape(-1, 4)


def _pack_first_three(quats: np.ndarray) -> np.ndarray:
    q = quats.astype(np.float64) / np.linalg.norm(quats, axis=1, keepdims=True)
    q = np.where(q[:, :1] < 0, -q, q)
    return np.clip(np.rint(q[:, 1:] * 127.5 + 127.5), 0, 255).astype(np.uint8)


def _fraction_bits(farthest: float) -> int | None:
    """Most fraction bits (at most 16) with which this coordinate still fits 24 bits; None if none
    do.
    """
    return next((bits for bits in range(16, -1, -1) if farthest * (1 << bits) <= _MOST_FIXED), None)


def placed(splats: Splats) -> tuple[int, Splats, list[str]]:
    """Fraction bits, the splats as those bits can hold them, and a sentence if floaters had to be
    moved.
    """
    far = floaters(splats.means)
    everything = float(np.abs(splats.means).max())
    bits, core = _fraction_bits(everything), _fraction_bits(float(np.abs(splats.means[~far]).max()))
    if far.any() and core is not None and core > (-1 if bits is None else bits):
        moved = drawn_in(splats, far, _MOST_FIXED / (1 << core))
        return core, moved, [said(int(far.sum()), everything)]
    if bits is None:
        raise UserError(
            f"The splats lie up to {everything:.3g} units away, too far for SPZ.",
            "Move the scene to the origin, or write PLY, glTF or USD.",
        )
    return bits, splats, []


def clamped(splats: Splats) -> int:
    """How many splats have a scale that SPZ cannot hold."""
    scales = splats.scales_log
    return int(((scales < SCALE_LOG_LEAST) | (scales > SCALE_LOG_MOST)).any(axis=1).sum())


def _streams_of(splats: Splats, version: int) -> tuple[int, list[bytes]]:
    bits, splats, moved = placed(splats)
    for sentence in moved:
        log.warning("%s", sentence)
    fixed = np.rint(splats.means.astype(np.float64) * (1 << bits)).astype("<i4")
    if outside := clamped(splats):
        log.warning(
            "SPZ holds scales from e^-10 to e^5.94: those of %d splats are clamped", outside
        )
    streams = [
        np.ascontiguousarray(fixed.view(np.uint8).reshape(-1, 3, 4)[:, :, :3]),
        np.rint(sigmoid(splats.opacities_logit) * 255).astype(np.uint8),
        np.clip(np.rint(splats.sh_dc * (COLOUR_GAIN * 255) + 127.5), 0, 255).astype(np.uint8),
        np.clip(np.rint((splats.scales_log - SCALE_LOG_LEAST) * 16), 0, 255).astype(np.uint8),
        _pack_first_three(splats.quats) if version == 2 else _pack_smallest_three(splats.quats),
        _pack_sh(splats.sh_rest),
    ]
    return bits, [stream.tobytes() for stream in streams]


def _pack_sh(sh_rest: np.ndarray) -> np.ndarray:
    """8 bits of which the lower two are rounded away, for smaller files.

    The reference packer keeps 5 bits in band 1 and 4 above: on a trained scene that is 36 dB, this
    is 46 dB for a file a quarter larger.
    """
    step = 1 << (8 - _SH_BITS)
    level = np.rint(sh_rest * 128).astype(np.int16) + 128
    return np.clip((level + step // 2) // step * step, 0, 255).astype(np.uint8)


def encode(splats: Splats, *, version: int = 4, antialiased: bool = False) -> bytes:
    """Splats in x right, y up, z back -> SPZ bytes of version 2, 3 or 4."""
    if version not in (2, 3, 4):
        raise UserError(f"SPZ version {version} cannot be written.", "Choose 2, 3 or 4.")
    degree = degree_of(splats.sh_rest.shape[1])
    bits, streams = _streams_of(splats, version)
    flags = _ANTIALIASED if antialiased else 0
    head = struct.pack("<IIIBBB", _MAGIC, version, len(splats.means), degree, bits, flags)
    if version < 4:
        return gzip.compress(head + b"\0" + b"".join(streams), compresslevel=4, mtime=0)
    streams = streams if degree else streams[:5]
    compressor = zstandard.ZstdCompressor(
        level=5, threads=2
    )  # higher levels cost double for a hundredth of the size
    packed = [compressor.compress(stream) for stream in streams]
    toc = b"".join(struct.pack("<QQ", len(p), len(s)) for p, s in zip(packed, streams, strict=True))
    return head + struct.pack("<BI12x", len(streams), 32) + toc + b"".join(packed)


def write(path: Path, scene: SplatScene, version: int = 4) -> None:
    """Raises UserError when a position does not fit or the file cannot be written."""
    data = encode(scene.splats, version=version, antialiased=scene.metadata.antialiased)
    with replacing(path) as file:
        file.write(data)
