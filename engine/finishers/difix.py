"""Difix (arXiv 2503.01774): SD-Turbo taught to take the marks of Gaussians out of a render.

The render is coded without noise; one call of the UNet at t = 199 says what of it is not picture,
and what is left is decoded. The decoder sees the encoder's pictures on the way through four 1x1
convolutions, so that fine detail need not pass the code. `difix_ref` codes the user's picture as a
second view beside each render, and self-attention looks at the tokens of both.

Weights are those of a folder that the library diffusers wrote. Its decoder has a LoRA beside its
weights, in peft's names; it is added to them once, W + (alpha / rank) up @ down with peft's own
alpha of 8.
"""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..bridge.errors import UserError
from ..bridge.reading import json_of
from ..models import model_folder, tensor_file, weights
from ..models.device import networks_at_work
from ..models.memory import Demand, Residence, Rung

PROMPT = "remove degradation"  # the one sentence that it was trained with
T = 199  # the time that the UNet is told, and whose noise it takes away
PIPELINE = "DifixPipeline"
ALPHA = 8.0  # peft's lora_alpha where a configuration names none, as here
_TOKENS = 77
_STEPS, _BETA = 1000, (0.00085, 0.012)  # the noise of Stable Diffusion, linear in its root
_AGAIN = "Run: python -m engine weights verify NAME, or download it again."
_HELD_BYTES = 750  # a pixel of a frame: what the decoder sees of the encoder
_UNET_BYTES = 280  # a pixel of each view
_DECODER_BYTES, _ENCODER_BYTES = 4_900, 2_650  # a pixel of the frame, of each view


class Weights(NamedTuple):
    """The networks, and what a text encoder made of the prompt."""

    unet: nn.Module  # UNet2DConditionModel
    vae: nn.Module  # `with_skips` of an AutoencoderKL
    prompt: Tensor  # [1, 77, d]


class Views:
    """Attention that looks at the tokens of `count` views at once, [b * count, n, d] as
    [b, count * n, d], and gives each view its own back.
    """

    def __init__(self, count: int) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.count, self._attend = count, AttnProcessor2_0()

    def __call__(self, attn: nn.Module, hidden_states: Tensor, **rest: Any) -> Tensor:
        together = hidden_states.unflatten(0, (-1, self.count)).flatten(1, 2)
        seen = self._attend(attn, together, **rest)
        return seen.unflatten(1, (self.count, -1)).flatten(0, 1)


class Difix:
    """A finisher (see base.py)."""

    def __init__(self, name: str, licence: str, networks: Weights, residence: Residence) -> None:
        self.name, self.licence, self.residence = name, licence, residence
        self._unet: Any = networks.unet
        self._vae: Any = networks.vae
        self._prompt = networks.prompt
        self.refers = name.endswith("_ref")  # the picture is shown beside every render
        if self.refers:
            look_together(self._unet, 2)

    @torch.no_grad()
    def finish(self, frames: Tensor, reference: Tensor) -> Tensor:
        """Renders [f, 3, h, w] and the picture [3, h, w] -> the repaired frames, one by one."""
        return torch.stack([self._finish(frame, reference) for frame in frames])

    def rest(self) -> None:
        """Give back memory between its turns."""
        self.residence.rest()

    def _finish(self, frame: Tensor, reference: Tensor) -> Tensor:
        shown = torch.stack([frame, reference] if self.refers else [frame]).to(
            self.residence.device, torch.float32
        )
        latents, held = self.residence.run(lambda rung: self._coded(shown))
        noise = self.residence.run(lambda rung: self._asked(latents))
        clean = from_noise(latents[:1], noise[:1])
        out = self.residence.run(lambda rung: self._decoded(clean, held))
        return (out[0] * 0.5 + 0.5).clamp(0.0, 1.0).to(frame)

    def _coded(self, shown: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.residence.companions()
        with networks_at_work():
            means, held = encode(self._vae, shown * 2.0 - 1.0)
        # copies: views would keep what the encoder held of the picture too
        return means * self._vae.config.scaling_factor, [x[:1].clone() for x in held]

    def _asked(self, latents: Tensor) -> Tensor:
        self.residence.denoiser()
        dtype = self._unet.dtype
        text = self._prompt.to(latents.device, dtype).expand(latents.shape[0], -1, -1)
        time = torch.full((latents.shape[0],), T, device=latents.device)
        with networks_at_work():
            return self._unet(
                latents.to(dtype), time, encoder_hidden_states=text, return_dict=False
            )[0].float()

    def _decoded(self, latents: Tensor, held: list[Tensor]) -> Tensor:
        self.residence.companions()
        with networks_at_work():
            return decode(self._vae, latents / self._vae.config.scaling_factor, held)


def from_noise(latents: Tensor, noise: Tensor) -> Tensor:
    """x0 of latents = sqrt(abar) x0 + sqrt(1 - abar) noise at t = 199."""
    low, high = _BETA[0] ** 0.5, _BETA[1] ** 0.5
    kept = math.prod(1.0 - (low + i / (_STEPS - 1) * (high - low)) ** 2 for i in range(T + 1))
    return (latents - (1.0 - kept) ** 0.5 * noise) / kept**0.5


def look_together(unet: Any, count: int) -> None:
    """Let every self-attention of a UNet2DConditionModel look at `count` views, which lie one after
    another in the batch.
    """
    unet.set_attn_processor(
        {
            name: Views(count) if ".attn1." in name else processor
            for name, processor in unet.attn_processors.items()
        }
    )


def with_skips(vae: Any) -> Any:
    """An AutoencoderKL whose decoder has the four convolutions of Difix, with weights of zero."""
    widths = list(vae.config.block_out_channels)
    into = [widths[-1], *reversed(widths)][: len(widths)]  # channels before each block going up
    seen = [*reversed([widths[0], *widths[:-1]])]  # before each block going down, the last first
    for number, (i, o) in enumerate(zip(seen, into, strict=True), 1):
        layer = nn.Conv2d(i, o, kernel_size=1, bias=False)
        if layer.weight.device.type != "meta":
            nn.init.zeros_(layer.weight)
        setattr(vae.decoder, f"skip_conv_{number}", layer)
    return vae


def encode(vae: Any, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Frames [b, 3, h, w] in [-1, 1] -> the means of their codes, unscaled, and what the encoder
    held before each of its blocks, the last first.

    The original draws from the posterior, whose spread is small; the mean gives the same bits
    every time.
    """
    x, held = vae.encoder.conv_in(frames), []
    for block in vae.encoder.down_blocks:
        held.append(x)
        x = block(x)
    x = vae.encoder.mid_block(x)
    x = vae.encoder.conv_out(vae.encoder.conv_act(vae.encoder.conv_norm_out(x)))
    return vae.quant_conv(x).chunk(2, dim=1)[0], held[::-1]


def decode(vae: Any, latents: Tensor, held: list[Tensor]) -> Tensor:
    """Unscaled codes [b, c, h', w'] and what `encode` held -> frames [b, 3, h, w] in [-1, 1]."""
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for number, (block, seen) in enumerate(zip(decoder.up_blocks, held, strict=True), 1):
        x = block(x + getattr(decoder, f"skip_conv_{number}")(seen))
    return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))


_LOW_RANK = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")


def without_adapter(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state in peft's names, `x.base_layer.weight`, `x.lora_A.NAME.weight` and B, as a plain one:
    what is low-rank is added to the weights. A plain one stays as it is.
    """
    plain, low = {}, dict[str, dict[str, Tensor]]()
    for key, tensor in state.items():
        found = _LOW_RANK.fullmatch(key)
        if found:
            low.setdefault(found[1], {})[found[2]] = tensor
        else:
            plain[key.replace(".base_layer.", ".")] = tensor
    for layer, parts in low.items():
        weight = plain.get(f"{layer}.weight")
        if weight is None or parts.keys() != {"A", "B"}:
            raise UserError(f"The LoRA of {layer} has no layer, or half of it is missing.", _AGAIN)
        down, up = parts["A"].float().flatten(1), parts["B"].float().flatten(1)
        if up.shape[1] != down.shape[0] or up.shape[0] * down.shape[1] != weight.numel():
            raise UserError(f"The LoRA of {layer} does not fit its layer.", _AGAIN)
        delta = ALPHA / down.shape[0] * (up @ down)
        plain[f"{layer}.weight"] = weight + delta.reshape(weight.shape).to(weight)
    return plain


def read_vae(home: Path) -> nn.Module:
    """The autoencoder of a folder, with its skips and its LoRA added, in float32. Raises
    UserError.
    """
    from diffusers import AutoencoderKL

    config, file = home / "config.json", home / "diffusion_pytorch_model.safetensors"
    if not config.is_file():
        raise UserError(f"Weights not found: {home}.", _AGAIN)
    try:
        described = json_of(config)
        if described["_class_name"] != "AutoencoderKL":
            raise UserError(f"{home} holds {described['_class_name']}, not AutoencoderKL.", _AGAIN)
        known = inspect.signature(AutoencoderKL.__init__).parameters
        with torch.device("meta"):
            vae = with_skips(AutoencoderKL(**{n: v for n, v in described.items() if n in known}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{config} is damaged ({error}).", _AGAIN) from error
    state = without_adapter(tensor_file.read(file, _AGAIN))
    tensor_file.fill(vae, state, torch.float32, str(file), _AGAIN)
    return vae


def demand(unet: nn.Module, vae: nn.Module, height: int, width: int, views: int) -> Demand:
    """Memory for one frame with `views` views."""
    pixels = height * width
    code = max(_DECODER_BYTES, _ENCODER_BYTES * views) * pixels
    return Demand(
        denoiser=model_folder.in_16_bits(unet),
        layer=model_folder.largest_layer(unet),
        companions=2 * model_folder.in_16_bits(vae),
        branch=(_HELD_BYTES + _UNET_BYTES * views) * pixels,
        code=code,
        code_tiled=code,
        branches=1,
        can_tile=False,
        width=width,
        multiple=8,
    )


def load(
    name: str, folder: Path, *, device: str, size: tuple[int, int], rung: Rung | None = None
) -> Difix:
    """The finisher from a folder in diffusers' layout, for frames of `size` (height, width)."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    model_folder.require(folder, PIPELINE)
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    told = model_folder.sentence_embeddings(folder, CLIPTextModel, [PROMPT], _TOKENS, masked=False)
    unet = model_folder.part(folder, "unet", UNet2DConditionModel, dtype)
    vae = read_vae(folder / "vae")
    needs = demand(unet, vae, *size, views=1 + name.endswith("_ref"))
    residence = Residence(device, needs, unet, [vae], rung)
    networks = Weights(unet, vae, told["embeddings"])
    return Difix(name, weights.known(name).licence, networks, residence)


def from_settings(name: str, size: tuple[int, int], device: str) -> Difix:
    """The finisher of this name, from the weights folder."""
    return load(name, weights.require(name), device=device, size=size)
