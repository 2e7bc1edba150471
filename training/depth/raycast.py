"""Ray casting of boxes, ellipsoids, cylinders and gabled roofs with sun or lamp: picture and true
depth.

World axes: x right, y up, z ahead, metres. A solid is one row of numbers (`solids.py`).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .solids import (
    BRICKS,
    CLOUDY,
    COS,
    CX,
    CY,
    CYLINDER,
    CZ,
    ELLIPSOID,
    FACADE,
    FIRST,
    GABLE,
    GLOSS,
    GLOW,
    HX,
    HY,
    HZ,
    INSIDE,
    KIND,
    LEAVES,
    PICTURE,
    PLAIN,
    PLANKS,
    RADIUS,
    SCALE,
    SECOND,
    SIN,
    STRIPES,
    TEXTURE,
    TILES,
)

_TILE = 8


@njit(fastmath=True, cache=True)
def _hash(x, y, z):
    n = (x * 374761393 + y * 668265263 + z * 2147483647) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFF) / 65535.0


@njit(fastmath=True, cache=True)
def _noise(x, y, z):
    ix, iy, iz = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - ix, y - iy, z - iz
    ux, uy, uz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    a = _hash(ix, iy, iz) * (1 - ux) + _hash(ix + 1, iy, iz) * ux
    b = _hash(ix, iy + 1, iz) * (1 - ux) + _hash(ix + 1, iy + 1, iz) * ux
    c = _hash(ix, iy, iz + 1) * (1 - ux) + _hash(ix + 1, iy, iz + 1) * ux
    d = _hash(ix, iy + 1, iz + 1) * (1 - ux) + _hash(ix + 1, iy + 1, iz + 1) * ux
    return (a * (1 - uy) + b * uy) * (1 - uz) + (c * (1 - uy) + d * uy) * uz


@njit(fastmath=True, cache=True)
def _clouds(x, y, z, octaves):
    total, weight = 0.0, 0.5
    for _ in range(octaves):
        total += weight * _noise(x, y, z)
        x, y, z, weight = x * 2.03, y * 2.03, z * 2.03, weight * 0.5
    return total


@njit(fastmath=True, cache=True)
def _hit_one(p, ox, oy, oz, dx, dy, dz):
    """(ray length, axis of the face: 0 x, 1 y, 2 z, 3 round, 4 and 5 roof sides); -1: no hit."""
    x, y, z = ox - p[CX], oy - p[CY], oz - p[CZ]
    c, s = p[COS], p[SIN]
    lx, lz = c * x + s * z, -s * x + c * z
    ex, ez = c * dx + s * dz, -s * dx + c * dz
    kind = int(p[KIND])
    if kind == ELLIPSOID:
        ax, ay, az = ex / p[HX], dy / p[HY], ez / p[HZ]
        bx, by, bz = lx / p[HX], y / p[HY], lz / p[HZ]
        a = ax * ax + ay * ay + az * az
        b = ax * bx + ay * by + az * bz
        d = b * b - a * (bx * bx + by * by + bz * bz - 1)
        if d < 0:
            return -1.0, 0
        return (-b - math.sqrt(d)) / a, 3
    t0, t1, axis0, axis1 = -1e30, 1e30, 0, 0
    for k in range(3):
        if kind == CYLINDER and k != 1:
            continue
        if k == 0:
            o, d, h = lx, ex, p[HX]
        elif k == 1:
            o, d, h = y, dy, p[HY]
        else:
            o, d, h = lz, ez, p[HZ]
        if abs(d) < 1e-9:
            if abs(o) > h:
                return -1.0, 0
            continue
        a, b = (-h - o) / d, (h - o) / d
        if a > b:
            a, b = b, a
        if a > t0:
            t0, axis0 = a, k
        if b < t1:
            t1, axis1 = b, k
    if kind == CYLINDER:
        ax, az, bx, bz = ex / p[HX], ez / p[HZ], lx / p[HX], lz / p[HZ]
        a = ax * ax + az * az
        b = ax * bx + az * bz
        if a < 1e-12:
            return -1.0, 0
        d = b * b - a * (bx * bx + bz * bz - 1)
        if d < 0:
            return -1.0, 0
        r = math.sqrt(d)
        if (-b - r) / a > t0:
            t0, axis0 = (-b - r) / a, 3
        if (-b + r) / a < t1:
            t1, axis1 = (-b + r) / a, 3
    elif kind == GABLE:  # ridge along local z at the top, eaves at the bottom
        for side in range(2):
            sign = 1.0 if side == 0 else -1.0
            slope = 2 * p[HY] / p[HX]
            o = sign * lx * slope + y - p[HY]
            d = sign * ex * slope + dy
            if abs(d) < 1e-9:
                if o > 0:
                    return -1.0, 0
                continue
            t = -o / d
            if d < 0:
                if t > t0:
                    t0, axis0 = t, 4 + side
            elif t < t1:
                t1, axis1 = t, 4 + side
    if t1 < t0:
        return -1.0, 0
    if p[INSIDE] > 0:
        return t1, axis1
    return t0, axis0


@njit(fastmath=True, cache=True)
def _hit(P, which, n, ox, oy, oz, dx, dy, dz, farthest, shadow):
    best, found, face = farthest, -1, 0
    dd = dx * dx + dy * dy + dz * dz
    for m in range(n):
        i = which[m]
        p = P[i]
        if shadow and p[GLOW] > 0:
            continue
        x, y, z = p[CX] - ox, p[CY] - oy, p[CZ] - oz
        along = x * dx + y * dy + z * dz
        apart = x * x + y * y + z * z
        r2 = p[RADIUS] * p[RADIUS]
        if apart > r2 and (along < 0 or apart - along * along / dd > r2):
            continue
        if shadow and apart > (p[RADIUS] + farthest) * (p[RADIUS] + farthest):
            continue
        t, axis = _hit_one(p, ox, oy, oz, dx, dy, dz)
        if t > 1e-3 and t < best:
            best, found, face = t, i, axis
            if shadow:
                return best, found, face
    return best, found, face


@njit(fastmath=True, cache=True)
def _colour(p, lx, ly, lz, axis, bank):
    scale, kind, m = p[SCALE], int(p[TEXTURE]), 0.0
    if axis == 0:
        u, v = lz, ly
    elif axis == 1:
        u, v = lx, lz
    elif axis == 3:
        u, v = math.atan2(lx, lz) * max(p[HX], p[HZ]), ly
    elif axis >= 4:
        u, v = lz, lx
    else:
        u, v = lx, ly
    if kind == CLOUDY:
        m = _clouds(lx * scale, ly * scale, lz * scale, 4) * 1.2 - 0.1
    elif kind == FACADE:
        i, j = math.floor(u * scale), math.floor(v * scale * 0.8)
        a, b = u * scale - i, v * scale * 0.8 - j
        q = p[PICTURE]
        x0 = 0.15 + 0.25 * ((q * 0.37) % 1.0)
        y0 = 0.12 + 0.25 * ((q * 0.73) % 1.0)
        if x0 < a < 1 - x0 and y0 < b < 0.9:
            m = 0.75 + 0.35 * (_hash(i, j, 3) - 0.5)
            if abs(a - 0.5) < 0.025 or abs(b - 0.6) < 0.02:
                m = 0.2
        elif x0 - 0.05 < a < 1 - x0 + 0.05 and y0 - 0.06 < b < 0.95:
            m = -0.25
        m += 0.25 * (_clouds(u * 2, v * 2, 1.0, 3) - 0.4)
    elif kind == PLANKS:
        r = math.floor(u * scale * 2)
        m = _hash(int(r), 3, 5) * 0.6 + 0.4 * _noise(v * scale * 0.5 + r * 7.1, u * scale * 12, 0.5)
        if u * scale * 2 - r < 0.04:
            m = 0.0
    elif kind == TILES:
        i, j = math.floor(u * scale), math.floor(v * scale)
        m = ((i + j) & 1) * 0.7 + 0.3 * _noise(u * scale * 3, v * scale * 3, 0.0)
        if u * scale - i < 0.04 or v * scale - j < 0.04:
            m = 0.5
    elif kind == BRICKS:
        r = math.floor(v * scale * 3)
        a = u * scale * 1.3 + 0.5 * (r & 1)
        f, g = a - math.floor(a), v * scale * 3 - r
        m = _hash(math.floor(a), r, 1) * 0.7 + 0.15
        if f < 0.06 or g < 0.12:
            m = 1.0
    elif kind == STRIPES:
        m = 1.0 if u * scale * 2 - math.floor(u * scale * 2) < 0.5 else 0.0
    elif kind == LEAVES:
        m = min(
            1.0, max(0.0, (_clouds(lx * scale * 3, ly * scale * 3, lz * scale * 3, 5) - 0.3) * 3.0)
        )
    elif kind == PLAIN:
        m = 0.15 * _clouds(lx * 2, ly * 2, lz * 2, 3)
    else:
        h, w = bank.shape[1], bank.shape[2]
        i = int(abs(v * scale * 60 + p[PICTURE] * 17)) % (2 * h)
        j = int(abs(u * scale * 60 + p[PICTURE] * 29)) % (2 * w)
        if i >= h:
            i = 2 * h - 1 - i
        if j >= w:
            j = 2 * w - 1 - j
        b = int(p[PICTURE]) % bank.shape[0]
        # Tinted towards the primitive's own colour, so that one picture serves in many colours.
        t = (p[PICTURE] * 0.618) % 1.0
        grey = (bank[b, i, j, 0] + bank[b, i, j, 1] + bank[b, i, j, 2]) * 0.33
        if t < 0.5:
            return bank[b, i, j, 0], bank[b, i, j, 1], bank[b, i, j, 2]
        return (
            grey * p[FIRST] * 2.2 + 0.02,
            grey * p[FIRST + 1] * 2.2 + 0.02,
            grey * p[FIRST + 2] * 2.2 + 0.02,
        )
    return (
        p[FIRST] * (1 - m) + p[SECOND] * m,
        p[FIRST + 1] * (1 - m) + p[SECOND + 1] * m,
        p[FIRST + 2] * (1 - m) + p[SECOND + 2] * m,
    )


@njit(fastmath=True, cache=True)
def _sky(sky, dx, dy, dz, out):
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    e = max(0.0, dy / length)
    q = sky[9] / (length * (e + 0.15))
    c = min(1.0, max(0.0, (_clouds(dx * q, 7.0, dz * q, 4) - sky[10]) * sky[11]))
    w = min(1.0, e * 2.0)
    for k in range(3):
        out[k] = (sky[k] * (1 - w) + sky[3 + k] * w) * (1 - c) + sky[6 + k] * c


@njit(fastmath=True, cache=True)
def _normal(p, x, y, z, axis):
    """World normal, local point."""
    c, s = p[COS], p[SIN]
    lx, ly, lz = c * (x - p[CX]) + s * (z - p[CZ]), y - p[CY], -s * (x - p[CX]) + c * (z - p[CZ])
    nx, ny, nz = 0.0, 0.0, 0.0
    if axis == 0:
        nx = 1.0 if lx > 0 else -1.0
    elif axis == 1:
        ny = 1.0 if ly > 0 else -1.0
    elif axis == 2:
        nz = 1.0 if lz > 0 else -1.0
    elif axis == 3:
        nx, nz = lx / (p[HX] * p[HX]), lz / (p[HZ] * p[HZ])
        if p[KIND] == ELLIPSOID:
            ny = ly / (p[HY] * p[HY])
        n = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
        nx, ny, nz = nx / n, ny / n, nz / n
        if p[TEXTURE] == LEAVES:
            q = p[SCALE] * 4
            nx += 1.2 * (_noise(lx * q, ly * q, lz * q) - 0.5)
            ny += 1.2 * (_noise(lx * q + 9, ly * q, lz * q) - 0.5)
            nz += 1.2 * (_noise(lx * q, ly * q + 9, lz * q) - 0.5)
    else:
        slope = 2 * p[HY] / p[HX]
        n = math.sqrt(slope * slope + 1)
        nx, ny = (slope / n if axis == 4 else -slope / n), 1.0 / n
    if p[INSIDE] > 0:
        nx, ny, nz = -nx, -ny, -nz
    return c * nx - s * nz, ny, s * nx + c * nz, lx, ly, lz


@njit(fastmath=True, cache=True, nogil=True)
def render(
    P, W, H, fx, fy, cx, cy, R, eye, lamp, lamp_colour, ambient, sky, seed, bank, indoor, fog, reach
):
    """-> linear picture [H, W, 3] and depth along the camera's z [H, W] (inf: sky).

    R [3, 3] world from camera (x right, y down, z ahead); lamp: a point where `indoor`, else the
    direction to the sun; reach: how far ambient light is shut off, in metres.
    """
    np.random.seed(seed)
    n = P.shape[0]
    everything = np.arange(n)
    albedo, extra = np.zeros((H, W, 3)), np.zeros((H, W, 3))
    light = np.zeros((H, W, 2))  # lamp, ambient
    depth = np.zeros((H, W))
    some, tint = np.empty(n, np.int64), np.zeros(3)
    for tj in range(0, H, _TILE):
        for ti in range(0, W, _TILE):
            # Primitives whose bounding sphere meets the cone round this tile.
            mx, my = (min(ti + _TILE, W) + ti) * 0.5, (min(tj + _TILE, H) + tj) * 0.5
            px, py = (mx - cx) / fx, (my - cy) / fy
            ax = R[0, 0] * px + R[0, 1] * py + R[0, 2]
            ay = R[1, 0] * px + R[1, 1] * py + R[1, 2]
            az = R[2, 0] * px + R[2, 1] * py + R[2, 2]
            al = math.sqrt(ax * ax + ay * ay + az * az)
            spread = 0.72 * _TILE / min(fx, fy) / al * 1.2
            count = 0
            for i in range(n):
                x, y, z = P[i, CX] - eye[0], P[i, CY] - eye[1], P[i, CZ] - eye[2]
                d = math.sqrt(x * x + y * y + z * z)
                if d > P[i, RADIUS]:
                    cos = (x * ax + y * ay + z * az) / (d * al)
                    angle = math.acos(min(1.0, max(-1.0, cos)))
                    if angle > math.atan(spread) + math.asin(P[i, RADIUS] / d):
                        continue
                some[count] = i
                count += 1
            for j in range(tj, min(tj + _TILE, H)):
                for i in range(ti, min(ti + _TILE, W)):
                    shut = -1.0
                    lit = -1.0
                    hits = 0
                    for sample in range(4):
                        if sample == 0:
                            u, v = i + 0.5, j + 0.5
                        else:
                            u, v = i + np.random.rand(), j + np.random.rand()
                        px, py = (u - cx) / fx, (v - cy) / fy
                        dx = R[0, 0] * px + R[0, 1] * py + R[0, 2]
                        dy = R[1, 0] * px + R[1, 1] * py + R[1, 2]
                        dz = R[2, 0] * px + R[2, 1] * py + R[2, 2]
                        t, b, axis = _hit(
                            P, some, count, eye[0], eye[1], eye[2], dx, dy, dz, 1e9, False
                        )
                        if sample == 0:
                            depth[j, i] = t if b >= 0 else np.inf
                        if b < 0:
                            _sky(sky, dx, dy, dz, tint)
                            for k in range(3):
                                extra[j, i, k] += 0.25 * tint[k]
                            continue
                        x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
                        p = P[b]
                        nx, ny, nz, lx, ly, lz = _normal(p, x, y, z, axis)
                        if nx * dx + ny * dy + nz * dz > 0 and p[TEXTURE] != LEAVES:
                            nx, ny, nz = -nx, -ny, -nz
                        r, g, bl = _colour(p, lx, ly, lz, axis, bank)
                        if p[GLOW] > 0:
                            extra[j, i, 0] += 0.25 * r * p[GLOW]
                            extra[j, i, 1] += 0.25 * g * p[GLOW]
                            extra[j, i, 2] += 0.25 * bl * p[GLOW]
                            continue
                        clear = math.exp(-fog * t)
                        keep = clear
                        x, y, z = x + nx * 2e-3, y + ny * 2e-3, z + nz * 2e-3
                        if p[GLOSS] > 0:
                            dn = dx * nx + dy * ny + dz * nz
                            rx, ry, rz = dx - 2 * dn * nx, dy - 2 * dn * ny, dz - 2 * dn * nz
                            dl = math.sqrt(dx * dx + dy * dy + dz * dz)
                            grazing = (1.0 - min(1.0, abs(dn) / dl)) ** 4
                            share = p[GLOSS] * (0.15 + 0.85 * grazing)
                            w = 0.02 * (_noise(x * 3, z * 12, 1.0) - 0.5) * dl
                            _, q, qa = _hit(P, everything, n, x, y, z, rx + w, ry, rz, 1e9, False)
                            if q < 0:
                                _sky(sky, rx, ry, rz, tint)
                            else:
                                _, _, _, qx, qy, qz = _normal(
                                    P[q], x + _ * rx, y + _ * ry, z + _ * rz, qa
                                )
                                tint[0], tint[1], tint[2] = _colour(P[q], qx, qy, qz, qa, bank)
                                for k in range(3):
                                    tint[k] *= P[q, GLOW] if P[q, GLOW] > 0 else 0.7 * ambient[k]
                            for k in range(3):
                                extra[j, i, k] += 0.25 * share * clear * tint[k]
                            keep = clear * (1 - share)
                        if sample < 2 or lit < 0:
                            if indoor > 0:
                                vx = lamp[0] - x + 0.3 * np.random.randn()
                                vy = lamp[1] - y + 0.1 * np.random.randn()
                                vz = lamp[2] - z + 0.3 * np.random.randn()
                                far = math.sqrt(vx * vx + vy * vy + vz * vz)
                                vx, vy, vz = vx / far, vy / far, vz / far
                                strength, far = 8.0 / (2.0 + far * far), far - 0.05
                            else:
                                vx = lamp[0] + 0.02 * np.random.randn()
                                vy, vz = lamp[1], lamp[2] + 0.02 * np.random.randn()
                                strength, far = 1.0, 1e9
                            facing = nx * vx + ny * vy + nz * vz
                            lit = 0.0
                            if facing > 0:
                                _, q, _2 = _hit(P, everything, n, x, y, z, vx, vy, vz, far, True)
                                if q < 0:
                                    lit = min(facing, 1.0) * strength
                        if sample == 0 or shut < 0:
                            a0, a1, a2 = (
                                np.random.randn() + nx,
                                np.random.randn() + ny,
                                np.random.randn() + nz,
                            )
                            if a0 * nx + a1 * ny + a2 * nz < 0:
                                a0, a1, a2 = -a0, -a1, -a2
                            length = math.sqrt(a0 * a0 + a1 * a1 + a2 * a2) + 1e-9
                            _, q, _2 = _hit(
                                P,
                                everything,
                                n,
                                x,
                                y,
                                z,
                                a0 / length,
                                a1 / length,
                                a2 / length,
                                reach,
                                True,
                            )
                            shut = 1.0 if q < 0 else 0.3
                        albedo[j, i, 0] += 0.25 * keep * r
                        albedo[j, i, 1] += 0.25 * keep * g
                        albedo[j, i, 2] += 0.25 * keep * bl
                        hits += 1
                        light[j, i, 0] += lit
                        light[j, i, 1] += shut * (0.72 + 0.28 * ny)
                        for k in range(3):
                            extra[j, i, k] += 0.25 * (1 - clear) * sky[k]
                    if hits > 0:
                        light[j, i, 0] /= hits
                        light[j, i, 1] /= hits
    light[:, :, 0] = _smoothed(light[:, :, 0], depth, 1)
    light[:, :, 1] = _smoothed(_smoothed(light[:, :, 1], depth, 2), depth, 2)
    for j in range(H):
        for i in range(W):
            for k in range(3):
                extra[j, i, k] += albedo[j, i, k] * (
                    lamp_colour[k] * light[j, i, 0] + ambient[k] * light[j, i, 1]
                )
    return extra, depth


@njit(fastmath=True, cache=True)
def _smoothed(values, depth, r):
    """Mean over the pixels around that lie at about the same depth: the noise of single rays
    goes.
    """
    H, W = values.shape
    out = np.empty((H, W))
    for j in range(H):
        for i in range(W):
            total, weight = 0.0, 0.0
            d = depth[j, i]
            for b in range(max(0, j - r), min(H, j + r + 1)):
                for a in range(max(0, i - r), min(W, i + r + 1)):
                    if abs(depth[b, a] - d) < 0.06 * d or (a == i and b == j):
                        total += values[b, a]
                        weight += 1.0
            out[j, i] = total / weight
    return out
