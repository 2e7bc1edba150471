"""The photometric loss of refinement, Eq. (20): (1 - g) L1 + g (1 - SSIM).

SSIM after Wang et al. 2004 with the window of 3DGS: 11 x 11 Gaussian of sigma 1.5, zero padding,
per channel. Notation (name here -> symbol): g -> gamma, mu_x, mu_y -> window means, p -> E[x^2], r
-> E[x y], and S = (2 mu_x mu_y + C1)(2 (r - mu_x mu_y) + C2) / ((mu_x^2 + mu_y^2 + C1)(p - mu_x^2 +
var_y + C2)).

Three forms of one function: plain torch, any device and precision, and fused kernels that also
write the gradient, for the CPU and, where Warp runs, for CUDA. All weigh every pixel's loss by
`pixel_weights` before the mean over all pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WINDOW = 11
SIGMA_PX = 1.5
C1 = 0.01**2
C2 = 0.03**2


class Target(NamedTuple):
    """A supervised frame, with all that the loss needs of this frame alone."""

    image: Tensor  # [3, h, w]
    mean: Tensor | None  # [3, h, w] window mean; None for the torch form
    variance: Tensor | None  # [3, h, w] window variance


def prepare_target(image: Tensor) -> Target:
    """Blur a supervised frame [3, h, w] once, for many steps. ValueError if it is not finite; on a
    GPU its loss says so.
    """
    if image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be [3, h, w], got {list(image.shape)}")
    if not image.is_cuda and not image.isfinite().all():
        raise ValueError("image holds values that are not finite")
    fused = _fused(image)
    return Target(image, None, None) if fused is None else Target(image, *fused[0](image))


def _fused(image: Tensor) -> tuple | None:
    """(window_statistics, FusedLoss) of the kernels for such an image; None where torch computes
    alone.
    """
    if image.dtype != torch.float32:
        return None
    if image.is_cuda:
        from ..rasterize.warp import backend

        if backend.why_unusable():
            return None
        from ..rasterize.warp import loss

        return loss.window_statistics, loss.FusedLoss
    from ..rasterize.kernels import ssim

    return ssim.window_statistics, ssim.FusedLoss


def photometric_loss(
    image: Tensor, target: Target, ssim_weight: float = 0.2, pixel_weights: Tensor | None = None
) -> Tensor:
    """Compute Eq. (20), a scalar, for image [3, h, w] in 0..1 against a prepared frame;
    pixel_weights [1, h, w] >= 0 weigh the pixels.
    """
    if image.shape != target.image.shape:
        raise ValueError(
            f"image and target differ in shape: {list(image.shape)}, {list(target.image.shape)}"
        )
    if pixel_weights is not None and pixel_weights.shape != (1, *image.shape[1:]):
        raise ValueError(
            f"pixel_weights must be {[1, *image.shape[1:]]}, got {list(pixel_weights.shape)}"
        )
    fused = _fused(image)
    if target.mean is None or fused is None:
        return photometric_loss_torch(image, target.image, ssim_weight, pixel_weights)
    return fused[1].apply(image, target, ssim_weight, pixel_weights)


def photometric_loss_torch(
    image: Tensor, target: Tensor, ssim_weight: float = 0.2, pixel_weights: Tensor | None = None
) -> Tensor:
    """Compute Eq. (20) by torch convolutions. float64 uses it, and CUDA without Warp, and it is the
    oracle of the kernels.
    """
    l1 = (image - target).abs()
    dissimilarity = 1 - ssim_map(image, target)
    if pixel_weights is not None:
        l1, dissimilarity = l1 * pixel_weights, dissimilarity * pixel_weights
    return (1 - ssim_weight) * l1.mean() + ssim_weight * dissimilarity.mean()


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Compute SSIM at every pixel: [3, h, w], [3, h, w] -> [3, h, w]."""
    window = window_1d(x)
    window = (window[:, None] * window[None, :]).expand(3, 1, WINDOW, WINDOW)

    def blur(t: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(t[None], window, padding=WINDOW // 2, groups=3)[0]

    mu_x, mu_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mu_x**2, blur(y * y) - mu_y**2, blur(x * y) - mu_x * mu_y
    return (
        (2 * mu_x * mu_y + C1) * (2 * cov + C2) / ((mu_x**2 + mu_y**2 + C1) * (var_x + var_y + C2))
    )


def window_1d(like: Tensor) -> Tensor:
    """Return the factor [11] of the separable window; it sums to 1."""
    d = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    w = torch.exp(-(d**2) / (2 * SIGMA_PX**2))
    return (w / w.sum()).to(like)
