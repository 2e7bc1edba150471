"""What this computer has, asked without importing torch: standard library only.

The engine introduces itself with it, and `doctor` tells it. Graphics cards: `nvidia`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

from . import nvidia, torch_build


def likely_device() -> str:
    """One line for a person, e.g. "cpu (8 cores)" or "cuda (NVIDIA H100, 9.0)"; the engine decides
    when it starts.
    """
    build = torch_build.here()
    here = nvidia.found() if build and build.cuda else nvidia.Nvidia()
    known = torch_build.BUILDS.get(build.build) if build else None
    usable = here.cards[:1] if known is None else known.runs_on(here, platform.machine())
    if here.starts and here.cards[:1] and here.cards[0] in usable:
        return f"cuda ({here.cards[0].name}, {nvidia.dotted(here.cards[0].capability)})"
    return f"cpu ({cpu_count()} cores)"


def cpu_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> tuple[int, int]:
    """(total, available now) main memory; (0, 0) where the system does not tell."""
    if sys.platform == "win32":
        return _memory_windows()
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # macOS: the total only
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    sizes = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in text.splitlines()
        if line.endswith("kB")
    }
    total = sizes.get("MemTotal", 0)
    return total, sizes.get("MemAvailable", total)


def _memory_windows() -> tuple[int, int]:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *(
                (name, ctypes.c_uint64)
                for name in ("total", "available", "f1", "f2", "f3", "f4", "f5")
            ),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - the attribute exists on Windows only
    return (
        (status.total, status.available)
        if kernel.GlobalMemoryStatusEx(ctypes.byref(status))
        else (0, 0)
    )


def system() -> str:
    """Operating system and processor, e.g. "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"
