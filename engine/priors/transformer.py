"""The transformer of a video model: read, a LoRA added, its memory counted, put where the device
has room.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..models import model_folder
from ..models.memory import Demand, Residence, Rung
from . import lora

log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=nn.Module)


def dtype_on(device: str) -> torch.dtype:
    """The kind of the weights at work on a device."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def load(folder: Path, kind: type[_M], dtype: torch.dtype, loras: Sequence[Path] = ()) -> _M:
    """The transformer of a diffusers folder, on the CPU, with LoRAs (.safetensors) added. Raises
    UserError.
    """
    network = model_folder.part(folder, "transformer", kind, dtype)
    for file in loras:
        log.info("%s: %d layers changed", file.name, lora.fuse(network, file))
    return network


def channels(network: Any) -> int:
    """Width of a token inside the network."""
    return network.config.num_attention_heads * network.config.attention_head_dim


def demand(
    network: Any,
    companions: int,
    *,
    token_bytes: int,
    coding: dict[str, Any],
    width: int = 0,
) -> Demand:
    """Memory at a working size: `token_bytes` of all tokens of a clip in one branch, `companions`
    in bytes, `coding` of `memory.clip_bytes`. `width` 0: no other one works.
    """
    return Demand(
        denoiser=model_folder.in_16_bits(network),
        layer=model_folder.largest_layer(network),
        companions=companions,
        branch=token_bytes,
        **coding,
        can_store_8bit=True,
        width=width,
        multiple=32,
    )


def settle(
    device: str,
    demand: Demand,
    network: nn.Module,
    companions: list[nn.Module],
    dtype: torch.dtype,
    guidance: float,
    rung: Rung | None = None,
) -> Residence:
    """Fit the networks into memory; weights go to 8 bits here if the rung says so. Without guidance
    a step has half the branches.
    """
    if guidance == 1.0:
        demand = replace(demand, branches=demand.branches // 2)
    residence = Residence(device, demand, network, companions, rung)
    if residence.rung.store_8bit:
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)  # type: ignore[operator]
    return residence
