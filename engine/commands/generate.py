"""generate: one image and a camera path become a scene."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..bridge import settings as settings_module
from ..bridge.errors import Cancelled, UserError
from ..bridge.settings import PRESETS, SceneSettings, Setting

DEMO = Path(__file__).resolve().parents[1] / "demo"
_DEFAULT_MOVE = "dolly:1.0"
log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--image, --path, --out, --preset, --resume, and a flag for every setting."""
    parser.add_argument(
        "--image", type=Path, help="the picture; without it the bundled demo is made"
    )
    parser.add_argument(
        "--path",
        default=None,
        help=f"camera path file, or a move such as {_DEFAULT_MOVE} (the default) or orbit:20",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="folder for the results (default: out/ and the picture's name)",
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), default="standard")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the job in --out after its last finished segment",
    )
    groups: dict[str, Any] = {}
    for row in settings_module.table():
        group = groups.setdefault(row.group, parser.add_argument_group(row.group))
        flags = _flags(row.name)
        group.add_argument(
            *flags,
            dest=f"setting_{row.name}",
            default=None,
            type=_reader(row),
            metavar=_metavar(row),
            help=_help(row),
        )


def _flags(name: str) -> list[str]:
    dashed = "--" + name.replace("_", "-")
    return [dashed] if "_" not in name else [dashed, "--" + name]


def _metavar(row: Setting) -> str:
    return (
        "{" + ",".join(row.choices) + "}"
        if row.choices
        else row.unit.upper() or row.type.__name__.upper()
    )


def _help(row: Setting) -> str:
    return f"{row.text} (default: {row.default})".replace("%", "%%")


def _reader(row: Setting) -> Any:
    if row.type is not bool:
        return row.type
    words = {
        "on": True,
        "true": True,
        "1": True,
        "yes": True,
        "off": False,
        "false": False,
        "0": False,
        "no": False,
    }

    def switch(text: str) -> bool:
        if text.lower() not in words:
            raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
        return words[text.lower()]

    return switch


def run(args: argparse.Namespace) -> int:
    """Make the job folder, run the job, and say where the results are."""
    from ..job import folder as job_module

    values = {
        name.removeprefix("setting_"): v
        for name, v in vars(args).items()
        if name.startswith("setting_") and v is not None
    }
    image, path, preset = args.image, args.path, args.preset
    if image is None and not (args.resume and args.out):
        image, path, preset, values = _demo(path, preset, values)
    folder = (
        args.out or Path("out") / ("demo" if args.image is None else args.image.stem)
    ).resolve()
    try:
        if image is None:
            job = job_module.Job(_existing(folder))
        else:
            job = prepare_job(
                folder,
                image,
                path or _DEFAULT_MOVE,
                settings_module.make(preset, **values),
                resume=args.resume,
            )
        with progress() as bars:
            outputs = run_job(job.folder, bars)
    except (KeyboardInterrupt, Cancelled):
        raise Cancelled(
            f"Stopped. Finished segments are in {folder}; add --resume to continue."
        ) from None
    sys.stdout.write("".join(f"{name}: {file}\n" for name, file in outputs.items()))
    return 0


def _demo(
    path: str | None, preset: str, values: dict[str, Any]
) -> tuple[Path, str, str, dict[str, Any]]:
    import json

    chosen = json.loads((DEMO / "demo.json").read_text(encoding="utf-8"))
    image = next(file for file in sorted(DEMO.glob("image.*")))
    return (
        image,
        path or str(DEMO / "path.json"),
        "draft" if preset == "standard" else preset,
        {**chosen, **values},
    )


def _existing(folder: Path) -> Path:
    if not (folder / "settings.json").is_file():
        raise UserError(f"{folder} holds no job.", "Give the --out of the job to resume.")
    return folder


def prepare_job(
    folder: Path, image: Path, path: str, settings: SceneSettings, *, resume: bool
) -> Any:
    """A job folder with copies of the inputs, after reading each once: bad input leaves nothing behind."""
    from .. import geometry, priors
    from ..bridge import camera_file
    from ..cameras import moves, trajectory
    from ..job import folder as job_module
    from ..media import images
    from ..models import choice

    if settings.prior.prior != choice.AUTO:
        priors.check(settings.prior.prior)
    if settings.geometry.depth.strip() != choice.AUTO:
        geometry.check(settings.geometry.depth)
    choice.check(settings)
    picture = images.load_image(image)
    inputs = {"image": image}
    with tempfile.TemporaryDirectory() as scratch:
        if trajectory.is_move(path) and not Path(path).exists():
            moves.parse(path)
            inputs["path"] = Path(scratch) / "path.txt"
            inputs["path"].write_text(path + "\n", encoding="utf-8")
        else:
            size = (picture.pixels.shape[2], picture.pixels.shape[1])
            inputs["path"] = Path(scratch) / "path.json"
            camera_file.write(inputs["path"], trajectory.load(path, image_size=size))
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
        # weights stay where they are: too large to copy
        places = {
            n: str(Path(v).expanduser().resolve())
            for n, v in (("lora", settings.prior.lora), ("gguf", settings.prior.gguf))
            if v
        }
        settings = settings_module.make(**{**_flat(settings), **places})
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
    from ..job import inputs, results
    from ..job.folder import Job
    from ..media import images
    from ..method import pipeline
    from ..models import memory
    from ..models.device import choose

    job = Job(folder)
    handler = _log_to(folder)
    report = _logged(report)
    try:
        with job.locked():
            job.start()
            device = choose(job.settings.output.device)
            picture = images.load_image(job.image)
            facts = _settle(job, (picture.pixels.shape[2], picture.pixels.shape[1]), str(device))
            for name, fact in facts.items():
                report("models", 1, 1, f"{name}: {fact}")
            report("depth", 0, 1)
            start = inputs.load(job, device, picture)
            prior = priors.make_prior(job.settings, start.inputs.image, str(device))
            start.facts.update(results.provenance(prior.spec) | facts)
            start.facts.update(memory.described(prior))
            for name, fact in start.facts.items():
                log.info("%s: %s", name, fact)
            report("prior", 1, 1, start.facts.get("memory of the prior", prior.spec.name))
            gaussians = pipeline.generate(job, start.inputs, prior, report)
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
    job.keep_models({"prior": chosen.settings.prior.prior, "depth": chosen.settings.geometry.depth})
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


class Bars:
    """Progress on a terminal: one bar a stage, with the remaining time."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(
        self, stage: str, done: int, total: int, text: str = "", preview: Path | None = None
    ) -> None:
        from tqdm import tqdm

        if stage != self._stage and text and done >= total:  # something to read, not to wait for
            self._close()
            sys.stderr.write(f"{stage}: {text}\n")
            return
        if stage != self._stage:
            self._close()
            self._bar, self._stage = (
                tqdm(total=total, desc=stage, file=sys.stderr, dynamic_ncols=True),
                stage,
            )
        if text:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.n = done
        self._bar.refresh()
        if done >= total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stage, self._bar = "", None


class Lines:
    """Progress in a file or a farm's log: a line for each stage, and one now and then within a long one."""

    EVERY_S = 30.0

    def __init__(self) -> None:
        self._stage, self._told_s = "", 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(
        self, stage: str, done: int, total: int, text: str = "", preview: Path | None = None
    ) -> None:
        now_s = time.monotonic()
        if stage == self._stage and not text and now_s - self._told_s < self.EVERY_S:
            return
        self._stage, self._told_s = stage, now_s
        count = f" {done}/{total}" if total > 1 else ""
        sys.stderr.write(f"{stage}{count}{': ' + text if text else ''}\n")
        sys.stderr.flush()


def progress() -> Bars | Lines:
    return Bars() if sys.stderr.isatty() else Lines()
