"""The one engine and its one job: start, cancel, pump(), status. Never waits for anything.

It knows no bpy. `delivery` calls `pump` ten times a second from a persistent timer, and does what
concerns the scene. Timers do not fire without a window; headless.py and the tests call `pump`
themselves.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ...engine.bridge import protocol
from ...engine.bridge.client import EngineClient, EngineDied
from ...engine.bridge.errors import UserError
from ...engine.bridge.estimate import Clock
from ...engine.bridge.protocol import (
    Cancel,
    Cancelled,
    Done,
    Failed,
    Hello,
    Message,
    Progress,
    Quit,
    Start,
)
from . import folders
from .slices import Result, Step

log = logging.getLogger(__name__)

PUMP_S = 0.1
CANCEL_GRACE_S = 2.0  # then the engine is ended by force
START_GRACE_S = 120.0  # a cold start from a slow disk; a Hello needs no torch
IDLE_S = 300.0  # an engine without work leaves after this: its memory belongs to Blender


class Phase(enum.Enum):
    """Where the job at hand stands."""

    IDLE = "idle"
    PREPARING = "preparing"  # Blender reads the camera and writes the inputs, slice by slice
    STARTING = "starting"  # the engine has not said Hello
    RUNNING = "running"
    CANCELLING = "cancelling"
    DELIVERING = "delivering"  # Done; waiting for a moment at which Blender can import


@dataclass(frozen=True)
class Problem:
    """An error as the panel keeps it."""

    message: str
    hint: str
    details: str = ""  # for "Copy details"
    log: Path | None = None  # for "Open log"


@dataclass
class Status:
    """What the panel draws."""

    phase: Phase = Phase.IDLE
    stage: str = ""
    done: int = 0
    total: int = 0
    text: str = ""
    preview: str = ""
    started_s: float = 0.0  # monotonic
    stage_started_s: float = 0.0
    stage_first_done: int = 0
    stage_is_warm: bool = False
    folder: Path | None = None
    problem: Problem | None = None
    outcome: str = ""  # one line on how the last job ended
    delivered: str = ""  # name of the object that it became, empty if it was not imported
    ended_s: float = 0.0  # monotonic, of the last job's end
    clock: Clock | None = (
        None  # where the job is in the whole of its work; None where only stages are known
    )
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        return self.phase is not Phase.IDLE

    @property
    def factor(self) -> float:
        """Share of the job that is done, 0 to 1; of the stage where the whole is not known."""
        if self.clock is not None and self.phase in (Phase.RUNNING, Phase.CANCELLING):
            return self.clock.share
        return min(max(self.done / self.total, 0.0), 1.0) if self.total > 0 else 0.0

    def elapsed_s(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self.started_s

    def remaining_s(self) -> float | None:
        """Seconds until the job ends, or the stage where the whole is not known; None while that is
        anybody's guess.
        """
        if self.phase is not Phase.RUNNING:
            return None
        if self.clock is not None:
            return self.clock.left_s()
        steps = self.done - self.stage_first_done
        spent = time.monotonic() - self.stage_started_s
        if self.total <= 0 or steps <= 0 or spent < 1.0:
            return None
        return (self.total - self.done) * spent / steps


@dataclass(frozen=True)
class EngineCommand:
    """How to start the engine."""

    python: Path
    root: Path  # folder that holds the package `engine`
    environment: dict[str, str]
    log: Path


class Delivery(NamedTuple):
    """What became of a finished job: the object it became, if any, and one line for the user."""

    imported: str
    outcome: str


Deliver = Callable[[Path, folders.Ticket, dict[str, Any]], Delivery]


class Session:
    """One engine, one job. Nothing here knows Blender: who draws and who imports is handed in."""

    def __init__(
        self, deliver: Deliver, can_deliver: Callable[[Path], str], changed: Callable[[], None]
    ) -> None:
        """`deliver` brings the result into Blender; `can_deliver` says why that cannot be now, or
        nothing; `changed` redraws.
        """
        self.status = Status()
        self._deliver = deliver
        self._can_deliver = can_deliver
        self._changed = changed
        self._client: EngineClient | None = None
        self._command: EngineCommand | None = None
        self._hello: Hello | None = None
        self._leaving = False  # it was asked to quit
        self._asked_s = 0.0  # when the engine was started, or asked to cancel
        self._idle_since_s = 0.0
        self._claim: folders.Claim | None = None
        self._start: Start | None = None
        self._ticket: folders.Ticket | None = None
        self._count = 0
        self._steps: Generator[Step, None, Any] | None = None
        self._take_prepared: Callable[[Any], str] = lambda _: ""
        self._shown_s = 0.0

    @property
    def device(self) -> str:
        """Where the running engine computes; empty if none runs."""
        return self._hello.device if self._hello else ""

    @property
    def engine_pid(self) -> int | None:
        return self._client.process.pid if self._client and self._client.alive else None

    def refuse_if_busy(self) -> None:
        """Raises UserError while a job runs."""
        if self.status.busy:
            raise UserError("A job is running already.", "Wait for it or cancel it.")

    def prepare(
        self, steps: Generator[Step, None, Result], finish: Callable[[Result], str]
    ) -> None:
        """Let `pump` do sliced work, then call `finish` with its result: one line for the user,
        empty if it started a job.

        Raises UserError if a job runs.
        """
        self.refuse_if_busy()
        now = time.monotonic()
        self.status = Status(Phase.PREPARING, started_s=now, stage_started_s=now)
        self._steps, self._take_prepared = steps, finish
        self._changed()

    def start(
        self,
        command: EngineCommand,
        folder: Path,
        ticket: folders.Ticket,
        kind: str = "generate",
        settings: dict[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Begin the job whose inputs lie in `folder`. Returns at once; `pump` does the rest.

        clock: of the whole job, where its work is known.
        Raises UserError if a job runs, the folder is at work elsewhere, or the engine cannot be
        started.
        """
        self.refuse_if_busy()
        claim = folders.Claim(folder)
        try:
            folders.write_ticket(folder, ticket)
            self._need_engine(command)
        except UserError:
            claim.release()
            raise
        self._count += 1
        self._claim, self._ticket = claim, ticket
        self._start = Start(f"{folder.name}#{self._count}", kind, str(folder), settings or {})
        now = time.monotonic()
        self.status = Status(
            Phase.STARTING,
            "Starting the engine",
            started_s=now,
            stage_started_s=now,
            folder=folder,
            clock=clock,
        )
        if self._hello is not None:
            self._send_start()
        self._changed()

    def cancel(self) -> None:
        """Ask the job to stop; `pump` sees to it that it does within two seconds."""
        if self.status.phase is Phase.PREPARING:
            self._end_preparing("Cancelled before it began.")
        elif self.status.phase is Phase.STARTING:
            self._finish("Cancelled before it began.")
        elif self.status.phase is Phase.DELIVERING:
            self._finish("Not imported. The result is in the job folder.")
        elif self.status.phase is Phase.RUNNING and self._client and self._start:
            self._client.send(Cancel(self._start.job))
            self._asked_s = time.monotonic()
            self.status.phase = Phase.CANCELLING
            self.status.text = "Cancelling"
        self._changed()

    def saved_as(self, blend: str) -> None:
        """The file that asked for the job at hand is now `blend`; a full disk is only logged, the
        job goes on.
        """
        if self._ticket is None or self._ticket.blend == blend or self.status.folder is None:
            return
        self._ticket = dataclasses.replace(self._ticket, blend=blend)
        try:
            folders.write_ticket(self.status.folder, self._ticket)
        except UserError as error:
            log.warning("%s", error)

    def fail(self, error: UserError, details: str = "") -> None:
        """Keep an error that happened before the engine had any part in it."""
        self.status.problem = Problem(error.message, error.hint, details or str(error))
        self._changed()

    def forget_outcome(self) -> None:
        """It was about something that is past."""
        if not self.status.busy:
            self.status.outcome = self.status.delivered = ""
            self._changed()

    def forget_problem(self) -> None:
        """The user has read it."""
        self.status.problem = None
        self._changed()

    def pump(self) -> float | None:
        """Take what the engine said and act on it. Returns seconds until the next call, None when
        there is no engine.
        """
        client = self._client
        if client is not None:
            before = dataclasses.replace(self.status)
            for message in client.poll():
                self._take(message)
            self._watch_the_clock()
            if self.status != before:
                self._changed()
        if self.status.phase is Phase.PREPARING:
            self._prepare()
        elif self.status.phase is Phase.DELIVERING:
            self._try_to_deliver()
        if self.status.phase is Phase.PREPARING:
            return 0.0
        return PUMP_S if self.status.busy else (1.0 if self._client else None)

    def release(self) -> None:
        """End an engine that waits for the next job, so that nobody has its files open. Raises
        UserError while a job runs.
        """
        self.refuse_if_busy()
        if self._client is not None:
            self._client.close()
        self._drop_engine()

    def close(self) -> None:
        """End the engine. What a job had finished stays in its folder, to be resumed."""
        if self._steps is not None:
            self._end_preparing()
        if self._client is not None:
            self._client.close()
        self._drop_engine()
        self._finish("")

    def _prepare(self) -> None:
        """One slice."""
        assert self._steps is not None
        status = self.status
        try:
            status.stage, status.done, status.total = next(self._steps)
            if (
                time.monotonic() - self._shown_s > PUMP_S
            ):  # drawing after every slice would take longer than the work
                self._shown_s = time.monotonic()
                self._changed()
        except StopIteration as stop:
            self._end_preparing()
            try:
                outcome = self._take_prepared(stop.value)
            except UserError as error:
                self.fail(error)
            else:
                self.status.outcome = outcome or self.status.outcome
                self._changed()
        except UserError as error:
            self._end_preparing()
            self.fail(error)
        except (
            BaseException
        ) as error:  # a bug goes on to Blender's console, but must not leave work that never ends
            self._end_preparing()
            self.fail(
                UserError(
                    f"The job could not be prepared ({error}).", "Copy Details for a bug report."
                )
            )
            raise

    def _end_preparing(self, outcome: str = "") -> None:
        if self._steps is not None:
            self._steps.close()
        self._steps = None
        self._finish(outcome)

    def _need_engine(self, command: EngineCommand) -> None:
        if (
            self._client is not None
            and self._client.alive
            and command == self._command
            and not self._leaving
        ):
            return
        self._drop_engine()
        self._client = EngineClient.start(
            command.python, command.root, command.environment, command.log
        )
        self._command = command
        self._asked_s = time.monotonic()

    def _send_start(self) -> None:
        assert self._client and self._start
        self._client.send(self._start)
        self.status.phase = Phase.RUNNING
        self.status.stage = "Waiting for the engine's first step"

    def _take(self, message: Message | EngineDied) -> None:
        if isinstance(message, Hello):
            self._greet(message)
        elif isinstance(message, EngineDied):
            self._bury(message.code)
        elif self._start is not None and getattr(message, "job", None) == self._start.job:
            self._take_from_job(message)

    def _take_from_job(self, message: Message) -> None:
        if isinstance(message, Progress):
            self._advance(message)
        elif isinstance(message, Done):
            self._take_result(message)
        elif isinstance(message, Cancelled):
            self._finish("Cancelled. What was finished is kept; Resume goes on from there.")
        elif isinstance(message, Failed):
            self._fail_job(message)

    def _fail_job(self, message: Failed) -> None:
        """The engine gave up. Where the fault is in the picture the user's own file is named, and
        there is nothing to resume.
        """
        assert self._ticket is not None and self.status.folder is not None
        error, ticket, folder = message.error, self._ticket, self.status.folder
        copy = next(
            (str(p) for p in sorted((folder / "input").glob("image.*")) if str(p) in error), ""
        )
        if copy:
            error = error.replace(copy, ticket.picture or Path(copy).name)
            self._ticket = dataclasses.replace(ticket, dismissed=True)
            try:
                folders.write_ticket(folder, self._ticket)
            except UserError as full:  # the job is offered once more, and fails once more
                log.warning("%s", full)
        self._finish("", self._problem(error, message.hint))

    def _greet(self, hello: Hello) -> None:
        if hello.protocol != protocol.VERSION or hello.engine != protocol.ENGINE_VERSION:
            theirs, ours = (
                f"{hello.engine} (wire {hello.protocol})",
                f"{protocol.ENGINE_VERSION} (wire {protocol.VERSION})",
            )
            problem = self._problem(
                f"The engine has version {theirs}, the add-on {ours}.",
                "Restart Blender after updating the add-on.",
            )
            self._drop_engine()
            self._finish("", problem)
            return
        self._hello = hello
        if self.status.phase is Phase.STARTING:
            self._send_start()

    def _advance(self, message: Progress) -> None:
        status = self.status
        if status.clock is not None:
            status.clock.tell(message.stage, message.done, message.total)
        if message.stage != status.stage or message.done < status.done:
            status.stage_started_s, status.stage_first_done, status.stage_is_warm = (
                time.monotonic(),
                message.done,
                False,
            )
        elif (
            message.done > status.done and not status.stage_is_warm
        ):  # the first step also loads and compiles: no measure of the others
            status.stage_started_s, status.stage_first_done, status.stage_is_warm = (
                time.monotonic(),
                message.done,
                True,
            )
        status.stage, status.done, status.total = message.stage, message.done, message.total
        if status.phase is not Phase.CANCELLING:
            status.text = message.text
        status.preview = message.preview or status.preview

    def _take_result(self, message: Done) -> None:
        assert self._ticket and self.status.folder
        self._ticket = dataclasses.replace(self._ticket, done=True)
        self.status.outputs = message.outputs
        self.status.phase = Phase.DELIVERING
        try:
            folders.write_ticket(self.status.folder, self._ticket)
        except UserError as error:  # the disk is full: the result can still be imported
            log.warning("%s", error)

    def _try_to_deliver(self) -> None:
        assert self._ticket and self.status.folder
        reason = self._can_deliver(self.status.folder)
        if reason:
            self.status.text = reason
            return
        try:
            delivery = self._deliver(self.status.folder, self._ticket, self.status.outputs)
            if delivery.imported:
                folders.write_ticket(
                    self.status.folder,
                    dataclasses.replace(self._ticket, imported=delivery.imported),
                )
        except UserError as error:
            self._finish("", self._problem(error.message, error.hint))
        except (
            BaseException
        ) as error:  # a bug goes on to Blender's console, but must not leave a job that never ends
            self._finish(
                "",
                self._problem(
                    f"The result could not be imported ({error}).",
                    "The job folder holds it: use File > Import.",
                ),
            )
            raise
        else:
            self._finish(delivery.outcome)
            self.status.delivered = delivery.imported

    def _bury(self, code: int) -> None:
        """The engine is dead."""
        busy = self.status.phase in (Phase.STARTING, Phase.RUNNING, Phase.CANCELLING)
        cancelled = self.status.phase is Phase.CANCELLING
        problem = None if cancelled or not busy else self._problem(*describe_death(code))
        self._drop_engine()
        if busy:
            self._finish(
                "Cancelled. What was finished is kept; Resume goes on from there."
                if cancelled
                else "",
                problem,
            )

    def _watch_the_clock(self) -> None:
        now = time.monotonic()
        phase, waited = self.status.phase, now - self._asked_s
        if phase is Phase.CANCELLING and waited > CANCEL_GRACE_S:
            self._drop_engine()
            self._finish(
                "Cancelled; the engine did not answer and was ended. What was finished is kept."
            )
        elif phase is Phase.STARTING and self._hello is None and waited > START_GRACE_S:
            problem = self._problem(
                f"The engine did not answer within {START_GRACE_S:.0f} s.",
                "Press Check in the add-on's preferences.",
            )
            self._drop_engine()
            self._finish("", problem)
        elif (
            phase is Phase.IDLE
            and self._client
            and now - self._idle_since_s > IDLE_S
            and not self._leaving
        ):
            self._client.send(Quit())  # its death comes as EngineDied
            self._leaving = True

    def _drop_engine(self) -> None:
        if self._client is not None:
            self._client.kill()
        self._client, self._hello, self._leaving = None, None, False

    def _problem(self, message: str, hint: str) -> Problem:
        tail = "\n".join(self._client.log_tail(20)) if self._client else ""
        own = self.status.folder / "engine.log" if self.status.folder else None
        path = own if own and own.is_file() else (self._command.log if self._command else None)
        status = self.status
        details = (
            f"{message}\n{hint}\nJob: {status.folder}\nStage: {status.stage} "
            f"{status.done}/{status.total}\n{tail}\n"
        )
        return Problem(message, hint, details, path)

    def _finish(self, outcome: str, problem: Problem | None = None) -> None:
        """The job is over, one way or another."""
        if self._claim is not None:
            self._claim.release()
        self._claim, self._start, self._ticket = None, None, None
        self.status.phase = Phase.IDLE
        self.status.outcome, self.status.problem = outcome, problem
        self.status.text = ""
        self._idle_since_s = self.status.ended_s = time.monotonic()


def describe_death(code: int) -> tuple[str, str]:
    """(message, remedy) for an engine that ended in mid job with this exit status."""
    resume = (
        "Resume goes on from the last finished segment; Open Log shows the engine's last words."
    )
    if code in (-9, 137, 0xC0000017):
        remedy = (
            "Usually memory ran out. Close other programs and press Resume: it keeps the job's own "
            "settings. Or choose Draft, or lower Width or Max Gaussians, and press Generate Scene."
        )
        return "The engine was ended by the system (signal 9).", remedy
    if code < 0:
        return f"The engine crashed (signal {-code}).", resume
    return f"The engine ended unexpectedly (exit code {code}).", resume
