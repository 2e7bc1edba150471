"""Where a picture's pixels lie, and how large a metre is on them.

A pixel's centre is at (column + 0.5, row + 0.5): the picture's corner is (0, 0).
"""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_centres(
    height: int,
    width: int,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return the centres of all pixels as two maps [height, width] in pixels: u to the right, v
    down.
    """
    v, u = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype) + 0.5,
        torch.arange(width, device=device, dtype=dtype) + 0.5,
        indexing="ij",
    )
    return u, v


def focal_px(K: Tensor) -> Tensor:
    """Return one focal length for both axes, their geometric mean in pixels: K [..., 3, 3] ->
    [...].
    """
    return torch.sqrt(K[..., 0, 0] * K[..., 1, 1])
