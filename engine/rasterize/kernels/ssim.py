"""The loss of `engine.method.losses` as fused CPU kernels: value and gradient in two sweeps over
bands of rows.

The blur is separable: rows into a band buffer, then columns. x, x^2 and x y are blurred on the way
to S, and dS/dmu_x, dS/dp, dS/dr on the way back (the window is symmetric, so its adjoint is
itself).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .compile import F32, inline, kernel
from .threads import run_ranges
from .workspace import SCRATCH, Frame, lent_tensor

_BAND = 32
_R = 5
_d = np.arange(11) - 5
_w = np.exp(-(_d**2) / (2 * 1.5**2))
_w = _w / _w.sum()
_W0, _W1, _W2, _W3, _W4, _W5 = (F32(v) for v in _w[5:])
_C1, _C2 = F32(0.01**2), F32(0.03**2)
_ZERO, _ONE, _TWO = F32(0), F32(1), F32(2)
U = np.uint64


@inline()
def _blur_rows(source, count, width, out, out_at):
    """Blur padded rows source[r * (width + 10) ...] horizontally into out[out_at + r * width
    ...].
    """
    for r in range(U(count)):
        s = r * (U(width) + U(10))
        o = U(out_at) + r * U(width)
        for k in range(U(width)):
            out[o + k] = (
                _W0 * source[s + k + U(5)]
                + _W1 * (source[s + k + U(4)] + source[s + k + U(6)])
                + _W2 * (source[s + k + U(3)] + source[s + k + U(7)])
                + _W3 * (source[s + k + U(2)] + source[s + k + U(8)])
                + _W4 * (source[s + k + U(1)] + source[s + k + U(9)])
                + _W5 * (source[s + k] + source[s + k + U(10)])
            )


@inline()
def _column(buf, at, width):
    """The vertical blur at one place of a band buffer; `at` is the topmost of the 11 rows."""
    return (
        _W0 * buf[at + U(5) * width]
        + _W1 * (buf[at + U(4) * width] + buf[at + U(6) * width])
        + _W2 * (buf[at + U(3) * width] + buf[at + U(7) * width])
        + _W3 * (buf[at + U(2) * width] + buf[at + U(8) * width])
        + _W4 * (buf[at + U(1) * width] + buf[at + U(9) * width])
        + _W5 * (buf[at] + buf[at + U(10) * width])
    )


@kernel("void(int64,int64,int64,int64,float32[:,:,::1],float32[:,:,::1],float32[:,:,::1])")
def _statistics(start, stop, bands, height, y, mean, variance):
    """Window mean and variance of y; item = channel * bands + band."""
    width = U(y.shape[2])
    stride = (U(_BAND) + U(10)) * width
    row, buf = np.zeros(width + U(10), np.float32), np.empty(U(2) * stride, np.float32)
    for item in range(start, stop):
        c, first = U(item // bands), (item % bands) * _BAND
        last = min(first + _BAND, height)
        for i in range(first - _R, last + _R):
            at = U(i - first + _R) * width
            inside = i >= 0 and i < height
            for k in range(width):
                row[k + U(5)] = y[c, U(i), k] if inside else _ZERO
            _blur_rows(row, 1, width, buf, at)
            for k in range(width):
                row[k + U(5)] *= row[k + U(5)]
            _blur_rows(row, 1, width, buf, stride + at)
        for i in range(first, last):
            at = U(i - first) * width
            for k in range(width):
                m = _column(buf, at + k, width)
                mean[c, U(i), k] = m
                variance[c, U(i), k] = _column(buf, stride + at + k, width) - m * m


@kernel(
    "void(int64,int64,int64,float32[:,:,::1],float32[:,:,::1],float32[:,:,::1],float32[:,:,::1],float32[:,::1],"
    "float32[:,:,:,::1],float64[::1])"
)
def _similarity(start, stop, bands, x, y, mean, variance, weights, slopes, sums):
    """sums[item] += weighted (1 - S) of the band; slopes [3, 3, h, w] = weight * dS/d(mu_x, p,
    r).
    """
    height, width = x.shape[1], U(x.shape[2])
    stride = (U(_BAND) + U(10)) * width
    row, square, product = (
        np.zeros(width + U(10), np.float32),
        np.zeros(width + U(10), np.float32),
        np.zeros(width + U(10), np.float32),
    )
    buf = np.empty(U(3) * stride, np.float32)
    weighted = weights.shape[0] > 0
    for item in range(start, stop):
        c, first = U(item // bands), (item % bands) * _BAND
        last = min(first + _BAND, height)
        for i in range(first - _R, last + _R):
            at = U(i - first + _R) * width
            inside = i >= 0 and i < height
            if not inside:
                for k in range(width):
                    buf[at + k], buf[stride + at + k], buf[U(2) * stride + at + k] = (
                        _ZERO,
                        _ZERO,
                        _ZERO,
                    )
                continue
            for k in range(width):
                v = x[c, U(i), k]
                row[k + U(5)], square[k + U(5)], product[k + U(5)] = v, v * v, v * y[c, U(i), k]
            _blur_rows(row, 1, width, buf, at)
            _blur_rows(square, 1, width, buf, stride + at)
            _blur_rows(product, 1, width, buf, U(2) * stride + at)
        total = 0.0
        for i in range(first, last):
            at, row_total = U(i - first) * width, _ZERO
            for k in range(width):
                mx, my = _column(buf, at + k, width), mean[c, U(i), k]
                p, r = (
                    _column(buf, stride + at + k, width),
                    _column(buf, U(2) * stride + at + k, width),
                )
                a1, a2 = _TWO * mx * my + _C1, _TWO * (r - mx * my) + _C2
                b1, b2 = mx * mx + my * my + _C1, p - mx * mx + variance[c, U(i), k] + _C2
                rb1, rb2 = _ONE / b1, _ONE / b2
                s = a1 * a2 * rb1 * rb2
                w = weights[U(i), k] if weighted else _ONE
                row_total += w * (_ONE - s)
                slopes[U(0), c, U(i), k] = (
                    w * _TWO * (my * (a2 - a1) * rb1 * rb2 + s * mx * (rb2 - rb1))
                )
                slopes[U(1), c, U(i), k] = -w * s * rb2
                slopes[U(2), c, U(i), k] = w * _TWO * a1 * rb1 * rb2
            total += row_total
        sums[item] = total


@kernel(
    "void(int64,int64,int64,float32,float32,float32[:,:,::1],float32[:,:,::1],float32[:,::1],float32[:,:,:,::1],"
    "float32[:,:,::1],float64[::1])"
)
def _gradient(start, stop, bands, l1_scale, ssim_scale, x, y, weights, slopes, gradient, sums):
    """gradient = l1_scale * weight * sign(x - y) - ssim_scale * dS/dx summed; sums[item] = weighted
    |x - y| of the band.
    """
    height, width = x.shape[1], U(x.shape[2])
    stride = (U(_BAND) + U(10)) * width
    row, buf = np.zeros(width + U(10), np.float32), np.empty(U(3) * stride, np.float32)
    weighted = weights.shape[0] > 0
    for item in range(start, stop):
        c, first = U(item // bands), (item % bands) * _BAND
        last = min(first + _BAND, height)
        for i in range(first - _R, last + _R):
            at = U(i - first + _R) * width
            for m in range(U(3)):
                if i >= 0 and i < height:
                    for k in range(width):
                        row[k + U(5)] = slopes[m, c, U(i), k]
                    _blur_rows(row, 1, width, buf, m * stride + at)
                else:
                    for k in range(width):
                        buf[m * stride + at + k] = _ZERO
        total = 0.0
        for i in range(first, last):
            at, row_total = U(i - first) * width, _ZERO
            for k in range(width):
                v, t = x[c, U(i), k], y[c, U(i), k]
                w = weights[U(i), k] if weighted else _ONE
                ds = (
                    _column(buf, at + k, width)
                    + _TWO * v * _column(buf, stride + at + k, width)
                    + t * _column(buf, U(2) * stride + at + k, width)
                )
                e = v - t
                row_total += w * abs(e)
                sign = _ONE if e > _ZERO else (-_ONE if e < _ZERO else _ZERO)
                gradient[c, U(i), k] = l1_scale * w * sign - ssim_scale * ds
            total += row_total
        sums[item] = total


def window_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Window mean and variance of [3, h, w]."""
    y = image.contiguous()
    mean, variance = torch.empty_like(y), torch.empty_like(y)
    bands, height = _bands(y)
    run_ranges(
        lambda a, b: _statistics(a, b, bands, height, y.numpy(), mean.numpy(), variance.numpy()),
        3 * bands,
        4,
    )
    return mean, variance


def _bands(image: Tensor) -> tuple[int, int]:
    height = image.shape[1]
    return -(-height // _BAND), height


class FusedLoss(torch.autograd.Function):
    """(image [3, h, w], Target, ssim_weight, pixel_weights [1, h, w] or None) -> scalar."""

    @staticmethod
    def forward(ctx, image, target, ssim_weight, pixel_weights):
        x, y = image.detach().contiguous().numpy(), target.image.contiguous().numpy()
        mean, variance = target.mean.numpy(), target.variance.numpy()
        weights = (
            np.empty((0, 0), np.float32)
            if pixel_weights is None
            else pixel_weights[0].float().contiguous().numpy()
        )
        bands, _ = _bands(image)
        scratch = Frame(SCRATCH)
        slopes, gradient = scratch.empty((3, *x.shape), np.float32), lent_tensor(SCRATCH, x.shape)
        dissimilar, absolute = np.zeros(3 * bands), np.zeros(3 * bands)
        run_ranges(
            lambda a, b: _similarity(
                a, b, bands, x, y, mean, variance, weights, slopes, dissimilar
            ),
            3 * bands,
            4,
        )
        l1_scale, ssim_scale = F32((1 - ssim_weight) / x.size), F32(ssim_weight / x.size)
        out = gradient.numpy()
        run_ranges(
            lambda a, b: _gradient(
                a, b, bands, l1_scale, ssim_scale, x, y, weights, slopes, out, absolute
            ),
            3 * bands,
            4,
        )
        scratch.close()
        ctx.save_for_backward(gradient)
        value = ((1 - ssim_weight) * absolute.sum() + ssim_weight * dissimilar.sum()) / x.size
        return torch.tensor(value, dtype=torch.float32)

    @staticmethod
    def backward(ctx, g):
        (gradient,) = ctx.saved_tensors
        return gradient * g, None, None, None
