"""Scenes that are computed from their description: true pictures for any camera, of any size.

A scene of benchmarks/make_scenes.py has pictures at a few cameras, as each takes Blender seconds.
For paths of hundreds of frames a scene here is a list of boxes with a texture that is a formula.
Light does not depend on the view, so that what is measured is the method. `write` lays a scene out
in a folder as scenes.py reads it.

Axes are the engine's: x right, y down, z forward; the input camera stands at the origin. Metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..bridge import camera_file
from ..bridge.camera_file import CameraPath
from ..media import images
from ..scene.pixels import pixel_centres

FOV_DEG = 62.0
_SAMPLES = 2  # rays a pixel, per axis
_OFF_SURFACE = 2e-3  # of the distance: nearer than this before a point nothing hides it
_LIGHT = torch.tensor([0.82, 1.0, 0.9])  # of faces whose normal is x, y, z
_SKY = ((0.32, 0.52, 0.82), (0.82, 0.88, 0.93))  # up, horizon


class Boxes(NamedTuple):
    """Boxes along the axes, n of them."""

    low: Tensor  # [n, 3]
    high: Tensor  # [n, 3]
    dark: Tensor  # [n, 3] the two colours that a texture mixes
    bright: Tensor  # [n, 3]
    grain_m: Tensor  # [n] the texture's largest wavelength


class Hits(NamedTuple):
    """What rays meet first."""

    t: Tensor  # [m] along the ray; infinite for the sky
    box: Tensor  # [m] index; -1 for the sky
    axis: Tensor  # [m] of the face's normal


class Survey(NamedTuple):
    """What lies where in a camera's picture."""

    depth_m: Tensor  # [h, w] along the camera's axis, infinite for the sky
    points: Tensor  # [h, w, 3] in the world; very far for the sky


def draw(scene: Boxes, K: Tensor, world_from_camera: Tensor, width: int, height: int) -> Tensor:
    """The picture [3, h, w] from a camera. K [3, 3] pixels, world_from_camera [4, 4]."""
    s = _SAMPLES
    fine = torch.diag(torch.tensor([s, s, 1.0])) @ K.float()
    world = world_from_camera.float()
    rays = _rays(fine, world, width * s, height * s)
    hits = cast(scene, world[:3, 3], rays, _outlines(scene, fine, world, width * s, height * s))
    rgb = _shade(scene, hits, world[:3, 3], rays.reshape(-1, 3))
    rgb = rgb.reshape(height * s, width * s, 3).permute(2, 0, 1)
    return torch.nn.functional.avg_pool2d(rgb[None], s)[0]


def survey(scene: Boxes, K: Tensor, world_from_camera: Tensor, width: int, height: int) -> Survey:
    """Depth and points at the centres of a camera's pixels."""
    world = world_from_camera.float()
    rays = _rays(K.float(), world, width, height)
    hits = cast(scene, world[:3, 3], rays, _outlines(scene, K.float(), world, width, height))
    depth = hits.t.reshape(height, width)
    return Survey(depth, world[:3, 3] + rays * depth.clamp(max=1e5)[..., None])


def _rays(K: Tensor, world_from_camera: Tensor, width: int, height: int) -> Tensor:
    """[h, w, 3] in the world, of length 1 along the camera's axis, so that t is depth."""
    x, y = pixel_centres(height, width)
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    return pixels @ torch.linalg.inv(K).T @ world_from_camera[:3, :3].T


def _outlines(
    scene: Boxes, K: Tensor, world_from_camera: Tensor, width: int, height: int
) -> list[tuple[slice, slice]]:
    """For every box the rows and columns in which it can be seen."""
    choice = torch.tensor([[i >> k & 1 for k in range(3)] for i in range(8)], dtype=torch.bool)
    corners = torch.where(choice, scene.high[:, None], scene.low[:, None])  # [n, 8, 3]
    camera = torch.linalg.inv(world_from_camera)
    local = corners @ camera[:3, :3].T + camera[:3, 3]
    pixels = local @ K.T
    uv = pixels[..., :2] / pixels[..., 2:].clamp(min=1e-6)
    limit = torch.tensor([width, height])
    low = (uv.amin(dim=1) - 1.0).floor().clamp(min=0.0).minimum(limit).long()
    high = (uv.amax(dim=1) + 2.0).ceil().clamp(min=0.0).minimum(limit).long()
    whole = (slice(0, height), slice(0, width))
    behind = (local[..., 2] < 0.05).any(dim=1)  # reaches behind the camera: no outline
    return [
        whole if near else (slice(int(a[1]), int(b[1])), slice(int(a[0]), int(b[0])))
        for near, a, b in zip(behind, low, high, strict=True)
    ]


def cast(
    scene: Boxes,
    origin: Tensor,
    rays: Tensor,
    outlines: list[tuple[slice, slice]] | None = None,
) -> Hits:
    """The first surface along each ray. origin [3], rays [h, w, 3]; `outlines`: where each box can
    be met.
    """
    h, w, _ = rays.shape
    inverse = 1.0 / torch.where(rays.abs() < 1e-9, torch.full_like(rays, 1e-9), rays)
    t = torch.full((h, w), torch.inf)
    box = torch.full((h, w), -1)
    axis = torch.zeros(h, w, dtype=torch.long)
    for i, (low, high) in enumerate(zip(scene.low, scene.high, strict=True)):
        part = outlines[i] if outlines is not None else (slice(0, h), slice(0, w))
        if not inverse[part].numel():
            continue
        a, b = (low - origin) * inverse[part], (high - origin) * inverse[part]
        enter, face = torch.minimum(a, b).max(dim=-1)
        leave = torch.maximum(a, b).amin(dim=-1)
        hit = (enter < leave) & (enter > 1e-4) & (enter < t[part])
        t[part] = torch.where(hit, enter, t[part])
        axis[part] = torch.where(hit, face, axis[part])
        box[part] = torch.where(hit, i, box[part])
    return Hits(t.flatten(), box.flatten(), axis.flatten())


def seen_from(scene: Boxes, K: Tensor, points: Tensor) -> Tensor:
    """[h, w] bool: which points [h, w, 3] of another camera's picture the input camera, at the
    origin, sees.
    """
    h, w, _ = points.shape
    uv = points @ K.float().T
    z = points[..., 2].clamp(min=1e-9)
    u, v = uv[..., 0] / z, uv[..., 1] / z
    inside = (points[..., 2] > 1e-3) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
    first = cast(scene, torch.zeros(3), points).t.reshape(h, w)  # 1 where the point itself is met
    return inside & (first > 1.0 - _OFF_SURFACE)


def _shade(scene: Boxes, hits: Hits, origin: Tensor, rays: Tensor) -> Tensor:
    """[m, 3] colours."""
    up = (-rays[:, 1:2] / rays.norm(dim=1, keepdim=True)).clamp(0.0, 1.0)
    colour = torch.lerp(torch.tensor(_SKY[1]), torch.tensor(_SKY[0]), up)
    there = hits.box >= 0
    box, axis = hits.box[there], hits.axis[there]
    at = origin + rays[there] * hits.t[there, None]
    across = torch.tensor([[2, 1], [0, 2], [0, 1]])[axis]  # the face's own two axes
    uv = at.gather(1, across) / scene.grain_m[box, None]
    seed = box * 7 + axis
    amount = (
        0.55 * _noise(uv, seed)
        + 0.28 * _noise(3.1 * uv, seed + 1)
        + 0.17 * _noise(8.3 * uv, seed + 2)
    )
    # joints, as of planks, bricks or tiles
    amount = amount * (0.35 + 0.65 * (_wave(uv[:, 0]) * _wave(uv[:, 1])))
    light = _LIGHT[axis] * torch.exp(-0.03 * hits.t[there])
    surface = torch.lerp(scene.dark[box], scene.bright[box], amount[:, None]) * light[:, None]
    colour[there] = surface
    return colour.clamp(0.0, 1.0)


def _wave(x: Tensor) -> Tensor:
    """0 at whole numbers, 1 elsewhere, with soft edges."""
    return ((x - x.round()).abs() / 0.06).clamp(0.0, 1.0)


def _noise(uv: Tensor, seed: Tensor) -> Tensor:
    """Smooth noise in [0, 1] with one value at every whole (u, v). uv [m, 2], seed [m]."""
    cell = uv.floor()
    part = uv - cell
    part = part * part * (3.0 - 2.0 * part)
    i, j = cell[:, 0].long(), cell[:, 1].long()
    top = torch.lerp(_hash(i, j, seed), _hash(i + 1, j, seed), part[:, 0])
    low = torch.lerp(_hash(i, j + 1, seed), _hash(i + 1, j + 1, seed), part[:, 0])
    return torch.lerp(top, low, part[:, 1])


def _hash(i: Tensor, j: Tensor, seed: Tensor) -> Tensor:
    mixed = (i * 73_856_093) ^ (j * 19_349_663) ^ (seed * 83_492_791)
    mixed = (mixed ^ (mixed >> 13)) * 1_274_126_177
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).float() / 65_535.0


def _boxes(rows: list[tuple[float, ...]]) -> Boxes:
    """Rows of low xyz, high xyz, dark rgb, bright rgb, grain."""
    table = torch.tensor(rows)
    return Boxes(table[:, :3], table[:, 3:6], table[:, 6:9], table[:, 9:12], table[:, 12])


def gallery() -> Boxes:
    """A long hall with pillars on both sides, pictures between them, and crates on the floor."""
    stone, plaster = (0.42, 0.38, 0.33, 0.66, 0.61, 0.54), (0.62, 0.58, 0.5, 0.86, 0.83, 0.76)
    rows: list[tuple[float, ...]] = [
        (-2.6, 1.5, -3.0, 2.6, 1.6, 34.0, 0.28, 0.16, 0.09, 0.6, 0.42, 0.27, 0.7),
        (-2.6, -1.7, -3.0, 2.6, -1.6, 34.0, 0.55, 0.55, 0.55, 0.8, 0.8, 0.78, 1.3),
        (-2.7, -1.6, -3.0, -2.6, 1.5, 34.0, *plaster, 0.9),
        (2.6, -1.6, -3.0, 2.7, 1.5, 34.0, *plaster, 0.9),
        (-2.6, -1.6, 33.9, 2.6, 1.5, 34.0, 0.2, 0.25, 0.4, 0.75, 0.7, 0.5, 0.8),
    ]
    paints = ((0.6, 0.12, 0.08), (0.1, 0.35, 0.5), (0.2, 0.42, 0.16), (0.72, 0.55, 0.12))
    for k in range(9):
        z = 2.6 + 3.2 * k
        for side in (-1.0, 1.0):
            x = side * 1.75
            rows.append((x - 0.22, -1.6, z, x + 0.22, 1.5, z + 0.44, *stone, 0.5))
            paint = paints[(k + int(side > 0)) % 4]
            low = sorted((side * 2.59, side * 2.55))
            tint = tuple(0.25 * p for p in paint)
            rows.append((low[0], -0.7, z + 1.1, low[1], 0.5, z + 2.5, *tint, *paint, 0.35))
        if k % 2 == 0:
            side = -1.0 if k % 4 == 0 else 1.0
            wood = (0.3, 0.2, 0.1, 0.72, 0.52, 0.3)
            rows.append(
                (side * 0.9 - 0.3, 0.9, z + 1.0, side * 0.9 + 0.3, 1.5, z + 1.6, *wood, 0.3)
            )
    return _boxes(rows)


def court() -> Boxes:
    """An open yard: paving, a long wall, blocks of several heights, sky above."""
    rows: list[tuple[float, ...]] = [
        (-40.0, 1.6, -10.0, 40.0, 1.7, 60.0, 0.3, 0.32, 0.28, 0.58, 0.57, 0.5, 1.1),
        (-40.0, -2.5, 22.0, 40.0, 1.6, 22.5, 0.45, 0.2, 0.14, 0.74, 0.5, 0.36, 0.8),
    ]
    draw_ = np.random.default_rng(11)
    colours = ((0.7, 0.3, 0.2), (0.25, 0.45, 0.62), (0.8, 0.7, 0.45), (0.35, 0.55, 0.3))
    for k in range(16):
        x, z = -13.0 + 1.9 * k + draw_.uniform(-0.5, 0.5), draw_.uniform(4.5, 17.0)
        wide, deep, tall = draw_.uniform(0.5, 1.1), draw_.uniform(0.5, 1.2), draw_.uniform(0.8, 3.4)
        bright = colours[k % 4]
        dark = tuple(0.35 * c for c in bright)
        rows.append((x - wide, 1.6 - tall, z, x + wide, 1.6, z + deep, *dark, *bright, 0.6))
    return _boxes(rows)


SCENES = {"gallery": gallery, "court": court}
# end of a path: right, up, forward in metres, yaw to the right in degrees; the camera goes there
# evenly
MOVES = {
    "gallery": (0.35, 0.1, 6.0, 0.0),
    "court": (5.0, 0.3, 1.5, -6.0),
}


def path(name: str, frames: int, width: int, height: int, *, back: bool = False) -> CameraPath:
    """The scene's camera path; `back`: it returns the way it came, the last frame at the first
    camera.
    """
    focal = width / 2 / np.tan(np.radians(FOV_DEG) / 2)
    K = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    share = np.linspace(0.0, 1.0, frames)
    if back:
        share = 1.0 - np.abs(np.linspace(-1.0, 1.0, frames))
    right, up, forward, yaw = MOVES[name]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    angle = np.radians(yaw) * share
    poses[:, 0, 0], poses[:, 0, 2] = np.cos(angle), np.sin(angle)
    poses[:, 2, 0], poses[:, 2, 2] = -np.sin(angle), np.cos(angle)
    poses[:, :3, 3] = share[:, None] * np.array([right, -up, forward])
    return CameraPath(
        K=np.tile(K, (frames, 1, 1)),
        world_from_camera=poses,
        width=width,
        height=height,
        fps=12.0,
        unit="m",
    )


def write(folder: Path, name: str, kind: str, cameras: CameraPath, masks: int = 12) -> None:
    """Lay a scene with the path `kind` out as `scenes.load_scene` reads it, with every frame's true
    picture.

    What the input saw is told for `masks` frames, evenly along the path. Pictures that are there
    stay.
    """
    scene = SCENES[name]()
    size = cameras.width, cameras.height
    (folder / kind).mkdir(parents=True, exist_ok=True)
    camera_file.write(folder / f"{kind}.json", cameras)
    K = torch.from_numpy(cameras.K[0]).float()
    masked = set(np.linspace(0, cameras.count - 1, masks + 1).round().astype(int)[1:].tolist())
    for i in range(cameras.count):
        world = torch.from_numpy(cameras.world_from_camera[i])
        file = folder / "input.png" if i == 0 else folder / kind / f"{i:04d}.png"
        if not file.exists():
            images.save_png(file, draw(scene, K, world, *size))
        if i == 0:
            depth = survey(scene, K, world, *size).depth_m
            np.save(folder / "depth.npy", depth.numpy().astype(np.float32))
        if i in masked:
            seen = seen_from(scene, K, survey(scene, K, world, *size).points).float()
            images.save_png(folder / kind / f"{i:04d}_seen.png", seen.expand(3, -1, -1))
