"""What is remembered of earlier jobs and reckoned of the card, and what is made of files that are
damaged or hostile.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.bridge import estimate, speeds
from engine.bridge.candidates import Candidate
from engine.bridge.estimate import TABLE, Clock, Speeds, Work
from engine.bridge.settings import make
from engine.bridge.speeds import Machine, Reckoned
from tests.unit.bridge.test_estimate import RATES, play

CARD = "NVIDIA GeForce RTX 4070"
SIZES = ((576, 1024), 4.0, 7.5, 25, None, True, True)
KNOWN = (  # the first by rank is too slow here for "balanced"
    Candidate("viewcrafter_25", True, *SIZES, 5000.0),
    Candidate("far_better", False, *SIZES, 1.0),
    Candidate("not_free", True, *SIZES, 3.0)._replace(commercial=False, most_frames=20),
    Candidate("wan_vace_1.3b", True, *SIZES, 10.0),
)
HERE = Machine(
    CARD,
    8.0,
    100.0,
    KNOWN,
    {"refine": 0.03, "start": 40.0},
    {
        "viewcrafter_25": Reckoned(0.5, 50, 4.0, 0.4),
        "wan_vace_1.3b": Reckoned(0.25, 50, 5.0, 0.2),
    },
)


def work(**values: object) -> Work:
    return estimate.work_of(make(**{"width": 1000, "blending": "linear", **values}), 40, 0.5)


def on_cpu(**values: object) -> Work:
    """As the engine knows it: the models settled."""
    return work(**{"device": "cpu", "prior": "patch", **values})


def seconds(job: Work, folder: Path) -> float:
    told = estimate.predict(job, speeds.speeds_for(job, folder))
    assert told is not None
    return told.seconds


def test_what_a_job_taught_predicts_the_next_of_another_size(tmp_path: Path) -> None:
    job = on_cpu()
    clock = Clock(job, None, 0.0)
    seen = play(clock, job, RATES, 33)
    assert seen[1][2] is None and seen[-1][2] is not None, "times are told once a segment was seen"
    speeds.keep(job, clock.speeds(2.5), "", tmp_path)
    other = work(width=1400, refine_steps=700, segment_length=13, overlap=4)
    told = speeds.speeds_for(other, tmp_path)
    assert told.measured and told.steps == 33
    expected = play(Clock(other, told, 0.0), other, RATES, 33)[-1][0]
    assert estimate.predict(other, told).seconds == pytest.approx(expected, rel=0.02)
    assert estimate.predict(work(width=1400), told).memory_gb > 2.5, "as many larger frames"
    assert "of another size" in estimate.predict(other, told).text()
    same = work()
    assert (
        "as the last job here" in estimate.predict(same, speeds.speeds_for(same, tmp_path)).text()
    )


def test_a_measured_pace_moves_the_next_guess_as_much(tmp_path: Path) -> None:
    job, before = on_cpu(), seconds(on_cpu(), tmp_path)
    for pace in (3.0, 0.5):
        slower = Speeds({part: pace * s for part, s in TABLE.items()}, 24, True)
        speeds.keep(job, slower, "", tmp_path)
        assert seconds(job, tmp_path) == pytest.approx(pace * before)


def test_the_job_most_alike_is_asked_and_not_the_newest_of_all(tmp_path: Path) -> None:
    for width, refine in ((400, 0.1), (1000, 0.2), (2000, 0.4)):
        speeds.keep(on_cpu(width=width), Speeds({"refine": refine}, 24, True), "", tmp_path)
    for width, refine in ((420, 0.1), (1100, 0.2), (3000, 0.4)):
        assert speeds.speeds_for(on_cpu(width=width), tmp_path).seconds["refine"] == refine
    speeds.keep(on_cpu(width=420), Speeds({"refine": 0.7}, 24, True), "", tmp_path)
    assert speeds.speeds_for(on_cpu(width=400), tmp_path).seconds["refine"] == 0.1
    paper = on_cpu(recipe="paper", width=420)
    speeds.keep(paper, Speeds({"refine": 0.9}, 24, True), "", tmp_path)
    assert speeds.speeds_for(on_cpu(recipe="paper"), tmp_path).seconds["refine"] == 0.9


def test_a_tiny_job_as_the_installers_says_nothing_of_real_ones(tmp_path: Path) -> None:
    speeds.keep(on_cpu(width=96), Speeds({"refine": 2000.0}, 24, True), "", tmp_path)
    assert not (tmp_path / speeds.HISTORY).exists()
    speeds.keep(on_cpu(width=240), Speeds({"refine": 9.0}, 24, True), "", tmp_path)
    assert speeds.speeds_for(on_cpu(width=400), tmp_path).measured
    assert not speeds.speeds_for(on_cpu(width=1600), tmp_path).measured


def test_another_machine_or_card_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds.keep_machine(HERE, tmp_path)
    job = work(device="cuda", prior="viewcrafter_25")
    speeds.keep(job, Speeds({"generate": 9.0}, 50, True), "NVIDIA T4", tmp_path)
    assert not speeds.speeds_for(job, tmp_path).measured
    speeds.keep(job, Speeds({"generate": 0.7}, 50, True), CARD, tmp_path)
    assert speeds.speeds_for(job, tmp_path).seconds["generate"] == 0.7
    monkeypatch.setattr(speeds, "machine_name", lambda: "another")
    assert speeds.history(tmp_path) == ([], "") and speeds.machine(tmp_path) is None
    assert speeds.speeds_for(job, tmp_path) is None


def test_a_card_is_reckoned_before_its_first_job_and_says_so(tmp_path: Path) -> None:
    speeds.keep_machine(HERE, tmp_path)
    assert speeds.machine(tmp_path) == HERE
    job = work(device="cuda", prior="viewcrafter_25")
    told = estimate.predict(job, speeds.speeds_for(job, tmp_path))
    assert "reckoned for NVIDIA GeForce RTX 4070, not measured" in told.text()
    assert told.memory_gb == pytest.approx(4.0 + 0.4 * max(job.frames) * job.megapixels)
    auto = work()  # what the panel has: auto and auto
    assert seconds(auto, tmp_path) == pytest.approx(
        seconds(work(device="cuda", prior="wan_vace_1.3b"), tmp_path)
    )
    best = work(priority="quality")
    assert seconds(best, tmp_path) == pytest.approx(
        seconds(work(device="cuda", prior="viewcrafter_25"), tmp_path)
    )
    crowded = HERE._replace(free_gib=3.0)
    speeds.keep_machine(crowded, tmp_path)
    assert speeds.speeds_for(work(), tmp_path) is None  # nothing fits
    speeds.keep_machine(HERE, tmp_path)
    assert seconds(work(device="cpu"), tmp_path) == pytest.approx(seconds(on_cpu(), tmp_path))
    assert speeds.speeds_for(work(device="cuda", prior="nobody"), tmp_path) is None


def test_what_one_prior_took_corrects_the_guess_for_another(tmp_path: Path) -> None:
    speeds.keep_machine(HERE, tmp_path)
    ran, other = (work(device="cuda", prior=p) for p in ("viewcrafter_25", "wan_vace_1.3b"))
    speeds.keep(ran, Speeds({"generate": 1.5, "refine": 0.06}, 50, True), CARD, tmp_path)
    told = speeds.speeds_for(other, tmp_path)
    assert told.seconds["generate"] == pytest.approx(0.25 * 1.5 / 0.5)
    assert told.seconds["refine"] == 0.06 and not told.measured and "viewcrafter_25" in told.source


@pytest.mark.parametrize("prior", ["patch", "none"])
def test_what_needs_no_weights_has_a_price_beside_a_card_too(tmp_path: Path, prior: str) -> None:
    """As after every installation: a card, and no weights yet."""
    here = HERE._replace(priors={**HERE.priors, "patch": Reckoned(0.15, 24, 0.6, 0.06)})
    speeds.keep_machine(here, tmp_path)
    job = work(device="cuda", prior=prior)
    told = estimate.predict(job, speeds.speeds_for(job, tmp_path))
    assert "reckoned for NVIDIA GeForce RTX 4070" in told.text()
    assert told.seconds < seconds(on_cpu(), tmp_path), "the card draws"
    assert told.memory_gb == pytest.approx(0.6 + 0.06 * max(job.frames) * job.megapixels)


def test_a_job_says_nothing_of_parts_that_it_did_not_have(tmp_path: Path) -> None:
    """The table for them is the CPU's: a finisher on a card would be told hours."""
    here = HERE._replace(parts={**HERE.parts, "repair": 2.0, "refit": 9.0})
    speeds.keep_machine(here, tmp_path)
    lean = work(device="cuda", prior="viewcrafter_25", blending="display")
    for more in ({"finisher": "difix"}, {"blending": "linear"}):
        rich = work(**{"device": "cuda", "prior": "viewcrafter_25", "blending": "display", **more})
        before = seconds(rich, tmp_path) - seconds(lean, tmp_path)
        taught = Speeds({"start": 40.0, "generate": 0.5, "refine": 0.03}, 50, True)
        speeds.keep(lean, taught, CARD, tmp_path)
        after = seconds(rich, tmp_path) - seconds(lean, tmp_path)
        assert after == pytest.approx(before), more


def test_the_cpu_and_the_card_do_not_correct_each_other(tmp_path: Path) -> None:
    """The embedded prior computes on the CPU beside a card too."""
    here = HERE._replace(priors={**HERE.priors, "patch": Reckoned(0.15, 24, 0.6, 0.06)})
    speeds.keep_machine(here, tmp_path)
    patch, network = (work(device="cuda", prior=p) for p in ("patch", "viewcrafter_25"))
    before = speeds.speeds_for(network, tmp_path).seconds
    ran = Speeds({"start": 5.0, "generate": 0.02, "refine": 0.06}, 24, True)
    speeds.keep(patch, ran, CARD, tmp_path)
    after = speeds.speeds_for(network, tmp_path).seconds
    assert after["generate"] == before["generate"] and after["start"] == before["start"]
    assert after["refine"] == 0.06


def test_a_job_of_quite_another_size_is_not_said_to_be_of_another_prior(tmp_path: Path) -> None:
    speeds.keep_machine(HERE, tmp_path)
    small, large = (work(device="cuda", prior="viewcrafter_25", width=w) for w in (240, 2400))
    speeds.keep(small, Speeds({"generate": 1.0}, 50, True), CARD, tmp_path)
    assert "another size" in speeds.speeds_for(large, tmp_path).source


def test_the_memory_of_jobs_has_an_end(tmp_path: Path) -> None:
    for width in range(400, 600):
        speeds.keep(on_cpu(width=width), Speeds(RATES, 20, True), "", tmp_path)
    assert len(speeds.history(tmp_path)[0]) == 64
    assert (tmp_path / speeds.HISTORY).stat().st_size < 100_000
    assert os.listdir(tmp_path) == [speeds.HISTORY], "no partial file stays"


GOOD = {
    "machine": speeds.machine_name(),
    "device": "cpu",
    "card": "",
    "prior": "patch",
    "recipe": "few_views",
    "megapixels": 0.5,
    "seconds": {"refine": 0.25},
    "steps": 20,
    "memory_gb": 1.0,
    "frames_mp": 5.0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": {"x": 1}},
        {"seconds": {"refine": float("nan")}},
        {"seconds": {"refine": float("inf")}},
        {"seconds": {"refine": -1.0}},
        {"seconds": {"refine": 1e300}},
        {"seconds": {"refine": "0.5"}},
        {"seconds": {"refine": True}},
        {"seconds": {"refine": 10**400}},
        {"seconds": [1, 2]},
        {"seconds": None},
        {"megapixels": 0},
        {"megapixels": [1]},
        {"steps": 1e9},
        {"steps": None},
        {"memory_gb": -1},
        {"machine": 7},
        {"prior": "x" * 10_000},
        {"card": "a\u202eb\n"},
    ],
)
def test_a_damaged_record_is_left_out_with_a_word_and_the_others_count(
    tmp_path: Path, change: dict
) -> None:
    text = json.dumps({"records": [GOOD, {**GOOD, **change}]})
    (tmp_path / speeds.HISTORY).write_text(text)
    told = speeds.speeds_for(on_cpu(), tmp_path)
    assert told.measured and told.seconds["refine"] == 0.25
    assert "ignored" in estimate.predict(on_cpu(), told).text()
    speeds.keep(on_cpu(), Speeds(RATES, 20, True), "", tmp_path)
    assert speeds.history(tmp_path)[1] == "", "the next job mends it"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"records": 7}',
        b'{"records": {"a": 1}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"records": [' + b" " * (2 << 20) + b"]}",
        b'{"records": [7, null, "x", [[]]]}',
    ],
    ids=lambda content: content[:12],
)
def test_a_hostile_file_is_ignored_with_a_word(tmp_path: Path, content: bytes) -> None:
    for name in (speeds.HISTORY, speeds.MACHINE):
        (tmp_path / name).write_bytes(content)
    told = speeds.speeds_for(on_cpu(), tmp_path)
    assert not told.measured and told.seconds == TABLE
    assert "ignored" in estimate.predict(on_cpu(), told).text()
    assert speeds.speeds_for(work(prior="viewcrafter_25"), tmp_path) is None
    speeds.keep(on_cpu(), Speeds(RATES, 20, True), "", tmp_path)
    assert speeds.speeds_for(on_cpu(), tmp_path).measured


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_a_pipe_in_place_of_the_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / speeds.HISTORY)
    assert "ignored" in speeds.history(tmp_path)[1]


def test_what_version_1_kept_is_no_error(tmp_path: Path) -> None:
    old = {"auto auto": {"seconds": {"refine": 0.5}, "steps": 24, "measured": True}}
    (tmp_path / speeds.HISTORY).write_text(json.dumps(old))
    assert speeds.history(tmp_path) == ([], "")
