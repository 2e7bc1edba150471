"""Refining Gaussians on frames: two recipes, one loop.

"paper" is the optimisation of Scene Splatter (arXiv 2504.02764, supplement Table 1), which is
3DGS's (Kerbl et al. 2023) with smaller rates. "few_views" is for a dense initialisation and a
handful of frames: the rates of InstantSplat (NVlabs, arXiv 2403.20309: colour, scale and rotation
x10, no densification) with gsplat's position rate x10, decayed over the steps really taken.

A call starts its own optimiser, as the paper does per segment, so nothing but the Gaussians passes
from one call to the next: a run that was interrupted between segments goes on to the same bits.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..bridge.harmonics import COEFFICIENTS
from ..bridge.progress import Report
from ..bridge.segments import Segment
from ..bridge.settings import SceneSettings
from ..rasterize import rasterize
from ..rasterize.constants import ALPHA_MIN
from ..rasterize.kernels.adam import Optimizer, make_adam
from ..scene.colour import linear_to_srgb
from ..scene.gaussians import Gaussians
from ..scene.morton import morton_order
from ..scene.pixels import focal_px
from .densify import DensifySchedule, DensifyState, densify
from .losses import Target, photometric_loss, prepare_target

ADAM_EPS = 1e-15
HALF_COVERED = 0.5  # coverage above which a pixel shows more scene than hole
NEW = 0.5  # share of the steps for a segment's new frames
PICTURE = 0.2  # for the picture itself; the other frames share the rest
RELATED = 0.25  # of what a segment sees: earlier frames that see less of it have no say in it
_TOUCHED = 0.01  # the same for the picture
_SAMPLE = 4000  # Gaussians by which that is judged
_REACH = 4.0  # standard deviations that a Gaussian is taken to reach
_NEAREST_OF = 64  # cameras of the whole path that limit sizes
_REPORT_EVERY_S = 0.1
LONGEST_RATIO = 3.0  # where sizes are limited: the longest axis against the middle one's limit
_TARGET_CACHE_BYTES = 1 << 27
_TARGET_CACHE_BYTES_GPU = 1 << 30  # reading a frame again takes longer than a step there
_LOOK_EVERY = 100  # steps, on a GPU: each look at numbers waits for it
STAGE = "refine"


@dataclass(frozen=True)
class Recipe:
    """How Gaussians are optimised: learning rates of Adam in the units of the stored forms, the
    order of the frames, densification or limits of size.
    """

    means: float  # per scene_scale, at the first step
    means_final: float  # per scene_scale, at the last step; exponential in between
    scales_log: float
    quats: float
    opacities_logit: float
    sh_dc: float
    sh_rest: float
    scene_scale: float | None  # None: the median depth of what the first camera sees
    shuffled: bool  # frames in a seeded order; otherwise as they come
    densify: DensifySchedule | None
    largest_px: (
        float | None
    )  # how many pixels of the nearest view the middle axis may grow to; None: no limit

    def __post_init__(self) -> None:
        if self.densify is not None and self.largest_px is not None:
            raise ValueError(
                "largest_px is worked out once, for the Gaussians given: it does not go with "
                "densify"
            )


RECIPES: dict[str, Recipe] = {
    # means: gsplat's 1.6e-4 x 10; the rest InstantSplat's. Measured in benchmarks/RESULTS.md.
    "few_views": Recipe(
        means=1.6e-3,
        means_final=1.6e-5,
        scales_log=5e-2,
        quats=1e-2,
        opacities_logit=5e-2,
        sh_dc=2.5e-2,
        sh_rest=1.25e-3,
        scene_scale=None,
        shuffled=True,
        densify=None,
        largest_px=1.5,
    ),
    # Supplement Table 1: 3e-5 -> 1.6e-6 and a spatial scale of 5; frames one after another, as
    # published.
    "paper": Recipe(
        means=3e-5,
        means_final=1.6e-6,
        scales_log=2e-4,
        quats=2e-4,
        opacities_logit=1e-2,
        sh_dc=1e-3,
        sh_rest=5e-5,
        scene_scale=5.0,
        shuffled=False,
        densify=DensifySchedule(),
        largest_px=None,
    ),
}


class Frames(Protocol):
    """Supervised frames [3, h, w], each read when it is asked for; a tensor [f, 3, h, w] is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


class Cameras(Protocol):
    """The cameras of a path."""

    @property
    def K(self) -> Tensor: ...  # [m, 3, 3] px
    @property
    def camera_from_world(self) -> Tensor: ...  # [m, 4, 4]


class RefineResult(NamedTuple):
    """The refined Gaussians, and how the loss and their number went."""

    gaussians: Gaussians
    losses: list[float]  # Eq. (20) of every step, before that step's update
    frames: list[int]  # the frame each step looked at
    counts: list[
        tuple[int, int]
    ]  # (step, Gaussians) at the start, after every change and at the end
    mean_opacities: list[tuple[int, float]]  # (step, mean opacity), at the same steps


def refine(
    gaussians: Gaussians,
    frames: Frames,  # f of [3, h, w], display-referred, 0..1
    K: Tensor,  # [f, 3, 3] px
    camera_from_world: Tensor,  # [f, 4, 4]
    *,
    recipe: str | Recipe = "few_views",
    steps: int = 300,
    frame_weights: Tensor | None = None,  # [f]
    pixel_weights: Tensor | None = None,  # [f, 1, h, w]
    known_only: bool = False,
    still: Tensor | None = None,  # [n] bool
    ssim_weight: float = 0.2,
    max_gaussians: int = 1_500_000,
    blending: str = "display",
    sh_degree: int | None = None,
    scene_scale: float | None = None,
    antialiased: bool = False,
    seed: int = 0,
    report: Report | None = None,
) -> RefineResult:
    """Optimise Gaussians on supervised frames, one frame a step, with the loss of Eq. (20).

    `frame_weights` are shares of the steps (any sum; default equal): a frame of weight 2 is looked
    at twice as often. `pixel_weights` multiply each pixel's loss; `known_only` leaves out what the
    Gaussians did not cover when a frame was first looked at. What is `still` is drawn and stays as
    it is, to the bit; it does not go with densification. `sh_degree` is the degree in use;
    missing coefficients start at zero, stored ones above it are kept but not trained. `scene_scale`
    (metres) scales the position rate and, in densification, lengths. With blending "linear" the
    rendering is encoded to sRGB before it is compared. `antialiased` as in `rasterize`. The result
    depends only on the arguments, on the CPU to the bit; Gaussians come back in the order given
    unless the recipe densifies.

    Raises ValueError for shapes that do not fit, FloatingPointError if the loss stops being finite
    (on a GPU up to _LOOK_EVERY steps later), and whatever `report` raises. Cameras may be anywhere:
    their numbers are read on the CPU.
    """
    K, camera_from_world = K.cpu(), camera_from_world.cpu()
    f, height, width = _check(frames, K, camera_from_world, frame_weights, pixel_weights, steps)
    chosen = RECIPES[recipe] if isinstance(recipe, str) else recipe
    if still is not None and chosen.densify is not None:
        raise ValueError("still does not go with a recipe that densifies")
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    scale = scene_scale or chosen.scene_scale or median_depth(gaussians, camera_from_world[0])
    schedule = frame_schedule(
        torch.ones(f) if frame_weights is None else frame_weights, steps, seed, chosen.shuffled
    )
    generator = torch.Generator().manual_seed(seed)
    looked_at = sorted(set(schedule))
    everything = _with_degree(gaussians.map(lambda t: t.detach()), degree)
    # What no camera sees has no gradient: a step costs what its part of the scene does, not the
    # whole path.
    at_work = torch.arange(gaussians.count, device=gaussians.means.device)
    if chosen.densify is None and steps:
        cameras = K[looked_at], camera_from_world[looked_at]
        at_work = in_view(everything, *cameras, width, height).nonzero()[:, 0]
    gaussians = everything.select(at_work)
    # Neighbours in space beside each other in memory: 1.2 times as fast where they come in no
    # order.
    order = _spatial_order(gaussians.means.detach())
    gaussians = gaussians.select(order)
    fixed = None if still is None else still[at_work][order].nonzero()[:, 0]
    params = gaussians.map(lambda t: t.contiguous().requires_grad_())
    optimizer = _adam(params, chosen, scale)
    limits = (
        None
        if chosen.largest_px is None
        else size_limits(
            gaussians,
            *_spread(K, camera_from_world, looked_at),
            width,
            height,
            chosen.largest_px,
        )
    )
    if limits is not None and fixed is not None:
        limits.middle[fixed], limits.longest[fixed] = math.inf, math.inf
    covered: dict[int, Tensor] = {}  # one byte a pixel: what `known_only` supervises of a frame
    look_every = _LOOK_EVERY if params.means.is_cuda else 1
    state = DensifyState(params.count, params.means.device)
    targets = _Targets(frames, params.means.device)
    history = _History()
    history.note(0, params)
    last_report = -math.inf
    for step in range(steps):
        if report is not None and time.monotonic() - last_report > _REPORT_EVERY_S:
            report(STAGE, step, steps, f"{params.count} Gaussians")
            last_report = time.monotonic()
        index = schedule[step]
        optimizer.param_groups[0]["lr"] = scale * exponential(
            chosen.means, chosen.means_final, step / max(steps - 1, 1)
        )
        offsets = (
            torch.zeros(1, params.count, 2, device=params.means.device, requires_grad=True)
            if chosen.densify
            else None
        )
        rendering = rasterize(
            params,
            K[index : index + 1],
            camera_from_world[index : index + 1],
            width,
            height,
            sh_degree=degree,
            antialiased=antialiased,
            blending=blending,
            depth=False,
            offsets_px=offsets,
            checked=step % look_every != 0,
        )
        image = rendering.rgb[0].permute(2, 0, 1)
        image = linear_to_srgb(image) if blending == "linear" else image
        weights = None if pixel_weights is None else pixel_weights[index].to(image)
        if known_only and index not in covered:
            covered[index] = (rendering.alpha.detach()[0, ..., 0] > HALF_COVERED)[None]
        if known_only:
            weights = covered[index].to(image)
        loss = photometric_loss(image, targets[index], ssim_weight, weights)
        history.lost(loss, look=step % look_every == 0 or step == steps - 1)
        optimizer.zero_grad()
        loss.backward()
        if fixed is not None:
            for tensor in params:  # Adam moves nothing that never had a gradient
                assert tensor.grad is not None
                tensor.grad[fixed] = 0.0
        optimizer.step()
        if limits is not None:
            limit_sizes(params.scales_log.detach(), limits)
        if chosen.densify is not None:
            assert offsets is not None and offsets.grad is not None
            state.observe(offsets.grad[0], rendering.info.radii[0], width, height)
            changed = densify(
                params,
                optimizer,
                state,
                chosen.densify,
                step + 1,
                steps,
                scale,
                max_gaussians,
                generator,
            )
            if changed is not None:
                params = changed
                history.note(step + 1, params)
    history.note(steps, params)
    if report is not None:
        report(STAGE, steps, steps, f"{params.count} Gaussians")
    refined = params.map(lambda t: t.detach())
    if chosen.densify is None:
        refined = Gaussians(
            *(
                whole.index_copy(0, at_work[order], part)
                for whole, part in zip(everything, refined, strict=True)
            )
        )
    return RefineResult(refined, history.losses, schedule, history.counts, history.mean_opacities)


def refine_segment(
    gaussians: Gaussians,
    frames: Frames,
    path: Cameras,
    settings: SceneSettings,
    segment: Segment,
    index: int,
    report: Callable[[int, int], None],
) -> RefineResult:
    """Eq. (20) on all frames so far, in fixed shares of the steps; what is then too faint to be
    drawn goes.

    However long the path is, the segment's new frames, the picture and the others that see the same
    get the same shares.
    """
    knobs, count = settings.refine, len(frames)
    K, camera_from_world = path.K[:count], path.camera_from_world[:count]
    _, height, width = frames[0].shape
    refined = refine(
        gaussians,
        frames,
        K,
        camera_from_world,
        recipe=knobs.recipe,
        steps=knobs.refine_steps,
        frame_weights=frame_shares(gaussians, K, camera_from_world, width, height, segment),
        known_only=not settings.enhances,  # nothing invented: holes must not be learned as black
        max_gaussians=knobs.max_gaussians,
        blending=settings.output.blending,
        sh_degree=knobs.sh_degree,
        seed=settings.output.seed * 10_007 + index,
        report=lambda stage, done, total, *_, **__: report(done, total),
    )
    drawn = torch.sigmoid(refined.gaussians.opacities_logit) >= ALPHA_MIN
    return refined._replace(gaussians=refined.gaussians.select(drawn))


def frame_shares(
    gaussians: Gaussians,
    K: Tensor,
    camera_from_world: Tensor,
    width: int,
    height: int,
    segment: Segment,
) -> Tensor:
    """Share the steps out among the frames so far, [f]: NEW for the new frames of the segment,
    PICTURE for frame 0.

    The rest goes evenly to the other frames that see at least RELATED of what the segment's cameras
    see. A picture that sees none of it would teach it nothing: its steps go to them.
    """
    share = torch.zeros(K.shape[0])
    new = list(range(max(segment.new, 1), segment.stop))
    if new:
        share[new] = NEW / len(new)
    if segment.new == 0:
        share[0] = PICTURE
        return share / share.sum()
    window = slice(segment.start, segment.stop)
    seen = in_view(gaussians, K[window], camera_from_world[window], width, height).nonzero()[:, 0]
    sample = gaussians.select(seen[:: max(1, seen.shape[0] // _SAMPLE)])
    common = [
        float(_inside(sample, K[i], camera_from_world[i], width, height).float().mean())
        for i in range(segment.new)
    ]
    if segment.start == 0 or common[0] >= _TOUCHED:
        share[0] = PICTURE
    others = [i for i in range(1, segment.new) if i >= segment.start or common[i] >= RELATED]
    if others:
        share[others] = (1.0 - NEW - float(share[0])) / len(others)
    return share / share.sum()


def in_view(
    gaussians: Gaussians, K: Tensor, camera_from_world: Tensor, width: int, height: int
) -> Tensor:
    """Say which Gaussians any of the cameras [f, ...] may see, [n] bool. Their size counts,
    occlusion does not.
    """
    seen = torch.zeros(gaussians.count, dtype=torch.bool, device=gaussians.means.device)
    for intrinsics, camera in zip(K, camera_from_world, strict=True):
        left = (~seen).nonzero()[:, 0]
        if not left.numel():
            break
        some = gaussians._replace(
            means=gaussians.means[left], scales_log=gaussians.scales_log[left]
        )
        seen[left[_inside(some, intrinsics, camera, width, height)]] = True
    return seen


def _inside(gaussians: Gaussians, K: Tensor, camera: Tensor, width: int, height: int) -> Tensor:
    """[n] bool: within _REACH standard deviations of a camera's frame."""
    longer = max(float(K[0, 0]), float(K[1, 1]))
    means, K, camera = gaussians.means, K.to(gaussians.means), camera.to(gaussians.means)
    x, y, z = (means @ camera[i, :3] + camera[i, 3] for i in range(3))
    reach = _REACH * gaussians.scales_log.amax(dim=1).exp() * longer
    inside = z + _REACH * gaussians.scales_log.amax(dim=1).exp() > 0
    for along, focal, centre, side in (
        (x, K[0, 0], K[0, 2], width),
        (y, K[1, 1], K[1, 2], height),
    ):
        place, margin = focal * along, reach + 2.0 * z.abs()
        inside &= (place + centre * z > -margin) & (place + (centre - side) * z < margin)
    return inside


def _spread(K: Tensor, camera_from_world: Tensor, looked_at: list[int]) -> tuple[Tensor, Tensor]:
    """The cameras that are looked at, and some of all others, evenly: who may come close to a
    Gaussian.
    """
    others = torch.linspace(0, K.shape[0] - 1, min(K.shape[0], _NEAREST_OF)).round().long().tolist()
    chosen = sorted({*looked_at, *others})
    return K[chosen], camera_from_world[chosen]


def frame_schedule(weights: Tensor, steps: int, seed: int, shuffled: bool) -> list[int]:
    """Decide which frame each step looks at. After any number of steps every frame is within one of
    its exact share.

    Turn k of a frame with share s comes after step (k - 1) / s, and among the frames whose turn has
    come the one whose next turn is nearest goes first (earliest pseudo-deadline, Baruah et al.
    1996). Equals go by a seeded order, or by index if not `shuffled`; equal weights thus give plain
    rounds.
    """
    share = (weights.double() / weights.double().sum()).tolist()
    f = len(share)
    order = (
        torch.randperm(f, generator=torch.Generator().manual_seed(seed)).tolist()
        if shuffled
        else list(range(f))
    )
    place = {frame: rank for rank, frame in enumerate(order)}
    waiting = [(0.0, place[i], i, 0) for i in range(f) if share[i] > 0.0]  # turn comes at
    heapq.heapify(waiting)
    ready: list[tuple[float, int, int, int]] = []  # next turn comes at
    schedule: list[int] = []
    for step in range(steps):
        while waiting and waiting[0][0] <= step + 1e-6:
            _, rank, i, taken = heapq.heappop(waiting)
            heapq.heappush(ready, (round((taken + 1) / share[i], 6), rank, i, taken))
        _, rank, i, taken = heapq.heappop(ready)
        schedule.append(i)
        heapq.heappush(waiting, ((taken + 1) / share[i], rank, i, taken + 1))
    return schedule


def exponential(start: float, stop: float, t: float) -> float:
    """Interpolate geometrically between two positive numbers, t in 0..1."""
    return start * (stop / start) ** t


def median_depth(gaussians: Gaussians, camera_from_world: Tensor) -> float:
    """Return the median depth in metres of the Gaussians in front of a camera; 1 if none is."""
    z = gaussians.means.detach() @ camera_from_world[2, :3].to(gaussians.means) + camera_from_world[
        2, 3
    ].to(gaussians.means)
    z = z[z > 0]
    return float(z.median()) if z.numel() else 1.0


class SizeLimits(NamedTuple):
    """Upper limits of sorted scales_log. What is larger at the start may stay, but not grow."""

    middle: Tensor  # [n] of the middle and thus the shortest axis
    longest: Tensor  # [n, 3] of every axis


def size_limits(
    gaussians: Gaussians,
    K: Tensor,
    camera_from_world: Tensor,
    width: int,
    height: int,
    pixels: float,
) -> SizeLimits:
    """Limit sizes to `pixels` of the nearest camera that sees a Gaussian, and its longest axis to
    LONGEST_RATIO times that.

    In flat regions growing costs the loss nothing, but the scale map of Eq. (14) would call them
    unseen, and the next segment would invent them anew. That map looks at the middle axis; the
    longest one is what draws edges.
    """
    nearest = torch.full((gaussians.count,), -math.inf, device=gaussians.means.device)
    means = gaussians.means.detach()
    for intrinsics, camera in zip(K.to(means), camera_from_world.to(means), strict=True):
        seen = means @ camera[:3, :3].T + camera[:3, 3]
        z = seen[:, 2].clamp_min(1e-6)
        u = intrinsics[0, 0] * seen[:, 0] / z + intrinsics[0, 2]
        v = intrinsics[1, 1] * seen[:, 1] / z + intrinsics[1, 2]
        inside = (seen[:, 2] > 1e-6) & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
        size = torch.log(pixels * z / focal_px(intrinsics))
        nearest = torch.where(inside & ((size < nearest) | nearest.isinf()), size, nearest)
    _, middle, longest = gaussians.scales_log.detach().sort(dim=1).values.unbind(1)
    longest = torch.maximum(longest, nearest + math.log(LONGEST_RATIO))
    return SizeLimits(torch.maximum(middle, nearest), longest[:, None].repeat(1, 3))


def limit_sizes(scales_log: Tensor, limits: SizeLimits) -> None:
    """Bring scales_log [n, 3] under its limits, in place."""
    scales_log.clamp_(max=limits.longest)
    x, y, z = scales_log.unbind(1)
    middle = torch.maximum(torch.minimum(x, y), torch.minimum(torch.maximum(x, y), z))
    # all rows on a GPU, where to know their number is to wait for it
    rows: Tensor | slice = slice(None)
    if not scales_log.is_cuda:
        rows = (middle > limits.middle).nonzero()[:, 0]
    sizes = scales_log[rows]
    longest = sizes.argmax(dim=1, keepdim=True)
    scales_log[rows] = torch.minimum(sizes, limits.middle[rows, None]).scatter_(
        1, longest, sizes.gather(1, longest)
    )


def _spatial_order(means: Tensor) -> Tensor:
    """[n, 3] -> [n]"""
    if not (
        means.shape[0] and means.isfinite().all()
    ):  # the rasteriser says what is wrong with them
        return torch.arange(means.shape[0], device=means.device)
    return torch.from_numpy(morton_order(means.cpu().numpy())).to(means.device)


def _adam(params: Gaussians, recipe: Recipe, scale: float) -> Optimizer:
    groups = [
        {
            "params": [tensor],
            "name": name,
            "lr": recipe.means * scale if name == "means" else getattr(recipe, name),
        }
        for name, tensor in params._asdict().items()
    ]
    return make_adam(groups, ADAM_EPS)


def _with_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """Zero coefficients added where fewer than `degree` needs are stored."""
    missing = COEFFICIENTS[degree] - gaussians.sh_rest.shape[1]
    if missing <= 0:
        return gaussians
    return gaussians._replace(
        sh_rest=torch.cat(
            [gaussians.sh_rest, gaussians.sh_rest.new_zeros(gaussians.count, missing, 3)], 1
        )
    )


class _Targets:
    """Prepared frames. What fits into a fixed amount of memory is kept; a random one makes room,
    for turns come in rounds.
    """

    def __init__(self, frames: Frames, device: torch.device) -> None:
        self._frames, self._device = frames, device
        self._kept: dict[int, Target] = {}
        self._random = random.Random(0)

    def __getitem__(self, index: int) -> Target:
        if index not in self._kept:
            target = prepare_target(self._frames[index].to(self._device))
            most = _TARGET_CACHE_BYTES_GPU if target.image.is_cuda else _TARGET_CACHE_BYTES
            room = max(most // (3 * 4 * target.image.numel()), 1)
            while len(self._kept) >= room:
                del self._kept[self._random.choice(list(self._kept))]
            self._kept[index] = target
        return self._kept[index]


class _History:
    def __init__(self) -> None:
        self.losses: list[float] = []
        self._waiting: list[Tensor] = []  # losses that may still be on their way
        self.counts: list[tuple[int, int]] = []
        self.mean_opacities: list[tuple[int, float]] = []

    def lost(self, loss: Tensor, *, look: bool) -> None:
        """Keep the loss of a step; `look` at it and those before it. FloatingPointError if one is
        not finite.
        """
        self._waiting.append(loss.detach())
        if not look:
            return
        for value in torch.stack(self._waiting).tolist():
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value} at step {len(self.losses)}")
            self.losses.append(value)
        self._waiting.clear()

    def note(self, step: int, params: Gaussians) -> None:
        self.counts.append((step, params.count))
        opacity = (
            float(torch.sigmoid(params.opacities_logit.detach()).mean()) if params.count else 0.0
        )
        self.mean_opacities.append((step, opacity))


def _check(
    frames: Frames,
    K: Tensor,
    camera_from_world: Tensor,
    frame_weights: Tensor | None,
    pixel_weights: Tensor | None,
    steps: int,
) -> tuple[int, int, int]:
    f = len(frames)
    shape_0 = tuple(frames[0].shape) if f else ()  # reading a frame may mean decoding a file
    if len(shape_0) != 3 or shape_0[0] != 3:
        raise ValueError(f"frames must be f of [3, h, w], got {[f, *shape_0]}")
    _, h, w = shape_0
    expected: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("K", K, (f, 3, 3)),
        ("camera_from_world", camera_from_world, (f, 4, 4)),
    ]
    if frame_weights is not None:
        expected.append(("frame_weights", frame_weights, (f,)))
    if pixel_weights is not None:
        expected.append(("pixel_weights", pixel_weights, (f, 1, h, w)))
    for name, tensor, shape in expected:
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")
    for name, weights in (("frame_weights", frame_weights), ("pixel_weights", pixel_weights)):
        if weights is not None and (bool((weights < 0).any()) or not bool((weights > 0).any())):
            raise ValueError(f"{name} must be at least 0 and not all 0")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    return f, h, w
