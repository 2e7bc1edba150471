"""From projected Gaussians to one depth-ordered list per tile.

The order is by depth, equal depths by index: a stable radix sort, then a counting sort into tiles
that walks the Gaussians in that order. Pieces of the walk count and place on their own, so the
lists are the same for any number of threads.
"""

from __future__ import annotations

import numpy as np

from ..kernels.compile import kernel
from ..kernels.threads import run_ranges, thread_count

_DIGIT = 11
_BINS = 1 << _DIGIT
_MASK = np.uint32(_BINS - 1)
_SMALLEST_SORT = 50_000  # below it, waking threads six times costs more than it gives
U = np.uint64


@kernel("int64(int32[::1],float32[::1],int32[::1],uint32[::1],int64[::1])")
def compact(tiles, depths, seen, keys, first_of):
    """List the Gaussians that touch a tile, their depth bits, and where each one's pairs begin;
    return the pairs.

    `seen[k]`, `keys[k]` are filled for k < number seen, which is put into first_of[n]; depths are
    positive, so their bits sort as unsigned integers.
    """
    bits = depths.view(np.uint32)
    n = U(tiles.shape[0])
    at = U(0)
    pairs = 0
    for i in range(n):
        first_of[i] = pairs
        if tiles[i]:
            seen[at] = np.int32(i)
            keys[at] = bits[i]
            at += U(1)
            pairs += tiles[i]
    first_of[n] = np.int64(at)
    return pairs


@kernel("void(int64,int64,int64,int64,int64,uint32[::1],int64[:,::1])")
def _count_digits(piece_start, piece_stop, count, pieces, shift, keys, counts):
    """counts[piece, digit]"""
    for p in range(piece_start, piece_stop):
        for k in range(U(count * p // pieces), U(count * (p + 1) // pieces)):
            counts[U(p), U((keys[k] >> np.uint32(shift)) & _MASK)] += 1


@kernel(
    "void(int64,int64,int64,int64,int64,uint32[::1],int32[::1],int64[:,::1],uint32[::1],int32[::1])"
)
def _move_by_digit(
    piece_start, piece_stop, count, pieces, shift, keys, values, places, keys_out, values_out
):
    """Every key and value to the next place of its piece and digit."""
    for p in range(piece_start, piece_stop):
        for k in range(U(count * p // pieces), U(count * (p + 1) // pieces)):
            digit = U((keys[k] >> np.uint32(shift)) & _MASK)
            j = U(places[U(p), digit])
            places[U(p), digit] += 1
            keys_out[j], values_out[j] = keys[k], values[k]


def _count_all(count, pieces, shift, keys, counts) -> None:
    run_ranges(lambda a, b: _count_digits(a, b, count, pieces, shift, keys, counts), pieces, 1)


def _move_all(count, pieces, shift, *arrays) -> None:
    run_ranges(lambda a, b: _move_by_digit(a, b, count, pieces, shift, *arrays), pieces, 1)


def sort_by_depth(
    count: int,
    keys: np.ndarray,
    keys_spare: np.ndarray,
    values: np.ndarray,
    values_spare: np.ndarray,
) -> np.ndarray:
    """Values [count] in the stable ascending order of their keys, in one of the two arrays; three
    counting passes of 11 bits.
    """
    pieces = thread_count() if count >= _SMALLEST_SORT else 1
    counts, starts = np.empty((pieces, _BINS), np.int64), np.empty(_BINS + 1, np.int64)
    for shift in (0, _DIGIT, 2 * _DIGIT):
        counts.fill(0)
        _count_all(count, pieces, shift, keys, counts)
        place_pieces(counts, starts)
        _move_all(count, pieces, shift, keys, values, counts, keys_spare, values_spare)
        keys, keys_spare, values, values_spare = keys_spare, keys, values_spare, values
    return values


@kernel("void(int64,int64,int64,int64,int32[::1],int32[:,::1],int64,int64[:,::1])")
def count_pairs(piece_start, piece_stop, seen_count, pieces, order, rects, tiles_x, counts):
    """counts[piece, tile]: how many of the piece's Gaussians touch the tile."""
    for p in range(piece_start, piece_stop):
        for k in range(U(seen_count * p // pieces), U(seen_count * (p + 1) // pieces)):
            i = U(order[k])
            x, y, w, h = rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3]
            for ty in range(y, y + h):
                for t in range(U(ty * tiles_x + x), U(ty * tiles_x + x + w)):
                    counts[U(p), t] += 1


@kernel("void(int64[:,::1],int64[::1])")
def place_pieces(counts, tile_start):
    """Turn counts into the place where each piece begins within each tile; tile_start gets one
    entry more than tiles.
    """
    total = 0
    for t in range(U(counts.shape[1])):
        tile_start[t] = total
        for p in range(U(counts.shape[0])):
            c = counts[p, t]
            counts[p, t] = total
            total += c
    tile_start[U(counts.shape[1])] = total


@kernel(
    "void(int64,int64,int64,int64,int32[::1],int32[:,::1],int64,int64[:,::1],int64[::1],int32[::1],int32[::1])"
)
def fill_pairs(
    piece_start,
    piece_stop,
    seen_count,
    pieces,
    order,
    rects,
    tiles_x,
    places,
    first_of,
    pairs,
    pairs_of,
):
    """pairs: for each tile in turn, the Gaussians that touch it, near to far. pairs_of: for each
    Gaussian in turn, its places in pairs.
    """
    for p in range(piece_start, piece_stop):
        for k in range(U(seen_count * p // pieces), U(seen_count * (p + 1) // pieces)):
            i = U(order[k])
            x, y, w, h = rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3]
            own = U(first_of[i])
            for ty in range(y, y + h):
                for t in range(U(ty * tiles_x + x), U(ty * tiles_x + x + w)):
                    j = places[U(p), t]
                    places[U(p), t] = j + 1
                    pairs[U(j)] = np.int32(i)
                    pairs_of[own] = np.int32(j)
                    own += U(1)
