"""The one denoising loop. It serves DDPM/DDIM, EDM and rectified flow alike.

Every family is x = a * x0 + b * eps at a level, so a deterministic step from level i to
i + 1 is  y = a' * x0_hat + b' * eps_hat.  The prior says (a, b) and predicts (x0_hat, eps_hat);
step, momentum, noise and the two runs are here. The consistent run (with momentum) and the
free run (without) share x_T, eps and the noise of every step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..bridge.progress import StepReport
from ..priors.base import Level, VideoPrior
from . import momentum


class Runs(NamedTuple):
    """The clean latents [c, f, h, w] of the runs; `free` is the same tensor as `consistent` where
    only one run was asked for.
    """

    consistent: Tensor
    free: Tensor


def initial_noise(
    shape: tuple[int, ...], generator: torch.Generator, level: Level
) -> tuple[Tensor, Tensor]:
    """Draw (eps, x_T) for a clip of latents [c, f, h, w]. x_T is b * eps: pure noise at the first
    level.
    """
    eps = torch.randn(shape, generator=generator, device=generator.device)
    return eps, level.b * eps


def posterior_noise(now: Level, then: Level, eta: float) -> float:
    """Return the standard deviation q of the noise that a stochastic step adds: eta times that of
    the posterior.

    q(x' | x, x0) of every process x = a x0 + b eps has the standard deviation
    b' sqrt(1 - (a b' / (a' b))^2). For a^2 + b^2 = 1 it is DDIM's (Song et al. 2021, Eq. 16).
    """
    if eta == 0.0 or then.b == 0.0 or then.a == 0.0:
        return 0.0
    ratio = now.a * then.b / (then.a * now.b)
    return eta * then.b * max(1.0 - ratio**2, 0.0) ** 0.5


def sample(
    prior: VideoPrior,
    condition: Any,
    latents: Tensor,  # [c, f, h, w] clean latents Z of the render, in the model's scale
    lam: Tensor,  # [f, h, w] latent momentum in [0, 1]
    *,
    steps: int,
    generator: torch.Generator,
    both: bool = True,
    momentum_start: float = 0.0,
    eta: float = 0.0,
    report: StepReport = lambda done, total: None,
) -> Runs:
    """Denoise the consistent run and, with `both`, the free run.

    `momentum_start` is the share of steps before momentum sets in; until then the two runs
    are one and the same and are computed once. A prior that renoises gets fresh noise at every
    step, whatever `eta` says: a consistency student's guess and what is left of its input are one
    and the same noise, which a deterministic step would add up. `report(done, total)` is
    called before every step and after the last; it may raise to cancel.
    """
    levels = prior.levels(steps)
    eps, x = initial_noise(tuple(latents.shape), generator, levels[0])
    if prior.spec.starts_from_render:
        x = momentum.noised_source(latents, eps, levels[0], prior.z_scale(0))
    x = x[None]  # one run or both
    first = min(int(momentum_start * steps), steps - 1)
    for i in range(steps):
        report(i, steps)
        now, then = levels[i], levels[i + 1]
        x0_hat, eps_hat = prior.predict(x, i, condition)
        q = then.b if prior.spec.renoises else posterior_noise(now, then, eta)
        y = (then.a * prior.z_scale(i + 1) / prior.z_scale(i)) * x0_hat
        y = y.add(eps_hat, alpha=(then.b**2 - q**2) ** 0.5)
        del x, x0_hat, eps_hat  # as large as the clip, each
        if q > 0.0:
            # the source's noise must be the one that the step adds, or the blend loses variance
            fresh = torch.randn(eps.shape, generator=generator, device=generator.device)
            y = y + q * fresh
            eps = (1.0 - (q / then.b) ** 2) ** 0.5 * eps + (q / then.b) * fresh
        if i < first:
            x = y
            continue
        source = momentum.noised_source(latents, eps, then, prior.z_scale(i + 1))
        consistent = momentum.latent_momentum(y[0], source, lam)
        x = torch.stack([consistent, y[-1]]) if both else consistent[None]
    report(steps, steps)
    return Runs(x[0], x[-1])
