"""The denoising network of ViewCrafter (arXiv 2409.02048), written for inference.

A latent-diffusion UNet over the frames of a clip. Every block is: a residual block in
space with a convolution over time behind it, attention in space that also reads text and
image tokens, attention over time. The parameters have the names of the released
checkpoints ("temopral_conv" is theirs), so that a state dict loads without a key map;
every size comes from `UNetConfig`, so that a tiny network has the same names.

Notation: r runs, f frames, c channels, h x w cells; inside, frames are a batch [r*f, c, h, w].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = 32  # of every group norm, whatever the width
_INIT_HEADS = 8  # of the attention over time behind the first convolution
_MOST_TOKENS = (
    65_536  # tokens in one pass of a feed-forward layer: bounds its memory, not its result
)
_MOST_SEQUENCES = 32_768  # sequences in one attention call: CUDA grids end at 65 535


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network. The defaults are those of all four released checkpoints."""

    in_channels: int = 8  # 4 of the noisy latents, 4 of the render's latents
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    attention_levels: tuple[int, ...] = (
        0,
        1,
        2,
    )  # levels that have attention; the middle always has
    res_blocks: int = 2
    head_channels: int = 64
    context_dim: int = 1024
    text_tokens: int = 77
    tokens_per_frame: int = 16  # image tokens of one frame, where every frame gets its own


class _Call(NamedTuple):
    """What a layer may need beside its input."""

    embedding: Tensor  # [r*f, 4 * model_channels] of the time and the frame rate
    text: Tensor  # [r, text_tokens, context_dim]
    image: Tensor  # [r, n, context_dim] for all frames, or [r*f, tokens_per_frame, context_dim]
    runs: int


class _GroupNorm(nn.GroupNorm):
    """Group norm. Its sums are in float32 whatever the precision of the network: torch's kernels
    see to that, without a copy of everything in float32.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(_GROUPS, channels, eps=eps)


def sinusoid(t: Tensor, width: int) -> Tensor:
    """[r] -> [r, width]: cosines then sines, periods from 2 pi to 10000 * 2 pi (float32)."""
    half = width // 2
    rates = torch.exp(
        -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of q [b, n, d] to k, v [b, m, d] -> [b, n, d], the last axis split into heads."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    parts = zip(
        q.split(_MOST_SEQUENCES), k.split(_MOST_SEQUENCES), v.split(_MOST_SEQUENCES), strict=True
    )
    return (
        torch.cat([F.scaled_dot_product_attention(*part) for part in parts])
        .transpose(1, 2)
        .flatten(2)
    )


class _Attention(nn.Module):
    """Self-attention, or cross-attention to text and image tokens that share the query.

    The two cross-attentions are summed and projected once.
    """

    def __init__(self, width: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_dim or width, width, bias=False)
        self.to_v = nn.Linear(context_dim or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        if context_dim is not None:
            self.to_k_ip = nn.Linear(context_dim, width, bias=False)
            self.to_v_ip = nn.Linear(context_dim, width, bias=False)

    def forward(self, x: Tensor, call: _Call | None = None) -> Tensor:
        q = self.to_q(x)
        if call is None:
            return self.to_out[0](attend(q, self.to_k(x), self.to_v(x), self.heads))
        text = self._cross(q, self.to_k(call.text), self.to_v(call.text))
        image = self._cross(q, self.to_k_ip(call.image), self.to_v_ip(call.image))
        return self.to_out[0](text + image)

    def _cross(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Tokens that all frames of a run share need no copies: the frames' queries become one
        # sequence.
        return attend(q.reshape(k.shape[0], -1, q.shape[-1]), k, v, self.heads).reshape(q.shape)


class _FeedForward(nn.Module):
    """Gated linear unit (GELU), four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict(
            {
                "0": nn.ModuleDict({"proj": nn.Linear(width, 8 * width)}),
                "2": nn.Linear(4 * width, width),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [self._part(part) for part in x.flatten(0, 1).split(_MOST_TOKENS)]
        ).reshape(x.shape)

    def _part(self, x: Tensor) -> Tensor:
        value, gate = self.net["0"]["proj"](x).chunk(2, dim=-1)  # type: ignore[index]
        return self.net["2"](value * F.gelu(gate))


class _Block(nn.Module):
    """Attention, second attention (cross or self), feed-forward, each behind a layer norm."""

    def __init__(self, width: int, heads: int, context_dim: int | None) -> None:
        super().__init__()
        self.attn1 = _Attention(width, heads)
        self.attn2 = _Attention(width, heads, context_dim)
        self.ff = _FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, call: _Call | None = None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), call)
        return x + self.ff(self.norm3(x))


class _SpatialTransformer(nn.Module):
    """Attention among the cells of each frame, and to the context."""

    def __init__(self, channels: int, head_channels: int, context_dim: int) -> None:
        super().__init__()
        self.norm = _GroupNorm(channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            [_Block(channels, channels // head_channels, context_dim)]
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, call: _Call) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # [r*f, h*w, c]
        tokens = self.proj_out(self.transformer_blocks[0](tokens, call))
        return x + tokens.transpose(1, 2).reshape(x.shape)


class _TemporalTransformer(nn.Module):
    """Attention among the frames of each cell. `width` is the inner width."""

    def __init__(
        self, channels: int, width: int, head_channels: int, *, convolutions: bool = False
    ) -> None:
        super().__init__()
        self.norm = _GroupNorm(channels, 1e-6)
        layer = _Pointwise if convolutions else nn.Linear
        self.proj_in = layer(channels, width)
        self.transformer_blocks = nn.ModuleList([_Block(width, width // head_channels, None)])
        self.proj_out = layer(width, channels)

    def forward(self, x: Tensor, call: _Call) -> Tensor:
        video = x.unflatten(0, (call.runs, -1)).transpose(1, 2)  # [r, c, f, h, w]
        r, c, f, h, w = video.shape
        tokens = self.norm(video).permute(0, 3, 4, 2, 1).reshape(r * h * w, f, c)
        tokens = self.transformer_blocks[0](self.proj_in(tokens))
        tokens = self.proj_out(tokens).reshape(r, h, w, f, c)
        return x + tokens.permute(0, 3, 4, 1, 2).reshape(x.shape)


class _Pointwise(nn.Conv1d):
    """A linear layer of tokens [..., in] whose released weight has one more axis: [out, in, 1]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight.flatten(1), self.bias)


class _TemporalConvolutions(nn.Module):
    """Four convolutions over three frames each, and a skip around all of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for k in range(1, 5):
            layer = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
            # The released names count a dropout that is there from the second on.
            self.add_module(
                f"conv{k}",
                nn.ModuleDict({"0": _GroupNorm(channels, 1e-5), "2" if k == 1 else "3": layer}),
            )

    def forward(self, video: Tensor) -> Tensor:
        x = video
        for stage in self.children():
            norm, layer = stage.children()
            x = layer(F.silu(norm(x)))
        return video + x


class _ResBlock(nn.Module):
    """Two convolutions in space with the embedding added between them, then the ones over time."""

    def __init__(self, channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        first = nn.Conv2d(channels, out_channels, 3, padding=1)
        second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.in_layers = nn.Sequential(_GroupNorm(channels, 1e-5), nn.SiLU(), first)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels))
        self.out_layers = nn.Sequential(
            _GroupNorm(out_channels, 1e-5), nn.SiLU(), nn.Identity(), second
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )
        self.temopral_conv = _TemporalConvolutions(out_channels)

    def forward(self, x: Tensor, call: _Call) -> Tensor:
        y = self.in_layers(x) + self.emb_layers(call.embedding)[:, :, None, None]
        y = self.skip_connection(x) + self.out_layers(y)
        video = y.unflatten(0, (call.runs, -1)).transpose(1, 2)
        return self.temopral_conv(video).transpose(1, 2).flatten(0, 1)


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, call: _Call) -> Tensor:
        return self.op(x)


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, call: _Call) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ViewCrafterUNet(nn.Module):
    """v = UNet(x_t and the render's latents, t, text and image tokens, frame rate)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        base, embedding = config.model_channels, 4 * config.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.fps_embedding = nn.Sequential(
            nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.init_attn = nn.ModuleList(
            [
                _TemporalTransformer(
                    base,
                    _INIT_HEADS * config.head_channels,
                    config.head_channels,
                    convolutions=True,
                )
            ]
        )
        first = nn.Conv2d(config.in_channels, base, 3, padding=1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        skips = [base]
        channels = base
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.res_blocks):
                self.input_blocks.append(
                    self._stage(channels, base * mult, level in config.attention_levels)
                )
                channels = base * mult
                skips.append(channels)
            if level + 1 < len(config.channel_mult):
                self.input_blocks.append(nn.ModuleList([_Downsample(channels)]))
                skips.append(channels)
        middle = self._stage(channels, channels, True)
        middle.append(_ResBlock(channels, channels, embedding))
        self.middle_block = middle
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for k in range(config.res_blocks + 1):
                stage = self._stage(
                    channels + skips.pop(), base * mult, level in config.attention_levels
                )
                channels = base * mult
                if level and k == config.res_blocks:
                    stage.append(_Upsample(channels))
                self.output_blocks.append(stage)
        self.out = nn.Sequential(
            _GroupNorm(channels, 1e-5),
            nn.SiLU(),
            nn.Conv2d(channels, config.out_channels, 3, padding=1),
        )

    def _stage(self, channels: int, out_channels: int, attention: bool) -> nn.ModuleList:
        config = self.config
        stage = nn.ModuleList([_ResBlock(channels, out_channels, 4 * config.model_channels)])
        if attention:
            stage.append(
                _SpatialTransformer(out_channels, config.head_channels, config.context_dim)
            )
            stage.append(_TemporalTransformer(out_channels, out_channels, config.head_channels))
        return stage

    def forward(self, x: Tensor, t: Tensor, text: Tensor, image: Tensor, fs: Tensor) -> Tensor:
        """Predict v.

        x [r, in_channels, f, h, w], h and w multiples of 2^(levels - 1); t [r] in 0..999;
        text [r, text_tokens, context_dim]; image [r, n, context_dim]; fs [r] the frame rate
        -> [r, out_channels, f, h, w].

        With n = tokens_per_frame * f every frame reads its own image tokens, otherwise all
        frames read all of them: the released rule, which makes the 16-frame model read its
        256 tokens frame by frame and the 25-frame model as a whole.
        """
        r, _, f = x.shape[:3]
        base = self.config.model_channels
        embedding = self.time_embed(sinusoid(t, base).to(x.dtype)) + self.fps_embedding(
            sinusoid(fs, base).to(x.dtype)
        )
        if image.shape[1] == self.config.tokens_per_frame * f:
            image = image.reshape(r * f, self.config.tokens_per_frame, -1)
        call = _Call(embedding.repeat_interleave(f, dim=0), text, image, r)

        y = self.input_blocks[0][0](x.transpose(1, 2).flatten(0, 1))  # type: ignore[index]
        y = self.init_attn[0](y, call)
        kept = [y]
        for stage in self.input_blocks[1:]:
            y = _run(stage, y, call)
            kept.append(y)
        y = _run(self.middle_block, y, call)
        for stage in self.output_blocks:
            y = _run(stage, torch.cat([y, kept.pop()], dim=1), call)
        return self.out(y).unflatten(0, (r, f)).transpose(1, 2)


def _run(stage: nn.Module, x: Tensor, call: _Call) -> Tensor:
    for layer in stage.children():
        x = layer(x, call)
    return x
