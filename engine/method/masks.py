"""What a pixel of a render is, defined once for the prior, the scaffold, refinement and the report.

coverage   0..1     share of the light that the Gaussians of a pixel stop (alpha)
mu         0..1     pixel momentum, Eq. (15): coverage where those Gaussians are fine enough
known      yes/no   mu > 1/2: shown to the prior and kept
hole       yes/no   not known: the prior invents it
"""

from __future__ import annotations

from torch import Tensor

KNOWN_MU = 0.5
ALL_KNOWN_MU = 0.98  # with mu above this everywhere nothing is invented


def known(mu: Tensor) -> Tensor:
    """Say which pixels are known: pixel momentum [f, h, w] -> [f, h, w] bool."""
    return mu > KNOWN_MU


def nothing_to_invent(mu: Tensor) -> bool:
    """Say whether a window is known so well that a run without momentum has nothing to add; mu [f,
    h, w].
    """
    return float(mu.min()) >= ALL_KNOWN_MU
