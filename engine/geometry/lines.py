"""Pitch, roll and lens of a camera from a picture's straight edges.

Much of what people build and photograph has edges along three directions at right angles, one of
them upright. After Coughlan and Yuille, "Manhattan World" (ICCV 1999): a camera is good if many
edges point to its three vanishing points. Here edges are counted by how straight and strong they
are, and all cameras of a grid are tried; the answer says how sure it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE = 256  # longer side at which edges are looked for
_EDGES = 900  # most that are counted
_WIDE = 0.055  # sine of the angle by which an edge may miss its vanishing point
_FAINT, _FEWEST = 0.12, 60  # strength of an edge, and how many there must be
FOCALS = (0.6, 0.72, 0.866, 1.04, 1.25, 1.6, 2.2)  # over the longer side: 80 to 26 degrees
_USUAL_FOCAL = 0.866
_SURE = 0.06  # margin from which pitch is believed, see `CameraLines.margin`
_LENS_SURE = 0.02


class CameraLines(NamedTuple):
    """The camera to which a picture's edges point best."""

    pitch: float  # radians, above 0: looks down
    roll: float  # radians, above 0: the picture's right side is lower in the world
    focal: float  # over the longer side
    # by which share of the edges it beats cameras that look elsewhere (8 degrees and more)
    margin: float
    focal_margin: float  # and cameras with another lens

    @property
    def sure(self) -> bool:
        return self.margin >= _SURE

    @property
    def lens_sure(self) -> bool:
        return self.sure and self.focal_margin >= _LENS_SURE


def horizon_of(pitch: float, focal: float, height: int, width: int) -> float:
    """Height of the horizon in a picture of this size, 0 top to 1 bottom; may lie outside."""
    return 0.5 - math.tan(pitch) * focal * max(height, width) / height


class _Edges(NamedTuple):
    x: Tensor  # [n] from the middle, over the longer side
    y: Tensor
    across_x: Tensor  # [n] unit vector across the edge
    across_y: Tensor
    weight: Tensor  # [n], sum 1


def _field(image: Tensor) -> tuple[Tensor, Tensor]:
    """(strength of straight edges, angle of the gradient across them), each [a, b], of image [3,
    h, w] made small.
    """
    h, w = image.shape[1:]
    scale = _SIDE / max(h, w)
    size = (max(round(h * scale), 8), max(round(w * scale), 8))
    grey = F.interpolate(
        image[None].float().cpu(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    grey = grey.mean(1, keepdim=True)
    # A round blur and Scharr's filters: plain differences turn the edges of thin lines.
    bell = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    grey = F.conv2d(F.pad(grey, (2, 2, 2, 2), mode="replicate"), (bell[:, None] * bell)[None, None])
    side = torch.tensor([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]) / 16
    both = torch.stack([side, side.T])[:, None]
    gx, gy = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), both).split(1, 1)
    tensor = torch.cat([gx * gx, gx * gy, gy * gy], 1)
    a, b, c = F.avg_pool2d(F.pad(tensor, (2, 2, 2, 2)), 5, 1)[0]
    apart = torch.sqrt((a - c) ** 2 + 4 * b * b)
    straight = apart / (a + c + 1e-6)
    angle = 0.5 * torch.atan2(2 * b, a - c)  # of the gradient
    strength = (gx * gx + gy * gy)[0, 0].sqrt().sqrt() * straight**4
    strength[:4], strength[-4:], strength[:, :4], strength[:, -4:] = 0, 0, 0, 0
    return strength, angle


def edge_pixels(image: Tensor) -> Tensor | None:
    """Straight edges of image [3, h, w], made small: [3, a, b] strength and unit vector along the
    edge, 0 where none is.

    None where there are too few.
    """
    strength, angle = _field(image)
    strength = torch.where(strength > _FAINT, strength, 0.0)
    if int((strength > 0).sum()) < _FEWEST:
        return None
    return torch.stack([strength, -angle.sin(), angle.cos()])


def _edges(image: Tensor) -> _Edges | None:
    strength, angle = _field(image)
    size = strength.shape
    flat = strength.flatten()
    order = flat.argsort(descending=True, stable=True)[: 4 * _EDGES]
    order = order[flat[order] > _FAINT]
    if len(order) < _FEWEST:
        return None
    rows, columns = order // size[1], order % size[1]
    # No part of the picture may speak for all: the k-th edge of a cell counts 1 / sqrt(k).
    cell = (rows * 12 // size[0]) * 12 + columns * 12 // size[1]
    rank = torch.zeros(len(order))
    seen: dict[int, int] = {}
    for i, key in enumerate(cell.tolist()):
        seen[key] = seen.get(key, 0) + 1
        rank[i] = seen[key]
    weight = flat[order] / rank.sqrt()
    keep = weight.argsort(descending=True, stable=True)[:_EDGES]
    rows, columns, weight, order = rows[keep], columns[keep], weight[keep], order[keep]
    longer = max(size)
    theta = angle.flatten()[order]
    return _Edges(
        (columns + 0.5 - size[1] / 2) / longer,
        (rows + 0.5 - size[0] / 2) / longer,
        theta.cos(),
        theta.sin(),
        weight / weight.sum(),
    )


def _scores(edges: _Edges, focal: Tensor, pitch: Tensor, roll: Tensor, yaw: Tensor) -> Tensor:
    """Share of the edges [m] that point to a vanishing point of each of m cameras."""
    cp, sp, cr, sr = pitch.cos(), pitch.sin(), roll.cos(), roll.sin()

    def kept(world_x: Tensor, world_down: Tensor, world_ahead: Tensor) -> Tensor:
        # World (right, down, ahead) to camera: pitch about x, then roll about z.
        right = world_x
        down = world_down * cp - world_ahead * sp
        ahead = world_ahead * cp + world_down * sp
        cx, cy = right * cr + down * sr, down * cr - right * sr
        tx = focal[:, None] * cx[:, None] - edges.x * ahead[:, None]
        ty = focal[:, None] * cy[:, None] - edges.y * ahead[:, None]
        off = (tx * edges.across_x + ty * edges.across_y) / (tx * tx + ty * ty).sqrt().clamp(
            min=1e-6
        )
        return torch.exp(-0.5 * (off / _WIDE) ** 2)

    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    best = torch.maximum(kept(yaw.cos(), zero, yaw.sin()), kept(-yaw.sin(), zero, yaw.cos()))
    best = torch.maximum(best, kept(zero, one, zero))
    return best @ edges.weight


def _usual(focal: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """What an unusual camera must win by: share of edges."""
    return (
        0.012 * (pitch / math.radians(15)) ** 2
        + 0.02 * (roll / math.radians(4)) ** 2
        + 0.012 * (torch.log(focal / _USUAL_FOCAL) / 0.35) ** 2
    )


def camera_from_lines(image: Tensor, focal: float | None = None) -> CameraLines | None:
    """The camera that took image [3, h, w] in 0..1; `focal`: its lens over the longer side, if
    known.

    None where the picture has too few edges. The same bits every time.
    """
    edges = _edges(image)
    if edges is None:
        return None
    lenses = torch.tensor(FOCALS if focal is None else (focal,))
    pitches = torch.deg2rad(torch.arange(-36.0, 61.0, 3.0))
    yaws = torch.deg2rad(torch.arange(-45.0, 45.0, 3.0))
    f, p, y = (t.flatten() for t in torch.meshgrid(lenses, pitches, yaws, indexing="ij"))
    zero = torch.zeros_like(f)
    few = _Edges(*(v[::2] for v in edges))
    few = few._replace(weight=few.weight / few.weight.sum())
    score = _chunked(few, f, p, zero, y) - _usual(f, p, zero)
    best = score.reshape(len(lenses), len(pitches), len(yaws)).amax(2)  # [lens, pitch]
    k = int(score.argmax())
    f0, p0, y0 = float(f[k]), float(p[k]), float(y[k])
    elsewhere = (pitches - p0).abs() > math.radians(8)
    margin = float(best.max() - best[:, elsewhere].max())
    other = (torch.log(lenses / f0)).abs() > 0.3
    focal_margin = float(best.max() - best[other].max()) if bool(other.any()) else math.inf
    r0 = 0.0
    for step in (2.0, 1.0, 0.5):  # finer and finer, with roll
        d = torch.deg2rad(torch.tensor([-step, 0.0, step]))
        g = torch.tensor([1.0] if focal is not None else [1 - 0.06 * step, 1.0, 1 + 0.06 * step])
        for _ in range(4):
            grid = torch.meshgrid(f0 * g, p0 + d, r0 + d, y0 + d, indexing="ij")
            a, b, c, e = (t.flatten() for t in grid)
            score = _chunked(edges, a, b, c, e) - _usual(a, b, c)
            k = int(score.argmax())
            if k == len(a) // 2:
                break
            f0, p0, r0, y0 = float(a[k]), float(b[k]), float(c[k]), float(e[k])
    return CameraLines(p0, r0, f0, margin, focal_margin)


def _chunked(edges: _Edges, *cameras: Tensor) -> Tensor:
    parts = zip(*(t.split(512) for t in cameras), strict=True)
    return torch.cat([_scores(edges, *part) for part in parts])
