"""A LoRA, weights in few bits and another attention kernel: fulfilled, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.bridge import settings
from engine.bridge.errors import UserError
from engine.models.memory import Rung
from engine.priors import REGISTRY, make_prior, transformer
from engine.priors.transformer import Wishes
from engine.priors.wan import vace
from tests import tiny_models as tiny

PICTURE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.save_wan_vace(tmp_path_factory.mktemp("wan"), head=16)


def network(folder: Path, asked: Wishes) -> torch.nn.Module:
    from diffusers import WanVACETransformer3DModel

    return transformer.load(folder, WanVACETransformer3DModel, torch.float32, asked)


@torch.no_grad()
def answer(model: torch.nn.Module) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    x, control, text = (
        torch.randn(*s, generator=g) for s in ((1, 16, 3, 8, 8), (1, 96, 3, 8, 8), (1, 7, 32))
    )
    return model(
        x, torch.full((1,), 500.0), text, control_hidden_states=control, return_dict=False
    )[0]


def save_gguf(path: Path, model: torch.nn.Module, drop: str = "") -> Path:
    """A network's tensors under Wan's own names, those that can be in blocks of 32 in 8 bits."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed (extra gguf)")
    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in model.state_dict().items():
        if name == drop:
            continue
        inside = name.startswith("vace_blocks.") and ".proj_" in name
        if inside:
            name = name.replace("proj_in", "before_proj").replace("proj_out", "after_proj")
        for theirs, own in tiny._WAN_OWN_NAMES:
            name = name.replace(theirs, own)
        name = "head.modulation" if name == "scale_shift_table" else name
        values = tensor.numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    for step in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        step()
    return path


def test_a_gguf_file_stands_for_the_weights(folder, tmp_path):
    whole = network(folder, Wishes())
    asked = Wishes(gguf=save_gguf(tmp_path / "small.gguf", whole))
    small = network(folder, asked)
    expected, found = answer(whole), answer(small)
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()  # 8 bits are not 32
    assert transformer.weight_bytes(small, asked) < 0.5 * sum(
        p.numel() * 4 for p in whole.parameters()
    )
    prior = vace.load("wan_vace_1.3b", folder, device="cpu", size=(64, 64), frames=5, asked=asked)
    prior.levels(2)
    assert not any(rung.store_8bit for rung in prior.residence._rungs)


def test_a_gguf_file_that_does_not_fit_is_said(folder, tmp_path):
    whole = network(folder, Wishes())
    lacking = save_gguf(tmp_path / "lacking.gguf", whole, drop="blocks.1.attn1.to_q.weight")
    with pytest.raises(UserError, match=r"no GGUF file of this model .tensors are missing"):
        network(folder, Wishes(gguf=lacking))
    (tmp_path / "cut.gguf").write_bytes(lacking.read_bytes()[:300])
    with pytest.raises(UserError, match="damaged or no GGUF file"):
        network(folder, Wishes(gguf=tmp_path / "cut.gguf"))
    with pytest.raises(UserError, match="few bits"):
        network(
            folder,
            Wishes(gguf=save_gguf(tmp_path / "a.gguf", whole), lora=tmp_path / "b.safetensors"),
        )


def test_without_the_package_it_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(transformer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="package gguf") as caught:
        network(folder, Wishes(gguf=tmp_path / "x.gguf"))
    assert "pip install gguf" in caught.value.hint


def test_another_attention_kernel_gives_the_same_answer(folder):
    plain, other = network(folder, Wishes()), network(folder, Wishes(attention="_native_math"))
    assert torch.allclose(answer(plain), answer(other), atol=1e-4)


@pytest.mark.parametrize("kernel", ["sage", "flash"])
def test_an_attention_kernel_that_is_not_installed_is_named(folder, kernel):
    from diffusers.utils import is_flash_attn_available, is_sageattention_available

    if is_sageattention_available() or is_flash_attn_available():
        pytest.skip("the kernels are installed here")
    with pytest.raises(UserError, match=f"attention kernel {kernel} cannot be used") as caught:
        network(folder, Wishes(attention=kernel))
    assert "native" in caught.value.hint


def test_a_lora_of_the_user_is_added(folder, tmp_path):
    generator = torch.Generator().manual_seed(0)
    down, up = (0.3 * torch.randn(*s, generator=generator) for s in ((4, 32), (32, 4)))
    save_file(
        {
            "diffusion_model.blocks.0.self_attn.q.lora_down.weight": down,
            "diffusion_model.blocks.0.self_attn.q.lora_up.weight": up,
        },
        tmp_path / "l.safetensors",
    )
    changed = network(folder, Wishes(lora=tmp_path / "l.safetensors"))
    plain = network(folder, Wishes())
    assert torch.allclose(
        changed.blocks[0].attn1.to_q.weight,
        plain.blocks[0].attn1.to_q.weight + up @ down,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", ["patch", "viewcrafter_25", "svd", "cogvideox_i2v", "ltx"])
def test_priors_refuse_a_lora_that_they_cannot_use(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    (tmp_path / "l.safetensors").write_bytes(b"x")
    savers = {
        "svd": tiny.save_svd,
        "cogvideox_i2v": lambda f: tiny.save_cogvideox(f, (64, 64)),
        "ltx": tiny.save_ltx,
    }
    if name in savers:
        savers[name](tmp_path / name)
    wanted = settings.make(
        prior=name, lora=str(tmp_path / "l.safetensors"), segment_length=5, overlap=2
    )
    with pytest.raises(UserError, match=f"{name} cannot use the setting lora"):
        make_prior(wanted, PICTURE, "cpu")


@pytest.mark.parametrize("setting", ["lora", "gguf"])
@pytest.mark.parametrize("name", ["patch", "wan_vace_1.3b"])
def test_files_that_are_not_there_are_named(name, setting, tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    tiny.save_wan_vace(tmp_path / "wan_vace_1.3b")
    with pytest.raises(UserError, match=rf"absent\.bin, which {setting} names"):
        make_prior(
            settings.make(prior=name, **{setting: str(tmp_path / "absent.bin")}), PICTURE, "cpu"
        )


def test_the_distilled_variant_takes_no_second_lora(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    tiny.save_wan_vace(tmp_path / "wan_vace_14b")
    mine = (
        tiny.save_wan_lora(tmp_path / "wan_14b_lightx2v")
        / "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors"
    )
    with pytest.raises(UserError, match="LoRA of its own"):
        make_prior(settings.make(prior="wan_vace_14b_fast", lora=str(mine)), PICTURE, "cpu")
    assert "wan_vace_14b_fast" in REGISTRY


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
