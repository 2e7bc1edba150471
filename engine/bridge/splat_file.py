"""The 3DGS .ply: names, stored forms and dialects. Shared with Blender: numpy and plyfile only.

The layout is the reference one (Kerbl et al. 2023): `binary_little_endian`, one `vertex`
element of float32 properties x y z [nx ny nz] f_dc_0..2 f_rest_0..3k-1 opacity scale_0..2
rot_0..3. `f_rest` is channel-major in the file (all red, all green, all blue) and
coefficient-major here. Properties are found by name, so their order does not matter.

Read as well: ASCII and big-endian files, other number types, PlayCanvas' compressed .ply
(chunks of 256 Gaussians, 16 bytes each, optional 8-bit `sh` element), discs of 2DGS (two scales),
Mip-Splatting's `filter_3D` (fused), CloudCompare's `scalar_` names, and a .ply inside .gz or .zip.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plyfile

from . import ply_table
from .errors import UserError
from .harmonics import COEFFICIENTS, SH_C0
from .kinds import refuse_foreign
from .reading import head_of, reading
from .splats import Splats as Splats
from .splats import repaired
from .unpacking import unpacked
from .whole_file import replacing

log = logging.getLogger(__name__)

BLENDINGS = ("display", "linear")
BLENDING_COMMENT = "scene_splatter blending"  # followed by one of BLENDINGS

_KEPT = COEFFICIENTS[-1]
_CHUNK = 256  # Gaussians that share one range in a compressed file
_BLOCK = 1024  # rows copied at a time: a quarter of a megabyte of file, which stays in cache
_THIN = np.float32(np.log(1000.0))  # how much thinner a disc of 2DGS is than wide, ln
_PREFIXES = re.compile(r"^((scalar|scal)[ _])+", re.I)
_KNOWN = re.compile(r"x|y|z|nx|ny|nz|opacity|filter_3d|(f_dc|f_rest|scale|rot)_\d+")
_UNDERSTOOD = ("nx", "ny", "nz", "filter_3D")
_PLAIN_COLOURS = ("red", "green", "blue")
_DAMAGED = "Export or download the file again."
_ANOTHER_FILE = "Choose a .ply that a Gaussian splatting tool wrote."


class PlyFile(NamedTuple):
    """A .ply of splats as it was read."""

    splats: Splats  # sound, see `splats.repaired`
    comments: tuple[str, ...]  # of the header, e.g. "scene_splatter blending linear"
    repairs: tuple[str, ...]  # what had to be mended or left out, a sentence each
    lost: tuple[str, ...]  # what the file holds and `splats` does not


def read_ply(path: str | os.PathLike[str]) -> Splats:
    """Read the splats of a .ply; what `read` has to say of them goes to the log."""
    found = read(path)
    for note in (*found.repairs, *found.lost):
        log.warning("%s: %s", path, note)
    return found.splats


def read(path: str | os.PathLike[str]) -> PlyFile:
    """Read every dialect named above, packed as .gz or .zip too; rows keep their order.

    Finite float32 values arrive bit for bit; what is broken is mended as `splats.repaired` says.
    Raises UserError where the file cannot be read, is cut short, or holds no sound splat.
    """
    with reading(path), unpacked(path) as inner:
        head = head_of(inner)
        refuse_foreign(path, "a .ply of Gaussian splats", ("splats",), head)
        table = ply_table.read(inner, ("vertex", "chunk", "sh"))
        lost: list[str] = []
        if "packed_position" in _names(_rows(table, "vertex", path)):
            splats = _read_compressed(table, path)
        else:
            splats = _read_plain(table, path, lost)
        if table.left:
            lost.append(f"{table.left:,} bytes behind its last row were not read")
        others = [e.name for e in table.header.elements if e.name not in ("vertex", "chunk", "sh")]
        if others:
            lost.append(f"elements that are not understood were left out: {', '.join(others)}")
        splats, repairs = repaired(splats, str(path))
        return PlyFile(splats, table.header.comments, repairs, tuple(lost))


def read_comments(path: str | os.PathLike[str]) -> list[str]:
    """Read the comments of the header, e.g. "scene_splatter blending linear". Raises UserError as
    `read`.
    """
    with reading(path), unpacked(path) as inner:
        return list(ply_table.read_header(inner).comments)


def blending_of(comments: Sequence[str]) -> str:
    """Say in which space, one of BLENDINGS, splats with these comments are to be blended;
    "display", as 3DGS defines it, if none says.
    """
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
    """Write the reference layout (with zero normals), whole or not at all; an older file is
    replaced.

    comments: one header line each; what a header cannot hold is escaped (\xe4) or becomes a space.
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
    with replacing(path) as file:
        data.write(file)


def _one_ascii_line(text: str) -> str:
    return (
        "".join(c if c.isprintable() else " " for c in text)
        .encode("ascii", "backslashreplace")
        .decode("ascii")
    )


def _rest_count(names: Sequence[str], path: str | os.PathLike[str]) -> int:
    """Coefficients per channel that the f_rest_* among these property names hold."""
    numbers = {name for name in names if name.startswith("f_rest_")}
    total = len(numbers)
    if (
        numbers != {f"f_rest_{i}" for i in range(total)}
        or total % 3
        or total // 3 not in (*COEFFICIENTS, 24)
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
    """(property name, view [n] into `splats`) for everything but normals. file_k: coefficients per
    channel in the file.
    """
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


def _rows(table: ply_table.Table, name: str, path: str | os.PathLike[str]) -> np.ndarray:
    """The rows [n] of an element, n > 0."""
    rows = table.rows.get(name)
    if rows is None:
        there = table.header.element(name)
        if there is not None and there.has_lists:
            raise UserError(
                f"{path} has lists in its {name} element, as no splat file has.", _ANOTHER_FILE
            )
        raise UserError(
            f"{path} holds no {name} element, so it is not a Gaussian splat file.", _ANOTHER_FILE
        )
    if rows.dtype.names is None or not len(rows):
        raise UserError(f"{path} holds no Gaussians.", _ANOTHER_FILE)
    return rows


def _read_plain(table: ply_table.Table, path: str | os.PathLike[str], lost: list[str]) -> Splats:
    """The columns by their names, in the dialects of other tools; `lost` takes what is not kept."""
    vertex = _rows(table, "vertex", path)
    vertex = _plainly_named(vertex)
    names = _names(vertex)
    _refuse_other_tables(names, table, path)
    k = _rest_count(names, path)
    if k > _KEPT:
        lost.append("spherical harmonics above degree 3 are dropped")
    splats = _empty(len(vertex), min(k, _KEPT))
    columns = [c for c in _columns(splats, file_k=k) if c[0] in names]
    # a double beyond float32 becomes inf, and what is not finite is mended or left out later
    with np.errstate(over="ignore", invalid="ignore"):
        # block by block: column by column over the whole file would miss the cache
        for rows in _blocks(len(vertex)):
            block = vertex[rows]
            for name, column in columns:
                column[rows] = block[name]
        if "scale_2" not in names:
            splats.scales_log[:, 2] = splats.scales_log[:, :2].min(axis=1) - _THIN
            lost.append("2DGS discs: they get a third scale, a thousandth of their smaller one")
        if "f_dc_0" not in names:
            for i, name in enumerate(_PLAIN_COLOURS):
                full = 255.0 if vertex.dtype[name].kind in "iu" else 1.0
                splats.sh_dc[:, i] = (vertex[name] / full - 0.5) / SH_C0
            lost.append("colours were taken from red, green and blue")
        if "filter_3D" in names:
            splats = _filtered(splats, vertex["filter_3D"].astype(np.float64))
            lost.append("Mip-Splatting's 3D filter was worked into scales and opacities")
    used = {name for name, _ in columns} | (set() if "f_dc_0" in names else set(_PLAIN_COLOURS))
    _note_rounding(vertex, used, lost)
    unknown = [name for name in names if name not in used and name not in _UNDERSTOOD]
    if unknown:
        lost.append(f"properties that are not understood were left out: {_few(unknown)}")
    if any(vertex[name].any() for name in ("nx", "ny", "nz") if name in names):
        lost.append("normals were left out")
    return splats


def _plainly_named(vertex: np.ndarray) -> np.ndarray:
    """The table with CloudCompare's "scalar_" (and 3dgsconverter's "scal_") taken off the names it
    stands before, and those names in small letters.
    """
    names = list(_names(vertex))
    for i, name in enumerate(names):
        plain = _PREFIXES.sub("", name).lower()
        if not _KNOWN.fullmatch(plain):
            continue
        plain = plain.replace("filter_3d", "filter_3D")
        if plain != name and plain not in names:
            names[i] = plain
    if names == list(_names(vertex)):
        return vertex
    return vertex.view(
        np.dtype([(new, vertex.dtype[old]) for new, old in zip(names, _names(vertex), strict=True)])
    )


def _refuse_other_tables(
    names: Sequence[str], table: ply_table.Table, path: str | os.PathLike[str]
) -> None:
    """UserError for a mesh, a point cloud, or a splat file that lacks something."""
    optional = ["nx", "ny", "nz", "scale_2"]
    if set(_PLAIN_COLOURS) <= set(names):
        optional += _numbered("f_dc", 3)
    missing = [name for name in _plain_names(0) if name not in names and name not in optional]
    if not missing:
        return
    if any(name.startswith("f_anchor_feat") for name in names):
        raise UserError(
            f"{path} holds the anchors of Scaffold-GS, from which a network makes the splats.",
            "Export its splats as a 3DGS .ply, with the tool that trained it.",
        )
    splat_columns = [n for n in names if re.match(r"(f_dc|f_rest|scale|rot)_|opacity", n)]
    if {"x", "y", "z"} <= set(names) and not splat_columns:
        mesh = any(e.name == "face" and e.count for e in table.header.elements)
        raise UserError(
            f"{path} is a {'mesh' if mesh else 'point cloud'}, not Gaussian splats: it has no "
            "scales, rotations and opacities.",
            "Train splats from it first (3DGS takes a point cloud as its start), or choose the "
            "trained .ply.",
        )
    raise UserError(
        f"{path} is not a Gaussian splat file: it lacks {', '.join(missing)}.", _ANOTHER_FILE
    )


def _filtered(splats: Splats, filter_3d: np.ndarray) -> Splats:
    """Mip-Splatting's 3D smoothing filter, fused: scales sqrt(s^2 + f^2), opacity times the ratio
    of the volumes.

    filter_3d: [n] standard deviation f of each splat's filter, in the file's unit.
    """
    before = np.exp(2.0 * splats.scales_log.astype(np.float64))  # [n, 3]
    after = before + np.nan_to_num(filter_3d, nan=0.0, posinf=0.0, neginf=0.0)[:, None] ** 2
    ratio = np.sqrt(np.prod(before / after, axis=1))
    opacity = ratio / (1.0 + np.exp(-splats.opacities_logit.astype(np.float64)))
    logit = np.log(opacity) - np.log1p(-opacity)
    unchanged = after == before
    return splats._replace(
        scales_log=np.where(unchanged, splats.scales_log, 0.5 * np.log(after)).astype(np.float32),
        opacities_logit=np.where(unchanged.all(axis=1), splats.opacities_logit, logit).astype(
            np.float32
        ),
    )


def _note_rounding(vertex: np.ndarray, used: set[str], lost: list[str]) -> None:
    """Say what 64-bit columns lose in float32."""
    worst, names = 0.0, []
    for name in sorted(used):
        if vertex.dtype[name].itemsize > 4:
            values = vertex[name].astype(np.float64)
            change = np.abs(values - values.astype(np.float32))
            error = float(change[np.isfinite(change)].max(initial=0.0))
            if error > 0:
                names.append(name)
                worst = max(worst, error if name in ("x", "y", "z") else 0.0)
    if names:
        where = f", positions by up to {worst:.2g} units" if worst else ""
        hint = "; move the scene to the origin in the tool that wrote it" if worst > 1e-3 else ""
        lost.append(f"64-bit numbers were rounded to 32 bits ({_few(names)}){where}{hint}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _read_compressed(table: ply_table.Table, path: str | os.PathLike[str]) -> Splats:
    """PlayCanvas' packing: 11-10-11 bits between the chunk's limits, 2 + 3 x 10 bits of rotation, 8
    bits a colour.

    Chunks without colour limits (older writers) mean 0 to 1. Opacity has 8 bits, whose ends 0 and
    255 are read as a quarter step inside (0, 1), where the logit is finite.
    """
    vertex, chunks = _rows(table, "vertex", path), _rows(table, "chunk", path)
    n = len(vertex)
    if len(chunks) * _CHUNK < n:
        raise UserError(
            f"{path} has {len(chunks)} chunks for {n} Gaussians; each holds {_CHUNK}.", _DAMAGED
        )
    try:
        colour = vertex["packed_color"].astype(np.uint32)
        sh_rest = _compressed_sh(table, n, path)
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
    """`count` bits above `shift` as a share of their largest value, [n] uint32 -> [n] float64 in
    [0, 1].
    """
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
    """Smallest three: the top 2 bits name the largest of w x y z, the others follow in order. [n]
    -> [n, 4] wxyz, norm 1.
    """
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


def _compressed_sh(table: ply_table.Table, n: int, path: str | os.PathLike[str]) -> np.ndarray:
    """The optional `sh` element: bytes over [-4, 4], bin centres but for the ends. -> [n, k, 3]
    float32.
    """
    if "sh" not in table.rows:
        return np.zeros((n, 0, 3), np.float32)
    rows = _rows(table, "sh", path)
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
    if n == 0 or k not in COEFFICIENTS:
        raise ValueError(
            f"expected n > 0 Gaussians with 0, 3, 8 or 15 SH coefficients, received {n} with {k}"
        )
