"""Rotating and mirroring view-dependent colour: real spherical harmonics up to degree 3, numpy.

The basis is the one of 3DGS (and of glTF's KHR_gaussian_splatting): real harmonics with the
Condon-Shortley phase, ordered m = -l..l inside each band, coefficients stored without the
constant term. Turning a function f(d) by an orthogonal matrix O gives f'(d) = f(O^T d). Each
band l is a (2l + 1)-dimensional space that every O maps onto itself, so the matrix of the map
follows exactly from samples: with A = Y(d_k) and B = Y(O^T d_k), A D = B. That holds for
mirrors as well, which the usual Wigner formulas leave out.
"""

from __future__ import annotations

import numpy as np

COEFFICIENTS = (0, 3, 8, 15)  # rest coefficients of degree 0..3
SH_C0 = 0.28209479177387814  # 1 / (2 sqrt(pi))


def degree_of(coefficients: int) -> int:
    """Degree of `coefficients` rest coefficients. ValueError when they are not whole bands."""
    if coefficients not in COEFFICIENTS:
        raise ValueError(f"rest coefficients must number one of {COEFFICIENTS}, got {coefficients}")
    return COEFFICIENTS.index(coefficients)


def basis(directions: np.ndarray, degree: int) -> np.ndarray:
    """[k, 3] unit directions -> [k, (degree + 1)^2] values of the basis functions, float64."""
    if not 0 <= degree <= 3:
        raise ValueError(f"degree must be 0..3, got {degree}")
    x, y, z = np.asarray(directions, np.float64).T
    columns = [np.full_like(x, SH_C0)]
    if degree >= 1:
        c = np.sqrt(3 / (4 * np.pi))
        columns += [-c * y, c * z, -c * x]
    if degree >= 2:
        c = np.sqrt(15 / np.pi) / 2
        columns += [
            c * x * y,
            -c * y * z,
            np.sqrt(5 / np.pi) / 4 * (2 * z * z - x * x - y * y),
            -c * x * z,
            c / 2 * (x * x - y * y),
        ]
    if degree >= 3:
        a, b, c = (
            np.sqrt(35 / (2 * np.pi)) / 4,
            np.sqrt(105 / np.pi) / 2,
            np.sqrt(21 / (2 * np.pi)) / 4,
        )
        columns += [
            -a * y * (3 * x * x - y * y),
            b * x * y * z,
            -c * y * (4 * z * z - x * x - y * y),
            np.sqrt(7 / np.pi) / 4 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -c * x * (4 * z * z - x * x - y * y),
            b / 2 * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ]
    return np.stack(columns, axis=1)


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
