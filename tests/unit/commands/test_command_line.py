"""The command line: what it imports, and how it ends."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import engine.__main__ as command_line
from engine.bridge.errors import Cancelled, UserError
from engine.commands import generate
from engine.service.server import remedy_of_absent_packages

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
        (
            OSError(errno.ENOSPC, "No space left on device", "mine.jpg", None, "job/image.jpg"),
            1,
            "error: No space left on device: job/image.jpg. Free some disk space",
        ),
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


def _told_by(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_a_python_without_the_packages_names_the_one_that_has_them(tmp_path):
    """As somebody does who types python instead of .venv/bin/python."""
    base = Path(sys.base_prefix, "python.exe" if os.name == "nt" else "bin/python3")
    told = _told_by(base, "-S", "-m", "engine", "generate", "--dry-run")
    assert told.returncode == 1 and told.stderr.count("\n") == 1, told.stderr
    assert "lacks the package" in told.stderr
    own = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    assert (str(own) if own.is_file() else "install_deps.py") in told.stderr
    assert "install_deps.py" in remedy_of_absent_packages(tmp_path)


def test_an_old_python_names_the_one_that_is_needed():
    """All that comes before the check must be known to it."""
    script = (
        "import runpy, sys; sys.version_info = (3, 9, 1, 'final', 0); sys.argv[1:] = ['doctor'];"
        "runpy.run_module('engine', run_name='__main__')"
    )
    told = _told_by(sys.executable, "-c", script)
    assert told.returncode == 1 and told.stderr.count("\n") == 1, told.stderr
    assert "this is Python 3.9;" in told.stderr and "3.11" in told.stderr


def test_progress_in_a_file_is_a_line_a_stage(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 2.0, 40.0, 41.0, 42.0])
    monkeypatch.setattr(generate.time, "monotonic", lambda: next(clock))
    with generate.progress() as report:  # standard error is no terminal here
        for done in (0, 1, 2, 3):
            report("refine", done, 4)
        report("refine", 4, 4)
        report("done", 1, 1, "All is well.")
    assert capsys.readouterr().err == "refine 0/4\nrefine 3/4\ndone: All is well.\n"
