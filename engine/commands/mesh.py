"""mesh: a proxy mesh of a splat file, for shadows, collisions and snapping."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..bridge.axes import PRESETS, preset
from ..bridge.errors import UserError
from .request import Field, checked
from .request import read as read_request

_FIELDS = {
    "scene": Field("", str),
    "output": Field("", str),
    "cameras": Field("", str),
    "faces": Field(20_000, int, 1, 10_000_000),
    "resolution": Field(160, int, 8, 1024),
    "max_depth": Field(0.0, float, 0),
    "views": Field(24, int, 1, 1000),
    "axes": Field("opencv", str, choices=tuple(PRESETS)),
    "device": Field("auto", str, choices=("auto", "cpu", "cuda")),
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
        {name: getattr(args, name) for name in _FIELDS}, Path.cwd(), lambda *_, **__: None
    )
    sys.stdout.write(f"{result['mesh']}: {result['vertices']} vertices, {result['faces']} faces\n")
    return 0


def run_job(
    folder: Path, report: Callable[..., None], settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The server's job: what `settings`, or mesh.json in the folder, asks for. Paths are relative
    to the folder.
    """
    settings = settings or read_request(folder, "mesh.json")
    return make(settings, folder, report)


def make(request: dict[str, Any], folder: Path, report: Callable[..., None]) -> dict[str, Any]:
    """Returns {"mesh", "vertices", "faces"}."""
    values = checked(request, _FIELDS, "mesh")
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
    from ..rasterize import drawing_device
    from .render import load_cameras

    cameras = load_cameras(folder / values["cameras"]) if values["cameras"] else None
    scene = drawable(
        formats.read(folder / values["scene"]), drawing_device(choose(values["device"]))
    )
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
