"""Which field of view a picture has, and who said so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..bridge.camera_file import CameraPath

if TYPE_CHECKING:
    from ..geometry.base import DepthSource

DEFAULT_FOV_DEG = 60.0  # of the longer side: about a 31 mm lens on 36 x 24 mm film


def intrinsics_from_fov(fov_deg: float, width: int, height: int) -> Tensor:
    """Make K [3, 3] with this horizontal field of view, square pixels and a centred principal
    point.
    """
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg: expected 0 to 180, got {fov_deg}")
    f = width / 2 / math.tan(math.radians(fov_deg) / 2)
    return torch.tensor([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])


def fov_of(K: Tensor, width: int) -> float:
    """Return the horizontal field of view in degrees of K [3, 3], as if its principal point were
    centred.
    """
    return math.degrees(2 * math.atan(width / 2 / float(K[0, 0])))


def choose_intrinsics(
    fov_setting: float,
    path: CameraPath | None,
    exif_fov: float | None,
    source: DepthSource | None,
    image: Tensor,
) -> tuple[Tensor, str]:
    """Choose K [3, 3] in pixels of image [3, h, w], which has the picture's own aspect, and say in
    a sentence who said so.

    The first that is known wins: the user's setting (0: not set), the first camera of the path
    (at the image's size), the depth source's own reading (after EXIF where it is but a guess),
    the picture's EXIF, 60 degrees over the longer side. Where a path says the shape of pixels and
    the shift of the lens, these stay whatever the field of view is.
    """
    height, width = image.shape[-2:]
    if path is not None and (path.width, path.height) != (width, height):
        raise ValueError(
            f"path: expected cameras of {width}x{height}, got {path.width}x{path.height}"
        )
    if fov_setting > 0:
        K, origin = intrinsics_from_fov(fov_setting, width, height), "as set (fov)"
        if path is not None:
            own = torch.from_numpy(path.K[0]).float()
            own[:2, :2] *= K[0, 0] / own[0, 0]
            K = own
    elif path is not None:
        K, origin = torch.from_numpy(path.K[0]).float(), "from the camera path"
    elif exif_fov is not None and source is not None and source.lens_is_a_guess:
        K, origin = intrinsics_from_fov(exif_fov, width, height), "from the picture's EXIF"
    elif source is not None and (read := source.intrinsics(image)) is not None:
        K, origin = (
            read.float().cpu(),
            f"{'guessed' if source.lens_is_a_guess else 'estimated'} by {source.name}",
        )
    elif exif_fov is not None:
        K, origin = intrinsics_from_fov(exif_fov, width, height), "from the picture's EXIF"
    else:
        f = max(width, height) / 2 / math.tan(math.radians(DEFAULT_FOV_DEG) / 2)
        K, origin = (
            intrinsics_from_fov(math.degrees(2 * math.atan(width / 2 / f)), width, height),
            "assumed: nothing says otherwise",
        )
    return K.to(image.device), f"{fov_of(K, width):.1f} degrees across, {origin}."
