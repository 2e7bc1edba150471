"""gsplat and Warp on a card against the dense float64 reference, and against the CPU backend at
full size.
"""

from __future__ import annotations

import pytest
import torch

from engine.method.refine import refine
from engine.rasterize import gsplat_backend, rasterize
from engine.rasterize.warp import backend as warp_backend
from engine.scene.gaussians import Gaussians

pytestmark = pytest.mark.gpu


WHY = {"gsplat": gsplat_backend.why_unusable, "warp": warp_backend.why_unusable}
# gsplat is built with fast CUDA maths
TOLERANCES = {"gsplat": (1e-4, 1e-3), "warp": (1e-5, 1e-4)}


@pytest.fixture(autouse=True)
def _card() -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no CUDA device")


@pytest.fixture(params=list(WHY))
def backend(request) -> str:
    reason = WHY[request.param]()
    if reason:
        pytest.skip(reason)
    return request.param


def cloud(n: int, degree: int) -> Gaussians:
    g = torch.Generator().manual_seed(5)
    means = torch.randn(n, 3, generator=g) * torch.tensor([1.2, 0.9, 0.8]) + torch.tensor(
        [0.0, 0.0, 3.0]
    )
    return Gaussians(
        means,
        torch.randn(n, 4, generator=g),
        torch.randn(n, 3, generator=g) * 0.5 - 2.3,
        torch.randn(n, generator=g) * 1.5,
        torch.randn(n, 3, generator=g),
        torch.randn(n, (degree + 1) ** 2 - 1, 3, generator=g) * 0.3,
    )


K = torch.tensor([[[50.0, 0, 31], [0, 55, 22], [0, 0, 1]]])


def draw(backend: str, device: str, dtype: torch.dtype, degree: int, **options):
    leaves = [t.to(device, dtype).requires_grad_() for t in cloud(150, degree)]
    g = torch.Generator().manual_seed(1)
    extra = torch.rand(150, 3, generator=g).to(device, dtype).requires_grad_()
    offsets = torch.zeros(1, 150, 2, device=device, dtype=dtype, requires_grad=True)
    camera = torch.eye(4, device=device)[None]
    r = rasterize(
        Gaussians(*leaves),
        K.to(device),
        camera,
        61,
        45,
        extra=extra,
        offsets_px=offsets,
        backend=backend,
        **options,
    )
    sum((t * torch.rand(t.shape, generator=g).to(device, dtype)).sum() for t in r[:4]).backward()
    return [t.detach().double().cpu() for t in r[:4]], [
        (torch.zeros_like(t) if t.grad is None else t.grad).double().cpu()
        for t in (*leaves, extra, offsets)
    ]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"antialiased": True}, {"blending": "linear"}])
def test_a_card_equals_dense_float64_autograd(backend: str, degree: int, options: dict) -> None:
    images, grads = draw(backend, "cuda", torch.float32, degree, **options)
    expected, expected_grads = draw("reference", "cpu", torch.float64, degree, **options)
    of_images, of_gradients = TOLERANCES[backend]
    for a, b in zip(images, expected, strict=True):
        assert float((a - b).abs().max()) <= of_images * max(1.0, float(b.abs().max()))
    for a, b in zip(grads, expected_grads, strict=True):
        assert float((a - b).norm()) <= of_gradients * float(b.norm()) + 1e-9


def test_a_card_agrees_with_the_cpu(backend: str) -> None:
    g = cloud(100_000, 3)
    camera = torch.eye(4)[None]
    on_gpu = rasterize(g.map(torch.Tensor.cuda), K.cuda(), camera.cuda(), 512, 288, backend=backend)
    on_cpu = rasterize(g, K, camera, 512, 288)
    assert on_gpu.info.backend == backend and on_cpu.info.backend == "cpu"
    apart = (on_gpu.rgb.cpu() - on_cpu.rgb).abs().amax(-1) > 1e-3
    assert float(apart.float().mean()) <= 1e-3  # equal depths may swap


def test_cuda_tensors_take_the_first_backend_that_draws() -> None:
    usable = [name for name, why in WHY.items() if not why()]
    if not usable:
        pytest.skip(f"{WHY['gsplat']()}; {WHY['warp']()}")
    drawn = rasterize(
        cloud(10, 0).map(torch.Tensor.cuda), K.cuda(), torch.eye(4).cuda()[None], 61, 45
    )
    assert drawn.info.backend == usable[0]


def test_refinement_runs_on_cuda_and_lowers_the_loss() -> None:
    g, camera = cloud(2000, 1).map(torch.Tensor.cuda), torch.eye(4).cuda()[None]
    frames = rasterize(g, K.cuda(), camera, 61, 45).rgb.permute(0, 3, 1, 2).clamp(0, 1)
    start = g._replace(sh_dc=torch.zeros_like(g.sh_dc))
    result = refine(start, frames, K.cuda(), camera, steps=60)
    assert result.losses[-1] < 0.5 * result.losses[0] and result.gaussians.means.is_cuda
