"""Tasks: processes that tell in JSON lines how far they are. Needs no bpy."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from scene_splatter.blender_addon.jobs.installer import (
    Task,
    engine_folder,
    python_in,
    why_incomplete,
)
from scene_splatter.engine.bridge.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 240.0


def run(script: str, tmp_path: Path) -> Task:
    task = Task("Install")
    task.start([sys.executable, "-u", "-c", script], tmp_path)
    finish(task)
    return task


def finish(task: Task) -> None:
    end = time.monotonic() + WAIT_S
    while task.running:
        assert time.monotonic() < end
        task.pump()
        time.sleep(0.01)


def test_json_lines_move_the_bar_and_everything_else_is_the_log(tmp_path: Path) -> None:
    script = """
import json, sys
print("plain words")
print("{ not json")
print(json.dumps({"stage": "download", "text": "  fetching torch", "done": 3, "total": 4}))
print("[1, 2]")
print("words on stderr", file=sys.stderr)
print("\\udcff".encode("utf-8", "surrogateescape"))
"""
    task = run(script, tmp_path)
    assert (task.code, task.text, task.factor) == (0, "fetching torch", 0.75)
    assert (
        list(task.log)[:4] == ["plain words", "{ not json", "fetching torch", "[1, 2]"]
        and "words on stderr" in task.log
    )


def test_a_failure_keeps_its_code_and_its_last_words(tmp_path: Path) -> None:
    task = run(
        'import sys; print(\'{"text": "error: The disk is full. Free some space."}\'); sys.exit(1)',
        tmp_path,
    )
    assert (
        task.code == 1
        and not task.cancelled
        and task.text == "error: The disk is full. Free some space."
    )


@pytest.mark.skipif(os.name == "nt", reason="asks /proc or kill for the grandchild")
def test_cancel_ends_the_process_and_its_children_and_it_can_be_started_again(
    tmp_path: Path,
) -> None:
    script = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print('{"text": "%d"}' % child.pid, flush=True)
time.sleep(60)
"""
    task = Task("Install")
    task.start([sys.executable, "-c", script], tmp_path)
    end = time.monotonic() + WAIT_S
    while not task.text and time.monotonic() < end:
        task.pump()
        time.sleep(0.01)
    grandchild = int(task.text)
    task.cancel()
    finish(task)
    assert task.cancelled and task.code != 0
    time.sleep(0.1)
    stat = Path(f"/proc/{grandchild}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    task.start([sys.executable, "-c", "print('again')"], tmp_path)
    finish(task)
    assert (task.code, task.cancelled, list(task.log)) == (0, False, ["again"])


def test_what_a_process_still_said_is_not_taken_for_its_successors(tmp_path: Path) -> None:
    """The plan for another build, asked for before the first was told."""
    task = Task("Plan")
    say = 'import time; print(\'{"text": "%s"}\', flush=True); time.sleep(%s)'
    task.start([sys.executable, "-c", say % ("old", 60)], tmp_path)
    end = time.monotonic() + WAIT_S
    while task._lines.empty() and time.monotonic() < end:  # it has said it, and nobody took it
        time.sleep(0.01)
    task.cancel()
    task.start([sys.executable, "-c", say % ("new", 0)], tmp_path)
    finish(task)
    assert [finding["text"] for finding in task.findings] == ["new"] and task.code == 0


def test_an_interpreter_that_is_missing_is_a_plain_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not be started.*Choose another Python"):
        Task("Check").start([str(tmp_path / "python")], tmp_path)


def test_under_windows_the_engine_goes_where_its_paths_are_short_enough(tmp_path: Path) -> None:
    users = r"C:\Users\Jane\AppData"
    usual = Path(
        users + r"\Roaming\Blender Foundation\Blender\5.2\extensions\.user\user_default"
        r"\scene_splatter\engine"
    )
    other = Path(users + r"\Local\scene_splatter\5.2\engine")
    assert engine_folder(usual, other, windows=True) == other
    assert engine_folder(usual, other, windows=False) == usual
    short = Path(r"D:\Blender\scene_splatter\engine")
    assert engine_folder(short, other, windows=True) == short
    deps = install_deps()
    deps.check_length(other, False)  # the installer takes it
    there = tmp_path / ("x" * 120)
    there.mkdir()
    (there / deps.STAMP).touch()
    assert engine_folder(there, other, windows=True) == there, "an engine that works stays"


def test_only_a_whole_installation_of_this_version_counts(tmp_path: Path) -> None:
    """install_deps.py makes the interpreter first and its stamp last; between them a cancelled
    installation lies.
    """
    environment, wants = tmp_path / "engine", ROOT / "pyproject.toml"
    assert "is not installed: press Install" in why_incomplete(environment, wants)
    python_in(environment).parent.mkdir(parents=True)
    python_in(environment).touch()
    assert "did not come to its end: press Repair" in why_incomplete(environment, wants)
    pins = tomllib.loads(wants.read_text(encoding="utf-8"))["project"]["dependencies"]
    stamps = {"": [*pins, "ray==1.0"], "older version": ["torch==1.0", *pins[1:]], "older": []}
    for number, (words, has) in enumerate(stamps.items()):
        stamp = environment / install_deps().STAMP
        stamp.write_text(json.dumps({"has": {"requirements": has}}) if has else "damaged")
        os.utime(stamp, ns=(number, number))
        assert words in why_incomplete(environment, wants) and bool(words) == bool(
            why_incomplete(environment, wants)
        )


def install_deps() -> Any:
    """The real installer, as a module."""
    spec = importlib.util.spec_from_file_location("install_deps", ROOT / "install_deps.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pump_never_waits(tmp_path: Path) -> None:
    task = Task("Install")
    task.start([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    waits = []
    for _ in range(50):
        began = time.monotonic()
        task.pump()
        waits.append(time.monotonic() - began)
    assert min(waits) < 0.004  # one that waits does so every time; a busy machine does not
    task.cancel()
    finish(task)


def test_the_real_installer_speaks_this_language(tmp_path: Path) -> None:
    """`--check` changes nothing: it says that an empty folder holds no engine."""
    task = Task("Install")
    task.start(
        [
            sys.executable,
            "-I",
            "-u",
            str(ROOT / "install_deps.py"),
            "--env",
            str(tmp_path / "no"),
            "--json",
            "--torch",
            "cpu",
            "--check",
        ],
        tmp_path,
    )
    finish(task)
    assert task.code == 1 and task.text.startswith("error: ") and "not complete" in task.text
    assert task.findings[-1]["ok"] is False
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_the_doctor_answers_with_one_object(tmp_path: Path) -> None:
    task = Task("Check")
    task.start([sys.executable, "-m", "engine", "doctor", "--json"], ROOT)
    finish(task)
    report = task.findings[-1]
    assert {"ok", "text", "checks"} <= report.keys() and all(
        {"name", "state", "text"} <= check.keys() for check in report["checks"]
    )
