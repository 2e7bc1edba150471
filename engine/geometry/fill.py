"""Filling what is not known of pictures from around it: push-pull (Gortler et al. 1996)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def push_pull(values: Tensor, weight: Tensor) -> Tensor:
    """Fill [..., c, h, w] where weight [..., h, w] is 0, from a pyramid of weighted averages.

    Where the weight is above 0 the values stay as they are. A picture of which nothing is known
    becomes 0.
    """
    c, h, w = values.shape[-3:]
    filled = _filled(values.reshape(-1, c, h, w), weight.reshape(-1, 1, h, w))
    return filled.reshape(values.shape)


def _filled(values: Tensor, weight: Tensor) -> Tensor:
    """[f, c, h, w], [f, 1, h, w] -> [f, c, h, w]"""
    h, w = weight.shape[-2:]
    if min(h, w) <= 1 or bool((weight > 0).all()):
        return torch.where(weight > 0, values, torch.zeros_like(values)) if h * w == 1 else values
    pad = (0, w % 2, 0, h % 2)
    mass = F.avg_pool2d(F.pad(weight, pad), 2)
    total = F.avg_pool2d(F.pad(values * weight, pad), 2)
    lower = _filled(total / mass.clamp(min=1e-9), (mass > 0).to(weight))
    up = F.interpolate(lower, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(weight > 0, values, up[..., :h, :w])


def filled_clip(frames: Tensor, known: Tensor) -> Tensor:
    """Frames [f, 3, h, w] with what is not known [f, h, w] (bool) filled from around it.

    A frame of which nothing is known takes the mean colour of what the others know.
    """
    if bool(known.all()) or not bool(known.any()):
        return frames
    filled = push_pull(frames * known[:, None], known.to(frames))
    blank = ~known.flatten(1).any(dim=1)
    if bool(blank.any()):
        mean = frames.permute(1, 0, 2, 3)[:, known].mean(dim=1)
        filled[blank] = mean[:, None, None]
    return filled
