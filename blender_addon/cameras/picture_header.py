"""Size, orientation and lens of a picture, from the head of its file. No bpy.

Blender knows a picture's size only after it has read the whole of it, shows photos as the sensor lay
and not as the camera was held, and does not tell the lens. The engine turns pictures upright; here is
what that will come to, for JPEG, PNG, TIFF, WebP and EXR.
"""

from __future__ import annotations

import functools
import math
import struct
from pathlib import Path
from typing import IO, NamedTuple

_DIAGONAL_MM = math.hypot(
    36.0, 24.0
)  # of the frame that FocalLengthIn35mmFilm speaks of (CIPA DC-008)
_WIDTH, _HEIGHT, _ORIENTATION, _EXIF_IFD, _FOCAL_35MM = 0x100, 0x101, 0x112, 0x8769, 0xA405
_TYPES = {3: "H", 4: "I"}  # SHORT and LONG of TIFF 6.0
_LYING = (5, 6, 7, 8)  # orientations whose width and height change places


class Header(NamedTuple):
    """What the engine will make of the picture."""

    width: int  # of the upright picture
    height: int
    orientation: int  # EXIF's, 1 to 8; 1: the file is upright
    fov_deg: float | None  # horizontal, of the upright picture

    @property
    def lies(self) -> bool:
        """Whether the file's width is the upright picture's height."""
        return self.orientation in _LYING


def read(path: Path) -> Header | None:
    """The header of a picture file; None where the file is not there, is damaged, or of a kind that is not known here."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    return _read(path, changed)


@functools.lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> Header | None:
    """Once for every version of a file: the panel asks at every drawing."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
            file.seek(0)
            if start[:2] == b"\xff\xd8":
                return _jpeg(file)
            if start[:8] == b"\x89PNG\r\n\x1a\n":
                return _png(file)
            if start[:4] in (b"II*\0", b"MM\0*"):
                return _tiff(file)
            if start[:4] == b"\x76\x2f\x31\x01":
                return _exr(file.read(1 << 16))
            if start[:4] == b"RIFF" and start[8:] == b"WEBP":
                return _webp(file)
    except (OSError, struct.error, ValueError):
        pass
    return None


def names_other_primaries(path: Path) -> bool:
    """Whether an EXR file says that its light has other primaries than Rec. 709. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if b"\0colorInteropID\0" in head:  # colour interop forum; Blender writes it since 5.0
        return b"lin_rec709_scene" not in head
    return b"\0chromaticities\0" in head


def _made(width: int, height: int, tags: dict[int, int]) -> Header | None:
    if width <= 0 or height <= 0:
        return None
    orientation = tags.get(_ORIENTATION, 1)
    orientation = orientation if 1 <= orientation <= 8 else 1
    if orientation in _LYING:
        width, height = height, width
    fov, focal_mm = None, tags.get(_FOCAL_35MM, 0)
    if focal_mm > 0:
        fov = math.degrees(
            2 * math.atan(width / 2 / (focal_mm / _DIAGONAL_MM * math.hypot(width, height)))
        )
    return Header(width, height, orientation, fov)


def _jpeg(file: IO[bytes]) -> Header | None:
    """Segments of marker and length (ITU T.81, annex B) up to the frame header; APP1 holds EXIF."""
    tags: dict[int, int] = {}
    file.seek(2)
    while True:
        marker, length = struct.unpack(">HH", file.read(4))
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            _, height, width = struct.unpack(">BHH", file.read(5))
            return _made(width, height, tags)
        if marker >> 8 != 0xFF or length < 2:
            return None
        body = file.read(length - 2)
        if marker == 0xFFE1 and body[:6] == b"Exif\0\0":
            tags |= _tags(body[6:])


def _png(file: IO[bytes]) -> Header | None:
    """Chunks up to the first of pixels; eXIf holds EXIF."""
    file.seek(8)
    size, tags = (0, 0), {}
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IHDR":
            size = struct.unpack(">II", file.read(8))
            file.seek(length - 8 + 4, 1)
        elif kind == b"eXIf":
            tags = _tags(file.read(length))
            file.seek(4, 1)
        elif kind in (b"IDAT", b"IEND"):
            return _made(*size, tags)
        else:
            file.seek(length + 4, 1)


def _tiff(file: IO[bytes]) -> Header | None:
    tags = _tags(file.read(1 << 20))
    return _made(tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0), tags)


def _exr(data: bytes) -> Header | None:
    """Attributes of name, type, length and value from byte 8 on (OpenEXR File Layout); the data window is what the engine reads."""
    place = 8
    while data[place : place + 1] not in (b"", b"\0"):
        name, kind, rest = data[place:].split(b"\0", 2)
        (length,) = struct.unpack_from("<I", rest)
        value = rest[4 : 4 + length]
        if name == b"dataWindow":
            left, top, right, bottom = struct.unpack("<4i", value)
            return _made(right - left + 1, bottom - top + 1, {})
        place += len(name) + len(kind) + 2 + 4 + length
    return None


def _webp(file: IO[bytes]) -> Header | None:
    """The canvas, or the size of the only frame. EXIF is a chunk of its own, most often the last."""
    file.seek(12)
    kind = file.read(4)
    file.seek(20)
    head = file.read(10)
    if len(head) < 10:
        return None
    if kind == b"VP8X":
        tags = _webp_exif(file) if head[0] & 0x08 else {}
        return _made(
            1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little"), tags
        )
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return _made(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), {})
    width, height = struct.unpack("<HH", head[6:10])
    return _made(width & 0x3FFF, height & 0x3FFF, {})


def _webp_exif(file: IO[bytes]) -> dict[int, int]:
    """The tags of the EXIF chunk; chunks have a name, a length and an even number of bytes (RFC 9649)."""
    file.seek(12)
    for _ in range(10_000):
        head = file.read(8)
        if len(head) < 8:
            break
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            data = file.read(size)
            return _tags(data[6:] if data[:6] == b"Exif\0\0" else data)
        file.seek(size + size % 2, 1)
    return {}


def _tags(data: bytes) -> dict[int, int]:
    """Whole numbers of the first directory of a TIFF structure, and of its EXIF directory."""
    order = "<" if data[:2] == b"II" else ">"
    found = _directory(data, order, *struct.unpack(order + "I", data[4:8]))
    return found | (_directory(data, order, found[_EXIF_IFD]) if _EXIF_IFD in found else {})


def _directory(data: bytes, order: str, place: int) -> dict[int, int]:
    found: dict[int, int] = {}
    (count,) = struct.unpack_from(order + "H", data, place)
    for index in range(count):
        tag, kind, values, raw = struct.unpack_from(order + "HHI4s", data, place + 2 + 12 * index)
        if kind in _TYPES and values == 1:
            (found[tag],) = struct.unpack_from(order + _TYPES[kind], raw)
    return found
