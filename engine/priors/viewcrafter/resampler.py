"""The image projector of ViewCrafter: CLIP's tokens -> the tokens that the UNet reads.

A perceiver (arXiv 2103.03206, as in IP-Adapter's "plus" form): learned queries attend
several times to the image tokens and to themselves. Names of the released state dict.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .unet import attend


@dataclass(frozen=True)
class ResamplerConfig:
    """Sizes of the projector. The defaults are those of the released checkpoints."""

    width: int = 1024
    depth: int = 4
    heads: int = 12
    head_channels: int = 64
    queries: int = 256  # 16 for each of 16 frames
    image_width: int = 1280
    context_dim: int = 1024


class _PerceiverAttention(nn.Module):
    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_channels
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.to_q = nn.Linear(config.width, inner, bias=False)
        self.to_kv = nn.Linear(config.width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.width, bias=False)

    def forward(self, image: Tensor, latents: Tensor) -> Tensor:
        image, latents = self.norm1(image), self.norm2(latents)
        k, v = self.to_kv(torch.cat([image, latents], dim=1)).chunk(2, dim=-1)
        return self.to_out(attend(self.to_q(latents), k, v, self.heads))


class _FeedForward(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )


class Resampler(nn.Module):
    """Image tokens [r, n, image_width] -> context tokens [r, queries, context_dim]."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(
            torch.randn(1, config.queries, config.width) / config.width**0.5
        )
        self.proj_in = nn.Linear(config.image_width, config.width)
        self.proj_out = nn.Linear(config.width, config.context_dim)
        self.norm_out = nn.LayerNorm(config.context_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([_PerceiverAttention(config), _FeedForward(config.width)])
            for _ in range(config.depth)
        )

    def forward(self, image: Tensor) -> Tensor:
        latents = self.latents.expand(image.shape[0], -1, -1)
        image = self.proj_in(image)
        for attention, feed_forward in self.layers:  # type: ignore[misc]
            latents = latents + attention(image, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))
