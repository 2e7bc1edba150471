"""Small real models with the layouts of the released ones, made from seeds: nothing is
downloaded.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import math
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.priors.viewcrafter import loader
from engine.priors.viewcrafter.resampler import Resampler, ResamplerConfig
from engine.priors.viewcrafter.unet import UNetConfig, ViewCrafterUNet


def seeded(names_and_shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that depend on their name and shape alone; a layer keeps about the scale of what goes
    in.
    """
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


UNET = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2, 2),
    attention_levels=(0, 1),
    res_blocks=1,
    head_channels=16,
    context_dim=24,
)
RESAMPLER = ResamplerConfig(
    width=48, depth=2, heads=3, head_channels=16, queries=32, image_width=40, context_dim=24
)
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


VIEWCRAFTER_CLIP = dataclasses.replace(
    VIEWCRAFTER, vae=loader.VAEConfig((32,) * 4, 1, 4), frames=5
)  # 8 x 8 pixels a cell, as released


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
        for part, out, inner in (
            ("attn.out_proj", w, w),
            ("mlp.c_fc", 4 * w, w),
            ("mlp.c_proj", w, 4 * w),
        ):
            result[f"{name}.{part}.weight"], result[f"{name}.{part}.bias"] = (out, inner), (out,)
        result[f"{name}.attn.in_proj_weight"], result[f"{name}.attn.in_proj_bias"] = (
            (3 * w, w),
            (3 * w,),
        )
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
    result |= {
        "text_projection": (w, 16),
        "logit_scale": (),
        "ln_final.weight": (w,),
        "ln_final.bias": (w,),
    }
    return result | tower_shapes(config.text)


def viewcrafter_state(
    config: loader.ModelConfig = VIEWCRAFTER, base_scale: float = 0.3
) -> dict[str, Tensor]:
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
    state = {
        prefix + name: tensor
        for prefix, part in parts.items()
        for name, tensor in seeded(part).items()
    }
    state["scale_arr"] = torch.cat(
        [torch.linspace(1.0, base_scale, 400), torch.full((1000,), base_scale)]
    )
    state["betas"] = torch.zeros(1000)
    state["embedder.mean"] = state["embedder.std"] = torch.zeros(3)
    return state


def save_viewcrafter(
    path: Path,
    layout: str = "state_dict",
    base_scale: float = 0.3,
    config: loader.ModelConfig = VIEWCRAFTER,
) -> Path:
    """A small checkpoint in one of the released layouts, with its sizes beside it."""
    state = viewcrafter_state(config, base_scale)
    if layout == "module":
        content: dict = {
            "module": {f"_forward_module.{name}": tensor for name, tensor in state.items()},
            "global_step": 3,
        }
    elif layout == "old_name":
        content = {
            "state_dict": {
                name.replace("fps_embedding", "framestride_embed"): tensor
                for name, tensor in state.items()
            }
        }
    else:
        content = {"state_dict": state, "epoch": 1}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    path.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    return path


def _letters_tokenizer():
    """A T5 tokenizer that knows single letters: the one that transformers makes of nothing knows
    none.
    """
    from transformers import T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(c, -3.0) for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,"]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def _save_text(folder: Path, umt5: bool) -> None:
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    tokenizer = _letters_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    sizes = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 37,
        "num_layers": 2,
        "num_heads": 4,
    }
    encoder = UMT5EncoderModel(UMT5Config(**sizes)) if umt5 else T5EncoderModel(T5Config(**sizes))
    encoder.eval().save_pretrained(folder / "text_encoder")


def _index(folder: Path, pipeline: str) -> Path:
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": pipeline}), encoding="utf-8"
    )
    return folder


def _lively(module: torch.nn.Module, factor: float) -> torch.nn.Module:
    """Scale the weights up: the libraries' initial values make networks that say next to
    nothing.
    """
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim > 1:
                p.mul_(factor)
    return module.eval()


_WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 256,
    "ffn_dim": 32,
    "num_layers": 3,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}


def _wan_vae():
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1] * 4,
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    ).eval()


def save_wan_vace(folder: Path, head: int = 12) -> Path:
    """A small Wan 2.1 VACE in the layout of the released ones, of 2 heads of `head` channels."""
    from diffusers import WanVACETransformer3DModel

    torch.manual_seed(0)
    transformer = WanVACETransformer3DModel(
        **(_WAN | {"attention_head_dim": head}),
        in_channels=16,
        rope_max_seq_len=32,
        vace_layers=[0, 2],
        vace_in_channels=96,
    )
    _lively(transformer, 2.0).save_pretrained(folder / "transformer")
    _wan_vae().save_pretrained(folder / "vae")
    _save_text(folder, umt5=True)
    return _index(folder, "WanVACEPipeline")


_WAN_OWN_NAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    (".to_q", ".q"),
    (".to_k", ".k"),
    (".to_v", ".v"),
    (".to_out.0", ".o"),
    (".add_k_proj", ".k_img"),
    (".add_v_proj", ".v_img"),
    (".norm_added_k", ".norm_k_img"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    (".norm2.", ".norm3."),
    (".scale_shift_table", ".modulation"),
    ("proj_out", "head.head"),
)


def _wan_inp():
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    model = WanTransformer3DModel(
        **_WAN,
        in_channels=36,
        image_dim=32,
        added_kv_proj_dim=24,
    )
    return _lively(model, 2.0)


def wan_own_name(name: str) -> str:
    """The name of a tensor of diffusers in Wan's own code."""
    for theirs, own in _WAN_OWN_NAMES:
        name = name.replace(theirs, own)
    return "head.modulation" if name == "scale_shift_table" else name


def save_wan_inp(folder: Path) -> Path:
    """A small Wan Fun InP transformer in the layout and naming of its authors."""
    from safetensors.torch import save_file

    state = {wan_own_name(n): t.clone() for n, t in _wan_inp().state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "i2v", "num_heads": 2}), encoding="utf-8"
    )
    return folder


def save_wan_i2v(folder: Path) -> Path:
    """A small Wan image to video transformer in diffusers' layout, in several files."""
    _wan_inp().save_pretrained(folder / "transformer", max_shard_size="60KB")
    return folder


def fixanything_lora() -> dict[str, Tensor]:
    """A LoRA for the small image to video network, named as DiffSynth writes it."""
    return {
        name.removeprefix("diffusion_model."): 0.5 * tensor
        for name, tensor in wan_lora("lora_A.default", "lora_B.default").items()
    }


def save_fixanything(root: Path, fast: bool = False) -> None:
    from safetensors.torch import save_file

    save_wan_i2v(root / "wan_i2v_14b")
    save_wan_vace(root / "wan_vace_1.3b")
    save_wan_image_encoder(root / "wan_image_encoder")
    (root / "fixanything_lora").mkdir(exist_ok=True)
    save_file(fixanything_lora(), root / "fixanything_lora/fixanything_lora.safetensors")
    if fast:
        (root / "wan_i2v_14b_lightx2v").mkdir(exist_ok=True)
        name = "wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors"
        save_file(wan_lora(), root / "wan_i2v_14b_lightx2v" / name)


def rcm_state() -> dict[str, Tensor]:
    """A student of the small Wan text to video in rCM's layout: Wan's own names behind "net.", the
    first layer as a matrix, counters beside them.
    """
    from diffusers import WanTransformer3DModel

    torch.manual_seed(3)
    model = WanTransformer3DModel(
        **_WAN,
        in_channels=16,
    )
    state = {f"net.{wan_own_name(n)}": t for n, t in _lively(model, 2.0).state_dict().items()}
    state["net.patch_embedding.weight"] = state["net.patch_embedding.weight"].flatten(1)
    return state | {"net.accum_video_sample_counter": torch.tensor(7)}


def save_rcm(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(rcm_state(), folder / "rCM_Wan2.1_T2V_1.3B_480p.pt")
    return folder


def save_wan_image_encoder(folder: Path) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=37,
        image_size=28,
        patch_size=14,
    )
    _lively(CLIPVisionModel(config), 4.0).save_pretrained(folder / "image_encoder")
    return folder


def wan_lora(down: str = "lora_down", up: str = "lora_up") -> dict[str, Tensor]:
    """A LoRA for the small Wan, in the naming of Wan's authors, for the kinds of layer that the
    distilled ones change.
    """
    g = torch.Generator().manual_seed(0)
    width = 24
    sizes = {f"{kind}_attn.{x}": (width, width) for kind in ("self", "cross") for x in "qkvo"}
    sizes |= {"ffn.0": (32, width), "ffn.2": (width, 32)}
    state = {}
    for block in range(3):
        for layer, (rows, columns) in sizes.items():
            name = f"diffusion_model.blocks.{block}.{layer}"
            state[f"{name}.{down}.weight"] = 0.1 * torch.randn(4, columns, generator=g)
            state[f"{name}.{up}.weight"] = 0.1 * torch.randn(rows, 4, generator=g)
    return state


def save_wan_lora(folder: Path) -> Path:

    folder.mkdir(parents=True, exist_ok=True)
    save_file(wan_lora(), folder / "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors")
    return folder


def save_cogvideox(folder: Path, size: tuple[int, int] = (32, 64)) -> Path:
    """A small CogVideoX image to video in the layout of the released one: one size, 9 frames at
    most.
    """
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXTransformer3DModel,
    )

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=size[1] // 8,
        sample_height=size[0] // 8,
        sample_frames=9,
        max_text_seq_length=226,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    _lively(transformer, 2.0).save_pretrained(folder / "transformer")
    AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    ).eval().save_pretrained(folder / "vae")
    CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        snr_shift_scale=1.0,
    ).save_pretrained(folder / "scheduler")
    _save_text(folder, umt5=False)
    return _index(folder, "CogVideoXImageToVideoPipeline")


def save_ltx(folder: Path) -> Path:
    """A small LTX-Video with a decoder that denoises, in the layout of the released one."""
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    _lively(transformer, 2.0).save_pretrained(folder / "transformer")
    AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=True,
        patch_size=4,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    ).eval().save_pretrained(folder / "vae")
    _save_text(folder, umt5=False)
    return _index(folder, "LTXConditionPipeline")


def save_svd(folder: Path, frames: int = 5) -> Path:
    """A small Stable Video Diffusion in the layout of the released one."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        in_channels=8,
        out_channels=4,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        num_attention_heads=(2, 4),
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_frames=frames,
        sample_size=32,
    ).eval().save_pretrained(folder / "unet")
    AutoencoderKLTemporalDecoder(
        block_out_channels=[32] * 4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        latent_channels=4,
        layers_per_block=1,
    ).eval().save_pretrained(folder / "vae")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=37,
            image_size=224,
            patch_size=56,
        )
    ).eval().save_pretrained(folder / "image_encoder")
    return _index(folder, "StableVideoDiffusionPipeline")


def save_difix(folder: Path) -> Path:
    """A small Difix in the layout of the released one: the decoder's LoRA beside its weights, in
    peft's names.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    _lively(
        UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=(2, 4),
            cross_attention_dim=32,
            use_linear_projection=True,
            norm_num_groups=8,
        ),
        2.0,
    ).eval().save_pretrained(folder / "unet")
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    vae.save_pretrained(folder / "vae")
    config = json.loads((folder / "vae/config.json").read_text(encoding="utf-8"))
    config |= {"gamma": 1.0, "ignore_skip": False, "lora_rank": 4}
    (folder / "vae/config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(
        difix_vae_state(vae.state_dict(), (8, 16, 16, 16)),
        folder / "vae/diffusion_pytorch_model.safetensors",
    )
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"{letter}</w>" for letter in words[2:]]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    ).eval().save_pretrained(folder / "text_encoder")
    return _index(folder, "DifixPipeline")


_DIFIX_LORA = (
    r"decoder\..*(conv1|conv2|conv_in|conv_shortcut|conv|conv_out|skip_conv_[1-4]|to_[kqv]|"
    r"to_out\.0)\.weight"
)


def difix_vae_state(plain: dict[str, Tensor], widths: tuple[int, ...]) -> dict[str, Tensor]:
    """The state of Stable Diffusion's autoencoder in the names and with the parts of Difix: skips,
    and a LoRA of rank 4 beside every layer of the decoder that it was trained for.
    """
    a, b, c, d = widths
    skips = {1: (d, c), 2: (d, b), 3: (c, a), 4: (b, a)}  # out, in
    weights = {f"decoder.skip_conv_{n}.weight": (*s, 1, 1) for n, s in skips.items()}
    if next(iter(plain.values())).device.type == "meta":
        plain = plain | {n: torch.empty(s, device="meta") for n, s in weights.items()}
    else:
        plain = plain | seeded(weights)
    result: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        layer, _, kind = name.rpartition(".")
        if not re.fullmatch(_DIFIX_LORA, f"{layer}.weight"):
            result[name] = tensor
            continue
        result[f"{layer}.base_layer.{kind}"] = tensor
        if kind == "weight":
            out, into, *kernel = tensor.shape
            low = {
                f"{layer}.lora_A.vae_skip.weight": (4, into, *kernel),
                f"{layer}.lora_B.vae_skip.weight": (out, 4, *(1 for _ in kernel)),
            }
            meta = tensor.device.type == "meta"
            result |= (
                {n: torch.empty(s, device="meta") for n, s in low.items()}
                if meta
                else {n: 0.2 * t for n, t in seeded(low).items()}
            )
    return result


@functools.cache
def depth_keys() -> dict:
    """Names, shapes and descriptions of the depth networks that are read from one file; see
    golden/depth.md.
    """
    with gzip.open(Path(__file__).parent / "golden" / "depth_keys.json.gz") as file:
        return json.load(file)


def save_moge(path: Path, sees_a_camera: bool = False) -> Path:
    """A small MoGe-2 in the layout of the released files, normals and all; `sees_a_camera`: its
    points are about those of one.
    """
    state = seeded({name: tuple(shape) for name, shape in depth_keys()["moge_small"].items()})
    state["points_head.output_blocks.4.bias"] = torch.tensor([0.0, 0.0, -1.0])
    if (
        sees_a_camera
    ):  # where a pixel lies on the picture goes straight to its answer, the rest is little
        for stack in ("neck", "points_head"):
            state[f"{stack}.resamplers.3.1.weight"] *= 0.05
            state[f"{stack}.input_blocks.4.weight"] = torch.eye(
                32, state[f"{stack}.input_blocks.4.weight"].shape[1]
            )[:, :, None, None]
            state[f"{stack}.resamplers.3.1.bias"] = state[f"{stack}.input_blocks.4.bias"] = (
                torch.zeros(32)
            )
        state["points_head.output_blocks.4.weight"] = torch.eye(3, 32)[:, :, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model_config": depth_keys()["moge_small_config"], "model": state}, path)
    return path


def save_depth_anything_3(path: Path) -> Path:
    """A small metric Depth Anything 3 in the layout of the released file."""

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        seeded(
            {name: tuple(shape) for name, shape in depth_keys()["depth_anything_3_small"].items()}
        ),
        path,
    )
    return path


def save_depth_model(name: str, folder: Path, **changes) -> Path:
    """A small depth network in the layout of the released one."""
    from transformers import (
        BeitConfig,
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        DepthProConfig,
        DepthProForDepthEstimation,
        Dinov2Config,
        ZoeDepthConfig,
        ZoeDepthForDepthEstimation,
    )

    if name.startswith("moge"):
        return save_moge(folder / "model.pt", sees_a_camera=True).parent
    if name == "depth_anything_3":
        return save_depth_anything_3(folder / "model.safetensors").parent
    torch.manual_seed(0)
    if name.startswith("depth_anything"):
        backbone = Dinov2Config(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            out_features=["stage1", "stage2"],
            reshape_hidden_states=False,
            apply_layernorm=True,
        )
        config = DepthAnythingConfig(
            backbone_config=backbone,
            patch_size=14,
            reassemble_hidden_size=16,
            reassemble_factors=[2, 1],
            neck_hidden_sizes=[8, 8],
            fusion_hidden_size=8,
            head_hidden_size=8,
            **{"depth_estimation_type": "metric", "max_depth": 20, **changes},
        )
        model: torch.nn.Module = DepthAnythingForDepthEstimation(config)
    elif name == "zoedepth":
        backbone = BeitConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=384,
            patch_size=16,
            out_features=["stage1", "stage2", "stage3", "stage4"],
            reshape_hidden_states=False,
        )
        config = ZoeDepthConfig(
            backbone_config=backbone,
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            bottleneck_features=8,
            reassemble_factors=[4, 2, 1, 0.5],
            bin_embedding_dim=8,
            num_relative_features=8,
            num_patch_transformer_layers=1,
            patch_transformer_hidden_size=8,
            patch_transformer_intermediate_size=16,
            patch_transformer_num_attention_heads=2,
            bin_configurations=[
                {"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}
            ],
        )
        model = ZoeDepthForDepthEstimation(config)
    else:
        vit = {
            "model_type": "dinov2",
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        vit |= {"patch_size": 4, "image_size": 16}
        config = DepthProConfig(
            fusion_hidden_size=8,
            patch_size=16,
            intermediate_hook_ids=[1, 0],
            intermediate_feature_dims=[8, 8],
            scaled_images_ratios=[0.5, 1.0],
            scaled_images_overlap_ratios=[0.0, 0.2],
            scaled_images_feature_dims=[8, 8],
            use_fov_model=True,
            image_model_config=vit,
            patch_model_config=vit,
            fov_model_config=vit,
            **changes,
        )
        model = DepthProForDepthEstimation(config)
    state = seeded(shapes(model))
    if name == "depth_pro":  # inverse depth about 0.5, a field of view about 60 degrees
        state["head.layers.4.bias"] += 0.5
        state["fov_model.head.layers.4.bias"] += 60.0
    model.load_state_dict(state)
    model.eval().save_pretrained(folder)
    return folder
