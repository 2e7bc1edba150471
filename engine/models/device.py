"""Where to compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..bridge.errors import UserError
from . import nvidia, price


def choose(wish: str) -> torch.device:
    """The device of the setting `device`: "cuda" where there is one and "auto" or "cuda" is asked
    for, else "cpu".

    Raises UserError for "cuda" on a machine without one.
    """
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "No CUDA device can be used.", "Run `python -m engine doctor`, or use --device auto."
        )
    return torch.device("cuda")


def card() -> nvidia.Card | None:
    """The card that "cuda" is; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return nvidia.Card(torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0))


def tera(device: str) -> float | None:
    """1e12 operations a second that are reckoned of a device; None for the CPU."""
    found = card() if device.startswith("cuda") else None
    return None if found is None else price.rate(found)


@contextmanager
def networks_at_work() -> Iterator[None]:
    """Products of float32 matrices on a GPU in TF32: ten bits of mantissa do for networks, not for
    geometry, and are several times as fast. Nothing changes on the CPU.
    """
    before = torch.get_float32_matmul_precision()
    if torch.cuda.is_initialized():
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
