"""The outer loop of Scene Splatter (arXiv 2504.02764, section 3.3), readable in one screen.

For each segment of the camera path: render the Gaussians, enhance the render twice with the
video prior (with and without latent momentum), blend the two clips by pixel momentum, refine
the Gaussians on all frames so far, and go on from the refined Gaussians. Models come as
arguments; every finished segment is on disk before the next begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge.errors import UserError
from ..bridge.segments import Segment, plan_segments
from ..bridge.settings import SceneSettings
from ..job.folder import Job, load_gaussians, save_gaussians, write_json
from ..job.measures import drift_psnr, gradient_ratio, psnr, seam_ratio
from ..job.meter import Meter
from ..media import images
from ..priors.base import Clip, VideoPrior
from ..rasterize import rasterize
from ..scene.colour import linear_to_srgb, match_colours
from ..scene.gaussians import Gaussians, concatenate
from . import momentum, sampler, scaffold
from .refine import RefineResult, refine

Report = Callable[..., None]

_PREVIEW_PX = 256  # longest side
_KNOWN = 0.5  # mu above this counts as known for the prior's mask
_ALL_KNOWN = 0.98  # with mu above this everywhere, the free run has nothing to add


class Inputs(NamedTuple):
    """What a job starts from, on the computing device."""

    image: Tensor  # [3, h, w] display-referred, [0, 1], at working size
    K: Tensor  # [m, 3, 3] pixels at working size
    camera_from_world: Tensor  # [m, 4, 4]; the first is the identity
    gaussians: Gaussians  # the first geometry


class Views(NamedTuple):
    """Renders of the current Gaussians."""

    rgb: Tensor  # [f, 3, h, w] display-referred; colour of what is there, not dimmed by what is not
    alpha: Tensor  # [f, h, w]
    depth: Tensor  # [f, h, w] metres
    scale_px: Tensor  # [f, h, w] Eq. (14)


class Enhanced(NamedTuple):
    """One enhanced segment and what led to it."""

    frames: Tensor  # [f, 3, h, w] the blend, rounded to 8 bits as it is stored
    consistent: Tensor
    free: Tensor
    lam: Tensor  # [f, h', w'] latent momentum
    mu: Tensor  # [f, h, w] pixel momentum


def generate(job: Job, inputs: Inputs, prior: VideoPrior, report: Report) -> Gaussians:
    """Run all segments that are not finished yet and return the final Gaussians.

    Raises `Cancelled` when `report` does; finished segments stay in the job folder.
    """
    settings = job.settings
    segments = plan_segments(inputs.K.shape[0], settings.path.segment_length, settings.path.overlap)
    done = job.finished_segments()
    gaussians, pool = _state(job, segments[:done], inputs)
    for index in range(done, len(segments)):
        segment, name = segments[index], f"segment {index + 1} of {len(segments)}"
        window = slice(segment.start, segment.stop)
        K, cameras = inputs.K[window], inputs.camera_from_world[window]
        meter = Meter()
        with job.new_segment(index) as folder:
            with meter("render"):
                views = render(
                    gaussians, K, cameras, inputs.image, settings, pin_first=segment.start == 0
                )
                holes, depth = scaffold.build_scaffold(
                    gaussians,
                    K,
                    cameras,
                    inputs.image.shape[2],
                    inputs.image.shape[1],
                    sh_degree=settings.refine.sh_degree,
                )
            _show(job, views.rgb[-1] * views.alpha[-1], report, f"{name}: render")
            with meter("generate"):
                enhanced = enhance(
                    views,
                    depth,
                    inputs.image,
                    K,
                    cameras,
                    prior,
                    settings,
                    index,
                    _named(report, f"{name}: generate"),
                )
            _show(job, enhanced.frames[-1], report, f"{name}: generate")
            overlap = pool[segment.start : segment.new]
            pool = torch.cat([pool[: segment.start], enhanced.frames])
            if settings.momentum.diffusion:
                gaussians = concatenate(gaussians, scaffold.paint(holes, enhanced.frames))
            with meter("refine"):
                refined = _refine(
                    gaussians, pool, inputs, settings, index, _named(report, f"{name}: refine")
                )
                gaussians = refined.gaussians
                after = render(gaussians, K, cameras, inputs.image, settings)
            view_psnr = [
                psnr(drawn, frame) for drawn, frame in zip(after.rgb, enhanced.frames, strict=True)
            ]
            stats = _measure(
                views, enhanced, overlap, refined, gaussians, view_psnr, segment, meter
            )
            _write_segment(folder, segment, views, enhanced, gaussians, stats)
        _show(job, after.rgb[-1], report, name, index + 1, len(segments))
    return gaussians


def render(
    gaussians: Gaussians,
    K: Tensor,
    cameras: Tensor,
    image: Tensor,
    settings: SceneSettings,
    *,
    pin_first: bool = False,
) -> Views:
    """Draw a window of cameras with the scale map; `pin_first` puts the input image itself in frame 0."""
    # the middle axis: the longest of a disc seen at a grazing angle says nothing of the size of its picture
    size = gaussians.scales_log.detach().median(dim=1, keepdim=True).values.exp()
    drawn = rasterize(
        gaussians,
        K,
        cameras,
        image.shape[2],
        image.shape[1],
        extra=size,
        blending=settings.output.blending,
    )
    alpha, depth = drawn.alpha[..., 0], drawn.depth[..., 0]
    focal = torch.sqrt(K[:, 0, 0] * K[:, 1, 1])
    scale_px = momentum.scale_map(drawn.extra[..., 0], alpha, depth, focal)
    rgb = drawn.rgb / alpha[..., None].clamp(min=0.05)
    rgb = display_referred(rgb, settings).permute(0, 3, 1, 2).clamp(0.0, 1.0)
    if pin_first:
        rgb, alpha, scale_px = rgb.clone(), alpha.clone(), scale_px.clone()
        rgb[0], alpha[0], scale_px[0] = image, 1.0, 0.0
    return Views(rgb, alpha, depth, scale_px)


def display_referred(rgb: Tensor, settings: SceneSettings) -> Tensor:
    """Colours as they come out of the rasteriser, as display values."""
    return linear_to_srgb(rgb) if settings.output.blending == "linear" else rgb


def enhance(
    views: Views,
    depth: Tensor,
    image: Tensor,
    K: Tensor,
    cameras: Tensor,
    prior: VideoPrior,
    settings: SceneSettings,
    index: int,
    report: sampler.StepReport,
) -> Enhanced:
    """Both clips of a segment and their blend, Eq. (8)-(15)."""
    knobs, count = settings.momentum, K.shape[0]
    mu = momentum.pixel_coefficient(views.scale_px, views.alpha, knobs.tau)
    known = (mu > _KNOWN).float()
    if not knobs.diffusion:
        return Enhanced(_eight_bits(views.rgb), views.rgb, views.rgb, torch.ones_like(mu), mu)
    padded = torch.arange(prior.spec.frames(count), device=K.device).clamp(max=count - 1)
    render, cover = views.rgb[padded] * known[padded, None], views.alpha[padded] * known[padded]
    clip = Clip(
        image=image,
        render=render,
        known=known[padded, None],
        depth=depth[padded, None],
        K=K[padded],
        world_from_camera=torch.linalg.inv(cameras[padded]),
        prompt=settings.prior.prompt,
    )
    generator = prior.generator(settings.output.seed * 10_007 + index)
    clip = clip.to(
        generator.device
    )  # the embedded prior computes on the CPU whatever draws the Gaussians
    condition = prior.condition(clip)
    latents = prior.encode(clip.render)
    lam = _latent_coefficient(prior, latents, clip.image, cover.to(generator.device), settings)
    clips = sampler.sample(
        prior,
        condition,
        latents,
        lam,
        steps=settings.prior.steps or prior.spec.steps,
        generator=generator,
        both=knobs.momentum == "full" and float(mu.min()) < _ALL_KNOWN,
        momentum_start=knobs.momentum_start,
        eta=settings.prior.eta,
        reuse=settings.prior.reuse,
        report=report,
    )
    consistent = prior.decode(clips.consistent)[:count].to(image)
    free = (
        consistent if clips.free is clips.consistent else prior.decode(clips.free)[:count].to(image)
    )
    if settings.prior.match_colours:
        consistent, free = (
            match_colours(clip, views.rgb, known > 0) for clip in (consistent, free)
        )
    if knobs.momentum == "pixel":
        consistent = views.rgb
    frames = (
        momentum.pixel_momentum(free, consistent, mu[:, None])
        if knobs.momentum in ("full", "pixel")
        else consistent
    )
    if index == 0:
        frames = torch.cat([image[None], frames[1:]])
    return Enhanced(_eight_bits(frames), consistent, free, lam, mu)


def _latent_coefficient(
    prior: VideoPrior, latents: Tensor, image: Tensor, cover: Tensor, settings: SceneSettings
) -> Tensor:
    """lambda for every latent cell, Eq. (10), by likeness to the input image and to a pool of the segment's cells."""
    knobs = settings.momentum
    size = (latents.shape[2], latents.shape[3])
    if knobs.momentum in ("pixel", "none"):
        return latents.new_zeros(latents.shape[1:])
    coverage = momentum.pool_to_latent(cover, prior.spec.t_factor, size)
    features_of = prior.features if knobs.similarity == "patch" else (lambda z: z)
    features = features_of(latents)
    seen = F.adaptive_avg_pool2d(coverage[:, None], (features.shape[2], features.shape[3]))[:, 0]
    pool = momentum.reference_pool(
        features, seen, 1 + (settings.path.overlap - 1) // prior.spec.t_factor, knobs.reference_pool
    )
    reference = torch.cat([features_of(prior.encode(image[None])).flatten(1), pool], dim=1)
    lam = momentum.latent_coefficient(features, reference, knobs.lambda_0)
    lam = F.interpolate(lam[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return lam * coverage if knobs.lambda_coverage else lam


def _refine(
    gaussians: Gaussians,
    pool: Tensor,
    inputs: Inputs,
    settings: SceneSettings,
    index: int,
    report: sampler.StepReport,
) -> RefineResult:
    """Eq. (20) on all frames so far; frame 0 is the input image and gets its own share of the steps."""
    knobs, count = settings.refine, pool.shape[0]
    share = torch.full((count,), (1.0 - knobs.anchor_weight) / max(count - 1, 1))
    share[0] = knobs.anchor_weight if count > 1 else 1.0
    covered = None
    if not settings.momentum.diffusion:  # nothing invented: holes must not be learned as black
        covered = rasterize(
            gaussians, inputs.K[:count], inputs.camera_from_world[:count], *reversed(pool.shape[2:])
        ).alpha
        covered = (covered > scaffold.HOLE_ALPHA).permute(0, 3, 1, 2).float()
    return refine(
        gaussians,
        pool,
        inputs.K[:count],
        inputs.camera_from_world[:count],
        recipe=knobs.recipe,
        steps=knobs.refine_steps,
        frame_weights=share,
        pixel_weights=covered,
        ssim_weight=knobs.ssim_weight,
        max_gaussians=knobs.max_gaussians,
        blending=settings.output.blending,
        sh_degree=knobs.sh_degree,
        seed=settings.output.seed * 10_007 + index,
        report=lambda stage, done, total, *_, **__: report(done, total),
    )


def _state(job: Job, finished: list[Segment], inputs: Inputs) -> tuple[Gaussians, Tensor]:
    """Gaussians and frames after the finished segments, as they are on disk."""
    pool = inputs.image.new_empty(0, *inputs.image.shape)
    if not finished:
        return inputs.gaussians, pool
    for index, segment in enumerate(finished):
        files = sorted((job.segment_folder(index) / "frames").glob("*.png"))
        frames = torch.stack([images.load_image(file).pixels for file in files]).to(pool)
        pool = torch.cat([pool[: segment.start], frames])
    return load_gaussians(
        job.segment_folder(len(finished) - 1) / "gaussians.npz", inputs.image.device
    ), pool


def _measure(
    views: Views,
    enhanced: Enhanced,
    overlap: Tensor,
    refined: RefineResult,
    gaussians: Gaussians,
    view_psnr: list[float],
    segment: Segment,
    meter: Meter,
) -> dict[str, Any]:
    """The numbers of a segment for the report; none of them needs ground truth."""
    unknown = enhanced.mu <= _KNOWN
    return {
        "start": segment.start,
        "stop": segment.stop,
        "new": segment.new,
        "seconds": meter.seconds,
        "peak_mb": meter.peak_mb,
        "peak_vram_mb": meter.peak_vram_mb,
        "unknown_share": float(unknown.float().mean()),
        "lambda_mean": float(enhanced.lam.mean()),
        "mu_mean": float(enhanced.mu.mean()),
        "drift_psnr": drift_psnr(enhanced.frames, views.rgb, ~unknown),
        "unseen_detail": gradient_ratio(enhanced.frames, unknown),
        "seam": seam_ratio(overlap, enhanced.frames),
        "losses": [float(x) for x in refined.losses],
        "gaussians": gaussians.count,
        "opacity_mean": float(torch.sigmoid(gaussians.opacities_logit).mean()),
        "view_psnr": view_psnr,
    }


def _write_segment(
    folder: Path,
    segment: Segment,
    views: Views,
    enhanced: Enhanced,
    gaussians: Gaussians,
    stats: dict[str, Any],
) -> None:
    (folder / "frames").mkdir()
    for offset, frame in enumerate(enhanced.frames):
        images.save_png(folder / "frames" / f"{segment.start + offset:04d}.png", frame)
    size = enhanced.frames.shape[2:]
    lam = F.interpolate(enhanced.lam[:, None], size=size, mode="nearest")[:, 0]
    lam = lam[torch.linspace(0, lam.shape[0] - 1, len(enhanced.frames)).round().long()]
    rows = {
        "render": views.rgb * views.alpha[:, None],
        "consistent": enhanced.consistent,
        "free": enhanced.free,
        "blend": enhanced.frames,
        "lambda": _grey(lam),
        "mu": _grey(enhanced.mu),
        "scale": _grey((views.scale_px / 4.0).clamp(0.0, 1.0)),
    }
    (folder / "maps").mkdir()
    last = len(enhanced.frames) - 1
    for name, clip in rows.items():
        for position, offset in {"first": 0, "middle": last // 2, "last": last}.items():
            images.save_png(folder / "maps" / f"{name}_{position}.png", clip[offset])
    save_gaussians(folder / "gaussians.npz", gaussians)
    write_json(folder / "stats.json", stats)


def _grey(values: Tensor) -> Tensor:
    return values[:, None].expand(-1, 3, -1, -1)


def _eight_bits(frames: Tensor) -> Tensor:
    """Round to what a PNG holds, so that a resumed run sees the very same frames."""
    return (frames.clamp(0.0, 1.0) * 255.0).round() / 255.0


def _show(
    job: Job, frame: Tensor, report: Report, stage: str, done: int = 1, total: int = 1
) -> None:
    """Report, with the newest picture [3, h, w] of the end of the path for whoever watches."""
    share = min(1.0, _PREVIEW_PX / max(frame.shape[1:]))
    small = images.resize(
        frame, max(1, round(frame.shape[2] * share)), max(1, round(frame.shape[1] * share))
    )
    preview = job.folder / "preview.npy"
    partial = preview.with_name("preview.npy.partial")
    try:
        with partial.open("wb") as file:
            np.save(file, images.to_bytes(small))
        os.replace(partial, preview)
    except OSError as error:
        raise UserError(
            f"{preview} cannot be written: {error.strerror or error}.",
            "Free some space on that disk, then resume.",
        ) from error
    report(stage, done, total, preview=preview)


def _named(report: Report, stage: str) -> sampler.StepReport:
    return lambda done, total: report(stage, done, total)
