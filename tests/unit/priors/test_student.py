"""Distilled networks: their weights in place, their levels, their sampler, and momentum with it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from engine.bridge.errors import UserError
from engine.method import sampler
from engine.models import registry
from engine.priors import notation
from engine.priors.base import Level, PriorSpec
from engine.priors.wan import inp, student, vace
from tests import tiny_models as tiny

SPEC = PriorSpec(
    name="student",
    frames=lambda n: n,
    size_multiple=1,
    native_size=None,
    t_factor=1,
    s_factor=1,
    channels=16,
    steps=4,
    sees=frozenset({"render"}),
    licence="GPL-3.0-or-later",
    commercial_use=True,
    renoises=True,
)
RCM = registry.prior("wan_vace_1.3b_fast").levels


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    tiny.save_wan_vace(root / "wan_vace_1.3b")
    tiny.save_wan_inp(root / "wan_fun_inp_1.3b")
    tiny.save_rcm(root / "wan_1.3b_rcm")
    return root


def _taught(folder: Path) -> Path:
    return folder / "wan_1.3b_rcm/rCM_Wan2.1_T2V_1.3B_480p.pt"


def _vace(folder: Path) -> torch.nn.Module:
    from diffusers import WanVACETransformer3DModel

    return WanVACETransformer3DModel.from_pretrained(folder / "wan_vace_1.3b/transformer").eval()


def test_vace_without_its_control_is_the_student(folder):
    """VACE adds its own layers' words to those of text to video: with none of them said, what is
    left must be the student, computed here by diffusers' own text-to-video network.
    """
    from diffusers import WanTransformer3DModel

    network = _vace(folder)
    before = {n: p.clone() for n, p in network.named_parameters() if n.startswith("vace_")}
    student.replace(network, _taught(folder))
    assert all(torch.equal(p, before[n]) for n, p in network.named_parameters() if n in before)
    config = {k: v for k, v in network.config.items() if "vace" not in k and not k.startswith("_")}
    alone = WanTransformer3DModel(**config).eval()
    alone.load_state_dict(
        {
            name: tensor.reshape(alone.state_dict()[name].shape)
            for name, tensor in student.read(_taught(folder)).items()
        }
    )
    g = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 16, 2, 4, 8, generator=g), torch.randn(1, 512, 32, generator=g)
    told = {"timestep": torch.tensor([700.0]), "encoder_hidden_states": text, "return_dict": False}
    with torch.no_grad():
        ours = network(
            hidden_states=x,
            control_hidden_states=torch.randn(1, 96, 2, 4, 8, generator=g),
            control_hidden_states_scale=torch.zeros(2),
            **told,
        )[0]
        theirs = alone(hidden_states=x, **told)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert theirs.std() > 0.05


def test_adding_what_was_learned_leaves_what_text_to_video_has_not(folder):
    network = inp.load_transformer(folder / "wan_fun_inp_1.3b", torch.float32)
    before = {name: p.clone() for name, p in network.state_dict().items()}
    teacher = _vace(folder).state_dict()
    student.add(network, _taught(folder), teacher)
    taught = student.read(_taught(folder))
    after = network.state_dict()
    name = "blocks.1.attn1.to_q.weight"
    torch.testing.assert_close(after[name], before[name] + taught[name] - teacher[name])
    first = "patch_embedding.weight"
    assert torch.equal(after[first][:, 16:], before[first][:, 16:])
    change = taught[first].reshape(teacher[first].shape) - teacher[first]
    torch.testing.assert_close(after[first][:, :16], before[first][:, :16] + change)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert len(changed) > 40 and not any(
        "image_embedder" in n or "add_" in n or "norm_added" in n for n in changed
    )
    nothing = inp.load_transformer(folder / "wan_fun_inp_1.3b", torch.float32)
    student.add(
        nothing,
        _taught(folder),
        {
            n: t.reshape(before[n][:, :16].shape if n == first else t.shape)
            for n, t in taught.items()
        },
    )
    assert all(torch.equal(t, before[n]) for n, t in nothing.state_dict().items())


@pytest.mark.parametrize("name", ["wan_vace_1.3b", "wan_fun_inp_1.3b"])
def test_the_full_size_student_fits(name):
    """Every tensor of Wan T2V 1.3B, in rCM's naming, has its place in the released networks."""
    import diffusers

    from benchmarks import full_size

    network = full_size.networks_of(name, torch.bfloat16, "meta")["denoiser"]
    with torch.device("meta"):
        alone = diffusers.WanTransformer3DModel(**full_size._WAN_SMALL, **full_size._WAN)
    state = {student.tensor_name(tiny.wan_own_name(n)): t for n, t in alone.state_dict().items()}
    assert state.keys() == alone.state_dict().keys() and len(state) == 825
    state["patch_embedding.weight"] = state["patch_embedding.weight"].flatten(1)
    assert student._fitting(network, state, Path("made"))


def test_what_does_not_fit_is_said_and_changes_nothing(folder, tmp_path):
    network = _vace(folder)
    before = {n: p.clone() for n, p in network.named_parameters()}
    state = tiny.rcm_state()
    short = {k: v for k, v in state.items() if "blocks.2" not in k}
    sparse = state | {"net.blocks.0.self_attn.to_gate_compress.weight": torch.zeros(24, 24)}
    wide = state | {"net.blocks.0.self_attn.q.weight": torch.zeros(48, 48)}
    cases = {
        "short": (short, r"tensors lacking or unknown: blocks\.2"),
        "sparse": (sparse, "1 tensors lacking or unknown: blocks.0.attn1.to_gate_compress.weight"),
        "wide": (wide, r"1 of \d+ tensors have another size, e\.g\. blocks\.0\.attn1\.to_q"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match=message):
            student.replace(network, tmp_path / f"{name}.pt")
    assert all(torch.equal(p, before[n]) for n, p in network.named_parameters())


def test_levels_are_those_of_the_authors():
    """sin t / (sin t + cos t) at tan t = 80, then t = 1.5, 1.4, 1.0 (rCM); shift 5 (LightX2V)."""
    angles = [math.atan(80.0), 1.5, 1.4, 1.0]
    expected = [math.sin(t) / (math.sin(t) + math.cos(t)) for t in angles]
    for steps in (1, 2, 3, 4):
        levels = notation.student_levels(RCM, steps)
        assert [level.b for level in levels] == pytest.approx([*expected[:steps], 0.0], abs=1e-12)
        assert all(level.network_time == pytest.approx(1000 * level.b) for level in levels)
    many = [level.b for level in notation.student_levels(RCM, 7)]
    assert many[0] == pytest.approx(expected[0]) and many[-2] == pytest.approx(expected[-1])
    assert many == sorted(many, reverse=True) and len(set(many)) == 8
    assert many[::2][:4] == pytest.approx(expected)  # every other one is a taught one
    lightx2v = vace.flow_levels(4, registry.prior("wan_vace_14b_fast").options["shift"])
    assert [round(1000 * level.b, 1) for level in lightx2v] == [1000.0, 937.5, 833.3, 625.0, 0.0]
    with pytest.raises(UserError):
        notation.student_levels(RCM, 0)


class _Student:
    """A prior around `guess(x, level) -> the clean clip`."""

    spec = SPEC

    def __init__(self, guess, levels) -> None:
        self._guess, self._of = guess, levels

    def levels(self, steps: int) -> list[Level]:
        self._levels = self._of(steps)
        return self._levels

    def predict(self, x, i, condition):
        level = self._levels[i]
        clean = self._guess(x, level)
        return clean, (x - level.a * clean) / level.b

    def z_scale(self, i: int) -> float:
        return 1.0


SCHEDULES = {
    "rCM": lambda steps: notation.student_levels(RCM, steps),
    "LightX2V": lambda steps: vace.flow_levels(steps, 5.0),
}
ALL_SCHEDULES = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=list(SCHEDULES))
STEPS = pytest.mark.parametrize("steps", [3, 4, 8])
SHAPE = (16, 5, 12, 20)


def _warped(x: torch.Tensor, level: Level) -> torch.Tensor:
    """A guess that depends on all of its input and on the level."""
    return torch.tanh(0.7 * x.roll(1, dims=-1) + 0.2 * x) + 0.1 * level.b


@STEPS
@ALL_SCHEDULES
def test_without_momentum_it_is_the_students_own_sampler(schedule, steps):
    """Guess, noise the guess anew at the next level, guess: as LightX2V, rCM and FastVideo do."""
    prior = _Student(_warped, schedule)
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    runs = sampler.sample(
        prior, None, z, torch.zeros(SHAPE[1:]), steps=steps, generator=_seeded(), momentum_start=0.3
    )
    g, levels = _seeded(), schedule(steps)
    x = levels[0].b * torch.randn(SHAPE, generator=g)
    for now, then in itertools.pairwise(levels):
        clean = _warped(x, now)
        x = clean
        if then.b > 0.0:
            x = (1.0 - then.b) * clean + then.b * torch.randn(SHAPE, generator=g)
    torch.testing.assert_close(runs.free, x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(runs.consistent, runs.free)


@STEPS
@ALL_SCHEDULES
def test_full_momentum_returns_the_render(schedule, steps):
    prior = _Student(_warped, schedule)
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    ones = torch.ones(SHAPE[1:])
    runs = sampler.sample(
        prior, None, z, ones, steps=steps, generator=_seeded(), momentum_start=0.3
    )
    assert torch.equal(runs.consistent, z) and not torch.allclose(runs.free, z, atol=0.1)


@STEPS
@ALL_SCHEDULES
@pytest.mark.parametrize("lam", [0.0, 0.4, 0.8])
def test_noise_stays_as_large_as_the_student_was_taught(schedule, steps, lam):
    """Of a Gaussian world the perfect student is known: x -> x s / sqrt(a^2 s^2 + b^2), along the
    probability flow. Its guess and the rest of its input are one and the same noise. Noised anew,
    its next input is as large as in training, at every step and with momentum; a step with the
    fixed noise hands it inputs that are too large, by a tenth and more.
    """
    s, seen = 0.8, []

    def guess(x: torch.Tensor, level: Level) -> torch.Tensor:
        seen.append((x[0].std() / math.sqrt((level.a * s) ** 2 + level.b**2)).item())
        return x * s / math.sqrt((level.a * s) ** 2 + level.b**2)

    z = s * torch.randn(16, 20, 30, 40, generator=torch.Generator().manual_seed(9))
    told = {"steps": steps, "momentum_start": 0.3}
    weight = torch.full(z.shape[1:], lam)
    prior = _Student(guess, schedule)
    sampler.sample(prior, None, z, weight, generator=_seeded(), **told)
    if lam == 0.0:
        assert all(ratio == pytest.approx(1.0, abs=0.01) for ratio in seen)
        seen.clear()
        prior.spec = SPEC.__class__(**{**vars(SPEC), "renoises": False})
        sampler.sample(prior, None, z, weight, generator=_seeded(), **told)
        assert max(seen) > 1.1
    else:  # the mean of two independent clips has less contrast; the noise in it is whole
        levels = schedule(steps)
        least = math.sqrt(lam**2 + (1.0 - lam) ** 2)
        for ratio, level in zip(seen, levels, strict=False):
            whole = math.sqrt((level.a * s) ** 2 + level.b**2)
            floor = math.sqrt((level.a * s * least) ** 2 + level.b**2) / whole
            assert floor - 0.02 < ratio < 1.01


@STEPS
def test_momentum_acts_at_all_steps_but_the_first_of_few(steps):
    """`momentum_start` 0.3 leaves all 3, 3 of 4 and 6 of 8 steps: what is known stays."""
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    lam = torch.full(SHAPE[1:], 0.7)
    calls = []

    def guess(x: torch.Tensor, level: Level) -> torch.Tensor:
        calls.append(x.shape[0])
        return _warped(x, level)

    runs = sampler.sample(
        _Student(guess, SCHEDULES["rCM"]),
        None,
        z,
        lam,
        steps=steps,
        generator=_seeded(),
        momentum_start=0.3,
    )
    assert calls == [1] * (1 + int(0.3 * steps)) + [2] * (steps - 1 - int(0.3 * steps))
    free, held = ((run - z).square().mean().sqrt() for run in (runs.free, runs.consistent))
    assert held < 0.45 * free


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)
