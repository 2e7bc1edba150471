"""The 3DGS .ply: names, stored forms and dialects. Shared with Blender: numpy and plyfile only.

The layout is the reference one (Kerbl et al. 2023): `binary_little_endian`, one `vertex`
element of float32 properties x y z [nx ny nz] f_dc_0..2 f_rest_0..3k-1 opacity scale_0..2
rot_0..3. `f_rest` is channel-major in the file (all red, all green, all blue) and
coefficient-major here. Properties are found by name, so their order does not matter.

Read as well: ASCII and big-endian files, other number types, and PlayCanvas' compressed .ply
(chunks of 256 Gaussians, 16 bytes each, optional 8-bit `sh` element).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plyfile

from .errors import UserError

log = logging.getLogger(__name__)

SH_C0 = 0.28209479177387814  # 1 / (2 sqrt(pi)), the constant basis function
BLENDINGS = ("display", "linear")
BLENDING_COMMENT = "scene_splatter blending"  # followed by one of BLENDINGS

_REST_COUNTS = (0, 3, 8, 15)  # coefficients per channel above the constant, degrees 0 to 3
_KEPT = _REST_COUNTS[-1]
_CHUNK = 256  # Gaussians that share one range in a compressed file
_BLOCK = 1024  # rows copied at a time: a quarter of a megabyte of file, which stays in cache
_LOGIT_LIMIT = 16.6  # logit(1 - 2^-24): the last float32 opacity below 1
_SCALE_LOG_MIN = -20.7  # ln 1e-9: a nanometre in a metric scene
_DAMAGED = "Export or download the file again."
_CLEAN = "Clean the file in the tool that it came from."
_ANOTHER_FILE = "Choose a .ply that a Gaussian splatting tool wrote."


class Splats(NamedTuple):
    """n Gaussians in the stored form of the file: ln scale, logit opacity, raw SH. All float32."""

    means: np.ndarray  # [n, 3]
    quats: np.ndarray  # [n, 4] w x y z, any norm
    scales_log: np.ndarray  # [n, 3]
    opacities_logit: np.ndarray  # [n]
    sh_dc: np.ndarray  # [n, 3]
    sh_rest: np.ndarray  # [n, k, 3], k in {0, 3, 8, 15}, coefficient before channel


def read_ply(path: str | os.PathLike[str]) -> Splats:
    """Read every dialect named above; rows keep their order.

    Finite float32 values arrive bit for bit. Infinities that some tools write on purpose become
    finite: opacity +-inf is the last float32 below 1 or above 0, scale ln 0 is ln 1e-9. SH above degree 3 is dropped, and logged.
    Raises UserError where the file cannot be read, is cut short, is no splat, or holds NaN.
    """
    path = Path(path)
    data = _open(path)
    vertex = _element(data, "vertex", path)
    if "packed_position" in _names(vertex):
        return _checked(_read_compressed(data, vertex, path), path)
    return _checked(_read_plain(vertex, path), path)


def read_comments(path: str | os.PathLike[str]) -> list[str]:
    """The comments of the header, e.g. "scene_splatter blending linear". Raises UserError as `read_ply`."""
    return list(_open(Path(path)).comments)


def blending_of(comments: Sequence[str]) -> str:
    """The space these splats are to be blended in, one of BLENDINGS; "display", as 3DGS defines it, if no comment says."""
    for comment in comments:
        if comment.strip().startswith(BLENDING_COMMENT):
            blending = comment.strip()[len(BLENDING_COMMENT) :].strip()
            if blending not in BLENDINGS:
                raise UserError(
                    f"The file asks for blending {blending!r}, which is unknown.",
                    "Update the add-on.",
                )
            return blending
    return "display"


def write_ply(path: str | os.PathLike[str], splats: Splats, comments: Sequence[str] = ()) -> None:
    """Write the reference layout (with zero normals), complete or not at all; an older file is replaced.

    comments: one header line each; what a header cannot hold is escaped (\\xe4) or becomes a space.
    Raises UserError if the disk refuses, ValueError for wrong shapes.
    """
    path = Path(path)
    _check_shapes(splats)
    names = _plain_names(splats.sh_rest.shape[1])
    table = np.zeros(len(splats.means), [(name, "<f4") for name in names])
    for rows in _blocks(len(table)):
        for name, column in _columns(splats):
            table[name][rows] = column[rows]
    element = plyfile.PlyElement.describe(table, "vertex")
    data = plyfile.PlyData(
        [element], byte_order="<", comments=[_one_ascii_line(comment) for comment in comments]
    )
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = file.name
            data.write(file)
        os.chmod(
            temporary, 0o666 & ~_umask()
        )  # a temporary file is private; the result is an ordinary file
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(
            f"Could not write {path}: {error.strerror}.",
            "Check that the folder exists, is writable and has space.",
        ) from error


def _one_ascii_line(text: str) -> str:
    return (
        "".join(c if c.isprintable() else " " for c in text)
        .encode("ascii", "backslashreplace")
        .decode("ascii")
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _open(path: Path) -> plyfile.PlyData:
    try:
        with path.open("rb") as file:
            if file.read(3) != b"ply":
                raise UserError(f"{path} is not a .ply file.", _ANOTHER_FILE)
            file.seek(0)
            data = plyfile.PlyData.read(file)
            left = 0 if data.text else path.stat().st_size - file.tell()
    except OSError as error:
        raise UserError(
            f"Could not read {path}: {error.strerror}.", "Check the file's name and rights."
        ) from error
    except plyfile.PlyHeaderParseError as error:
        raise UserError(f"The header of {path} is damaged: {error}.", _DAMAGED) from error
    except plyfile.PlyParseError as error:
        raise UserError(
            f"{path} does not hold the Gaussians that it announces ({error}).", _DAMAGED
        ) from error
    except (
        ValueError,
        MemoryError,
        OverflowError,
    ) as error:  # an impossible count, an empty element, bytes that are not ASCII
        raise UserError(f"{path} cannot be read as .ply: {error}.", _DAMAGED) from error
    if left > 0:
        raise UserError(f"{path} holds {left} bytes more than its header announces.", _DAMAGED)
    return data


def _element(data: plyfile.PlyData, name: str, path: Path) -> np.ndarray:
    """The rows [n] of an element as a structured array, n > 0."""
    if name not in data:
        raise UserError(
            f"{path} holds no {name} element, so it is not a Gaussian splat file.", _ANOTHER_FILE
        )
    rows = np.asarray(data[name].data)
    if rows.dtype.names is None or len(rows) == 0:
        raise UserError(f"{path} holds no Gaussians.", _ANOTHER_FILE)
    if any(rows.dtype[column].kind not in "fiu" for column in rows.dtype.names):
        raise UserError(
            f"{path} has list properties in its {name} element, so it is not a Gaussian splat file.",
            _ANOTHER_FILE,
        )
    return rows


def _rest_count(names: Sequence[str], path: Path) -> int:
    """Coefficients per channel that the f_rest_* among these property names hold."""
    numbers = {name for name in names if name.startswith("f_rest_")}
    total = len(numbers)
    if (
        numbers != {f"f_rest_{i}" for i in range(total)}
        or total % 3
        or total // 3 not in (*_REST_COUNTS, 24)
    ):
        raise UserError(
            f"{path} has {total} f_rest properties; a whole SH degree has 0, 9, 24 or 45.",
            _ANOTHER_FILE,
        )
    return total // 3


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK))


def _plain_names(k: int) -> list[str]:
    """Property names of the reference layout, in its order."""
    rest = [f"f_rest_{i}" for i in range(3 * k)]
    return [
        *"xyz",
        "nx",
        "ny",
        "nz",
        *_numbered("f_dc", 3),
        *rest,
        "opacity",
        *_numbered("scale", 3),
        *_numbered("rot", 4),
    ]


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{i}" for i in range(count)]


def _columns(splats: Splats, file_k: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """(property name, view [n] into `splats`) for everything but normals. file_k: coefficients per channel in the file."""
    k = splats.sh_rest.shape[1]
    vectors = (
        (list("xyz"), splats.means),
        (_numbered("f_dc", 3), splats.sh_dc),
        (_numbered("scale", 3), splats.scales_log),
    )
    for names, array in (*vectors, (_numbered("rot", 4), splats.quats)):
        for i, name in enumerate(names):
            yield name, array[:, i]
    yield "opacity", splats.opacities_logit
    for channel in range(3):
        for j in range(k):
            yield f"f_rest_{channel * (file_k or k) + j}", splats.sh_rest[:, j, channel]


def _names(table: np.ndarray) -> tuple[str, ...]:
    """The columns of a structured array."""
    return table.dtype.names or ()


def _empty(n: int, k: int) -> Splats:
    return Splats(
        *(np.empty((n, *tail), np.float32) for tail in ((3,), (4,), (3,), (), (3,), (k, 3)))
    )


def _read_plain(vertex: np.ndarray, path: Path) -> Splats:
    names = _names(vertex)
    missing = [
        name for name in _plain_names(0) if name not in names and name not in ("nx", "ny", "nz")
    ]
    if missing:
        raise UserError(
            f"{path} is not a Gaussian splat file: it lacks {', '.join(missing)}.", _ANOTHER_FILE
        )
    k = _rest_count(names, path)
    if k > _KEPT:
        log.warning("%s: spherical harmonics above degree 3 are dropped", path)
    splats = _empty(len(vertex), min(k, _KEPT))
    columns = list(_columns(splats, file_k=k))
    with np.errstate(over="ignore"):  # a double beyond float32 becomes inf and is reported below
        for rows in _blocks(
            len(vertex)
        ):  # block by block: column by column over the whole file would miss the cache
            block = vertex[rows]
            for name, column in columns:
                column[rows] = block[name]
    return splats


def _read_compressed(data: plyfile.PlyData, vertex: np.ndarray, path: Path) -> Splats:
    """PlayCanvas' packing: 11-10-11 bits between the chunk's limits, 2 + 3 x 10 bits of rotation, 8 bits a colour.

    Chunks without colour limits (older writers) mean 0 to 1. Opacity has 8 bits, whose ends 0 and 255 are
    read as a quarter step inside (0, 1), where the logit is finite.
    """
    chunks = _element(data, "chunk", path)
    n = len(vertex)
    if len(chunks) * _CHUNK < n:
        raise UserError(
            f"{path} has {len(chunks)} chunks for {n} Gaussians; each holds {_CHUNK}.", _DAMAGED
        )
    try:
        colour = vertex["packed_color"].astype(np.uint32)
        sh_rest = _compressed_sh(data, n, path)
        unit_rgb = np.stack([_bits(colour, shift, 8) for shift in (24, 16, 8)], axis=1)
        has_limits = "min_r" in _names(chunks)
        rgb = _between(chunks, ("r", "g", "b"), unit_rgb) if has_limits else unit_rgb
        opacity = np.clip(_bits(colour, 0, 8), 0.25 / 255, 1 - 0.25 / 255)
        return Splats(
            _between(chunks, "xyz", _unpack_11_10_11(vertex["packed_position"])).astype(np.float32),
            _unpack_rotation(vertex["packed_rotation"]),
            _between(
                chunks, ("scale_x", "scale_y", "scale_z"), _unpack_11_10_11(vertex["packed_scale"])
            ).astype(np.float32),
            (np.log(opacity) - np.log1p(-opacity)).astype(np.float32),
            ((rgb - 0.5) / SH_C0).astype(np.float32),
            sh_rest,
        )
    except (KeyError, ValueError) as error:  # numpy: "no field of name ..."
        raise UserError(
            f"{path} is an incomplete compressed splat file: {error}.", _ANOTHER_FILE
        ) from error


def _bits(packed: np.ndarray, shift: int, count: int) -> np.ndarray:
    """`count` bits above `shift` as a share of their largest value, [n] uint32 -> [n] float64 in [0, 1]."""
    top = (1 << count) - 1
    return ((packed >> np.uint32(shift)) & np.uint32(top)) / top


def _unpack_11_10_11(packed: np.ndarray) -> np.ndarray:
    packed = packed.astype(np.uint32)
    return np.stack([_bits(packed, 21, 11), _bits(packed, 11, 10), _bits(packed, 0, 11)], axis=1)


def _between(chunks: np.ndarray, names: Sequence[str], unit: np.ndarray) -> np.ndarray:
    """Values [n, 3] at the shares `unit` [n, 3] between each chunk's min_* and max_*."""
    chunk = np.arange(len(unit)) // _CHUNK
    low, high = (
        np.stack([chunks[f"{end}_{name}"] for name in names], axis=1).astype(np.float64)[chunk]
        for end in ("min", "max")
    )
    return low + (high - low) * unit


def _unpack_rotation(packed: np.ndarray) -> np.ndarray:
    """Smallest three: the top 2 bits name the largest of w x y z, the others follow in order. [n] -> [n, 4] wxyz, norm 1."""
    packed = packed.astype(np.uint32)
    three = (np.stack([_bits(packed, shift, 10) for shift in (20, 10, 0)], axis=1) - 0.5) * np.sqrt(
        2.0
    )
    largest = (packed >> np.uint32(30)).astype(np.intp)
    quats = np.empty((len(packed), 4))
    rows = np.arange(len(packed))
    for index in range(4):
        here = rows[largest == index]
        others = [i for i in range(4) if i != index]
        quats[here[:, None], others] = three[here]
        quats[here, index] = np.sqrt(np.maximum(0.0, 1.0 - (three[here] ** 2).sum(axis=1)))
    return quats.astype(np.float32)


def _compressed_sh(data: plyfile.PlyData, n: int, path: Path) -> np.ndarray:
    """The optional `sh` element: bytes over [-4, 4], bin centres but for the ends. -> [n, k, 3] float32."""
    if "sh" not in data:
        return np.zeros((n, 0, 3), np.float32)
    rows = _element(data, "sh", path)
    if len(rows) != n:
        raise UserError(f"{path} has SH for {len(rows)} of its {n} Gaussians.", _DAMAGED)
    k = _rest_count(_names(rows), path)
    kept = min(k, _KEPT)
    levels = (np.arange(256) + 0.5) / 256
    levels[0], levels[255] = 0.0, 1.0
    values = ((levels - 0.5) * 8).astype(np.float32)
    sh_rest = np.empty((n, kept, 3), np.float32)
    for channel in range(3):
        for j in range(kept):
            sh_rest[:, j, channel] = values[rows[f"f_rest_{channel * k + j}"].astype(np.uint8)]
    return sh_rest


def _check_shapes(splats: Splats) -> None:
    n, k = len(splats.means), splats.sh_rest.shape[1] if np.ndim(splats.sh_rest) == 3 else -1
    expected: list[tuple[int, ...]] = [(n, 3), (n, 4), (n, 3), (n,), (n, 3), (n, k, 3)]
    for name, array, shape in zip(Splats._fields, splats, expected, strict=True):
        if np.shape(array) != shape:
            raise ValueError(f"{name}: expected shape {shape}, received {np.shape(array)}")
    if n == 0 or k not in _REST_COUNTS:
        raise ValueError(
            f"expected n > 0 Gaussians with 0, 3, 8 or 15 SH coefficients, received {n} with {k}"
        )


def _checked(splats: Splats, path: Path) -> Splats:
    """The same splats with the infinities of `read_ply` made finite; UserError for anything else that is not a Gaussian."""
    np.nan_to_num(
        splats.opacities_logit, copy=False, nan=np.nan, posinf=_LOGIT_LIMIT, neginf=-_LOGIT_LIMIT
    )
    np.nan_to_num(splats.scales_log, copy=False, nan=np.nan, posinf=np.inf, neginf=_SCALE_LOG_MIN)
    for name, array in splats._asdict().items():
        if np.isfinite(
            array.sum(dtype=np.float64)
        ):  # one fast pass; a sum of finite float32 in float64 cannot overflow
            continue
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        raise UserError(
            f"{path}: {bad.sum()} Gaussians hold NaN or infinite {name} (first: number {bad.argmax()}).",
            _CLEAN,
        )
    norm_zero = ~splats.quats.any(axis=1)
    if norm_zero.any():
        raise UserError(
            f"{path}: {norm_zero.sum()} Gaussians have a rotation of length zero.", _CLEAN
        )
    return splats
