"""Large scratch arrays used again from call to call.

A fresh 100 MB array costs more in page faults than the kernel that fills it. Arrays are lent to a
`Frame` and come back when it is collected, so a graph that is still alive keeps what it needs.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import torch

_LOOSEST = 1.5  # a free array is lent for what needs at least 1/1.5 of it


class Workspace:
    """Free arrays, never more of them than were lent at once. Safe to use from several threads."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []  # the longest unused first
        self._lent = self._most = 0  # bytes lent now, and at most since the last `clear`
        self._lock = threading.Lock()
        # arrays come back whenever the collector runs, also in a thread that holds the lock
        self._returned: deque[np.ndarray] = deque()

    def take(self, nbytes: int) -> np.ndarray:
        """At least `nbytes` bytes, uninitialised."""
        size = _size_class(nbytes)
        with self._lock:
            self._tidy()
            fitting = [
                (block.nbytes, -place)
                for place, block in enumerate(self._free)
                if size <= block.nbytes <= _LOOSEST * size
            ]
            block = self._free.pop(-min(fitting)[1]) if fitting else np.empty(size, np.uint8)
            self._lent += block.nbytes
            self._most = max(self._most, self._lent)
        return block

    def give(self, blocks: list[np.ndarray]) -> None:
        """Take arrays back."""
        self._returned.extend(blocks)

    @property
    def free_bytes(self) -> int:
        """What is kept for later calls."""
        with self._lock:
            self._tidy()
            return sum(block.nbytes for block in self._free)

    def clear(self) -> None:
        """Give everything back to the system."""
        with self._lock:
            self._tidy()
            self._free.clear()
            self._most = self._lent

    def _tidy(self) -> None:
        """Sizes change as a scene grows: of what came back, what was unused for longest goes."""
        while self._returned:
            block = self._returned.popleft()
            self._lent -= block.nbytes
            self._free.append(block)
        kept = sum(block.nbytes for block in self._free)
        while kept > self._most - self._lent:
            kept -= self._free.pop(0).nbytes


def _size_class(nbytes: int) -> int:
    """Round up to 1/8 of a power of two, so that slowly changing sizes meet the same blocks."""
    step = 1 << max((max(nbytes, 1) - 1).bit_length() - 3, 12)
    return -(-max(nbytes, 1) // step) * step


SCRATCH = (
    Workspace()
)  # of this process's kernels; `SCRATCH.clear()` returns its memory to the system


class Frame:
    """Arrays borrowed together; they return to the workspace when the frame is dropped or
    closed.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._blocks: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Uninitialised C-ordered array."""
        n = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        block = self._workspace.take(n)
        self._blocks.append(block)
        return block[:n].view(dtype).reshape(shape)

    def close(self) -> None:
        """Return the arrays now; none of them may be used any more."""
        blocks, self._blocks = self._blocks, []
        self._workspace.give(blocks)

    def __del__(self) -> None:
        self.close()


class _Lent:
    """Owner of a lent block while a numpy array, and the tensor over it, is alive."""

    def __init__(self, workspace: Workspace, shape: tuple[int, ...]) -> None:
        self._frame = Frame(workspace)
        self.__array_interface__ = self._frame.empty(shape, np.float32).__array_interface__


def lent_tensor(workspace: Workspace, shape: tuple[int, ...]) -> torch.Tensor:
    """Uninitialised float32 tensor whose memory returns to the workspace when the tensor is
    gone.
    """
    if 0 in shape:
        return torch.empty(shape)
    return torch.from_numpy(np.asarray(_Lent(workspace, tuple(shape))))
