"""A splat file inside a .gz or a .zip: unpacked to a temporary file, never further than it can
honestly be.

Shared with Blender: standard library and numpy only. Some formats are archives themselves (SPZ,
SOG, USDZ, NPZ); those are left as they are.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from . import ply_table
from .errors import UserError
from .reading import AGAIN, head_of, natural_order, reading
from .whole_file import temporary_folder

SPLAT_ENDINGS = (
    ".ply",
    ".splat",
    ".ksplat",
    ".spz",
    ".sog",
    ".glb",
    ".usdz",
    ".usdc",
    ".usda",
    ".usd",
)
_FREE_BYTES = 64 << 20
_MOST_RATIO = 30  # of anything but a .ply, which says its size; splats are far from empty
_DEFLATE_RATIO = 1100  # deflate cannot do better than 1032:1
_PIECE = 1 << 20
_ZIP_ENTRIES = 100_000


@contextlib.contextmanager
def unpacked(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path itself, or that of the splat file in it while the block lasts.

    UserError for archives without a splat file, with several, or that hold more than they can.
    """
    path = Path(path)
    head = head_of(path)
    if not head.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        yield path
        return
    with temporary_folder() as folder:
        with reading(path):
            unpack = _gunzip if head[:2] == b"\x1f\x8b" else _unzip
            inner = unpack(path, Path(folder))
        yield inner


def _gunzip(path: Path, folder: Path) -> Path:
    """The file in a .gz; the .gz itself when it is an SPZ file."""
    try:
        start = zlib.decompressobj(31).decompress(head_of(path, 4096), 16)
    except zlib.error as error:
        raise UserError(
            f"{path} is damaged: the gzip stream is broken ({error}).", AGAIN
        ) from error
    version = int.from_bytes(start[4:8], "little")
    is_spz = start.startswith(b"NGSP") and version < 4  # version 4 is not packed as a whole
    if is_spz or (path.suffix.lower() == ".spz" and not start.startswith((b"ply", b"NGSP"))):
        return path
    name = path.name[:-3] if path.suffix.lower() == ".gz" else path.name
    with gzip.open(path) as stream:
        return _copy(stream, folder / (name or "scene.ply"), path)


def _unzip(path: Path, folder: Path) -> Path:
    """The one splat file in a .zip; the .zip itself when it is a SOG, a USDZ or an NPZ."""
    with _archive(path) as archive:
        files = [i for i in archive.infolist() if not i.is_dir() and "__MACOSX" not in i.filename]
        names = [info.filename.replace("\\", "/") for info in files]
        if any(name.split("/")[-1] == "meta.json" for name in names):
            return path
        if names and names[0].lower().endswith((".usd", ".usda", ".usdc", ".npy")):
            return path
        if any(name.split("/")[-1] == "data.pkl" for name in names):
            raise UserError(
                f"{path} is a training checkpoint (it can run code, and is never opened).",
                "Export the splats in it as .ply.",
            )
        chosen = _only_splats(names, path)
        if files[chosen].flag_bits & 1:
            raise UserError(
                f"{path} is encrypted.", "Unpack it with its password, and give the file in it."
            )
        with archive.open(files[chosen]) as stream:
            return _copy(stream, folder / names[chosen].split("/")[-1], path)


def _only_splats(names: list[str], path: Path) -> int:
    """Which of an archive's files holds the splats; of a training's folders, the last
    iteration's.
    """
    splats = [i for i, name in enumerate(names) if name.lower().endswith(SPLAT_ENDINGS)]
    if len(splats) > 1:
        clouds = [i for i in splats if names[i].split("/")[-1].lower() == "point_cloud.ply"]
        splats = sorted(clouds, key=lambda i: natural_order(names[i]))[-1:] or splats
    if len(splats) != 1:
        what = f"{len(splats)} splat files" if splats else "no splat file"
        raise UserError(
            f"{path} is a zip archive with {what} ({', '.join(names[:5]) or 'it is empty'}).",
            "Unpack it, and give the splat file itself.",
        )
    return splats[0]


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is a broken zip archive ({error}).", AGAIN) from error
    if len(archive.infolist()) > _ZIP_ENTRIES:
        archive.close()
        raise UserError(
            f"{path} is a zip archive of {len(archive.infolist())} files.",
            "Give the splat file itself.",
        )
    return archive


def _copy(stream: IO[bytes] | gzip.GzipFile, target: Path, path: Path) -> Path:
    """Unpack piece by piece, up to what the head of the unpacked file says, or a sound share of
    the archive.
    """
    packed = os.path.getsize(path)
    piece = stream.read(_PIECE)
    most, honest = _FREE_BYTES + _MOST_RATIO * packed, False
    if piece[:3] == b"ply":
        header = ply_table.parse_header(piece, path)
        body = header.body_size()
        if body is not None:
            if body > _DEFLATE_RATIO * packed:
                raise UserError(
                    f"{path} is damaged: it claims {body:,} bytes in {packed:,}.", AGAIN
                )
            # one byte more tells of a tail without reading it
            most, honest = header.size + body + 1, True
    with target.open("wb") as file:
        left = most
        while piece and left:
            file.write(piece[:left])
            left -= min(left, len(piece))
            piece = stream.read(_PIECE)
    if not left and not honest:
        raise UserError(
            f"{path} unpacks to more than {most / 1e6:,.0f} MB.",
            "Unpack it yourself if you trust it.",
        )
    return target
