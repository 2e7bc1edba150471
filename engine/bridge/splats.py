"""Gaussians as arrays, and what every reader does about values that no renderer can draw. Shared
with Blender: numpy only.

Left out: splats with NaN anywhere, with an infinite centre, colour or quaternion, or of infinite
size. Mended: infinite opacity logits and scales of zero are clamped, quaternions of length zero
become the identity. Sound splats stay as they are, bit for bit. Whatever was done is said in one
line each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .errors import UserError

OPACITY_LOGIT_LIMIT = 16.6  # logit(1 - 2^-24): the last float32 opacity below 1
SCALE_LOG_FLOOR = -23.0  # 1e-10 units: what a scale of zero becomes


class Splats(NamedTuple):
    """n Gaussians in the stored form of a 3DGS file: ln scale, logit opacity, raw SH. All
    float32.
    """

    means: np.ndarray  # [n, 3]
    quats: np.ndarray  # [n, 4] w x y z, any norm
    scales_log: np.ndarray  # [n, 3]
    opacities_logit: np.ndarray  # [n]
    sh_dc: np.ndarray  # [n, 3]
    sh_rest: np.ndarray  # [n, k, 3], k in {0, 3, 8, 15}, coefficient before channel


def repaired(splats: Splats, where: str) -> tuple[Splats, tuple[str, ...]]:
    """Splats that every renderer can take, and a sentence for each thing that had to change.

    `where` names the file in errors. UserError when there is not one sound splat.
    """
    s = splats
    notes: list[str] = []
    n = len(s.means)
    if n == 0:
        raise UserError(f"{where} holds no splats.", "Export it again.")
    good = np.ones(n, bool)
    for name in ("means", "quats", "sh_dc", "sh_rest"):
        array = getattr(s, name)
        # one cheap sum instead of n x k tests on sound files; float32 cannot overflow it
        if not np.isfinite(array.sum(dtype=np.float64)):
            good &= np.isfinite(array).reshape(n, -1).all(axis=1)
    scales, logits = s.scales_log, s.opacities_logit
    good &= ~np.isnan(logits) & ~(np.isnan(scales) | np.isposinf(scales)).any(axis=1)
    if not good.all():
        left_out = n - int(good.sum())
        if left_out == n:
            raise UserError(
                f"{where} holds no sound splat: every one has NaN or infinity.", "Export it again."
            )
        notes.append(f"left out {left_out} of {n} splats that hold NaN or infinity")
        s = Splats(*(array[good] for array in s))
    changes: dict[str, np.ndarray] = {}
    zero = (s.quats == 0).all(axis=1)
    if zero.any():
        notes.append(f"{int(zero.sum())} splats have a zero quaternion; they get the identity")
        changes["quats"] = np.where(zero[:, None], np.array([1, 0, 0, 0], np.float32), s.quats)
    endless = np.isinf(s.opacities_logit)
    if endless.any():
        notes.append(
            f"{int(endless.sum())} infinite opacity logits are clamped to +-{OPACITY_LOGIT_LIMIT:g}"
        )
        clipped = np.clip(s.opacities_logit, -OPACITY_LOGIT_LIMIT, OPACITY_LOGIT_LIMIT)
        changes["opacities_logit"] = np.where(endless, clipped, s.opacities_logit)
    flat = np.isneginf(s.scales_log)
    if flat.any():
        notes.append(
            f"{int(flat.any(axis=1).sum())} splats have a scale of zero; it becomes "
            f"{np.exp(SCALE_LOG_FLOOR):.0e}"
        )
        changes["scales_log"] = np.where(flat, np.float32(SCALE_LOG_FLOOR), s.scales_log)
    return (s._replace(**changes) if changes else s), tuple(notes)


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Opacity of a logit, without overflow, same shape, float32."""
    return (0.5 * (1.0 + np.tanh(0.5 * logit.astype(np.float64)))).astype(np.float32)
