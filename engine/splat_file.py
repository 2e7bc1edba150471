"""The 3DGS .ply: names, stored forms and dialects. Shared with Blender: numpy and plyfile only.

The layout is the reference one (Kerbl et al. 2023): `binary_little_endian`, one `vertex`
element of float32 properties x y z [nx ny nz] f_dc_0..2 f_rest_0..3k-1 opacity scale_0..2
rot_0..3. `f_rest` is channel-major in the file (all red, all green, all blue) and
coefficient-major here. Properties are found by name, so their order does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Splats(NamedTuple):
    """n Gaussians in the stored form of the file: ln scale, logit opacity, raw SH. All float32."""

    means: np.ndarray  # [n, 3]
    quats: np.ndarray  # [n, 4] w x y z, any norm
    scales_log: np.ndarray  # [n, 3]
    opacities_logit: np.ndarray  # [n]
    sh_dc: np.ndarray  # [n, 3]
    sh_rest: np.ndarray  # [n, k, 3], k in {0, 3, 8, 15}, coefficient before channel
