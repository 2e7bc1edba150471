"""Gaussians to screen records, and the way back for gradients: one pass over all Gaussians each.

Notation (name here -> symbol): m -> mean in camera axes, J -> Jacobian of the projection at m,
`half` -> H = R_camera R_q S so that the camera-axes covariance is H H^T, `t` -> T = J H so that the
screen covariance is T T^T. Working with the 2x3 factor T keeps det(T T^T) = |T_0 x T_1|^2 exact for
needles, where ac - b^2 cancels. After Zwicker et al. 2001 (EWA splatting) and Kerbl et al. 2023.

The camera arrives as one float32 array: R row-major 0..8, t 9..11, centre 12..14, fx fy cx cy 15..18,
width height 19..20, near 21, slope limits x-, x+, y-, y+ 22..25, blur 26.
"""

from __future__ import annotations

import math

import numpy as np

from .compile import F32, inline, kernel
from .constants import ALPHA_MIN, RECORD, TILE_H, TILE_W

CAMERA_FLOATS = 27
FLAG_ANTIALIASED = 1
FLAG_LINEAR = 2
FLAG_DEPTH = 4

_ZERO, _HALF, _ONE, _TWO, _THREE, _FOUR = F32(0), F32(0.5), F32(1), F32(2), F32(3), F32(4)
_ALPHA_MIN = F32(ALPHA_MIN)
_LARGEST = F32(3.4e38)
_REC, _TW, _TH = RECORD, TILE_W, TILE_H
_C0 = F32(0.28209479177387814)
_C1 = F32(0.4886025119029199)
_C2A, _C2B, _C2C = F32(1.0925484305920792), F32(0.31539156525252005), F32(0.5462742152960396)
_C3A, _C3B, _C3C = F32(0.5900435899266435), F32(2.890611442640554), F32(0.4570457994644658)
_C3D, _C3E = F32(0.3731763325901154), F32(1.445305721320277)


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
            -_C3A * F32(6) * xy * v[8] + _C3B * yz * v[9] + _C3C * _TWO * xy * v[10] - _C3D * F32(6) * xz * v[11]
            - _C3C * (_FOUR * zz - _THREE * xx - yy) * v[12] + _C3E * _TWO * xz * v[13] - _C3A * _THREE * (xx - yy) * v[14]
        )  # fmt: skip
        g[1] += (
            -_C3A * _THREE * (xx - yy) * v[8] + _C3B * xz * v[9] - _C3C * (_FOUR * zz - xx - _THREE * yy) * v[10]
            - _C3D * F32(6) * yz * v[11] + _C3C * _TWO * xy * v[12] - _C3E * _TWO * yz * v[13] + _C3A * F32(6) * xy * v[14]
        )  # fmt: skip
        g[2] += (
            _C3B * xy * v[9] - _C3C * F32(8) * yz * v[10] + _C3D * _THREE * (_TWO * zz - xx - yy) * v[11]
            - _C3C * F32(8) * xz * v[12] + _C3E * (xx - yy) * v[13]
        )  # fmt: skip


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
def _factor(i, m, means, quats, scales_log, cam, half, t):
    """Fill half [9] and t [6] of Gaussian i whose camera-axes mean is m; return the four entries of J and the clamps."""
    w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
    n = _ONE / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * n, x * n, y * n, z * n
    for j in range(3):
        s = math.exp(scales_log[i, j])
        if j == 0:
            a, b, c = _ONE - _TWO * (y * y + z * z), _TWO * (x * y + w * z), _TWO * (x * z - w * y)
        elif j == 1:
            a, b, c = _TWO * (x * y - w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z + w * x)
        else:
            a, b, c = _TWO * (x * z + w * y), _TWO * (y * z - w * x), _ONE - _TWO * (x * x + y * y)
        for r in range(3):
            half[3 * r + j] = (cam[3 * r] * a + cam[3 * r + 1] * b + cam[3 * r + 2] * c) * s
    rz = _ONE / m[2]
    fx, fy = cam[15], cam[16]
    sx, sy = m[0] * rz, m[1] * rz
    cx, cy = min(max(sx, cam[22]), cam[23]), min(max(sy, cam[24]), cam[25])
    j00, j11 = fx * rz, fy * rz
    j02, j12 = -fx * rz * cx, -fy * rz * cy
    for j in range(3):
        t[j] = j00 * half[j] + j02 * half[6 + j]
        t[3 + j] = j11 * half[3 + j] + j12 * half[6 + j]
    return j00, j11, j02, j12, sx == cx, sy == cy


@inline()
def _camera_mean(i, means, cam, m):
    x, y, z = means[i, 0], means[i, 1], means[i, 2]
    for r in range(3):
        m[r] = cam[3 * r] * x + cam[3 * r + 1] * y + cam[3 * r + 2] * z + cam[9 + r]


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
def _direction(i, means, cam, d):
    """Unit direction camera centre -> mean into d; return 1 / distance."""
    x, y, z = means[i, 0] - cam[12], means[i, 1] - cam[13], means[i, 2] - cam[14]
    n = _ONE / math.sqrt(max(x * x + y * y + z * z, F32(1e-24)))
    d[0], d[1], d[2] = x * n, y * n, z * n
    return n


@inline()
def _colour(i, means, sh_dc, sh_rest, sh_count, cam, linear, d, basis, records, bad):
    """max(0.5 + SH, 0) towards the camera into the record, decoded from sRGB if `linear`."""
    if sh_count:
        _direction(i, means, cam, d)
        _basis(d[0], d[1], d[2], sh_count, basis)
    for k in range(3):
        v = _HALF + _C0 * sh_dc[i, k]
        for j in range(sh_count):
            v += basis[j] * sh_rest[i, 3 * j + k]
        if not (abs(v) < _LARGEST):
            bad[0] = 1
        v = max(v, _ZERO)
        records[i, _REC + k] = _to_linear(v) if linear else v


@inline()
def _reach(s_max, variance):
    """Half the side of the box around the ellipse, a hair larger so that rounding cannot lose a pixel on its rim."""
    return math.sqrt(_TWO * s_max * variance) * F32(1.0001) + F32(1e-3)


@inline()
def _usable(i, means, quats, scales_log, opacities_logit, sh_dc):
    """All finite (a sum of absolute values is, exactly then, short of overflow) and a quaternion with a direction."""
    q = quats[i, 0] * quats[i, 0] + quats[i, 1] * quats[i, 1] + quats[i, 2] * quats[i, 2] + quats[i, 3] * quats[i, 3]
    total = abs(means[i, 0]) + abs(means[i, 1]) + abs(means[i, 2]) + q + abs(opacities_logit[i])
    total += abs(scales_log[i, 0]) + abs(scales_log[i, 1]) + abs(scales_log[i, 2])
    total += abs(sh_dc[i, 0]) + abs(sh_dc[i, 1]) + abs(sh_dc[i, 2])
    return total < _LARGEST and q > _ZERO


@kernel(
    "void(int64,int64,float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[:,::1],float32[:,::1],float32[:,::1],"
    "float32[:,::1],int64,float32[::1],int64,float32[:,::1],float32[::1],int32[:,::1],int32[::1],float32[::1],int64[::1])"
)
def project(
    start, stop, means, quats, scales_log, opacities_logit, sh_dc, sh_rest, extra, offsets_px, sh_count, cam, flags,
    records, depths, rects, tiles, radii, bad,
):  # fmt: skip
    """Fill record, depth, tile rectangle (x, y, w, h), tile count and radius of Gaussians start..stop; 0 tiles means not seen.

    records[i] = x, y, A/2, B, C/2, opacity, s_max, det(conic), then channels r g b [depth] extra...
    with conic (A B; B C), and s_max = ln(255 opacity): where the exponent passes it, alpha is under 1/255.
    bad[0] becomes 1 where a parameter is not finite, a quaternion is zero or the colour of a Gaussian in view is not finite.
    """
    m, half, t = np.empty(3, np.float32), np.empty(9, np.float32), np.empty(6, np.float32)
    d, basis = np.empty(3, np.float32), np.empty(16, np.float32)
    has_offset = offsets_px.shape[0] > 0
    for i in range(np.uint64(start), np.uint64(stop)):
        tiles[i] = 0
        radii[i] = _ZERO
        if not _usable(i, means, quats, scales_log, opacities_logit, sh_dc):
            bad[0] = 1
            continue
        _camera_mean(i, means, cam, m)
        if not (m[2] >= cam[21]):
            continue
        _factor(i, m, means, quats, scales_log, cam, half, t)
        a, b, c, det, det0 = _covariance(t, cam[26])
        if not (det > _ZERO and det < F32(1e37)):
            continue
        opacity = _ONE / (_ONE + math.exp(-opacities_logit[i]))
        if flags & FLAG_ANTIALIASED:
            opacity *= math.sqrt(det0 / det)
        if not (opacity >= _ALPHA_MIN):
            continue
        s_max = math.log(opacity * F32(255))
        x, y = cam[15] * m[0] / m[2] + cam[17], cam[16] * m[1] / m[2] + cam[18]
        if has_offset:
            x += offsets_px[i, 0]
            y += offsets_px[i, 1]
        ex, ey = _reach(s_max, a), _reach(s_max, c)
        x0, x1 = math.ceil(max(x - ex - _HALF, _ZERO)), math.floor(min(x + ex - _HALF, cam[19] - _ONE))
        y0, y1 = math.ceil(max(y - ey - _HALF, _ZERO)), math.floor(min(y + ey - _HALF, cam[20] - _ONE))
        if not (x0 <= x1 and y0 <= y1):
            continue
        radii[i] = max(ex, ey)
        depths[i] = m[2]
        tx, ty = np.int32(x0) // _TW, np.int32(y0) // _TH
        tw, th = np.int32(x1) // _TW - tx + 1, np.int32(y1) // _TH - ty + 1
        rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3] = tx, ty, tw, th
        tiles[i] = tw * th
        rd = _ONE / det
        records[i, 0], records[i, 1] = x, y
        records[i, 2], records[i, 3], records[i, 4] = _HALF * c * rd, -b * rd, _HALF * a * rd
        records[i, 5], records[i, 6], records[i, 7] = opacity, s_max, rd
        _colour(i, means, sh_dc, sh_rest, sh_count, cam, (flags & FLAG_LINEAR) != 0, d, basis, records, bad)
        at = _REC + 3
        if flags & FLAG_DEPTH:
            records[i, at] = m[2]
            at += 1
        for k in range(extra.shape[1]):
            if not (abs(extra[i, k]) < _LARGEST):
                bad[0] = 1
            records[i, at + k] = extra[i, k]


@inline()
def _sum(old, new, first):
    """new, or old + new: what is not yet written may hold anything, NaN too."""
    return new if first else old + new


@inline()
def _covariance_gradient(sums, i, records, a, b, c, det, det0, opacity0, antialiased, blur):
    """Gradient (00, 01, 11) of the loss with respect to the symmetric matrix T T^T, both off-diagonals as one half each."""
    A, B, C = _TWO * records[i, 2], records[i, 3], _TWO * records[i, 4]
    va, vb, vc = -_HALF * sums[3], -_HALF * sums[4], -_HALF * sums[5]  # d/d(A, off-diagonal, C)
    p00, p01 = A * va + B * vb, A * vb + B * vc
    p10, p11 = B * va + C * vb, B * vb + C * vc
    m00, m01, m11 = -(p00 * A + p01 * B), -(p00 * B + p01 * C), -(p10 * B + p11 * C)
    if antialiased:  # opacity = opacity0 * sqrt(det0 / det)
        ratio = math.sqrt(det0 / det)
        if ratio > F32(1e-6):
            v = sums[0] / records[i, 5] * opacity0 * _HALF / (ratio * det)
            k = v * (_ONE - det0 / det)
            lost = v * det0 / det * blur
            m00 += k * (c - blur) - lost
            m11 += k * (a - blur) - lost
            m01 -= k * b
    return m00, m01, m11


@inline()
def _mean_gradient(m, m00, m01, m11, t, half, j00, j11, j02, j12, free_x, free_y, vx, vy, vh):
    """Gradient of the camera-axes mean, through the projected mean (vx, vy) and through J; vh [9] receives dL/dH."""
    v00, v11, v02, v12 = _ZERO, _ZERO, _ZERO, _ZERO  # dL/dJ
    for j in range(3):
        ta = _TWO * (m00 * t[j] + m01 * t[3 + j])
        tb = _TWO * (m01 * t[j] + m11 * t[3 + j])
        v00 += ta * half[j]
        v02 += ta * half[6 + j]
        v11 += tb * half[3 + j]
        v12 += tb * half[6 + j]
        vh[j] = j00 * ta
        vh[3 + j] = j11 * tb
        vh[6 + j] = j02 * ta + j12 * tb
    rz = _ONE / m[2]
    gx, gy = j00 * vx, j11 * vy
    gz = -(j00 * m[0] * vx + j11 * m[1] * vy + j00 * v00 + j11 * v11) * rz
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
def _quaternion_gradient(i, quats, v, out, first):
    """out[i] (+)= gradient with respect to the raw quaternion, v [9] that with respect to its rotation matrix."""
    w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
    n = _ONE / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * n, x * n, y * n, z * n
    gw = _TWO * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1]))
    gx = _TWO * (-_TWO * x * (v[4] + v[8]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) + w * (v[7] - v[5]))
    gy = _TWO * (x * (v[1] + v[3]) - _TWO * y * (v[0] + v[8]) + z * (v[5] + v[7]) + w * (v[2] - v[6]))
    gz = _TWO * (x * (v[2] + v[6]) + y * (v[5] + v[7]) - _TWO * z * (v[0] + v[4]) + w * (v[3] - v[1]))
    dot = gw * w + gx * x + gy * y + gz * z
    out[i, 0] = _sum(out[i, 0], (gw - dot * w) * n, first)
    out[i, 1] = _sum(out[i, 1], (gx - dot * x) * n, first)
    out[i, 2] = _sum(out[i, 2], (gy - dot * y) * n, first)
    out[i, 3] = _sum(out[i, 3], (gz - dot * z) * n, first)


@inline()
def _colour_gradient(i, sums, means, sh_dc, sh_rest, sh_count, cam, linear, first, g_dc, g_rest, g_dir, basis, vb, d):
    """Gradients of the SH coefficients from sums [6:9]; g_dir [3] receives the mean's share through the view direction."""
    rn = _ZERO
    if sh_count:
        rn = _direction(i, means, cam, d)
        _basis(d[0], d[1], d[2], sh_count, basis)
        for j in range(sh_count):
            vb[j] = _ZERO
    for k in range(3):
        v = _HALF + _C0 * sh_dc[i, k]
        for j in range(sh_count):
            v += basis[j] * sh_rest[i, 3 * j + k]
        g = sums[6 + k]
        if v < _ZERO:
            g = _ZERO
        elif linear:
            g *= _to_linear_slope(v)
        g_dc[i, k] = _sum(g_dc[i, k], _C0 * g, first)
        for j in range(sh_count):
            vb[j] += g * sh_rest[i, 3 * j + k]
            g_rest[i, 3 * j + k] = _sum(g_rest[i, 3 * j + k], g * basis[j], first)
    if first:
        for j in range(3 * sh_count, g_rest.shape[1]):
            g_rest[i, j] = _ZERO
    g_dir[0], g_dir[1], g_dir[2] = _ZERO, _ZERO, _ZERO
    if sh_count:
        _basis_gradient(d[0], d[1], d[2], sh_count, vb, g_dir)
        dot = g_dir[0] * d[0] + g_dir[1] * d[1] + g_dir[2] * d[2]
        for k in range(3):
            g_dir[k] = (g_dir[k] - dot * d[k]) * rn


@inline()
def _clear(i, g_means, g_quats, g_scales, g_opacities, g_dc, g_rest, g_extra):
    for k in range(3):
        g_means[i, k] = _ZERO
        g_scales[i, k] = _ZERO
        g_dc[i, k] = _ZERO
        g_quats[i, k] = _ZERO
    g_quats[i, 3] = _ZERO
    g_opacities[i] = _ZERO
    for k in range(g_rest.shape[1]):
        g_rest[i, k] = _ZERO
    for k in range(g_extra.shape[1]):
        g_extra[i, k] = _ZERO


@kernel(
    "void(int64,int64,float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[:,::1],float32[:,::1],int64,float32[::1],int64,"
    "int64,float32[:,::1],int32[::1],int64[::1],float32[:,::1],float32[:,::1],float32[:,::1],float32[:,::1],float32[::1],float32[:,::1],"
    "float32[:,::1],float32[:,::1],float32[:,::1])"
)
def project_backward(
    start, stop, means, quats, scales_log, opacities_logit, sh_dc, sh_rest, sh_count, cam, flags,
    first, records, tiles, slot_of, slots, g_means, g_quats, g_scales, g_opacities, g_dc, g_rest, g_extra, g_offsets,
):  # fmt: skip
    """Sum each Gaussian's slots and carry them to its parameters; `first` writes, otherwise adds.

    A slot holds, for one tile: sums of u, u dx, u dy, u dx^2, u dx dy, u dy^2 (u = alpha dL/dalpha), then one per channel.
    """
    m, half, t = np.empty(3, np.float32), np.empty(9, np.float32), np.empty(6, np.float32)
    d, basis, vb, g_dir = np.empty(3, np.float32), np.empty(16, np.float32), np.empty(16, np.float32), np.empty(3, np.float32)
    width = slots.shape[1]
    sums, vh, vr = np.empty(width, np.float32), np.empty(9, np.float32), np.empty(9, np.float32)
    antialiased, linear = (flags & FLAG_ANTIALIASED) != 0, (flags & FLAG_LINEAR) != 0
    for i in range(np.uint64(start), np.uint64(stop)):
        if tiles[i] == 0:
            if first:
                _clear(i, g_means, g_quats, g_scales, g_opacities, g_dc, g_rest, g_extra)
            if g_offsets.shape[0]:
                g_offsets[i, 0], g_offsets[i, 1] = _ZERO, _ZERO
            continue
        for k in range(width):
            sums[k] = _ZERO
        for j in range(np.uint64(slot_of[i]), np.uint64(slot_of[i] + tiles[i])):
            for k in range(width):
                sums[k] += slots[j, k]
        _camera_mean(i, means, cam, m)
        j00, j11, j02, j12, free_x, free_y = _factor(i, m, means, quats, scales_log, cam, half, t)
        a, b, c, det, det0 = _covariance(t, cam[26])
        opacity0 = _ONE / (_ONE + math.exp(-opacities_logit[i]))
        g_opacities[i] = _sum(g_opacities[i], sums[0] * (_ONE - opacity0), first)
        m00, m01, m11 = _covariance_gradient(sums, i, records, a, b, c, det, det0, opacity0, antialiased, cam[26])
        vx = _TWO * records[i, 2] * sums[1] + records[i, 3] * sums[2]
        vy = records[i, 3] * sums[1] + _TWO * records[i, 4] * sums[2]
        if g_offsets.shape[0]:
            g_offsets[i, 0], g_offsets[i, 1] = vx, vy
        gx, gy, gz = _mean_gradient(m, m00, m01, m11, t, half, j00, j11, j02, j12, free_x, free_y, vx, vy, vh)
        at = 9
        if flags & FLAG_DEPTH:
            gz += sums[9]
            at = 10
        for k in range(g_extra.shape[1]):
            g_extra[i, k] = _sum(g_extra[i, k], sums[at + k], first)
        _colour_gradient(i, sums, means, sh_dc, sh_rest, sh_count, cam, linear, first, g_dc, g_rest, g_dir, basis, vb, d)
        for k in range(3):
            g_means[i, k] = _sum(g_means[i, k], cam[k] * gx + cam[3 + k] * gy + cam[6 + k] * gz + g_dir[k], first)
        for j in range(3):  # H = R_camera R_q S: undo the camera, then split rotation and scale
            s = math.exp(scales_log[i, j])
            vs = _ZERO
            for r in range(3):
                vs += vh[3 * r + j] * half[3 * r + j]
                vr[3 * r + j] = (cam[r] * vh[j] + cam[3 + r] * vh[3 + j] + cam[6 + r] * vh[6 + j]) * s
            g_scales[i, j] = _sum(g_scales[i, j], vs, first)
        _quaternion_gradient(i, quats, vr, g_quats, first)
