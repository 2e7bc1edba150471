"""Adding and removing Gaussians while they are optimised: the density control of 3DGS (Kerbl et al.
2023, section 5).

Where the projected mean is pulled strongly, detail is missing: a small Gaussian is cloned, a large
one split in two. What has become transparent, or covers far too much, goes. One step selects
survivors and adds newcomers for every tensor and for Adam's moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rasterize.kernels.adam import Optimizer
from ..scene.gaussians import Gaussians


@dataclass(frozen=True)
class DensifySchedule:
    """Numbers of the paper (supplement Table 1; lengths per scene_scale, its extent of 10 being
    twice the scale of 5).
    """

    start: int = 500  # first step, counted from 1
    every: int = 100
    stop: int = 15_000
    gradient: float = (
        2e-4  # mean norm of the gradient of the projected mean, in units of half the image
    )
    small: float = (
        0.02  # percent_dense 0.01 x extent: up to this a Gaussian is cloned, above it split
    )
    min_opacity: float = 0.005
    screen_from: int = 3000  # after this step also prune by size
    max_radius_px: float = 20.0
    max_scale: float = 0.2  # 0.1 x extent
    reset_every: int = 3000
    reset_opacity: float = 0.01
    # Not the paper's: a reset close to the end leaves a fog of half-grown opacities, and newcomers
    # need time to settle.
    reset_needs_steps: int = 1500
    settle_steps: int = 300


class DensifyState:
    """What densification sums up over the steps since it last changed the Gaussians."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.restart(count, device)

    def restart(self, count: int, device: torch.device) -> None:
        """Begin the sums again, for another number of Gaussians."""
        self.pull = torch.zeros(count, device=device)
        self.seen = torch.zeros(count, device=device)
        self.radius_px = torch.zeros(count, device=device)

    def observe(self, gradient_px: Tensor, radii_px: Tensor, width: int, height: int) -> None:
        """Add one step to the sums. gradient_px [n, 2] is the gradient of the loss with respect to
        the projected means, in pixels; radii_px [n] is 0 for what was not drawn.
        """
        drawn = radii_px > 0
        across, down = (gradient_px[:, k] * (side / 2) for k, side in ((0, width), (1, height)))
        self.pull += torch.hypot(across, down) * drawn
        self.seen += drawn
        self.radius_px = torch.maximum(self.radius_px, radii_px)


def densify(
    params: Gaussians,
    optimizer: Optimizer,
    state: DensifyState,
    schedule: DensifySchedule,
    step: int,
    steps: int,
    scene_scale: float,
    max_gaussians: int,
    generator: torch.Generator,
) -> Gaussians | None:
    """Add and remove Gaussians as is due after `step` (counted from 1) of `steps`. Return the new
    parameters, which the optimiser has taken over already, or None where nothing was due.
    """
    changed = None
    growing = schedule.start < step < min(schedule.stop, steps - schedule.settle_steps)
    if growing and step % schedule.every == 0:
        changed = _grow_and_prune(
            params, optimizer, state, schedule, step, scene_scale, max_gaussians, generator
        )
        state.restart(changed.count, changed.means.device)
    if growing and step % schedule.reset_every == 0 and steps - step >= schedule.reset_needs_steps:
        changed = params if changed is None else changed
        with torch.no_grad():
            changed.opacities_logit.clamp_(
                max=math.log(schedule.reset_opacity / (1 - schedule.reset_opacity))
            )
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[changed.opacities_logit][moment].zero_()
    return changed


def _grow_and_prune(
    params: Gaussians,
    optimizer: Optimizer,
    state: DensifyState,
    schedule: DensifySchedule,
    step: int,
    scene_scale: float,
    max_gaussians: int,
    generator: torch.Generator,
) -> Gaussians:
    old = params.map(lambda t: t.detach())
    size = old.scales_log.exp().amax(1)
    dead = torch.sigmoid(old.opacities_logit) < schedule.min_opacity
    if step > schedule.screen_from:
        dead |= state.radius_px > schedule.max_radius_px
        dead |= size > schedule.max_scale * scene_scale
    pull = state.pull / state.seen.clamp_min(1)
    wanted = (pull > schedule.gradient) & ~dead
    room = max(max_gaussians - int((~dead).sum()), 0)  # each clone and each split adds one
    if int(wanted.sum()) > room:
        strongest = torch.argsort(torch.where(wanted, pull, -1.0), descending=True, stable=True)[
            :room
        ]
        wanted = torch.zeros_like(wanted).index_fill_(0, strongest, True)
    split = wanted & (size > schedule.small * scene_scale)
    clone = wanted & ~split
    keep = ~dead & ~split
    newcomers = Gaussians(
        *(
            torch.cat(ts)
            for ts in zip(old.select(clone), *_halves(old.select(split), generator), strict=True)
        )
    )
    survivors, cloned, halved = (mask.nonzero()[:, 0] for mask in (keep, clone, split))
    order = torch.argsort(
        torch.cat([survivors, cloned, halved, halved]), stable=True
    )  # newcomers beside what they come from
    return _replace(old, params, optimizer, survivors, newcomers, order)


def _halves(g: Gaussians, generator: torch.Generator) -> tuple[Gaussians, Gaussians]:
    """Two Gaussians drawn from each one, 1 / (0.8 x 2) its size."""
    parts = []
    for _ in range(2):
        noise = torch.randn(g.count, 3, generator=generator).to(g.means) * g.scales_log.exp()
        q = torch.nn.functional.normalize(g.quats, dim=-1)
        axis = q[:, 1:]
        twice = 2 * torch.linalg.cross(axis, noise)
        moved = noise + q[:, :1] * twice + torch.linalg.cross(axis, twice)
        parts.append(g._replace(means=g.means + moved, scales_log=g.scales_log - math.log(1.6)))
    return parts[0], parts[1]


def _replace(
    old: Gaussians,
    params: Gaussians,
    optimizer: Optimizer,
    survivors: Tensor,
    newcomers: Gaussians,
    order: Tensor,
) -> Gaussians:
    """Survivors with their moments and newcomers with none, in the given order, in the optimiser's
    groups.
    """
    fresh = []
    for group, before, current, new in zip(
        optimizer.param_groups, old, params, newcomers, strict=True
    ):
        tensor = torch.cat([before[survivors], new])[order].requires_grad_()
        moments = optimizer.state.pop(current, None)
        if moments:
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.cat([moments[name][survivors], torch.zeros_like(new)])[order]
            optimizer.state[tensor] = moments
        group["params"] = [tensor]
        fresh.append(tensor)
    return Gaussians(*fresh)
