"""Where to compute."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..bridge.errors import UserError
from . import nvidia, price, torch_build

log = logging.getLogger(__name__)


def choose(wish: str) -> torch.device:
    """The device of the setting `device`: "cuda" where there is one that this torch has kernels for
    and "auto" or "cuda" is asked for, else "cpu".

    Raises UserError for "cuda" on a machine without one.
    """
    found = None if wish == "cpu" else _listed()
    why = "" if found is None else _why_not(found)
    if wish == "cpu" or (wish == "auto" and (found is None or why)):
        if why:
            log.warning("%s: the CPU computes; python -m engine doctor says what to do", why)
        return torch.device("cpu")
    if found is None or why:
        raise UserError(
            f"{why or 'No CUDA device can be used'}.",
            "Run `python -m engine doctor`, which says what to do, or use --device auto.",
        )
    return torch.device("cuda")


def card() -> nvidia.Card | None:
    """The card that "cuda" is; None where there is none that this torch can use."""
    found = _listed()
    return None if found is None or _why_not(found) else found


def _listed() -> nvidia.Card | None:
    if not torch.cuda.is_available():
        return None
    return nvidia.Card(torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0))


def _why_not(found: nvidia.Card) -> str:
    """Why torch cannot compute on a card that it sees."""
    if torch_build.has_kernels(torch.cuda.get_arch_list(), found.capability or (0, 0)):
        return ""
    return f"this PyTorch has no kernels for {found.text()}"


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
