"""The first Gaussians of a scene: from depth, predicted by a network, or given as a .ply."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge import splat_file
from ..bridge.errors import UserError
from ..bridge.settings import GeometrySettings
from ..models import weights
from ..scene.gaussians import Gaussians
from .layers import gaussians_from_depth

_IN_FRONT = 0.5  # share of given Gaussians that must lie before the camera


class FirstGaussians(NamedTuple):
    """First Gaussians, and a sentence for the report."""

    gaussians: Gaussians
    text: str


def first_gaussians(
    settings: GeometrySettings,
    image: Tensor,
    depth_m: Tensor,
    K: Tensor,
    *,
    sh_degree: int,
    blending: str,
    folder: Path,
) -> FirstGaussians:
    """What `settings.initialiser` names, in the axes of the picture's camera (OpenCV, metres).

    image [3, h, w] in 0..1, depth_m [h, w] metres above 0 (inf: sky), K [3, 3] pixels. A relative
    .ply is looked for in `folder` first. Raises UserError.
    """
    name = settings.initialiser.strip()
    if name == "layers":
        made = gaussians_from_depth(
            image,
            depth_m,
            K,
            border=settings.border,
            sh_degree=sh_degree,
            blending=blending,
        ).gaussians
        return FirstGaussians(
            made,
            f"{made.count} Gaussians from depth, with a layer behind its edges",
        )
    if name == "flash3d":
        return _flash3d(image, depth_m, K, sh_degree)
    if Path(name).suffix.lower() == ".ply":
        inside = folder / name
        return _given(inside if os.path.isfile(inside) else Path(name), image.device, sh_degree)
    raise UserError(
        f"Unknown initialiser {name!r}.",
        "Choose layers, flash3d, or a .ply of Gaussians seen from the picture's camera.",
    )


def _flash3d(image: Tensor, depth_m: Tensor, K: Tensor, sh_degree: int) -> FirstGaussians:
    from .networks import flash3d

    network = flash3d.load(weights.checkpoint_in("flash3d", weights.require("flash3d"))).to(
        image.device
    )
    made = of_degree(flash3d.predict(network, image, depth_m, K.to(image.device)), sh_degree)
    licence = weights.known("flash3d").licence
    return FirstGaussians(made, f"{made.count} Gaussians by Flash3D ({licence})")


def _given(path: Path, device: torch.device, sh_degree: int) -> FirstGaussians:
    splats = splat_file.read_ply(path)
    given = Gaussians(*(torch.from_numpy(values).float().to(device) for values in splats))
    if given.count == 0:
        raise UserError(
            f"{path} holds no Gaussians.", "Give another file, or set initialiser to layers."
        )
    in_front = float((given.means[:, 2] > 0).float().mean())
    if in_front < _IN_FRONT:
        raise UserError(
            f"Only {100 * in_front:.0f} % of the Gaussians of {path.name} lie before the "
            "picture's camera.",
            "They must be in the camera's axes: x right, y down, z forward, in metres, as SHARP "
            "writes them.",
        )
    return FirstGaussians(of_degree(given, sh_degree), f"{given.count} Gaussians from {path.name}")


def of_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians with spherical harmonics of this degree: higher ones are dropped, lacking
    ones are 0.
    """
    wanted = (degree + 1) ** 2 - 1
    rest = gaussians.sh_rest[:, :wanted]
    return gaussians._replace(sh_rest=F.pad(rest, (0, 0, 0, wanted - rest.shape[1])).contiguous())
