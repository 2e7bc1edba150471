"""PlayCanvas' SOG version 2: a .sog zip, or meta.json with its pictures.

Lossless WebP pictures hold one splat a pixel: means_l and means_u the low and high byte of
sign(x) ln(1 + |x|) between limits, quats the three smallest components of w x y z and the index of
the largest as alpha 252..255, scales and sh0 indices into codebooks of 256 (sh0's alpha is the
opacity), shN a palette of coefficients with a 16-bit label a splat. Coordinates are those of the
.ply that was packed, so OpenCV's. Nothing is taken from outside the archive or folder.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..bridge.errors import UserError
from ..bridge.harmonics import COEFFICIENTS, degree_of
from ..bridge.splat_file import Splats
from ..bridge.splats import sigmoid
from ..bridge.whole_file import replacing
from ..scene.morton import morton_order
from .packing import from_smallest_three, smallest_three
from .palette import codebook, nearest_level, palette
from .scene import MOST_SPLATS, Metadata, SplatScene, damaged, logit, read_bytes

LOSSY = (
    "positions to 16 bits",
    "scales and colours to codebooks of 256",
    "rotations to 8 bits",
    "SH to a palette",
)
_META_LIMIT = 16 << 20
_FREE_BYTES = 8 << 20  # of a picture, beside eight bytes a splat
_SPLATS_A_BYTE = 8  # of the whole file; real ones need fifteen bytes a splat
_PALETTE_WIDTH = 64
_PALETTE_LIMIT = 65536  # labels have 16 bits
_EFFORT = 2  # of the WebP encoder: more costs double for a few hundredths of the size

Loader = Callable[[str, int], bytes]


def read(path: Path) -> SplatScene:
    """A .sog, a meta.json, or the folder of one. UserError for damage, lies about sizes and paths
    that lead out.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "meta.json"
    if not zipfile.is_zipfile(path):
        folder = path.parent
        return _decode(path, path.name, lambda name, limit: _limited(folder / name, limit))
    try:
        with zipfile.ZipFile(path) as archive:
            return _decode(
                path, "meta.json", lambda name, limit: _from_zip(archive, name, limit, path)
            )
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
        raise UserError(
            f"{path} is not SOG version 2.",
            "Convert it with a current splat-transform or SuperSplat.",
        )
    count = meta.get("count")
    most = min(MOST_SPLATS, 100_000 + _SPLATS_A_BYTE * _size_of(path))
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise damaged(path, f"it claims {str(count)[:40]} splats")
    try:
        splats = _splats(
            meta,
            count,
            lambda section, i: _picture(meta[section]["files"][i], load, path, count),
            path,
        )
    except (KeyError, TypeError, IndexError) as error:
        raise damaged(path, f"meta.json lacks something ({error!r})") from error
    return SplatScene(
        splats, Metadata(antialiased=meta.get("model") == "antialiased", source="sog", lossy=LOSSY)
    )


def _size_of(path: Path) -> int:
    """Bytes of the archive, or of all pictures beside a meta.json."""
    if path.name != "meta.json":
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())


def _picture(name: Any, load: Loader, path: Path, count: int) -> np.ndarray:
    """[pixels, 4] uint8, with the picture's width as its own first axis: returned as [h, w, 4]."""
    if (
        not isinstance(name, str)
        or name != Path(name).name
        or "\\" in name
        or ":" in name
        or name in ("", ".", "..")
    ):
        raise UserError(
            f"{path} names a picture outside itself: {name!r}.",
            "Do not open it; ask for a clean export.",
        )
    try:
        with Image.open(
            io.BytesIO(load(name, _FREE_BYTES + 8 * count)), formats=("WEBP", "PNG")
        ) as picture:
            if picture.width * picture.height > 4 * count + _FREE_BYTES // 4:
                raise damaged(path, f"{name} is {picture.width} x {picture.height} pixels")
            return np.asarray(picture.convert("RGBA"))
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        raise damaged(path, f"the picture {name} cannot be decoded ({error})") from error


def _codebook(values: Any, path: Path) -> np.ndarray:
    book = np.asarray(values, np.float32)
    if book.shape != (256,) or not np.isfinite(book).all():
        raise damaged(path, "a codebook does not hold 256 numbers")
    return book


def _splats(
    meta: dict[str, Any], count: int, picture: Callable[[str, int], np.ndarray], path: Path
) -> Splats:
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
    tag = raw[:, 3].astype(np.intp) - 252
    quats = from_smallest_three(np.maximum(tag, 0), (raw[:, :3] / 255.0 * 2 - 1) * np.sqrt(0.5))
    quats[tag < 0] = (1, 0, 0, 0)  # an unknown tag means nothing; other readers do the same
    return quats


def _harmonics(
    meta: dict[str, Any], count: int, picture: Callable, pixels: Callable, path: Path
) -> np.ndarray:
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
        raise damaged(
            path, f"the SH palette is {centroids.shape[1]} pixels wide, not {_PALETTE_WIDTH * k}"
        )
    palette = book[centroids[..., :3].reshape(-1, k, 3)]  # row by row, 64 entries of k pixels each
    labels = pixels("shN", 1)
    label = labels[:, 0].astype(np.int64) | labels[:, 1].astype(np.int64) << 8
    if label.max() >= len(palette):
        raise damaged(path, f"an SH label {label.max()} lies beyond the palette of {len(palette)}")
    return palette[label].astype(np.float32)


# ---- writing


def write(path: Path, scene: SplatScene) -> None:
    """A bundled .sog, or a meta.json with its pictures beside it. UserError when the files cannot
    be written.
    """
    path = Path(path)
    files = _encoded(scene)
    if path.name == "meta.json":
        for (
            name,
            data,
        ) in files.items():  # meta.json comes last: it is what makes the pictures a scene
            with replacing(path.parent / name) as file:
                file.write(data)
        return
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def _encoded(scene: SplatScene) -> dict[str, bytes]:
    """Name -> bytes of every file, meta.json last. Splats go in Morton order, so that neighbours
    are alike.
    """
    s = Splats(
        *(array[order] for order in (morton_order(scene.splats.means),) for array in scene.splats)
    )
    means = np.sign(s.means) * np.log1p(np.abs(s.means.astype(np.float64)))
    low, high = means.min(axis=0), means.max(axis=0)
    level = np.rint((means - low) / np.where(high > low, high - low, 1.0) * 65535).astype(np.uint16)
    scales, colours = codebook(s.scales_log), codebook(s.sh_dc)
    opacity = np.rint(sigmoid(s.opacities_logit) * 255).astype(np.uint8)
    pictures = {
        "means_l": _square(level & 255),
        "means_u": _square(level >> 8),
        "quats": _square(_packed_quaternions(s.quats)),
        "scales": _square(nearest_level(s.scales_log, scales)),
        "sh0": _square(np.concatenate([nearest_level(s.sh_dc, colours), opacity[:, None]], axis=1)),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "Scene Splatter"},
        "count": scene.count,
        "antialias": scene.metadata.antialiased,
        "means": {
            "mins": low.tolist(),
            "maxs": high.tolist(),
            "files": ["means_l.webp", "means_u.webp"],
        },
        "scales": {"codebook": scales.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colours.tolist(), "files": ["sh0.webp"]},
    }
    if s.sh_rest.shape[1]:
        meta["shN"], more = _packed_harmonics(s.sh_rest)
        pictures |= more
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = dict(
            zip(
                (f"{name}.webp" for name in pictures),
                pool.map(_webp, pictures.values()),
                strict=True,
            )
        )
    return files | {"meta.json": json.dumps(meta, allow_nan=False).encode()}


def _packed_quaternions(quats: np.ndarray) -> np.ndarray:
    """[n, 4] w x y z -> [n, 4] uint8."""
    largest, three = smallest_three(quats)
    return np.column_stack([np.rint((three * np.sqrt(2) + 1) * 127.5), 252 + largest]).astype(
        np.uint8
    )


def _packed_harmonics(sh_rest: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """[n, k, 3] -> the shN section and its two pictures."""
    n, k, _ = sh_rest.shape
    size = min(_PALETTE_LIMIT, 1 << (n.bit_length() - 1))
    entries, label = palette(sh_rest.reshape(n, 3 * k), size)
    book = codebook(entries)
    rows = -(-len(entries) // _PALETTE_WIDTH)
    pixels = np.zeros((rows * _PALETTE_WIDTH * k, 3), np.uint8)
    pixels[: len(entries) * k] = nearest_level(entries, book).reshape(-1, 3)
    section = {
        "count": len(entries),
        "bands": degree_of(k),
        "codebook": book.tolist(),
        "files": ["shN_centroids.webp", "shN_labels.webp"],
    }
    labels = np.column_stack([label & 255, label >> 8, np.zeros(n, np.int64)])
    return section, {
        "shN_centroids": _opaque(pixels).reshape(rows, _PALETTE_WIDTH * k, 4),
        "shN_labels": _square(labels),
    }


def _opaque(values: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [values.astype(np.uint8), np.full((len(values), 1), 255, np.uint8)], axis=1
    )


def _square(values: np.ndarray) -> np.ndarray:
    """[n, 3 or 4] -> a picture [h, w, 4] uint8 that is about square, sides multiples of four."""
    n = len(values)
    width = 4 * math.ceil(math.sqrt(n) / 4)
    height = 4 * math.ceil(n / width / 4)
    picture = np.zeros((height * width, 4), np.uint8)
    picture[:n] = values if values.shape[1] == 4 else _opaque(values)
    return picture.reshape(height, width, 4)


def _webp(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "WEBP", lossless=True, exact=True, method=_EFFORT)
    return out.getvalue()
