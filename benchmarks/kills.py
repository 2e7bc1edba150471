"""Kills a job at each file operation and at random moments, resumes it, and counts what is lost.

    python benchmarks/kills.py prepare            at each file operation of the preparation
    python benchmarks/kills.py restart            at each file operation of --restart on a finished
    job
    python benchmarks/kills.py redo               at each file operation that makes a variant of a
    finished job
    python benchmarks/kills.py results [STEP [FIRST]]   at operations FIRST, FIRST + STEP ... of a
    whole run's changes of files
    python benchmarks/kills.py random COUNT [SEED]   SIGKILL at random moments of a whole run

`--minutes N` begins no try later. torch and all kernels are loaded once; every try is a fork. A
try is lost where the job that is resumed does not end with the bits of one that nobody killed,
refused where neither a plain start nor --resume takes the folder, and leaves where a temporary file
is there afterwards. Prints one line of JSON. Linux.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from engine.bridge.errors import UserError
from engine.bridge.whole_file import is_partial
from engine.job import run, variants
from engine.job.folder import holds_job

VALUES = {"width": 48, "segment_length": 3, "overlap": 1, "refine_steps": 4, "steps": 2}
VALUES |= {"move_frames": 7, "frame_step": 1, "depth": "box", "prior": "patch", "device": "cpu"}
_CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.link",
    "os.symlink",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def make_picture(file: Path, seed: int) -> Path:
    """A small picture with some structure; another for each seed."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:36, 0:48]
    grid = 128 + 60 * ((x // (6 + seed) + y // 6) % 2)
    rgb = np.stack([x * 5, y * 7, grid], axis=2).clip(0, 255).astype(np.uint8)
    Image.fromarray(rgb).save(file)
    return file


def forked(work: Callable[[], None], kill_after_s: float | None = None) -> int:
    """Run `work` in a child: 0 done, 2 refused, 1 another error, -9 killed."""
    child = os.fork()
    if child == 0:
        try:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 2)
            work()
            os._exit(0)
        except UserError as error:
            os.write(1, f"refused: {error}\n".encode())
            os._exit(2)
        except BaseException as error:
            os.write(1, f"failed: {type(error).__name__}: {error}\n".encode())
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def kill_at(number: int, folder: Path) -> None:
    """From here on, this process kills itself before its `number`th change of a file in
    `folder`.
    """
    seen, inside = 0, str(folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        changes = event in _CHANGES or (
            event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        )
        if changes and any(str(a).startswith(inside) for a in arguments[:2]):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def quiet(*_: object, **__: object) -> None:
    """A report that nobody reads."""


def start(folder: Path, picture: Path, **how: bool) -> None:
    """The command: prepare and work."""
    with run.prepared_job(folder, picture, "truck:1.0", "draft", VALUES, **how) as job:
        run.work(job, quiet)


def prepare(folder: Path, picture: Path, **how: bool) -> None:
    """The preparation alone."""
    with run.prepared_job(folder, picture, "truck:1.0", "draft", VALUES, **how):
        pass


def redo(folder: Path) -> None:
    """The preparation of a redo alone: from segment 2 of 3."""
    with variants.prepared_redo(folder, variants.Wish({"seed": 3}, segment=2)):
        pass


def state(folder: Path) -> dict[str, str]:
    """What must be the same bits after a resume, by name."""
    names = ["scene.ply", "cameras.json", "settings.json", *_glob(folder, "input/*")]
    names += [*_glob(folder, "frames/*.png"), *_glob(folder, "segments/*/gaussians.npz")]
    return {n: _content(folder / n) for n in names if (folder / n).is_file()}


def _content(file: Path) -> str:
    if file.suffix == ".npz":  # the archive holds the time at which it was written
        import numpy as np

        with np.load(file) as arrays:
            data = b"".join(arrays[name].tobytes() for name in arrays.files)
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _glob(folder: Path, pattern: str) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in sorted(folder.glob(pattern))]


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders anywhere in a folder."""
    return [str(f.relative_to(folder)) for f in folder.rglob("*") if is_partial(f.name)]


class Count:
    """What became of the tries."""

    def __init__(self) -> None:
        self.tries = self.killed = self.lost = self.refused = self.left = self.last = 0
        self.notes: list[str] = []

    def check(self, folder: Path, expected: dict[str, str], code: int, what: str) -> None:
        """Judge a folder after the resume that ended with `code`."""
        self.tries += 1
        if code:
            self.refused += 1
            self._note(f"{what}: ended with {code}")
            return
        found, left = state(folder), leftovers(folder)
        wrong = sorted(n for n in expected.keys() | found.keys() if found.get(n) != expected.get(n))
        self.lost += bool(wrong)
        self.left += bool(left)
        if wrong or left:
            self._note(f"{what}: {wrong[:3]} {left[:3]}")
        elif self.tries % 10 == 0:
            sys.stderr.write(f"{self.tries} tries\n")

    def _note(self, text: str) -> None:
        sys.stderr.write(f"{self.tries}: {text}\n")  # at once: a run may be broken off
        self.notes.append(text)

    def line(self, kind: str) -> str:
        """The figures as JSON."""
        return json.dumps({"kind": kind, **self.__dict__})


def at_each_operation_of_preparing(scratch: Path, step: int = 1) -> Count:
    """Kill before each change of a file; then start plainly and with --resume in turn."""
    picture, count, number = make_picture(scratch / "a.png", 0), Count(), 1
    forked(lambda: prepare(scratch / "whole", picture))
    expected = state(scratch / "whole")
    while True:
        folder = scratch / f"at_{number}"
        folder_now, number_now = folder, number

        def killed(folder: Path = folder_now, number: int = number_now) -> None:
            kill_at(number, folder)
            prepare(folder, picture)

        code = forked(killed)
        if code == 0:
            return count
        count.killed += 1
        resume = number % 2 == 0
        code = forked(lambda f=folder, r=resume: prepare(f, picture, resume=r))  # type: ignore[misc]
        count.check(folder, expected, code, f"operation {number}")
        number += step


def at_each_operation_of_restarting(scratch: Path, step: int = 1) -> Count:
    """Kill --restart before each change of a file: the old result must be in its place or under a
    number.
    """
    picture, other, count = (
        make_picture(scratch / "a.png", 0),
        make_picture(scratch / "b.png", 3),
        Count(),
    )
    done = scratch / "done"
    if forked(lambda: start(done, picture)):
        raise SystemExit("the job itself failed")
    before = state(done)
    forked(lambda: prepare(scratch / "new", other))
    expected, number = state(scratch / "new"), 1
    while True:
        folder = scratch / f"at_{number}"
        shutil.copytree(done, folder)

        def killed(folder: Path = folder, number: int = number) -> None:
            kill_at(number, folder)
            prepare(folder, other, restart=True)

        code = forked(killed)
        if code == 0:
            return count
        count.killed += 1
        again = not holds_job(folder) or state(folder) == before
        code = forked(lambda f=folder, r=again: prepare(f, other, restart=r, resume=not r))  # type: ignore[misc]
        kept = [state(f) for f in sorted((folder / "earlier").glob("[0-9]*"))]
        if before not in kept:
            count.lost += 1
            count.notes.append(f"operation {number}: the old result is not under a number")
        count.check(folder, expected, code, f"operation {number}")
        number += step


def at_each_operation_of_redoing(scratch: Path, step: int = 1) -> Count:
    """Kill --redo-from before each change of a file, while it makes the variant: the first result
    must stay, and the same command then makes the variant.
    """
    count, done, number = Count(), scratch / "done", 1
    if forked(lambda: start(done, make_picture(scratch / "a.png", 0))):
        raise SystemExit("the job itself failed")
    before = state(done)
    shutil.copytree(done, scratch / "whole")
    forked(lambda: redo(scratch / "whole"))
    expected = state(scratch / "whole" / "variants" / "v2")
    while True:
        folder = scratch / f"at_{number}"
        shutil.copytree(done, folder)

        def killed(folder: Path = folder, number: int = number) -> None:
            kill_at(number, folder)
            redo(folder)

        code = forked(killed)
        if code == 0:
            return count
        count.killed += 1
        code = forked(lambda f=folder: redo(f))  # type: ignore[misc]
        if state(folder) != before or leftovers(folder):
            count.lost += 1
            count.notes.append(f"operation {number}: the first result was touched")
        count.check(folder / "variants" / "v2", expected, code, f"operation {number}")
        shutil.rmtree(folder)
        number += step


def at_operations_of_a_run(scratch: Path, ends: float, step: int = 1, first: int = 1) -> Count:
    """Kill a whole run before every `step`th change of a file, resume it, compare the bits."""
    picture, count, number = make_picture(scratch / "a.png", 0), Count(), first
    if forked(lambda: start(scratch / "whole", picture)):
        raise SystemExit("the job itself failed")
    expected = state(scratch / "whole")
    while True:
        folder = scratch / f"at_{number}"

        def killed(folder: Path = folder, number: int = number) -> None:
            kill_at(number, folder)
            start(folder, picture)

        if time.monotonic() > ends or forked(killed) == 0:
            return count
        count.killed += 1
        code = forked(lambda f=folder: start(f, picture, resume=True))  # type: ignore[misc]
        count.check(folder, expected, code, f"operation {number}")
        count.last = number
        shutil.rmtree(folder, ignore_errors=True)
        number += step


def at_random(scratch: Path, ends: float, tries: int, seed: int = 0) -> Count:
    """SIGKILL at random moments of a run, a fifth of them again in the resume; then resume and
    compare the bits.
    """
    rng, picture, count = random.Random(seed), make_picture(scratch / "a.png", 0), Count()
    began = time.monotonic()
    if forked(lambda: start(scratch / "whole", picture)):
        raise SystemExit("the job itself failed")
    took_s = time.monotonic() - began
    expected = state(scratch / "whole")
    for number in range(tries):
        if time.monotonic() > ends:
            break
        folder = scratch / f"try_{number}"
        moments = [rng.uniform(0, took_s) for _ in range(2 if rng.random() < 0.2 else 1)]
        for index, moment in enumerate(moments):
            resume = index > 0
            work = lambda f=folder, r=resume: start(f, picture, resume=r)  # noqa: E731
            count.killed += forked(work, moment) == -signal.SIGKILL
        code = forked(lambda f=folder: start(f, picture, resume=True))  # type: ignore[misc]
        count.check(folder, expected, code, f"try {number}, killed after {moments}")
        shutil.rmtree(folder, ignore_errors=True)
    return count


def main(arguments: list[str]) -> int:
    """Exit code 1 where anything was lost, refused or left."""
    import torch

    # what a job imports as it goes, once for all forks
    from engine import geometry, priors
    from engine.cameras import trajectory
    from engine.job import inputs, report, results, segment
    from engine.method import pipeline
    from engine.models import choice, memory
    from engine.rasterize import cpu

    del geometry, priors, trajectory, inputs, report, results, segment, pipeline
    del choice, memory, cpu
    torch.set_num_threads(1)
    ends = math.inf
    if "--minutes" in arguments:
        at = arguments.index("--minutes")
        ends = time.monotonic() + 60 * float(arguments[at + 1])
        del arguments[at : at + 2]
    kind, numbers = arguments[0], list(map(int, arguments[1:]))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if kind in ("results", "random"):  # what a first job loads, the forks have
            start(scratch / "first", make_picture(scratch / "first.png", 1))
        if kind == "prepare":
            count = at_each_operation_of_preparing(scratch, *numbers)
        elif kind == "restart":
            count = at_each_operation_of_restarting(scratch, *numbers)
        elif kind == "redo":
            count = at_each_operation_of_redoing(scratch, *numbers)
        elif kind == "results":
            count = at_operations_of_a_run(scratch, ends, *numbers)
        else:
            count = at_random(scratch, ends, *numbers)
    print(count.line(kind))
    return int(bool(count.lost or count.refused or count.left))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
