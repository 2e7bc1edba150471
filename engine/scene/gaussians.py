"""Gaussians as plain tensors, their activations, and rigid transforms.

Everything a scene is made of is one tuple, `Gaussians`. Stored forms are the ones of the
3DGS .ply: log of the scale, logit of the opacity, quaternion w x y z of any norm, and
spherical harmonics with the constant term first (raw coefficients, not colours).
Axes are OpenCV's: x right, y down, z forward; lengths are metres.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..bridge.harmonics import SH_C0


class Gaussians(NamedTuple):
    """n Gaussians in stored form. The fields have the same names as `splat_file.Splats`."""

    means: Tensor  # [n, 3] metres, world axes
    quats: Tensor  # [n, 4] w x y z, any norm but zero
    scales_log: Tensor  # [n, 3] ln of the standard deviation in metres
    opacities_logit: Tensor  # [n]
    sh_dc: Tensor  # [n, 3] coefficient of the constant basis function
    sh_rest: Tensor  # [n, (d + 1)^2 - 1, 3] higher coefficients, coefficient before channel

    @property
    def count(self) -> int:  # type: ignore[override]  # a tuple of fields has no use for tuple.count
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        return {0: 0, 3: 1, 8: 2, 15: 3}[self.sh_rest.shape[1]]

    def map(self, fn) -> Gaussians:
        """Apply `fn` to every tensor."""
        return Gaussians(*(fn(t) for t in self))

    def select(self, index: Tensor) -> Gaussians:
        """Take the Gaussians that a boolean mask [n] or an index [m] names."""
        return Gaussians(*(t[index] for t in self))


def concatenate(*parts: Gaussians) -> Gaussians:
    """Put all Gaussians of the parts together, in order. Degrees of SH must agree."""
    return Gaussians(*(torch.cat(ts) for ts in zip(*parts, strict=True)))


def at_most(gaussians: Gaussians, count: int) -> Gaussians:
    """Keep the `count` most opaque Gaussians, in their order; all where there are no more.

    Among equals it leaves out evenly, and what stays grows by as much area as went, so that a dense
    first geometry keeps its surfaces closed.
    """
    n = gaussians.count
    if n <= count:
        return gaussians
    mixed = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    mixed = mixed.to(gaussians.means.device)
    opaque = torch.argsort(gaussians.opacities_logit[mixed], descending=True, stable=True)
    kept = gaussians.select(mixed[opaque[:count]].sort().values)
    gone = (
        torch.sigmoid(gaussians.opacities_logit).sum() / torch.sigmoid(kept.opacities_logit).sum()
    )
    return kept._replace(scales_log=kept.scales_log + 0.5 * gone.log())


def sh_dc_from_colour(colour: Tensor) -> Tensor:
    """Find the constant coefficients that alone show a colour, as 3DGS defines it: [..., 3] ->
    [..., 3].
    """
    return (colour - 0.5) / SH_C0
