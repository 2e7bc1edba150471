"""The outer loop of Scene Splatter (arXiv 2504.02764, section 3.3).

Models come as arguments. What is made goes to a `Record` as soon as it is there; `job.segment`
keeps it in files, so that a run goes on after its last finished segment.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..bridge.progress import StepReport
from ..bridge.segments import Segment, plan_segments
from ..bridge.settings import SceneSettings
from ..priors.base import VideoPrior
from ..scene.gaussians import Gaussians, at_most, concatenate
from .enhance import Enhanced, enhance, picture_cells
from .refine import Frames, RefineResult, refine_segment
from .scaffold import Built, build_scaffold, paint
from .views import Views, draw_views


class Inputs(NamedTuple):
    """What a job starts from, on the computing device."""

    image: Tensor  # [3, h, w] display-referred, [0, 1], at working size
    K: Tensor  # [m, 3, 3] pixels at working size
    camera_from_world: Tensor  # [m, 4, 4]; the first is the identity
    gaussians: Gaussians  # the first geometry


class Page(Protocol):
    """The record of one segment; `job.segment` writes it to files."""

    def stage(self, name: str) -> AbstractContextManager[StepReport]:
        """Measure a stage while the block runs, and give the callback for progress within it."""

    def rendered(self, views: Views) -> None:
        """Keep what the Gaussians showed before the segment."""

    def enhanced(self, enhanced: Enhanced) -> None:
        """Keep the enhanced frames, the clips and the maps of momentum."""

    def refined(self, refined: RefineResult, after: Views) -> None:
        """Keep the refined Gaussians and what they show now; the segment is finished."""


class Record(Protocol):
    """The place where a run keeps what it makes, and from which it goes on."""

    finished: int  # segments
    # the first of them, whose Gaussians are at hand; those of the others are learned again
    remembered: int

    @property
    def frames(self) -> Frames:
        """The newest version of every frame so far; a frame is there once `enhanced` was told of
        it.
        """

    def gaussians(self, first: Gaussians) -> Gaussians:
        """Return the Gaussians after `remembered` segments, or `first` where that is none."""

    def again(self, index: int) -> AbstractContextManager[tuple[SceneSettings, Frames, StepReport]]:
        """Give what finished segment `index` was refined with: its settings, all frames as they
        were then, and a callback for progress.
        """

    def segment(self, index: int, segment: Segment) -> AbstractContextManager[Page]:
        """Open the record of segment `index`; the segment is finished when the block ends well."""


def generate(
    inputs: Inputs, prior: VideoPrior | None, settings: SceneSettings, record: Record
) -> Gaussians:
    """Run all segments that are not finished yet and return the final Gaussians. Without a prior
    nothing is invented.
    """
    m, most = inputs.K.shape[0], settings.refine.max_gaussians
    segments = plan_segments(m, settings.cameras.segment_length, settings.cameras.overlap)
    image, gaussians = inputs.image, at_most(record.gaussians(inputs.gaussians), most)
    cells = picture_cells(prior, image) if prior is not None else None
    for index in range(record.remembered, record.finished):
        with record.again(index) as (then, frames, told):
            gaussians = _learned_again(
                gaussians, frames, inputs, then, segments[index], index, told
            )
    for index in range(record.finished, len(segments)):
        segment = segments[index]
        window = slice(segment.start, segment.stop)
        K, cameras = inputs.K[window], inputs.camera_from_world[window]
        with record.segment(index, segment) as page:
            # 1. Render the window with its scale map, Eq. (14), and give what is unseen a surface.
            with page.stage("render"):
                views, built = _built(gaussians, K, cameras, image, settings, index)
            page.rendered(views)
            # 2. Enhance it with and without latent momentum, Eq. (8)-(10), and blend the two clips
            #    by pixel momentum, Eq. (13)-(15).
            with page.stage("generate") as told:
                enhanced = enhance(
                    views, built.depth, image, K, cameras, prior, settings, index, told, cells
                )
            page.enhanced(enhanced)
            if prior is not None:
                gaussians = _painted(gaussians, built, enhanced.frames, most)
            del views, built, enhanced  # clips are most of a job's memory
            # 3. Refine the Gaussians on all frames so far, Eq. (20), and go on from them.
            with page.stage("refine") as told:
                refined = refine_segment(
                    gaussians, record.frames, inputs, settings, segment, index, told
                )
                gaussians = refined.gaussians
                after = draw_views(gaussians, K, cameras, image, settings)
            page.refined(refined, after)
            del refined, after
    return gaussians


def _built(
    gaussians: Gaussians,
    K: Tensor,
    cameras: Tensor,
    image: Tensor,
    settings: SceneSettings,
    index: int,
) -> tuple[Views, Built]:
    """Return what the cameras of segment `index`, K [f, 3, 3] and [f, 4, 4] from world, see of the
    Gaussians, and surfaces for what nothing covers yet.
    """
    views = draw_views(gaussians, K, cameras, image, settings, pin_first=index == 0)
    return views, build_scaffold(gaussians, views, K, cameras, settings)


def _painted(gaussians: Gaussians, built: Built, frames: Tensor, most: int) -> Gaussians:
    """Return at most `most` Gaussians: those that stay, and the built ones in the colours of a
    segment's frames [f, 3, h, w].
    """
    painted = paint(built.scaffold, frames)
    return at_most(concatenate(gaussians.select(built.kept), painted), most)


def _learned_again(
    gaussians: Gaussians,
    frames: Frames,
    inputs: Inputs,
    settings: SceneSettings,
    segment: Segment,
    index: int,
    told: StepReport,
) -> Gaussians:
    """Return the Gaussians after a finished segment, from those before it and its frames: what the
    loop does, but the frames are there.
    """
    window = slice(segment.start, segment.stop)
    K, cameras, image = inputs.K[window], inputs.camera_from_world[window], inputs.image
    if settings.enhances:
        _, built = _built(gaussians, K, cameras, image, settings, index)
        clip = torch.stack([frames[i] for i in range(segment.start, segment.stop)])
        gaussians = _painted(gaussians, built, clip, settings.refine.max_gaussians)
        del built, clip
    return refine_segment(gaussians, frames, inputs, settings, segment, index, told).gaussians
