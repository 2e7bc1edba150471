"""Input views, their depth, camera paths and the true pictures along them.

Two kinds of folders are known: a scene of benchmarks/make_scenes.py (input.png, depth.npy, paths
<name>.json with true frames in <name>/), and a posed set: a nerfstudio `transforms.json` with
pictures and either depth maps or sparse points, of which one view is the input and the path runs
through the following ones, which are the truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from plyfile import PlyData
from scipy.spatial.transform import Rotation, Slerp

from ..bridge import camera_file
from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..cameras import trajectory
from ..geometry.completion import complete_depth
from ..media import images

_CELL = 4
BACK = "_back"  # ending of a path's name: out and back again
_HINT = (
    "Give scenes of benchmarks/make_scenes.py, posed sets with a transforms.json, or folders "
    "of either."
)


class View(NamedTuple):
    """One input view and the true views that the path runs through."""

    name: str
    image: Path
    depth_m: np.ndarray  # [h, w] of the input view at its own size; infinite for the sky
    path: CameraPath  # frames of the path at the pictures' size
    truth: dict[int, Path]  # frame of the path -> picture taken there
    seen: dict[
        int, Path
    ]  # frame -> mask, white where the input view sees the same surface; may be empty


def find(folders: Iterable[Path]) -> list[Path]:
    """The scenes and posed sets among the folders and directly in them, sorted. UserError where one
    holds none.
    """
    found: list[Path] = []
    for folder in folders:
        inside = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        these = [p for p in [folder, *inside] if _is_scene(p) or _is_posed(p)]
        if not these:
            raise UserError(f"{folder} holds no scenes with known truth.", _HINT)
        found += these
    return found


def load(folder: Path, *, path: str, views: int, frames: int) -> View:
    """A scene with the named path, or a posed set whose path has `frames` frames and ends at the
    `views`-th view.

    Raises UserError for a folder that is neither or lacks the path.
    """
    if _is_scene(folder):
        return load_scene(folder, path)
    return load_posed(folder, views=views, frames=frames)


def _is_scene(folder: Path) -> bool:
    return (folder / "input.png").is_file() and (folder / "depth.npy").is_file()


def _is_posed(folder: Path) -> bool:
    if not (folder / "transforms.json").is_file():
        return False
    data = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
    return "ply_file_path" in data or all(
        "depth_file_path" in frame for frame in data["frames"][:1]
    )


def load_scene(folder: Path, path: str) -> View:
    """A scene of benchmarks/make_scenes.py with its path small, medium or hard."""
    if path.endswith(BACK):
        return out_and_back(load_scene(folder, path.removesuffix(BACK)))
    file = folder / f"{path}.json"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json")))
        raise UserError(f"{folder} has no path {path!r}.", f"Choose one of {known}.")
    pictures = {
        int(p.stem): p for p in sorted((folder / path).glob("[0-9]*.png")) if p.stem.isdigit()
    }
    masks = {i: p.with_name(f"{p.stem}_seen.png") for i, p in pictures.items()}
    depth = np.load(folder / "depth.npy", allow_pickle=False).astype(np.float32)
    return View(
        folder.name,
        folder / "input.png",
        depth,
        camera_file.read(file),
        pictures,
        {i: p for i, p in masks.items() if p.is_file()},
    )


def out_and_back(view: View) -> View:
    """The view with a path that goes to the end of its own and comes back to the first camera."""
    last = view.path.count - 1
    order = [*range(last + 1), *range(last - 1, -1, -1)]
    path = view.path._replace(
        K=view.path.K[order], world_from_camera=view.path.world_from_camera[order]
    )
    back = {2 * last - i: file for i, file in view.truth.items() if i != last}
    masks = {2 * last - i: file for i, file in view.seen.items() if i != last}
    return view._replace(
        path=path,
        truth=view.truth | back | {2 * last: view.image},
        seen=view.seen | masks,
    )


def load_posed(folder: Path, *, first: int = 0, views: int = 3, frames: int = 13) -> View:
    """A posed set as one experiment: view `first` is the input, the path ends at the `views`-th
    after it.

    The path has `frames` frames in all, evenly shared between the views, positions linear and
    rotations along great circles. Raises UserError for a folder that holds no posed set.
    """
    file = folder / "transforms.json"
    if not file.is_file():
        raise UserError(f"{folder} holds no transforms.json.", _HINT)
    data = json.loads(file.read_text(encoding="utf-8"))
    listed = data["frames"][first : first + views + 1]
    if len(listed) < 2:
        raise UserError(
            f"{folder} has too few views after number {first}.", "Choose an earlier first view."
        )
    size = images.load_image(folder / listed[0]["file_path"]).pixels.shape
    every = trajectory.load(file, image_size=(size[2], size[1]))
    chosen = every._replace(
        K=every.K[first : first + len(listed)],
        world_from_camera=every.world_from_camera[first : first + len(listed)],
    )
    keys = np.linspace(0, max(frames, len(listed)) - 1, len(listed)).round().astype(int)
    path = _through(chosen, keys)._replace(unit="m")
    if "depth_file_path" in listed[0]:
        depth = _depth_map(
            folder / listed[0]["depth_file_path"], float(data.get("depth_unit_scale_factor", 0.001))
        )
    else:
        depth = _sparse_depth(folder / data["ply_file_path"], chosen, (size[1], size[2]))
    truth = {
        int(k): folder / frame["file_path"] for k, frame in zip(keys[1:], listed[1:], strict=True)
    }
    return View(folder.name, folder / listed[0]["file_path"], depth, path, truth, {})


def _through(path: CameraPath, keys: np.ndarray) -> CameraPath:
    at = np.arange(keys[-1] + 1)
    poses = np.tile(np.eye(4), (len(at), 1, 1))
    poses[:, :3, :3] = Slerp(keys, Rotation.from_matrix(path.world_from_camera[:, :3, :3]))(
        at
    ).as_matrix()
    poses[:, :3, 3] = np.stack(
        [np.interp(at, keys, path.world_from_camera[:, i, 3]) for i in range(3)], axis=1
    )
    K = np.stack(
        [np.interp(at, keys, path.K[:, i, j]) for i in range(3) for j in range(3)], axis=1
    ).reshape(-1, 3, 3)
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
    depth[torch.from_numpy(row[inside][order]), torch.from_numpy(column[inside][order])] = (
        torch.from_numpy(seen[inside][order, 2]).float()
    )
    inverse = 1.0 / complete_depth(depth, depth > 0, holes=False)
    return (
        1.0
        / torch.nn.functional.interpolate(
            inverse[None, None], full, mode="bilinear", align_corners=False
        )[0, 0].numpy()
    )
