"""Splat files in and out: one module a format, one table of what each keeps.

`read` goes by the file's first bytes, then by its ending. `write` goes by the ending, brings the
scene into the format's axes, unit and colour coding, and replaces the target only when done.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import zipfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ..bridge.axes import between, decompose_similarity, preset, similarity
from ..bridge.errors import UserError
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
        Format("ply", (".ply",), "ply", "opencv", (), True, False, True, "lossless, bit by bit"),
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
    """The format of an existing file, by its bytes where they tell. UserError when neither does."""
    path = Path(path)
    if path.is_dir() and (path / "meta.json").is_file():
        return FORMATS["sog"]
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(
            f"Could not read {path}: {error.strerror or error}.", "Check the path."
        ) from error
    if not head:
        raise UserError(f"{path} is empty.", "Export or download it again.")
    if head.startswith((b"ply\n", b"ply\r")):
        return FORMATS["ply"]
    if head.startswith((b"NGSP", b"\x1f\x8b")):
        return FORMATS["spz"]
    if head.startswith(b"glTF"):
        return FORMATS["gltf"]
    if head.startswith((b"PXR-USDC", b"#usda")):
        return FORMATS["usd"]
    if head.startswith(b"PK\x03\x04"):
        return FORMATS["sog"] if _has_meta(path) else FORMATS["usd"]
    return format_of(path)


def _has_meta(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[-1] == "meta.json" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{path} is a broken zip archive.", "Export or download it again."
        ) from error


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
    found = identify(path)
    scene = _module(FORMATS["ply"] if found.name == "compressed_ply" else found).read(path)
    scene = dataclasses.replace(scene, splats=repaired(scene.splats, str(path)))
    changes: dict[str, object] = {}
    if axes is not None:
        chosen = preset(axes)
        changes = {"axes": chosen.name, "metres_per_unit": chosen.metres_per_unit}
    if metres_per_unit is not None:
        changes["metres_per_unit"] = metres_per_unit
    return dataclasses.replace(scene, metadata=dataclasses.replace(scene.metadata, **changes))


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
            "%s cannot say that splats are to be blended in linear light: overlaps will look different",
            found.name,
        )
    return scene.in_axes(axes.name, unit)


def write(path: Path, scene: SplatScene, options: WriteOptions | None = None) -> Format:
    """Write a scene in the format of the file's ending; return that format.

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
    log.info("wrote %s: %d splats, %s", path, ready.count, loss(found, options))
    return found


def loss(found: Format, options: WriteOptions) -> str:
    """For people: what a write in this format with these options loses."""
    return FORMATS["spz"].text if found.name == "gltf" and options.compress_spz else found.text


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
