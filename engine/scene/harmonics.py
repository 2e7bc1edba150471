"""Colour of Gaussians along directions: the basis of `bridge.harmonics` on tensors, with
gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge.harmonics import COEFFICIENTS, SH_C0, basis_terms


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Evaluate basis functions 1..(degree + 1)^2 - 1 at unit directions, [..., 3] -> [...,
    COEFFICIENTS[degree]].
    """
    x, y, z = directions.unbind(-1)
    terms = basis_terms(x, y, z, degree)
    return torch.stack(terms, -1) if terms else directions.new_zeros(*directions.shape[:-1], 0)


def evaluate_sh(sh_dc: Tensor, sh_rest: Tensor, directions: Tensor, degree: int) -> Tensor:
    """Compute the colour 0.5 + SH along directions of any length, not clamped: [n, 3], [n, k, 3],
    [n, 3] -> [n, 3].

    Only coefficients up to `degree` count; `sh_rest` may hold more. ValueError if it holds fewer.
    """
    count = COEFFICIENTS[degree]
    if sh_rest.shape[1] < count:
        raise ValueError(
            f"degree {degree} needs {count} coefficients past the constant one, got "
            f"{sh_rest.shape[1]}"
        )
    colour = 0.5 + SH_C0 * sh_dc
    if count:
        basis = sh_basis(F.normalize(directions, dim=-1), degree)
        colour = colour + (basis[..., None] * sh_rest[:, :count]).sum(1)
    return colour
