"""Fits a video prior into the memory there is: a ladder from the fastest arrangement to the
leanest.

The rung is chosen from the free memory before the work starts, is told to the user, and is
left for the next lower one if the device runs out of memory all the same. Results do not
depend on the rung but for rounding; 8-bit storage of the weights is the exception and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from ..bridge.errors import UserError

log = logging.getLogger(__name__)
_T = TypeVar("_T")

GIB = 2**30
_RESERVE = 0.08  # share of the free memory left to fragmentation and the desktop
_STREAMED = 0.15  # share of the weights on the device while layers are streamed
_TILED = 0.25  # share of the decoder's memory that tiles need


@dataclass(frozen=True)
class Demand:
    """What a prior needs at the working size, in bytes."""

    denoiser: int  # weights of the denoising network in 16 bits
    companions: int  # weights of the encoders, the decoder and the like in 16 bits
    branch: int  # working memory of one branch: one run on one side of the guidance
    decode: int  # working memory of the decoder, untiled
    branches: int = 4  # branches of one step: two runs, guided
    can_tile: bool = True  # the decoder knows tiles
    can_store_8bit: bool = False


@dataclass(frozen=True)
class Rung:
    """One arrangement."""

    branches: int  # branches in one network call
    # "none"; "parts": only the networks at work are on the device; "layers": the denoiser's layers
    # are streamed
    offload: str
    tiling: bool = False
    store_8bit: bool = False
    estimate: int = 0  # bytes

    def text(self) -> str:
        """One line for the user."""
        words = [f"{self.branches} branch{'es' if self.branches > 1 else ''} at a time"]
        if self.offload != "none":
            words.append(
                "idle networks in main memory"
                if self.offload == "parts"
                else "layers streamed from main memory (slow)"
            )
        if self.tiling:
            words.append("decoding in tiles")
        if self.store_8bit:
            words.append("weights in 8 bits")
        return f"{', '.join(words)}; about {self.estimate / GIB:.1f} GiB"


def estimate(rung: Rung, demand: Demand) -> int:
    """Peak bytes on the device."""
    weights = demand.denoiser / 2 if rung.store_8bit else demand.denoiser
    if rung.offload == "layers":
        weights *= _STREAMED
    denoising = weights + rung.branches * demand.branch
    decoding = demand.companions + demand.decode * (_TILED if rung.tiling else 1.0)
    if rung.offload == "none":
        return int(max(denoising + demand.companions, weights + decoding))
    return int(max(denoising, decoding))


def ladder(demand: Demand) -> list[Rung]:
    """Every arrangement for this demand, fastest first, each leaner than the one before."""
    tile = demand.can_tile
    counts = sorted({demand.branches, min(2, demand.branches), 1}, reverse=True)
    rungs = [Rung(n, offload) for n in counts for offload in ("none", "parts")]
    rungs.append(Rung(1, "parts", tile))
    if demand.can_store_8bit:
        rungs.append(Rung(1, "parts", tile, True))
    rungs.append(Rung(1, "layers", tile))
    result: list[Rung] = []
    for rung in rungs:
        rung = replace(rung, estimate=estimate(rung, demand))
        if not result or rung.estimate < result[-1].estimate:
            result.append(rung)
    return result


def plan(free_bytes: int, demand: Demand) -> Rung:
    """The fastest rung that fits into `free_bytes`. Raises UserError if none does."""
    rungs = ladder(demand)
    for rung in rungs:
        if rung.estimate <= free_bytes * (1.0 - _RESERVE):
            return rung
    need = rungs[-1].estimate / (1.0 - _RESERVE) / GIB
    raise UserError(
        f"Too little GPU memory: {free_bytes / GIB:.1f} GiB free, at least {need:.1f} GiB needed "
        "at this size.",
        "Close other programs that use the GPU, lower the width, take a smaller prior, or set "
        "the device to cpu.",
    )


def free_bytes(device: str) -> int | None:
    """Free memory of a CUDA device, None for the CPU."""
    if not device.startswith("cuda"):
        return None
    torch.cuda.empty_cache()  # what earlier stages have given back counts as free
    return torch.cuda.mem_get_info(torch.device(device))[0]


def described(prior: object) -> dict[str, str]:
    """A line for the report and the screen: how a prior was fitted into the GPU's memory. Empty on
    the CPU.
    """
    home = getattr(prior, "residence", None)
    if home is None or home.device.type == "cpu":
        return {}
    return {"memory of the prior": home.rung.text()}


class Residence:
    """Keeps the networks of one prior where its rung says, and steps down once when memory runs
    out.
    """

    def __init__(
        self,
        device: str,
        demand: Demand,
        denoiser: nn.Module,
        companions: list[nn.Module],
        rung: Rung | None = None,
    ) -> None:
        self.device = torch.device(device)
        self._rungs = ladder(demand)
        free = free_bytes(device)
        # On the CPU there is nothing to move; one branch at a time keeps the peak low and costs no
        # time.
        self.rung = rung or (Rung(1, "none") if free is None else plan(free, demand))
        self._denoiser, self._companions = denoiser, companions
        self._stepped_down = False
        self._streamed = False
        if self.device.type != "cpu":
            log.info("memory: %s", self.rung.text())

    def denoiser(self) -> None:
        """Get the denoising network ready on the device."""
        self._place(self._companions, away=self.rung.offload != "none")
        if self.rung.offload != "layers":
            self._place([self._denoiser], away=False)
        elif not self._streamed:
            self._stream()

    def companions(self) -> None:
        """Get encoders and decoder ready on the device."""
        if self.rung.offload == "parts":
            self._place([self._denoiser], away=True)
        self._place(self._companions, away=False)

    def run(self, work: Callable[[Rung], _T]) -> _T:
        """work(rung); if the device runs out of memory, once more on the next rung. Then
        UserError.
        """
        try:
            return work(self.rung)
        except torch.OutOfMemoryError as error:
            shortage = str(error).splitlines()[0]
        self._step_down(shortage)
        try:
            return work(self.rung)
        except torch.OutOfMemoryError as error:
            shortage = str(error).splitlines()[0]
        raise _out_of_memory(shortage)

    def _step_down(self, shortage: str) -> None:
        leaner = [rung for rung in self._rungs if rung.estimate < self.rung.estimate]
        if self._stepped_down or not leaner:
            raise _out_of_memory(shortage)
        self._stepped_down = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("out of memory with %s; now %s", self.rung.text(), leaner[0].text())
        # 8-bit storage must be set up before the weights are loaded, so it is no rung to fall to.
        self.rung = replace(leaner[0], store_8bit=self.rung.store_8bit)
        if self.rung.offload != "none":
            self._place([self._denoiser, *self._companions], away=True)

    def _place(self, modules: list[nn.Module], *, away: bool) -> None:
        for module in modules:
            module.to("cpu" if away else self.device)
        if away and self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _stream(self) -> None:
        from diffusers.hooks import apply_group_offloading

        self._denoiser.to("cpu")
        cuda = self.device.type == "cuda"
        apply_group_offloading(
            self._denoiser,
            self.device,
            torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=cuda,
        )
        self._streamed = True


def _out_of_memory(shortage: str) -> UserError:
    return UserError(
        f"The GPU ran out of memory ({shortage}).",
        "Lower the width or the segment length, or take a smaller prior.",
    )
