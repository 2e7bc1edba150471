"""The interface of a video prior: a denoising network with its notation, not a pipeline.

The engine owns the step, the momentum blend, the noise and the two runs (`sampler.py`).
A prior says which noise levels it knows, how frames become latents, what it can be
conditioned on, and what it predicts. Latents are [channels, frames, height, width].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..bridge.errors import UserError


class Level(NamedTuple):
    """One noise level: x = a * x0 + b * eps."""

    network_time: float  # what the network is told of the level, in its own unit
    a: float
    b: float


@dataclass(frozen=True)
class PriorSpec:
    """What the engine must know of a prior before it runs it."""

    name: str
    frames: Callable[[int], int]  # the smallest clip length the prior accepts that holds n frames
    size_multiple: int  # width and height must divide by this
    native_size: tuple[int, int] | None  # (height, width) it was trained at; None: any
    t_factor: int  # pixel frames per latent frame, after the first
    s_factor: int  # pixels per latent cell, per axis
    channels: int
    steps: int  # denoising steps where the user says none
    sees: frozenset[str]  # of {"render", "mask", "camera", "image", "text"}
    licence: str  # SPDX id or the model's own licence name
    commercial_use: bool
    # the network sees no render, so that sampling starts from the noised one, not from noise
    starts_from_render: bool = False
    # a student that was taught to guess the clean clip: every step noises its guess anew
    renoises: bool = False


def frames_in_steps(name: str, factor: int, most: int, tail: int = 0) -> Callable[[int], int]:
    """The rule of a model that makes factor * k + 1 frames: n -> the next such number that has room
    for the last frame `tail` times more; above `most` n a UserError.
    """

    def rule(n: int) -> int:
        if n > most:
            raise UserError(
                f"{name} makes at most {most} frames at a time, not {n}.",
                f"Set segment_length to {most} or less.",
            )
        return -(-(n + tail - 1) // factor) * factor + 1

    return rule


def frames_all(name: str, frames: int) -> Callable[[int], int]:
    """The rule of a model that always makes `frames` frames: n -> frames; above it a UserError."""

    def rule(n: int) -> int:
        if n > frames:
            raise UserError(
                f"{name} makes {frames} frames at a time, not {n}.",
                f"Set segment_length to {frames} or less.",
            )
        return frames

    return rule


@dataclass(frozen=True)
class Clip:
    """What a prior may look at: all in [0, 1], display-referred.

    `known` is 1 where the render shows the scene and 0 where nothing was seen there. What the
    render has there all the same (Gaussians too large to be believed) is for priors that repair
    renders; others take `seen`.
    """

    image: Tensor  # [3, h, w] the user's picture at working size
    render: Tensor  # [f, 3, h, w]
    known: Tensor  # [f, 1, h, w]
    depth: Tensor  # [f, 1, h, w] metres, 0 where nothing was hit
    K: Tensor  # [f, 3, 3] pixels
    world_from_camera: Tensor  # [f, 4, 4]
    prompt: str

    @property
    def seen(self) -> Tensor:
        """The render, black where nothing is known: [f, 3, h, w]."""
        return self.render * (self.known > 0)

    @property
    def first(self) -> Tensor:
        """The first frame of `seen`: [1, 3, h, w]."""
        return self.render[:1] * (self.known[:1] > 0)

    def to(self, device: torch.device) -> Clip:
        """The same clip with its tensors on another device."""
        return self.map(lambda t: t.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Clip:
        """The same clip with every tensor changed."""
        return replace(
            self,
            **{
                name: change(value)
                for name, value in vars(self).items()
                if isinstance(value, Tensor)
            },
        )


class VideoPrior(Protocol):
    spec: PriorSpec

    def levels(self, steps: int) -> list[Level]:
        """From pure noise to clean, `steps + 1` entries."""

    def encode(self, frames: Tensor) -> Tensor:
        """[f, 3, h, w] in [0, 1] -> latents [c, f', h', w'] in the model's scale."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [c, f', h', w'] -> frames [f, 3, h, w] in [0, 1]."""

    def condition(self, clip: Clip) -> Any:
        """Everything the network needs of the clip, once. Ignores what it cannot see."""

    def predict(self, x: Tensor, i: int, condition: Any) -> tuple[Tensor, Tensor]:
        """x [runs, c, f', h', w'] at level i -> (x0_hat, eps_hat), guidance inside."""

    def z_scale(self, i: int) -> float:
        """Scale of clean latents at level i (ViewCrafter's dynamic rescale; 1 elsewhere)."""

    def features(self, latents: Tensor) -> Tensor:
        """Latents [c, f', h', w'] -> similarity features [d, f', h'', w''] for Eq. (10)."""

    def generator(self, seed: int) -> torch.Generator:
        """The generator of the noise, on the prior's device."""
