"""Turning view-dependent colour: laws that hold for every rotation and mirror."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import sph_harm_y
from scipy.stats import special_ortho_group

from engine.bridge.harmonics import band_matrices, basis, rotate_sh, sphere_directions

ROTATIONS = [special_ortho_group.rvs(3, random_state=seed) for seed in range(4)]
MIRRORS = [r @ np.diag([1, 1, -1]) for r in ROTATIONS]


def test_the_basis_is_the_real_part_scheme_of_the_complex_harmonics():
    """Oracle: scipy's complex Y_l^m with the Condon-Shortley phase, sqrt(2) Re for m > 0, sqrt(2)
    Im for m < 0.
    """
    directions = sphere_directions(50)
    theta, phi = np.arccos(directions[:, 2]), np.arctan2(directions[:, 1], directions[:, 0])
    values = basis(directions, 3)
    for band in range(4):
        for m in range(-band, band + 1):
            y = sph_harm_y(band, abs(m), theta, phi)
            expected = y.real if m == 0 else np.sqrt(2) * (y.real if m > 0 else y.imag)
            np.testing.assert_allclose(
                values[:, band * band + band + m], expected, atol=1e-12, err_msg=f"l={band} m={m}"
            )


@pytest.mark.parametrize("orthogonal", ROTATIONS + MIRRORS)
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_turned_function_has_the_old_value_in_the_turned_direction(orthogonal, degree):
    rest = np.random.default_rng(0).normal(size=(5, (degree + 1) ** 2 - 1, 3))
    turned = rotate_sh(rest, orthogonal)
    d = sphere_directions(40)
    before = np.einsum("kc,nco->nko", basis(d, degree)[:, 1:], rest)
    after = np.einsum("kc,nco->nko", basis(d @ orthogonal.T, degree)[:, 1:], turned)  # at O d
    np.testing.assert_allclose(after, before, atol=1e-10)


def test_bands_turn_like_a_group_and_stay_orthogonal():
    a, b = ROTATIONS[0], MIRRORS[1]
    for ab, ma, mb in zip(
        band_matrices(a @ b, 3), band_matrices(a, 3), band_matrices(b, 3), strict=True
    ):
        np.testing.assert_allclose(ab, ma @ mb, atol=1e-10)
        np.testing.assert_allclose(ma @ ma.T, np.eye(len(ma)), atol=1e-10)


def test_the_point_mirror_changes_the_sign_of_odd_bands_only():
    for band, matrix in enumerate(band_matrices(-np.eye(3), 3), start=1):
        np.testing.assert_array_equal(matrix, (-1) ** band * np.eye(2 * band + 1))


def test_axis_flips_only_change_signs_so_they_can_be_undone_bit_by_bit():
    rest = np.random.default_rng(1).normal(size=(100, 15, 3)).astype(np.float32)
    flip = np.diag([1.0, -1.0, -1.0])
    once = rotate_sh(rest, flip)
    assert not np.array_equal(once, rest)
    np.testing.assert_array_equal(np.abs(once), np.abs(rest))
    np.testing.assert_array_equal(rotate_sh(once, flip), rest)


def test_what_is_no_orthogonal_matrix_or_no_whole_band_is_refused():
    with pytest.raises(ValueError, match="orthogonal"):
        rotate_sh(np.zeros((1, 3, 3)), np.diag([1.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="rest coefficients"):
        rotate_sh(np.zeros((1, 4, 3)), ROTATIONS[0])
