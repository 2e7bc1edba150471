"""After the last segment: what a finisher made of the scene's frames is learned, in a last
refinement.

The scene is drawn from every camera but the first, whose frame is the picture; each render is
repaired. The repaired frames get a fixed share of the steps and the picture all others. The frames
of the segments have no share: at every camera they would stand against the repaired one, and the L1
of Eq. (20) follows the majority of what a place is told, not the mean (benchmarks/finisher.py).
What they taught is in the renders.
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
from .refine import Frames, RefineResult, refine
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
    repaired: Frames,
    inputs: Inputs,
    settings: SceneSettings,
    steps: int,
    told: StepReport,
) -> RefineResult:
    """Eq. (20) on the picture and the m - 1 repaired frames; what is then too faint to be drawn
    goes.
    """
    knobs = settings.refine
    result = refine(
        gaussians,
        _After(inputs.image, repaired),
        inputs.K,
        inputs.camera_from_world,
        recipe=knobs.recipe,
        steps=steps,
        frame_weights=shares(len(inputs.K), knobs.finisher_weight),
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
    """Share the steps out, [m] with sum 1: `weight` evenly for the m - 1 repaired frames, the rest
    for the picture, which is frame 0.
    """
    others = count - 1
    return torch.tensor([1.0 - weight] + [weight / others] * others) if others else torch.ones(1)


class _After:
    """The picture [3, h, w], then frames; each of these is read when it is asked for."""

    def __init__(self, picture: Tensor, then: Frames) -> None:
        self._picture, self._then = picture, then

    def __len__(self) -> int:
        return 1 + len(self._then)

    def __getitem__(self, index: int) -> Tensor:
        return self._then[index - 1] if index else self._picture
