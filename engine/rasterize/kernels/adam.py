"""Adam (Kingma and Ba 2015) for CPU tensors on this package's threads.

torch's fused step is as fast per core, but wakes torch's OpenMP threads, which then spin beside
ours for a while after every step; on a busy or small machine that cost more than the whole step.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .compile import F32, kernel
from .threads import run_ranges

_SMALLEST = 1 << 15  # numbers a range should have


@kernel(
    "void(int64,int64,float32[::1],float32[::1],float32[::1],float32[::1],float32,float32,float32,float32,float32)"
)
def _step(start, stop, p, g, m, v, rate, beta1, beta2, eps, root):
    """p -= rate * m' / (sqrt(v') * root + eps); rate and root carry the corrections of the first
    steps.
    """
    for i in range(np.uint64(start), np.uint64(stop)):
        gi = g[i]
        mi = m[i] + (F32(1) - beta1) * (gi - m[i])
        vi = beta2 * v[i] + (F32(1) - beta2) * gi * gi
        m[i], v[i] = mi, vi
        p[i] -= rate * mi / (math.sqrt(vi) * root + eps)


class Adam:
    """torch.optim.Adam's groups, state and rule for float32 tensors on the CPU, with our own step.

    It is no torch.optim.Optimizer: making one imports torch's compiler, 2 CPU seconds and 75 MB a
    process for nothing. Only what refinement uses: no weight decay, no amsgrad.
    """

    def __init__(self, groups: list[dict], eps: float) -> None:
        self.param_groups = [{"betas": (0.9, 0.999), "eps": eps, **group} for group in groups]
        self.state: dict[torch.Tensor, dict] = {}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of every tensor that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    self._update(p, p.grad, group)

    def _update(self, p: torch.Tensor, grad: torch.Tensor, group: dict) -> None:
        state = self.state.setdefault(p, {})
        if not state:
            state.update(
                step=torch.tensor(0.0), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
            )
        state["step"] += 1
        (beta1, beta2), t = group["betas"], float(state["step"])
        arrays = [
            a.detach().view(-1).numpy()
            for a in (p, grad.contiguous(), state["exp_avg"], state["exp_avg_sq"])
        ]
        rate, root = group["lr"] / (1 - beta1**t), 1 / math.sqrt(1 - beta2**t)
        numbers = [F32(x) for x in (rate, beta1, beta2, group["eps"], root)]
        run_ranges(lambda a, b: _step(a, b, *arrays, *numbers), p.numel(), 4, _SMALLEST)
        torch.autograd.graph.increment_version(p)


Optimizer = Adam | torch.optim.Adam


def make_adam(groups: list[dict], eps: float) -> Optimizer:
    """Adam for parameter groups as torch.optim takes them: ours where all tensors are on the CPU,
    torch's fused one elsewhere.
    """
    if all(t.device.type == "cpu" for group in groups for t in group["params"]):
        return Adam(groups, eps)
    return torch.optim.Adam(groups, eps=eps, fused=True)
