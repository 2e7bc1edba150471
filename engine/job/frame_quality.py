"""Numbers that say how good frames are. Images are [..., 3, h, w] in [0, 1], display-referred."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scene.pixels import pixel_centres
from ..scene.psnr import decibels, psnr

# how far from a hole the known pixels tell what detail to expect in it, as a share of the longer
# side
_AROUND = 0.1
_SAME_DEPTH = 1.05  # two frames see the same surface where their depths agree to this factor


def gradient_energy(frames: Tensor) -> Tensor:
    """Compute the mean squared forward difference of each pixel, [..., 3, h, w] -> [..., h, w]."""
    energy = torch.zeros_like(frames[..., 0, :, :])
    energy[..., :, :-1] += (frames[..., :, 1:] - frames[..., :, :-1]).square().mean(dim=-3)
    energy[..., :-1, :] += (frames[..., 1:, :] - frames[..., :-1, :]).square().mean(dim=-3)
    return energy


def gradient_ratio(frames: Tensor, unknown: Tensor) -> float | None:
    """Compare the detail of the invented pixels with that of the known ones around them; None where
    either is missing.

    frames [f, 3, h, w], unknown [f, h, w] bool. Near 0: the unseen stayed blank or blurry. Around:
    within _AROUND of the longer side, for a sky that goes on as sky owes nothing to a house
    elsewhere.
    """
    energy, reach = gradient_energy(frames), max(2, round(_AROUND * max(frames.shape[2:])))
    near = F.max_pool2d(unknown[:, None].float(), (1, 2 * reach + 1), stride=1, padding=(0, reach))
    near = F.max_pool2d(near, (2 * reach + 1, 1), stride=1, padding=(reach, 0))[:, 0] > 0
    around = near & ~unknown
    if not bool(unknown.any()) or not bool(around.any()):
        return None
    return float(energy[unknown].mean() / energy[around].mean().clamp(min=1e-12))


def drift_psnr(frames: Tensor, renders: Tensor, known: Tensor) -> float | None:
    """Compute the PSNR in dB of enhanced frames against the renders, where the scene is known."""
    value = psnr(frames, renders, known)
    return None if math.isnan(value) else value


def seam_ratio(before: Tensor, after: Tensor) -> float | None:
    """Compare the change of the shared frames from one segment to the next with the change between
    neighbouring frames.

    before [n, 3, h, w] the shared frames as the earlier segment left them, after [f, 3, h, w] with
    f >= n. About 1 or below: the boundary is not visible. None without shared frames.
    """
    n = before.shape[0]
    if n == 0 or after.shape[0] < 2:
        return None
    ordinary = (after[1:] - after[:-1]).abs().mean().clamp(min=1e-4)
    return float((after[:n] - before).abs().mean() / ordinary)


class Agreement:
    """Measures how well neighbouring frames agree. It is given one frame after another and holds
    two of them, however long the path is.

    Each frame is warped into the next by the scene's depth and compared where both see the same
    surface.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._error, self._shared, self._pixels = 0.0, 0, 0

    def add(self, frame: Tensor, depth: Tensor, K: Tensor, camera_from_world: Tensor) -> None:
        """Take the next frame [3, h, w], its depth [h, w] in metres (0 or infinite: none), K [3, 3]
        and camera [4, 4].
        """
        last, self._last = self._last, (frame, depth, K, camera_from_world)
        if last is None:
            return
        warped, both = warp(
            last[0],
            last[1],
            depth,
            torch.stack([last[2], K]),
            torch.stack([last[3], camera_from_world]),
        )
        self._error += float((warped - frame).square().mean(dim=0)[both].sum())
        self._shared, self._pixels = self._shared + int(both.sum()), self._pixels + both.numel()

    @property
    def psnr(self) -> float:
        """PSNR in dB over all pixels that two neighbours see; NaN where no two see the same
        surface.
        """
        if self._shared == 0:
            return math.nan
        return decibels(self._error / self._shared)

    @property
    def share(self) -> float:
        """Share of the pixels that two neighbours see."""
        return self._shared / self._pixels if self._pixels else 0.0


def warp(
    frame: Tensor, depth: Tensor, next_depth: Tensor, K: Tensor, camera_from_world: Tensor
) -> tuple[Tensor, Tensor]:
    """Look a frame up from the pixels of the next one: (picture [3, h, w], where both see the same
    surface [h, w]).
    """
    h, w = depth.shape
    x, y = pixel_centres(h, w)
    pixels = torch.stack([x, y, torch.ones_like(x)]).to(frame).flatten(1)
    have = torch.isfinite(next_depth) & (next_depth > 0)
    points = (torch.linalg.inv(K[1]) @ pixels) * torch.where(have, next_depth, 1.0).flatten()
    first_from_next = camera_from_world[0].double() @ torch.linalg.inv(
        camera_from_world[1].double()
    )
    local = first_from_next[:3, :3].to(points) @ points + first_from_next[:3, 3:].to(points)
    z = local[2].clamp(min=1e-6)
    uv = (K[0] @ (local / z))[:2].reshape(2, h, w)
    grid = torch.stack([2.0 * uv[0] / w - 1.0, 2.0 * uv[1] / h - 1.0], dim=-1)[None]
    look = torch.where(torch.isfinite(depth), depth, 0.0)[None, None]
    there = F.grid_sample(look, grid, mode="nearest", align_corners=False)[0, 0]
    picture = F.grid_sample(
        frame[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    ratio = there / z.reshape(h, w)
    inside = (grid[0].abs() <= 1.0).all(dim=-1) & (local[2].reshape(h, w) > 1e-6)
    return picture, have & inside & (ratio < _SAME_DEPTH) & (ratio > 1.0 / _SAME_DEPTH)
