"""Where the surface that one view sees appears in another view.

Each unknown place of a clip is invented once, in one frame. That frame's completed depth is drawn
as a surface into the others, so every frame that sees the place knows where to look, and the
geometry of what is invented agrees by construction.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ...scene.pixels import pixel_centres

_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
_OPTIONS = {"nogil": True, "cache": True, "fastmath": _FAST, "error_model": "numpy"}


@njit(**_OPTIONS)
def _draw(u, v, z, use, z_ratio, best, source):  # type: ignore[no-untyped-def]
    """Draw the grid of points (u, v, z) [h, w] as triangles; nearest wins.

    use [h, w] bool: points that take part; best [H, W] depth so far; source [H, W, 2] the
    (x, y) of the point of the grid that is seen, in pixel centres + 0.5.
    """
    h, w = u.shape
    for y in range(h - 1):
        for x in range(w - 1):
            for half in range(2):
                if half == 0:
                    ay, ax, by, bx, cy, cx = y, x, y, x + 1, y + 1, x
                else:
                    ay, ax, by, bx, cy, cx = y + 1, x + 1, y + 1, x, y, x + 1
                if not (use[ay, ax] and use[by, bx] and use[cy, cx]):
                    continue
                za, zb, zc = z[ay, ax], z[by, bx], z[cy, cx]
                low = min(za, min(zb, zc))
                if low <= np.float32(1e-4) or max(za, max(zb, zc)) > z_ratio * low:
                    continue
                au, av, bu, bv, cu, cv = (
                    u[ay, ax],
                    v[ay, ax],
                    u[by, bx],
                    v[by, bx],
                    u[cy, cx],
                    v[cy, cx],
                )
                _triangle(au, av, za, ax, ay, bu, bv, zb, bx, by, cu, cv, zc, cx, cy, best, source)


@njit(**_OPTIONS)
def _triangle(au, av, az, ax, ay, bu, bv, bz, bx, by, cu, cv, cz, cx, cy, best, source):  # type: ignore[no-untyped-def]
    """One triangle into the depth buffer, perspective-correct."""
    height, width = best.shape
    x0 = max(int(np.floor(min(au, min(bu, cu)) - np.float32(0.5))), 0)
    x1 = min(int(np.ceil(max(au, max(bu, cu)) - np.float32(0.5))), width - 1)
    y0 = max(int(np.floor(min(av, min(bv, cv)) - np.float32(0.5))), 0)
    y1 = min(int(np.ceil(max(av, max(bv, cv)) - np.float32(0.5))), height - 1)
    area = (bu - au) * (cv - av) - (cu - au) * (bv - av)
    if abs(area) < np.float32(1e-9):
        return
    small = np.float32(-1e-4)
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            px = np.float32(x) + np.float32(0.5)
            py = np.float32(y) + np.float32(0.5)
            wb = ((px - au) * (cv - av) - (cu - au) * (py - av)) / area
            wc = ((bu - au) * (py - av) - (px - au) * (bv - av)) / area
            wa = np.float32(1.0) - wb - wc
            if wa < small or wb < small or wc < small:
                continue
            qa, qb, qc = wa / az, wb / bz, wc / cz
            depth = np.float32(1.0) / (qa + qb + qc)
            if depth < best[y, x]:
                best[y, x] = depth
                source[y, x, 0] = (qa * ax + qb * bx + qc * cx) * depth + np.float32(0.5)
                source[y, x, 1] = (qa * ay + qb * by + qc * cy) * depth + np.float32(0.5)


def project(
    depth: Tensor, K_from: Tensor, world_from_a: Tensor, K_to: Tensor, world_from_b: Tensor
) -> Tensor:
    """Every pixel of view a, at its depth, in view b: [3, h, w] of (u, v) in pixels and depth in
    metres.

    depth [h, w]; K_from, K_to [3, 3]; world_from_a, world_from_b [4, 4].
    """
    h, w = depth.shape
    x, y = pixel_centres(h, w)
    ray = torch.stack(
        [(x - K_from[0, 2]) / K_from[0, 0], (y - K_from[1, 2]) / K_from[1, 1], torch.ones_like(x)]
    )
    b_from_a = (torch.linalg.inv(world_from_b.double()) @ world_from_a.double()).float()
    p = torch.einsum("ij,jhw->ihw", b_from_a[:3, :3], ray * depth) + b_from_a[:3, 3, None, None]
    z = p[2]
    safe = torch.where(z.abs() > 1e-6, z, torch.full_like(z, 1e-6))
    return torch.stack(
        [K_to[0, 0] * p[0] / safe + K_to[0, 2], K_to[1, 1] * p[1] / safe + K_to[1, 2], z]
    )


def draw_into(
    points: Tensor, use: Tensor, size: tuple[int, int], z_ratio: float = 1.2
) -> tuple[Tensor, Tensor]:
    """Where a view's surface appears in another view.

    points [3, h, w] from `project`, use [h, w] bool -> (depth [H, W], infinite where nothing is
    drawn, source [H, W, 2] the (x, y) in pixels of the first view).
    """
    best = np.full(size, np.inf, np.float32)
    source = np.zeros((*size, 2), np.float32)
    u, v, z = (np.ascontiguousarray(p) for p in points.numpy())
    _draw(u, v, z, np.ascontiguousarray(use.numpy()), np.float32(z_ratio), best, source)
    return torch.from_numpy(best), torch.from_numpy(source)
