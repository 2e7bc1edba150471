"""The loss of `engine.method.losses` as Warp kernels: value and gradient in four launches.

The blur is separable: rows, then columns. x, x^2 and x y are blurred on the way to S, and
dS/d(mu_x, p, r) on the way back (the window is symmetric, so its adjoint is itself). Notation as in
`method.losses`.

Cost on CUDA, one thread a number of the picture (3 h w of them), neighbours read through the cache:

    rows          reads  8 bytes a number, writes 12     66 operations
    similarity    reads 20,                writes 16     66 + 30
    rows back     reads 12,                writes 12     66
    gradient      reads 24,                writes  8     66 + 12

That is 112 bytes a number: 0.2 GB a step at 1024 x 576, 0.7 ms at the 270 GB/s of a small card, and
0.5 GFLOP, which is nothing. torch's convolutions move about five times as much, in 50 launches.
"""

from __future__ import annotations

import torch
import warp as wp
from torch import Tensor

from . import backend

_C1, _C2 = wp.constant(0.01**2), wp.constant(0.03**2)
_Three = wp.types.vector(length=3, dtype=wp.float32)


@wp.func
def _weight(k: int):
    """The window's factor at a distance of |k|: a Gaussian of 1.5 pixels, cut at 5, of sum 1."""
    return wp.static(1.0 / 3.7592327) * wp.exp(-float(k * k) / 4.5)


@wp.kernel(enable_backward=False, module="unique")
def rows(
    x: wp.array3d(dtype=float),
    y: wp.array3d(dtype=float),
    width: int,
    height: int,
    out: wp.array4d(dtype=float),  # [3, c, h, w]: x, x^2, x y, blurred along rows
):
    tid = wp.tid()
    column = tid % width
    row = (tid // width) % height
    c = tid // (width * height)
    total = _Three()
    for k in range(-5, 6):
        at = column + k
        if at >= 0 and at < width:
            v = x[c, row, at]
            total += _weight(k) * _Three(v, v * v, v * y[c, row, at])
    for m in range(3):
        out[m, c, row, column] = total[m]


@wp.func
def _blurred_down(source: wp.array4d(dtype=float), c: int, row: int, column: int, height: int):
    total = _Three()
    for k in range(-5, 6):
        at = row + k
        if at >= 0 and at < height:
            total += _weight(k) * _Three(
                source[0, c, at, column], source[1, c, at, column], source[2, c, at, column]
            )
    return total


@wp.kernel(enable_backward=False, module="unique")
def statistics(
    blurred: wp.array4d(dtype=float),
    width: int,
    height: int,
    mean: wp.array3d(dtype=float),
    variance: wp.array3d(dtype=float),
):
    """Window mean and variance of x, from `rows`."""
    tid = wp.tid()
    column = tid % width
    row = (tid // width) % height
    c = tid // (width * height)
    total = _blurred_down(blurred, c, row, column, height)
    mean[c, row, column] = total[0]
    variance[c, row, column] = total[1] - total[0] * total[0]


@wp.kernel(enable_backward=False, module="unique")
def similarity(
    blurred: wp.array4d(dtype=float),
    mean: wp.array3d(dtype=float),
    variance: wp.array3d(dtype=float),
    weights: wp.array2d(dtype=float),
    width: int,
    height: int,
    slopes: wp.array4d(dtype=float),  # [3, c, h, w] weight * dS/d(mu_x, p, r)
    lost: wp.array3d(dtype=float),  # [c, h, w] weight * (1 - S)
):
    tid = wp.tid()
    column = tid % width
    row = (tid // width) % height
    c = tid // (width * height)
    total = _blurred_down(blurred, c, row, column, height)
    mx = total[0]
    my = mean[c, row, column]
    a1 = 2.0 * mx * my + _C1
    a2 = 2.0 * (total[2] - mx * my) + _C2
    rb1 = 1.0 / (mx * mx + my * my + _C1)
    rb2 = 1.0 / (total[1] - mx * mx + variance[c, row, column] + _C2)
    s = a1 * a2 * rb1 * rb2
    w = 1.0
    if weights.shape[0] > 0:
        w = weights[row, column]
    slopes[0, c, row, column] = w * 2.0 * (my * (a2 - a1) * rb1 * rb2 + s * mx * (rb2 - rb1))
    slopes[1, c, row, column] = -w * s * rb2
    slopes[2, c, row, column] = w * 2.0 * a1 * rb1 * rb2
    lost[c, row, column] = w * (1.0 - s)


@wp.kernel(enable_backward=False, module="unique")
def rows_back(
    slopes: wp.array4d(dtype=float), width: int, height: int, out: wp.array4d(dtype=float)
):
    tid = wp.tid()
    column = tid % width
    row = (tid // width) % height
    c = tid // (width * height)
    total = _Three()
    for k in range(-5, 6):
        at = column + k
        if at >= 0 and at < width:
            total += _weight(k) * _Three(
                slopes[0, c, row, at], slopes[1, c, row, at], slopes[2, c, row, at]
            )
    for m in range(3):
        out[m, c, row, column] = total[m]


@wp.kernel(enable_backward=False, module="unique")
def gradient(
    blurred: wp.array4d(dtype=float),  # of the slopes, along rows
    x: wp.array3d(dtype=float),
    y: wp.array3d(dtype=float),
    weights: wp.array2d(dtype=float),
    width: int,
    height: int,
    share: float,  # of SSIM in the loss
    scale: float,  # 1 / numbers of the picture
    out: wp.array3d(dtype=float),
    lost: wp.array3d(dtype=float),  # [c, h, w] in: weight * (1 - S), out: the loss of the number
):
    tid = wp.tid()
    column = tid % width
    row = (tid // width) % height
    c = tid // (width * height)
    total = _blurred_down(blurred, c, row, column, height)
    v = x[c, row, column]
    t = y[c, row, column]
    w = 1.0
    if weights.shape[0] > 0:
        w = weights[row, column]
    e = v - t
    ds = total[0] + 2.0 * v * total[1] + t * total[2]
    sign = 0.0
    if e > 0.0:
        sign = 1.0
    elif e < 0.0:
        sign = -1.0
    out[c, row, column] = scale * ((1.0 - share) * w * sign - share * ds)
    lost[c, row, column] = scale * ((1.0 - share) * w * wp.abs(e) + share * lost[c, row, column])


KERNELS = (rows, statistics, similarity, rows_back, gradient)


def _launch(kernel: wp.Kernel, image: Tensor, *values: Tensor | int | float) -> None:
    device, stream = backend._on(image)
    arrays = [wp.from_torch(v) if isinstance(v, Tensor) else v for v in values]
    wp.launch(kernel, dim=image.numel(), inputs=arrays, device=device, stream=stream)


def window_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Window mean and variance of [3, h, w]."""
    y = image.detach().contiguous()
    size = (y.shape[2], y.shape[1])
    blurred = y.new_empty(3, *y.shape)
    mean, variance = torch.empty_like(y), torch.empty_like(y)
    _launch(rows, y, y, y, *size, blurred)
    _launch(statistics, y, blurred, *size, mean, variance)
    return mean, variance


class FusedLoss(torch.autograd.Function):
    """(image [3, h, w], Target, ssim_weight, pixel_weights [1, h, w] or None) -> scalar."""

    @staticmethod
    def forward(ctx, image, target, ssim_weight, pixel_weights):
        x, y = image.detach().contiguous(), target.image.contiguous()
        size = (x.shape[2], x.shape[1])
        weights = (
            x.new_empty(0, 0) if pixel_weights is None else pixel_weights[0].float().contiguous()
        )
        blurred, slopes = x.new_empty(3, *x.shape), x.new_empty(3, *x.shape)
        lost, out = torch.empty_like(x), torch.empty_like(x)
        _launch(rows, x, x, y, *size, blurred)
        _launch(similarity, x, blurred, target.mean, target.variance, weights, *size, slopes, lost)
        _launch(rows_back, x, slopes, *size, blurred)
        numbers = (float(ssim_weight), 1.0 / x.numel())
        _launch(gradient, x, blurred, x, y, weights, *size, *numbers, out, lost)
        ctx.save_for_backward(out)
        return lost.sum()

    @staticmethod
    def backward(ctx, g):
        (out,) = ctx.saved_tensors
        return out * g, None, None, None
