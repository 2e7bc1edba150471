"""A scene looks the same after a trip through a format: 60 dB for lossless ones, 35 dB for lossy
ones.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from engine import formats
from engine.formats import SplatScene, WriteOptions
from engine.outputs import passes

LOSSLESS = (".ply", ".glb", ".usdc")
LOSSY = (".spz", ".compressed.ply", ".sog")
TRIPS = [(e, "opencv" if e == ".ply" else None, 60.0) for e in LOSSLESS]
TRIPS += [(".ply", axes, 60.0) for axes in ("unreal", "unity", "blender")]
TRIPS += [(e, None, 35.0) for e in LOSSY] + [(".spz", "unity", 35.0)]


@pytest.fixture(scope="module")
def scene(shared_data) -> SplatScene:
    return formats.read(shared_data / "splats" / "leica-sofort" / "leica-sofort-top8192.ply")


def _cameras(scene: SplatScene) -> list[np.ndarray]:
    centre = np.median(scene.splats.means, axis=0)
    poses = []
    for angle in (-0.5, 0.3):
        eye = centre + 4 * np.array([np.sin(angle), -0.2, -np.cos(angle)])
        forward = (centre - eye) / np.linalg.norm(centre - eye)
        right = np.cross([0, 1, 0], forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = (
            np.stack([right, np.cross(forward, right), forward], axis=1),
            eye,
        )
        poses.append(pose)
    return poses


def _pictures(scene: SplatScene, poses: list[np.ndarray], linear: bool = False) -> np.ndarray:
    K = np.array([[180.0, 0, 80], [0, 180, 60], [0, 0, 1]])
    ready = passes.drawable(scene, torch.device("cpu"))
    return np.stack(
        [passes.draw_passes(ready, K, pose, 160, 120, linear=linear).rgb.numpy() for pose in poses]
    )


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(max(((a - b) ** 2).mean(), 1e-12)))


@pytest.mark.parametrize(("ending", "axes", "least"), TRIPS)
def test_the_picture_survives_the_format(tmp_path, scene, ending, axes, least):
    poses = _cameras(scene)
    path = tmp_path / f"a{ending}"
    formats.write(path, scene, WriteOptions(axes=axes))
    back = formats.read(path, axes=axes)
    before, after = _pictures(scene, poses), _pictures(back, poses)
    assert before.std() > 0.05, "an empty picture would agree with anything"
    assert _psnr(before, after) >= least


def test_the_wrong_axes_are_seen_in_the_picture(tmp_path, scene):
    poses = _cameras(scene)
    formats.write(tmp_path / "a.ply", scene, WriteOptions(axes="unity"))
    wrong = formats.read(tmp_path / "a.ply", axes="gltf")
    assert _psnr(_pictures(scene, poses), _pictures(wrong, poses)) < 25


def test_splat_agrees_with_the_scene_without_its_harmonics(tmp_path, scene):
    plain = dataclasses.replace(
        scene, splats=scene.splats._replace(sh_rest=scene.splats.sh_rest[:, :0])
    )
    formats.write(tmp_path / "a.splat", plain)
    poses = _cameras(scene)
    dc = np.clip(plain.splats.sh_dc, -1.772, 1.772)  # .splat cannot hold colours outside 0..1
    plain = dataclasses.replace(plain, splats=plain.splats._replace(sh_dc=dc.astype(np.float32)))
    assert (
        _psnr(_pictures(plain, poses), _pictures(formats.read(tmp_path / "a.splat"), poses)) >= 35
    )


@pytest.mark.parametrize("ending", [".glb", ".usdc", ".ply"])
def test_linear_blending_looks_the_same_after_the_trip(tmp_path, scene, ending):
    """Display-coded, linearly blended splats leave as linear colours and come back; degree 0 is
    exact.
    """
    flat = dataclasses.replace(
        scene,
        splats=scene.splats._replace(sh_rest=scene.splats.sh_rest[:, :0]),
        metadata=dataclasses.replace(scene.metadata, blend_linear=True),
    )
    poses = _cameras(scene)
    formats.write(tmp_path / f"a{ending}", flat)
    back = formats.read(tmp_path / f"a{ending}")
    before = _pictures(flat, poses, linear=True)
    assert _psnr(before, _pictures(back, poses, linear=True)) >= 60
    display = dataclasses.replace(
        flat, metadata=dataclasses.replace(flat.metadata, blend_linear=False)
    )
    assert _psnr(before, _pictures(display, poses, linear=True)) < 45, (
        "the two ways of blending ought to differ"
    )
