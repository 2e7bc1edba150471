"""What runs now, in one place: the job, a side job for the splats, an installation. The panel and
the status bar show it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import bpy

from ...engine.bridge.estimate import duration
from ..jobs import delivery
from ..jobs.session import Phase
from ..jobs.side_job_operator import side_job
from . import engine_setup

SAID_FOR_S = 60.0  # the status bar tells how a job ended for as long
_STATUS_LETTERS = 80


class Running(NamedTuple):
    """One thing under way."""

    title: str
    factor: float  # 0 to 1
    text: str  # beside the title
    cancel: str  # operator that stops it, empty while it is stopping


def job() -> Running | None:
    """The job at hand."""
    status = delivery.session.status
    if not status.busy:
        return None
    left = status.remaining_s()
    if status.phase is Phase.RUNNING and (status.clock is not None or status.total > 0):
        text = f"{status.factor:.0%}" + (f", {duration(left)} left" if left is not None else "")
    else:
        text = status.text or status.stage
    cancel = "" if status.phase is Phase.CANCELLING else "scene_splatter.cancel"
    return Running("Scene Splatter", status.factor, text, cancel)


def side_jobs() -> list[Running]:
    """Everything else that runs: export, import, proxy, passes, installation, downloads."""
    found = []
    if side_job.running:
        found.append(
            Running(
                side_job.title,
                side_job.factor,
                side_job.stage,
                "scene_splatter.cancel_side_job",
            )
        )
    found += [
        Running(task.title, task.factor, task.text, "scene_splatter.cancel_install")
        for task in engine_setup.tasks.values()
        if task.running
    ]
    return found


def draw_running(layout: bpy.types.UILayout, running: Running) -> None:
    """A bar with its title, and Cancel."""
    row = layout.row(align=True)
    row.progress(factor=min(max(running.factor, 0.0), 1.0), text=f"{running.title}: {running.text}")
    if running.cancel:
        row.operator(running.cancel, text="", icon="X")


def ended() -> tuple[str, str]:
    """(icon, words) on the job that has just ended, for those who look elsewhere; empty after a
    while.
    """
    status = delivery.session.status
    if status.busy or not status.ended_s or time.monotonic() - status.ended_s > SAID_FOR_S:
        return "NONE", ""
    if status.problem is not None:
        return "ERROR", status.problem.message
    return "CHECKMARK", status.outcome


def units_for(text: str) -> float:
    """Width of a label in Blender's units, in which no letter of `text` is cut: the status bar
    gives the rest of its width to other things first.
    """
    return 2.0 + 0.4 * len(text)


def in_one_line(words: str) -> str:
    """Words for the status bar: the first sentence, and no more than it has room for; the panel has
    the rest.
    """
    first = words.split(". ")[0]
    return first if len(first) <= _STATUS_LETTERS else f"{first[: _STATUS_LETTERS - 1]}\u2026"


def _draw_status_bar(self: bpy.types.Header, _context: bpy.types.Context) -> None:
    at_hand = job()
    for running in [*([at_hand] if at_hand else []), *side_jobs()]:
        row = self.layout.row()
        row.ui_units_x = units_for(f"{running.title}: {running.text}")
        draw_running(row, running)
    icon, words = ended()
    if words:
        text = f"Scene Splatter: {in_one_line(words)}"
        row = self.layout.row()
        row.ui_units_x = units_for(text)
        row.label(text=text, icon=icon)


def register() -> None:
    """Add to the status bar."""
    bpy.types.STATUSBAR_HT_header.append(_draw_status_bar)


def unregister() -> None:
    """Take it out."""
    bpy.types.STATUSBAR_HT_header.remove(_draw_status_bar)
