"""Stable Video Diffusion (arXiv 2311.15127): continues a picture, and has never heard of a camera.

Family: EDM, variance exploding, v-prediction. The network sees the first frame alone, so the
path of the camera reaches it in one way only: sampling does not start from pure noise but
from the noised render (SDEdit, arXiv 2108.01073), at a noise that drowns details and keeps
the layout. This holds for both runs; the free run differs in that nothing pulls it back later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..bridge.errors import UserError
from ..models import model_folder, registry
from ..models.memory import Demand, Residence, Rung, clip_bytes
from . import notation
from .base import Clip, Level, PriorSpec, frames_all
from .image_tower import tower_pixels
from .network import NetworkPrior

if TYPE_CHECKING:
    from ..bridge.settings import SceneSettings


GUIDANCE = 3.0  # at the last frame; 1 at the first
START_SIGMA = 10.0  # of 700: where sampling starts from the render; own choice
_SIGMA_MAX, _SIGMA_MIN, _RHO = 700.0, 0.002, 7.0
_FPS, _MOTION, _AUGMENTATION = (
    6,
    127,
    0.02,
)  # frame rate less one, motion bucket, noise on the picture
_CELL_BYTES = 18_500  # of one branch per latent cell
_PIXEL_BYTES = 4_300  # of the decoder per pixel of a frame
_CLIP_BYTES = 36  # of what is coded per pixel of the clip: three clips of frames
_MOST_AT_ONCE = 8  # frames decoded together


@dataclass(frozen=True)
class Condition:
    """What the network is told of a clip; the first entry is the unconditional one."""

    latents: Tensor  # [2, f, 4, h', w'] of the first frame, unscaled
    embedding: Tensor  # [2, 1, d] CLIP's


def at_once(count: int, most: int) -> int:
    """The largest part of `count` frames that leaves no rest, at most `most`."""
    return max(n for n in range(1, most + 1) if count % n == 0)


def karras_sigmas(steps: int, highest: float, lowest: float = _SIGMA_MIN) -> list[float]:
    """Noise levels of Karras et al. 2022, Eq. (5), rho = 7, and a last 0."""
    if steps < 2:
        raise UserError(f"steps is {steps}.", "Stable Video Diffusion needs at least 2.")
    first, last = highest ** (1.0 / _RHO), lowest ** (1.0 / _RHO)
    return [(first + k / (steps - 1) * (last - first)) ** _RHO for k in range(steps)] + [0.0]


class StableVideo(NetworkPrior):
    """A video prior (see base.py)."""

    def __init__(
        self,
        spec: PriorSpec,
        unet: nn.Module,  # UNetSpatioTemporalConditionModel
        vae: nn.Module,  # AutoencoderKLTemporalDecoder, float32
        vision: nn.Module,  # CLIPVisionModelWithProjection
        residence: Residence,
        *,
        guidance: float = GUIDANCE,
        start_sigma: float = START_SIGMA,
    ) -> None:
        super().__init__(spec, residence, guidance)
        self._unet: Any = unet
        self._vae: Any = vae
        self._vision: Any = vision
        self._start_sigma, self._scale = start_sigma, float(self._vae.config.scaling_factor)

    def levels(self, steps: int) -> list[Level]:
        sigmas = karras_sigmas(steps, self._start_sigma)
        self._levels = [Level(0.25 * math.log(max(s, 1e-6)), 1.0, s) for s in sigmas]
        return self._levels

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """[f, 3, h, w] in [0, 1] -> [4, f, h/8, w/8], the mean of the posterior, frame by frame."""

        return self._coded(
            lambda rung: (
                torch.cat([self._moments(f[None]) for f in frames]).transpose(0, 1) * self._scale
            )
        )

    def _moments(self, frame: Tensor) -> Tensor:
        return self._vae.encode(
            frame.to(self.residence.device, torch.float32) * 2.0 - 1.0
        ).latent_dist.mode()  # type: ignore[operator]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The decoder looks along time: as many frames together as memory allows, never an uneven
        rest.
        """
        count = latents.shape[1]

        def work(rung: Rung) -> Tensor:
            together = at_once(count, 1 if rung.tiling else _MOST_AT_ONCE)
            scaled = (
                (latents / self._scale).transpose(0, 1).to(self.residence.device, torch.float32)
            )
            parts = [
                self._vae.decode(z, num_frames=together).sample for z in scaled.split(together)
            ]  # type: ignore[operator]
            return (torch.cat(parts) * 0.5 + 0.5).clamp(0.0, 1.0)

        return self._coded(work)

    @torch.no_grad()
    def condition(self, clip: Clip) -> Condition:
        """The clip's own first frame is what is continued: the user's picture in the first
        segment.
        """
        return self._coded(lambda rung: self._look(clip))

    def _look(self, clip: Clip) -> Condition:
        first = clip.first.to(self.residence.device, torch.float32)
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0)).to(first)
        latents = self._moments(
            first + 0.5 * _AUGMENTATION * noise
        )  # 0.5: the noise is meant for [-1, 1]
        pixels = tower_pixels(first, self._vision.config.image_size)  # type: ignore[union-attr]
        embedding = self._vision(pixels.to(self._vision.dtype)).image_embeds.float()[:, None]  # type: ignore[call-overload]
        both = [torch.cat([torch.zeros_like(t), t]) for t in (latents, embedding)]
        return Condition(both[0][:, None].expand(-1, clip.render.shape[0], -1, -1, -1), both[1])

    @torch.no_grad()
    def predict(self, x: Tensor, i: int, condition: Condition) -> tuple[Tensor, Tensor]:
        level, runs = self._levels[i], x.shape[0]
        dtype, device = self._unet.dtype, self.residence.device
        scaled = (x / (level.b**2 + 1.0) ** 0.5).transpose(1, 2).to(device, dtype)
        facts = torch.tensor([[_FPS, _MOTION, _AUGMENTATION]]).expand(runs, -1)

        def network(
            scaled: Tensor, time: Tensor, facts: Tensor, first: Tensor, embedding: Tensor
        ) -> Tensor:
            latents = torch.cat([scaled, first], dim=2)
            return self._unet(
                latents,
                time,
                encoder_hidden_states=embedding,
                added_time_ids=facts.to(latents),
                return_dict=False,
            )[0]

        scale = torch.linspace(1.0, self._guidance, x.shape[2], device=x.device)[
            :, None, None, None
        ]
        of_sides = (condition.latents.to(device, dtype), condition.embedding.to(device, dtype))
        times = torch.full((runs,), level.network_time)
        v = self._ask(network, x, (scaled, times, facts), of_sides, scale=scale).transpose(1, 2)
        return notation.from_edm_velocity(v, x, level)


def demand(
    unet: nn.Module, vae: nn.Module, vision: nn.Module, frames: int, height: int, width: int
) -> Demand:
    """Memory at a working size."""
    return Demand(
        denoiser=model_folder.in_16_bits(unet),
        layer=model_folder.largest_layer(unet),
        companions=2 * model_folder.in_16_bits(vae) + model_folder.in_16_bits(vision),
        branch=_CELL_BYTES * frames * (height // 8) * (width // 8),
        **clip_bytes(
            frames,
            height,
            width,
            _CLIP_BYTES,
            _PIXEL_BYTES * at_once(frames, _MOST_AT_ONCE),
            _PIXEL_BYTES * height * width,
        ),
        width=width,
        multiple=64,
    )


def load(
    name: str,
    folder: Path,
    *,
    device: str,
    size: tuple[int, int],
    guidance: float = -1.0,
    rung: Rung | None = None,
) -> StableVideo:
    """The prior from a folder in diffusers' layout, for frames of `size` (height, width)."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

    model_folder.require(folder, "StableVideoDiffusionPipeline")
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    unet = model_folder.part(folder, "unet", UNetSpatioTemporalConditionModel, dtype)
    vae = model_folder.part(
        folder, "vae", AutoencoderKLTemporalDecoder, torch.float32
    )  # it overflows in 16 bits
    vision = model_folder.part(folder, "image_encoder", CLIPVisionModelWithProjection, dtype)
    frames, levels = int(unet.config.num_frames), len(unet.config.block_out_channels)
    spec = PriorSpec(
        name=name,
        frames=frames_all(name, frames),
        size_multiple=8 * 2 ** (levels - 1),
        native_size=(576, 1024),
        t_factor=1,
        s_factor=2 ** (len(vae.config.block_out_channels) - 1),
        channels=int(vae.config.latent_channels),
        steps=registry.prior(name).steps,
        sees=frozenset({"image"}),
        licence="Stability AI Community License",
        commercial_use=False,
        starts_from_render=True,
    )
    residence = Residence(
        device, demand(unet, vae, vision, frames, *size), unet, [vae, vision], rung
    )
    return StableVideo(
        spec, unet, vae, vision, residence, guidance=GUIDANCE if guidance < 0 else guidance
    )


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> StableVideo:
    """The prior that the settings name, from the weights folder."""
    from ..models import weights

    name = settings.video.prior
    size = (image.shape[1], image.shape[2])
    prior = load(name, weights.require(name), device=device, size=size)
    prior.spec.frames(
        settings.cameras.segment_length
    )  # refused now rather than in the middle of the work
    return prior
