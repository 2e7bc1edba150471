"""One signature for drawing Gaussians; gsplat or Warp on CUDA, a CPU backend, and a small
reference.

    rendering = rasterize(gaussians, K, camera_from_world, width, height)
    rendering.rgb.sum().backward()

Constants and culling follow gsplat 1.5.3, so the backends agree to rounding. Gradients reach means,
quaternions, scales, opacities, SH, extra channels, the background and, through `offsets_px`, the
projected means; not the cameras.

It imports `scene` and `bridge`. Every room above them may import it.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import NamedTuple

import torch
from torch import Tensor

from ..bridge.errors import UserError
from ..scene.gaussians import Gaussians
from .constants import ALPHA_FLOOR

log = logging.getLogger(__name__)
BACKENDS = ("auto", "cpu", "gsplat", "warp", "reference")


class RenderInfo(NamedTuple):
    """What densification asks of a rendering."""

    # [c, n] px, half the longer side of the box a Gaussian can touch; 0 if not drawn. [c, 0]
    # without offsets_px
    radii: Tensor
    backend: str  # the one that drew


class Rendering(NamedTuple):
    """c cameras' images, pixel (0, 0) top left."""

    rgb: Tensor  # [c, h, w, 3] blended over the background
    alpha: Tensor  # [c, h, w, 1] 1 - remaining light
    depth: Tensor  # [c, h, w, 1] expected depth along the camera's z, metres; 0 where nothing is
    extra: Tensor  # [c, h, w, e] blended extra channels, not divided by alpha
    info: RenderInfo


def rasterize(
    gaussians: Gaussians,
    K: Tensor,  # [c, 3, 3] px, pixel centres at +0.5, no skew
    camera_from_world: Tensor,  # [c, 4, 4] rigid, OpenCV axes
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    extra: Tensor | None = None,  # [n, e]
    background: Tensor | None = None,  # [3], in the space of blending
    antialiased: bool = False,
    near: float = 0.01,
    blending: str = "display",
    backend: str = "auto",
    depth: bool = True,
    offsets_px: Tensor | None = None,  # [c, n, 2]
    checked: bool = False,
) -> Rendering:
    """Draw Gaussians (stored forms) into c cameras.

    `sh_degree` is the degree in use, at most the stored one (default). `blending` "display" blends
    colours as they are, as 3DGS does; "linear" decodes each Gaussian's colour from sRGB first and
    returns linear light. `antialiased` scales opacity by the area that blurring adds (Yu et al.
    2024, as in gsplat). `offsets_px` is added to the projected means: pass zeros to receive their
    gradient. `depth=False` saves that channel; depth is then empty [c, h, w, 0]. `checked` says
    that the caller has seen to it that values are finite: on a GPU that saves reading them all and
    one wait for the device. Cameras are best given on the CPU, where their numbers are read.

    `backend` "auto" is, for CUDA tensors, the first of gsplat and warp that runs, else cpu (with
    one warning that says why); "warp" runs on the CPU too, for tests; "reference" is slow, takes
    float64 and differentiates everything by autograd.

    Raises ValueError for shapes that do not fit and for parameters that are not finite (the cpu
    backend looks at higher SH and extra channels of what is in view only); UserError if gsplat is
    wanted and cannot be used.
    """
    sh_degree = _check(
        gaussians,
        K,
        camera_from_world,
        width,
        height,
        sh_degree,
        extra,
        offsets_px,
        near,
        blending,
        backend,
    )
    if backend == "auto":
        backend = choose_backend(gaussians.means.device)
    if not checked:
        _check_values(gaussians if backend != "cpu" else None, extra, offsets_px)
    options = (width, height, sh_degree, near, antialiased, blending == "linear", depth)
    device = gaussians.means.device
    if backend == "cpu" and device.type != "cpu":  # gradients find their way back through the copy
        gaussians = gaussians.map(lambda t: t.cpu())
        extra = None if extra is None else extra.cpu()
        offsets_px = None if offsets_px is None else offsets_px.cpu()
    draw = _DRAW[backend]
    drawn = draw(gaussians, K, camera_from_world, extra, offsets_px, options)
    rgb, alpha, depth_sum, channels, radii = (t.to(device) for t in drawn)
    if background is not None:
        if background.shape != (3,):
            raise ValueError(f"background must be [3], got {list(background.shape)}")
        rgb = rgb + (1 - alpha) * background[:, None, None]
    expected = depth_sum / alpha.clamp_min(ALPHA_FLOOR) if depth else depth_sum
    rgb, alpha, expected, channels = (
        t.permute(0, 2, 3, 1) for t in (rgb, alpha, expected, channels)
    )
    return Rendering(rgb, alpha, expected, channels, RenderInfo(radii, backend))


@functools.cache
def gpu_backend() -> tuple[str, str]:
    """The first of gsplat and Warp that draws on the GPU here, "" if none does; in words, why
    those before it do not.
    """
    from . import gsplat_backend
    from .warp import backend as warp_backend

    reasons: list[str] = []
    for name, why_unusable in (
        ("gsplat", gsplat_backend.why_unusable),
        ("warp", warp_backend.why_unusable),
    ):
        reason = why_unusable()
        if not reason:
            return name, "; ".join(reasons)
        reasons.append(reason)
    return "", "; ".join(reasons)


@functools.cache
def choose_backend(device: torch.device) -> str:
    """The backend for tensors on a device: on CUDA gsplat, else Warp, else, with a warning that
    says why, the CPU.
    """
    if device.type != "cuda":
        return "cpu"
    name, reasons = gpu_backend()
    if name:
        log.info("Gaussians are drawn on the GPU by %s.", name)
        return name
    log.warning("Gaussians are drawn on the CPU: %s.", reasons)
    return "cpu"


def drawing_device(device: torch.device) -> torch.device:
    """Where the Gaussians of a job on `device` live: there, where something draws there, else on
    the CPU.

    With nothing but the CPU to draw, every step would carry all parameters over and all gradients
    back, and the optimiser's work is done long before that.
    """
    return torch.device("cpu") if choose_backend(device) == "cpu" else device


def compile_all(
    channels: tuple[int, ...] = (3, 4, 5, 7), backward_channels: tuple[int, ...] = (3,)
) -> float:
    """Compile and keep every CPU kernel that a job needs; returns the seconds it took. For the
    installer.

    Channels are 3 colours, 1 for depth, and the extra ones; other numbers are compiled when first
    used.
    """
    started = time.perf_counter()
    from .cpu import backend, blend  # noqa: F401 - importing compiles
    from .kernels import adam, ssim  # noqa: F401 - importing compiles

    for c in channels:
        blend.forward_kernel(c)
    for c in backward_channels:
        blend.backward_kernel(c)
    return time.perf_counter() - started


def _draw_cpu(gaussians, K, camera_from_world, extra, offsets_px, options):
    from .cpu import backend as cpu

    if any(t.dtype != torch.float32 for t in gaussians):
        raise ValueError("the cpu backend takes float32 tensors")
    opts = cpu.Options(*options)
    cameras = [
        cpu.camera_array(k.numpy(), w.numpy(), opts)
        for k, w in zip(
            K.detach().double().cpu(), camera_from_world.detach().double().cpu(), strict=True
        )
    ]
    extra = gaussians.means.new_empty(gaussians.count, 0) if extra is None else extra
    offsets_px = (
        gaussians.means.new_empty(0, gaussians.count, 2) if offsets_px is None else offsets_px
    )
    return cpu.RasterizeCpu.apply(*gaussians, extra, offsets_px, cameras, opts)


def _draw_gsplat(gaussians, K, camera_from_world, extra, offsets_px, options):
    from . import gsplat_backend

    remedy = "Choose the CPU as device, or install gsplat as the README says."
    _require("gsplat", gsplat_backend.why_unusable(), remedy)
    return gsplat_backend.draw(gaussians, K, camera_from_world, extra, offsets_px, options)


def _draw_warp(gaussians, K, camera_from_world, extra, offsets_px, options):
    from .warp import backend as warp_backend

    if gaussians.means.is_cuda:  # on the CPU it always draws
        remedy = "Run install_deps.py --extra gpu, or choose the CPU as device."
        _require("Warp", warp_backend.why_unusable(), remedy)
    return warp_backend.draw(gaussians, K, camera_from_world, extra, offsets_px, options)


def _require(name: str, reason: str, remedy: str) -> None:
    if reason:
        raise UserError(f"{name} cannot draw: {reason}.", remedy)


def _draw_reference(gaussians, K, camera_from_world, extra, offsets_px, options):
    from . import reference

    width, height, sh_degree, near, antialiased, linear, depth = options
    parts = []
    for c in range(K.shape[0]):
        image, alpha = reference.draw_reference(
            gaussians,
            K[c].to(gaussians.means),
            camera_from_world[c].to(gaussians.means),
            width,
            height,
            sh_degree=sh_degree,
            extra=extra,
            depth=depth,
            antialiased=antialiased,
            near=near,
            linear=linear,
            offsets_px=None if offsets_px is None else offsets_px[c],
        )
        parts.append((image[:3], alpha, image[3 : 3 + depth], image[3 + depth :]))
    rgb, alpha, depth_sum, channels = (torch.stack(p) for p in zip(*parts, strict=True))
    return rgb, alpha, depth_sum, channels, gaussians.means.new_zeros(K.shape[0], gaussians.count)


_DRAW = {
    "cpu": _draw_cpu,
    "gsplat": _draw_gsplat,
    "warp": _draw_warp,
    "reference": _draw_reference,
}


def _check(
    gaussians,
    K,
    camera_from_world,
    width,
    height,
    sh_degree,
    extra,
    offsets_px,
    near,
    blending,
    backend,
) -> int:
    n, c = gaussians.count, K.shape[0]
    expected = {
        "means": (n, 3),
        "quats": (n, 4),
        "scales_log": (n, 3),
        "opacities_logit": (n,),
        "sh_dc": (n, 3),
    }
    shapes = [(name, getattr(gaussians, name), shape) for name, shape in expected.items()]
    shapes += [("K", K, (c, 3, 3)), ("camera_from_world", camera_from_world, (c, 4, 4))]
    shapes += [("sh_rest", gaussians.sh_rest, (n, gaussians.sh_rest.shape[1], 3))]
    if extra is not None:
        shapes.append(("extra", extra, (n, extra.shape[-1])))
    if offsets_px is not None:
        shapes.append(("offsets_px", offsets_px, (c, n, 2)))
    for name, tensor, shape in shapes:
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    if c < 1 or width < 1 or height < 1 or not near > 0:
        raise ValueError(
            f"cameras, width, height and near must be positive, got {c}, {width}, {height}, {near}"
        )
    for name, tensor in (("K", K), ("camera_from_world", camera_from_world)):
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite")
    focal = torch.minimum(K[:, 0, 0], K[:, 1, 1])
    if not bool(((focal > 0) & (K[:, 0, 1] == 0)).all()):
        raise ValueError("K must have positive focal lengths and no skew")
    if blending not in ("display", "linear") or backend not in BACKENDS:
        raise ValueError(
            f"blending must be display or linear and backend one of {BACKENDS}, got "
            f"{blending!r}, {backend!r}"
        )
    stored = gaussians.sh_degree
    degree = stored if sh_degree is None else sh_degree
    if not 0 <= degree <= stored:
        raise ValueError(f"sh_degree must be 0..{stored} (the stored degree), got {sh_degree}")
    return degree


def _check_values(
    gaussians: Gaussians | None, extra: Tensor | None, offsets_px: Tensor | None
) -> None:
    """ValueError where values are not finite or a quaternion has no length; one wait for the
    device.

    The cpu backend looks at the Gaussians (None) and their extra channels while it projects.
    """
    if offsets_px is not None and not bool(offsets_px.isfinite().all()):
        raise ValueError("offsets_px holds values that are not finite")
    if gaussians is None:
        return
    values = [*gaussians] if extra is None else [*gaussians, extra]
    fine = [t.isfinite().all() for t in values] + [(gaussians.quats != 0).any(dim=1).all()]
    if not bool(torch.stack(fine).all()):
        raise ValueError(
            "a Gaussian holds values that are not finite, or a quaternion of zero length"
        )
