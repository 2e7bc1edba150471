"""Priors on diffusers' networks: loaded from disk as released, equal to the stock pipelines, and
lawful.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.bridge.errors import Cancelled, UserError
from engine.method import sampler
from engine.models import model_folder
from engine.models.memory import Rung
from engine.priors import cogvideox, ltx, notation, svd
from engine.priors.base import Clip
from engine.priors.wan import vace
from tests import tiny_models as tiny

FRAMES, SIZE = 5, (32, 64)


def make_clip(seed: int = 0, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> Clip:
    """A smooth picture that moves, in 8-bit values, with a hole on the right of the later
    frames.
    """
    g = torch.Generator().manual_seed(seed)
    h, w = size
    wide = torch.nn.functional.interpolate(
        torch.rand(1, 3, 4, 8, generator=g), size=(h, w + 4 * frames), mode="bicubic"
    )[0]
    render = torch.stack([wide[:, :, 4 * f : 4 * f + w] for f in range(frames)]).clamp(0, 1)
    render = (render * 255).round() / 255
    known = torch.ones(frames, 1, h, w)
    known[1:, :, :, w // 2 :] = 0.0
    K, pose = torch.eye(3).expand(frames, 3, 3), torch.eye(4).expand(frames, 4, 4)
    return Clip(render[0], render, known, torch.ones_like(known), K, pose, "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "wan_vace_1.3b": tiny.save_wan_vace(root / "wan"),
        "svd": tiny.save_svd(root / "svd", FRAMES),
    } | {
        "cogvideox_i2v": tiny.save_cogvideox(root / "cog"),
        "ltx": tiny.save_ltx(root / "ltx"),
    }


@pytest.fixture(scope="module")
def priors(folders) -> dict[str, object]:
    return {
        "wan_vace_1.3b": vace.load(
            "wan_vace_1.3b", folders["wan_vace_1.3b"], device="cpu", size=SIZE, frames=FRAMES
        ),
        "svd": svd.load("svd", folders["svd"], device="cpu", size=SIZE),
        "cogvideox_i2v": cogvideox.load(
            "cogvideox_i2v", folders["cogvideox_i2v"], device="cpu", size=SIZE, frames=9
        ),
        "ltx": ltx.load("ltx", folders["ltx"], device="cpu", size=SIZE, frames=9),
    }


def clip_for(prior, seed: int = 0) -> Clip:
    return make_clip(seed, prior.spec.frames(FRAMES))


ALL = pytest.mark.parametrize("name", ["wan_vace_1.3b", "svd", "cogvideox_i2v", "ltx"])


def run(prior, clip: Clip, lam: float, steps: int = 3, seed: int = 0, **kwargs) -> sampler.Runs:
    condition, latents = prior.condition(clip), prior.encode(clip.render)
    weight = torch.full(latents.shape[1:], lam)
    return sampler.sample(
        prior, condition, latents, weight, steps=steps, generator=prior.generator(seed), **kwargs
    )


@ALL
def test_shapes_are_what_the_spec_promises(priors, name):
    prior, clip = priors[name], clip_for(priors[name])
    spec = prior.spec
    latents = prior.encode(clip.render)
    h, w = SIZE
    assert latents.shape == (
        spec.channels,
        1 + (clip.render.shape[0] - 1) // spec.t_factor,
        h // spec.s_factor,
        w // spec.s_factor,
    )
    assert prior.encode(clip.image[None]).shape == (
        spec.channels,
        1,
        h // spec.s_factor,
        w // spec.s_factor,
    )
    decoded = prior.decode(latents)
    assert decoded.shape == clip.render.shape
    assert decoded.min() >= 0.0 and decoded.max() <= 1.0
    assert prior.features(latents).shape == (9 * spec.channels, *latents.shape[1:])


@ALL
def test_levels_fall_to_clean(priors, name):
    levels = priors[name].levels(6)
    assert len(levels) == 7
    assert all(a.b > b.b for a, b in itertools.pairwise(levels))
    assert (levels[-1].a, levels[-1].b) == (1.0, 0.0)


@ALL
def test_momentum_of_one_returns_the_render_and_of_zero_the_free_run(priors, name):
    prior, clip = priors[name], clip_for(priors[name])
    full, none, alone = (
        run(prior, clip, 1.0),
        run(prior, clip, 0.0),
        run(prior, clip, 0.0, both=False),
    )
    assert torch.equal(full.consistent, prior.encode(clip.render))
    assert torch.equal(none.consistent, none.free)
    assert torch.allclose(none.free, alone.free, atol=1e-4)
    assert torch.allclose(full.free, none.free, atol=1e-4)
    assert (full.free - full.consistent).std() > 0.05


@ALL
def test_runs_depend_on_the_seed_alone(priors, name):
    prior, clip = priors[name], clip_for(priors[name])
    first, again, other = (run(prior, clip, 0.5, steps=2, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.free, again.free)
    assert not torch.allclose(first.free, other.free, atol=1e-3)


@ALL
def test_branches_computed_apart_equal_branches_computed_together(priors, name):
    prior, clip = priors[name], clip_for(priors[name])
    condition, latents = prior.condition(clip), prior.encode(clip.render)
    x = torch.randn(2, *latents.shape, generator=prior.generator(3))
    prior.levels(4)
    usual = prior.residence.rung
    results = []
    for branches in (4, 1):
        prior.residence.rung = Rung(branches, "none")
        results.append(prior.predict(x, 1, condition)[0])
    prior.residence.rung = usual
    assert (results[0] - results[1]).abs().max() < 1e-4 * results[0].abs().max()


@ALL
def test_cancelling_stops_within_one_step(priors, name):
    calls = []

    def report(done: int, total: int) -> None:
        calls.append(done)
        if done == 1:
            raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        run(priors[name], clip_for(priors[name]), 0.5, report=report)
    assert calls == [0, 1]


def pictures(frames: Tensor) -> list[Image.Image]:
    return [
        Image.fromarray((f.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).squeeze())
        for f in frames
    ]


def test_vace_without_references_equals_the_stock_pipeline(priors, folders):
    """Same networks, same noise, flow-match Euler: our loop and diffusers' give the same
    latents.
    """
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanVACEPipeline,
        WanVACETransformer3DModel,
    )

    folder, prior, clip, steps = folders["wan_vace_1.3b"], priors["wan_vace_1.3b"], make_clip(), 4
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    usual = scheduler.set_timesteps
    scheduler.set_timesteps = lambda n, device=None: usual(
        sigmas=[1.0 - k / n for k in range(n)], device=device
    )
    transformer = WanVACETransformer3DModel.from_pretrained(folder / "transformer").eval()
    vae = AutoencoderKLWan.from_pretrained(folder / "vae").eval()
    pipe = WanVACEPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=scheduler, transformer=transformer
    )
    pipe.set_progress_bar_config(disable=True)
    negative, positive = prior._text[:1], prior._text[1:]
    grey = clip.render * clip.known + 128 / 255 * (1 - clip.known)
    x_start = torch.randn(1, 16, 2, 4, 8, generator=torch.Generator().manual_seed(5))
    theirs = pipe(
        video=pictures(grey),
        mask=pictures(1 - clip.known),
        height=SIZE[0],
        width=SIZE[1],
        num_frames=FRAMES,
        latents=x_start,
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        num_inference_steps=steps,
        guidance_scale=5.0,
        output_type="latent",
    ).frames
    plain = vace.WanVACE(
        prior.spec,
        prior._transformer,
        vae,
        prior._text,
        prior.residence,
        shift=3.0,
        references=False,
    )
    levels, x, condition = plain.levels(steps), x_start, plain.condition(clip)
    for i in range(steps):
        x0, eps = plain.predict(x, i, condition)
        x = levels[i + 1].a * x0 + levels[i + 1].b * eps
    # grey is 128 of 255 there and exactly the middle here
    assert (x - theirs).abs().max() < 5e-3 * theirs.abs().max()
    assert theirs.std() > 0.1


def test_vace_looks_at_render_mask_picture_and_prompt(priors, folders):
    prior, clip, other = priors["wan_vace_1.3b"], make_clip(), make_clip(seed=1)
    prior.levels(4)
    x = torch.randn(1, 16, 2, 4, 8, generator=prior.generator(0))

    def answer(prior=prior, **changes) -> Tensor:
        return prior.predict(x, 1, prior.condition(dataclasses.replace(clip, **changes)))[0]

    base = answer()
    prompted = vace.load(
        "wan_vace_1.3b", folders["wan_vace_1.3b"], device="cpu", size=SIZE, prompt="a red room"
    )
    prompted.levels(4)
    for changed in (
        answer(render=other.render),
        answer(known=torch.ones_like(clip.known)),
        answer(image=other.image),
        answer(prior=prompted),
    ):
        assert (changed - base).abs().max() > 1e-4
    hidden = clip.render.clone()
    hidden[1:, :, :, SIZE[1] // 2 :] = 0.9  # where the scene is unknown, the render says nothing
    assert torch.equal(answer(render=hidden), base)


def test_mask_channels_hold_every_pixel_of_a_cell():
    unknown = (torch.rand(5, 1, 16, 24, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    channels = vace.mask_channels(unknown, 4)
    assert channels.shape == (64, 2, 2, 3)
    picked = (1, 3)  # nearest-exact of 5 frames to 2: the middle of each half
    for j, f in enumerate(picked):
        for row, column in ((0, 0), (3, 5), (7, 7)):
            expected = unknown[f, 0, row::8, column::8]
            assert torch.equal(channels[8 * row + column, j], expected)


def test_flow_levels_are_those_of_flow_match_euler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(sigmas=[1.0 - k / 10 for k in range(10)])
    levels = vace.flow_levels(10, 5.0)
    assert [level.b for level in levels] == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)
    assert [level.network_time for level in levels[:-1]] == pytest.approx(
        scheduler.timesteps.tolist(), abs=1e-3
    )


def test_wan_frames_come_in_fours_after_the_first(priors):
    rule = priors["wan_vace_1.3b"].spec.frames
    assert [rule(n) for n in (1, 2, 5, 6, 25, 81)] == [1, 5, 5, 9, 25, 81]
    with pytest.raises(UserError, match="segment_length to 81"):
        rule(82)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # the stock scheduler's
def test_svd_from_pure_noise_equals_the_stock_pipeline(priors, folders, monkeypatch):
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    monkeypatch.setattr(svd, "_AUGMENTATION", 0.0)  # its noise is drawn differently
    prior, clip, steps = priors["svd"], make_clip(), 4
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_type="continuous",
        timestep_spacing="leading",
    )
    processor = CLIPImageProcessor(crop_size=224, size={"shortest_edge": 224})
    pipe = StableVideoDiffusionPipeline(
        prior._vae, prior._vision, prior._unet, scheduler, processor
    )
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, FRAMES, 4, 4, 8, generator=torch.Generator().manual_seed(5))
    theirs = pipe(
        pictures(clip.render)[0],
        height=SIZE[0],
        width=SIZE[1],
        num_frames=FRAMES,
        num_inference_steps=steps,
        latents=noise,
        noise_aug_strength=0.0,
        output_type="latent",
    ).frames.transpose(1, 2)
    plain = svd.StableVideo(
        prior.spec, prior._unet, prior._vae, prior._vision, prior.residence, start_sigma=700.0
    )
    levels, condition = plain.levels(steps), plain.condition(clip)
    x = noise.transpose(1, 2) * (700.0**2 + 1.0) ** 0.5
    for i in range(steps):
        x0, eps = plain.predict(x, i, condition)
        x = levels[i + 1].a * x0 + levels[i + 1].b * eps
    assert theirs.std() > 0.1
    assert (x - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_svd_follows_the_camera_by_starting_from_the_render(priors):
    """The network sees no render, yet the free run of a moving render differs from that of a still
    one as the render does.
    """
    prior, moving = priors["svd"], make_clip()
    still = dataclasses.replace(moving, render=moving.render[:1].expand(FRAMES, -1, -1, -1))
    assert prior.spec.starts_from_render and "render" not in prior.spec.sees
    a, b = run(prior, moving, 0.0, steps=2).free, run(prior, still, 0.0, steps=2).free
    assert (a[:, -1] - b[:, -1]).abs().max() > 1e-3
    levels = prior.levels(4)
    assert levels[0].b == pytest.approx(svd.START_SIGMA)


def test_svd_decodes_in_even_parts(priors, monkeypatch):
    prior = priors["svd"]
    latents = prior.encode(make_clip(frames=6).render)
    counts: list[int] = []
    decode = prior._vae.decode
    monkeypatch.setattr(
        prior._vae,
        "decode",
        lambda z, num_frames: (counts.append(z.shape[0]), decode(z, num_frames=num_frames))[1],
    )
    for most, expected in ((8, [6]), (4, [3, 3])):
        monkeypatch.setattr(svd, "_MOST_AT_ONCE", most)
        counts.clear()
        assert prior.decode(latents).shape == (6, 3, *SIZE)
        assert counts == expected


def test_cogvideox_from_pure_noise_equals_the_stock_pipeline(priors, folders):
    from diffusers import CogVideoXDDIMScheduler, CogVideoXImageToVideoPipeline

    prior, clip, steps = priors["cogvideox_i2v"], make_clip(frames=9), 4
    scheduler = CogVideoXDDIMScheduler.from_pretrained(folders["cogvideox_i2v"] / "scheduler")
    assert float((scheduler.alphas_cumprod - prior._abar).abs().max()) < 1e-6
    pipe = CogVideoXImageToVideoPipeline(None, None, prior._vae, prior._transformer, scheduler)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 3, 4, 4, 8, generator=torch.Generator().manual_seed(5))
    # the stock pipeline samples the picture's latents; ours takes their mean
    condition = prior.condition(clip)
    prepare = pipe.prepare_latents
    pipe.prepare_latents = lambda *a, **k: (prepare(*a, **k)[0], condition.image)
    theirs = pipe(
        pictures(clip.render)[0],
        height=SIZE[0],
        width=SIZE[1],
        num_frames=9,
        num_inference_steps=steps,
        latents=noise,
        guidance_scale=6.0,
        prompt_embeds=prior._text[1:],
        negative_prompt_embeds=prior._text[:1],
        output_type="latent",
    ).frames.transpose(1, 2)
    plain = cogvideox.CogVideoX(
        prior.spec,
        prior._transformer,
        prior._vae,
        prior._text,
        prior._abar,
        prior.residence,
        start_noise=float("inf"),
    )
    levels, x = plain.levels(steps), noise.transpose(1, 2)
    assert (
        levels[0].a == 0.0
        and [int(level.network_time) for level in levels[:-1]] == scheduler.timesteps.tolist()
    )
    for i in range(steps):
        x0, eps = plain.predict(x, i, condition)
        x = levels[i + 1].a * x0 + levels[i + 1].b * eps
    assert theirs.std() > 0.1
    assert (x - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_cogvideox_encodes_its_condition_as_the_stock_pipeline(priors):
    prior, clip = priors["cogvideox_i2v"], make_clip()
    assert [prior.spec.frames(n) for n in (1, 2, 9)] == [1, 9, 9]
    image = prior.condition(clip).image
    mean = (
        prior._vae.encode(clip.render[:1].transpose(0, 1)[None] * 2 - 1).latent_dist.mode()
        * prior._vae.config.scaling_factor
    )
    assert torch.allclose(image[0, 0], mean[0, :, 0], atol=1e-5)
    assert not image[0, 1:].any()


def test_cogvideox_works_at_its_own_size_alone(folders):
    with pytest.raises(UserError, match="at 64 x 32 alone, not at 64 x 64"):
        cogvideox.load(
            "cogvideox_i2v", folders["cogvideox_i2v"], device="cpu", size=(64, 64), frames=5
        )
    with pytest.raises(UserError, match="at most 9 frames"):
        cogvideox.load(
            "cogvideox_i2v", folders["cogvideox_i2v"], device="cpu", size=SIZE, frames=13
        )


def test_ltx_from_pure_noise_equals_the_stock_pipeline(priors, monkeypatch):
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXConditionPipeline
    from diffusers.pipelines.ltx import pipeline_ltx_condition as stock

    monkeypatch.setattr(
        stock, "retrieve_latents", lambda output, generator=None: output.latent_dist.mode()
    )  # ours takes the mean
    prior, clip, steps = priors["ltx"], make_clip(frames=17), 4
    pipe = LTXConditionPipeline(
        FlowMatchEulerDiscreteScheduler(), prior._vae, None, None, prior._transformer
    )
    pipe.set_progress_bar_config(disable=True)
    text, mask = prior._text["embeddings"], prior._text["mask"]
    theirs = pipe(
        image=pictures(clip.render)[0],
        height=SIZE[0],
        width=SIZE[1],
        num_frames=17,
        frame_rate=25,
        timesteps=[1000, 750, 500, 250],
        generator=torch.Generator().manual_seed(5),
        guidance_scale=3.0,
        image_cond_noise_scale=0.0,
        prompt_embeds=text[1:],
        prompt_attention_mask=mask[1:],
        negative_prompt_embeds=text[:1],
        negative_prompt_attention_mask=mask[:1],
        output_type="latent",
    ).frames
    plain = ltx.LTXVideo(
        prior.spec, prior._transformer, prior._vae, prior._text, prior.residence, start_sigma=1.0
    )
    levels, condition = plain.levels(steps), plain.condition(clip)
    x = torch.randn(
        1, 8, 3, *(side // 32 for side in SIZE), generator=torch.Generator().manual_seed(5)
    )
    for i in range(steps):
        x0, eps = plain.predict(x, i, condition)
        x = levels[i + 1].a * x0 + levels[i + 1].b * eps
    assert theirs.std() > 0.1
    assert (x - theirs).abs().max() < 1e-3 * theirs.abs().max()
    assert torch.equal(x[:, :, :1], condition.first[None])  # the first frame is kept


def test_ltx_tells_every_cell_where_it_is(priors):
    where = ltx.coordinates(3, 2, 4).unflatten(1, (3, 2, 4))
    assert where[0, :, 0, 0].tolist() == pytest.approx(
        [0.0, 1 / 25, 9 / 25]
    )  # the frames that open each latent
    assert where[1, 0, :, 0].tolist() == [0.0, 32.0] and where[2, 0, 0].tolist() == [
        0.0,
        32.0,
        64.0,
        96.0,
    ]
    assert [priors["ltx"].spec.frames(n) for n in (1, 2, 9, 10)] == [1, 9, 9, 17]


def test_predictions_invert_their_levels():
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 4, 2, 3, 3, generator=g), torch.randn(2, 4, 2, 3, 3, generator=g)
    for level in vace.flow_levels(5, 3.0)[1:-1]:
        back = notation.from_flow(eps - x0, level.a * x0 + level.b * eps, level)
        assert torch.allclose(back[0], x0, atol=1e-5) and torch.allclose(back[1], eps, atol=1e-5)
    from engine.priors.base import Level

    for sigma in (0.1, 3.0, 50.0):
        level, x = Level(0, 1.0, sigma), x0 + sigma * eps
        v = (x / (sigma**2 + 1) - x0) * (sigma**2 + 1) ** 0.5 / sigma
        back = notation.from_edm_velocity(v, x, level)
        assert torch.allclose(back[0], x0, atol=1e-4) and torch.allclose(back[1], eps, atol=1e-3)


def test_guidance_rescale_keeps_the_deviation_of_each_run():
    g = torch.Generator().manual_seed(0)
    c, u = torch.randn(2, 4, 3, 3, 3, generator=g), torch.randn(2, 4, 3, 3, 3, generator=g)
    full = notation.guided(c, u, 7.5, 1.0)
    assert torch.allclose(full.std(dim=(1, 2, 3, 4)), c.std(dim=(1, 2, 3, 4)), rtol=1e-5)
    assert torch.allclose(notation.guided(c, u, 1.0, 0.7), c, atol=1e-6)
    assert torch.allclose(
        notation.guided(c[:1], u[:1], 7.5, 0.7), notation.guided(c, u, 7.5, 0.7)[:1], atol=1e-5
    )


def test_broken_folders_are_named_as_what_they_are(folders, tmp_path):
    import shutil

    from diffusers import WanVACETransformer3DModel
    from safetensors.torch import load_file, save_file

    whole = folders["wan_vace_1.3b"]
    with pytest.raises(UserError, match="holds WanVACEPipeline, not StableVideoDiffusionPipeline"):
        svd.load("svd", whole, device="cpu", size=SIZE)
    with pytest.raises(UserError, match=r"model_index\.json"):
        model_folder.require(tmp_path, "X")
    with pytest.raises(UserError, match="is a file"):
        model_folder.require(whole / "model_index.json", "X")
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    lost = sorted(state)[:2]
    save_file({n: t for n, t in state.items() if n not in lost}, weights)
    with pytest.raises(UserError, match=f"lacks 2 tensors: {lost[0]}, {lost[1]}"):
        model_folder.part(broken, "transformer", WanVACETransformer3DModel, torch.float32)
    save_file(state | {"stranger": torch.zeros(2)}, weights)
    with pytest.raises(UserError, match="has unknown 1 tensors: stranger"):
        model_folder.part(broken, "transformer", WanVACETransformer3DModel, torch.float32)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="truncated, damaged"):
        model_folder.part(broken, "transformer", WanVACETransformer3DModel, torch.float32)
    (broken / "transformer" / "config.json").unlink()
    with pytest.raises(UserError, match="not whole"):
        model_folder.part(broken, "transformer", WanVACETransformer3DModel, torch.float32)


def test_the_text_encoder_is_read_once(folders, monkeypatch):
    folder = folders["wan_vace_1.3b"]
    kept = list(folder.glob("text_*.safetensors"))
    assert kept and not list(folder.glob("*.part"))
    reads: list[str] = []
    part = model_folder.part
    monkeypatch.setattr(
        model_folder, "part", lambda f, name, *a: (reads.append(name), part(f, name, *a))[1]
    )
    vace.load("wan_vace_1.3b", folder, device="cpu", size=SIZE)
    assert "text_encoder" not in reads
    json.loads((folder / "model_index.json").read_text())
