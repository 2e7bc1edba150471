"""The segments a camera path is generated in: Scene Splatter (arXiv 2504.02764), sections 3 and 4.

here       there   meaning
m          M       frames of the path
n_frames   N       frames generated together
overlap    n       frames a segment shares with the one before
segments   h       ceil((M - N) / (N - n)) + 1 of them; one fewer where the last would have less
than n / 2 new frames
"""

from __future__ import annotations

from typing import NamedTuple

ASPECT_TOLERANCE = 0.02  # of a path's picture size against the picture's


class Segment(NamedTuple):
    """Frames start..stop-1 are generated together; those from `new` on are in no earlier
    segment.
    """

    start: int
    stop: int
    new: int


def kept_frames(m: int, step: int) -> list[int]:
    """Frames 0, step, 2 step ... of m, and always the last: a path ends where its user ended it."""
    if step < 1:
        raise ValueError(f"step: expected at least 1, got {step}")
    frames = list(range(0, m, step))
    return frames if not frames or frames[-1] == m - 1 else [*frames, m - 1]


def plan_segments(m: int, n_frames: int, overlap: int) -> list[Segment]:
    """Windows of N frames over m, evenly spread from the first frame to the last.

    Where m frames fit the paper's N and n, its windows: every N - n frames one. Else all share the
    difference: they overlap by more than n, or, where a last segment would have less than n / 2 new
    frames of its own, by less. A path shorter than N is one window. Each segment has new frames.
    """
    if m < 1 or n_frames < 1 or not 0 <= overlap < n_frames:
        raise ValueError(
            f"expected m >= 1 and 0 <= overlap < n_frames, got m {m}, n_frames {n_frames}, "
            f"overlap {overlap}"
        )
    rest, step = max(0, m - n_frames), n_frames - overlap
    more, tail = divmod(rest, step)  # segments after the first, and what is left
    if tail and (more == 0 or 2 * tail >= overlap):
        more += 1
    starts = [rest * i // more if more else 0 for i in range(more + 1)]
    segments: list[Segment] = []
    for start in starts:
        new = segments[-1].stop if segments else 0
        segments.append(Segment(start, min(start + n_frames, m), new))
    return segments
