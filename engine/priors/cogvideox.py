"""CogVideoX image to video (arXiv 2408.06072): continues a picture; like SVD it sees no render and
no camera.

Family: variance preserving, zero terminal signal-to-noise ratio, v-prediction, with CogVideoX's
shift of the signal-to-noise ratio. Four frames share a latent after the first. The path of the
camera reaches it as in svd.py: both runs start from the noised render.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..bridge.errors import UserError
from ..bridge.reading import json_of
from ..models import model_folder, registry
from ..models.memory import Demand, Residence, Rung, clip_bytes
from . import notation, transformer
from .base import Clip, Level, PriorSpec, frames_in_steps
from .network import NetworkPrior

if TYPE_CHECKING:
    from ..bridge.settings import SceneSettings

GUIDANCE = 6.0
PROMPT = "A steady camera moves through a static scene. Photograph, sharp details, natural light."
START_NOISE = 10.0  # b / a at which sampling starts from the render, as in svd.py
_TEXT_TOKENS = 226
_TRAIN_STEPS = 1000
# the decoder takes latents in pairs behind the first: 8 k + 1 frames, though 4 share a latent
_FRAMES_APART = 8
_TOKEN_BYTES = 42  # of one branch, per token and channel of the network
_PIXEL_BYTES = 46_500  # of the decoder per pixel of a frame; the encoder takes less than half
_TILED_BYTES = 240 * 360 * _PIXEL_BYTES  # of one tile
_CLIP_BYTES = 36  # of what is coded per pixel of the clip: three clips of frames


@dataclass(frozen=True)
class Condition:
    """What the network is told of a clip; the first entry of text is the unconditional one."""

    image: Tensor  # [1, f', c, h', w']: latents of the first frame, zeros behind it
    text: Tensor  # [2, 226, d]
    rotary: tuple[Tensor, Tensor] | None  # position of every token


def cumulative_alphas(first: float, last: float, snr_shift: float) -> Tensor:
    """[1000] float64: abar_t, shifted (arXiv 2408.06072, section 2.3), then rescaled to abar_999 =
    0 (arXiv 2305.08891).
    """
    betas = torch.linspace(first**0.5, last**0.5, _TRAIN_STEPS, dtype=torch.float64) ** 2
    abar = (1.0 - betas).cumprod(0)
    abar = abar / (snr_shift + (1.0 - snr_shift) * abar)
    root = abar.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root**2


class CogVideoX(NetworkPrior):
    """A video prior (see base.py)."""

    def __init__(
        self,
        spec: PriorSpec,
        transformer: nn.Module,  # CogVideoXTransformer3DModel
        vae: nn.Module,  # AutoencoderKLCogVideoX
        text: Tensor,  # [2, 226, d]: empty, prompt
        abar: Tensor,  # [1000]
        residence: Residence,
        *,
        guidance: float = GUIDANCE,
        start_noise: float = START_NOISE,
    ) -> None:
        super().__init__(spec, residence, guidance)
        self._transformer: Any = transformer
        self._vae: Any = vae
        self._text, self._abar, self._start_noise = text, abar, start_noise
        self._scale = float(vae.config.scaling_factor)  # type: ignore[union-attr, arg-type]

    def levels(self, steps: int) -> list[Level]:
        """Evenly spaced, from the first level that is not noisier than the start, down to clean."""
        noise = ((1.0 - self._abar) / self._abar).sqrt()  # inf at the last
        count = int((noise <= self._start_noise).sum())
        if not 1 <= steps <= count:
            raise UserError(f"steps is {steps}.", f"CogVideoX takes 1 to {count} steps.")
        taken = [round(count - k * count / steps) - 1 for k in range(steps)]
        self._levels = [
            Level(t, float(self._abar[t].sqrt()), float((1.0 - self._abar[t]).sqrt()))
            for t in taken
        ]
        self._levels.append(Level(0.0, 1.0, 0.0))
        return self._levels

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """[f, 3, h, w] in [0, 1] -> [c, f', h/8, w/8], the mean of the posterior."""

        def work(rung: Rung) -> Tensor:
            self._vae.use_tiling = rung.tiling  # type: ignore[assignment]
            video = (
                frames.transpose(0, 1)[None].to(self.residence.device, self._vae.dtype) * 2.0 - 1.0
            )  # type: ignore[call-overload]
            return self._vae.encode(video).latent_dist.mode()[0].float() * self._scale  # type: ignore[operator]

        return self._coded(work)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        def work(rung: Rung) -> Tensor:
            self._vae.use_tiling = rung.tiling  # type: ignore[assignment]
            video = self._vae.decode(
                (latents / self._scale)[None].to(self.residence.device, self._vae.dtype)
            ).sample  # type: ignore[operator, call-overload]
            return (video[0].float().transpose(0, 1) * 0.5 + 0.5).clamp(0.0, 1.0)

        return self._coded(work)

    @torch.no_grad()
    def condition(self, clip: Clip) -> Condition:
        """The clip's own first frame is what is continued: the user's picture in the first
        segment.
        """
        first = self.encode(clip.first)
        if self._vae.config.invert_scale_latents:  # type: ignore[union-attr]
            first = first / self._scale**2  # these were trained with the factor the wrong way round
        count = 1 + (clip.render.shape[0] - 1) // self.spec.t_factor
        image = torch.cat(
            [first, first.new_zeros(first.shape[0], count - 1, *first.shape[2:])], dim=1
        )
        text = self._text.to(self.residence.device, self._transformer.dtype)
        return Condition(image.transpose(0, 1)[None], text, self._rotary(count, *image.shape[2:]))

    def _rotary(self, frames: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """Rotary positions of the tokens: the grid is laid over the trained one, as large as fits,
        in the middle.
        """
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        config: Any = self._transformer.config
        if not config.use_rotary_positional_embeddings:
            return None
        patch = config.patch_size
        trained_h, trained_w = config.sample_height // patch, config.sample_width // patch
        rows, columns = height // patch, width // patch
        if rows / columns > trained_h / trained_w:
            used_h, used_w = trained_h, round(trained_h / rows * columns)
        else:
            used_h, used_w = round(trained_w / columns * rows), trained_w
        top, left = round((trained_h - used_h) / 2.0), round((trained_w - used_w) / 2.0)
        return get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=((top, left), (top + used_h, left + used_w)),
            grid_size=(rows, columns),
            temporal_size=frames,
            device=self.residence.device,
        )

    @torch.no_grad()
    def predict(self, x: Tensor, i: int, condition: Condition) -> tuple[Tensor, Tensor]:
        level, runs = self._levels[i], x.shape[0]
        dtype, device = self._transformer.dtype, self.residence.device
        image = condition.image.to(x).expand(runs, -1, -1, -1, -1)
        latents = torch.cat([x.transpose(1, 2), image], dim=2).to(device, dtype)

        def network(latents: Tensor, time: Tensor, text: Tensor) -> Tensor:
            return self._transformer(
                hidden_states=latents,
                encoder_hidden_states=text,
                timestep=time,
                image_rotary_emb=condition.rotary,
                return_dict=False,
            )[0]

        time = torch.full((runs,), int(level.network_time))
        v = self._ask(network, x, (latents, time), (condition.text,)).transpose(1, 2)
        return notation.from_velocity(v, x, level)


def _schedule(folder: Path) -> Tensor:
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        config = json_of(path)
        return cumulative_alphas(
            config["beta_start"], config["beta_end"], config.get("snr_shift_scale", 3.0)
        )
    except (UserError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is missing or damaged.", "Download the model again.") from error


def _require_size(transformer: nn.Module, size: tuple[int, int], frames: int) -> None:
    config: Any = transformer.config
    if config.patch_size_t is not None:
        raise UserError("These are weights of CogVideoX 1.5.", "Take CogVideoX-5b-I2V.")
    trained = (8 * config.sample_height, 8 * config.sample_width)
    if config.use_learned_positional_embeddings and size != trained:
        raise UserError(
            f"CogVideoX works at {trained[1]} x {trained[0]} alone, not at {size[1]} x {size[0]}.",
            f"Set width to {trained[1]} and crop the picture to {trained[1]}:{trained[0]}.",
        )
    if frames > config.sample_frames:
        most = config.sample_frames
        raise UserError(
            f"CogVideoX makes at most {most} frames at a time.",
            f"Set segment_length to {most} or less.",
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
        (1 + (frames - 1) // 4) * (height // 16) * (width // 16),
        model_folder.in_16_bits(vae),
    )
    return transformer.demand(
        network,
        companions,
        token_bytes=_TOKEN_BYTES * transformer.channels(network) * tokens,
        coding=clip_bytes(frames, height, width, _CLIP_BYTES, _PIXEL_BYTES, _TILED_BYTES),
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
) -> CogVideoX:
    """The prior from a folder in diffusers' layout, for clips of `frames` frames of `size` (height,
    width).
    """
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    from transformers import T5EncoderModel

    model_folder.require(folder, "CogVideoXImageToVideoPipeline")
    dtype = transformer.dtype_on(device)
    text = model_folder.sentence_embeddings(
        folder, T5EncoderModel, ["", prompt or PROMPT], _TEXT_TOKENS, masked=False
    )
    vae = model_folder.part(folder, "vae", AutoencoderKLCogVideoX, dtype)
    network = transformer.load(folder, CogVideoXTransformer3DModel, dtype)
    _require_size(network, size, frames)
    config = network.config
    spec = PriorSpec(
        name=name,
        frames=frames_in_steps(name, _FRAMES_APART, config.sample_frames),
        size_multiple=16,
        native_size=(8 * config.sample_height, 8 * config.sample_width),
        t_factor=4,
        s_factor=8,
        channels=config.in_channels // 2,
        steps=registry.prior(name).steps,
        sees=frozenset({"image", "text"}),
        licence="CogVideoX License",
        commercial_use=False,
        starts_from_render=True,
    )
    scale = GUIDANCE if guidance < 0 else guidance
    residence = transformer.settle(
        device, demand(network, vae, frames, *size), network, [vae], dtype, scale, rung
    )
    return CogVideoX(
        spec, network, vae, text["embeddings"].float(), _schedule(folder), residence, guidance=scale
    )


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> CogVideoX:
    """The prior that the settings name, from the weights folder."""
    from ..models import weights

    name = settings.video.prior
    size = (image.shape[1], image.shape[2])
    frames = 1 + -(-(settings.cameras.segment_length - 1) // _FRAMES_APART) * _FRAMES_APART
    folder = weights.require(name)
    return load(
        name,
        folder,
        device=device,
        size=size,
        frames=frames,
        prompt=settings.video.prompt,
    )
