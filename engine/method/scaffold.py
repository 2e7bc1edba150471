"""Geometry for what no frame has seen yet, before the video prior paints it.

Along a segment, holes in the render of the known Gaussians are given depth by continuing the
surfaces around them (`geometry.completion`), and one Gaussian per hole pixel. All frames then
agree on where the unseen lies, so the prior can agree on how it looks, and its frames have
Gaussians to refine: with the paper's schedule alone, a hole has none until densification
happens to grow some.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry.completion import complete_depth
from ..rasterize import rasterize
from ..scene.gaussians import Gaussians, concatenate, sh_dc_from_colour

HOLE_ALPHA = 0.5  # a pixel that lets more light through than this is a hole
_SMALLEST_HOLE = 4  # pixels; fewer in a frame are left to the optimiser
_WIDEST_HOLE = 0.7  # of a frame: continuing so far from so little is left to the frames between
_SIGMA_PX = 0.7  # footprint of one Gaussian per pixel
_OPACITY_LOGIT = 2.2  # 0.9


class Scaffold(NamedTuple):
    """Gaussians for unseen surfaces, and the pixel each was made for."""

    gaussians: Gaussians  # m of them, grey until painted
    frame: Tensor  # [m] index into the segment's cameras
    row: Tensor  # [m]
    column: Tensor  # [m]


def build_scaffold(
    known: Gaussians,
    K: Tensor,
    camera_from_world: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int,
) -> tuple[Scaffold, Tensor]:
    """Cover every hole that the cameras of a segment see.

    K [f, 3, 3], camera_from_world [f, 4, 4] -> the scaffold, and depth [f, h, w] in metres of
    known and scaffold together, completed where even that leaves pixels open.
    """
    parts: list[Scaffold] = []
    scene = known
    # once more in the path's order: a view that saw too little to continue from has more to go on by then
    for f in [*_far_frames_first(K.shape[0]), *range(K.shape[0])]:
        part = _fill_frame(scene, K[f], camera_from_world[f], width, height, sh_degree)
        if part is not None:
            gaussians, row, column = part
            parts.append(Scaffold(gaussians, torch.full_like(row, f), row, column))
            scene = concatenate(scene, gaussians)
    drawn = rasterize(scene, K, camera_from_world, width, height)
    depth = torch.stack(
        [_completed(d, a) for d, a in zip(drawn.depth[..., 0], drawn.alpha[..., 0], strict=True)]
    )
    if not parts:
        none = torch.empty(0, dtype=torch.long, device=K.device)
        return Scaffold(known.select(none), none, none, none), depth
    joined = Scaffold(
        concatenate(*(p.gaussians for p in parts)),
        *(torch.cat(ts) for ts in list(zip(*parts, strict=True))[1:]),
    )
    return joined, depth


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


def _completed(depth: Tensor, alpha: Tensor) -> Tensor:
    seen = (alpha > HOLE_ALPHA) & (depth > 0)
    return (
        complete_depth(depth.cpu(), seen.cpu()).to(depth.device)
        if bool(seen.any())
        else torch.ones_like(depth)
    )


def _fill_frame(
    scene: Gaussians, K: Tensor, camera_from_world: Tensor, width: int, height: int, sh_degree: int
) -> tuple[Gaussians, Tensor, Tensor] | None:
    drawn = rasterize(scene, K[None], camera_from_world[None], width, height)
    alpha, depth = drawn.alpha[0, ..., 0], drawn.depth[0, ..., 0]
    hole = alpha < HOLE_ALPHA
    if int(hole.sum()) < _SMALLEST_HOLE or float(hole.float().mean()) > _WIDEST_HOLE:
        return None
    row, column = torch.nonzero(hole, as_tuple=True)
    z = _completed(depth, alpha)[row, column]
    return pixel_gaussians(row, column, z, K, camera_from_world, sh_degree), row, column


def pixel_gaussians(
    row: Tensor, column: Tensor, depth: Tensor, K: Tensor, camera_from_world: Tensor, sh_degree: int
) -> Gaussians:
    """One round, grey Gaussian for each pixel, as large as the pixel at its depth.

    row, column [m] pixel indices, depth [m] metres along the camera's z, K [3, 3], camera_from_world [4, 4].
    """
    m = row.shape[0]
    pixels = torch.stack([column + 0.5, row + 0.5, torch.ones_like(depth)], dim=1)
    in_camera = (pixels @ torch.linalg.inv(K).T) * depth[:, None]
    rotation, translation = camera_from_world[:3, :3], camera_from_world[:3, 3]
    means = (in_camera - translation) @ rotation  # R^T (x - t), row vectors
    focal = torch.sqrt(K[0, 0] * K[1, 1])
    coefficients = (sh_degree + 1) ** 2 - 1
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0], device=means.device).repeat(m, 1),
        scales_log=torch.log(_SIGMA_PX * depth / focal)[:, None].repeat(1, 3),
        opacities_logit=torch.full((m,), _OPACITY_LOGIT, device=means.device),
        sh_dc=torch.zeros(m, 3, device=means.device),
        sh_rest=torch.zeros(m, coefficients, 3, device=means.device),
    )
