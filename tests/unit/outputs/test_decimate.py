"""Fewer splats look like the many: what is equal merges without a trace, and nothing is dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.bridge import moves
from engine.bridge.camera_file import CameraPath
from engine.bridge.harmonics import SH_C0
from engine.bridge.splats import Splats
from engine.formats.scene import SplatScene
from engine.outputs.decimate import (
    area,
    decimated,
    decimated_scene,
    light_in_views,
    likeness_db,
)
from engine.outputs.passes import drawable

CPU = torch.device("cpu")


def splats_of(means, colours, scales, opacity=0.8) -> Splats:
    n = len(means)
    return Splats(
        np.asarray(means, np.float32),
        np.tile(np.float32([1, 0, 0, 0]), (n, 1)),
        np.log(np.broadcast_to(np.float32(scales), (n, 3))).astype(np.float32),
        np.full(n, np.log(opacity / (1 - opacity)), np.float32),
        ((np.asarray(colours) - 0.5) / SH_C0).astype(np.float32),
        np.zeros((n, 0, 3), np.float32),
    )


def wall(rows: int = 60) -> Splats:
    """A painted wall two metres ahead: smooth on the left, a fine pattern on the right."""
    y, x = np.mgrid[0:rows, 0 : 2 * rows] / rows
    means = np.stack([2 * (x - 1), 2 * (y - 0.5), np.full_like(x, 2.0)], -1).reshape(-1, 3)
    pattern = 0.5 + 0.4 * np.sign(np.sin(x * 40)) * (x > 1)
    colours = np.stack([0.3 + 0.2 * x, pattern, 0.2 + 0.3 * y], -1).reshape(-1, 3)
    return splats_of(means, colours, (1.2 / rows, 1.2 / rows, 0.002), 0.9)


@pytest.fixture(scope="module")
def path() -> CameraPath:
    K = np.array([[120.0, 0, 80], [0, 120, 60], [0, 0, 1]])
    return moves.move("truck:0.4", K=K, width=160, height=120, frames=5)


def test_two_of_the_same_place_become_one_that_holds_back_as_much():
    two = splats_of([[0, 0, 2], [0, 0, 2]], [[0.8, 0.4, 0.2]] * 2, 0.1, 0.5)
    one = decimated(two, 1)
    np.testing.assert_allclose(one.means, [[0, 0, 2]], atol=1e-6)
    opacity = 1 / (1 + np.exp(-one.opacities_logit[0]))
    assert opacity == pytest.approx(0.75, abs=1e-5)  # 1 - 0.5^2
    # over the plane, 1 - (1 - g/2)^2 holds back 7/8 of what the two do one by one
    mass = opacity * area(one.scales_log)[0]
    assert mass == pytest.approx(0.875 * 2 * 0.5 * area(two.scales_log)[0], rel=1e-5)


def test_a_merge_keeps_mean_shape_and_colour_of_the_pair():
    pair = splats_of([[-1, 0, 5], [1, 0, 5]], [[1, 0, 0], [0, 0, 1]], (0.5, 0.2, 0.1), 0.3)
    one = decimated(pair, 1)
    np.testing.assert_allclose(one.means[0], [0, 0, 5], atol=1e-6)
    scales = np.sort(np.exp(one.scales_log[0].astype(np.float64)))
    np.testing.assert_allclose(scales / scales[0], [1, 2, 10 * np.sqrt(0.25 + 1)], rtol=1e-5)
    np.testing.assert_allclose(one.sh_dc[0] * SH_C0 + 0.5, [0.5, 0, 0.5], atol=1e-6)


def test_far_unlike_ones_stay_and_twins_go():
    means = [[0, 0, 2], [0.01, 0, 2], [3, 0, 2], [3.01, 0, 2]]
    four = splats_of(means, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], 0.02)
    three = decimated(four, 3)
    np.testing.assert_allclose(sorted(three.means[:, 0]), [0, 0.01, 3.005], atol=1e-6)


def test_what_no_view_shows_goes_first(path):
    seen, behind = wall(20), wall(20)
    both = Splats(*(np.concatenate(p) for p in zip(seen, behind, strict=True)))
    both.means[len(seen.means) :, 2] = -2
    scene = SplatScene(both)
    light = light_in_views(drawable(scene, CPU), path)
    assert light[len(seen.means) :].max() == 0 < light[: len(seen.means)].max()
    in_view = int((light > 0).sum())
    left = decimated(both, in_view + 200, light)
    assert (left.means[:, 2] > 0).sum() > 0.9 * in_view


@pytest.mark.parametrize("share", [4, 10])
def test_a_quarter_is_three_decibels_better_than_the_most_opaque(path, share):
    splats = wall()
    rng = np.random.default_rng(0)  # opacities differ a little, as in a learned scene
    splats.opacities_logit[:] += rng.normal(0, 0.3, len(splats.means)).astype(np.float32)
    count = len(splats.means) // share
    whole = SplatScene(splats, cameras=path)
    fewer = decimated_scene(whole, count, CPU)
    assert fewer.count == count and np.isfinite(
        np.concatenate([a.ravel() for a in fewer.splats]).all()
    )
    opaque = np.argsort(-splats.opacities_logit)[:count]
    dropped = SplatScene(Splats(*(a[opaque] for a in splats)))
    drawn = [drawable(s, CPU) for s in (whole, fewer, dropped)]
    ours, theirs = (likeness_db(drawn[0], d, path) for d in drawn[1:])
    assert ours > theirs + 3
    # the opaque wall stays closed
    assert area(fewer.splats.scales_log).sum() > 0.4 * area(splats.scales_log).sum()


def test_one_splat_is_the_least(path):
    assert len(decimated(wall(6), 1).means) == 1
    with pytest.raises(ValueError, match="at least 1"):
        decimated(wall(6), 0)
