"""One window of renders enhanced by the video prior: both clips and their blend, Eq. (8)-(15)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge.progress import StepReport
from ..bridge.settings import SceneSettings
from ..geometry.fill import filled_clip
from ..priors.base import Clip, VideoPrior
from ..scene.colour import match_colours
from . import masks, momentum, sampler
from .views import Views


class Enhanced(NamedTuple):
    """One enhanced segment, and the clips and maps that led to it."""

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
    report: StepReport,
    cells: Tensor | None = None,
    *,
    pin_first: bool = True,
) -> Enhanced:
    """Let the prior make both clips of segment `index`, and blend them.

    views: renders of f cameras; depth [f, h, w] metres everywhere; image [3, h, w] the picture;
    K [f, 3, 3] pixels, cameras [f, 4, 4] camera from world; cells: `picture_cells`, if they are
    there already; pin_first: frame 0 is the picture. Raises what `report` raises.
    """
    knobs, count = settings.method, K.shape[0]
    mu = views.mu
    known = masks.known(mu).float()
    if prior is None:
        return Enhanced(eight_bits(views.rgb), views.rgb, views.rgb, torch.ones_like(mu), mu)
    padded = torch.arange(prior.spec.frames(count), device=K.device).clamp(max=count - 1)
    cover = views.alpha[padded] * known[padded]
    clip = Clip(
        image=image,
        render=views.rgb[padded],
        known=known[padded, None],
        depth=depth[padded, None],
        K=K[padded],
        world_from_camera=torch.linalg.inv(cameras[padded]),
        prompt=settings.video.prompt,
    )
    generator = prior.generator(settings.output.seed * 10_007 + index)
    # the embedded prior computes on the CPU whatever draws the Gaussians
    condition = prior.condition(clip.to(generator.device))
    del clip
    # holes are black for networks that were trained so, but must not darken what latents mix with
    # them
    latents = prior.encode(filled_clip(views.rgb, known > 0)[padded].to(generator.device))
    if cells is None:
        cells = picture_cells(prior, image)
    lam = _latent_coefficient(prior, latents, cells, cover.to(generator.device), settings)
    runs = sampler.sample(
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
    del condition, latents
    consistent = prior.decode(runs.consistent)[:count].to(image)
    free = consistent if runs.free is runs.consistent else prior.decode(runs.free)[:count].to(image)
    del runs
    if settings.video.match_colours:
        consistent, free = (
            match_colours(frames, views.rgb, known > 0) for frames in (consistent, free)
        )
    if knobs.momentum == "pixel":
        consistent = views.rgb
    frames = (
        momentum.pixel_momentum(free, consistent, mu[:, None])
        if knobs.momentum in ("full", "pixel")
        else consistent
    )
    if index == 0 and pin_first:
        frames = torch.cat([image[None], frames[1:]])
    return Enhanced(eight_bits(frames), consistent, free, lam, mu)


def picture_cells(prior: VideoPrior, image: Tensor) -> Tensor:
    """Code the picture and return the features [d, m] of a sample of its cells: Eq. (10) compares
    every segment with them.
    """
    device = prior.generator(0).device
    features = prior.features(prior.encode(image[None].to(device))).flatten(1)
    return features[:, momentum.sampled(torch.arange(features.shape[1], device=features.device))]


def _latent_coefficient(
    prior: VideoPrior, latents: Tensor, picture: Tensor, cover: Tensor, settings: SceneSettings
) -> Tensor:
    """lambda [f', h', w'] for every latent cell, Eq. (10): likeness to the picture and to the
    segment's first frames.
    """
    knobs = settings.method
    size = (latents.shape[2], latents.shape[3])
    if knobs.momentum in ("pixel", "none"):
        return latents.new_zeros(latents.shape[1:])
    coverage = momentum.pool_to_latent(cover, prior.spec.t_factor, size)
    features = prior.features(latents)
    seen = F.adaptive_avg_pool2d(coverage[:, None], (features.shape[2], features.shape[3]))[:, 0]
    first = momentum.first_cells(seen, 1 + (settings.cameras.overlap - 1) // prior.spec.t_factor)
    pool = torch.cat([picture, features.flatten(1)[:, first]], dim=1)
    place = torch.cat([first.new_full((picture.shape[1],), -1), first])
    lam = knobs.lambda_0 * momentum.similarity(features, pool, place)
    lam = F.interpolate(lam[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return lam * coverage if knobs.lambda_coverage else lam


def eight_bits(frames: Tensor) -> Tensor:
    """Round frames to what a PNG holds, so that a resumed run sees the very same frames."""
    return (frames.clamp(0.0, 1.0) * 255.0).round() / 255.0
