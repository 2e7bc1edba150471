"""Which prior "auto" takes, among candidates: one rule, for the engine and for Blender's panel.

The engine knows the candidates (`models.choice`) and writes them down for the panel (`speeds`),
which knows neither models nor cards. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

LONG_S = 900  # a segment that takes longer is too long for "balanced"
REACHED = 0.175  # of a card's rate, by the three priors that were measured
_OFF = 1.7  # working width and a prior's trained width may differ by this factor


class Candidate(NamedTuple):
    """A prior, as far as it matters whether it is taken."""

    name: str
    here: bool  # its weights
    trained: tuple[int, int]  # (height, width) of what it was trained on; 0: any
    fixed_gib: float  # GPU memory that does not depend on the size
    least_gib: float  # GPU memory at the trained size
    most_frames: int  # at a time; 0: any number
    only_size: tuple[int, int] | None  # (width, height), if it works at no other
    commercial: bool  # all its weights may be used commercially
    sees_render: bool
    work: float  # 1e12 operations of a whole clip for each frame of a megapixel


class Wish(NamedTuple):
    """What a prior is asked for."""

    priority: str = "balanced"  # the setting of that name
    commercial: bool = False  # leave out what may not be used commercially without further ado
    size: tuple[int, int] | None = None  # (width, height) of the frames at work; None: as trained
    frames: int = 0  # at a time; 0: 25, or as many as a prior makes
    tera: float | None = None  # 1e12 operations a second of the card, if it is known


DEFAULT = Wish()


def suitable(candidates: Iterable[Candidate], free_gib: float, wish: Wish) -> list[Candidate]:
    """Those that fit `free_gib` of GPU memory and the wish, best first; `candidates` by rank.

    Priors trained at about the width at work come first. Among them "quality" goes by rank;
    "balanced" too, but whatever takes longer than LONG_S for a segment comes after it, the fastest
    first; "speed" takes the fastest of those that see the render, then the others.
    """
    fit = [
        c
        for c in candidates
        if needed_gib(c.trained[1], c.fixed_gib, c.least_gib, wish.size) <= free_gib
        and not 0 < c.most_frames < wish.frames
        and (c.commercial or not wish.commercial)
        and (wish.size is None or c.only_size in (None, wish.size))
    ]

    def order(c: Candidate) -> tuple[bool, ...]:
        needs_none = c.trained[1] == 0
        if wish.size is None:
            return (needs_none,)
        return needs_none, not near(c.trained[1], max(wish.size))

    def pace(c: Candidate) -> tuple[bool, float]:
        taken = segment_seconds(c, wish)
        if wish.priority == "speed":
            return not c.sees_render, taken
        late = wish.priority == "balanced" and wish.tera is not None and taken > LONG_S
        return late, taken if late else 0.0

    return sorted(fit, key=lambda c: (order(c), pace(c)))  # stable: the order within stays


def segment_seconds(c: Candidate, wish: Wish) -> float:
    """What a segment is reckoned to take, without refinement: on the card of the wish, else on one
    of 1e12 operations a second, for comparison alone.
    """
    size = wish.size or (c.trained[1], c.trained[0])
    frames = wish.frames or min(25, c.most_frames or 25)
    return clip_seconds(c.work, size, frames, wish.tera or 1.0)


def clip_seconds(work: float, size: tuple[int, int], frames: int, tera: float) -> float:
    """Seconds that a prior of this `work` is reckoned to take for a clip of `frames` frames of
    `size` (width, height) on a card of `tera` 1e12 operations a second.
    """
    return work * frames * size[0] * size[1] / 1e6 / (tera * REACHED)


def near(trained: int, longer: int) -> bool:
    """Whether a prior was trained at about this longer side."""
    return trained == 0 or 1.0 / _OFF <= longer / trained <= _OFF


def needed_gib(trained: int, fixed: float, least: float, size: tuple[int, int] | None) -> float:
    """GPU memory that a prior is taken to need at frames of `size` (width, height); None: as
    trained.
    """
    if size is None or trained == 0:
        return least
    share = size[0] * size[1] / (trained**2 * 9 / 16)
    return fixed + (least - fixed) * share
