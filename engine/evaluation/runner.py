"""One run of the method against the truth, with the prior that an experiment asks for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import priors
from ..bridge import camera_file, settings
from ..bridge.errors import UserError
from ..bridge.progress import Report
from ..bridge.whole_file import temporary_folder
from ..job import inputs, repair
from ..job.folder import Job, prepare
from ..job.frame_quality import Agreement
from ..job.report import loss_fall, read_stats
from ..job.segment import JobRecord
from ..media import images
from ..method import pipeline
from ..method.views import Views, draw_views
from ..models import weights
from ..priors.base import Clip
from ..scene.gaussians import Gaussians
from ..scene.psnr import psnr
from . import against_truth, references, stability
from .coarse import Coarse, Drift
from .lpips import Lpips
from .scenes import View

Row = dict[str, Any]

# where no mask is given: a pixel that the first Gaussians cover this much was seen by the input
_SEEN = 0.5
_CROP = 0.05  # of every side, for the measures of the cropped frames
_MOST_FRAMES = 16  # of a path are compared with the truth
_CAMERAS = 2  # frames of a path whose camera is looked for
_REFIT_STEPS = 100
FILLED = ", holes filled smoothly"
FINISHED = ", then "  # and the finisher's name

# What a variant may ask for beside settings:
TRUST = "render_trust"  # what the prior is told of the render's coverage, see `Unsure`
CAST = "colour_cast"  # the prior's frames come out tinted, see `Tinted`
COARSE = "coarse_prior"  # the coarse prior instead of the setting's, with this `Drift`
MEASURES = "measures"  # of "revisit", "refit", "camera", "references"
BESIDE = (TRUST, CAST, COARSE, MEASURES)


class Unsure:
    """A prior that is told less of the render: its `known` times a share.

    The embedded prior keeps what it is told is known, so its free run does not drift and momentum
    has nothing to hold. A video network sees the render but may change all of it. This makes the
    embedded prior such a one: at every step it keeps only 2 share - 1 of the render.
    """

    def __init__(self, prior: Any, share: float) -> None:
        self._prior, self._share = prior, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def condition(self, clip: Clip) -> Any:
        """What the prior looks at, with `known` reduced."""
        return self._prior.condition(replace(clip, known=clip.known * self._share))


class Tinted:
    """A prior whose frames come out with other colours than it was shown, as those of video
    networks do.
    """

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


class TrueFrames:
    """The true picture at each camera of a view's path."""

    def __init__(self, view: View, start: pipeline.Inputs) -> None:
        """Raises UserError where the view has not a picture for every frame."""
        self._cameras, self._image = start.camera_from_world, start.image
        missing = [i for i in range(1, len(self._cameras)) if i not in view.truth]
        if missing:
            raise UserError(
                f"{view.name} has no true picture of frame {missing[0]}.",
                "The coarse prior needs one for every frame: make the scenes anew with "
                "benchmarks/make_scenes.py, or take another view.",
            )
        self._files = view.truth

    def __call__(self, camera_from_world: Tensor) -> Tensor:
        """[f, 4, 4] -> [f, 3, h, w]; ValueError for a camera that is not the path's."""
        frames = []
        for camera in camera_from_world:
            distance = (self._cameras - camera).abs().amax(dim=(1, 2))
            index = int(distance.argmin())
            if float(distance[index]) > 1e-3:
                raise ValueError("TrueFrames: there is no picture of this camera")
            frames.append(self.picture(index))
        return torch.stack(frames)

    def picture(self, index: int) -> Tensor:
        """[3, h, w] of a frame."""
        h, w = self._image.shape[1:]
        if index == 0:
            return self._image
        return images.resize(images.load_image(self._files[index], photo=False).pixels, w, h)


def run(
    view: View,
    overrides: dict[str, Any],
    report: Report,
    *,
    border: float = 0.0,
    lpips: Lpips | None = None,
) -> dict[str, Row]:
    """Run one variant of the method on a view and compare with the true pictures.

    `overrides` are settings and what is named in BESIDE. `border` crops that share from every side
    before the numbers are taken. Without `lpips` there is none. Returns the measures by the suffix
    of the variant's name: "", for runs without diffusion also FILLED, where the holes of the same
    renders are filled from around them, and with a finisher also FINISHED and its name: the same
    scene after its repair. Raises UserError where the finisher's weights are missing, before any
    work.
    """
    with temporary_folder() as scratch:
        depth, path = Path(scratch) / "depth.npy", Path(scratch) / "path.json"
        np.save(depth, view.depth_m)
        camera_file.write(path, view.path)
        plain = {name: value for name, value in overrides.items() if name not in BESIDE}
        chosen = settings.make("draft", **{**plain, "depth": "input/depth.npy", "frame_step": 1})
        job = prepare(
            Path(scratch) / "job",
            chosen,
            {"image": view.image, "path": path, "depth": depth},
            resume=False,
        )
        if chosen.finishes:
            weights.require(chosen.refine.finisher)
        before = time.perf_counter()
        job.start()
        start = inputs.load(job, torch.device("cpu")).inputs
        prior = _prior(view, start, chosen, overrides)
        record = JobRecord(job, start.K.shape[0], torch.device("cpu"), report)

        def measured(scene: Gaussians, seconds: float) -> Row:
            return {
                "seconds": seconds,
                **_without_truth(job, start, scene),
                **_frames_against_truth(job, start, view),
                **_extra(overrides.get(MEASURES, ()), job, start, view, scene),
                **compare(job, start, view, scene, border, lpips),
            }

        final = pipeline.generate(start, prior, job.settings, record)
        seconds = time.perf_counter() - before
        rows = {"": measured(final, seconds)}
        if not chosen.enhances:
            filled = compare(job, start, view, final, border, lpips, fill=True)
            rows[FILLED] = {**rows[""], **filled}
        if chosen.finishes:
            before = time.perf_counter()
            after = repair.run(job, start, final, report, "cpu")
            seconds += time.perf_counter() - before
            rows[FINISHED + chosen.refine.finisher] = measured(after, seconds)
        if isinstance(prior, references.Watched):
            for row in rows.values():
                row["references"] = references.means(prior.segments)
        return rows


def _prior(
    view: View, start: pipeline.Inputs, chosen: settings.SceneSettings, overrides: dict[str, Any]
) -> Any:
    if not chosen.enhances:
        return None
    if COARSE in overrides:
        truth = TrueFrames(view, start)
        prior = Coarse(start.image, truth, Drift(*overrides[COARSE]))
        if "references" in overrides.get(MEASURES, ()):
            return references.Watched(prior, truth, start.image, chosen.cameras.overlap)
        return prior
    made: Any = priors.make_prior(chosen, start.image, "cpu")
    made = Unsure(made, overrides[TRUST]) if TRUST in overrides else made
    return Tinted(made) if CAST in overrides else made


def compare(
    job: Job,
    start: pipeline.Inputs,
    view: View,
    final: Gaussians,
    border: float,
    lpips: Lpips | None = None,
    *,
    fill: bool = False,
) -> Row:
    """Measures of the final scene against the true pictures: means over them, and each frame's
    own.
    """
    frames, cropped = [], []
    for frame in judged(view):
        drawn = _draw(final, start, job, frame)
        picture = drawn.rgb[0]
        if fill:
            picture = against_truth.fill_smoothly(picture, drawn.alpha[0])
        truth, seen = _truth(view, frame, start), _seen(view, frame, start, job)
        frames.append(
            {"frame": frame, **against_truth.frame_measures(picture, truth, seen, border, lpips)}
        )
        cut = max(border, _CROP)
        cropped.append(against_truth.frame_measures(picture, truth, seen, cut, lpips))
    names = [name for name in frames[0] if name != "frame"] if frames else []
    means = {name: mean([row[name] for row in frames]) for name in names}
    crop = {name: mean([row[name] for row in cropped]) for name in names}
    first = psnr(_draw(final, start, job, 0).rgb[0], start.image)
    return {**means, "input_psnr": first, "cropped": crop, "frames": frames}


def judged(view: View) -> list[int]:
    """The frames that are compared with the truth: those with a mask of what was seen, else all;
    a few, evenly.
    """
    there = sorted(set(view.truth) & set(view.seen)) or sorted(view.truth)
    step = max(1, -(-len(there) // _MOST_FRAMES))
    return there[::-1][::step][::-1]  # the last, where most is invented, is one of them


def _draw(gaussians: Gaussians, start: pipeline.Inputs, job: Job, frame: int) -> Views:
    one = slice(frame, frame + 1)
    K, camera = start.K[one], start.camera_from_world[one]
    return draw_views(gaussians, K, camera, start.image, job.settings)


def _truth(view: View, frame: int, start: pipeline.Inputs) -> Tensor:
    h, w = start.image.shape[1:]
    return images.resize(images.load_image(view.truth[frame], photo=False).pixels, w, h)


def _seen(view: View, frame: int, start: pipeline.Inputs, job: Job) -> Tensor:
    """[h, w] bool: the scene's own mask, made by ray casts, or else what the first Gaussians
    cover.
    """
    h, w = start.image.shape[1:]
    if frame in view.seen:
        return images.resize(images.load_image(view.seen[frame], photo=False).pixels, w, h)[0] > 0.5
    return _draw(start.gaussians, start, job, frame).alpha[0] > _SEEN


class EnhancedFrames:
    """The newest version of every enhanced frame of a finished job, and the segment that made
    it.
    """

    def __init__(self, job: Job) -> None:
        self.segment: dict[int, int] = {}
        self._files: dict[int, Path] = {}
        for i in range(job.finished_segments()):
            for file in sorted((job.segment_folder(i) / "frames").glob("*.png")):
                self._files[int(file.stem)] = file
                self.segment[int(file.stem)] = i

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        """[3, h, w]; IndexError ends a loop over all."""
        if index not in self._files:
            raise IndexError(index)
        return images.load_image(self._files[index], photo=False).pixels


def _frames_against_truth(job: Job, start: pipeline.Inputs, view: View) -> Row:
    """PSNR of the enhanced frames themselves: what the prior and the momentum made, before any
    scene is fitted.
    """
    frames = EnhancedFrames(job)
    rows = []
    for frame in judged(view):
        truth, seen = _truth(view, frame, start), _seen(view, frame, start, job)
        rows.append((psnr(frames[frame], truth, seen), psnr(frames[frame], truth, ~seen)))
    return {
        "frames_seen": mean([row[0] for row in rows]),
        "frames_invented": mean([row[1] for row in rows]),
    }


def _extra(
    wanted: tuple[str, ...], job: Job, start: pipeline.Inputs, view: View, final: Gaussians
) -> Row:
    """The measures of stability.py that an experiment asks for."""
    frames, row = EnhancedFrames(job), Row()
    if "revisit" in wanted:
        revisit, last = stability.Revisit(), len(frames) - 1
        for i in range((last + 1) // 2):
            if frames.segment[i] != frames.segment[last - i]:
                seen = _seen(view, last - i, start, job)
                revisit.add(frames[i], frames[last - i], seen)
        row["revisit_seen"] = revisit.psnr(seen=True)
        row["revisit_invented"] = revisit.psnr(seen=False)
    if "refit" in wanted:
        refit = stability.refit_gap(
            final, frames, start.K, start.camera_from_world, steps=_REFIT_STEPS
        )
        row["refit_even"], row["refit_odd"] = refit
    if "camera" in wanted:
        step = max(1, (len(frames) - 1) // _CAMERAS)  # the last frame, or the turning point, is one
        found = [
            stability.find_camera(
                start.gaussians,
                frames[i],
                start.K[i],
                start.camera_from_world[i],
                _seen(view, i, start, job),
            )
            for i in range(step, len(frames), step)
        ]
        row["camera_deg"] = mean([f.rotation_deg for f in found])
        row["camera_px"] = mean([f.shift_px for f in found])
    return row


def _without_truth(job: Job, start: pipeline.Inputs, final: Gaussians) -> Row:
    """Measures of the enhanced frames that need no truth."""
    segments = [
        read_stats(job.segment_folder(i) / "stats.json") for i in range(job.finished_segments())
    ]
    frames, agreement = EnhancedFrames(job), Agreement()
    for i in range(len(frames)):
        depth = _draw(final, start, job, i).depth[0]
        agreement.add(frames[i], depth, start.K[i], start.camera_from_world[i])
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
        "gaussians": final.count,
    }


def mean(values: list[float | None]) -> float | None:
    """Mean of what is there; None where nothing is."""
    there = [v for v in values if v is not None and not np.isnan(v)]
    return float(np.mean(there)) if there else None
