"""A job from its inputs to its results, whoever asks: the command line, the wire, a batch.

`prepare_job` makes the folder, `run_job` does the work in it. What is heavy is imported when it
is called for: the server starts without torch, and says "starting" before it loads it.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from ..bridge import settings as settings_module
from ..bridge.errors import UserError
from ..bridge.settings import SceneSettings

log = logging.getLogger(__name__)


def prepare_job(
    folder: Path, image: Path, path: str, settings: SceneSettings, *, resume: bool
) -> Any:
    """A job folder with copies of the inputs, after reading each once: bad input leaves nothing behind."""
    from .. import geometry, priors
    from ..bridge import camera_file
    from ..cameras import moves, trajectory
    from ..media import images
    from ..models import choice
    from . import folder as job_module
    from .inputs import refuse_strip

    if settings.video.prior != choice.AUTO:
        priors.check(settings.video.prior)
    if settings.geometry.depth.strip() != choice.AUTO:
        geometry.check(settings.geometry.depth)
    choice.check(settings)
    picture = images.load_image(image)
    picture_size = (picture.pixels.shape[2], picture.pixels.shape[1])
    refuse_strip(*images.working_size(picture_size, settings.output.width, 8))
    inputs = {"image": image}
    with tempfile.TemporaryDirectory() as scratch:
        if trajectory.is_move(path) and not Path(path).exists():
            moves.parse(path)
            inputs["path"] = Path(scratch) / "path.txt"
            inputs["path"].write_text(path + "\n", encoding="utf-8")
        else:
            inputs["path"] = Path(scratch) / "path.json"
            camera_file.write(inputs["path"], trajectory.load(path, image_size=picture_size))
        depth = Path(settings.geometry.depth)
        if depth.suffix:
            if not depth.is_file():
                raise UserError(
                    f"The depth map {depth} does not exist.", "Check the name, or use --depth box."
                )
            inputs["depth"] = depth
            settings = settings_module.make(
                **{**_flat(settings), "depth": f"input/depth{depth.suffix.lower()}"}
            )
        first = Path(settings.geometry.initialiser.strip())
        if first.suffix.lower() == ".ply":
            if not first.is_file():
                raise UserError(
                    f"The Gaussians {first} do not exist.",
                    "Check the name, or use --initialiser layers.",
                )
            inputs["initial"] = first
            settings = settings_module.make(
                **{**_flat(settings), "initialiser": "input/initial.ply"}
            )
        return job_module.prepare(folder, settings, inputs, resume=resume)


def _flat(settings: SceneSettings) -> dict[str, Any]:
    return {
        name: value
        for group in settings_module.to_json(settings).values()
        for name, value in group.items()
    }


def run_job(folder: Path, report: Any, _: Any = None) -> dict[str, str]:
    """Run the job in a folder that has settings.json and input/; finished segments are not computed again.

    `report(stage, done, total, text="", preview=None)` may raise `Cancelled`. Returns the
    results, name -> file. The server and the command line both come here.
    """
    report("starting", 0, 1)
    from .. import priors
    from ..media import images
    from ..method import pipeline
    from ..models import memory
    from ..models.device import choose
    from . import inputs, results
    from .folder import Job
    from .segment import JobRecord

    job = Job(folder)
    handler = _log_to(folder)
    report = _logged(report)
    try:
        with job.locked():
            job.start()
            device = choose(job.settings.output.device)
            picture = images.load_image(job.image)
            facts = _settle(job, (picture.pixels.shape[2], picture.pixels.shape[1]), str(device))
            facts |= {f"left out {i + 1}": text for i, text in enumerate(job.left_out)}
            for name, fact in facts.items():
                report("models", 1, 1, f"{name}: {fact}")
            report("depth", 0, 1)
            start = inputs.load(job, device, picture)
            prior = priors.make_prior(job.settings, start.inputs.image, str(device))
            start.facts.update(results.provenance(prior and prior.spec) | facts)
            start.facts.update(memory.described(prior))
            for name, fact in start.facts.items():
                log.info("%s: %s", name, fact)
            report("prior", 1, 1, start.facts.get("memory of the prior", job.settings.video.prior))
            record = JobRecord(job, start.path.count, device, report)
            gaussians = pipeline.generate(start.inputs, prior, job.settings, record)
            return results.write(job, start, gaussians, report)
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _settle(job: Any, picture_size: tuple[int, int], device: str) -> dict[str, str]:
    """Put names in place of "auto", the same for as long as the job lives. Sentences about it."""
    from ..media import images
    from ..models import choice, memory

    size = images.working_size(picture_size, job.settings.output.width, 8)
    chosen = choice.settle(job.settings, size, memory.free_bytes(device), job.models())
    job.settings = chosen.settings
    job.keep_models({"prior": chosen.settings.video.prior, "depth": chosen.settings.geometry.depth})
    return chosen.facts


def _log_to(folder: Path) -> logging.Handler:
    """The job's own log: what this engine has to say, whatever the console shows, and the warnings of its libraries."""
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
