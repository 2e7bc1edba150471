"""The interface of a depth source: a picture in, depth in metres out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation


DOUBTS = ("NOT TO BE TRUSTED", "CANNOT BE RIGHT")  # how a note begins that the verdict must repeat


class DepthEstimate(NamedTuple):
    """Depth of every pixel of a picture, and where it comes from."""

    depth_m: Tensor  # [h, w] along the camera's z, above 0; inf: sky, endlessly far
    K: Tensor | None  # [3, 3] pixels, if the source worked it out itself
    metric: bool  # whether metres are metres
    licence: str  # SPDX id or the model's own licence name
    name: str
    notes: tuple[str, ...] = ()  # what the report should say: holes that were filled, resampling
    guess: str = ""  # the sentence that the verdict repeats where the depth is no more than a guess


def normalised(image: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """[1, 3, h, w] in 0..1 -> (x - mean) / deviation by channel."""
    mean, deviation = (torch.tensor(v, device=image.device)[:, None, None] for v in statistics)
    return (image - mean) / deviation


class Reading(NamedTuple):
    """What a network says of a picture [3, h, w], before a camera is settled."""

    depth_for: Callable[
        [float | None], Tensor
    ]  # focal length in pixels (None: the model's own, or a guess) -> [h, w] metres
    fov_deg: float | None  # horizontal, if the model tells it
    sky: Tensor  # [h, w] bool


class DepthSource(Protocol):
    """Anything that can look at one picture."""

    name: str
    licence: str
    lens_is_a_guess: bool  # the picture's own EXIF knows better than `intrinsics`

    def intrinsics(self, image: Tensor) -> Tensor | None:
        """K [3, 3] that the source itself reads from the picture [3, h, w], or None if it
        cannot.
        """

    def estimate(self, image: Tensor, K_hint: Tensor | None) -> DepthEstimate:
        """Depth of image [3, h, w] in 0..1. K_hint [3, 3] is the camera to assume where it is
        known.

        Every value of the result is above 0, holes are filled. Raises UserError.
        """
