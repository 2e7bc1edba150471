"""Short jobs for the engine beside the session's: convert, mesh, render. No bpy.

Each side job has an engine process of its own that ends with it, so a long generation goes on
undisturbed. It never blocks: `pump` takes what arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...engine.bridge.client import EngineClient, EngineDied
from ...engine.bridge.errors import UserError
from ...engine.bridge.protocol import (
    VERSION,
    Cancel,
    Cancelled,
    Done,
    Failed,
    Hello,
    Progress,
    Start,
)
from .session import EngineCommand

Finish = Callable[
    [dict[str, Any]], str
]  # takes the job's outputs, does the rest in Blender, says what was done
_JOB = "side job"


class SideJob:
    """One side job at a time, and what came of the last one."""

    def __init__(self) -> None:
        self.title = ""
        self.stage = ""
        self.factor = 0.0
        self.outcome = ""
        self.problem = ""
        self.running = False
        self._client: EngineClient | None = None
        self._start: Start | None = None
        self._finish: Finish | None = None
        self._always: Callable[[], None] = lambda: None

    def begin(
        self,
        title: str,
        command: EngineCommand,
        kind: str,
        folder: Path,
        settings: dict[str, Any],
        finish: Finish,
        always: Callable[[], None],
    ) -> None:
        """Start an engine and give it the job. `finish` runs after success, `always` at the end in
        every case.

        Raises UserError if a side job is under way or the engine cannot be started; `always`
        has run then.
        """
        if self.running:
            always()
            raise UserError(f"{self.title} is still running.", "Wait for it or cancel it.")
        try:
            self._client = EngineClient.start(
                command.python, command.root, command.environment, command.log
            )
        except UserError:
            always()
            raise
        self.title, self.stage, self.factor, self.outcome, self.problem = (
            title,
            "Starting the engine",
            0.0,
            "",
            "",
        )
        self._start = Start(_JOB, kind, str(folder), settings)
        self._finish, self._always, self.running = finish, always, True

    def pump(self) -> bool:
        """Take what the engine said. Whether anything changed."""
        if not self.running or self._client is None:
            return False
        messages = self._client.poll()
        for message in messages:
            if self.running:
                self._take(message)
        return bool(messages)

    def wait(self, limit_s: float = 3600.0) -> None:
        """Pump until the end. For scripts and background runs."""
        end = time.monotonic() + limit_s
        while self.running and time.monotonic() < end:
            self.pump()
            time.sleep(0.02)

    def cancel(self) -> None:
        """Ask the engine to stop at its next step."""
        if self.running and self._client is not None:
            self.stage = "Cancelling"
            self._client.send(Cancel(_JOB))

    def close(self) -> None:
        """End at once, for unregistering."""
        if self.running:
            self._end(problem="Blender ended it.")

    def _take(self, message: Any) -> None:
        assert self._client is not None and self._start is not None
        if isinstance(message, Hello):
            if message.protocol != VERSION:
                self._end(
                    problem="Engine and add-on have different versions. Restart Blender after "
                    "updating the add-on."
                )
            else:
                self._client.send(self._start)
        elif isinstance(message, Progress):
            self.stage = f"{message.stage} {message.text}".strip()
            self.factor = message.done / message.total if message.total > 0 else 0.0
        elif isinstance(message, Done):
            self._succeed(message.outputs)
        elif isinstance(message, Failed):
            self._end(problem=f"{message.error} {message.hint}".strip())
        elif isinstance(message, Cancelled):
            self._end(outcome=f"{self.title} was cancelled")
        elif isinstance(message, EngineDied):
            self._end(
                problem=f"The engine ended unexpectedly (code {message.code}): "
                f"{' '.join(self._client.log_tail(1))}"
            )

    def _succeed(self, outputs: dict[str, Any]) -> None:
        assert self._finish is not None
        try:
            self._end(outcome=self._finish(outputs))
        except UserError as error:
            self._end(problem=str(error))

    def _end(self, *, outcome: str = "", problem: str = "") -> None:
        client, self._client = self._client, None
        self.running, self.stage, self.factor = False, "", 0.0
        self.outcome, self.problem = outcome, problem
        always, self._always = self._always, lambda: None
        always()
        if client is not None:
            client.close(0.5)
