"""Results as Markdown tables and plots."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from ..job.report import plot_axes
from .experiments import EXPERIMENTS
from .references import POOLS
from .runner import FILLED, FINISHED, Row, mean

# key -> (heading, decimals)
COLUMNS = {
    "psnr": ("PSNR", 2),
    "psnr_seen": ("seen", 2),
    "psnr_invented": ("invented", 2),
    "psnr_rim_seen": ("rim, seen", 2),
    "psnr_rim_invented": ("rim, invented", 2),
    "frames_seen": ("frames, seen", 2),
    "frames_invented": ("frames, invented", 2),
    "revisit_seen": ("revisit, seen", 2),
    "revisit_invented": ("revisit, invented", 2),
    "refit_even": ("refit, even", 2),
    "refit_odd": ("refit, odd", 2),
    "camera_px": ("camera, px", 2),
    "camera_deg": ("camera, deg", 2),
    "ssim": ("SSIM", 3),
    "lpips": ("LPIPS", 3),
    "lpips_invented": ("its invented", 3),
    "structure": ("structure", 3),
    "structure_invented": ("its invented", 3),
    "detail_invented": ("detail", 2),
    "consistency_psnr": ("consistency", 2),
    "drift_psnr": ("drift", 2),
    "seam": ("seam", 2),
    "last_loss": ("loss", 4),
    "input_psnr": ("input view", 2),
    "seconds": ("seconds", 1),
}
LEGEND = """PSNR and SSIM (data range 1) compare the final scene with the full true frames.
*Seen* and *invented* are PSNR over what the input view saw and over the rest. *Rim* is what lies
within 8 pixels of where the two meet. *Frames* compares the enhanced frames themselves with the
truth, before any scene is fitted. *Structure* is a multi-scale gradient dissimilarity; lower is
better. It stands in for LPIPS, whose weights are not part of the project (`--lpips FOLDER`
brings its columns). *Detail* is the gradient energy of the invented part over the truth's.
*Revisit* is PSNR between the two visits of a path out and back. *Refit* is PSNR of a scene
refitted to the even frames, on the even and on the odd ones. *Camera* is how far the frames show
the scene from the camera that was asked for. *Consistency* is PSNR between neighbouring enhanced
frames after warping. *Drift* compares enhanced frames with the renders where the scene is known.
*Seam* is the change of shared frames in ordinary frame steps. *Loss* is the end of the last
refinement. *Input view* is PSNR of the final scene against the picture. Seconds are by the clock
of a busy machine."""
RELIABLE_DB = 15.0  # our choice: below this, what is invented has little to do with the scene
REPORTED = {  # the paper's lambda is the printed one
    "lambda as printed": "19.81",
    "without latent momentum": "18.52",
    "lambda as printed, without pixel momentum": "16.31",
    "without diffusion": "16.14",
}


def circumstances(root: Path) -> dict[str, Any]:
    """Machine, versions and commit of this run."""
    import numpy
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "commit": _git(root, "rev-parse", "--short", "HEAD") or "unknown",
        "changed_since_commit": bool(_git(root, "status", "--porcelain", "--", "engine")),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _git(root: Path, *words: str) -> str:
    try:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""  # no repository: a zip of the sources


def to_table(rows: list[Row]) -> str:
    """Markdown tables: the means of every variant over the views of each kind of path, then
    every run.
    """
    columns = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    headings = " | ".join(COLUMNS[key][0] for key in columns)
    rule = "|---" * (1 + len(columns)) + "|"
    lines = []
    for path in dict.fromkeys(row["path"] for row in rows):
        mine = [row for row in rows if row["path"] == path]
        lines += [f"| {path} paths, mean of {_count(mine)} | {headings} |", rule]
        for variant in dict.fromkeys(row["variant"] for row in mine):
            lines.append(
                _line(variant, means([row for row in mine if row["variant"] == variant]), columns)
            )
        lines.append("")
    lines += [f"| view, variant | {headings} |", rule]
    lines += [
        _line(f"{row['view']} ({row['path']}, seed {row['seed']}), {row['variant']}", row, columns)
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def means(rows: list[Row]) -> Row:
    """Means over runs of every column."""
    return {key: mean([row.get(key) for row in rows]) for key in COLUMNS}


def _line(name: str, row: Row, columns: list[str]) -> str:
    cells = ("" if row.get(key) is None else f"{row[key]:.{COLUMNS[key][1]}f}" for key in columns)
    return f"| {name} | " + " | ".join(cells) + " |"


def _count(rows: list[Row]) -> str:
    seeds = sorted({row["seed"] for row in rows})
    return (
        f"{len({row['view'] for row in rows})} views, seed{'s'[: len(seeds) - 1]} "
        f"{' and '.join(map(str, seeds))}"
    )


def _whole(rows: list[Row]) -> list[Row]:
    """Only views on which every variant has been run with every seed of its kind of path, so
    that means compare like with like.
    """
    variants = {row["variant"] for row in rows}
    wanted = {
        (path, seed, variant)
        for path, seed in {(row["path"], row["seed"]) for row in rows}
        for variant in variants
    }
    done = {(row["view"], row["path"], row["seed"], row["variant"]) for row in rows}

    def complete(view: str, path: str) -> bool:
        return all((view, *rest) in done for rest in wanted if rest[0] == path)

    return [row for row in rows if complete(row["view"], row["path"])]


MAIN = {  # columns of the README's table: key -> heading; decimals as in COLUMNS
    "psnr": "PSNR, dB",
    "psnr_seen": "seen",
    "psnr_invented": "invented",
    "psnr_rim_invented": "invented, within 8 px of the seen",
    "frames_invented": "invented, in the prior's frames",
    "structure_invented": "structure, invented",
    "camera_px": "camera of the frames, px off",
}


def main_table(rows: list[Row]) -> str:
    """The ablation as the README shows it, beside what the paper reports for its own data."""
    rows = _whole([row for row in rows if row["path"] == "medium"])
    headings = [f"medium paths, mean of {_count(rows)}", *MAIN.values()]
    headings.append("paper's PSNR (reported, other data)")
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        found = means([row for row in rows if row["variant"] == variant])
        cells = [_number(found[key], COLUMNS[key][1]) for key in MAIN]
        lines.append(f"| {' | '.join([variant, *cells, REPORTED.get(variant, '')])} |")
    return "\n".join(lines) + "\n"


def noise_table(rows: list[Row]) -> str:
    """How far a variant's PSNR moves with the seed: its mean over views, and its single views.
    Empty with one seed.
    """
    rows = _whole(rows)
    seeds = sorted({row["seed"] for row in rows})
    if len(seeds) < 2:
        return ""
    lines = [
        "| PSNR between seeds | difference of the means, dB | largest difference of a view, dB |",
        "|---|---|---|",
    ]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        by_seed = [
            {
                row["view"] + row["path"]: row["psnr"]
                for row in rows
                if (row["variant"], row["seed"]) == (variant, s)
            }
            for s in seeds
        ]
        shared = set.intersection(*map(set, by_seed))
        values = [[one[view] for view in sorted(shared)] for one in by_seed]
        if shared:
            total = [sum(v) / len(v) for v in values]
            single = max(max(v) - min(v) for v in zip(*values, strict=True))
            lines.append(f"| {variant} | {max(total) - min(total):.2f} | {single:.2f} |")
    return "\n".join(lines) + "\n"


def cost_table(rows: list[Row]) -> str:
    """Seconds of a segment's stages, means over segments and views."""
    lines = [
        "| a segment's seconds | render | generate | refine | Gaussians at the end |",
        "|---|---|---|---|---|",
    ]
    for variant in dict.fromkeys(
        row["variant"] for row in rows if not row["variant"].endswith(FILLED)
    ):
        mine = [row for row in rows if row["variant"] == variant]
        stages = (
            mean([row["stage_seconds"].get(stage) for row in mine])
            for stage in ("render", "generate", "refine")
        )
        cells = " | ".join("" if s is None else f"{s:.2f}" for s in stages)
        lines.append(f"| {variant} | {cells} | {mean([row['gaussians'] for row in mine]):.0f} |")
    return "\n".join(lines) + "\n"


def references_table(rows: list[Row]) -> str:
    """How well likeness to each pool of references tells right cells from wrong ones, run by
    run.
    """
    lines = [
        "| references of Eq. (10) | render of the first n frames, dB | of the rest, dB | "
        + " | ".join(POOLS)
        + " |",
        "|---|---|---|" + "---|" * len(POOLS),
    ]
    for row in rows:
        found = row.get("references") or {}
        if "first_psnr" in found:
            cells = " | ".join(_number(found.get(name), 3) for name in POOLS)
            lines.append(
                f"| {row['view']} ({row['path']}), {row['variant']} | {found['first_psnr']:.2f} | "
                f"{found['rest_psnr']:.2f} | {cells} |"
            )
    return "\n".join(lines) + "\n"


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def with_main_table(readme: str, record: Path) -> str:
    """The README's text with the main table of the record's ablation."""
    rows = json.loads((record / "coarse_ablation.json").read_text(encoding="utf-8"))["rows"]
    start, end = "<!-- evaluation -->\n", "<!-- /evaluation -->"
    before, rest = readme.split(start)
    return before + start + main_table(rows) + end + rest.split(end)[1]


def write_readme(readme: Path, record: Path) -> None:
    """Put the main table into the README."""
    readme.write_text(with_main_table(readme.read_text(encoding="utf-8"), record), encoding="utf-8")


def range_table(rows: list[Row]) -> str:
    """The greatest share of unseen pixels at which what is invented still keeps RELIABLE_DB,
    scene by scene.
    """
    lines = [
        f"| scene | unseen share up to which the invented part keeps {RELIABLE_DB:g} dB | "
        "largest share tried |",
        "|---|---|---|",
    ]
    rows = [row for row in rows if row["variant"] == "full" and row["path"] != "posed"]
    for view in sorted({row["view"] for row in rows}):
        points = sorted(
            (f["invented_share"], f["psnr_invented"])
            for row in rows
            if row["view"] == view
            for f in row["frames"]
            if f["psnr_invented"] is not None  # nothing is invented there
        )
        if not points:
            continue
        good = 0.0
        for share, value in points:
            if value < RELIABLE_DB:
                break
            good = share
        lines.append(f"| {view} | {good:.0%} | {points[-1][0]:.0%} |")
    return "\n".join(lines) + "\n"


def save(out: Path, name: str, data: dict[str, Any]) -> None:
    """Write <name>.json, a run a line."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=None, separators=(",", ":")).replace('},{"view"', '},\n{"view"')
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write(out: Path, name: str, data: dict[str, Any]) -> str:
    """Write <name>.json, <name>.md and the plots of one experiment. Returns the Markdown."""
    rows = data["rows"]
    save(out, name, data)
    made = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in data["circumstances"].items()
    )
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    experiment = EXPERIMENTS[name]
    used = {**data["common"], **experiment.settings}
    common = ", ".join(f"{key.replace('_', ' ')} {_said(value)}" for key, value in used.items())
    text = f"# {name}\n\n{experiment.question}\n\n"
    text += f"Settings: {common}; others as the draft preset.\n"
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    text += f"Seeds: {seeds}. Commits of the runs: {commits}.\nLast written: {made}.\n\n"
    if name.endswith("ablation") and any(row["path"] == "medium" for row in rows):
        text += main_table(rows) + "\n"
    if name == "view_range":
        text += range_table(rows) + "\n"
    text += to_table(_whole(rows) or rows)
    text += f"\n{noise_table(rows)}\n{cost_table(rows)}" if rows else ""
    text += f"\n{references_table(rows)}" if any("references" in row for row in rows) else ""
    for plot in _plots(out, name, rows):
        text += f"\n![{plot}]({plot})\n"
    text += f"\n{LEGEND}\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _plots(out: Path, name: str, rows: list[Row]) -> list[str]:
    if not rows:
        return []
    if name == "convergence":
        return [_plot_losses(out / "convergence.png", rows)]
    if name == "view_range":
        return [_plot_range(out / "view_range.png", rows)]
    return [_plot_means(out / f"{name}.png", _whole(rows) or rows)]


def _plot_means(file: Path, rows: list[Row]) -> str:
    """Means over the views of one kind of path, that of the first row."""
    path = rows[0]["path"]
    rows = [row for row in rows if row["path"] == path]
    figure, axes = plot_axes("", f"PSNR, dB, {path} paths", fitted=True)
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for key, label in (
        ("psnr", "full frame"),
        ("psnr_seen", "seen"),
        ("psnr_invented", "invented"),
    ):
        values = [means([row for row in rows if row["variant"] == v])[key] for v in variants]
        axes.plot(
            range(len(variants)),
            [float("nan") if v is None else v for v in values],
            marker="o",
            label=label,
        )
    names = [v.replace(FILLED, ",\nfilled").replace(FINISHED, ",\nthen ") for v in variants]
    axes.set_xticks(range(len(variants)), names, fontsize=7)
    axes.legend(fontsize=7)
    figure.savefig(file)
    return file.name


def _plot_losses(file: Path, rows: list[Row]) -> str:
    """Mean loss over the optimiser's steps of all segments, as the paper's Fig. 6."""
    figure, axes = plot_axes(
        "optimiser step over all segments", "loss, Eq. (20), mean over views", fitted=True
    )
    for variant in dict.fromkeys(row["variant"] for row in rows):
        curves = [
            [x for segment in row["losses"] for x in segment]
            for row in rows
            if row["variant"] == variant
        ]
        length, window = min(len(c) for c in curves), 10
        line = [sum(c[i] for c in curves) / len(curves) for i in range(length)]
        axes.plot(
            [sum(line[i : i + window]) / window for i in range(length - window)],
            label=variant,
            linewidth=0.9,
        )
    axes.set_yscale("log")
    axes.legend(fontsize=7)
    figure.savefig(file)
    return file.name


def _plot_range(file: Path, rows: list[Row]) -> str:
    figure, axes = plot_axes(
        "share of the frame that the input did not see",
        "PSNR of the invented part, dB",
        fitted=True,
    )
    for variant in dict.fromkeys(row["variant"] for row in rows):
        points = [
            (f["invented_share"], f["psnr_invented"])
            for row in rows
            if row["variant"] == variant
            for f in row["frames"]
            if f["psnr_invented"] is not None
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), s=10, label=variant)
    axes.axhline(RELIABLE_DB, color="grey", linewidth=0.8)
    axes.legend(fontsize=7)
    figure.savefig(file)
    return file.name
