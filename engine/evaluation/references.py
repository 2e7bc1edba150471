"""Are the first n frames good references? An open question of the paper, put to segments whose
truth is known.

Eq. (10) trusts a cell of the render as far as it is like a reference: a cell of the input picture
or of the segment's first n frames. `Watched` looks on while a run goes and asks of every segment
how well likeness to each pool of references tells right cells from wrong ones, where a cell is as
wrong as its latents are far from those of the true frames.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from ..method import momentum
from ..priors.base import Clip
from ..scene.psnr import psnr
from .coarse import Coarse, Truth

_MOST = 4096  # references compared with
POOLS = ("picture", "first n frames", "both", "first n frames, were they true")


class Watched:
    """A coarse prior whose segments are looked at before it enhances them."""

    def __init__(self, prior: Coarse, truth: Truth, image: Tensor, overlap: int) -> None:
        self._prior, self._truth, self._image, self._overlap = prior, truth, image, overlap
        self.segments: list[dict[str, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def condition(self, clip: Clip) -> Any:
        """What the prior makes of the clip; the segment is measured on the way."""
        truth = self._truth(torch.linalg.inv(clip.world_from_camera))
        self.segments.append(measured(self._prior, clip, truth, self._image, self._overlap))
        return self._prior.condition(clip)


def measured(
    prior: Coarse, clip: Clip, truth: Tensor, image: Tensor, overlap: int
) -> dict[str, float]:
    """How right the first n frames and the rest are, and the rank correlation of likeness and
    rightness by pool.

    Cells are those after the first n frames that the scene covers by more than half. `first_psnr`
    and `rest_psnr` compare the render with the truth in dB where it shows the scene.
    """
    known = clip.known[:, 0] > 0.5
    latents, true = prior.encode(clip.render), prior.encode(truth)
    size = (latents.shape[2], latents.shape[3])
    cover = momentum.pool_to_latent(known.float(), prior.spec.t_factor, size)
    n = 1 + (overlap - 1) // prior.spec.t_factor
    wrong = (latents - true).square().mean(dim=0).sqrt()[n:]
    features, picture = prior.features(latents), prior.features(prior.encode(image[None]))
    first = features[:, :n][:, cover[:n] > 0.5]
    pools = (
        picture.flatten(1),
        first,
        torch.cat([picture.flatten(1), first], dim=1),
        prior.features(true)[:, :n].flatten(1),
    )
    asked = cover[n:] > 0.5
    row = {
        "first_psnr": psnr(clip.render[:overlap], truth[:overlap], known[:overlap]),
        "rest_psnr": psnr(clip.render[overlap:], truth[overlap:], known[overlap:]),
    }
    for name, pool in zip(POOLS, pools, strict=True):
        like = likeness(features[:, n:], pool)[asked]
        row[name] = _rank_correlation(like, -wrong[asked])
        row[f"{name}: spread"] = float(like.std()) if like.numel() > 1 else math.nan
    return row


def likeness(features: Tensor, pool: Tensor) -> Tensor:
    """The bracket of Eq. (10), features [d, f, h, w] and pool [d, m] -> [f, h, w]; of a large pool
    every k-th.
    """
    pool = F.normalize(pool[:, :: max(1, pool.shape[1] // _MOST)], dim=0, eps=1e-6)
    cells = F.normalize(features.flatten(1), dim=0, eps=1e-6)
    best = (cells.T @ pool).amax(dim=1) if pool.shape[1] else torch.zeros(cells.shape[1])
    return best.clamp(min=0.0).reshape(features.shape[1:])


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """NaN where there is nothing to rank."""
    if a.numel() < 3 or float(a.std()) == 0.0 or float(b.std()) == 0.0:
        return math.nan
    return float(spearmanr(a.numpy(), b.numpy()).statistic)


def means(segments: list[dict[str, float]]) -> dict[str, float]:
    """Over the segments after the first, whose first frame is the picture itself."""
    rows = segments[1:]
    return {
        name: float(np.nanmean([row[name] for row in rows]))
        for name in (rows[0] if rows else {})
        if not all(math.isnan(row[name]) for row in rows)
    }
