"""ViewCrafter (arXiv 2409.02048), the prior of the paper: it repaints a render of the scene.

Family: variance preserving with zero terminal signal-to-noise ratio (arXiv 2305.08891),
v-prediction, 1000 steps of which some are taken, counted back from the last. Clean latents
are scaled down at high noise (`z_scale`, the released models' "dynamic rescale").
The network sees the latents of the rendered frames, CLIP's view of the user's picture,
a fixed sentence and a frame rate of 10.

The released sampler is stochastic (eta 1) and samples the autoencoder's posterior; here
both are deterministic by default, and the setting eta makes the sampler stochastic.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...bridge.errors import UserError
from ...bridge.whole_file import replacing_path
from ...models import model_folder, registry
from ...models.memory import Demand, Residence, Rung, clip_bytes
from ...models.weights import KEPT_TEXT
from .. import notation
from ..base import Clip, Level, PriorSpec, frames_all
from ..image_tower import tower_pixels
from ..network import NetworkPrior
from .loader import ModelConfig, Parts, build, build_text_tower, config_beside, read_checkpoint

if TYPE_CHECKING:
    from ...bridge.settings import SceneSettings

log = logging.getLogger(__name__)

GUIDANCE = 7.5
GUIDANCE_RESCALE = 0.7
FRAME_RATE = 10  # the released models know no other
PROMPT = "Rotating view of a scene"
_TRAIN_STEPS = 1000
_BETA = (0.00085, 0.012)  # first and last of the schedule, before the rescale
_LATENT_SCALE = 0.18215
# The two sentences that are always needed, as CLIP's tokens, so that no tokenizer is.
_TOKENS = {PROMPT: (49406, 32265, 1093, 539, 320, 3562, 49407), "": (49406, 49407)}
_CELL_BYTES = 6_300  # of one branch per latent cell
_BRANCH_BYTES = int(0.9 * 2**30)  # of one branch, whatever its size: two sizes on a pretended card
_PIXEL_BYTES = 2_000  # of the decoder per pixel of a frame
_TILED_BYTES = 512 * 512 * _PIXEL_BYTES  # of the decoder for one tile
_CLIP_BYTES = 36  # of what is coded per pixel of the clip: three clips of frames


class Variant(NamedTuple):
    """One released checkpoint."""

    frames: int
    size: tuple[int, int]  # height, width
    base_scale: float  # of clean latents at high noise; tells the checkpoints apart


def variant_of(name: str) -> Variant:
    """The released checkpoint that the registry calls `name`."""
    row = registry.prior(name)
    return Variant(int(row.most_frames), row.trained, row.options["base_scale"])


@dataclass(frozen=True)
class Condition:
    """What the network is told of a clip; the first entry of text and image is the unconditional
    one.
    """

    render: Tensor  # [1, 4, f, h, w] latents
    text: Tensor  # [2, 77, d]
    image: Tensor  # [2, n, d]


def cumulative_alphas() -> Tensor:
    """[1000] float64: abar_t of the schedule, rescaled so that abar_999 is 0 (arXiv 2305.08891,
    Algorithm 1).
    """
    betas = torch.linspace(_BETA[0] ** 0.5, _BETA[1] ** 0.5, _TRAIN_STEPS, dtype=torch.float64) ** 2
    root = (1.0 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root**2


def timesteps(steps: int) -> list[int]:
    """Trailing steps: 999 first, evenly spaced, e.g. 999, 979, ..., 19 for 50."""
    if not 1 <= steps <= _TRAIN_STEPS:
        raise UserError(f"steps is {steps}.", f"ViewCrafter takes 1 to {_TRAIN_STEPS} steps.")
    spacing = _TRAIN_STEPS / steps
    return [round(_TRAIN_STEPS - k * spacing) - 1 for k in range(steps)]


class ViewCrafter(NetworkPrior):
    """A video prior (see base.py). All networks come as arguments, so that tests can pass small
    ones.
    """

    def __init__(
        self,
        spec: PriorSpec,
        parts: Parts,
        text: Tensor,  # [2, 77, d]: of the empty sentence and of the prompt
        residence: Residence,
        *,
        guidance: float = GUIDANCE,
    ) -> None:
        super().__init__(spec, residence, guidance)
        self._parts, self._text = parts, text
        self._dtype = parts.unet.out[2].weight.dtype  # type: ignore[union-attr]
        self._abar = cumulative_alphas()

    def levels(self, steps: int) -> list[Level]:
        """v-prediction levels; the last is abar_0, whose noise of 0.029 the decoder takes for
        granted.
        """
        steps_left = [*timesteps(steps), 0]
        self._levels = [
            Level(t, float(self._abar[t].sqrt()), float((1.0 - self._abar[t]).sqrt()))
            for t in steps_left
        ]
        return self._levels

    def z_scale(self, i: int) -> float:
        return float(self._parts.scale[int(self._levels[i].network_time)])

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """[f, 3, h, w] in [0, 1] -> [4, f, h/8, w/8], the mean of the posterior, frame by frame."""

        def work(rung: Rung) -> Tensor:
            vae = self._parts.vae
            moments = [vae.encode(self._signed(f[None])).latent_dist.mode() for f in frames]  # type: ignore[operator]
            return torch.cat(moments).transpose(0, 1).float() * _LATENT_SCALE

        return self._coded(work)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """[4, f, h, w] -> [f, 3, 8 h, 8 w] in [0, 1], frame by frame."""

        def work(rung: Rung) -> Tensor:
            vae = self._parts.vae
            vae.use_tiling = rung.tiling  # type: ignore[assignment]
            frames = (
                (latents / _LATENT_SCALE).to(self.residence.device, self._dtype).transpose(0, 1)
            )
            decoded = [vae.decode(z[None]).sample.float() for z in frames]  # type: ignore[operator]
            return (torch.cat(decoded) * 0.5 + 0.5).clamp(0.0, 1.0)

        return self._coded(work)

    @torch.no_grad()
    def condition(self, clip: Clip) -> Condition:
        render = self.encode(clip.seen)
        pictures = torch.stack(
            [torch.full_like(clip.image, 0.5), clip.image]
        )  # unconditional: mid grey
        image = self._coded(
            lambda rung: torch.cat([self._image_tokens(picture[None]) for picture in pictures])
        )
        return Condition(render[None], self._text.to(self.residence.device, self._dtype), image)

    def _image_tokens(self, picture: Tensor) -> Tensor:
        vision = self._parts.vision
        pixels = tower_pixels(
            picture.to(self.residence.device, torch.float32), vision.config.image_size
        )  # type: ignore[union-attr]
        tokens = vision(pixels.to(self._dtype)).last_hidden_state
        return self._parts.resampler(tokens)

    @torch.no_grad()
    def predict(self, x: Tensor, i: int, condition: Condition) -> tuple[Tensor, Tensor]:
        level = self._levels[i]
        runs = x.shape[0]
        render = condition.render.to(x).expand(runs, -1, -1, -1, -1)
        latents = torch.cat([x, render], dim=1).to(self.residence.device, self._dtype)
        t, fs = torch.full((runs,), int(level.network_time)), torch.full((runs,), FRAME_RATE)

        def network(latents: Tensor, t: Tensor, fs: Tensor, text: Tensor, image: Tensor) -> Tensor:
            return self._parts.unet(latents, t, text, image, fs)

        v = self._ask(
            network,
            x,
            (latents, t, fs),
            (condition.text, condition.image),
            rescale=GUIDANCE_RESCALE,
        )
        return notation.from_velocity(v, x, level)

    def _signed(self, frames: Tensor) -> Tensor:
        return frames.to(self.residence.device, self._dtype) * 2.0 - 1.0


def text_embeddings(
    checkpoint: Path, config: ModelConfig, prompt: str, state: dict[str, Tensor] | None = None
) -> Tensor:
    """[2, 77, d] float32: the empty sentence and `prompt`, kept in a small file beside the
    checkpoint.

    Without that file CLIP's text tower is read from the checkpoint once, on the CPU.
    """
    from safetensors.torch import load_file, save_file

    facts = checkpoint.stat()
    key = hashlib.sha256(
        f"{checkpoint.name} {facts.st_size} {facts.st_mtime_ns} {prompt}".encode()
    ).hexdigest()[:16]
    kept = checkpoint.with_name(f"{KEPT_TEXT}{key}.safetensors")
    if kept.is_file():
        return load_file(kept)["embeddings"]
    tokens = [_tokens(sentence, config) for sentence in ("", prompt)]
    tower = build_text_tower(state or read_checkpoint(checkpoint), config, where=str(checkpoint))
    with torch.no_grad():
        embeddings = tower(torch.tensor(tokens)).last_hidden_state
    try:
        with replacing_path(kept) as temporary:
            save_file({"embeddings": embeddings.contiguous()}, temporary)
    except UserError as error:  # a read-only weights folder only costs a few seconds each time
        log.info("text embeddings not kept: %s", error)
    return embeddings


def _tokens(sentence: str, config: ModelConfig) -> list[int]:
    if sentence in _TOKENS:
        ids = list(_TOKENS[sentence])
    else:
        from transformers import CLIPTokenizer

        from ...models import weights

        ids = CLIPTokenizer.from_pretrained(weights.require("clip_tokenizer")).encode(sentence)
    if len(ids) > config.unet.text_tokens:
        ids = [*ids[: config.unet.text_tokens - 1], ids[-1]]
    return ids + [0] * (config.unet.text_tokens - len(ids))


def _spec(name: str, variant: Variant, config: ModelConfig) -> PriorSpec:
    return PriorSpec(
        name=name,
        frames=frames_all(name, variant.frames),
        size_multiple=8 * 2 ** (len(config.unet.channel_mult) - 1),
        native_size=variant.size,
        t_factor=1,
        s_factor=2 ** (len(config.vae.channels) - 1),
        channels=config.vae.latent_channels,
        steps=registry.prior(name).steps,
        sees=frozenset({"render", "image", "text"}),
        licence="Apache-2.0",
        commercial_use=True,
    )


def demand(parts: Parts, frames: int, height: int, width: int) -> Demand:
    """Memory at a working size."""
    return Demand(
        denoiser=model_folder.in_16_bits(parts.unet),
        layer=model_folder.largest_layer(parts.unet),
        companions=model_folder.in_16_bits(parts.vae, parts.vision, parts.resampler),
        branch=_BRANCH_BYTES + _CELL_BYTES * frames * (height // 8) * (width // 8),
        **clip_bytes(frames, height, width, _CLIP_BYTES, _PIXEL_BYTES, _TILED_BYTES),
        width=width,
        multiple=64,
    )


def load(
    name: str,
    checkpoint: Path,
    *,
    device: str,
    size: tuple[int, int],
    prompt: str = "",
    guidance: float = -1.0,
    rung: Rung | None = None,
) -> ViewCrafter:
    """The prior `name` of the registry from a checkpoint file, for frames of `size` (height,
    width).

    A file `<checkpoint>.json` beside it gives other sizes of the networks. Raises UserError
    for whatever is wrong with the file, or if it is another variant's.
    """
    variant = variant_of(name)
    config = config_beside(checkpoint)
    variant = variant._replace(frames=config.frames or variant.frames)
    state = read_checkpoint(checkpoint)
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    parts = build(state, config, dtype=dtype, where=str(checkpoint))
    if abs(float(parts.scale[_TRAIN_STEPS - 1]) - variant.base_scale) > 0.01:
        other = [
            n
            for n, row in registry.PRIORS.items()
            if abs(row.options.get("base_scale", -1) - float(parts.scale[_TRAIN_STEPS - 1])) < 0.01
        ]
        raise UserError(
            f"{checkpoint} is not {name}.",
            f"It looks like {' or '.join(other) or 'another model'}.",
        )
    text = text_embeddings(checkpoint, config, prompt or PROMPT, state)
    companions = [parts.vae, parts.vision, parts.resampler]
    residence = Residence(
        device, demand(parts, variant.frames, *size), parts.unet, companions, rung
    )
    return ViewCrafter(
        _spec(name, variant, config),
        parts,
        text,
        residence,
        guidance=GUIDANCE if guidance < 0 else guidance,
    )


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> ViewCrafter:
    """The prior that the settings name, from the weights folder."""
    from ...models import weights

    name = settings.video.prior
    height, width = image.shape[1:]
    folder = weights.require(name)
    checkpoint = weights.checkpoint_in(name, folder)
    prior = load(
        name,
        checkpoint,
        device=device,
        size=(height, width),
        prompt=settings.video.prompt,
    )
    prior.spec.frames(
        settings.cameras.segment_length
    )  # refused now rather than in the middle of the work
    return prior
