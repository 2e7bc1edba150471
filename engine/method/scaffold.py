"""Geometry for what no frame has seen yet, before the video prior paints it.

Every hole pixel (`masks`) of a segment gets one Gaussian of its own: at the depth that the scene
has there, where it is only too coarse, else at the depth of the surfaces around it, continued
(`geometry.completion`). All frames then agree on where the unseen lies, so the prior can agree on
how it looks, and its frames have Gaussians to refine: with the paper's schedule alone, a hole has
none until densification happens to grow some. Coarse Gaussians in whose place finer ones come are
left out.

Only the new Gaussians are drawn here: what the scene shows is known from the segment's views.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..bridge.settings import SceneSettings
from ..geometry.completion import depth_everywhere
from ..rasterize import rasterize
from ..scene.gaussians import Gaussians, concatenate, sh_dc_from_colour
from ..scene.pixels import focal_px
from . import masks
from .views import Views

_COVERED = 0.5  # alpha above which a pixel has a surface, and so a depth
_SMALLEST_HOLE = 4  # pixels; fewer in a frame are left to the optimiser
_WIDEST_HOLE = 0.7  # of a frame: continuing so far from so little is left to the frames between
_SIGMA_PX = 0.7  # footprint of one Gaussian per pixel
_OPACITY_LOGIT = 2.2  # 0.9
_BEHIND = 1.5  # Gaussians farther than this times a pixel's depth are not what makes it coarse


class Scaffold(NamedTuple):
    """Gaussians for unseen surfaces, and the pixel that each was made for."""

    gaussians: Gaussians  # m of them, grey until painted
    frame: Tensor  # [m] index into the segment's cameras
    row: Tensor  # [m]
    column: Tensor  # [m]


class Built(NamedTuple):
    """What a segment starts from: the scaffold, the Gaussians that stay, and a complete depth."""

    scaffold: Scaffold
    depth: Tensor  # [f, h, w] metres of scene and scaffold, everywhere
    kept: Tensor  # [n] bool: the scene's Gaussians in whose place no finer ones come


def build_scaffold(
    scene: Gaussians,
    views: Views,
    K: Tensor,
    camera_from_world: Tensor,
    settings: SceneSettings,
) -> Built:
    """Cover every hole that the cameras of a segment see: views of the scene from K [f, 3, 3],
    camera_from_world [f, 4, 4].

    With `max_gaussians` nearly reached it still makes a tenth of that; others must then go.
    """
    most, sh_degree = settings.refine.max_gaussians, settings.refine.sh_degree
    room = max(most - scene.count, most // 10)
    hole = ~masks.known(views.mu)
    surface = (views.alpha > _COVERED) & (views.depth > 0)
    holed = hole.flatten(1).sum(dim=1) >= _SMALLEST_HOLE
    parts: list[Scaffold] = []
    filled = torch.zeros_like(hole)
    waiting = [f for f in _far_frames_first(K.shape[0]) if holed[f]]
    for turn in (waiting, sorted(waiting)):
        # once more, in the path's order: a view that saw too little to continue from has more to go
        # on by then
        for f in turn:
            if bool(filled[f].any()) or room <= 0:
                continue
            covered, near = _drawn(parts, K[f], camera_from_world[f], hole.shape[1:])
            have = surface[f] | covered
            if float((hole[f] & ~have).float().mean()) > _WIDEST_HOLE:
                continue
            filled[f] = hole[f]
            wanted = hole[f] & ~covered
            if int(wanted.sum()) < _SMALLEST_HOLE:
                continue
            z = torch.where(covered & ~surface[f], near, views.depth[f])
            row, column = _at_most(torch.nonzero(wanted, as_tuple=True), room)
            z = depth_everywhere(z, have)[row, column]
            made = pixel_gaussians(row, column, z, K[f], camera_from_world[f], sh_degree)
            parts.append(Scaffold(made, torch.full_like(row, f), row, column))
            room -= made.count
    depth = views.depth.clone()
    for f in range(K.shape[0]):
        if bool(surface[f].all()):
            continue
        covered, near = _drawn(parts, K[f], camera_from_world[f], hole.shape[1:])
        joined = torch.where(covered & ~surface[f], near, views.depth[f])
        depth[f] = depth_everywhere(joined, surface[f] | covered)
    coarse = _too_coarse(
        scene, filled & surface, views.depth, K, camera_from_world, settings.method.tau
    )
    return Built(_joined(parts, scene), depth, ~coarse)


def paint(scaffold: Scaffold, frames: Tensor) -> Gaussians:
    """Give each scaffold Gaussian the colour of its own pixel. frames [f, 3, h, w] in [0, 1]."""
    colour = frames[scaffold.frame, :, scaffold.row, scaffold.column]
    return scaffold.gaussians._replace(sh_dc=sh_dc_from_colour(colour))


def _far_frames_first(count: int) -> list[int]:
    """The last frame, then halves: wide views first leave only slivers to the frames between."""
    order, step = [count - 1], count - 1
    while step > 1:
        step = (step + 1) // 2
        order += [i for i in range(count - 1, -1, -step) if i not in order]
    return order + [i for i in range(count) if i not in order]


def _joined(parts: list[Scaffold], like: Gaussians) -> Scaffold:
    if not parts:
        none = torch.empty(0, dtype=torch.long, device=like.means.device)
        return Scaffold(like.select(none), none, none, none)
    gaussians = concatenate(*(p.gaussians for p in parts))
    return Scaffold(gaussians, *(torch.cat(ts) for ts in list(zip(*parts, strict=True))[1:]))


def _drawn(
    parts: list[Scaffold], K: Tensor, camera: Tensor, size: torch.Size
) -> tuple[Tensor, Tensor]:
    """(where the new Gaussians cover a pixel [h, w] bool, their depth [h, w])."""
    if not parts:
        nothing = torch.zeros(size, device=K.device)
        return nothing > 0, nothing
    gaussians = concatenate(*(p.gaussians for p in parts))
    drawn = rasterize(gaussians, K[None], camera[None], size[1], size[0])
    return drawn.alpha[0, ..., 0] > _COVERED, drawn.depth[0, ..., 0]


def _at_most(pixels: tuple[Tensor, ...], room: int) -> tuple[Tensor, Tensor]:
    """(row, column), thinned evenly to `room` pixels."""
    row, column = pixels
    if row.shape[0] <= room:
        return row, column
    chosen = torch.linspace(0, row.shape[0] - 1, room, device=row.device).round().long()
    return row[chosen], column[chosen]


def _too_coarse(
    scene: Gaussians, replaced: Tensor, depth: Tensor, K: Tensor, cameras: Tensor, tau: float
) -> Tensor:
    """[n] bool: larger than tau pixels in a view and centred on a pixel that finer ones replace [f,
    h, w].
    """
    coarse = torch.zeros(scene.count, dtype=torch.bool, device=scene.means.device)
    size = scene.scales_log.median(dim=1).values.exp()
    h, w = replaced.shape[1:]
    for f in range(K.shape[0]):
        if not bool(replaced[f].any()):
            continue
        x, y, z = (scene.means @ cameras[f, i, :3] + cameras[f, i, 3] for i in range(3))
        u = (K[f, 0, 0] * x / z.clamp(min=1e-6) + K[f, 0, 2]).floor()
        v = (K[f, 1, 1] * y / z.clamp(min=1e-6) + K[f, 1, 2]).floor()
        inside = (z > 1e-6) & (u >= 0) & (v >= 0) & (u < w) & (v < h)
        inside &= size * focal_px(K[f]) > tau * z
        which = inside.nonzero()[:, 0]
        row, column = v[which].long(), u[which].long()
        there = replaced[f, row, column] & (z[which] < _BEHIND * depth[f, row, column])
        coarse[which[there]] = True
    return coarse


def pixel_gaussians(
    row: Tensor, column: Tensor, depth: Tensor, K: Tensor, camera_from_world: Tensor, sh_degree: int
) -> Gaussians:
    """Make one round, grey Gaussian for each pixel, as large as the pixel at its depth.

    row, column [m] pixel indices, depth [m] metres along the camera's z, K [3, 3],
    camera_from_world [4, 4].
    """
    m = row.shape[0]
    pixels = torch.stack([column + 0.5, row + 0.5, torch.ones_like(depth)], dim=1)
    in_camera = (pixels @ torch.linalg.inv(K).T) * depth[:, None]
    rotation, translation = camera_from_world[:3, :3], camera_from_world[:3, 3]
    means = (in_camera - translation) @ rotation  # R^T (x - t), row vectors
    focal = focal_px(K)
    coefficients = (sh_degree + 1) ** 2 - 1
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0], device=means.device).repeat(m, 1),
        scales_log=torch.log(_SIGMA_PX * depth / focal)[:, None].repeat(1, 3),
        opacities_logit=torch.full((m,), _OPACITY_LOGIT, device=means.device),
        sh_dc=torch.zeros(m, 3, device=means.device),
        sh_rest=torch.zeros(m, coefficients, 3, device=means.device),
    )
