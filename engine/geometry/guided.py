"""Brings a coarse map to a picture's size along the picture's own edges.

Joint bilateral upsampling (Kopf et al., SIGGRAPH 2007), doubling the size step by step: a pixel
takes the values of the coarse cells around that have its colour.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_COLOUR = 0.07  # differences of colour that still count as the same surface
_NEAR = 1.2  # cells
_RADIUS = 2  # cells around a pixel that are asked
_PASSES = 2  # over the coarse map itself, before it grows


def along_edges(maps: Tensor, image: Tensor) -> Tensor:
    """maps [c, h, w], coarse, to the size of image [3, H, W] in 0..1: [c, H, W].

    Values are weighted means of nearby ones, never outside their range.
    """
    height, width = image.shape[1:]
    size = (maps.shape[1], maps.shape[2])
    for _ in range(_PASSES):
        guide = _resized(image, size)
        maps = _joined(maps, guide, guide, _RADIUS)
    while size != (height, width):
        grown = (min(size[0] * 2, height), min(size[1] * 2, width))
        if size[0] * 2 > 1.5 * height or size[1] * 2 > 1.5 * width or grown == size:
            grown = (height, width)
        radius = _RADIUS if grown[0] * grown[1] < 60_000 else 1
        maps = _joined(maps, _resized(image, size), _resized(image, grown), radius)
        size = grown
    return maps


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(
        image[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0]


def _joined(maps: Tensor, guide: Tensor, fine: Tensor, radius: int) -> Tensor:
    """maps [c, h, w] with their picture [3, h, w] at the size of the fine picture [3, H, W]."""
    h, w = maps.shape[1:]
    height, width = fine.shape[1:]
    row = (torch.arange(height, device=maps.device) + 0.5) * h / height - 0.5
    column = (torch.arange(width, device=maps.device) + 0.5) * w / width - 0.5
    base_row, base_column = row.round(), column.round()
    total = torch.zeros(maps.shape[0], height, width, device=maps.device)
    mass = torch.zeros(height, width, device=maps.device)
    for dv in range(-radius, radius + 1):
        for du in range(-radius, radius + 1):
            r = (base_row + dv).clamp(0, h - 1).long()
            c = (base_column + du).clamp(0, w - 1).long()
            colour = guide[:, r][:, :, c] - fine
            away = ((base_row + dv - row) ** 2)[:, None] + ((base_column + du - column) ** 2)[None]
            weight = torch.exp(
                -(colour * colour).sum(0) / (2 * _COLOUR**2) - away / (2 * _NEAR**2)
            ) + 1e-8 * torch.exp(-away)
            total += maps[:, r][:, :, c] * weight
            mass += weight
    return total / mass
