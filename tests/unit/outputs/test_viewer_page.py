"""What a page holds of a scene, and what is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from engine import formats
from engine.bridge.camera_file import CameraPath
from engine.bridge.errors import UserError
from engine.bridge.splat_file import Splats
from engine.commands import convert, view
from engine.formats.scene import SplatScene
from engine.formats.spz import decode
from engine.outputs.viewer import page
from engine.outputs.viewer.contents import contents
from engine.outputs.viewer.labels import NEVER, PICTURE, labels
from engine.scene.gaussians import Gaussians

W, H = 64, 48
K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])


def _splats(means: list[tuple[float, float, float]], sigma: float = 0.3) -> Splats:
    n = len(means)
    rng = np.random.default_rng(3)
    quats = rng.normal(size=(n, 4))
    return Splats(
        means=np.array(means, np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        scales_log=np.full((n, 3), np.log(sigma), np.float32),
        opacities_logit=np.full(n, 6, np.float32),
        sh_dc=rng.normal(0, 0.5, (n, 3)).astype(np.float32),
        sh_rest=np.zeros((n, 0, 3), np.float32),
    )


def _sideways(frames: int) -> CameraPath:
    """Half a metre to the right each frame."""
    world = np.tile(np.eye(4), (frames, 1, 1))
    world[:, 0, 3] = 0.5 * np.arange(frames)
    return CameraPath(np.tile(K, (frames, 1, 1)), world, W, H, 24.0, "m")


def test_a_gaussian_is_labelled_by_who_saw_it_first():
    means = [(0, 0, 3), (0, 0, 6), (2.5, 0, 3), (4.5, 0, 3), (0, 0, -3)]
    gaussians = Gaussians(*(torch.from_numpy(values) for values in _splats(means)))
    found = labels(gaussians, _sideways(9), ((0, 5), (5, 9)))
    in_picture, behind_it, beside, far_beside, behind_all = found
    assert in_picture == PICTURE
    assert behind_it == 1, "hidden in the picture, seen by a later camera of the first segment"
    assert beside == 1 and far_beside == 2
    assert behind_all == NEVER


def test_the_packed_splats_are_those_of_the_scene():
    rng = np.random.default_rng(0)
    splats = _splats([tuple(p) for p in rng.normal((0, 0, 5), 3, (500, 3))], sigma=0.1)
    shown = contents(SplatScene(splats), "x", cameras=_sideways(3))
    held, _ = decode(shown.spz)
    nearest = np.linalg.norm(held.means[:, None] - splats.means[None], axis=2).min(axis=1)
    assert nearest.max() < 0.1 / 16
    assert len(gzip.decompress(shown.packed)) == len(gzip.decompress(shown.spz))
    assert len(gzip.decompress(shown.labels)) == shown.count == 500


@pytest.mark.parametrize(("nearer", "words"), [(1.0, 0), (1e-3, 1)])
def test_needles_too_thin_to_be_seen_are_made_spz_size_without_a_word(nearer, words, caplog):
    """As a job leaves them; in a scene of millimetres they are seen, and that is said."""
    cloud = _splats([(x * nearer, 0.0, 3.0 * nearer) for x in (-1.0, 0.0, 1.0)])
    cloud.scales_log[1, 0] = -14.0
    packed, _ = decode(contents(SplatScene(cloud), "needle", cameras=_sideways(1)).spz)
    assert packed.scales_log.min() == -10.0
    assert len([r for r in caplog.records if "clamped" in r.message]) == words


def test_a_page_too_large_says_its_size_and_the_count_that_fits(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    splats = _splats([tuple(p) for p in rng.normal(0, 3, (30_000, 3))])
    shown = contents(SplatScene(splats), "x")
    whole = page.write(tmp_path / "scene.html", shown)
    assert whole == pytest.approx((tmp_path / "scene.html").stat().st_size, rel=0.001)
    limit = (page.size_of_viewer() + whole) // 2
    monkeypatch.setattr(page, "MOST_BYTES", limit)
    with pytest.raises(UserError, match="30,000 splats") as raised:
        page.write(tmp_path / "other.html", shown)
    count = int(raised.value.hint.split("--count ")[1].split(",")[0])
    page.write(tmp_path / "other.html", contents(SplatScene(splats), "x", count=count))
    assert (tmp_path / "other.html").stat().st_size <= limit


def test_convert_makes_a_page_and_refuses_what_a_page_cannot_hold(tmp_path):
    formats.write(tmp_path / "scene.ply", SplatScene(_splats([(0, 0, 3), (1, 0, 3)])))
    request = {"input": "scene.ply", "output": "scene.html"}
    result = convert.convert(request, tmp_path)
    assert result["format"] == "html" and result["count"] == 2
    assert result["bytes"] == pytest.approx((tmp_path / "scene.html").stat().st_size, abs=2000)
    with pytest.raises(UserError, match="--axes-out"):
        convert.convert(request | {"axes_out": "blender"}, tmp_path)


def test_what_cannot_be_viewed_is_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        view.open_source(tmp_path / "gone.ply", None, None, None, 24)
    with pytest.raises(UserError, match="no job and no numbered"):
        view.open_source(tmp_path, None, None, None, 24)
    with pytest.raises(UserError, match="picture"):
        view.open_source(tmp_path, None, tmp_path / "gone.png", None, 24)
