"""A prior with the cells of a video network, that knows the true frames: what the method loses, it
loses itself.

No experiment with the built-in prior can show what coarse cells do to momentum, as its cells are
single pixels. This one codes eight by eight pixels of four frames in a cell, and its code overlaps:
a cell tells of pixels beside it and is told by them, as in the autoencoders of video networks. Its
denoiser is exact for clips that scatter round the drifted truth:

    x0 ~ N(m, (spread * one unit of the latents)^2),   x = a x0 + b eps
    x0_hat = m + spread^2 a / (a^2 spread^2 + b^2) (x - a m)

so that what momentum puts into x at a late step is kept and at an early step forgotten, and another
noise gives another clip. `m` is the code of the true frames, moved by up to `drift_px` at the end
of a clip in a smooth field, and tinted by `cast`: a camera that slips and colours that shift, as
reported of video networks.

    Coder   the code: windows of sixteen pixels every eight, six cosines a window
    Drift   how far the prior is from the truth
    Coarse  the prior
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..priors import notation
from ..priors.base import Clip, Level, PriorSpec

CELL, GROUP = 8, 4  # pixels, frames
_WAVES, _WAVES_CHROMA = 6, 3  # cosines a window and axis
_COMPARED = 16  # the lowest channels are what Eq. (10) compares
_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_SMALLEST = 0.02  # of the largest channel's spread: none is scaled up beyond this
Truth = Callable[[Tensor], Tensor]  # camera_from_world [f, 4, 4] -> true frames [f, 3, h, w]


class Coder:
    """Frames [f, 3, h, w] in [0, 1] <-> latents [c, f', h / 8, w / 8]; linear, and exact for flat
    colours.

    Along an axis a clip is a sum of cosines under overlapping raised-cosine windows, and its code
    the nearest such sum (least squares); four frames are coded by their cosines in time; colour has
    fewer waves.
    """

    def __init__(self, height: int, width: int) -> None:
        """Raises ValueError where a side is no multiple of eight."""
        if height % CELL or width % CELL:
            raise ValueError(f"Coder: {width}x{height} does not divide into cells of {CELL} pixels")
        self._axes = {
            waves: (_axis(height, waves), _axis(width, waves)) for waves in (_WAVES, _WAVES_CHROMA)
        }
        t = torch.arange(GROUP) + 0.5
        self._time = torch.stack([torch.cos(math.pi / GROUP * k * t) for k in range(GROUP)])
        self._from_time = torch.linalg.inv(self._time)

    def encode(self, frames: Tensor) -> Tensor:
        """f = 1 + 4 k frames; the first has a cell of its own. Raises ValueError for other
        counts.
        """
        if (frames.shape[0] - 1) % GROUP:
            raise ValueError(f"encode: {frames.shape[0]} frames are not 1 + a multiple of {GROUP}")
        ycc = torch.einsum("ij,fjhw->ifhw", _YCC, frames - 0.5)
        parts = [self._into_space(ycc[:1], _WAVES), self._into_space(ycc[1:], _WAVES_CHROMA)]
        space = torch.cat(parts)  # [waves, f, h', w']
        first = torch.zeros(space.shape[0], GROUP, *space.shape[2:])
        first[:, 0] = space[:, 0]
        rest = space[:, 1:].unflatten(1, (-1, GROUP))
        rest = torch.einsum("tk,cgthw->cgkhw", self._from_time, rest)
        joined = torch.cat([first[:, None], rest], dim=1)  # [waves, f', 4, h', w']
        return joined.transpose(1, 2).flatten(0, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents of 1 + k cells in time -> [1 + 4 k, 3, h, w]; not clamped."""
        cells = latents.unflatten(0, (-1, GROUP)).transpose(1, 2)  # [waves, f', 4, h', w']
        rest = torch.einsum("kt,cgkhw->cgthw", self._time, cells[:, 1:]).flatten(1, 2)
        space = torch.cat([cells[:, :1, 0], rest], dim=1)
        luma, chroma = space.split([_WAVES**2, 2 * _WAVES_CHROMA**2])
        ycc = torch.cat([self._from_space(luma, _WAVES), self._from_space(chroma, _WAVES_CHROMA)])
        return torch.einsum("ij,jfhw->fihw", torch.linalg.inv(_YCC), ycc) + 0.5

    def _into_space(self, pixels: Tensor, waves: int) -> Tensor:
        """[i, f, h, w] -> [i * waves^2, f, h', w']."""
        rows, columns = (torch.linalg.pinv(axis) for axis in self._axes[waves])
        coded = torch.einsum("yh,ifhw,xw->ifyx", rows, pixels, columns)
        coded = coded.unflatten(3, (-1, waves)).unflatten(2, (-1, waves))  # [i, f, h', a, w', b]
        return coded.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)

    def _from_space(self, coded: Tensor, waves: int) -> Tensor:
        rows, columns = self._axes[waves]
        grid = coded.unflatten(0, (-1, waves, waves)).permute(0, 3, 4, 1, 5, 2)
        grid = grid.flatten(4, 5).flatten(2, 3)
        return torch.einsum("hy,ifyx,wx->ifhw", rows, grid, columns)


def _axis(length: int, waves: int) -> Tensor:
    """[length, cells * waves]: cosines under windows of two cells, whose sum of windows is 1
    everywhere.
    """
    at = torch.arange(length) + 0.5
    centres = (torch.arange(length // CELL) + 0.5) * CELL
    offset = (at[:, None] - centres) / CELL
    # the first and last window go on to the edge, where they have no neighbour
    offset_w = offset.clone()
    offset_w[at < centres[0], 0] = 0.0
    offset_w[at > centres[-1], -1] = 0.0
    window = torch.where(offset_w.abs() < 1.0, torch.cos(0.5 * math.pi * offset_w).square(), 0.0)
    wave = torch.cos(math.pi * (offset[..., None] + 0.5) * torch.arange(waves))
    return (window[..., None] * wave).flatten(1)


class Drift(NamedTuple):
    """How far the prior's own idea of a clip is from the truth."""

    drift_px: float = 0.0  # at the last frame of a clip, in pixels of the working size
    cast: float = 0.0  # of red up and blue down
    spread: float = 0.15  # its indecision, in units of a latent channel's own spread


class _Condition(NamedTuple):
    mean: Tensor  # [c, f', h', w'] in the model's scale


class Coarse:
    """See the module. `truth` gives the true frames at cameras; `image` [3, h, w] is the input
    picture.
    """

    def __init__(self, image: Tensor, truth: Truth, drift: Drift, steps: int = 10) -> None:
        self._coder = Coder(image.shape[1], image.shape[2])
        self._truth, self._drift = truth, drift
        latents = self._coder.encode(image[None])
        # channels that one frame leaves at rest, those of change in time, are scaled as their still
        # ones
        still = latents.unflatten(0, (-1, GROUP))[:, 0].flatten(1)
        scale = still.std(dim=1).clamp(min=_SMALLEST * float(still.std(dim=1).max()))
        self._scale = scale.repeat_interleave(GROUP)[:, None, None, None]
        order = torch.argsort(self._scale.flatten(), descending=True)
        order = order[order % GROUP == 0]  # of the still ones
        self._compared = order[:_COMPARED]
        self.spec = PriorSpec(
            name="coarse",
            frames=lambda n: 1 + GROUP * math.ceil((n - 1) / GROUP),
            size_multiple=CELL,
            native_size=None,
            t_factor=GROUP,
            s_factor=CELL,
            channels=self._scale.shape[0],
            steps=steps,
            sees=frozenset({"render", "mask", "camera", "image"}),
            licence="GPL-3.0-or-later",
            commercial_use=True,
        )
        self._levels: list[Level] = []

    def levels(self, steps: int) -> list[Level]:
        """A rectified flow: a = 1 - b, b falling evenly from 1 to 0."""
        b = torch.linspace(1.0, 0.0, steps + 1).tolist()
        self._levels = [Level(x, 1.0 - x, x) for x in b]
        return list(self._levels)

    def encode(self, frames: Tensor) -> Tensor:
        """[f, 3, h, w] in [0, 1] -> [c, f', h / 8, w / 8], every channel of about unit spread."""
        return self._coder.encode(frames.float()) / self._scale

    def decode(self, latents: Tensor) -> Tensor:
        """[c, f', h / 8, w / 8] -> [f, 3, h, w] in [0, 1]."""
        return self._coder.decode(latents * self._scale).clamp(0.0, 1.0)

    def z_scale(self, i: int) -> float:
        return 1.0

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def condition(self, clip: Clip) -> _Condition:
        """The code of the true frames, drifted."""
        frames = self._truth(torch.linalg.inv(clip.world_from_camera))
        return _Condition(self.encode(drifted(frames, self._drift)))

    def predict(self, x: Tensor, i: int, condition: Any) -> tuple[Tensor, Tensor]:
        """x [runs, c, f', h', w'] at level i -> the exact (x0_hat, eps_hat) for N(mean,
        spread^2).
        """
        level, variance = self._levels[i], self._drift.spread**2
        gain = variance * level.a / (level.a**2 * variance + level.b**2)
        x0_hat = condition.mean + gain * (x - level.a * condition.mean)
        return x0_hat, (x - level.a * x0_hat) / level.b

    def features(self, latents: Tensor) -> Tensor:
        """The strongest still channels of every cell and of its neighbours, as for every
        network.
        """
        return notation.patch_features(latents[self._compared])


def drifted(frames: Tensor, drift: Drift) -> Tensor:
    """Frames [f, 3, h, w] moved and tinted, nothing at the first, all of it at the last."""
    count, _, h, w = frames.shape
    share = torch.linspace(0.0, 1.0, count)
    if drift.drift_px:
        y, x = torch.meshgrid(
            (torch.arange(h) + 0.5) / h * 2 - 1, (torch.arange(w) + 0.5) / w * 2 - 1, indexing="ij"
        )
        # mostly one slip of the camera, bent a little over the picture
        along = 0.8 + 0.2 * torch.cos(2.0 * x) * torch.cos(1.5 * y)
        down = 0.6 * torch.sin(1.2 * x + 0.7)
        step = torch.stack([along * 2.0 / w, down * 2.0 / h], dim=-1) * drift.drift_px
        grid = torch.stack([x, y], dim=-1) + share[:, None, None, None] * step
        frames = F.grid_sample(
            frames, grid, mode="bicubic", padding_mode="border", align_corners=False
        )
    tint = torch.tensor([drift.cast, 0.0, -drift.cast])[:, None, None]
    return (frames + share[:, None, None, None] * tint).clamp(0.0, 1.0)


class Leakage(NamedTuple):
    """How far a code spreads, measured on the code itself."""

    distance_px: list[int]
    out: list[float]  # of a cell's energy when decoded: share that falls beyond this distance of it
    into: list[float]  # change of a picture's decoded edge pixel by pixels beyond this distance


def leakage(coder: Coder, height: int, width: int) -> Leakage:
    """Of one frame: what a pixel of the decoded picture owes to pixels farther away than 0, 4, 8,
    16, 24.

    `into` is the root mean square change of a pixel when everything beyond that distance, on one
    side, turns from grey to random pictures of spread 1; `out` the share of a random cell's energy
    outside.
    """
    draw = torch.Generator().manual_seed(0)
    distances = [0, 4, 8, 16, 24]
    edge = CELL * (width // CELL // 2)
    into, out = [], []
    base = torch.full((1, 3, height, width), 0.5)
    noise = torch.randn(base.shape, generator=draw)
    noise = F.avg_pool2d(noise, 5, 1, 2) * 5.0
    cell = coder.encode(base)
    cell[:, 0, height // CELL // 2, width // CELL // 2] += torch.randn(
        cell.shape[0], generator=draw
    )
    spread = (coder.decode(cell) - base)[0].square().sum(dim=0)
    top, left = CELL * (height // CELL // 2), edge
    for d in distances:
        there = base.clone()
        there[..., edge + d :] += noise[..., edge + d :]
        change = (coder.decode(coder.encode(there)) - base)[..., edge - 1]
        into.append(float(change.square().mean().sqrt()) / float(noise.std()))
        inside = spread[top - d : top + CELL + d, left - d : left + CELL + d].sum()
        out.append(1.0 - float(inside / spread.sum()))
    return Leakage(distances, out, into)
