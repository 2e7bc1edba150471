"""Long work in slices, so that Blender's window is never held for long. No bpy.

Such work is a generator: it does a little, yields a `Step` of what is done, and returns its result.
`session.pump` takes a slice at each call; scripts without a window `run` it to its end.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

SLICE_S = 0.02  # seconds that a slice may take; its last piece may run over

Result = TypeVar("Result")


class Step(NamedTuple):
    """Where sliced work stands."""

    stage: str
    done: int
    total: int


def run(steps: Generator[Any, None, Result]) -> Result:
    """The result of sliced work, all at once."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
