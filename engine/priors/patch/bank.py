"""The picture as a set of patches, at every scale of a pyramid.

A scale is named by its factor s: one cell is the mean of s x s pixels. Each scale holds the
picture and its mirror image; coarse scales also hold their patches as rows of a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .search import RADIUS, SIDE

COARSEST = 8  # cells on the shorter side below which no coarser scale is made
EXHAUSTIVE = 64 * 40  # cells up to which a scale is searched as a whole


@dataclass(frozen=True)
class Scale:
    """One scale of the bank. Codes are (m * H + y) * W + x with m = 1 for the mirror image."""

    factor: int
    picture: NDArray[np.float32]  # [2, H, W * 3]
    patches: NDArray[np.float32] | None  # [n, 147], None where the scale is searched by propagation
    codes: NDArray[np.int32] | None  # [n]
    heights: NDArray[np.float32] | None  # [n] of the patches' centres, 0 top, 1 bottom

    @property
    def width(self) -> int:
        return self.picture.shape[2] // 3


def factors(height: int, width: int) -> list[int]:
    """The scales for a frame of this size in pixels, coarse to fine, powers of 2 down to 1."""
    found = [1]
    while min(height, width) // (2 * found[0]) >= COARSEST:
        found.insert(0, 2 * found[0])
    return found


def padded_size(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def pad_to(frames: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until height and width divide by `multiple`. [n, c, h, w]."""
    h, w = frames.shape[-2:]
    return F.pad(
        frames, (0, padded_size(w, multiple) - w, 0, padded_size(h, multiple) - h), mode="replicate"
    )


def build(picture: Tensor) -> list[Scale]:
    """The bank of a picture [3, h, w] in [-1, 1], coarse to fine."""
    if picture.ndim != 3 or picture.shape[0] != 3 or min(picture.shape[1:]) < SIDE:
        raise ValueError(
            f"build: expected a picture [3, h, w] of at least {SIDE} pixels a side, got "
            f"{tuple(picture.shape)}"
        )
    steps = factors(*picture.shape[1:])
    whole = pad_to(picture[None], steps[0])
    return [_scale(F.avg_pool2d(whole, s)[0], s, s == steps[0]) for s in steps]


def _scale(picture: Tensor, factor: int, coarsest: bool) -> Scale:
    both = (
        torch.stack([picture, picture.flip(-1)])
        .permute(0, 2, 3, 1)
        .contiguous()
        .numpy()
        .astype(np.float32)
    )
    _, height, width, _ = both.shape
    flat = both.reshape(2, height, width * 3)
    if height * width > EXHAUSTIVE and not coarsest:
        return Scale(factor, flat, None, None, None)
    view = np.lib.stride_tricks.sliding_window_view(
        both, (SIDE, SIDE), axis=(1, 2)
    )  # [2, H-6, W-6, 3, 7, 7]
    patches = np.ascontiguousarray(view.transpose(0, 1, 2, 4, 5, 3)).reshape(-1, SIDE * SIDE * 3)
    m, y, x = np.meshgrid(
        np.arange(2),
        np.arange(RADIUS, height - RADIUS),
        np.arange(RADIUS, width - RADIUS),
        indexing="ij",
    )
    codes = ((m * height + y) * width + x).reshape(-1).astype(np.int32)
    return Scale(factor, flat, patches, codes, ((y.reshape(-1) + 0.5) / height).astype(np.float32))
