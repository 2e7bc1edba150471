"""Wan 2.1 VACE (arXiv 2503.07598, 2503.20314): a video model that completes a masked render.

Family: rectified flow with shifted noise levels. Four frames share a latent after the
first. The network sees the render where the scene is known, a mask of the rest, the
user's picture as a reference, and a sentence. The checkpoint's own UniPC sampler is not used:
it rebuilds each sample from one it kept, and would silently undo the momentum.

The reference has a latent frame of its own before the clip. It stays in here: at every level the
network is shown the picture's latents at that level's noise, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...bridge.errors import UserError
from ...models import model_folder, registry
from ...models.memory import Demand, Residence, Rung, clip_bytes
from .. import notation, transformer
from ..base import Clip, Level, PriorSpec, frames_in_steps
from ..network import NetworkPrior
from . import student

if TYPE_CHECKING:
    from ...bridge.settings import SceneSettings


GUIDANCE = 5.0
MOST_FRAMES = 81
PROMPT = "A steady camera moves through a static scene. Photograph, sharp details, natural light."
NEGATIVE = (
    "blur, distortion, moving people, moving objects, flicker, text, watermark, painting, cartoon"
)
_TEXT_TOKENS = 512
KNOWN = 0.5  # coverage from which a pixel is kept
_TOKEN_BYTES = 12  # of one branch, per token and channel of the network
_INNER_BYTES = 4.2  # the same per channel inside its feed-forward layers
_HINT_BYTES = 2  # the same per channel and layer that follows the render: its words wait for theirs
_PIXEL_BYTES = 20_000  # of encoder and decoder per pixel of a frame
_TILED_BYTES = 256 * 256 * _PIXEL_BYTES  # of one tile
_CLIP_BYTES = 48  # of what is coded per pixel of the clip: three clips of frames


@dataclass(frozen=True)
class Condition:
    """What the network is told of a clip; the first entry of text is the negative one."""

    control: Tensor  # [1, 96, n_reference + f', h', w']: kept latents, replaced latents, mask
    reference: Tensor  # [16, n_reference, h', w'] clean latents
    reference_eps: Tensor  # the same shape: their noise
    text: Tensor  # [2, 512, d]


def flow_levels(steps: int, shift: float) -> list[Level]:
    """Rectified-flow levels a = 1 - s, b = s, t = 1000 s with s = shift u / (1 + (shift - 1) u), u
    from 1 to 0 evenly.
    """
    if steps < 1:
        raise UserError(f"steps is {steps}.", "Take at least 1.")
    u = [1.0 - k / steps for k in range(steps + 1)]
    sigmas = [shift * v / (1.0 + (shift - 1.0) * v) for v in u]
    return [Level(1000.0 * s, 1.0 - s, s) for s in sigmas]


class WanLatents:
    """The autoencoder of Wan: frames <-> latents of mean 0 and deviation 1."""

    def __init__(self, vae: nn.Module, device: torch.device) -> None:
        self.vae, self._device = vae, device
        config = vae.config  # type: ignore[union-attr]
        self._mean, self._std = (
            torch.tensor(v)[:, None, None, None] for v in (config.latents_mean, config.latents_std)
        )

    def encode(self, frames: Tensor, tiles: bool = False) -> Tensor:
        """[f, 3, h, w] in [-1, 1] -> [16, f', h/8, w/8] float32, f = 4 k + 1."""
        self.vae.use_tiling = tiles  # type: ignore[assignment]
        video = frames.transpose(0, 1)[None].to(self._device, self.vae.dtype)  # type: ignore[call-overload]
        latents = self.vae.encode(video).latent_dist.mode()[0].float()  # type: ignore[operator]
        return (latents - self._mean.to(latents)) / self._std.to(latents)

    def decode(self, latents: Tensor, tiles: bool = False) -> Tensor:
        """[16, f', h', w'] -> [f, 3, h, w] in [0, 1]."""
        self.vae.use_tiling = tiles  # type: ignore[assignment]
        scaled = (latents * self._std.to(latents) + self._mean.to(latents))[None].to(
            self._device, self.vae.dtype
        )  # type: ignore[call-overload]
        video = self.vae.decode(scaled).sample[0].float()  # type: ignore[operator]
        return (video.transpose(0, 1) * 0.5 + 0.5).clamp(0.0, 1.0)


def mask_channels(unknown: Tensor, factor: int) -> Tensor:
    """[f, 1, h, w] 0/1 -> [64, f', h/8, w/8]: the 8 x 8 pixels of a cell as channels, frames picked
    by nearest.
    """
    f, _, h, w = unknown.shape
    cells = (
        unknown.reshape(f, h // 8, 8, w // 8, 8)
        .permute(2, 4, 0, 1, 3)
        .reshape(1, 64, f, h // 8, w // 8)
    )
    return F.interpolate(
        cells, size=((f + factor - 1) // factor, h // 8, w // 8), mode="nearest-exact"
    )[0]


class Wan(NetworkPrior):
    """What all Wan models share: latents, levels, memory."""

    def __init__(
        self,
        spec: PriorSpec,
        transformer: nn.Module,
        vae: nn.Module,
        text: Tensor,
        residence: Residence,
        *,
        shift: float,
        guidance: float,
        noise: Sequence[float] = (),
    ) -> None:
        """`text` [2, 512, d]: the negative sentence and the prompt; `vae` an AutoencoderKLWan;
        `noise` the levels that a distilled network was taught at, if it knows no others.
        """
        super().__init__(spec, residence, guidance)
        self._transformer: Any = transformer
        self._text, self._shift, self._noise = text, shift, noise
        self._latents = WanLatents(vae, residence.device)

    def levels(self, steps: int) -> list[Level]:
        self._levels = (
            notation.student_levels(self._noise, steps)
            if self._noise
            else flow_levels(steps, self._shift)
        )
        return self._levels

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        return self._coded(lambda rung: self._latents.encode(frames * 2.0 - 1.0, rung.tiling))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self._coded(lambda rung: self._latents.decode(latents, rung.tiling))

    def _cast(self, t: Tensor) -> Tensor:
        return t.to(self.residence.device, self._transformer.dtype)


class WanVACE(Wan):
    """A video prior (see base.py) on a WanVACETransformer3DModel."""

    def __init__(
        self,
        *parts: Any,
        shift: float,
        guidance: float = GUIDANCE,
        noise: Sequence[float] = (),
        references: bool = True,
    ) -> None:
        super().__init__(*parts, shift=shift, guidance=guidance, noise=noise)
        self._references = references

    @torch.no_grad()
    def condition(self, clip: Clip) -> Condition:
        return self._coded(lambda rung: self._look(clip, rung.tiling))

    def _look(self, clip: Clip, tiles: bool) -> Condition:
        unknown = (clip.known < KNOWN).to(clip.render)
        video = (clip.render * 2.0 - 1.0) * (1.0 - unknown)
        kept = self._latents.encode(video, tiles)
        # The part to be replaced is grey: what the render has there is no picture of the scene.
        replaced = self._latents.encode(video.zero_(), tiles)
        control = torch.cat([kept, replaced, mask_channels(unknown, self.spec.t_factor).to(kept)])
        reference = control[:16, :0]
        if self._references:
            reference = self._latents.encode(clip.image[None] * 2.0 - 1.0, tiles)
            control = torch.cat(
                [F.pad(reference, (0, 0, 0, 0, 0, 0, 0, control.shape[0] - 16)), control], dim=1
            )
        noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0)).to(
            reference
        )
        return Condition(control[None], reference, noise, self._cast(self._text))

    @torch.no_grad()
    def predict(self, x: Tensor, i: int, condition: Condition) -> tuple[Tensor, Tensor]:
        level, runs = self._levels[i], x.shape[0]
        slots = condition.reference.shape[1]
        shown = (
            (level.a * condition.reference + level.b * condition.reference_eps)
            .to(x)
            .expand(runs, -1, -1, -1, -1)
        )
        latents, control = (
            self._cast(torch.cat([shown, x], dim=2)),
            self._cast(condition.control).expand(runs, -1, -1, -1, -1),
        )

        def network(latents: Tensor, time: Tensor, control: Tensor, text: Tensor) -> Tensor:
            return self._transformer(
                hidden_states=latents,
                timestep=time,
                encoder_hidden_states=text,
                control_hidden_states=control,
                return_dict=False,
            )[0]

        time = torch.full((runs,), level.network_time)
        u = self._ask(network, x, (latents, time, control), (condition.text,))[:, :, slots:]
        return notation.from_flow(u, x, level)


def frames_of(name: str) -> Callable[[int], int]:
    """The rule of a prior's clip lengths, by its row."""
    row = registry.prior(name)
    return frames_in_steps(name, 4, int(row.most_frames), int(row.options.get("tail", 0)))


def text_embeddings(folder: Path, prompt: str, negative: str = NEGATIVE) -> Tensor:
    """[2, 512, d] float32: the negative sentence and the prompt ("": the default), zeros where the
    sentence has ended.
    """
    from transformers import UMT5EncoderModel

    text = model_folder.sentence_embeddings(
        folder, UMT5EncoderModel, [negative, prompt or PROMPT], _TEXT_TOKENS
    )
    return text["embeddings"].float() * text["mask"][:, :, None]


def demand(
    network: nn.Module,
    vae: nn.Module,
    frames: int,
    height: int,
    width: int,
    *others: nn.Module,
) -> Demand:
    """Memory at a working size; `others` are networks at work with the autoencoder."""
    config: Any = network.config
    hints = len(config.get("vace_layers") or ())
    picture = int(hints > 0)  # a frame of its own in front of the clip that VACE sees
    tokens = ((frames - 1) // 4 + 1 + picture) * (height // 16) * (width // 16)
    each = transformer.channels(network) * (_TOKEN_BYTES + _HINT_BYTES * (hints + picture))
    each += _INNER_BYTES * config.ffn_dim
    return transformer.demand(
        network,
        2 * model_folder.in_16_bits(vae) + model_folder.in_16_bits(*others),  # the VAE in 32
        token_bytes=int(tokens * each),
        coding=clip_bytes(frames, height, width, _CLIP_BYTES, _PIXEL_BYTES, _TILED_BYTES),
        width=width,
    )


def load(
    name: str,
    folder: Path,
    *,
    device: str,
    size: tuple[int, int],
    frames: int = MOST_FRAMES,
    prompt: str = "",
    guidance: float = -1.0,
    added_lora: Path | None = None,
    taught_by: Path | None = None,
    rung: Rung | None = None,
) -> WanVACE:
    """The prior `name` of the registry from a folder in diffusers' layout, for clips of `frames`
    frames of `size` (height, width). `taught_by`: the weights of a distilled Wan (`student.py`).
    """
    from diffusers import AutoencoderKLWan, WanVACETransformer3DModel

    model_folder.require(folder, "WanVACEPipeline")
    embeddings = text_embeddings(folder, prompt)
    vae = model_folder.part(folder, "vae", AutoencoderKLWan, torch.float32)
    dtype = transformer.dtype_on(device)
    loras = [] if added_lora is None else [added_lora]
    network = transformer.load(folder, WanVACETransformer3DModel, dtype, loras)
    if taught_by is not None:
        student.replace(network, taught_by)
    row = registry.prior(name)
    scale = row.options.get("guidance", GUIDANCE) if guidance < 0 else guidance
    residence = transformer.settle(
        device, demand(network, vae, frames, *size), network, [vae], dtype, scale, rung
    )
    spec = PriorSpec(
        name=name,
        frames=frames_of(name),
        size_multiple=16,
        native_size=row.trained,
        t_factor=4,
        s_factor=8,
        channels=vae.config.z_dim,
        steps=row.steps,
        sees=frozenset({"render", "mask", "image", "text"}),
        licence="Apache-2.0",
        commercial_use=True,
        renoises=row.renoises,
    )
    return WanVACE(
        spec,
        network,
        vae,
        embeddings,
        residence,
        shift=row.options["shift"],
        guidance=scale,
        noise=row.levels,
    )


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> WanVACE:
    """The prior that the settings name, from the weights folder."""
    from ...models import weights

    name = settings.video.prior
    frames = frames_of(name)(settings.cameras.segment_length)
    size = (image.shape[1], image.shape[2])
    folder, *added = (weights.require(part) for part in registry.prior(name).weights)
    files = {
        weights.known(home.name).kind: weights.checkpoint_in(home.name, home) for home in added
    }
    return load(
        name,
        folder,
        device=device,
        size=size,
        frames=frames,
        prompt=settings.video.prompt,
        added_lora=files.get("lora"),
        taught_by=files.get("student"),
    )
