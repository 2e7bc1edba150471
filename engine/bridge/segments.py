"""The segments a camera path is generated in: Scene Splatter (arXiv 2504.02764), sections 3 and 4.

here       there   meaning
m          M       frames of the path
n_frames   N       frames generated together
overlap    n       frames a segment shares with the one before
segments   h       ceil((M - N) / (N - n)) + 1 of them
"""

from __future__ import annotations

import math
from typing import NamedTuple

ASPECT_TOLERANCE = 0.02  # of a path's picture size against the picture's


class Segment(NamedTuple):
    """Frames start..stop-1 are generated together; those from `new` on are in no earlier segment."""

    start: int
    stop: int
    new: int


def plan_segments(m: int, n_frames: int, overlap: int) -> list[Segment]:
    """The paper's windows over m frames: every N - n frames one of N frames.

    The last window is padded backwards so that it has N frames too; a path shorter than N is
    one window. Each segment has at least one new frame.
    """
    if m < 1 or n_frames < 1 or not 0 <= overlap < n_frames:
        raise ValueError(
            f"expected m >= 1 and 0 <= overlap < n_frames, got m {m}, n_frames {n_frames}, overlap {overlap}"
        )
    count = max(0, math.ceil((m - n_frames) / (n_frames - overlap))) + 1
    segments: list[Segment] = []
    for i in range(count):
        start = max(0, min(i * (n_frames - overlap), m - n_frames))
        segments.append(
            Segment(start, min(start + n_frames, m), segments[-1].stop if segments else 0)
        )
    return segments
