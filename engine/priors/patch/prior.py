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
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models import registry
from ..base import Clip, Level, PriorSpec
from . import bank
from .clip import SURELY_KNOWN, PatchCondition, expected_colour, look, plan, queries_at
from .denoise import invent

if TYPE_CHECKING:
    from ...bridge.settings import SceneSettings

FIRST_NOISE = 4.0  # sigma of the first level, per cell of the coarsest scale
LAST_NOISE = 0.08  # sigma of the last level before clean
FEATURE_CELLS = 64  # along the longer side
COLOUR = 1.0  # weight of the mean colour in `features`; 5 would be its full share of a patch


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> PatchPrior:
    """The registry's factory. The prior computes on the CPU whatever the device."""
    return PatchPrior(image, seed=settings.output.seed)


class PatchPrior:
    """Diffusion over the patches of one picture; see the module. Implements `VideoPrior`."""

    def __init__(self, image: Tensor, *, steps_default: int = 0, seed: int = 0) -> None:
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
            steps=steps_default or registry.prior("patch").steps,
        )
        self.seed = seed
        self.bank = bank.build(2.0 * image.detach().cpu().float() - 1.0)
        self.size = (image.shape[1], image.shape[2])
        self.mean_colour = 2.0 * image.detach().cpu().float().mean(dim=(1, 2)) - 1.0
        self._levels = self.levels()

    def levels(self, steps: int = 0) -> list[Level]:
        """sigma falls by a constant factor per step; the last level is clean. 0 steps: the default.

        `predict` counts levels in the list that was asked for last.
        """
        count = steps or self.spec.steps
        first = FIRST_NOISE * self.bank[0].factor
        sigmas = [first * (LAST_NOISE / first) ** (i / max(count - 1, 1)) for i in range(count)]
        self._levels = [
            Level(math.log(s), 1.0 / math.hypot(1.0, s), s / math.hypot(1.0, s)) for s in sigmas
        ]
        self._levels.append(Level(-math.inf, 1.0, 0.0))
        return list(self._levels)

    def encode(self, frames: Tensor) -> Tensor:
        """[f, 3, h, w] in [0, 1] -> [3, f, h, w] in [-1, 1], on the CPU as everything here."""
        return (2.0 * frames.cpu() - 1.0).transpose(0, 1).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """[3, f, h, w] -> [f, 3, h, w] in [0, 1]."""
        return (0.5 * latents + 0.5).clamp(0.0, 1.0).transpose(0, 1).contiguous()

    def z_scale(self, i: int) -> float:
        return 1.0

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def condition(self, clip: Clip) -> PatchCondition:
        """Share out what is unknown among the frames and prepare the queries of those that
        invent.
        """
        if tuple(clip.render.shape[-2:]) != self.size:
            raise ValueError(
                f"condition: the picture is {self.size}, the render {tuple(clip.render.shape[-2:])}"
            )
        clip = clip.map(lambda t: t.detach().cpu().float())
        order, ties, own, depth = plan(clip)
        # below half coverage the render is mostly background: nothing of it is kept
        trust = (2.0 * clip.known - 1.0).clamp(0.0, 1.0)
        trust = torch.where(clip.known >= SURELY_KNOWN, torch.ones(()), trust)
        mine = own.float() * (1.0 - trust)
        others = (clip.known < SURELY_KNOWN).float() * (1.0 - trust) - mine
        condition = PatchCondition(2.0 * clip.seen - 1.0, trust, mine, others, order, ties, depth)
        padded = [
            bank.pad_to(v, self.bank[0].factor) for v in (condition.render, trust, mine, others)
        ]
        for f in order:
            render, sure, here, tied = (v[f] for v in padded)
            expected = expected_colour(render, sure)
            condition.queries[f] = [
                queries_at(scale.factor, render, sure, here, tied, expected) for scale in self.bank
            ]
        return condition

    def predict(self, x: Tensor, i: int, condition: PatchCondition) -> tuple[Tensor, Tensor]:
        """x [runs, 3, f, h, w] at level i -> (x0_hat, eps_hat) with x = a * x0_hat + b *
        eps_hat.
        """
        level = self._levels[i]
        runs = x.transpose(1, 2)
        x0 = [self._denoise(runs[0], level, i, condition)]
        for run in runs[1:]:
            # only the latents of invented cells matter: runs that share them share the answer
            same = all(
                torch.equal(run[f] * condition.own[f], runs[0, f] * condition.own[f])
                for f in condition.order
            )
            x0.append(x0[0] if same else self._denoise(run, level, i, condition))
        x0_hat = torch.stack(x0).transpose(1, 2)
        del x0
        eps_hat = x - level.a * x0_hat
        return x0_hat, eps_hat.div_(level.b)

    def _denoise(self, x: Tensor, level: Level, i: int, condition: PatchCondition) -> Tensor:
        """One run: x [f, 3, h, w] -> x0_hat. Frames that invent come first, in their order; the
        others look.
        """
        result = condition.render.clone()
        lookers = [f for f in range(x.shape[0]) if f not in condition.queries and condition.ties[f]]
        for f in condition.order + lookers:
            fresh = look(condition.ties[f], result, condition.render[f])
            if f in condition.queries:
                own, tied = condition.own[f], condition.tied[f]
                seed = self.seed * 1_000_003 + i * 1009 + f
                invented = invent(
                    self.bank,
                    condition.queries[f],
                    x[f] / level.a,
                    fresh,
                    own,
                    tied,
                    level.b / level.a,
                    seed,
                )
                fresh = torch.where(own > 0, invented, fresh)
            result[f] = torch.lerp(fresh, condition.render[f], condition.trust[f])
        return result

    def features(self, latents: Tensor) -> Tensor:
        """Latents [3, f, h, w] -> [78, f, h', w']: what surrounds a cell, for the cosines of Eq.
        (10).

        A cell is 4 x 4 pixels, or more where the longer side would have more than FEATURE_CELLS of
        them. 5 x 5 cells without their mean (75) tell textures and edges apart; the mean colour
        against that of the picture (3) speaks where both are flat.
        """
        _, frames, h, w = latents.shape
        side = max(4, -(-max(h, w) // FEATURE_CELLS))
        size = (max(h // side, 1), max(w // side, 1))
        result = latents.new_empty(78, frames, *size)
        for f in range(frames):
            small = F.adaptive_avg_pool2d(latents[:, f], size)
            cells = F.unfold(F.pad(small[None], (2, 2, 2, 2), mode="replicate"), 5)[0]
            cells = cells.reshape(3, 25, *size)
            mean = cells.mean(dim=1)
            result[:75, f] = (cells - mean[:, None]).flatten(0, 1)
            result[75:, f] = COLOUR * (mean - self.mean_colour[:, None, None])
        return result
