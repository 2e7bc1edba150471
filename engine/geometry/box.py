"""Depth with no weights: the picture is the inside of a perspective box.

After Horry, Anjyo and Arai, "Tour Into the Picture" (SIGGRAPH 1997): a floor, two side walls,
a back wall and a ceiling, or open sky. Where they would draw the inner rectangle, it follows
here from lengths in metres and the horizon. The box stands upright; a horizon that is not in
the middle of the picture means that the camera looks up or down, not that the lens is shifted.

Under an open sky the back wall goes up without end, like a stage backdrop: what rises above
the horizon is then not torn from its foot. Put box_depth far away for a landscape.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..bridge.errors import UserError
from ..bridge.settings import GeometrySettings
from ..cameras.intrinsics import DEFAULT_FOV_DEG, intrinsics_from_fov
from .base import DepthEstimate

FLOOR, LEFT, RIGHT, CEILING, BACK = range(5)
_PARALLEL = 1e-9


class BoxView(NamedTuple):
    """What each pixel sees of the box."""

    depth_m: Tensor  # [h, w] along the camera's z, metres
    face: Tensor  # [h, w] int64: FLOOR, LEFT, RIGHT, CEILING or BACK


def box_view(
    K: Tensor,
    width: int,
    height: int,
    *,
    horizon: float,
    camera_height: float,
    box_width: float,
    box_height: float,
    box_depth: float,
) -> BoxView:
    """Intersect each pixel's ray with the box, exactly.

    K [3, 3] pixels; `horizon` is the height of the horizon in the picture (0 top, 1 bottom);
    lengths in metres as in the settings, the camera in the middle between the walls. box_width
    0: no walls; box_height 0: no ceiling. `box_depth` is measured along the ground.
    Raises UserError for a ceiling below the camera.
    """
    if 0 < box_height <= camera_height:
        raise UserError(
            f"box_height ({box_height:g} m) is not above camera_height ({camera_height:g} m).",
            "Raise box_height, or set it to 0 for open sky.",
        )
    K = K.double().cpu()
    v, u = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5,
        torch.arange(width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    pitch = math.atan2(
        float(K[1, 2]) - horizon * height, float(K[1, 1])
    )  # above 0: the camera looks down
    down = y * math.cos(pitch) + math.sin(pitch)  # the ray (x, y, 1) in upright axes
    ahead = math.cos(pitch) - y * math.sin(pitch)
    far = torch.full_like(x, torch.inf)

    def hit(rate: Tensor, distance: float) -> Tensor:
        """Ray length at which a component growing with `rate` reaches `distance`."""
        return torch.where(rate > _PARALLEL, distance / rate.clamp(min=_PARALLEL), far)

    lengths = torch.stack(
        [
            hit(down, camera_height),
            hit(-x, box_width / 2) if box_width > 0 else far,
            hit(x, box_width / 2) if box_width > 0 else far,
            hit(-down, box_height - camera_height) if box_height > 0 else far,
            hit(ahead, box_depth),
        ]
    )
    depth, face = lengths.min(
        dim=0
    )  # the ray's z component is 1, so its length factor is the depth
    # Straight up or steeply down with a very wide lens a ray may miss the backdrop: it sees sky.
    return BoxView(depth.float(), torch.where(torch.isfinite(depth), face, BACK))


class Box:
    """The depth source named "box"."""

    name = "perspective box"
    licence = "none needed"

    def __init__(self, settings: GeometrySettings) -> None:
        self.settings = settings

    def intrinsics(self, image: Tensor) -> None:
        """A box has no opinion on the lens."""
        return None

    def estimate(self, image: Tensor, K_hint: Tensor | None) -> DepthEstimate:
        """Depth of the box behind image [3, h, w]; without K_hint the lens has 60 degrees."""
        height, width = image.shape[-2:]
        K = intrinsics_from_fov(DEFAULT_FOV_DEG, width, height) if K_hint is None else K_hint
        s = self.settings
        view = box_view(
            K,
            width,
            height,
            horizon=s.horizon,
            camera_height=s.camera_height,
            box_width=s.box_width,
            box_height=s.box_height,
            box_depth=s.box_depth,
        )
        return DepthEstimate(view.depth_m.to(image.device), None, True, self.licence, self.name)
