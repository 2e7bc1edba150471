"""The first Gaussians: one for each pixel of a picture with depth, and a second layer behind the
edges.

World axes are the camera's (OpenCV: x right, y down, z forward), metres.

* A pixel becomes a flat disc that lies in its surface and covers what the pixel covers: the
  Gaussian of _SIGMA_PX pixels, moved to the surface by the derivative of the point seen with
  respect to the pixel. Slopes come from inverse depth (affine on a plane), from the side on which
  it changes less, so no disc leans over a depth edge: there are no rubber sheets.
* Sharp discs leave gaps when the camera comes close. An underlay of coarse discs just behind the
  surface, hidden in the picture's own view, shows the local colour through them.
* Behind the near side of an edge the far surface goes on for a few percent of the picture
  (the idea of Flash3D's second layer, Szymanowicz et al. 2024).
* Drawing discs over each other blurs, so their colours are sharpened until the picture comes out
  (Van Cittert's iteration: add what the drawing lacks).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rasterize import rasterize
from ..scene.colour import linear_to_srgb
from ..scene.gaussians import Gaussians, concatenate, sh_dc_from_colour
from ..scene.pixels import focal_px, pixel_centres
from ..scene.quaternions import quaternions
from .completion import complete_depth
from .edges import cleaned, depth_edges, grow_behind
from .fill import push_pull

SEEN, BEHIND, BORDER, UNDERLAY = range(4)
_SIGMA_PX = 0.3  # less leaves gaps, more blurs: benchmarks/first_geometry.py
_BORDER_STRIDE, _BORDER_SIGMA_PX = 4, 4.5  # large enough to count as unseen for the scale map
_BORDER_BACK = 1.2  # times its depth: what is seen hides the border's blur at the rim
_UNDERLAY_STRIDE, _UNDERLAY_SIGMA_PX = 3, 1.5
_UNDERLAY_REACH = 4  # pixels; the underlay lies behind all that it could cover in the picture
_UNDERLAY_STEEPEST = 1.5  # where depth varies more than this within reach there is no underlay
_OPACITY_LOGIT = 4.6  # 0.99
_THICKNESS = 0.1  # of a disc, as a share of its shorter radius
_STEEPEST = 8.0  # depth change over a pixel, in units of the pixel's own width at its depth
_SHARPENING_STEPS = 1  # more are better for the source view and worse for closer ones
_COLOUR_SLACK = 0.2  # sharpened colours may leave 0..1 by this much
_BAND = 0.03  # how far the second layer goes, as a share of the longer side
_SKY_TIMES, _SKY_AT_LEAST_M = 4.0, 100.0  # sky lies beyond the farthest depth


class Layered(NamedTuple):
    """Gaussians, and what each was made for."""

    gaussians: Gaussians
    layer: Tensor  # [n] int64: SEEN, BEHIND (an edge), BORDER (outside the frame) or UNDERLAY


def gaussians_from_depth(
    image: Tensor,
    depth_m: Tensor,
    K: Tensor,
    *,
    layers: int = 2,
    border: float = 0.0,
    sh_degree: int = 0,
    blending: str = "display",
) -> Layered:
    """Gaussians in the axes of the picture's camera.

    image [3, h, w] in 0..1, depth_m [h, w] metres above 0 (inf: sky), K [3, 3] pixels. `layers` 2
    adds the layer behind edges; `border` continues the scene beyond the frame by that share of its
    size. `blending` is the space in which they will be drawn. Deterministic. Raises ValueError
    for depth that is not above 0 everywhere, or sky alone.
    """
    _check(image, depth_m, layers, border)
    device = image.device
    colour, K = image.detach().cpu().permute(1, 2, 0).float(), K.detach().cpu().float()
    inverse = cleaned(1.0 / with_sky(depth_m.detach().cpu().float()))
    parts = [
        _discs(1.0 / inverse, colour, K, sh_degree, sigma_px=_SIGMA_PX),
        _underlay(inverse, colour, K, sh_degree),
    ]
    names = [SEEN, UNDERLAY]
    edges = depth_edges(inverse)
    if layers == 2 and bool(edges.any()):
        band = grow_behind(inverse, colour, edges, max(2, round(_BAND * max(inverse.shape))))
        if bool(band.mask.any()):
            canvas = torch.where(band.mask, band.inverse, inverse)
            colours = torch.where(band.mask[..., None], band.colour, colour)
            parts.append(
                _discs(1.0 / canvas, colours, K, sh_degree, sigma_px=_SIGMA_PX, keep=band.mask)
            )
            names.append(BEHIND)
    if border > 0:
        parts.append(_border(inverse, colour, K, border, sh_degree))
        names.append(BORDER)
    layer = torch.cat(
        [torch.full((part.count,), name) for part, name in zip(parts, names, strict=True)]
    )
    parts[0] = _sharpened(concatenate(*parts), parts[0], image.detach().cpu().float(), K, blending)
    return Layered(concatenate(*parts).map(lambda t: t.to(device)), layer.to(device))


def with_sky(depth_m: Tensor) -> Tensor:
    """[h, w]: infinite depth replaced by a distance well beyond everything else."""
    sky = torch.isinf(depth_m)
    if not bool(sky.any()):
        return depth_m
    return torch.where(sky, max(_SKY_AT_LEAST_M, _SKY_TIMES * float(depth_m[~sky].max())), depth_m)


def _check(image: Tensor, depth_m: Tensor, layers: int, border: float) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or depth_m.shape != image.shape[1:]:
        raise ValueError(
            f"expected image [3, h, w] and depth_m [h, w], got {tuple(image.shape)} and "
            f"{tuple(depth_m.shape)}"
        )
    if not bool((depth_m > 0).all()) or bool(torch.isinf(depth_m).all()):
        raise ValueError("depth_m: expected values above 0 everywhere, and not sky alone")
    if layers not in (1, 2) or not 0 <= border <= 1:
        raise ValueError(f"expected layers 1 or 2 and border in 0..1, got {layers} and {border}")


def _discs(
    depth: Tensor,
    colour: Tensor,
    K: Tensor,
    sh_degree: int,
    *,
    sigma_px: float,
    keep: Tensor | None = None,
) -> Gaussians:
    """One disc for each pixel (those of `keep` [h, w]) of depth [h, w] and colour [h, w, 3]."""
    h, w = depth.shape
    u, v = pixel_centres(h, w)
    ray = torch.stack(
        [(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], dim=-1
    )
    # The point seen is ray * z; along u it moves by e_x z / fx + ray * dz/du, with dz/du = -z^2
    # d(1/z)/du.
    width_m = depth / focal_px(K)
    axes = []
    for dim, focal in ((1, K[0, 0]), (0, K[1, 1])):
        climb = (-(depth**2) * _least_slope(1.0 / depth, dim)).clamp(
            -_STEEPEST * width_m, _STEEPEST * width_m
        )
        axis = ray * climb[..., None]
        axis[..., 1 - dim] += depth / focal
        axes.append(sigma_px * axis)
    mask = torch.ones_like(depth, dtype=torch.bool) if keep is None else keep
    means, colours = (ray * depth[..., None])[mask], colour[mask]
    quats, scales = _principal_axes(axes[0][mask], axes[1][mask])
    n = means.shape[0]
    return Gaussians(
        means=means,
        quats=quats,
        scales_log=scales.log(),
        opacities_logit=torch.full((n,), _OPACITY_LOGIT),
        sh_dc=sh_dc_from_colour(colours),
        sh_rest=torch.zeros(n, (sh_degree + 1) ** 2 - 1, 3),
    )


def _least_slope(x: Tensor, dim: int) -> Tensor:
    """Derivative along an axis from the side where it is smaller; 0 where the sides disagree in
    sign (minmod).
    """
    step = torch.diff(x, dim=dim)
    before = torch.cat([step.narrow(dim, 0, 1), step], dim)
    after = torch.cat([step, step.narrow(dim, step.shape[dim] - 1, 1)], dim)
    return torch.where(
        before * after > 0,
        torch.where(before.abs() < after.abs(), before, after),
        torch.zeros_like(x),
    )


def _principal_axes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The ellipse spanned by a and b [n, 3] as rotation (quaternions w x y z, [n, 4]) and radii [n,
    3].

    Turning (a, b) by half the angle of (|a|^2 - |b|^2, 2 a.b) makes them orthogonal: these are
    the axes of the covariance a a^T + b b^T.
    """
    angle = 0.5 * torch.atan2(2 * (a * b).sum(1), (a * a).sum(1) - (b * b).sum(1))
    c, s = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    first, second = c * a + s * b, c * b - s * a
    radii = torch.stack([first.norm(dim=1), second.norm(dim=1)], dim=1)
    x, y = first / radii[:, :1], second / radii[:, 1:]
    R = torch.stack([x, y, torch.linalg.cross(x, y)], dim=2)
    return quaternions(R), torch.cat([radii, _THICKNESS * radii.amin(dim=1, keepdim=True)], dim=1)


def _border(inverse: Tensor, colour: Tensor, K: Tensor, share: float, sh_degree: int) -> Gaussians:
    """Coarse, blurred Gaussians around the frame: depth continued, colours spread from the rim.

    They are large, so that the scale map counts what they cover as unseen.
    """
    h, w = inverse.shape
    s = _BORDER_STRIDE
    left, top = (max(s, round(share * side / s) * s) for side in (w, h))
    right, bottom = left + (-w) % s, top + (-h) % s  # the whole canvas is a multiple of the stride
    known = F.pad(torch.ones_like(inverse, dtype=torch.bool), (left, right, top, bottom))
    wide = complete_depth(F.pad(1.0 / inverse, (left, right, top, bottom)), known)
    spread = push_pull(F.pad(colour.permute(2, 0, 1), (left, right, top, bottom)), known.float())

    def pooled(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[None], s)[0]

    outside = pooled(known[None].float())[0] == 0
    coarse = K.clone()
    coarse[0, 2], coarse[1, 2] = K[0, 2] + left, K[1, 2] + top
    coarse[:2] /= s
    depth = _BORDER_BACK / pooled(1.0 / wide[None])[0]
    return _discs(
        depth,
        pooled(spread).permute(1, 2, 0),
        coarse,
        sh_degree,
        keep=outside,
        sigma_px=_BORDER_SIGMA_PX / s,
    )


def _underlay(inverse: Tensor, colour: Tensor, K: Tensor, sh_degree: int) -> Gaussians:
    """Coarse discs behind the surface: one for every three by three pixels.

    Gaussians are drawn in the order of their centres' depth, so each lies behind the farthest
    pixel that it could reach over.
    """
    h, w = inverse.shape
    s, r = _UNDERLAY_STRIDE, _UNDERLAY_REACH
    pad = (0, (-w) % s, 0, (-h) % s)
    near = F.max_pool2d(inverse[None, None], 2 * r + 1, 1, r)
    far = -F.max_pool2d(-inverse[None, None], 2 * r + 1, 1, r)
    near, far = (F.pad(x, pad, mode="replicate")[0] for x in (near, far))
    calm = -F.max_pool2d(-(near < _UNDERLAY_STEEPEST * far).float(), s)[0] > 0
    behind = -F.max_pool2d(-far, s)[0]
    cells = F.avg_pool2d(F.pad(colour.permute(2, 0, 1)[None], pad, mode="replicate"), s)[0].permute(
        1, 2, 0
    )
    coarse = K.clone()
    coarse[:2] /= s
    return _discs(
        1.0 / behind, cells, coarse, sh_degree, keep=calm, sigma_px=_UNDERLAY_SIGMA_PX / s
    )


def _sharpened(
    everything: Gaussians, seen: Gaussians, image: Tensor, K: Tensor, blending: str
) -> Gaussians:
    """The seen layer (first in `everything`) with colours for which the drawing equals image [3, h,
    w].
    """
    h, w = image.shape[1:]
    wanted = image.permute(1, 2, 0)
    colour, eye = wanted.clone(), torch.eye(4)[None]
    for _ in range(_SHARPENING_STEPS):
        sh_dc = torch.cat([sh_dc_from_colour(colour).reshape(-1, 3), everything.sh_dc[h * w :]])
        drawn = rasterize(
            everything._replace(sh_dc=sh_dc),
            K[None],
            eye,
            w,
            h,
            sh_degree=0,
            blending=blending,
            depth=False,
        ).rgb[0]
        shown = linear_to_srgb(drawn) if blending == "linear" else drawn
        colour = (colour + wanted - shown).clamp(-_COLOUR_SLACK, 1.0 + _COLOUR_SLACK)
    return seen._replace(sh_dc=sh_dc_from_colour(colour).reshape(-1, 3))
