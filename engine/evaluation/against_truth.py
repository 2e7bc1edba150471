"""Measures of a frame against its true picture, and of frames against each other.

Images are [3, h, w] in [0, 1], display-referred. SSIM is that of Wang et al. 2004 as torchmetrics
and scikit-image compute it for data range 1: Gaussian window 11 x 11 of sigma 1.5, only windows
that lie whole in the picture. LPIPS (lpips.py) needs network weights that are not part of the
project; `structure` stands in for it and is never called LPIPS.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..job.frame_quality import gradient_energy
from ..method.losses import WINDOW, ssim_map
from ..scene.psnr import psnr
from .lpips import Lpips

_EDGE = WINDOW // 2
_SCALES = 4
RIM_PX = 8  # a cell of the coarse prior
_GMS_C = 0.0026  # Xue et al. 2014: 170 for 8-bit values, over 255^2


def ssim(image: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Mean SSIM over all whole windows, or over those centred where `where` [h, w] is true; NaN if
    there are none.
    """
    values = ssim_map(image.clamp(0.0, 1.0), truth).mean(dim=0)[_EDGE:-_EDGE, _EDGE:-_EDGE]
    if where is not None:
        values = values[where[_EDGE:-_EDGE, _EDGE:-_EDGE]]
    return float(values.mean()) if values.numel() else math.nan


def structure(image: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Multi-scale gradient dissimilarity in [0, 1], 0 for equal pictures: our stand-in for LPIPS.

    1 - GMS, the gradient magnitude similarity of Xue et al. 2014 on luma, averaged over the pixels
    and over four scales, each half the one before. `where` [h, w] restricts it; NaN if empty.
    """
    x, y = (luma(v.clamp(0.0, 1.0))[None, None] for v in (image, truth))
    mask = torch.ones_like(x) if where is None else where.to(x)[None, None]
    values = []
    for _ in range(_SCALES):
        gx, gy = gradient_magnitude(x), gradient_magnitude(y)
        unlike = 1.0 - (2.0 * gx * gy + _GMS_C) / (gx.square() + gy.square() + _GMS_C)
        if float(mask.sum()) > 0:
            values.append(float((unlike * mask).sum() / mask.sum()))
        x, y, mask = (F.avg_pool2d(v, 2) for v in (x, y, mask))
    return sum(values) / len(values) if values else math.nan


def luma(image: Tensor) -> Tensor:
    """Rec. 601 luma of display-referred colours, [3, h, w] -> [h, w]."""
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def gradient_magnitude(x: Tensor) -> Tensor:
    """Prewitt gradient magnitude, [1, 1, h, w] -> the same; borders are continued."""
    kernel = torch.tensor([[1.0, 0.0, -1.0]]).repeat(3, 1) / 3.0
    kernels = torch.stack([kernel, kernel.T])[:, None].to(x)
    return (
        F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernels)
        .square()
        .sum(dim=1, keepdim=True)
        .sqrt()
    )


def detail(image: Tensor, truth: Tensor, where: Tensor) -> float:
    """Gradient energy of the picture over that of the truth where `where` [h, w] is true. Near 0:
    blank or blurred.
    """
    if not bool(where.any()):
        return math.nan
    return float(
        gradient_energy(image)[where].mean() / gradient_energy(truth)[where].mean().clamp(min=1e-6)
    )


def frame_measures(
    image: Tensor, truth: Tensor, seen: Tensor, border: float = 0.0, lpips: Lpips | None = None
) -> dict[str, float]:
    """All measures of one frame. `seen` [h, w]: what the input view saw; `border` is cropped from
    every side first.
    """
    h, w = truth.shape[-2:]
    top, left = math.ceil(border * h), math.ceil(border * w)
    crop = (..., slice(top, h - top), slice(left, w - left))
    image, truth, seen = image[crop], truth[crop], seen[crop]
    parts = {"": None, "_seen": seen, "_invented": ~seen}
    rim = near_border(seen)
    learned = (
        {}
        if lpips is None
        else {f"lpips{name}": lpips.distance(image, truth, where) for name, where in parts.items()}
    )
    return {
        **learned,
        "psnr": psnr(image, truth),
        "psnr_seen": psnr(image, truth, seen),
        "psnr_invented": psnr(image, truth, ~seen),
        "psnr_rim_seen": psnr(image, truth, seen & rim),
        "psnr_rim_invented": psnr(image, truth, ~seen & rim),
        "ssim": ssim(image, truth),
        "ssim_seen": ssim(image, truth, seen),
        "ssim_invented": ssim(image, truth, ~seen),
        "structure": structure(image, truth),
        "structure_invented": structure(image, truth, ~seen),
        "detail_invented": detail(image, truth, ~seen),
        "invented_share": float((~seen).float().mean()),
    }


def near_border(seen: Tensor) -> Tensor:
    """[h, w] bool: pixels within RIM_PX of where seen and invented meet."""
    both = torch.stack([seen, ~seen])[:, None].float()
    near = F.max_pool2d(both, 2 * RIM_PX + 1, stride=1, padding=RIM_PX)[:, 0] > 0
    return near[0] & near[1]


def fill_smoothly(image: Tensor, alpha: Tensor) -> Tensor:
    """Holes of a render filled from around them without any prior: the strong form of "no
    diffusion".

    image [3, h, w], alpha [h, w]. Push-pull (Gortler et al. 1996): averages of ever larger
    neighbourhoods, weighted by coverage, where nothing nearer is known.
    """
    weight = (alpha > 0.5).to(image)[None, None]
    return _push_pull(image[None] * weight, weight)[0]


def _push_pull(colour: Tensor, weight: Tensor) -> Tensor:
    h, w = weight.shape[-2:]
    filled = colour / weight.clamp(min=1e-6)
    if min(h, w) < 2 or bool((weight > 0).all()):
        return filled
    small_weight, small = (F.avg_pool2d(v, 2, ceil_mode=True) for v in (weight, colour))
    coarse = _push_pull(small, small_weight)
    coarse = F.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)
    return torch.where(weight > 0, filled, coarse)
