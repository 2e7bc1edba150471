"""How memory that is free goes back to the system, where the C library is glibc; elsewhere nothing
is done.

Once an array of up to 32 MB has been freed, glibc takes all such from one heap, which shrinks only
at its top: between long-lived arrays it keeps hundreds of megabytes that nobody uses. Larger ones
are mapped one by one and go back at once. So a job lowers that limit, once, and clears up after
each of its stages.
"""

from __future__ import annotations

import ctypes
import functools
import sys

from ..rasterize.kernels.workspace import SCRATCH

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MAPPED_FROM = 4 << 20  # bytes; a frame of 512 x 288 is smaller, a map of a clip larger
_KEPT_AT_THE_TOP = 64 << 20  # bytes, for the small arrays of every step


def map_large_arrays() -> None:
    """Let every array of 4 MB and more go back to the system when it is freed."""
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_THE_TOP)


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
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
