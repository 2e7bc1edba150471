"""antimatter15's .splat: 32 bytes a splat, no header, degree 0.

Per splat: position 3 x float32, scale 3 x float32 (linear), colour and opacity 4 x uint8,
quaternion w x y z as 4 x uint8 of 128 + 128 q. Lossy: colour, opacity and rotation have 8 bits,
view-dependent colour is gone. The layout was made out from the fixtures and the public viewers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..bridge.errors import UserError
from ..bridge.harmonics import SH_C0
from ..bridge.splat_file import Splats
from ..bridge.splats import sigmoid
from ..bridge.whole_file import replacing
from .scene import (
    Metadata,
    SplatScene,
    damaged,
    log,
    log_scale,
    logit,
    read_bytes,
)

_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
LOSSY = ("colour, opacity and rotation rounded to 8 bits", "view-dependent colour dropped")


def read(path: Path) -> SplatScene:
    """Raises UserError when the size is no multiple of 32 bytes."""
    data = read_bytes(path)
    if len(data) % _RECORD.itemsize:
        raise damaged(path, f"{len(data)} bytes are not a whole number of 32-byte splats")
    rows = np.frombuffer(data, _RECORD)
    if not np.isfinite(rows["mean"]).any() or (rows["scale"] < 0).any():
        raise damaged(path, "the numbers are not those of a .splat file")
    colour = rows["rgba"].astype(np.float32) / 255
    splats = Splats(
        means=rows["mean"].astype(np.float32),
        quats=(rows["quat"].astype(np.float32) - 128) / 128,
        scales_log=log_scale(rows["scale"]),
        opacities_logit=logit(colour[:, 3]),
        sh_dc=((colour[:, :3] - 0.5) / SH_C0).astype(np.float32),
        sh_rest=np.zeros((len(rows), 0, 3), np.float32),
    )
    return SplatScene(splats, Metadata(source="splat", lossy=LOSSY))


def write(path: Path, scene: SplatScene) -> None:
    """Raises UserError when the file cannot be written."""
    s = scene.splats
    if scene.metadata.antialiased or scene.metadata.metres_per_unit != 1.0:
        log.info(".splat has no place for units or the antialiasing flag: they are not in the file")
    rows = np.empty(len(s.means), _RECORD)
    rows["mean"] = s.means
    with np.errstate(over="ignore"):
        rows["scale"] = np.exp(s.scales_log)
    if not np.isfinite(rows["scale"]).all():
        raise UserError(
            "Some scales are too large for .splat.", "Clean the scene of giant splats first."
        )
    rows["rgba"][:, :3] = np.clip(np.rint((s.sh_dc * SH_C0 + 0.5) * 255), 0, 255)
    rows["rgba"][:, 3] = np.rint(sigmoid(s.opacities_logit) * 255)
    unit = s.quats / np.linalg.norm(s.quats, axis=1, keepdims=True)
    unit = np.where(
        unit[:, :1] < 0, -unit, unit
    )  # 255 stands for 127/128, so w near 1 loses least as positive
    rows["quat"] = np.clip(np.rint(unit * 128 + 128), 0, 255)
    with replacing(path) as file:
        file.write(rows.tobytes())
