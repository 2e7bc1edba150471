"""Real spherical harmonics up to degree 3: the basis, and coefficients turned or mirrored, numpy.

The basis is the one of 3DGS (and of glTF's KHR_gaussian_splatting): real harmonics with the
Condon-Shortley phase, ordered m = -l..l inside each band, coefficients stored without the
constant term. Turning a function f(d) by an orthogonal matrix O gives f'(d) = f(O^T d). Each
band l is a (2l + 1)-dimensional space that every O maps onto itself, so the matrix of the map
follows exactly from samples: with A = Y(d_k) and B = Y(O^T d_k), A D = B. That holds for
mirrors as well, which the usual Wigner formulas leave out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

COEFFICIENTS = (0, 3, 8, 15)  # rest coefficients of degree 0..3
SH_C0 = 0.28209479177387814  # 1 / (2 sqrt(pi))
# the orthonormal constants, e.g. sqrt(3 / (4 pi)) for degree 1 (Sloan 2013, "Efficient SH
# Evaluation")
C1 = 0.4886025119029199
C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
C3 = (
    0.5900435899266435,
    2.890611442640554,
    0.4570457994644658,
    0.3731763325901154,
    1.445305721320277,
)


def degree_of(coefficients: int) -> int:
    """Degree of `coefficients` rest coefficients. ValueError when they are not whole bands."""
    if coefficients not in COEFFICIENTS:
        raise ValueError(f"rest coefficients must number one of {COEFFICIENTS}, got {coefficients}")
    return COEFFICIENTS.index(coefficients)


def basis_terms(x: Any, y: Any, z: Any, degree: int) -> list[Any]:
    """Values of the basis functions 1..(degree + 1)^2 - 1 at unit directions (x, y, z).

    Arrays of numpy or tensors of torch: it is arithmetic alone. ValueError for a degree beyond 3.
    """
    if degree not in range(4):
        raise ValueError(f"degree must be 0..3, got {degree}")
    xx, yy, zz = x * x, y * y, z * z
    terms: list[Any] = []
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
    return terms


def basis(directions: np.ndarray, degree: int) -> np.ndarray:
    """[k, 3] unit directions -> [k, (degree + 1)^2] values of the basis functions, float64."""
    x, y, z = np.asarray(directions, np.float64).T
    return np.stack([np.full_like(x, SH_C0), *basis_terms(x, y, z, degree)], axis=1)


def sphere_directions(count: int) -> np.ndarray:
    """[count, 3] unit directions spread evenly over the sphere (Fibonacci lattice)."""
    i = np.arange(count) + 0.5
    z = 1 - 2 * i / count
    angle = np.pi * (1 + np.sqrt(5)) * i
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


def band_matrices(orthogonal: np.ndarray, degree: int) -> list[np.ndarray]:
    """[3, 3] orthogonal (det +1 or -1) -> one [2l + 1, 2l + 1] matrix for each band l = 1..degree.

    Entries that are whole numbers up to rounding (axis flips and swaps) are made whole, so a
    flip of axes changes signs only and can be undone bit by bit.
    """
    orthogonal = np.asarray(orthogonal, np.float64)
    if orthogonal.shape != (3, 3) or np.abs(orthogonal @ orthogonal.T - np.eye(3)).max() > 1e-6:
        raise ValueError(f"expected an orthogonal 3x3 matrix, got {orthogonal.tolist()}")
    directions = sphere_directions(64)
    here, there = (
        basis(directions, degree),
        basis(directions @ orthogonal, degree),
    )  # rows d -> O^T d
    matrices = []
    for band in range(1, degree + 1):
        part = slice(band * band, (band + 1) ** 2)
        matrix = np.linalg.lstsq(here[:, part], there[:, part], rcond=None)[0]
        whole = np.round(matrix)
        matrices.append(np.where(np.abs(matrix - whole) < 1e-9, whole, matrix))
    return matrices


def rotate_sh(sh_rest: np.ndarray, orthogonal: np.ndarray) -> np.ndarray:
    """[n, k, 3] rest coefficients of f -> those of f(O^T d), same dtype.

    `orthogonal` [3, 3] maps old directions to new ones and may be a mirror.
    """
    degree = degree_of(sh_rest.shape[1])
    if degree == 0 or np.array_equal(orthogonal, np.eye(3)):
        return sh_rest
    n = sh_rest.shape[0]
    out = np.empty_like(sh_rest)
    for band, matrix in enumerate(band_matrices(orthogonal, degree), start=1):
        part = slice(band * band - 1, (band + 1) ** 2 - 1)
        diagonal = np.diagonal(matrix)
        if np.array_equal(matrix, np.diag(diagonal)):
            np.multiply(sh_rest[:, part], diagonal.astype(sh_rest.dtype)[:, None], out=out[:, part])
        else:  # one matrix product over (coefficient, channel) pairs: far faster than n small ones
            pairs = np.kron(matrix, np.eye(3)).astype(sh_rest.dtype)
            out[:, part] = (sh_rest[:, part].reshape(n, -1) @ pairs.T).reshape(n, -1, 3)
    return out
