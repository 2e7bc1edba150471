"""Work in slices: between two of them the scene is the user's, and whatever ends it leaves nothing
behind.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
from scene_splatter.blender_addon.cameras import conversion  # noqa: E402
from scene_splatter.blender_addon.cameras import operators as camera_tools  # noqa: E402
from scene_splatter.blender_addon.jobs import delivery  # noqa: E402
from scene_splatter.blender_addon.jobs.session import Phase  # noqa: E402
from scene_splatter.blender_addon.jobs.slices import Step, run  # noqa: E402
from scene_splatter.blender_addon.ui import operators  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

pytestmark = pytest.mark.blender

FRAMES = [1, 2, 2.5, 7, 10]


@pytest.fixture
def prepared(ready: Any) -> Generator[Any, None, None]:
    """A scene that is ready, and a function that prepares work in it as a window would."""

    def prepare(
        steps: Generator[Step, None, Any], finish: Any = lambda result: f"got {result}"
    ) -> None:
        delivery.session.prepare(delivery._always_in(bpy.context.scene.name, steps), finish)

    yield prepare
    delivery.session.close()
    delivery.session.forget_problem()


def pump_to_the_end() -> None:
    for _ in range(1000):
        if delivery.session.status.phase is not Phase.PREPARING:
            return
        delivery.session.pump()
    raise AssertionError("it never ends")


def job_folders() -> list[Path]:
    parent = delivery.jobs_parent()
    return sorted(parent.iterdir()) if parent.is_dir() else []


def test_a_path_in_slices_is_the_path(ready: Any) -> None:
    whole = conversion.export(ready, ready.camera, FRAMES)
    steps = conversion.export_in_slices(ready, ready.camera, FRAMES, 0.0)
    path = run(steps)
    assert path.fps == whole.fps and (path.width, path.height) == (whole.width, whole.height)
    np.testing.assert_array_equal(path.K, whole.K)
    np.testing.assert_array_equal(path.world_from_camera, whole.world_from_camera)


def test_between_slices_the_frame_is_the_users(ready: Any) -> None:
    ready.frame_set(4, subframe=0.25)
    shown = []
    for number, step in enumerate(conversion.export_in_slices(ready, ready.camera, FRAMES, 0.0)):
        assert step.done == number + 1 and step.total == len(FRAMES)
        shown.append((ready.frame_current, ready.frame_subframe))
        ready.frame_set(20 + number)  # and the user scrubs on
    assert shown == [(4, 0.25), (20, 0.0), (21, 0.0), (22, 0.0)]
    assert ready.frame_current == 23


@pytest.mark.parametrize("change", ["camera", "size"])
def test_a_camera_or_size_that_changes_in_between_is_said(ready: Any, change: str) -> None:
    steps = conversion.export_in_slices(ready, ready.camera, FRAMES, 0.0)
    next(steps)
    if change == "camera":
        bpy.data.objects.remove(ready.camera)
    else:
        ready.render.resolution_x *= 2
    with pytest.raises(UserError, match=r"changed while the path was read.*again"):
        next(steps)


def test_a_prepared_job_is_made_and_its_path_is_checked(prepared: Any) -> None:
    made = []
    prepared(operators.make_and_check(bpy.context), lambda job: made.append(job) or "")
    pump_to_the_end()
    assert delivery.session.status.problem is None, delivery.session.status.problem
    (job,) = made
    assert job_folders() == [job.folder] and (job.folder / "settings.json").is_file()
    assert any("To be invented" in note for note in camera_tools.notes[bpy.context.scene.name])


@pytest.mark.parametrize("end", ["cancel", "another file"])
def test_a_job_that_is_not_prepared_to_its_end_leaves_no_folder(prepared: Any, end: str) -> None:
    """At every step of the way."""
    total = sum(1 for _ in operators.make_and_check(bpy.context))
    before = job_folders()
    for stop in range(1, total):
        prepared(operators.make_and_check(bpy.context))
        for _ in range(stop):
            delivery.session.pump()
        assert delivery.session.status.phase is Phase.PREPARING
        if end == "cancel":
            bpy.ops.scene_splatter.cancel()
        else:
            bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
        assert not delivery.session.status.busy and "Cancelled" in delivery.session.status.outcome
        assert job_folders() == before


def test_the_notes_of_a_path_go_with_its_file(prepared: Any) -> None:
    bpy.ops.scene_splatter.check_path()
    assert camera_tools.notes[bpy.context.scene.name]
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    assert not camera_tools.notes


def test_undo_between_slices_does_no_harm(prepared: Any) -> None:
    bpy.context.preferences.edit.use_global_undo = True
    bpy.ops.ed.undo_push(message="before")
    bpy.context.scene.render.fps = 12
    bpy.ops.ed.undo_push(message="fps")
    prepared(operators.make_and_check(bpy.context))
    delivery.session.pump()
    bpy.ops.ed.undo()
    pump_to_the_end()
    assert delivery.session.status.problem is None and delivery.session.status.outcome.startswith(
        "got Job"
    )


def failing(error: Exception) -> Generator[Step, None, None]:
    yield Step("working", 0, 1)
    raise error


def test_what_fails_is_kept_in_the_panel_and_the_next_click_works(prepared: Any) -> None:
    prepared(failing(UserError("No space left.", "Free some.")))
    pump_to_the_end()
    problem = delivery.session.status.problem
    assert problem is not None and (problem.message, problem.hint) == (
        "No space left.",
        "Free some.",
    )
    prepared(failing(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        pump_to_the_end()
    problem = delivery.session.status.problem
    assert problem is not None and "a bug" in problem.message and not delivery.session.status.busy
    prepared(failing(UserError("Again.", "")))


def test_one_thing_at_a_time(prepared: Any) -> None:
    prepared(failing(UserError("", "")))
    with pytest.raises(UserError, match="running already"):
        prepared(failing(UserError("", "")))
    assert (
        not bpy.ops.scene_splatter.check_path.poll() and not bpy.ops.scene_splatter.generate.poll()
    )
