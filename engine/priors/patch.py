"""The embedded video prior: a diffusion model whose data set is the patches of the input picture.

For data made of patches the ideal denoiser is known in closed form: a posterior mean over
patches (Kamb & Ganguli, "An analytic theory of creativity in convolutional diffusion models",
2024; Niedoba et al., "Towards a mechanistic explanation of diffusion model generalization",
2024). So this prior needs no weights, yet goes through the same sampler and the same momentum
as a network.

    x           x_t       noisy latents: pixels in [-1, 1] at working size
    a, b        x = a*x0 + b*eps, variance preserving; sigma = b/a
    s           scale     a cell is the mean of s x s pixels, so its noise is sigma/s
    P_k, p_k    patch k of the picture's bank

At noise sigma the posterior is taken at the coarsest scale whose cells are not yet clear of
noise: the locality of the denoiser follows the noise level, and coarse structure is settled
before detail within one schedule.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from . import patch_bank, patch_search
from .base import Clip, Level, PriorSpec
from .patch_clip import PatchCondition, Queries, look, plan, queries_at
from .patch_search import CANDIDATES, LENGTH, RADIUS, SIDE

if TYPE_CHECKING:
    from ..settings import SceneSettings

STEPS = 24
S_Y = 0.1  # noise of the render where the scene is known
S_TIE = 0.15  # noise of what another frame invented
S_V = 0.15  # of height, in heights of the frame
FLOOR = 0.1  # least noise in the exponent
HANDOVER = 1.5  # noise per cell at which a scale takes over from the one above it
FIRST_NOISE = 4.0  # sigma of the first level, per cell of the coarsest scale
LAST_NOISE = 0.08  # sigma of the last level before clean
SWEEPS = 4
REACH = 8
SOFTNESS = 0.02
BONUS = 0.2  # share of its energy that a patch is let off for each of 4 neighbours that it continues
SOFT = 3.0  # noise per cell above which the posterior is taken over the whole bank
COLOUR = 1.0  # weight of the mean colour in `features`, 5 would be its full share of a patch
WINDOW = 0.7  # standard deviation of a patch's say in the vote, cells


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> PatchPrior:
    """The registry's factory. The prior computes on the CPU whatever the device."""
    return PatchPrior(image, seed=settings.output.seed)


class PatchPrior:
    """Diffusion over the patches of one picture; see the module. Implements `VideoPrior`."""

    def __init__(self, image: Tensor, *, steps_default: int = STEPS, seed: int = 0) -> None:
        """image [3, h, w] in [0, 1] at working size: the data set."""
        self.spec = PriorSpec(
            name="patch",
            frames=lambda n: n,
            size_multiple=1,
            native_size=None,
            t_factor=1,
            s_factor=1,
            channels=3,
            sees=frozenset({"render", "mask", "camera", "image"}),
            licence="GPL-3.0-or-later",
            commercial_use=True,
            steps=steps_default,
        )
        self.steps_default = steps_default
        self.seed = seed
        self.bank = patch_bank.build(2.0 * image.detach().cpu().float() - 1.0)
        self.size = (image.shape[1], image.shape[2])
        self.mean_colour = 2.0 * image.detach().cpu().float().mean(dim=(1, 2)) - 1.0
        self._levels = self.levels(steps_default)

    def levels(self, steps: int = 0) -> list[Level]:
        """sigma falls by a constant factor per step; the last level is clean. 0 steps: the default.

        `predict` counts levels in the list that was asked for last.
        """
        count = steps or self.steps_default
        first = FIRST_NOISE * self.bank[0].factor
        sigmas = [first * (LAST_NOISE / first) ** (i / max(count - 1, 1)) for i in range(count)]
        self._levels = [Level(math.log(s), 1.0 / math.hypot(1.0, s), s / math.hypot(1.0, s)) for s in sigmas]
        self._levels.append(Level(-math.inf, 1.0, 0.0))
        return list(self._levels)

    def encode(self, frames: Tensor) -> Tensor:
        """[f, 3, h, w] in [0, 1] -> [3, f, h, w] in [-1, 1]."""
        return (2.0 * frames - 1.0).transpose(0, 1).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """[3, f, h, w] -> [f, 3, h, w] in [0, 1]."""
        return (0.5 * latents + 0.5).clamp(0.0, 1.0).transpose(0, 1).contiguous()

    def z_scale(self, i: int) -> float:
        return 1.0

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def condition(self, clip: Clip) -> PatchCondition:
        """Share out what is unknown among the frames and prepare the queries of those that invent."""
        if tuple(clip.render.shape[-2:]) != self.size:
            raise ValueError(f"condition: the picture is {self.size}, the render {tuple(clip.render.shape[-2:])}")
        order, ties, own, depth = plan(clip)
        # below half coverage the render is mostly background: nothing of it is kept
        trust = (2.0 * clip.known - 1.0).clamp(0.0, 1.0)
        trust = torch.where(clip.known >= 0.98, torch.ones(()), trust)
        tied = (clip.known < 0.98).float() * (1.0 - own.float())
        condition = PatchCondition(2.0 * clip.render - 1.0, trust, own.float(), tied, order, ties, depth)
        pad = [patch_bank.pad_to(v, self.bank[0].factor) for v in (condition.render, trust, condition.own, tied)]
        for f in order:
            for scale in self.bank:
                condition.queries[f, scale.factor] = queries_at(scale.factor, *(v[f] for v in pad))
        return condition

    def predict(self, x: Tensor, i: int, condition: PatchCondition) -> tuple[Tensor, Tensor]:
        """x [runs, 3, f, h, w] at level i -> (x0_hat, eps_hat) with x = a * x0_hat + b * eps_hat."""
        level = self._levels[i]
        x0 = torch.stack([self._denoise(run, level, i, condition) for run in x.transpose(1, 2)]).transpose(1, 2)
        return x0, (x - level.a * x0) / level.b

    def _denoise(self, x: Tensor, level: Level, i: int, condition: PatchCondition) -> Tensor:
        """One run: x [f, 3, h, w] -> x0_hat."""
        result = condition.render.clone()
        for f in condition.order:
            seen = look(condition.ties[f], result, condition.render[f])
            invented = self._invent(x[f] / level.a, seen, level.b / level.a, f, i, condition)
            fresh = torch.where(condition.own[f] > 0, invented, seen)
            result[f] = torch.lerp(fresh, condition.render[f], condition.trust[f])
        for f in range(x.shape[0]):
            if f not in condition.order and condition.ties[f]:
                seen = look(condition.ties[f], result, condition.render[f])
                result[f] = torch.lerp(seen, condition.render[f], condition.trust[f])
        return result

    def _invent(self, noisy: Tensor, seen: Tensor, sigma: float, f: int, i: int, condition: PatchCondition) -> Tensor:
        """Posterior mean of frame f: noisy [3, h, w] = x0 + sigma * eps, seen [3, h, w] render and other frames' inventions."""
        last = next((k for k in reversed(range(len(self.bank))) if sigma / self.bank[k].factor <= HANDOVER), 0)
        exhaustive = max(k for k, scale in enumerate(self.bank) if scale.patches is not None)
        start = min(last, exhaustive)
        multiple = self.bank[0].factor
        noisy, seen, own, tied = (
            patch_bank.pad_to(v[None], multiple)[0] for v in (noisy, seen, condition.own[f], condition.tied[f] * (1.0 - condition.trust[f]))
        )
        codes: NDArray[np.int32] | None = None
        for k in range(start, last + 1):
            scale = self.bank[k]
            queries = condition.queries[f, scale.factor]
            target, weight = self._target(noisy, seen, own * 1.0, tied, sigma, scale, queries)
            parent = (codes, condition.queries[f, self.bank[k - 1].factor], self.bank[k - 1]) if codes is not None else None
            codes, mean, variance = self._posterior(target, weight, scale, queries, parent, i, sigma / scale.factor)
        voted = self._vote(queries, mean, variance)
        if scale.factor > 1:
            voted = F.interpolate(voted[None], scale_factor=scale.factor, mode="bilinear", align_corners=False)[0]
        return voted[:, : self.size[0], : self.size[1]]

    def _target(
        self, noisy: Tensor, seen: Tensor, own: Tensor, tied: Tensor, sigma: float, scale: patch_bank.Scale, queries: Queries
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Evidence at a scale, padded by RADIUS: colour [h+6, w+6, 3] and precision [h+6, w+6]."""
        s = scale.factor
        pooled = F.avg_pool2d(torch.cat([noisy * own, own, seen * tied, tied])[None], s)[0]
        observed = pooled[:3] / pooled[3].clamp(min=1e-6)
        told = pooled[4:7] / pooled[7].clamp(min=1e-6)
        noise = max(sigma / s, FLOOR)
        w_known = queries.known / S_Y**2
        w_tied = queries.tied / max(S_TIE, 0.5 * noise) ** 2
        w_own = queries.own / noise**2
        weight = w_known + w_tied + w_own
        colour = (queries.shown * w_known + told * w_tied + observed * w_own) / weight.clamp(min=1e-9)
        pad = (RADIUS, RADIUS, RADIUS, RADIUS)
        return F.pad(colour, pad).permute(1, 2, 0).contiguous().numpy(), F.pad(weight, pad).contiguous().numpy()

    def _posterior(
        self, target: Any, weight: Any, scale: patch_bank.Scale, queries: Queries, parent: Any, i: int, noise: float
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """(candidates [q, CANDIDATES], posterior mean [q, 147], variance [q])."""
        n = len(queries.rows)
        codes = np.empty((n, CANDIDATES), np.int32)
        energies = np.empty((n, CANDIDATES), np.float32)
        mean = np.empty((n, LENGTH), np.float32)
        variance = np.empty(n, np.float32)
        v_scale = np.float32(0.5 / S_V**2)
        height = queries.index.shape[0]
        place = (target, weight, queries.rows, queries.columns)
        if parent is None:
            patch_search.in_chunks(
                patch_search.posterior_all, n, *place, scale.patches, scale.codes, scale.heights, v_scale, height, mean, variance, codes, energies
            )
            if noise > SOFT:
                return codes, mean, variance
        else:
            self._descend(place, scale, queries, parent, codes, energies)
        for sweep in range(SWEEPS):
            patch_search.in_chunks(
                patch_search.search, n, *place, queries.index, scale.picture, v_scale, height, np.float32(BONUS), sweep, self.seed * 1000 + i, REACH,
                codes.copy(), codes, energies,
            )  # fmt: skip
        patch_search.in_chunks(patch_search.posterior_of_candidates, n, scale.picture, codes, energies, mean, variance)
        return codes, mean, variance

    def _descend(self, place: Any, scale: patch_bank.Scale, queries: Queries, parent: Any, codes: Any, energies: Any) -> None:
        above, above_queries, above_scale = parent
        patch_search.in_chunks(
            patch_search.descend, len(queries.rows), *place, scale.picture, np.float32(0.5 / S_V**2), queries.index.shape[0], above, above_queries.index, above_scale.width, codes, energies
        )

    def _vote(self, queries: Queries, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Tensor:
        """The overlapping posterior means as one picture [3, h, w]; the render where there is no query."""
        h, w = queries.index.shape
        total = np.zeros((h + 2 * RADIUS, w + 2 * RADIUS, 3), np.float32)
        mass = np.zeros((h + 2 * RADIUS, w + 2 * RADIUS), np.float32)
        offset = np.arange(SIDE, dtype=np.float32) - RADIUS
        bell = np.exp(-0.5 * (offset / WINDOW) ** 2)
        patch_search.vote(queries.rows, queries.columns, mean, variance, np.outer(bell, bell).astype(np.float32), np.float32(SOFTNESS), total, mass)
        inner = slice(RADIUS, -RADIUS)
        voted = torch.from_numpy(total[inner, inner] / np.maximum(mass[inner, inner], 1e-12)[..., None]).permute(2, 0, 1)
        return torch.where(torch.from_numpy(mass[inner, inner]) > 0, voted, queries.shown)

    def features(self, latents: Tensor) -> Tensor:
        """Latents [3, f, h, w] -> [78, f, h / 4, w / 4]: what surrounds a cell, for the cosines of Eq. (10).

        5 x 5 cells of a quarter of the size without their mean (75), which tell textures and edges
        apart, and the mean colour against that of the picture (3), which speaks where both are flat.
        """
        _, _, h, w = latents.shape
        small = F.adaptive_avg_pool2d(latents.transpose(0, 1), (max(h // 4, 1), max(w // 4, 1)))
        cells = F.unfold(F.pad(small, (2, 2, 2, 2), mode="replicate"), 5).unflatten(1, (3, 25))  # [f, 3, 25, h' * w']
        mean = cells.mean(dim=2)
        texture = (cells - mean[:, :, None]).flatten(1, 2)
        joined = torch.cat([texture, COLOUR * (mean - self.mean_colour[:, None])], dim=1)
        return joined.unflatten(2, small.shape[-2:]).transpose(0, 1)
