"""GPU memory that the engine expects of every video prior at its trained size, arrangement by
arrangement.

    python benchmarks/prior_memory.py

Networks are built at full size without memory, so that weights are counted, not guessed; working
memory is the estimate of each prior's file. Nothing is measured here, and no GPU is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.models import memory, registry  # noqa: E402
from engine.models.memory import GIB, Demand, Rung  # noqa: E402
from engine.priors import cogvideox, ltx, svd  # noqa: E402
from engine.priors.viewcrafter import loader, prior  # noqa: E402
from engine.priors.wan import vace  # noqa: E402


def demands() -> Iterator[tuple[str, str, Demand]]:
    """(prior, clip, demand) at the trained size of the released configurations."""
    import diffusers
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = loader.ModelConfig()
    parts = loader.Parts(
        loader.ViewCrafterUNet(config.unet),
        loader._empty_vae(config.vae),
        loader._empty_vision(config),
        loader.Resampler(config.resampler),
        torch.zeros(1000),
    )
    for name in ("viewcrafter_25", "viewcrafter_16", "viewcrafter_25_512"):
        variant = prior.variant_of(name)
        yield (
            name,
            _clip(variant.frames, *variant.size),
            prior.demand(parts, variant.frames, *variant.size),
        )
    wan_vae = diffusers.AutoencoderKLWan()
    common: dict[str, Any] = {
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "vace_in_channels": 96,
    }
    small = diffusers.WanVACETransformer3DModel(
        num_attention_heads=12,
        ffn_dim=8960,
        num_layers=30,
        vace_layers=list(range(0, 30, 2)),
        **common,
    )
    large = diffusers.WanVACETransformer3DModel(
        num_attention_heads=40,
        ffn_dim=13824,
        num_layers=40,
        vace_layers=list(range(0, 40, 5)),
        **common,
    )
    for name, network, frames, size in (
        ("wan_vace_1.3b", small, 25, (480, 832)),
        ("wan_vace_1.3b", small, 81, (480, 832)),
        ("wan_vace_14b_fast", large, 25, (480, 832)),
        ("wan_vace_14b", large, 25, (720, 1280)),
    ):
        branches = 2 if registry.prior(name).options.get("guidance") == 1.0 else 4
        yield (
            name,
            _clip(frames, *size),
            replace(vace.demand(network, wan_vae, frames, *size), branches=branches),
        )
    unet, video_vae = (
        diffusers.UNetSpatioTemporalConditionModel(),
        diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            layers_per_block=2,
        ),
    )
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=16,
            patch_size=14,
        )
    )
    yield "svd", _clip(25, 576, 1024), svd.demand(unet, video_vae, vision, 25, 576, 1024)
    yield (
        "ltx",
        _clip(25, 512, 704),
        ltx.demand(
            diffusers.LTXVideoTransformer3DModel(), diffusers.AutoencoderKLLTXVideo(), 25, 512, 704
        ),
    )
    cog = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=48, num_layers=42, in_channels=32, use_rotary_positional_embeddings=True
    )
    cog_vae = diffusers.AutoencoderKLCogVideoX(block_out_channels=(128, 256, 256, 512))
    yield "cogvideox_i2v", _clip(25, 480, 720), cogvideox.demand(cog, cog_vae, 25, 480, 720)


def _clip(frames: int, height: int, width: int) -> str:
    return f"{frames} x {height} x {width}"


def main() -> None:
    columns = ("all on the GPU", "idle networks away", "8 bits, tiles", "layers streamed, tiles")
    print(
        "| prior | clip | weights | fastest | 1 branch: "
        + " | ".join(columns)
        + " |\n"
        + "|---" * (4 + len(columns))
        + "|"
    )
    with torch.device("meta"):
        rows = list(demands())
    for name, clip, demand in rows:
        tile, casts = demand.can_tile, demand.can_store_8bit
        rungs = [
            Rung(1, "none"),
            Rung(1, "parts"),
            Rung(1, "parts", tile, True) if casts else None,
            Rung(1, "layers", tile),
        ]
        cells = [demand.denoiser + demand.companions, memory.ladder(demand)[0].estimate]
        cells += [memory.estimate(rung, demand) if rung else 0 for rung in rungs]
        print(
            f"| `{name}` | {clip} | "
            f"{' | '.join(f'{value / GIB:.1f}' if value else '' for value in cells)} |"
        )
    ranked = {row.name: row.least_gib for row in registry.PRIORS.values()}
    print(
        "\nleast GiB in engine/models/registry.py: "
        + ", ".join(f"{n} {g:g}" for n, g in ranked.items())
    )


if __name__ == "__main__":
    main()
