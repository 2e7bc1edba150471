"""The CPU backend: stages in order, and their gradient as one autograd function."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...bridge.harmonics import COEFFICIENTS
from ..constants import BLUR_PX2, FRUSTUM_MARGIN, RECORD, TILE_H, TILE_W
from ..kernels.threads import run_ranges, thread_count
from ..kernels.workspace import SCRATCH, Frame, lent_tensor
from . import blend, tiles
from . import project as projection

_RANGES = 16  # per thread, for uneven work; even work takes fewer
_SMALLEST = 2048  # Gaussians a range should have


class Options(NamedTuple):
    """What is drawn, besides tensors."""

    width: int
    height: int
    sh_degree: int
    near: float
    antialiased: bool
    linear: bool
    depth: bool

    @property
    def flags(self) -> int:
        return (
            projection.FLAG_ANTIALIASED * self.antialiased
            | projection.FLAG_LINEAR * self.linear
            | projection.FLAG_DEPTH * self.depth
        )


class _Drawn(NamedTuple):
    """What one camera's forward pass leaves for its backward pass."""

    frame: Frame
    camera: np.ndarray
    records: np.ndarray
    counts: np.ndarray
    first_of: np.ndarray
    pairs_of: np.ndarray
    pairs: np.ndarray
    tile_first: np.ndarray
    image: np.ndarray


def camera_array(K: np.ndarray, camera_from_world: np.ndarray, options: Options) -> np.ndarray:
    """The kernels' camera: see `project`. Computed in float64, stored in float32."""
    R, t = camera_from_world[:3, :3], camera_from_world[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    w, h = options.width, options.height
    mx, my = FRUSTUM_MARGIN * w, FRUSTUM_MARGIN * h
    slopes = [-(cx + mx) / fx, (w - cx + mx) / fx, -(cy + my) / fy, (h - cy + my) / fy]
    values = [
        *R.reshape(-1),
        *t,
        *(-R.T @ t),
        fx,
        fy,
        cx,
        cy,
        w,
        h,
        options.near,
        *slopes,
        BLUR_PX2,
    ]
    return np.array(values, np.float32)


def _draw(
    scene: list[np.ndarray],
    offsets: np.ndarray,
    camera: np.ndarray,
    options: Options,
    image: np.ndarray,
    radii: np.ndarray,
) -> _Drawn:
    """One camera into image [channels + 1, h, w] and radii [n]."""
    n, frame, spare = scene[0].shape[0], Frame(SCRATCH), Frame(SCRATCH)
    channels = image.shape[0] - 1
    records, counts = frame.empty((n, RECORD + channels), np.float32), frame.empty((n,), np.int32)
    first_of = frame.empty((n + 1,), np.int64)
    depths, rects = spare.empty((n,), np.float32), spare.empty((n, 4), np.int32)
    sh_count = COEFFICIENTS[options.sh_degree]
    bad = np.zeros(1, np.int64)

    def project(a: int, b: int) -> None:
        projection.project(
            a,
            b,
            *scene,
            offsets,
            sh_count,
            camera,
            options.flags,
            records,
            depths,
            rects,
            counts,
            radii,
            bad,
        )

    run_ranges(project, n, _RANGES, _SMALLEST)
    if bad[0]:
        raise ValueError(
            "a Gaussian holds values that are not finite, or a quaternion of zero length"
        )
    order, order_spare = spare.empty((n,), np.int32), spare.empty((n,), np.int32)
    keys, keys_spare = spare.empty((n,), np.uint32), spare.empty((n,), np.uint32)
    pair_count = tiles.compact(counts, depths, order, keys, first_of)
    seen = int(first_of[n])
    order = tiles.sort_by_depth(seen, keys, keys_spare, order, order_spare)
    tiles_x, tiles_y = -(-options.width // TILE_W), -(-options.height // TILE_H)
    pieces = thread_count() * 4
    places = spare.empty((pieces, tiles_x * tiles_y), np.int64)
    places.fill(0)
    tile_first = frame.empty((tiles_x * tiles_y + 1,), np.int64)
    pairs, pairs_of = frame.empty((pair_count,), np.int32), frame.empty((pair_count,), np.int32)
    run_ranges(
        lambda a, b: tiles.count_pairs(a, b, seen, pieces, order, rects, tiles_x, places), pieces, 4
    )
    tiles.place_pieces(places, tile_first)

    def fill(a: int, b: int) -> None:
        tiles.fill_pairs(
            a, b, seen, pieces, order, rects, tiles_x, places, first_of, pairs, pairs_of
        )

    run_ranges(fill, pieces, 4)
    spare.close()
    forward = blend.forward_kernel(channels)
    run_ranges(
        lambda a, b: forward(a, b, tiles_x, tile_first, pairs, records, image),
        tiles_x * tiles_y,
        _RANGES,
    )
    return _Drawn(frame, camera, records, counts, first_of, pairs_of, pairs, tile_first, image)


def _draw_backward(
    scene: list[np.ndarray],
    drawn: _Drawn,
    options: Options,
    gradient: np.ndarray,
    first: bool,
    grads: list[np.ndarray],
    g_offsets: np.ndarray,
) -> None:
    """Add (or, for the first camera, write) the gradients of one camera's image."""
    n, channels = scene[0].shape[0], drawn.image.shape[0] - 1
    tiles_x, tiles_y = -(-options.width // TILE_W), -(-options.height // TILE_H)
    work = Frame(SCRATCH)
    sums = work.empty((drawn.pairs.shape[0], 6 + channels), np.float32)
    backward = blend.backward_kernel(channels)

    def blend_back(a: int, b: int) -> None:
        backward(
            a, b, tiles_x, drawn.tile_first, drawn.pairs, drawn.records, drawn.image, gradient, sums
        )

    run_ranges(blend_back, tiles_x * tiles_y, _RANGES)
    sh_count = COEFFICIENTS[options.sh_degree]

    def project_back(a: int, b: int) -> None:
        projection.project_backward(
            a,
            b,
            *scene[:6],
            sh_count,
            drawn.camera,
            options.flags,
            int(first),
            drawn.records,
            drawn.counts,
            drawn.first_of,
            drawn.pairs_of,
            sums,
            *grads,
            g_offsets,
        )

    run_ranges(project_back, n, _RANGES, _SMALLEST)
    work.close()


class RasterizeCpu(torch.autograd.Function):
    """(means, quats, scales_log, opacities_logit, sh_dc, sh_rest, extra [n, e], offsets_px [c, n,
    2] or empty, cameras, options)
    -> rgb [c, 3, h, w], alpha [c, 1, h, w], depth sum [c, 0 or 1, h, w], extra [c, e, h, w], radii
    [c, n], [c, 0] without offsets."""

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
        cameras,
        options,
    ):
        scene = [
            _array(t)
            for t in (means, quats, scales_log, opacities_logit, sh_dc, sh_rest.flatten(1), extra)
        ]
        offsets = _array(offsets_px)
        channels = 3 + options.depth + extra.shape[1]
        images = torch.empty(len(cameras), channels + 1, options.height, options.width)
        wanted = offsets.shape[0] > 0  # densification asks for the offsets' gradient and for radii
        radii = torch.empty(len(cameras), means.shape[0] if wanted else 0)
        unread = np.empty(0 if wanted else means.shape[0], np.float32)
        ctx.drawn = []
        for c, camera in enumerate(cameras):
            offset = offsets[c] if offsets.shape[0] else np.empty((0, 2), np.float32)
            radius = radii[c].numpy() if wanted else unread
            drawn = _draw(scene, offset, camera, options, images[c].numpy(), radius)
            if any(ctx.needs_input_grad):
                ctx.drawn.append(drawn)
        ctx.scene, ctx.options, ctx.channels = scene, options, channels
        ctx.shapes = (sh_rest.shape, offsets_px.shape)
        ctx.versions = [
            (t, t._version)
            for t in (means, quats, scales_log, opacities_logit, sh_dc, sh_rest, extra)
        ]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(radii)
        d = 3 + options.depth
        return images[:, :3], images[:, channels:], images[:, 3:d], images[:, d:channels], radii

    @staticmethod
    def backward(ctx, g_rgb, g_alpha, g_depth, g_extra, _g_radii):
        if any(t._version != version for t, version in ctx.versions):
            raise RuntimeError(
                "a Gaussian tensor was changed in place between drawing and its gradient"
            )
        scene, options, channels = ctx.scene, ctx.options, ctx.channels
        d = 3 + options.depth
        gradient = lent_tensor(SCRATCH, (channels + 1, options.height, options.width))
        grads = [lent_tensor(SCRATCH, a.shape) for a in scene]
        g_offsets = torch.empty(ctx.shapes[1])
        parts = (
            (g_rgb, slice(0, 3)),
            (g_depth, slice(3, d)),
            (g_extra, slice(d, channels)),
            (g_alpha, slice(channels, channels + 1)),
        )
        for c, drawn in enumerate(ctx.drawn):
            for g, where in parts:
                gradient[where] = 0.0 if g is None else g[c]
            offset = g_offsets[c].numpy() if g_offsets.shape[0] else np.empty((0, 2), np.float32)
            _draw_backward(
                scene, drawn, options, gradient.numpy(), c == 0, [g.numpy() for g in grads], offset
            )
        grads[5] = grads[5].reshape(ctx.shapes[0])
        return *grads, g_offsets, None, None


def _array(t: Tensor) -> np.ndarray:
    return t.detach().contiguous().numpy()
