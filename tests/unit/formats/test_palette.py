"""Codebooks and palettes: exact where they can be, near the best k-means elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from engine.formats import palette as module
from engine.formats.palette import codebook, nearest_level, palette


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a - b) ** 2).mean()))


@pytest.mark.parametrize("distinct", [1, 2, 255, 256])
def test_up_to_256_values_are_kept_exactly(distinct):
    values = (
        np.random.default_rng(0)
        .permutation(np.repeat(np.linspace(-3, 8, distinct, dtype=np.float32), 5))
        .reshape(-1, 5)
    )
    book = codebook(values)
    assert book.shape == (256,) and (np.diff(book) >= 0).all()
    np.testing.assert_array_equal(book[nearest_level(values, book)], values)


def test_every_value_gets_the_level_nearest_to_it():
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (5000, 3)).astype(np.float32)
    book = codebook(values)
    best = np.abs(values[..., None] - book).min(axis=-1)
    np.testing.assert_allclose(np.abs(values - book[nearest_level(values, book)]), best, atol=1e-6)


def test_a_codebook_is_better_than_even_steps_and_bears_a_far_outlier():
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, 100_000).astype(np.float32)
    even = np.linspace(values.min(), values.max(), 256, dtype=np.float32)
    book = codebook(values)
    assert _rms(book[nearest_level(values, book)], values) < 0.8 * _rms(
        even[nearest_level(values, even)], values
    )
    values[0] = 1000.0
    book = codebook(values)
    assert book[-1] == 1000.0
    assert _rms(book[nearest_level(values, book)], values) < 0.05


def test_a_palette_with_room_for_all_is_exact():
    vectors = np.random.default_rng(3).normal(0, 1, (500, 45)).astype(np.float32)
    entries, label = palette(vectors, 512)
    np.testing.assert_array_equal(entries[label], vectors)


@pytest.mark.parametrize("small", [1 << 27, 0], ids=["one level", "two levels"])
def test_a_palette_is_near_the_best_k_means(monkeypatch, small):
    """scipy's k-means, run to its end from several starts, is the oracle."""
    from scipy.cluster.vq import kmeans2

    rng = np.random.default_rng(4)
    vectors = (
        rng.normal(0, 1, (40, 9))[rng.integers(0, 40, 4000)] + rng.normal(0, 0.4, (4000, 9))
    ).astype(np.float32)
    monkeypatch.setattr(module, "_SMALL", small)
    entries, label = palette(vectors, 256)
    assert len(entries) <= 256 and label.shape == (4000,)
    best = min(
        _rms(c[i], vectors)
        for c, i in (kmeans2(vectors, 256, minit="++", iter=30, seed=s) for s in range(2))
    )
    assert _rms(entries[label], vectors) < 1.06 * best


def test_a_palette_is_the_same_each_time():
    vectors = np.random.default_rng(5).normal(0, 1, (20_000, 9)).astype(np.float32)
    for a, b in zip(palette(vectors, 1 << 13), palette(vectors, 1 << 13), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_palette_of_equal_vectors_does_not_fail(monkeypatch):
    monkeypatch.setattr(module, "_SMALL", 0)
    vectors = np.ones((3000, 9), np.float32)
    entries, label = palette(vectors, 64)
    np.testing.assert_array_equal(entries[label], vectors)
