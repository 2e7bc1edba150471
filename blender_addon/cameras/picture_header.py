"""Size, orientation and lens of a picture, from the head of its file. No bpy.

Blender knows a picture's size only after it has read the whole of it, shows photos as the sensor
lay and not as the camera was held, and does not tell the lens. The engine turns pictures upright;
here is what that will come to, for JPEG, PNG, TIFF, WebP and EXR, by the same rules: EXIF first,
XMP where EXIF does not tell the turn, the lens by its 35 mm equivalent, else by the density of the
sensor.
"""

from __future__ import annotations

import functools
import math
import re
import struct
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

_DIAGONAL_MM = math.hypot(
    36.0, 24.0
)  # of the frame that FocalLengthIn35mmFilm speaks of (CIPA DC-008)
_WIDTH, _HEIGHT, _ORIENTATION, _XMP, _EXIF_IFD = 0x100, 0x101, 0x112, 700, 0x8769
_FOCAL, _TAKEN_WIDTH, _FOCAL_35MM = 0x920A, 0xA002, 0xA405
_DENSITY, _DENSITY_UNIT = 0xA20E, 0xA210
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_TYPES = {3: "H", 4: "I"}  # SHORT and LONG of TIFF 6.0
_RATIONAL, _BYTES = 5, (1, 7)
_XMP_TURN = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
_FOV_LIMITS = 2.0, 160.0  # others are a damaged tag
_LONGEST_TEXT = 1 << 22  # of a PNG
_KNOWN = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".exr")
_LYING = (5, 6, 7, 8)  # orientations whose width and height change places


class Header(NamedTuple):
    """What the engine will make of the picture."""

    width: int  # of the upright picture
    height: int
    orientation: int  # EXIF's or XMP's, 1 to 8; 1: the file is upright
    fov_deg: float | None  # horizontal, of the upright picture

    @property
    def lies(self) -> bool:
        """Whether the file's width is the upright picture's height."""
        return self.orientation in _LYING


def read(path: Path) -> Header | None:
    """The header of a picture file; None where the file is not there, is damaged, or of a kind that
    is not known here.
    """
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
    except (OSError, struct.error, ValueError, zlib.error):
        pass
    return None


def damage(path: Path) -> str:
    """Why a picture file can certainly not be read, or an empty text; whole files are not decoded
    here.
    """
    try:
        found = path.stat()
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return _damage(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=16)
def _damage(path: Path, _changed: int, size: int) -> str:
    if size == 0:
        return f"{path.name} is empty"
    if path.suffix.lower() not in _KNOWN:
        return ""
    try:
        if not _is_whole(path, size):
            return f"{path.name} is cut short: copy or save it again"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if read(path) is None:
        return f"{path.name} is damaged, or no picture of the kind that its name says"
    return ""


def _is_whole(path: Path, size: int) -> bool:
    """Whether the end of the file is there, for kinds that mark it."""
    with path.open("rb") as file:
        start = file.read(12)
        if start[:2] == b"\xff\xd8":
            file.seek(max(0, size - (1 << 16)))
            if b"\xff\xd9" in file.read():
                return True
            file.seek(2)  # something long follows the picture, or nothing at all
            return b"\xff\xd9" in file.read()
        if start[:8] == b"\x89PNG\r\n\x1a\n":
            file.seek(8)
            while len(head := file.read(8)) == 8:
                length, kind = struct.unpack(">I4s", head)
                if kind == b"IEND":
                    return True
                file.seek(length + 4, 1)
            return False
        if start[:4] == b"RIFF":
            return int.from_bytes(start[4:8], "little") + 8 <= size
    return True


def upright(picture: np.ndarray, orientation: int) -> np.ndarray:
    """A picture [h, w, ...] of a file with this EXIF orientation, as the camera was held."""
    if orientation in (2, 3):
        picture = picture[:, ::-1]
    if orientation in (3, 4):
        picture = picture[::-1]
    if orientation in _LYING:
        picture = picture.swapaxes(0, 1)
        if orientation in (6, 7):
            picture = picture[:, ::-1]
        if orientation in (7, 8):
            picture = picture[::-1]
    return picture


def names_other_primaries(path: Path) -> bool:
    """Whether an EXR file says that its light has other primaries than Rec. 709. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if b"\0colorInteropID\0" in head:  # colour interop forum; Blender writes it since 5.0
        return b"lin_rec709_scene" not in head
    return b"\0chromaticities\0" in head


def _made(width: int, height: int, tags: dict[int, float], xmp: bytes = b"") -> Header | None:
    if width <= 0 or height <= 0:
        return None
    turn = _XMP_TURN.search(xmp) if _ORIENTATION not in tags else None
    orientation = int(turn[1]) if turn else int(tags.get(_ORIENTATION, 1))
    orientation = orientation if 1 <= orientation <= 8 else 1
    focal_px = _focal_px(width, height, tags)
    if orientation in _LYING:
        width, height = height, width
    fov = math.degrees(2 * math.atan(width / 2 / focal_px)) if focal_px > 0 else 0.0
    return Header(
        width, height, orientation, fov if _FOV_LIMITS[0] <= fov <= _FOV_LIMITS[1] else None
    )


def _focal_px(width: int, height: int, tags: dict[int, float]) -> float:
    """Focal length in pixels of the picture as it lies in the file; 0 where the file does not
    tell.
    """
    if tags.get(_FOCAL_35MM, 0) > 0:
        return tags[_FOCAL_35MM] / _DIAGONAL_MM * math.hypot(width, height)
    focal_mm, density = tags.get(_FOCAL, 0), tags.get(_DENSITY, 0)
    if focal_mm <= 0 or density <= 0:
        return 0.0
    unit_mm = _UNIT_MM.get(int(tags.get(_DENSITY_UNIT, 2)), 25.4)
    taken = tags.get(_TAKEN_WIDTH, 0) or width  # the density is of the picture as taken
    return focal_mm / unit_mm * density * width / taken


def _jpeg(file: IO[bytes]) -> Header | None:
    """Segments of marker and length (ITU T.81, annex B) up to the frame header; APP1 holds EXIF."""
    tags: dict[int, float] = {}
    xmp = b""
    file.seek(2)
    while True:
        marker, length = struct.unpack(">HH", file.read(4))
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            _, height, width = struct.unpack(">BHH", file.read(5))
            return _made(width, height, tags, xmp)
        if marker >> 8 != 0xFF or length < 2:
            return None
        body = file.read(length - 2)
        if marker == 0xFFE1 and body[:6] == b"Exif\0\0":
            tags |= _tags(body[6:])
        elif marker == 0xFFE1 and body.startswith(_XMP_NAME):
            xmp = body[len(_XMP_NAME) :]


def _png(file: IO[bytes]) -> Header | None:
    """All chunks but those of pixels; eXIf, or text of old programs, holds EXIF, and may come
    last.
    """
    file.seek(8)
    size, xmp = (0, 0), b""
    tags: dict[int, float] = {}
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IHDR":
            size = struct.unpack(">II", file.read(8))
            file.seek(length - 8 + 4, 1)
        elif kind == b"eXIf":
            tags = _tags(file.read(length))
            file.seek(4, 1)
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and length < _LONGEST_TEXT:
            name, text = _png_text(kind, file.read(length))
            file.seek(4, 1)
            if name == b"XML:com.adobe.xmp":
                xmp = text
            elif name == b"Raw profile type exif" and not tags:
                raw = bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
                tags = _tags(raw.removeprefix(b"Exif\0\0"))
        elif kind == b"IEND":
            return _made(*size, tags, xmp)
        else:
            file.seek(length + 4, 1)


def _png_text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Keyword and text of a tEXt, zTXt or iTXt chunk (PNG, 11.3.3)."""
    name, _, rest = body.partition(b"\0")
    if kind == b"zTXt":
        return name, zlib.decompress(rest[1:])
    if kind == b"iTXt":
        packed, (_, _, text) = rest[:1] == b"\1", (rest[2:].split(b"\0", 2) + [b""] * 3)[:3]
        return name, zlib.decompress(text) if packed else text
    return name, rest


def _tiff(file: IO[bytes]) -> Header | None:
    data = file.read()  # the directory may stand at its end
    tags = _tags(data)
    return _made(int(tags.get(_WIDTH, 0)), int(tags.get(_HEIGHT, 0)), tags, _tiff_xmp(data))


def _tiff_xmp(data: bytes) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, place)
    for index in range(count):
        tag, kind, values, start = struct.unpack_from(order + "HHII", data, place + 2 + 12 * index)
        if tag == _XMP and kind in _BYTES:
            return data[start : start + values]
    return b""


def _exr(data: bytes) -> Header | None:
    """Attributes of name, type, length and value from byte 8 on (OpenEXR File Layout); the data
    window is what the engine reads.
    """
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
    """The canvas, or the size of the only frame; EXIF and XMP stand at the file's end."""
    file.seek(12)
    kind = file.read(4)
    file.seek(20)
    head = file.read(10)
    if len(head) < 10:
        return None
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (4, 7))
        return _made(width, height, *_riff_metadata(file))
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return _made(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), {})
    width, height = struct.unpack("<HH", head[6:10])
    return _made(width & 0x3FFF, height & 0x3FFF, {})


def _riff_metadata(file: IO[bytes]) -> tuple[dict[int, float], bytes]:
    """Tags of EXIF, and XMP, from the chunks of a WebP file."""
    tags: dict[int, float] = {}
    xmp, place = b"", 12
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return tags, xmp
        kind, length = head[:4], int.from_bytes(head[4:], "little")
        if kind == b"EXIF":
            tags = _tags(file.read(length).removeprefix(b"Exif\0\0"))
        elif kind == b"XMP ":
            xmp = file.read(length)
        place += 8 + length + length % 2


def _tags(data: bytes) -> dict[int, float]:
    """Numbers of the first directory of a TIFF structure, and of its EXIF directory."""
    order = "<" if data[:2] == b"II" else ">"
    found = _directory(data, order, *struct.unpack(order + "I", data[4:8]))
    return found | (_directory(data, order, int(found[_EXIF_IFD])) if _EXIF_IFD in found else {})


def _directory(data: bytes, order: str, place: int) -> dict[int, float]:
    found: dict[int, float] = {}
    (count,) = struct.unpack_from(order + "H", data, place)
    for index in range(count):
        tag, kind, values, raw = struct.unpack_from(order + "HHI4s", data, place + 2 + 12 * index)
        if values != 1:
            continue
        if kind in _TYPES:
            (found[tag],) = struct.unpack_from(order + _TYPES[kind], raw)
        elif kind == _RATIONAL:
            at = struct.unpack(order + "I", raw)[0]
            if at + 8 <= len(data):
                above, below = struct.unpack_from(order + "II", data, at)
                found[tag] = above / below if below else 0.0
    return found
