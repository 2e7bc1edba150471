"""Wan 2.1 Fun InP: Wan's image-to-video network, trained on further to complete any masked video.

Family, latents and levels as in wan.py. Beside its noisy latents the network is given the latents
of the render with its unknown pixels grey, a mask of four frames for every latent, and CLIP's view
of the picture.

The transformer's file names its layers as Wan's authors do and is converted here; autoencoder and
text encoder are those of Wan VACE 1.3B, the image encoder that of Wan I2V: the same networks
in files that can be read without unpickling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...bridge.errors import UserError
from ...bridge.reading import json_of
from ...models import model_folder, registry
from ...models.memory import Rung
from .. import notation, transformer
from ..base import Clip, PriorSpec
from ..image_tower import normalised
from . import student, vace
from .names import tensor_name

if TYPE_CHECKING:
    from ...bridge.settings import SceneSettings

GUIDANCE = 6.0
SHIFT = 3.0
_HEAD_CHANNELS = 128
_P = TypeVar("_P", bound="WanInP")


@dataclass(frozen=True)
class Condition:
    """What the network is told of a clip; the first entry of text is the negative one."""

    control: Tensor  # [1, 20, f', h', w']: mask of four frames, latents of the masked render
    image: Tensor  # [1, 257, d] CLIP's tokens of the picture
    text: Tensor  # [2, 512, d]


def mask_channels(known: Tensor) -> Tensor:
    """[f, 1, h, w] in 0..1, f = 4 k + 1 -> [4, f', h/8, w/8]: for each latent its four frames; the
    first frame counts four times.
    """
    small = F.interpolate(known, scale_factor=0.125, mode="bilinear", align_corners=False)[:, 0]
    return torch.cat([small[:1].expand(4, -1, -1), small[1:]]).unflatten(0, (-1, 4)).transpose(0, 1)


class WanInP(vace.Wan):
    """A video prior (see base.py) on a WanTransformer3DModel with 36 input channels."""

    def __init__(
        self,
        *parts: Any,
        vision: nn.Module,
        shift: float = SHIFT,
        guidance: float = GUIDANCE,
        noise: Sequence[float] = (),
    ) -> None:
        super().__init__(*parts, shift=shift, guidance=guidance, noise=noise)
        self._vision = vision  # CLIPVisionModel

    @torch.no_grad()
    def condition(self, clip: Clip) -> Condition:
        return self._coded(lambda rung: self._look(clip, rung.tiling))

    def _look(self, clip: Clip, tiles: bool) -> Condition:
        mask, video, picture = self._shown(clip)
        latents = self._latents.encode(video, tiles)
        control = torch.cat([mask_channels(mask).to(latents), latents])
        return Condition(control[None], self._image_tokens(picture[None]), self._cast(self._text))

    def _shown(self, clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
        """What the network is given: the mask [f, 1, h, w], 1 to keep, the video [f, 3, h, w] in
        [-1, 1], and the picture [3, h, w] in [0, 1].
        """
        known = (clip.known >= vace.KNOWN).to(clip.render)
        return known, (clip.render * 2.0 - 1.0) * known, clip.image

    def _image_tokens(self, picture: Tensor) -> Tensor:
        """Wan's way: no blur, no crop, plain bicubic; the last block but one."""
        side = self._vision.config.image_size  # type: ignore[union-attr]
        small = F.interpolate(
            picture.to(self.residence.device, torch.float32),
            size=(side, side),
            mode="bicubic",
            align_corners=False,
        )
        pixels = normalised(small).to(self._vision.dtype)  # type: ignore[call-overload]
        return self._vision(pixels, output_hidden_states=True).hidden_states[-2]

    @torch.no_grad()
    def predict(self, x: Tensor, i: int, condition: Condition) -> tuple[Tensor, Tensor]:
        level, runs = self._levels[i], x.shape[0]
        control = condition.control.to(x).expand(runs, -1, -1, -1, -1)
        latents, image = (
            self._cast(torch.cat([x, control], dim=1)),
            self._cast(condition.image).expand(runs, -1, -1),
        )

        def network(latents: Tensor, time: Tensor, image: Tensor, text: Tensor) -> Tensor:
            return self._transformer(
                hidden_states=latents,
                timestep=time,
                encoder_hidden_states=text,
                encoder_hidden_states_image=image,
                return_dict=False,
            )[0]

        u = self._ask(
            network,
            x,
            (latents, torch.full((runs,), level.network_time), image),
            (condition.text,),
        )
        return notation.from_flow(u, x, level)


def load_transformer(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The transformer of `diffusion_pytorch_model.safetensors` with Wan's own names; sizes from its
    tensors and config.json.
    """
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "diffusion_pytorch_model.safetensors"
    try:
        state = {tensor_name(name): tensor for name, tensor in load_file(path).items()}
        heads = json_of(folder / "config.json").get("num_heads", 0)
        width, channels = state["patch_embedding.weight"].shape[:2]
        with init_empty_weights(include_buffers=False):
            model = WanTransformer3DModel(
                patch_size=(1, 2, 2),
                num_attention_heads=heads or width // _HEAD_CHANNELS,
                attention_head_dim=width // (heads or width // _HEAD_CHANNELS),
                in_channels=channels,
                out_channels=16,
                text_dim=state["condition_embedder.text_embedder.linear_1.weight"].shape[1],
                freq_dim=state["condition_embedder.time_embedder.linear_1.weight"].shape[1],
                ffn_dim=state["blocks.0.ffn.net.2.weight"].shape[1],
                num_layers=len(
                    {name.split(".")[1] for name in state if name.startswith("blocks.")}
                ),
                cross_attn_norm=True,
                qk_norm="rms_norm_across_heads",
                image_dim=state["condition_embedder.image_embedder.norm1.weight"].shape[0],
                added_kv_proj_dim=width,
            )
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is missing, damaged or no Wan InP model ({error!r:.120}).",
            "Download it again.",
        ) from error
    wanted = model.state_dict().keys()
    wrong = sorted(wanted ^ state.keys())
    if wrong or channels != 36:
        text = (
            f"{len(wrong)} tensors lacking or unknown: {', '.join(wrong[:5])}"
            if wrong
            else f"{channels} input channels, not 36"
        )
        raise UserError(f"{path} does not fit Wan InP: {text}.", "Take Wan2.1-Fun-1.3B-InP.")
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def load(
    name: str,
    transformer_folder: Path,
    vace_folder: Path,
    vision_folder: Path,
    *,
    device: str,
    size: tuple[int, int],
    frames: int = vace.MOST_FRAMES,
    prompt: str = "",
    guidance: float = -1.0,
    taught_by: Path | None = None,
    rung: Rung | None = None,
) -> WanInP:
    """The prior, for clips of `frames` frames of `size` (height, width); autoencoder and text
    encoder are taken from `vace_folder`, and the teacher of the student `taught_by`.
    """
    from diffusers import WanVACETransformer3DModel

    dtype = transformer.dtype_on(device)
    network = load_transformer(transformer_folder, dtype)
    if taught_by is not None:
        teacher = transformer.load(vace_folder, WanVACETransformer3DModel, dtype)
        student.add(network, taught_by, teacher.state_dict())
        del teacher
    text = vace.text_embeddings(vace_folder, prompt)
    scale = registry.prior(name).options.get("guidance", GUIDANCE) if guidance < 0 else guidance
    return assembled(
        WanInP, name, network, vace_folder, vision_folder, text, device, size, frames, scale, rung
    )


def assembled(
    kind: type[_P],
    name: str,
    network: nn.Module,
    vace_folder: Path,
    vision_folder: Path,
    text: Tensor,
    device: str,
    size: tuple[int, int],
    frames: int,
    guidance: float,
    rung: Rung | None,
) -> _P:
    """A prior of this kind with the registry's figures for `name`."""
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionModel

    row, dtype = registry.prior(name), transformer.dtype_on(device)
    vae = model_folder.part(vace_folder, "vae", AutoencoderKLWan, torch.float32)
    vision = model_folder.part(vision_folder, "image_encoder", CLIPVisionModel, dtype)
    spec = PriorSpec(
        name=name,
        frames=vace.frames_of(name),
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
    residence = transformer.settle(
        device,
        vace.demand(network, vae, frames, *size, vision),
        network,
        [vae, vision],
        dtype,
        guidance,
        rung,
    )
    shift = row.options.get("shift", SHIFT)
    parts = (spec, network, vae, text, residence)
    return kind(*parts, vision=vision, shift=shift, guidance=guidance, noise=row.levels)


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> WanInP:
    """The prior that the settings name, from the weights folder."""
    from ...models import weights

    name = settings.video.prior
    homes = [weights.require(part) for part in registry.prior(name).weights]
    folders = [home for home in homes if weights.known(home.name).kind != "student"]
    students = [home for home in homes if home not in folders]
    return load(
        name,
        *folders,
        device=device,
        size=(image.shape[1], image.shape[2]),
        frames=vace.frames_of(name)(settings.cameras.segment_length),
        prompt=settings.video.prompt,
        taught_by=weights.checkpoint_in(students[0].name, students[0]) if students else None,
    )
