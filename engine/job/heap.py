"""How memory that is free goes back to the system, where the C library is glibc; elsewhere nothing
is done.

Once an array of up to 32 MB has been freed, glibc takes all such from one heap, which shrinks only
at its top: between long-lived arrays it keeps hundreds of megabytes that nobody uses. So a job
clears up after each of its stages. Within a stage the heap is left alone: mapping every large array
anew made the patch prior's steps half as slow again, for page faults (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import ctypes
import functools
import sys

from ..rasterize.kernels.workspace import SCRATCH


def give_back() -> None:
    """Return what a finished stage has left: the kernels' scratch arrays and holes of the heap."""
    SCRATCH.clear()
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
