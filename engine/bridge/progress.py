"""The callback by which work tells how far it is, and learns that it is to stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Report(Protocol):
    """Told at every step of long work; raises `Cancelled` when the work is to stop."""

    def __call__(
        self, stage: str, done: int, total: int, text: str = "", preview: Path | None = None
    ) -> None:
        """`done` of `total` steps of `stage`; `text` for people, `preview` a picture file."""


StepReport = Callable[[int, int], None]  # (done, total) within one stage; may raise to stop
