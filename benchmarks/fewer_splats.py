"""How like the whole is a quarter of a scene's splats, merged, and when three quarters are dropped?

python benchmarks/fewer_splats.py SCENE ...      files of any format; for a job's scene.ply its path

PSNR of twelve views against all splats, along the scene's own cameras, else from a ring round it.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import formats
from engine.bridge.camera_file import CameraPath
from engine.cameras import trajectory
from engine.formats.scene import SplatScene
from engine.outputs import decimate
from engine.outputs.passes import drawable

SHARE = 4  # one in so many is left
VIEWS, SIZE, FOV_DEG = 12, (640, 480), 60.0
AWAY, ABOVE = 2.5, 0.4  # of the ring, in the scene's own size
CPU = torch.device("cpu")


def ring(scene: SplatScene) -> CameraPath:
    """Cameras round the middle of a scene, upright, looking at it from a little above."""
    means = scene.in_axes("opencv", 1.0).splats.means.astype(np.float64)
    middle = np.median(means, axis=0)
    size = np.percentile(np.linalg.norm(means - middle, axis=1), 90)
    width, height = SIZE
    focal = width / 2 / np.tan(np.radians(FOV_DEG / 2))
    cameras = np.tile(np.eye(4), (VIEWS, 1, 1))
    for camera, angle in zip(cameras, np.arange(VIEWS) * 2 * np.pi / VIEWS, strict=True):
        away = AWAY * size * np.array([np.sin(angle), -ABOVE, -np.cos(angle)])
        forward = -away / np.linalg.norm(away)
        right = np.cross(forward, [0.0, -1.0, 0.0])
        right /= np.linalg.norm(right)
        camera[:3] = np.stack([right, np.cross(forward, right), forward, middle + away], axis=1)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return CameraPath(np.tile(K, (VIEWS, 1, 1)), cameras, width, height, 24.0, "m")


def row(file: Path) -> str:
    """One line of the table."""
    scene = formats.read(file)
    beside = file.parent / "cameras.json"
    path = scene.cameras or (trajectory.load(beside) if beside.is_file() else ring(scene))
    scene = replace(scene, cameras=path)
    count = scene.count // SHARE
    began = time.process_time()
    merged = decimate.decimated_scene(scene, count, CPU)
    seconds = time.process_time() - began
    blind = decimate.decimated_scene(replace(scene, cameras=None), count, CPU)
    chance = np.random.default_rng(0).permutation(scene.count)[:count]
    opaque = np.argsort(-scene.splats.opacities_logit, kind="stable")[:count]
    kept = (
        replace(scene, splats=type(scene.splats)(*(values[which] for values in scene.splats)))
        for which in (chance, opaque)
    )
    whole = drawable(scene, CPU)
    likeness = [
        decimate.likeness_db(whole, drawable(one, CPU), path) for one in (merged, blind, *kept)
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    numbers = " | ".join(f"{db:.1f}" for db in likeness)
    return f"| {file} | {scene.count:,} | {numbers} | {seconds:.0f} | {peak:.1f} |"


def main() -> None:
    """Print one row a scene."""
    sys.stdout.write(
        "| scene | splats | merged along the path, dB | merged without it | at random "
        "| most opaque | CPU s | GB |\n|---|---|---|---|---|---|---|---|\n"
    )
    for name in sys.argv[1:]:
        sys.stdout.write(row(Path(name)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
