"""mesh: a proxy mesh of a splat file, for shadows, collisions and snapping."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..bridge.axes import PRESETS, preset
from ..bridge.errors import UserError

_DEFAULTS: dict[str, Any] = {
    "scene": None,
    "output": None,
    "cameras": None,
    "faces": 20_000,
    "resolution": 160,
    "max_depth": 0.0,
    "views": 24,
    "axes": "opencv",
    "device": "auto",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of mesh."""
    parser.add_argument("scene", metavar="SCENE", help="a splat file of any known format")
    parser.add_argument("output", metavar="OUT.ply", help="the mesh to write")
    parser.add_argument(
        "--cameras", help="camera path that sees the scene (default: a sphere of cameras round it)"
    )
    parser.add_argument("--faces", type=int, default=20_000, help="face budget (default 20000)")
    parser.add_argument(
        "--resolution", type=int, default=160, help="voxels along the longest side (default 160)"
    )
    parser.add_argument(
        "--max-depth",
        type=float,
        default=0.0,
        help="ignore what is farther, m (default: nine tenths of what is seen)",
    )
    parser.add_argument("--views", type=int, default=24, help="cameras used at most (default 24)")
    parser.add_argument(
        "--axes",
        choices=PRESETS,
        default="opencv",
        help="axes of the mesh (default opencv, as the .ply)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(args: argparse.Namespace) -> int:
    """Make the mesh and print its size."""
    result = make(
        {name: getattr(args, name) for name in _DEFAULTS}, Path.cwd(), lambda *_, **__: None
    )
    sys.stdout.write(f"{result['mesh']}: {result['vertices']} vertices, {result['faces']} faces\n")
    return 0


def run_job(
    folder: Path, report: Callable[..., None], settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The server's job: what `settings`, or mesh.json in the folder, asks for. Paths are relative to the folder."""
    if not settings:
        try:
            settings = json.loads((folder / "mesh.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder / 'mesh.json'} cannot be read: {error}.", "Start it again."
            ) from error
    if not isinstance(settings, dict) or settings.keys() - _DEFAULTS.keys():
        raise UserError(
            f"mesh does not understand {settings!r:.200}.", f"It knows {', '.join(_DEFAULTS)}."
        )
    return make(settings, folder, report)


def make(request: dict[str, Any], folder: Path, report: Callable[..., None]) -> dict[str, Any]:
    """Returns {"mesh", "vertices", "faces"}."""
    values = {**_DEFAULTS, **request}
    if (
        not (values["scene"] and values["output"])
        or Path(values["output"]).suffix.lower() != ".ply"
    ):
        raise UserError("mesh needs a scene and a .ply to write.", "Name both.")
    axes = preset(values["axes"])
    report("reading", 0, 1)
    from .. import formats
    from ..models.device import choose
    from ..outputs import mesh
    from ..outputs.passes import drawable
    from .render import load_cameras

    cameras = load_cameras(folder / values["cameras"]) if values["cameras"] else None
    scene = drawable(formats.read(folder / values["scene"]), choose(values["device"]))
    made = mesh.proxy(
        scene,
        cameras,
        faces=values["faces"],
        resolution=values["resolution"],
        max_depth_m=values["max_depth"],
        views=values["views"],
        report=report,
    )
    turn = axes.from_opencv / axes.metres_per_unit
    triangles = (
        made.faces[:, ::-1] if axes.mirrored else made.faces
    )  # a mirror turns triangles inside out
    target = folder / values["output"]
    mesh.write(target, mesh.Mesh((made.vertices @ turn.T).astype("float32"), triangles))
    return {"mesh": str(target), "vertices": len(made.vertices), "faces": len(made.faces)}
