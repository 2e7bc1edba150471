"""Wan Fun InP: its authors' names, the stock pipeline's numbers, and the mask's layout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.bridge.errors import UserError
from engine.priors.base import Clip
from engine.priors.wan import inp
from engine.priors.wan.names import tensor_name
from tests import tiny_models as tiny

FRAMES, SIZE = 5, (32, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    (
        tiny.save_wan_inp(root / "inp"),
        tiny.save_wan_vace(root / "vace"),
        tiny.save_wan_image_encoder(root / "vision"),
    )
    return root


@pytest.fixture(scope="module")
def prior(folder) -> inp.WanInP:
    parts = (folder / "inp", folder / "vace", folder / "vision")
    return inp.load("wan_fun_inp_1.3b", *parts, device="cpu", size=SIZE, frames=FRAMES)


def make_clip() -> Clip:
    g = torch.Generator().manual_seed(0)
    h, w = SIZE
    render = torch.nn.functional.interpolate(
        torch.rand(FRAMES, 3, 4, 8, generator=g), size=SIZE, mode="bicubic"
    ).clamp(0, 1)
    render = (render * 255).round() / 255
    known = torch.zeros(FRAMES, 1, h, w)
    known[0] = 1.0
    K, pose = torch.eye(3).expand(FRAMES, 3, 3), torch.eye(4).expand(FRAMES, 4, 4)
    return Clip(render[0], render, known, known, K, pose, "")


def test_names_are_those_of_diffusers_converter(folder):
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    state = load_file(folder / "inp" / "diffusion_pytorch_model.safetensors")
    theirs = convert_wan_transformer_to_diffusers(dict(state))
    ours = {tensor_name(name): tensor for name, tensor in state.items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "blocks.0.attn1.to_q.weight" in ours and "blocks.0.scale_shift_table" in ours


def test_with_the_first_frame_alone_it_equals_the_stock_image_to_video_pipeline(prior):
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline

    clip, steps = make_clip(), 4
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    usual = scheduler.set_timesteps
    scheduler.set_timesteps = lambda n, device=None: usual(
        sigmas=[1.0 - k / n for k in range(n)], device=device
    )
    pipe = WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=prior._latents.vae,
        scheduler=scheduler,
        transformer=prior._transformer,
        image_encoder=None,
        image_processor=None,
    )
    pipe.set_progress_bar_config(disable=True)
    condition = prior.condition(clip)
    pipe.encode_image = lambda image, device=None: (
        condition.image
    )  # its processor crops; Wan's own code, and ours, does not
    picture = Image.fromarray((clip.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    noise = torch.randn(1, 16, 2, 4, 8, generator=torch.Generator().manual_seed(5))
    theirs = pipe(
        picture,
        height=SIZE[0],
        width=SIZE[1],
        num_frames=FRAMES,
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=6.0,
        prompt_embeds=prior._text[1:],
        negative_prompt_embeds=prior._text[:1],
        output_type="latent",
    ).frames
    x, levels = noise, prior.levels(steps)
    for i in range(steps):
        x0, eps = prior.predict(x, i, condition)
        x = levels[i + 1].a * x0 + levels[i + 1].b * eps
    assert theirs.std() > 0.1
    assert (x - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_render_mask_and_picture_are_looked_at(prior):
    clip = make_clip()
    seen = dataclasses.replace(clip, known=torch.ones_like(clip.known))
    prior.levels(4)
    x = torch.randn(1, 16, 2, 4, 8, generator=prior.generator(0))
    base = prior.predict(x, 1, prior.condition(clip))[0]
    for other in (seen, dataclasses.replace(clip, image=1 - clip.image)):
        assert (prior.predict(x, 1, prior.condition(other))[0] - base).abs().max() > 1e-4
    hidden = dataclasses.replace(clip, render=torch.cat([clip.render[:1], 1 - clip.render[1:]]))
    assert torch.equal(
        prior.predict(x, 1, prior.condition(hidden))[0], base
    )  # what is unknown says nothing


def test_mask_channels_are_the_four_frames_of_a_latent():
    known = torch.arange(9, dtype=torch.float32)[:, None, None, None].expand(9, 1, 16, 24)
    channels = inp.mask_channels(known)
    assert channels.shape == (4, 3, 2, 3)
    assert channels[:, :, 0, 0].T.tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_file_that_does_not_fit_is_said(folder, tmp_path):
    state = load_file(folder / "inp" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2}))
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(state | {"stranger.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"1 tensors lacking or unknown: stranger\.weight"):
        inp.load_transformer(tmp_path, torch.float32)
    save_file(state | {"patch_embedding.weight": torch.zeros(24, 16, 1, 2, 2)}, path)
    with pytest.raises(UserError, match="16 input channels, not 36"):
        inp.load_transformer(tmp_path, torch.float32)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        inp.load_transformer(tmp_path, torch.float32)
