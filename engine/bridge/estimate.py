"""How long a job takes and how much memory, before it starts; how far it is and how long yet, while
it runs.

A job is a start (models, first depth), its segments, and the results. Every part has a unit of work
that the settings tell, and a speed: seconds a unit, measured in the last job of this machine that
was alike (`speeds` remembers them), or from the table here, which was measured on two cores
without a graphics card.

    part      unit of work
    start     one
    generate  frames of the segment x megapixels x denoising steps
    refine    optimiser steps x megapixels
    segment   frames of the segment x megapixels      (renders, scaffold, measures, files)
    repair    frames of the path x megapixels         (a finisher, and what is learned of it)
    finish    frames of the path x megapixels         (film, report)
    refit     rounds x megapixels                     (scene.ply of a job that blends in linear
    light)
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from .segments import plan_segments
from .settings import SceneSettings

PARTS = ("start", "generate", "refine", "segment", "repair", "finish", "refit")
USUAL_STEPS = 24  # of the embedded prior
_CELL = 8  # what sides of frames divide by
_REFIT_VIEWS = 64  # cameras of a round
TABLE = {
    "start": 12.0,
    "generate": 0.15,
    "refine": 0.5,
    "segment": 1.6,
    "repair": 300.0,  # by its operations
    "finish": 2.7,
    "refit": 120.0,
}
MEMORY_GB = 0.95, 0.47  # of a job without frames, and for each frame of a megapixel in a segment
_AFTER = (("repair", 0), ("finish", 0), ("refit", 0))
_SEGMENT = re.compile(r"segment (\d+) of (\d+)(?:: (\w+))?")


class Work(NamedTuple):
    """How much a job has to do, in units of work."""

    frames: tuple[int, ...]  # of every segment
    path: int  # frames of the path
    megapixels: float  # of a frame
    steps: int  # denoising steps; 0 leaves them to the prior, -1: there are none
    refine_steps: int
    linear: bool
    device: str  # auto, cpu or cuda
    prior: str  # auto, or a name
    recipe: str  # of refinement
    priority: str = "balanced"  # what auto weighs
    finishes: bool = False
    size: tuple[int, int] | None = None  # (width, height) of a frame, about
    segment: int = 0  # frames that a segment may have
    commercial: bool = False  # only weights that may be used so

    def units(self, part: str, steps: int = USUAL_STEPS) -> list[float]:
        """Units of work of a part: one number for each segment, or one for the whole job."""
        if part == "generate":
            return [n * self.megapixels * max(self.steps or steps, 0) for n in self.frames]
        if part == "refine":
            return [self.refine_steps * self.megapixels for _ in self.frames]
        if part == "segment":
            return [n * self.megapixels for n in self.frames]
        if part == "repair":
            return [self.path * self.megapixels * self.finishes]
        if part == "finish":
            return [self.path * self.megapixels]
        if part == "refit":
            rounds = math.ceil(self.path / _REFIT_VIEWS) if self.linear else 0
            return [rounds * self.megapixels]
        return [1.0]


class Speeds(NamedTuple):
    """Seconds that a unit of every part takes, and what else the last job alike told."""

    seconds: Mapping[str, float]
    steps: int  # denoising steps of a prior that chooses them itself
    measured: bool  # here, not in a table
    memory_gb: float = 0.0  # peak of the last job; 0 where it is not known
    frames_mp: float = 0.0  # frames x megapixels of its longest segment
    memory_law: tuple[float, float] = MEMORY_GB
    source: str = "a guess before the first job here"
    note: str = ""  # what was wrong with the memory of earlier jobs


class Estimate(NamedTuple):
    """What a job will take."""

    seconds: float
    memory_gb: float  # main memory, or the card's where a card computes
    measured: bool
    source: str
    note: str

    def text(self) -> str:
        """One line for a person, e.g. "about 6 min and 1.2 GB, as the last job here went"."""
        note = f" ({self.note})" if self.note else ""
        memory = f"{self.memory_gb:.2g}" if self.memory_gb < 10 else f"{self.memory_gb:.0f}"
        return f"about {duration(self.seconds)} and {memory} GB, {self.source}{note}"


def work_of(settings: SceneSettings, count: int, aspect: float) -> Work:
    """Count the work of a job with a path of `count` frames, `frame_step` applied, and a picture of
    height / width `aspect`.

    Raises ValueError where there are no frames.
    """
    segments = plan_segments(count, settings.cameras.segment_length, settings.cameras.overlap)
    longer = settings.output.width
    sides = longer * min(1.0, 1.0 / aspect), longer * min(1.0, aspect)
    return Work(
        tuple(s.stop - s.start for s in segments),
        count,
        settings.output.width**2 * min(aspect, 1.0 / aspect) / 1e6,
        settings.video.steps if settings.enhances else -1,
        settings.refine.refine_steps,
        settings.output.blending == "linear",
        settings.output.device,
        settings.video.prior.strip(),
        settings.refine.recipe,
        settings.video.priority,
        settings.finishes,
        (_whole(sides[0]), _whole(sides[1])),
        settings.cameras.segment_length,
        settings.video.licences == "commercial",
    )


def _whole(side: float) -> int:
    return max(1, round(side / _CELL)) * _CELL


def predict(work: Work, speeds: Speeds | None, made: int = 0, known: int = 0) -> Estimate | None:
    """Expect the seconds and the memory of a job; None where nothing is known of jobs of this kind.

    The first `made` segments are there already; of them the first `known` need not be refined
    again.
    """
    if speeds is None:
        return None
    there = {"generate": made, "segment": made, "refine": known}
    seconds = sum(
        speeds.seconds.get(part, 0.0) * sum(work.units(part, speeds.steps)[there.get(part, 0) :])
        for part in PARTS
    )
    frames_mp = max(work.frames) * work.megapixels
    fixed, each = speeds.memory_law
    memory = fixed + each * frames_mp
    if speeds.memory_gb:
        memory = speeds.memory_gb + each * (frames_mp - speeds.frames_mp)
        memory = max(memory, speeds.memory_gb / 2)
    return Estimate(seconds, memory, speeds.measured, speeds.source, speeds.note)


def part_of(stage: str) -> tuple[str, int, int]:
    """Say to which part a stage belongs that the engine reports: (part, segment from 0, segments);
    0 segments outside of them.
    """
    found = _SEGMENT.match(stage)
    if found:
        part = {"render": "generate", None: "segment"}.get(found[3], found[3])
        return part if part in PARTS else "segment", int(found[1]) - 1, int(found[2])
    if stage == "repair":
        return "repair", 0, 0
    if stage in ("fly-through", "page", "done"):
        return "finish", 0, 0
    return ("refit" if stage.startswith("refit") else "start"), 0, 0


class Clock:
    """Where a job is in the whole of its work. Give it every report of the engine: `tell`."""

    def __init__(
        self,
        work: Work,
        speeds: Speeds | None,
        now_s: float | None = None,
        steps: int = USUAL_STEPS,
    ) -> None:
        """speeds None: nothing is known, so times are told only once a segment has been seen;
        `steps` are those of the prior then, where nobody asks for others.
        """
        self._known = speeds is not None
        rates = speeds or Speeds(TABLE, steps, False)
        self._steps = rates.steps
        self.work = work
        self._plan = [("start", 0), *_in_order(len(work.frames)), *_AFTER]
        self._expected = [
            rates.seconds.get(part, TABLE[part]) * work.units(part, rates.steps)[index]
            for part, index in self._plan
        ]
        self._place, self._within = 0, 0.0
        self._whole = True  # no part was skipped, as resumed jobs do
        self._latest_s = time.monotonic() if now_s is None else now_s
        self.spent = dict.fromkeys(PARTS, 0.0)  # seconds by part, in this run
        self._promised = dict.fromkeys(PARTS, 0.0)  # what was expected of the work that they did

    def tell(self, stage: str, done: int, total: int, now_s: float | None = None) -> None:
        """Take a report of the engine."""
        part, index, segments = part_of(stage)
        if segments and segments != len(self.work.frames):
            return  # another plan than ours: nothing true can be said
        now = time.monotonic() if now_s is None else now_s
        self.spent[self._plan[self._place][0]] += now - self._latest_s
        self._latest_s = now
        if stage == "done":
            self._move_to(len(self._plan) - 1, 1.0)
        elif part == "segment":  # "segment 2 of 3", 2 of 3: it is written
            self._move_to(self._plan.index((part, index)), float(done > 0))
        else:
            if part == "generate" and total > 1 and not self.work.steps:
                self._steps = total
            counts = total > 0 and part != "start" and not stage.endswith("render")
            share = done / total if counts else 0.0
            self._move_to(self._plan.index((part, index)), share)

    def _move_to(self, place: int, within: float) -> None:
        if within >= 1.0 and place + 1 < len(self._plan):
            place, within = place + 1, 0.0  # time goes to what comes next
        if (place, within) <= (self._place, self._within):
            return  # never back
        skipped = range(self._place + 1, place)
        if any(self._plan[i][0] == "segment" and self.spent["generate"] == 0 for i in skipped):
            self._whole = False
            skipped = range(0)
        self._promised[self._plan[self._place][0]] += (
            (within if place == self._place else 1.0) - self._within
        ) * self._expected[self._place]
        for i in skipped:
            self._promised[self._plan[i][0]] += self._expected[i]
        if place != self._place:
            self._promised[self._plan[place][0]] += within * self._expected[place]
        self._place, self._within = place, within

    @property
    def share(self) -> float:
        """Say how much of the whole is done, 0 to 1, in expected time."""
        done = sum(self._expected[: self._place]) + self._within * self._expected[self._place]
        whole = sum(self._expected)
        return min(done / whole, 1.0) if whole > 0 else 0.0

    def left_s(self) -> float | None:
        """Say how many seconds are left: what was expected, as much longer or shorter as it took so
        far. None while nobody knows.
        """
        seen = sum(self._promised.values())
        if not self._known and self._place < len(self._plan) // max(len(self.work.frames), 1):
            return None
        pace = sum(self.spent.values()) / seen if seen > 1.0 else 1.0
        left = 0.0
        for place in range(self._place, len(self._plan)):
            part = self._plan[place][0]
            rest = 1.0 - (self._within if place == self._place else 0.0)
            promised = self._promised[part]
            own = self.spent[part] / promised if promised > 1.0 else pace
            left += rest * self._expected[place] * own
        return left

    def speeds(self, memory_gb: float = 0.0) -> Speeds | None:
        """Return what this job taught about the machine, after its end; None where it was resumed,
        and before its end.
        """
        if self.share < 1.0 or not self._whole:
            return None
        done = {part: sum(self.work.units(part, self._steps)) for part in PARTS}
        seconds = {p: self.spent[p] / done[p] for p in PARTS if done[p] > 0 and self.spent[p] > 0}
        frames_mp = max(self.work.frames) * self.work.megapixels
        return Speeds(seconds, self._steps, True, memory_gb, frames_mp)


def _in_order(segments: int) -> list[tuple[str, int]]:
    return [(part, i) for i in range(segments) for part in ("generate", "refine", "segment")]


def duration(seconds: float) -> str:
    """Put a length of time into words, no finer than it can be known: 40 s, 6 min, 1 h 20 min, 3
    days.
    """
    if seconds < 55:
        return f"{max(5, round(seconds / 5) * 5)} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    rest = round(rest / 5) * 5
    if rest == 60:
        hours, rest = hours + 1, 0
    if hours >= 48:
        return f"{round(minutes / (24 * 60))} days"
    return f"{hours} h {rest} min" if rest and hours < 24 else f"{hours} h"
