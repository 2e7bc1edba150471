"""Starts the engine and talks to it. Shared with Blender: standard library only.

Nothing here blocks for long: three threads read, write and collect the log, `poll` only
empties a queue. The engine lives as long as its standard input is open, so it cannot
outlive the program that started it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .errors import UserError
from .protocol import MAX_LINE, Message, ProtocolError, Quit, decode, encode

LOG_LINES = 400
_WINDOWS = os.name == "nt"


@dataclass(frozen=True)
class EngineDied:
    """The engine's process ended. `code` is its exit status; negative is minus the signal's
    number.
    """

    code: int


def child_environment(base: dict[str, str], extra: dict[str, str] | None = None) -> dict[str, str]:
    """Clean `base` of anything that steers another Python, for the engine; text is UTF-8."""
    clean = {
        k: v
        for k, v in base.items()
        if not k.upper().startswith("PYTHON") and k != "__PYVENV_LAUNCHER__"
    }
    ours = {
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash in C leaves its Python stack in the log
    }
    return {**clean, **ours, **(extra or {})}


def python_command(python: Path | str, module: str) -> list[str]:
    """Start a module of the engine, with `python_environment`; nothing is imported from the current
    folder.
    """
    return [os.fspath(python), "-P", "-m", module]


def python_environment(base: dict[str, str], root: Path | str) -> dict[str, str]:
    """Add to `child_environment` where the package `engine` is: in the folder `root`."""
    return child_environment(base, {"PYTHONPATH": os.fspath(root), "PYTHONSAFEPATH": "1"})


class EngineClient:
    """One running engine, which `start` makes. After `EngineDied` it is of no more use."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path | None = None) -> None:
        self.process = process
        self.log_path = log_path
        self._log: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._arrived: queue.Queue[Message | EngineDied] = queue.Queue()
        self._outgoing: queue.Queue[bytes | None] = queue.Queue()
        self._closed = False
        self._threads = {
            name: threading.Thread(target=target, name=f"engine {name}", daemon=True)
            for name, target in (
                ("log", self._collect_log),
                ("read", self._read),
                ("write", self._write),
            )
        }
        for thread in self._threads.values():
            thread.start()

    @classmethod
    def start(
        cls,
        python: Path | str,
        root: Path | str,
        env: dict[str, str] | None = None,
        log_path: Path | None = None,
    ) -> EngineClient:
        """Start `python -m engine serve`; `root` is the folder that holds the package `engine`.

        `env` is added to the cleaned environment of this process; the engine's log is also
        appended to `log_path`. Raises UserError if the interpreter cannot be started.
        """
        options: dict[str, Any] = {"start_new_session": True}
        if _WINDOWS:
            flags = getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(
                subprocess, "CREATE_NEW_PROCESS_GROUP", 0
            )
            options = {"creationflags": flags}
        try:
            process = subprocess.Popen(
                [*python_command(python, "engine"), "serve"],
                cwd=os.fspath(root),
                env={**python_environment(dict(os.environ), root), **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **options,
            )
        except OSError as error:
            raise UserError(
                f"The engine could not be started: {error}.", "Install or repair the engine."
            ) from error
        return cls(process, log_path)

    def send(self, message: Message) -> None:
        """Queue a message. If the engine is dead it is dropped: `poll` tells of the death."""
        self._outgoing.put(encode(message))

    def poll(self) -> list[Message | EngineDied]:
        """Return everything that arrived since the last call, without waiting; `EngineDied` comes
        last, once.
        """
        messages = []
        while True:
            try:
                messages.append(self._arrived.get_nowait())
            except queue.Empty:
                return messages

    def wait(self, timeout_s: float) -> list[Message | EngineDied]:
        """Do as `poll`, but wait for the first message, at most `timeout_s` seconds. Not for
        Blender's main thread.
        """
        try:
            first = self._arrived.get(timeout=timeout_s)
        except queue.Empty:
            return []
        return [first, *self.poll()]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log_tail(self, lines: int = 20) -> list[str]:
        """Return the last lines of the engine's log."""
        return list(self._log)[-lines:]

    def close(self, grace_s: float = 2.5) -> None:
        """Ask the engine to leave, wait up to `grace_s` seconds, then end it and its children."""
        if not self._closed:
            self._closed = True
            self.send(Quit())
            self._outgoing.put(None)  # closes its standard input
        deadline = time.monotonic() + grace_s
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.alive:
            self.kill()
        for thread in self._threads.values():
            thread.join(1.0)

    def kill(self) -> None:
        """End the engine and all its children at once."""
        if not self.alive:
            return
        if _WINDOWS:
            command = ["taskkill", "/T", "/F", "/PID", str(self.process.pid)]
            subprocess.run(
                command,
                capture_output=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                check=False,
            )
        elif hasattr(os, "killpg"):
            try:
                os.killpg(
                    self.process.pid, signal.SIGKILL
                )  # its own session: the group's number is its own
            except ProcessLookupError:
                return
        self.process.kill()

    def _read(self) -> None:
        pipe = _pipe(self.process.stdout)
        while line := pipe.readline(MAX_LINE + 1):
            try:
                self._arrived.put(decode(line))
            # e.g. what a site's startup file prints before the engine guards its output
            except ProtocolError as error:
                self._note(f"[wire] {error}")
        code = self.process.wait()
        self._outgoing.put(None)
        self._threads["log"].join(
            0.5
        )  # a child of the engine may hold the log open; its last lines are worth half a second
        self._arrived.put(EngineDied(code))
        pipe.close()

    def _write(self) -> None:
        pipe = _pipe(self.process.stdin)
        with contextlib.suppress(OSError):  # the engine is dead, which `poll` will tell
            while (line := self._outgoing.get()) is not None:
                pipe.write(line)
                pipe.flush()
        with contextlib.suppress(OSError):
            pipe.close()

    def _collect_log(self) -> None:
        pipe = _pipe(self.process.stderr)
        while line := pipe.readline(MAX_LINE):
            self._note(line.decode("utf-8", "replace").rstrip())
        pipe.close()

    def _note(self, line: str) -> None:
        self._log.append(line)
        if self.log_path is None:
            return
        try:
            with open(self.log_path, "a", encoding="utf-8") as log:
                log.write(line + "\n")
        except OSError as error:
            self._log.append(f"[log] {self.log_path} cannot be written: {error}")
            self.log_path = None


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # all three were asked for
    return pipe
