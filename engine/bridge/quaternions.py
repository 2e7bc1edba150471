"""Rotation matrices and quaternions w x y z, numpy. `scene.quaternions` has them with gradients."""

from __future__ import annotations

import numpy as np


def quaternion_of(rotation: np.ndarray) -> np.ndarray:
    """[3, 3] rotation -> [4] unit quaternion w x y z, by the largest component (Shepperd)."""
    m = np.asarray(rotation, np.float64)
    four = np.array(
        [
            1 + m[0, 0] + m[1, 1] + m[2, 2],
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
        ]
    )
    w, x, y = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    rows = ((four[0], w, x, y), (w, four[1], xy, xz), (x, xy, four[2], yz), (y, xz, yz, four[3]))
    q = np.array(rows[int(np.argmax(four))])
    return q / np.linalg.norm(q)


def rotation_of(quats: np.ndarray) -> np.ndarray:
    """[n, 4] quaternions w x y z of any norm but zero -> [n, 3, 3] rotations, float64."""
    q = np.asarray(quats, np.float64)
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
