"""PlayCanvas' SOG version 2: reading (.sog zip, or meta.json with its pictures), writing by splat-transform.

Lossless WebP pictures hold one splat a pixel: means_l and means_u the low and high byte of
sign(x) ln(1 + |x|) between limits, quats the three smallest components of w x y z and the index of
the largest as alpha 252..255, scales and sh0 indices into codebooks of 256 (sh0's alpha is the
opacity), shN a palette of coefficients with a 16-bit label a splat. Coordinates are those of the
.ply that was packed, so OpenCV's. Nothing is taken from outside the archive or folder.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError
from ..sh_rotation import COEFFICIENTS
from ..splat_file import Splats, write_ply
from .scene import MOST_SPLATS, Metadata, SplatScene, damaged, logit, read_bytes, replacing_path

LOSSY = ("positions to 16 bits", "scales and colours to codebooks of 256", "rotations to 8 bits", "SH to a palette")
_META_LIMIT = 16 << 20
_PICTURE_LIMIT = 1 << 30
_PALETTE_WIDTH = 64
_TOOL = "SPLAT_TRANSFORM"  # environment: where the command is, when it is not on PATH
_TIMEOUT_S = 3600

Loader = Callable[[str, int], bytes]


def read(path: Path) -> SplatScene:
    """A .sog, a meta.json, or the folder of one. UserError for damage, lies about sizes and paths that lead out."""
    path = Path(path)
    if path.is_dir():
        path = path / "meta.json"
    if not zipfile.is_zipfile(path):
        folder = path.parent
        return _decode(path, path.name, lambda name, limit: _limited(folder / name, limit))
    try:
        with zipfile.ZipFile(path) as archive:
            return _decode(path, "meta.json", lambda name, limit: _from_zip(archive, name, limit, path))
    except zipfile.BadZipFile as error:
        raise damaged(path, f"the zip archive is broken ({error})") from error


def _limited(path: Path, limit: int) -> bytes:
    if path.is_file() and path.stat().st_size > limit:
        raise damaged(path, f"it is larger than {limit} bytes")
    return read_bytes(path)


def _from_zip(archive: zipfile.ZipFile, name: str, limit: int, path: Path) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise damaged(path, f"it has no {name}") from error
    if info.file_size > limit:
        raise damaged(path, f"{name} claims {info.file_size} bytes")
    if info.flag_bits & 1:
        raise UserError(f"{path} is encrypted.", "Export it again without a password.")
    try:
        with archive.open(info) as file:
            data = file.read(limit + 1)  # the header's size may lie
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise damaged(path, f"{name} cannot be unpacked ({error})") from error
    if len(data) > limit:
        raise damaged(path, f"{name} is larger than it says")
    return data


def _decode(path: Path, meta_name: str, load: Loader) -> SplatScene:
    try:
        meta = json.loads(load(meta_name, _META_LIMIT))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"meta.json cannot be read ({error})") from error
    if not isinstance(meta, dict) or meta.get("version") != 2:
        raise UserError(f"{path} is not SOG version 2.", "Convert it with a current splat-transform or SuperSplat.")
    count = meta.get("count")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_SPLATS:
        raise damaged(path, f"it claims {count!r} splats")
    try:
        splats = _splats(meta, count, lambda section, i: _picture(meta[section]["files"][i], load, path), path)
    except (KeyError, TypeError, IndexError) as error:
        raise damaged(path, f"meta.json lacks something ({error!r})") from error
    return SplatScene(splats, Metadata(antialiased=meta.get("model") == "antialiased", source="sog", lossy=LOSSY))


def _picture(name: Any, load: Loader, path: Path) -> np.ndarray:
    """[pixels, 4] uint8, with the picture's width as its own first axis: returned as [h, w, 4]."""
    if not isinstance(name, str) or name != Path(name).name or "\\" in name or ":" in name or name in ("", ".", ".."):
        raise UserError(f"{path} names a picture outside itself: {name!r}.", "Do not open it; ask for a clean export.")
    try:
        with Image.open(io.BytesIO(load(name, _PICTURE_LIMIT)), formats=("WEBP", "PNG")) as picture:
            if picture.width * picture.height > MOST_SPLATS + 65536:
                raise damaged(path, f"{name} is {picture.width} x {picture.height} pixels")
            return np.asarray(picture.convert("RGBA"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise damaged(path, f"the picture {name} cannot be decoded ({error})") from error


def _codebook(values: Any, path: Path) -> np.ndarray:
    book = np.asarray(values, np.float32)
    if book.shape != (256,) or not np.isfinite(book).all():
        raise damaged(path, "a codebook does not hold 256 numbers")
    return book


def _splats(meta: dict[str, Any], count: int, picture: Callable[[str, int], np.ndarray], path: Path) -> Splats:
    def pixels(section: str, index: int = 0) -> np.ndarray:
        flat = picture(section, index).reshape(-1, 4)
        if len(flat) < count:
            raise damaged(path, f"{section} has {len(flat)} pixels for {count} splats")
        return flat[:count]

    limits = np.array([meta["means"]["mins"], meta["means"]["maxs"]], np.float64)
    if limits.shape != (2, 3) or not np.isfinite(limits).all() or np.abs(limits).max() > 80:
        raise damaged(path, "its position limits make no sense")
    span = np.where(limits[1] == limits[0], 1.0, limits[1] - limits[0])
    level = pixels("means", 0)[:, :3] + pixels("means", 1)[:, :3].astype(np.float64) * 256
    logarithm = limits[0] + span * (level / 65535)
    colour = pixels("sh0")
    return Splats(
        means=(np.sign(logarithm) * np.expm1(np.abs(logarithm))).astype(np.float32),
        quats=_quaternions(pixels("quats")),
        scales_log=_codebook(meta["scales"]["codebook"], path)[pixels("scales")[:, :3]],
        opacities_logit=logit(colour[:, 3] / 255.0),
        sh_dc=_codebook(meta["sh0"]["codebook"], path)[colour[:, :3]],
        sh_rest=_harmonics(meta, count, picture, pixels, path),
    )


def _quaternions(raw: np.ndarray) -> np.ndarray:
    tag = raw[:, 3].astype(np.int64) - 252
    three = (raw[:, :3] / 255.0 * 2 - 1) * np.sqrt(0.5)
    rows = np.arange(len(raw))[:, None]
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[np.maximum(tag, 0)]
    quats = np.zeros((len(raw), 4))
    quats[rows, others] = three
    quats[rows[:, 0], np.maximum(tag, 0)] = np.sqrt(np.maximum(0, 1 - (three**2).sum(axis=1)))
    quats[tag < 0] = (1, 0, 0, 0)  # an unknown tag means nothing; other readers do the same
    return quats.astype(np.float32)


def _harmonics(meta: dict[str, Any], count: int, picture: Callable, pixels: Callable, path: Path) -> np.ndarray:
    said = meta.get("shN")
    if not said:
        return np.zeros((count, 0, 3), np.float32)
    bands = said["bands"]
    if isinstance(bands, bool) or bands not in (1, 2, 3):
        raise damaged(path, f"SH degree {bands!r} is unknown")
    k = COEFFICIENTS[bands]
    book = _codebook(said["codebook"], path)
    centroids = picture("shN", 0)
    if centroids.shape[1] != _PALETTE_WIDTH * k:
        raise damaged(path, f"the SH palette is {centroids.shape[1]} pixels wide, not {_PALETTE_WIDTH * k}")
    palette = book[centroids[..., :3].reshape(-1, k, 3)]  # row by row, 64 entries of k pixels each
    labels = pixels("shN", 1)
    label = labels[:, 0].astype(np.int64) | labels[:, 1].astype(np.int64) << 8
    if label.max() >= len(palette):
        raise damaged(path, f"an SH label {label.max()} lies beyond the palette of {len(palette)}")
    return palette[label].astype(np.float32)


def tool() -> list[str]:
    """The splat-transform command. UserError with the way to get it when it is not there."""
    named = os.environ.get(_TOOL)
    found = named if named and Path(named).is_file() else shutil.which("splat-transform")
    if not found:
        raise UserError(
            "Writing SOG needs PlayCanvas' splat-transform, which is not installed.",
            f"Install Node.js, run: npm install -g @playcanvas/splat-transform, or name the command in {_TOOL}.",
        )
    return [found]


def write(path: Path, scene: SplatScene) -> None:
    """A bundled .sog, or meta.json with pictures beside it, made by splat-transform on the CPU."""
    path = Path(path)
    command = tool()
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist.", "Create it, or choose another place.")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, target = Path(folder) / "in.ply", Path(folder) / "out" / path.name
        target.parent.mkdir()
        write_ply(source, scene.splats)
        try:
            done = subprocess.run(
                [*command, "-q", "-w", "-g", "cpu", str(source), str(target)],
                capture_output=True, text=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"splat-transform did not run: {error}.", "Check the installation of Node.js and splat-transform.") from error
        if done.returncode != 0 or not target.is_file():
            tail = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise UserError(f"splat-transform failed: {tail[0]}", "Run it by hand on a .ply to see more.")
        others = [made for made in target.parent.iterdir() if made != target]
        for made in [*others, target]:  # meta.json last: it is what makes the pictures a scene
            with replacing_path(path.parent / made.name) as final:
                os.replace(made, final)
