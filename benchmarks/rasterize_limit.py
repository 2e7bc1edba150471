"""How far is the CPU rasteriser from what the machine can do? `python benchmarks/rasterize_limit.py
[--quick] [--rounds N]`

Counts what a frame with its gradient does - pairs of a tile and a Gaussian, rows of 8 pixels that
are evaluated, arithmetic operations, bytes that have to come from or go to memory at least once -
and sets the time of every stage against two limits of one core, measured in the same run:
arithmetic as fast as a matrix product (torch, one thread), and bytes as fast as a copy. One thread,
process CPU time, the least of the rounds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["SCENE_SPLATTER_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numba
import numpy as np
import torch

from benchmarks.rasterize import Scene, depth_scene, forward_backward, ours, random_scene
from engine.rasterize.constants import BATCH, RECORD, T_MIN, TILE_H, TILE_W
from engine.rasterize.cpu import backend as cpu_backend
from engine.rasterize.cpu import blend
from engine.rasterize.kernels.compile import F32

STAGES = (
    "project",
    "count",
    "fill",
    "blend",
    "blend back",
    "project back",
)  # the parallel stages, in the order of the calls
# Operations of one pixel with C channels, counted in the loops of engine/rasterize/cpu/blend.py; a
# fused multiply-add is two, and so
# are a comparison with its selection.
FORWARD_OPS, FORWARD_OPS_CHANNEL = 40, 2
BACKWARD_OPS, BACKWARD_OPS_CHANNEL = 58, 4
CHANNELS = 3
SIZE, PX, U = RECORD + CHANNELS, TILE_W * TILE_H, np.uint64


@numba.njit
def count_rows(tiles_x, width, height, tile_first, pairs, records):
    """Rows of 8 pixels that are evaluated, until every pixel of a tile is done."""
    buf, loc = np.empty(3 * PX, np.float32), np.empty(BATCH * SIZE + 8, np.float32)
    lo, hi = np.empty(BATCH, np.uint64), np.empty(BATCH, np.uint64)
    rows = 0
    for tile in range(tile_first.shape[0] - 1):
        x0, y0 = F32((tile % tiles_x) * TILE_W), F32((tile // tiles_x) * TILE_H)
        blend._start_tile(x0, y0, F32(width), F32(height), buf)
        j, end = U(tile_first[tile]), U(tile_first[tile + 1])
        while j < end and blend._any_light(buf):
            n = min(U(BATCH), end - j)
            blend._gather(j, n, end, SIZE, pairs, records, x0, y0, loc, lo, hi)
            for b in range(n):
                o = b * U(SIZE)
                rows += (hi[b] - lo[b]) // U(TILE_W)
                for k in range(lo[b], hi[b]):
                    dx, dy = buf[k] - loc[o], buf[k + U(PX)] - loc[o + U(1)]
                    s = max(
                        (loc[o + U(2)] * dx + loc[o + U(3)] * dy) * dx + loc[o + U(4)] * dy * dy,
                        F32(0),
                    )
                    if s <= loc[o + U(6)]:
                        light = buf[k + U(2 * PX)]
                        rest = light - light * min(loc[o + U(5)] * np.exp(-s), F32(0.999))
                        buf[k + U(2 * PX)] = rest if rest > F32(T_MIN) else -abs(light)
            j += n
    return rows


def best(call: Callable[[], object], rounds: int = 5) -> float:
    """Least CPU seconds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def machine() -> tuple[float, float]:
    """(arithmetic operations, bytes) a second of one core: a 1024^2 matrix product; a copy, read
    and write counted.
    """
    torch.set_num_threads(1)
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    source, target = torch.rand(1 << 26), torch.rand(1 << 26)
    return 2 * 1024**3 / best(lambda: torch.mm(a, b)), 2 * 4 * (1 << 26) / best(
        lambda: target.copy_(source)
    )


def measure(
    scene: Scene, rounds: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]], str]:
    """Seconds of each stage, its (operations, bytes), and the counts in words."""
    drawn, spent = [], {name: [] for name in STAGES}
    run_ranges, draw = cpu_backend.run_ranges, cpu_backend._draw

    def timed(*arguments: object) -> None:
        start = time.process_time()
        run_ranges(*arguments)
        spent[STAGES[timed.calls % len(STAGES)]].append(time.process_time() - start)
        timed.calls += 1

    timed.calls = 0
    cpu_backend.run_ranges, cpu_backend._draw = (
        timed,
        lambda *a: drawn.append(draw(*a)) or drawn[-1],
    )
    run = forward_backward(ours(scene), scene, time.process_time)
    try:
        for _ in range(rounds + 1):
            drawn.clear()
            run()
    finally:
        cpu_backend.run_ranges, cpu_backend._draw = run_ranges, draw
    gaussians, _, _, width, height = scene
    d, n, sh = drawn[0], gaussians.count, gaussians.sh_rest.shape[1]
    rows = count_rows(-(-width // TILE_W), width, height, d.tile_first, d.pairs, d.records)
    pairs, seen = d.pairs.shape[0], int((d.counts > 0).sum())
    lanes, sums = 8 * rows, 4 * (6 + CHANNELS) * pairs
    stored = 4 * (14 + 3 * sh)  # bytes of one Gaussian's parameters
    work = {
        "project": (0.0, n * (stored + 28) + seen * 4 * SIZE),
        "count": (0.0, seen * 20 + 8 * pairs),
        "fill": (0.0, seen * 20 + 8 * pairs),
        "blend": (lanes * (FORWARD_OPS + FORWARD_OPS_CHANNEL * CHANNELS), pairs * (4 + 4 * SIZE)),
        "blend back": (
            lanes * (BACKWARD_OPS + BACKWARD_OPS_CHANNEL * CHANNELS),
            pairs * (4 + 4 * SIZE) + sums,
        ),
        "project back": (0.0, sums + 4 * pairs + seen * (stored + 4 * SIZE) + n * stored),
    }
    text = (
        f"{seen} of {n} Gaussians seen, {pairs} pairs, {rows} rows of 8 pixels "
        f"({rows / pairs:.1f} a pair)"
    )
    return (
        {name: min(times[1:]) for name, times in spent.items()},
        {k: (float(o), float(b)) for k, (o, b) in work.items()},
        text,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smallest size only")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    ops, bytes_ = machine()
    print(
        f"one core: {ops / 1e9:.0f} GFLOP/s (matrix product), {bytes_ / 1e9:.1f} GB/s (copy, "
        "both ways)"
    )
    w, h, n = (256, 160, 20_000) if args.quick else (512, 288, 200_000)
    for name, scene in (
        (f"random {n // 1000}k {w}x{h}", random_scene(n, w, h)),
        (f"depth {w * h // 1000}k {w}x{h}", depth_scene(w, h)),
    ):
        spent, work, text = measure(scene, args.rounds)
        print(f"\n{name}, SH 3: {text}\n")
        print(
            "| stage | CPU ms | M operations | GFLOP/s | MB | GB/s | times its limit "
            "|\n|---|---|---|---|---|---|---|"
        )
        floor = 0.0
        for stage in STAGES:
            t, (o, b) = spent[stage], work[stage]
            limit = max(o / ops, b / bytes_)
            floor += limit
            arithmetic = f"{o / 1e6:.0f} | {o / t / 1e9:.1f}" if o else "few |"
            row = (
                f"{1e3 * t:.1f} | {arithmetic} | {b / 1e6:.1f} | {b / t / 1e9:.1f} | "
                f"{t / limit:.1f}"
            )
            print(f"| {stage} | {row} |", flush=True)
        print(
            f"| all | {1e3 * sum(spent.values()):.1f} | | | | | {sum(spent.values()) / floor:.1f} |"
        )


if __name__ == "__main__":
    main()
