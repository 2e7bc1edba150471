"""Distilled LoRAs: right layers, right amount, and nothing that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.bridge.errors import UserError
from engine.priors import lora
from engine.priors.wan import vace
from tests import tiny_models as tiny

RANK, WIDTH = 4, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.save_wan_vace(tmp_path_factory.mktemp("wan"))


def network(folder: Path) -> torch.nn.Module:
    from diffusers import WanVACETransformer3DModel

    return WanVACETransformer3DModel.from_pretrained(folder / "transformer").eval()


@pytest.mark.parametrize(("down", "up"), [("lora_down", "lora_up"), ("lora_A", "lora_B")])
def test_layers_are_those_of_diffusers_converter(tmp_path, down, up):
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers

    state = tiny.wan_lora(down, up)
    save_file(state, tmp_path / "lora.safetensors")
    ours = lora.read(tmp_path / "lora.safetensors")
    theirs = _convert_non_diffusers_wan_lora_to_diffusers(dict(state))
    expected = {key.removeprefix("transformer.").rsplit(".lora_", 1)[0] for key in theirs}
    assert set(ours) == expected
    for name, parts in ours.items():
        assert torch.equal(parts["down"], theirs[f"transformer.{name}.lora_A.weight"])
        assert torch.equal(parts["up"], theirs[f"transformer.{name}.lora_B.weight"])


def test_fusing_adds_the_product_with_alpha_and_biases(folder, tmp_path):
    plain, changed = network(folder), network(folder)
    state = tiny.wan_lora()
    name = "diffusion_model.blocks.1.self_attn.o"
    state[f"{name}.alpha"] = torch.tensor(2.0)
    state[f"{name}.diff_b"] = torch.arange(WIDTH, dtype=torch.float32)
    state["diffusion_model.blocks.0.norm3.diff"] = torch.full((WIDTH,), 0.5)
    save_file(state, tmp_path / "lora.safetensors")
    assert lora.fuse(changed, tmp_path / "lora.safetensors", 0.7) == 31
    product = state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"]
    before, after = (n.blocks[1].attn1.to_out[0] for n in (plain, changed))
    assert torch.allclose(after.weight - before.weight, 0.7 * 2.0 / RANK * product, atol=1e-6)
    assert torch.allclose(after.bias - before.bias, 0.7 * torch.arange(WIDTH), atol=1e-5)
    assert torch.allclose(
        changed.blocks[0].norm2.weight - plain.blocks[0].norm2.weight, torch.tensor(0.35)
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            plain.vace_blocks.parameters(), changed.vace_blocks.parameters(), strict=True
        )
    )


def test_what_does_not_fit_changes_nothing(folder, tmp_path):
    model = network(folder)
    before = {name: p.clone() for name, p in model.named_parameters()}
    wide = {"diffusion_model.blocks.0.self_attn.q.lora_down.weight": torch.ones(4, 99)}
    wide["diffusion_model.blocks.0.self_attn.q.lora_up.weight"] = torch.ones(WIDTH, 4)
    cases = {
        "other_size": (
            tiny.wan_lora() | wide,
            r"does not fit: 1 of 30 layers, e\.g\. blocks\.0\.attn1\.to_q",
        ),
        "deeper": (
            {k.replace("blocks.2", "blocks.39"): v for k, v in tiny.wan_lora().items()},
            "does not fit: 10 of 30",
        ),
        "half": (
            {k: v for k, v in tiny.wan_lora().items() if "lora_up" not in k},
            "does not fit: 30 of 30",
        ),
        "no_lora": ({"blocks.0.weight": torch.ones(2)}, r"no LoRA of Wan: blocks\.0\.weight"),
    }
    for name, (state, message) in cases.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=message):
            lora.fuse(model, tmp_path / f"{name}.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"abc")
    with pytest.raises(UserError, match="damaged"):
        lora.fuse(model, tmp_path / "broken.safetensors")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_fast_variant_takes_four_steps_without_guidance(folder, tmp_path):
    save_file(tiny.wan_lora(), tmp_path / "lora.safetensors")
    prior = vace.load(
        "wan_vace_14b_fast",
        folder,
        device="cpu",
        size=(32, 64),
        frames=5,
        added_lora=tmp_path / "lora.safetensors",
    )
    assert prior.residence._rungs[0].branches == 2  # two runs, one side
    assert (prior.spec.steps, prior._guidance) == (4, 1.0)
    levels = prior.levels(prior.spec.steps)
    assert [round(level.b, 4) for level in levels] == [1.0, 0.9375, 0.8333, 0.625, 0.0]
