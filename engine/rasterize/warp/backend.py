"""The Warp backend behind our signature: launches in order, and their gradient as one autograd
function.

NVIDIA Warp (Apache-2.0) compiles the kernels with the compiler that its wheel brings, once a
machine, and keeps them. On CUDA everything runs on torch's stream; a draw waits for the device
once, to learn how many tiles all Gaussians touch together.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...bridge.errors import UserError
from .. import probe
from ..constants import BLUR_PX2, FRUSTUM_MARGIN

VERSION = "1.17.0"
_MOST_PAIRS = 2**31 - 1


@functools.cache
def why_unusable() -> str:
    """In words why Warp cannot draw on the GPU here, "" if it can."""
    if not torch.cuda.is_available():
        return "this torch sees no CUDA device"
    if importlib.util.find_spec("warp") is None:
        return f"warp-lang {VERSION} is not installed"
    found = importlib.metadata.version("warp-lang")
    if found != VERSION:
        return f"warp-lang {found} is installed, but {VERSION} is needed"
    try:
        _warp().get_device("cuda:0")
    except (RuntimeError, ValueError, OSError) as error:
        return f"warp-lang {VERSION} is installed but does not run: {error}"
    wrong = probe.why_wrong(draw, "cuda")
    return wrong and f"warp-lang {VERSION} is installed but {wrong}"


@functools.cache
def _warp():
    import warp

    warp.config.quiet = True
    warp.init()
    return warp


class Options(NamedTuple):
    """What is drawn, besides tensors; in the order of `rasterize`'s options."""

    width: int
    height: int
    sh_degree: int
    near: float
    antialiased: bool
    linear: bool
    depth: bool


class _Drawn(NamedTuple):
    """What one camera's forward pass leaves for its backward pass."""

    camera: tuple
    records: Tensor
    reach: Tensor
    ids: Tensor
    first: Tensor
    image: Tensor


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

    Takes float32 tensors, on CUDA or on the CPU.
    """
    if any(t.dtype != torch.float32 for t in gaussians):
        raise ValueError("the warp backend takes float32 tensors")
    means = gaussians.means
    extra = means.new_empty(means.shape[0], 0) if extra is None else extra
    offsets_px = means.new_empty(0, means.shape[0], 2) if offsets_px is None else offsets_px
    return RasterizeWarp.apply(
        *gaussians, extra, offsets_px, K.detach(), camera_from_world.detach(), Options(*options)
    )


def _camera(K: Tensor, camera_from_world: Tensor, o: Options, like: Tensor) -> tuple:
    """One `kernels.Camera`, computed in float64, and the tensor that holds it: torch copies it, so
    that it is there in the order of torch's stream.
    """
    from . import kernels

    wp = _warp()
    matrix, pose = K.double().cpu().numpy(), camera_from_world.double().cpu().numpy()
    R, t = pose[:3, :3], pose[:3, 3]
    f, c = (matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2])
    size = (o.width, o.height)
    camera = kernels.Camera()
    camera.R = wp.mat33(*R.reshape(-1).tolist())
    camera.t = wp.vec3(*t.tolist())
    camera.centre = wp.vec3(*(-R.T @ t).tolist())
    camera.focal, camera.principal = wp.vec2(*map(float, f)), wp.vec2(*map(float, c))
    margins = [FRUSTUM_MARGIN * side for side in size]
    camera.low = wp.vec2(*(float(-(c[k] + margins[k]) / f[k]) for k in (0, 1)))
    camera.high = wp.vec2(*(float((size[k] - c[k] + margins[k]) / f[k]) for k in (0, 1)))
    camera.near, camera.blur, camera.degree = o.near, BLUR_PX2, o.sh_degree
    camera.antialiased, camera.linear = int(o.antialiased), int(o.linear)
    camera.depth = int(o.depth)
    here = wp.array([camera], dtype=kernels.Camera, device="cpu").numpy()
    held = torch.from_numpy(here.view(np.uint8).copy()).to(like.device, non_blocking=True)
    device = wp.device_from_torch(like.device)
    there = wp.array(ptr=held.data_ptr(), dtype=kernels.Camera, shape=(1,), device=device)
    return there, held


class _Scene(NamedTuple):
    """Inputs of `kernels.project` before the camera, as torch tensors."""

    means: Tensor
    quats: Tensor
    scales_log: Tensor
    opacities_logit: Tensor
    sh_dc: Tensor
    sh_rest: Tensor
    extra: Tensor
    offsets_px: Tensor  # [n, 2] or [0, 2]


def _arrays(scene: _Scene) -> list:
    wp = _warp()
    kinds = (wp.vec3, wp.vec4, wp.vec3, wp.float32, wp.vec3, wp.vec3, wp.float32, wp.vec2)
    return [
        wp.from_torch(t.detach(), dtype=kind, requires_grad=False)
        for t, kind in zip(scene, kinds, strict=True)
    ]


def _on(tensor: Tensor):
    """Warp's device of a tensor, and torch's stream on it."""
    wp = _warp()
    device = wp.device_from_torch(tensor.device)
    stream = (
        wp.stream_from_torch(torch.cuda.current_stream(tensor.device)) if tensor.is_cuda else None
    )
    return device, stream


def _draw(
    scene: _Scene, K: Tensor, pose: Tensor, o: Options, image: Tensor, radii: Tensor
) -> _Drawn:
    """One camera into image [channels + 1, h, w] and radii [n]."""
    from . import kernels

    wp = _warp()
    means, channels = scene.means, image.shape[0] - 1
    n = means.shape[0]
    device, stream = _on(means)
    run = functools.partial(wp.launch, device=device, stream=stream)
    camera = _camera(K, pose, o, means)
    records = means.new_zeros(n, kernels.GEOMETRY + channels)
    reach = means.new_zeros(n, 4)
    run(
        kernels.project,
        dim=n,
        inputs=[*_arrays(scene), camera[0]],
        outputs=[wp.from_torch(records), wp.from_torch(reach, dtype=wp.vec4)],
    )
    rects = torch.empty(n, 4, dtype=torch.int32, device=means.device)
    counts = torch.empty(n, dtype=torch.int32, device=means.device)
    run(
        kernels.bound,
        dim=n,
        inputs=[wp.from_torch(records), wp.from_torch(reach, dtype=wp.vec4), o.width, o.height],
        outputs=[wp.from_torch(rects, dtype=wp.vec4i), wp.from_torch(counts), wp.from_torch(radii)],
    )
    stops = counts.cumsum(0, dtype=torch.int64)
    pairs = int(stops[-1]) if n else 0  # the one wait for the device
    if pairs > _MOST_PAIRS:
        raise UserError(
            f"The Gaussians touch {pairs:,} tiles in one view, more than can be drawn at once.",
            "Lower max_gaussians or the width.",
        )
    tiles_x, tiles_y = -(-o.width // kernels.TILE), -(-o.height // kernels.TILE)
    keys = torch.empty(pairs, dtype=torch.int64, device=means.device)
    owners = torch.empty(pairs, dtype=torch.int32, device=means.device)
    run(
        kernels.list_pairs,
        dim=n,
        inputs=[
            wp.from_torch(reach, dtype=wp.vec4),
            wp.from_torch(rects, dtype=wp.vec4i),
            wp.from_torch(counts),
            wp.from_torch(stops),
            tiles_x,
        ],
        outputs=[wp.from_torch(keys), wp.from_torch(owners)],
    )
    keys, order = torch.sort(keys, stable=True)
    ids = owners[order]
    first = torch.empty(tiles_x * tiles_y + 1, dtype=torch.int32, device=means.device)
    run(
        kernels.start_tiles,
        dim=first.shape[0],
        inputs=[wp.from_torch(keys), pairs],
        outputs=[wp.from_torch(first)],
    )
    blend = kernels.blending(channels, means.is_cuda)
    run(
        blend.forward,
        dim=tiles_x * tiles_y * kernels.PX,
        block_dim=kernels.PX,
        inputs=[
            wp.from_torch(records),
            wp.from_torch(ids),
            wp.from_torch(first),
            o.width,
            o.height,
            tiles_x,
        ],
        outputs=[wp.from_torch(image.view(channels + 1, -1))],
    )
    return _Drawn(camera, records, reach, ids, first, image)


def _draw_backward(
    scene: _Scene, drawn: _Drawn, o: Options, gradient: Tensor, grads: _Scene
) -> None:
    """Add the gradients of one camera's image."""
    from . import kernels

    wp = _warp()
    channels = drawn.image.shape[0] - 1
    device, stream = _on(scene.means)
    run = functools.partial(wp.launch, device=device, stream=stream)
    tiles_x, tiles_y = -(-o.width // kernels.TILE), -(-o.height // kernels.TILE)
    g_records = torch.zeros_like(drawn.records)
    run(
        kernels.blending(channels, scene.means.is_cuda).backward,
        dim=tiles_x * tiles_y * kernels.PX,
        block_dim=kernels.PX,
        inputs=[
            wp.from_torch(drawn.records),
            wp.from_torch(drawn.ids),
            wp.from_torch(drawn.first),
            o.width,
            o.height,
            tiles_x,
            wp.from_torch(drawn.image.view(channels + 1, -1)),
            wp.from_torch(gradient.view(channels + 1, -1)),
        ],
        outputs=[wp.from_torch(g_records.view(-1))],
    )
    run(
        kernels.project,
        dim=scene.means.shape[0],
        inputs=[*_arrays(scene), drawn.camera[0]],
        outputs=[wp.from_torch(drawn.records), wp.from_torch(drawn.reach, dtype=wp.vec4)],
        adj_inputs=[*_arrays(grads), None],
        adj_outputs=[wp.from_torch(g_records), None],
        adjoint=True,
    )


class RasterizeWarp(torch.autograd.Function):
    """(means, quats, scales_log, opacities_logit, sh_dc, sh_rest, extra [n, e], offsets_px [c, n,
    2] or empty, K, poses, options)
    -> rgb [c, 3, h, w], alpha [c, 1, h, w], depth sum [c, 0 or 1, h, w], extra [c, e, h, w], radii
    [c, n]."""

    @staticmethod
    def forward(
        ctx,
        means,
        quats,
        scales_log,
        opacities_logit,
        sh_dc,
        sh_rest,
        extra,
        offsets_px,
        K,
        poses,
        options,
    ):
        tensors = [
            t.detach().contiguous()
            for t in (means, quats, scales_log, opacities_logit, sh_dc, sh_rest, extra)
        ]
        channels = 3 + options.depth + extra.shape[1]
        images = means.new_empty(K.shape[0], channels + 1, options.height, options.width)
        radii = means.new_empty(K.shape[0], means.shape[0])
        ctx.drawn, ctx.scenes = [], []
        for c in range(K.shape[0]):
            offset = (
                offsets_px[c].detach().contiguous()
                if offsets_px.shape[0]
                else means.new_empty(0, 2)
            )
            scene = _Scene(*tensors, offset)
            drawn = _draw(scene, K[c], poses[c], options, images[c], radii[c])
            if any(ctx.needs_input_grad):
                ctx.drawn.append(drawn)
                ctx.scenes.append(scene)
        ctx.options, ctx.channels, ctx.offsets_shape = options, channels, offsets_px.shape
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(radii)
        d = 3 + options.depth
        return images[:, :3], images[:, channels:], images[:, 3:d], images[:, d:channels], radii

    @staticmethod
    def backward(ctx, g_rgb, g_alpha, g_depth, g_extra, _g_radii):
        options, channels = ctx.options, ctx.channels
        d = 3 + options.depth
        sums = [torch.zeros_like(t) for t in ctx.scenes[0][:7]]
        g_offsets = sums[0].new_zeros(ctx.offsets_shape)
        for c, (scene, drawn) in enumerate(zip(ctx.scenes, ctx.drawn, strict=True)):
            gradient = torch.zeros_like(drawn.image)
            for g, where in (
                (g_rgb, slice(0, 3)),
                (g_depth, slice(3, d)),
                (g_extra, slice(d, channels)),
                (g_alpha, slice(channels, channels + 1)),
            ):
                if g is not None:
                    gradient[where] = g[c]
            offset = g_offsets[c] if g_offsets.shape[0] else sums[0].new_empty(0, 2)
            _draw_backward(scene, drawn, options, gradient, _Scene(*sums, offset))
        return *sums, g_offsets, None, None, None
