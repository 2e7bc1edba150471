"""A picture as CLIP's image tower wants it, in the way that video models were trained with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def tower_picture(image: Tensor, size_px: int) -> Tensor:
    """[1, 3, h, w] in [-1, 1] -> [1, 3, size_px, size_px] as CLIP wants it, in the same range.

    Blur with sigma = (factor - 1) / 2 over two sigmas, reflected borders, then bicubic with
    aligned corners: what the model was trained with. Another antialiasing is another input.
    """
    for axis in (2, 3):
        sigma = max((image.shape[axis] / size_px - 1.0) / 2.0, 0.001)
        width = int(max(4.0 * sigma, 3.0)) | 1
        taps = torch.arange(width, device=image.device) - width // 2
        kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(image.dtype)
        shape = (1, 1, width, 1) if axis == 2 else (1, 1, 1, width)
        pad = (0, 0, width // 2, width // 2) if axis == 2 else (width // 2, width // 2, 0, 0)
        padded = F.pad(image, pad, mode="reflect")
        image = F.conv2d(padded, kernel.reshape(shape).expand(3, -1, -1, -1), groups=3)
    return F.interpolate(image, size=(size_px, size_px), mode="bicubic", align_corners=True)


def tower_pixels(image: Tensor, size_px: int) -> Tensor:
    """[1, 3, h, w] in [0, 1] -> normalised pixels [1, 3, size_px, size_px]."""
    return normalised(tower_picture(image * 2.0 - 1.0, size_px) * 0.5 + 0.5)


def normalised(image: Tensor) -> Tensor:
    """[1, 3, h, w] in [0, 1] -> less CLIP's mean, over its deviation."""
    mean, std = (torch.tensor(v, device=image.device)[None, :, None, None] for v in (_MEAN, _STD))
    return (image - mean) / std
