"""FixAnything: its authors' condition and sampler, their LoRA's names, and what momentum adds."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from engine.bridge.errors import UserError
from engine.method import sampler
from engine.priors import lora
from engine.priors.base import Clip
from engine.priors.wan import fixanything, vace
from tests import tiny_models as tiny

SIZE, FRAMES, TAIL = (32, 64), 9, 4


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    tiny.save_fixanything(root)
    return root


@pytest.fixture(scope="module")
def prior(root) -> fixanything.FixAnything:
    folders = [root / name for name in ("wan_i2v_14b", "wan_vace_1.3b", "wan_image_encoder")]
    files = [root / "fixanything_lora/fixanything_lora.safetensors"]
    return fixanything.load(
        "fixanything", *folders, files, device="cpu", size=SIZE, frames=FRAMES + TAIL
    )


def make_clip(kept: tuple[int, ...] = (0,)) -> Clip:
    """Nine frames and the last one four times more; frames not in `kept` have a hole."""
    g = torch.Generator().manual_seed(0)
    h, w = SIZE
    wide = torch.nn.functional.interpolate(
        torch.rand(1, 3, 6, 12, generator=g), size=(h, w + 4 * FRAMES), mode="bicubic"
    )[0]
    frames = [wide[:, :, 4 * f : 4 * f + w] for f in range(FRAMES)]
    render = torch.stack([*frames, *[frames[-1]] * TAIL]).clamp(0, 1)
    known = torch.zeros(FRAMES + TAIL, 1, h, w)
    known[..., : w // 2] = 1.0
    known[list(kept)] = 1.0
    count = FRAMES + TAIL
    K, pose = torch.eye(3).expand(count, 3, 3), torch.eye(4).expand(count, 4, 4)
    return Clip(1.0 - render[0], render, known, known, K, pose, "")


def test_a_clip_has_room_for_the_last_frame_four_times_more():
    rule = vace.frames_of("fixanything")
    assert [rule(n) for n in (1, 5, 9, 25, 49, 61)] == [5, 9, 13, 29, 53, 65]
    assert rule(26) == 33
    with pytest.raises(UserError, match="at most 61 frames"):
        rule(62)


def test_the_condition_is_its_authors(prior):
    """One flag a frame, the first frame's four times; the render as it is; CLIP of frame 0."""
    clip = make_clip(kept=(0, 5, 6))
    control = prior.condition(clip).control[0]
    flags = [1.0 if f in (0, 5, 6) else 0.0 for f in range(FRAMES + TAIL)]
    flags = [flags[0]] * 3 + flags  # frames of a latent: 0 0 0 0, 1 2 3 4, 5 6 7 8, 8 8 8 8
    for latent in range(4):
        for slot in range(4):
            mask = control[slot, latent]
            assert torch.equal(mask, torch.full_like(mask, flags[4 * latent + slot]))
    assert torch.equal(control[4:], prior.encode(clip.render))  # nothing greyed
    other = dataclasses.replace(clip, image=torch.zeros_like(clip.image))
    assert torch.equal(prior.condition(other).image, prior.condition(clip).image)
    first = clip.render.clone()
    first[0] = 0.3
    changed = prior.condition(dataclasses.replace(clip, render=first)).image
    assert not torch.allclose(changed, prior.condition(clip).image, atol=1e-3)


def test_sampling_without_momentum_equals_its_authors_loop(prior, root):
    """Ten steps of flow matching with shift 5 from pure noise, guided by 5; LoRA added by hand."""
    from diffusers import WanTransformer3DModel

    clip = make_clip()
    condition, latents = prior.condition(clip), prior.encode(clip.render)
    ours = sampler.sample(
        prior,
        condition,
        latents,
        latents.new_zeros(latents.shape[1:]),
        steps=prior.spec.steps,
        generator=prior.generator(4),
    ).free
    assert prior.spec.steps == 10 and not prior.spec.renoises

    network = WanTransformer3DModel.from_pretrained(root / "wan_i2v_14b/transformer").eval()
    state, layers = network.state_dict(), {}
    for key, tensor in tiny.fixanything_lora().items():
        layer, part = key.rsplit(".lora_", 1)
        layers.setdefault(layer, {})[part[0]] = tensor
    own_names = {tiny.wan_own_name(name): name for name in state}
    for layer, parts in layers.items():
        state[own_names[f"{layer}.weight"]] += parts["B"] @ parts["A"]
    x = torch.randn(latents.shape, generator=torch.Generator().manual_seed(4))[None]
    u = [1.0 - k / 10 for k in range(11)]
    sigmas = [5.0 * v / (1.0 + 4.0 * v) for v in u]
    y = condition.control
    with torch.no_grad():
        for now, then in itertools.pairwise(sigmas):
            negative, positive = (
                network(
                    hidden_states=torch.cat([x, y], dim=1),
                    timestep=torch.tensor([1000.0 * now]),
                    encoder_hidden_states=text[None],
                    encoder_hidden_states_image=condition.image,
                    return_dict=False,
                )[0]
                for text in prior._text
            )
            x = x + (then - now) * (negative + 5.0 * (positive - negative))
    assert x.std() > 0.1
    assert (ours - x[0]).abs().max() < 1e-3 * x.abs().max()


def test_what_is_unknown_is_looked_at(prior):
    """Large Gaussians in a hole are what it was taught to repair; Fun InP would be shown grey."""
    clip = make_clip()
    hidden = dataclasses.replace(clip, render=torch.where(clip.known > 0, clip.render, 0.9))
    assert torch.equal(clip.seen, hidden.seen)
    prior.levels(4)
    x = torch.randn(1, *prior.encode(clip.render).shape, generator=prior.generator(0))
    base, other = (prior.predict(x, 1, prior.condition(c))[0] for c in (clip, hidden))
    assert (base - other).abs().max() > 1e-3


def test_a_frame_is_clean_only_if_all_of_it_is_known():
    known = torch.ones(3, 1, 40, 50)
    known[1, :, :1, :2] = 0.0  # a thousandth
    known[2, :, :1, :3] = 0.0
    assert fixanything.clean_frames(known).mean(dim=(1, 2, 3)).tolist() == [1.0, 1.0, 0.0]


def test_the_full_size_lora_fits_the_full_size_network():
    """Names of DiffSynth's training script, rank 64, for the 40 blocks of Wan 2.1 I2V 14B."""
    from benchmarks import full_size

    network = full_size.networks_of("fixanything", torch.bfloat16, "meta")["denoiser"]
    rank, width, inner = 64, 5120, 13824
    sizes = {f"{kind}_attn.{x}": (width, width) for kind in ("self", "cross") for x in "qkvo"}
    sizes |= {"ffn.0": (inner, width), "ffn.2": (width, inner)}
    state = {}
    for block in range(40):
        for layer, (rows, columns) in sizes.items():
            name = f"blocks.{block}.{layer}"
            state[f"{name}.lora_A.default.weight"] = torch.empty(rank, columns, device="meta")
            state[f"{name}.lora_B.default.weight"] = torch.empty(rows, rank, device="meta")
    for prefix in ("", "pipe.dit.", "diffusion_model."):
        layers, unknown = lora.by_layer({prefix + key: value for key, value in state.items()})
        assert not unknown and len(layers) == 400
        assert not lora.misfits(network, layers)
    small = {key: value[:, :8] if "lora_A" in key else value for key, value in state.items()}
    assert len(lora.misfits(network, lora.by_layer(small)[0])) == 400


class _Repairer(torch.nn.Module):
    """An oracle in the network's place: whatever it is shown, it makes `clip` of it."""

    dtype = torch.float32

    def __init__(self, clip: torch.Tensor) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, hidden_states, timestep, **_):
        level = timestep[:, None, None, None, None] / 1000.0
        x = hidden_states[:, :16]
        eps = (x - (1.0 - level) * self.clip) / level
        return ((eps - self.clip),)


@pytest.mark.parametrize("steps", [4, 10])
def test_momentum_keeps_a_place_within_a_frame_that_the_flag_cannot(prior, monkeypatch, steps):
    """The claim: a repaired frame drifts everywhere, for its flag is one; momentum holds what is
    known of it to the render and leaves the rest to the repair.
    """
    clip = make_clip()
    latents, condition = prior.encode(clip.render), prior.condition(clip)
    drift = 0.4 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(prior, "_transformer", _Repairer((latents + drift)[None]))
    lam = torch.zeros(latents.shape[1:])
    lam[:, :, :4] = 0.8  # the left half is known
    runs = sampler.sample(
        prior,
        condition,
        latents,
        lam,
        steps=steps,
        generator=prior.generator(2),
        momentum_start=0.3,
    )
    left = slice(None), slice(None), slice(None), slice(0, 4)
    right = slice(None), slice(None), slice(None), slice(4, None)
    wrong = [(run - latents)[left].square().mean().sqrt() for run in (runs.free, runs.consistent)]
    assert wrong[0] > 0.35 and wrong[1] < 0.25 * wrong[0]
    torch.testing.assert_close(runs.consistent[right], runs.free[right], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(runs.free[right], (latents + drift)[right], atol=1e-3, rtol=1e-3)
