"""Axis presets and similarities, on a scene that looks different from every side."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import special_ortho_group

from engine.bridge.axes import (
    PRESETS,
    between,
    decompose_similarity,
    preset,
    similarity,
    transform_splats,
)
from engine.bridge.errors import UserError
from engine.bridge.harmonics import basis
from engine.bridge.quaternions import quaternion_of, rotation_of
from engine.bridge.splat_file import Splats
from engine.formats.scene import SplatScene
from tests.format_samples import covariances, random_splats

# One thing seen from the camera: 1 m to its right, 2 m above it, 3 m before it. Where each program
# says that it is, written down by hand from the programs' manuals.
RIGHT, UP, AHEAD = 1.0, 2.0, 3.0
PLACES = {
    "opencv": (RIGHT, -UP, AHEAD),
    "supersplat": (RIGHT, -UP, AHEAD),
    "blender": (RIGHT, AHEAD, UP),
    "gltf": (RIGHT, UP, -AHEAD),
    "houdini": (RIGHT, UP, -AHEAD),
    "nuke": (RIGHT, UP, -AHEAD),
    "unity": (RIGHT, UP, AHEAD),
    "unreal": (100 * AHEAD, 100 * RIGHT, 100 * UP),
}


def _asymmetric() -> SplatScene:
    """A splat stretched to the right, flat in depth, turned by 0.3 rad about the up axis, red when
    seen from the right.
    """
    quat = np.array([[np.cos(0.15), 0, np.sin(0.15), 0]], np.float32)
    rest = np.zeros((1, 3, 3), np.float32)
    rest[0, 2, 0] = -1.0  # band 1, m = +1: -x
    rest[0, 0, 1] = 0.5
    splats = Splats(
        means=np.array([PLACES["opencv"]], np.float32),
        quats=quat,
        scales_log=np.log([[0.5, 0.2, 0.05]]).astype(np.float32),
        opacities_logit=np.zeros(1, np.float32),
        sh_dc=np.zeros((1, 3), np.float32),
        sh_rest=rest,
    )
    return SplatScene(splats)


def _place(scene: SplatScene, name: str) -> np.ndarray:
    return scene.in_axes(name, preset(name).metres_per_unit).splats.means[0]


def test_every_preset_puts_the_thing_where_its_program_says():
    assert PLACES.keys() == PRESETS.keys()
    for name, expected in PLACES.items():
        np.testing.assert_allclose(_place(_asymmetric(), name), expected, rtol=1e-6, err_msg=name)


def test_every_wrong_preset_is_noticed():
    for name, expected in PLACES.items():
        for other, place in PLACES.items():
            if place != expected:
                assert np.abs(_place(_asymmetric(), other) - expected).max() > 0.5, (
                    f"{other} passes for {name}"
                )


def test_only_the_left_handed_programs_are_mirrored():
    assert {name for name, p in PRESETS.items() if p.mirrored} == {"unity", "unreal"}


@pytest.mark.parametrize("source", PRESETS)
@pytest.mark.parametrize("target", PRESETS)
def test_going_there_and_back_gives_the_same_scene(source, target):
    splats = random_splats(50, 3)
    there = similarity(between(source, target), 2.0, np.array([1.0, 2, 3]))
    back = transform_splats(transform_splats(splats, there), np.linalg.inv(there))
    np.testing.assert_allclose(back.means, splats.means, atol=2e-6)
    np.testing.assert_allclose(covariances(back), covariances(splats), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(back.sh_rest, splats.sh_rest, atol=2e-6)


def _any_similarities() -> list[np.ndarray]:
    turns = [special_ortho_group.rvs(3, random_state=i) for i in range(3)]
    turns += (
        [t @ np.diag([1.0, 1, -1]) for t in turns]
        + [between("opencv", name) for name in PRESETS]
        + [-np.eye(3)]
    )
    return [similarity(t, 0.5 + i, np.array([i, -i, 2 * i])) for i, t in enumerate(turns)]


@pytest.mark.parametrize("matrix", _any_similarities())
def test_centre_shape_and_colour_move_as_the_space_does(matrix):
    """M C M^T for the covariance, and the same colour along the moved line of sight; mirrors
    included.
    """
    splats = random_splats(30, 3)
    moved = transform_splats(splats, matrix)
    linear = matrix[:3, :3]
    np.testing.assert_allclose(
        moved.means, splats.means @ linear.T + matrix[:3, 3], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        covariances(moved), linear @ covariances(splats) @ linear.T, rtol=2e-4, atol=1e-8
    )
    assert np.allclose(
        np.linalg.norm(moved.quats, axis=1), np.linalg.norm(splats.quats, axis=1), rtol=1e-5
    )
    eye = np.array([0.3, -4.0, 1.0])
    seen, seen_moved = splats.means - eye, moved.means - (linear @ eye + matrix[:3, 3])
    colours = []
    for rest, rays in ((splats.sh_rest, seen), (moved.sh_rest, seen_moved)):
        values = basis(rays / np.linalg.norm(rays, axis=1, keepdims=True), 3)[:, 1:]
        colours.append(np.einsum("nk,nkc->nc", values, rest))
    np.testing.assert_allclose(colours[1], colours[0], atol=2e-5)


def test_the_naive_mirror_would_fail_the_covariance_law():
    """Control: leaving the quaternion alone, or mirroring only the centre, is caught by the law
    above.
    """
    splats = random_splats(30, 0)
    mirror = np.diag([1.0, -1.0, 1.0])
    wanted = mirror @ covariances(splats) @ mirror
    assert np.abs(covariances(splats) - wanted).max() > 0.01


def test_nothing_to_do_returns_the_very_same_arrays():
    splats = random_splats(3, 1)
    assert transform_splats(splats, np.eye(4)) is splats


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([1.0, 2, 1, 1]),
        np.diag([1.0, 1, 0, 1]),
        np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        np.full((4, 4), np.nan),
        np.diag([1.0, 1, 1, 2]),
    ],
)
def test_shear_unequal_and_zero_scales_are_refused_with_a_remedy(matrix):
    with pytest.raises(UserError) as caught:
        transform_splats(random_splats(2, 0), matrix)
    assert caught.value.hint


def test_a_similarity_comes_apart_into_what_it_was_made_of():
    turn = special_ortho_group.rvs(3, random_state=9) @ np.diag([1, -1, 1])
    scale, orthogonal, shift = decompose_similarity(similarity(turn, 3.5, np.array([1.0, 2, 3])))
    assert scale == pytest.approx(3.5)
    np.testing.assert_allclose(orthogonal, turn, atol=1e-12)
    np.testing.assert_array_equal(shift, (1, 2, 3))


def test_quaternion_and_matrix_are_each_others_inverse():
    for seed in range(20):
        turn = special_ortho_group.rvs(3, random_state=seed)
        np.testing.assert_allclose(rotation_of(quaternion_of(turn)[None])[0], turn, atol=1e-12)
    for half_turn in (np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1])):
        np.testing.assert_allclose(
            rotation_of(quaternion_of(half_turn)[None])[0], half_turn, atol=1e-12
        )


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="blender"):
        preset("maya")
