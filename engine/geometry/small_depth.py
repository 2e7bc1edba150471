"""The depth source named "small": a network of our own that ships with the program.

Its answer is coarse. It is the median of a few looks at the picture (mirrored, enlarged, in other
light); where the looks disagree or the network doubts, it is drawn towards a plain layout that
is fitted to it. The result is brought to the picture's size along the picture's own edges.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import tensor_file
from .networks.small import MULTIPLE, SmallDepth, ray_field

PIXELS = 6144  # of the network's input
_ASPECT = 2.6  # longer over shorter side of the input; longer pictures are squeezed
_GUESSED_LENS = 0.866  # focal length over the longer side: 60 degrees


class Look(NamedTuple):
    """What the network says of a picture, at the size of its input."""

    log_depth: Tensor  # [h, w]
    doubt: Tensor  # [h, w] expected error of log_depth
    sky: Tensor  # [h, w] 0..1
    pitch: float  # radians, above 0: looks down
    roll: float
    focal: float  # over the longer side
    pitch_doubt: float
    focal_doubt: float  # of its logarithm


def input_size(height: int, width: int, pixels: int = PIXELS) -> tuple[int, int]:
    """(height, width) of the network's input for a picture of this size."""
    aspect = min(max(width / height, 1 / _ASPECT), _ASPECT)
    h = math.sqrt(pixels / aspect)
    return tuple(max(round(side / MULTIPLE), 3) * MULTIPLE for side in (h, h * aspect))  # type: ignore[return-value]


@torch.no_grad()
def look(network: SmallDepth, image: Tensor, focal: float | None) -> Look:
    """The network's answer for image [3, h, w] in 0..1; focal length over the longer side, if known."""
    answers = []
    known = torch.tensor([0.0 if focal is None else 1.0])
    lens = torch.tensor([_GUESSED_LENS if focal is None else focal])
    h0, w0 = input_size(*image.shape[1:])
    for enlarged in (1.0, 1.4):
        h, w = input_size(*image.shape[1:], int(PIXELS * enlarged**2))
        small = F.interpolate(image[None], size=(h, w), mode="bilinear", antialias=True, align_corners=False)
        for gamma in (1.0, 0.7):
            for mirrored in (False, True):
                seen = small**gamma
                seen = seen.flip(3) if mirrored else seen
                a = network(seen.contiguous(), ray_field(lens, known, h, w))
                maps = torch.stack([a.log_depth[0], a.log_doubt[0].exp(), torch.sigmoid(a.sky[0])])
                maps = maps.flip(2) if mirrored else maps
                maps = F.interpolate(maps[None], size=(h0, w0), mode="bilinear", antialias=True, align_corners=False)[0]
                camera = a.camera[0].clone()
                camera[1] = -camera[1] if mirrored else camera[1]
                answers.append((maps, camera))
    maps = torch.stack([m for m, _ in answers])
    depth = maps[:, 0]
    middle = depth.flatten(1).median(1).values
    depth = depth - middle[:, None, None] + middle.median()
    typical = depth.median(0).values
    apart = (depth - typical).abs().mean(0)
    camera = torch.stack([c for _, c in answers]).median(0).values
    return Look(
        typical, maps[:, 1].mean(0) + apart, maps[:, 2].mean(0),
        float(camera[0]), float(camera[1]), float(camera[2].exp()),
        float(camera[3].exp()), float(camera[5].exp()),
    )


class Layout(NamedTuple):
    """A plain room or stage that stands upright: a floor, walls, a back, a ceiling or open sky."""

    log_depth: Tensor  # [h, w]
    pitch: float
    height: float  # of the camera above the floor, metres
    fit: float  # weighted mean of |log depth - layout|


_HALF_WIDTHS = (0.5, 0.8, 1.2, 1.8, 2.7, 4.0, 6.0, 10.0, math.inf)  # in camera heights
_BACKS = (0.8, 1.1, 1.5, 2.0, 2.8, 4.0, 5.6, 8.0, 12.0, 20.0, 40.0, 100.0)
_CEILINGS = (0.4, 0.7, 1.0, 1.5, 2.5, 5.0, math.inf)
_SLANTS = (-0.9, -0.6, -0.35, -0.15, 0.0, 0.15, 0.35, 0.6, 0.9)  # of the back wall, radians
_COARSE = 16  # rows of the grid on which a layout is fitted, about
_FARTHEST = 5.0  # camera heights beyond which nothing is told apart: logarithm


def fit_layout(answer: Look, focal: float) -> Layout:
    """The layout that lies closest to what the network says, by the sum of |log depth| errors over doubt.

    A search over a grid, one length after the other, from three beginnings: the same bits every time.
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
        return float(((error - _weighted_median(error, weight)).abs() * weight).sum() / weight.sum())

    pitches = [answer.pitch + d for d in (-0.3, -0.15, -0.08, -0.03, 0.0, 0.03, 0.08, 0.15, 0.3)]
    choices: list[list[float]] = [
        pitches, list(_HALF_WIDTHS), list(_HALF_WIDTHS), list(_BACKS), list(_CEILINGS), list(_SLANTS)
    ]
    best, best_cost = [], math.inf
    for begin in (
        [answer.pitch, math.inf, math.inf, 4.0, math.inf, 0.0],
        [answer.pitch, 2.7, 2.7, 4.0, 1.0, 0.0],
        [answer.pitch, math.inf, math.inf, 20.0, math.inf, 0.0],
    ):
        now, now_cost = list(begin), cost(begin)
        for _ in range(3):
            before = now_cost
            for k, options in enumerate(choices):
                for value in options:
                    tried = [*now[:k], value, *now[k + 1 :]]
                    c = cost(tried) + 0.15 * abs(tried[0] - answer.pitch)
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
    return Layout(_layout(x, y, best) - shift, best[0], math.exp(-float(shift)), best_cost)


def _layout(x: Tensor, y: Tensor, values: list[float]) -> Tensor:
    """Logarithm of the depth of rays (x, y, 1) in camera heights."""
    pitch, left, right, back, ceiling, slant = values
    down = y * math.cos(pitch) + math.sin(pitch)
    ahead = math.cos(pitch) - y * math.sin(pitch)
    # Inverse ray lengths: the nearest surface has the largest.
    nearness = torch.stack(
        [down, -x / left, x / right, (ahead * math.cos(slant) + x * math.sin(slant)) / back, -down / ceiling]
    ).amax(0)
    return -torch.log(nearness.clamp(min=math.exp(-_FARTHEST)))


def _weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    order = values.flatten().argsort(stable=True)
    heavy = weight.flatten()[order].cumsum(0)
    at = int(torch.searchsorted(heavy, heavy[-1:] / 2)[0])
    return values.flatten()[order[min(at, len(order) - 1)]]


def steadied(answer: Look, layout: Layout, trust: float) -> Tensor:
    """Log depth [h, w] drawn to the layout where doubt is large; `trust`: the error at which both count alike."""
    share = answer.doubt**2 / (answer.doubt**2 + trust**2)
    return torch.lerp(answer.log_depth, layout.log_depth, share)
