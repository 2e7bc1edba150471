"""Our calls of gsplat against gsplat's own signatures and its own equations in torch, which need no
GPU.

gsplat's projection and tile lists exist in torch; only its blending does not, so that is done here,
pixel by pixel of a tile.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable

import pytest
import torch

from engine.rasterize import gsplat_backend, probe
from tests.gpu.test_rasterisers import draw

if importlib.util.find_spec("gsplat") is None:
    pytest.skip(
        f"gsplat {gsplat_backend.VERSION} is not installed (install_deps.py --extra gpu)",
        allow_module_level=True,
    )
if torch.cuda.is_available():
    pytest.skip(
        "this machine has a CUDA device: tests/gpu runs the real kernels", allow_module_level=True
    )


def blend_tile(a: dict, tile: int, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels and alpha of one tile of one camera, from the depth-ordered entries start..stop."""
    size, per_row = a["tile_size"], a["isect_offsets"].shape[-1]
    x0, y0 = (tile % per_row) * size, (tile // per_row) * size
    y, x = torch.meshgrid(
        torch.arange(y0, y0 + size) + 0.5, torch.arange(x0, x0 + size) + 0.5, indexing="ij"
    )
    ids = a["flatten_ids"][start:stop].long()
    means, conics, colours, opacities = (
        a[k].flatten(0, 1)[ids] for k in ("means2d", "conics", "colors", "opacities")
    )
    light, image, done = (
        torch.ones_like(x),
        torch.zeros(size, size, colours.shape[-1]),
        torch.zeros_like(x, dtype=torch.bool),
    )
    for mean, conic, colour, opacity in zip(means, conics, colours, opacities, strict=True):
        dx, dy = x - mean[0], y - mean[1]
        alpha = (
            opacity
            * torch.exp(-0.5 * (conic[0] * dx * dx + conic[2] * dy * dy) - conic[1] * dx * dy)
        ).clamp(max=0.999)
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
        done = done | ((light * (1 - alpha) <= 1e-4) & (alpha > 0))
        alpha = torch.where(done, 0.0, alpha)
        image, light = image + (alpha * light)[..., None] * colour, light * (1 - alpha)
    return image, (1 - light)[..., None]


def blend(a: dict) -> tuple[torch.Tensor, torch.Tensor]:
    cameras, rows, columns = a["isect_offsets"].shape
    firsts = [*a["isect_offsets"].flatten().tolist(), a["flatten_ids"].shape[0]]
    images = []
    for c in range(cameras):
        tiles = [
            blend_tile(a, t, *firsts[c * rows * columns + t :][:2]) for t in range(rows * columns)
        ]
        whole = [
            torch.cat([torch.cat(part[r * columns : (r + 1) * columns], 1) for r in range(rows)])
            for part in zip(*tiles, strict=True)
        ]
        images.append([part[: a["image_height"], : a["image_width"]] for part in whole])
    return tuple(torch.stack(parts) for parts in zip(*images, strict=True))


@pytest.fixture(autouse=True)
def _gsplat_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import gsplat
    from gsplat.cuda import _torch_impl as equations

    def project(a: dict) -> tuple:
        covariances, _ = equations._quat_scale_to_covar_preci(
            a["quats"], a["scales"], True, False, triu=False
        )
        names = (
            "viewmats",
            "Ks",
            "width",
            "height",
            "eps2d",
            "near_plane",
            "far_plane",
            "calc_compensations",
            "camera_model",
        )
        assert not a["packed"] and a["covars"] is None
        return equations._fully_fused_projection(
            a["means"], covariances, *(a[name] for name in names)
        )

    def tiles(a: dict) -> tuple:
        names = ("means2d", "radii", "depths", "tile_size", "tile_width", "tile_height", "sort")
        return equations._isect_tiles(*(a[name] for name in names))

    def first_of_tiles(a: dict) -> torch.Tensor:
        return equations._isect_offset_encode(*a.values())

    def replace(name: str, form: Callable) -> None:
        signature = inspect.signature(getattr(gsplat, name))

        def call(*args: object, **kwargs: object) -> object:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return form(bound.arguments)

        monkeypatch.setattr(gsplat, name, call)

    forms = {
        "fully_fused_projection": project,
        "isect_tiles": tiles,
        "isect_offset_encode": first_of_tiles,
        "rasterize_to_pixels": blend,
    }
    for name, form in forms.items():
        replace(name, form)
    monkeypatch.setattr(gsplat_backend, "why_unusable", lambda: "")


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize(
    "options", [{}, {"antialiased": True}, {"blending": "linear"}, {"depth": False}]
)
def test_the_adapter_draws_what_the_reference_draws(degree: int, options: dict) -> None:
    images, grads = draw("gsplat", "cpu", torch.float32, degree, **options)
    expected, expected_grads = draw("reference", "cpu", torch.float64, degree, **options)
    for image, target, tolerance in zip(
        images, expected, (5e-6, 5e-6, 5e-5, 5e-6), strict=True
    ):  # depth is in metres
        assert image.shape == target.shape
        assert not image.numel() or float((image - target).abs().max()) <= tolerance
    for grad, target in zip(grads, expected_grads, strict=True):
        assert float((grad - target).norm()) <= 1e-5 * float(target.norm()) + 1e-9


def test_the_adapter_is_tried_before_it_is_trusted() -> None:
    assert probe.why_wrong(gsplat_backend.draw, "cpu") == ""
