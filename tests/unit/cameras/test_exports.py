"""Cameras written for other programs come back through the readers of their formats."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from engine.bridge import camera_file
from engine.bridge.camera_file import CameraPath
from engine.bridge.errors import UserError
from engine.cameras import trajectory
from engine.cameras.exports import export
from tests.format_samples import random_splats


def _path(shift: bool = False, zoom: bool = False) -> CameraPath:
    rng = np.random.default_rng(2)
    world = np.tile(np.eye(4), (6, 1, 1))
    world[:, :3, :3] = Rotation.random(6, random_state=3).as_matrix()
    world[:, :3, 3] = rng.normal(0, 2, (6, 3))
    K = np.tile(np.array([[500.0, 0, 320], [0, 500, 180], [0, 0, 1]]), (6, 1, 1))
    if zoom:
        K[:, 0, 0] = K[:, 1, 1] = np.linspace(400, 600, 6)
    if shift:
        K[:, 0, 2], K[:, 1, 2] = 300, 200
    return CameraPath(K, world, 640, 360, 25.0, "m")


@pytest.mark.parametrize("zoom", [False, True])
@pytest.mark.parametrize(
    ("name", "shift"),
    [
        ("transforms.json", True),
        ("camera_path.json", False),
        ("a.txt", False),
        ("model", True),
        ("own.json", True),
    ],
)
def test_every_format_comes_back(tmp_path, name, shift, zoom):
    path = _path(shift, zoom)
    kind = export(tmp_path / name, path)
    back = trajectory.load(tmp_path / name, image_size=(640, 360))
    np.testing.assert_allclose(
        back.world_from_camera, path.world_from_camera, atol=1e-9, err_msg=kind
    )
    np.testing.assert_allclose(back.K, path.K, rtol=1e-9, err_msg=kind)
    assert (back.width, back.height) == (640, 360)
    assert (back.unit == "m") == (
        kind in ("transforms", "scene_splatter")
    )  # the others cannot say it


def test_the_world_turns_with_the_splats(tmp_path):
    """A point seen at some pixel is seen there too when both world and cameras are exported in
    other axes.
    """
    path = _path()
    point = np.array([0.3, -0.2, 4.0])
    export(tmp_path / "transforms.json", path, axes="blender")
    back = trajectory.load(tmp_path / "transforms.json")
    turned = np.array([point[0], point[2], -point[1]])
    for i in range(6):
        before = np.linalg.inv(path.world_from_camera[i]) @ [*point, 1]
        after = np.linalg.inv(back.world_from_camera[i]) @ [*turned, 1]
        np.testing.assert_allclose(after, before, atol=1e-9)


def test_colmap_gets_points_from_the_splats(tmp_path):
    splats = random_splats(20, 0)
    export(tmp_path / "model", _path(), splats=splats)
    rows = np.loadtxt(tmp_path / "model" / "points3D.txt")
    order = np.argsort(-splats.opacities_logit, kind="stable")
    np.testing.assert_allclose(rows[:, 1:4], splats.means[order], rtol=1e-6)
    assert ((rows[:, 4:7] >= 0) & (rows[:, 4:7] <= 255)).all()


def test_what_a_format_cannot_say_is_said(tmp_path, caplog):
    export(tmp_path / "camera_path.json", _path(shift=True))
    assert "lens shift" in caplog.text


def test_left_handed_axes_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="left-handed"):
        export(tmp_path / "transforms.json", _path(), axes="unity")
    with pytest.raises(UserError, match="no camera format"):
        export(tmp_path / "a.fbx", _path())


def test_shared_colmap_and_transforms_survive_a_second_trip(tmp_path, shared_data):
    source = trajectory.load(shared_data / "posed" / "banana" / "transforms.json")
    export(tmp_path / "again", source)
    back = trajectory.load(tmp_path / "again")
    np.testing.assert_allclose(back.world_from_camera, source.world_from_camera, atol=1e-8)
    camera_file.write(tmp_path / "own.json", back)
