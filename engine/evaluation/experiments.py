"""What is compared, and one run of the method against the truth."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import priors
from ..bridge import camera_file, settings
from ..job import inputs
from ..job.folder import Job, load_gaussians, prepare, read_json
from ..job.measures import Agreement, psnr
from ..job.report import loss_fall
from ..job.segment import JobRecord
from ..media import images
from ..method import pipeline
from ..method.views import render
from ..priors.base import Clip
from . import metrics
from .lpips import Lpips
from .scenes import View

Report = Callable[..., None]
Row = dict[str, Any]

_SEEN = 0.5  # where no mask is given: a pixel that the first Gaussians cover this much was seen by the input
FILLED = ", holes filled smoothly"


class Experiment(NamedTuple):
    """Variants of the settings that are run on the same views."""

    question: str
    variants: dict[str, dict[str, Any]]
    paths: tuple[str, ...] = (
        "medium",
    )  # of the made scenes; posed sets have one path of their own
    views: tuple[str, ...] = ()  # of the made scenes; none: all
    seeds: tuple[int, ...] = (0,)


_MULTI = {"segment_length": 5, "overlap": 2}
TRUST = (
    "render_trust"  # not a setting: what the prior is told of the render's coverage, see `Unsure`
)
_UNSURE = {TRUST: 0.6}
CAST = "colour_cast"  # not a setting either: the prior's frames come out tinted, see `Tinted`
_TINT = {CAST: True, **_UNSURE}
_ROOMS = ("room", "desk", "night")  # for sweeps: an indoor view, a near one, a dark one
_CROP = 0.05  # of every side, for the measures of the cropped frames


class Unsure:
    """A prior that is told less of the render: its `known` times a share.

    The embedded prior keeps what it is told is known, so its free run does not drift and momentum has
    nothing to hold. A video network sees the render but may change all of it. This makes the embedded
    prior such a one: at every step it keeps only 2 share - 1 of the render.
    """

    def __init__(self, prior: Any, share: float) -> None:
        self._prior, self._share = prior, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def condition(self, clip: Clip) -> Any:
        """What the prior looks at, with `known` reduced."""
        return self._prior.condition(replace(clip, known=clip.known * self._share))


class Tinted:
    """A prior whose frames come out with other colours than it was shown, as those of video networks do."""

    GAIN, OFFSET = (0.90, 1.00, 1.06), (0.06, 0.00, -0.04)  # of red, green and blue

    def __init__(self, prior: Any) -> None:
        self._prior = prior

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to frames [f, 3, h, w] in [0, 1], tinted."""
        frames = self._prior.decode(latents)
        gain, offset = (frames.new_tensor(v)[:, None, None] for v in (self.GAIN, self.OFFSET))
        return (frames * gain + offset).clamp(0.0, 1.0)


EXPERIMENTS: dict[str, Experiment] = {
    "ablation": Experiment(
        "What does each part of the method give?",
        {
            "full": {},
            "without latent momentum": {"momentum": "pixel"},
            "without pixel momentum": {"momentum": "latent"},
            "without diffusion": {"prior": "none"},
        },
        seeds=(0, 1),
    ),
    "printed_form": Experiment(
        "The same with lambda as printed, without our factor of coverage",
        {
            "full": {"lambda_coverage": False},
            "without pixel momentum": {"momentum": "latent", "lambda_coverage": False},
            "free run alone": {"momentum": "none"},
        },
        views=_ROOMS,
    ),
    "drifting_prior": Experiment(
        "The same with a prior that keeps only a fifth of the render at every step, and so drifts as video networks do",
        {
            "full": _UNSURE,
            "without latent momentum": {"momentum": "pixel", **_UNSURE},
            "without pixel momentum": {"momentum": "latent", **_UNSURE},
            "free run alone": {"momentum": "none", **_UNSURE},
        },
        seeds=(0, 1),
    ),
    "drifting_printed": Experiment(
        "The drifting prior (it keeps a fifth of the render), and lambda as printed: nearest to the conditions of the paper's ablation",
        {
            "full": {"lambda_coverage": False, **_UNSURE},
            "without latent momentum": {"momentum": "pixel", "lambda_coverage": False, **_UNSURE},
            "without pixel momentum": {"momentum": "latent", "lambda_coverage": False, **_UNSURE},
            "free run alone": {"momentum": "none", "lambda_coverage": False, **_UNSURE},
        },
        views=(*_ROOMS, "studio"),
    ),
    "lambda_0": Experiment(
        "Where does consistency break, where does generation fail? With the drifting prior",
        {
            f"lambda_0 {x:g}": {"lambda_0": x, **_UNSURE}
            for x in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
        },
        views=(*_ROOMS, "landscape", "street"),
    ),
    "tau": Experiment(
        "How large may a Gaussian be and still count as known?",
        {f"tau {x:g}": {"tau": x} for x in (0.1, 0.3, 0.5, 1.0, 2.0, 4.0)},
        views=(*_ROOMS, "landscape", "street"),
    ),
    "momentum_start": Experiment(
        "When may momentum set in? With the drifting prior",
        {f"from {x:.0%}": {"momentum_start": x, **_UNSURE} for x in (0.0, 0.3, 0.6)},
        views=_ROOMS,
    ),
    "colour_match": Experiment(
        "Does matching the prior's colours to the render pay? The drifting prior, without and with a colour cast of its frames",
        {
            "no cast, matched": _UNSURE,
            "no cast, not matched": {"match_colours": False, **_UNSURE},
            "cast, matched": _TINT,
            "cast, not matched": {"match_colours": False, **_TINT},
        },
        views=(*_ROOMS, "landscape", "street"),
    ),
    "segments": Experiment(
        "Length N and overlap n",
        {
            f"N {n}, n {o}": {"segment_length": n, "overlap": o}
            for n, o in ((13, 1), (9, 1), (9, 3), (9, 6), (5, 1), (5, 2), (5, 4))
        },
        views=_ROOMS,
    ),
    "convergence": Experiment(
        "Does the reconstruction converge over segments, with and without momentum? With the drifting prior",
        {
            "with momentum": {**_MULTI, **_UNSURE},
            "without momentum": {**_MULTI, **_UNSURE, "momentum": "none"},
        },
        views=_ROOMS,
    ),
    "view_range": Experiment(
        "How far may the camera go?",
        {"full": {}, "without diffusion": {"prior": "none"}},
        ("small", "medium", "hard"),
    ),
}


def run(
    view: View,
    overrides: dict[str, Any],
    report: Report,
    *,
    border: float = 0.0,
    lpips: Lpips | None = None,
) -> dict[str, Row]:
    """Run one variant of the method on a view and compare with the true pictures.

    `border` crops that share from every side before the numbers are taken. Without `lpips` there is none. Returns the measures by
    the suffix of the variant's name: "" and, for runs without diffusion, also FILLED, where the
    holes of the same renders are filled from around them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        depth, path = Path(scratch) / "depth.npy", Path(scratch) / "path.json"
        np.save(depth, view.depth_m)
        camera_file.write(path, view.path)
        plain = {name: value for name, value in overrides.items() if name not in (TRUST, CAST)}
        chosen = settings.make("draft", **{**plain, "depth": "input/depth.npy", "frame_step": 1})
        job = prepare(
            Path(scratch) / "job",
            chosen,
            {"image": view.image, "path": path, "depth": depth},
            resume=False,
        )
        before = time.perf_counter()
        job.start()
        start = inputs.load(job, torch.device("cpu")).inputs
        prior = priors.make_prior(chosen, start.image, "cpu")
        prior = Unsure(prior, overrides[TRUST]) if TRUST in overrides else prior
        prior = Tinted(prior) if CAST in overrides else prior
        record = JobRecord(job, start.K.shape[0], torch.device("cpu"), report)
        pipeline.generate(start, prior, job.settings, record)
        seconds = time.perf_counter() - before
        common = {"seconds": seconds, **_without_truth(job, start)}
        rows = {"": {**common, **compare(job, start, view, border, lpips)}}
        if not chosen.enhances:
            rows[FILLED] = {**common, **compare(job, start, view, border, lpips, fill=True)}
        return rows


def compare(
    job: Job,
    start: pipeline.Inputs,
    view: View,
    border: float,
    lpips: Lpips | None = None,
    *,
    fill: bool = False,
) -> Row:
    """Measures of the final scene against the true pictures: means over them, and each frame's own."""
    h, w = start.image.shape[1:]
    final = load_gaussians(
        job.segment_folder(job.finished_segments() - 1) / "gaussians.npz", torch.device("cpu")
    )
    frames, cropped = [], []
    for frame, file in view.truth.items():
        one = slice(frame, frame + 1)
        drawn = render(final, start.K[one], start.camera_from_world[one], start.image, job.settings)
        picture = metrics.fill_smoothly(drawn.rgb[0], drawn.alpha[0]) if fill else drawn.rgb[0]
        truth = images.resize(images.load_image(file).pixels, w, h)
        seen = _seen(view, frame, start, job)
        frames.append(
            {"frame": frame, **metrics.frame_measures(picture, truth, seen, border, lpips)}
        )
        cropped.append(metrics.frame_measures(picture, truth, seen, max(border, _CROP), lpips))
    first = render(final, start.K[:1], start.camera_from_world[:1], start.image, job.settings).rgb[
        0
    ]
    names = [name for name in frames[0] if name != "frame"] if frames else []
    means = {name: mean([row[name] for row in frames]) for name in names}
    crop = {name: mean([row[name] for row in cropped]) for name in names}
    return {**means, "input_psnr": psnr(first, start.image), "cropped": crop, "frames": frames}


def _seen(view: View, frame: int, start: pipeline.Inputs, job: Job) -> torch.Tensor:
    """[h, w] bool: the scene's own mask, made by ray casts, or else what the first Gaussians cover."""
    h, w = start.image.shape[1:]
    if frame in view.seen:
        return images.resize(images.load_image(view.seen[frame]).pixels, w, h)[0] > 0.5
    one = slice(frame, frame + 1)
    return (
        render(
            start.gaussians, start.K[one], start.camera_from_world[one], start.image, job.settings
        ).alpha[0]
        > _SEEN
    )


def _without_truth(job: Job, start: pipeline.Inputs) -> Row:
    """Measures of the enhanced frames that need no truth."""
    segments = [
        read_json(job.segment_folder(i) / "stats.json") for i in range(job.finished_segments())
    ]
    newest: dict[int, Path] = {}
    for i, segment in enumerate(segments):
        for offset, file in enumerate(sorted((job.segment_folder(i) / "frames").glob("*.png"))):
            newest[segment["start"] + offset] = file
    final = load_gaussians(
        job.segment_folder(len(segments) - 1) / "gaussians.npz", torch.device("cpu")
    )
    agreement = Agreement()
    for i in sorted(newest):
        one = slice(i, i + 1)
        depth = render(
            final, start.K[one], start.camera_from_world[one], start.image, job.settings
        ).depth[0]
        frame = images.load_image(newest[i]).pixels
        agreement.add(frame, depth, start.K[i], start.camera_from_world[i])
    return {
        "consistency_psnr": agreement.psnr,
        "consistency_share": agreement.share,
        "drift_psnr": mean([s["drift_psnr"] for s in segments]),
        "seam": mean([s["seam"] for s in segments]),
        "loss_fall": loss_fall(segments[-1]["losses"]),
        "last_loss": mean(segments[-1]["losses"][-10:]),
        "losses": [[round(x, 5) for x in s["losses"]] for s in segments],
        "stage_seconds": {
            name: mean([s["seconds"].get(name) for s in segments])
            for name in ("render", "generate", "refine")
        },
        "gaussians": segments[-1]["gaussians"],
    }


def mean(values: list[float | None]) -> float | None:
    """Mean of what is there; None where nothing is."""
    there = [v for v in values if v is not None and not np.isnan(v)]
    return float(np.mean(there)) if there else None


def runs(
    folders: list[Path],
    chosen: Experiment,
    *,
    views: list[str] | None = None,
    seeds: list[int] | None = None,
) -> Iterator[tuple[Path, str, int, str]]:
    """(folder, path, seed, variant) of an experiment; posed sets have the one path "posed", the same in every experiment.

    `views` and `seeds` replace those that the experiment names.
    """
    for seed in seeds or chosen.seeds:
        for folder in folders:
            posed = (folder / "transforms.json").is_file()
            if views is not None and folder.name not in views:
                continue
            if views is None and not posed and chosen.views and folder.name not in chosen.views:
                continue
            for path in ("posed",) if posed else chosen.paths:
                for variant in chosen.variants:
                    yield folder, path, seed, variant
