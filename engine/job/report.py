"""Numbers, plots and pictures of a finished run: report.json and report.html.

Nothing here needs ground truth. The four ways in which the method fails (the paper's
section 4.3 and its limits) are measured, and named in plain words where they occur.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..bridge.errors import UserError
from ..bridge.whole_file import whole_file
from .folder import read_json, write_json
from .frame_quality import Agreement

PAGE = "scene.html"  # the scene in a browser, beside the report
_HEAVY_BYTES = 30_000_000  # a larger page is not opened unasked
GEOMETRY = "geometry that may not fit"  # name of the fact that speaks against the depth
OPTIMISATION = "Optimisation"  # name of a finding
GUESS = "how far to trust the depth"  # name of the fact that says that it is no more than a guess
# name of the fact that little was learned: the loss is that of all the rest, which does not move
REPAINTED = "repainted"
AGREEMENT_DB = (
    25.0  # neighbouring enhanced frames should agree at least this well where both see a surface
)
DRIFT_DB = 24.0  # enhanced frames should stay this close to the renders where the scene is known
UNSEEN_DETAIL = 0.2  # invented parts should have at least this share of the detail around them
# the loss should fall at least to this share of where it was after the first tenth of the steps
CONVERGED = 0.97
SEAM = 2.5  # shared frames should not change more than this many times an ordinary frame step
INPUT_DB = 28.0  # the scene should show the input image at least this well
REPAIR_LOSS_DB = 1.0  # of that, a finisher may take this much


_NAMED_SEGMENTS = 10  # with more lines in a plot their names only hide it


@dataclass
class PathNumbers:
    """What is measured along the path while its film is made: a few numbers a frame."""

    input_psnr: float = math.nan  # dB, the final scene against the picture
    agreement: Agreement = field(default_factory=Agreement)  # of neighbouring enhanced frames
    path_psnr: list[float] = field(default_factory=list)  # dB, the final scene against every frame
    path_ssim: list[float] = field(default_factory=list)
    # dB, the last enhanced frame against the picture; nan where the path does not come back to it
    revisit_psnr: float = math.nan


class Finding(NamedTuple):
    """One of the ways in which the method fails, as it was measured in a job."""

    name: str
    ok: bool
    measured: str
    advice: str  # empty where all is well


def findings(
    segments: list[dict[str, Any]], input_psnr: float, agreement_psnr: float = math.nan
) -> list[Finding]:
    """What the numbers of all segments say. `segments` are their stats.json; NaN: no two frames
    see the same surface.
    """
    drift = [s["drift_psnr"] for s in segments if s["drift_psnr"] is not None]
    detail = [
        s["unseen_detail"]
        for s in segments
        if s["unseen_detail"] is not None and s["unknown_share"] > 0.01
    ]
    seams = [s["seam"] for s in segments if s["seam"] is not None]
    fall = [loss_fall(s["losses"]) for s in segments if len(s["losses"]) >= 20]
    return [
        _finding(
            "Input view",
            [input_psnr],
            INPUT_DB,
            "{:.1f} dB PSNR against the picture",
            "Raise refine_steps.",
        ),
        _finding(
            "Frames that disagree",
            [] if math.isnan(agreement_psnr) else [agreement_psnr],
            AGREEMENT_DB,
            "neighbouring frames agree to {:.1f} dB after warping one into the other",
            "Raise lambda_0 or overlap, or make a shorter move.",
        ),
        _finding(
            "Consistency drift",
            drift,
            DRIFT_DB,
            "known parts keep {:.1f} dB in the worst segment",
            "Raise lambda_0.",
        ),
        _finding(
            "Blank or blurry unseen regions",
            detail,
            UNSEEN_DETAIL,
            "invented parts have {:.2f} of the detail around them",
            "Lower lambda_0, raise steps, or make a shorter move: the path may leave the scene "
            "too far behind.",
        ),
        _finding(
            OPTIMISATION,
            [-x for x in fall],
            -CONVERGED,
            "the loss ends at {:.2f} of its early value in the worst segment",
            "Raise refine_steps; if that does not help, the frames contradict each other: raise "
            "lambda_0.",
            sign=-1.0,
        ),
        _finding(
            "Seams between segments",
            [-x for x in seams],
            -SEAM,
            "shared frames change by {:.2f} frame steps",
            "Raise overlap.",
            sign=-1.0,
        ),
    ]


def geometry_finding(facts: dict[str, Any]) -> Finding:
    """What is known against the depth that the scene began with: bending lines, leaning
    uprights, a source's own doubts.
    """
    against = facts.get(GEOMETRY, "")
    return Finding(
        "Geometry",
        not against,
        str(against or facts.get("straight edges", "nothing to measure")),
        "The depth does not fit this picture: take another depth source (python -m engine "
        "weights recommend), "
        "a depth map, or make a shorter move."
        if against
        else "",
    )


def repair_finding(repair: dict[str, Any]) -> Finding:
    """What a finisher did to the input view, by the numbers of repaired/stats.json."""
    before, after = repair["input_psnr"]
    ok = after >= before - REPAIR_LOSS_DB
    return Finding(
        "Finisher",
        ok,
        f"the input view went from {before:.1f} to {after:.1f} dB",
        "" if ok else "Lower finisher_weight, or set finisher to none.",
    )


def _finding(
    name: str, values: list[float], least: float, text: str, advice: str, sign: float = 1.0
) -> Finding:
    if not values:
        return Finding(name, True, "nothing to measure on this path", "")
    worst = min(values)
    return Finding(
        name, worst >= least, text.format(sign * worst), "" if worst >= least else advice
    )


def loss_fall(losses: list[float]) -> float:
    """Divide the mean loss of the last tenth of the steps by that of the second tenth."""
    tenth = max(1, len(losses) // 10)
    early = losses[tenth : 2 * tenth]
    return (sum(losses[-tenth:]) / tenth) / max(sum(early) / tenth, 1e-12)


def verdict(found: list[Finding], guess: str = "") -> str:
    """Say in one sentence how good a result is."""
    bad = [f"{f.name}: {f.measured}. {f.advice}" for f in found if not f.ok]
    return " ".join(
        [*(bad or ["All measures are in their usual range."]), *([guess] * bool(guess))]
    )


_NUMBERS = ("start", "stop", "unknown_share", "lambda_mean", "mu_mean", "gaussians", "opacity_mean")
_MAYBE = ("drift_psnr", "unseen_detail", "seam")  # null where there was nothing to measure


def read_stats(file: Path) -> dict[str, Any]:
    """Read the numbers of a segment and check the kind of each, for a folder may come from anybody.
    Raises UserError.
    """
    data = read_json(file)

    def number(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) < 1e300

    sound = (
        isinstance(data, dict)
        and all(number(data.get(name)) for name in _NUMBERS)
        and all(name in data and (data[name] is None or number(data[name])) for name in _MAYBE)
        and isinstance(data.get("losses"), list)
        and all(map(number, data["losses"]))
        and all(
            isinstance(group, dict) and all(map(number, group.values()))
            for group in (data.get("seconds"), data.get("peak_mb"), data.get("peak_vram_mb", {}))
        )
    )
    if not sound:
        raise UserError(
            f"{file} is damaged.",
            f"Delete the folder {file.parent.name} and those after it, then resume: they are "
            "made again.",
        )
    return data


def write_report(
    folder: Path,
    facts: dict[str, Any],
    numbers: PathNumbers,
    variants: str = "",
    repair: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write report.json, the plots and report.html into a job folder whose segments are finished.

    `facts` are provenance lines (depth, prior, licences, seed, sentences); `variants` is HTML that
    compares the job's; `repair` are the numbers of a finisher. Returns what report.json holds.
    """
    segments = [read_stats(s / "stats.json") for s in sorted((folder / "segments").glob("[0-9]*"))]
    agreement = numbers.agreement.psnr
    found = [*findings(segments, numbers.input_psnr, agreement), geometry_finding(facts)]
    found += [repair_finding(repair)] if repair else []
    if REPAINTED in facts:
        found = [finding for finding in found if finding.name != OPTIMISATION]
    data = {
        "facts": facts,
        "verdict": verdict(found, str(facts.get(GUESS, ""))),
        "input_psnr": numbers.input_psnr,
        "agreement_psnr": None if math.isnan(agreement) else agreement,
        "revisit_psnr": None if math.isnan(numbers.revisit_psnr) else numbers.revisit_psnr,
        "path_psnr": numbers.path_psnr,
        "path_ssim": numbers.path_ssim,
        "findings": [f._asdict() for f in found],
        "segments": segments,
        "repair": repair,
        "seconds_total": sum(
            sum(s["seconds"].values()) for s in [*segments, *filter(None, [repair])]
        ),
    }
    write_json(folder / "report.json", data)
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    _plot_losses(plots / "loss.png", segments)
    _plot_line(plots / "psnr.png", numbers.path_psnr, "frame", "PSNR, dB")
    _plot_line(plots / "ssim.png", numbers.path_ssim, "frame", "SSIM")
    with whole_file(folder / "report.html") as temporary:
        temporary.write_text(_page(data, _viewer(folder), variants), encoding="utf-8")
    return data


def _plot_losses(path: Path, segments: list[dict[str, Any]]) -> None:
    figure, axes = plot_axes("optimiser step", "loss, Eq. (20)")
    start = 0
    for index, segment in enumerate(segments):
        losses = segment["losses"]
        axes.plot(
            range(start, start + len(losses)), losses, linewidth=0.8, label=f"segment {index + 1}"
        )
        start += len(losses)
    if start:
        axes.set_yscale("log")
        if len(segments) <= _NAMED_SEGMENTS:
            axes.legend(fontsize=7)
    figure.savefig(path)


def _plot_line(path: Path, values: list[float], x: str, y: str) -> None:
    figure, axes = plot_axes(x, y)
    axes.xaxis.get_major_locator().set_params(integer=True)  # there is no frame 0.5
    axes.plot(values, marker=".")
    figure.savefig(path)


def plot_axes(x: str, y: str, *, fitted: bool = False) -> tuple[Any, Any]:
    """A figure and its axes; `fitted` finds room for labels of any length, which takes as long as
    the drawing.
    """
    from matplotlib.figure import (
        Figure,  # slow to import, and only a finished run needs it; no window system is touched
    )

    figure = Figure(figsize=(7, 3), dpi=110, layout="constrained" if fitted else None)
    axes = figure.add_subplot() if fitted else figure.add_axes((0.14, 0.16, 0.84, 0.76))
    axes.set_xlabel(x)
    axes.set_ylabel(y, fontsize=8)
    axes.grid(alpha=0.3)
    return figure, axes


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}
td,th{border:1px solid #ccc;padding:.25em .6em;text-align:left;font-size:14px}
img{max-width:100%;display:block}
iframe{width:100%;height:70vh;border:0;background:#000}
.row{display:flex;gap:8px}
.row figure{flex:1;margin:0 0 8px}
.wrapped{flex-wrap:wrap}
.wrapped figure{flex:0 1 256px}
figcaption{font-size:13px;color:#555}
.bad{background:#fdecea}
.good{background:#edf7ed}
.verdict{font-size:18px;padding:.6em 1em;border-left:4px solid #888;background:#f6f6f6}
p,td:last-child{overflow-wrap:anywhere}
@media(max-width:600px){.row{flex-wrap:wrap}.row figure{flex:1 1 100%}}"""
# of every page: a phone shows it at its own width and not at a desk's, made small
HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)
_MAPS = {
    "render": "render of the Gaussians",
    "consistent": "clip with latent momentum",
    "free": "clip without",
    "blend": "their blend by pixel momentum",
    "lambda": "lambda, latent momentum (white 1)",
    "mu": "mu, pixel momentum (white 1)",
    "scale": "size of the Gaussians (white: 4 px and more)",
}


def _viewer(folder: Path) -> str:
    """The scene itself, where the job has made a page of it; only a link to a heavy one."""
    page = folder / PAGE
    if not page.is_file():
        return ""
    size = page.stat().st_size
    link = f'<p><a href="{PAGE}">Fly through the scene</a> ({size / 1e6:.0f} MB).</p>'
    if size > _HEAVY_BYTES:
        return link
    return f'<iframe src="{PAGE}" title="the scene"></iframe>{link}'


def _page(data: dict[str, Any], viewer: str = "", variants: str = "") -> str:
    e = html.escape
    rows = "".join(
        f"<tr class={'good' if f['ok'] else 'bad'}>"
        + "".join(f"<td>{e(f[key])}</td>" for key in ("name", "measured", "advice"))
        + "</tr>"
        for f in data["findings"]
    )
    facts = "".join(
        f"<tr><th>{e(str(k))}</th><td>{e(str(v))}</td></tr>" for k, v in data["facts"].items()
    )
    segments = "".join(_segment(index, segment) for index, segment in enumerate(data["segments"]))
    pair = figure("input.png", "input picture at working size") + figure(
        "input_render.png", f"the scene from the same camera, {data['input_psnr']:.1f} dB"
    )
    return f"""{HEAD}
<title>Scene Splatter report</title><style>{STYLE}</style>
<h1>Scene Splatter report</h1><p class="verdict">{e(data["verdict"])}</p>
{viewer}
<div class="row">{pair}</div>
{variants}
<h2>Measures</h2><table><tr><th>what</th><th>measured</th><th>what to change</th></tr>{rows}</table>
<h2>Optimisation</h2>{figure("plots/loss.png", "loss over all optimiser steps")}
{figure("plots/psnr.png", "the final scene against every enhanced frame: PSNR")}
{figure("plots/ssim.png", "and SSIM")}
<h2>Segments</h2>{segments}{_repair(data.get("repair"))}
<h2>How it was made</h2><table>{facts}</table></html>
"""


def _segment(index: int, s: dict[str, Any]) -> str:
    time = ", ".join(
        f"{html.escape(k)} {v:.1f} s ({s['peak_mb'].get(k, 0):.0f} MB)"
        for k, v in s["seconds"].items()
    )
    maps = f"segments/{index:03d}/maps"
    ends = figure(f"{maps}/render_last.png", "last frame: what the scene showed") + figure(
        f"{maps}/blend_last.png", "the same with what was invented"
    )
    pictures = ""
    for name, text in _MAPS.items():
        row = "".join(
            figure(f"{maps}/{name}_{p}.png", f"{text}, {p} frame")
            for p in ("first", "middle", "last")
        )
        pictures += f"<div class=row>{row}</div>"
    return (
        f"<h3>Segment {index + 1}: frames {s['start']} to {s['stop'] - 1}</h3>"
        f"<p>{s['unknown_share']:.1%} of the pixels had to be invented. Mean lambda "
        f"{s['lambda_mean']:.2f}, mean mu {s['mu_mean']:.2f}. "
        f"{s['gaussians']} Gaussians, mean opacity {s['opacity_mean']:.2f}. {time}.</p>"
        f"<div class=row>{ends}</div><details><summary>Pictures and "
        f"maps</summary>{pictures}</details>"
    )


def _repair(repair: dict[str, Any] | None) -> str:
    if not repair:
        return ""
    rows = "".join(
        "<div class=row>"
        + figure(f"repaired/{render}", "what the scene showed after its last segment")
        + figure(f"repaired/frames/{frame}", "the same repaired by the finisher")
        + "</div>"
        for render, frame in repair["shown"]
    )
    time = ", ".join(f"{k} {v:.1f} s" for k, v in repair["seconds"].items())
    return f"<h3>Repair of the finished scene</h3><p>{html.escape(time)}.</p>{rows}"


def figure(source: str, text: str) -> str:
    """HTML of a picture with a line below it."""
    source, text = html.escape(source), html.escape(text)
    return (
        f'<figure><img src="{source}" alt="{text}" '
        f'loading="lazy"><figcaption>{text}</figcaption></figure>'
    )
