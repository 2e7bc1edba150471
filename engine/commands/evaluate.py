"""evaluate: the method's experiments on pictures whose other views are known, as tables and
plots.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..bridge import settings
from ..bridge.errors import UserError
from ..bridge.reading import json_of
from ..bridge.whole_file import temporary_folder

ROOT = Path(__file__).resolve().parents[2]
SCENES = ROOT / "benchmarks" / "scenes"
RECORD = ROOT / "docs" / "evaluation"  # written there, the main table goes into the README too
NAMES = (  # those of evaluation.experiments, which the command line does not import before it must
    "coarse_ablation",
    "coarse_drift",
    "out_and_back",
    "long_paths",
    "ablation",
    "drifting_prior",
    "drifting_printed",
    "printed_form",
    "lambda_0",
    "tau",
    "momentum_start",
    "colour_match",
    "segments",
    "convergence",
    "view_range",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        type=Path,
        nargs="*",
        help="scenes, posed sets, or folders of them (default: benchmarks/scenes)",
    )
    parser.add_argument(
        "--experiment", choices=("all", *NAMES), nargs="+", default=["all"], help="default: all"
    )
    parser.add_argument("--out", type=Path, default=Path("out") / "evaluation")
    parser.add_argument(
        "--width", type=int, default=128, help="working width in pixels (default: 128)"
    )
    parser.add_argument(
        "--views",
        type=int,
        default=3,
        help="true views after the input view of a posed set (default: 3)",
    )
    parser.add_argument(
        "--frames", type=int, default=13, help="frames of a posed set's path (default: 13)"
    )
    parser.add_argument("--steps", type=int, default=8, help="denoising steps (default: 8)")
    parser.add_argument(
        "--refine-steps", type=int, default=60, help="optimiser steps a segment (default: 60)"
    )
    parser.add_argument("--prior", default="patch", help="video prior (default: patch)")
    parser.add_argument(
        "--finisher",
        choices=settings.CHOICE_TEXT["finisher"],
        default=settings.NO_FINISHER,
        help="measure every scene a second time, after this network has repaired it (default: "
        "none)",
    )
    parser.add_argument(
        "--border",
        type=float,
        default=0.0,
        help="share to crop from every side before measuring, e.g. 0.05",
    )
    parser.add_argument(
        "--lpips",
        type=Path,
        help="folder with AlexNet's and LPIPS's weights; without it LPIPS is left out",
    )
    parser.add_argument(
        "--drawn",
        type=Path,
        help="keep the scenes that are drawn for long paths in this folder (default: drawn anew)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the experiment's own")
    parser.add_argument(
        "--only", nargs="+", help="these views, by name, instead of the experiment's own"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="run everything again instead of adding to the results in --out",
    )


def run(args: argparse.Namespace) -> int:
    """Run the experiments; write <out>/<experiment>.json after every run, .md and .png at the
    end; print the means.
    """
    from ..evaluation import experiments, scenes, tables
    from ..evaluation.lpips import Lpips

    lpips = None if args.lpips is None else Lpips(args.lpips)
    folders = scenes.find(args.data or [_shipped()])
    common = {
        "width": args.width,
        "prior": args.prior,
        "steps": args.steps,
        "refine_steps": args.refine_steps,
        "views": args.views,
        "frames": args.frames,
        "border": args.border,
        "segment_length": 9,
        "overlap": 3,
    }
    if args.finisher != settings.NO_FINISHER:
        common["finisher"] = args.finisher
    for name in NAMES if "all" in args.experiment else args.experiment:
        with temporary_folder() as scratch:
            experiment = experiments.EXPERIMENTS[name]
            these = folders
            if experiment.drawn:
                these = experiments.drawn_scenes(args.drawn or Path(scratch), experiment.paths)
            if args.only and not any(folder.name in args.only for folder in these):
                raise UserError(
                    f"None of the views named by --only is there for {name}.",
                    f"It has {', '.join(folder.name for folder in these)}.",
                )
            _experiment(args, name, experiment, these, common, lpips)
    if args.out.resolve() == RECORD:
        tables.write_readme(ROOT / "README.md", args.out)
    return 0


def _experiment(
    args: argparse.Namespace,
    name: str,
    experiment: Any,
    folders: list[Path],
    common: dict[str, Any],
    lpips: Any,
) -> None:
    """Run what is not in <out>/<name>.json yet; write tables and plots."""
    from ..evaluation import experiments, scenes, tables

    data = _earlier(args.out / f"{name}.json", common) if not args.fresh else None
    data = data or {"common": common, "rows": []}
    data["circumstances"] = tables.circumstances(ROOT)
    for folder, path, seed, variant in experiments.runs(
        folders, experiment, views=args.only, seeds=args.seeds
    ):
        key = {"view": folder.name, "path": path, "seed": seed, "variant": variant}
        if any(all(row[name] == value for name, value in key.items()) for row in data["rows"]):
            continue
        view = scenes.load(folder, path=path, views=args.views, frames=args.frames)
        overrides = {"seed": seed, **experiment.settings, **experiment.variants[variant]}
        _add(data, view, key, overrides, lpips)
        tables.save(args.out, name, data)
    sys.stdout.write(tables.write(args.out, name, data).split("| view, variant |")[0])


def _add(
    data: dict[str, Any], view: Any, key: dict[str, Any], overrides: dict[str, Any], lpips: Any
) -> None:
    from ..evaluation import runner
    from .generate import progress

    own = {
        key: value
        for key, value in data["common"].items()
        if key not in ("views", "frames", "border")
    }
    with progress() as bars:
        measured = runner.run(
            view, {**own, **overrides}, bars, border=data["common"]["border"], lpips=lpips
        )
    for suffix, row in measured.items():
        head = {
            **key,
            "variant": key["variant"] + suffix,
            "commit": data["circumstances"]["commit"],
        }
        data["rows"].append({**head, **_plain(row)})


def _plain(value: Any) -> Any:
    """NaN, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return None if value != value else round(value, 5)
    return value


def _shipped() -> Path:
    if not SCENES.is_dir():
        raise UserError(
            "There are no scenes beside the engine.",
            "Make them with benchmarks/make_scenes.py, or name folders of your own.",
        )
    return SCENES


def _earlier(file: Path, common: dict[str, Any]) -> dict[str, Any] | None:
    """Results to add to. UserError where they were made with other settings: a table must not
    mix them.
    """
    if not file.is_file():
        return None
    data = json_of(file)
    if not isinstance(data, dict) or data.get("common") != common:
        raise UserError(
            f"{file} was made with other settings.", "Choose another --out, or add --fresh."
        )
    return data
