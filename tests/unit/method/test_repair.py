"""The last refinement: what the picture and the repaired frames get of its steps."""

from __future__ import annotations

import pytest
import torch

from engine.method import repair
from engine.method.refine import frame_schedule


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("count", [2, 7])
def test_the_repaired_frames_get_their_weight_of_the_steps_evenly(count: int, weight: float):
    shares = repair.shares(count, weight)
    assert shares.shape == (count,) and float(shares.sum()) == pytest.approx(1.0)
    seen = torch.bincount(torch.tensor(frame_schedule(shares, 600, 0, True)), minlength=count)
    assert int(seen[1:].sum()) == pytest.approx(600 * weight, abs=count)
    assert int(seen[1:].max() - seen[1:].min()) <= 2


def test_a_path_of_the_picture_alone_has_nothing_else_to_learn():
    assert repair.shares(1, 0.3).tolist() == [1.0]
