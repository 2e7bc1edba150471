"""Render passes of a splat scene for compositing: colour, alpha, depth and normals, with holdout.

Colour is associated (multiplied by alpha), alpha is exact (1 - remaining light), depth is metres
along the camera's axis, normals are unit vectors in the world's OpenCV axes. A scene made for
display-referred blending is blended so; its linear colour is then alpha * decode(colour / alpha).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..bridge.quaternions import rotation_of
from ..formats.scene import DISPLAY, SplatScene, in_colour_space
from ..rasterize import rasterize
from ..scene.colour import linear_to_srgb, srgb_to_linear
from ..scene.gaussians import Gaussians

NOTHING_DEPTH_M = 1e10  # where there is no splat, as Blender's depth pass says it
_ALPHA_SEEN = 1e-6


class Drawable(NamedTuple):
    """A scene on a device, ready to draw."""

    gaussians: Gaussians  # OpenCV axes, metres, display-coded colours
    normals: Tensor  # [n, 3] unit direction of the thinnest axis, sign open
    blending: str  # "display" or "linear"
    antialiased: bool


class Passes(NamedTuple):
    """One frame. Colours are coded as asked for."""

    rgb: Tensor  # [h, w, 3] associated
    alpha: Tensor  # [h, w]
    depth: Tensor  # [h, w] metres along the axis; NOTHING_DEPTH_M where alpha is 0
    normal: Tensor  # [h, w, 3] world, OpenCV axes; 0 where alpha is 0


def drawable(scene: SplatScene, device: torch.device, blending: str = "auto") -> Drawable:
    """Bring a scene of any axes, unit and colour coding to the device. blending "auto": as the file
    says.
    """
    scene = in_colour_space(scene.in_axes("opencv", 1.0), DISPLAY)
    splats = scene.splats
    thinnest = splats.scales_log.argmin(axis=1)
    normals = rotation_of(splats.quats)[np.arange(scene.count), :, thinnest]
    if blending == "auto":
        blending = "linear" if scene.metadata.blend_linear else "display"
    gaussians = Gaussians(
        *(torch.from_numpy(np.array(a, np.float32, order="C")) for a in splats)
    ).map(lambda t: t.to(device))
    return Drawable(
        gaussians,
        torch.from_numpy(normals.astype(np.float32)).to(device),
        blending,
        scene.metadata.antialiased,
    )


class _Sums(NamedTuple):
    """What blending adds up, before any division: all linear in the splats' weights."""

    rgb: Tensor  # [h, w, 3] in the space of blending
    alpha: Tensor  # [h, w, 1]
    depth: Tensor  # [h, w, 1] depth times alpha
    normal: Tensor  # [h, w, 3]

    def mixed(self, other: _Sums, share: Tensor) -> _Sums:
        return _Sums(*(torch.lerp(a, b, share) for a, b in zip(self, other, strict=True)))


def draw_passes(
    scene: Drawable,
    K: np.ndarray,
    world_from_camera: np.ndarray,
    width: int,
    height: int,
    *,
    linear: bool = False,
    holdout_m: np.ndarray | None = None,
    holdout_levels: int = 32,
) -> Passes:
    """Draw one camera (K [3, 3], world_from_camera [4, 4] OpenCV) with colours linear or
    display-coded.

    `holdout_m` [h, w] is the depth of the scene's own objects, metres along the axis, inf or
    NOTHING_DEPTH_M where there is none: splats whose centres lie behind it are left out. Each
    distinct depth is exact up to `holdout_levels` of them; between levels, results are mixed.
    """
    with torch.no_grad():
        device = scene.gaussians.means.device
        intrinsics = torch.as_tensor(np.asarray(K), dtype=torch.float32, device=device)[None]
        camera = torch.as_tensor(
            np.linalg.inv(world_from_camera), dtype=torch.float32, device=device
        )[None]
        eye = torch.as_tensor(world_from_camera[:3, 3], dtype=torch.float32, device=device)
        away = ((scene.gaussians.means - eye) * scene.normals).sum(dim=1, keepdim=True) > 0
        facing = torch.where(away, -scene.normals, scene.normals)

        def draw(keep: Tensor | None) -> _Sums:
            gaussians = scene.gaussians if keep is None else scene.gaussians.select(keep)
            if gaussians.count == 0:
                return _Sums(*(torch.zeros(height, width, c, device=device) for c in (3, 1, 1, 3)))
            extra = facing if keep is None else facing[keep]
            r = rasterize(
                gaussians,
                intrinsics,
                camera,
                width,
                height,
                extra=extra,
                antialiased=scene.antialiased,
                blending=scene.blending,
            )
            return _Sums(r.rgb[0], r.alpha[0], r.depth[0] * r.alpha[0], r.extra[0])

        if holdout_m is None:
            sums = draw(None)
        else:
            centre_depth = scene.gaussians.means @ camera[0, 2, :3] + camera[0, 2, 3]
            sums = _held_out(
                draw, centre_depth, _depth_map(holdout_m, width, height, device), holdout_levels
            )
        return _finished(sums, scene.blending, linear)


def _depth_map(holdout_m: np.ndarray, width: int, height: int, device: torch.device) -> Tensor:
    if holdout_m.shape != (height, width):
        raise ValueError(f"holdout must be [{height}, {width}], got {list(holdout_m.shape)}")
    depth = torch.as_tensor(
        np.nan_to_num(holdout_m.astype(np.float64), nan=np.inf), dtype=torch.float32, device=device
    )
    return torch.where((depth <= 0) | (depth >= NOTHING_DEPTH_M), torch.inf, depth)


def _held_out(draw, centre_depth: Tensor, holdout: Tensor, levels: int) -> _Sums:
    """Blending front to back gives each splat a weight that only those before it change, so drawing
    the splats nearer than t is the whole scene cut at t. Cuts at the map's own depths, mixed
    between."""
    open_pixels = torch.isinf(holdout)
    depths = torch.unique(holdout[~open_pixels])
    if len(depths) > levels:
        depths = torch.unique(
            torch.quantile(
                depths[:: max(1, len(depths) // 1_000_000)],
                torch.linspace(0, 1, levels, device=depths.device),
            )
        )
    result = draw(None)
    if not len(depths):
        return result
    position = torch.searchsorted(
        depths, torch.where(open_pixels, depths[-1], holdout)
    )  # first level >= the pixel's depth
    position = position.clamp(max=len(depths) - 1)
    upper = depths[position]
    lower = depths[(position - 1).clamp(min=0)]
    share = torch.where(
        upper > lower, (holdout - lower) / (upper - lower), torch.ones_like(holdout)
    ).clamp(0, 1)[..., None]
    before: _Sums | None = None
    for i, depth in enumerate(depths):
        cut = draw(centre_depth < depth)
        here = ((position == i) & ~open_pixels)[..., None]
        mixed = cut if before is None else before.mixed(cut, share)
        result = _Sums(*(torch.where(here, m, r) for m, r in zip(mixed, result, strict=True)))
        before = cut
    return result


def _finished(sums: _Sums, blending: str, linear: bool) -> Passes:
    alpha = sums.alpha[..., 0]
    seen = alpha > _ALPHA_SEEN
    safe = alpha.clamp_min(_ALPHA_SEEN)[..., None]
    rgb = sums.rgb
    if linear != (blending == "linear"):
        convert = srgb_to_linear if linear else linear_to_srgb
        rgb = convert((rgb / safe).clamp(0, 1)) * alpha[..., None]
    depth = torch.where(seen, sums.depth[..., 0] / safe[..., 0], NOTHING_DEPTH_M)
    length = sums.normal.norm(dim=-1, keepdim=True)
    normal = torch.where(
        seen[..., None] & (length > 1e-8), sums.normal / length.clamp_min(1e-8), 0.0
    )
    return Passes(rgb, alpha, depth, normal)
