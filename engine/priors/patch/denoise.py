"""The denoiser of the patch prior: from one noisy frame to the posterior mean of what it must
invent.

Notation: `sigma` = b / a, the noise of x / a. A cell of scale s is the mean of s x s pixels, so
its noise is sigma / s. The exponent of the posterior is a sum over the cells of a patch of
precision * (evidence - patch)^2 / 2, where the evidence is the noisy latents where the frame
invents, the render where the scene is known and what other frames invented where they did; where
the frame invents, also the colour that the known ones around let expect.

Every constant was chosen by measurement; docs/patch_prior.md has the numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from . import search
from .bank import Scale, pad_to
from .clip import Queries
from .search import CANDIDATES, LENGTH, RADIUS, SIDE

S_KNOWN = 0.1  # noise of the render where the scene is known, of colours in [-1, 1]
S_TIED = 0.15  # noise of what another frame invented
S_EXPECTED = 1.0  # of an invented cell's colour around that which the known ones let expect
S_HEIGHT = 0.15  # of the height in the frame, in heights of the frame
FLOOR = 0.1  # least noise in the exponent
HANDOVER = 1.5  # noise per cell at which the next finer scale takes over
# noise per cell above which the mean is taken over the whole bank, below it over the candidates
SOFT = 1.0
BONUS = (
    0.2  # share of its energy that a patch is let off for each of 4 neighbours that it continues
)
SWEEPS = 4  # of propagation at each scale
REACH = 8  # cells of the hashed local search
WINDOW = 0.7  # standard deviation of a patch's say in the vote, in cells
SOFTNESS = 0.02  # variance added to that of a posterior before its inverse weighs its vote


class Evidence(NamedTuple):
    """What is known of the cells of a frame at a scale, padded by RADIUS with cells of precision
    0.
    """

    colour: NDArray[np.float32]  # [h + 6, w + 6, 3]
    precision: NDArray[np.float32]  # [h + 6, w + 6]


class Posterior(NamedTuple):
    """The answer for q queries."""

    codes: NDArray[np.int32]  # [q, CANDIDATES] best patches of the bank, best first
    energies: NDArray[np.float32]  # [q, CANDIDATES]
    mean: NDArray[np.float32]  # [q, 147]
    variance: NDArray[np.float32]  # [q] mean over the cells of the patch

    @classmethod
    def empty(cls, count: int) -> Posterior:
        return cls(
            np.empty((count, CANDIDATES), np.int32),
            np.empty((count, CANDIDATES), np.float32),
            np.empty((count, LENGTH), np.float32),
            np.empty(count, np.float32),
        )


def scale_for(bank: list[Scale], sigma: float) -> int:
    """The finest scale whose cells have no more noise than HANDOVER; the coarsest at high noise."""
    return max((k for k, scale in enumerate(bank) if sigma / scale.factor <= HANDOVER), default=0)


def invent(
    bank: list[Scale],
    queries: list[Queries],
    noisy: Tensor,
    seen: Tensor,
    own: Tensor,
    tied: Tensor,
    sigma: float,
    seed: int,
) -> Tensor:
    """Posterior mean of a frame at noise sigma, [3, h, w]; meant for the pixels of `own`.

    bank, queries: coarse to fine; noisy [3, h, w] = x0 + sigma * eps; seen [3, h, w] what other
    frames invented; own, tied [1, h, w] shares of the pixels that this frame and others invent.
    """
    h, w = noisy.shape[-2:]
    last = scale_for(bank, sigma)
    # candidates come down from a scale that is searched as a whole, so nothing is carried between
    # levels
    first = min(last, max(k for k, scale in enumerate(bank) if scale.patches is not None))
    packed = pad_to(torch.cat([noisy * own, own, seen * tied, tied])[None], bank[0].factor)
    found: Posterior | None = None
    for k in range(first, last + 1):
        noise = sigma / bank[k].factor
        evidence = _gather_evidence(packed, noise, bank[k].factor, queries[k])
        if found is None:
            found = _search_all(evidence, bank[k], queries[k])
            if noise > SOFT:
                continue
        else:
            found = _search_below(evidence, bank[k], queries[k], found, bank[k - 1], queries[k - 1])
        _propagate(evidence, bank[k], queries[k], found, seed)
    assert found is not None
    voted = _vote(queries[last], found)
    if bank[last].factor > 1:
        voted = F.interpolate(
            voted[None], scale_factor=bank[last].factor, mode="bilinear", align_corners=False
        )[0]
    return voted[:, :h, :w]


def _gather_evidence(packed: Tensor, noise: float, factor: int, queries: Queries) -> Evidence:
    """Precision-weighted mean of the latents, the render, the other frames and the colour to
    expect. packed [1, 8, h, w]: see `invent`.
    """
    pooled = F.avg_pool2d(packed, factor)[0]
    observed = pooled[:3] / pooled[3].clamp(min=1e-6)
    told = pooled[4:7] / pooled[7].clamp(min=1e-6)
    known = queries.known / S_KNOWN**2
    others = queries.tied / max(S_TIED, 0.5 * noise) ** 2
    own = queries.own / max(noise, FLOOR) ** 2
    expected = queries.own / S_EXPECTED**2
    precision = known + others + own + expected
    colour = (
        queries.shown * known + told * others + observed * own + queries.expected * expected
    ) / precision.clamp(min=1e-9)
    border = (RADIUS, RADIUS, RADIUS, RADIUS)
    return Evidence(
        F.pad(colour, border).permute(1, 2, 0).contiguous().numpy(),
        F.pad(precision, border).contiguous().numpy(),
    )


def _height_precision() -> np.float32:
    return np.float32(0.5 / S_HEIGHT**2)


def _search_all(evidence: Evidence, scale: Scale, queries: Queries) -> Posterior:
    """Posterior over every patch of a scale."""
    found = Posterior.empty(len(queries.rows))
    search.in_chunks(
        search.posterior_all,
        len(queries.rows),
        *evidence,
        queries.rows,
        queries.columns,
        scale.patches,
        scale.codes,
        scale.heights,
        _height_precision(),
        queries.index.shape[0],
        found.mean,
        found.variance,
        found.codes,
        found.energies,
    )
    return found


def _search_below(
    evidence: Evidence,
    scale: Scale,
    queries: Queries,
    above: Posterior,
    above_scale: Scale,
    above_queries: Queries,
) -> Posterior:
    """Candidates at a scale from those of the scale twice as coarse; no mean yet."""
    found = Posterior.empty(len(queries.rows))
    search.in_chunks(
        search.descend,
        len(queries.rows),
        *evidence,
        queries.rows,
        queries.columns,
        scale.picture,
        _height_precision(),
        queries.index.shape[0],
        above.codes,
        above_queries.index,
        above_scale.width,
        found.codes,
        found.energies,
    )
    return found


def _propagate(
    evidence: Evidence, scale: Scale, queries: Queries, found: Posterior, seed: int
) -> None:
    """Improve the candidates in place by sweeps of propagation, then take the mean over them."""
    count = len(queries.rows)
    for sweep in range(SWEEPS):
        search.in_chunks(
            search.search,
            count,
            *evidence,
            queries.rows,
            queries.columns,
            queries.index,
            scale.picture,
            _height_precision(),
            queries.index.shape[0],
            np.float32(BONUS),
            sweep,
            seed,
            REACH,
            found.codes.copy(),
            found.codes,
            found.energies,
        )
    search.in_chunks(
        search.posterior_of_candidates,
        count,
        scale.picture,
        found.codes,
        found.energies,
        found.mean,
        found.variance,
    )


def _vote(queries: Queries, found: Posterior) -> Tensor:
    """The overlapping posterior means as one picture [3, h, w]; the render where there is no
    query.
    """
    h, w = queries.index.shape
    total = np.zeros((h + 2 * RADIUS, w + 2 * RADIUS, 3), np.float32)
    mass = np.zeros((h + 2 * RADIUS, w + 2 * RADIUS), np.float32)
    offset = np.arange(SIDE, dtype=np.float32) - RADIUS
    bell = np.exp(-0.5 * (offset / WINDOW) ** 2)
    window = np.outer(bell, bell).astype(np.float32)
    search.vote(
        queries.rows,
        queries.columns,
        found.mean,
        found.variance,
        window,
        np.float32(SOFTNESS),
        total,
        mass,
    )
    inner = slice(RADIUS, -RADIUS)
    voted = torch.from_numpy(
        total[inner, inner] / np.maximum(mass[inner, inner], 1e-12)[..., None]
    ).permute(2, 0, 1)
    return torch.where(torch.from_numpy(mass[inner, inner]) > 0, voted, queries.shown)
