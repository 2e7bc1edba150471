"""Whether a geometry can be right: do straight edges stay straight, do uprights stand, along the
path?

A straight edge of the picture is most often a straight edge of the scene. Short pieces of edges are
lifted by the depth, and looked at from the path's cameras: how far they bow, and how far those
that point to the zenith lean. No truth is needed. A box behind a picture that is none smears
what stands on its floor along it: there uprights lie down.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .lines import camera_from_lines, edge_pixels

_POINTS = 9  # on a piece
_LENGTH = 0.10  # of a piece, as a share of the longer side
_ALIKE = 0.94  # cosine between the directions of edge along a piece
_UPRIGHT = 0.996  # cosine between an edge and the way to the zenith, to count as upright
_FEWEST = 20  # pieces below which nothing is said
LEAN_DEG = 12.0  # median over the uprights from which the geometry does not fit
BEND = 0.03  # 90th percentile of bow over length


class Straightness(NamedTuple):
    """How the geometry treats what is straight in the picture."""

    pieces: int
    bend: float  # bow over length as the path sees it, 90th percentile; NaN: too few pieces
    uprights: int
    lean_deg: float  # median angle between uprights and the vertical; NaN: too few

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against the geometry."""
        return not (self.bend > BEND or self.lean_deg > LEAN_DEG)

    @property
    def sentence(self) -> str:
        """For the report."""
        if math.isnan(self.bend) and math.isnan(self.lean_deg):
            return "too few straight edges to tell"
        parts = []
        if not math.isnan(self.lean_deg):
            parts.append(f"{self.uprights} upright edges lean by {self.lean_deg:.0f} degrees")
        if not math.isnan(self.bend):
            parts.append(
                f"of {self.pieces} straight edges a tenth bow by over {100 * self.bend:.1f} % of "
                "their length"
            )
        return ", ".join(parts)


def straightness(
    image: Tensor, depth_m: Tensor, K: Tensor, camera_from_world: Tensor
) -> Straightness:
    """Measure image [3, h, w], depth [h, w] (inf: sky), K [3, 3] pixels, along cameras [n, 4, 4]
    (world: the picture's camera).
    """
    image, depth = image.float().cpu(), depth_m.float().cpu()
    h, w = depth.shape
    focal = float(K[0, 0] * K[1, 1]) ** 0.5 / max(h, w)
    edges = edge_pixels(image)
    if edges is None:
        return Straightness(0, math.nan, 0, math.nan)
    pieces, along = _pieces(edges, (h, w))
    if len(pieces) < _FEWEST:
        return Straightness(len(pieces), math.nan, 0, math.nan)
    lifted, whole = _lifted(pieces, along, depth, K.float().cpu())
    pieces, along, lifted = pieces[whole], along[whole], lifted[whole]
    if len(pieces) < _FEWEST:
        return Straightness(len(pieces), math.nan, 0, math.nan)
    bows = [
        _bow(lifted, K.float().cpu(), camera) for camera in _some(camera_from_world.float().cpu())
    ]
    bow = torch.stack(bows).amax(0)
    seen = bow[torch.isfinite(bow)]
    bend = float(seen.quantile(0.9)) if len(seen) >= _FEWEST else math.nan
    lines = camera_from_lines(image, focal)
    if lines is None or not lines.sure:
        return Straightness(len(pieces), bend, 0, math.nan)
    up = _down_axis(lines.pitch, lines.roll)
    middle = pieces[:, _POINTS // 2]
    centre = torch.tensor([float(K[0, 2]), float(K[1, 2])])
    to_zenith = focal * max(h, w) * up[:2] - (middle - centre) * up[2]
    to_zenith = to_zenith / to_zenith.norm(dim=1, keepdim=True).clamp(min=1e-6)
    upright = (to_zenith * along).sum(1).abs() > _UPRIGHT
    if int(upright.sum()) < _FEWEST:
        return Straightness(len(pieces), bend, int(upright.sum()), math.nan)
    chord = lifted[upright, -1] - lifted[upright, 0]
    cosine = (chord @ up).abs() / chord.norm(dim=1).clamp(min=1e-9)
    lean = torch.rad2deg(torch.arccos(cosine.clamp(0, 1)))
    return Straightness(len(pieces), bend, int(upright.sum()), float(lean.median()))


def _down_axis(pitch: float, roll: float) -> Tensor:
    """The direction down in the camera's axes."""
    down, ahead = math.cos(pitch), math.sin(pitch)
    return torch.tensor([down * math.sin(roll), down * math.cos(roll), ahead])


def _pieces(edges: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Straight pieces of edges: points [n, _POINTS, 2] in pixels and directions [n, 2].

    edges [3, a, b]: strength and the unit vector along the edge, coarse.
    """
    rows, columns = edges.shape[1:]
    strength, direction = edges[0], edges[1:3]
    scale = torch.tensor([size[1] / columns, size[0] / rows])
    found = torch.nonzero(strength > 0)
    order = strength[found[:, 0], found[:, 1]].argsort(descending=True, stable=True)
    found = found[order[:3000]]
    v = direction[:, found[:, 0], found[:, 1]].T
    reach = _LENGTH * max(rows, columns)
    steps = torch.linspace(-0.5, 0.5, _POINTS) * reach
    points = found.flip(1)[:, None].float() + 0.5 + steps[None, :, None] * v[:, None]
    cells = points.floor().long()
    inside = ((cells >= 0) & (cells < torch.tensor([columns, rows]))).all(-1).all(-1)
    points, cells, v = points[inside], cells[inside], v[inside]
    there = strength[cells[..., 1], cells[..., 0]] > 0
    alike = (direction[:, cells[..., 1], cells[..., 0]].permute(1, 2, 0) * v[:, None]).sum(
        -1
    ).abs() > _ALIKE
    keep = (there & alike).all(1)
    return points[keep] * scale, torch.nn.functional.normalize(v[keep] * scale, dim=1)


def _lifted(pieces: Tensor, along: Tensor, depth: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Points [n, p, 3] on the nearer side of each piece, and whether the whole piece is seen at
    all [n].
    """
    h, w = depth.shape
    across = torch.stack([-along[:, 1], along[:, 0]], 1)[:, None]
    sides = []
    for off in (-2.0, 2.0):
        q = pieces + off * across
        u, v = q[..., 0].long().clamp(0, w - 1), q[..., 1].long().clamp(0, h - 1)
        sides.append(depth[v, u])
    near, far = torch.stack(sides).median(2).values
    z = torch.where((near <= far)[:, None], sides[0], sides[1])
    whole = torch.isfinite(z).all(1)
    rays = torch.cat(
        [(pieces - K[:2, 2]) / torch.stack([K[0, 0], K[1, 1]]), torch.ones(*pieces.shape[:2], 1)],
        -1,
    )
    return rays * torch.where(torch.isfinite(z), z, 0.0)[..., None], whole


def _some(cameras: Tensor) -> list[Tensor]:
    return [
        cameras[i] for i in np.unique(np.linspace(0, len(cameras) - 1, 5).round().astype(int))[1:]
    ]


def _bow(points: Tensor, K: Tensor, camera_from_world: Tensor) -> Tensor:
    """Bow over length of pieces [n, p, 3] as a camera sees them; NaN behind it or seen end on."""
    p = points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    ahead = (p[..., 2] > 1e-3).all(1)
    uv = (p @ K.T)[..., :2] / p[..., 2:].clamp(min=1e-3)
    chord = uv[:, -1] - uv[:, 0]
    length = chord.norm(dim=1)
    off = uv - uv[:, :1]
    bow = (off[..., 0] * chord[:, None, 1] - off[..., 1] * chord[:, None, 0]).abs().amax(
        1
    ) / length.clamp(min=1e-6) ** 2
    return torch.where(ahead & (length > 4.0), bow, math.nan)
