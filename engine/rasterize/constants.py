"""Numbers that decide which pixels a Gaussian touches. All backends and the reference share them.

They are those of gsplat 1.5.3 (github.com/nerfstudio-project/gsplat), so that a scene looks the
same whichever backend draws it.
"""

from __future__ import annotations

BLUR_PX2 = 0.3  # added to both variances of the projected Gaussian
ALPHA_MIN = 1.0 / 255.0  # what is fainter is not drawn
ALPHA_MAX = 0.999  # no Gaussian is fully opaque; no gradient through this cap
T_MIN = 1e-4  # a pixel ends before the Gaussian that would leave less light than this
# the slope at which the projection is linearised stays within this share of the image beyond each
# edge
FRUSTUM_MARGIN = 0.15
ALPHA_FLOOR = 1e-10  # expected depth = depth sum / max(alpha, this)

TILE_W = 8  # one row of a tile is one 8-lane vector
TILE_H = 16
BATCH = 32  # Gaussians gathered at once
RECORD = 8  # floats of a record before the channels: x y A/2 B C/2 opacity s_max det
