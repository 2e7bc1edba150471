"""Few values that stand for many: codebooks of single numbers and palettes of vectors, for SOG.

Both are k-means. The palette's is done in two levels, since 65,536 entries for a million vectors
would need a hundred times the arithmetic in one: coarse groups first, then entries inside each.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse
import threadpoolctl

_LEVELS = 256
_SAMPLE = 1 << 18
_BOOK_ROUNDS = 5
_PALETTE_ROUNDS = 3
_SMALL = 1 << 27  # vectors times entries up to which one level takes about a second
_BLOCK = 1 << 11


def codebook(values: np.ndarray) -> np.ndarray:
    """[256] ascending float32 that stand for `values` (any shape, finite) with little squared
    error.

    Lloyd's algorithm on a sorted sample. It begins with half of the levels spread evenly, for the
    rare far values (a giant splat is one in a thousand and all over the picture), and half by the
    cube root of the density, the optimum for many levels (Panter and Dite, 1951).
    """
    flat = np.ravel(values)
    sample = np.sort(flat[:: max(1, len(flat) // _SAMPLE)].astype(np.float64))
    sample[0], sample[-1] = flat.min(), flat.max()
    distinct = np.unique(sample)
    if len(distinct) <= _LEVELS:
        return np.pad(distinct, (0, _LEVELS - len(distinct)), mode="edge").astype(np.float32)
    density, edges = np.histogram(sample, bins=4096)
    wanted = np.cbrt(density)
    reach = np.concatenate([[0.0], np.cumsum(wanted / wanted.sum() + 1 / len(wanted))])
    book = np.interp((np.arange(_LEVELS) + 0.5) / _LEVELS * reach[-1], reach, edges)
    sums = np.concatenate([[0.0], np.cumsum(sample)])
    for _ in range(_BOOK_ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(sample, _between(book)), [len(sample)]])
        count = np.diff(cuts)
        book = np.where(count > 0, np.diff(sums[cuts]) / np.maximum(count, 1), book)
        book.sort()
    return book.astype(np.float32)


def _between(book: np.ndarray) -> np.ndarray:
    return (book[1:] + book[:-1]) / 2


def nearest_level(values: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Index into an ascending book [256] of the level nearest to each value, same shape, uint8."""
    return np.searchsorted(_between(book), values).astype(np.uint8)


def palette(vectors: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `size` vectors [p, d] that stand for `vectors` [n, d] float32, and the entry of each
    [n] (int64).
    """
    n = len(vectors)
    if n <= size:
        return vectors, np.arange(n)
    rng = np.random.default_rng(0)
    if n * size <= _SMALL:
        return _lloyd(vectors, size, rng)
    groups = max(1, 2 * int(np.sqrt(size)))
    sample = vectors[rng.choice(n, min(n, 64 * groups), replace=False)]
    centres = _lloyd(sample, groups, rng)[0]
    with (
        threadpoolctl.threadpool_limits(1, "blas"),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):  # BLAS threads of its own would spin
        blocks = [vectors[start : start + _BLOCK] for start in range(0, n, _BLOCK)]
        group = np.concatenate(list(pool.map(lambda block: _nearest(block, centres), blocks)))
        order = np.argsort(group, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(group, minlength=groups))[:-1])
        shares = _shares(vectors, members, size)
        parts = list(
            pool.map(
                lambda i: _lloyd(vectors[members[i]], int(shares[i]), np.random.default_rng(i)),
                range(groups),
            )
        )
    entry = np.empty(n, np.int64)
    first = 0
    for rows, (found, label) in zip(members, parts, strict=True):
        entry[rows] = label + first
        first += len(found)
    return np.concatenate([found for found, _ in parts]), entry


def _shares(vectors: np.ndarray, members: list[np.ndarray], size: int) -> np.ndarray:
    """Entries of each group: by its share of the squared error, no more than it has vectors, one at
    least if it has any.
    """
    count = np.array([len(rows) for rows in members])
    error = np.array(
        [
            float(vectors[rows].var(axis=0).sum()) * len(rows) if len(rows) else 0.0
            for rows in members
        ]
    )
    free = size - len(members)
    wanted = error / max(error.sum(), 1e-30) * free
    return np.minimum(count, 1 + wanted.astype(np.int64))


def _lloyd(vectors: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """k-means from k of the vectors: centres [k, d] and the centre of each vector [m]."""
    if len(vectors) <= k:
        return vectors, np.arange(len(vectors))
    centres = vectors[rng.choice(len(vectors), k, replace=False)]
    for _ in range(_PALETTE_ROUNDS):
        label = _nearest(vectors, centres)
        count = np.bincount(label, minlength=k)
        belongs = scipy.sparse.csr_matrix(
            (np.ones(len(label), np.float32), (label, np.arange(len(label)))), (k, len(label))
        )
        centres = np.where(
            count[:, None] > 0, (belongs @ vectors) / np.maximum(count, 1)[:, None], centres
        ).astype(np.float32)
    return centres, _nearest(vectors, centres)


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Index of the nearest centre of each vector: least |c - x|^2, so largest c.x - |c|^2 / 2."""
    half_square = (centres**2).sum(axis=1) / 2
    label = np.empty(len(vectors), np.intp)
    for start in range(0, len(vectors), _BLOCK):
        score = vectors[start : start + _BLOCK] @ centres.T
        score -= half_square
        score.argmax(axis=1, out=label[start : start + _BLOCK])
    return label
