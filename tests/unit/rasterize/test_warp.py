"""The Warp backend, on Warp's CPU device: the same source as on CUDA, and what its compiler makes
of it for every card.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from engine.rasterize import rasterize
from engine.scene.gaussians import Gaussians
from tests.unit.rasterize.test_rasterize import (
    CASES,
    GRADIENT_TOLERANCE,
    IMAGE_TOLERANCE,
    cameras,
    cloud,
    draw_and_differentiate,
)

if importlib.util.find_spec("warp") is None:
    pytest.skip("warp-lang is not installed (install_deps.py --extra gpu)", allow_module_level=True)

ARCHITECTURES = (75, 80, 86, 89, 90, 120)  # Turing, Ampere twice, Ada, Hopper, Blackwell
SHOWN = ("degree 0", "degree 3, antialiased, linear light", "degree 3, used up to 1")


@pytest.mark.parametrize("name", SHOWN)
def test_images_and_gradients_equal_dense_float64_autograd(name: str) -> None:
    case = CASES[name]
    expected, expected_grads = draw_and_differentiate("reference", torch.float64, **case)
    images, grads = draw_and_differentiate("warp", torch.float32, **case)
    for kind, image, target in zip(
        ("rgb", "alpha", "depth", "extra"), images, expected, strict=True
    ):
        if image.numel():
            scale = 8.0 if kind == "depth" else 1.0  # metres, not 0..1
            assert float((image - target).abs().max()) <= IMAGE_TOLERANCE * scale, kind
    assert grads.keys() == expected_grads.keys()
    for kind, target in expected_grads.items():
        error = float((grads[kind].double() - target).norm() / target.norm().clamp_min(1e-12))
        assert error <= GRADIENT_TOLERANCE, f"{kind}: {error:.1e}"


def test_twenty_thousand_gaussians_equal_the_cpu_backend() -> None:
    n, width, height = 20_000, 256, 160
    K = torch.tensor([[[230.0, 0, 128], [0, 230, 80], [0, 0, 1]]])
    scene = cloud(n, 1, seed=3)
    scene = scene._replace(scales_log=scene.scales_log - 1.5)
    found = {}
    for backend in ("cpu", "warp"):
        leaves = Gaussians(*(t.clone().requires_grad_() for t in scene))
        drawn = rasterize(
            leaves,
            K,
            torch.eye(4)[None],
            width,
            height,
            backend=backend,
            offsets_px=torch.zeros(1, n, 2),  # radii are told to those who move the means
        )
        weights = torch.linspace(-1, 1, drawn.rgb.numel()).view_as(drawn.rgb)
        ((drawn.rgb * weights).sum() + drawn.alpha.mean()).backward()
        found[backend] = (drawn, [t.grad for t in leaves])
    (cpu, cpu_grads), (warp, warp_grads) = found["cpu"], found["warp"]
    difference = (warp.rgb - cpu.rgb).detach().abs()
    # a Gaussian at the limit of 1/255 is in or out by rounding
    assert float(difference.max()) < 2e-3
    assert float((difference > 1e-4).float().mean()) < 1e-3
    seen = (cpu.info.radii > 0) == (warp.info.radii > 0)
    assert float(seen.float().mean()) > 0.9999
    for name, ours, theirs in zip(Gaussians._fields, warp_grads, cpu_grads, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-4, name


def test_nothing_in_view_is_an_empty_picture_with_zero_gradients() -> None:
    scene = cloud(8, 0)
    behind = Gaussians(
        *(
            t.requires_grad_()
            for t in scene._replace(means=scene.means - torch.tensor([0, 0, 90.0]))
        )
    )
    K, poses = cameras()
    drawn = rasterize(behind, K, poses, 20, 10, backend="warp")
    assert float(drawn.rgb.abs().max()) == 0 and float(drawn.alpha.max()) == 0
    drawn.rgb.sum().backward()
    assert all(float(t.grad.abs().sum()) == 0 for t in behind if t.numel())


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_its_gradient_equal_the_convolutions(weighted: bool) -> None:
    from engine.method.losses import Target, photometric_loss_torch
    from engine.rasterize.warp import loss

    for height, width, share in ((33, 17, 0.2), (5, 4, 1.0), (64, 96, 0.0), (1, 1, 0.2)):
        g = torch.Generator().manual_seed(height)
        x = torch.rand(3, height, width, generator=g)
        y = (x + 0.1 * torch.randn(3, height, width, generator=g)).clamp(0, 1)
        weights = torch.rand(1, height, width, generator=g) if weighted else None
        ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
        target = Target(y, *loss.window_statistics(y))
        found = loss.FusedLoss.apply(ours, target, share, weights)
        expected = photometric_loss_torch(
            theirs, y.double(), share, weights.double() if weighted else None
        )
        (2.0 * found).backward()
        (2.0 * expected).backward()
        assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
        assert float((ours.grad - theirs.grad).norm()) <= 1e-5 * float(theirs.grad.norm())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile_for_every_card_and_spill_nothing(arch, tmp_path) -> None:
    from engine.rasterize.warp import kernels, loss

    oldest = arch == min(ARCHITECTURES)  # the loss has nothing that a card could lack
    figures = kernels.compile_for(arch, 4, tmp_path, loss.KERNELS if oldest else ())
    named = {
        part: [f for name, f in figures.items() if part in name]
        for part in ("project", "bound", "list_pairs", "start_tiles", "forward", "backward")
    }
    assert all(named.values()), f"a kernel is missing: {sorted(figures)}"
    assert all(f.stack_bytes == 0 for f in figures.values()), figures
    blend = [f for name, f in figures.items() if "blending" in name]
    assert len(blend) == 2
    assert all(f.registers <= 128 for f in blend), blend  # two blocks of 256 a multiprocessor


def test_a_backend_is_tried_before_it_is_trusted() -> None:
    from engine.rasterize import probe
    from engine.rasterize.warp.backend import draw

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rgb):
            return rgb.clone()

        @staticmethod
        def backward(ctx, g):
            return g / 2

    def shifted(*args):
        rgb, *others = draw(*args)
        return rgb.roll(1, dims=-1), *others

    def with_wrong_gradients(*args):
        rgb, *others = draw(*args)
        return Halved.apply(rgb), *others

    def without_numbers(*args):
        rgb, *others = draw(*args)
        return rgb * float("nan"), *others

    def refused(*args):
        raise Exception("CUDA kernel build failed with error code 5\nand more")

    with torch.no_grad():
        assert probe.why_wrong(draw, "cpu") == ""
    for wrong in (shifted, with_wrong_gradients, without_numbers):
        assert probe.why_wrong(wrong, "cpu") == "draws another picture than the CPU"
    assert probe.why_wrong(refused, "cpu") == (
        "does not run: CUDA kernel build failed with error code 5"
    )
