"""How long a job takes: the whole is the sum of its parts, and a job that was measured is
predicted as it went.
"""

from __future__ import annotations

import itertools

import pytest

from engine.bridge import estimate
from engine.bridge.estimate import Clock, Speeds, Work
from engine.bridge.settings import make

RATES = {
    "start": 9.0,
    "generate": 0.3,
    "refine": 0.1,
    "segment": 2.0,
    "repair": 5.0,
    "finish": 1.5,
    "refit": 30.0,
}


REPAIR = {"finisher": "difix_ref"}


def work(**values: object) -> Work:
    return estimate.work_of(make(**{"width": 1000, "blending": "linear", **values}), 40, 0.5)


def play(
    clock: Clock, job: Work, rates: dict[str, float], steps: int, first: int = 0
) -> list[tuple]:
    """Tell a clock what the engine of a machine with these speeds reports; (seconds, share,
    left) at every report.
    """
    now, seen = 0.0, []

    def tell(stage: str, done: int, total: int) -> None:
        clock.tell(stage, done, total, now)
        seen.append((now, clock.share, clock.left_s()))

    tell("starting", 0, 1)
    now += rates["start"]
    count = len(job.frames)
    for i in range(first, count):
        name = f"segment {i + 1} of {count}"
        tell(f"{name}: render", 1, 1)
        for step in range(steps + 1):
            tell(f"{name}: generate", step, steps)
            now += rates["generate"] * job.units("generate", steps)[i] / steps * (step < steps)
        tell(f"{name}: generate", 1, 1)
        for step in range(0, job.refine_steps + 1, 50):
            tell(f"{name}: refine", step, job.refine_steps)
            now += rates["refine"] * 50 * job.megapixels * (step < job.refine_steps)
        now += rates["segment"] * job.units("segment")[i]
        tell(name, i + 1, count)
    for frame in range(job.path * job.finishes):
        tell("repair", frame, job.path)
        now += rates["repair"] * job.megapixels
    for frame in range(job.path):
        tell("fly-through", frame, job.path)
        now += rates["finish"] * job.megapixels
    if job.linear:
        tell("refit for display blending", 0, 200)
        now += rates["refit"] * job.units("refit")[0]
        tell("refit for display blending", 200, 200)
    tell("done", 1, 1)
    return seen


@pytest.mark.parametrize("finisher", ["none", "difix"])
def test_a_job_as_it_was_predicted_ends_when_it_was_said(finisher: str) -> None:
    job, speeds = work(finisher=finisher), Speeds(RATES, 20, True)
    seen = play(Clock(job, speeds, 0.0), job, RATES, 20)
    whole = seen[-1][0]
    assert estimate.predict(job, speeds).seconds == pytest.approx(whole)
    assert [share for _, share, _ in seen] == sorted(share for _, share, _ in seen)
    assert seen[-1][1] == 1.0 and seen[-1][2] == pytest.approx(0.0, abs=1e-9)
    for now, share, left in seen:
        assert left == pytest.approx(whole - now, abs=0.08 * whole), (now, share)


@pytest.mark.parametrize("pace", [0.25, 6.0])
def test_a_machine_that_is_faster_or_slower_is_found_out_on_the_way(pace: float) -> None:
    job = work()
    here = {part: pace * rate for part, rate in RATES.items()}
    seen = play(Clock(job, Speeds(RATES, 20, False), 0.0), job, here, 20)
    whole = seen[-1][0]
    for now, share, left in seen:
        if share > 0.25:
            assert left == pytest.approx(whole - now, abs=0.1 * whole), (now, share)


def test_a_resumed_job_counts_what_is_done_and_teaches_nothing() -> None:
    job = work(segment_length=13, overlap=4)
    clock = Clock(job, Speeds(RATES, 20, True), 0.0)
    seen = play(clock, job, RATES, 20, first=2)
    assert seen[1][1] > 0.3 and clock.speeds() is None
    for now, _, left in seen[1:]:
        assert left == pytest.approx(seen[-1][0] - now, abs=0.1 * seen[-1][0])


def test_twice_the_frames_take_about_twice_the_time() -> None:
    speeds = Speeds(RATES, 20, True)
    values = make(width=1000, overlap=4, segment_length=13)
    seconds = [
        estimate.predict(estimate.work_of(values, count, 0.5), speeds).seconds
        for count in (40, 80, 160)
    ]
    for shorter, longer in itertools.pairwise(seconds):
        assert 1.8 < longer / shorter < 2.2


def test_settings_that_cost_more_take_longer() -> None:
    speeds = Speeds(RATES, 20, True)
    usual = estimate.predict(work(), speeds).seconds
    for change in ({"width": 2000}, {"refine_steps": 900}, {"steps": 60}, {"overlap": 24}, REPAIR):
        assert estimate.predict(work(**change), speeds).seconds > usual, change
    for change in ({"prior": "none"}, {"blending": "display"}):
        assert estimate.predict(work(**change), speeds).seconds < usual, change


@pytest.mark.parametrize(
    ("gb", "text"),
    [(0.53, "0.53 GB"), (8.06, "8.1 GB"), (9.97, "10 GB"), (12.4, "12 GB"), (131.0, "131 GB")],
)
def test_memory_in_words(gb: float, text: str) -> None:
    told = estimate.Estimate(60.0, gb, True, "as it went", "")
    assert told.text() == f"about 1 min and {text}, as it went"


def test_the_steps_that_were_asked_for_once_are_not_those_of_the_prior() -> None:
    """A job of 10 steps teaches what a step takes; the next may leave their number to the prior."""
    few = work(prior="viewcrafter_25", steps=10)
    clock = Clock(few, None, 0.0, 50)
    play(clock, few, RATES, 10)
    taught = clock.speeds()
    assert taught is not None and taught.steps == 50
    assert taught.seconds["generate"] == pytest.approx(RATES["generate"])
    whole = work(prior="viewcrafter_25")
    expected = play(Clock(whole, None, 0.0, 50), whole, RATES, 50)[-1][0]
    assert estimate.predict(whole, taught).seconds == pytest.approx(expected)


def test_nothing_is_said_of_what_nobody_knows() -> None:
    assert estimate.predict(work(prior="wan_vace_1_3b"), None) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "5 s"),
        (3, "5 s"),
        (42, "40 s"),
        (54.9, "55 s"),
        (58, "1 min"),
        (389, "6 min"),
        (3599, "1 h"),
        (3700, "1 h"),
        (4900, "1 h 20 min"),
        (7199, "2 h"),
        (25.4 * 3600, "25 h"),
        (600 * 3600, "25 days"),
    ],
)
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert estimate.duration(seconds) == text
