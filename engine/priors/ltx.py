"""LTX-Video (arXiv 2501.00103): a fast model of strongly compressed latents that continues a
picture.

Family: rectified flow with a time of its own for every token. Eight frames share a latent after
the first, 32 x 32 pixels a cell. The first frame is shown clean, at time 0; the path of the
camera reaches the rest as in svd.py: both runs start from the noised render. The distilled one was
taught at eight levels; the sixth is where the noised render begins, so that three steps are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..bridge.errors import UserError
from ..models import model_folder, registry
from ..models.memory import Demand, Residence, Rung, clip_bytes
from . import notation, transformer
from .base import Clip, Level, PriorSpec, frames_in_steps
from .network import NetworkPrior

if TYPE_CHECKING:
    from ..bridge.settings import SceneSettings

GUIDANCE = 3.0
MOST_FRAMES = 161
PROMPT = (
    "A steady camera moves slowly through a static scene. Photograph, sharp details, natural "
    "light, nothing moves."
)
NEGATIVE = "worst quality, inconsistent motion, blurry, jittery, distorted, people walking"
START_SIGMA = 0.909  # ten parts noise to one part render, as in svd.py
_TEXT_TOKENS = 256
_FRAMES_PER_S = 25.0
_DECODE_TIME, _DECODE_NOISE = 0.05, 0.025  # the decoder does the last step itself
_TOKEN_BYTES = 60  # of one branch, per token and channel of the network: estimate
_PIXEL_BYTES = 102  # of encoder and decoder per pixel of every frame: they take a clip at once
_TILE_PIXELS = 512 * 512
_CLIP_BYTES = 36  # of what is coded per pixel of the clip: three clips of frames


@dataclass(frozen=True)
class Condition:
    """What the network is told of a clip; the first entry of text is the negative one."""

    first: Tensor  # [128, 1, h', w'] clean latents of the first frame
    text: Tensor  # [2, 256, d]
    mask: Tensor  # [2, 256] bool: real tokens


def coordinates(frames: int, height: int, width: int) -> Tensor:
    """[3, frames * height * width]: second, row and column in pixels of every latent cell, as the
    network is told them.
    """
    t, y, x = torch.meshgrid(
        torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij"
    )
    second = (8 * t - 7).clamp(min=0) / _FRAMES_PER_S
    return torch.stack([second.flatten(), 32.0 * y.flatten(), 32.0 * x.flatten()]).float()


class LTXVideo(NetworkPrior):
    """A video prior (see base.py)."""

    def __init__(
        self,
        spec: PriorSpec,
        transformer: nn.Module,  # LTXVideoTransformer3DModel
        vae: nn.Module,  # AutoencoderKLLTXVideo
        text: dict[str, Tensor],  # "embeddings" [2, 256, d], "mask" [2, 256]: negative, prompt
        residence: Residence,
        *,
        guidance: float = GUIDANCE,
        start_sigma: float = START_SIGMA,
        noise: Sequence[float] = (),  # the levels that a distilled network was taught at
    ) -> None:
        super().__init__(spec, residence, guidance)
        self._transformer: Any = transformer
        self._vae: Any = vae
        self._text, self._start_sigma, self._noise = text, start_sigma, noise

    def levels(self, steps: int) -> list[Level]:
        if self._noise:
            self._levels = notation.student_levels(self._noise, steps)
            return self._levels
        if steps < 1:
            raise UserError(f"steps is {steps}.", "Take at least 1.")
        sigmas = [self._start_sigma * (1.0 - k / steps) for k in range(steps + 1)]
        self._levels = [Level(1000.0 * s, 1.0 - s, s) for s in sigmas]
        return self._levels

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        scale = float(self._vae.config.scaling_factor)  # type: ignore[union-attr, arg-type]
        mean, deviation = (
            v.to(like)[:, None, None, None] for v in (self._vae.latents_mean, self._vae.latents_std)
        )  # type: ignore[union-attr, operator]
        return mean, deviation / scale

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """[f, 3, h, w] in [0, 1] -> [128, f', h/32, w/32], the mean of the posterior."""

        def work(rung: Rung) -> Tensor:
            self._vae.use_tiling = rung.tiling  # type: ignore[assignment]
            video = (
                frames.transpose(0, 1)[None].to(self.residence.device, self._vae.dtype) * 2.0 - 1.0
            )  # type: ignore[call-overload]
            return self._vae.encode(video).latent_dist.mode()[0].float()  # type: ignore[operator]

        latents = self._coded(work)
        mean, deviation = self._statistics(latents)
        return (latents - mean) / deviation

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decoders that denoise get a little fixed noise, as they were trained with."""
        time = None
        mean, deviation = self._statistics(latents)
        latents = latents * deviation + mean
        if self._vae.config.timestep_conditioning:  # type: ignore[union-attr]
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(
                latents
            )
            latents = (1.0 - _DECODE_NOISE) * latents + _DECODE_NOISE * noise
            time = torch.tensor([_DECODE_TIME], device=self.residence.device, dtype=self._vae.dtype)  # type: ignore[call-overload]

        def work(rung: Rung) -> Tensor:
            self._vae.use_tiling = rung.tiling  # type: ignore[assignment]
            video = self._vae.decode(
                latents[None].to(self.residence.device, self._vae.dtype), time
            ).sample  # type: ignore[operator, call-overload]
            return (video[0].float().transpose(0, 1) * 0.5 + 0.5).clamp(0.0, 1.0)

        return self._coded(work)

    @torch.no_grad()
    def condition(self, clip: Clip) -> Condition:
        """The clip's own first frame is what is continued: the user's picture in the first
        segment.
        """
        device = self.residence.device
        text = self._text["embeddings"].to(device, self._transformer.dtype)
        return Condition(self.encode(clip.first), text, self._text["mask"].to(device))

    @torch.no_grad()
    def predict(self, x: Tensor, i: int, condition: Condition) -> tuple[Tensor, Tensor]:
        level, (runs, _, frames, height, width) = self._levels[i], x.shape
        dtype, device = self._transformer.dtype, self.residence.device
        first = condition.first.to(x).expand(runs, -1, -1, -1, -1)
        tokens = torch.cat([first, x[:, :, 1:]], dim=2).flatten(2).transpose(1, 2).to(device, dtype)
        time = torch.full((runs, tokens.shape[1]), level.network_time)
        time[:, : height * width] = 0.0
        where = coordinates(frames, height, width)[None].expand(runs, -1, -1)

        def network(
            tokens: Tensor, time: Tensor, where: Tensor, text: Tensor, mask: Tensor
        ) -> Tensor:
            return self._transformer(
                hidden_states=tokens,
                encoder_hidden_states=text,
                timestep=time,
                encoder_attention_mask=mask,
                video_coords=where,
                return_dict=False,
            )[0]

        u = self._ask(network, x, (tokens, time, where), (condition.text, condition.mask))
        u = u.transpose(1, 2).unflatten(2, (frames, height, width))
        x0_hat, eps_hat = notation.from_flow(u, x, level)
        # the first frame is known: its prediction is itself, its noise what x has beyond it
        known_eps = (x[:, :, :1] - level.a * first) / level.b
        return torch.cat([first, x0_hat[:, :, 1:]], dim=2), torch.cat(
            [known_eps, eps_hat[:, :, 1:]], dim=2
        )


def demand(
    network: nn.Module,
    vae: nn.Module,
    frames: int,
    height: int,
    width: int,
) -> Demand:
    """Memory at a working size."""
    tokens, companions = (
        (1 + (frames - 1) // 8) * (height // 32) * (width // 32),
        model_folder.in_16_bits(vae),
    )
    return transformer.demand(
        network,
        companions,
        token_bytes=_TOKEN_BYTES * transformer.channels(network) * tokens,
        coding=clip_bytes(
            frames,
            height,
            width,
            _CLIP_BYTES,
            _PIXEL_BYTES * frames,
            _TILE_PIXELS * _PIXEL_BYTES * frames,
        ),
        width=width,
    )


def load(
    name: str,
    folder: Path,
    *,
    device: str,
    size: tuple[int, int],
    frames: int,
    prompt: str = "",
    guidance: float = -1.0,
    rung: Rung | None = None,
) -> LTXVideo:
    """The prior from a folder in diffusers' layout, for clips of `frames` frames of `size` (height,
    width).
    """
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
    from transformers import T5EncoderModel

    model_folder.require(folder, "LTXConditionPipeline", "LTXImageToVideoPipeline", "LTXPipeline")
    dtype = transformer.dtype_on(device)
    text = model_folder.sentence_embeddings(
        folder, T5EncoderModel, [NEGATIVE, prompt or PROMPT], _TEXT_TOKENS
    )
    vae = model_folder.part(folder, "vae", AutoencoderKLLTXVideo, dtype)
    network = transformer.load(folder, LTXVideoTransformer3DModel, dtype)
    config: Any = network.config
    row = registry.prior(name)
    spec = PriorSpec(
        name=name,
        frames=frames_in_steps(name, 8, MOST_FRAMES),
        size_multiple=32,
        native_size=row.trained,
        t_factor=8,
        s_factor=32,
        channels=config.in_channels,
        steps=row.steps,
        sees=frozenset({"image", "text"}),
        licence="LTX-Video Open Weights License",
        commercial_use=False,
        starts_from_render=True,
    )
    scale = row.options.get("guidance", GUIDANCE) if guidance < 0 else guidance
    residence = transformer.settle(
        device, demand(network, vae, frames, *size), network, [vae], dtype, scale, rung
    )
    return LTXVideo(spec, network, vae, text, residence, guidance=scale, noise=row.levels)


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> LTXVideo:
    """The prior that the settings name, from the weights folder."""
    from ..models import weights

    name = settings.video.prior
    size = (image.shape[1], image.shape[2])
    frames = frames_in_steps(name, 8, MOST_FRAMES)(settings.cameras.segment_length)
    folder = weights.require(name)
    return load(
        name,
        folder,
        device=device,
        size=size,
        frames=frames,
        prompt=settings.video.prompt,
    )
