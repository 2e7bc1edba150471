"""Fits a video prior into the memory there is: a ladder from the fastest arrangement to the
leanest.

The rung is chosen from the free memory before the work starts, is told to the user, and is
left for the next lower one, twice if need be, if the device runs out of memory all the same.
Results do not depend on the rung but for rounding, and for what tiles of a picture do not know of
each other; 8-bit storage of the weights is the exception and says so.

The figures of each prior are the highest sums of tensors on a pretended device
(tests/pretended_cuda), to which MARGIN and CONTEXT are added. On an H100 three priors stayed below
(benchmarks/RESULTS.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from ..bridge.errors import UserError
from . import machine

log = logging.getLogger(__name__)
_T = TypeVar("_T")

GIB = 2**30
MARGIN = 1.15  # of what torch's tensors take at most: what its allocator cannot use again
CONTEXT = int(0.6 * GIB)  # workspaces of the libraries, what the driver rounds up
OTHERS = 0.04  # share of the free memory left to Blender and the desktop
_LAYERS_AT_ONCE = 3  # while they are streamed: one at work, one on its way, one not yet given back
HELD_BYTES = 60  # a pixel of a frame: the segment's renders, masks and depth, and Gaussians for it
STEPS_DOWN = 2  # of a job


@dataclass(frozen=True)
class Demand:
    """What a prior needs at the working size, in bytes: the highest sums of tensors, without
    margins.
    """

    denoiser: int  # weights of the denoising network in 16 bits
    companions: int  # weights of the encoders, the decoder and the like
    branch: int  # working memory of one branch: one run on one side of the guidance
    code: int  # working memory of encoders and decoder, whichever is more, untiled
    code_tiled: int  # the same in tiles
    layer: int  # weights of the denoiser's largest layer in 16 bits
    held: int = 0  # what the segment keeps on the device beside the prior
    branches: int = 4  # branches of one step: two runs, guided
    can_tile: bool = True  # encoder or decoder know tiles
    can_store_8bit: bool = False
    width: int = 0  # of a frame; 0: the prior works at no other size
    multiple: int = 1  # which widths must divide by

    def at(self, width: int) -> Demand:
        """The same prior at another width: work and frames go with the number of pixels."""
        share = (width / self.width) ** 2
        work: dict[str, Any] = {
            name: int(getattr(self, name) * share)
            for name in ("branch", "code", "code_tiled", "held")
        }
        return replace(self, width=width, **work)


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
    """Peak bytes on the device, margins included."""
    weights = demand.denoiser / 2 if rung.store_8bit else demand.denoiser
    if rung.offload == "layers":
        weights = min(weights, _LAYERS_AT_ONCE * demand.layer)
    denoising = rung.branches * demand.branch
    coding = demand.code_tiled if rung.tiling else demand.code
    if rung.offload == "none":
        peak = weights + demand.companions + max(denoising, coding)
    else:
        peak = max(weights + denoising, demand.companions + coding)
    return int(MARGIN * peak) + CONTEXT + demand.held


def clip_bytes(
    frames: int, height: int, width: int, clip: int, pixel: int, tile: int
) -> dict[str, Any]:
    """`Demand`'s figures of coding a clip: `clip` bytes a pixel of all frames, `pixel` bytes a
    pixel of a frame at work, `tile` bytes of a tile.
    """
    area = height * width
    whole = clip * frames * area
    return {
        "code": whole + pixel * area,
        "code_tiled": whole + min(tile, pixel * area),
        "held": HELD_BYTES * frames * area,
    }


def ladder(demand: Demand) -> list[Rung]:
    """Every arrangement for this demand, fastest first, each leaner than the one before."""
    tile = demand.can_tile
    counts = sorted({demand.branches, min(2, demand.branches), 1}, reverse=True)
    rungs = [
        Rung(n, offload, tiling)
        for n in counts
        for offload in ("none", "parts")
        for tiling in (False, True)[: 1 + tile]
    ]
    if demand.can_store_8bit:
        rungs.append(Rung(1, "parts", tile, True))
    rungs += [Rung(n, "layers", tile) for n in counts]
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
        if rung.estimate <= free_bytes * (1.0 - OTHERS):
            return rung
    need = rungs[-1].estimate / (1.0 - OTHERS) / GIB
    raise UserError(
        f"Too little GPU memory: {free_bytes / GIB:.1f} GiB free, at least {need:.1f} GiB needed "
        "at this size.",
        f"{_cheaper(free_bytes, demand)} Or close other programs that use the GPU, take a smaller "
        "prior, or set the device to cpu.",
    )


def _cheaper(free_bytes: int, demand: Demand) -> str:
    """The largest width that fits, as a sentence."""
    width = demand.width
    while width > demand.width // 4:
        width = (width - 1) // demand.multiple * demand.multiple
        if width <= 0:
            break
        least = ladder(demand.at(width))[-1].estimate
        if least <= free_bytes * (1.0 - OTHERS):
            return f"Set width to {width}: {least / (1.0 - OTHERS) / GIB:.1f} GiB will do."
    return "No smaller width fits either." if demand.width else "It works at this size alone."


def free_bytes(device: str) -> int | None:
    """Free memory of a CUDA device, None for the CPU."""
    if not device.startswith("cuda"):
        return None
    torch.cuda.empty_cache()  # what earlier stages have given back counts as free
    return torch.cuda.mem_get_info(torch.device(device))[0]


def cap(device: str) -> None:
    """Let this process have what is free now, less a share for others, and no more.

    On Windows the driver gives main memory where the card's runs out, at a fiftieth of its speed,
    and Blender's own goes first. With a cap torch says that memory is out, and the prior steps
    down.
    """
    free = free_bytes(device)
    if free is None:
        return
    place = torch.device(device)
    total = torch.cuda.mem_get_info(place)[1]
    ours = torch.cuda.memory_reserved(place) + free * (1.0 - OTHERS)
    # it takes no device without a number: None is the current one
    torch.cuda.set_per_process_memory_fraction(min(1.0, ours / total), place.index)


def described(prior: object) -> dict[str, str]:
    """A line for the report and the screen: how a prior was fitted into the GPU's memory. Empty on
    the CPU.
    """
    home = getattr(prior, "residence", None)
    if home is None or home.device.type == "cpu":
        return {}
    return {"memory of the prior": home.rung.text()}


def rest(prior: object) -> None:
    """Between the stages of a job: give back what the prior does not need until its next turn."""
    home = getattr(prior, "residence", None)
    if home is not None:
        home.rest()
    elif torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Residence:
    """Keeps the networks of one prior where its rung says, and steps down, twice at most, when
    memory runs out.
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
        self.demand = demand
        self._rungs = ladder(demand)
        cap(device)
        free = free_bytes(device)
        # On the CPU there is nothing to move; one branch at a time keeps the peak low and costs no
        # time.
        self.rung = rung or (Rung(1, "none") if free is None else plan(free, demand))
        self._denoiser, self._companions = denoiser, companions
        self._steps_left = STEPS_DOWN
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

    def rest(self) -> None:
        """Between the prior's turns: give back what is not needed, so that others find it free."""
        if self.rung.offload != "none":
            self._place(self._companions, away=True)
        if self.rung.offload == "parts":
            self._place([self._denoiser], away=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def run(self, work: Callable[[Rung], _T]) -> _T:
        """work(rung); while the device runs out of memory, on the next rung, and UserError after
        that.
        """
        while True:
            try:
                return work(self.rung)
            except torch.OutOfMemoryError as error:
                shortage = str(error).splitlines()[0]
            self._step_down(shortage)

    def _step_down(self, shortage: str) -> None:
        leaner = [rung for rung in self._rungs if rung.estimate < self.rung.estimate]
        if self._steps_left == 0 or not leaner:
            raise _out_of_memory(shortage)
        self._steps_left -= 1
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
            low_cpu_mem_usage=cuda and not can_be_pinned(self._denoiser, machine.memory_bytes()[0]),
        )
        self._streamed = True


def can_be_pinned(network: nn.Module, main_memory: int) -> bool:
    """Whether all weights of a network may stay in pinned memory, from which they are copied to the
    device fastest, on a machine with this many bytes of main memory (0: unknown). Others are pinned
    one after another, each time they are copied.

    torch rounds each tensor up to a power of two there, and Windows pins half of the main memory
    at most.
    """
    tensors = (*network.parameters(), *network.buffers())
    pinned = sum(1 << max(t.numel() * t.element_size() - 1, 0).bit_length() for t in tensors)
    return 2 * pinned <= main_memory


def _out_of_memory(shortage: str) -> UserError:
    return UserError(
        f"The GPU ran out of memory ({shortage}).",
        "Lower the width or the segment length, or take a smaller prior.",
    )
