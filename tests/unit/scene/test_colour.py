"""Frames brought back to the colours of a render: what is shared decides, what is invented
follows.
"""

from __future__ import annotations

import pytest
import torch

from engine.scene.colour import match_colours


def _clip(frames: int = 2, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(frames, 3, 24, 32, generator=torch.Generator().manual_seed(seed))
    return 0.25 + 0.5 * noise


def test_equal_frames_stay_as_they_are() -> None:
    clip = _clip()
    torch.testing.assert_close(
        match_colours(clip, clip, torch.ones(2, 24, 32, dtype=torch.bool)), clip, atol=1e-6, rtol=0
    )


def test_a_cast_is_taken_off_from_what_is_shared_also_where_nothing_is() -> None:
    truth = _clip()
    cast = (
        truth * torch.tensor([0.9, 1.0, 1.08])[:, None, None]
        + torch.tensor([0.05, -0.02, 0.0])[:, None, None]
    )
    where = torch.zeros(2, 24, 32, dtype=torch.bool)
    where[:, :, :12] = True
    reference = torch.where(where[:, None], truth, torch.zeros(()))
    # gains are shrunk a little towards 1, so that a flat frame cannot blow up
    torch.testing.assert_close(match_colours(cast, reference, where), truth, atol=0.01, rtol=0)


def test_what_is_not_shared_has_no_say() -> None:
    clip, reference = _clip(), _clip(seed=1)
    where = torch.zeros(2, 24, 32, dtype=torch.bool)
    where[:, 4:20, 4:20] = True
    other = torch.where(where[:, None], reference, 1.0 - reference)
    assert torch.equal(match_colours(clip, reference, where), match_colours(clip, other, where))


@pytest.mark.parametrize("shared", [0, 30])
def test_frames_that_share_almost_nothing_are_left_alone(shared: int) -> None:
    clip = _clip()
    where = torch.zeros(2, 24, 32, dtype=torch.bool)
    where[:, 0, :shared] = True
    assert torch.equal(match_colours(clip, _clip(seed=1), where), clip)


def test_a_flat_frame_is_not_stretched() -> None:
    flat = torch.full((1, 3, 24, 32), 0.4)
    flat[0, :, ::2] += 0.001
    matched = match_colours(flat, _clip(1), torch.ones(1, 24, 32, dtype=torch.bool))
    assert (
        float(matched.std()) < 0.02 and abs(float(matched.mean()) - float(_clip(1).mean())) < 0.01
    )
