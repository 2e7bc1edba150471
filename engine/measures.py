"""Numbers that say how good frames are. Images are [..., 3, h, w] in [0, 1], display-referred."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PERFECT_DB = 99.0  # what PSNR says of two equal images, so that means stay finite


def psnr(image: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all pixels, or over those `where` [..., h, w] is true."""
    error = (image.clamp(0.0, 1.0) - truth).square().mean(dim=-3)
    if where is not None:
        error = error[where]
    if error.numel() == 0:
        return math.nan
    return min(PERFECT_DB, -10.0 * math.log10(max(float(error.mean()), 1e-12)))


def gradient_energy(frames: Tensor) -> Tensor:
    """Mean squared forward difference per pixel, [..., 3, h, w] -> [..., h, w]."""
    energy = torch.zeros_like(frames[..., 0, :, :])
    energy[..., :, :-1] += (frames[..., :, 1:] - frames[..., :, :-1]).square().mean(dim=-3)
    energy[..., :-1, :] += (frames[..., 1:, :] - frames[..., :-1, :]).square().mean(dim=-3)
    return energy


def gradient_ratio(frames: Tensor, unknown: Tensor) -> float | None:
    """Detail of the invented pixels over detail of the known ones; None where either is missing.

    frames [f, 3, h, w], unknown [f, h, w] bool. Near 0: the unseen stayed blank or blurry.
    """
    energy = gradient_energy(frames)
    if not bool(unknown.any()) or bool(unknown.all()):
        return None
    return float(energy[unknown].mean() / energy[~unknown].mean().clamp(min=1e-12))


def drift_psnr(frames: Tensor, renders: Tensor, known: Tensor) -> float | None:
    """PSNR in dB of enhanced frames against the renders where the scene is known."""
    value = psnr(frames, renders, known)
    return None if math.isnan(value) else value


def seam_ratio(before: Tensor, after: Tensor) -> float | None:
    """Change of the shared frames from one segment to the next, relative to the change between neighbouring frames.

    before [n, 3, h, w] the shared frames as the earlier segment left them, after [f, 3, h, w] with
    f >= n. About 1 or below: the boundary is not visible. None without shared frames.
    """
    n = before.shape[0]
    if n == 0 or after.shape[0] < 2:
        return None
    ordinary = (after[1:] - after[:-1]).abs().mean().clamp(min=1e-4)
    return float((after[:n] - before).abs().mean() / ordinary)
