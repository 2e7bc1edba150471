"""Depth where nothing was seen: continue the surfaces around a hole.

A plane in space is an affine function of the pixel in inverse depth, so floors, walls and
ceilings continue exactly when inverse depth is continued by local affine fits. The fits are
weighted least squares over a pyramid (fine where a hole is narrow, coarse where it is wide).
Where a hole opens behind an object, the far side is what continues.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NEAR_SIDE_RATIO = 1.25  # known pixels this much nearer than their surroundings count as occluders
_NEAR_SIDE_POWER = 6
_SURROUNDINGS = 0.12  # radius around a hole that is looked at, as a share of the longer side
_RIDGE = 0.002  # pulls slopes to 0 where the support is thin, as a share of its spatial variance
_BEYOND = (
    1.5  # a continued surface may come this much nearer or go this much farther than anything seen
)
_ROW_SLACK = 1.1  # how much nearer than the far end of its row a filled pixel may be
_EVENNESS = 0.3  # how evenly it must be spread, 1 being a disc
_SUPPORT = 6.0  # known pixels that a cell needs before its own fit is trusted


def complete_depth(depth: Tensor, known: Tensor, *, holes: bool = True) -> Tensor:
    """Fill the unknown pixels of a depth map; known ones are returned as they are.

    depth [h, w] metres (positive where known), known [h, w] bool -> [h, w] metres, all positive.
    `holes`: what is unknown are holes that opened behind things. False: the known pixels are a
    sparse sample of everything that is seen, near and far alike.
    Raises ValueError where nothing at all is known.
    """
    if not bool(known.any()):
        raise ValueError("complete_depth: no pixel is known")
    if bool(known.all()):
        return depth
    inverse = torch.where(known, 1.0 / depth.clamp(min=1e-6), torch.zeros_like(depth))
    weight = _far_side_weight(inverse, known) if holes else known.float()
    low, high = inverse[known].min(), inverse[known].max()
    fitted = _pyramid_fit(inverse, weight).clamp(low / _BEYOND, high * _BEYOND)
    if holes:
        fitted = torch.minimum(fitted, _row_limit(inverse, known))
    return torch.where(known, depth, 1.0 / fitted)


def depth_everywhere(depth: Tensor, known: Tensor) -> Tensor:
    """Complete a depth map [h, w] on the CPU, whatever device it is on; 1 m where nothing at all
    is known.
    """
    if bool(known.all()):
        return depth
    if not bool(known.any()):
        return torch.ones_like(depth)
    return complete_depth(depth.cpu(), known.cpu()).to(depth.device)


def _far_side_weight(inverse: Tensor, known: Tensor) -> Tensor:
    """[h, w]: 1 for known pixels around holes, little for those much nearer than their
    surroundings, 0 elsewhere.

    An affine fit continues a plane exactly whatever the weights, so floors do not suffer.
    """
    radius = max(2, round(_SURROUNDINGS * max(inverse.shape)))
    farthest = -_square_max(
        -torch.where(known, inverse, torch.full_like(inverse, torch.inf)), radius
    )
    near_hole = (
        _square_max((~known).float(), radius) > 0
    )  # what lies deeper inside an occluder must not count either
    ratio = (_NEAR_SIDE_RATIO * farthest / inverse.clamp(min=1e-9)).clamp(max=1.0)
    return torch.where(known & near_hole, ratio**_NEAR_SIDE_POWER, torch.zeros_like(inverse))


def _row_limit(inverse: Tensor, known: Tensor) -> Tensor:
    """[h, w]: the far end of the hole that a pixel lies in, along its row; infinite where one end
    is open.

    Behind an object the ground and the walls keep their depth along a row, while a fit would ramp.
    """
    w = known.shape[1]
    column = torch.arange(w).expand_as(known)
    left = torch.where(known, column, -1).cummax(dim=1).values
    right = w - 1 - torch.where(known, w - 1 - column, -1).flip(1).cummax(dim=1).values.flip(1)
    closed = (left >= 0) & (right < w)
    ends = torch.minimum(
        inverse.gather(1, left.clamp(min=0)), inverse.gather(1, right.clamp(max=w - 1))
    )
    return torch.where(closed, _ROW_SLACK * ends, torch.inf)


def _square_max(values: Tensor, radius: int) -> Tensor:
    """[h, w]: maximum over the square of that radius, rows first and then columns."""
    rows = F.max_pool2d(values[None, None], (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return F.max_pool2d(rows, (2 * radius + 1, 1), stride=1, padding=(radius, 0))[0, 0]


def _pyramid_fit(value: Tensor, weight: Tensor) -> Tensor:
    """Value of the local affine fits at every pixel, [h, w] (the finest level with enough support
    wins).

    The moments of a cell are about its own centre, so that float32 suffices whatever the size of
    the picture.
    """
    h, w = value.shape
    unit = 1.0 / max(h, w)  # a pixel
    v, u = torch.meshgrid(torch.arange(h) * unit, torch.arange(w) * unit, indexing="ij")
    d, k = value.float(), weight.float()
    zero = torch.zeros_like(k)
    moments = torch.stack([k, zero, zero, zero, zero, zero, k * d, zero, zero])
    levels, cell = [(moments, unit)], unit
    while max(levels[-1][0].shape[-2:]) > 1:
        rows, columns = moments.shape[-2:]
        moments = _gathered(F.pad(moments, (0, columns % 2, 0, rows % 2)), 2, cell)
        cell *= 2.0
        levels.append((moments, cell))
    result: Tensor | None = None
    for moments, cell in reversed(levels):
        rows, columns = moments.shape[-2:]
        trust, (mean, su, sv) = _affine(_gathered(F.pad(moments, (1, 1, 1, 1)), 3, cell))
        middle = 0.5 * (cell - unit)
        at_v, at_u = torch.meshgrid(
            torch.arange(rows) * cell + middle, torch.arange(columns) * cell + middle, indexing="ij"
        )
        planes = torch.stack([mean - su * at_u - sv * at_v, su, sv])
        if result is None:
            trust = torch.ones_like(trust)
        # cells without a fit must not leak into their neighbours: interpolate weighted by trust
        spread = F.interpolate(
            torch.cat([trust[None], trust * planes])[None],
            size=(h, w),
            mode="bilinear",
            align_corners=False,
        )[0]
        total = spread[0]
        plane = spread[1:] / total.clamp(min=1e-9)
        fit = plane[0] + plane[1] * u + plane[2] * v
        result = fit if result is None else torch.lerp(result, fit, total)
    assert result is not None
    return result.to(value.dtype)


def _gathered(moments: Tensor, side: int, cell: float) -> Tensor:
    """Moments [9, h, w] of cells summed over side x side of them, about the middle of those.

    side 2: every cell of the next coarser level; 3: every cell with its neighbours. `cell` is a
    cell's side. The rows are those of 1, u, v, uu, uv, vv and of d, ud, vd.
    """
    at = (torch.arange(side) - 0.5 * (side - 1)) * cell
    v, u = torch.meshgrid(at, at, indexing="ij")
    one, kernel = torch.ones_like(u), torch.zeros(9, 9, side, side)
    for new, old, factor in (
        *((i, i, one) for i in range(9)),
        *((1, 0, u), (2, 0, v), (3, 0, u * u), (4, 0, u * v), (5, 0, v * v)),
        *((3, 1, 2 * u), (4, 1, v), (4, 2, u), (5, 2, 2 * v)),
        *((7, 6, u), (8, 6, v)),
    ):
        kernel[new, old] = factor
    return F.conv2d(moments[None], kernel, stride=2 if side == 2 else 1)[0]


def _affine(moments: Tensor) -> tuple[Tensor, Tensor]:
    """[9, h, w] moments -> trust [h, w] in [0, 1] and [3, h, w]: value at the middle and the two
    slopes of the weighted fit.
    """
    k, ku, kv, kuu, kuv, kvv, kd, kud, kvd = moments
    n = k.clamp(min=1e-12)
    mu, mv, md = ku / n, kv / n, kd / n
    cuu, cuv, cvv = kuu / n - mu * mu, kuv / n - mu * mv, kvv / n - mv * mv
    cud, cvd = kud / n - mu * md, kvd / n - mv * md
    # 1 for support spread evenly over the plane, 0 for support on a line, which knows no slope
    # across it
    evenness = 4.0 * (cuu * cvv - cuv * cuv) / ((cuu + cvv) ** 2).clamp(min=1e-18)
    trust = (k / _SUPPORT).clamp(0.0, 1.0) * (evenness / _EVENNESS).clamp(0.0, 1.0)
    ridge = _RIDGE * (cuu + cvv) + 1e-9
    cuu, cvv = cuu + ridge, cvv + ridge
    det = cuu * cvv - cuv * cuv
    su, sv = (cvv * cud - cuv * cvd) / det, (cuu * cvd - cuv * cud) / det
    return trust, torch.stack([md - su * mu - sv * mv, su, sv])
