"""The measures state what they say, and the findings fire on the failures they are named for."""

from __future__ import annotations

import pytest
import torch

from engine.job import frame_quality, report


def _frames(seed=0, n=4):
    return torch.rand(n, 3, 16, 24, generator=torch.Generator().manual_seed(seed))


def test_detail_of_a_blank_hole_is_near_zero_and_of_the_same_texture_one():
    frames, unknown = _frames(), torch.zeros(4, 16, 24, dtype=torch.bool)
    unknown[:, :, 12:] = True
    assert frame_quality.gradient_ratio(frames, unknown) == pytest.approx(1.0, abs=0.15)
    frames[:, :, :, 12:] = 0.5
    assert frame_quality.gradient_ratio(frames, unknown) < 0.01


def test_detail_is_judged_by_what_lies_around_the_hole():
    frames, unknown = _frames(), torch.zeros(4, 16, 24, dtype=torch.bool)
    frames[:, :, :, 12:] = (
        0.5 + 0.01 * frames[:, :, :, 12:]
    )  # a flat wall at the right of something busy
    unknown[:, :, 18:] = True
    assert frame_quality.gradient_ratio(frames, unknown) == pytest.approx(1.0, abs=0.25)


def test_detail_needs_both_known_and_unknown():
    assert frame_quality.gradient_ratio(_frames(), torch.ones(4, 16, 24, dtype=torch.bool)) is None


def test_seam_is_zero_for_frames_that_stay_and_large_for_a_jump():
    frames = _frames(n=6) * 0.05 + 0.5
    assert frame_quality.seam_ratio(frames[:2], frames) == 0.0
    assert frame_quality.seam_ratio(frames[:2] + 0.3, frames) > 5
    assert frame_quality.seam_ratio(frames[:0], frames) is None


def _segment(**changes):
    good = {
        "drift_psnr": 32.0,
        "unseen_detail": 0.7,
        "unknown_share": 0.2,
        "seam": 1.0,
        "losses": [0.1 / (1 + i) for i in range(100)],
    }
    return {**good, **changes}


def _bad(segments, input_psnr=30.0):
    return [f.name for f in report.findings(segments, input_psnr) if not f.ok]


def test_a_good_run_has_no_finding():
    assert _bad([_segment(), _segment()]) == []
    assert (
        report.verdict(report.findings([_segment()], 30.0))
        == "All measures are in their usual range."
    )


@pytest.mark.parametrize("segment", [_segment(), _segment(drift_psnr=15.0)], ids=["good", "bad"])
def test_a_guessed_depth_is_never_passed_over_in_silence(segment):
    said = report.verdict(report.findings([segment], 30.0), "The depth is a guess.")
    assert said.endswith("The depth is a guess.")
    assert said != "The depth is a guess."


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"drift_psnr": 15.0}, "Consistency drift"),
        ({"unseen_detail": 0.05}, "Blank or blurry unseen regions"),
        ({"losses": [0.1] * 100}, "Optimisation"),
        ({"seam": 6.0}, "Seams between segments"),
    ],
)
def test_each_failure_is_named_by_its_worst_segment_with_a_remedy(change, name):
    segments = [_segment(), _segment(**change)]
    assert _bad(segments) == [name]
    assert next(f for f in report.findings(segments, 30.0) if not f.ok).advice


def test_frames_that_disagree_are_named():
    found = [f for f in report.findings([_segment()], 30.0, 18.0) if not f.ok]
    assert (
        [f.name for f in found] == ["Frames that disagree"]
        and "18.0 dB" in found[0].measured
        and found[0].advice
    )
    assert all(f.ok for f in report.findings([_segment()], 30.0, 35.0))


def test_a_poor_input_view_is_named():
    assert _bad([_segment()], input_psnr=20.0) == ["Input view"]


def test_detail_is_not_judged_where_almost_nothing_was_invented():
    assert _bad([_segment(unseen_detail=0.0, unknown_share=0.001)]) == []
