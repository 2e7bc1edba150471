"""Blending the Gaussians of each tile, and the gradient of that.

Inner loops run over whole 8-pixel rows of one flat buffer with unsigned bounds and constant plane
offsets: that is what lets the compiler prove that planes do not overlap and use full vectors. The
kernel for a number of channels is made when that number is first asked for.

A pixel's remaining light T is stored negative once the pixel is done, so the loop has no branch:
T(1 - a) <= T_MIN, which also holds for negative T, keeps it done and gives weight 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from ..constants import ALPHA_MAX, BATCH, RECORD, T_MIN, TILE_H, TILE_W
from ..kernels.compile import F32, inline, kernel, prefetch

_PX = TILE_W * TILE_H
_TW, _TH, _BATCH, _REC = TILE_W, TILE_H, BATCH, RECORD
U = np.uint64
_ZERO, _HALF, _ONE, _TWO = F32(0), F32(0.5), F32(1), F32(2)
_T_MIN, _ALPHA_MAX = F32(T_MIN), F32(ALPHA_MAX)
_ROUNDING_PX = F32(0.02)
# exp(-u) on [0, 0.7], relative error 8e-8; cubing its square root three times gives exp(-8u) for
# the whole range s <= ln 255.
_E0, _E1, _E2 = F32(0.9999999205160792), F32(-0.9999925393757), F32(0.49988258769289223)
_E3, _E4, _E5 = F32(-0.1659739761310856), F32(0.039772562189470284), F32(-0.005846760101313533)
_EIGHTH = F32(0.125)


@inline()
def _gather(first, count, end, size, pairs, records, x0, y0, loc, lo, hi):
    """Copy `count` records beside each other and find the pixel rows lo..hi (times TILE_W) of the
    tile that each one touches.

    The records of the batch after it, which lie anywhere, are asked for.
    """
    for j in range(first + U(_BATCH), min(first + U(2 * _BATCH), end)):
        i = U(pairs[j])
        prefetch(records, i, U(0))
        prefetch(records, i, U(size - 1))
    for b in range(U(count)):
        i = U(pairs[first + b])
        for k in range(U(size)):
            loc[b * U(size) + k] = records[i, k]
    left, right = x0 + _HALF, x0 + F32(_TW) - _HALF
    for b in range(U(count)):
        o = b * U(size)
        mx, my, ha, cb, hc = loc[o], loc[o + U(1)], loc[o + U(2)], loc[o + U(3)], loc[o + U(4)]
        s_max, det = loc[o + U(6)], loc[o + U(7)]
        # Highest and lowest point of the ellipse ha dx^2 + cb dx dy + hc dy^2 = s_max lie at dx =
        # -+ (cb / 2 ha) dy; where those
        # are outside the tile's columns, the column nearest to them decides, because the ellipse is
        # convex.
        top = math.sqrt(_TWO * s_max * _TWO * ha / det)
        tip = cb / (_TWO * ha) * top
        up = min(max(-tip, left - mx), right - mx)
        down = min(max(tip, left - mx), right - mx)
        c = _TWO * hc
        du, dd = _TWO * s_max * c - det * up * up, _TWO * s_max * c - det * down * down
        high = my + (math.sqrt(max(du, _ZERO)) - cb * up) / c + _ROUNDING_PX
        low = my - (math.sqrt(max(dd, _ZERO)) + cb * down) / c - _ROUNDING_PX
        # First row whose centre is at or below `low`, and one past the last: conversions cut
        # towards 0 (a ceiling or
        # floor would be a call, and the loop one row at a time).
        r0 = _TH - np.int32(min(max(y0 + F32(_TH) + _HALF - low, _ZERO), F32(_TH)))
        r1 = np.int32(min(max(high - y0 + _HALF, _ZERO), F32(_TH)))
        # A needle's square root may just miss zero by rounding; such rows are drawn, the exponent
        # decides.
        r0 = r0 if r1 > r0 else r1
        lo[b] = U(r0) * U(_TW)
        hi[b] = U(r1) * U(_TW)


@inline()
def _exp_minus(s):
    u = s * _EIGHTH
    e = ((((_E5 * u + _E4) * u + _E3) * u + _E2) * u + _E1) * u + _E0
    e = e * e
    e = e * e
    return e * e


@inline()
def _start_tile(x0, y0, width, height, buf):
    """Pixel centres and T = 1; pixels beyond the image are done from the start."""
    for k in range(U(_PX)):
        x, y = x0 + F32(k % U(_TW)) + _HALF, y0 + F32(k // U(_TW)) + _HALF
        buf[k] = x
        buf[U(_PX) + k] = y
        buf[U(2 * _PX) + k] = _ONE if (x < width and y < height) else -_ONE


@inline()
def _any_light(buf):
    most = -_ONE
    for k in range(U(_PX)):
        most = max(most, buf[U(2 * _PX) + k])
    return most > _ZERO


@functools.cache
def forward_kernel(channels: int) -> Callable:
    """Compiled `forward(tile_start, tile_stop, tiles_x, tile_first, pairs, records, image)` for a
    number of channels.

    image [channels + 1, h, w] receives the blended channels and, last, alpha. The first 8 channels
    are blended in the one loop over pixels, their colours held in registers; any more take the
    stored weights in loops of their own.
    """
    C = channels
    SIZE = RECORD + channels
    FLOATS = (4 + channels) * _PX  # x, y, T, weight, channels

    @kernel("void(int64,int64,int64,int64[::1],int32[::1],float32[:,::1],float32[:,:,::1])")
    def forward(tile_start, tile_stop, tiles_x, tile_first, pairs, records, image):
        height, width = U(image.shape[1]), U(image.shape[2])
        buf, loc = np.empty(FLOATS, np.float32), np.empty(_BATCH * SIZE + 8, np.float32)
        lo, hi = np.empty(_BATCH, np.uint64), np.empty(_BATCH, np.uint64)
        for tile in range(tile_start, tile_stop):
            x0, y0 = F32((tile % tiles_x) * _TW), F32((tile // tiles_x) * _TH)
            _start_tile(x0, y0, F32(width), F32(height), buf)
            for k in range(U(3 * _PX), U(FLOATS)):
                buf[k] = _ZERO
            j, end = U(tile_first[U(tile)]), U(tile_first[U(tile) + U(1)])
            while j < end and _any_light(buf):
                n = min(U(_BATCH), end - j)
                _gather(j, n, end, SIZE, pairs, records, x0, y0, loc, lo, hi)
                for b in range(n):
                    o = b * U(SIZE)
                    mx, my, ha, cb, hc = (
                        loc[o],
                        loc[o + U(1)],
                        loc[o + U(2)],
                        loc[o + U(3)],
                        loc[o + U(4)],
                    )
                    opacity, s_max = loc[o + U(5)], loc[o + U(6)]
                    c0, c1, c2, c3, c4, c5, c6, c7 = _colours(loc, o + U(_REC))
                    for k in range(lo[b], hi[b]):
                        dx, dy = buf[k] - mx, buf[k + U(_PX)] - my
                        s = max((ha * dx + cb * dy) * dx + hc * dy * dy, _ZERO)
                        a = min(opacity * _exp_minus(min(s, s_max)), _ALPHA_MAX)
                        a = a if s <= s_max else _ZERO
                        light = buf[k + U(2 * _PX)]
                        rest = light - light * a
                        w = light * a if rest > _T_MIN else _ZERO
                        buf[k + U(2 * _PX)] = rest if rest > _T_MIN else -abs(light)
                        if C > 8:
                            buf[k + U(3 * _PX)] = w
                        if C > 0:
                            buf[k + U(4 * _PX)] += w * c0
                        if C > 1:
                            buf[k + U(5 * _PX)] += w * c1
                        if C > 2:
                            buf[k + U(6 * _PX)] += w * c2
                        if C > 3:
                            buf[k + U(7 * _PX)] += w * c3
                        if C > 4:
                            buf[k + U(8 * _PX)] += w * c4
                        if C > 5:
                            buf[k + U(9 * _PX)] += w * c5
                        if C > 6:
                            buf[k + U(10 * _PX)] += w * c6
                        if C > 7:
                            buf[k + U(11 * _PX)] += w * c7
                    if C > 8:
                        for c in range(U(8), U(C)):
                            colour, plane = loc[o + U(_REC) + c], (U(4) + c) * U(_PX)
                            for k in range(lo[b], hi[b]):
                                buf[k + plane] += buf[k + U(3 * _PX)] * colour
                j += n
            _write_tile(tile, tiles_x, width, height, C, buf, image)

    return forward


@inline()
def _write_tile(tile, tiles_x, width, height, channels, buf, image):
    x0, y0 = U((tile % tiles_x) * _TW), U((tile // tiles_x) * _TH)
    columns, rows = min(U(_TW), width - x0), min(U(_TH), height - y0)
    for c in range(U(channels)):
        for r in range(rows):
            for k in range(columns):
                image[c, y0 + r, x0 + k] = buf[(U(4) + c) * U(_PX) + r * U(_TW) + k]
    for r in range(rows):
        for k in range(columns):
            image[U(channels), y0 + r, x0 + k] = _ONE - abs(buf[U(2 * _PX) + r * U(_TW) + k])


@inline()
def _read_gradient(tile, tiles_x, width, height, channels, image, gradient, buf):
    """R = g . C - g_alpha T_end into plane 3 and the channels' gradients into the planes from 6
    on.
    """
    x0, y0 = U((tile % tiles_x) * _TW), U((tile // tiles_x) * _TH)
    columns, rows = min(U(_TW), width - x0), min(U(_TH), height - y0)
    for k in range(U(3 * _PX), U((6 + channels) * _PX)):
        buf[k] = _ZERO
    last = U(channels)
    for r in range(rows):
        for k in range(columns):
            at = r * U(_TW) + k
            total = -gradient[last, y0 + r, x0 + k] * (_ONE - image[last, y0 + r, x0 + k])
            for c in range(U(channels)):
                g = gradient[c, y0 + r, x0 + k]
                buf[(U(6) + c) * U(_PX) + at] = g
                total += g * image[c, y0 + r, x0 + k]
            buf[U(3 * _PX) + at] = total


@inline()
def _colours(loc, at):
    """Eight values from `at` on; those past the record's end are never used."""
    return (
        loc[at],
        loc[at + U(1)],
        loc[at + U(2)],
        loc[at + U(3)],
        loc[at + U(4)],
        loc[at + U(5)],
        loc[at + U(6)],
        loc[at + U(7)],
    )


@inline()
def _store(channels, row, v0, v1, v2, v3, v4, v5, v6, v7, sums):
    values = (v0, v1, v2, v3, v4, v5, v6, v7)
    for c in range(min(channels, 8)):
        sums[row, 6 + c] = values[c]


@inline()
def _far_q(channels, lo, hi, loc, at, buf):
    """Plane 5: q of the channels past the first eight."""
    for k in range(lo, hi):
        buf[k + U(5 * _PX)] = _ZERO
    for c in range(U(8), U(channels)):
        colour, plane = loc[at + c], (U(6) + c) * U(_PX)
        for k in range(lo, hi):
            buf[k + U(5 * _PX)] += colour * buf[k + plane]


@inline()
def _far_sums(channels, lo, hi, row, buf, sums):
    for c in range(U(8), U(channels)):
        plane, total = (U(6) + c) * U(_PX), _ZERO
        for k in range(lo, hi):
            total += buf[k + U(4 * _PX)] * buf[k + plane]
        sums[row, U(6) + c] = total


@functools.cache
def backward_kernel(channels: int) -> Callable:
    """Compiled `backward(tile_start, tile_stop, tiles_x, tile_first, pairs, records, image,
    gradient, sums)`.

    Walks front to back like `forward`, from the stored image: with q = g . colour and R what is
    still to come, dL/da = T q - R / (1 - a). Every pair has its own row in `sums`: no two threads
    add to one number, and rows are written one after another (rows in the order of Gaussians waited
    for memory: 1.5 times as long).
    """
    C = channels
    SIZE = RECORD + channels
    FLOATS = (
        6 + channels
    ) * _PX  # x, y, T, R, weight, q of the channels past 8, channels' gradients

    @kernel(
        "void(int64,int64,int64,int64[::1],int32[::1],float32[:,::1],float32[:,:,::1],float32[:,:,::1],float32[:,::1])"
    )
    def backward(tile_start, tile_stop, tiles_x, tile_first, pairs, records, image, gradient, sums):
        height, width = U(image.shape[1]), U(image.shape[2])
        buf, loc = np.empty(FLOATS, np.float32), np.empty(_BATCH * SIZE + 8, np.float32)
        lo, hi = np.empty(_BATCH, np.uint64), np.empty(_BATCH, np.uint64)
        for tile in range(tile_start, tile_stop):
            x0, y0 = F32((tile % tiles_x) * _TW), F32((tile // tiles_x) * _TH)
            _start_tile(x0, y0, F32(width), F32(height), buf)
            _read_gradient(tile, tiles_x, width, height, C, image, gradient, buf)
            j, end = U(tile_first[U(tile)]), U(tile_first[U(tile) + U(1)])
            while j < end and _any_light(buf):
                n = min(U(_BATCH), end - j)
                _gather(j, n, end, SIZE, pairs, records, x0, y0, loc, lo, hi)
                for b in range(n):
                    o = b * U(SIZE)
                    mx, my, ha, cb, hc = (
                        loc[o],
                        loc[o + U(1)],
                        loc[o + U(2)],
                        loc[o + U(3)],
                        loc[o + U(4)],
                    )
                    opacity, s_max = loc[o + U(5)], loc[o + U(6)]
                    c0, c1, c2, c3, c4, c5, c6, c7 = _colours(loc, o + U(_REC))
                    u0, u1, u2, u3, u4, u5 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
                    v0, v1, v2, v3, v4, v5, v6, v7 = (
                        _ZERO,
                        _ZERO,
                        _ZERO,
                        _ZERO,
                        _ZERO,
                        _ZERO,
                        _ZERO,
                        _ZERO,
                    )
                    if C > 8:
                        _far_q(C, lo[b], hi[b], loc, o + U(_REC), buf)
                    for k in range(lo[b], hi[b]):
                        dx, dy = buf[k] - mx, buf[k + U(_PX)] - my
                        s = max((ha * dx + cb * dy) * dx + hc * dy * dy, _ZERO)
                        raw = opacity * _exp_minus(min(s, s_max))
                        a = min(raw, _ALPHA_MAX)
                        a = a if s <= s_max else _ZERO
                        light = buf[k + U(2 * _PX)]
                        rest = light - light * a
                        w = light * a if rest > _T_MIN else _ZERO
                        q = buf[k + U(5 * _PX)] if C > 8 else _ZERO
                        if C > 0:
                            q += buf[k + U(6 * _PX)] * c0
                        if C > 1:
                            q += buf[k + U(7 * _PX)] * c1
                        if C > 2:
                            q += buf[k + U(8 * _PX)] * c2
                        if C > 3:
                            q += buf[k + U(9 * _PX)] * c3
                        if C > 4:
                            q += buf[k + U(10 * _PX)] * c4
                        if C > 5:
                            q += buf[k + U(11 * _PX)] * c5
                        if C > 6:
                            q += buf[k + U(12 * _PX)] * c6
                        if C > 7:
                            q += buf[k + U(13 * _PX)] * c7
                        r = buf[k + U(3 * _PX)] - w * q
                        buf[k + U(3 * _PX)] = r
                        u = a * (light * q - r / (_ONE - a))
                        u = u if (rest > _T_MIN and raw <= _ALPHA_MAX) else _ZERO
                        buf[k + U(2 * _PX)] = rest if rest > _T_MIN else -abs(light)
                        ux, uy = u * dx, u * dy
                        u0 += u
                        u1 += ux
                        u2 += uy
                        u3 += ux * dx
                        u4 += ux * dy
                        u5 += uy * dy
                        if C > 0:
                            v0 += w * buf[k + U(6 * _PX)]
                        if C > 1:
                            v1 += w * buf[k + U(7 * _PX)]
                        if C > 2:
                            v2 += w * buf[k + U(8 * _PX)]
                        if C > 3:
                            v3 += w * buf[k + U(9 * _PX)]
                        if C > 4:
                            v4 += w * buf[k + U(10 * _PX)]
                        if C > 5:
                            v5 += w * buf[k + U(11 * _PX)]
                        if C > 6:
                            v6 += w * buf[k + U(12 * _PX)]
                        if C > 7:
                            v7 += w * buf[k + U(13 * _PX)]
                        if C > 8:
                            buf[k + U(4 * _PX)] = w
                    row = j + b
                    sums[row, 0], sums[row, 1], sums[row, 2] = u0, u1, u2
                    sums[row, 3], sums[row, 4], sums[row, 5] = u3, u4, u5
                    _store(C, row, v0, v1, v2, v3, v4, v5, v6, v7, sums)
                    if C > 8:
                        _far_sums(C, lo[b], hi[b], row, buf, sums)
                j += n
            for row in range(j, end):
                for c in range(U(6 + C)):
                    sums[row, c] = _ZERO

    return backward
