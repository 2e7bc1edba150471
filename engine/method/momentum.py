"""Latent and pixel momentum: the equations of Scene Splatter (arXiv 2504.02764) as pure functions.

Notation (name here -> symbol in the paper):

    latents             Z           latents of the rendered clip, clean
    free                Z_{t-1}     what the sampler's own step gives (bracket of Eq. 9)
    level.a, level.b    sqrt(abar), sqrt(1 - abar) for a variance-preserving prior
    eps                 epsilon     one fixed noise per clip, equal to the initial x_T
    lam                 lambda      latent momentum, per latent cell
    lambda_0            lambda_0    its strength
    mu                  mu          pixel momentum, per pixel
    tau                 tau         size at which the gate of Eq. (15) starts to close

The paper prints the noise factor of Eq. (8) as (1 - sqrt(abar)); a variance-preserving
process needs sqrt(1 - abar), which is what `level.b` holds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..priors.base import Level

POOL = 512  # cells of the picture, and as many of the first frames, that stand for all in Eq. (10)
_AT_ONCE = 8192  # cells compared at a time
_COVERED = 0.5  # coverage above which a cell shows more scene than hole


def noised_source(latents: Tensor, eps: Tensor, level: Level, scale: float = 1.0) -> Tensor:
    """Bring the rendered clip to a noise level, Eq. (8).

    latents, eps [..., c, f, h, w] -> the same shape. `scale` is the prior's scale of clean
    latents at this level (1 but for priors with a dynamic rescale).
    """
    return level.a * scale * latents + level.b * eps


def latent_momentum(free: Tensor, source: Tensor, lam: Tensor) -> Tensor:
    """Pull a denoising step towards the noised render, Eq. (9).

    free, source [..., c, f, h, w]; lam broadcasts to them, in [0, 1]. 0 gives `free`, 1 gives
    `source`.
    """
    return torch.lerp(free, source, lam.expand_as(free))


def similarity(features: Tensor, pool: Tensor, place: Tensor | None = None) -> Tensor:
    """Compare every cell with a pool of vectors and keep the largest cosine, clamped at 0: the
    bracket of Eq. (10).

    features [d, f, h, w], pool [d, m] -> [f, h, w] in [0, 1]. `place` [m] says which cell of
    `features` (flattened) a vector of the pool is, -1 for none: no cell is compared with itself.
    A vector of norm 0 (a cell about which nothing is known) is similar to nothing.
    """
    d, f, h, w = features.shape
    vectors, unit = features.reshape(d, -1), F.normalize(pool, dim=0, eps=1e-6)
    best = vectors.new_empty(vectors.shape[1])
    for start in range(0, best.numel(), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        cosines = F.normalize(vectors[:, part], dim=0, eps=1e-6).T @ unit
        if place is not None:
            own = place - start
            inside = ((own >= 0) & (own < cosines.shape[0])).nonzero()[:, 0]
            cosines[own[inside], inside] = 0.0
        best[part] = cosines.amax(dim=1)
    return best.clamp(0.0, 1.0).reshape(f, h, w)


def sampled(cells: Tensor) -> Tensor:
    """Choose at most POOL of the cells [m] (their numbers), spread over all; the same m gives the
    same ones.
    """
    if cells.shape[0] <= POOL:
        return cells
    chosen = torch.randperm(cells.shape[0], generator=torch.Generator().manual_seed(0))[:POOL]
    return cells[chosen.sort().values.to(cells.device)]


def first_cells(coverage: Tensor, frames: int) -> Tensor:
    """Choose the cells that Eq. (10) compares with beside the picture: a sample of the known cells
    of the first frames.

    coverage [f, h, w] in [0, 1] says how well a cell is known -> [m].
    """
    return sampled((coverage[:frames] > _COVERED).flatten().nonzero()[:, 0])


def scale_map(scale_sum: Tensor, alpha: Tensor, depth: Tensor, focal_px: Tensor) -> Tensor:
    """Compute the expected size in pixels of the Gaussians that make up a pixel, Eq. (14).

    scale_sum [f, h, w] is sum_k w_k s_k with s_k a Gaussian's standard deviation in metres,
    alpha [f, h, w] is sum_k w_k, depth [f, h, w] in metres, focal_px [f] -> [f, h, w].
    The paper uses metres; pixels make the threshold independent of the scene's size.
    """
    metres = scale_sum / alpha.clamp(min=1e-6)
    return metres * focal_px[:, None, None] / depth.clamp(min=1e-6)


def pixel_coefficient(scale_px: Tensor, alpha: Tensor, tau: float) -> Tensor:
    """Compute mu for every pixel, Eq. (15): coverage, gated by the size of the Gaussians.

    scale_px, alpha [f, h, w] -> [f, h, w] in [0, 1]: alpha where Gaussians are smaller than
    tau pixels, falling linearly to 0 at twice that size.
    """
    gate = (2.0 - scale_px / tau).clamp(0.0, 1.0)
    return gate * alpha.clamp(0.0, 1.0)


def pixel_momentum(free: Tensor, consistent: Tensor, mu: Tensor) -> Tensor:
    """Keep the consistent clip where the scene is known and the free one elsewhere, Eq. (13).

    free, consistent [f, 3, h, w], mu [f, 1, h, w] -> [f, 3, h, w].
    """
    return torch.lerp(free, consistent, mu.expand_as(free))


def pool_to_latent(pixels: Tensor, t_factor: int, size: tuple[int, int]) -> Tensor:
    """Turn a map of pixels into a map of latent cells: the minimum over the frames of a latent, the
    mean over its area.

    pixels [f, h, w] -> [f', *size]. Frame 0 has a latent of its own, then `t_factor` frames share
    one; a latent is trusted only if all its frames are.
    """
    rest = pixels[1:]
    if t_factor > 1:
        if rest.shape[0] % t_factor:
            raise ValueError(
                f"pool_to_latent: {pixels.shape[0]} frames are not 1 + a multiple of {t_factor}"
            )
        rest = rest.unflatten(0, (-1, t_factor)).amin(dim=1)
    merged = torch.cat([pixels[:1], rest])
    return F.adaptive_avg_pool2d(merged[:, None], size)[:, 0]
