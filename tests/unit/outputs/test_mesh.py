"""The proxy mesh against shapes whose surface is known."""

from __future__ import annotations

import json

import numpy as np
import plyfile
import pytest
import torch

from engine import formats
from engine.bridge import camera_file
from engine.bridge.camera_file import CameraPath
from engine.bridge.errors import UserError
from engine.bridge.harmonics import sphere_directions
from engine.bridge.quaternions import quaternion_of
from engine.bridge.splat_file import Splats
from engine.commands import mesh as command
from engine.formats import SplatScene
from engine.outputs import mesh, passes


def _ball(radius: float = 1.0, centre=(0.5, -0.2, 3.0), count: int = 1500) -> Splats:
    """Flat opaque splats tangent to a sphere."""
    directions = sphere_directions(count)
    quats = []
    for d in directions:
        side = np.cross(d, [0, 1, 0] if abs(d[1]) < 0.9 else [1, 0, 0])
        side /= np.linalg.norm(side)
        quats.append(quaternion_of(np.stack([side, np.cross(d, side), d], axis=1)))
    return Splats(
        (radius * directions + centre).astype(np.float32),
        np.array(quats, np.float32),
        np.log(np.tile([0.06 * radius, 0.06 * radius, 0.002], (count, 1))).astype(np.float32),
        np.full(count, 5, np.float32),
        np.zeros((count, 3), np.float32),
        np.zeros((count, 0, 3), np.float32),
    )


@pytest.fixture(scope="module")
def ball() -> mesh.Mesh:
    scene = passes.drawable(SplatScene(_ball()), torch.device("cpu"))
    return mesh.proxy(scene, faces=2000, resolution=48, views=12)


def test_the_mesh_of_a_ball_is_the_ball(ball):
    radii = np.linalg.norm(ball.vertices - (0.5, -0.2, 3.0), axis=1)
    assert np.abs(radii - 1).max() < 2.5 * 2 / 48  # two and a half voxels
    assert np.abs(radii - 1).mean() < 0.7 * 2 / 48
    directions = (ball.vertices - (0.5, -0.2, 3.0)) / radii[:, None]
    assert (directions @ sphere_directions(50).T).max(axis=0).min() > 0.95, "it has holes"


def test_the_face_budget_is_kept_and_faces_look_outwards(ball):
    assert 500 < len(ball.faces) <= 2000
    a, b, c = (ball.vertices[ball.faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    outwards = (normals * ((a + b + c) / 3 - (0.5, -0.2, 3.0))).sum(axis=1)
    assert (outwards > 0).mean() > 0.99
    assert ball.faces.min() == 0 and ball.faces.max() == len(ball.vertices) - 1


def test_dust_goes_and_pieces_stay():
    scene = passes.drawable(
        SplatScene(
            Splats(
                *(
                    np.concatenate(p)
                    for p in zip(_ball(), _ball(0.5, (2.6, -0.2, 3.0), 600), strict=True)
                )
            )
        ),
        torch.device("cpu"),
    )
    two = mesh.proxy(scene, faces=4000, resolution=48, views=12)
    left = two.vertices[:, 0] < 1.8
    assert left.any() and (~left).any()
    speck = mesh.Mesh(
        np.concatenate([two.vertices, [(9, 9, 9), (9, 9, 9.1), (9, 9.1, 9)]]).astype(np.float32),
        np.concatenate([two.faces, [[len(two.vertices) + i for i in range(3)]]]).astype(np.int32),
    )
    assert len(mesh.without_dust(speck).faces) == len(two.faces)


def test_what_no_camera_sees_has_no_surface():
    """One camera sees the near half: nothing is invented behind it."""
    scene = passes.drawable(SplatScene(_ball()), torch.device("cpu"))
    K = np.array([[[200.0, 0, 80], [0, 200, 80], [0, 0, 1]]])
    eye = np.eye(4)[None].copy()
    eye[0, :3, 3] = (0.5, -0.2, 0)
    half = mesh.proxy(
        scene, CameraPath(K, eye, 160, 160, 24.0, "m"), faces=2000, resolution=48, max_depth_m=10
    )
    assert half.vertices[:, 2].max() < 3.2 and half.vertices[:, 2].min() == pytest.approx(
        2.0, abs=0.1
    )


def test_no_surface_is_said(tmp_path):
    splats = _ball()._replace(opacities_logit=np.full(1500, -6, np.float32))
    scene = passes.drawable(SplatScene(splats), torch.device("cpu"))
    with pytest.raises(UserError, match="opaque"):
        mesh.proxy(scene)
    away = CameraPath(
        np.array([[[100.0, 0, 20], [0, 100, 20], [0, 0, 1]]]),
        np.diag([1.0, -1, -1, 1])[None],
        40,
        40,
        24.0,
        "m",
    )
    with pytest.raises(UserError, match="nothing solid"):
        mesh.proxy(passes.drawable(SplatScene(_ball()), torch.device("cpu")), away)


def test_the_job_writes_a_ply_that_others_read(tmp_path):
    formats.write(tmp_path / "scene.ply", SplatScene(_ball()))
    (tmp_path / "mesh.json").write_text(
        json.dumps(
            {
                "scene": "scene.ply",
                "output": "proxy.ply",
                "faces": 300,
                "resolution": 24,
                "views": 8,
                "axes": "blender",
            }
        )
    )
    stages = []
    result = command.run_job(tmp_path, lambda stage, *a, **k: stages.append(stage))
    data = plyfile.PlyData.read(tmp_path / "proxy.ply")
    assert len(data["face"]) == result["faces"] <= 300
    place = np.array([data["vertex"][axis].mean() for axis in "xyz"])
    np.testing.assert_allclose(place, (0.5, 3.0, 0.2), atol=0.15)
    assert {"depth", "fusing", "surface"} <= set(stages)
    camera_file.write(
        tmp_path / "c.json",
        mesh.around(passes.drawable(SplatScene(_ball()), torch.device("cpu")), 3),
    )
    with pytest.raises(UserError):
        command.run_job(
            tmp_path, lambda *a, **k: None, {"scene": "scene.ply", "output": "proxy.obj"}
        )


def test_smoothing_takes_the_ripple_and_leaves_the_size(ball):
    """A finer ball with noise on it: the noise goes, the radius stays."""
    rough = np.random.default_rng(0).normal(0, 0.02, len(ball.vertices))
    centre = np.array((0.5, -0.2, 3.0))
    away = (ball.vertices - centre) / np.linalg.norm(ball.vertices - centre, axis=1, keepdims=True)
    noisy = ball._replace(vertices=(ball.vertices + rough[:, None] * away).astype(np.float32))

    def radii(m):
        return np.linalg.norm(m.vertices - centre, axis=1)

    after = mesh.smoothed(noisy)
    assert radii(after).std() < 0.6 * radii(noisy).std()
    assert abs(radii(after).mean() - radii(noisy).mean()) < 0.01
