"""Laws of the scenes that Blender renders for the training of the small depth network."""

from __future__ import annotations

import math

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from training.depth import blender_scenes, scenes  # noqa: E402
from training.depth.solids import BOX, CYLINDER, PLAIN, TILES  # noqa: E402

BANK = np.random.default_rng(5).uniform(0.1, 0.9, (9, 96, 96, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _prepared():
    blender_scenes.prepare()
    yield
    bpy.ops.wm.read_factory_settings(use_empty=True)


def test_depth_is_along_z():
    """A floor, a wall across and a pillar: their depths are known from the camera alone."""
    s = scenes.Scene(np.random.default_rng(0))
    s.standing(0, 6.5, 0, 40, 20, 1, 0.0, s.material(PLAIN))
    s.add(BOX, (0, -0.5, 0), (30, 0.5, 30), 0.0, s.material(TILES))
    s.standing(0, 3.0, 0, 1, 9, 1, 0.3, s.material(PLAIN), CYLINDER)
    blender_scenes.solids_mesh(np.array(s.rows), np.random.default_rng(0), outdoors=False)
    view = blender_scenes.camera_matrix(1.6, 0.0, 0.0)
    bpy.context.view_layer.update()
    w, h, focal = 64, 48, 40.0
    depth = blender_scenes.true_depth(view, focal, w, h)
    y = (np.arange(h) + 0.5 - h / 2) / focal
    expected = np.minimum(6.0, np.where(y > 0, 1.6 / np.maximum(y, 1e-9), np.inf))
    assert np.allclose(depth[:, 2], expected, rtol=1e-4)
    assert depth[h // 4, w // 2] == pytest.approx(2.5, abs=0.02)


@pytest.mark.parametrize("pitch, roll", [(20.0, 0.0), (0.0, 30.0), (-15.0, -8.0)])
def test_the_camera_stands_as_the_record_says(pitch, roll):
    """The horizon of endless ground lies where pitch and roll (above 0: down, clockwise) put it."""
    s = scenes.Scene(np.random.default_rng(0))
    s.add(BOX, (0, -0.5, 0), (3000, 0.5, 3000), 0.0, s.material(PLAIN, gloss=0.9))
    blender_scenes.solids_mesh(np.array(s.rows), np.random.default_rng(0), outdoors=False)
    bpy.context.view_layer.update()
    w, h, focal = 60, 60, 60.0
    view = blender_scenes.camera_matrix(1.6, pitch, roll)
    seen = np.isfinite(blender_scenes.true_depth(view, focal, w, h))
    x, y = np.meshgrid(np.arange(w) + 0.5 - w / 2, np.arange(h) + 0.5 - h / 2)
    p, r = math.radians(pitch), math.radians(roll)
    # How far the ray through (x, y) rises: right and down of the picture turned back by the roll.
    down = y * math.cos(r) + x * math.sin(r)
    rise = -down * math.cos(p) - focal * math.sin(p)
    sure = np.abs(rise) > 1.0
    assert (seen == (rise < 0))[sure].all()
    assert 0.05 < seen.mean() < 0.95


def test_a_render_is_a_record_of_its_seed():
    """The same seed gives the same picture, depth and camera, others another; as `train.py` needs
    them.
    """
    one, again, other = (blender_scenes.sample(k, BANK, 48, 32) for k in (4, 4, 5))
    for made in (one, other):
        assert made.image.shape == (32, 48, 3) and made.depth.shape == (32, 48)
        assert made.image.dtype == made.depth.dtype == np.float32
        assert made.image.min() >= 0 and made.image.max() <= 1 and made.image.std() > 0.01
        assert (made.depth > 0).all() and np.isfinite(made.depth).any()
    assert np.array_equal(one.image, again.image) and np.array_equal(one.depth, again.depth)
    assert scenes.facts(one) == scenes.facts(again) != scenes.facts(other)
    assert not np.array_equal(one.image, other.image)


def test_files_are_added_to(tmp_path):
    made = scenes.Sample(np.zeros((64, 96, 3)), np.full((64, 96), np.inf), 80.0, 30.0, 0.0, 2)
    blender_scenes.save(tmp_path, {(96, 64): [made]})
    blender_scenes.save(tmp_path, {(96, 64): [made._replace(kind=3), made]})
    with np.load(tmp_path / "96x64.npz") as kept:
        assert kept["facts"][:, 3].tolist() == [2, 3, 2]
        assert kept["facts"][0, 1] == pytest.approx(math.radians(30))
        assert kept["image"].shape == (3, 64, 96, 3) and (kept["depth"] > 5e4).all()
    assert [p.name for p in tmp_path.iterdir()] == ["96x64.npz"]
