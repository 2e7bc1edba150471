"""generate: one image and a camera path become a scene."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bridge import settings as settings_module
from ..bridge.errors import UserError
from ..bridge.settings import PRESETS, Setting
from ..job import forecast
from ..job.run import DEFAULT_MOVE, prepared_job, work
from ..service.leaving import last_words

if TYPE_CHECKING:
    from ..job.folder import Job

DEMO = Path(__file__).resolve().parents[1] / "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The picture, --path, --out, --preset, --resume, and a flag for every setting."""
    parser.add_argument(
        "picture",
        nargs="?",
        type=Path,
        metavar="IMAGE",
        help="the picture; without it the bundled demo is made",
    )
    parser.add_argument("--image", type=Path, help="the same")
    parser.add_argument(
        "--path",
        default=None,
        help=f"camera path file, or a move such as {DEFAULT_MOVE} (the default), orbit:20 or "
        '"orbit:20 loop"',
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="folder for the results (default: out/ and the picture's name)",
    )
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), help="default: standard, or as the job to resume has it"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the job in --out after its last finished segment; what is given must "
        "be the same",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin the job in --out anew, without --image from its own inputs; "
        "the earlier result is kept in it, under earlier/001",
    )
    parser.add_argument(
        "--redo-from",
        type=int,
        metavar="K",
        help="begin the finished job in --out again at segment K, counted from 1, with another "
        "--seed, --prior or --prompt; the result is a variant of its own, under variants/v2",
    )
    parser.add_argument(
        "--redo-mask",
        metavar="FRAME:PICTURE",
        help="invent again only what is seen where PICTURE, which has the size of that frame in "
        "frames/, is white; all else stays, and the result is a variant as with --redo-from",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="make nothing; say which models would be used, and how long and how much memory it "
        "would take",
    )
    groups: dict[str, Any] = {}
    for row in sorted(settings_module.table(), key=lambda row: not row.basic):  # stable
        title = "settings" if row.basic else f"advanced: {row.group}"
        group = groups.get(title) or parser.add_argument_group(title)
        groups[title] = group
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
    values = {
        name.removeprefix("setting_"): v
        for name, v in vars(args).items()
        if name.startswith("setting_") and v is not None
    }
    if args.picture is not None and args.image is not None:
        raise UserError(f"Two pictures were given: {args.picture} and {args.image}.", "Give one.")
    picture = args.picture or args.image
    image, path, preset = picture, args.path, args.preset
    if args.redo_from is not None or args.redo_mask is not None:
        return _redo(args, values)
    if args.restart and args.resume:
        raise UserError(
            "--resume goes on with the job that is there, --restart begins it anew.", "Give one."
        )
    if image is None and not ((args.resume or args.restart) and args.out):
        image, path, preset, values = _demo(path, preset, values)
    folder = (args.out or Path("out") / ("demo" if picture is None else picture.stem)).resolve()
    if args.dry_run:
        facts, expected = forecast.dry_run(
            folder, image, path, preset, values, resume=args.resume, restart=args.restart
        )
        return _told(facts, expected)
    with (
        last_words(f"Stopped. Finished segments are in {folder}; add --resume to continue."),
        prepared_job(
            folder, image, path, preset, values, resume=args.resume, restart=args.restart
        ) as job,
    ):
        return _worked(job)


def _told(facts: dict[str, str], expected: forecast.Forecast) -> int:
    lines = [f"{name}: {fact}" for name, fact in facts.items()]
    sys.stdout.write("\n".join([*lines, expected.text(), "Nothing was made.", ""]))
    return 0


def _worked(job: Job) -> int:
    with progress() as bars:
        outputs = work(job, bars)
    sys.stdout.write("".join(f"{name}: {file}\n" for name, file in outputs.items()))
    return 0


def _redo(args: argparse.Namespace, values: dict[str, Any]) -> int:
    """Make a variant of a finished job."""
    from ..job import variants

    names = ("resume", "restart", "image", "path", "preset")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]
    if args.redo_from is not None and args.redo_mask is not None:
        raise UserError(
            "--redo-from redoes all that comes after, --redo-mask a part of everything.",
            "Give one; the variant that it makes can be redone in its turn.",
        )
    wish = variants.Wish(values, args.redo_from or 0)
    if args.redo_mask is not None:
        frame, _, mask = args.redo_mask.partition(":")
        if not frame.strip().isdecimal() or not mask:
            raise UserError(
                f"--redo-mask {args.redo_mask} names no frame.",
                "Give the frame and the picture, e.g. --redo-mask 12:mask.png.",
            )
        wish = wish._replace(mask=Path(mask), frame=int(frame))
    if given:
        raise UserError(
            f"A redo goes with --seed, --prior and --prompt, not with {', '.join(given)}.",
            "To go on with one that was stopped, give --out and its folder, and --resume.",
        )
    folder = (args.out or Path("out") / "demo").resolve()
    if args.dry_run:
        return _told(*forecast.dry_run_of_redo(folder, wish))
    go_on = "Stopped. To go on with it: --out {} --resume."
    with (
        last_words(go_on.format(folder)),
        variants.prepared_redo(folder, wish) as job,
        last_words(go_on.format(job.folder)),
    ):
        return _worked(job)


def _demo(
    path: str | None, preset: str | None, values: dict[str, Any]
) -> tuple[Path, str, str, dict[str, Any]]:
    import json

    chosen = json.loads((DEMO / "demo.json").read_text(encoding="utf-8"))
    image = next(file for file in sorted(DEMO.glob("image.*")))
    return (
        image,
        path or str(DEMO / "path.json"),
        preset or "draft",
        {**chosen, **values},
    )


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
    """Progress in a file or a farm's log: a line for each stage, and one now and then within a long
    one.
    """

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
