"""Many jobs in one go: on this machine in processes of their own, or on a Ray cluster.

A batch is a JSON file {"defaults": {...}, "jobs": [{"name", "kind", ...}, ...]}. Each job has a
folder of its own below the batch's output folder, and that is the only state: attempts.jsonl has a
line for each start, outcome.json appears when the job is over. Running the batch again skips jobs
that are done, takes up those that are not, and resumes generation after its last finished segment.

A job is done when it is the same by content (its request and the bytes of every file it names) and
its outputs are as they were made. A generation whose inputs changed is refused, or begun anew with
`restart`, which keeps the earlier result under a number.

A job whose process dies (killed, out of memory, a lost node) is started again on another worker; a
job that fails for a reason that a person must mend is not. Workers end with the batch: each watches
its standard input, which the batch holds open.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from ..bridge import lock
from ..bridge.client import python_command
from ..bridge.errors import UserError
from ..bridge.reading import bytes_of, json_of
from ..bridge.whole_file import append_text, refuse_links, whole_file
from .leaving import leave

log = logging.getLogger(__name__)

KINDS = ("generate", "convert", "render", "mesh", "rehearsal")
ATTEMPTS, OUTCOME, LOCK = "attempts.jsonl", "outcome.json", "batch.lock"
PATIENCE_S = 10.0  # a worker of a killed batch is gone in less
_BUSY_CODE = 75  # of a worker that another one keeps from its folder
# settings of a kind that are input files, so relative to the batch file
_INPUTS = {
    "convert": ("input", "cameras", "image_plane"),
    "render": ("scene", "cameras", "holdout"),
    "mesh": ("scene", "cameras"),
    "rehearsal": (),
    "generate": (),
}
_MAYBE_FILES = ("depth", "initialiser")  # of generate: a name or a file
_KEYS = {"name", "kind", "image", "path", "preset", "settings"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Request:
    """One job of a batch, with absolute paths."""

    name: str
    kind: str = "generate"
    image: str = ""
    path: str = ""  # a camera path file or a move such as dolly:1.0
    preset: str = "standard"
    settings: dict[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Equal for requests that are equal, down to the bytes of the files that they name now."""
        text = json.dumps(asdict(self), sort_keys=True)
        taken = hashlib.sha256(text.encode())
        for file in self.files():
            taken.update(content(file).encode())
        return taken.hexdigest()

    def files(self) -> list[Path]:
        """The files and folders that the job is made from."""
        keys = _INPUTS[self.kind] + (_MAYBE_FILES if self.kind == "generate" else ())
        named = [self.image, self.path, *(str(self.settings.get(key) or "") for key in keys)]
        return [Path(name) for name in named if name and Path(name).exists()]


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    name: str
    status: str  # "done", "failed" (a person must mend it), "lost" (its process died too often)
    seconds: float = 0.0
    attempts: int = 0
    worker: str = ""
    error: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    request: str = ""  # fingerprint
    files: dict[str, str] = field(default_factory=dict)  # outputs on disk, by content


def content(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names; "gone" where there is
    neither.
    """
    from ..job import identity

    if path.is_file():
        return identity.digest(path)
    if not path.is_dir():
        return "gone"
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {identity.digest(file)}" for file in inside]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read(path: Path) -> list[Request]:
    """The jobs of a batch file, defaults filled in. UserError for anything that is not one."""
    data = json_of(path, 64 << 20)
    jobs = data.get("jobs") if isinstance(data, dict) else None
    defaults = data.get("defaults", {}) if isinstance(data, dict) else {}
    if not isinstance(jobs, list) or not jobs or not isinstance(defaults, dict):
        raise UserError(
            f"{path} has no list of jobs.",
            'Write {"jobs": [{"name": "shot_010", "image": "a.png", "path": "dolly:1.0"}]}.',
        )
    requests = [_request(job, defaults, i, path) for i, job in enumerate(jobs)]
    names = [r.name.lower() for r in requests]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(
            f"{path} has several jobs called {', '.join(twice)}.",
            "Give each job a name of its own.",
        )
    return requests


def _request(job: Any, defaults: dict[str, Any], index: int, path: Path) -> Request:
    if not isinstance(job, dict) or job.keys() - _KEYS or defaults.keys() - (_KEYS - {"name"}):
        raise UserError(
            f"Job {index + 1} of {path} does not have the form of a job.",
            f"It may hold {', '.join(sorted(_KEYS))}.",
        )
    parts = [part.get("settings", {}) for part in (defaults, job)]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"The settings of job {index + 1} of {path} are no object.", "Write {}.")
    settings = {**parts[0], **parts[1]}
    values = {**defaults, **job, "settings": settings}
    name = values.get("name", f"job_{index + 1:03d}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"Job {index + 1} of {path} is called {name!r}.",
            "Use letters, digits, dots, dashes and underscores.",
        )
    kind = values.get("kind", "generate")
    if kind not in KINDS:
        raise UserError(f"Job {name} is of kind {kind!r}.", f"Choose one of {', '.join(KINDS)}.")
    if kind == "generate" and not isinstance(values.get("image"), str):
        raise UserError(f"Job {name} has no image.", "Name the picture to start from.")
    here = path.resolve().parent
    for key in _INPUTS[kind]:
        if settings.get(key):
            settings[key] = str(_place(here, settings[key], name))
    for key in _MAYBE_FILES:
        if kind == "generate" and settings.get(key):
            place = _place(here, settings[key], name)
            settings[key] = str(place) if os.path.isfile(place) else settings[key]
    camera_path = str(values.get("path", "dolly:1.0"))
    if "\\" in camera_path or os.path.exists(here / camera_path):
        camera_path = str(_place(here, camera_path, name))
    image = str(_place(here, values["image"], name)) if kind == "generate" else ""
    return Request(
        name,
        kind,
        image,
        camera_path if kind == "generate" else "",
        str(values.get("preset", "standard")),
        settings,
    )


def _place(here: Path, value: Any, name: str) -> Path:
    """A file that a batch names, relative to the batch file; written on Windows, it is found
    elsewhere too.
    """
    text = str(value)
    if os.name != "nt" and not os.path.exists(here / text):  # which bears names of any length
        if PureWindowsPath(text).drive:
            raise UserError(
                f"Job {name} names {text}, a place on a Windows machine.",
                "Give a place of this machine, or one relative to the batch file.",
            )
        text = text.replace("\\", "/")
    return here / text


# ---- in the worker


def work(folder: Path, request: Request, restart: bool = False) -> Outcome:
    """Do a job in its folder, in this process, and write its outcome. Never raises for a job's own
    failure.

    Raises UserError where another batch is at work in the folder, or the folder is not a job's.
    """
    from ..bridge.protocol import Done, Start
    from . import server

    started = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    if request.kind == "generate":
        from ..job.folder import refuse_foreign  # with torch, which is needed anyway

        refuse_foreign(folder)
    refuse_links(folder)
    try:
        handle = lock.hold(folder / LOCK, PATIENCE_S)
    except BlockingIOError:
        raise UserError(f"Another batch is at work in {folder}.", "Wait for it.") from None
    with handle:
        line = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        append_text(folder / ATTEMPTS, json.dumps(line) + "\n")
        attempts = bytes_of(folder / ATTEMPTS).count(b"\n")
        report = _progress(folder)
        fingerprint = request.fingerprint()
        if request.kind == "generate":
            answer = server.answered(
                request.name,
                request.kind,
                folder,
                lambda: dict(_generate(folder, request, restart, report)),
            )
        else:
            start = Start(request.name, request.kind, str(folder.resolve()), request.settings)
            answer = server.run_job(start, report)
        done = isinstance(answer, Done)
        outputs = dict(answer.outputs) if isinstance(answer, Done) else {}
        reason = f"{getattr(answer, 'error', 'cancelled')} {getattr(answer, 'hint', '')}".strip()
        outcome = Outcome(
            request.name,
            "done" if done else "failed",
            time.time() - started,
            attempts,
            f"{socket.gethostname()}:{os.getpid()}",
            "" if done else reason,
            outputs,
            fingerprint,
            _contents(outputs),
        )
        return _save(folder, outcome)


def _contents(outputs: dict[str, Any]) -> dict[str, str]:
    """Those outputs that are files or folders, by content."""
    places = [value for value in outputs.values() if isinstance(value, str) and value]
    return {place: content(Path(place)) for place in places if Path(place).exists()}


def _generate(
    folder: Path, request: Request, restart: bool, report: Callable[..., None]
) -> dict[str, str]:
    """The scene of a request; a folder of the same job is taken up where it stopped."""
    from ..job import run
    from ..job.folder import AnotherJob

    def once(**how: Any) -> dict[str, str]:
        with run.prepared_job(
            folder,
            Path(request.image),
            request.path,
            request.preset,
            request.settings,
            patience_s=PATIENCE_S,
            **how,
        ) as job:
            return run.work(job, report)

    try:
        return once(resume=True)
    except AnotherJob as error:
        if restart:
            return once(restart=True)
        raise UserError(
            error.message,
            "Put that back, give the job another name, or run the batch with --restart: "
            "it begins this job anew and keeps what is here under earlier/.",
        ) from error


def _progress(folder: Path) -> Callable[..., None]:
    last = 0.0

    def report(
        stage: str, done: int, total: int, text: str = "", preview: Path | None = None
    ) -> None:
        nonlocal last
        if time.monotonic() - last > 5 or done >= total:
            last = time.monotonic()
            log.info("%s: %s %d/%d %s", folder.name, stage, done, total, text)

    return report


def _save(folder: Path, outcome: Outcome) -> Outcome:
    with whole_file(folder / OUTCOME) as temporary:
        temporary.write_text(json.dumps(asdict(outcome), indent=1) + "\n", "utf-8")
    return outcome


# ---- around the workers


def finished(folder: Path, request: Request) -> Outcome | None:
    """The outcome of an earlier run that went well, of the very same request and with all its
    outputs; or None.
    """
    outcome = _read_outcome(folder)
    if outcome is None or outcome.status != "done" or outcome.request != request.fingerprint():
        return None
    places = outcome.files.items()
    return outcome if all(content(Path(place)) == was for place, was in places) else None


def run(
    requests: list[Request],
    out: Path,
    *,
    workers: int = 1,
    retries: int = 2,
    ray: str = "",
    gpus: float | None = None,
    restart: bool = False,
) -> Iterator[Outcome]:
    """Do the jobs that are not done yet; outcomes come as they end, those of earlier runs first.

    `ray` is a cluster's address ("auto", "ray://host:10001", or "local" to start one here): job
    folders and inputs must then lie on storage that all nodes share. `restart`: begin generations
    whose inputs have changed anew.
    """
    out.mkdir(parents=True, exist_ok=True)
    waiting = []
    for request in requests:
        before = finished(out / request.name, request)
        if before is not None:
            yield before
        else:
            (out / request.name / OUTCOME).unlink(missing_ok=True)
            waiting.append(request)
    if waiting:
        yield from (
            _on_ray(waiting, out, workers, retries, ray, gpus, restart)
            if ray
            else _in_processes(waiting, out, workers, retries, restart)
        )


def _in_processes(
    requests: list[Request], out: Path, workers: int, retries: int, restart: bool
) -> Iterator[Outcome]:
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        futures = [
            pool.submit(_with_retries, request, out / request.name, retries, restart, running)
            for request in requests
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:  # Ctrl-C, or the reader stopped reading: leave no process behind
            for future in futures:
                future.cancel()
            for process in list(running):
                _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker and its children."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)  # its own session: the group's number is its own
        except ProcessLookupError:
            return
    process.kill()


def _environment() -> dict[str, str]:
    """This process's own, in which workers find the engine, and nothing by way of the current
    folder.
    """
    places = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(p)]
    path = os.pathsep.join([str(_ROOT), *places])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _with_retries(
    request: Request,
    folder: Path,
    retries: int,
    restart: bool,
    running: set[subprocess.Popen[bytes]],
) -> Outcome:
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *python_command(sys.executable, "engine.service.batch"),
        str(folder.resolve()),
        json.dumps(asdict(request)),
        "restart" if restart else "resume",
    ]
    code = 0
    started = time.time()
    for attempt in range(retries + 1):
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.PIPE,  # held open: its end tells the worker that the batch is gone
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        running.add(process)
        said, _ = process.stdout.read() if process.stdout else b"", process.wait()
        code = process.returncode
        running.discard(process)
        if process.stdin:
            process.stdin.close()
        if code == _BUSY_CODE:  # its folder is another batch's: no outcome is written there
            return Outcome(request.name, "failed", error=said.decode("utf-8", "replace").strip())
        outcome = _read_outcome(folder)
        if outcome is not None:
            return outcome
        log.warning(
            "%s: its process ended with code %d on attempt %d", request.name, code, attempt + 1
        )
    error = (
        f"Its process died {retries + 1} times, last with code {code}. See {folder / 'engine.log'}."
    )
    folder.mkdir(parents=True, exist_ok=True)
    return _save(
        folder,
        Outcome(
            request.name,
            "lost",
            time.time() - started,
            retries + 1,
            "",
            error,
            {},
            request.fingerprint(),
        ),
    )


def _read_outcome(folder: Path) -> Outcome | None:
    """What a folder says of the job in it; None where that is nothing or of wrong kinds."""
    try:
        found = Outcome(**json_of(folder / OUTCOME, 64 << 20))
    except (UserError, TypeError):
        return None
    known = asdict(Outcome("", ""))
    alike = all(
        isinstance(value, (int, float))
        if isinstance(known[name], float)
        else type(value) is type(known[name])
        for name, value in asdict(found).items()
    )
    return found if alike and all(isinstance(v, str) for v in found.files.values()) else None


def _on_ray(
    requests: list[Request],
    out: Path,
    workers: int,
    retries: int,
    address: str,
    gpus: float | None,
    restart: bool,
) -> Iterator[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "Ray is not installed in the engine's environment.",
            "Run: pip install ray, or leave --ray out.",
        ) from error
    environment = {"env_vars": {"PYTHONPATH": str(_ROOT), "PYTHONSAFEPATH": "1"}}
    try:
        if address == "local":
            if any(
                letter.isspace() for letter in sys.executable
            ):  # its shell command for a worker is not quoted: it would wait for ever
                raise UserError(
                    f"Ray cannot start workers with {sys.executable}: there is a space in the "
                    "path.",
                    "Put the engine's environment elsewhere (install_deps.py --venv), or leave "
                    "out --ray.",
                )
            ray.init(
                num_cpus=workers,
                include_dashboard=False,
                runtime_env=environment,
                log_to_driver=False,
                configure_logging=False,
            )
        else:
            ray.init(
                address=address,
                runtime_env=environment,
                log_to_driver=False,
                configure_logging=False,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"No Ray cluster answers at {address}: {error}.",
            "Start one with: ray start --head, or use --ray local.",
        ) from error
    try:
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) > 0 else 0.0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries, max_calls=1)(_ray_task)
        pending = {
            remote.remote(str((out / r.name).resolve()), asdict(r), restart): r for r in requests
        }
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1)
            yield _collected(ray, ready[0], pending.pop(ready[0]), out, retries)
    finally:
        ray.shutdown()


def _ray_task(folder: str, request: dict[str, Any], restart: bool) -> dict[str, Any]:
    """Runs on a node: imports the engine there, so nothing of it is sent over."""
    import importlib
    from pathlib import Path

    batch = importlib.import_module("engine.service.batch")
    asked = batch.Request(**request)
    try:
        return batch.asdict(batch.work(Path(folder), asked, restart))
    except batch.UserError as error:
        return batch.asdict(batch.Outcome(asked.name, "failed", error=str(error)))


_ray_task.__module__ = (
    "__main__"  # pickled by value: a node need not have this module loaded to receive it
)


def _collected(ray: Any, reference: Any, request: Request, out: Path, retries: int) -> Outcome:
    try:
        return Outcome(**ray.get(reference))
    except ray.exceptions.RayError as error:
        message = f"Its worker was lost {retries + 1} times: {str(error).splitlines()[0]}"
        (out / request.name).mkdir(parents=True, exist_ok=True)
        return _save(
            out / request.name,
            Outcome(request.name, "lost", 0.0, retries + 1, "", message, {}, request.fingerprint()),
        )


def table(outcomes: list[Outcome]) -> str:
    """The results as a Markdown table."""
    lines = ["| job | status | seconds | attempts | worker | result |", "|---|---|---|---|---|---|"]
    for o in outcomes:
        result = o.error or str(o.outputs.get("scene") or next(iter(o.outputs.values()), ""))
        lines.append(
            f"| {o.name} | {o.status} | {o.seconds:.1f} | {o.attempts} | {o.worker} | "
            f"{result.replace('|', '/')} |"
        )
    return "\n".join(lines) + "\n"


def _leave_with_the_batch() -> None:
    """Wait for the end of standard input, which the batch holds open, then end this process and its
    children.
    """
    while os.read(0, 4096):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    if os.name == "nt":
        tree = ["taskkill", "/T", "/F", "/PID", str(os.getpid())]
        subprocess.run(tree, capture_output=True, check=False)
    os._exit(1)


def main(arguments: list[str]) -> int:
    """A worker process: FOLDER REQUEST_JSON restart|resume. Exit code 75 where another one holds
    the folder.
    """
    threading.Thread(target=_leave_with_the_batch, daemon=True).start()
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    said, sys.stdout = sys.stdout, sys.stderr  # prints of libraries are no answer
    try:
        work(Path(arguments[0]), Request(**json.loads(arguments[1])), arguments[2] == "restart")
    except UserError as error:
        said.write(f"{error}\n")
        said.flush()
        return _BUSY_CODE
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
