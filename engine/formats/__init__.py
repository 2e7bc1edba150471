"""Splat files in and out: one module a format, one table of what each keeps.

`read` goes by the file's first bytes, then by its ending. `write` goes by the ending, brings the
scene into the format's axes, unit and colour coding, and replaces the target only when done.

It imports `scene` and `bridge`. `outputs` and `commands` may import it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ..bridge import ply_table
from ..bridge.axes import between, decompose_similarity, preset, similarity
from ..bridge.errors import UserError
from ..bridge.kinds import refuse_foreign
from ..bridge.reading import head_of, reading
from ..bridge.splats import repaired as mend
from ..bridge.unpacking import unpacked
from . import precision
from .scene import (
    DISPLAY,
    LINEAR,
    Metadata,
    SplatScene,
    WriteOptions,
    in_colour_space,
    repaired,
    with_degree,
)

__all__ = [
    "FORMATS",
    "Metadata",
    "SplatScene",
    "WriteOptions",
    "format_of",
    "identify",
    "read",
    "write",
]

log = logging.getLogger(__name__)

_MAGIC = (
    (b"ply\n", "ply"),
    (b"ply\r", "ply"),
    (b"NGSP", "spz"),
    (b"\x1f\x8b", "spz"),
    (b"glTF", "gltf"),
    (b"PXR-USDC", "usd"),
    (b"#usda", "usd"),
)


class Format(NamedTuple):
    """One file format."""

    name: str
    endings: tuple[str, ...]
    module: str
    axes: str  # what its readers expect when nothing else is said
    fixed_axes: tuple[str, ...]  # the only ones it allows; empty: any
    tagged: bool  # says its colour space itself
    nodes: bool  # can keep a transform and cameras beside the splats
    writes: bool
    text: str  # for people: what is lost


class Written(NamedTuple):
    """What a write did."""

    name: str  # of the format
    axes: str  # preset in which the file is
    loss: str  # for people: what was lost of this scene


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            "compressed_ply",
            (".compressed.ply",),
            "compressed_ply",
            "opencv",
            (),
            True,
            False,
            True,
            "lossy: 8 to 11 bits a value, order changed",
        ),
        Format(
            "ply", (".ply",), "ply", "opencv", (), True, False, True, "every bit of 32-bit values"
        ),
        Format(
            "splat",
            (".splat",),
            "splat",
            "opencv",
            (),
            False,
            False,
            True,
            "lossy: 8-bit colour and rotation, no view-dependent colour",
        ),
        Format(
            "spz",
            (".spz",),
            "spz",
            "gltf",
            (),
            False,
            False,
            True,
            "lossy: 24-bit positions, 8-bit scales and colour, 10-bit rotations, 6-bit SH",
        ),
        Format(
            "gltf",
            (".glb", ".gltf"),
            "gltf",
            "gltf",
            ("gltf", "houdini", "nuke"),
            True,
            True,
            True,
            "lossless but for float rounding",
        ),
        Format(
            "usd",
            (".usdc", ".usda", ".usdz", ".usd"),
            "usd",
            "gltf",
            ("gltf", "houdini", "nuke", "blender"),
            True,
            True,
            True,
            "lossless but for float rounding",
        ),
        Format(
            "sog",
            (".sog", "meta.json"),
            "sog",
            "opencv",
            (),
            False,
            False,
            True,
            "lossy: 16-bit positions, codebooks of 256, SH palette",
        ),
        Format(
            "ksplat",
            (".ksplat",),
            "ksplat",
            "opencv",
            (),
            False,
            False,
            False,
            "read only; 8-bit colour",
        ),
    )
}


def format_of(path: Path) -> Format:
    """The format that a file name asks for. UserError when the ending is unknown."""
    name = Path(path).name.lower()
    for found in FORMATS.values():
        if name.endswith(found.endings):
            return found
    endings = ", ".join(e for f in FORMATS.values() for e in f.endings)
    raise UserError(
        f"The ending of {Path(path).name} names no splat format.", f"Use one of {endings}."
    )


def identify(path: Path) -> Format:
    """The format of an existing file, by its bytes where they tell. UserError when neither does,
    naming foreign kinds.
    """
    path = Path(path)
    if os.path.isdir(path) and (path / "meta.json").is_file():
        return FORMATS["sog"]
    head = head_of(path)
    by_bytes = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
    if by_bytes is not None:
        return FORMATS[by_bytes]
    if ply_table.begins(head):
        return FORMATS["ply"]
    if head.startswith(b"PK\x03\x04"):
        with reading(path), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.split("/")[-1] == "meta.json" for name in names):
            return FORMATS["sog"]
        if names and names[0].lower().endswith((".usd", ".usda", ".usdc")):
            return FORMATS["usd"]
        raise UserError(
            f"{path} is a zip archive, but no splat format's ({', '.join(names[:5])}).",
            "Unpack it, and give the splat file in it.",
        )
    refuse_foreign(path, "a splat file", ("splats", "stage"), head)
    return format_of(path)


def _module(found: Format) -> ModuleType:
    return importlib.import_module(f".{found.module}", __package__)


def read(
    path: Path, *, axes: str | None = None, metres_per_unit: float | None = None
) -> SplatScene:
    """Read any known splat file. UserError for what cannot be read; repairs are logged.

    The splats come in the file's own axes and unit, named in the metadata; `axes` and
    `metres_per_unit` overrule what the file says or its format's custom is.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        inner = path if os.path.isdir(path) else stack.enter_context(unpacked(path))
        with _named(inner, path), reading(path):
            found = identify(inner)
            module = _module(FORMATS["ply"] if found.name == "compressed_ply" else found)
            scene = module.read(inner)
    splats, repairs = mend(scene.splats, str(path))
    metadata = dataclasses.replace(scene.metadata, lost=(*scene.metadata.lost, *repairs))
    for sentence in metadata.lost:
        log.warning("%s: %s", path, sentence)
    scene = dataclasses.replace(scene, splats=splats, metadata=metadata)
    changes: dict[str, object] = {}
    if axes is not None:
        chosen = preset(axes)
        changes = {"axes": chosen.name, "metres_per_unit": chosen.metres_per_unit}
    if metres_per_unit is not None:
        changes["metres_per_unit"] = metres_per_unit
    return dataclasses.replace(scene, metadata=dataclasses.replace(scene.metadata, **changes))


@contextlib.contextmanager
def _named(inner: Path, path: Path) -> Iterator[None]:
    """Errors about an unpacked file name the archive that it was in."""
    try:
        yield
    except UserError as error:
        if inner == path or str(inner) not in error.message:
            raise
        raise UserError(
            error.message.replace(str(inner), f"{inner.name} in {path}"), error.hint
        ) from error


def prepared(found: Format, scene: SplatScene, options: WriteOptions) -> SplatScene:
    """The scene as the format will hold it: axes, unit, SH degree and colour coding."""
    axes = preset(options.axes or found.axes)
    if found.fixed_axes and axes.name not in found.fixed_axes:
        hint = "leave the axes out; Unreal and Unity turn the scene themselves on import."
        raise UserError(
            f"{found.name} files cannot be in {axes.name} axes.",
            f"Choose one of {', '.join(found.fixed_axes)}, or {hint}",
        )
    unit = options.metres_per_unit or axes.metres_per_unit
    if found.name == "gltf" and unit != 1.0:
        raise UserError("glTF is always in metres.", "Leave the unit out.")
    space = options.colour_space
    if found.tagged and found.nodes and space is None and scene.metadata.blend_linear:
        space = LINEAR  # linear blending can be said exactly there
    if space is None and scene.metadata.colour_space == LINEAR and not found.nodes:
        space = DISPLAY  # readers of these formats know no other
    if space == LINEAR and not found.tagged:
        raise UserError(
            f"{found.name} cannot say that its colours are linear.",
            "Write PLY, glTF or USD, or leave the colour space out.",
        )
    scene = dataclasses.replace(scene, splats=with_degree(scene.splats, options.sh_degree))
    scene = in_colour_space(scene, space)
    if scene.metadata.blend_linear and not found.tagged:
        log.warning(
            "%s cannot say that splats are to be blended in linear light: overlaps will look "
            "different",
            found.name,
        )
    return scene.in_axes(axes.name, unit)


def write(path: Path, scene: SplatScene, options: WriteOptions | None = None) -> Written:
    """Write a scene in the format of the file's ending; say what was written and what was lost.

    UserError for choices that the format cannot hold, broken splats, or a disk that refuses.
    """
    path, options = Path(path), options or WriteOptions()
    found = format_of(path)
    if not found.writes:
        raise UserError(f"{found.name} can only be read.", "Choose another format.")
    scene = dataclasses.replace(scene, splats=repaired(scene.splats, "The scene"))
    ready = prepared(found, scene, options)
    extra: dict[str, object] = {}
    if found.name == "spz":
        extra["version"] = options.spz_version
    if found.nodes:
        extra = {
            "node_matrix": _in_new_axes(options.node_matrix, scene, ready),
            "image_plane": options.image_plane,
        }
    elif options.node_matrix is not None:
        raise UserError(
            f"{found.name} has no nodes to keep a transform on.",
            "Bake the transform, or write glTF or USD.",
        )
    elif scene.cameras is not None:
        log.info("%s holds no cameras: write them beside it with --export-cameras", found.name)
    if found.name == "gltf":
        extra["compress_spz"] = options.compress_spz
    _module(found).write(path, ready, **extra)
    said = _loss(found, scene, ready, options)
    log.info("wrote %s: %d splats, %s", path, ready.count, said)
    return Written(found.name, options.axes or found.axes, said)


def _loss(found: Format, scene: SplatScene, ready: SplatScene, options: WriteOptions) -> str:
    """For people: what this write of this scene changed, measured on its values."""
    changes = list(scene.metadata.lost)
    before, after = scene.metadata, ready.metadata
    if before.metres_per_unit != after.metres_per_unit:
        changes.append("float rounding of positions and scales in the other unit")
    elif before.axes != after.axes and found.name == "ply":
        changes.append(f"float rounding of the turn from {before.axes} to {after.axes} axes")
    if ready.splats.sh_rest.shape[1] < scene.splats.sh_rest.shape[1]:
        changes.append("view-dependent colour was cut to a lower degree")
    if before.colour_space != after.colour_space:
        changes.append("colours were coded anew")
    as_spz = found.name == "gltf" and options.compress_spz
    changes += precision.lost(found.name, ready, as_spz=as_spz)
    if not changes:
        return "lossless, bit by bit"
    if found.name in ("gltf", "usd") and len(changes) == 1 and not as_spz:
        return f"lossless but for {changes[0]}"
    return "lossy: " + "; ".join(changes)


def _in_new_axes(
    matrix: np.ndarray | None, before: SplatScene, after: SplatScene
) -> np.ndarray | None:
    """A transform given in the scene's axes, as the same transform in the written ones."""
    if matrix is None:
        return None
    decompose_similarity(matrix)
    scale = before.metadata.metres_per_unit / after.metadata.metres_per_unit
    change = similarity(between(before.metadata.axes, after.metadata.axes), scale)
    return change @ matrix @ np.linalg.inv(change)
