"""Where the frames of a clip see the same unknown place.

The depth of a rendered frame ends at its holes. It is continued into them as surfaces would go
on, in inverse depth (which is affine in the image on every plane), and the continued surface of
one frame is drawn into the others. So each unknown place is invented once, in one frame, and all
other frames that see it know where to look: the geometry of what is invented agrees by construction.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
_OPTIONS = {"nogil": True, "cache": True, "fastmath": _FAST, "error_model": "numpy"}
_EDGE = 0.06  # relative step of inverse depth between neighbours that counts as a depth edge
_SLACK = 1.6  # a continued surface may be this much nearer or farther than anything that was seen


def spread(values: Tensor, weight: Tensor) -> Tensor:
    """Fill where weight is 0 by push and pull: weighted means of coarser and coarser cells.

    values [c, h, w], weight [1, h, w] >= 0 -> [c, h, w], equal to `values` where weight is 1 or more.
    """
    _, h, w = values.shape
    if min(h, w) == 1 or bool((weight >= 1.0).all()):
        total = (values * weight).sum(dim=(1, 2), keepdim=True) / weight.sum().clamp(min=1e-12)
        return torch.where(weight > 0, values, total.expand_as(values))
    packed = torch.cat([values * weight, weight])[None]
    packed = F.avg_pool2d(packed, 2, ceil_mode=True, count_include_pad=False)[0]
    mass = packed[-1:]
    coarse = spread(packed[:-1] / mass.clamp(min=1e-12), (4.0 * mass).clamp(max=1.0))
    size = (2 * coarse.shape[1], 2 * coarse.shape[2])
    up = F.interpolate(coarse[None], size=size, mode="bilinear", align_corners=False)[0, :, :h, :w]
    return torch.lerp(up, values, weight.clamp(max=1.0))


def _smooth_gradients(q: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences of inverse depth q [h, w] inside surfaces, [2, h, w], and where they are valid [2, h, w]."""
    gradient = torch.zeros(2, *q.shape)
    valid = torch.zeros(2, *q.shape)
    for axis, (a, b) in enumerate(((q[1:], q[:-1]), (q[:, 1:], q[:, :-1]))):
        both = (known[1:] & known[:-1]) if axis == 0 else (known[:, 1:] & known[:, :-1])
        step = a - b
        inside = both & (step.abs() < _EDGE * torch.minimum(a, b))
        if axis == 0:
            gradient[0, :-1], valid[0, :-1] = step, inside.float()
        else:
            gradient[1, :, :-1], valid[1, :, :-1] = step, inside.float()
    return gradient * valid, valid


@njit(**_OPTIONS)
def _relax(q, gradient, cut, rows, columns, sweeps, omega):  # type: ignore[no-untyped-def]
    """Gauss-Seidel with over-relaxation for div grad q = div gradient on the listed cells.

    Neumann at the frame and towards the cells of `cut` [h, w].
    """
    h, w = q.shape
    for _ in range(sweeps):
        for i in range(rows.shape[0]):
            y, x = rows[i], columns[i]
            total = np.float32(0.0)
            count = np.float32(0.0)
            if y > 0 and not cut[y - 1, x]:
                total += q[y - 1, x] + gradient[0, y - 1, x]
                count += np.float32(1.0)
            if y < h - 1 and not cut[y + 1, x]:
                total += q[y + 1, x] - gradient[0, y, x]
                count += np.float32(1.0)
            if x > 0 and not cut[y, x - 1]:
                total += q[y, x - 1] + gradient[1, y, x - 1]
                count += np.float32(1.0)
            if x < w - 1 and not cut[y, x + 1]:
                total += q[y, x + 1] - gradient[1, y, x]
                count += np.float32(1.0)
            if count > 0:
                q[y, x] += omega * (total / count - q[y, x])


def continue_depth(depth: Tensor, known: Tensor) -> Tensor:
    """Depth [h, w] in metres, continued from where `known` [h, w] bool into the rest.

    Holes between a near and a far surface take the far one; planes go on as planes. Where
    nothing at all is known the depth is 1 everywhere.
    """
    known = known & (depth > 0)
    if not bool(known.any()):
        return torch.ones_like(depth)
    if bool(known.all()):
        return depth.clone()
    q = torch.where(known, 1.0 / depth.clamp(min=1e-6), torch.zeros_like(depth))
    far = _far_weight(q, known)
    start = spread(q[None], far[None])[0]
    gradient, valid = _smooth_gradients(q, known)
    slopes = torch.stack([spread(gradient[k][None], valid[k][None])[0] for k in range(2)])
    # the far side decides: the near side of a gap is not a boundary condition
    cut = (known & (far <= 0)).numpy()
    rows, columns = (v.numpy().astype(np.int64) for v in torch.nonzero(~known, as_tuple=True))
    solved = start.numpy().copy()
    size = math.sqrt(max(len(rows), 1))
    _relax(solved, slopes.numpy(), cut, rows, columns, int(min(400, 20 + 2.0 * size)), np.float32(2.0 / (1.0 + math.pi / max(size, 4.0))))
    seen = q[known]
    result = torch.from_numpy(solved).clamp(float(seen.min()) / _SLACK, float(seen.max()) * _SLACK)
    return torch.where(known, depth, 1.0 / result)


def _far_weight(q: Tensor, known: Tensor) -> Tensor:
    """1 on known cells that holes may be continued from; 0 on the near side of a gap between near and far.

    q [h, w] inverse depth -> [h, w] of {0, 1}. Gaps along rows count from a ratio of 1.25; along
    columns, where a floor is rightly nearer at the bottom, from 2.
    """
    near = np.zeros(tuple(q.shape), np.bool_)
    _mark_near(q.numpy(), known.numpy(), near, np.float32(1.25))
    _mark_near(q.numpy().T, known.numpy().T, near.T, np.float32(2.0))
    keep = known & ~torch.from_numpy(near)
    return (keep if bool(keep.any()) else known).float()


@njit(**_OPTIONS)
def _mark_near(q, known, near, ratio):  # type: ignore[no-untyped-def]
    """Mark the nearer end of every gap in a row, as far as its surface reaches, at most 24 cells."""
    h, w = q.shape
    for y in range(h):
        x = 0
        while x < w:
            if known[y, x]:
                x += 1
                continue
            left = x - 1
            while x < w and not known[y, x]:
                x += 1
            if left < 0 or x >= w:
                continue
            for k in range(24):
                if q[y, left] > ratio * q[y, x] and left - k >= 0 and known[y, left - k] and q[y, left - k] > ratio * q[y, x]:
                    near[y, left - k] = True
                if q[y, x] > ratio * q[y, left] and x + k < w and known[y, x + k] and q[y, x + k] > ratio * q[y, left]:
                    near[y, x + k] = True


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
                _triangle(u[ay, ax], v[ay, ax], za, ax, ay, u[by, bx], v[by, bx], zb, bx, by, u[cy, cx], v[cy, cx], zc, cx, cy, best, source)


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


def project(depth: Tensor, K_from: Tensor, world_from_a: Tensor, K_to: Tensor, world_from_b: Tensor) -> Tensor:
    """Every pixel of view a, at its depth, in view b: [3, h, w] of (u, v) in pixels and depth in metres.

    depth [h, w]; K_from, K_to [3, 3]; world_from_a, world_from_b [4, 4].
    """
    h, w = depth.shape
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    ray = torch.stack([(x - K_from[0, 2]) / K_from[0, 0], (y - K_from[1, 2]) / K_from[1, 1], torch.ones_like(x)])
    b_from_a = (torch.linalg.inv(world_from_b.double()) @ world_from_a.double()).float()
    p = torch.einsum("ij,jhw->ihw", b_from_a[:3, :3], ray * depth) + b_from_a[:3, 3, None, None]
    z = p[2]
    safe = torch.where(z.abs() > 1e-6, z, torch.full_like(z, 1e-6))
    return torch.stack([K_to[0, 0] * p[0] / safe + K_to[0, 2], K_to[1, 1] * p[1] / safe + K_to[1, 2], z])


def draw_into(points: Tensor, use: Tensor, size: tuple[int, int], z_ratio: float = 1.2) -> tuple[Tensor, Tensor]:
    """Where a view's surface appears in another view.

    points [3, h, w] from `project`, use [h, w] bool -> (depth [H, W], infinite where nothing is
    drawn, source [H, W, 2] the (x, y) in pixels of the first view).
    """
    best = np.full(size, np.inf, np.float32)
    source = np.zeros((*size, 2), np.float32)
    u, v, z = (np.ascontiguousarray(p) for p in points.numpy())
    _draw(u, v, z, np.ascontiguousarray(use.numpy()), np.float32(z_ratio), best, source)
    return torch.from_numpy(best), torch.from_numpy(source)
