"""The interface of a finisher: repaired frames from rendered ones, each in one step.

A finisher is no video prior: it has no noise levels that momentum could act on, and it invents
nothing for holes. It takes blur, needles and floaters out of what is there.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Finisher(Protocol):
    name: str
    licence: str  # of its weights, one line

    def finish(self, frames: Tensor, reference: Tensor) -> Tensor:
        """Renders [f, 3, h, w] of the scene and the user's picture [3, h, w], all display-referred
        in [0, 1] -> the repaired frames, the same shape and range, on the frames' device.

        Deterministic, and each frame as if it were alone. h and w divide by 8. Raises UserError
        where memory does not suffice.
        """

    def rest(self) -> None:
        """Give back memory between its turns."""
