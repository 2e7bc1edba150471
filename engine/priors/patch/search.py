"""Posterior over the patches of a picture: the kernels of the patch prior.

A query is the 7 x 7 patch round one cell of a frame, with a target colour t_c and a precision
w_c in every cell c (0 outside the frame). Its energy against patch P_n of the bank is

    E_n = 1/2 sum_c w_c |t_c - P_nc|^2 + (v - v_n)^2 / (2 s_v^2)

and its posterior is softmax(-E). `posterior_all` sums over the whole bank; `search` keeps the
best CANDIDATES only, found by propagation between neighbours and a hashed local search, which
at low noise hold all of the mass. Every query is computed on its own, from data that no other
query of the same sweep writes, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numba import njit

RADIUS = 3  # cells on each side of the centre of a patch
SIDE = 2 * RADIUS + 1
LENGTH = SIDE * SIDE * 3  # numbers in a patch: row, column, colour
CANDIDATES = 4  # bank patches that a query keeps

_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
_OPTIONS = {"nogil": True, "cache": True, "fastmath": _FAST, "error_model": "numpy"}


def in_chunks(kernel: Callable[..., None], count: int, *args: object) -> None:
    """Run kernel(first, stop, *args) over [0, count) on torch's number of threads."""
    threads = max(1, min(torch.get_num_threads(), count // 64))
    if threads == 1:
        kernel(0, count, *args)
        return
    edges = np.linspace(0, count, 4 * threads + 1).astype(np.int64)
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(kernel, int(a), int(b), *args) for a, b in pairwise(edges)]
        for job in jobs:
            job.result()


@njit(**_OPTIONS)
def _gather(target, weight, y, x, t, w):  # type: ignore[no-untyped-def]
    """Copy the patch round cell (y, x) of the padded target [h+6, w+6, 3] and weight [h+6, w+6]."""
    j = 0
    for dy in range(SIDE):
        for dx in range(SIDE):
            for c in range(3):
                t[j] = target[y + dy, x + dx, c]
                w[j] = np.float32(0.5) * weight[y + dy, x + dx]
                j += 1


@njit(**_OPTIONS)
def _keep(energy, code, energies, codes):  # type: ignore[no-untyped-def]
    """Insert into the ascending list of the best candidates, unless it is there already."""
    last = energies.shape[0] - 1
    if energy >= energies[last]:
        return
    for k in range(last + 1):
        if codes[k] == code:
            return
    k = last
    while k > 0 and energies[k - 1] > energy:
        energies[k] = energies[k - 1]
        codes[k] = codes[k - 1]
        k -= 1
    energies[k] = energy
    codes[k] = code


@njit(**_OPTIONS)
def posterior_all(
    first,
    stop,
    target,
    weight,
    rows,
    columns,
    bank,
    bank_code,
    bank_v,
    v_scale,
    height,
    mean,
    variance,
    codes,
    energies,
):  # type: ignore[no-untyped-def]
    """Exact posterior mean and variance over the whole bank, and its best candidates.

    target [h+6, w+6, 3] and weight [h+6, w+6], padded by RADIUS; rows, columns [q];
    bank [n, 147] patches, bank_code [n], bank_v [n] their heights in [0, 1]; v_scale = 1 / (2
    s_v^2);
    -> mean [q, 147], variance [q] (mean over the patch), codes, energies [q, CANDIDATES].
    """
    n = bank.shape[0]
    t = np.empty(LENGTH, np.float32)
    w = np.empty(LENGTH, np.float32)
    energy = np.empty(n, np.float32)
    for q in range(first, stop):
        _gather(target, weight, rows[q], columns[q], t, w)
        v = (np.float32(rows[q]) + np.float32(0.5)) / np.float32(height)
        least = np.float32(np.inf)
        for k in range(CANDIDATES):
            energies[q, k] = np.inf
            codes[q, k] = -1
        for i in range(n):
            e = np.float32(0.0)
            for j in range(np.uint64(LENGTH)):
                d = t[j] - bank[i, j]
                e += w[j] * d * d
            dv = v - bank_v[i]
            e += v_scale * dv * dv
            energy[i] = e
            least = min(least, e)
            _keep(e, bank_code[i], energies[q], codes[q])
        _mean_of(energy, least, bank, mean[q], variance, q)


@njit(**_OPTIONS)
def _mean_of(energy, least, bank, mean, variance, q):  # type: ignore[no-untyped-def]
    """Softmax mean of the bank's patches and the mean variance of their cells."""
    mean[:] = np.float32(0.0)
    total = np.float32(0.0)
    square = np.float32(0.0)
    for i in range(energy.shape[0]):
        gap = energy[i] - least
        if gap > np.float32(12.0):
            continue
        p = np.exp(-gap)
        total += p
        s = np.float32(0.0)
        for j in range(np.uint64(LENGTH)):
            b = bank[i, j]
            mean[j] += p * b
            s += b * b
        square += p * s
    norm = np.float32(0.0)
    for j in range(np.uint64(LENGTH)):
        mean[j] /= total
        norm += mean[j] * mean[j]
    variance[q] = max(square / total - norm, np.float32(0.0)) / np.float32(LENGTH)


@njit(**_OPTIONS)
def _energy(t, w, picture, m, y, x, dv, v_scale, bound):  # type: ignore[no-untyped-def]
    """Energy against the patch centred on (y, x) of picture m, given up once above `bound`."""
    e = v_scale * dv * dv
    for dy in range(SIDE):
        row = picture[m, y - RADIUS + dy]
        start = np.uint64((x - RADIUS) * 3)
        base = np.uint64(dy * SIDE * 3)
        for j in range(np.uint64(SIDE * 3)):
            d = t[base + j] - row[start + j]
            e += w[base + j] * d * d
        if e > bound:
            return e
    return e


@njit(**_OPTIONS)
def _hash(a, b, c):  # type: ignore[no-untyped-def]
    """A well-mixed 64-bit number of three integers (splitmix64's finaliser)."""
    z = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b) * np.uint64(0xBF58476D1CE4E5B9)
    z += np.uint64(c) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(**_OPTIONS)
def _moved(code, shift_y, shift_x, height, width):  # type: ignore[no-untyped-def]
    """The bank patch that lies (shift_y, shift_x) cells from `code`, kept inside its picture."""
    m = code // (height * width)
    y = min(max((code // width) % height + shift_y, RADIUS), height - 1 - RADIUS)
    x = min(max(code % width + shift_x, RADIUS), width - 1 - RADIUS)
    return (m * height + y) * width + x


@njit(**_OPTIONS)
def _try(new, near, t, w, picture, v, v_scale, bonus, energies, codes):  # type: ignore[no-untyped-def]
    """Offer bank patch `new` to a query.

    near [n]: what the neighbours' best patches say this query's patch should be; every one that
    agrees lowers the energy by the share `bonus`.
    """
    for k in range(codes.shape[0]):
        if codes[k] == new:
            return
    height, width = picture.shape[1], picture.shape[2] // 3
    m = new // (height * width)
    y = (new // width) % height
    x = new % width
    dv = v - (np.float32(y) + np.float32(0.5)) / np.float32(height)
    share = np.float32(1.0)
    for j in range(near.shape[0]):
        if near[j] == new:
            share -= bonus
    e = share * _energy(
        t, w, picture, m, y, x, dv, v_scale, energies[energies.shape[0] - 1] / share
    )
    _keep(e, new, energies, codes)


@njit(**_OPTIONS)
def descend(
    first,
    stop,
    target,
    weight,
    rows,
    columns,
    picture,
    v_scale,
    height,
    parent,
    parent_index,
    parent_width,
    codes,
    energies,
):  # type: ignore[no-untyped-def]
    """Candidates at a scale from those of the scale twice as coarse: the same place, the same
    offset.

    picture [m, H, W*3]; parent [q', CANDIDATES] codes in a bank picture of width `parent_width`
    and half the height, parent_index [h', w'] which query a coarse cell is.
    """
    t = np.empty(LENGTH, np.float32)
    w = np.empty(LENGTH, np.float32)
    picture_height, picture_width = picture.shape[1], picture.shape[2] // 3
    parent_height = picture_height // 2
    for q in range(first, stop):
        y, x = rows[q], columns[q]
        _gather(target, weight, y, x, t, w)
        v = (np.float32(y) + np.float32(0.5)) / np.float32(height)
        for k in range(CANDIDATES):
            energies[q, k] = np.inf
            codes[q, k] = -1
        p = parent_index[y // 2, x // 2]
        for k in range(CANDIDATES):
            code = parent[p, k]
            if code < 0:
                continue
            m = code // (parent_height * parent_width)
            py = 2 * ((code // parent_width) % parent_height)
            px = 2 * (code % parent_width)
            fine = _moved(
                (m * picture_height + py) * picture_width + px,
                y % 2,
                x % 2,
                picture_height,
                picture_width,
            )
            _try(
                fine,
                codes[q, :0],
                t,
                w,
                picture,
                v,
                v_scale,
                np.float32(0.0),
                energies[q],
                codes[q],
            )


@njit(**_OPTIONS)
def search(
    first,
    stop,
    target,
    weight,
    rows,
    columns,
    index,
    picture,
    v_scale,
    height,
    bonus,
    sweep,
    seed,
    reach,
    old,
    codes,
    energies,
):  # type: ignore[no-untyped-def]
    """One sweep: offer every query its own candidates again, its neighbours', and a few hashed
    places near its best.

    index [h, w] which query a cell is, -1 none; old [q, CANDIDATES] the codes before the sweep;
    codes, energies are written for this query alone.
    """
    t = np.empty(LENGTH, np.float32)
    w = np.empty(LENGTH, np.float32)
    near = np.empty(4, np.int32)
    picture_height, picture_width = picture.shape[1], picture.shape[2] // 3
    for q in range(first, stop):
        y, x = rows[q], columns[q]
        _gather(target, weight, y, x, t, w)
        v = (np.float32(y) + np.float32(0.5)) / np.float32(height)
        for side in range(4):
            near[side] = _advice(y, x, side, 1, 0, index, old, picture_height, picture_width)
        for k in range(CANDIDATES):
            energies[q, k] = np.inf
            codes[q, k] = -1
        for k in range(CANDIDATES):
            if old[q, k] >= 0:
                _try(old[q, k], near, t, w, picture, v, v_scale, bonus, energies[q], codes[q])
        hops = 2 + 2 * (sweep % 3)
        for side in range(4):
            if near[side] >= 0:
                _try(near[side], near, t, w, picture, v, v_scale, bonus, energies[q], codes[q])
            for k in range(2):
                far = _advice(
                    y, x, side, hops if k == 0 else 1, k, index, old, picture_height, picture_width
                )
                if far >= 0:
                    _try(far, near, t, w, picture, v, v_scale, bonus, energies[q], codes[q])
        span = reach
        draw = 0
        while span >= 1:
            h = _hash(q * 64 + draw, sweep, seed)
            jy = np.int64(h % np.uint64(2 * span + 1)) - span
            jx = np.int64((h >> np.uint64(32)) % np.uint64(2 * span + 1)) - span
            _try(
                _moved(old[q, 0], jy, jx, picture_height, picture_width),
                near,
                t,
                w,
                picture,
                v,
                v_scale,
                bonus,
                energies[q],
                codes[q],
            )
            span //= 2
            draw += 1


@njit(**_OPTIONS)
def _advice(y, x, side, hops, k, index, old, picture_height, picture_width):  # type: ignore[no-untyped-def]
    """The patch that the k-th candidate of the neighbour `hops` cells away would continue to here,
    or -1.
    """
    dy = (side - 1) * hops if side % 2 == 0 else 0
    dx = (side - 2) * hops if side % 2 == 1 else 0
    ny, nx = y + dy, x + dx
    if ny < 0 or nx < 0 or ny >= index.shape[0] or nx >= index.shape[1]:
        return -1
    p = index[ny, nx]
    if p < 0 or old[p, k] < 0:
        return -1
    return _moved(old[p, k], -dy, -dx, picture_height, picture_width)


@njit(**_OPTIONS)
def posterior_of_candidates(first, stop, picture, codes, energies, mean, variance):  # type: ignore[no-untyped-def]
    """Posterior mean [q, 147] and variance [q] over the candidates that `search` kept."""
    height, width = picture.shape[1], picture.shape[2] // 3
    patches = np.empty((CANDIDATES, LENGTH), np.float32)
    energy = np.empty(CANDIDATES, np.float32)
    for q in range(first, stop):
        for k in range(CANDIDATES):
            code = codes[q, k]
            energy[k] = energies[q, k]
            if code < 0:
                energy[k] = np.inf
                code = codes[q, 0]
            m = code // (height * width)
            y = (code // width) % height
            x = code % width
            for dy in range(SIDE):
                for j in range(SIDE * 3):
                    patches[k, dy * SIDE * 3 + j] = picture[
                        m, y - RADIUS + dy, (x - RADIUS) * 3 + j
                    ]
        _mean_of(energy, energy[0], patches, mean[q], variance, q)


@njit(**_OPTIONS)
def vote(rows, columns, mean, variance, window, softness, total, mass):  # type: ignore[no-untyped-def]
    """Overlapping posterior means, each weighted by its precision, as one picture.

    window [7, 7] weight of a cell of a patch; total [h+6, w+6, 3] and mass [h+6, w+6] are added to.
    """
    for q in range(rows.shape[0]):
        trust = np.float32(1.0) / (variance[q] + softness)
        j = 0
        for dy in range(SIDE):
            for dx in range(SIDE):
                p = trust * window[dy, dx]
                y, x = rows[q] + dy, columns[q] + dx
                mass[y, x] += p
                for c in range(3):
                    total[y, x, c] += p * mean[q, j]
                    j += 1
