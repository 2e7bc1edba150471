"""Running a kernel over ranges on several threads.

The kernels release the interpreter lock, so plain threads suffice: no OpenMP beside torch's, no
change of torch's own thread count. Every range is independent of every other, so results do not
depend on how many threads there are or on who takes which range.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

VARIABLE = "SCENE_SPLATTER_THREADS"

_lock = threading.Lock()
_pools: dict[
    tuple[int, int], ThreadPoolExecutor
] = {}  # (process, threads): a forked child makes its own


def thread_count() -> int:
    """Threads to use: the environment's SCENE_SPLATTER_THREADS, else the cores this process may
    use.

    Raises ValueError when the variable is not a positive whole number.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{VARIABLE} must be a positive whole number, got {text!r}")
    return int(text)


def run_ranges(
    call: Callable[[int, int], None], count: int, ranges_per_thread: int, smallest: int = 1
) -> None:
    """Call `call(start, stop)` so that the ranges cover 0..count, on `thread_count()` threads."""
    threads = thread_count()
    ranges = min(threads * ranges_per_thread, max(count // smallest, 1))
    if threads == 1 or ranges == 1:
        if count:
            call(0, count)
        return
    ticket = itertools.count()  # next() is one bytecode: no two threads draw the same number

    def work() -> None:
        while (i := next(ticket)) < ranges:
            start, stop = count * i // ranges, count * (i + 1) // ranges
            if start < stop:
                call(start, stop)

    helpers = [_pool(threads - 1).submit(work) for _ in range(min(threads, ranges) - 1)]
    work()
    for helper in helpers:
        helper.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), threads)
    with _lock:
        if key not in _pools:
            _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="rasterize")
        return _pools[key]
