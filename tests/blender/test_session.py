"""The session with the real engine process and rehearsal jobs. Needs no bpy."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scene_splatter.blender_addon.jobs import folders
from scene_splatter.blender_addon.jobs.session import (
    Delivery,
    EngineCommand,
    Phase,
    Session,
    describe_death,
)
from scene_splatter.engine.bridge import protocol
from scene_splatter.engine.bridge.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TICKET = folders.Ticket("/project/shot.blend", "Scene", "hall")
WAIT_S = 120.0


class Desk:
    """A session with its surroundings, as delivery.py is inside Blender."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.delivered: list[tuple[Path, folders.Ticket, dict[str, Any]]] = []
        self.reason = ""
        self.error: UserError | None = None
        self.imported = "hall"
        self.session = Session(self.deliver, lambda _folder: self.reason, lambda: None)
        self.command = EngineCommand(Path(sys.executable), ROOT, {}, tmp_path / "engine.log")

    def deliver(self, folder: Path, ticket: folders.Ticket, outputs: dict[str, Any]) -> Delivery:
        if self.error is not None:
            raise self.error
        self.delivered.append((folder, ticket, outputs))
        return Delivery(self.imported, "Finished: hall.")

    def start(self, **settings: Any) -> Path:
        folder = folders.new_folder(self.tmp_path, "hall")
        self.session.start(self.command, folder, TICKET, "rehearsal", settings)
        return folder

    def pump_until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < end, f"still {self.session.status}"
            self.session.pump()
            time.sleep(0.01)

    def finish(self) -> None:
        self.pump_until(lambda: not self.session.status.busy)

    def until_running(self) -> None:
        self.pump_until(lambda: self.session.status.stage == "rehearsal")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.session.close()


def test_a_job_that_ends_is_delivered_once_with_its_outputs(desk: Desk) -> None:
    folder = desk.start(steps=3)
    desk.finish()
    assert [(where, outputs["steps"]) for where, _, outputs in desk.delivered] == [(folder, 3)]
    assert desk.session.status.outcome == "Finished: hall."
    assert desk.session.status.problem is None
    ticket = folders.read_ticket(folder)
    assert ticket is not None and ticket.done and ticket.imported == "hall"


def test_the_same_engine_takes_the_next_job(desk: Desk) -> None:
    desk.start()
    desk.finish()
    first = desk.session.engine_pid
    desk.start()
    desk.finish()
    assert desk.session.engine_pid == first is not None
    assert len(desk.delivered) == 2


def test_progress_reaches_the_status(desk: Desk) -> None:
    seen = set()
    desk.start(steps=5, step_s=0.1)

    def done() -> bool:
        seen.add((desk.session.status.done, desk.session.status.factor))
        return not desk.session.status.busy

    desk.pump_until(done)
    assert {(2, 0.4), (4, 0.8)} <= seen


def test_remaining_time_follows_the_pace(desk: Desk) -> None:
    desk.start(steps=40, step_s=0.1)
    desk.pump_until(lambda: desk.session.status.done >= 20)
    remaining = desk.session.status.remaining_s()
    assert remaining is not None and 1.0 < remaining < 4.0


@pytest.mark.parametrize(
    ("end", "message", "hint"),
    [
        ("user_error", "told to fail", "something else"),
        ("bug", "RuntimeError", "engine.log"),
        ("memory", "ran out of memory", "draft"),
    ],
)
def test_a_failed_job_leaves_its_message_its_remedy_and_a_living_engine(
    desk: Desk, end: str, message: str, hint: str
) -> None:
    desk.start(end=end)
    desk.finish()
    problem = desk.session.status.problem
    assert problem is not None and message in problem.message and hint in problem.hint
    assert problem.log is not None and problem.log.is_file()
    assert problem.message in problem.details and "Job: " in problem.details
    assert desk.delivered == []
    desk.start()
    desk.finish()
    assert desk.session.status.problem is None and len(desk.delivered) == 1


def test_a_crashed_engine_is_told_with_its_log_and_the_next_click_starts_a_new_one(
    desk: Desk,
) -> None:
    desk.start(end="abort")
    desk.finish()
    problem = desk.session.status.problem
    assert (
        problem is not None and "rehearsal.py" in problem.details
    )  # the Python stack of the crash
    assert desk.session.engine_pid is None
    desk.start()
    desk.finish()
    assert len(desk.delivered) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_an_engine_killed_by_the_system_is_said_to_have_run_out_of_memory(desk: Desk) -> None:
    desk.start(end="hang")
    desk.until_running()
    pid = desk.session.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    desk.finish()
    problem = desk.session.status.problem
    assert problem is not None and "signal 9" in problem.message and "memory" in problem.hint


def test_cancel_ends_a_job_and_keeps_the_engine(desk: Desk) -> None:
    folder = desk.start(steps=1000, step_s=0.05)
    desk.until_running()
    desk.session.cancel()
    asked = time.monotonic()
    desk.finish()
    assert time.monotonic() - asked < 20.0  # the job itself takes 50 s
    assert desk.session.engine_pid is not None and desk.session.status.problem is None
    assert "Resume" in desk.session.status.outcome and not folders.is_claimed(folder)


def test_cancel_gives_a_hanging_engine_two_seconds_and_ends_it(desk: Desk) -> None:
    desk.start(end="hang")
    desk.pump_until(lambda: desk.session.status.done == 5)
    desk.session.cancel()
    asked = time.monotonic()
    desk.finish()
    assert 1.5 < time.monotonic() - asked < 20.0  # it would hang for ever
    assert desk.session.engine_pid is None and "did not answer" in desk.session.status.outcome


def test_cancel_before_the_engine_is_ready_is_immediate(desk: Desk) -> None:
    desk.start()
    assert desk.session.status.phase is Phase.STARTING
    desk.session.cancel()
    assert not desk.session.status.busy
    desk.start()  # the same engine, still starting, takes the next job
    desk.finish()
    assert len(desk.delivered) == 1


def test_a_second_start_is_refused_while_a_job_runs(desk: Desk) -> None:
    desk.start(steps=100)
    with pytest.raises(UserError, match="running already"):
        desk.start()


def test_two_sessions_cannot_work_in_one_folder_but_next_to_each_other(
    desk: Desk, tmp_path: Path
) -> None:
    folder = desk.start(steps=1000)
    desk.until_running()
    other = Desk(tmp_path)
    try:
        with pytest.raises(UserError, match="another Blender"):
            other.session.start(other.command, folder, TICKET, "rehearsal")
        assert folders.look_at(folder) is None  # nobody offers to resume what runs
        other.start()
        other.finish()
        assert len(other.delivered) == 1 and desk.session.status.busy
    finally:
        other.session.close()


def test_a_result_waits_for_a_moment_when_it_can_be_imported(desk: Desk) -> None:
    desk.reason = "Waiting for the render to end"
    desk.start()
    desk.pump_until(lambda: desk.session.status.phase is Phase.DELIVERING)
    desk.session.pump()
    assert desk.delivered == [] and desk.session.status.text == desk.reason
    desk.reason = ""
    desk.session.pump()
    assert len(desk.delivered) == 1 and not desk.session.status.busy


def test_an_import_that_fails_leaves_a_finished_job_to_import_later(desk: Desk) -> None:
    desk.error = UserError("scene.ply is truncated.", "Resume the job.")
    folder = desk.start()
    desk.finish()
    problem = desk.session.status.problem
    assert problem is not None and problem.message == "scene.ply is truncated."
    (folder / "settings.json").write_text("{}")
    (folder / "scene.ply").write_bytes(b"ply")
    left = folders.look_at(folder)
    assert left is not None and left.finished


def test_a_bug_in_the_import_does_not_leave_a_job_that_never_ends(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Delivery:
        raise AttributeError("a bug")

    monkeypatch.setattr(desk.session, "_deliver", broken)
    desk.start()
    with pytest.raises(AttributeError):
        desk.finish()
    assert not desk.session.status.busy and desk.session.status.problem is not None
    assert "a bug" in desk.session.status.problem.message


def test_an_engine_of_another_version_is_ended_and_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "VERSION", 99)
    desk.start()
    desk.finish()
    problem = desk.session.status.problem
    assert (
        problem is not None and "wire 99" in problem.message and "Restart Blender" in problem.hint
    )
    assert desk.session.engine_pid is None


def test_an_interpreter_that_is_missing_or_no_engine_is_a_plain_message(
    desk: Desk, tmp_path: Path
) -> None:
    folder = folders.new_folder(tmp_path, "a")
    missing = EngineCommand(tmp_path / "no" / "python", ROOT, {}, tmp_path / "log")
    with pytest.raises(UserError, match="could not be started"):
        desk.session.start(missing, folder, TICKET)
    assert not desk.session.status.busy and not folders.is_claimed(folder)
    empty = EngineCommand(
        Path(sys.executable), tmp_path, {}, tmp_path / "log"
    )  # no package `engine` there
    desk.session.start(empty, folder, TICKET)
    desk.finish()
    problem = desk.session.status.problem
    assert problem is not None and "exit code 1" in problem.message and "engine" in problem.details


def test_start_pump_and_cancel_compute_less_than_fifty_milliseconds(desk: Desk) -> None:
    """CPU time of the slowest call. A cold start does not wait for the engine either: it takes a
    small part of the time until the engine answers. Other tenants of the machine do not count.
    """
    longest, cold = 0.0, []

    def timed(call: Callable[[], Any]) -> float:
        nonlocal longest
        cpu, wall = time.thread_time(), time.monotonic()
        call()
        longest = max(longest, time.thread_time() - cpu)
        return time.monotonic() - wall

    for _ in range(3):
        began = time.monotonic()
        started = timed(lambda: desk.start(steps=200, step_s=0.001, garbage=True))
        for steps in (1, 100):
            while desk.session.status.done < steps:
                timed(desk.session.pump)
                time.sleep(0.001)
            if steps == 1:
                cold.append(started / (time.monotonic() - began))
        timed(desk.session.cancel)
        desk.finish()
        desk.session.close()
    assert longest < 0.05
    assert min(cold) < 0.5  # of the time until it runs


def test_pump_does_not_wait_for_a_silent_engine(desk: Desk) -> None:
    desk.start(end="hang")
    desk.until_running()
    waits = []
    for _ in range(20):
        began = time.monotonic()
        desk.session.pump()
        waits.append(time.monotonic() - began)
    assert min(waits) < 0.025  # one that waits does so every time; a busy machine does not


def test_closing_ends_the_engine_and_leaves_the_job_to_resume(desk: Desk) -> None:
    folder = desk.start(steps=1000, step_s=0.05)
    (folder / "settings.json").write_text("{}")
    desk.until_running()
    pid = desk.session.engine_pid
    desk.session.close()
    assert pid is not None and not _is_alive(pid)
    left = folders.look_at(folder)
    assert left is not None and not left.finished and left.ticket == TICKET


def test_an_engine_that_waits_is_released_and_one_at_work_is_not(desk: Desk) -> None:
    desk.session.release()  # none runs
    desk.start()
    with pytest.raises(UserError, match="running already"):
        desk.session.release()
    desk.finish()
    pid, outcome = desk.session.engine_pid, desk.session.status.outcome
    desk.session.release()
    assert pid is not None and not _is_alive(pid)
    assert desk.session.status.outcome == outcome, "what became of the job is still told"
    desk.start()
    desk.finish()
    assert len(desk.delivered) == 2


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def test_death_is_described_by_its_cause() -> None:
    assert "signal 9" in describe_death(-9)[0] and "memory" in describe_death(-9)[1]
    assert "Resume: it keeps the job's own settings" in describe_death(-9)[1]
    assert "signal 11" in describe_death(-11)[0]
    assert "exit code 3" in describe_death(3)[0]


def test_new_folders_never_touch_old_ones(tmp_path: Path) -> None:
    names = [folders.new_folder(tmp_path, "Halle ü/../x").name for _ in range(3)]
    assert len(set(names)) == 3 and all(
        ".." not in name.strip(".") or "/" not in name for name in names
    )
    assert all((tmp_path / name).is_dir() for name in names)


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="needs a folder that cannot be written to"
)
def test_a_folder_that_cannot_be_written_is_a_plain_message(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="No job folder can be made"):
        folders.new_folder(tmp_path, "a")


def test_a_file_in_the_way_is_a_plain_message(tmp_path: Path) -> None:
    (tmp_path / "scene_splatter").write_text("a file")
    with pytest.raises(UserError, match="No job folder can be made"):
        folders.new_folder(tmp_path / "scene_splatter", "a")


def test_a_full_disk_is_a_plain_message_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "settings.json"
    monkeypatch.setattr(os, "fsync", full)  # where a full disk shows at the latest
    with pytest.raises(UserError, match=r"cannot be written.*Free some space"):
        folders.write_json(target, {"a": 1})
    assert not list(tmp_path.iterdir())


def test_a_job_whose_result_is_gone_or_cut_is_not_finished(tmp_path: Path) -> None:
    folder = folders.new_folder(tmp_path, "shot")
    folders.write_ticket(folder, dataclasses.replace(TICKET, done=True))
    (folder / "settings.json").write_text("{}")
    scene = folder / "scene.ply"
    scene.write_bytes(b"ply result")

    def finished() -> bool:
        found = folders.look_at(folder)
        assert found is not None
        return found.finished

    assert finished(), "an older engine notes no sizes"
    (folder / "job.json").write_text('{"results": {"bytes": {"scene.ply": 10}}}')
    assert finished()
    scene.write_bytes(b"ply")
    assert not finished()
    scene.unlink()
    assert not finished()


def test_leftovers_are_the_unclaimed_jobs_of_this_file_newest_first(tmp_path: Path) -> None:
    def job(shot: str, ticket: folders.Ticket, age_s: float, complete: bool = True) -> Path:
        folder = folders.new_folder(tmp_path, shot)
        folders.write_ticket(folder, ticket)
        if complete:
            (folder / "settings.json").write_text("{}")
        os.utime(folder / folders.TICKET, (time.time() - age_s,) * 2)
        return folder

    old = job("old", TICKET, 100)
    new = job("new", TICKET, 10)
    job("other", folders.Ticket("/other.blend", "Scene", "hall"), 5)
    job("imported", folders.Ticket("/project/shot.blend", "Scene", "hall", imported="x"), 4)
    job("dismissed", folders.Ticket("/project/shot.blend", "Scene", "hall", dismissed=True), 3)
    job("incomplete", TICKET, 2, complete=False)
    claim = folders.Claim(job("claimed", TICKET, 1))
    found = [left.folder for left in folders.leftovers(tmp_path, "/project/shot.blend")]
    claim.release()
    assert found == [new, old]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"blend": 1', '{"unknown": 2}'])
def test_a_damaged_ticket_is_no_ticket(tmp_path: Path, text: str) -> None:
    (tmp_path / folders.TICKET).write_text(text)
    assert folders.read_ticket(tmp_path) is None


def test_a_ticket_of_a_newer_version_is_read(tmp_path: Path) -> None:
    data = {"blend": "a", "scene": "b", "shot": "c", "from_the_future": 1}
    (tmp_path / folders.TICKET).write_text(json.dumps(data))
    assert folders.read_ticket(tmp_path) == folders.Ticket("a", "b", "c")
