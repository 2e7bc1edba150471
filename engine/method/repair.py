"""After the last segment: what a finisher made of the scene's frames is learned, in a last
refinement.

The scene is drawn from every camera but the first, whose frame is the picture; each render is
repaired. The repaired frames get a fixed share of the steps, the picture and the frames of the
segments share the rest, so that the scene cannot run after the finisher alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..bridge.progress import StepReport
from ..bridge.settings import SceneSettings
from ..finishers.base import Finisher
from ..rasterize.constants import ALPHA_MIN
from ..scene.gaussians import Gaussians
from .enhance import eight_bits
from .pipeline import Inputs
from .refine import PICTURE, Frames, RefineResult, refine
from .views import draw_views


def repaired(
    gaussians: Gaussians, inputs: Inputs, finisher: Finisher, settings: SceneSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """For every camera but the first: what it shows [3, h, w], and that repaired, rounded to 8 bits
    as it is stored.
    """
    for index in range(1, inputs.K.shape[0]):
        render = drawn(gaussians, inputs, settings, index)
        yield render, eight_bits(finisher.finish(render[None], inputs.image))[0]


def drawn(gaussians: Gaussians, inputs: Inputs, settings: SceneSettings, index: int) -> Tensor:
    """What camera `index` shows of the scene, [3, h, w]."""
    one = slice(index, index + 1)
    with torch.no_grad():
        views = draw_views(
            gaussians, inputs.K[one], inputs.camera_from_world[one], inputs.image, settings
        )
    return views.rgb[0]


def learned(
    gaussians: Gaussians,
    frames: Frames,
    repaired: Frames,
    inputs: Inputs,
    settings: SceneSettings,
    steps: int,
    told: StepReport,
) -> RefineResult:
    """Eq. (20) on the m frames of the segments and the m - 1 repaired ones; what is then too faint
    to be drawn goes.
    """
    knobs, count = settings.refine, len(frames)
    cameras = [*range(count), *range(1, count)]
    result = refine(
        gaussians,
        _Both(frames, repaired),
        inputs.K[cameras],
        inputs.camera_from_world[cameras],
        recipe=knobs.recipe,
        steps=steps,
        frame_weights=shares(count, knobs.finisher_weight),
        known_only=not settings.enhances,
        max_gaussians=knobs.max_gaussians,
        blending=settings.output.blending,
        sh_degree=knobs.sh_degree,
        seed=settings.output.seed * 10_007 + 10_006,  # that of no segment
        report=lambda stage, done, total, *_, **__: told(done, total),
    )
    seen = torch.sigmoid(result.gaussians.opacities_logit) >= ALPHA_MIN
    return result._replace(gaussians=result.gaussians.select(seen))


def shares(count: int, weight: float) -> Tensor:
    """Share the steps out, [2 m - 1] with sum 1: `weight` for the repaired frames, which come last;
    of the rest PICTURE for frame 0, and evenly for the other frames of the segments.
    """
    others = count - 1
    if not others:
        return torch.ones(1)
    rest = (1.0 - weight) * (1.0 - PICTURE) / others
    own = [(1.0 - weight) * PICTURE] + [rest] * others
    return torch.tensor(own + [weight / others] * others)


class _Both:
    """Frames one after another; each is read when it is asked for."""

    def __init__(self, first: Frames, then: Frames) -> None:
        self._first, self._then = first, then

    def __len__(self) -> int:
        return len(self._first) + len(self._then)

    def __getitem__(self, index: int) -> Tensor:
        held = len(self._first)
        return self._first[index] if index < held else self._then[index - held]
