"""Steps of equal size in all directions of a weight matrix.

After Jordan and others, "Muon" (2024): momentum is brought to the nearest matrix with orthonormal
rows by a short polynomial iteration, so that rare directions of the gradient are learned as fast as
common ones. Where each sample is dear, as on a CPU, a network learns more from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MOMENTUM = 0.95
_RMS = 0.2  # of an update's entries over the rate, about that of Adam


def orthonormal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix [a, b] with orthonormal rows (or columns), up to some ten per cent."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """For weights of two and more dimensions; those of more are read as [outputs, the rest]."""

    def __init__(self, weights: list[Tensor], rate: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - _MOMENTUM)
                ahead = weight.grad.lerp(momentum, _MOMENTUM)
                flat = ahead.reshape(len(weight), -1)
                size = _RMS * max(flat.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthonormal(flat).reshape(weight.shape), alpha=-group["lr"] * size)
