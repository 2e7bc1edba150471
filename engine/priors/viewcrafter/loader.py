"""Reads the released checkpoints of ViewCrafter and builds the networks they hold.

One file holds everything: UNet, autoencoder, both towers of CLIP ViT-H/14, the image
projector and the noise schedule. Networks are built without memory and take the file's
tensors as they are read, one copy in all. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...bridge.errors import UserError
from ...bridge.reading import json_of
from ...models import tensor_file
from .resampler import Resampler, ResamplerConfig
from .unet import UNetConfig, ViewCrafterUNet

_AGAIN = (
    "Download it again: python -m engine weights download viewcrafter_25 (or the variant you use)."
)
_TILE_PX = 512  # of the decoder's tiles; the library's own 32 leave a tile without surroundings
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
    """Sizes from `<checkpoint without ending>.json` if there is such a file, else those of the
    released models.
    """
    path = checkpoint.with_suffix(".json")
    if not path.is_file():
        return ModelConfig()
    try:
        return _dataclass_from(ModelConfig(), json_of(path))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} describes no ViewCrafter model ({error}).",
            "Remove the file to use the released sizes.",
        ) from error


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
    """All tensors of a checkpoint by their released names, on the CPU, mapped from the file where
    possible.

    Three layouts exist: {"state_dict": ...}, DeepSpeed's {"module": ...} with 16 characters
    before every name, and an older name of the frame-rate embedding. A .safetensors file
    of the same names is read too. Raises UserError for anything else.
    """
    content = tensor_file.read(path, _AGAIN)
    if path.suffix == ".safetensors":
        state = content
    elif "state_dict" in content:
        state = content["state_dict"]
    elif "module" in content:
        state = {name[_DEEPSPEED_PREFIX:]: tensor for name, tensor in content["module"].items()}
    else:
        found = ", ".join(str(key) for key in list(content)[:5])
        raise UserError(
            f"{path} is no ViewCrafter checkpoint: it holds {found or 'nothing'}.", _AGAIN
        )
    return {
        name.replace("framestride_embed", "fps_embedding"): t
        for name, t in state.items()
        if isinstance(t, Tensor)
    }


def build(
    state: dict[str, Tensor], config: ModelConfig, *, dtype: torch.dtype, where: str
) -> Parts:
    """The networks with the tensors of `state`, in `dtype` on the CPU. `where` names the file in
    messages.
    """
    with torch.device("meta"):
        unet, resampler = ViewCrafterUNet(config.unet), Resampler(config.resampler)
        vae, vision = _empty_vae(config.vae), _empty_vision(config)
    tensor_file.fill(
        unet, tensor_file.part(state, "model.diffusion_model."), dtype, f"{where}, UNet", _AGAIN
    )
    tensor_file.fill(
        resampler,
        tensor_file.part(state, "image_proj_model."),
        dtype,
        f"{where}, image projector",
        _AGAIN,
    )
    tensor_file.fill(
        vae,
        vae_keys(tensor_file.part(state, "first_stage_model.")),
        dtype,
        f"{where}, autoencoder",
        _AGAIN,
    )
    tensor_file.fill(
        vision,
        vision_keys(tensor_file.part(state, "embedder.model.visual.")),
        dtype,
        f"{where}, CLIP image tower",
        _AGAIN,
    )
    vision.embeddings.position_ids = torch.arange(vision.embeddings.num_positions)[None]
    if "scale_arr" not in state:
        raise UserError(
            f"{where} has no scale_arr.",
            "This is a checkpoint of another model; " + _AGAIN[0].lower() + _AGAIN[1:],
        )
    return Parts(unet, vae, vision, resampler, state["scale_arr"].float().clone())


def _empty_vae(config: VAEConfig) -> nn.Module:
    from diffusers import AutoencoderKL

    n = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=config.channels,
        layers_per_block=config.res_blocks,
        latent_channels=config.latent_channels,
        sample_size=_TILE_PX,
    )


def _empty_vision(config: ModelConfig) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(
        CLIPVisionConfig(
            **_tower(config.vision), image_size=config.image_px, patch_size=config.patch_px
        )
    )


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
    """Latent-diffusion names -> diffusers' names of the same autoencoder. Decoder blocks count from
    the other end.
    """
    levels = 1 + max(
        (int(m[1]) for name in state if (m := re.match(r"decoder\.up\.(\d+)\.", name))), default=0
    )
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
    """open_clip's names -> transformers'; `names` are those outside the blocks. Query, key and
    value come apart.
    """
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
    """Names of open_clip's image tower -> those of CLIPVisionModel. The projection is not used
    here.
    """
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
    names = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
    }
    names |= {f"ln_final.{kind}": f"final_layer_norm.{kind}" for kind in ("weight", "bias")}
    kept = {}
    for name, tensor in state.items():
        block = re.match(r"transformer\.resblocks\.(\d+)\.", name)
        if name not in ("text_projection", "logit_scale", "attn_mask") and (
            block is None or int(block[1]) < layers
        ):
            kept[name] = tensor
    return _tower_keys(kept, names)


def build_text_tower(state: dict[str, Tensor], config: ModelConfig, *, where: str) -> nn.Module:
    """CLIP's text tower in float32 on the CPU: tokens [n, 77] -> last_hidden_state [n, 77,
    width].
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = _tower(dataclasses.replace(config.text, layers=config.text_layers_used))
    with torch.device("meta"):
        text = CLIPTextModel(
            CLIPTextConfig(
                **sizes,
                vocab_size=config.vocabulary,
                max_position_embeddings=config.unet.text_tokens,
            )
        )
    tensors = text_keys(tensor_file.part(state, "cond_stage_model.model."), config.text_layers_used)
    tensor_file.fill(text, tensors, torch.float32, f"{where}, CLIP text tower", _AGAIN)
    text.embeddings.position_ids = torch.arange(config.unet.text_tokens)[None]
    return text
