"""Spherical harmonics: orthonormal, rotated exactly, and in the sign convention of 3DGS."""

from __future__ import annotations

import math

import pytest
import torch

from engine.scene.harmonics import C0, COUNTS, evaluate_sh, rotate_sh, sh_basis


def random_rotation(seed: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    return q * torch.sign(torch.linalg.det(q))


def directions(n: int, seed: int = 0) -> torch.Tensor:
    d = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return d / d.norm(dim=1, keepdim=True)


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
    basis = torch.cat([torch.full((60, 1), C0, dtype=torch.float64), sh_basis(d, 3)], 1)
    torch.testing.assert_close(
        basis.T @ (w[:, None] * basis), torch.eye(16, dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_degree_one_has_the_signs_of_3dgs() -> None:
    b = sh_basis(torch.eye(3, dtype=torch.float64), 1)
    c = math.sqrt(3 / (4 * math.pi))
    torch.testing.assert_close(
        b, torch.tensor([[0, 0, -c], [-c, 0, 0], [0, c, 0]], dtype=torch.float64)
    )


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_rotated_coefficients_look_the_same_in_rotated_directions(degree: int) -> None:
    g = torch.Generator().manual_seed(3)
    dc, rest = (
        torch.randn(4, 3, generator=g).double(),
        torch.randn(4, COUNTS[degree], 3, generator=g).double(),
    )
    R = random_rotation(degree)
    for d in directions(20):
        before = evaluate_sh(dc, rest, d.expand(4, 3), degree)
        after = evaluate_sh(dc, rotate_sh(rest, R), (R @ d).expand(4, 3), degree)
        torch.testing.assert_close(after, before, atol=1e-10, rtol=0)


def test_rotations_compose_and_undo() -> None:
    rest = torch.randn(5, 15, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    A, B = random_rotation(1), random_rotation(2)
    torch.testing.assert_close(
        rotate_sh(rotate_sh(rest, A), B), rotate_sh(rest, B @ A), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(rotate_sh(rotate_sh(rest, A), A.T), rest, atol=1e-10, rtol=0)


def test_rotation_keeps_the_power_of_each_degree() -> None:
    rest = torch.randn(5, 15, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turned = rotate_sh(rest, random_rotation(9))
    for a, b in ((0, 3), (3, 8), (8, 15)):
        torch.testing.assert_close(turned[:, a:b].square().sum(1), rest[:, a:b].square().sum(1))


@pytest.mark.parametrize(
    "R", [torch.diag(torch.tensor([1.0, 1, -1])), 2 * torch.eye(3), torch.eye(4)]
)
def test_what_is_no_rotation_is_refused(R: torch.Tensor) -> None:
    with pytest.raises(ValueError):
        rotate_sh(torch.zeros(1, 3, 3), R)


def test_too_few_coefficients_are_refused() -> None:
    with pytest.raises(ValueError):
        evaluate_sh(torch.zeros(1, 3), torch.zeros(1, 3, 3), torch.ones(1, 3), 2)
