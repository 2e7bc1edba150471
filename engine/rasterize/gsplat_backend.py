"""The CUDA backend: gsplat's kernels behind our signature. gsplat is Apache-2.0 and optional.

Version 1.5.3 is pinned: later ones cap alpha at 0.99 instead of 0.999 and look different. PyPI's
wheel holds sources only; those with kernels that its authors publish end at Python 3.10 and PyTorch
2.4. Importing gsplat where its kernels are missing, or do not fit this torch, compiles for minutes
without asking. So nothing here imports it before `why_unusable` has seen kernels that load, or the
environment variable SCENE_SPLATTER_COMPILE_GSPLAT=1 has allowed the compilation.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from ..scene.colour import srgb_to_linear
from ..scene.harmonics import evaluate_sh
from . import probe
from .constants import BLUR_PX2

VERSION = "1.5.3"
CONSENT = "SCENE_SPLATTER_COMPILE_GSPLAT"
_TILE = 16
_JIT_NAME = "gsplat_cuda"


@functools.cache
def why_unusable() -> str:
    """In words why gsplat cannot draw here, "" if it can. Imports gsplat only if that compiles
    nothing or is allowed to.
    """
    if not torch.cuda.is_available():
        return "this torch sees no CUDA device"
    try:
        found = importlib.metadata.version("gsplat").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return f"gsplat {VERSION} is not installed"
    if found != VERSION:
        return f"gsplat {found} is installed, but {VERSION} is needed"
    missing = why_no_kernels()
    if missing and os.environ.get(CONSENT) != "1":
        return (
            f"{missing}; {CONSENT}=1 allows compiling them (some minutes, needs the CUDA toolkit)"
        )
    wrong = probe.why_wrong(draw, "cuda")
    return wrong and f"gsplat {VERSION} is installed but {wrong}"


def why_no_kernels() -> str:
    """In words why no compiled kernels of gsplat load here, "" if some do: the wheel's, or those of
    an earlier compilation.
    """
    package = importlib.util.find_spec("gsplat")
    folder = (
        Path(package.submodule_search_locations[0])
        if package and package.submodule_search_locations
        else Path()
    )
    reason = "gsplat's CUDA kernels are not compiled for this torch"
    for file in (*folder.glob("csrc*.so"), *folder.glob("csrc*.pyd")):
        try:
            _load_wheel_kernels(file)
        except ImportError as error:
            reason = (
                f"the CUDA kernels that came with gsplat do not fit this Python and torch ({error})"
            )
        else:
            return ""
    from torch.utils.cpp_extension import (
        _get_build_directory,  # torch names the folder after its version and CUDA's
    )

    built = Path(_get_build_directory(_JIT_NAME, verbose=False))
    return (
        ""
        if any((built / f"{_JIT_NAME}{ending}").exists() for ending in (".so", ".lib"))
        else reason
    )  # gsplat looks for these two


def _load_wheel_kernels(file: Path) -> None:
    """Load gsplat.csrc alone, where `import gsplat` finds it again. ImportError if it does not
    fit.
    """
    name = "gsplat.csrc"
    if name not in sys.modules:
        loader = importlib.machinery.ExtensionFileLoader(name, str(file))
        spec = importlib.util.spec_from_file_location(name, file, loader=loader)
        assert spec is not None  # it has its loader
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        sys.modules[name] = module


def draw(
    gaussians,
    K: Tensor,
    camera_from_world: Tensor,
    extra: Tensor | None,
    offsets_px: Tensor | None,
    options: tuple,
):
    """See `rasterize`: rgb [c, 3, h, w], alpha [c, 1, h, w], depth sum, extra channels, radii [c,
    n].

    SH is evaluated in torch, so that colour, depth and extra channels take one pass.
    """
    from gsplat import fully_fused_projection, isect_offset_encode, isect_tiles, rasterize_to_pixels

    width, height, sh_degree, near, antialiased, linear, depth = options
    # a copy to the device that blocks would wait for all that is queued there
    viewmats, K = (t.to(gaussians.means, non_blocking=True) for t in (camera_from_world, K))
    opacity = torch.sigmoid(gaussians.opacities_logit)
    radii, means2d, depths, conics, compensation = fully_fused_projection(
        gaussians.means,
        None,
        gaussians.quats,
        gaussians.scales_log.exp(),
        viewmats,
        K,
        width,
        height,
        eps2d=BLUR_PX2,
        near_plane=near,
        packed=False,
        calc_compensations=antialiased,
        opacities=opacity,
    )
    means2d = means2d if offsets_px is None else means2d + offsets_px
    opacities = opacity[None].expand(K.shape[0], -1)
    opacities = opacities * compensation if antialiased else opacities
    tiles_x, tiles_y = -(-width // _TILE), -(-height // _TILE)
    _, ids, flat = isect_tiles(means2d, radii, depths, _TILE, tiles_x, tiles_y)
    offsets = isect_offset_encode(ids, K.shape[0], tiles_x, tiles_y)
    channels = _channels(gaussians, viewmats, sh_degree, linear, depths if depth else None, extra)
    image, alpha = rasterize_to_pixels(
        means2d, conics, channels, opacities.contiguous(), width, height, _TILE, offsets, flat
    )
    image, alpha = image.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2)
    end = 3 + int(depth)
    return image[:, :3], alpha, image[:, 3:end], image[:, end:], radii.amax(-1).float()


def _channels(
    gaussians,
    viewmats: Tensor,
    sh_degree: int,
    linear: bool,
    depths: Tensor | None,
    extra: Tensor | None,
) -> Tensor:
    """[c, n, 3 (+ 1) (+ e)]"""
    per_camera = []
    for c in range(viewmats.shape[0]):
        centre = -viewmats[c, :3, :3].T @ viewmats[c, :3, 3]
        colour = evaluate_sh(
            gaussians.sh_dc, gaussians.sh_rest, gaussians.means - centre, sh_degree
        ).clamp_min(0)
        parts = [srgb_to_linear(colour) if linear else colour]
        parts += [] if depths is None else [depths[c][:, None]]
        parts += [] if extra is None else [extra]
        per_camera.append(torch.cat(parts, -1))
    return torch.stack(per_camera)
