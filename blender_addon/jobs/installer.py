"""Runs install_deps.py and the engine's doctor as separate processes and listens to them. No bpy.

Both say what they do as JSON lines on standard output; everything else they print is kept as
a log. A task never blocks: `pump` empties a queue.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import tomllib
from collections import deque
from pathlib import Path
from typing import Any

from ...engine.bridge.client import child_environment
from ...engine.bridge.errors import UserError
from ...engine.bridge.user_folders import MOST_PATH, longest_path

_WINDOWS = os.name == "nt"
LOG_LINES = 2000
# install_deps.py writes it at the end of a whole installation, with what it installed
STAMP = "scene_splatter.json"


def python_in(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if _WINDOWS else "bin/python")


def engine_folder(usual: Path, other: Path, *, windows: bool) -> Path:
    """Where the engine's environment goes: into the `usual` folder, but on Windows into the `other`
    one where paths in the usual one would be too long and no engine is there yet.
    """
    if not windows or (usual / STAMP).is_file() or longest_path(str(usual)) <= MOST_PATH:
        return usual
    return other


def why_incomplete(environment: Path, pyproject: Path) -> str:
    """Why an environment of install_deps.py is not the engine that `pyproject` asks for, or an
    empty text. Cheap.
    """
    if not python_in(environment).is_file():
        return "The engine is not installed: press Install in the add-on's preferences"
    try:
        changed = (environment / STAMP).stat().st_mtime_ns
    except OSError:
        return (
            "The engine's installation did not come to its end: press Repair in the add-on's "
            "preferences"
        )
    if not _wanted(pyproject) <= _installed(environment / STAMP, changed):
        return (
            "The engine is of an older version of this add-on: press Repair or Update in the "
            "add-on's preferences"
        )
    return ""


@functools.lru_cache(maxsize=4)
def _wanted(pyproject: Path) -> frozenset[str]:
    return frozenset(
        tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    )


@functools.lru_cache(maxsize=4)
def _installed(stamp: Path, _changed: int) -> frozenset[str]:
    try:
        return frozenset(json.loads(stamp.read_text(encoding="utf-8"))["has"]["requirements"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def installing_python() -> str:
    """The interpreter that makes the environment: the one inside this Blender."""
    return sys.executable


class Task:
    """A process that reports in JSON lines, and what came of it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.text = ""
        self.factor = 0.0
        self.running = False
        self.code: int | None = None
        self.cancelled = False
        self.findings: list[dict[str, Any]] = []  # every JSON object it said
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def start(
        self, command: list[str], cwd: Path, environment: dict[str, str] | None = None
    ) -> None:
        """Run `command`. Raises UserError if it cannot be started."""
        options: dict[str, Any] = {"start_new_session": True}
        if _WINDOWS:
            flags = (
                "CREATE_NO_WINDOW",
                "CREATE_NEW_PROCESS_GROUP",
            )  # Windows' own subprocess has them
            options = {"creationflags": sum(getattr(subprocess, flag) for flag in flags)}
        try:
            self._process = subprocess.Popen(
                command,
                cwd=os.fspath(cwd),
                env=child_environment(dict(os.environ), environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                **options,
            )
        except OSError as error:
            raise UserError(
                f"{command[0]} could not be started: {error}.",
                "Choose another Python in the preferences.",
            ) from error
        self.running, self.code, self.cancelled = True, None, False
        self.text, self.factor = "", 0.0
        self.findings.clear()
        self.log.clear()
        self._lines = queue.Queue()  # what the process before it still says is nobody's
        reading = (self._process, self._lines)
        threading.Thread(target=_read, args=reading, name=self.title, daemon=True).start()

    def pump(self) -> bool:
        """Take what the process said since the last call. Whether anything changed."""
        changed = False
        while not self._lines.empty():
            line = self._lines.get()
            changed = True
            if line is None:
                self.running = False
                self.code = self._process.returncode if self._process else None
            else:
                self._take(line)
        return changed

    def _take(self, line: str) -> None:
        try:
            message = json.loads(line) if line.startswith("{") else None
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self.log.append(line)
            return
        self.findings.append(message)
        self.text = str(message.get("text", self.text)).strip()
        self.log.append(self.text)
        done, total = message.get("done"), message.get("total")
        if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
            self.factor = min(max(done / total, 0.0), 1.0)

    def cancel(self) -> None:
        """End the process and its children at once. install_deps.py can be run again after that."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.cancelled = True
        if _WINDOWS:
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False
            )
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout
    for line in process.stdout:
        lines.put(line.rstrip("\n"))
    process.wait()
    lines.put(None)
