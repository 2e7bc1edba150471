"""The first Gaussians of a scene: from depth, predicted by a network, or given as a .ply."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge import splat_file
from ..bridge.axes import PRESETS
from ..bridge.errors import UserError
from ..bridge.settings import GeometrySettings
from ..models import weights
from ..rasterize import rasterize
from ..scene.colour import linear_to_srgb
from ..scene.gaussians import Gaussians
from ..scene.psnr import decibels
from .layers import gaussians_from_depth

_IN_FRONT = 0.5  # share of given Gaussians that must lie before the camera
_LIKE_DB = 12.0  # below it a view has little to do with the picture
_OTHER_AXES_DB = 3.0  # as much nearer to the picture, other axes are the right ones
_COVERED = 0.5


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
        given = _given(
            inside if os.path.isfile(inside) else Path(name), image, depth_m, K, blending
        )
        return given._replace(gaussians=of_degree(given.gaussians, sh_degree))
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


class FirstView(NamedTuple):
    """What the picture's camera sees of given Gaussians."""

    psnr: float  # dB, against the picture
    covered: float  # share of the picture
    distance: float  # their depth over the given depth, in the median; NaN where nothing is seen


def first_view(
    gaussians: Gaussians,
    image: Tensor,
    depth_m: Tensor,
    K: Tensor,
    blending: str,
    axes: str = "opencv",
) -> FirstView:
    """Compare Gaussians in the axes of a preset of bridge/axes.py with the picture [3, h, w] and
    the depth [h, w] of the camera K that stands at their origin.

    The scale does not change the picture, seen from the origin: only the depth tells it.
    """
    h, w = image.shape[1:]
    camera = torch.eye(4)
    camera[:3, :3] = torch.from_numpy(PRESETS[axes].from_opencv.T).float()
    drawn = rasterize(gaussians, K[None], camera[None], w, h, blending=blending)
    shown = drawn.rgb[0].permute(2, 0, 1)
    shown = linear_to_srgb(shown) if blending == "linear" else shown
    error = float((shown.clamp(0, 1) - image).square().mean())
    covered = drawn.alpha[0, ..., 0] > _COVERED
    both = covered & torch.isfinite(depth_m)
    distance = (drawn.depth[0, ..., 0] / depth_m)[both].median() if bool(both.any()) else math.nan
    return FirstView(decibels(error), float(covered.float().mean()), float(distance))


def _given(path: Path, image: Tensor, depth_m: Tensor, K: Tensor, blending: str) -> FirstGaussians:
    splats = splat_file.read_ply(path)
    given = Gaussians(*(torch.from_numpy(values).float().to(image.device) for values in splats))
    if given.count == 0:
        raise UserError(
            f"{path} holds no Gaussians.", "Give another file, or set initialiser to layers."
        )
    seen = first_view(given, image, depth_m, K, blending)
    turned = {
        name: first_view(given, image, depth_m, K, blending, name).psnr
        for name in ("blender", "gltf")  # the others differ from these by a mirror or not at all
    }
    best = max(turned, key=turned.__getitem__)
    if turned[best] >= max(_LIKE_DB, seen.psnr + _OTHER_AXES_DB):
        raise UserError(
            f"{path.name} has other axes: as it is, the picture's camera sees it at "
            f"{seen.psnr:.1f} dB, with those of {best} ({PRESETS[best].text}) at "
            f"{turned[best]:.1f} dB.",
            f'Turn it: python -m engine convert "{path}" turned.ply --axes-in {best} '
            "--axes-out opencv",
        )
    in_front = float((given.means[:, 2] > 0).float().mean())
    if in_front < _IN_FRONT:
        raise UserError(
            f"Only {100 * in_front:.0f} % of the Gaussians of {path.name} lie before the "
            "picture's camera.",
            "They must be in the camera's axes: x right, y down, z forward, in metres, as SHARP "
            "writes them.",
        )
    text = (
        f"{given.count} Gaussians from {path.name}; the picture's camera sees the picture in them "
        f"at {seen.psnr:.1f} dB, {100 * seen.covered:.0f} % of it covered"
    )
    if seen.psnr < _LIKE_DB:
        text += " (little: another picture, lens or place of the camera?)"
    if not math.isnan(seen.distance):
        text += f", {seen.distance:.2f} times as far as the depth says"
    return FirstGaussians(given, text)


def of_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians with spherical harmonics of this degree: higher ones are dropped, lacking
    ones are 0.
    """
    wanted = (degree + 1) ** 2 - 1
    rest = gaussians.sh_rest[:, :wanted]
    return gaussians._replace(sh_rest=F.pad(rest, (0, 0, 0, wanted - rest.shape[1])).contiguous())
