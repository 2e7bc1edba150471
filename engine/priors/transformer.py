"""The transformer of a video model as the settings want it: a LoRA added, few bits, another attention kernel.

Every wish is either fulfilled or refused with a sentence; nothing falls back in silence.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import nn

from ..bridge.errors import UserError
from ..models import model_folder
from ..models.memory import GIB, Demand, Residence, Rung
from . import lora

if TYPE_CHECKING:
    from ..bridge.settings import SceneSettings

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=nn.Module)
_PACKAGES = {"flash": "flash-attn", "sage": "sageattention", "xformers": "xformers"}


class Wishes(NamedTuple):
    """What settings ask of a transformer beyond its weights."""

    lora: Path | None = None  # a .safetensors file
    gguf: Path | None = None  # the network itself, in few bits
    attention: str = "native"


NO_WISHES = Wishes()


def wishes(settings: SceneSettings, own_lora: Path | None = None) -> Wishes:
    """The wishes of the settings; `own_lora` is a variant's own. Raises UserError for files that are not there."""
    prior = settings.prior
    chosen = [
        Path(text).expanduser() if text.strip() else None for text in (prior.lora, prior.gguf)
    ]
    for name, path in zip(("lora", "gguf"), chosen, strict=True):
        if path is not None and not path.is_file():
            raise UserError(
                f"The file {path}, which {name} names, does not exist.",
                f"Check the name, or leave {name} empty.",
            )
    if own_lora is not None and chosen[0] is not None:
        raise UserError(
            f"{prior.prior} has a LoRA of its own.",
            "Leave lora empty, or take the prior without _fast.",
        )
    return Wishes(own_lora or chosen[0], chosen[1], prior.attention)


def refuse(
    name: str, asked: Wishes, *, lora: bool = False, gguf: bool = False, attention: bool = False
) -> None:
    """Raise UserError for wishes that the prior `name` cannot fulfil; the flags say which it can."""
    for setting, wanted, possible, where in (
        ("lora", asked.lora is not None, lora, "the Wan priors"),
        ("gguf", asked.gguf is not None, gguf, "Wan VACE and LTX"),
        ("attention", asked.attention != "native", attention, "Wan, LTX, CogVideoX and SVD"),
    ):
        if wanted and not possible:
            raise UserError(
                f"{name} cannot use the setting {setting}.",
                f"It is for {where}; set it back to its default.",
            )


def load(folder: Path, kind: type[_M], dtype: torch.dtype, asked: Wishes) -> _M:
    """The transformer of a diffusers folder, on the CPU, with the wishes fulfilled. Raises UserError."""
    network = (
        model_folder.part(folder, "transformer", kind, dtype)
        if asked.gguf is None
        else _from_gguf(folder, kind, dtype, asked.gguf)
    )
    if asked.gguf is not None and asked.lora is not None:
        raise UserError(
            "A LoRA cannot be added to weights in few bits.", "Leave lora or gguf empty."
        )
    finish(network, asked)
    return network


def finish(network: nn.Module, asked: Wishes) -> None:
    """Add the LoRA and choose the attention kernel."""
    if asked.lora is not None:
        _log.info("%s: %d layers changed", asked.lora.name, lora.fuse(network, asked.lora))
    set_attention(network, asked.attention)


def set_attention(network: nn.Module, kernel: str) -> None:
    """Use an attention kernel of diffusers by name. Raises UserError where it is not installed or does not fit."""
    if kernel == "native":
        return
    try:
        network.set_attention_backend(kernel)  # type: ignore[operator]
    except (RuntimeError, ValueError, ImportError) as error:
        package = _PACKAGES.get(kernel, kernel)
        raise UserError(
            f"The attention kernel {kernel} cannot be used ({str(error).splitlines()[0][:160]}).",
            f"Install {package} into the engine's environment, or set attention to native.",
        ) from error


def _from_gguf(folder: Path, kind: type[_M], dtype: torch.dtype, path: Path) -> _M:
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            "Reading GGUF files needs the package gguf.",
            "In the engine's environment run: python -m pip install gguf",
        )
    from diffusers import GGUFQuantizationConfig

    config = folder / "transformer"
    if not (config / "config.json").is_file():
        raise UserError(
            f"Weights not found: {config / 'config.json'}.",
            "The model's folder is needed beside the GGUF file.",
        )
    try:
        network: Any = kind.from_single_file(  # type: ignore[attr-defined]
            str(path),
            config=str(config),
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
            torch_dtype=dtype,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        reason = "tensors are missing" if "meta tensor" in reason else reason
        raise UserError(
            f"{path} is damaged or no GGUF file of this model ({reason}).",
            "Take one made of the same model.",
        ) from error
    return network.eval().requires_grad_(False)


def weight_bytes(network: nn.Module, asked: Wishes) -> int:
    """Bytes of the weights on the device: as they are in a GGUF file, else in 16 bits."""
    if asked.gguf is None:
        return model_folder.in_16_bits(network)
    return sum(p.numel() * p.element_size() for p in network.parameters())


def demand(
    network: Any, asked: Wishes, companions: int, *, tokens: int, token_bytes: int, decode: int
) -> Demand:
    """Memory at a working size: `tokens` of a clip, `token_bytes` that each takes a channel, `companions` and `decode` in bytes."""
    config = network.config
    return Demand(
        denoiser=weight_bytes(network, asked),
        companions=companions,
        branch=token_bytes * config.num_attention_heads * config.attention_head_dim * tokens,
        decode=max(decode, GIB // 4),
        can_store_8bit=asked.gguf is None,
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
    """Fit the networks into memory; weights go to 8 bits here if the rung says so. Without guidance a step has half the branches."""
    if guidance == 1.0:
        demand = replace(demand, branches=demand.branches // 2)
    residence = Residence(device, demand, network, companions, rung)
    if residence.rung.store_8bit:
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)  # type: ignore[operator]
    return residence
