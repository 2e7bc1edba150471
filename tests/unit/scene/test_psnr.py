"""PSNR: known values, and the ends of its range."""

from __future__ import annotations

import math

import pytest
import torch

from engine.scene.psnr import PERFECT_DB, decibels, psnr


def test_psnr_of_a_known_error():
    found = psnr(torch.full((3, 8, 8), 0.5), torch.full((3, 8, 8), 0.6))
    assert found == pytest.approx(20.0, abs=1e-3)


def test_psnr_of_equal_images_is_finite_and_of_nothing_is_nan():
    image = torch.rand(3, 4, 4)
    assert psnr(image, image) == PERFECT_DB
    assert math.isnan(psnr(image, image, torch.zeros(4, 4, dtype=torch.bool)))


def test_psnr_counts_only_the_chosen_pixels():
    a, b, where = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.bool)
    b[:, 0] = 1.0
    where[1:] = True
    assert psnr(a, b, where) == PERFECT_DB


def test_decibels_of_a_tenth_of_the_range_are_twenty_and_never_infinite():
    assert decibels(0.01) == pytest.approx(20.0)
    assert decibels(0.0) == PERFECT_DB


def test_what_is_no_number_is_not_perfect():
    assert math.isnan(decibels(math.nan))
    assert math.isnan(psnr(torch.full((3, 2, 2), math.nan), torch.zeros(3, 2, 2)))
