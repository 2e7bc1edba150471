"""Many jobs in one go: on this machine in processes of their own, or on a Ray cluster.

A batch is a JSON file {"defaults": {...}, "jobs": [{"name", "kind", ...}, ...]}. Each job has a
folder of its own below the batch's output folder, and that is the only state: attempts.jsonl has a
line for each start, outcome.json appears when the job is over. Running the batch again skips jobs
that are done, takes up those that are not, and resumes generation after its last finished segment.

A job whose process dies (killed, out of memory, a lost node) is started again on another worker; a
job that fails for a reason that a person must mend is not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..bridge.errors import UserError

log = logging.getLogger(__name__)

KINDS = ("generate", "convert", "render", "mesh", "rehearsal")
ATTEMPTS, OUTCOME, REQUEST = "attempts.jsonl", "outcome.json", "batch_request.json"
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
        """Equal for equal requests."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


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


def read(path: Path) -> list[Request]:
    """The jobs of a batch file, defaults filled in. UserError for anything that is not one."""
    try:
        data = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"The batch {path} cannot be read: {error}.",
            "It is a JSON object with a list called jobs.",
        ) from error
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
    settings = {**defaults.get("settings", {}), **job.get("settings", {})}
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
            settings[key] = str(here / str(settings[key]))
    for key in _MAYBE_FILES:
        if kind == "generate" and settings.get(key) and (here / str(settings[key])).is_file():
            settings[key] = str(here / str(settings[key]))
    camera_path = str(values.get("path", "dolly:1.0"))
    if (here / camera_path).exists():
        camera_path = str(here / camera_path)
    image = str(here / values["image"]) if kind == "generate" else ""
    return Request(
        name,
        kind,
        image,
        camera_path if kind == "generate" else "",
        str(values.get("preset", "standard")),
        settings,
    )


# ---- in the worker


def work(folder: Path, request: Request) -> Outcome:
    """Do a job in its folder, in this process, and write its outcome. Never raises for a job's own failure."""
    from ..bridge.protocol import Done, Start
    from . import server

    started = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    where = f"{socket.gethostname()}:{os.getpid()}"
    try:
        _prepare(folder, request)
    except UserError as error:
        return _save(
            folder,
            Outcome(
                request.name,
                "failed",
                time.time() - started,
                1,
                where,
                str(error),
                {},
                request.fingerprint(),
            ),
        )
    with (folder / ATTEMPTS).open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started})
            + "\n"
        )
    attempts = len((folder / ATTEMPTS).read_text("utf-8").splitlines())
    settings = {} if request.kind == "generate" else request.settings
    answer = server.run_job(
        Start(request.name, request.kind, str(folder.resolve()), settings), _progress(folder)
    )
    seconds = time.time() - started
    if isinstance(answer, Done):
        return _save(
            folder,
            Outcome(
                request.name,
                "done",
                seconds,
                attempts,
                where,
                "",
                dict(answer.outputs),
                request.fingerprint(),
            ),
        )
    reason = f"{getattr(answer, 'error', 'cancelled')} {getattr(answer, 'hint', '')}".strip()
    return _save(
        folder,
        Outcome(
            request.name, "failed", seconds, attempts, where, reason, {}, request.fingerprint()
        ),
    )


def _prepare(folder: Path, request: Request) -> None:
    """The folder's inputs, copied and checked; a folder of the same job is taken up where it stopped."""
    if request.kind != "generate":
        return
    from ..bridge import settings as settings_module
    from ..job.run import prepare_job

    for mine in (
        ATTEMPTS,
        OUTCOME,
        REQUEST,
    ):  # a folder with foreign files in it is refused by the preparation
        if not (folder / "settings.json").exists():
            (folder / mine).unlink(missing_ok=True)
    settings = settings_module.make(request.preset, **request.settings)
    prepare_job(folder, Path(request.image), request.path, settings, resume=True)


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
    partial = folder / (OUTCOME + ".part")
    partial.write_text(json.dumps(asdict(outcome), indent=1) + "\n", "utf-8")
    os.replace(partial, folder / OUTCOME)
    return outcome


# ---- around the workers


def finished(folder: Path, request: Request) -> Outcome | None:
    """The outcome of an earlier run of the very same request that went well, or None."""
    try:
        data = json.loads((folder / OUTCOME).read_text("utf-8"))
        outcome = Outcome(**data)
    except (OSError, ValueError, TypeError):
        return None
    return (
        outcome if outcome.status == "done" and outcome.request == request.fingerprint() else None
    )


def run(
    requests: list[Request],
    out: Path,
    *,
    workers: int = 1,
    retries: int = 2,
    ray: str = "",
    gpus: float | None = None,
) -> Iterator[Outcome]:
    """Do the jobs that are not done yet; outcomes come as they end, those of earlier runs first.

    `ray` is a cluster's address ("auto", "ray://host:10001", or "local" to start one here): job
    folders and inputs must then lie on storage that all nodes share.
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
            _on_ray(waiting, out, workers, retries, ray, gpus)
            if ray
            else _in_processes(waiting, out, workers, retries)
        )


def _in_processes(
    requests: list[Request], out: Path, workers: int, retries: int
) -> Iterator[Outcome]:
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        futures = [
            pool.submit(_with_retries, request, out / request.name, retries, running)
            for request in requests
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:  # Ctrl-C, or the reader stopped reading: leave no process behind
            for future in futures:
                future.cancel()
            for process in list(running):
                process.kill()
            raise


def _with_retries(
    request: Request, folder: Path, retries: int, running: set[subprocess.Popen[bytes]]
) -> Outcome:
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        ),
    }
    command = [
        sys.executable,
        "-m",
        "engine.service.batch",
        str(folder.resolve()),
        json.dumps(asdict(request)),
    ]
    code = 0
    started = time.time()
    for attempt in range(retries + 1):
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        running.add(process)
        code = process.wait()
        running.discard(process)
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
    try:
        return Outcome(**json.loads((folder / OUTCOME).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _on_ray(
    requests: list[Request], out: Path, workers: int, retries: int, address: str, gpus: float | None
) -> Iterator[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "Ray is not installed in the engine's environment.",
            "Run: pip install ray, or leave --ray out.",
        ) from error
    environment = {"env_vars": {"PYTHONPATH": str(_ROOT)}}
    try:
        if address == "local":
            if any(
                letter.isspace() for letter in sys.executable
            ):  # its shell command for a worker is not quoted: it would wait for ever
                raise UserError(
                    f"Ray cannot start workers with {sys.executable}: there is a space in the path.",
                    "Put the engine's environment elsewhere (install_deps.py --venv), or leave out --ray.",
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
        pending = {remote.remote(str((out / r.name).resolve()), asdict(r)): r for r in requests}
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1)
            yield _collected(ray, ready[0], pending.pop(ready[0]), out, retries)
    finally:
        ray.shutdown()


def _ray_task(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Runs on a node: imports the engine there, so nothing of it is sent over."""
    import importlib
    from pathlib import Path

    batch = importlib.import_module("engine.service.batch")
    return batch.asdict(batch.work(Path(folder), batch.Request(**request)))


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
            f"| {o.name} | {o.status} | {o.seconds:.1f} | {o.attempts} | {o.worker} | {result.replace('|', '/')} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """A worker process: FOLDER REQUEST_JSON."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    work(Path(arguments[0]), Request(**json.loads(arguments[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
