"""How much of a path has to be invented. Needs no bpy; the box is compared with the engine's where
torch is.
"""

from __future__ import annotations

import numpy as np
import pytest
from scene_splatter.blender_addon.cameras import coverage
from scene_splatter.engine.bridge.camera_file import CameraPath
from scene_splatter.engine.bridge.settings import USUAL_CAMERA_HEIGHT_M, USUAL_HORIZON, make


def path_of(
    poses: list[np.ndarray], focal: float = 64.0, size: tuple[int, int] = (64, 32)
) -> CameraPath:
    width, height = size
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return CameraPath(np.tile(K, (len(poses), 1, 1)), np.stack(poses), width, height, 24.0, "m")


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn_deg: float = 0.0) -> np.ndarray:
    """Camera to world, OpenCV axes; turned to the right by `turn_deg`."""
    pose = np.eye(4)
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = x, y, z
    return pose


WALL = np.full((32, 64), 4.0)


def test_the_first_view_is_covered_whole() -> None:
    assert coverage.invented_share(path_of([np.eye(4)]), WALL) == pytest.approx([0.0])


@pytest.mark.parametrize("x", [0.5, 1.0, 2.0, 3.0])
def test_sideways_before_a_wall_uncovers_its_share(x: float) -> None:
    """The view is 4 m wide at 4 m: x metres of it come in from the side."""
    share = coverage.invented_share(path_of([np.eye(4), moved(x=x)]), WALL)
    assert share[1] == pytest.approx(x / 4, abs=1 / coverage.CELLS)


def test_forward_uncovers_nothing_and_backward_the_rim() -> None:
    share = coverage.invented_share(path_of([np.eye(4), moved(z=2.5), moved(z=-1.0)]), WALL)
    assert share[1] == 0.0
    assert share[2] == pytest.approx(1 - (4 / 5) ** 2, abs=0.05)


def test_turning_round_uncovers_everything() -> None:
    assert coverage.invented_share(path_of([np.eye(4), moved(turn_deg=180)]), WALL)[1] == 1.0


def test_behind_a_pillar_is_a_hole() -> None:
    depth = np.full((32, 64), 8.0)
    depth[:, 28:36] = 2.0
    share = coverage.invented_share(path_of([np.eye(4), moved(x=0.3)]), depth)
    shift = 64 * 0.3 * (1 / 2 - 1 / 8) / 64  # by how much the pillar slides over the wall
    rim = 64 * 0.3 / 8 / 64  # and the wall over the frame
    assert share[1] == pytest.approx(shift + rim, abs=2 / coverage.CELLS)


def test_unknown_depth_covers_nothing_and_the_sky_never_moves() -> None:
    assert coverage.invented_share(path_of([np.eye(4)]), np.zeros((32, 64))) == pytest.approx([1.0])
    sky = np.full((32, 64), np.inf)
    assert coverage.invented_share(path_of([np.eye(4), moved(x=1.0)]), sky)[1] == 0.0


def test_long_paths_are_sampled_with_both_ends() -> None:
    poses = [moved(x=2.0 * i / 99) for i in range(100)]
    share = coverage.invented_share(path_of(poses), WALL)
    assert (
        len(share) == 9
        and share[0] == 0.0
        and share[-1] == share.max() == pytest.approx(0.5, abs=0.02)
    )


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"box_height": 3.0, "box_width": 4.0},
        {"box_width": 0.0, "horizon": 0.7},
        {"horizon": 0.1},
    ],
)
def test_the_box_is_the_engines(values: dict[str, float]) -> None:
    torch = pytest.importorskip(
        "torch", reason="the engine's torch is not installed in this Python"
    )
    from scene_splatter.engine.geometry.box import box_view

    geometry = make(**values).geometry
    K = np.array([[70.0, 0, 31.0], [0, 68.0, 20.0], [0, 0, 1.0]])
    names = ("horizon", "camera_height", "box_width", "box_height", "box_depth")
    given = {name: getattr(geometry, name) for name in names}
    given["horizon"] = given["horizon"] or USUAL_HORIZON
    given["camera_height"] = given["camera_height"] or USUAL_CAMERA_HEIGHT_M
    engine = box_view(torch.from_numpy(K), 64, 36, **given).depth_m
    np.testing.assert_allclose(coverage.box_depth(K, 64, 36, geometry), engine.numpy(), rtol=1e-6)
