"""What several small formats do alike: rotations by their three smallest components."""

from __future__ import annotations

import numpy as np

_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions [n, 4] of any norm but zero -> index of the largest component [n], and the others
    [n, 3] in their order.

    Of the two signs of a rotation, the one with a positive largest component; the others lie in
    +-sqrt(1/2).
    """
    q = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    rows = np.arange(len(q))
    largest = np.abs(q).argmax(axis=1)
    q = np.where(q[rows, largest][:, None] < 0, -q, q)
    return largest, q[rows[:, None], _OTHERS[largest]]


def from_smallest_three(largest: np.ndarray, three: np.ndarray) -> np.ndarray:
    """The unit quaternions [n, 4] float32 of which `smallest_three` kept (index [n], three [n,
    3]).
    """
    rows = np.arange(len(largest))
    quats = np.empty((len(largest), 4), np.float32)
    quats[rows[:, None], _OTHERS[largest]] = three
    quats[rows, largest] = np.sqrt(np.maximum(0, 1 - (three**2).sum(axis=1)))
    return quats
