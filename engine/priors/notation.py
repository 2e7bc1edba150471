"""What diffusion models of different families have in common, as pure functions.

Every family is  x = a * x0 + b * eps  at a level (a, b); a network's raw output is turned
into (x0_hat, eps_hat) here, after guidance. Shapes: runs first, then channels, frames,
height, width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge.errors import UserError
from .base import Level


def from_velocity(v: Tensor, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """(x0_hat, eps_hat) of a variance-preserving v-prediction, v = a * eps - b * x0 (Salimans & Ho
    2022).
    """
    return level.a * x - level.b * v, level.a * v + level.b * x


def from_flow(u: Tensor, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """(x0_hat, eps_hat) of a rectified flow, u = eps - x0, a = 1 - b (Liu et al. 2023)."""
    return x - level.b * u, x + level.a * u


def from_edm_velocity(v: Tensor, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """(x0_hat, eps_hat) of a variance-exploding v-prediction, a = 1, b = sigma (Karras et al.
    2022).
    """
    variance = level.b**2 + 1.0
    x0_hat = x / variance - v * (level.b / variance**0.5)
    return x0_hat, (x - x0_hat) / level.b


def student_levels(noise: Sequence[float], steps: int) -> list[Level]:
    """The levels that a distilled network was taught at, from noise to clean: the first `steps` of
    them, as its authors do with fewer; with more, even steps in the angle of b / a between them.
    """
    if steps < 1:
        raise UserError(f"steps is {steps}.", "Take at least 1.")
    if steps <= len(noise):
        taught = list(noise[:steps])
    else:
        angles = [math.atan2(b, 1.0 - b) for b in noise]
        place = [k * (len(noise) - 1) / (steps - 1) for k in range(steps)]
        between = [
            angles[int(p)]
            + (p - int(p)) * (angles[min(int(p) + 1, len(noise) - 1)] - angles[int(p)])
            for p in place
        ]
        taught = [math.tan(t) / (1.0 + math.tan(t)) for t in between]
    return [Level(1000.0 * b, 1.0 - b, b) for b in [*taught, 0.0]]


def guided(
    with_condition: Tensor, without: Tensor, scale: float | Tensor, rescale: float = 0.0
) -> Tensor:
    """Classifier-free guidance, with the rescale of Lin et al. 2023 (arXiv 2305.08891), Eq.
    (15-16).

    `rescale` pulls the standard deviation of each run's result back to that of the conditional
    output.
    """
    result = without + scale * (with_condition - without)
    if rescale == 0.0:
        return result
    axes = tuple(range(1, result.ndim))
    ratio = with_condition.std(dim=axes, keepdim=True) / result.std(dim=axes, keepdim=True)
    return rescale * result * ratio + (1.0 - rescale) * result


def in_parts(network: Callable[..., Tensor], at_once: int, *batch: Tensor) -> Tensor:
    """network(*batch) computed `at_once` rows at a time, so that branches need not fit in memory
    together.
    """
    parts = zip(*(t.split(at_once) for t in batch), strict=True)
    return torch.cat([network(*part) for part in parts])


def patch_features(latents: Tensor) -> Tensor:
    """Latents [c, f, h, w] -> features [9 c, f, h, w] for Eq. (10): the 3 x 3 neighbourhood of
    every cell.

    A cosine of bare latents hardly differs from 1: among a thousand vectors of four numbers
    one always points the same way. A neighbourhood has enough numbers to tell places apart;
    the mean of each channel over the clip is taken off for the same reason. Borders are
    continued outwards.
    """
    c, f, h, w = latents.shape
    mean = latents.mean(dim=(1, 2, 3))[:, None, None]
    result = latents.new_empty(9 * c, f, h, w)
    for i in range(f):  # one frame at a time: the whole clip's neighbourhoods are large enough once
        around = F.pad((latents[:, i] - mean)[None], (1, 1, 1, 1), mode="replicate")
        result[:, i] = F.unfold(around, 3).reshape(-1, h, w)
    return result
