"""Depth edges: where they are, pixels that hang between their two sides, and what lies behind them.

Everything works on inverse depth, which is affine in the pixel on any plane: a floor that
runs to the horizon has no edge however fast its depth grows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_JUMP = 0.06  # of inverse depth over one pixel, as a share of the nearer side
_STEEPER = 3.0  # than the surfaces on both sides
_HANGING = 0.15  # share of the jump by which a pixel must differ from both sides
_BEHIND = 0.97  # what lies behind an edge has at most this share of the inverse depth before it
_SMOOTH_PX, _SMOOTHINGS = 5, 2  # box filter over what goes on behind edges
_WINDOW, _SAME_SURFACE = (
    (-4, -2, 0, 2, 4),
    0.15,
)  # pixels around, and how much they may differ in inverse depth
_REACH = 2  # half the width in pixels of a soft edge that is sharpened


class Band(NamedTuple):
    """What goes on behind the near side of edges."""

    mask: Tensor  # [h, w] bool
    inverse: Tensor  # [h, w] inverse depth, where mask
    colour: Tensor  # [h, w, 3], where mask


def depth_edges(inverse: Tensor) -> Tensor:
    """Far sides of edges: bool [4, h, w], a pixel whose neighbour to the left, right, above or
    below is nearer.

    An edge is a jump of inverse depth [h, w] by over 6 % between two neighbours that is over
    three times the change of the same sign just before and after it.
    """
    out = torch.zeros(4, *inverse.shape, dtype=torch.bool)
    for dim, (first, second) in ((1, (0, 1)), (0, (2, 3))):
        step = torch.diff(inverse, dim=dim)
        n = step.shape[dim]
        nearer = torch.maximum(inverse.narrow(dim, 0, n), inverse.narrow(dim, 1, n))
        sign = step.sign()
        zero = torch.zeros_like(step.narrow(dim, 0, 1))
        before = torch.cat([zero, step.narrow(dim, 0, n - 1)], dim)
        after = torch.cat([step.narrow(dim, 1, n - 1), zero], dim)
        around = torch.maximum(before * sign, after * sign).clamp(min=0)
        edge = (step.abs() > _JUMP * nearer) & (step.abs() > _STEEPER * around)
        out[first].narrow(dim, 1, n).copy_(edge & (step < 0))  # the neighbour before is nearer
        out[second].narrow(dim, 0, n).copy_(edge & (step > 0))  # the neighbour after is nearer
    return out


def cleaned(inverse: Tensor) -> Tensor:
    """Inverse depth [h, w] with soft edges made hard: pixels hanging between two surfaces join the
    closer one.

    A pixel hangs if the surfaces _REACH pixels to both sides, each continued to it, differ much
    more than they slope, and it is like neither.
    """
    for dim in (1, 0):
        inverse = _cleaned_along(inverse, dim)
    return inverse


def _cleaned_along(inverse: Tensor, dim: int) -> Tensor:
    if inverse.shape[dim] < 4 * _REACH + 3:
        return inverse
    r = _REACH + 1

    def shifted(by: int) -> Tensor:
        """Value `by` pixels further on, the last one repeated."""
        index = (torch.arange(inverse.shape[dim]) + by).clamp(0, inverse.shape[dim] - 1)
        return inverse.index_select(dim, index)

    slope_before, slope_after = (
        (shifted(-r) - shifted(-r - 2)) / 2,
        (shifted(r + 2) - shifted(r)) / 2,
    )
    before, after = shifted(-r) + r * slope_before, shifted(r) - r * slope_after
    jump = (shifted(r) - shifted(-r)).abs()
    steep = torch.maximum(slope_before.abs(), slope_after.abs()) * 2 * r
    two_surfaces = (jump > _JUMP * torch.maximum(shifted(r), shifted(-r))) & (
        jump > _STEEPER * steep
    )
    to_before, to_after = (inverse - before).abs(), (inverse - after).abs()
    hangs = two_surfaces & (torch.minimum(to_before, to_after) > _HANGING * jump)
    between = (inverse - before) * (
        inverse - after
    ) < 0  # a thin object in between is not a blend of its surroundings
    joined = torch.where(to_before <= to_after, before, after)
    inner = torch.zeros_like(hangs)  # at the rim there is no surface to continue
    inner.narrow(dim, r + 2, inverse.shape[dim] - 2 * (r + 2)).fill_(True)
    return torch.where(
        hangs & between & inner, joined.clamp(min=0.2 * inverse, max=5 * inverse), inverse
    )


def grow_behind(inverse: Tensor, colour: Tensor, edges: Tensor, reach: int) -> Band:
    """Continue the far side of edges behind the near side, `reach` pixels far.

    inverse [h, w], colour [h, w, 3], edges as `depth_edges` gives them. Step by step, a pixel
    takes the mean of its filled neighbours, each continued by its slope, as long as that lies
    behind it.
    """
    h, w = inverse.shape
    slopes = torch.stack([_smooth_slope(inverse, edges, dim) for dim in (1, 0)])
    # Channels: inverse depth, its two slopes, colour; filled pixels only.
    state = torch.cat([inverse[None], slopes, colour.permute(2, 0, 1)])
    source = edges.any(0)
    filled, mask = source.clone(), torch.zeros_like(source)
    floor = torch.where(source, inverse, torch.inf).min() * 0.5
    for step in range(reach):
        total, count = torch.zeros_like(state), torch.zeros(h, w)
        for side, (dv, du) in enumerate(((0, -1), (0, 1), (-1, 0), (1, 0))):
            # From pixel p to its neighbour p + (dv, du); out of a source only across an edge.
            sender = filled & (edges[side] | mask) if step else edges[side]
            moved = state.clone()
            moved[0] = state[0] + du * state[1] + dv * state[2]
            total += _move(moved * sender, dv, du)
            count += _move(sender[None].float(), dv, du)[0]
        mean = total / count.clamp(min=1)
        new = (count > 0) & ~mask & (mean[0] < _BEHIND * inverse) & (mean[0] > floor)
        if not bool(new.any()):
            break
        state, mask, filled = torch.where(new, mean, state), mask | new, filled | new
    return Band(mask, state[0], _smoothed(state[3:], mask, source).permute(1, 2, 0))


def _smoothed(colour: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Colours [3, h, w] of the mask averaged among themselves and their sources: copies of a pixel
    make streaks.
    """
    weight = (mask | source)[None].float()
    for _ in range(_SMOOTHINGS):
        total = F.avg_pool2d((colour * weight)[None], _SMOOTH_PX, 1, _SMOOTH_PX // 2)[0]
        mass = F.avg_pool2d(weight[None], _SMOOTH_PX, 1, _SMOOTH_PX // 2)[0]
        colour = torch.where(mask, total / mass.clamp(min=1e-6), colour)
    return colour


def _smooth_slope(inverse: Tensor, edges: Tensor, dim: int) -> Tensor:
    """Slope of inverse depth along an axis, averaged over the pixels around that lie on the same
    surface.
    """
    step = torch.diff(inverse, dim=dim)
    n = step.shape[dim]
    first, second = (0, 1) if dim == 1 else (2, 3)
    across = edges[first].narrow(dim, 1, n) | edges[second].narrow(dim, 0, n)
    pad = (0, 1, 0, 0) if dim == 1 else (0, 0, 0, 1)
    stack = torch.stack([F.pad(step, pad), F.pad((~across).float(), pad), inverse])
    total, mass = torch.zeros_like(inverse), torch.full_like(inverse, 1e-6)
    for dv in _WINDOW:
        for du in _WINDOW:
            there, valid, value = _move(stack, dv, du)
            weight = valid * ((value - inverse).abs() < _SAME_SURFACE * inverse)
            total += there * weight
            mass += weight
    return total / mass


def _move(x: Tensor, dv: int, du: int) -> Tensor:
    """[c, h, w] shifted by (dv, du), zeros coming in."""
    padded = F.pad(x, (max(du, 0), max(-du, 0), max(dv, 0), max(-dv, 0)))
    h, w = x.shape[1:]
    return padded[:, max(-dv, 0) : max(-dv, 0) + h, max(-du, 0) : max(-du, 0) + w]
