"""The CPU backend against dense float64 autograd, on one to three channels more than it needs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from engine.rasterize import rasterize
from engine.rasterize.cpu.tiles import sort_by_depth
from engine.scene.gaussians import Gaussians

WIDTH, HEIGHT = 61, 45  # neither divides into tiles
IMAGE_TOLERANCE = 5e-6
GRADIENT_TOLERANCE = 1e-5  # relative L2


def cloud(n: int, degree: int, seed: int = 5) -> Gaussians:
    """A random cloud around z = 3 whose depths do not tie; some behind the camera, some off the
    image.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    means = normal(n, 3) * torch.tensor([1.2, 0.9, 0.8]) + torch.tensor([0.0, 0.0, 3.0])
    rest = normal(n, (degree + 1) ** 2 - 1, 3) * 0.3
    return Gaussians(
        means, normal(n, 4), normal(n, 3) * 0.5 - 2.3, normal(n) * 1.5, normal(n, 3), rest
    )


def cameras() -> tuple[torch.Tensor, torch.Tensor]:
    """Two cameras of different focal lengths, the second one turned and moved."""
    K = torch.tensor(
        [[[50.0, 0, 31], [0, 55, 22], [0, 0, 1]], [[40.0, 0, 28], [0, 42, 25], [0, 0, 1]]]
    )
    camera_from_world = torch.eye(4).repeat(2, 1, 1)
    a = 0.15
    camera_from_world[1, :3, :3] = torch.tensor(
        [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
    )
    camera_from_world[1, :3, 3] = torch.tensor([0.2, -0.1, 0.3])
    return K, camera_from_world


def draw_and_differentiate(backend: str, dtype: torch.dtype, degree: int, channels: int, **options):
    """Images and the gradients of a random weighing of all of them, with respect to everything
    differentiable.
    """
    leaves = [t.to(dtype).requires_grad_() for t in cloud(150, degree)]
    g = torch.Generator().manual_seed(1)
    extra = torch.rand(150, channels, generator=g).to(dtype).requires_grad_()
    background = torch.tensor([0.2, 0.5, 0.7]).to(dtype).requires_grad_()
    offsets = torch.zeros(2, 150, 2, dtype=dtype, requires_grad=True)
    K, camera_from_world = cameras()
    rendering = rasterize(
        Gaussians(*leaves),
        K,
        camera_from_world,
        WIDTH,
        HEIGHT,
        extra=extra if channels else None,
        background=background,
        offsets_px=offsets,
        backend=backend,
        **options,
    )
    images = rendering[:4]
    sum(
        (image * torch.rand(image.shape, generator=g).to(dtype)).sum()
        for image in images
        if image.numel()
    ).backward()
    names = [*Gaussians._fields, "background", "offsets_px", "extra"]
    grads = {
        n: t.grad
        for n, t in zip(names, [*leaves, background, offsets, extra], strict=True)
        if t.numel() and t.grad is not None
    }
    return [image.detach().double() for image in images], grads


CASES = {
    "colour alone": {"degree": 0, "channels": 0, "depth": False},
    "degree 0": {"degree": 0, "channels": 0},
    "degree 1, linear light": {"degree": 1, "channels": 3, "blending": "linear"},
    "degree 2, antialiased": {"degree": 2, "channels": 0, "antialiased": True},
    "degree 3, antialiased, linear light": {
        "degree": 3,
        "channels": 3,
        "antialiased": True,
        "blending": "linear",
    },
    "degree 3, used up to 1": {"degree": 3, "channels": 0, "sh_degree": 1},
    "degree 3, more channels than registers": {"degree": 3, "channels": 8},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_images_and_gradients_equal_dense_float64_autograd(case: dict) -> None:
    expected, expected_grads = draw_and_differentiate("reference", torch.float64, **case)
    images, grads = draw_and_differentiate("cpu", torch.float32, **case)
    for name, image, target in zip(
        ("rgb", "alpha", "depth", "extra"), images, expected, strict=True
    ):
        if image.numel():
            scale = 8.0 if name == "depth" else 1.0  # metres, not 0..1
            assert float((image - target).abs().max()) <= IMAGE_TOLERANCE * scale, name
    for name, target in expected_grads.items():
        error = float((grads[name].double() - target).norm() / target.norm().clamp_min(1e-12))
        assert error <= GRADIENT_TOLERANCE, f"{name}: {error:.1e}"


def test_coefficients_above_the_degree_in_use_get_no_gradient() -> None:
    _, grads = draw_and_differentiate("cpu", torch.float32, 3, 0, sh_degree=1)
    assert float(grads["sh_rest"][:, :3].abs().max()) > 0
    assert float(grads["sh_rest"][:, 3:].abs().max()) == 0


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_number_of_threads_does_not_change_a_bit(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bits(count: int) -> list[torch.Tensor]:
        monkeypatch.setenv("SCENE_SPLATTER_THREADS", str(count))
        g = cloud(6000, 3).map(lambda t: t.requires_grad_())
        K, camera_from_world = cameras()
        offsets = torch.zeros(2, g.count, 2, requires_grad=True)
        rendering = rasterize(g, K, camera_from_world, 203, 157, offsets_px=offsets)
        (rendering.rgb.square().sum() + rendering.depth.sum()).backward()
        return [
            *(t.detach() for t in rendering[:4]),
            rendering.info.radii,
            offsets.grad,
            *(t.grad for t in g),
        ]

    for one, many in zip(bits(1), bits(threads), strict=True):
        assert torch.equal(one.view(torch.int32), many.view(torch.int32))


@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 1000, 70_001])
def test_the_sort_by_depth_is_stable_on_any_number_of_threads(
    count: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCENE_SPLATTER_THREADS", str(threads))
    depths = np.random.default_rng(0).integers(1, 5000, count).astype(np.float32) / 7  # many ties
    keys, values = depths.view(np.uint32).copy(), np.arange(count, dtype=np.int32)
    ordered = sort_by_depth(count, keys, np.empty_like(keys), values, np.empty_like(values))
    assert np.array_equal(ordered, np.argsort(depths, kind="stable"))


def test_equal_depths_are_drawn_in_the_order_of_the_gaussians() -> None:
    g = cloud(2, 0)._replace(
        means=torch.tensor([[0.0, 0, 3], [0, 0, 3]]),
        opacities_logit=torch.full((2,), 2.0),
        scales_log=torch.full((2, 3), -1.0),
        sh_dc=torch.tensor([[3.0, -3, -3], [-3, -3, 3.0]]),
    )
    K, camera_from_world = cameras()
    for order, first in (([0, 1], 0), ([1, 0], 2)):
        rgb = rasterize(
            g.select(torch.tensor(order)), K[:1], camera_from_world[:1], WIDTH, HEIGHT
        ).rgb[0, 22, 31]
        assert int(rgb.argmax()) == first


def test_a_batch_of_cameras_is_each_camera_alone() -> None:
    g, (K, camera_from_world) = cloud(100, 1), cameras()
    both = rasterize(g, K, camera_from_world, WIDTH, HEIGHT)
    for c in range(2):
        alone = rasterize(g, K[c : c + 1], camera_from_world[c : c + 1], WIDTH, HEIGHT)
        assert torch.equal(both.rgb[c], alone.rgb[0]) and torch.equal(both.depth[c], alone.depth[0])


def test_two_graphs_may_be_alive_at_once() -> None:
    """Scratch memory is reused between calls, but never while a graph still needs it."""
    K, camera_from_world = cameras()

    def gradient(n_alive: int) -> torch.Tensor:
        g = cloud(300, 0).map(lambda t: t.requires_grad_())
        renderings = [
            rasterize(g, K[:1], camera_from_world[:1], WIDTH, HEIGHT) for _ in range(n_alive)
        ]
        rasterize(cloud(300, 0, seed=8), K, camera_from_world, WIDTH, HEIGHT)
        renderings[0].rgb.square().sum().backward()
        return g.means.grad

    assert torch.equal(gradient(1), gradient(3))


def test_a_tensor_changed_between_drawing_and_gradient_is_refused() -> None:
    g = cloud(10, 0).map(lambda t: t.requires_grad_())
    K, camera_from_world = cameras()
    rendering = rasterize(g, K, camera_from_world, WIDTH, HEIGHT)
    with torch.no_grad():
        g.means.add_(1.0)
    with pytest.raises(RuntimeError, match="in place"):
        rendering.rgb.sum().backward()


def test_linear_light_of_one_opaque_gaussian_is_the_decoded_colour() -> None:
    g = cloud(1, 0)._replace(
        means=torch.tensor([[0.0, 0, 2]]),
        scales_log=torch.full((1, 3), 1.0),
        opacities_logit=torch.tensor([20.0]),
        sh_dc=(torch.tensor([[0.5, 0.02, 0.9]]) - 0.5) / 0.28209479177387814,
    )
    K, camera_from_world = cameras()
    rgb = rasterize(g, K[:1], camera_from_world[:1], WIDTH, HEIGHT, blending="linear").rgb[
        0, 22, 31
    ]
    expected = torch.tensor(
        [((0.5 + 0.055) / 1.055) ** 2.4, 0.02 / 12.92, ((0.9 + 0.055) / 1.055) ** 2.4]
    )
    torch.testing.assert_close(rgb, 0.999 * expected, rtol=1e-3, atol=1e-6)


def test_radii_are_zero_exactly_for_what_is_not_drawn() -> None:
    g = cloud(3, 0)._replace(
        means=torch.tensor([[0.0, 0, 3], [0, 0, -3], [500.0, 0, 3]]),
        opacities_logit=torch.full((3,), 3.0),
    )
    K, camera_from_world = cameras()
    offsets = torch.zeros(1, g.count, 2)
    first = K[:1], camera_from_world[:1]
    radii = rasterize(g, *first, WIDTH, HEIGHT, offsets_px=offsets).info.radii[0]
    assert rasterize(g, *first, WIDTH, HEIGHT).info.radii.shape == (1, 0)
    assert [bool(r > 0) for r in radii] == [True, False, False]


def _bad(name: str, value: object) -> dict:
    K, camera_from_world = cameras()
    arguments = {
        "gaussians": cloud(5, 1),
        "K": K,
        "camera_from_world": camera_from_world,
        "width": 8,
        "height": 8,
    }
    return {**arguments, name: value}


def _with(field: str, value: float) -> Gaussians:
    g = cloud(5, 1).map(torch.clone)
    getattr(g, field).view(-1)[0] = value
    return g


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            _bad("gaussians", _with(field, value))
            for field, value in itertools.product(Gaussians._fields[:5], (math.nan, math.inf))
        ),
        _bad("gaussians", cloud(5, 1)._replace(quats=torch.zeros(5, 4))),
        _bad("gaussians", cloud(5, 1)._replace(sh_dc=torch.zeros(4, 3))),
        _bad("K", torch.full((2, 3, 3), math.nan)),
        _bad("K", torch.eye(3).repeat(2, 1, 1) + torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]])),
        _bad("camera_from_world", torch.eye(4)[None]),
        _bad("extra", torch.zeros(4, 1)),
        _bad("extra", torch.full((5, 1), math.nan)),
        _bad("background", torch.zeros(4)),
        _bad("offsets_px", torch.zeros(1, 5, 2)),
        _bad("sh_degree", 2),
        _bad("near", 0.0),
        _bad("width", 0),
        _bad("blending", "gamma"),
        _bad("backend", "cuda"),
    ],
)
def test_what_does_not_fit_or_is_not_finite_is_a_value_error(arguments: dict) -> None:
    with pytest.raises(ValueError):
        rasterize(**{"backend": "cpu", **arguments})
