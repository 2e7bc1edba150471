"""Gaussians to screen records, and the way back for gradients: one pass over all Gaussians each.

Notation (name here -> symbol): m -> mean in camera axes, J -> Jacobian of the projection at m,
`half` -> H = R_camera R_q S so that the camera-axes covariance is H H^T, `t` -> T = J H so that the
screen covariance is T T^T. Working with the 2x3 factor T keeps det(T T^T) = |T_0 x T_1|^2 exact for
needles, where ac - b^2 cancels. After Zwicker et al. 2001 (EWA splatting) and Kerbl et al. 2023.

Matrices are tuples, row by row: they live in registers. Small arrays in their place, which the
compiler must write to memory, took 2 to 2.5 times as long.

The camera arrives as one float32 array: R row-major 0..8, t 9..11, centre 12..14, fx fy cx cy
15..18, width height 19..20, near 21, slope limits x-, x+, y-, y+ 22..25, blur 26.
"""

from __future__ import annotations

import math

import numpy as np

from ...bridge import harmonics
from ..constants import ALPHA_MIN, RECORD, TILE_H, TILE_W
from ..kernels.compile import F32, inline, kernel, prefetch

FLAG_ANTIALIASED = 1
FLAG_LINEAR = 2
FLAG_DEPTH = 4

_ZERO, _HALF, _ONE, _TWO, _THREE, _FOUR = F32(0), F32(0.5), F32(1), F32(2), F32(3), F32(4)
_ALPHA_MIN = F32(ALPHA_MIN)
_LARGEST = F32(3.4e38)
U = np.uint64
_AHEAD = U(6)  # Gaussians
_REC, _TW, _TH = RECORD, TILE_W, TILE_H
_C0, _C1 = F32(harmonics.SH_C0), F32(harmonics.C1)
_C2A, _C2B, _C2C = (F32(c) for c in harmonics.C2)
_C3A, _C3B, _C3C, _C3D, _C3E = (F32(c) for c in harmonics.C3)


@inline()
def _basis(x, y, z, count, b):
    """Real spherical harmonics 1..count of a unit direction into b; the sign convention of 3DGS."""
    if count >= 3:
        b[0] = -_C1 * y
        b[1] = _C1 * z
        b[2] = -_C1 * x
    if count >= 8:
        b[3] = _C2A * x * y
        b[4] = -_C2A * y * z
        b[5] = _C2B * (_TWO * z * z - x * x - y * y)
        b[6] = -_C2A * x * z
        b[7] = _C2C * (x * x - y * y)
    if count >= 15:
        b[8] = -_C3A * y * (_THREE * x * x - y * y)
        b[9] = _C3B * x * y * z
        b[10] = -_C3C * y * (_FOUR * z * z - x * x - y * y)
        b[11] = _C3D * z * (_TWO * z * z - _THREE * x * x - _THREE * y * y)
        b[12] = -_C3C * x * (_FOUR * z * z - x * x - y * y)
        b[13] = _C3E * z * (x * x - y * y)
        b[14] = -_C3A * x * (x * x - _THREE * y * y)


@inline()
def _basis_gradient(x, y, z, count, v, g):
    """g += sum_k v[k] d b_k / d(x, y, z), the polynomials taken off the sphere as they stand."""
    if count >= 3:
        g[1] -= _C1 * v[0]
        g[2] += _C1 * v[1]
        g[0] -= _C1 * v[2]
    if count >= 8:
        g[0] += _C2A * (y * v[3] - z * v[6]) + _TWO * x * (_C2C * v[7] - _C2B * v[5])
        g[1] += _C2A * (x * v[3] - z * v[4]) - _TWO * y * (_C2C * v[7] + _C2B * v[5])
        g[2] += -_C2A * (y * v[4] + x * v[6]) + _FOUR * z * _C2B * v[5]
    if count >= 15:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        g[0] += (
            -_C3A * F32(6) * xy * v[8]
            + _C3B * yz * v[9]
            + _C3C * _TWO * xy * v[10]
            - _C3D * F32(6) * xz * v[11]
            - _C3C * (_FOUR * zz - _THREE * xx - yy) * v[12]
            + _C3E * _TWO * xz * v[13]
            - _C3A * _THREE * (xx - yy) * v[14]
        )
        g[1] += (
            -_C3A * _THREE * (xx - yy) * v[8]
            + _C3B * xz * v[9]
            - _C3C * (_FOUR * zz - xx - _THREE * yy) * v[10]
            - _C3D * F32(6) * yz * v[11]
            + _C3C * _TWO * xy * v[12]
            - _C3E * _TWO * yz * v[13]
            + _C3A * F32(6) * xy * v[14]
        )
        g[2] += (
            _C3B * xy * v[9]
            - _C3C * F32(8) * yz * v[10]
            + _C3D * _THREE * (_TWO * zz - xx - yy) * v[11]
            - _C3C * F32(8) * xz * v[12]
            + _C3E * (xx - yy) * v[13]
        )


@inline()
def _to_linear(c):
    """IEC 61966-2-1 decoding of one non-negative value."""
    if c <= F32(0.04045):
        return c * F32(1 / 12.92)
    return ((c + F32(0.055)) * F32(1 / 1.055)) ** F32(2.4)


@inline()
def _to_linear_slope(c):
    if c <= F32(0.04045):
        return F32(1 / 12.92)
    return F32(2.4 / 1.055) * ((c + F32(0.055)) * F32(1 / 1.055)) ** F32(1.4)


@inline()
def _camera(cam):
    """The camera array as a tuple: what is stored later cannot change it, so it is read once."""
    return (
        cam[0],
        cam[1],
        cam[2],
        cam[3],
        cam[4],
        cam[5],
        cam[6],
        cam[7],
        cam[8],
        cam[9],
        cam[10],
        cam[11],
        cam[12],
        cam[13],
        cam[14],
        cam[15],
        cam[16],
        cam[17],
        cam[18],
        cam[19],
        cam[20],
        cam[21],
        cam[22],
        cam[23],
        cam[24],
        cam[25],
        cam[26],
    )


@inline()
def _times(a, b):
    """Product of two 3x3 matrices."""
    return (
        a[0] * b[0] + a[1] * b[3] + a[2] * b[6],
        a[0] * b[1] + a[1] * b[4] + a[2] * b[7],
        a[0] * b[2] + a[1] * b[5] + a[2] * b[8],
        a[3] * b[0] + a[4] * b[3] + a[5] * b[6],
        a[3] * b[1] + a[4] * b[4] + a[5] * b[7],
        a[3] * b[2] + a[4] * b[5] + a[5] * b[8],
        a[6] * b[0] + a[7] * b[3] + a[8] * b[6],
        a[6] * b[1] + a[7] * b[4] + a[8] * b[7],
        a[6] * b[2] + a[7] * b[5] + a[8] * b[8],
    )


@inline()
def _unit_quaternion(i, quats):
    """(w, x, y, z) of length 1, and 1 / the stored length."""
    w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
    n = _ONE / math.sqrt(w * w + x * x + y * y + z * z)
    return w * n, x * n, y * n, z * n, n


@inline()
def _factor(x, y, z, q, s0, s1, s2, cam):
    """(half, t, j00, j11, j02, j12, x free, y free) of a mean in camera axes, a unit quaternion and
    scales.
    """
    qw, qx, qy, qz, _ = q
    rotation = (
        _ONE - _TWO * (qy * qy + qz * qz),
        _TWO * (qx * qy - qw * qz),
        _TWO * (qx * qz + qw * qy),
        _TWO * (qx * qy + qw * qz),
        _ONE - _TWO * (qx * qx + qz * qz),
        _TWO * (qy * qz - qw * qx),
        _TWO * (qx * qz - qw * qy),
        _TWO * (qy * qz + qw * qx),
        _ONE - _TWO * (qx * qx + qy * qy),
    )
    h = _times(cam, rotation)
    h = (
        h[0] * s0,
        h[1] * s1,
        h[2] * s2,
        h[3] * s0,
        h[4] * s1,
        h[5] * s2,
        h[6] * s0,
        h[7] * s1,
        h[8] * s2,
    )
    rz = _ONE / z
    sx, sy = x * rz, y * rz
    cx, cy = min(max(sx, cam[22]), cam[23]), min(max(sy, cam[24]), cam[25])
    j00, j11 = cam[15] * rz, cam[16] * rz
    j02, j12 = -j00 * cx, -j11 * cy
    t = (
        j00 * h[0] + j02 * h[6],
        j00 * h[1] + j02 * h[7],
        j00 * h[2] + j02 * h[8],
        j11 * h[3] + j12 * h[6],
        j11 * h[4] + j12 * h[7],
        j11 * h[5] + j12 * h[8],
    )
    return h, t, j00, j11, j02, j12, sx == cx, sy == cy


@inline()
def _camera_mean(i, means, cam):
    x, y, z = means[i, 0], means[i, 1], means[i, 2]
    return (
        cam[0] * x + cam[1] * y + cam[2] * z + cam[9],
        cam[3] * x + cam[4] * y + cam[5] * z + cam[10],
        cam[6] * x + cam[7] * y + cam[8] * z + cam[11],
    )


@inline()
def _covariance(t, blur):
    """(a, b, c, det, det before blur) of T T^T + blur I."""
    a = t[0] * t[0] + t[1] * t[1] + t[2] * t[2]
    b = t[0] * t[3] + t[1] * t[4] + t[2] * t[5]
    c = t[3] * t[3] + t[4] * t[4] + t[5] * t[5]
    u, v, w = t[1] * t[5] - t[2] * t[4], t[2] * t[3] - t[0] * t[5], t[0] * t[4] - t[1] * t[3]
    det0 = u * u + v * v + w * w
    return a + blur, b, c + blur, det0 + blur * (a + c) + blur * blur, det0


@inline()
def _direction(i, means, cam):
    """Unit direction camera centre -> mean, and 1 / distance."""
    x, y, z = means[i, 0] - cam[12], means[i, 1] - cam[13], means[i, 2] - cam[14]
    n = _ONE / math.sqrt(max(x * x + y * y + z * z, F32(1e-24)))
    return x * n, y * n, z * n, n


@inline()
def _raw_colour(i, sh_dc, sh_rest, sh_count, basis):
    """0.5 + SH, as it is before the cut at 0."""
    r, g, b = _HALF + _C0 * sh_dc[i, 0], _HALF + _C0 * sh_dc[i, 1], _HALF + _C0 * sh_dc[i, 2]
    for j in range(U(sh_count)):
        k = U(3) * j
        r += basis[j] * sh_rest[i, k]
        g += basis[j] * sh_rest[i, k + U(1)]
        b += basis[j] * sh_rest[i, k + U(2)]
    return r, g, b


@inline()
def _reach(s_max, variance):
    """Half the side of the box around the ellipse, a hair larger so that rounding cannot lose a
    pixel on its rim.
    """
    return math.sqrt(_TWO * s_max * variance) * F32(1.0001) + F32(1e-3)


@inline()
def _ceiling(x):
    """Least whole number >= x of x >= 0; math.ceil would be a call."""
    whole = np.int32(x)
    return whole + np.int32(F32(whole) < x)


@inline()
def _usable(i, means, quats, scales_log, opacities_logit, sh_dc):
    """All finite (a sum of absolute values is, exactly then, short of overflow) and a quaternion
    with a direction.
    """
    q = (
        quats[i, 0] * quats[i, 0]
        + quats[i, 1] * quats[i, 1]
        + quats[i, 2] * quats[i, 2]
        + quats[i, 3] * quats[i, 3]
    )
    total = abs(means[i, 0]) + abs(means[i, 1]) + abs(means[i, 2]) + q + abs(opacities_logit[i])
    total += abs(scales_log[i, 0]) + abs(scales_log[i, 1]) + abs(scales_log[i, 2])
    total += abs(sh_dc[i, 0]) + abs(sh_dc[i, 1]) + abs(sh_dc[i, 2])
    return total < _LARGEST and q > _ZERO


@kernel(
    "void(int64,int64,float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[:,::1],float32[:,::1],float32[:,::1],"
    "float32[:,::1],int64,float32[::1],int64,float32[:,::1],float32[::1],int32[:,::1],int32[::1],float32[::1],int64[::1])"
)
def project(
    start,
    stop,
    means,
    quats,
    scales_log,
    opacities_logit,
    sh_dc,
    sh_rest,
    extra,
    offsets_px,
    sh_count,
    camera,
    flags,
    records,
    depths,
    rects,
    counts,
    radii,
    bad,
):
    """Fill record, depth, tile rectangle (x, y, w, h), tile count and radius of Gaussians
    start..stop; 0 tiles means not seen.

    records[i] = x, y, A/2, B, C/2, opacity, s_max, det(conic), then channels r g b [depth] extra...
    with conic (A B; B C), and s_max = ln(255 opacity): where the exponent passes it, alpha is under
    1/255. bad[0] becomes 1 where a parameter is not finite, a quaternion is zero or the colour of a
    Gaussian in view is not finite.
    """
    basis, cam = np.empty(16, np.float32), _camera(camera)
    has_offset, linear = offsets_px.shape[0] > 0, (flags & FLAG_LINEAR) != 0
    for i in range(U(start), U(stop)):
        counts[i] = 0
        radii[i] = _ZERO
        if not _usable(i, means, quats, scales_log, opacities_logit, sh_dc):
            bad[0] = 1
            continue
        mx, my, mz = _camera_mean(i, means, cam)
        if not (mz >= cam[21]):
            continue
        s0, s1, s2 = (
            math.exp(scales_log[i, 0]),
            math.exp(scales_log[i, 1]),
            math.exp(scales_log[i, 2]),
        )
        t = _factor(mx, my, mz, _unit_quaternion(i, quats), s0, s1, s2, cam)[1]
        a, b, c, det, det0 = _covariance(t, cam[26])
        if not (det > _ZERO and det < F32(1e37)):
            continue
        opacity = _ONE / (_ONE + math.exp(-opacities_logit[i]))
        if flags & FLAG_ANTIALIASED:
            opacity *= math.sqrt(det0 / det)
        if not (opacity >= _ALPHA_MIN):
            continue
        s_max = math.log(opacity * F32(255))
        x, y = cam[15] * mx / mz + cam[17], cam[16] * my / mz + cam[18]
        if has_offset:
            x += offsets_px[i, 0]
            y += offsets_px[i, 1]
        ex, ey = _reach(s_max, a), _reach(s_max, c)
        left, right = max(x - ex - _HALF, _ZERO), min(x + ex - _HALF, cam[19] - _ONE)
        upper, lower = max(y - ey - _HALF, _ZERO), min(y + ey - _HALF, cam[20] - _ONE)
        if not (left <= right and upper <= lower and right >= _ZERO and lower >= _ZERO):
            continue
        x0, x1, y0, y1 = _ceiling(left), np.int32(right), _ceiling(upper), np.int32(lower)
        if x0 > x1 or y0 > y1:
            continue
        radii[i] = max(ex, ey)
        depths[i] = mz
        tx, ty = x0 // _TW, y0 // _TH
        tw, th = x1 // _TW - tx + 1, y1 // _TH - ty + 1
        rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3] = tx, ty, tw, th
        counts[i] = tw * th
        rd = _ONE / det
        records[i, 0], records[i, 1] = x, y
        records[i, 2], records[i, 3], records[i, 4] = _HALF * c * rd, -b * rd, _HALF * a * rd
        records[i, 5], records[i, 6], records[i, 7] = opacity, s_max, rd
        if sh_count:
            dx, dy, dz, _ = _direction(i, means, cam)
            _basis(dx, dy, dz, sh_count, basis)
        red, green, blue = _raw_colour(i, sh_dc, sh_rest, sh_count, basis)
        if not (abs(red) + abs(green) + abs(blue) < _LARGEST):
            bad[0] = 1
        red, green, blue = max(red, _ZERO), max(green, _ZERO), max(blue, _ZERO)
        if linear:
            red, green, blue = _to_linear(red), _to_linear(green), _to_linear(blue)
        records[i, _REC], records[i, _REC + 1], records[i, _REC + 2] = red, green, blue
        at = U(_REC + 3)
        if flags & FLAG_DEPTH:
            records[i, at] = mz
            at += U(1)
        for k in range(U(extra.shape[1])):
            if not (abs(extra[i, k]) < _LARGEST):
                bad[0] = 1
            records[i, at + k] = extra[i, k]


@inline()
def _sum(old, new, first):
    """new, or old + new: what is not yet written may hold anything, NaN too."""
    return new if first else old + new


@inline()
def _covariance_gradient(u, conic, a, b, c, det, det0, opacity, opacity0, antialiased, blur):
    """Gradient (00, 01, 11) of the loss with respect to the symmetric matrix T T^T, both
    off-diagonals as one half each.

    u: a Gaussian's summed pairs; conic (A, B, C).
    """
    A, B, C = conic
    va, vb, vc = -_HALF * u[3], -_HALF * u[4], -_HALF * u[5]  # d/d(A, off-diagonal, C)
    p00, p01 = A * va + B * vb, A * vb + B * vc
    p10, p11 = B * va + C * vb, B * vb + C * vc
    m00, m01, m11 = -(p00 * A + p01 * B), -(p00 * B + p01 * C), -(p10 * B + p11 * C)
    if antialiased:  # opacity = opacity0 * sqrt(det0 / det)
        ratio = math.sqrt(det0 / det)
        if ratio > F32(1e-6):
            v = u[0] / opacity * opacity0 * _HALF / (ratio * det)
            k = v * (_ONE - det0 / det)
            lost = v * det0 / det * blur
            m00 += k * (c - blur) - lost
            m11 += k * (a - blur) - lost
            m01 -= k * b
    return m00, m01, m11


@inline()
def _factor_gradient(t, half, m00, m01, m11, j00, j11, j02, j12):
    """(dL/dH, dL/dj00, dL/dj11, dL/dj02, dL/dj12)"""
    a0, a1, a2 = (
        _TWO * (m00 * t[0] + m01 * t[3]),
        _TWO * (m00 * t[1] + m01 * t[4]),
        _TWO * (m00 * t[2] + m01 * t[5]),
    )
    b0, b1, b2 = (
        _TWO * (m01 * t[0] + m11 * t[3]),
        _TWO * (m01 * t[1] + m11 * t[4]),
        _TWO * (m01 * t[2] + m11 * t[5]),
    )
    vh = (
        j00 * a0,
        j00 * a1,
        j00 * a2,
        j11 * b0,
        j11 * b1,
        j11 * b2,
        j02 * a0 + j12 * b0,
        j02 * a1 + j12 * b1,
        j02 * a2 + j12 * b2,
    )
    v00, v02 = (
        a0 * half[0] + a1 * half[1] + a2 * half[2],
        a0 * half[6] + a1 * half[7] + a2 * half[8],
    )
    v11, v12 = (
        b0 * half[3] + b1 * half[4] + b2 * half[5],
        b0 * half[6] + b1 * half[7] + b2 * half[8],
    )
    return vh, v00, v11, v02, v12


@inline()
def _mean_gradient(x, y, z, vx, vy, vj, j00, j11, j02, j12, free_x, free_y):
    """Gradient of the camera-axes mean, through the projected mean (vx, vy) and through J (vj)."""
    v00, v11, v02, v12 = vj
    rz = _ONE / z
    gx, gy = j00 * vx, j11 * vy
    gz = -(j00 * x * vx + j11 * y * vy + j00 * v00 + j11 * v11) * rz
    if free_x:
        gx -= j00 * rz * v02
        gz -= _TWO * j02 * rz * v02
    else:
        gz -= j02 * rz * v02
    if free_y:
        gy -= j11 * rz * v12
        gz -= _TWO * j12 * rz * v12
    else:
        gz -= j12 * rz * v12
    return gx, gy, gz


@inline()
def _quaternion_gradient(q, v):
    """Gradient with respect to the raw quaternion, v that with respect to its rotation matrix."""
    w, x, y, z, n = q
    gw = _TWO * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1]))
    gx = _TWO * (
        -_TWO * x * (v[4] + v[8]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) + w * (v[7] - v[5])
    )
    gy = _TWO * (
        x * (v[1] + v[3]) - _TWO * y * (v[0] + v[8]) + z * (v[5] + v[7]) + w * (v[2] - v[6])
    )
    gz = _TWO * (
        x * (v[2] + v[6]) + y * (v[5] + v[7]) - _TWO * z * (v[0] + v[4]) + w * (v[3] - v[1])
    )
    dot = gw * w + gx * x + gy * y + gz * z
    return (gw - dot * w) * n, (gx - dot * x) * n, (gy - dot * y) * n, (gz - dot * z) * n


@inline()
def _colour_gradient(i, v, raw, linear, first, sh_rest, sh_count, basis, vb, g_dc, g_rest):
    """Gradients of the SH coefficients from v, that of the record's colour; vb[j] becomes that of
    basis j.
    """
    r, g, b = v
    r, g, b = (
        _ZERO if raw[0] < _ZERO else r,
        _ZERO if raw[1] < _ZERO else g,
        _ZERO if raw[2] < _ZERO else b,
    )
    if linear:
        r *= _to_linear_slope(max(raw[0], _ZERO))
        g *= _to_linear_slope(max(raw[1], _ZERO))
        b *= _to_linear_slope(max(raw[2], _ZERO))
    g_dc[i, 0], g_dc[i, 1] = _sum(g_dc[i, 0], _C0 * r, first), _sum(g_dc[i, 1], _C0 * g, first)
    g_dc[i, 2] = _sum(g_dc[i, 2], _C0 * b, first)
    for j in range(U(sh_count)):
        k = U(3) * j
        vb[j] = r * sh_rest[i, k] + g * sh_rest[i, k + U(1)] + b * sh_rest[i, k + U(2)]
        g_rest[i, k] = _sum(g_rest[i, k], r * basis[j], first)
        g_rest[i, k + U(1)] = _sum(g_rest[i, k + U(1)], g * basis[j], first)
        g_rest[i, k + U(2)] = _sum(g_rest[i, k + U(2)], b * basis[j], first)
    if first:
        for k in range(U(3 * sh_count), U(g_rest.shape[1])):
            g_rest[i, k] = _ZERO


@inline()
def _clear(i, g_means, g_quats, g_scales, g_opacities, g_dc, g_rest, g_extra):
    for k in range(U(3)):
        g_means[i, k] = _ZERO
        g_scales[i, k] = _ZERO
        g_dc[i, k] = _ZERO
        g_quats[i, k] = _ZERO
    g_quats[i, 3] = _ZERO
    g_opacities[i] = _ZERO
    for k in range(U(g_rest.shape[1])):
        g_rest[i, k] = _ZERO
    for k in range(U(g_extra.shape[1])):
        g_extra[i, k] = _ZERO


@inline()
def _sum_pairs(start, stop, pairs_of, sums):
    """The first nine columns of a Gaussian's pairs, summed."""
    u0, u1, u2, u3, u4, u5, u6, u7, u8 = (
        _ZERO,
        _ZERO,
        _ZERO,
        _ZERO,
        _ZERO,
        _ZERO,
        _ZERO,
        _ZERO,
        _ZERO,
    )
    for k in range(start, stop):
        j = U(pairs_of[k])
        u0 += sums[j, 0]
        u1 += sums[j, 1]
        u2 += sums[j, 2]
        u3 += sums[j, 3]
        u4 += sums[j, 4]
        u5 += sums[j, 5]
        u6 += sums[j, 6]
        u7 += sums[j, 7]
        u8 += sums[j, 8]
    return u0, u1, u2, u3, u4, u5, u6, u7, u8


@inline()
def _prefetch_pairs(i, first_of, pairs_of, sums):
    """Rows of a Gaussian lie in as many places as it has tiles: asked for ahead, they are there in
    time (2 to 3 times as fast).
    """
    for k in range(U(first_of[i]), U(first_of[i + U(1)])):
        j = U(pairs_of[k])
        prefetch(sums, j, U(0))
        prefetch(sums, j, U(sums.shape[1]) - U(1))


@inline()
def _sum_far_columns(start, stop, pairs_of, sums, far):
    """far[c]: column c >= 9 of a Gaussian's pairs, summed."""
    width = U(sums.shape[1])
    for c in range(U(9), width):
        far[c] = _ZERO
    for k in range(start, stop):
        j = U(pairs_of[k])
        for c in range(U(9), width):
            far[c] += sums[j, c]


@kernel(
    "void(int64,int64,float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[:,::1],float32[:,::1],int64,float32[::1],int64,"
    "int64,float32[:,::1],int32[::1],int64[::1],int32[::1],float32[:,::1],float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[:,::1],"
    "float32[:,::1],float32[:,::1],float32[:,::1])"
)
def project_backward(
    start,
    stop,
    means,
    quats,
    scales_log,
    opacities_logit,
    sh_dc,
    sh_rest,
    sh_count,
    camera,
    flags,
    first,
    records,
    counts,
    first_of,
    pairs_of,
    sums,
    g_means,
    g_quats,
    g_scales,
    g_opacities,
    g_dc,
    g_rest,
    g_extra,
    g_offsets,
):
    """Sum each Gaussian's pairs and carry them to its parameters; `first` writes, otherwise adds.

    A row of `sums` holds, for one tile: sums of u, u dx, u dy, u dx^2, u dx dy, u dy^2 (u = alpha
    dL/dalpha), then one per channel.
    """
    basis, vb, g_dir, cam = (
        np.empty(16, np.float32),
        np.empty(16, np.float32),
        np.empty(3, np.float32),
        _camera(camera),
    )
    antialiased, linear = (flags & FLAG_ANTIALIASED) != 0, (flags & FLAG_LINEAR) != 0
    far = np.empty(sums.shape[1], np.float32)
    for i in range(U(start), U(stop)):
        if i + _AHEAD < U(stop):
            _prefetch_pairs(i + _AHEAD, first_of, pairs_of, sums)
        if counts[i] == 0:
            if first:
                _clear(i, g_means, g_quats, g_scales, g_opacities, g_dc, g_rest, g_extra)
            if g_offsets.shape[0]:
                g_offsets[i, 0], g_offsets[i, 1] = _ZERO, _ZERO
            continue
        own, end = U(first_of[i]), U(first_of[i] + counts[i])
        u = _sum_pairs(own, end, pairs_of, sums)
        x, y, z = _camera_mean(i, means, cam)
        q = _unit_quaternion(i, quats)
        s0, s1, s2 = (
            math.exp(scales_log[i, 0]),
            math.exp(scales_log[i, 1]),
            math.exp(scales_log[i, 2]),
        )
        half, t, j00, j11, j02, j12, free_x, free_y = _factor(x, y, z, q, s0, s1, s2, cam)
        a, b, c, det, det0 = _covariance(t, cam[26])
        opacity0 = _ONE / (_ONE + math.exp(-opacities_logit[i]))
        g_opacities[i] = _sum(g_opacities[i], u[0] * (_ONE - opacity0), first)
        conic = (_TWO * records[i, 2], records[i, 3], _TWO * records[i, 4])
        m00, m01, m11 = _covariance_gradient(
            u, conic, a, b, c, det, det0, records[i, 5], opacity0, antialiased, cam[26]
        )
        vx, vy = conic[0] * u[1] + conic[1] * u[2], conic[1] * u[1] + conic[2] * u[2]
        if g_offsets.shape[0]:
            g_offsets[i, 0], g_offsets[i, 1] = vx, vy
        vh, v00, v11, v02, v12 = _factor_gradient(t, half, m00, m01, m11, j00, j11, j02, j12)
        gx, gy, gz = _mean_gradient(
            x, y, z, vx, vy, (v00, v11, v02, v12), j00, j11, j02, j12, free_x, free_y
        )
        _sum_far_columns(own, end, pairs_of, sums, far)
        at = U(9)
        if flags & FLAG_DEPTH:
            gz += far[at]
            at += U(1)
        for k in range(U(g_extra.shape[1])):
            g_extra[i, k] = _sum(g_extra[i, k], far[at + k], first)
        g_dir[0], g_dir[1], g_dir[2] = _ZERO, _ZERO, _ZERO
        dx, dy, dz, rn = _ZERO, _ZERO, _ZERO, _ZERO
        if sh_count:
            dx, dy, dz, rn = _direction(i, means, cam)
            _basis(dx, dy, dz, sh_count, basis)
        raw = _raw_colour(i, sh_dc, sh_rest, sh_count, basis)
        _colour_gradient(
            i, (u[6], u[7], u[8]), raw, linear, first, sh_rest, sh_count, basis, vb, g_dc, g_rest
        )
        if sh_count:
            _basis_gradient(dx, dy, dz, sh_count, vb, g_dir)
        radial = g_dir[0] * dx + g_dir[1] * dy + g_dir[2] * dz
        px, py, pz = (
            (g_dir[0] - radial * dx) * rn,
            (g_dir[1] - radial * dy) * rn,
            (g_dir[2] - radial * dz) * rn,
        )
        g_means[i, 0] = _sum(g_means[i, 0], cam[0] * gx + cam[3] * gy + cam[6] * gz + px, first)
        g_means[i, 1] = _sum(g_means[i, 1], cam[1] * gx + cam[4] * gy + cam[7] * gz + py, first)
        g_means[i, 2] = _sum(g_means[i, 2], cam[2] * gx + cam[5] * gy + cam[8] * gz + pz, first)
        g_scales[i, 0] = _sum(
            g_scales[i, 0], vh[0] * half[0] + vh[3] * half[3] + vh[6] * half[6], first
        )
        g_scales[i, 1] = _sum(
            g_scales[i, 1], vh[1] * half[1] + vh[4] * half[4] + vh[7] * half[7], first
        )
        g_scales[i, 2] = _sum(
            g_scales[i, 2], vh[2] * half[2] + vh[5] * half[5] + vh[8] * half[8], first
        )
        # H = R_camera R_q S: undo scale and camera for the rotation
        vr = (
            vh[0] * s0,
            vh[1] * s1,
            vh[2] * s2,
            vh[3] * s0,
            vh[4] * s1,
            vh[5] * s2,
            vh[6] * s0,
            vh[7] * s1,
            vh[8] * s2,
        )
        vr = _times((cam[0], cam[3], cam[6], cam[1], cam[4], cam[7], cam[2], cam[5], cam[8]), vr)
        gw, gqx, gqy, gqz = _quaternion_gradient(q, vr)
        g_quats[i, 0], g_quats[i, 1] = (
            _sum(g_quats[i, 0], gw, first),
            _sum(g_quats[i, 1], gqx, first),
        )
        g_quats[i, 2], g_quats[i, 3] = (
            _sum(g_quats[i, 2], gqy, first),
            _sum(g_quats[i, 3], gqz, first),
        )
