"""Every video prior at its released size with random weights: nothing is read and nothing is
downloaded.

For measurements of memory and time. What the pictures show means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.finishers import difix
from engine.models import memory, registry
from engine.models.memory import Residence, Rung
from engine.priors import cogvideox, ltx, svd, transformer
from engine.priors.base import Clip, PriorSpec, frames_all
from engine.priors.network import NetworkPrior
from engine.priors.viewcrafter import loader
from engine.priors.viewcrafter import prior as viewcrafter
from engine.priors.wan import fixanything, inp, vace

Networks = dict[str, nn.Module]
_WAN: dict[str, Any] = {
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
}
_WAN_SMALL = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
_WAN_LARGE = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}


@contextmanager
def _made_of(dtype: torch.dtype, device: str):
    """Networks made here have weights of this kind, at this place."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _viewcrafter(half: torch.dtype, device: str) -> Networks:
    config = loader.ModelConfig()
    with _made_of(half, device):
        vision = loader._empty_vision(config)
        return {
            "denoiser": loader.ViewCrafterUNet(config.unet),
            "vae": loader._empty_vae(config.vae),
            "vision": vision,
            "resampler": loader.Resampler(config.resampler),
        }


def _wan_vae(device: str) -> nn.Module:
    import diffusers

    with _made_of(torch.float32, device):
        return diffusers.AutoencoderKLWan()


def _wan(half: torch.dtype, device: str, *, large: bool) -> Networks:
    import diffusers

    with _made_of(half, device):
        denoiser = diffusers.WanVACETransformer3DModel(
            **(_WAN_LARGE if large else _WAN_SMALL),
            **_WAN,
            vace_layers=list(range(0, 40, 5) if large else range(0, 30, 2)),
            vace_in_channels=96,
        )
    return {"denoiser": denoiser, "vae": _wan_vae(device)}


def _wan_inp(half: torch.dtype, device: str, *, large: bool) -> Networks:
    import diffusers
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with _made_of(half, device):
        denoiser = diffusers.WanTransformer3DModel(
            **(_WAN_LARGE if large else _WAN_SMALL),
            **(_WAN | {"in_channels": 36}),
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            image_dim=1280,
            added_kv_proj_dim=5120 if large else 1536,
        )
        vision = CLIPVisionModel(_clip_h(CLIPVisionConfig))
    return {"denoiser": denoiser, "vae": _wan_vae(device), "vision": vision}


def _clip_h(kind: Callable) -> Any:
    return kind(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=1024,
    )


def _svd(half: torch.dtype, device: str) -> Networks:
    import diffusers
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with _made_of(half, device):
        denoiser = diffusers.UNetSpatioTemporalConditionModel(num_attention_heads=(5, 10, 20, 20))
        vision = CLIPVisionModelWithProjection(_clip_h(CLIPVisionConfig))
    with _made_of(torch.float32, device):
        vae = diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            layers_per_block=2,
        )
    return {"denoiser": denoiser, "vae": vae, "vision": vision}


def _ltx(half: torch.dtype, device: str, *, large: bool) -> Networks:
    import diffusers

    sizes = {"attention_head_dim": 128, "num_layers": 48, "cross_attention_dim": 4096}

    with _made_of(half, device):
        return {
            "denoiser": diffusers.LTXVideoTransformer3DModel(**(sizes if large else {})),
            "vae": diffusers.AutoencoderKLLTXVideo(
                block_out_channels=(128, 256, 512, 1024, 2048),
                down_block_types=("LTXVideo095DownBlock3D",) * 4,
                decoder_block_out_channels=(256, 512, 1024),
                layers_per_block=(4, 6, 6, 2, 2),
                decoder_layers_per_block=(5, 5, 5, 5),
                spatio_temporal_scaling=(True,) * 4,
                decoder_spatio_temporal_scaling=(True,) * 3,
                decoder_inject_noise=(False,) * 4,
                downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
                upsample_residual=(True,) * 3,
                upsample_factor=(2,) * 3,
                timestep_conditioning=True,
                encoder_causal=True,
                decoder_causal=False,
            ),
        }


def _cogvideox(half: torch.dtype, device: str) -> Networks:
    import diffusers

    with _made_of(half, device):
        return {
            "denoiser": diffusers.CogVideoXTransformer3DModel(
                num_attention_heads=48,
                num_layers=42,
                in_channels=32,
                use_rotary_positional_embeddings=True,
                use_learned_positional_embeddings=True,
            ),
            "vae": diffusers.AutoencoderKLCogVideoX(
                block_out_channels=(128, 256, 256, 512),
                latent_channels=16,
                down_block_types=("CogVideoXDownBlock3D",) * 4,
                up_block_types=("CogVideoXUpBlock3D",) * 4,
                layers_per_block=3,
                scaling_factor=0.7,
            ),
        }


def networks_of(name: str, half: torch.dtype, device: str) -> Networks:
    """Every network of a prior at its released size; the denoiser is called "denoiser"."""
    if name.startswith("viewcrafter"):
        return _viewcrafter(half, device)
    if name.startswith("wan_vace"):
        return _wan(half, device, large="14b" in name)
    if name.startswith(("wan_fun_inp", "fixanything")):
        return _wan_inp(half, device, large=name.startswith("fixanything"))
    if name.startswith("ltx"):
        return _ltx(half, device, large="13b" in name)
    makers = {
        "svd": _svd,
        "cogvideox_i2v": _cogvideox,
    }
    return makers[name](half, device)


def half_of(name: str) -> torch.dtype:
    """The kind of a denoiser's weights on a GPU."""
    return torch.float16 if name == "svd" or name.startswith("viewcrafter") else torch.bfloat16


def demand_of(name: str, networks: Networks, frames: int, height: int, width: int):
    """What the prior says it needs."""
    first, vae = networks["denoiser"], networks["vae"]
    if name.startswith("viewcrafter"):
        parts = loader.Parts(first, vae, networks["vision"], networks["resampler"], torch.ones(1))  # type: ignore[arg-type]
        return viewcrafter.demand(parts, frames, height, width)
    if name.startswith(("wan", "fixanything")):
        others = [networks["vision"]] if "vision" in networks else []
        return vace.demand(first, vae, frames, height, width, *others)
    if name == "svd":
        return svd.demand(first, vae, networks["vision"], frames, height, width)
    return (ltx if name.startswith("ltx") else cogvideox).demand(first, vae, frames, height, width)


def make(
    name: str,
    frames: int,
    height: int,
    width: int,
    *,
    device: str = "cuda",
    place: str = "cpu",
    rung: Rung | None = None,
) -> NetworkPrior:
    """The prior for clips of `frames` frames; its weights are made at `place`, as they lie there
    after loading.
    """
    half = half_of(name) if device == "cuda" else torch.float32
    networks = networks_of(name, half, place)
    for network in networks.values():
        network.eval().requires_grad_(False)
    demand = demand_of(name, networks, frames, height, width)
    companions = [module for part, module in networks.items() if part != "denoiser"]
    row = registry.prior(name)
    guidance = row.options.get("guidance", 2.0)
    denoiser = networks["denoiser"]
    if name.startswith("viewcrafter") or name == "svd":
        residence = Residence(device, demand, denoiser, companions, rung)
    else:
        residence = transformer.settle(device, demand, denoiser, companions, half, guidance, rung)
    return _adapter(name, networks, residence, frames, guidance)


def _adapter(
    name: str, networks: Networks, residence: Residence, frames: int, guidance: float
) -> NetworkPrior:
    denoiser, vae = networks["denoiser"], networks["vae"]
    row = registry.prior(name)
    factors = {"ltx": (8, 32), "ltx_13b_fast": (8, 32), "svd": (1, 8)}.get(
        name, (1 if name.startswith("viewcrafter") else 4, 8)
    )
    spec = PriorSpec(
        name=name,
        frames=frames_all(name, frames),
        size_multiple=row.multiple,
        native_size=row.trained,
        t_factor=factors[0],
        s_factor=factors[1],
        channels={"ltx": 128, "ltx_13b_fast": 128, "svd": 4}.get(
            name, 4 if name.startswith("viewcrafter") else 16
        ),
        steps=2,
        sees=frozenset({"image"}),
        licence="",
        commercial_use=False,
        starts_from_render=row.starts_from_render,
    )
    if name.startswith("viewcrafter"):
        parts = loader.Parts(
            denoiser,  # type: ignore[arg-type]
            vae,
            networks["vision"],
            networks["resampler"],  # type: ignore[arg-type]
            torch.linspace(1.0, 0.3, 1000, device="cpu"),
        )
        text = torch.zeros(2, 77, 1024)
        return viewcrafter.ViewCrafter(spec, parts, text, residence, guidance=guidance)
    if name.startswith("wan_vace"):
        text = torch.zeros(2, 512, 4096)
        return vace.WanVACE(
            spec, denoiser, vae, text, residence, shift=row.options["shift"], guidance=guidance
        )
    if name.startswith(("wan_fun_inp", "fixanything")):
        text = torch.zeros(2, 512, 4096)
        kind = inp.WanInP if name.startswith("wan") else fixanything.FixAnything
        return kind(
            spec, denoiser, vae, text, residence, vision=networks["vision"], guidance=guidance
        )
    if name == "svd":
        return svd.StableVideo(
            spec, denoiser, vae, networks["vision"], residence, guidance=guidance
        )
    if name.startswith("ltx"):
        told = {
            "embeddings": torch.zeros(2, 256, 4096),
            "mask": torch.ones(2, 256, dtype=torch.bool),
        }
        return ltx.LTXVideo(spec, denoiser, vae, told, residence, guidance=guidance)
    abar = cogvideox.cumulative_alphas(0.00085, 0.012, 1.0)
    text = torch.zeros(2, 226, 4096)
    return cogvideox.CogVideoX(spec, denoiser, vae, text, abar, residence, guidance=guidance)


def finisher_networks(half: torch.dtype, device: str) -> tuple[nn.Module, nn.Module]:
    """UNet and autoencoder of Difix at their released size: those of Stable Diffusion 2.1, and four
    convolutions.
    """
    import diffusers

    with _made_of(half, device):
        unet = diffusers.UNet2DConditionModel(
            attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
        )
    with _made_of(torch.float32, device):
        vae = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        difix.with_skips(vae)
    return unet.eval().requires_grad_(False), vae.eval().requires_grad_(False)


def finisher_demand(
    name: str, unet: nn.Module, vae: nn.Module, height: int, width: int
) -> memory.Demand:
    """What the finisher says it needs."""
    return difix.demand(unet, vae, height, width, 1 + name.endswith("_ref"))


def make_finisher(
    name: str, height: int, width: int, *, device: str = "cuda", rung: Rung | None = None
) -> difix.Difix:
    """The finisher for frames of this size."""
    unet, vae = finisher_networks(torch.float16 if device == "cuda" else torch.float32, "cpu")
    demand = finisher_demand(name, unet, vae, height, width)
    networks = difix.Weights(unet, vae, torch.zeros(1, 77, 1024))
    return difix.Difix(name, "", networks, Residence(device, demand, unet, [vae], rung))


def clip(frames: int, height: int, width: int, device: str = "cuda") -> Clip:
    """A grey clip whose right half is unknown."""
    render = torch.full((frames, 3, height, width), 0.5, device=device)
    known = torch.ones(frames, 1, height, width, device=device)
    known[..., width // 2 :] = 0.0
    K = torch.eye(3, device=device).expand(frames, 3, 3)
    pose = torch.eye(4, device=device).expand(frames, 4, 4)
    return Clip(torch.full_like(render[0], 0.5), render, known, known * 2.0, K, pose, "")


def stages(
    prior: NetworkPrior, scene: Clip, steps: int = 2, runs: int = 2
) -> dict[str, Callable[[], Any]]:
    """The stages of one segment as `enhance` calls them, in order; each uses what came before."""
    made: dict[str, Any] = {}

    def condition() -> None:
        made["condition"] = prior.condition(scene)

    def encode() -> None:
        made["latents"] = prior.encode(scene.render)

    def predict() -> None:
        prior.levels(max(steps, 2))
        x = made["latents"][None].expand(runs, *[-1] * 4)
        for i in range(steps):
            x0, eps = prior.predict(x, i, made["condition"])
            x = 0.5 * x0 + 0.5 * eps

    def decode() -> Tensor:
        made["consistent"] = torch.zeros_like(scene.render)  # the first clip is still there
        return prior.decode(made["latents"])

    return {"condition": condition, "encode": encode, "predict": predict, "decode": decode}
