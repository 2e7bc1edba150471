"""Small real models with the layouts of the released ones, made from seeds: nothing is downloaded."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.priors import viewcrafter_loader as loader
from engine.priors.viewcrafter_resampler import Resampler, ResamplerConfig
from engine.priors.viewcrafter_unet import UNetConfig, ViewCrafterUNet


def seeded(names_and_shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that depend on their name and shape alone; a layer keeps about the scale of what goes in."""
    result = {}
    for name, shape in names_and_shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) > 1:
            values /= math.sqrt(max(1, math.prod(shape[1:])))
        else:
            values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        result[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return result


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


UNET = UNetConfig(model_channels=32, channel_mult=(1, 2, 2), attention_levels=(0, 1), res_blocks=1, head_channels=16, context_dim=24)
RESAMPLER = ResamplerConfig(width=48, depth=2, heads=3, head_channels=16, queries=32, image_width=40, context_dim=24)
VIEWCRAFTER = loader.ModelConfig(
    unet=UNET,
    resampler=RESAMPLER,
    vae=loader.VAEConfig((32, 64), 1, 4),
    vision=loader.TowerConfig(40, 2, 2),
    text=loader.TowerConfig(24, 3, 3),
    image_px=28,
    patch_px=14,
    text_layers_used=2,
)


def vae_shapes(config: loader.VAEConfig) -> dict[str, tuple[int, ...]]:
    """Latent-diffusion names and shapes of the autoencoder, written from the architecture."""
    result: dict[str, tuple[int, ...]] = {}

    def conv(name: str, i: int, o: int, k: int) -> None:
        result[f"{name}.weight"], result[f"{name}.bias"] = (o, i, k, k), (o,)

    def norm(name: str, c: int) -> None:
        result[f"{name}.weight"] = result[f"{name}.bias"] = (c,)

    def block(name: str, i: int, o: int) -> None:
        norm(f"{name}.norm1", i)
        conv(f"{name}.conv1", i, o, 3)
        norm(f"{name}.norm2", o)
        conv(f"{name}.conv2", o, o, 3)
        if i != o:
            conv(f"{name}.nin_shortcut", i, o, 1)

    def middle(side: str, c: int) -> None:
        block(f"{side}.mid.block_1", c, c)
        norm(f"{side}.mid.attn_1.norm", c)
        for layer in ("q", "k", "v", "proj_out"):
            conv(f"{side}.mid.attn_1.{layer}", c, c, 1)
        block(f"{side}.mid.block_2", c, c)

    widths, z = config.channels, config.latent_channels
    conv("encoder.conv_in", 3, widths[0], 3)
    c = widths[0]
    for level, width in enumerate(widths):
        for k in range(config.res_blocks):
            block(f"encoder.down.{level}.block.{k}", c, width)
            c = width
        if level + 1 < len(widths):
            conv(f"encoder.down.{level}.downsample.conv", c, c, 3)
    middle("encoder", c)
    norm("encoder.norm_out", c)
    conv("encoder.conv_out", c, 2 * z, 3)
    conv("decoder.conv_in", z, c, 3)
    middle("decoder", c)
    for level, width in reversed(list(enumerate(widths))):
        for k in range(config.res_blocks + 1):
            block(f"decoder.up.{level}.block.{k}", c, width)
            c = width
        if level:
            conv(f"decoder.up.{level}.upsample.conv", c, c, 3)
    norm("decoder.norm_out", c)
    conv("decoder.conv_out", c, 3, 3)
    conv("quant_conv", 2 * z, 2 * z, 1)
    conv("post_quant_conv", z, z, 1)
    return result


def tower_shapes(config: loader.TowerConfig) -> dict[str, tuple[int, ...]]:
    """open_clip's names and shapes of the blocks of a tower."""
    w, result = config.width, {}
    for k in range(config.layers):
        name = f"transformer.resblocks.{k}"
        for part, out, inner in (("attn.out_proj", w, w), ("mlp.c_fc", 4 * w, w), ("mlp.c_proj", w, 4 * w)):
            result[f"{name}.{part}.weight"], result[f"{name}.{part}.bias"] = (out, inner), (out,)
        result[f"{name}.attn.in_proj_weight"], result[f"{name}.attn.in_proj_bias"] = (3 * w, w), (3 * w,)
        for part in ("ln_1", "ln_2"):
            result[f"{name}.{part}.weight"] = result[f"{name}.{part}.bias"] = (w,)
    return result


def vision_shapes(config: loader.ModelConfig) -> dict[str, tuple[int, ...]]:
    w, patches = config.vision.width, (config.image_px // config.patch_px) ** 2
    result = {"class_embedding": (w,), "positional_embedding": (patches + 1, w), "proj": (w, 16)}
    result["conv1.weight"] = (w, 3, config.patch_px, config.patch_px)
    for part in ("ln_pre", "ln_post"):
        result[f"{part}.weight"] = result[f"{part}.bias"] = (w,)
    return result | tower_shapes(config.vision)


def text_shapes(config: loader.ModelConfig) -> dict[str, tuple[int, ...]]:
    w = config.text.width
    result = {"token_embedding.weight": (config.vocabulary, w), "positional_embedding": (77, w)}
    result |= {"text_projection": (w, 16), "logit_scale": (), "ln_final.weight": (w,), "ln_final.bias": (w,)}
    return result | tower_shapes(config.text)


def viewcrafter_state(config: loader.ModelConfig = VIEWCRAFTER, base_scale: float = 0.3) -> dict[str, Tensor]:
    """Every tensor of a released checkpoint, by its released name."""
    return dict(_viewcrafter_state(config, base_scale))


@functools.cache
def _viewcrafter_state(config: loader.ModelConfig, base_scale: float) -> dict[str, Tensor]:
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": shapes(ViewCrafterUNet(config.unet)),
            "image_proj_model.": shapes(Resampler(config.resampler)),
            "first_stage_model.": vae_shapes(config.vae),
            "embedder.model.visual.": vision_shapes(config),
            "cond_stage_model.model.": text_shapes(config),
        }
    state = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in seeded(part).items()}
    state["scale_arr"] = torch.cat([torch.linspace(1.0, base_scale, 400), torch.full((1000,), base_scale)])
    state["betas"] = torch.zeros(1000)
    state["embedder.mean"] = state["embedder.std"] = torch.zeros(3)
    return state


def save_viewcrafter(path: Path, layout: str = "state_dict", base_scale: float = 0.3) -> Path:
    """A small checkpoint in one of the released layouts, with its sizes beside it."""
    state = viewcrafter_state(base_scale=base_scale)
    if layout == "module":
        content: dict = {"module": {f"_forward_module.{name}": tensor for name, tensor in state.items()}, "global_step": 3}
    elif layout == "old_name":
        content = {"state_dict": {name.replace("fps_embedding", "framestride_embed"): tensor for name, tensor in state.items()}}
    else:
        content = {"state_dict": state, "epoch": 1}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    path.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(VIEWCRAFTER)), encoding="utf-8")
    return path
