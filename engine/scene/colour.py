"""The sRGB transfer function (IEC 61966-2-1), both ways, and frames brought back to the colours of
others.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SHARE = 0.05  # of a frame's pixels, to tell its colours by
LARGEST_GAIN = 1.25
SMALL_SPREAD = 0.02  # spreads below this say little of a gain


def srgb_to_linear(display: Tensor) -> Tensor:
    """Turn display values into linear light; negative values pass through the linear part."""
    return torch.where(
        display <= 0.04045, display / 12.92, ((display.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    )


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Turn linear light into display values. Gradients are finite everywhere."""
    return torch.where(
        linear <= 0.0031308,
        linear * 12.92,
        1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055,
    )


def match_colours(frames: Tensor, reference: Tensor, where: Tensor) -> Tensor:
    """Give frames the mean and spread of each channel of `reference`, taken where both show the
    same.

    frames, reference [f, 3, h, w] display-referred in [0, 1], where [f, h, w] bool -> [f, 3, h, w]
    in [0, 1]. The moments' transfer of Reinhard et al. 2001, channel by channel of each frame; the
    gain stays within LARGEST_GAIN. A frame of which less than LEAST_SHARE is shared is left as it
    is.
    """
    share = where.to(frames).mean(dim=(1, 2))[:, None, None, None]
    weight = where[:, None].to(frames) / (share * where[0].numel()).clamp(min=1.0)

    def moments(clip: Tensor) -> tuple[Tensor, Tensor]:
        mean = (clip * weight).sum(dim=(2, 3), keepdim=True)
        return mean, ((clip - mean).square() * weight).sum(dim=(2, 3), keepdim=True).sqrt()

    (mean, spread), (wanted, wanted_spread) = moments(frames), moments(reference)
    gain = ((wanted_spread + SMALL_SPREAD) / (spread + SMALL_SPREAD)).clamp(
        1.0 / LARGEST_GAIN, LARGEST_GAIN
    )
    matched = ((frames - mean) * gain + wanted).clamp(0.0, 1.0)
    return torch.where(share >= LEAST_SHARE, matched, frames)
