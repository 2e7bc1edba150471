"""Eq. (20) in its two forms: the fused kernel against torch convolutions in float64."""

from __future__ import annotations

import pytest
import torch

from engine.method.losses import (
    photometric_loss,
    photometric_loss_torch,
    prepare_target,
    ssim_map,
    window_1d,
)
from engine.scene.colour import linear_to_srgb, srgb_to_linear


def pair(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image, a noisy one, and pixel weights."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(3, height, width, generator=g)
    y = (x + 0.1 * torch.randn(3, height, width, generator=g)).clamp(0, 1)
    return x, y, torch.rand(1, height, width, generator=g)


@pytest.mark.parametrize("size", [(64, 96), (33, 17), (5, 4), (1, 1), (130, 50)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("g", [0.0, 0.2, 1.0])
def test_fused_value_and_gradient_equal_the_convolutions(
    size: tuple[int, int], weighted: bool, g: float
) -> None:
    x, y, weights = pair(*size)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    loss = photometric_loss(ours, prepare_target(y), g, weights if weighted else None)
    expected = photometric_loss_torch(theirs, y.double(), g, weights.double() if weighted else None)
    loss.backward()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert float((ours.grad - theirs.grad).norm()) <= 1e-5 * float(theirs.grad.norm())


def test_loss_is_zero_exactly_for_equal_images_and_has_no_slope_there() -> None:
    x, _, _ = pair(40, 40)
    leaf = x.clone().requires_grad_()
    loss = photometric_loss(leaf, prepare_target(x), 0.2)
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6 and float(leaf.grad.abs().max()) < 1e-7


def test_ssim_of_constant_images_is_its_closed_form() -> None:
    """Far from the border variances vanish, and SSIM is (2 a b + C1) / (a^2 + b^2 + C1)."""
    a, b = 0.3, 0.7
    s = ssim_map(
        torch.full((3, 31, 31), a, dtype=torch.float64),
        torch.full((3, 31, 31), b, dtype=torch.float64),
    )
    assert float(s[0, 15, 15]) == pytest.approx(
        (2 * a * b + 1e-4) / (a * a + b * b + 1e-4), rel=1e-9
    )


def test_window_is_a_gaussian_of_sigma_one_and_a_half() -> None:
    w = window_1d(torch.zeros(1, dtype=torch.float64))
    assert float(w.sum()) == pytest.approx(1.0)
    assert float(w[5] / w[6]) == pytest.approx(2.718281828459045 ** (1 / (2 * 1.5**2)))


def test_pixels_of_weight_zero_have_no_l1_gradient() -> None:
    x, y, _ = pair(40, 40)
    weights = torch.ones(1, 40, 40)
    weights[:, :, :20] = 0
    leaf = x.clone().requires_grad_()
    photometric_loss(leaf, prepare_target(y), 0.0, weights).backward()
    assert not leaf.grad[:, :, :20].any() and leaf.grad[:, :, 20:].all()


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_number_of_threads_does_not_change_a_bit(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, weights = pair(150, 70)
    results = []
    for count in (1, threads):
        monkeypatch.setenv("SCENE_SPLATTER_THREADS", str(count))
        leaf = x.clone().requires_grad_()
        loss = photometric_loss(leaf, prepare_target(y), 0.2, weights)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_srgb_encoding_undoes_the_decoding_and_has_a_finite_slope_at_black() -> None:
    c = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(c)), c, atol=1e-6, rtol=0)
    black = torch.zeros(1, requires_grad=True)
    linear_to_srgb(black).sum().backward()
    assert float(black.grad) == pytest.approx(12.92)


def test_what_does_not_fit_is_refused() -> None:
    x, y, _ = pair(8, 8)
    with pytest.raises(ValueError):
        prepare_target(y[0])
    with pytest.raises(ValueError):
        prepare_target(y.fill_(float("nan")))
    with pytest.raises(ValueError):
        photometric_loss(x, prepare_target(torch.zeros(3, 9, 8)))
    with pytest.raises(ValueError):
        photometric_loss(x, prepare_target(x), 0.2, torch.ones(8, 8))
