"""The command line: what it imports, and how it ends."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

import engine.__main__ as command_line
from engine.bridge.errors import Cancelled, UserError
from engine.commands import generate

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "engine", *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"]])
def test_help_imports_neither_torch_nor_numpy(arguments):
    told = run(*arguments)
    assert told.returncode == 0
    imported = {
        line.split("|")[-1].strip()
        for line in told.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "engine.bridge.errors" in imported
    assert not imported & {"torch", "numpy", "numba", "scipy"}


def test_every_command_of_the_list_is_there():
    for name in command_line.COMMANDS:
        assert importlib.util.find_spec(f"engine.commands.{name}"), name


def test_a_wrong_command_exits_with_2():
    told = run("fly")
    assert told.returncode == 2 and "fly" in told.stderr


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (
            UserError("No such file: x.png.", "Give a picture."),
            2,
            "error: No such file: x.png. Give a picture.\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (Cancelled("Stopped; go on with --resume."), 130, "Stopped; go on with --resume.\n"),
        (MemoryError(), 1, "error: The machine ran out of memory. Lower width"),
        (RuntimeError("a bug"), 1, "error: RuntimeError: a bug The full report is in "),
    ],
)
def test_what_a_command_raises_becomes_a_line_and_an_exit_code(
    monkeypatch, capsys, raised, code, line
):
    def fail(args):
        raise raised

    command = types.SimpleNamespace(add_arguments=lambda parser: None, run=fail)
    monkeypatch.setitem(sys.modules, "engine.commands.render", command)
    assert command_line.main(["render"]) == code
    told = capsys.readouterr().err
    assert told.startswith(line) and told.count("\n") == 1
    if isinstance(raised, RuntimeError):
        report = Path(told.rsplit("is in ", 1)[1].rstrip().rstrip("."))
        assert "Traceback" in report.read_text(encoding="utf-8")
        report.unlink()


def test_progress_in_a_file_is_a_line_a_stage(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 2.0, 40.0, 41.0, 42.0])
    monkeypatch.setattr(generate.time, "monotonic", lambda: next(clock))
    with generate.progress() as report:  # standard error is no terminal here
        for done in (0, 1, 2, 3):
            report("refine", done, 4)
        report("refine", 4, 4)
        report("done", 1, 1, "All is well.")
    assert capsys.readouterr().err == "refine 0/4\nrefine 3/4\ndone: All is well.\n"
