"""The peak signal-to-noise ratio of pictures in [0, 1], in dB."""

from __future__ import annotations

import math

from torch import Tensor

PERFECT_DB = 99.0  # what is said of two equal images, so that means stay finite


def decibels(mean_square: float) -> float:
    """Turn a mean square error of values in [0, 1] into dB: -10 log10 of it, at most
    PERFECT_DB; NaN stays NaN, and is not taken for perfect.
    """
    return min(-10.0 * math.log10(max(mean_square, 1e-12)), PERFECT_DB)


def psnr(image: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Compute the PSNR of images [..., 3, h, w] in dB over all pixels, or over those where `where`
    [..., h, w] is true; NaN where there is none.
    """
    error = (image.clamp(0.0, 1.0) - truth).square().mean(dim=-3)
    if where is not None:
        error = error[where]
    return decibels(float(error.mean())) if error.numel() else math.nan
