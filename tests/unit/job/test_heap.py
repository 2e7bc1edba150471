"""Memory that a job's stages have freed is the system's again."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# each stage makes 200 MB of maps and leaves something small behind them
STAGES = """
import numpy as np, psutil
from engine.job import heap
resident = lambda: psutil.Process().memory_info().rss / 2**20
before, kept = resident(), []
for _ in range(3):
    maps = [np.ones(6 << 20, np.uint8) for _ in range(34)]
    kept.append(np.ones(1 << 20, np.uint8))
    del maps
left = resident() - before
heap.give_back()
print(left, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_a_stage_frees_goes_back_to_the_system():
    done = subprocess.run(
        [sys.executable, "-c", STAGES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    held, cleared = (float(word) for word in done.stdout.split())
    assert held > 100 and cleared < 20  # MB
