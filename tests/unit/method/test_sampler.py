"""The one sampler, proved on every family of diffusion models with an oracle network.

The oracle knows the clean clip and answers exactly, in the output form of its family. So the
sampler must return that clip whatever the schedule, and each family's own conversion to
(x0_hat, eps_hat) is exercised.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from engine.method.sampler import posterior_noise, sample
from engine.priors.base import Level, PriorSpec

SHAPE = (4, 3, 5, 6)
SPEC = PriorSpec(
    name="oracle",
    frames=lambda n: n,
    size_multiple=1,
    native_size=None,
    t_factor=1,
    s_factor=1,
    channels=4,
    steps=10,
    sees=frozenset(),
    licence="GPL-3.0-or-later",
    commercial_use=True,
)


def variance_preserving(steps):
    """Zero terminal SNR, as ViewCrafter and CogVideoX."""
    angles = torch.linspace(math.pi / 2, 0, steps + 1).tolist()
    return [Level(0, math.cos(t), math.sin(t)) for t in angles]


def variance_exploding(steps):
    """EDM, as SVD."""
    return [Level(0, 1.0, s) for s in torch.logspace(math.log10(700), -2.7, steps).tolist()] + [
        Level(0, 1.0, 0.0)
    ]


def rectified_flow(steps):
    """As Wan and LTX, with shift 3."""
    return [
        Level(0, 1 - s, s)
        for s in ((3 * u) / (1 + 2 * u) for u in torch.linspace(1, 0, steps + 1).tolist())
    ]


def from_eps(x, clean, level):
    o = (x - level.a * clean) / level.b
    return ((x - level.b * o) / level.a if level.a > 1e-6 else clean), o


def from_v(x, clean, level):
    eps = (x - level.a * clean) / level.b
    o = level.a * eps - level.b * clean
    return level.a * x - level.b * o, level.a * o + level.b * x


def from_flow(x, clean, level):
    eps = (x - level.a * clean) / level.b
    o = eps - clean
    return x - level.b * o, x + level.a * o


def from_edm(x, clean, level):
    s = level.b
    o = (x / (s * s + 1) - clean) * math.sqrt(s * s + 1) / s
    x0 = x / (s * s + 1) - o * s / math.sqrt(s * s + 1)
    return x0, (x - x0) / s


@dataclasses.dataclass
class Oracle:
    schedule: object
    convert: object
    clean: torch.Tensor
    spec: PriorSpec = SPEC
    calls: int = 0
    branches: int = 0

    def levels(self, steps):
        self.table = self.schedule(steps)
        return self.table

    def predict(self, x, i, condition):
        self.calls += 1
        self.branches += x.shape[0]
        x0, eps = self.convert(x.double(), self.clean.double(), self.table[i])
        return x0.float(), eps.float()

    def z_scale(self, i):
        return 1.0


FAMILIES = [
    (variance_preserving, from_eps),
    (variance_preserving, from_v),
    (variance_exploding, from_edm),
    (rectified_flow, from_flow),
]


def _clean(seed=0):
    return torch.randn(*SHAPE, generator=torch.Generator().manual_seed(seed))


def _run(oracle, lam, z=None, **options):
    generator = torch.Generator().manual_seed(3)
    return sample(
        oracle,
        None,
        _clean(1) if z is None else z,
        lam,
        steps=options.pop("steps", 10),
        generator=generator,
        **options,
    )


@pytest.mark.parametrize(("schedule", "convert"), FAMILIES)
def test_the_free_run_returns_what_the_network_knows(schedule, convert):
    clips = _run(Oracle(schedule, convert, _clean()), torch.full(SHAPE[1:], 0.4))
    assert torch.allclose(clips.free, _clean(), atol=2e-4)


@pytest.mark.parametrize(("schedule", "convert"), FAMILIES)
def test_full_momentum_returns_the_render(schedule, convert):
    clips = _run(Oracle(schedule, convert, _clean()), torch.ones(SHAPE[1:]))
    assert torch.allclose(clips.consistent, _clean(1), atol=1e-6)


@pytest.mark.parametrize(("schedule", "convert"), FAMILIES)
def test_without_momentum_both_runs_are_equal(schedule, convert):
    clips = _run(Oracle(schedule, convert, _clean()), torch.zeros(SHAPE[1:]))
    assert torch.equal(clips.consistent, clips.free)


@pytest.mark.parametrize(("schedule", "convert"), FAMILIES)
def test_one_step_is_a_prime_x0_plus_b_prime_eps(schedule, convert):
    oracle = Oracle(schedule, convert, _clean())
    seen = []
    original = oracle.predict
    oracle.predict = lambda x, i, c: seen.append((i, x.clone())) or original(x, i, c)
    _run(oracle, torch.zeros(SHAPE[1:]), both=False)
    for i, x in seen[1:]:
        eps = seen[0][1][0] / oracle.table[0].b
        expected = oracle.table[i].a * _clean() + oracle.table[i].b * (
            (seen[0][1][0] - oracle.table[0].a * _clean()) / oracle.table[0].b
            if oracle.table[0].a
            else eps
        )
        assert torch.allclose(x[0], expected, atol=1e-3 * max(1.0, oracle.table[i].b))


def test_common_steps_are_computed_once():
    oracle = Oracle(variance_preserving, from_v, _clean())
    _run(oracle, torch.full(SHAPE[1:], 0.5), momentum_start=0.4)
    assert oracle.calls == 10
    assert oracle.branches == 5 + 2 * 5  # steps 0..3 and 4 see one and the same x


def test_free_run_can_be_left_out():
    oracle = Oracle(variance_preserving, from_v, _clean())
    clips = _run(oracle, torch.full(SHAPE[1:], 0.5), both=False)
    assert oracle.branches == 10
    assert torch.equal(clips.free, clips.consistent)


@pytest.mark.parametrize("steps", [7, 11, 14, 15, 20, 25, 33])
def test_stochastic_steps_are_finite_with_zero_terminal_snr(steps):
    oracle = Oracle(variance_preserving, from_v, _clean())
    clips = _run(oracle, torch.full(SHAPE[1:], 0.5), steps=steps, eta=1.0)
    assert torch.isfinite(clips.consistent).all()
    assert torch.allclose(clips.free, _clean(), atol=2e-4)


def test_noise_keeps_its_variance_under_momentum():
    """A network that predicts its own input's noise exactly must see noise of the level's size."""
    oracle = Oracle(variance_preserving, from_v, torch.zeros(SHAPE))
    seen = []
    original = oracle.predict
    oracle.predict = lambda x, i, c: (
        seen.append((oracle.table[i].b, float(x[0].std()))) or original(x, i, c)
    )
    for eta in (0.0, 1.0):
        seen.clear()
        _run(oracle, torch.full(SHAPE[1:], 0.3), z=torch.zeros(SHAPE), eta=eta, steps=20)
        for b, std in seen[2:-2]:
            assert std == pytest.approx(b, rel=0.15), f"eta {eta}"


@pytest.mark.parametrize("schedule", [variance_preserving, variance_exploding, rectified_flow])
def test_stochastic_noise_is_that_of_the_posterior(schedule):
    """Bayes for x' given x0 and x, where x adds noise to x': the oracle knows nothing of the closed
    form.
    """
    for now, then in itertools.pairwise(schedule(9)):
        if then.b == 0.0:
            assert posterior_noise(now, then, 1.0) == 0.0
            continue
        shrink = now.a / then.a
        added = now.b**2 - (shrink * then.b) ** 2
        variance = 1.0 / (1.0 / then.b**2 + shrink**2 / added)
        assert posterior_noise(now, then, 1.0) == pytest.approx(variance**0.5, rel=1e-9)
        assert posterior_noise(now, then, 0.3) == pytest.approx(0.3 * variance**0.5, rel=1e-9)


def test_cancelling_stops_at_a_step():
    class Stop(Exception):
        pass

    def report(done, total):
        if done == 3:
            raise Stop

    oracle = Oracle(variance_preserving, from_v, _clean())
    with pytest.raises(Stop):
        _run(oracle, torch.zeros(SHAPE[1:]), report=report)
    assert oracle.calls == 3


def test_same_seed_same_bits():
    runs = [
        _run(Oracle(rectified_flow, from_flow, _clean()), torch.full(SHAPE[1:], 0.5)).consistent
        for _ in range(2)
    ]
    assert torch.equal(*runs)
