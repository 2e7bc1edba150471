"""engine/bridge/moves.py: each move goes where its name says, in OpenCV axes."""

from __future__ import annotations

import numpy as np
import pytest

from engine.bridge.errors import UserError
from engine.bridge.moves import is_move, move

K = np.array([[500.0, 0, 320], [0, 500, 180], [0, 0, 1]])
RIGHT, DOWN, AHEAD = np.eye(3)


def last(spec: str, frames: int = 9, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """Position and viewing direction of the last camera."""
    path = move(spec, K=K, width=640, height=360, frames=frames, **options)
    assert (
        np.array_equal(path.world_from_camera[0], np.eye(4))
        and path.count == frames
        and path.unit == "m"
    )
    return path.world_from_camera[-1, :3, 3], path.world_from_camera[-1, :3, 2]


@pytest.mark.parametrize(
    ("spec", "position"),
    [
        ("dolly:2", 2 * AHEAD),
        ("dolly:-2", -2 * AHEAD),
        ("truck:0.5", 0.5 * RIGHT),
        ("pedestal:1", -DOWN),
        ("dolly:1+truck:2+pedestal:-3", AHEAD + 2 * RIGHT + 3 * DOWN),
        ("dolly:1e+1", 10 * AHEAD),
        ("dolly", AHEAD),
    ],
)
def test_offsets(spec: str, position: np.ndarray) -> None:
    assert np.allclose(last(spec)[0], position) and np.allclose(last(spec)[1], AHEAD)


@pytest.mark.parametrize(
    ("spec", "direction"),
    [("pan:90", RIGHT), ("pan:-90", -RIGHT), ("tilt:90", -DOWN), ("tilt:-90", DOWN)],
)
def test_turns_stay_in_place(spec: str, direction: np.ndarray) -> None:
    assert np.allclose(last(spec)[0], 0) and np.allclose(last(spec)[1], direction)


@pytest.mark.parametrize(
    ("spec", "position"),
    [
        ("orbit:90@2", 2 * RIGHT + 2 * AHEAD),
        ("orbit:-90@2", -2 * RIGHT + 2 * AHEAD),
        ("rise:90@2", -2 * DOWN + 2 * AHEAD),
        ("orbit:180@3", 6 * AHEAD),
    ],
)
def test_orbits_keep_their_point_in_the_middle(spec: str, position: np.ndarray) -> None:
    distance = float(spec.split("@")[1])
    path = move(spec, K=K, width=640, height=360, frames=7)
    assert np.allclose(path.world_from_camera[-1, :3, 3], position)
    point = np.linalg.inv(path.world_from_camera) @ [0, 0, distance, 1]
    assert np.allclose(point[:, :3], [0, 0, distance])


def test_orbit_takes_the_scene_depth_where_it_is_not_told() -> None:
    assert np.allclose(last("orbit:90", depth_m=7.0)[0], 7 * RIGHT + 7 * AHEAD)


def test_zoom_multiplies_the_focal_length_only() -> None:
    path = move("zoom:2", K=K, width=640, height=360, frames=5)
    assert np.allclose(path.K[-1], [[1000, 0, 320], [0, 1000, 180], [0, 0, 1]]) and np.allclose(
        path.K[0], K
    )
    assert np.array_equal(path.world_from_camera, np.tile(np.eye(4), (5, 1, 1)))


def test_smooth_moves_rest_at_both_ends_and_linear_ones_do_not() -> None:
    for ease, slow in (("ease", True), ("linear", False)):
        z = move("dolly:1", K=K, width=640, height=360, frames=21, ease=ease).world_from_camera[
            :, 2, 3
        ]
        steps = np.diff(z)
        assert (steps > 0).all() and z[-1] == pytest.approx(1)
        assert (steps[0] < 0.3 * steps.max()) == slow and steps[0] == pytest.approx(steps[-1])


def test_one_frame_is_the_first_camera() -> None:
    assert np.array_equal(
        move("orbit:90", K=K, width=640, height=360, frames=1).world_from_camera, np.eye(4)[None]
    )


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "fly:1",
        "dolly:far",
        "dolly:",
        "dolly:nan",
        "dolly:inf",
        "dolly:1e9",
        "orbit:1e9",
        "orbit:10@0",
        "orbit:10@-1",
        "orbit:10@x",
        "dolly:1@3",
        "dolly:1++pan:2",
        "zoom:0",
        "zoom:-1",
        "dolly:1 pan:2",
        "orbit:20 sideways",
    ],
)
def test_bad_moves_are_user_errors(spec: str) -> None:
    with pytest.raises(UserError):
        move(spec, K=K, width=640, height=360)


def test_words_say_how_a_move_goes() -> None:
    def travelled(spec: str) -> np.ndarray:
        return move(spec, K=K, width=640, height=360, frames=9).world_from_camera[:, 2, 3]

    assert np.allclose(travelled("dolly:2 linear"), np.linspace(0, 2, 9))
    assert np.allclose(travelled("dolly:2 ease"), travelled("dolly: 2"))
    there_and_back = travelled("dolly:2 loop linear")
    assert np.allclose(there_and_back, [0, 0.5, 1, 1.5, 2, 1.5, 1, 0.5, 0])
    gentle = travelled("dolly:2 loop")
    assert np.allclose(gentle, gentle[::-1]) and gentle[4] == 2 and gentle[1] < 0.5


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("dolly:1", True),
        ("Orbit:20@3+dolly", True),
        ("dolly", True),
        ("orbit:20 loop", True),
        ("orbit loop linear", True),
        ("orbit.json", False),
        ("pan/path.json", False),
        ("path.json", False),
        ("C:\\x.json", False),
    ],
)
def test_moves_are_told_from_files(text: str, yes: bool) -> None:
    assert is_move(text) is yes


def test_moves_joined_by_a_comma_are_told_the_plus():
    with pytest.raises(UserError, match="not a number") as caught:
        move("dolly:1.0,truck:0.5", K=K, width=640, height=360)
    assert "with + between" in caught.value.hint
