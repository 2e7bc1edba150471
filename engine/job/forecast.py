"""What a job will take, told before it starts: minutes, memory, the models that it would use.

`of_job` is for a job that is about to run, `dry_run` and `dry_run_of_redo` for one that is only
asked about: its inputs are read and checked, and nothing is made.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..bridge import estimate, speeds
from ..bridge.segments import kept_frames
from ..bridge.settings import SceneSettings

if TYPE_CHECKING:
    from . import variants

log = logging.getLogger(__name__)


class Forecast(NamedTuple):
    """What is known of a job before it starts."""

    work: estimate.Work  # on "cpu" or "cuda", with a prior by name
    card: str  # the name of the card that computes; empty: the CPU
    estimate: estimate.Estimate | None  # None: nobody knows
    made: int = 0  # segments that are there already
    free_gb: float = 0.0  # of the memory that the estimate speaks of, now; 0: not known

    def text(self) -> str:
        """One line for a person."""
        count = len(self.work.frames)
        frames = f"{self.work.path} frames in {count} segment{'s' * (count > 1)}"
        if self.made:
            frames += f", {self.made} of them there already"
        if self.estimate is None:
            return f"{frames}; how long it takes is known after the first job of this kind here"
        memory = "GPU" if self.card else "main"
        free = f", of which {self.free_gb:.1f} GB are free now" if self.free_gb else ""
        return f"{frames}, {self.estimate.text()}; the memory is {memory} memory{free}"


def of_job(
    settings: SceneSettings,
    count: int,
    aspect: float,
    device: str,
    made: int = 0,
    known: int | None = None,
) -> Forecast:
    """The forecast of a job with settled settings: `count` frames of the path, a picture of height
    / width `aspect`, on `device` as torch names it. What is reckoned for the card is left for
    the panel.

    `made` segments are there already; the Gaussians after `known` of them are (None: after all),
    and those of the others are learned again.
    """
    device = device.partition(":")[0]
    work = estimate.work_of(settings, count, aspect)._replace(device=device)
    before = speeds.machine()
    gone = settings.output.device == "auto" and before is not None and before.card != ""
    card = leave_for_panel() if device == "cuda" or gone else ""
    known = made if known is None else known
    expected = estimate.predict(work, speeds.speeds_for(work), made, known)
    return Forecast(work, card, expected, min(made, len(work.frames)), _free_gb(card))


def _free_gb(card: str) -> float:
    from ..models import machine, memory

    free = memory.free_bytes("cuda") if card else machine.memory_bytes()[1]
    return (free or 0) / 1e9


def leave_for_panel() -> str:
    """Write what is reckoned for the card here, for Blender's panel, which knows no card. The
    card's name; "" without one.
    """
    import torch

    from ..models import choice, memory, price
    from ..models.device import card as card_here
    from ..rasterize import choose_backend

    card = card_here()
    if card is not None:
        free = (memory.free_bytes("cuda") or 0) / memory.GIB
        draws = choose_backend(torch.device("cuda")) != "cpu"
        here = price.reckon(card, free, choice.known(), card_draws=draws)
    else:
        here = speeds.NO_CARD
    try:
        speeds.keep_machine(here)
    except OSError as error:  # the panel tells no time then
        log.info("what is reckoned for this machine could not be kept: %s", error)
    return here.card


def dry_run(
    folder: Path,
    image: Path | None,
    path: str | None,
    preset: str | None,
    values: dict[str, Any],
    *,
    resume: bool = False,
    restart: bool = False,
) -> tuple[dict[str, str], Forecast]:
    """What `generate` with these arguments would do: ({name: sentence} on the models, forecast).

    Inputs and settings are checked as for a real job. No file of a job is written. Raises
    UserError.
    """
    from ..media import images
    from ..models import choice, memory
    from ..models.device import choose, tera
    from . import folder as job_folder
    from .run import asked_for

    asked = asked_for(folder, image, path, preset, values, resume=resume, restart=restart)
    there = job_folder.Job(folder) if resume or restart else None
    settings, device = asked.settings, str(choose(asked.settings.output.device))
    source = image if image is not None or there is None else there.image
    assert source is not None  # without a picture there is an earlier job
    pixels = images.load_image(source).pixels
    size = (pixels.shape[2], pixels.shape[1])
    working = images.working_size(size, settings.output.width, 8)
    begun = there.models() if there is not None and resume else {}
    free = memory.free_bytes(device)
    chosen = choice.settle(settings, working, free, begun, tera=tera(device))
    given = asked.inputs.get("path")
    with tempfile.TemporaryDirectory() as place:
        file: Path | None
        if isinstance(given, job_folder.Text):
            file = Path(place) / f"path{given.suffix}"
            file.write_bytes(given.content)
        else:
            file = given if given is not None else there.path if there is not None else None
        count = cameras_in(file, settings, size)
    made = there.finished_segments() if there is not None and resume else 0
    expected = of_job(chosen.settings, count, size[1] / size[0], device, made)
    return chosen.facts, expected


def dry_run_of_redo(folder: Path, wish: variants.Wish) -> tuple[dict[str, str], Forecast]:
    """What a redo of the finished job or variant in `folder` would do, as `dry_run` tells it. The
    same is checked as for a real one, and nothing is made. Raises UserError.
    """
    from ..media import images
    from ..models import choice
    from ..models.device import choose
    from . import variants
    from .folder import Job

    planned, job = variants.plan(folder, wish), Job(folder)
    settings, kept = planned.settings, planned.redo.kept
    pixels = images.load_image(job.image).pixels
    size = (pixels.shape[2], pixels.shape[1])
    count = cameras_in(job.path, settings, size)
    facts = {"redo": variants.sentence(planned), **choice.licences(settings)}
    known, device = job.remembered(kept), str(choose(settings.output.device))
    return facts, of_job(settings, count, size[1] / size[0], device, kept, known)


def cameras_in(file: Path | None, settings: SceneSettings, size: tuple[int, int]) -> int:
    """How many cameras the path of a job has, with the frame step: of a named move, or of a file of
    cameras for a picture of `size` (width, height).
    """
    from ..cameras import trajectory
    from .inputs import move_in

    count = settings.cameras.move_frames
    if file is not None and not move_in(file):
        count = trajectory.load(file, image_size=size).count
    return len(kept_frames(count, settings.cameras.frame_step))
