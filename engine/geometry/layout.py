"""A plain room or stage fitted to coarse depth: a floor, two walls, a back wall, a ceiling or open
sky.

It is what an unsure depth is drawn to: it cannot smear, bend or lean.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .networks.small import Look


class Layout(NamedTuple):
    """A plain room or stage that stands upright: a floor, walls, a back, a ceiling or open sky."""

    log_depth: Tensor  # [h, w]
    floor: Tensor  # [h, w] bool: the floor is what is seen
    pitch: float
    height: float  # of the camera above the floor, metres
    fit: float  # weighted mean of |log depth - layout|


_HALF_WIDTHS = (0.5, 0.8, 1.2, 1.8, 2.7, 4.0, 6.0, 10.0, math.inf)  # in camera heights
_BACKS = (0.8, 1.1, 1.5, 2.0, 2.8, 4.0, 5.6, 8.0, 12.0, 20.0, 40.0, 100.0)
_OPEN, _CLOSED = 0.02, 8.0  # share of sky; camera heights
_CEILINGS = (0.4, 0.7, 1.0, 1.5, 2.5, 5.0, math.inf)
_SLANTS = (-0.9, -0.6, -0.35, -0.15, 0.0, 0.15, 0.35, 0.6, 0.9)  # of the back wall, radians
_COARSE = 16  # rows of the grid on which a layout is fitted, about
_FARTHEST = 5.0  # camera heights beyond which nothing is told apart: logarithm


def fit_layout(answer: Look, focal: float, pitch: float, leeway: float) -> Layout:
    """The layout that lies closest to what the network says, by the sum of |log depth| errors over
    doubt.

    focal over the longer side; pitch in radians, to which the layout keeps within about `leeway`.

    A search over a grid, one length after the other, from three beginnings: the same bits every
    time.
    """
    h, w = answer.log_depth.shape
    rows, columns = max(round(h / 4), 4), max(round(w / 4), 4)
    stack = torch.stack([answer.log_depth, 1.0 / (0.05 + answer.doubt), answer.sky])
    target, weight, sky = F.adaptive_avg_pool2d(stack[None], (rows, columns))[0]
    weight = weight * (1 - sky).clamp(min=0.0) + 1e-6
    v = ((torch.arange(rows) + 0.5) / rows - 0.5) * h / (max(h, w) * focal)
    u = ((torch.arange(columns) + 0.5) / columns - 0.5) * w / (max(h, w) * focal)
    y, x = torch.meshgrid(v, u, indexing="ij")

    def cost(values: list[float]) -> float:
        error = _layout(x, y, values) - target
        return float(
            ((error - _weighted_median(error, weight)).abs() * weight).sum() / weight.sum()
        )

    pitches = [pitch + leeway * d for d in (-2.0, -1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0, 2.0)]
    # Without sky the back is not far: a plane that runs on to the horizon is the dearest mistake.
    backs = _BACKS if float(answer.sky.mean()) > _OPEN else [b for b in _BACKS if b <= _CLOSED]
    choices: list[list[float]] = [
        pitches,
        list(_HALF_WIDTHS),
        list(_HALF_WIDTHS),
        list(backs),
        list(_CEILINGS),
        list(_SLANTS),
    ]
    best, best_cost = [], math.inf
    for begin in (
        [pitch, math.inf, math.inf, 4.0, math.inf, 0.0],
        [pitch, 2.7, 2.7, 4.0, 1.0, 0.0],
        [pitch, math.inf, math.inf, 20.0, math.inf, 0.0],
    ):
        now, now_cost = list(begin), cost(begin)
        for _ in range(3):
            before = now_cost
            for k, options in enumerate(choices):
                for value in options:
                    tried = [*now[:k], value, *now[k + 1 :]]
                    c = cost(tried) + 0.02 * abs(tried[0] - pitch) / leeway
                    if c < now_cost - 1e-6:
                        now, now_cost = tried, c
            if now_cost >= before - 1e-4:
                break
        if now_cost < best_cost:
            best, best_cost = now, now_cost
    error = _layout(x, y, best) - target
    shift = _weighted_median(error, weight)
    v = ((torch.arange(h) + 0.5) - h / 2) / (max(h, w) * focal)
    u = ((torch.arange(w) + 0.5) - w / 2) / (max(h, w) * focal)
    y, x = torch.meshgrid(v, u, indexing="ij")
    made = _layout(x, y, best)
    down = y * math.cos(best[0]) + math.sin(best[0])
    floor = (down > 0) & (made + torch.log(down.clamp(min=1e-6)) > -1e-4)
    return Layout(made - shift, floor, best[0], math.exp(-float(shift)), best_cost)


def _layout(x: Tensor, y: Tensor, values: list[float]) -> Tensor:
    """Logarithm of the depth of rays (x, y, 1) in camera heights."""
    pitch, left, right, back, ceiling, slant = values
    down = y * math.cos(pitch) + math.sin(pitch)
    ahead = math.cos(pitch) - y * math.sin(pitch)
    # Inverse ray lengths: the nearest surface has the largest.
    nearness = torch.stack(
        [
            down,
            -x / left,
            x / right,
            (ahead * math.cos(slant) + x * math.sin(slant)) / back,
            -down / ceiling,
        ]
    ).amax(0)
    return -torch.log(nearness.clamp(min=math.exp(-_FARTHEST)))


def _weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    order = values.flatten().argsort(stable=True)
    heavy = weight.flatten()[order].cumsum(0)
    at = int(torch.searchsorted(heavy, heavy[-1:] / 2)[0])
    return values.flatten()[order[min(at, len(order) - 1)]]
