"""3DGS .ply (lossless) and PlayCanvas' compressed .ply (reading), over the shared `splat_file`."""

from __future__ import annotations

from pathlib import Path

from ..bridge import splat_file
from ..bridge.axes import PRESETS
from ..bridge.splat_file import BLENDING_COMMENT, blending_of, write_ply
from ..bridge.whole_file import replacing_path
from .scene import COLOUR_SPACES, DISPLAY, Metadata, SplatScene

_OURS = (
    "scene_splatter axes",
    "scene_splatter metres_per_unit",
    "scene_splatter colour_space",
    BLENDING_COMMENT,
)


def read(path: Path) -> SplatScene:
    """A .ply of any dialect that `splat_file.read` knows. Raises UserError."""
    found = splat_file.read(path)
    comments = found.comments
    said = {
        words[1]: words[2]
        for words in (line.split() for line in comments)
        if len(words) == 3 and words[0] == "scene_splatter"
    }
    axes, space = said.get("axes", "opencv"), said.get("colour_space", DISPLAY)
    metadata = Metadata(
        axes=axes if axes in PRESETS else "opencv",
        metres_per_unit=_number(said.get("metres_per_unit")),
        colour_space=space if space in COLOUR_SPACES else DISPLAY,
        blend_linear=blending_of(comments) == "linear",
        antialiased="SplatModel: antialiased" in comments,
        comments=tuple(c for c in comments if not c.startswith(_OURS)),
        source="ply",
        lost=(*found.repairs, *found.lost),
    )
    return SplatScene(found.splats, metadata)


def _number(text: str | None) -> float:
    try:
        value = float(text) if text else 1.0
    except ValueError:
        return 1.0
    return value if 0 < value < float("inf") else 1.0


def provenance(metadata: Metadata) -> list[str]:
    """Comment lines that let our own reader undo axes, units and colour space; others ignore
    them.
    """
    lines = list(metadata.comments)
    if metadata.axes not in ("opencv", "supersplat"):
        lines.append(f"scene_splatter axes {metadata.axes}")
    if metadata.metres_per_unit != 1.0:
        lines.append(f"scene_splatter metres_per_unit {metadata.metres_per_unit!r}")
    if metadata.colour_space != DISPLAY:
        lines.append(f"scene_splatter colour_space {metadata.colour_space}")
    if metadata.blend_linear:
        lines.append(f"{BLENDING_COMMENT} linear")
    return lines


def write(path: Path, scene: SplatScene) -> None:
    """Every float bit by bit. Raises UserError when the file cannot be written."""
    with replacing_path(path) as temporary:
        write_ply(temporary, scene.splats, comments=provenance(scene.metadata))
