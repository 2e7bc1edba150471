"""A repaint forgets what is seen through a mask, learns it anew, and leaves all else as it is."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from engine.bridge import settings
from engine.geometry.layers import gaussians_from_depth
from engine.method import pipeline, repaint
from engine.method.refine import refine
from engine.method.views import draw_views
from engine.priors.patch.prior import PatchPrior
from engine.rasterize import rasterize
from engine.scene.gaussians import concatenate
from engine.scene.psnr import psnr

H, W, COUNT = 32, 48, 8
MASKED = 5
PLAN = settings.make(
    "standard", prior="patch", steps=3, refine_steps=30, segment_length=4, overlap=1
)


class _Page:
    last = None

    def __init__(self, record, segment):
        self.record, self.segment = record, segment

    @contextmanager
    def stage(self, name):
        yield lambda done, total: None

    def rendered(self, views):
        pass

    def enhanced(self, enhanced):
        frames = list(enhanced.frames.clone())
        self.record.frames = self.record.frames[: self.segment.start] + frames

    def refined(self, refined, after):
        self.record.kept = refined.gaussians


class _Record:
    def __init__(self, finished=0, frames=(), kept=None):
        self.finished = self.remembered = finished
        self.frames, self.kept = list(frames), kept

    def gaussians(self, first):
        return first if self.kept is None else self.kept

    @contextmanager
    def segment(self, index, segment):
        yield _Page(self, segment)


@pytest.fixture(scope="module")
def world():
    """A path along a wall with a second wall behind it, its frames, and a mask of one of them."""
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.avg_pool2d(torch.rand(3, H + 4, W + 4, generator=generator), 5, 1)
    K = torch.tensor([[40.0, 0, W / 2], [0, 40.0, H / 2], [0, 0, 1]])
    cameras = torch.eye(4).repeat(COUNT, 1, 1)
    cameras[:, 0, 3] = -0.25 * torch.arange(COUNT)
    near = gaussians_from_depth(image, torch.full((H, W), 3.0), K).gaussians
    behind = near._replace(means=near.means * 2, scales_log=near.scales_log + 0.7)
    inputs = pipeline.Inputs(image, K.expand(COUNT, 3, 3), cameras, concatenate(near, behind))
    record = _Record()
    final = pipeline.generate(inputs, PatchPrior(image), PLAN, record)
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[8:24, 34:44] = True
    return inputs, repaint.Before(final, record.frames, MASKED, mask)


def _repainted(world, seed=1, record=None):
    inputs, was = world
    plan = settings.make(**{**_flat(PLAN), "seed": seed})
    record = record or _Record()
    return repaint.repaint(inputs, PatchPrior(inputs.image), plan, record, was), record


def _flat(plan):
    groups = settings.to_json(plan).values()
    return {name: value for group in groups for name, value in group.items()}


@pytest.fixture(scope="module")
def painted(world):
    return _repainted(world)


def _gone(world):
    inputs, was = world
    return repaint.forgotten(was, inputs.K[MASKED], inputs.camera_from_world[MASKED])


def test_after_forgetting_the_masked_pixels_are_a_hole_and_others_are_not(world):
    inputs, was = world
    left = was.gaussians.select(~_gone(world))
    one = slice(MASKED, MASKED + 1)
    alpha = [
        rasterize(g, inputs.K[one], inputs.camera_from_world[one], W, H).alpha[0, ..., 0]
        for g in (was.gaussians, left)
    ]
    inner = was.mask.clone()
    inner[:9], inner[23:], inner[:, :35], inner[:, 43:] = False, False, False, False
    away = torch.nn.functional.max_pool2d(was.mask[None].float(), 7, 1, 3)[0] == 0
    assert alpha[0].min() > 0.9 and float(alpha[1][inner].mean()) < 0.2, "the wall behind went too"
    assert torch.allclose(alpha[0][away], alpha[1][away], atol=0.02)


def test_the_weights_are_those_that_the_rasteriser_blends_with(world):
    """Against each Gaussian as an extra channel of its own."""
    inputs, was = world
    few = was.gaussians.select(torch.arange(0, was.gaussians.count, 97))
    K, camera = inputs.K[MASKED], inputs.camera_from_world[MASKED]
    inside, everywhere = repaint._weights(few, K, camera, was.mask)
    drawn = rasterize(few, K[None], camera[None], W, H, extra=torch.eye(few.count)).extra[0]
    assert torch.allclose(inside, drawn[was.mask].sum(0), atol=1e-3)
    assert torch.allclose(everywhere, drawn.flatten(0, 1).sum(0), atol=1e-3)


def test_what_stays_is_the_same_to_the_bit_and_so_are_views_that_saw_nothing_of_it(world, painted):
    inputs, was = world
    after, record = painted
    left = was.gaussians.select(~_gone(world))
    assert after.count > left.count
    for now, before in zip(after, left, strict=True):
        assert torch.equal(now[: left.count], before)
    lost = torch.stack([repaint.lost(was, _gone(world), inputs, f) for f in range(COUNT)])
    assert not lost[0].any() and lost[MASKED].equal(was.mask) and lost[MASKED + 1].any()
    for f in range(COUNT):
        assert torch.equal(record.frames[f][:, ~lost[f]], was.frames[f][:, ~lost[f]]), f
    for f in range(COUNT):
        one = slice(f, f + 1)
        a, b = (
            draw_views(g, inputs.K[one], inputs.camera_from_world[one], inputs.image, PLAN).rgb[0]
            for g in (was.gaussians, after)
        )
        where = ~torch.nn.functional.max_pool2d(lost[f][None].float(), 5, 1, 2)[0].bool()
        was_db, now_db = (psnr(v, was.frames[f], where) for v in (a, b))
        assert now_db > was_db - 1.0, (f, was_db, now_db)


def test_another_seed_paints_something_else_and_the_same_seed_the_same(world, painted):
    _, was = world
    _, record = painted
    _, again = _repainted(world, seed=1)
    _, other = _repainted(world, seed=2)
    assert all(map(torch.equal, record.frames, again.frames))
    one, two, old = (frames[MASKED] for frames in (record.frames, other.frames, was.frames))
    assert psnr(one, two, was.mask) < 40 and psnr(one, old, was.mask) < 40


def test_a_repaint_that_is_broken_off_goes_on_to_the_same_bits(world, painted):
    whole, record = painted

    class Stopping(_Record):
        @contextmanager
        def segment(self, index, segment):
            if index == 2:
                raise KeyboardInterrupt
            yield _Page(self, segment)

    stopped = Stopping()
    with pytest.raises(KeyboardInterrupt):
        _repainted(world, record=stopped)
    resumed = _Record(2, stopped.frames, stopped.kept)
    final, _ = _repainted(world, record=resumed)
    assert all(map(torch.equal, final, whole)) and len(resumed.frames) == len(record.frames)


def test_what_is_still_is_drawn_but_not_moved(world):
    inputs, was = world
    still = torch.zeros(was.gaussians.count, dtype=torch.bool)
    still[::2] = True
    moved = refine(
        was.gaussians,
        torch.rand(COUNT, 3, H, W, generator=torch.Generator().manual_seed(1)),
        inputs.K,
        inputs.camera_from_world,
        steps=5,
        still=still,
    ).gaussians
    for now, before in zip(moved, was.gaussians, strict=True):
        assert torch.equal(now[still], before[still])
    assert not torch.equal(moved.sh_dc[~still], was.gaussians.sh_dc[~still])
    with pytest.raises(ValueError, match="densifies"):
        refine(
            was.gaussians,
            torch.rand(COUNT, 3, H, W),
            inputs.K,
            inputs.camera_from_world,
            recipe="paper",
            still=still,
        )
