"""FixAnything (arXiv 2608.23549): Wan's image-to-video network, taught by a LoRA to repair renders.

Its channels are those of Fun InP, another mask with them: one flag a frame, 1 for a frame that is
clean already, 0 for one to be repaired. The render is shown as it is, holes and large Gaussians
with it, and the picture that CLIP sees is the clip's first frame. It was taught on 61 frames, the
last of them four times more, so that it fills a latent of its own.

The flag is a whole frame's. What of a frame is to stay and what is to be invented is said by the
momentum alone, place by place: that this helps is a claim of ours, tried on an oracle network
(`tests/unit/priors/test_fixanything.py`), with the released weights by nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ...models import registry
from ...models.memory import Rung
from .. import transformer
from ..base import Clip
from . import inp, vace

if TYPE_CHECKING:
    from ...bridge.settings import SceneSettings

# What the LoRA was taught with; the negative sentence is that of Wan's authors.
PROMPT = (
    "A clean, high-quality, photorealistic video with sharp details, smooth motion, and natural "
    "lighting."
)
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"
    "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
CLEAN = 0.999  # share of a frame's pixels that must be known for it to pass as clean


def clean_frames(known: Tensor) -> Tensor:
    """[f, 1, h, w] in 0..1 -> [f, 1, h, w]: 1 everywhere in a frame of which all is known, else
    0.
    """
    share = (known >= vace.KNOWN).float().mean(dim=(1, 2, 3))
    return (share >= CLEAN).to(known)[:, None, None, None].expand_as(known)


class FixAnything(inp.WanInP):
    """A video prior (see base.py) on a WanTransformer3DModel with 36 input channels."""

    def _shown(self, clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
        return clean_frames(clip.known), clip.render * 2.0 - 1.0, clip.render[0]


def load(
    name: str,
    base_folder: Path,
    vace_folder: Path,
    vision_folder: Path,
    loras: list[Path],
    *,
    device: str,
    size: tuple[int, int],
    frames: int,
    prompt: str = "",
    guidance: float = -1.0,
    rung: Rung | None = None,
) -> FixAnything:
    """The prior, for clips of `frames` frames of `size` (height, width): Wan image to video of
    `base_folder` with its LoRA, and that of a student if there are two; autoencoder and text
    encoder are taken from `vace_folder`.
    """
    from diffusers import WanTransformer3DModel

    dtype = transformer.dtype_on(device)
    network = transformer.load(base_folder, WanTransformer3DModel, dtype, loras)
    text = vace.text_embeddings(vace_folder, prompt or PROMPT, NEGATIVE)
    scale = registry.prior(name).options["guidance"] if guidance < 0 else guidance
    return inp.assembled(
        FixAnything,
        name,
        network,
        vace_folder,
        vision_folder,
        text,
        device,
        size,
        frames,
        scale,
        rung,
    )


def from_settings(settings: SceneSettings, image: Tensor, device: str) -> FixAnything:
    """The prior that the settings name, from the weights folder."""
    from ...models import weights

    name = settings.video.prior
    base, text, vision, *loras = (weights.require(part) for part in registry.prior(name).weights)
    return load(
        name,
        base,
        text,
        vision,
        [weights.checkpoint_in(home.name, home) for home in loras],
        device=device,
        size=(image.shape[1], image.shape[2]),
        frames=vace.frames_of(name)(settings.cameras.segment_length),
        prompt=settings.video.prompt,
    )
