"""Depth with no weights: the picture is the inside of a perspective box.

After Horry, Anjyo and Arai, "Tour Into the Picture" (SIGGRAPH 1997): a floor, two side walls,
a back wall and a ceiling, or open sky. Where they would draw the inner rectangle, it follows
here from lengths in metres and the horizon. The box stands upright; a horizon that is not in
the middle of the picture means that the camera looks up or down, not that the lens is shifted.
Horizon and lens are found from the picture's lines where they are not given and the lines tell.

Under an open sky the back wall goes up without end, like a stage backdrop: what rises above
the horizon is then not torn from its foot. Put box_depth far away for a landscape.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..bridge.errors import UserError
from ..bridge.settings import USUAL_CAMERA_HEIGHT_M, USUAL_HORIZON, GeometrySettings
from ..cameras.intrinsics import DEFAULT_FOV_DEG, intrinsics_from_fov
from ..scene.pixels import pixel_centres
from .base import DepthEstimate
from .lines import camera_from_lines, horizon_of

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
    u, v = pixel_centres(height, width, dtype=torch.float64)
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
    lens_is_a_guess = True

    def __init__(self, settings: GeometrySettings) -> None:
        self.settings = settings

    def intrinsics(self, image: Tensor) -> Tensor | None:
        """K [3, 3] from the lines of image [3, h, w], where they are sure of it."""
        lines = camera_from_lines(image)
        if lines is None or not lines.lens_sure:
            return None
        height, width = image.shape[-2:]
        focal = lines.focal * max(height, width)
        return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])

    def estimate(self, image: Tensor, K_hint: Tensor | None) -> DepthEstimate:
        """Depth of the box behind image [3, h, w]; without K_hint the lens has 60 degrees."""
        height, width = image.shape[-2:]
        K = intrinsics_from_fov(DEFAULT_FOV_DEG, width, height) if K_hint is None else K_hint
        s = self.settings
        horizon, sentence = self._horizon(image, K)
        view = box_view(
            K,
            width,
            height,
            horizon=horizon,
            camera_height=s.camera_height or USUAL_CAMERA_HEIGHT_M,
            box_width=s.box_width,
            box_height=s.box_height,
            box_depth=s.box_depth,
        )
        return DepthEstimate(
            view.depth_m.to(image.device),
            None,
            True,
            self.licence,
            self.name,
            (sentence,),
            "The depth is a plain box, not read from the picture: what stands on its floor is "
            "smeared along it.",
        )

    def _horizon(self, image: Tensor, K: Tensor) -> tuple[float, str]:
        """The horizon's height in the picture, and who said so."""
        if self.settings.horizon > 0:
            return self.settings.horizon, f"horizon as set, {self.settings.horizon:.2f}"
        height, width = image.shape[-2:]
        lines = camera_from_lines(image, float(K[0, 0] * K[1, 1]) ** 0.5 / max(height, width))
        if lines is None or not lines.sure:
            return (
                USUAL_HORIZON,
                f"horizon assumed at {USUAL_HORIZON}: the picture's lines do not tell",
            )
        focal = float(K[1, 1]) / max(height, width)
        found = horizon_of(lines.pitch, focal, height, width)
        return found, f"horizon found from the picture's lines, {found:.2f} (0 top, 1 bottom)"
