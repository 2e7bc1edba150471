"""Does a scene stay itself? Measures of the enhanced frames that compare them with each other or
with the cameras.

Revisit      a path out and back: both visits to a place, what the input saw and what was invented
apart
refit_gap    Gaussians refitted to the even frames, judged on the odd ones
find_camera  the camera that a frame shows, found by moving a camera until our render looks like it
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.refine import Frames, refine
from ..rasterize import rasterize
from ..scene.gaussians import Gaussians
from ..scene.pixels import focal_px
from ..scene.psnr import decibels, psnr

_ITERATIONS = ((4, 6), (2, 4), (1, 8))  # (pixels averaged into one, Gauss-Newton steps)
_STEP_PX = 0.5  # of the finite differences
_OUTLIER = 0.08  # differences of colour beyond this count less
_DAMPING = 1e-3


class Revisit:
    """PSNR in dB between the two visits of a path that goes out and comes back, added up pair by
    pair.
    """

    def __init__(self) -> None:
        self._error = {True: 0.0, False: 0.0}
        self._pixels = {True: 0, False: 0}

    def add(self, first: Tensor, second: Tensor, seen: Tensor) -> None:
        """Both frames [3, h, w] of one camera; seen [h, w] bool: what the input picture saw."""
        error = (first - second).square().mean(dim=0)
        for kind, where in ((True, seen), (False, ~seen)):
            self._error[kind] += float(error[where].sum())
            self._pixels[kind] += int(where.sum())

    def psnr(self, *, seen: bool) -> float:
        """NaN where no pixel is of the kind."""
        if not self._pixels[seen]:
            return math.nan
        return decibels(self._error[seen] / self._pixels[seen])


class Refit(NamedTuple):
    """PSNR in dB of refitted Gaussians: means over the frames they were fitted to, and over the
    others.
    """

    even: float
    odd: float


def refit_gap(
    scene: Gaussians,
    frames: Frames,  # f of [3, h, w]
    K: Tensor,  # [f, 3, 3]
    camera_from_world: Tensor,  # [f, 4, 4]
    *,
    steps: int,
) -> Refit:
    """Forget the scene's colours, fit them and all else to the even frames, and judge on even and
    odd ones.

    Frames that agree on one scene give equal numbers; where each shows its own, the odd ones lose.
    Positions start from the scene that all frames made, so the gap is a lower bound.
    """
    grey = scene._replace(
        sh_dc=torch.zeros_like(scene.sh_dc), sh_rest=torch.zeros_like(scene.sh_rest)
    )
    even = torch.stack([frames[i] for i in range(0, len(frames), 2)])
    fitted = refine(grey, even, K[::2], camera_from_world[::2], steps=steps).gaussians
    h, w = even.shape[2:]

    def judged(first: int) -> float:
        values = []
        for i in range(first, len(frames), 2):
            one = slice(i, i + 1)
            with torch.no_grad():
                drawn = rasterize(fitted, K[one], camera_from_world[one], w, h).rgb[0]
            values.append(psnr(drawn.permute(2, 0, 1), frames[i]))
        return sum(values) / len(values) if values else math.nan

    return Refit(judged(0), judged(1))


class Found(NamedTuple):
    """The camera that a frame shows, against the one that was asked for."""

    camera_from_world: Tensor  # [4, 4]
    rotation_deg: float
    translation_m: float  # distance of the camera centres
    shift_px: float  # median over the compared pixels of how far their surface moves in the picture


def find_camera(
    scene: Gaussians, frame: Tensor, K: Tensor, camera_from_world: Tensor, where: Tensor
) -> Found:
    """Move the camera until the scene looks like the frame where `where` holds.

    frame [3, h, w] display values, K [3, 3], camera_from_world [4, 4] the camera asked for, where
    [h, w] bool: pixels whose surface the scene is sure of. Gauss-Newton on the colours, coarse
    pictures first, with slopes by finite differences of our own renders.
    """
    h, w = frame.shape[1:]

    def view(camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            drawn = rasterize(scene, K[None], camera[None].float(), w, h)
        alpha = drawn.alpha[0, ..., 0]
        rgb = drawn.rgb[0] / alpha[..., None].clamp(min=0.05)
        return rgb.permute(2, 0, 1), drawn.depth[0, ..., 0], alpha

    _, depth, alpha = view(camera_from_world)
    sure = where & (alpha > 0.9) & (depth > 0) & torch.isfinite(depth)
    focal = float(focal_px(K))
    if not bool(sure.any()):
        return Found(camera_from_world, math.nan, math.nan, math.nan)
    near = float(depth[sure].median())
    step = torch.tensor([_STEP_PX / focal] * 3 + [_STEP_PX * near / focal] * 3, dtype=torch.float64)
    asked = camera_from_world.double()
    camera = asked
    for averaged, iterations in _ITERATIONS:
        weight = F.avg_pool2d(sure[None, None].float(), averaged)[0, 0]

        def small(picture: Tensor, averaged: int = averaged) -> Tensor:
            return F.avg_pool2d(picture[None], averaged)[0]

        target = small(frame)
        for _ in range(iterations):
            now = small(view(camera)[0])
            slopes = torch.stack(
                [
                    (small(view(_moved(camera, step * unit))[0]) - now).flatten()
                    for unit in torch.eye(6, dtype=torch.float64)
                ]
            ).double()
            rest = (target - now).flatten().double()
            trust = weight.expand_as(now).flatten() / rest.abs().clamp(min=_OUTLIER)
            trust = torch.where(weight.expand_as(now).flatten() > 0.99, trust, 0.0)
            normal = (slopes * trust) @ slopes.T
            normal += _DAMPING * torch.diag(normal.diagonal()) + 1e-9 * torch.eye(6)
            change = torch.linalg.solve(normal, (slopes * trust) @ rest)
            camera = _moved(camera, step * change.clamp(-6.0, 6.0))
    return _compared(asked, camera, K.double(), depth.double(), sure)


def _moved(camera_from_world: Tensor, twist: Tensor) -> Tensor:
    """The camera after a small turn (radians) and step (metres) in its own axes."""
    x, y, z = (float(v) for v in twist[:3])
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3] = torch.linalg.matrix_exp(cross)
    move[:3, 3] = twist[3:]
    return move @ camera_from_world.double()


def _compared(asked: Tensor, found: Tensor, K: Tensor, depth: Tensor, where: Tensor) -> Found:
    between = found @ torch.linalg.inv(asked)
    cosine = ((between[:3, :3].trace() - 1.0) / 2.0).clamp(-1.0, 1.0)
    centres = [-(camera[:3, :3].T @ camera[:3, 3]) for camera in (asked, found)]
    row, column = torch.nonzero(where, as_tuple=True)
    pixels = torch.stack([column + 0.5, row + 0.5, torch.ones(len(row))], dim=1).double()
    points = pixels @ torch.linalg.inv(K).T * depth[row, column, None]
    there = (points @ between[:3, :3].T + between[:3, 3]) @ K.T
    shift = (there[:, :2] / there[:, 2:] - pixels[:, :2]).norm(dim=1)
    return Found(
        found.float(),
        math.degrees(math.acos(float(cosine))),
        float((centres[0] - centres[1]).norm()),
        float(shift.median()),
    )
