"""The momentum equations hold at their ends, are bounded, and equal loops written from the formulas."""

from __future__ import annotations

import pytest
import torch

from engine.method import momentum
from engine.priors.base import Level


def _random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_latent_momentum_of_zero_is_the_free_step_and_of_one_the_source():
    free, source = _random(4, 3, 5, 6), _random(4, 3, 5, 6, seed=1)
    assert torch.equal(momentum.latent_momentum(free, source, torch.zeros(3, 5, 6)), free)
    assert torch.equal(momentum.latent_momentum(free, source, torch.ones(3, 5, 6)), source)


def test_noised_source_has_unit_variance_at_every_level_of_a_variance_preserving_prior():
    z, eps = torch.randn(2, 4, 10, 50, 50, generator=torch.Generator().manual_seed(0))
    for b in (0.1, 0.5, 0.9):
        noised = momentum.noised_source(z, eps, Level(0, (1 - b * b) ** 0.5, b))
        assert noised.std() == pytest.approx(1.0, abs=0.01)


def test_blend_with_shared_noise_acts_on_the_clean_prediction():
    z, x0, eps = _random(3, 4, 2, 3, 3)
    level, lam = Level(0, 0.6, 0.8), _random(2, 3, 3, seed=2)
    blended = momentum.latent_momentum(
        level.a * x0 + level.b * eps, momentum.noised_source(z, eps, level), lam
    )
    assert torch.allclose(
        blended, level.a * torch.lerp(x0, z, lam.expand_as(z)) + level.b * eps, atol=1e-6
    )


def test_coefficient_equals_a_loop_over_all_pairs():
    features, reference = (
        torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0)),
        torch.randn(5, 7),
    )
    expected = torch.zeros(2, 3, 4)
    for f in range(2):
        for y in range(3):
            for x in range(4):
                z = features[:, f, y, x]
                cosines = [0.8 * float(r @ z / (r.norm() * z.norm())) for r in reference.T]
                expected[f, y, x] = max(0.0, *cosines)
    assert torch.allclose(
        momentum.latent_coefficient(features, reference, 0.8), expected, atol=1e-5
    )


def test_coefficient_is_lambda_0_on_the_reference_itself_and_scale_free():
    features = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    lam = momentum.latent_coefficient(3.0 * features, features.flatten(1), 0.7)
    assert torch.allclose(lam, torch.tensor(0.7), atol=1e-5)


def test_a_cell_without_content_gets_no_momentum():
    features = torch.zeros(4, 1, 2, 2)
    assert torch.equal(
        momentum.latent_coefficient(features, torch.ones(4, 3), 1.0), torch.zeros(1, 2, 2)
    )


def test_hole_gets_no_momentum_with_coverage():
    features = torch.ones(4, 1, 1, 2)
    lam = momentum.latent_coefficient(
        features, torch.ones(4, 1), 1.0, coverage=torch.tensor([[[1.0, 0.0]]])
    )
    assert lam.flatten().tolist() == pytest.approx([1.0, 0.0])


def test_gate_is_alpha_below_tau_and_zero_above_twice_tau():
    scale = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 4.0, 9.0]]])
    mu = momentum.pixel_coefficient(scale, torch.full_like(scale, 0.8), tau=2.0)
    assert mu.flatten().tolist() == pytest.approx([0.8, 0.8, 0.8, 0.4, 0.0, 0.0])


def test_scale_map_is_the_expected_size_in_pixels():
    mapped = momentum.scale_map(
        torch.full((1, 1, 1), 0.05),
        torch.full((1, 1, 1), 0.5),
        torch.full((1, 1, 1), 4.0),
        torch.tensor([200.0]),
    )
    assert float(mapped) == pytest.approx(0.1 * 200 / 4)


def test_scale_map_of_an_empty_pixel_is_finite():
    zero = torch.zeros(1, 1, 1)
    assert torch.isfinite(momentum.scale_map(zero, zero, zero, torch.tensor([100.0]))).all()


def test_pixel_momentum_takes_the_known_from_the_consistent_clip():
    free, consistent = _random(2, 3, 4, 4), _random(2, 3, 4, 4, seed=1)
    mu = torch.zeros(2, 1, 4, 4)
    mu[:, :, :2] = 1.0
    blend = momentum.pixel_momentum(free, consistent, mu)
    assert torch.equal(blend[:, :, :2], consistent[:, :, :2])
    assert torch.equal(blend[:, :, 2:], free[:, :, 2:])


def test_pooling_over_time_trusts_a_latent_only_if_all_its_frames_are():
    pixels = torch.ones(5, 4, 4)
    pixels[3] = 0.25
    pooled = momentum.pool_to_latent(pixels, 4, (2, 2))
    assert pooled.shape == (2, 2, 2)
    assert torch.equal(pooled[0], torch.ones(2, 2))
    assert torch.equal(pooled[1], torch.full((2, 2), 0.25))


def test_pooling_refuses_a_clip_that_does_not_fit():
    with pytest.raises(ValueError, match="multiple"):
        momentum.pool_to_latent(torch.ones(4, 2, 2), 4, (1, 1))


def test_reference_pool_is_of_the_first_frames_without_holes():
    features = torch.arange(4.0 * 3 * 2 * 2).reshape(
        3, 4, 2, 2
    )  # [d, f, h, w], all vectors different
    coverage = torch.zeros(4, 2, 2)
    coverage[0, 0, 0], coverage[0, 1, 1] = 0.6, 0.4
    coverage[1, 0, 1] = 1.0
    coverage[3] = 1.0
    first = momentum.reference_pool(features, coverage, 2)
    assert torch.equal(first, torch.stack([features[:, 0, 0, 0], features[:, 1, 0, 1]], dim=1))
