"""The momentum equations hold at their ends, are bounded, and equal loops written from the
formulas.
"""

from __future__ import annotations

import time

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


def test_similarity_equals_a_loop_over_all_pairs_but_a_cell_with_itself():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 2, 3, 4, generator=generator)
    place = torch.tensor([-1, -1, 0, 17])
    pool = torch.cat([torch.randn(5, 2, generator=generator), features.flatten(1)[:, place[2:]]], 1)
    expected = torch.zeros(24)
    for i, z in enumerate(features.flatten(1).T):
        cosines = [
            float(r @ z / (r.norm() * z.norm()))
            for r, own in zip(pool.T, place, strict=True)
            if own != i
        ]
        expected[i] = max(0.0, *cosines)
    found = momentum.similarity(features, pool, place)
    assert torch.allclose(found, expected.reshape(2, 3, 4), atol=1e-5)
    assert (
        float(found.flatten()[0]) < 0.99 < float(momentum.similarity(features, pool).flatten()[0])
    )


def test_similarity_is_one_on_the_pool_itself_and_scale_free():
    features = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        momentum.similarity(3.0 * features, features.flatten(1)), torch.tensor(1.0), atol=1e-5
    )


def test_a_cell_without_content_is_like_nothing():
    features = torch.zeros(4, 1, 2, 2)
    assert torch.equal(momentum.similarity(features, torch.ones(4, 3)), torch.zeros(1, 2, 2))


def test_a_sample_is_the_same_every_time_and_of_all_parts():
    cells = torch.arange(9216)
    chosen = momentum.sampled(cells)
    assert chosen.shape[0] == momentum.POOL and torch.equal(chosen, momentum.sampled(cells))
    assert torch.histc(chosen.float(), 8, 0, 9216).min() > 16
    assert torch.equal(momentum.sampled(cells[:99]), cells[:99])


def test_eq_10_stays_small_at_real_sizes():
    """25 frames at 1024 x 576 of the embedded prior: at most 200 MB more, and 2 % of its minute and
    more.

    At 7f06cef: 13 GB and three quarters of an hour.
    """
    features = torch.randn(78, 1, 72, 128, generator=torch.Generator().manual_seed(0))
    features = features.expand(78, 25, 72, 128).contiguous()
    pool = torch.randn(78, 2 * momentum.POOL, generator=torch.Generator().manual_seed(1))
    before, largest = time.process_time(), 0
    with torch.profiler.profile(profile_memory=True) as watched:
        momentum.similarity(features, pool)
    spent = time.process_time() - before
    held = 0
    for event in sorted(watched.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            largest = max(largest, held)
    assert largest < 200e6
    assert spent < 5.0  # about 0.6 on an idle core


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


def test_first_cells_are_of_the_first_frames_without_holes():
    coverage = torch.zeros(4, 2, 2)
    coverage[0, 0, 0], coverage[0, 1, 1] = 0.6, 0.4
    coverage[1, 0, 1] = 1.0
    coverage[3] = 1.0
    assert momentum.first_cells(coverage, 2).tolist() == [0, 5]
