"""Whether a geometry can be right: do straight edges stay straight, do uprights stand, along the
path?

A straight edge of the picture is most often a straight edge of the scene. Edges are lifted by the
depth, and looked at from the path's cameras. No truth is needed. Short pieces tell where a depth is
rough, and those that point to the zenith how far they lean: a box behind a picture that is none
smears what stands on its floor along it, there uprights lie down. Long lines tell where it is
smooth and wrong: a column that sways by a twentieth of its length is straight in each tenth of it,
for a slow bend grows with the square of the length that is looked at.

What counts is what an eye sees in the film, not degrees in space: a piece is bent or leans if a
point of it is off by more than a 300th of the frame's longer side. (A film that fills 30 degrees of
view: six minutes of arc.) A long line must be off by a hundredth of its length as well, from where
on the distortion of a lens is said to be seen. An edge belongs to one of the surfaces on its two
sides, and nobody knows to which: it counts as well kept if it is on either of them. Where the depth
jumps along a long line, two things lie in one line by accident, or one hides the other: that side
says nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .lines import camera_from_lines, edge_pixels
from .long_lines import long_lines

_POINTS = 9  # on a piece
_LENGTH = 0.10  # of a piece, as a share of the longer side
_ALIKE = 0.94  # cosine between the directions of edge along a piece
_UPRIGHT = 0.996  # cosine between an edge and the way to the zenith, to count as upright
_ASIDE = (
    0.01  # of a piece: from an edge to the surfaces on its sides, as a share of the longer side
)
_NEARLY = math.radians(15)  # an upright that leans less stands
_FEWEST = 20  # pieces below which nothing is said
_FEWEST_UPRIGHT = 40  # from 23 a desk's crooked legs spoke against a depth that held
VISIBLE = 1 / 300  # of the longer side
# Long lines: a line is five parts of five points. The median of a part bears with two that lie on
# something small before the line.
_PARTS, _POINTS_PER_PART = 5, 5
_BOWED = 0.01  # of its length
_ASIDE_LONG = (0.004, 0.01)  # of the longer side: a lamp post is thinner than a wall
_JUMP = 0.1  # of inverse depth, off the way on which a plane's goes; a slow bend's is 0.01
_IN_FRAME = 0.6  # share of a line that a film must show to be judged
# Lines below which nothing is said: a column has two, and a few things may be crooked or mirrored.
_FEWEST_LONG = 12
_FEWEST_BOWED = 3  # of them: two may be accidents
# Shares from which the geometry does not fit: what made scenes with their true depth stay below.
MOST_BENT = 0.15
MOST_LEANING = 0.4
MOST_BOWED = 0.1  # of the long lines


class Straightness(NamedTuple):
    """How the geometry treats what is straight in the picture."""

    pieces: int
    bent: float  # share of them that the path shows bent; NaN: too few pieces
    uprights: int
    leaning: float  # share of the uprights that it shows leaning; NaN: too few
    lines: int  # long ones
    bowed: float  # share of the long lines that it shows bent; NaN: too few

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against the geometry."""
        swaying = self.bowed > MOST_BOWED and self.bowed * self.lines > _FEWEST_BOWED - 0.5
        return not (self.bent > MOST_BENT or self.leaning > MOST_LEANING or swaying)

    @property
    def sentence(self) -> str:
        """For the report."""
        parts = []
        if not math.isnan(self.leaning):
            parts.append(f"{100 * self.leaning:.0f} % of {self.uprights} upright edges lean")
        if not math.isnan(self.bowed):
            parts.append(f"{100 * self.bowed:.0f} % of {self.lines} long lines bend")
        if not math.isnan(self.bent):
            parts.append(f"{100 * self.bent:.0f} % of {self.pieces} straight edges bend")
        if not parts:
            return "too few straight edges to tell"
        *first, last = parts
        said = f"{', '.join(first)} and {last}" if first else last
        return f"along the path {said} so far that it can be seen"


def straightness(
    image: Tensor, depth_m: Tensor, K: Tensor, camera_from_world: Tensor
) -> Straightness:
    """Measure image [3, h, w], depth [h, w] (inf: sky), K [3, 3] pixels, along cameras [n, 4, 4]
    (world: the picture's camera).
    """
    image, depth, K = image.float().cpu(), depth_m.float().cpu(), K.float().cpu()
    cameras = _some(camera_from_world.float().cpu())
    return Straightness(*_of_pieces(image, depth, K, cameras), *_of_lines(image, depth, K, cameras))


def _of_lines(image: Tensor, depth: Tensor, K: Tensor, cameras: list[Tensor]) -> tuple[int, float]:
    """How many long lines can be judged, and the share of them that bends."""
    ends = long_lines(image)
    longer = max(depth.shape)
    count = _PARTS * _POINTS_PER_PART
    share = torch.linspace(0, 1, count)[:, None]
    points = ends[:, :1] * (1 - share) + ends[:, 1:] * share
    along = torch.nn.functional.normalize(ends[:, 1] - ends[:, 0], dim=1)
    sides = torch.cat([_lifted(points, along, depth, K, aside) for aside in _ASIDE_LONG])
    near = 1 / sides[..., 2]  # of a plane it goes evenly along a line of the picture
    off = (near[..., 2:] - 2 * near[..., 1:-1] + near[..., :-2]).abs()
    jump = (off > _JUMP * torch.maximum(near[..., 2:], near[..., :-2])).any(-1)
    sides = torch.where(jump[..., None, None], math.nan, sides)
    bow = torch.stack([_sway(sides, K, c, (depth.shape[1], depth.shape[0])) for c in cameras])
    seen = torch.isfinite(bow).any(0).any(0)
    if int(seen.sum()) < _FEWEST_LONG:
        return int(seen.sum()), math.nan
    return int(seen.sum()), _share(bow, VISIBLE * longer)


def _sway(points: Tensor, K: Tensor, camera: Tensor, frame: tuple[int, int]) -> Tensor:
    """How wide a stripe the parts of lines [s, n, p, 3] need in a frame (width, height), pixels
    [s, n]: 0 up to what is no sight for the line's length, NaN for lines that it does not show.
    """
    uv, ahead = _projected(points, K, camera)
    inside = (ahead & ((uv >= 0) & (uv <= torch.tensor(frame))).all(-1)).float().mean(-1)
    uv = torch.where(ahead[..., None], uv, math.nan)
    parts = uv.unflatten(2, (_PARTS, _POINTS_PER_PART)).nanmedian(3).values
    good = torch.isfinite(parts).flatten(2).all(2) & (inside >= _IN_FRAME)
    off = torch.where(good[..., None, None], parts - parts.mean(2, keepdim=True), 0.0)
    across = torch.linalg.svd(off, full_matrices=False).Vh[..., 1, :]
    off_line = (off * across[..., None, :]).sum(-1)
    width = off_line.amax(-1) - off_line.amin(-1)
    length = (parts[..., -1, :] - parts[..., 0, :]).norm(dim=-1) * _PARTS / (_PARTS - 1)
    return torch.where(good, torch.where(width > _BOWED * length, width, 0.0), math.nan)


def _of_pieces(
    image: Tensor, depth: Tensor, K: Tensor, cameras: list[Tensor]
) -> tuple[int, float, int, float]:
    """Short pieces and the share of them that bends, uprights and the share that leans."""
    edges = edge_pixels(image)
    if edges is None:
        return 0, math.nan, 0, math.nan
    pieces, along = _pieces(edges, depth.shape)
    sides = _lifted(pieces, along, depth, K, _ASIDE)  # [2, n, p, 3], NaN where there is only sky
    whole = torch.isfinite(sides).flatten(2).all(2).any(0)
    pieces, along, sides = pieces[whole], along[whole], sides[:, whole]
    if len(pieces) < _FEWEST:
        return len(pieces), math.nan, 0, math.nan
    frame = (depth.shape[1], depth.shape[0])
    bow = torch.stack([_bow(_seen(sides, K, c, frame)) for c in cameras])
    bent = _share(bow, VISIBLE * max(frame))
    upright, up = _uprights(image, pieces, along, K)
    if up is None or int(upright.sum()) < _FEWEST_UPRIGHT:
        return len(pieces), bent, int(upright.sum()), math.nan
    standing = sides[:, upright]
    before = _off_zenith(_seen(standing, K, torch.eye(4), frame), K @ up)
    lean = torch.stack(
        [
            _half_length(uv := _seen(standing, K, c, frame))
            * (_off_zenith(uv, K @ (c[:3, :3] @ up)) - before).abs()
            for c in cameras
        ]
    )
    leaning = _share(torch.where(_stands(standing, up), 0.0 * lean, lean), VISIBLE * max(frame))
    return len(pieces), bent, int(upright.sum()), leaning


def _stands(points: Tensor, up: Tensor) -> Tensor:
    """Which uprights [2, n, p, 3] stand in space, [2, n], or nearly: `up` is a guess."""
    chord = points[..., -1, :] - points[..., 0, :]
    return (chord @ up).abs() > math.cos(_NEARLY) * chord.norm(dim=-1)


def _share(off: Tensor, limit: float) -> float:
    """Share of pieces that are off by more than `limit` on both sides in some camera; off
    [cameras, 2, n] pixels, NaN where a piece is not seen.
    """
    most = torch.where(torch.isfinite(off), off, -1.0).amax(0)  # [2, n]
    seen = (most >= 0).any(0)
    if not bool(seen.any()):
        return 0.0
    best = torch.where(most >= 0, most, math.inf).amin(0)[seen]
    return float((best > limit).float().mean())


def _uprights(
    image: Tensor, pieces: Tensor, along: Tensor, K: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Which pieces [n] point to the zenith, and the direction to it [3]; None if no lines tell."""
    longer = max(image.shape[1:])
    focal = float(K[0, 0] * K[1, 1]) ** 0.5
    lines = camera_from_lines(image, focal / longer)
    if lines is None or not lines.sure:
        return torch.zeros(len(pieces), dtype=torch.bool), None
    down, ahead = math.cos(lines.pitch), math.sin(lines.pitch)
    up = torch.tensor([down * math.sin(lines.roll), down * math.cos(lines.roll), ahead])
    to_zenith = _towards(pieces[:, _POINTS // 2], K @ up)
    return (to_zenith * along).sum(1).abs() > _UPRIGHT, up


def _towards(at: Tensor, point: Tensor) -> Tensor:
    """Unit vectors from pixels [..., 2] to a point of the picture in homogeneous form [3]."""
    way = point[:2] - at * point[2]
    return way / way.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def _pieces(edges: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
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


def _lifted(pieces: Tensor, along: Tensor, depth: Tensor, K: Tensor, share: float) -> Tensor:
    """Points [2, n, p, 3] of each piece on the surfaces to its left and right, `share` of the
    longer side from it; NaN: sky.
    """
    h, w = depth.shape
    aside = share * max(h, w) * torch.stack([-along[:, 1], along[:, 0]], 1)[:, None]
    rays = torch.cat(
        [(pieces - K[:2, 2]) / torch.stack([K[0, 0], K[1, 1]]), torch.ones(*pieces.shape[:2], 1)],
        -1,
    )
    sides = []
    for q in (pieces - aside, pieces + aside):
        u, v = q[..., 0].long().clamp(0, w - 1), q[..., 1].long().clamp(0, h - 1)
        z = depth[v, u][..., None]
        sides.append(torch.where(torch.isfinite(z), rays * z, math.nan))
    return torch.stack(sides)


def _some(cameras: Tensor) -> list[Tensor]:
    """Four along the path; the first is the picture's own, and alone where the path has no more."""
    chosen = np.unique(np.linspace(0, len(cameras) - 1, 5).round().astype(int))
    return [cameras[i] for i in (chosen[1:] if len(chosen) > 1 else chosen)]


def _seen(points: Tensor, K: Tensor, camera_from_world: Tensor, frame: tuple[int, int]) -> Tensor:
    """Pixels [2, n, p, 2] of pieces [2, n, p, 3] in a frame (width, height); NaN for pieces that it
    does not show whole.
    """
    uv, ahead = _projected(points, K, camera_from_world)
    inside = ((uv >= 0) & (uv <= torch.tensor(frame))).all(-1)
    return torch.where((ahead & inside).all(-1)[..., None, None], uv, math.nan)


def _projected(points: Tensor, K: Tensor, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [..., 2] of points [..., 3], and which lie ahead of the camera [...]."""
    p = points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    return (p @ K.T)[..., :2] / p[..., 2:].clamp(min=1e-6), p[..., 2] > 0.05 * points[..., 2]


def _bow(uv: Tensor) -> Tensor:
    """How far pieces [2, n, p, 2] come off the straight line between their ends, pixels [2, n]."""
    chord, off = uv[..., -1, :] - uv[..., 0, :], uv - uv[..., :1, :]
    area = (off[..., 0] * chord[..., None, 1] - off[..., 1] * chord[..., None, 0]).abs()
    return area.amax(-1) / chord.norm(dim=-1).clamp(min=1e-6)


def _half_length(uv: Tensor) -> Tensor:
    return 0.5 * (uv[..., -1, :] - uv[..., 0, :]).norm(dim=-1)


def _off_zenith(uv: Tensor, zenith: Tensor) -> Tensor:
    """Sine [2, n] of the signed angle between pieces [2, n, p, 2] and the way to the zenith [3]."""
    way = _towards(uv[..., _POINTS // 2, :], zenith)
    chord = torch.nn.functional.normalize(uv[..., -1, :] - uv[..., 0, :], dim=-1)
    cross = way[..., 0] * chord[..., 1] - way[..., 1] * chord[..., 0]
    return cross * (way * chord).sum(-1).sign()
