"""Running the method on pictures whose other views are known, and comparing.

A posed set is a nerfstudio `transforms.json` with pictures and either depth maps or sparse
points. One view is the input; the path runs through the following ones, which are the truth.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from plyfile import PlyData
from scipy.spatial.transform import Rotation, Slerp

from . import camera_file, images, settings, trajectory
from .camera_file import CameraPath
from .errors import UserError
from .geometry.completion import complete_depth
from .job import Job, load_gaussians, prepare
from .losses import ssim_map
from .measures import psnr
from .pipeline import render

Report = Callable[..., None]
_CELL = 4
_SEEN = 0.5  # a pixel of a true view that the first Gaussians cover this much was seen by the input


class PosedView(NamedTuple):
    """One input view and the true views that the path runs through."""

    name: str
    image: Path
    depth_m: np.ndarray  # [h, w] of the input view at its own size
    path: CameraPath  # frames of the path at the pictures' size
    truth: dict[int, Path]  # frame of the path -> picture taken there


def load_posed(folder: Path, *, first: int = 0, views: int = 3, frames: int = 13) -> PosedView:
    """A posed set as one experiment: view `first` is the input, the path ends at the `views`-th after it.

    The path has `frames` frames in all, evenly shared between the views, positions linear and
    rotations along great circles. Raises UserError for a folder that holds no posed set.
    """
    file = folder / "transforms.json"
    if not file.is_file():
        raise UserError(f"{folder} holds no transforms.json.", "Give a folder with a posed set, see docs/evaluation.")
    data = json.loads(file.read_text(encoding="utf-8"))
    listed = data["frames"][first : first + views + 1]
    if len(listed) < 2:
        raise UserError(f"{folder} has too few views after number {first}.", "Choose an earlier first view.")
    size = images.load_image(folder / listed[0]["file_path"]).pixels.shape
    every = trajectory.load(file, image_size=(size[2], size[1]))
    chosen = every._replace(K=every.K[first : first + len(listed)], world_from_camera=every.world_from_camera[first : first + len(listed)])
    keys = np.linspace(0, max(frames, len(listed)) - 1, len(listed)).round().astype(int)
    path = _through(chosen, keys)._replace(unit="m")
    if "depth_file_path" in listed[0]:
        depth = _depth_map(folder / listed[0]["depth_file_path"], float(data.get("depth_unit_scale_factor", 0.001)))
    else:
        depth = _sparse_depth(folder / data["ply_file_path"], chosen, (size[1], size[2]))
    truth = {int(k): folder / frame["file_path"] for k, frame in zip(keys[1:], listed[1:], strict=True)}
    return PosedView(folder.name, folder / listed[0]["file_path"], depth, path, truth)


def _through(path: CameraPath, keys: np.ndarray) -> CameraPath:
    at = np.arange(keys[-1] + 1)
    poses = np.tile(np.eye(4), (len(at), 1, 1))
    poses[:, :3, :3] = Slerp(keys, Rotation.from_matrix(path.world_from_camera[:, :3, :3]))(at).as_matrix()
    poses[:, :3, 3] = np.stack([np.interp(at, keys, path.world_from_camera[:, i, 3]) for i in range(3)], axis=1)
    K = np.stack([np.interp(at, keys, path.K[:, i, j]) for i in range(3) for j in range(3)], axis=1).reshape(-1, 3, 3)
    return path._replace(K=K, world_from_camera=poses)


def _depth_map(file: Path, unit: float) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as picture:
        depth = torch.from_numpy(np.asarray(picture).astype(np.float32) * unit)
    return complete_depth(depth, depth > 0, holes=False).numpy()


def _sparse_depth(file: Path, path: CameraPath, size: tuple[int, int]) -> np.ndarray:
    """Dense depth of the first camera from a sparse cloud in the same world.

    Worked out on cells of _CELL pixels, so that a point behind a nearer one is hidden by it.
    """
    full, size = size, (size[0] // _CELL, size[1] // _CELL)
    vertex = PlyData.read(str(file))["vertex"]
    points = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float64)
    camera = np.linalg.inv(path.world_from_camera[0])
    seen = points @ camera[:3, :3].T + camera[:3, 3]
    seen = seen[seen[:, 2] > 1e-3]
    pixels = seen @ path.K[0].T
    column, row = (np.floor(pixels[:, i] / pixels[:, 2] / _CELL).astype(int) for i in (0, 1))
    inside = (column >= 0) & (column < size[1]) & (row >= 0) & (row < size[0])
    depth = torch.zeros(size)
    order = np.argsort(-seen[inside, 2])  # the nearest is written last
    depth[torch.from_numpy(row[inside][order]), torch.from_numpy(column[inside][order])] = torch.from_numpy(seen[inside][order, 2]).float()
    inverse = 1.0 / complete_depth(depth, depth > 0, holes=False)
    return 1.0 / torch.nn.functional.interpolate(inverse[None, None], full, mode="bilinear", align_corners=False)[0, 0].numpy()


class Score(NamedTuple):
    """Means over the true views of one run."""

    psnr: float  # dB, full frame
    psnr_seen: float  # dB, over what the input view saw
    psnr_invented: float  # dB, over what had to be invented
    ssim: float  # full frame, data range 1
    invented_share: float
    input_psnr: float  # dB against the input picture
    seconds: float


def score(view: PosedView, overrides: dict[str, Any], report: Report, *, border: float = 0.0) -> Score:
    """Run one variant of the method on a view and compare with the true pictures.

    `border` crops that share from every side before the numbers are taken.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "job"
        np.save(Path(scratch) / "depth.npy", view.depth_m)
        camera_file.write(Path(scratch) / "path.json", view.path)
        files = {"image": view.image, "path": Path(scratch) / "path.json", "depth": Path(scratch) / "depth.npy"}
        job = prepare(folder, settings.make("draft", **{**overrides, "depth": "input/depth.npy", "frame_step": 1}), files, resume=False)
        from .commands.generate import run_job

        start = time.perf_counter()
        run_job(folder, report)
        seconds = time.perf_counter() - start
        result = _compare(job, view, border, seconds)
        shutil.rmtree(folder)
    return result


def _compare(job: Job, view: PosedView, border: float, seconds: float) -> Score:
    from . import inputs

    start = inputs.load(job, torch.device("cpu")).inputs
    final = load_gaussians(job.segment_folder(job.finished_segments() - 1) / "gaussians.npz", torch.device("cpu"))
    h, w = start.image.shape[1:]
    rows = []
    for frame, file in view.truth.items():
        one = slice(frame, frame + 1)
        drawn = render(final, start.K[one], start.camera_from_world[one], start.image, job.settings).rgb
        truth = images.resize(images.load_image(file).pixels, w, h)[None]
        seen = render(start.gaussians, start.K[one], start.camera_from_world[one], start.image, job.settings).alpha > _SEEN
        top, left = round(border * h), round(border * w)
        crop = (..., slice(top, h - top), slice(left, w - left))
        drawn, truth, seen = drawn[crop], truth[crop], seen[crop]
        ssim = float(ssim_map(drawn[0], truth[0]).mean())
        rows.append((psnr(drawn, truth), psnr(drawn, truth, seen), psnr(drawn, truth, ~seen), ssim, float((~seen).float().mean())))
    first = render(final, start.K[:1], start.camera_from_world[:1], start.image, job.settings).rgb[0]
    means = np.nanmean(np.array(rows), axis=0) if rows else np.full(5, np.nan)
    return Score(*(float(x) for x in means), psnr(first, start.image), seconds)


def experiment(views: list[PosedView], variants: dict[str, dict[str, Any]], report: Report) -> Iterator[tuple[str, str, Score]]:
    """Every variant on every view, one after another: (view, variant, score)."""
    for view in views:
        for name, overrides in variants.items():
            yield view.name, name, score(view, overrides, report)
