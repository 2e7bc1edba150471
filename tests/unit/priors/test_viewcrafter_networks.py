"""ViewCrafter's networks have the released names and sizes, and give the original's numbers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.method import sampler
from engine.models import tensor_file
from engine.models.memory import Demand, Residence, Rung
from engine.priors.base import Level
from engine.priors.image_tower import tower_picture
from engine.priors.viewcrafter import loader
from engine.priors.viewcrafter import prior as viewcrafter
from engine.priors.viewcrafter.resampler import Resampler, ResamplerConfig
from engine.priors.viewcrafter.unet import UNetConfig, ViewCrafterUNet
from tests import tiny_models as tiny

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "viewcrafter.npz") as file:
        return dict(file)


def draws(seed: int):
    """The inputs that the original programs were given, in their order."""
    rng = np.random.default_rng(seed)
    return lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def filled(module: torch.nn.Module) -> torch.nn.Module:
    tensor_file.fill(module, tiny.seeded(tiny.shapes(module)), torch.float32, "test", "")
    return module


def assert_equal(found: Tensor, golden: np.ndarray, tolerance: float) -> None:
    assert tuple(found.shape) == golden.shape
    assert golden.std() > 0.1  # a constant would prove nothing
    assert (found - torch.from_numpy(golden)).abs().max() < tolerance


@torch.no_grad()
def test_unet_equals_the_original_in_both_token_rules(golden):
    unet, rnd = filled(ViewCrafterUNet(tiny.UNET)), draws(1)
    for frames in (
        2,
        3,
    ):  # 32 image tokens: 16 for each of two frames, all of them for each of three
        x, text, image = rnd(2, 8, frames, 8, 8), rnd(2, 77, 24), rnd(2, 32, 24)
        v = unet(x, torch.tensor([999, 319]), text, image, torch.tensor([10, 10]))
        assert_equal(v, golden[f"unet_{frames}"], 1.5e-5)


@torch.no_grad()
def test_resampler_equals_the_original(golden):
    rnd = draws(1)
    for frames in (2, 3):
        rnd(2, 8, frames, 8, 8), rnd(2, 77, 24), rnd(2, 32, 24)
    assert_equal(filled(Resampler(tiny.RESAMPLER))(rnd(2, 5, 40)), golden["resampler"], 1.5e-5)


@torch.no_grad()
def test_autoencoder_and_towers_equal_the_originals(golden):
    state, rnd = tiny.viewcrafter_state(), draws(2)
    frames, latents, pictures = rnd(2, 3, 16, 24), rnd(2, 4, 8, 12), rnd(2, 3, 28, 28)
    # The golden networks had no prefix before their names, on which the seeded weights depend.
    plain = {
        "first_stage_model.": tiny.vae_shapes(tiny.VIEWCRAFTER.vae),
        "embedder.model.visual.": tiny.vision_shapes(tiny.VIEWCRAFTER),
        "cond_stage_model.model.": tiny.text_shapes(tiny.VIEWCRAFTER),
    }
    for prefix, shapes in plain.items():
        state |= {prefix + name: tensor for name, tensor in tiny.seeded(shapes).items()}
    parts = loader.build(state, tiny.VIEWCRAFTER, dtype=torch.float32, where="test")
    assert_equal(parts.vae.encode(frames).latent_dist.mode(), golden["vae_mean"], 1e-5)
    assert_equal(parts.vae.decode(latents).sample, golden["vae_decoded"], 2e-5)
    assert_equal(parts.vision(pictures).last_hidden_state, golden["vision"], 1e-5)
    text = loader.build_text_tower(state, tiny.VIEWCRAFTER, where="test")
    tokens = torch.tensor(
        [viewcrafter._tokens(sentence, tiny.VIEWCRAFTER) for sentence in ("", viewcrafter.PROMPT)]
    )
    assert_equal(text(tokens).last_hidden_state[:, ::8], golden["text"], 1e-5)
    assert_equal(tower_picture(rnd(1, 3, 72, 100), 28), golden["clip_picture"], 1e-5)


def test_schedule_is_the_originals(golden):
    abar = viewcrafter.cumulative_alphas()
    assert abar[-1] == 0.0
    assert abar[::37].numpy() == pytest.approx(golden["abar"], abs=1e-7)
    assert viewcrafter.timesteps(50) == list(range(999, 0, -20))
    assert viewcrafter.timesteps(7) == [999, 856, 713, 570, 428, 285, 142]


def make_prior(
    unet: ViewCrafterUNet, guidance: float = 7.5, rung: Rung | None = None
) -> viewcrafter.ViewCrafter:
    scale = torch.cat([torch.linspace(1.0, 0.3, 400), torch.full((1000,), 0.3)])
    parts = loader.Parts(unet, torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity(), scale)
    residence = Residence("cpu", Demand(1, 1, 1, 1, 1, 1), unet, [], rung)
    spec = viewcrafter._spec(
        "viewcrafter_25", viewcrafter.variant_of("viewcrafter_25"), tiny.VIEWCRAFTER
    )
    return viewcrafter.ViewCrafter(
        spec, parts, torch.zeros(2, 77, 24), residence, guidance=guidance
    )


@pytest.mark.parametrize("steps", [5, 7])
def test_a_short_sampling_run_equals_the_originals_sampler(golden, monkeypatch, steps):
    rnd = draws(2)
    for shape in ((2, 3, 16, 24), (2, 4, 8, 12), (2, 3, 28, 28), (1, 3, 72, 100)):
        rnd(*shape)
    render, text, image, x_start = (
        rnd(1, 4, 3, 8, 8),
        rnd(2, 77, 24),
        rnd(2, 32, 24),
        rnd(1, 4, 3, 8, 8),
    )
    prior = make_prior(filled(ViewCrafterUNet(tiny.UNET)))
    monkeypatch.setattr(
        sampler, "initial_noise", lambda shape, generator, level: (x_start[0], x_start[0])
    )
    clips = sampler.sample(
        prior,
        viewcrafter.Condition(render, text, image),
        torch.zeros(4, 3, 8, 8),
        torch.zeros(3, 8, 8),
        steps=steps,
        generator=prior.generator(0),
        both=False,
    )
    assert_equal(clips.free[None], golden[f"sample_{steps}"], 2e-4)


@torch.no_grad()
def test_branches_computed_apart_equal_branches_computed_together():
    rnd, unet = draws(3), filled(ViewCrafterUNet(tiny.UNET))
    x, condition = (
        rnd(2, 4, 3, 8, 8),
        viewcrafter.Condition(rnd(1, 4, 3, 8, 8), rnd(2, 77, 24), rnd(2, 32, 24)),
    )
    results = []
    for branches in (4, 1):
        prior = make_prior(unet, rung=Rung(branches, "none"))
        prior.levels(5)
        results.append(prior.predict(x, 1, condition))
    for together, apart in zip(*results, strict=True):
        assert (together - apart).abs().max() < 1e-4 * together.abs().max()
    one_run = prior.predict(x[:1], 1, condition)
    assert (one_run[0] - results[0][0][:1]).abs().max() < 1e-4 * one_run[0].abs().max()


def test_prediction_inverts_the_level():
    """A network that knows the answer gives back exactly the clean latents and the noise."""
    rnd = draws(4)
    x0, eps, level = rnd(1, 4, 2, 8, 8), rnd(1, 4, 2, 8, 8), Level(5, 0.6, 0.8)
    from engine.priors import notation

    back = notation.from_velocity(level.a * eps - level.b * x0, level.a * x0 + level.b * eps, level)
    assert torch.allclose(back[0], x0, atol=1e-6)
    assert torch.allclose(back[1], eps, atol=1e-6)


def test_full_size_networks_have_exactly_the_released_names_and_shapes():
    with gzip.open(GOLDEN / "viewcrafter_keys.json.gz") as file:
        released = json.load(file)
    with torch.device("meta"):
        unet, resampler = ViewCrafterUNet(UNetConfig()), Resampler(ResamplerConfig())
        vae, vision = (
            loader._empty_vae(loader.VAEConfig()),
            loader._empty_vision(loader.ModelConfig()),
        )
    assert tiny.shapes(unet) == {name: tuple(shape) for name, shape in released["unet"].items()}
    assert tiny.shapes(resampler) == {
        name: tuple(shape) for name, shape in released["resampler"].items()
    }
    count = [sum(p.numel() for p in m.parameters()) for m in (unet, resampler, vae)]
    assert count == [1_438_854_980, 48_787_456, 83_653_863]
    assert [len(m.state_dict()) for m in (unet, resampler, vae)] == [1516, 51, 248]
    assert vision.config.hidden_size == 1280 and len(vision.encoder.layers) == 32


def test_full_size_checkpoints_load_without_memory():
    """Names and shapes of a whole released checkpoint go through the converters and fill every
    network.
    """
    config = loader.ModelConfig()
    with torch.device("meta"):
        vae_state = {n: torch.empty(s) for n, s in tiny.vae_shapes(config.vae).items()}
        vision_state = {n: torch.empty(s) for n, s in tiny.vision_shapes(config).items()}
        text_state = {n: torch.empty(s) for n, s in tiny.text_shapes(config).items()}
        vae, vision = loader._empty_vae(config.vae), loader._empty_vision(config)
    assert len(vae_state) == 248
    tensor_file.fill(vae, loader.vae_keys(vae_state), torch.float16, "VAE", "")
    tensor_file.fill(vision, loader.vision_keys(vision_state), torch.float16, "vision", "")
    assert len(text_state) == 294
    converted = loader.text_keys(text_state, config.text_layers_used)
    assert sum(t.numel() for t in converted.values()) < sum(t.numel() for t in text_state.values())
    assert not any(name.startswith("encoder.layers.23.") for name in converted)


def test_our_key_map_of_the_autoencoder_agrees_with_diffusers_converter():
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = loader.VAEConfig()
    state = {
        name: torch.empty(shape, device="meta") for name, shape in tiny.vae_shapes(config).items()
    }
    types = {"down_block_types": ["D"] * 4, "up_block_types": ["U"] * 4}
    theirs = convert_ldm_vae_checkpoint(
        {f"first_stage_model.{n}": t for n, t in state.items()}, types
    )
    assert {n: tuple(t.shape) for n, t in loader.vae_keys(state).items()} == {
        n: tuple(t.shape) for n, t in theirs.items()
    }
