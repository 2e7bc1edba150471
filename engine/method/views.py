"""Drawing a window of cameras: colours, coverage, depth and the scale map of Eq. (14)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..bridge.settings import SceneSettings
from ..rasterize import rasterize
from ..scene.colour import linear_to_srgb
from ..scene.gaussians import Gaussians
from ..scene.pixels import focal_px
from . import momentum


class Views(NamedTuple):
    """What a window of cameras shows of the current Gaussians."""

    rgb: Tensor  # [f, 3, h, w] display-referred; colour of what is there, not dimmed by what is not
    alpha: Tensor  # [f, h, w]
    depth: Tensor  # [f, h, w] metres
    scale_px: Tensor  # [f, h, w] Eq. (14)
    mu: Tensor  # [f, h, w] Eq. (15); see `masks`


def draw_views(
    gaussians: Gaussians,
    K: Tensor,
    cameras: Tensor,
    image: Tensor,
    settings: SceneSettings,
    *,
    pin_first: bool = False,
) -> Views:
    """Draw a window of cameras, one at a time, with the scale map; `pin_first` puts the input image
    in frame 0.

    K [f, 3, 3] pixels, cameras [f, 4, 4] camera from world, image [3, h, w] of the size to draw.
    """
    # the middle axis: the longest of a disc seen at a grazing angle says nothing of the size of its
    # picture
    size = gaussians.scales_log.detach().median(dim=1, keepdim=True).values.exp()
    each = [
        _drawn(gaussians, size, K[f : f + 1], cameras[f : f + 1], image, settings)
        for f in range(K.shape[0])
    ]
    views = Views(*(torch.cat(maps) for maps in zip(*each, strict=True)))
    if pin_first:
        views.rgb[0], views.alpha[0], views.scale_px[0], views.mu[0] = image, 1.0, 0.0, 1.0
    return views


def _drawn(
    gaussians: Gaussians,
    size: Tensor,
    K: Tensor,
    camera: Tensor,
    image: Tensor,
    settings: SceneSettings,
) -> Views:
    """One camera; `size` [n, 1] metres of each Gaussian."""
    drawn = rasterize(
        gaussians,
        K,
        camera,
        image.shape[2],
        image.shape[1],
        extra=size,
        blending=settings.output.blending,
    )
    alpha, depth = drawn.alpha[..., 0], drawn.depth[..., 0]
    focal = focal_px(K)
    rgb = drawn.rgb / alpha[..., None].clamp(min=0.05)
    rgb = linear_to_srgb(rgb) if settings.output.blending == "linear" else rgb
    scale_px = momentum.scale_map(drawn.extra[..., 0], alpha, depth, focal)
    mu = momentum.pixel_coefficient(scale_px, alpha, settings.method.tau)
    return Views(rgb.permute(0, 3, 1, 2).clamp(0.0, 1.0), alpha, depth, scale_px, mu)
