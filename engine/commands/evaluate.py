"""evaluate: the method's experiments on posed pictures, as tables and plots."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# The variants of each experiment, as settings that differ from the draft preset.
EXPERIMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "ablation": {
        "full": {},
        "without latent momentum": {"momentum": "pixel"},
        "without pixel momentum": {"momentum": "latent"},
        "without diffusion": {"diffusion": False},
    },
    "paper_form": {  # latent momentum exactly as printed: no coverage in lambda, so holes are pulled too
        "full": {"lambda_coverage": False},
        "without latent momentum": {"momentum": "pixel", "lambda_coverage": False},
        "without pixel momentum": {"momentum": "latent", "lambda_coverage": False},
        "free run alone": {"momentum": "none"},
    },
    "lambda_0": {f"lambda_0 {x:g}": {"lambda_0": x} for x in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)},
    "tau": {f"tau {x:g}": {"tau": x} for x in (0.1, 0.3, 0.5, 1.0, 2.0, 4.0)},
    "similarity": {"patch": {"similarity": "patch"}, "latent": {"similarity": "latent"}},
    "momentum_start": {f"from {x:.0%}": {"momentum_start": x} for x in (0.0, 0.3, 0.6)},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, nargs="+", help="posed sets: transforms.json, pictures, depth maps or sparse points")
    parser.add_argument("--experiment", choices=tuple(EXPERIMENTS), default="ablation")
    parser.add_argument("--out", type=Path, default=Path("out") / "evaluation")
    parser.add_argument("--width", type=int, default=192, help="working width in pixels (default: 192)")
    parser.add_argument("--views", type=int, default=3, help="true views after the input view (default: 3)")
    parser.add_argument("--frames", type=int, default=13, help="frames of the path (default: 13)")
    parser.add_argument("--prior", default="patch", help="video prior (default: patch)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Run the experiment, write <out>/<experiment>.json and .md, and print the table."""
    from .. import evaluation
    from .generate import Bars

    views = [evaluation.load_posed(folder, views=args.views, frames=args.frames) for folder in args.data]
    segments = {"segment_length": args.frames, "overlap": max(1, args.frames // 3)}
    common = {"width": args.width, "seed": args.seed, "prior": args.prior, **segments}
    variants = {name: {**common, **overrides} for name, overrides in EXPERIMENTS[args.experiment].items()}
    rows = []
    for view, variant, score in evaluation.experiment(views, variants, Bars()):
        rows.append({"view": view, "variant": variant, **score._asdict()})
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{args.experiment}.json").write_text(json.dumps({"common": common, "rows": rows}, indent=1), encoding="utf-8")
    table = to_table(rows)
    (args.out / f"{args.experiment}.md").write_text(table, encoding="utf-8")
    sys.stdout.write(table)
    return 0


def to_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of all runs, then the means over views for each variant."""
    columns = {
        "psnr": "PSNR", "psnr_seen": "seen", "psnr_invented": "invented", "ssim": "SSIM", "invented_share": "share invented",
        "input_psnr": "input view", "seconds": "seconds",
    }  # fmt: skip
    lines = ["| view | variant | " + " | ".join(columns.values()) + " |", "|---" * (2 + len(columns)) + "|"]

    def line(view: str, variant: str, values: list[float]) -> str:
        cells = " | ".join(f"{v:.3f}" if key in ("ssim", "invented_share") else f"{v:.2f}" for key, v in zip(columns, values, strict=True))
        return f"| {view} | {variant} | {cells} |"

    lines += [line(row["view"], row["variant"], [row[key] for key in columns]) for row in rows]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        lines.append(line("**mean**", variant, [sum(row[key] for row in mine) / len(mine) for key in columns]))
    return "\n".join(lines) + "\n"
