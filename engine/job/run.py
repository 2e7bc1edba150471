"""A job from its inputs to its results, whoever asks: the command line, the wire, a batch.

`prepared_job` makes the folder or takes up the one that is there, `run_job` does the work in a
folder, `work` in one that is locked already. What is heavy is imported when it is called for: the
server starts without torch, and says "starting" before it loads it.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..bridge import settings as settings_module
from ..bridge.errors import UserError
from ..bridge.settings import SceneSettings
from ..bridge.whole_file import FULL_DISK

if TYPE_CHECKING:
    from .folder import Job, Text

log = logging.getLogger(__name__)

DEFAULT_MOVE = "dolly:1.0"
_FILE_SETTINGS = {  # settings that may name a file: (part in the job, what it is, what else to do)
    "depth": ("depth", "depth map", "use --depth box"),
    "initialiser": ("initial", "file of Gaussians", "use --initialiser layers"),
}


class Asked(NamedTuple):
    """What a job shall be made of. For a job that is resumed, `inputs` has only those that were
    given.
    """

    settings: SceneSettings
    inputs: dict[str, Path | Text]


@contextmanager
def prepared_job(
    folder: Path,
    image: Path | None,
    path: str | None,
    preset: str | None,
    values: dict[str, Any],
    *,
    resume: bool = False,
    restart: bool = False,
    patience_s: float = 0.0,
) -> Iterator[Job]:
    """Make a job folder with copies of the inputs, and hold its lock while the block runs. Each
    input is read once before: bad input leaves nothing behind.

    With `resume` the job that is there is taken up; what is None or not among `values` is as it has
    it, what is given must be the same. With `restart` it is kept under a number and begins anew,
    without `image` from its own inputs. `patience_s`: wait so long for another engine to leave.
    Raises UserError.
    """
    from . import folder as job_folder

    asked = asked_for(folder, image, path, preset, values, resume=resume, restart=restart)
    with job_folder.locked(folder, patience_s):
        yield job_folder.prepare_locked(
            folder, asked.settings, asked.inputs, resume=resume, restart=restart
        )


def asked_for(
    folder: Path,
    image: Path | None,
    path: str | None,
    preset: str | None,
    values: dict[str, Any],
    *,
    resume: bool,
    restart: bool,
) -> Asked:
    """What a job shall be made of, by the arguments of `prepared_job`; nothing is written. Raises
    UserError for inputs and settings that no job can have.
    """
    from .. import geometry, priors
    from ..media import images
    from ..models import choice
    from . import folder as job_folder
    from .inputs import refuse_strip

    earlier = None
    if (image is None and (resume or restart)) or (resume and job_folder.holds_job(folder)):
        earlier = job_folder.Job(folder)
    base = job_folder.flat(earlier.settings) if earlier is not None and preset is None else {}
    settings = settings_module.make(preset or "standard", **{**base, **values})
    if settings.video.prior != choice.AUTO:
        priors.check(settings.video.prior)
    if settings.geometry.depth.strip() != choice.AUTO:
        geometry.check(settings.geometry.depth)
    choice.check(settings)
    inputs: dict[str, Path | Text] = {}
    if earlier is not None and not resume:
        inputs |= earlier.inputs()
    if image is not None:
        inputs["image"] = image
    if image is not None or path is not None:  # bad ones are told before anything is written
        source = image if earlier is None or image is not None else earlier.image
        assert source is not None  # without a picture there is an earlier job
        picture = images.load_image(source)
        size = (picture.pixels.shape[2], picture.pixels.shape[1])
        refuse_strip(*images.working_size(size, settings.output.width, 8))
        if path is not None or earlier is None:
            inputs["path"] = _camera_path(path or DEFAULT_MOVE, size)
    given = {n: v for n, v in job_folder.flat(settings).items() if n not in base or n in values}
    files = {}
    for name, (part, noun, otherwise) in _FILE_SETTINGS.items():
        file = Path(str(given.get(name, "")).strip()).expanduser()
        if not file.suffix or (name == "initialiser" and file.suffix.lower() != ".ply"):
            if name in given:
                inputs.pop(part, None)
            continue
        if not os.path.isfile(file):
            raise UserError(
                f"The {noun} {file} does not exist.", f"Check the name, or {otherwise}."
            )
        inputs[part] = file
        files[name] = f"input/{part}{file.suffix.lower()}"
    return Asked(settings_module.make(**{**job_folder.flat(settings), **files}), inputs)


def _camera_path(path: str, picture_size: tuple[int, int]) -> Text:
    """A named move as it is written, a file of any kind as our own camera path."""
    from ..bridge import camera_file, moves
    from ..cameras import trajectory
    from .folder import Text

    if trajectory.is_move(path) and not os.path.exists(path):
        moves.parse(path)
        return Text(".txt", (path + "\n").encode())
    cameras = camera_file.checked(trajectory.load(path, image_size=picture_size), Path(path).name)
    text = json.dumps(camera_file.to_json(cameras), allow_nan=False, indent=1) + "\n"
    return Text(".json", text.encode())


def run_job(folder: Path, report: Any, _: Any = None) -> dict[str, str]:
    """Run the job in a folder that has settings.json and input/; finished segments are not computed
    again.

    `report(stage, done, total, text="", preview=None)` may raise `Cancelled`. Returns the
    results, name -> file. Raises UserError, also while another engine works there.
    """
    report("starting", 0, 1)
    from . import folder as job_folder

    job_folder.Job(folder)  # a folder without a job is not made into one
    with job_folder.locked(folder):
        return work(job_folder.Job(folder), report)


def work(job: Job, report: Any) -> dict[str, str]:
    """Do `run_job` in a folder that the caller has locked."""
    report("starting", 0, 1)
    handler = _log_to(job.folder)
    report = _logged(report)
    try:
        return _work(job, report)
    except UserError as error:  # of a picture or a table, say, that knows nothing of the job
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
            raise UserError(error.message, FULL_DISK) from error.__cause__
        raise
    except OSError as error:
        if job.folder.is_dir():
            raise
        raise UserError(
            f"{job.folder} was moved or deleted while the job ran.",
            "If it was moved, resume it where it is now.",
        ) from error
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _work(job: Job, report: Any) -> dict[str, str]:
    from .. import priors
    from ..bridge import camera_file, estimate
    from ..bridge.variants import job_of
    from ..media import images
    from ..method import pipeline
    from ..method.repaint import repaint
    from ..models import memory
    from ..models.device import choose
    from . import comparison, forecast, inputs, repair, results, variants
    from .segment import JobRecord

    began = time.monotonic()
    for line in job.start():
        log.warning("%s", line)
        report("resuming", 1, 1, line)
    finished = job.results()
    if finished is not None:
        report("done", 1, 1, "The job was finished before, and its results are all here.")
        return finished
    for line in job.put_changed_results_aside():
        log.warning("%s", line)
        report("resuming", 1, 1, line)
    device = choose(job.settings.output.device)
    memory.cap(str(device))
    picture = images.load_image(job.image)
    size = (picture.pixels.shape[2], picture.pixels.shape[1])
    facts = _settle(job, size, str(device))
    facts |= {f"left out {i + 1}": text for i, text in enumerate(job.left_out)}
    for name, fact in facts.items():
        report("models", 1, 1, f"{name}: {fact}")
    count = forecast.cameras_in(job.path, job.settings, size)
    made = job.finished_segments()
    known = job.remembered(made)
    expected = forecast.of_job(job.settings, count, size[1] / size[0], str(device), made, known)
    report("estimate", 1, 1, expected.text())
    report("depth", 0, 1)
    loaded = inputs.load(job, device, picture)
    camera_file.write(job.folder / "cameras.json", loaded.path)  # for who looks at a running job
    prior = priors.make_prior(job.settings, loaded.inputs.image, str(device))
    loaded.facts.update(results.provenance(prior and prior.spec) | facts)
    loaded.facts.update(memory.described(prior) | variants.described(job))
    for name, fact in loaded.facts.items():
        log.info("%s: %s", name, fact)
    report("prior", 1, 1, loaded.facts.get("memory of the prior", job.settings.video.prior))
    steps = prior.spec.steps if prior is not None else estimate.USUAL_STEPS
    clock = estimate.Clock(expected.work, None, began, steps)
    report = _timed(report, clock)
    record = JobRecord(
        job,
        loaded.path.count,
        loaded.inputs.image.device,
        report,
        functools.partial(memory.rest, prior),
    )
    before = variants.before(job, loaded.inputs.image.device)
    if before is None:
        gaussians = pipeline.generate(loaded.inputs, prior, job.settings, record)
        if job.settings.finishes:
            prior, record.rest = None, functools.partial(memory.rest, None)
            record.rest()
            gaussians = repair.run(job, loaded.inputs, gaussians, report, str(device))
            stats = repair.stats(job)
            loaded.facts[repair.FINISHER] = repair.sentence(job.settings, stats)
    else:
        gaussians = repaint(loaded.inputs, prior, job.settings, record, before)
        if job.settings.finishes:
            loaded.facts[repair.FINISHER] = "left out: a repaint moves nothing that stays"
    outputs = results.write(job, loaded, gaussians, report)
    job.keep_results(outputs)
    side_by_side = comparison.write_index(job_of(job.folder))
    if side_by_side is not None:
        report("variants", 1, 1, f"side by side in {side_by_side}")
    if job.redo() is None:  # a part of a job tells nothing of the time of a whole one
        _learn_speed(job.folder, clock, expected.card)
    return outputs


def _settle(job: Any, picture_size: tuple[int, int], device: str) -> dict[str, str]:
    """Put names in place of "auto", the same for as long as the job lives. Sentences about it."""
    from ..media import images
    from ..models import choice, memory
    from ..models.device import tera

    size = images.working_size(picture_size, job.settings.output.width, 8)
    free = memory.free_bytes(device)
    chosen = choice.settle(job.settings, size, free, job.models(), tera=tera(device))
    job.settings = chosen.settings
    job.keep_models({"prior": chosen.settings.video.prior, "depth": chosen.settings.geometry.depth})
    return chosen.facts


def _timed(report: Any, clock: Any) -> Any:
    """`report`, with the clock told of everything first."""

    def told(
        stage: str, done: int, total: int, text: str = "", preview: Path | None = None
    ) -> None:
        clock.tell(stage, done, total)
        report(stage, done, total, text, preview)

    return told


def _learn_speed(folder: Path, clock: Any, card: str) -> None:
    """Remember how long this job took and its memory, for the estimate before the next one; `card`
    names what computed, empty for the CPU.
    """
    from ..bridge import speeds
    from .report import read_stats

    peaks = [0.0]
    for file in sorted((folder / "segments").glob("[0-9]*/stats.json")):
        stats = read_stats(file)  # on a card its own memory is the scarce one
        peaks += (stats.get("peak_vram_mb") or stats["peak_mb"]).values()
    learned = clock.speeds(max(peaks) / 1024)
    if learned is None:
        return
    try:
        speeds.keep(clock.work, learned, card)
    except OSError as error:  # the next estimate is a guess, as this one was
        log.info("the speed of this job could not be kept: %s", error)


def _log_to(folder: Path) -> logging.Handler:
    """The job's own log: what this engine has to say, whatever the console shows, and the warnings
    of its libraries.
    """
    handler = logging.FileHandler(folder / "engine.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def _logged(report: Any) -> Any:
    """`report`, with a line in the log for each stage and each text."""
    latest = ""

    def told(
        stage: str, done: int, total: int, text: str = "", preview: Path | None = None
    ) -> None:
        nonlocal latest
        if stage != latest or text:
            log.info("%s%s", stage, f": {text}" if text else "")
        latest = stage
        report(stage, done, total, text, preview)

    return told
