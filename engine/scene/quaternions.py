"""Rotation matrices and quaternions w x y z, torch. `bridge.quaternions` has them in numpy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_from_quaternion(quats: Tensor) -> Tensor:
    """Turn quaternions w x y z of any norm into rotations, [n, 4] -> [n, 3, 3]."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )
    return torch.stack(rows, -1).reshape(*quats.shape[:-1], 3, 3)


def quaternions(R: Tensor) -> Tensor:
    """Turn rotations [n, 3, 3] into unit quaternions w x y z [n, 4].

    Row i of the symmetric matrix 4 q q^T is q times 4 q_i; the row with the largest diagonal is
    the most exact.
    """
    m = R.unbind(1)
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(1) for row in m)
    rows = [
        [1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01],
        [m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20],
        [m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21],
        [m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22],
    ]
    table = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    best = table.diagonal(dim1=1, dim2=2).argmax(dim=1)
    return F.normalize(table[torch.arange(len(R)), best], dim=1)
