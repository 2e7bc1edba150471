"""What goes wrong while a job runs: cancelling, a crash of the engine, undo, a second Blender,
another file, a crash of Blender.

Ends with Blender killed in mid job; story_return.py goes on from there.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy
from stage import (
    BLEND,
    HERE,
    addon,
    in_view,
    main_thread_table,
    make_scene,
    report,
    show_sidebar,
    until,
    watch_main_thread,
    wish,
)

CANCEL_S = 2.0
PUMP_S = 0.2  # the timer's own distance, twice


def session() -> Any:
    """The add-on's session."""
    return addon("jobs.delivery").session


def press(name: str) -> None:
    """A button of the panel."""
    with in_view():
        getattr(bpy.ops.scene_splatter, name)("INVOKE_DEFAULT")


def until_refining() -> Iterator[float]:
    """The first segment is being refined."""
    yield from until(
        lambda: (
            ("refine" in session().status.stage and session().status.done > 3)
            or not session().status.busy
        ),
        "refinement",
    )
    assert session().status.busy, session().status


def until_over() -> Iterator[float]:
    """The job ended, one way or another."""
    yield from until(lambda: not session().status.busy, "the end of the job")


def story() -> Iterator[float]:
    """Yields the seconds to wait before the next step."""
    yield 2.0
    make_scene()
    watch_main_thread()
    yield from show_sidebar()
    for chapter in (cancel, engine_crash, undo, second_blender, another_file, blender_crash):
        yield from chapter()
        report.setdefault("chapters", []).append(chapter.__name__)


def cancel() -> Iterator[float]:
    """Cancelled within two seconds; Resume is offered."""
    press("generate")
    yield from until_refining()
    began = time.monotonic()
    press("cancel")
    yield from until_over()
    taken = time.monotonic() - began
    report["cancel_s"] = round(taken, 2)
    assert taken < CANCEL_S + PUMP_S, f"cancelling took {taken:.1f} s"
    assert session().status.problem is None and "Cancelled" in session().status.outcome, (
        session().status
    )
    waiting = addon("jobs.delivery").waiting_job(bpy.context.scene)
    assert waiting is not None and not waiting.finished
    yield 0.5
    yield from wish("7_cancelled", "shot")


def engine_crash() -> Iterator[float]:
    """Resumed, then the engine is shot: the panel says so, and the next click goes on."""
    press("resume")
    yield from until_refining()
    os.killpg(session().engine_pid, signal.SIGKILL)
    yield from until_over()
    problem = session().status.problem
    assert (
        problem is not None
        and "ended by the system" in problem.message
        and "Resume" in problem.hint
    ), problem
    report["engine_crash"] = f"{problem.message} {problem.hint}"
    yield 0.5
    yield from wish("7_engine_crashed", "shot")


def undo() -> Iterator[float]:
    """Undone and redone while the job runs: it goes on, and its import is one undo step."""
    with in_view():
        bpy.ops.ed.undo_push(message="before")
    press("resume")
    yield from until_refining()
    assert session().status.problem is None
    with in_view():
        bpy.ops.mesh.primitive_cube_add()
        bpy.ops.ed.undo_push(message="cube")
        bpy.ops.ed.undo()
    assert "Cube" not in bpy.data.objects
    assert session().status.busy, session().status
    yield from until_over()
    assert session().status.problem is None, session().status.problem
    assert clouds() == ["SS_demo_v001 Gaussians"]
    with in_view():
        bpy.ops.ed.undo()
    assert clouds() == []
    with in_view():
        bpy.ops.ed.redo()
    assert clouds() == ["SS_demo_v001 Gaussians"]


def clouds() -> list[str]:
    """Names of the splat objects of the open file."""
    return [ob.name for ob in bpy.data.objects if ob.type == "POINTCLOUD"]


def second_blender() -> Iterator[float]:
    """A second Blender opens the file while a job runs: it leaves that job alone and runs one of
    its own.
    """
    bpy.ops.wm.save_mainfile()
    press("generate")
    yield from until_refining()
    yield from wish("second", "second")
    assert (HERE / "second.txt").read_text() == "0", "see second.log"
    yield from until_over()
    assert session().status.problem is None, session().status.problem


def another_file() -> Iterator[float]:
    """The job goes on while another file is open, and its result waits for its own file."""
    bpy.ops.wm.save_mainfile()
    before = clouds()
    press("generate")
    yield from until_refining()
    with in_view():
        bpy.ops.wm.read_homefile()
    yield 1.0
    assert session().status.busy
    yield from show_sidebar()
    yield from until_over()
    assert session().status.problem is None and "demo.blend" in session().status.outcome, (
        session().status
    )
    assert clouds() == []
    report["another_file"] = session().status.outcome
    yield 1.0
    yield from wish("7_belongs_elsewhere", "shot")
    with in_view():
        bpy.ops.wm.open_mainfile(filepath=str(BLEND))
    yield 1.0
    yield from show_sidebar()
    waiting = addon("jobs.delivery").waiting_job(bpy.context.scene)
    assert waiting is not None and waiting.finished
    yield from wish("7_import_offered", "shot")
    press("import_result")
    assert len(clouds()) == len(before) + 1
    bpy.ops.wm.save_mainfile()


def blender_crash() -> Iterator[float]:
    """Blender is shot in mid job."""
    press("generate")
    yield from until_refining()
    folder = session().status.folder
    (HERE / "engine.pid").write_text(str(session().engine_pid))
    (HERE / "unfinished.txt").write_text(Path(folder).name)
    (HERE / "incidents.json").write_text(
        json.dumps({**report, "main_thread": main_thread_table()}, indent=2)
    )
    yield from wish("kill", "kill")
