"""The seam between Blender and the engine, with the real process: every way a job and an engine can
end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bridge.client import EngineClient, EngineDied, child_environment
from engine.bridge.errors import UserError
from engine.bridge.protocol import (
    ENGINE_VERSION,
    VERSION,
    Cancel,
    Cancelled,
    Done,
    Failed,
    Hello,
    Progress,
    Quit,
    Start,
    decode,
    encode,
)

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = (Done, Cancelled, Failed, EngineDied)
posix_only = pytest.mark.skipif(os.name == "nt", reason="signals: POSIX only")


@pytest.fixture
def engine(tmp_path) -> Iterator[EngineClient]:
    client = EngineClient.start(
        sys.executable, ROOT, {"SCENE_SPLATTER_TEST": "1"}, tmp_path / "engine.log"
    )
    hello = until(client, Hello)[-1]
    assert (hello.protocol, hello.engine) == (VERSION, ENGINE_VERSION) and hello.device
    yield client
    client.close()
    assert not client.alive


def until(client: EngineClient, *kinds: type, timeout_s: float = 60.0) -> list:
    """All messages up to and including the first of one of the kinds."""
    seen: list = []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for message in client.wait(0.1):
            seen.append(message)
            if isinstance(message, kinds):
                return seen
    raise AssertionError(f"no {kinds} within {timeout_s} s, but {seen}; log: {client.log_tail()}")


def rehearse(client: EngineClient, folder: Path, job: str = "j", **settings) -> None:
    client.send(Start(job, "rehearsal", str(folder), settings))


def until_it_hangs(client: EngineClient) -> None:
    """The last step is told right before the hang."""
    while not any(m.done == m.total for m in until(client, Progress)):
        pass


def answers(messages: list) -> list:
    return [m for m in messages if isinstance(m, ANSWERS)]


def test_a_job_tells_its_progress_and_ends_done(engine, tmp_path):
    rehearse(engine, tmp_path, steps=4, step_s=0.06)
    messages = until(engine, *ANSWERS)
    assert messages[-1] == Done("j", {"result": str(tmp_path / "result.txt"), "steps": 4})
    assert (tmp_path / "result.txt").read_text() == "4 steps\n"
    assert not list(tmp_path.glob("*.partial"))
    steps = [m.done for m in messages if isinstance(m, Progress)]
    assert steps == [0, 1, 2, 3, 4]
    assert {m.total for m in messages if isinstance(m, Progress)} == {4}


def test_one_engine_takes_one_job_after_another(engine, tmp_path):
    for number in range(5):
        rehearse(
            engine,
            tmp_path,
            job=f"job {number}",
            steps=1,
            step_s=0.0,
            end="user_error" if number % 2 else "done",
        )
        answer = until(engine, *ANSWERS)[-1]
        assert answer.job == f"job {number}"
        assert isinstance(answer, Failed if number % 2 else Done)


@pytest.mark.parametrize(
    ("end", "error", "hint"),
    [
        ("user_error", "The rehearsal was told to fail.", "Tell it something else."),
        ("bug", "RuntimeError: the rehearsal was told to hit a bug", "The full report is in"),
        ("memory", "The machine ran out of memory.", "Lower width"),
        ("exit", "SystemExit: 3", "The full report is in"),
    ],
)
def test_a_failure_becomes_one_answer_with_a_remedy_and_the_engine_lives_on(
    engine, tmp_path, end, error, hint
):
    rehearse(engine, tmp_path, end=end, steps=1)
    answer = until(engine, *ANSWERS)[-1]
    assert isinstance(answer, Failed)
    assert answer.error == error and answer.hint.startswith(hint)
    if end == "bug":
        log = tmp_path / "engine.log"
        assert str(log) in answer.hint
        assert "Traceback" in log.read_text(encoding="utf-8")
    rehearse(engine, tmp_path, job="next", steps=1)
    assert isinstance(until(engine, *ANSWERS)[-1], Done)


def test_cancel_is_answered_within_few_steps(engine, tmp_path):
    rehearse(engine, tmp_path, steps=10_000, step_s=0.01)
    until(engine, Progress)
    engine.send(Cancel("j"))
    messages = until(engine, *ANSWERS)
    assert messages[-1] == Cancelled("j")
    done = [m.done for m in messages if isinstance(m, Progress)]
    assert not done or done[-1] < 2_000  # of 10,000 steps, which take 100 s
    assert not (tmp_path / "result.txt").exists()


def test_cancel_of_another_or_of_a_finished_job_does_nothing(engine, tmp_path):
    rehearse(engine, tmp_path, steps=20, step_s=0.01)
    engine.send(Cancel("another"))
    assert isinstance(until(engine, *ANSWERS)[-1], Done)
    engine.send(Cancel("j"))
    rehearse(engine, tmp_path, steps=3)
    messages = until(engine, *ANSWERS)
    assert isinstance(messages[-1], Done) and len(answers(messages)) == 1


def test_a_second_start_is_refused_while_a_job_runs_and_both_get_one_answer(engine, tmp_path):
    rehearse(engine, tmp_path, job="first", steps=50, step_s=0.01)
    rehearse(engine, tmp_path, job="second")
    refused = until(engine, *ANSWERS)[-1]
    assert (
        isinstance(refused, Failed)
        and refused.job == "second"
        and "busy with job first" in refused.error
    )
    assert until(engine, *ANSWERS)[-1].job == "first"


def test_stray_prints_go_to_the_log_and_not_into_the_wire(engine, tmp_path):
    rehearse(engine, tmp_path, steps=3, garbage=True)
    messages = until(engine, *ANSWERS)
    assert isinstance(messages[-1], Done)
    assert all(isinstance(m, Progress | Done) for m in messages)
    engine.close()
    log = "\n".join(engine.log_tail(100))
    assert "a stray print in step 2" in log and "bytes straight to descriptor 1" in log
    assert "[wire]" not in log  # the client had nothing to refuse
    if os.name != "nt":
        assert "a line from C" in log
    assert "a stray print in step 2" in (tmp_path / "engine.log").read_text(encoding="utf-8")


def test_nonsense_from_the_client_is_logged_and_the_next_job_runs(engine, tmp_path):
    for line in (
        b"nonsense\n",
        b'{"type": "Start"}\n',
        b"x" * (3 << 20) + b"\n",
        encode(Hello(1, "me", "cpu")),
    ):
        engine._outgoing.put(line)
    rehearse(engine, tmp_path, steps=1)
    assert isinstance(until(engine, *ANSWERS)[-1], Done)
    engine.close()
    log = "\n".join(engine.log_tail(100))
    assert log.count("refused") == 4 and "'nonsense" in log


@pytest.mark.parametrize(
    ("kind", "folder", "error"),
    [("brew coffee", "", "no job of kind"), ("rehearsal", "missing", "does not exist")],
)
def test_a_start_that_cannot_be_is_a_failure_with_words(engine, tmp_path, kind, folder, error):
    engine.send(Start("j", kind, str(tmp_path / folder), {}))
    answer = until(engine, *ANSWERS)[-1]
    assert isinstance(answer, Failed) and error in answer.error and answer.hint


def test_unknown_settings_are_named(engine, tmp_path):
    rehearse(engine, tmp_path, colour="red")
    answer = until(engine, *ANSWERS)[-1]
    assert isinstance(answer, Failed) and "colour" in answer.error


@posix_only
@pytest.mark.parametrize("how", ["abort", "kill -9"])
def test_the_engines_death_arrives_once_after_its_last_message(engine, tmp_path, how):
    rehearse(engine, tmp_path, steps=2 if how == "abort" else 10_000, end="abort")
    until(engine, Progress)
    if how == "kill -9":
        engine.process.kill()
    messages = until(engine, EngineDied)
    assert messages[-1] == EngineDied(-signal.SIGABRT if how == "abort" else -signal.SIGKILL)
    assert engine.wait(0.2) == []
    assert not engine.alive
    if how == "abort":  # the Python stack of the crash is in the log
        assert any("Fatal Python error" in line for line in engine.log_tail(200))
    engine.send(Cancel("j"))  # to a dead engine: nothing happens


def test_a_job_that_hangs_can_be_killed_with_the_engine(engine, tmp_path):
    rehearse(engine, tmp_path, steps=1, end="hang")
    until_it_hangs(engine)
    engine.send(Cancel("j"))
    assert answers(engine.wait(0.3)) == []  # it does not notice
    engine.kill()
    assert isinstance(until(engine, *ANSWERS)[-1], EngineDied)


def test_closing_lets_an_idle_engine_leave_by_itself(tmp_path):
    client = EngineClient.start(sys.executable, ROOT)
    until(client, Hello)
    client.close(grace_s=20.0)  # returns as soon as it has left
    assert client.process.returncode == 0


def test_closing_ends_a_hanging_engine_after_the_grace(tmp_path):
    client = EngineClient.start(sys.executable, ROOT)
    until(client, Hello)
    rehearse(client, tmp_path, end="hang", steps=1)
    until_it_hangs(client)
    started = time.monotonic()
    client.close(grace_s=0.5)  # less than the engine itself gives a job
    assert time.monotonic() - started < 30.0  # it would hang for ever
    assert not client.alive and client.process.returncode != 0


@pytest.mark.parametrize("end", ["done", "hang"])
def test_an_orphaned_engine_leaves(tmp_path, end):
    """Blender is gone: its end of the pipe closes, whatever the job is doing."""
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "serve"],
        cwd=ROOT,
        env=child_environment(dict(os.environ)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert isinstance(decode(process.stdout.readline()), Hello)
        process.stdin.write(
            encode(
                Start(
                    "j",
                    "rehearsal",
                    str(tmp_path),
                    {"steps": 1 if end == "hang" else 10_000, "end": end},
                )
            )
        )
        process.stdin.flush()
        assert isinstance(decode(process.stdout.readline()), Progress)
        time.sleep(0.2)
        process.stdin.close()
        rest = [decode(line) for line in process.stdout]
        code = process.wait(timeout=5)
    assert [m for m in rest if isinstance(m, ANSWERS)] == (
        [Cancelled("j")] if end == "done" else []
    )
    assert code == (0 if end == "done" else 1)


@posix_only
def test_an_engine_leaves_when_the_program_that_started_it_is_killed(tmp_path):
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from engine.bridge.client import EngineClient
from engine.bridge.protocol import Start
client = EngineClient.start(sys.executable, {str(ROOT)!r})
client.send(Start("j", "rehearsal", {str(tmp_path)!r}, {{"steps": 100000}}))
while not any(type(m).__name__ == "Progress" for m in client.wait(1.0)):
    pass
print(client.process.pid, flush=True)
time.sleep(60)
"""
    blender = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with blender:
        pid = int(blender.stdout.readline())
        os.kill(pid, 0)  # it lives
        blender.kill()
    deadline = time.monotonic() + 30.0
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_rehearsal_imports_no_torch(tmp_path):
    program = f"""
import sys
from pathlib import Path
from engine.bridge.protocol import Start
from engine.service.server import run_job
answer = run_job(Start("j", "rehearsal", {str(tmp_path)!r}, {{"steps": 1}}), lambda *a, **k: None)
assert type(answer).__name__ == "Done", answer
sys.exit("torch" in sys.modules or "numpy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_the_child_hears_nothing_of_the_parents_python():
    parents = {
        "PYTHONHOME": "/x",
        "PythonPath": "/y",
        "PYTHONSTARTUP": "z",
        "__PYVENV_LAUNCHER__": "l",
        "PATH": "/bin",
        "HOME": "/h",
    }
    child = child_environment(parents, {"CUDA_VISIBLE_DEVICES": "1"})
    assert {k: v for k, v in child.items() if not k.startswith("PYTHON")} == {
        "PATH": "/bin",
        "HOME": "/h",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert child["PYTHONNOUSERSITE"] == "1" and child["PYTHONUTF8"] == "1"
    assert not {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP"} & child.keys()


def test_an_interpreter_that_is_not_there_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="could not be started"):
        EngineClient.start(tmp_path / "python", ROOT)


def test_an_engine_that_dies_at_once_leaves_its_reason_in_the_log(tmp_path):
    client = EngineClient.start(sys.executable, tmp_path)  # no package `engine` there
    messages = until(client, EngineDied)
    assert messages == [EngineDied(1)]
    assert "engine" in "\n".join(client.log_tail())
    client.close()


def test_the_engine_leaves_on_quit(tmp_path):
    client = EngineClient.start(sys.executable, ROOT)
    until(client, Hello)
    client.send(Quit())
    assert until(client, EngineDied)[-1] == EngineDied(0)
