"""Real spherical harmonics up to degree 3: evaluation along directions, and rotation of coefficients.

The basis has the signs and order of 3DGS (Kerbl et al. 2023): degree 1 is -y, z, -x times its constant.
Constants are the orthonormal ones, e.g. sqrt(3 / 4 pi) for degree 1 (Sloan 2013, "Efficient Spherical
Harmonic Evaluation").
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
C3 = (
    0.5900435899266435,
    2.890611442640554,
    0.4570457994644658,
    0.3731763325901154,
    1.445305721320277,
)
COUNTS = (0, 3, 8, 15)  # coefficients past the constant one, by degree


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Basis functions 1..(degree + 1)^2 - 1 of unit directions, [..., 3] -> [..., COUNTS[degree]]."""
    if degree not in range(4):
        raise ValueError(f"degree must be 0..3, got {degree}")
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    terms: list[Tensor] = []
    if degree >= 1:
        terms += [-C1 * y, C1 * z, -C1 * x]
    if degree >= 2:
        terms += [
            C2[0] * x * y,
            -C2[0] * y * z,
            C2[1] * (2 * zz - xx - yy),
            -C2[0] * x * z,
            C2[2] * (xx - yy),
        ]
    if degree >= 3:
        terms += [
            -C3[0] * y * (3 * xx - yy),
            C3[1] * x * y * z,
            -C3[2] * y * (4 * zz - xx - yy),
            C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -C3[2] * x * (4 * zz - xx - yy),
            C3[4] * z * (xx - yy),
            -C3[0] * x * (xx - 3 * yy),
        ]
    return torch.stack(terms, -1) if terms else directions.new_zeros(*directions.shape[:-1], 0)


def evaluate_sh(sh_dc: Tensor, sh_rest: Tensor, directions: Tensor, degree: int) -> Tensor:
    """Colour 0.5 + SH along directions of any length, not clamped: [n, 3], [n, k, 3], [n, 3] -> [n, 3].

    Only coefficients up to `degree` count; `sh_rest` may hold more. ValueError if it holds fewer.
    """
    count = COUNTS[degree]
    if sh_rest.shape[1] < count:
        raise ValueError(
            f"degree {degree} needs {count} coefficients past the constant one, got {sh_rest.shape[1]}"
        )
    colour = 0.5 + C0 * sh_dc
    if count:
        basis = sh_basis(torch.nn.functional.normalize(directions, dim=-1), degree)
        colour = colour + (basis[..., None] * sh_rest[:, :count]).sum(1)
    return colour


@functools.cache
def _samples(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Well spread directions [m, 3] (a Fibonacci sphere) and the pseudo-inverse of the degree's basis there, [2 degree + 1, m]."""
    m = 64
    i = np.arange(m) + 0.5
    z, a = 1 - 2 * i / m, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z * z)
    directions = np.stack([r * np.cos(a), r * np.sin(a), z], -1)
    basis = sh_basis(torch.from_numpy(directions), degree).numpy()[:, COUNTS[degree - 1] :]
    return directions, np.linalg.pinv(basis)


def rotate_sh(sh_rest: Tensor, R: Tensor) -> Tensor:
    """Coefficients of the rotated scene: colour'(R d) = colour(d). [n, k, 3], rotation [3, 3] -> [n, k, 3].

    Each degree is closed under rotation; its matrix is solved for from the basis at 64 directions, which is
    exact to rounding and needs no table of Wigner matrices. Raises ValueError if R is not a rotation.
    """
    if R.shape != (3, 3):
        raise ValueError(f"R must be [3, 3], got {list(R.shape)}")
    R64 = R.detach().to("cpu", torch.float64).numpy()
    if not np.allclose(R64 @ R64.T, np.eye(3), atol=1e-4) or np.linalg.det(R64) < 0:
        raise ValueError(f"R must be a rotation, got {R64.tolist()}")
    u, _, vt = np.linalg.svd(R64)
    R64 = u @ vt  # exactly orthogonal
    degree = COUNTS.index(sh_rest.shape[1])
    parts = []
    for d in range(1, degree + 1):
        directions, inverse = _samples(d)
        back = sh_basis(torch.from_numpy(directions @ R64), d).numpy()[
            :, COUNTS[d - 1] :
        ]  # basis at R^T d
        matrix = torch.from_numpy(inverse @ back).to(sh_rest)
        parts.append(torch.einsum("ij,njc->nic", matrix, sh_rest[:, COUNTS[d - 1] : COUNTS[d]]))
    return torch.cat(parts, 1) if parts else sh_rest.clone()
