"""How long does one call hold Blender's main thread? Run in a bpy environment:

    .venv-blender-5.2/bin/python benchmarks/blender_main_thread.py

Drawing, timers and buttons are measured in the real window (tests/window, report "main_thread");
here are the calls whose length depends on the data: one slice of a path, a blockout, a picture, an
import.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
os.environ["BLENDER_USER_RESOURCES"] = tempfile.mkdtemp(prefix="scene_splatter_")


def load_addon() -> Any:
    """The registered add-on, as the package `scene_splatter`."""
    spec = importlib.util.spec_from_file_location(
        "scene_splatter", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["scene_splatter"] = package
    spec.loader.exec_module(package)
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    package.register()
    return bpy


class Taken(NamedTuple):
    """Milliseconds of a call by the clock, and what its thread computed: less, where others use the
    machine or threads help.
    """

    clock: float
    computed: float


def milliseconds(call: Callable[[], Any], repeats: int = 3) -> Taken:
    """The fastest of some runs."""
    taken = []
    for _ in range(repeats):
        clock, computed = time.perf_counter(), time.thread_time()
        call()
        taken.append(
            Taken(1e3 * (time.perf_counter() - clock), 1e3 * (time.thread_time() - computed))
        )
    return min(taken)


def sliced(steps: Generator[Any, None, Any]) -> tuple[Any, Taken, str]:
    """The result of sliced work, its longest slice, and a note on all of it."""
    slices = []
    while True:
        clock, computed, result = time.perf_counter(), time.thread_time(), None
        try:
            next(steps)
        except StopIteration as stop:
            result = (stop.value,)
        slices.append(
            Taken(1e3 * (time.perf_counter() - clock), 1e3 * (time.thread_time() - computed))
        )
        if result is not None:
            note = f"{len(slices)} slices, {sum(s.computed for s in slices):.0f} ms computed in all"
            return (
                result[0],
                Taken(max(s.clock for s in slices), max(s.computed for s in slices)),
                note,
            )


def row(name: str, taken: Taken, note: str = "") -> None:
    """A line of the table."""
    print(f"| {name} | {taken.clock:.1f} | {taken.computed:.1f} | {note} |", flush=True)


def camera(bpy: Any) -> Any:
    """A scene camera that moves."""
    scene = bpy.context.scene
    ob = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(ob)
    scene.camera = ob
    ob.rotation_euler = (math.pi / 2, 0, 0)
    for frame, x in ((1, 0.0), (2000, 2.0)):
        ob.location = (x, 0, 1.6)
        ob.keyframe_insert("location", frame=frame)
    return ob


def paths(bpy: Any) -> None:
    """The longest slice while 2000 frames are read, and all of it."""
    from scene_splatter.blender_addon.cameras import conversion, coverage, moves
    from scene_splatter.blender_addon.jobs.slices import run

    scene = bpy.context.scene
    path, longest, note = sliced(conversion.export_in_slices(scene, scene.camera, range(1, 2001)))
    row("camera path of 2000 frames, longest slice", longest, note)
    frames = [float(frame) for frame in range(1, 2001)]
    row(
        "its warnings", milliseconds(lambda: moves.path_warnings(path, frames, scene, scene.camera))
    )
    depth = np.full((64, 96), 5.0)
    row(
        "what has to be invented, nine views, one a slice",
        milliseconds(lambda: run(coverage.invented_in_slices(path, depth))),
    )


def blockouts(bpy: Any) -> None:
    """The longest slice of the depth of a blockout at 1024 x 576, by its number of triangles."""
    from scene_splatter.blender_addon.cameras import blockout

    scene = bpy.context.scene
    for subdivisions in (4, 6, 8):
        bpy.ops.mesh.primitive_ico_sphere_add(
            subdivisions=subdivisions, radius=2, location=(0, 6, 1.6)
        )
        ball = bpy.context.object
        _, longest, note = sliced(
            blockout.measure_in_slices(bpy.context, scene.camera, 1, 1024, 576)
        )
        row(f"blockout of {len(ball.data.polygons):,} triangles, longest slice", longest, note)
        bpy.data.objects.remove(ball)


def pictures(bpy: Any) -> None:
    """The picture of a job."""
    from scene_splatter.blender_addon.jobs import request

    group = bpy.context.scene.scene_splatter
    folder = Path(tempfile.mkdtemp())
    image = bpy.data.images.new("light", 3840, 2160, float_buffer=True)
    bpy.context.scene.render.image_settings.file_format = "OPEN_EXR"
    image.save_render(str(folder / "light.exr"), scene=bpy.context.scene)
    bpy.data.images.remove(image)
    group.image_path = str(folder / "light.exr")
    row("a 4K EXR picture", milliseconds(lambda: request.save_image(group, folder), 2), "copied")
    group.image_path = str(ROOT / "engine" / "demo" / "image.jpg")
    row("a JPEG picture", milliseconds(lambda: request.save_image(group, folder)), "copied")


def imports(bpy: Any) -> None:
    """A finished job's result, when a thread has read it already; without that; and the share of
    Blender itself.
    """
    from scene_splatter.blender_addon.jobs import results
    from scene_splatter.blender_addon.splats import splat_object
    from scene_splatter.engine.bridge.splat_file import Splats, write_ply

    draw = np.random.default_rng(0)
    path = Path(tempfile.mkdtemp()) / "scene_linear.ply"
    for count, k in ((30_000, 0), (30_000, 0), (1_000_000, 0), (1_000_000, 15)):
        splats = Splats(
            draw.normal(size=(count, 3)).astype(np.float32),
            draw.normal(size=(count, 4)).astype(np.float32),
            np.full((count, 3), -4, np.float32),
            np.ones(count, np.float32),
            draw.normal(size=(count, 3)).astype(np.float32),
            draw.normal(size=(count, k, 3)).astype(np.float32),
        )
        write_ply(path, splats, ("scene_splatter blending linear",))

        def run_import(path: Path = path) -> None:
            bpy.ops.scene_splatter.import_splats("EXEC_DEFAULT", filepath=str(path))

        while not results.read_ahead(path):
            time.sleep(0.05)
        first = splat_object.splat_nodes.GROUP_NAME not in bpy.data.node_groups
        ahead = milliseconds(run_import, 1)
        bpy.data.pointclouds.remove(bpy.data.pointclouds[-1])
        whole = milliseconds(run_import, 1)
        bpy.data.pointclouds.remove(bpy.data.pointclouds[-1])
        degree = f", SH degree {math.isqrt(k + 1) - 1}" if k else ""
        name = (
            f"import of {count:,} "
            f"Gaussians{degree}{', the first of a file: its nodes are made' if first else ''}"
        )
        row(
            name,
            ahead,
            f"{whole.clock:.0f} and {whole.computed:.0f} ms with reading, as from the menu",
        )


def main() -> None:
    """Print the table."""
    bpy = load_addon()
    print(f"Blender {bpy.app.version_string}\n\n| call | ms | ms computed | |\n|---|---|---|---|")
    camera(bpy)
    for part in (paths, blockouts, pictures, imports):
        part(bpy)
    sys.stdout.flush()
    os._exit(0)  # Blender's module does not end well with operators registered


if __name__ == "__main__":
    main()
