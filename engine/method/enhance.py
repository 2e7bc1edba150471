"""One window of renders enhanced by the video prior: both clips and their blend, Eq. (8)-(15)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge.settings import SceneSettings
from ..priors.base import Clip, VideoPrior
from ..scene.colour import match_colours
from . import masks, momentum, sampler
from .views import Views


class Enhanced(NamedTuple):
    """One enhanced segment and what led to it."""

    frames: Tensor  # [f, 3, h, w] the blend, rounded to 8 bits as it is stored
    consistent: Tensor  # [f, 3, h, w] with latent momentum
    free: Tensor  # [f, 3, h, w] without
    lam: Tensor  # [f, h', w'] latent momentum
    mu: Tensor  # [f, h, w] pixel momentum


def enhance(
    views: Views,
    depth: Tensor,
    image: Tensor,
    K: Tensor,
    cameras: Tensor,
    prior: VideoPrior | None,
    settings: SceneSettings,
    index: int,
    report: sampler.StepReport,
) -> Enhanced:
    """Both clips of segment `index` and their blend.

    views: renders of f cameras; depth [f, h, w] metres everywhere; image [3, h, w] the picture;
    K [f, 3, 3] pixels, cameras [f, 4, 4] camera from world. Raises what `report` raises.
    """
    knobs, count = settings.method, K.shape[0]
    mu = momentum.pixel_coefficient(views.scale_px, views.alpha, knobs.tau)
    known = masks.known(mu).float()
    if prior is None:
        return Enhanced(eight_bits(views.rgb), views.rgb, views.rgb, torch.ones_like(mu), mu)
    padded = torch.arange(prior.spec.frames(count), device=K.device).clamp(max=count - 1)
    render, cover = views.rgb[padded] * known[padded, None], views.alpha[padded] * known[padded]
    clip = Clip(
        image=image,
        render=render,
        known=known[padded, None],
        depth=depth[padded, None],
        K=K[padded],
        world_from_camera=torch.linalg.inv(cameras[padded]),
        prompt=settings.video.prompt,
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
        steps=settings.video.steps or prior.spec.steps,
        generator=generator,
        both=knobs.momentum == "full" and not masks.nothing_to_invent(mu),
        momentum_start=knobs.momentum_start,
        eta=settings.video.eta,
        report=report,
    )
    consistent = prior.decode(clips.consistent)[:count].to(image)
    free = (
        consistent if clips.free is clips.consistent else prior.decode(clips.free)[:count].to(image)
    )
    if settings.video.match_colours:
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
    return Enhanced(eight_bits(frames), consistent, free, lam, mu)


def _latent_coefficient(
    prior: VideoPrior, latents: Tensor, image: Tensor, cover: Tensor, settings: SceneSettings
) -> Tensor:
    """lambda for every latent cell, Eq. (10), by likeness to the input image and to a pool of the segment's cells."""
    knobs = settings.method
    size = (latents.shape[2], latents.shape[3])
    if knobs.momentum in ("pixel", "none"):
        return latents.new_zeros(latents.shape[1:])
    coverage = momentum.pool_to_latent(cover, prior.spec.t_factor, size)
    features = prior.features(latents)
    seen = F.adaptive_avg_pool2d(coverage[:, None], (features.shape[2], features.shape[3]))[:, 0]
    pool = momentum.reference_pool(
        features, seen, 1 + (settings.cameras.overlap - 1) // prior.spec.t_factor
    )
    reference = torch.cat([prior.features(prior.encode(image[None])).flatten(1), pool], dim=1)
    lam = momentum.latent_coefficient(features, reference, knobs.lambda_0)
    lam = F.interpolate(lam[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return lam * coverage if knobs.lambda_coverage else lam


def eight_bits(frames: Tensor) -> Tensor:
    """Round to what a PNG holds, so that a resumed run sees the very same frames."""
    return (frames.clamp(0.0, 1.0) * 255.0).round() / 255.0
