"""Seconds and peak memory of named stages, sampled while they run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

_INTERVAL_S = 0.05
_MEBIBYTE = 2**20


class Meter:
    """`with meter("render"): ...` adds up the stage's seconds and keeps its highest memory."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}  # resident memory of this process
        self.peak_vram_mb: dict[str, float] = {}  # allocated by torch; empty without CUDA

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        stop, process, peak = threading.Event(), psutil.Process(), 0

        def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, process.memory_info().rss)
                if stop.wait(_INTERVAL_S):
                    return

        thread = threading.Thread(target=watch, name="memory meter", daemon=True)
        thread.start()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
            stop.set()
            thread.join()
            self.peak_mb[stage] = max(self.peak_mb.get(stage, 0.0), peak / _MEBIBYTE)
            if cuda:
                self.peak_vram_mb[stage] = max(
                    self.peak_vram_mb.get(stage, 0.0), torch.cuda.max_memory_allocated() / _MEBIBYTE
                )
