"""Points in an order that keeps neighbours together."""

from __future__ import annotations

import numpy as np


def morton_order(means: np.ndarray) -> np.ndarray:
    """Order points along a Z curve of 10 bits an axis, [n, 3] -> [n] indices: neighbours in space
    are near each other in a file or in memory.
    """
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
