"""The paper's loop as a whole, with the embedded prior on a few small frames."""

from __future__ import annotations

import weakref
from contextlib import contextmanager

import pytest
import torch

from engine.bridge import settings
from engine.geometry.layers import gaussians_from_depth
from engine.method import pipeline
from engine.priors.patch.prior import PatchPrior

H, W, COUNT = 32, 48, 10


class _Page:
    def __init__(self, record, segment):
        self.record, self.segment = record, segment

    @contextmanager
    def stage(self, name):
        self.record.stages.append((name, [ref for ref in self.record.clips if ref() is not None]))
        yield lambda done, total: None

    def rendered(self, views):
        self.record.clips += [weakref.ref(map_) for map_ in views]

    def enhanced(self, enhanced):
        self.record.clips += [weakref.ref(clip) for clip in enhanced[1:]]
        self.record.frames = self.record.frames[: self.segment.start] + list(
            enhanced.frames.clone()
        )

    def refined(self, refined, after):
        self.record.clips += [weakref.ref(map_) for map_ in after]


class _Record:
    """Keeps the frames, and knows which clips of the segments are still held."""

    def __init__(self):
        self.finished, self.remembered = 0, 0
        self.frames, self.clips, self.stages = [], [], []

    def gaussians(self, first):
        return first

    @contextmanager
    def segment(self, index, segment):
        yield _Page(self, segment)


@pytest.fixture(scope="module")
def ran():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, H, W, generator=generator)
    K = torch.tensor([[40.0, 0, W / 2], [0, 40.0, H / 2], [0, 0, 1]])
    cameras = torch.eye(4).repeat(COUNT, 1, 1)
    cameras[:, 0, 3] = -0.1 * torch.arange(COUNT)
    plan = settings.make(
        "standard", prior="patch", steps=2, refine_steps=2, segment_length=4, overlap=1
    )
    first = gaussians_from_depth(image, torch.full((H, W), 3.0), K).gaussians
    inputs = pipeline.Inputs(image, K.expand(COUNT, 3, 3), cameras, first)
    record = _Record()
    return pipeline.generate(inputs, PatchPrior(image), plan, record), record, inputs


def test_every_frame_is_made_and_the_first_is_the_picture(ran):
    final, record, inputs = ran
    assert len(record.frames) == COUNT
    assert torch.equal(record.frames[0], (inputs.image * 255.0).round() / 255.0)
    assert final.count > inputs.gaussians.count


def test_no_clip_of_a_segment_is_held_when_the_next_begins_nor_while_it_is_refined(ran):
    """Clips are most of a job's memory. At 7f06cef those of two segments were held at once."""
    _, record, _ = ran
    assert [name for name, _ in record.stages] == ["render", "generate", "refine"] * 3
    assert [len(held) for name, held in record.stages if name == "render"] == [0, 0, 0]
    assert [len(held) for name, held in record.stages if name == "refine"] == [0, 0, 0]
