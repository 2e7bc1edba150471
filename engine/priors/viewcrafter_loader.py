"""Reads the released checkpoints of ViewCrafter and builds the networks they hold.

One file holds everything: UNet, autoencoder, both towers of CLIP ViT-H/14, the image
projector and the noise schedule. Networks are built without memory and take the file's
tensors as they are read, one copy in all. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from .viewcrafter_resampler import Resampler, ResamplerConfig
from .viewcrafter_unet import UNetConfig, ViewCrafterUNet

_AGAIN = "Download it again: python -m engine weights download viewcrafter_25 (or the variant you use)."
_DEEPSPEED_PREFIX = len("_forward_module.")


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the autoencoder (Stable Diffusion's, 8 x 8 pixels a cell)."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    res_blocks: int = 2
    latent_channels: int = 4


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of one tower of CLIP. Inner layers are four times as wide."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of all networks of a checkpoint. The defaults are those of the released ones."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    vision: TowerConfig = field(default_factory=lambda: TowerConfig(1280, 32, 16))
    text: TowerConfig = field(default_factory=lambda: TowerConfig(1024, 24, 16))
    image_px: int = 224  # CLIP's picture
    patch_px: int = 14
    vocabulary: int = 49408
    text_layers_used: int = 23  # the last block of 24 is skipped, its norm is not
    frames: int = 0  # of a clip; 0: what the variant says


class Parts(NamedTuple):
    """The networks at work, and the scale of clean latents for t = 0..999."""

    unet: ViewCrafterUNet
    vae: nn.Module  # diffusers' AutoencoderKL
    vision: nn.Module  # transformers' CLIPVisionModel
    resampler: Resampler
    scale: Tensor  # [>= 1000] float32


def config_beside(checkpoint: Path) -> ModelConfig:
    """Sizes from `<checkpoint without ending>.json` if there is such a file, else those of the released models."""
    path = checkpoint.with_suffix(".json")
    if not path.is_file():
        return ModelConfig()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return _dataclass_from(ModelConfig(), data)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} describes no ViewCrafter model ({error}).", "Remove the file to use the released sizes.") from error


def _dataclass_from(default: Any, data: dict[str, Any]) -> Any:
    """A copy of `default` with the fields that `data` names replaced, groups inside groups too."""
    changes: dict[str, Any] = {}
    for name, value in data.items():
        old = getattr(default, name, None)
        if old is None:
            raise ValueError(f"unknown entry {name!r}")
        if dataclasses.is_dataclass(old):
            changes[name] = _dataclass_from(old, value)
        else:
            changes[name] = tuple(value) if isinstance(old, tuple) else int(value)
    return dataclasses.replace(default, **changes)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by their released names, on the CPU, mapped from the file where possible.

    Three layouts exist: {"state_dict": ...}, DeepSpeed's {"module": ...} with 16 characters
    before every name, and an older name of the frame-rate embedding. A .safetensors file
    of the same names is read too. Raises UserError for anything else.
    """
    _require_file(path)
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    else:
        content = _unpickle(path)
        if "state_dict" in content:
            state = content["state_dict"]
        elif "module" in content:
            state = {name[_DEEPSPEED_PREFIX:]: tensor for name, tensor in content["module"].items()}
        else:
            found = ", ".join(str(key) for key in list(content)[:5])
            raise UserError(f"{path} is no ViewCrafter checkpoint: it holds {found or 'nothing'}.", _AGAIN)
    return {name.replace("framestride_embed", "fps_embedding"): t for name, t in state.items() if isinstance(t, Tensor)}


def _require_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".ckpt", ".pt", ".safetensors"))
        hint = f"Give the file inside: {', '.join(inside[:3])}." if inside else "Give the path of the .ckpt file."
        raise UserError(f"{path} is a folder, not a checkpoint.", hint)
    if not path.is_file():
        raise UserError(f"Weights not found: {path}.", _AGAIN)
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights themselves.", _AGAIN)
    if head.lstrip()[:1] == b"<":
        raise UserError(f"{path} is a web page, not a checkpoint.", _AGAIN)


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds more than tensors, or is damaged; it was not opened ({_first_line(error)}).", _AGAIN) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} is truncated or damaged ({_first_line(error)}).", _AGAIN) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no ViewCrafter checkpoint: it holds a {type(content).__name__}.", _AGAIN)
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is truncated or damaged ({_first_line(error)}).", _AGAIN) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def build(state: dict[str, Tensor], config: ModelConfig, *, dtype: torch.dtype, where: str) -> Parts:
    """The networks with the tensors of `state`, in `dtype` on the CPU. `where` names the file in messages."""
    with torch.device("meta"):
        unet, resampler = ViewCrafterUNet(config.unet), Resampler(config.resampler)
        vae, vision = _empty_vae(config.vae), _empty_vision(config)
    fill(unet, part(state, "model.diffusion_model."), dtype, f"{where}, UNet")
    fill(resampler, part(state, "image_proj_model."), dtype, f"{where}, image projector")
    fill(vae, vae_keys(part(state, "first_stage_model.")), dtype, f"{where}, autoencoder")
    fill(vision, vision_keys(part(state, "embedder.model.visual.")), dtype, f"{where}, CLIP image tower")
    vision.embeddings.position_ids = torch.arange(vision.embeddings.num_positions)[None]
    if "scale_arr" not in state:
        raise UserError(f"{where} has no scale_arr.", "This is a checkpoint of another model; " + _AGAIN[0].lower() + _AGAIN[1:])
    return Parts(unet, vae, vision, resampler, state["scale_arr"].float().clone())


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def fill(module: nn.Module, state: dict[str, Tensor], dtype: torch.dtype, what: str) -> None:
    """Give `module` the tensors of `state`; every name and shape must agree. Raises UserError naming the first five."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for text, names in (
        ("lacks", sorted(wanted.keys() - state.keys())),
        ("has unknown", sorted(state.keys() - wanted.keys())),
        ("has other sizes of", sorted(n for n in wanted.keys() & state.keys() if wanted[n] != tuple(state[n].shape))),
    ):
        if names:
            listed = ", ".join(names[:5])
            raise UserError(
                f"{what} {text} {len(names)} of {len(wanted)} tensors: {listed}{', ...' if len(names) > 5 else ''}.",
                "The file is damaged or belongs to another model. " + _AGAIN,
            )
    module.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    module.eval().requires_grad_(False)


def _empty_vae(config: VAEConfig) -> nn.Module:
    from diffusers import AutoencoderKL

    n = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=config.channels,
        layers_per_block=config.res_blocks,
        latent_channels=config.latent_channels,
    )


def _empty_vision(config: ModelConfig) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**_tower(config.vision), image_size=config.image_px, patch_size=config.patch_px))


def _tower(config: TowerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_act": "gelu",
    }


_VAE_NAMES = (
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)


def vae_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Latent-diffusion names -> diffusers' names of the same autoencoder. Decoder blocks count from the other end."""
    levels = 1 + max((int(m[1]) for name in state if (m := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in _VAE_NAMES:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"\.up_blocks\.(\d+)", lambda m: f".up_blocks.{levels - 1 - int(m[1])}", name)
        if ".attentions." in name and tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0]  # a 1 x 1 convolution is a linear layer
        result[name] = tensor
    return result


_TOWER_NAMES = (
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)


def _tower_keys(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """open_clip's names -> transformers'; `names` are those outside the blocks. Query, key and value come apart."""
    result = {}
    for name, tensor in state.items():
        name = names.get(name, name)
        for pattern, replacement in _TOWER_NAMES:
            name = re.sub(pattern, replacement, name)
        fused = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name)
        if fused:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                result[f"{fused[1]}.self_attn.{letter}_proj.{fused[2]}"] = third
        else:
            result[name] = tensor
    return result


def vision_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of open_clip's image tower -> those of CLIPVisionModel. The projection is not used here."""
    names = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
    }
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return _tower_keys({name: t for name, t in state.items() if name != "proj"}, names)


def text_keys(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Names of open_clip's text tower -> those of a CLIPTextModel of the first `layers` blocks."""
    names = {"token_embedding.weight": "embeddings.token_embedding.weight", "positional_embedding": "embeddings.position_embedding.weight"}
    names |= {f"ln_final.{kind}": f"final_layer_norm.{kind}" for kind in ("weight", "bias")}
    kept = {}
    for name, tensor in state.items():
        block = re.match(r"transformer\.resblocks\.(\d+)\.", name)
        if name not in ("text_projection", "logit_scale", "attn_mask") and (block is None or int(block[1]) < layers):
            kept[name] = tensor
    return _tower_keys(kept, names)


def build_text_tower(state: dict[str, Tensor], config: ModelConfig, *, where: str) -> nn.Module:
    """CLIP's text tower in float32 on the CPU: tokens [n, 77] -> last_hidden_state [n, 77, width]."""
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = _tower(dataclasses.replace(config.text, layers=config.text_layers_used))
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**sizes, vocab_size=config.vocabulary, max_position_embeddings=config.unet.text_tokens))
    tensors = text_keys(part(state, "cond_stage_model.model."), config.text_layers_used)
    fill(text, tensors, torch.float32, f"{where}, CLIP text tower")
    text.embeddings.position_ids = torch.arange(config.unet.text_tokens)[None]
    return text
