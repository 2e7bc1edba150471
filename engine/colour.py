"""The sRGB transfer function (IEC 61966-2-1), both ways."""

from __future__ import annotations

import torch
from torch import Tensor


def srgb_to_linear(display: Tensor) -> Tensor:
    """Display values to linear light; negative values pass through the linear part."""
    return torch.where(display <= 0.04045, display / 12.92, ((display.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Linear light to display values. Gradients are finite everywhere."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
