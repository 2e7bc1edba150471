"""Tries a backend before a job trusts it: a few Gaussians and their gradients, beside the CPU's.

A driver too old for the kernels, a cache that cannot be written, a compiler that another program
stops: all that shows when the first kernel runs, not when the library is loaded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..scene.gaussians import Gaussians

_SIZE = 24, 16  # px
_COUNT = 8
# what differs by more is another picture; a Gaussian of 1/255 in or out by rounding differs by less
_MOST = 0.02


def why_wrong(draw: Callable, device: str) -> str:
    """In words what goes wrong when a backend's `draw` draws on a device, "" if nothing does."""
    from . import _draw_cpu

    try:
        found = [t.cpu() for t in _picture_and_gradients(draw, device)]
    except Exception as error:  # Warp raises plain ones where it cannot compile
        lines = str(error).strip().splitlines()
        return f"does not run: {lines[0] if lines else type(error).__name__}"
    for mine, expected in zip(found, _picture_and_gradients(_draw_cpu, "cpu"), strict=True):
        most = _MOST * max(1.0, float(expected.abs().max()))
        if not bool(((mine - expected).abs() <= most).all()):
            return "draws another picture than the CPU"
    return ""


@torch.enable_grad()  # whoever asks may be drawing without gradients
def _picture_and_gradients(draw: Callable, device: str) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    width, height = _SIZE
    scene = Gaussians(
        some(_COUNT, 3) * 0.4 + torch.tensor([0.0, 0.0, 3.0]),
        some(_COUNT, 4),
        some(_COUNT, 3) * 0.3 - 1.2,
        some(_COUNT) + 1.0,
        some(_COUNT, 3),
        some(_COUNT, 3, 3) * 0.2,
    ).map(lambda t: t.to(device).requires_grad_())
    K = torch.tensor([[[20.0, 0.0, width / 2], [0.0, 20.0, height / 2], [0.0, 0.0, 1.0]]])
    options = (width, height, 1, 0.01, False, False, False)
    rgb, alpha, *_ = draw(scene, K, torch.eye(4)[None], None, None, options)
    (rgb.square().sum() + alpha.sum()).backward()
    return [rgb.detach(), alpha.detach(), *(t.grad for t in scene if t.grad is not None)]
