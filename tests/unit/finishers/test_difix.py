"""Difix against what others say of its parts: diffusers' step and autoencoder, convolutions beside
convolutions, and the names and sizes of the released weights.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from benchmarks import full_size
from engine.bridge import settings
from engine.bridge.errors import UserError
from engine.finishers import difix, make_finisher
from engine.models import model_folder, registry, weights
from tests import tiny_models as tiny

NAMES = pytest.mark.parametrize("name", list(registry.FINISHERS))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for name in registry.FINISHERS:
        tiny.save_difix(root / name)
    return root


@pytest.fixture
def made(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(root))
    return lambda name: make_finisher(settings.make(finisher=name), (32, 64), "cpu")


def frames(count: int, seed: int = 0) -> torch.Tensor:
    small = torch.rand(count, 3, 4, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, size=(32, 64), mode="bicubic").clamp(0.0, 1.0)


def vae_of(root: Path) -> torch.nn.Module:
    return difix.read_vae(root / "difix" / "vae")


def test_every_finisher_has_a_choice_in_the_settings() -> None:
    rows = {row.name: row for row in settings.table()}
    assert rows["finisher"].choices == (settings.NO_FINISHER, *registry.FINISHERS)


def test_the_step_is_that_of_the_library() -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    theirs.set_timesteps(timesteps=[difix.T])
    z, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = theirs.step(noise, difix.T, z).prev_sample
    torch.testing.assert_close(difix.from_noise(z, noise), expected, atol=1e-5, rtol=1e-5)


def test_without_its_skips_the_decoder_is_the_librarys(root: Path) -> None:
    vae = vae_of(root)
    for number in range(1, 5):
        torch.nn.init.zeros_(getattr(vae.decoder, f"skip_conv_{number}").weight)
    shown = frames(2) * 2.0 - 1.0
    with torch.no_grad():
        means, held = difix.encode(vae, shown)
        assert torch.equal(means, vae.encode(shown).latent_dist.mode())
        assert torch.equal(difix.decode(vae, means, held), vae.decode(means).sample)


def test_the_skips_bring_what_the_encoder_held(root: Path) -> None:
    vae = vae_of(root)
    shown, other = frames(1) * 2.0 - 1.0, frames(1, seed=1) * 2.0 - 1.0
    with torch.no_grad():
        means, held = difix.encode(vae, shown)
        own = difix.decode(vae, means, held)
        foreign = difix.decode(vae, means, difix.encode(vae, other)[1])
    assert own.shape == shown.shape
    assert not torch.allclose(own, foreign, atol=1e-3)


def test_a_low_rank_addition_is_what_it_is_beside_its_layer() -> None:
    """peft runs x -> W x + alpha / rank * B (A x); convolutions too, B with a kernel of one."""
    g = torch.Generator().manual_seed(0)
    w, b = torch.randn(6, 5, 3, 3, generator=g), torch.randn(6, generator=g)
    down, up = torch.randn(4, 5, 3, 3, generator=g), torch.randn(6, 4, 1, 1, generator=g)
    state = {
        "c.base_layer.weight": w,
        "c.base_layer.bias": b,
        "c.lora_A.vae_skip.weight": down,
        "c.lora_B.vae_skip.weight": up,
    }
    plain = difix.without_adapter(state)
    assert set(plain) == {"c.weight", "c.bias"}
    x = torch.randn(2, 5, 9, 9, generator=g)
    beside = F.conv2d(x, w, b) + difix.ALPHA / 4 * F.conv2d(F.conv2d(x, down), up)
    torch.testing.assert_close(F.conv2d(x, plain["c.weight"], b), beside, atol=1e-4, rtol=1e-4)
    assert difix.without_adapter(plain) == plain


@pytest.mark.parametrize("gone", ["lora_A", "lora_B", "base_layer.weight"])
def test_half_an_addition_is_refused(gone: str) -> None:
    state = {
        "c.base_layer.weight": torch.zeros(6, 5, 1, 1),
        "c.lora_A.vae_skip.weight": torch.zeros(4, 5, 1, 1),
        "c.lora_B.vae_skip.weight": torch.zeros(6, 4, 1, 1),
    }
    with pytest.raises(UserError, match="LoRA of c"):
        difix.without_adapter({k: v for k, v in state.items() if gone not in k})


def test_two_equal_views_are_one(root: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = model_folder.part(root / "difix_ref", "unet", UNet2DConditionModel, torch.float32)
    g = torch.Generator().manual_seed(0)
    z, other = torch.randn(2, 1, 4, 8, 8, generator=g)
    text = torch.randn(1, 7, 32, generator=g).expand(2, -1, -1)

    def ask(latents: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return unet(latents, difix.T, encoder_hidden_states=text[: len(latents)]).sample

    alone = ask(z)
    difix.look_together(unet, 2)
    together = ask(torch.cat([z, z]))
    torch.testing.assert_close(together, alone.expand(2, -1, -1, -1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ask(torch.cat([z, other]))[:1], alone, atol=1e-3)


@NAMES
def test_frames_are_repaired_alone_the_same_every_time_and_by_what_is_shown(made, name) -> None:
    finisher, shown, picture = made(name), frames(2), frames(1, seed=2)[0]
    assert finisher.name == name and finisher.licence == registry.FINISHERS[name].licence
    out = finisher.finish(shown, picture)
    assert out.shape == shown.shape and out.min() >= 0.0 and out.max() <= 1.0
    assert torch.equal(out[1:], finisher.finish(shown[1:], picture))
    other = finisher.finish(shown, frames(1, seed=3)[0])
    assert torch.equal(out, other) == (name == "difix")  # only one of them sees the picture


@NAMES
def test_a_layer_is_read_in_its_own_call_alone(made, name) -> None:
    """Streaming brings the weights of a layer for its own call; elsewhere they are not there."""
    from diffusers.hooks.group_offloading import _GO_LC_SUPPORTED_PYTORCH_LAYERS as STREAMED

    finisher, shown = made(name), frames(1)
    expected = finisher.finish(shown, shown[0])
    kept = [
        (layer, {n: p.data for n, p in layer.named_parameters(recurse=False)})
        for layer in finisher.residence._denoiser.modules()
        if isinstance(layer, STREAMED)
    ]
    assert kept

    def put(values):
        def hook(layer, *_):
            for n, data in values.items():
                getattr(layer, n).data = data

        return hook

    for layer, values in kept:
        away = put({n: torch.full_like(data, torch.nan) for n, data in values.items()})
        away(layer)
        layer.register_forward_pre_hook(put(values))
        layer.register_forward_hook(away)
    assert torch.equal(finisher.finish(shown, shown[0]), expected)


@NAMES
def test_absent_weights_say_how_to_get_them(name, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=f"weights download {name}"):
        make_finisher(settings.make(finisher=name), (32, 64), "cpu")


@pytest.mark.parametrize("change", ["cut", "key", "size", "config"])
def test_damaged_weights_are_refused(change: str, root: Path, tmp_path: Path, monkeypatch) -> None:
    home = tiny.save_difix(tmp_path / "difix") / "vae"
    file = home / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    if change == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif change == "config":
        (home / "config.json").write_text("[]")
    else:
        name = "decoder.skip_conv_3.base_layer.weight"
        taken = state.pop(name)
        state["decoder.skip_conv_9.weight" if change == "key" else name] = taken[:1].clone()
        save_file(state, file)
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(UserError):
        make_finisher(settings.make(finisher="difix"), (32, 64), "cpu")


def test_every_released_tensor_has_its_place() -> None:
    """The released autoencoder is 339 MB: float32, the LoRA beside the weights it is added to."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        plain = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ).state_dict()
    assert len(plain) == 248  # Stable Diffusion's
    released = tiny.difix_vae_state(plain, (128, 256, 512, 512))
    assert released["decoder.skip_conv_4.base_layer.weight"].shape == (256, 128, 1, 1)
    assert sum("lora_A.vae_skip" in name for name in released) == 43
    assert sum(4 * t.numel() for t in released.values()) / 1e6 == pytest.approx(338.7, abs=0.1)
    unet, vae = full_size.finisher_networks(torch.float32, "meta")
    read = difix.without_adapter(released)
    assert {n: t.shape for n, t in read.items()} == {
        n: t.shape for n, t in vae.state_dict().items()
    }
    weights_of_unet = sum(4 * p.numel() for p in unet.parameters())
    assert weights_of_unet / 1e9 == pytest.approx(3.46, abs=0.01)  # as the hub says


@NAMES
def test_it_runs_at_full_size_on_tensors_without_values(name: str, monkeypatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        finisher = full_size.make_finisher(name, 288, 512, device="cpu")
        # torch moves no module without values
        monkeypatch.setattr(finisher.residence, "_place", lambda *_, **__: None)
        shown = torch.zeros(1, 3, 288, 512)
        assert finisher.finish(shown, shown[0]).shape == shown.shape


@NAMES
def test_the_memory_in_the_registry_is_what_is_worked_out(name: str) -> None:
    from benchmarks.prior_memory import needed

    unet, vae = full_size.finisher_networks(torch.float16, "meta")
    height, width = registry.FINISHERS[name].trained
    asked = full_size.finisher_demand(name, unet, vae, height, width)
    assert registry.FINISHERS[name].least_gib == pytest.approx(needed(asked)[0], abs=0.05)


@NAMES
def test_conditions_are_told_before_the_download(name: str) -> None:
    row = registry.FINISHERS[name]
    assert not row.commercial_use and re.search("Stability AI", row.licence)
    listed = json.dumps(["unet/diffusion_pytorch_model.safetensors", "vae/autoencoder_kl.py"])
    assert weights.selected(name, json.loads(listed)) == json.loads(listed)[:1]  # never code
