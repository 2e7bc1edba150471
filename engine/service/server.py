"""The engine's side of the wire: reads messages, runs one job at a time, answers each Start once.

The main thread reads standard input; one worker thread runs the job. Closed input means that
Blender is gone: cancel and leave.
"""

from __future__ import annotations

import errno
import gc
import importlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..bridge import protocol
from ..bridge.errors import Cancelled, UserError
from ..bridge.progress import Report
from ..bridge.protocol import (
    MAX_LINE,
    Cancel,
    Done,
    Failed,
    Hello,
    Message,
    Progress,
    ProtocolError,
    Quit,
    Start,
    decode,
    encode,
    shortened,
)
from ..bridge.whole_file import FULL_DISK, append_text, refuse_links
from ..models.machine import likely_device

log = logging.getLogger(__name__)

JOB_MODULES = {  # each has run_job(folder, report, settings)
    "generate": "..job.run",
    "redo": "..job.variants",
    "convert": "..commands.convert",
    "render": "..commands.render",
    "mesh": "..commands.mesh",
    "rehearsal": ".rehearsal",
}
# a job that does not notice its cancellation for so long is left behind when the engine leaves
LEAVE_S = 0.4
_DISK_ERRORS = {
    errno.ENOSPC: FULL_DISK,
    errno.EROFS: "Choose a folder that can be written.",
    errno.EACCES: "Choose a folder that can be written.",
}
ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv"  # where install_deps.py makes it
_PROGRESS_S = (
    0.05  # at most one Progress in this time, but for a new stage, a preview or the end of a stage
)


def guard_standard_streams() -> tuple[IO[bytes], IO[bytes]]:
    """(input, output) of the wire, moved away from descriptors 0 and 1.

    Afterwards descriptor 1 is the log, so that prints, from C too, cannot disturb the wire, and
    descriptor 0 is empty, so that a child (ffmpeg) cannot eat messages, nor a C runtime on
    Windows wait for the pipe that the main thread is reading.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb", buffering=0)


class _Job:
    """The job at hand: its Start, whether it was asked to stop, and its thread."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.cancel = threading.Event()
        self.over = False
        self.thread: threading.Thread | None = None


class Server:
    """One wire, one job at a time."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._writing = threading.Lock()
        self._job: _Job | None = None

    def serve(self) -> bool:
        """Read until Quit or the end of input. False if a job had to be left behind running."""
        self._send(Hello(protocol.VERSION, protocol.ENGINE_VERSION, likely_device()))
        try:
            self._read()
        except KeyboardInterrupt:
            log.warning("interrupted")
        return self._leave()

    def _read(self) -> None:
        while line := self._incoming.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                self._skip_line()
            try:
                message = decode(line)
            except ProtocolError as error:
                log.warning("refused: %s", error)
                continue
            if isinstance(message, Quit):
                break
            self._handle(message)

    def _skip_line(self) -> None:
        while (part := self._incoming.readline(MAX_LINE)) and not part.endswith(b"\n"):
            pass

    def _handle(self, message: Message) -> None:
        running = self._job if self._job is not None and not self._job.over else None
        if isinstance(message, Start):
            if running is not None:
                hint = "Wait for it or cancel it."
                self._send(
                    Failed(
                        message.job,
                        f"The engine is busy with job {shortened(running.start.job, 60)}.",
                        hint,
                    )
                )
                return
            self._job = job = _Job(message)
            job.thread = threading.Thread(target=self._work, args=(job,), name="job", daemon=True)
            job.thread.start()
        elif isinstance(message, Cancel):
            if running is not None and running.start.job == message.job:
                running.cancel.set()
        else:
            log.warning("refused: %s is not for the engine", type(message).__name__)

    def _leave(self) -> bool:
        job = self._job
        if job is None or job.thread is None:
            return True
        job.cancel.set()
        job.thread.join(LEAVE_S)
        return not job.thread.is_alive()

    def _work(self, job: _Job) -> None:
        answer: Message = Failed(
            job.start.job,
            "The job ended without an answer.",
            "This is a bug; see the engine's log.",
        )
        try:
            answer = run_job(job.start, self._reporter(job))
        finally:
            _release_memory()
            job.over = True  # before the answer: who has it may start the next job
            self._send(answer)

    def _reporter(self, job: _Job) -> Report:
        last_s, last_stage = -1.0, ""

        def report(
            stage: str, done: int, total: int, text: str = "", preview: Path | None = None
        ) -> None:
            nonlocal last_s, last_stage
            if job.cancel.is_set():
                raise Cancelled
            now_s = time.monotonic()
            if (
                stage == last_stage
                and preview is None
                and done < total
                and now_s - last_s < _PROGRESS_S
            ):
                return
            last_s, last_stage = now_s, stage
            shown = str(preview) if preview is not None else ""
            if not self._send(
                Progress(job.start.job, stage, int(done), int(total), shortened(text), shown)
            ):
                raise Cancelled

        return report

    def _send(self, message: Message) -> bool:
        """False if nobody reads any more."""
        with self._writing:
            try:
                self._outgoing.write(encode(message))
            except OSError as error:
                log.warning("nobody reads the engine's messages: %s", error)
                return False
            return True


def run_job(start: Start, report: Report) -> Message:
    """Run a job to its end; whatever happens becomes one answer."""
    folder = Path(start.folder)

    def work() -> dict[str, Any]:
        if start.kind not in JOB_MODULES:
            raise UserError(
                f"The engine knows no job of kind {start.kind!r:.60}.",
                "Restart Blender after updating the add-on.",
            )
        if not folder.is_absolute() or not folder.is_dir():
            raise UserError(
                f"The job folder {start.folder} does not exist.", "Start the job again."
            )
        refuse_links(folder)
        module = importlib.import_module(JOB_MODULES[start.kind], __package__)
        return dict(module.run_job(folder, report, start.settings))

    return answered(start.job, start.kind, folder, work)


def answered(job: str, kind: str, folder: Path, work: Callable[[], dict[str, Any]]) -> Message:
    """Do the work of a job and make one answer of its outputs, or of whatever it raises."""
    try:
        answer = Done(job, work())
        encode(answer)  # a bug in a job's outputs is that job's failure
        return answer
    except Cancelled:
        return protocol.Cancelled(job)
    except UserError as error:
        log.warning("job %s: %s", job, error)
        return Failed(job, shortened(error.message), shortened(error.hint))
    except (Exception, SystemExit) as error:
        log.exception("job %s (%s) failed", job, kind)
        message, hint = describe_failure(error)
        return Failed(
            job, message, hint or f"The full report is in {_write_report(folder, error)}."
        )


def describe_failure(error: BaseException) -> tuple[str, str]:
    """(message, remedy) of an error that nobody foresaw; the remedy is empty where only the log
    helps.
    """
    if isinstance(error, ModuleNotFoundError) and _not_ours(error.name):
        lacks = f"This Python, {sys.executable}, lacks the package {error.name}."
        return lacks, remedy_of_absent_packages()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        place = "graphics memory" if type(error).__name__ == "OutOfMemoryError" else "memory"
        remedy = (
            "Lower width, max_gaussians or segment_length, close other programs, or choose "
            "the preset draft."
        )
        return f"The machine ran out of {place}.", remedy
    if isinstance(error, OSError) and error.errno is not None and error.errno in _DISK_ERRORS:
        place = error.filename2 or error.filename or "the job folder"  # of a copy, where it goes
        return f"{error.strerror}: {place}.", _DISK_ERRORS[error.errno]
    return shortened(f"{type(error).__name__}: {error}".rstrip(": "), 1000), ""


def _not_ours(module: str | None) -> bool:
    return bool(module) and str(module).partition(".")[0] != __name__.partition(".")[0]


def remedy_of_absent_packages(environment: Path = ENVIRONMENT) -> str:
    """What to do where packages of the engine are missing: mostly this is another Python than the
    one that has them, in `environment`.
    """
    own = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if own.is_file() and not os.path.samefile(sys.prefix, environment):
        return f"Use the engine's own Python, which has all: {own}"
    return "Run install_deps.py again: it makes or mends the engine's own Python, in .venv."


def _write_report(folder: Path, error: BaseException) -> Path:
    """Append the traceback to the job's log; the engine's own log has it too."""
    path = folder / "engine.log"
    try:
        append_text(path, "".join(traceback.format_exception(error)))
    except OSError as reason:
        log.warning("%s cannot be written: %s", path, reason)
        return Path("the engine's log")
    return path


def _release_memory() -> None:
    """Give graphics memory back: Blender wants it while no job runs."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
