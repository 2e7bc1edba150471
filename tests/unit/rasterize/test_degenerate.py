"""Scenes at the edge of what can be drawn: the CPU backend must agree with the reference or show
nothing, and stay finite.
"""

from __future__ import annotations

import math

import pytest
import torch

from engine.rasterize import rasterize
from engine.scene.gaussians import Gaussians

WIDTH, HEIGHT = 48, 32
K = torch.tensor([[[40.0, 0, 24], [0, 40, 16], [0, 0, 1]]])
CAMERA = torch.eye(4)[None]


def gaussians(
    means: list, scales: list, opacity_logit: float = 2.0, quat: tuple = (1.0, 0.0, 0.0, 0.0)
) -> Gaussians:
    """As many Gaussians as there are means, with sides `scales` in metres and varying colours."""
    n = len(means)
    colours = torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Gaussians(
        torch.tensor(means, dtype=torch.float32),
        torch.tensor([quat]).repeat(n, 1),
        torch.tensor(scales).log().expand(n, 3).contiguous(),
        torch.full((n,), opacity_logit),
        colours,
        torch.zeros(n, 0, 3),
    )


def both(g: Gaussians, **options) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(images, gradients) of the CPU backend, checked to be finite, and images of the float64
    reference.
    """
    leaves = g.map(lambda t: t.clone().requires_grad_())
    drawn = rasterize(leaves, K, CAMERA, WIDTH, HEIGHT, **options)
    (drawn.rgb.square().sum() + drawn.depth.sum() + drawn.alpha.sum()).backward()
    for t in [*drawn[:4], *(t.grad for t in leaves)]:
        assert t.isfinite().all()
    expected = rasterize(
        g.map(torch.Tensor.double), K, CAMERA, WIDTH, HEIGHT, backend="reference", **options
    )
    return [t.detach() for t in drawn[:3]], [t.float() for t in expected[:3]]


def assert_close(g: Gaussians, tolerance: float, **options) -> None:
    drawn, expected = both(g, **options)
    for a, b, scale in zip(drawn, expected, (1, 1, 8), strict=True):  # depth is in metres
        assert float((a - b).abs().max()) <= tolerance * scale


def assert_empty(g: Gaussians) -> None:
    drawn, expected = both(g)
    assert all(not t.any() for t in [*drawn, *expected])


def test_nothing_at_all() -> None:
    assert_empty(gaussians([[0.0, 0, 1]], [0.1, 0.1, 0.1]).select(torch.zeros(1, dtype=torch.bool)))


def test_behind_the_camera_nothing_is_drawn() -> None:
    assert_empty(gaussians([[0.0, 0, -1], [0.1, 0, -0.001], [0, 0, 0]], [0.3, 0.3, 0.3]))


def test_the_near_plane_cuts_where_it_says() -> None:
    before, after = [[0.0, 0.0, 0.499]], [[0.0, 0.0, 0.501]]
    assert not rasterize(
        gaussians(before, [0.1] * 3), K, CAMERA, WIDTH, HEIGHT, near=0.5
    ).alpha.any()
    assert_close(gaussians(after, [0.1] * 3), 5e-6, near=0.5)


def test_grazing_the_near_plane_off_axis() -> None:
    assert_close(gaussians([[0.4, -0.3, 0.011], [-3.0, 0.2, 0.02]], [0.05, 0.02, 0.05]), 2e-4)


def test_a_gaussian_far_larger_than_the_scene() -> None:
    assert_close(gaussians([[0.0, 0, 2], [1.0, 1, 4]], [300.0, 200.0, 400.0]), 1e-4)


def test_a_size_past_all_numbers_draws_nothing() -> None:
    g = gaussians([[0.0, 0, 2]], [1.0] * 3)
    drawn = rasterize(g._replace(scales_log=torch.full((1, 3), 60.0)), K, CAMERA, WIDTH, HEIGHT)
    assert drawn.rgb.isfinite().all() and not drawn.alpha.any()


@pytest.mark.parametrize("turn", [0.0, 0.3, math.pi / 4, 1.2])
def test_a_needle_in_any_direction(turn: float) -> None:
    quat = (math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2))
    assert_close(gaussians([[0.013, 0.021, 2]], [3.0, 1e-5, 1e-5], quat=quat), 2e-3)


def test_a_disc_seen_from_its_edge() -> None:
    assert_close(gaussians([[0.01, 0.02, 2]], [0.5, 1e-6, 0.5]), 5e-5)


def test_zero_opacity_draws_nothing() -> None:
    assert_empty(gaussians([[0.0, 0, 2]], [0.5] * 3, opacity_logit=-80.0))


def test_full_opacity_is_capped_and_gives_no_opacity_gradient() -> None:
    g = gaussians([[0.0125, 0.0125, 2]], [5.0] * 3, opacity_logit=50.0).map(
        lambda t: t.requires_grad_()
    )
    alpha = rasterize(g, K, CAMERA, WIDTH, HEIGHT).alpha
    alpha[0, 16, 24].sum().backward()
    assert float(alpha.detach().max()) == pytest.approx(0.999)
    assert float(g.opacities_logit.grad) == 0 and not g.means.grad.any()


def test_thousands_on_one_pixel() -> None:
    """Many faint Gaussians on one spot: blending stops when the light is used up, not before and
    not after.
    """
    n = 3000
    means = [[0.0125, 0.0125, 1 + 0.001 * i] for i in range(n)]
    assert_close(gaussians(means, [0.002] * 3, opacity_logit=-4.0), 1e-5)


def test_smaller_than_a_pixel_is_blurred_not_lost() -> None:
    assert_close(gaussians([[0.0125, 0.0125, 2]], [1e-9] * 3), 5e-6)
    sharp = rasterize(
        gaussians([[0.0125, 0.0125, 2]], [1e-9] * 3), K, CAMERA, WIDTH, HEIGHT, antialiased=True
    )
    assert float(sharp.alpha.max()) == 0  # no area, no light


def test_quaternions_of_any_length_are_the_same_rotation() -> None:
    g = gaussians([[0.0, 0, 2]], [0.5, 0.1, 0.2], quat=(0.5, 0.1, 0.3, -0.2))
    a = rasterize(g, K, CAMERA, WIDTH, HEIGHT).rgb
    for length in (1e-6, 1e6, -1.0):
        torch.testing.assert_close(
            rasterize(g._replace(quats=g.quats * length), K, CAMERA, WIDTH, HEIGHT).rgb,
            a,
            atol=2e-6,
            rtol=0,
        )


@pytest.mark.parametrize("size", [(1, 1), (8, 16), (9, 17), (7, 15)])
def test_images_of_awkward_sizes(size: tuple[int, int]) -> None:
    g = gaussians([[-1.0, -0.6, 2], [-0.9, -0.7, 3]], [0.5] * 3)
    a = rasterize(g, K, CAMERA, *size).rgb
    b = rasterize(g.map(torch.Tensor.double), K, CAMERA, *size, backend="reference").rgb
    torch.testing.assert_close(a, b.float(), atol=5e-6, rtol=0)
