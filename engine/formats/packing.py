"""What several small formats do alike: the order of splats, and rotations by their three smallest components."""

from __future__ import annotations

import numpy as np

_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def morton_order(means: np.ndarray) -> np.ndarray:
    """[n, 3] -> [n] indices along a Z curve of 10 bits an axis, so that neighbours are near each other in the file."""
    low = means.min(axis=0).astype(np.float64)
    size = np.maximum(means.max(axis=0) - low, 1e-30)
    cells = np.minimum((means - low) / size * 1024, 1023).astype(np.uint32)
    code = _spread(cells[:, 0]) | _spread(cells[:, 1]) << 1 | _spread(cells[:, 2]) << 2
    return np.argsort(code, kind="stable")


def _spread(value: np.ndarray) -> np.ndarray:
    """10 bits, two zeros put between each and the next."""
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        value = (value | value << np.uint32(shift)) & np.uint32(mask)
    return value


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions [n, 4] of any norm but zero -> index of the largest component [n], and the others [n, 3] in their order.

    Of the two signs of a rotation, the one with a positive largest component; the others lie in +-sqrt(1/2).
    """
    q = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    rows = np.arange(len(q))
    largest = np.abs(q).argmax(axis=1)
    q = np.where(q[rows, largest][:, None] < 0, -q, q)
    return largest, q[rows[:, None], _OTHERS[largest]]


def from_smallest_three(largest: np.ndarray, three: np.ndarray) -> np.ndarray:
    """The unit quaternions [n, 4] float32 of which `smallest_three` kept (index [n], three [n, 3])."""
    rows = np.arange(len(largest))
    quats = np.empty((len(largest), 4), np.float32)
    quats[rows[:, None], _OTHERS[largest]] = three
    quats[rows, largest] = np.sqrt(np.maximum(0, 1 - (three**2).sum(axis=1)))
    return quats
