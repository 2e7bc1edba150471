"""Variants of a job lie side by side in its folder; the first result is v1, and no redo touches it.

    variants/v2/    a job folder like any other, with copies of the inputs and of the segments
                    before the one it begins again at; `redo` says what it began with
    .../before/     of a repaint: the frames and the Gaussians that were repainted

It appears by a rename, whole or not at all, and is then worked on, resumed and looked at as every
job is. Copies, not links: whatever happens to one variant leaves the others as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..bridge import settings as settings_module
from ..bridge.errors import UserError
from ..bridge.settings import SceneSettings
from ..bridge.variants import FOLDER, folders, job_of, name_of, number_of
from . import folder as job_folder
from . import identity, newest, redo
from .folder import GAUSSIANS, AnotherJob, Job, Text
from .redo import Redo
from .report import REPAINTED

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..method.repaint import Before

BEFORE = "before"


class Wish(NamedTuple):
    """A redo as it is asked for."""

    values: dict[str, Any]  # among `redo.CHANGEABLE`; none: a seed that no variant has
    segment: int = 0  # to begin again at, from 1; not looked at with a mask
    mask: Path | None = None  # a picture that is white where to invent again
    frame: int = 0  # of the mask, from 0


class Plan(NamedTuple):
    """A redo that can be made: nothing has been written yet."""

    job: Path  # the job's folder
    of: Path  # that of the variant to redo
    redo: Redo
    settings: SceneSettings
    mask: Tensor | None  # [h, w] bool


@contextmanager
def prepared_redo(folder: Path, wish: Wish, *, patience_s: float = 0.0) -> Iterator[Job]:
    """Make a variant of the finished job or variant in `folder`, and hold its lock while the block
    runs.

    Asked for again, the variant that is there is taken up. Raises UserError, and then nothing was
    made.
    """
    with job_folder.locked(job_of(Job(folder).folder), patience_s):
        made = _made(plan(folder, wish))
    with job_folder.locked(made, patience_s):
        yield Job(made)


def plan(folder: Path, wish: Wish) -> Plan:
    """Check what is asked for. Raises UserError for what cannot be made."""
    job = Job(folder)
    _refuse_unfinished(job)
    settings, mask = changed(job, wish.values), None
    if wish.mask is None:
        wanted = _from_segment(job, wish.segment)
    elif not settings.enhances:
        raise UserError(
            "Without a video prior nothing is invented, so what is forgotten would stay a hole.",
            "Give --prior patch, or another one.",
        )
    else:
        mask = _mask(job, wish.mask, wish.frame)
        wanted = Redo(name_of(folder), 0, (), wish.frame)
    settings = settings if wish.values else _as_begun(job, wanted, settings)
    return Plan(job_of(folder), folder, wanted, settings, mask)


def _from_segment(job: Job, segment: int) -> Redo:
    """A redo that begins again at a segment."""
    earlier, count = job.redo(), job.finished_segments()
    if earlier is not None and earlier.frame is not None:
        raise UserError(
            f"{name_of(job.folder)} was repainted through a mask: what was forgotten then would be "
            "there again.",
            f"Redo {earlier.of}, then repaint that.",
        )
    if not 1 <= segment <= count:
        raise UserError(
            f"There is no segment {segment}: the job in {job.folder} has segments 1 to {count}.",
            "Give one of them to --redo-from; the report shows where each begins.",
        )
    kept = segment - 1
    first, problem = job.first_damage(kept)
    if first < kept:
        _refuse_damaged(job, problem)
    made = (
        job.settings if earlier is None else earlier.settings_of(i, job.settings)
        for i in range(kept)
    )
    return Redo(name_of(job.folder), kept, tuple(redo.changeable(settled(job, s)) for s in made))


def _mask(job: Job, file: Path, index: int) -> Tensor:
    """The mask of a repaint, [h, w] bool."""
    from ..media import images
    from ..media.mask import load_mask

    frames = sorted((job.folder / "frames").glob("*.png"))
    if not 0 <= index < len(frames):
        raise UserError(
            f"There is no frame {index}: the job in {job.folder} has frames 0 to "
            f"{len(frames) - 1}.",
            "Frames are counted as the files in its folder frames are named.",
        )
    mask, frame = load_mask(file), images.load_image(frames[index], photo=False).pixels
    if mask.shape != frame.shape[1:]:
        (h, w), (height, width) = mask.shape, frame.shape[1:]
        raise UserError(
            f"The mask {file} has {w}x{h} pixels, the frames of this job {width}x{height}.",
            f"Paint it over a copy of {frames[index]}.",
        )
    if not bool(mask.any()):
        raise UserError(
            f"The mask {file} is all black: it marks nothing.",
            "Paint white what is to be invented again.",
        )
    last = job.segment_folder(job.finished_segments() - 1)
    problem = job_folder.damage_of_gaussians(last)
    if problem:
        _refuse_damaged(job, problem)
    return mask


def before(job: Job, device: torch.device) -> Before | None:
    """What a repaint repaints, on the computing device; None for any other job. Raises UserError
    where that has been damaged.
    """
    from ..media.mask import load_mask
    from ..method.repaint import Before
    from .segment import FramesOnDisk

    redone = job.redo()
    if redone is None or redone.frame is None or job.mask is None:
        return None
    folder = job.folder / BEFORE
    remedy = f"Delete {job.folder}, then repaint again."
    if not folder.is_dir():
        raise UserError(f"{folder} is missing.", remedy)
    damaged = job_folder.changed_file(folder)
    if damaged:
        raise UserError(f"{folder / damaged} has changed.", remedy)
    frames = FramesOnDisk(device)
    frames.replace(0, sorted((folder / "frames").glob("*.png")))
    gaussians = job_folder.load_gaussians(folder / GAUSSIANS, device)
    return Before(gaussians, frames, redone.frame, load_mask(job.mask).to(device))


def described(job: Job) -> dict[str, str]:
    """What a variant is, for its report; empty for the first result."""
    redone = job.redo()
    if redone is None:
        return {}
    kind = "redone" if redone.frame is None else REPAINTED
    return {kind: f"{name_of(job.folder)} is {_what(redone)}"}


def _what(redone: Redo) -> str:
    if redone.frame is not None:
        return f"{redone.of}, repainted through a mask of frame {redone.frame}"
    return f"{redone.of}, begun again at segment {redone.kept + 1}"


def sentence(planned: Plan) -> str:
    """What a redo would make, for a person."""
    values = redo.changeable(planned.settings)
    given = ", ".join(f"{name} {value}" for name, value in values.items() if value != "")
    what = f"{_what(planned.redo)}, with {given}"
    if planned.mask is not None:
        what += "; segments that do not see what is masked take less time than is told here"
    return what


def changed(job: Job, values: dict[str, Any]) -> SceneSettings:
    """The settings of a job with `values` in place of its own, names in place of "auto". Raises
    UserError for what a redo cannot change, and for a prior that is not there or works at another
    size.
    """
    from .. import priors
    from ..media import images
    from ..models import choice, memory
    from ..models.device import choose, tera

    fixed = sorted(values.keys() - set(redo.CHANGEABLE))
    if fixed:
        raise UserError(
            f"A redo keeps the {', '.join(fixed)} of its job.",
            f"Change {', '.join(redo.CHANGEABLE)}, or start another job.",
        )
    was = settled(job, job.settings)
    settings = settings_module.make(**(job_folder.flat(was) | values))
    if not values:
        settings = redo.with_changes(settings, redo.changeable(settings) | {"seed": _unused(job)})
    if settings.video.prior != choice.AUTO:
        priors.check(settings.video.prior)
    pixels = images.load_image(job.image).pixels
    size = (pixels.shape[2], pixels.shape[1])

    def at_work(prior: str) -> tuple[int, int]:
        return images.working_size(size, settings.output.width, priors.working_multiple(prior))

    device = str(choose(settings.output.device))
    free = memory.free_bytes(device)
    settings = choice.settle(settings, at_work(was.video.prior), free, tera=tera(device)).settings
    now, then = at_work(settings.video.prior), at_work(was.video.prior)
    if now != then:
        raise UserError(
            f"The prior {settings.video.prior} would work at {now[0]}x{now[1]}; the frames of this "
            f"job have {then[0]}x{then[1]}.",
            "Choose a prior that works at the job's size, or start another job with this one.",
        )
    return settings


def settled(job: Job, settings: SceneSettings) -> SceneSettings:
    """Return settings with the models that a job chose in place of "auto"."""
    chosen = {
        name: model
        for name, model in job.models().items()
        if job_folder.flat(settings).get(name) == "auto"
    }
    return settings_module.make(**(job_folder.flat(settings) | chosen))


def _as_begun(job: Job, wanted: Redo, settings: SceneSettings) -> SceneSettings:
    """The settings with the seed of a variant of the same kind that was stopped, if there is one:
    asked for again without a seed, it is gone on with.
    """
    for folder in folders(job_of(job.folder)).values():
        there = Job(folder)
        if there.redo() == wanted and not newest.is_finished(folder):
            return redo.with_changes(
                settings, redo.changeable(settings) | {"seed": there.settings.output.seed}
            )
    return settings


def _unused(job: Job) -> int:
    """A seed that no variant of a job has."""
    seeds = [Job(f).settings.output.seed for f in folders(job_of(job.folder)).values()]
    return next(seed for seed in range(max(seeds) + 1 & 0x7FFFFFFF, 1 << 31) if seed not in seeds)


def _refuse_unfinished(job: Job) -> None:
    job.refuse_other_version()
    if job.results() is None:
        raise UserError(
            f"The job in {job.folder} is not finished, or a result of it is gone or changed.",
            f"Finish it first: --out {job.folder} --resume.",
        )


def _refuse_damaged(job: Job, problem: str) -> None:
    raise UserError(
        f"The job in {job.folder} is damaged: {problem}.",
        f"Mend it first: --out {job.folder} --resume makes it again.",
    )


def _made(planned: Plan) -> Path:
    """The folder of the variant, whole: the one that is there, or a new one."""
    from ..media.mask import mask_png

    source, inputs = Job(planned.of), dict[str, Path | Text]()
    inputs |= {part: f for part, f in source.inputs().items() if part not in ("redo", "mask")}
    if planned.mask is not None:
        inputs["mask"] = Text(".png", mask_png(planned.mask))
    inputs["redo"] = Text(".json", redo.to_text(planned.redo).encode())
    wanted = identity.of(job_folder.flat(planned.settings), inputs)
    variants = folders(planned.job)
    for there in variants.values():
        if Job(there).known_identity() == wanted:
            return there
    number = max((number_of(name) for name in variants), default=0)
    target = planned.job / FOLDER / f"v{max(number, 1) + 1}"
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
        if planned.mask is not None:
            _copy_before(source, partial / BEFORE)
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
    newest = source.remembered(count) - 1
    for index in range(count):
        unwanted = shutil.ignore_patterns(GAUSSIANS) if index != newest else None
        copy = target / f"{index:03d}"
        shutil.copytree(source.segment_folder(index), copy, ignore=unwanted)


def _copy_before(source: Job, target: Path) -> None:
    """The newest frames and the last Gaussians, with a list of their content."""
    shutil.copytree(source.folder / "frames", target / "frames")
    shutil.copy2(source.last_gaussians(), target)
    job_folder.list_content(target)


def run_job(folder: Path, _report: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Make a variant of the job in `folder` for Blender, which then starts it as any other job.

    `settings` has what a `Wish` has, its settings among `values`. Returns the variant's folder.
    """
    values = settings.get("values", {})
    mask = settings.get("mask")
    wish = Wish(
        values if isinstance(values, dict) else {},
        int(settings.get("segment", 0)),
        Path(str(mask)) if mask else None,
        int(settings.get("frame", 0)),
    )
    with prepared_redo(folder, wish) as job:
        return {"folder": str(job.folder)}
