"""What all priors that are networks share: their place in memory, guidance, features, noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..models.device import networks_at_work
from ..models.memory import Residence, Rung
from . import notation
from .base import Level, PriorSpec

_T = TypeVar("_T")


class NetworkPrior:
    """Base of the adapters. They turn clips into latents and conditions, and a network's output
    into (x0_hat, eps_hat).
    """

    def __init__(self, spec: PriorSpec, residence: Residence, guidance: float) -> None:
        """`guidance` 1: the unconditional branch is not computed."""
        self.spec, self.residence, self._guidance = spec, residence, guidance
        self._levels: list[Level] = []

    def z_scale(self, i: int) -> float:
        """1: the scale of clean latents does not depend on the level."""
        return 1.0

    def features(self, latents: Tensor) -> Tensor:
        """Every cell with its neighbourhood, see notation.py."""
        return notation.patch_features(latents)

    def generator(self, seed: int) -> torch.Generator:
        """Noise is made where the networks are."""
        return torch.Generator(self.residence.device).manual_seed(seed)

    def _coded(self, work: Callable[[Rung], _T]) -> _T:
        """work(rung) with encoders and decoder ready; `rung.tiling` says whether to decode in
        tiles.
        """

        def ready(rung: Rung) -> _T:
            self.residence.companions()
            with networks_at_work():
                return work(rung)

        return self.residence.run(ready)

    def _ask(
        self,
        network: Callable[..., Tensor],
        x: Tensor,
        of_runs: tuple[Tensor, ...],
        of_sides: tuple[Tensor, ...],
        *,
        scale: Any = None,
        rescale: float = 0.0,
    ) -> Tensor:
        """The network's output for the runs x [runs, ...], guided, as x in kind and place.

        network(*rows of `of_runs`, *rows of `of_sides`) is called for every run on every side of
        the guidance, as many together as memory allows. `of_runs` [runs, ...] are the same on both
        sides; `of_sides` [2, ...], unconditional first, for all runs. `scale` (default: the
        guidance) must fit the output, which may have other axes than x behind the first.
        """
        runs, device = x.shape[0], self.residence.device
        sides = [0, 1] if self._guidance != 1.0 else [1]
        side = torch.tensor(sides).repeat_interleave(runs)
        rows = [t.to(device).repeat(len(sides), *[1] * (t.ndim - 1)) for t in of_runs] + [
            t.to(device)[side] for t in of_sides
        ]

        def work(rung: Rung) -> Tensor:
            self.residence.denoiser()
            with networks_at_work():
                return notation.in_parts(network, rung.branches, *rows).to(x)

        out = self.residence.run(work)
        if len(sides) == 1:
            return out
        return notation.guided(
            out[runs:], out[:runs], self._guidance if scale is None else scale, rescale
        )
