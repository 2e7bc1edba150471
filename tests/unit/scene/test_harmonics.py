"""Spherical harmonics: orthonormal, and in the sign convention of 3DGS."""

from __future__ import annotations

import math

import pytest
import torch

from engine.bridge.harmonics import SH_C0
from engine.scene.harmonics import evaluate_sh, sh_basis


def test_basis_is_orthonormal_on_the_sphere() -> None:
    """By an exact product quadrature: Gauss-Legendre in z, even steps in the angle."""
    nodes = torch.tensor(
        [-0.9061798459386640, -0.5384693101056831, 0.0, 0.5384693101056831, 0.9061798459386640],
        dtype=torch.float64,
    )
    weights = torch.tensor(
        [
            0.2369268850561891,
            0.4786286704993665,
            0.5688888888888889,
            0.4786286704993665,
            0.2369268850561891,
        ],
        dtype=torch.float64,
    )
    angles = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
    z = nodes[:, None].expand(5, 12)
    r = (1 - z * z).sqrt()
    d = torch.stack([r * angles.cos(), r * angles.sin(), z], -1).reshape(-1, 3)
    w = (weights[:, None] * torch.full((5, 12), 2 * math.pi / 12, dtype=torch.float64)).reshape(-1)
    basis = torch.cat([torch.full((60, 1), SH_C0, dtype=torch.float64), sh_basis(d, 3)], 1)
    torch.testing.assert_close(
        basis.T @ (w[:, None] * basis), torch.eye(16, dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_degree_one_has_the_signs_of_3dgs() -> None:
    b = sh_basis(torch.eye(3, dtype=torch.float64), 1)
    c = math.sqrt(3 / (4 * math.pi))
    torch.testing.assert_close(
        b, torch.tensor([[0, 0, -c], [-c, 0, 0], [0, c, 0]], dtype=torch.float64)
    )


def test_too_few_coefficients_are_refused() -> None:
    with pytest.raises(ValueError):
        evaluate_sh(torch.zeros(1, 3), torch.zeros(1, 3, 3), torch.ones(1, 3), 2)
