"""A vectorised torch tile renderer: what one would write without kernels. The benchmark's baseline,
not part of the product.

Same image as `engine.rasterize` (same constants): projection and SH in torch, pairs by
repeat_interleave, one sort by tile and depth, then tiles of similar length blended together with a
cumulative product along depth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.rasterize import constants as k
from engine.rasterize.reference import project
from engine.scene.gaussians import Gaussians
from engine.scene.harmonics import evaluate_sh

TILE = 16
_ELEMENTS = (
    1 << 23
)  # of one padded block tiles x Gaussians x pixels: larger blocks only miss the cache more


def render(
    gaussians: Gaussians,
    K: Tensor,
    camera_from_world: Tensor,
    width: int,
    height: int,
    near: float = 0.01,
) -> Tensor:
    """One camera, rgb [3, h, w], differentiable."""
    means, covariance, depths = project(gaussians, K, camera_from_world, width, height, near)
    a, b, c = (
        covariance[:, 0, 0] + k.BLUR_PX2,
        covariance[:, 0, 1],
        covariance[:, 1, 1] + k.BLUR_PX2,
    )
    det = a * c - b * b
    opacity = torch.sigmoid(gaussians.opacities_logit)
    centre = -camera_from_world[:3, :3].T @ camera_from_world[:3, 3]
    colour = evaluate_sh(
        gaussians.sh_dc, gaussians.sh_rest, gaussians.means - centre, gaussians.sh_degree
    ).clamp_min(0)
    records = torch.cat(
        [
            means,
            (c / det)[:, None],
            (-b / det)[:, None],
            (a / det)[:, None],
            opacity[:, None],
            colour,
        ],
        1,
    )
    with torch.no_grad():
        index, tile_start, tile_count, tiles_x = _bin(
            means, a, c, det, opacity, depths, width, height, near
        )
    tiles = torch.argsort(tile_count)
    rows = []
    at = 0
    while at < len(tiles):
        many = 1
        while (
            at + many < len(tiles)
            and (many + 1) * int(tile_count[tiles[at + many]]) * TILE * TILE <= _ELEMENTS
        ):
            many += 1
        rows.append(_blend(tiles[at : at + many], tile_start, tile_count, index, records, tiles_x))
        at += many
    blocks = torch.zeros(len(tiles), 3, TILE, TILE).index_copy(0, tiles, torch.cat(rows))
    image = (
        blocks.reshape(-1, tiles_x, 3, TILE, TILE)
        .permute(2, 0, 3, 1, 4)
        .reshape(3, -1, tiles_x * TILE)
    )
    return image[:, :height, :width]


def _bin(means, a, c, det, opacity, depths, width, height, near):
    """Gaussians of each tile in depth order: index [pairs], start and count [tiles]."""
    s_max = (255 * opacity).clamp_min(1e-9).log()
    seen = (depths >= near) & (det > 0) & (s_max > 0)
    reach = (2 * s_max.clamp_min(0)[:, None] * torch.stack([a, c], 1)).sqrt() + 0.01
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    limit = torch.tensor([tiles_x, tiles_y])
    low = torch.minimum(
        ((means - reach) / TILE).floor().clamp(-1e6, 1e6).long().clamp_min(0), limit
    )
    high = torch.minimum(
        ((means + reach) / TILE).floor().clamp(-1e6, 1e6).long() + 1, limit
    ).clamp_min(0)
    size = (high - low).clamp_min(0) * seen[:, None]
    count = size[:, 0] * size[:, 1]
    order = torch.argsort(depths, stable=True)
    owner = torch.repeat_interleave(order, count[order])
    local = torch.arange(len(owner)) - torch.repeat_interleave(
        count[order].cumsum(0) - count[order], count[order]
    )
    w = size[owner, 0]
    tile = (low[owner, 1] + local // w) * tiles_x + low[owner, 0] + local % w
    tile, by_tile = torch.sort(tile, stable=True)
    tile_count = torch.bincount(tile, minlength=tiles_x * tiles_y)
    return owner[by_tile], tile_count.cumsum(0) - tile_count, tile_count, tiles_x


def _blend(tiles, tile_start, tile_count, index, records, tiles_x):
    """Colours [t, 3, TILE, TILE] of some tiles, padded to the longest list."""
    longest = int(tile_count[tiles].max())
    if longest == 0:
        return torch.zeros(len(tiles), 3, TILE, TILE)
    slot = torch.arange(longest)
    valid = slot < tile_count[tiles][:, None]
    members = index[(tile_start[tiles][:, None] + slot).clamp_max(len(index) - 1)]
    r = records[members]  # [t, longest, 9]
    y, x = torch.meshgrid(torch.arange(TILE) + 0.5, torch.arange(TILE) + 0.5, indexing="ij")
    px = (tiles % tiles_x)[:, None] * TILE + x.reshape(1, -1)
    py = (tiles // tiles_x)[:, None] * TILE + y.reshape(1, -1)
    dx, dy = px[:, None] - r[..., 0:1], py[:, None] - r[..., 1:2]
    s = 0.5 * (r[..., 2:3] * dx * dx + r[..., 4:5] * dy * dy) + r[..., 3:4] * dx * dy
    raw = r[..., 5:6] * torch.exp(-s.clamp_min(0))
    alpha = torch.where((raw >= k.ALPHA_MIN) & valid[..., None], raw.clamp_max(k.ALPHA_MAX), 0.0)
    after = torch.cumprod(1 - alpha, 1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    weight = torch.where(after > k.T_MIN, before * alpha, 0.0)
    return torch.einsum("tlp,tlc->tcp", weight, r[..., 6:9]).reshape(-1, 3, TILE, TILE)
