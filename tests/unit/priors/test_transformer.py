"""The transformer of a video model: a LoRA is added to its weights; 8 bits change its answer a
little.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.models.memory import Rung
from engine.priors import transformer
from engine.priors.wan import vace
from tests import tiny_models as tiny


def network(folder: Path, *loras: Path) -> torch.nn.Module:
    from diffusers import WanVACETransformer3DModel

    return transformer.load(folder, WanVACETransformer3DModel, torch.float32, loras)


def test_a_lora_is_added_to_the_weights(tmp_path):
    folder = tiny.save_wan_vace(tmp_path / "wan", head=16)
    generator = torch.Generator().manual_seed(0)
    down, up = (0.3 * torch.randn(*s, generator=generator) for s in ((4, 32), (32, 4)))
    save_file(
        {
            "diffusion_model.blocks.0.self_attn.q.lora_down.weight": down,
            "diffusion_model.blocks.0.self_attn.q.lora_up.weight": up,
        },
        tmp_path / "l.safetensors",
    )
    changed = network(folder, tmp_path / "l.safetensors")
    plain = network(folder)
    assert torch.allclose(
        changed.blocks[0].attn1.to_q.weight,
        plain.blocks[0].attn1.to_q.weight + up @ down,
        atol=1e-6,
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan_vace_1.3b", "ltx", "cogvideox_i2v"])
def test_weights_in_8_bits_change_the_answer_a_little(name, tmp_path):
    """The ladder's rung for scarce memory: stored in 8 bits, computed as ever."""
    from engine.priors import cogvideox, ltx
    from engine.priors.base import Clip

    if name == "wan_vace_1.3b":
        tiny.save_wan_vace(tmp_path)
        load = vace.load
    else:
        (tiny.save_ltx if name == "ltx" else lambda f: tiny.save_cogvideox(f, (64, 64)))(tmp_path)
        load = ltx.load if name == "ltx" else cogvideox.load
    render = torch.nn.functional.interpolate(
        torch.rand(9, 3, 6, 6, generator=torch.Generator().manual_seed(2)), size=(64, 64)
    )
    K, poses = torch.eye(3).expand(9, 3, 3), torch.eye(4).expand(9, 4, 4)
    clip = Clip(render[0], render, torch.ones(9, 1, 64, 64), torch.ones(9, 1, 64, 64), K, poses, "")
    answers = []
    for rung in (Rung(1, "none"), Rung(1, "none", store_8bit=True)):
        prior = load(name, tmp_path, device="cpu", size=(64, 64), frames=9, rung=rung)
        prior.levels(2)
        latents, condition = prior.encode(clip.render), prior.condition(clip)
        answers.append(prior.predict(latents[None], 0, condition)[0])
        stored = {p.dtype for p in prior._transformer.parameters()}
        assert (torch.float8_e4m3fn in stored) == rung.store_8bit
    difference = (answers[0] - answers[1]).abs().max()
    assert 0 < difference < 0.25 * answers[0].abs().max()
