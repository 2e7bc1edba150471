"""convert: turn a splat file into another format, in other axes, units or colour coding."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import formats
from ..bridge import camera_file
from ..bridge.axes import PRESETS, similarity, transform_splats
from ..bridge.errors import UserError
from ..bridge.reading import json_of
from ..cameras import exports, trajectory
from ..formats.scene import COLOUR_SPACES, SplatScene, WriteOptions

log = logging.getLogger(__name__)

# what convert.json and the command line may say, with the type of each
_FIELDS: dict[str, type] = {
    "input": str,
    "output": str,
    "axes_in": str,
    "axes_out": str,
    "unit_scale": float,
    "sh_degree": int,
    "colour_space": str,
    "transform": list,
    "keep_transform": bool,
    "cameras": str,
    "image_plane": str,
    "spz_version": int,
    "compress_spz": bool,
    "export_cameras": str,
    "count": list,
    "share": float,
}
_PAGE = (".html", ".htm")
_NOT_FOR_PAGES = ("axes_out", "colour_space", "keep_transform", "compress_spz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of convert; stable, since the add-on calls it."""
    table = "\n".join(f"  {' '.join(f.endings):32} {f.text}" for f in formats.FORMATS.values())
    axes = "\n".join(f"  {p.name:12} {p.text}" for p in PRESETS.values())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    page = f"  {'.html':32} a page that shows the scene in any browser, with no network"
    parser.epilog = f"formats:\n{table}\n{page}\n\naxes:\n{axes}"
    parser.add_argument("input", metavar="IN", help="a splat file of any known format")
    parser.add_argument(
        "output", metavar="OUT", help="the file to write; its ending chooses the format"
    )
    parser.add_argument(
        "--axes-in",
        choices=PRESETS,
        help="axes of IN; default: what it says, or its format's custom",
    )
    parser.add_argument(
        "--axes-out", choices=PRESETS, help="axes of OUT; default: its format's custom"
    )
    parser.add_argument(
        "--unit-scale", type=float, default=1.0, help="multiply all lengths by this (default 1)"
    )
    parser.add_argument(
        "--sh-degree",
        type=int,
        choices=range(4),
        help="keep no more view-dependent colour than this degree",
    )
    parser.add_argument(
        "--colour-space",
        choices=COLOUR_SPACES,
        help="how OUT codes and blends colour; default: as IN",
    )
    parser.add_argument(
        "--transform",
        type=float,
        nargs=16,
        metavar="M",
        help="4x4 matrix, row by row, applied in the axes of IN",
    )
    parser.add_argument(
        "--keep-transform",
        action="store_true",
        help="keep --transform on a node instead of baking it (glTF, USD)",
    )
    parser.add_argument(
        "--cameras",
        metavar="JSON",
        help="a camera path file to write along (glTF, USD); --count keeps best what it sees",
    )
    fewer = parser.add_mutually_exclusive_group()
    fewer.add_argument(
        "--count",
        type=int,
        nargs="+",
        metavar="N",
        help="merge neighbours until at most N splats are left; several numbers make several files",
    )
    fewer.add_argument(
        "--share", type=float, metavar="F", help="the same with a share of the splats, e.g. 0.25"
    )
    parser.add_argument(
        "--export-cameras",
        metavar="FILE",
        help="write the cameras (of --cameras or IN) too: transforms.json, camera_path.json, "
        "a RealEstate10K .txt, or a folder for COLMAP",
    )
    parser.add_argument(
        "--image-plane",
        metavar="PICTURE",
        help="a picture to hang behind the first camera's view (glTF, USD)",
    )
    parser.add_argument(
        "--spz-version",
        type=int,
        choices=(2, 3, 4),
        default=4,
        help="version of .spz files (default 4)",
    )
    parser.add_argument(
        "--compress-spz", action="store_true", help="hold the splats of a glTF as SPZ: small, lossy"
    )


def run(args: argparse.Namespace) -> int:
    """Convert and print one line about the result."""
    result = convert({name: getattr(args, name) for name in _FIELDS}, Path.cwd())
    for level in result.get("levels", [result]):
        likeness = level.get("likeness_db")
        seen = "" if likeness is None else f", {likeness:.1f} dB to all splats along the path"
        sys.stdout.write(
            f"{level['scene']}: {level['count']:,} splats{seen}, {level['bytes']:,} bytes; "
            f"{result['lossy']}\n"
        )
    return 0


def run_job(
    folder: Path, report: Callable[..., None], settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The server's job: what `settings`, or convert.json in the folder, asks for. Paths are
    relative to the folder.
    """
    settings = settings or json_of(folder / "convert.json", 1 << 20)
    if not isinstance(settings, dict):
        raise UserError("convert.json is not an object.", "Start the conversion again.")
    return convert(settings, folder, report)


def checked(request: dict[str, Any]) -> dict[str, Any]:
    """The request with None for what it leaves out. UserError for unknown names and wrong types."""
    unknown = request.keys() - _FIELDS.keys()
    if unknown:
        raise UserError(
            f"convert does not know {', '.join(sorted(unknown))}.",
            f"It knows {', '.join(_FIELDS)}.",
        )
    values: dict[str, Any] = dict.fromkeys(_FIELDS)
    for name, value in request.items():
        wanted = _FIELDS[name]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if value is not None and type(value) is not wanted:
            raise UserError(f"convert: {name} must be of type {wanted.__name__}, not {value!r}.")
        values[name] = value
    if not values["input"] or not values["output"]:
        raise UserError("convert needs input and output.", "Name both files.")
    return values


def _silent(*_: object, **__: object) -> None:
    return


def convert(
    request: dict[str, Any], folder: Path, report: Callable[..., None] = _silent
) -> dict[str, Any]:
    """Read, transform, write. Returns {"scene", "count", "format", "bytes", "lossy",
    "sh_coefficients"[, "cameras"][, "levels"]}.

    `transform` (16 numbers, row by row) acts in the axes and unit of the input, `unit_scale` on
    all lengths afterwards, cameras included. `count` or `share` merge splats (`outputs.decimate`):
    one file for each number, the first of them told of as "scene", all of them in "levels" with
    their likeness to the whole along the cameras, which lie in the input, in `cameras` or beside
    the input.
    """
    try:
        return _convert(checked(request), folder, report)
    except MemoryError as error:
        raise UserError(
            "This machine has too little memory for so many splats.",
            "Lower --sh-degree, close other programs, or use another machine.",
        ) from error


def _convert(values: dict[str, Any], folder: Path, report: Callable[..., None]) -> dict[str, Any]:
    source, target = folder / values["input"], folder / values["output"]
    if target.suffix.lower() not in _PAGE:
        formats.format_of(target)  # an unknown ending should fail before the work
    if os.path.exists(source) and os.path.exists(target) and source.samefile(target):
        raise UserError(f"{target} would be written over itself.", "Give the result another name.")
    report("convert", 0, 3, f"reading {source.name}")
    scene = formats.read(source, axes=values["axes_in"])
    report("convert", 1, 3, f"{scene.count} splats")
    if values["cameras"]:
        scene = replace(scene, cameras=camera_file.read(folder / values["cameras"]))
    options = WriteOptions(
        axes=values["axes_out"],
        sh_degree=values["sh_degree"],
        colour_space=values["colour_space"],
        spz_version=values["spz_version"] or 4,
        compress_spz=bool(values["compress_spz"]),
        image_plane=folder / values["image_plane"] if values["image_plane"] else None,
    )
    levels = _levels(scene, _counts(values, scene.count), source, target, report)
    written = [_write(level, values, options, folder, report) for level in levels]
    report("convert", 3, 3, "done")
    return written[0] | ({"levels": written} if values["count"] or values["share"] else {})


class _Level(NamedTuple):
    """One file to write."""

    scene: SplatScene
    target: Path
    likeness_db: float | None  # to all splats along the path; None: not known, or they are all


def _write(
    level: _Level,
    values: dict[str, Any],
    options: WriteOptions,
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    scene, node = _placed(level.scene, values)
    if scene.splats is not level.scene.splats:
        moved = (*scene.metadata.lost, "splats were moved or scaled, as asked, in 32 bits")
        scene = replace(scene, metadata=replace(scene.metadata, lost=moved))
    report("convert", 2, 3, f"writing {level.target.name}")
    if level.target.suffix.lower() in _PAGE:
        return _write_page(level, scene, values, folder)
    written = formats.write(level.target, scene, replace(options, node_matrix=node))
    result = {
        "scene": str(level.target),
        "count": scene.count,
        "format": written.name,
        "bytes": level.target.stat().st_size,
    }
    result["lossy"] = written.loss
    result["sh_coefficients"] = _kept_coefficients(scene, written.name, values["sh_degree"])
    if level.likeness_db is not None:
        result["likeness_db"] = level.likeness_db
    if values["export_cameras"]:
        result["cameras"] = _export_cameras(folder / values["export_cameras"], scene, written.axes)
    return result


def _write_page(
    level: _Level, scene: SplatScene, values: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """The scene as one HTML file, with the cameras and the picture of the job that it is of."""
    from ..formats.scene import with_degree
    from ..job.newest import beside
    from ..outputs.viewer import page
    from ..outputs.viewer.contents import contents

    wrong = [name for name in _NOT_FOR_PAGES if values[name]]
    if wrong:
        flags = ", ".join("--" + name.replace("_", "-") for name in wrong)
        raise UserError(f"A page knows no {flags}.", "Leave it out.")
    source = folder / values["input"]
    picture = folder / values["image_plane"] if values["image_plane"] else None
    segments: tuple[tuple[int, int], ...] = ()
    moved = values["transform"] or values["axes_in"] or values["unit_scale"] not in (None, 1.0)
    job = None if moved or values["cameras"] else beside(source)
    if job is not None:
        scene, segments = replace(scene, cameras=job.cameras), job.segments
        picture = picture or job.picture
    scene = replace(scene, splats=with_degree(scene.splats, values["sh_degree"]))
    shown = contents(scene, source.name, picture=picture, segments=segments)
    result = {
        "scene": str(level.target),
        "count": shown.count,
        "format": "html",
        "bytes": page.write(level.target, shown),
        "lossy": "lossy: as SPZ, rotations to 8 bits",
        "sh_coefficients": scene.splats.sh_rest.shape[1],
    }
    if level.likeness_db is not None:
        result["likeness_db"] = level.likeness_db
    if values["export_cameras"]:
        cameras = folder / values["export_cameras"]
        result["cameras"] = _export_cameras(cameras, scene, scene.metadata.axes)
    return result


def _counts(values: dict[str, Any], have: int) -> list[int]:
    """How many splats each file may hold, most first; none where all are to stay."""
    if values["count"] and values["share"] is not None:
        raise UserError("convert takes a count or a share, not both.", "Leave out one.")
    if values["share"] is not None:
        if not 0 < values["share"] <= 1:
            raise UserError(f"A share of {values['share']} is not possible.", "Give e.g. 0.25.")
        return [max(1, round(values["share"] * have))]
    counts = values["count"] or []
    if any(type(n) is not int or n < 1 for n in counts):
        raise UserError(f"{counts} are not numbers of splats.", "Give whole numbers from 1.")
    return sorted(set(counts), reverse=True)


def _levels(
    scene: SplatScene, counts: list[int], source: Path, target: Path, report: Callable[..., None]
) -> list[_Level]:
    """The scene, or for each count one with no more splats; several have their count in the name.

    What a view loses is weighed along the scene's cameras, or those of the job it lies in.
    """
    if not counts:
        return [_Level(scene, target, None)]
    import torch

    from ..outputs import decimate
    from ..outputs.passes import drawable

    device = torch.device("cpu")
    path = scene.cameras
    beside = source.parent / "cameras.json"
    if path is None and beside.is_file():
        try:
            path = trajectory.load(beside)
        except UserError as error:
            log.warning("%s is not used to choose what to merge: %s", beside, error)
    whole = drawable(scene, device) if path is not None else None
    levels: list[_Level] = []
    current = replace(scene, cameras=path)
    for count in counts:
        report("convert", 1, 3, f"merging {current.count} splats to {min(count, current.count)}")
        merged = current.count > count
        current = decimate.decimated_scene(current, count, device)
        likeness = None
        if whole is not None and path is not None and current.count < scene.count:
            likeness = (
                decimate.likeness_db(whole, drawable(current, device), path)
                if merged
                else levels[-1].likeness_db
            )
        name = target if len(counts) == 1 else _numbered(target, count)
        levels.append(_Level(replace(current, cameras=scene.cameras), name, likeness))
    return levels


def _numbered(target: Path, count: int) -> Path:
    """scene.ply -> scene_20000.ply; scene.compressed.ply -> scene_20000.compressed.ply."""
    stem, dot, endings = target.name.partition(".")
    return target.with_name(f"{stem}_{count}{dot}{endings}")


def _kept_coefficients(scene: SplatScene, name: str, degree: int | None) -> int:
    have = scene.splats.sh_rest.shape[1]
    return 0 if name == "splat" else have if degree is None else min(have, (degree + 1) ** 2 - 1)


def _export_cameras(target: Path, scene: SplatScene, axes: str) -> str:
    """Cameras in the world that the splats were written in, as far as right-handed axes go."""
    if scene.cameras is None:
        raise UserError("There are no cameras to export.", "Give them with --cameras.")
    exports.export(target, scene.cameras, axes=axes, splats=scene.in_axes("opencv", 1.0).splats)
    return str(target)


def _placed(scene: SplatScene, values: dict[str, Any]) -> tuple[SplatScene, np.ndarray | None]:
    """The scene with transform and unit scale baked, and the matrix that stays on the node, if
    any.
    """
    scale = 1.0 if values["unit_scale"] is None else values["unit_scale"]
    if not np.isfinite(scale) or scale <= 0:
        raise UserError(f"unit_scale is {scale}.", "Give a positive number.")
    matrix = np.eye(4)
    if values["transform"]:
        try:
            matrix = np.array(values["transform"], np.float64).reshape(4, 4)
        except (TypeError, ValueError) as error:
            raise UserError(
                "transform is not 16 numbers.", "Give a 4x4 matrix, row by row."
            ) from error
    grow = similarity(np.eye(3), scale)
    if values["keep_transform"] and values["transform"]:
        splats, node = transform_splats(scene.splats, grow), grow @ matrix @ np.linalg.inv(grow)
    else:
        splats, node = transform_splats(scene.splats, grow @ matrix), None
    cameras = scene.cameras
    if cameras is not None and scale != 1.0:
        world = cameras.world_from_camera.copy()
        world[:, :3, 3] *= scale
        cameras = cameras._replace(world_from_camera=world)
    return SplatScene(splats, scene.metadata, cameras), node
