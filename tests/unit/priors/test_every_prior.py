"""Every registered prior, made from the settings and small weights on disk, keeps the engine's
promises.

A new prior needs one more line in `SAVERS`; without it the first test fails.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.bridge import settings
from engine.bridge.errors import Cancelled, UserError
from engine.method import sampler
from engine.models.registry import PRIORS
from engine.priors import make_prior, working_multiple
from engine.priors.base import Clip
from tests import tiny_models as tiny

SIZE = (64, 64)
SAVERS = {
    "patch": None,
    "viewcrafter_25": lambda root: tiny.save_viewcrafter(
        root / "viewcrafter_25/model.ckpt", config=tiny.VIEWCRAFTER_CLIP
    ),
    "viewcrafter_25_sparse": lambda root: tiny.save_viewcrafter(
        root / "viewcrafter_25_sparse/model_sparse.ckpt", "module", config=tiny.VIEWCRAFTER_CLIP
    ),
    "viewcrafter_16": lambda root: tiny.save_viewcrafter(
        root / "viewcrafter_16/model.ckpt", "old_name", config=tiny.VIEWCRAFTER_CLIP
    ),
    "viewcrafter_25_512": lambda root: tiny.save_viewcrafter(
        root / "viewcrafter_25_512/model.ckpt", base_scale=0.7, config=tiny.VIEWCRAFTER_CLIP
    ),
    "wan_vace_1.3b": lambda root: tiny.save_wan_vace(root / "wan_vace_1.3b"),
    "wan_vace_14b": lambda root: tiny.save_wan_vace(root / "wan_vace_14b"),
    "wan_vace_14b_fast": lambda root: (
        tiny.save_wan_vace(root / "wan_vace_14b"),
        tiny.save_wan_lora(root / "wan_14b_lightx2v"),
    ),
    "wan_fun_inp_1.3b": lambda root: (
        tiny.save_wan_inp(root / "wan_fun_inp_1.3b"),
        tiny.save_wan_vace(root / "wan_vace_1.3b"),
        tiny.save_wan_image_encoder(root / "wan_image_encoder"),
    ),
    "wan_fun_inp_1.3b_fast": lambda root: (
        tiny.save_wan_inp(root / "wan_fun_inp_1.3b"),
        tiny.save_wan_vace(root / "wan_vace_1.3b"),
        tiny.save_wan_image_encoder(root / "wan_image_encoder"),
        tiny.save_rcm(root / "wan_1.3b_rcm"),
    ),
    "wan_vace_1.3b_fast": lambda root: (
        tiny.save_wan_vace(root / "wan_vace_1.3b"),
        tiny.save_rcm(root / "wan_1.3b_rcm"),
    ),
    "fixanything": tiny.save_fixanything,
    "fixanything_fast": lambda root: tiny.save_fixanything(root, fast=True),
    "svd": lambda root: tiny.save_svd(root / "svd"),
    "cogvideox_i2v": lambda root: tiny.save_cogvideox(root / "cogvideox_i2v", SIZE),
    "ltx": lambda root: tiny.save_ltx(root / "ltx"),
    "ltx_13b_fast": lambda root: tiny.save_ltx(root / "ltx_13b_fast"),
}
NAMES = pytest.mark.parametrize("name", list(PRIORS))
WITH_WEIGHTS = pytest.mark.parametrize("name", [n for n, row in PRIORS.items() if row.weights])


def test_every_registered_prior_is_tried_here():
    assert set(SAVERS) == set(PRIORS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> prior, each made once."""
    root, cache = tmp_path_factory.mktemp("weights"), {}

    def make(name: str):
        if name not in cache:
            if SAVERS[name] is not None:
                SAVERS[name](root)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SCENE_SPLATTER_WEIGHTS", str(root))
                cache[name] = make_prior(
                    settings.make(prior=name, segment_length=5, overlap=2), clip(5).image, "cpu"
                )
        return cache[name]

    return make


def clip(frames: int) -> Clip:
    g = torch.Generator().manual_seed(0)
    wide = torch.nn.functional.interpolate(
        torch.rand(1, 3, 6, 9, generator=g), size=(64, 64 + 4 * frames), mode="bicubic"
    )[0]
    render = torch.stack([wide[:, :, 4 * f : 4 * f + 64] for f in range(frames)]).clamp(0, 1)
    known = torch.ones(frames, 1, *SIZE)
    known[1:, :, :, 40:] = 0.0
    K = torch.tensor([[60.0, 0, 32], [0, 60, 32], [0, 0, 1]]).expand(frames, 3, 3)
    return Clip(render[0], render, known, 3.0 * known, K, torch.eye(4).expand(frames, 4, 4), "")


def run(prior, lam_of, steps: int = 2, **kwargs):
    scene = clip(prior.spec.frames(5))
    condition, latents = prior.condition(scene), prior.encode(scene.render)
    lam = lam_of(latents.new_zeros(latents.shape[1:]))
    clips = sampler.sample(
        prior, condition, latents, lam, steps=steps, generator=prior.generator(7), **kwargs
    )
    return clips, latents


@NAMES
def test_spec_and_shapes(made, name):
    prior = made(name)
    spec, frames = prior.spec, prior.spec.frames(5)
    assert spec.name == name and frames >= 5 and (frames - 1) % spec.t_factor == 0
    assert working_multiple(name) % spec.size_multiple == 0
    assert spec.licence and isinstance(spec.commercial_use, bool)
    assert spec.steps == PRIORS[name].steps >= 1
    assert spec.starts_from_render == PRIORS[name].starts_from_render
    assert spec.sees <= {"render", "mask", "camera", "image", "text"}
    assert (
        "render" in spec.sees
    ) != spec.starts_from_render  # the path of the camera reaches the free run one way or the other
    latents = prior.encode(clip(frames).render)
    assert latents.shape == (
        spec.channels,
        1 + (frames - 1) // spec.t_factor,
        64 // spec.s_factor,
        64 // spec.s_factor,
    )
    assert latents.dtype == torch.float32
    frames_back = prior.decode(latents)
    assert (
        frames_back.shape == (frames, 3, *SIZE)
        and frames_back.min() >= 0
        and frames_back.max() <= 1
    )
    assert prior.features(latents).shape[1] == latents.shape[1]


@WITH_WEIGHTS
def test_a_layer_is_read_in_its_own_call_alone(made, name):
    """Streaming brings the weights of a layer for its own call; elsewhere they are not there."""
    from diffusers.hooks.group_offloading import _GO_LC_SUPPORTED_PYTORCH_LAYERS as STREAMED

    prior = made(name)
    expected = run(prior, torch.zeros_like)[0]
    layers = [m for m in prior.residence._denoiser.modules() if isinstance(m, STREAMED)]
    assert layers
    kept = {p: p.data for layer in layers for p in layer.parameters(recurse=False)}
    away = {p: torch.full_like(data, torch.nan) for p, data in kept.items()}

    def put(values):
        def hook(layer, *_):
            for p in layer.parameters(recurse=False):
                p.data = values[p]

        return hook

    hooks = [
        h
        for layer in layers
        for h in (
            layer.register_forward_pre_hook(put(kept)),
            layer.register_forward_hook(put(away)),
        )
    ]
    try:
        for layer in layers:
            put(away)(layer)
        got = run(prior, torch.zeros_like)[0]
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            put(kept)(layer)


@NAMES
def test_levels_begin_noisy_and_end_clean(made, name):
    prior = made(name)
    for steps in (2, 4, prior.spec.steps):
        levels = prior.levels(steps)
        assert len(levels) == steps + 1
        noise = [level.b / max(level.a, 1e-9) for level in levels]
        assert noise == sorted(noise, reverse=True) and noise[0] >= 9.0 and noise[-1] < 0.05
        assert all(prior.z_scale(i) > 0 for i in range(steps + 1)) and prior.z_scale(
            steps
        ) == pytest.approx(1.0)


@NAMES
def test_prediction_explains_its_input(made, name):
    """x = a * x0_hat + b * eps_hat, whatever the network says."""
    prior = made(name)
    scene = clip(prior.spec.frames(5))
    condition, levels = prior.condition(scene), prior.levels(4)
    x = torch.randn(2, *prior.encode(scene.render).shape, generator=prior.generator(1))
    for i in (1, 3):
        x0_hat, eps_hat = prior.predict(x * levels[i].b, i, condition)
        assert x0_hat.shape == x.shape and bool(torch.isfinite(x0_hat).all())
        again = levels[i].a * x0_hat + levels[i].b * eps_hat
        assert torch.allclose(again, x * levels[i].b, atol=1e-3 * float(x.abs().max()))


@NAMES
def test_full_momentum_keeps_the_render_and_the_first_frame_alone_if_asked(made, name):
    prior = made(name)
    clips, latents = run(prior, lambda zero: zero + 1)
    last = prior.levels(2)[-1]
    slack = 6.0 * last.b + 1e-6
    assert (clips.consistent - last.a * latents).abs().max() <= slack
    first, latents = run(prior, lambda zero: torch.cat([zero[:1] + 1, zero[1:]]), both=False)
    assert (first.consistent[:, 0] - last.a * latents[:, 0]).abs().max() <= slack
    none, _ = run(prior, lambda zero: zero)
    assert torch.equal(none.consistent, none.free)
    assert torch.allclose(none.free, clips.free, atol=1e-3)


@NAMES
def test_the_seed_decides(made, name):
    prior = made(name)
    a, _ = run(prior, lambda zero: zero + 0.5)
    b, _ = run(prior, lambda zero: zero + 0.5)
    assert torch.equal(a.consistent, b.consistent) and torch.equal(a.free, b.free)


@NAMES
def test_cancel_within_one_step(made, name):
    def report(done: int, total: int) -> None:
        if done == 1:
            raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        run(made(name), lambda zero: zero, report=report)


@WITH_WEIGHTS
@pytest.mark.parametrize("stage", ["condition", "encode", "predict", "decode"])
def test_out_of_memory_at_any_stage_steps_down_once_and_finishes(made, name, stage, monkeypatch):
    prior = made(name)
    scene, home = clip(prior.spec.frames(5)), prior.residence
    latents, condition = prior.encode(scene.render), prior.condition(scene)
    prior.levels(2)
    monkeypatch.setattr(home, "rung", home._rungs[0])
    monkeypatch.setattr(home, "_steps_left", 2)
    ready = "denoiser" if stage == "predict" else "companions"
    real, calls = getattr(home, ready), []

    def scarce() -> None:
        calls.append(home.rung)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        real()

    monkeypatch.setattr(home, ready, scarce)
    again = scene.to(torch.device("cpu"))  # nothing of it has been seen before
    again = dataclasses.replace(again, render=again.render.clone())
    work = {
        "condition": lambda: prior.condition(again),
        "encode": lambda: prior.encode(again.render),
        "predict": lambda: prior.predict(latents[None], 0, condition),
        "decode": lambda: prior.decode(latents),
    }
    work[stage]()
    assert (
        calls[0] == home._rungs[0]
        and home.rung.estimate < home._rungs[0].estimate
        and home._steps_left == 1
    )


def test_names_that_are_none_are_told_the_others():
    with pytest.raises(UserError, match="viewcrafter_25"):
        make_prior(settings.make(prior="sora"), torch.zeros(3, 8, 8), "cpu")


@WITH_WEIGHTS
def test_absent_weights_say_how_to_get_them(name, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="python -m engine weights download"):
        make_prior(settings.make(prior=name), torch.zeros(3, *SIZE), "cpu")
