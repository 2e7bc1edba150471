"""Invent again what a mask of one frame shows, and nothing else.

What is seen through the mask is forgotten, layer behind layer, until its pixels are a hole. Then
the path is gone through once more: frames keep all pixels but those that showed what is forgotten,
and these go the way of every hole: scaffold, prior, refinement. The Gaussians that stay are drawn
and not moved, so a view that sees nothing of the forgotten is the same to the bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge.harmonics import SH_C0
from ..bridge.progress import StepReport
from ..bridge.segments import Segment, plan_segments
from ..bridge.settings import SceneSettings
from ..priors.base import VideoPrior
from ..rasterize import rasterize
from ..rasterize.constants import ALPHA_MIN
from ..scene.gaussians import Gaussians, at_most, concatenate
from .enhance import Enhanced, enhance, picture_cells
from .pipeline import Inputs, Record
from .refine import Frames, RefineResult, refine
from .scaffold import build_scaffold, paint
from .views import Views, draw_views

_LAYERS = 16  # that are looked through, at most
_MOSTLY = 0.5  # share of a Gaussian's weight that must lie in the mask
_SEEN = 0.02  # weight, in pixels, below which a Gaussian is not seen
_LOST = 0.2  # share of a pixel that the forgotten had, above which it is learned anew
_WHOLE = 0.9  # coverage below which a lost pixel is still a hole
_RIM_PX = 3
_LEAST_PX = 4  # of a frame that has no mask; with fewer lost it stays as it is


class Before(NamedTuple):
    """What is repainted: a finished scene, its frames, and the mask of one of them."""

    gaussians: Gaussians
    frames: Frames
    frame: int
    mask: Tensor  # [h, w] bool: invent again


def repaint(
    inputs: Inputs, prior: VideoPrior | None, settings: SceneSettings, record: Record, was: Before
) -> Gaussians:
    """Run all segments that are not finished yet over a finished scene, and return its new
    Gaussians.
    """
    m = inputs.K.shape[0]
    segments = plan_segments(m, settings.cameras.segment_length, settings.cameras.overlap)
    gone = forgotten(was, inputs.K[was.frame], inputs.camera_from_world[was.frame])
    stays = int((~gone).sum())
    gaussians = record.gaussians(was.gaussians.select(~gone))
    loss = torch.tensor([float(lost(was, gone, inputs, f).sum()) for f in range(m)])
    loss[(loss < _LEAST_PX) & (torch.arange(m) != was.frame)] = 0.0
    cells = picture_cells(prior, inputs.image) if prior is not None else None
    for index in range(record.finished, len(segments)):
        segment = segments[index]
        window = slice(segment.start, segment.stop)
        K, cameras = inputs.K[window], inputs.camera_from_world[window]
        old = torch.stack([was.frames[i] for i in range(segment.start, segment.stop)])
        with record.segment(index, segment) as page:
            with page.stage("render"):
                where = torch.stack([lost(was, gone, inputs, f) for f in range(m)[window]])
                where[loss[window] == 0.0] = False
                drawn = draw_views(gaussians, K, cameras, inputs.image, settings)
                rim = _kept_outside(drawn, old, _grown(where))
                built = build_scaffold(gaussians, rim, K, cameras, settings)
                views = _kept_outside(drawn, old, where)
                del drawn, rim
            page.rendered(views)
            with page.stage("generate") as told:
                enhanced = _as_it_was(views) if prior is None or not bool(where.any()) else None
                if enhanced is None:
                    enhanced = enhance(
                        views,
                        built.depth,
                        inputs.image,
                        K,
                        cameras,
                        prior,
                        settings,
                        index,
                        told,
                        cells,
                        pin_first=False,
                    )
                frames = torch.where(where[:, None], enhanced.frames, old)
                enhanced = enhanced._replace(frames=frames)
            page.enhanced(enhanced)
            painted = paint(built.scaffold, enhanced.frames)
            if prior is not None and painted.count:
                room = settings.refine.max_gaussians - gaussians.count
                gaussians = concatenate(gaussians, at_most(painted, max(room, 1)))
            del views, built, enhanced, frames
            with page.stage("refine") as told:
                refined = _refined(
                    gaussians, stays, inputs, settings, record, loss, segment, index, told
                )
                gaussians = refined.gaussians
                after = draw_views(gaussians, K, cameras, inputs.image, settings)
            page.refined(refined, after)
            del refined, after
    return gaussians


def forgotten(was: Before, K: Tensor, camera: Tensor) -> Tensor:
    """Say which Gaussians [n] bool a camera (K [3, 3], camera [4, 4] from world) sees through the
    mask, those behind them included.
    """
    gone = torch.zeros(was.gaussians.count, dtype=torch.bool, device=was.gaussians.means.device)
    for _ in range(_LAYERS):
        left = (~gone).nonzero()[:, 0]
        inside, everywhere = _weights(was.gaussians.select(left), K, camera, was.mask)
        through = (inside > _SEEN) & (inside > _MOSTLY * everywhere)
        if not bool(through.any()):
            break
        gone[left[through]] = True
    return gone


def _weights(
    gaussians: Gaussians, K: Tensor, camera: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum of each Gaussian's blend weights [n] over the pixels of a mask, and over all: the
    derivatives of the sums of a red and a green picture by its own red and green.
    """
    grey = gaussians._replace(
        sh_dc=torch.zeros_like(gaussians.sh_dc).requires_grad_(),
        sh_rest=gaussians.sh_rest[:, :0],
    )
    h, w = mask.shape
    rgb = rasterize(grey, K[None], camera[None], w, h, depth=False).rgb[0]
    (rgb[..., 0][mask].sum() + rgb[..., 1].sum()).backward()
    assert grey.sh_dc.grad is not None
    return grey.sh_dc.grad[:, 0] / SH_C0, grey.sh_dc.grad[:, 1] / SH_C0


def lost(was: Before, gone: Tensor, inputs: Inputs, index: int) -> Tensor:
    """Say which pixels [h, w] bool of a frame are learned anew: in the frame of the mask the mask,
    in others where the forgotten had a share.
    """
    if index == was.frame:
        return was.mask
    h, w = was.mask.shape
    with torch.no_grad():
        drawn = rasterize(
            was.gaussians,
            inputs.K[index : index + 1],
            inputs.camera_from_world[index : index + 1],
            w,
            h,
            extra=gone[:, None].float(),
        )
    return drawn.extra[0, ..., 0] > _LOST


def _kept_outside(views: Views, old: Tensor, where: Tensor) -> Views:
    """Views that show the old frames [f, 3, h, w], known for certain, but where [f, h, w] they are
    lost. What is left of a pixel there, the fringe of its neighbours, is not yet its colour.
    """
    return views._replace(
        rgb=torch.where(where[:, None], views.rgb, old),
        alpha=torch.where(where, views.alpha, 1.0),
        scale_px=torch.where(where, views.scale_px, 0.0),
        mu=torch.where(where, views.mu * (views.alpha > _WHOLE), 1.0),
    )


def _grown(where: Tensor) -> Tensor:
    """[f, h, w] bool, wider by _RIM_PX: Gaussians of an edge went with what is within, and the old
    frames tell what was there.
    """
    side = 2 * _RIM_PX + 1
    return F.max_pool2d(where[:, None].float(), side, stride=1, padding=_RIM_PX)[:, 0] > 0


def _as_it_was(views: Views) -> Enhanced:
    return Enhanced(views.rgb, views.rgb, views.rgb, torch.ones_like(views.mu), views.mu)


def _refined(
    gaussians: Gaussians,
    stays: int,
    inputs: Inputs,
    settings: SceneSettings,
    record: Record,
    loss: Tensor,
    segment: Segment,
    index: int,
    told: StepReport,
) -> RefineResult:
    """Eq. (20) for the new Gaussians, those from `stays` on, on all frames so far that have lost
    something; half of the steps for this segment's.
    """
    count = segment.stop
    share = (loss[:count] > 0).float()
    own = torch.zeros(count)
    own[segment.start :] = share[segment.start :]
    if not bool(own.any()) or gaussians.count == stays:
        told(1, 1)
        return RefineResult(gaussians, [], [], [(0, gaussians.count)], [])
    still = torch.arange(gaussians.count, device=gaussians.means.device) < stays
    refined = refine(
        gaussians,
        record.frames,
        inputs.K[:count],
        inputs.camera_from_world[:count],
        recipe="few_views",
        steps=settings.refine.refine_steps,
        frame_weights=share / share.sum() + own / own.sum(),
        still=still,
        max_gaussians=settings.refine.max_gaussians,
        blending=settings.output.blending,
        sh_degree=settings.refine.sh_degree,
        seed=settings.output.seed * 10_007 + index,
        report=lambda stage, done, total, *_, **__: told(done, total),
    )
    drawn = torch.sigmoid(refined.gaussians.opacities_logit) >= ALPHA_MIN
    return refined._replace(gaussians=refined.gaussians.select(drawn | still))
