"""A job and what happens around it: undo, other files, a crash of Blender, a second start.
Rehearsal jobs, real engine process.

Timers do not fire without a window, so the tests call `pump` as the timer would.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
from scene_splatter.blender_addon.jobs import delivery, engine_location, folders  # noqa: E402
from scene_splatter.blender_addon.publish import collections  # noqa: E402
from scene_splatter.engine.bridge import protocol  # noqa: E402
from scene_splatter.engine.bridge.splat_file import Splats, write_ply  # noqa: E402

pytestmark = pytest.mark.blender

WAIT_S = 120.0
COUNT = 50


@pytest.fixture
def saved(empty_scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty saved file with an engine to start; afterwards no job is left."""
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, sys.executable)
    bpy.context.preferences.edit.use_global_undo = True
    path = tmp_path / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    yield path
    delivery.session.close()
    delivery.look_again()


def start(**settings: Any) -> Path:
    """A rehearsal that brings a scene with it."""
    folder = folders.new_folder(delivery.jobs_parent(), "hall")
    (folder / "settings.json").write_text("{}")
    draw = np.random.default_rng(0)
    write_ply(
        folder / "scene_linear.ply",
        Splats(
            means=draw.normal(size=(COUNT, 3)).astype(np.float32),
            quats=np.tile(np.float32([1, 0, 0, 0]), (COUNT, 1)),
            scales_log=np.full((COUNT, 3), -4, np.float32),
            opacities_logit=np.ones(COUNT, np.float32),
            sh_dc=np.zeros((COUNT, 3), np.float32),
            sh_rest=np.zeros((COUNT, 0, 3), np.float32),
        ),
        ("scene_splatter blending linear",),
    )
    ticket = folders.Ticket(bpy.data.filepath, bpy.context.scene.name, "hall")
    delivery.begin(bpy.context, folder, ticket, "rehearsal", settings)
    return folder


def pump_until(done: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end, delivery.session.status
        delivery.session.pump()
        time.sleep(0.01)


def finish() -> None:
    pump_until(lambda: not delivery.session.status.busy)


def until_running() -> None:
    pump_until(lambda: delivery.session.status.stage == "rehearsal")


def clouds() -> list[Any]:
    return [ob for ob in bpy.data.objects if ob.type == "POINTCLOUD"]


def test_a_finished_job_is_imported_into_its_scene(saved: Path) -> None:
    folder = start()
    finish()
    status = delivery.session.status
    assert status.problem is None, status.problem
    (cloud,) = clouds()
    assert len(cloud.data.points) == COUNT and cloud.name in status.outcome
    assert bpy.context.scene.scene_splatter.last_object == cloud
    ticket = folders.read_ticket(folder)
    assert ticket is not None and ticket.imported == cloud.name
    assert delivery.waiting_job(bpy.context.scene) is None


def test_generating_again_in_place_keeps_the_object(saved: Path) -> None:
    start()
    finish()
    (cloud,) = clouds()
    cloud.location = (1, 2, 3)
    folder = folders.new_folder(delivery.jobs_parent(), "hall")
    (folder / "scene_linear.ply").write_bytes(
        (delivery.jobs_parent() / "hall_v001" / "scene_linear.ply").read_bytes()
    )
    ticket = folders.Ticket(bpy.data.filepath, "Scene", "hall", replace=cloud.name)
    delivery.begin(bpy.context, folder, ticket, "rehearsal")
    finish()
    assert delivery.session.status.problem is None, delivery.session.status.problem
    assert clouds() == [cloud] and tuple(cloud.location) == (1, 2, 3)


def test_undo_during_a_job_does_not_lose_it(saved: Path) -> None:
    bpy.ops.ed.undo_push(message="before")
    folder = start(steps=1000, step_s=0.02)
    bpy.ops.ed.undo_push(message="job")
    until_running()
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="cube")
    for _ in range(2):
        bpy.ops.ed.undo()
    assert bpy.context.scene.scene_splatter.job_folder == str(folder)
    assert delivery.session.status.busy


def test_a_result_is_one_undo_step(saved: Path) -> None:
    bpy.ops.ed.undo_push(message="before")
    start()
    finish()
    assert len(clouds()) == 1
    bpy.ops.ed.undo()
    assert clouds() == []


def test_a_job_goes_on_while_another_file_is_open_and_says_where_it_belongs(saved: Path) -> None:
    folder = start(steps=20, step_s=0.02)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    finish()
    assert clouds() == []
    assert "shot.blend" in delivery.session.status.outcome
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    assert delivery.session.status.outcome == ""
    left = delivery.waiting_job(bpy.context.scene)
    assert left is not None and left.finished and left.folder == folder
    bpy.ops.scene_splatter.import_result()
    assert len(clouds()) == 1 and delivery.waiting_job(bpy.context.scene) is None


def test_reverting_the_file_keeps_the_job_with_it(saved: Path) -> None:
    start(steps=20, step_s=0.02)
    bpy.ops.wm.open_mainfile(filepath=str(saved))  # as it was before the job
    finish()
    assert len(clouds()) == 1, delivery.session.status


def test_after_a_crash_of_blender_the_reopened_file_offers_to_resume(saved: Path) -> None:
    """The file was not saved after the start, and the engine's pipe broke: only the job folder
    knows.
    """
    folder = start(steps=1000, step_s=0.02)
    until_running()
    delivery.session.close()  # what the end of a process does: the pipe closes, the lock is gone
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    scene = bpy.context.scene
    assert scene.scene_splatter.job_folder == ""
    left = delivery.waiting_job(scene)
    assert left is not None and not left.finished and left.folder == folder
    assert bpy.ops.scene_splatter.resume.poll() and bpy.ops.scene_splatter.dismiss.poll()


def test_a_file_with_an_older_result_offers_the_later_job_that_it_never_heard_of(
    saved: Path,
) -> None:
    """Saved after the first job, not after the start of the second."""
    first = start()
    finish()
    bpy.ops.wm.save_mainfile()
    assert delivery.waiting_job(bpy.context.scene) is None
    second = start(steps=1000, step_s=0.02)
    until_running()
    delivery.session.close()
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    assert bpy.context.scene.scene_splatter.job_folder == str(first)
    left = delivery.waiting_job(bpy.context.scene)
    assert left is not None and not left.finished and left.folder == second


def test_a_job_older_than_the_one_that_the_file_has_is_not_offered(saved: Path) -> None:
    start(steps=1000, step_s=0.02)
    until_running()
    delivery.session.close()
    start()
    finish()
    assert delivery.waiting_job(bpy.context.scene) is None


VICTIM = """
import importlib.util, os, sys, time
from pathlib import Path
root, blend = Path(sys.argv[1]), sys.argv[2]
spec = importlib.util.spec_from_file_location(
    "scene_splatter", root / "__init__.py", submodule_search_locations=[str(root)]
)
package = importlib.util.module_from_spec(spec)
sys.modules["scene_splatter"] = package
spec.loader.exec_module(package)
import bpy
package.register()
from scene_splatter.blender_addon.jobs import delivery, folders
bpy.ops.wm.open_mainfile(filepath=blend)
folder = folders.new_folder(delivery.jobs_parent(), "hall")
(folder / "settings.json").write_text("{}")
ticket = folders.Ticket(bpy.data.filepath, bpy.context.scene.name, "hall")
delivery.begin(bpy.context, folder, ticket, "rehearsal", {"steps": 100000, "step_s": 0.02})
while delivery.session.status.done < 3:
    delivery.session.pump()
    time.sleep(0.01)
print("RUNNING", delivery.session.engine_pid, folder, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_killing_blender_ends_its_engine_and_another_blender_resumes_the_job(
    saved: Path, tmp_path: Path
) -> None:
    """The real thing: another process with bpy, ended by SIGKILL in mid job."""
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(tmp_path / "user")}
    command = [sys.executable, "-c", VICTIM, str(Path(__file__).resolve().parents[2]), str(saved)]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert victim.stdout is not None
    try:
        line = next(line for line in victim.stdout if line.startswith("RUNNING"))
        _, engine, folder = line.split(maxsplit=2)
        bpy.ops.wm.open_mainfile(filepath=str(saved))
        assert folders.is_claimed(Path(folder.strip()))
        assert delivery.waiting_job(bpy.context.scene) is None  # it runs over there
    finally:
        victim.kill()
        victim.wait()
    end = time.monotonic() + 30.0  # of the 600 s that it would live
    while _runs(int(engine)):
        assert time.monotonic() < end, "the engine outlived Blender"
        time.sleep(0.05)
    delivery.look_again()
    left = delivery.waiting_job(bpy.context.scene)
    assert left is not None and not left.finished and left.folder == Path(folder.strip())
    assert bpy.ops.scene_splatter.resume.poll()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_file_saved_under_another_name_in_mid_job_keeps_its_job(
    saved: Path, tmp_path: Path
) -> None:
    folder = start(steps=1000, step_s=0.02)
    until_running()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "other name.blend"))
    ticket = folders.read_ticket(folder)
    assert ticket is not None and Path(ticket.blend) == tmp_path / "other name.blend"
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "unrelated.blend"))
    ticket = folders.read_ticket(folder)
    assert ticket is not None and Path(ticket.blend) == tmp_path / "other name.blend"


def test_a_dismissed_job_is_not_offered_again(saved: Path) -> None:
    start(steps=1000, step_s=0.02)
    until_running()
    delivery.session.close()
    delivery.look_again()
    bpy.ops.scene_splatter.dismiss()
    assert delivery.waiting_job(bpy.context.scene) is None
    assert not bpy.ops.scene_splatter.resume.poll()


def test_cancel_leaves_the_scene_as_it_was_and_a_job_to_resume(saved: Path) -> None:
    before = sorted(bpy.data.objects.keys())
    start(steps=1000, step_s=0.02)
    until_running()
    bpy.ops.scene_splatter.cancel()
    finish()
    assert sorted(bpy.data.objects.keys()) == before
    assert not bpy.ops.scene_splatter.cancel.poll()
    left = delivery.waiting_job(bpy.context.scene)
    assert left is not None and not left.finished


def test_a_damaged_result_is_an_error_in_the_panel_and_changes_nothing(saved: Path) -> None:
    folder = start(steps=20, step_s=0.02)
    data = (folder / "scene_linear.ply").read_bytes()
    (folder / "scene_linear.ply").write_bytes(data[: len(data) // 2])
    before = sorted(bpy.data.objects.keys())
    finish()
    problem = delivery.session.status.problem
    assert problem is not None and "scene_linear.ply" in problem.message
    assert sorted(bpy.data.objects.keys()) == before and not clouds()


def test_a_job_without_a_result_is_named(saved: Path) -> None:
    folder = start()
    (folder / "scene_linear.ply").unlink()
    finish()
    problem = delivery.session.status.problem
    assert problem is not None and "holds no scene" in problem.message


def test_a_moved_project_finds_its_job_beside_the_file(saved: Path, tmp_path: Path) -> None:
    folder = start(steps=1000, step_s=0.02)
    until_running()
    bpy.ops.wm.save_mainfile()
    delivery.session.close()
    moved = tmp_path / "moved to ü"
    moved.mkdir()
    (tmp_path / "scene_splatter").rename(moved / "scene_splatter")
    saved.rename(moved / "shot.blend")
    bpy.ops.wm.open_mainfile(filepath=str(moved / "shot.blend"))
    left = delivery.waiting_job(bpy.context.scene)
    assert left is not None and left.folder == moved / "scene_splatter" / folder.name


def test_disabling_the_extension_ends_the_engine(saved: Path, addon: Any) -> None:
    start(steps=1000, step_s=0.02)
    until_running()
    process = delivery.session._client.process
    addon.unregister()
    try:
        assert process.poll() is not None
        assert not hasattr(bpy.types.Scene, "scene_splatter")
    finally:
        addon.register()


def test_a_deleted_object_is_not_replaced_but_made_anew(saved: Path) -> None:
    """The pointer of the last result keeps a deleted object alive, outside of every scene."""
    start()
    finish()
    (cloud,) = clouds()
    group, name = bpy.context.scene.scene_splatter, cloud.name
    group.replace_last = True
    assert delivery.last_object(bpy.context.scene) == cloud
    bpy.context.scene.collection.objects.link(cloud)
    for collection in list(cloud.users_collection):
        collection.objects.unlink(cloud)
    assert group.last_object is not None and delivery.last_object(bpy.context.scene) is None
    assert delivery.is_gone(bpy.context.scene) and "not in the scene" in delivery.outcome(
        bpy.context.scene
    )
    folder = folders.new_folder(delivery.jobs_parent(), "hall")
    (folder / "scene_linear.ply").write_bytes(
        (delivery.jobs_parent() / "hall_v001" / "scene_linear.ply").read_bytes()
    )
    ticket = folders.Ticket(bpy.data.filepath, "Scene", "hall", replace=name)
    delivery.begin(bpy.context, folder, ticket, "rehearsal")
    finish()
    assert delivery.session.status.problem is None, delivery.session.status.problem
    made = delivery.last_object(bpy.context.scene)
    assert made is not None and made != cloud and made.name in bpy.context.scene.objects
    assert delivery.outcome(bpy.context.scene).startswith("Finished")
    assert "SS_hall_v002" in bpy.data.collections, "the set has the number of its job"


def test_undo_and_redo_are_believed(saved: Path) -> None:
    """Undone, the panel does not say Finished; redone, the result is the last one again; and it can
    be imported again.
    """
    bpy.ops.ed.undo_push(message="before")
    start()
    finish()
    assert delivery.outcome(bpy.context.scene).startswith("Finished")
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    assert delivery.last_object(scene) is None and "undone" in delivery.outcome(scene)
    bpy.ops.ed.redo()
    scene = bpy.context.scene
    assert delivery.last_object(scene) == clouds()[0]
    assert delivery.outcome(scene).startswith("Finished")
    bpy.ops.ed.undo()
    assert bpy.ops.scene_splatter.import_result() == {"FINISHED"}
    assert delivery.last_object(bpy.context.scene) == clouds()[0]


def test_a_job_whose_picture_is_at_fault_names_the_users_file_and_is_not_offered_again(
    saved: Path,
) -> None:
    folder = start(steps=1000, step_s=0.02)
    (folder / "input" / "image.png").write_bytes(b"no picture")
    ticket = folders.read_ticket(folder)
    session = delivery.session
    session._ticket = dataclasses.replace(ticket, picture="hall.png")
    until_running()
    copy = folder / "input" / "image.png"
    session._take_from_job(
        protocol.Failed(session._start.job, f"The picture {copy} is empty.", "Save it again.")
    )
    problem = session.status.problem
    assert problem is not None and problem.message == "The picture hall.png is empty."
    assert delivery.waiting_job(bpy.context.scene) is None


def test_renamed_and_moved_collections_of_a_set_are_found_again(saved: Path) -> None:
    start()
    finish()
    (cloud,) = clouds()
    root = results_set(cloud)
    part = collections.part_of(root, "splats")
    root.name, part.name = "my hall", "my splats"
    shelf = bpy.data.collections.new("shelf")
    root.children.link(shelf)
    root.children.unlink(part)
    shelf.children.link(part)
    assert collections.part_of(root, "splats") == part and results_set(cloud) == root
    before = set(bpy.data.collections)
    start()
    finish()
    new = {c.name for c in set(bpy.data.collections) - before}
    assert new == {"SS_hall_v002", *(f"SS_hall_v002 {name}" for name in collections.PARTS)}


def results_set(cloud: Any) -> Any:
    found = collections.set_of(cloud)
    assert found is not None
    return found
