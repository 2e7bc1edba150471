"""Scenes with known truth: pictures, depth and true frames along three camera paths each.

    .venv-blender-4.2/bin/python benchmarks/make_scenes.py [--out benchmarks/scenes] [--only
    NAME...]

Runs in Blender's Python module; seeds are fixed. A scene's folder holds what
`python -m engine evaluate` reads:

    input.png           the input view, 8 bit, Standard view transform
    depth.npy           its depth, float16 metres along the camera's axis, infinite for the sky
    small.json ...      camera paths in the engine's own format
    small/0004.png ...  true frames of the path, named by their number
    small/0004_seen.png white where the input view sees the same surface (ray casts, not renders)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Euler, Matrix, Vector
from mathutils.bvhtree import BVHTree

sys.path.insert(0, str(Path(__file__).parent))

from scene_builders import SCENES, View

WIDTH, HEIGHT = 192, 128
FRAMES = 13
MASKED = (4, 8, 12)  # frames of which it is told what the input saw
TRUTH = {
    "medium": tuple(range(1, 13))
}  # frames with a true picture; of other paths the masked ones
_OPENCV = Matrix(((1, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, 1)))
_OFF_SURFACE = 2e-3  # of the distance: a point is seen if nothing lies nearer than this before it


class Hits(NamedTuple):
    """What a camera's pixels see."""

    points: np.ndarray  # [h, w, 3] in the world, very far for the sky
    depth_m: np.ndarray  # [h, w] along the camera's axis, infinite for the sky


def start(samples: int, denoise: bool, exposure: float) -> None:
    """An empty file that renders with Cycles on the CPU."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = denoise
    scene.cycles.seed = 0
    scene.cycles.max_bounces = 4
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = (
        WIDTH,
        HEIGHT,
        100,
    )
    scene.render.use_persistent_data = True
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    scene.render.image_settings.color_depth = "8"
    scene.view_settings.view_transform = "Standard"
    scene.view_settings.exposure = exposure
    scene.render.dither_intensity = 0.0


def first_camera(view: View) -> Matrix:
    """Blender's camera at the input view, a level camera that looks at a point."""
    lens = bpy.data.cameras.new("camera")
    lens.sensor_fit, lens.sensor_width = "HORIZONTAL", 36.0
    lens.angle = math.radians(view.fov_deg)
    lens.clip_end = 1e4
    camera = bpy.data.objects.new("camera", lens)
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    turn = (Vector(view.target) - Vector(view.eye)).to_track_quat("-Z", "Y")
    return Matrix.Translation(view.eye) @ turn.to_matrix().to_4x4()


def moved(first: Matrix, end: tuple[float, ...], share: float) -> Matrix:
    """The camera after `share` of a move (right, up, forward in metres, yaw to the right, pitch up
    in degrees).
    """
    right, up, forward, yaw, pitch = (share * x for x in end)
    turn = Euler((math.radians(pitch), math.radians(-yaw), 0.0), "XYZ").to_matrix().to_4x4()
    return first @ Matrix.Translation((right, up, -forward)) @ turn


def intrinsics(view: View) -> np.ndarray:
    focal = WIDTH / 2 / math.tan(math.radians(view.fov_deg) / 2)
    return np.array([[focal, 0.0, WIDTH / 2], [0.0, focal, HEIGHT / 2], [0.0, 0.0, 1.0]])


def everything() -> BVHTree:
    """All surfaces of the scene as one tree in the world: rays need not ask every object."""
    graph = bpy.context.evaluated_depsgraph_get()
    corners: list[Vector] = []
    faces: list[list[int]] = []
    for thing in bpy.context.scene.objects:
        if thing.type != "MESH":
            continue
        ready, first = thing.evaluated_get(graph), len(corners)
        corners += [ready.matrix_world @ corner.co for corner in ready.data.vertices]
        faces += [[first + i for i in face.vertices] for face in ready.data.polygons]
    return BVHTree.FromPolygons(corners, faces)


def cast(tree: BVHTree, camera: Matrix, K: np.ndarray) -> Hits:
    """Where the ray through every pixel's centre meets the scene."""
    origin, turn = camera.to_translation(), camera.to_3x3()
    points, depth = np.zeros((HEIGHT, WIDTH, 3)), np.full((HEIGHT, WIDTH), np.inf)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            ray = turn @ Vector(
                ((x + 0.5 - K[0, 2]) / K[0, 0], -(y + 0.5 - K[1, 2]) / K[1, 1], -1.0)
            )
            at = tree.ray_cast(origin, ray.normalized())[0]
            points[y, x] = origin + 1e5 * ray if at is None else at
            if at is not None:
                depth[y, x] = (at - origin).length / ray.length
    return Hits(points, depth)


def seen_from(tree: BVHTree, first: Matrix, K: np.ndarray, hits: Hits) -> np.ndarray:
    """[h, w] bool: which of another camera's points lie in the first camera's picture and are not
    hidden there.
    """
    origin = first.to_translation()
    local = np.concatenate([hits.points, np.ones((HEIGHT, WIDTH, 1))], axis=2) @ np.array(
        (_OPENCV @ first.inverted()).transposed()
    )
    z = np.maximum(local[..., 2], 1e-9)
    u, v = K[0, 0] * local[..., 0] / z + K[0, 2], K[1, 1] * local[..., 1] / z + K[1, 2]
    inside = (local[..., 2] > 1e-3) & (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
    for y, x in np.argwhere(inside):
        ray = Vector(hits.points[y, x]) - origin
        reach = ray.length * (1.0 - _OFF_SURFACE)
        inside[y, x] = tree.ray_cast(origin, ray.normalized(), reach)[0] is None
    return inside


def shoot(camera: Matrix, file: Path) -> None:
    scene = bpy.context.scene
    scene.camera.matrix_world = camera
    scene.render.filepath = str(file)
    sys.stdout.flush()
    kept, silent = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # Blender reports every sample on it
    bpy.ops.render.render(write_still=True)
    os.dup2(kept, 1)
    os.close(kept)
    os.close(silent)


def save_mask(mask: np.ndarray, file: Path) -> None:
    """A PNG of one byte a pixel, written by Blender."""
    picture = bpy.data.images.new("mask", WIDTH, HEIGHT)
    rgba = np.ones((HEIGHT, WIDTH, 4), np.float32)
    rgba[..., :3] = mask[::-1, :, None]  # Blender's rows begin at the bottom
    picture.pixels.foreach_set(rgba.ravel())
    settings = bpy.context.scene.render.image_settings
    settings.color_mode = "BW"
    picture.save_render(str(file))
    settings.color_mode = "RGB"
    bpy.data.images.remove(picture)


def write_path(file: Path, K: np.ndarray, cameras: list[Matrix]) -> None:
    frames = [
        {"K": K.tolist(), "world_from_camera": _rounded(camera @ _OPENCV)} for camera in cameras
    ]
    head = {
        "format": "scene_splatter_camera_path",
        "version": 1,
        "fps": 12.0,
        "width": WIDTH,
        "height": HEIGHT,
        "unit": "m",
    }
    file.write_text(json.dumps({**head, "frames": frames}) + "\n", encoding="utf-8")


def _rounded(matrix: Matrix) -> list[list[float]]:
    """Rows with 7 decimals, so that rotations stay rigid to what readers check."""
    return [[round(x, 7) for x in row] for row in matrix]


def make(
    folder: Path, view: View, build: Callable[[], None], samples: int, denoise: bool
) -> dict[str, float]:
    """Render one scene into its folder. Returns the share of unseen pixels in the last frame of
    each path.
    """
    start(samples, denoise, view.exposure)
    build()
    first, K = first_camera(view), intrinsics(view)
    bpy.context.view_layer.update()
    tree = everything()
    folder.mkdir(parents=True, exist_ok=True)
    shoot(first, folder / "input.png")
    np.save(folder / "depth.npy", cast(tree, first, K).depth_m.astype(np.float16))
    unseen = {}
    for name, end in view.paths.items():
        cameras = [moved(first, end, i / (FRAMES - 1)) for i in range(FRAMES)]
        write_path(folder / f"{name}.json", K, cameras)
        (folder / name).mkdir(exist_ok=True)
        for i in TRUTH.get(name, MASKED):
            shoot(cameras[i], folder / name / f"{i:04d}.png")
        for i in MASKED:
            seen = seen_from(tree, first, K, cast(tree, cameras[i], K))
            save_mask(seen, folder / name / f"{i:04d}_seen.png")
        unseen[name] = float(1.0 - seen.mean())
    return unseen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "scenes")
    parser.add_argument("--only", nargs="+", choices=tuple(SCENES), default=tuple(SCENES))
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--no-denoise", action="store_true")
    args = parser.parse_args()
    for name in args.only:
        before = time.perf_counter()
        view, build = SCENES[name]
        unseen = make(args.out / name, view, build, args.samples, not args.no_denoise)
        shares = ", ".join(f"{path} {share:.0%}" for path, share in unseen.items())
        print(
            f"{name}: unseen in the last frame: {shares}; {time.perf_counter() - before:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
