"""How every kernel of this package is compiled, and where the compiled code is kept.

Kernels are numba functions without the interpreter lock, compiled for the processor they run
on when first asked for and kept on disk. numba keeps them beside the source; where that folder
cannot be written (a read-only install) in the user's cache folder. `NUMBA_CACHE_DIR` overrides
both.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

F32 = np.float32
# No nnan and no ninf: masked lanes may hold either, and must stay masked.
FAST_MATH = {"contract", "reassoc", "nsz", "arcp", "afn"}


def writable(folder: Path) -> bool:
    """Whether a file can really be made in `folder` (permission bits lie on network drives and for
    root).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def choose_cache_folder(package: Path, home: Path) -> Path | None:
    """Where compiled code goes if numba's own rule would fail: None leaves the rule to numba.

    numba looks beside the source, then in the user's cache folder, and refuses to import where
    neither can be written. In that last case a folder in the system's temporary directory is used.
    """
    if writable(package / "__pycache__") or writable(home / ".cache" / "numba"):
        return None
    return Path(tempfile.gettempdir()) / f"scene_splatter_numba_{getattr(os, 'getuid', int)()}"


def _prepare_cache() -> None:
    if not numba.config.CACHE_DIR:
        folder = choose_cache_folder(Path(__file__).parent, Path.home())
        if folder is not None:
            numba.config.CACHE_DIR = str(folder)


_prepare_cache()


def kernel(signature: str) -> Callable[[Callable], Callable]:
    """Decorator: compile for exactly this signature, from the cache where it is there.

    One signature means that a strided or read-only array is an error at the call, not a second
    compile.
    """
    return numba.njit(
        signature,
        nogil=True,
        cache=True,
        fastmath=FAST_MATH,
        error_model="numpy",
        no_cfunc_wrapper=True,
    )


def inline() -> Callable[[Callable], Callable]:
    """Decorator for a small function used inside kernels of the same file."""
    return numba.njit(
        nogil=True,
        fastmath=FAST_MATH,
        error_model="numpy",
        forceinline=True,
        no_cfunc_wrapper=True,
        no_cpython_wrapper=True,
    )


@intrinsic
def prefetch(typing_context, array, row, column):
    """Ask for the cache line of array[row, column] without waiting for it; array is C-ordered, the
    indices are unsigned.
    """

    def generate(context, builder, signature, arguments):
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = cgutils.get_item_pointer(
            context, builder, signature.args[0], view, list(arguments[1:]), wraparound=False
        )
        address, i32 = builder.bitcast(address, cgutils.voidptr_t), cgutils.int32_t
        function = cgutils.ir.FunctionType(cgutils.ir.VoidType(), [address.type, i32, i32, i32])
        read, keep_close, data = i32(0), i32(3), i32(1)
        builder.call(
            builder.module.declare_intrinsic("llvm.prefetch", [address.type], function),
            [address, read, keep_close, data],
        )
        return context.get_dummy_value()

    return types.void(array, row, column), generate
