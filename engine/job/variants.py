"""Variants of a job lie side by side in its folder; the first result is v1, and no redo touches it.

    variants/v2/    a job folder like any other, with copies of the inputs and of the segments
                    before the one it begins again at; `redo` says what it began with

It appears by a rename, whole or not at all, and is then worked on, resumed and looked at as every
job is. Copies, not links: whatever happens to one variant leaves the others as they are.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..bridge import settings as settings_module
from ..bridge.errors import UserError
from ..bridge.settings import SceneSettings
from . import folder as job_folder
from . import identity, redo
from .folder import GAUSSIANS, VARIANTS, AnotherJob, Job, Text
from .redo import Redo

FIRST = "v1"
_NAME = re.compile(r"v([2-9]|[1-9]\d{1,5})")


class Plan(NamedTuple):
    """A redo that can be made: nothing has been written yet."""

    job: Path  # the job's folder
    of: Path  # that of the variant to redo
    redo: Redo
    settings: SceneSettings


def name_of(folder: Path) -> str:
    """Return the name of the variant that a job folder is: "v1" for the job itself."""
    return FIRST if job_folder.job_of(folder) == folder else folder.name


def folders(job: Path) -> dict[str, Path]:
    """Return the folders of a job's variants by name, the first result before the others."""
    found = [f for f in (job / VARIANTS).glob("v*") if _number(f.name) and job_folder.holds_job(f)]
    return {FIRST: job} | {f.name: f for f in sorted(found, key=lambda f: _number(f.name))}


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


@contextmanager
def prepared_redo(
    folder: Path, segment: int, values: dict[str, Any], *, patience_s: float = 0.0
) -> Iterator[Job]:
    """Make a variant of the finished job or variant in `folder` that begins again at `segment`,
    counted from 1, and hold its lock while the block runs.

    `values` are settings among `redo.CHANGEABLE`; with none of them the seed is one that no variant
    has. Asked for again, the variant that is there is taken up. Raises UserError, and then nothing
    was made.
    """
    with job_folder.locked(job_folder.job_of(Job(folder).folder), patience_s):
        made = _made(plan(folder, segment, values))
    with job_folder.locked(made, patience_s):
        yield Job(made)


def plan(folder: Path, segment: int, values: dict[str, Any]) -> Plan:
    """Check a redo by the arguments of `prepared_redo`. Raises UserError."""
    job = Job(folder)
    _refuse_unfinished(job)
    earlier, count = job.redo(), job.finished_segments()
    if earlier is not None and earlier.frame is not None:
        raise UserError(
            f"{name_of(folder)} was repainted through a mask, which no segment can begin again "
            "after.",
            f"Redo {earlier.of}, then repaint that.",
        )
    if not 1 <= segment <= count:
        raise UserError(
            f"There is no segment {segment}: the job in {folder} has segments 1 to {count}.",
            "Give one of them to --redo-from; the report shows where each begins.",
        )
    kept = segment - 1
    _refuse_damaged(job, kept)
    settings = changed(job, values)
    then = job.settings if earlier is None else earlier.settings_of
    made = tuple(
        redo.changeable(_settled(job, then(i, job.settings) if callable(then) else then))
        for i in range(kept)
    )
    return Plan(job_folder.job_of(folder), folder, Redo(name_of(folder), kept, made), settings)


def changed(job: Job, values: dict[str, Any]) -> SceneSettings:
    """The settings of a job with `values` in place of its own, names in place of "auto". Raises
    UserError for what a redo cannot change, and for a prior that is not there or works at another
    size.
    """
    from .. import priors
    from ..media import images
    from ..models import choice, memory
    from ..models.device import choose

    fixed = sorted(values.keys() - set(redo.CHANGEABLE))
    if fixed:
        raise UserError(
            f"A redo keeps the {', '.join(fixed)} of its job.",
            f"Change {', '.join(redo.CHANGEABLE)}, or start another job.",
        )
    before = _settled(job, job.settings)
    settings = settings_module.make(**(job_folder.flat(before) | values))
    if not values:
        settings = redo.with_changes(settings, redo.changeable(settings) | {"seed": _unused(job)})
    if settings.video.prior != choice.AUTO:
        priors.check(settings.video.prior)
    pixels = images.load_image(job.image).pixels
    size = (pixels.shape[2], pixels.shape[1])

    def at_work(prior: str) -> tuple[int, int]:
        return images.working_size(size, settings.output.width, priors.working_multiple(prior))

    free = memory.free_bytes(str(choose(settings.output.device)))
    settings = choice.settle(settings, at_work(before.video.prior), free).settings
    now, then = at_work(settings.video.prior), at_work(before.video.prior)
    if now != then:
        raise UserError(
            f"The prior {settings.video.prior} would work at {now[0]}x{now[1]}; the frames of this "
            f"job have {then[0]}x{then[1]}.",
            "Choose a prior that works at the job's size, or start another job with this one.",
        )
    return settings


def _settled(job: Job, settings: SceneSettings) -> SceneSettings:
    """Settings with the models that a job chose in place of "auto"."""
    chosen = {
        name: model
        for name, model in job.models().items()
        if job_folder.flat(settings).get(name) == "auto"
    }
    return settings_module.make(**(job_folder.flat(settings) | chosen))


def _unused(job: Job) -> int:
    """A seed that no variant of a job has."""
    seeds = [Job(f).settings.output.seed for f in folders(job_folder.job_of(job.folder)).values()]
    return next(seed for seed in range(max(seeds) + 1 & 0x7FFFFFFF, 1 << 31) if seed not in seeds)


def _refuse_unfinished(job: Job) -> None:
    job.refuse_other_version()
    if job.results() is None:
        raise UserError(
            f"The job in {job.folder} is not finished, or a result of it is gone or changed.",
            f"Finish it first: --out {job.folder} --resume.",
        )


def _refuse_damaged(job: Job, count: int) -> None:
    first, problem = job.first_damage(count)
    if first < count:
        raise UserError(
            f"The job in {job.folder} is damaged: {problem}.",
            f"Mend it first: --out {job.folder} --resume makes it again.",
        )


def _made(planned: Plan) -> Path:
    """The folder of the variant, whole: the one that is there, or a new one."""
    source, inputs = Job(planned.of), dict[str, Path | Text]()
    inputs |= {part: f for part, f in source.inputs().items() if part not in ("redo", "mask")}
    inputs["redo"] = Text(".json", redo.to_text(planned.redo).encode())
    wanted = identity.of(job_folder.flat(planned.settings), inputs)
    variants = folders(planned.job)
    for there in variants.values():
        if Job(there).known_identity() == wanted:
            return there
    number = max((_number(name) for name in variants), default=0)
    target = planned.job / VARIANTS / f"v{max(number, 1) + 1}"
    if target.exists():
        raise AnotherJob(
            f"{target} is no variant of the job.", "Move it elsewhere, then try again."
        )
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        job_folder.write_inputs(partial / "input", inputs)
        _copy_segments(source, partial / "segments", planned.redo.kept)
        job_folder.write_json(partial / "settings.json", settings_module.to_json(planned.settings))
        Job(partial).start()
        partial.replace(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Free some space on that disk, then try again.",
        ) from error
    return target


def _copy_segments(source: Job, target: Path, count: int) -> None:
    """The first `count` segments; of their Gaussians only the newest that are there."""
    target.mkdir()
    newest = max(
        (i for i in range(count) if (source.segment_folder(i) / GAUSSIANS).is_file()), default=-1
    )
    for index in range(count):
        unwanted = shutil.ignore_patterns(GAUSSIANS) if index != newest else None
        copy = target / f"{index:03d}"
        shutil.copytree(source.segment_folder(index), copy, ignore=unwanted)
