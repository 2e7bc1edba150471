"""What the patch prior precomputes of a clip: which place is invented in which frame, and how
others see it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from ...geometry.completion import depth_everywhere
from ...scene.pixels import pixel_centres
from ..base import Clip
from .search import RADIUS
from .warp import draw_into, project

_FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
_OPTIONS = {"nogil": True, "cache": True, "fastmath": _FAST, "error_model": "numpy"}
EXPECT_CELLS = 64  # a side, of the grid of `expected_colour`
EXPECT_COLUMN = 0.35  # distance between columns where that between rows is 1
EXPECT_NEAR = 0.25  # squared distance, in rows, within which known cells weigh alike
SURELY_KNOWN = 0.98  # coverage from which a pixel of the render is not invented at all


@dataclass(frozen=True)
class Tie:
    """Unknown pixels of one frame that another frame invents."""

    frame: int
    rows: NDArray[np.int64]  # [n]
    columns: NDArray[np.int64]
    x: NDArray[np.float32]  # [n] where to look in `frame`, pixels with centres at + 0.5
    y: NDArray[np.float32]


@dataclass(frozen=True)
class Queries:
    """Patches of one frame at one scale that touch what it invents, with the parts of the target
    that never change.
    """

    rows: NDArray[np.int64]  # [q]
    columns: NDArray[np.int64]
    index: NDArray[np.int32]  # [h, w], -1 where there is no query
    known: Tensor  # [h, w] share of each cell that the render shows
    tied: Tensor  # [h, w] share that another frame invents
    own: Tensor  # [h, w] share that this frame invents
    shown: Tensor  # [3, h, w] colour of the known share
    expected: Tensor  # [3, h, w] colour that the known ones around let expect


@dataclass(frozen=True)
class PatchCondition:
    """A clip as the patch prior sees it."""

    render: Tensor  # [f, 3, h, w] in [-1, 1]
    trust: Tensor  # [f, 1, h, w] how far the render is kept
    own: Tensor  # [f, 1, h, w] share of a pixel that this frame invents
    tied: Tensor  # [f, 1, h, w] share that another frame invents; trust + own + tied = 1
    order: list[int]  # frames that invent, in the order in which they do
    ties: list[list[Tie]]  # per frame; every Tie looks at a frame earlier in `order`
    depth: Tensor  # [f, 1, h, w] the clip's depth, completed where it has none
    queries: dict[int, list[Queries]] = field(
        default_factory=dict
    )  # of the frames in `order`, per scale, coarse to fine


def plan(clip: Clip) -> tuple[list[int], list[list[Tie]], Tensor, Tensor]:
    """Share out the unknown pixels: (order, ties, own [f, 1, h, w], depth [f, 1, h, w]).

    The frame with most unknown pixels invents first; its surface is drawn into the others, which
    leaves them less to invent; and so on until every unknown pixel is invented once.
    """
    left = clip.known[:, 0] < SURELY_KNOWN
    hit = clip.depth[:, 0] > 0
    depth = clip.depth[:, 0].clone()
    filled = hit.clone()
    own = torch.zeros_like(left)
    ties: list[list[Tie]] = [[] for _ in range(left.shape[0])]
    order: list[int] = []
    counts = left.flatten(1).sum(dim=1)
    while int(counts.max()) > 0:
        f = int(counts.argmax())
        order.append(f)
        own[f] = left[f]
        left[f] = False
        depth[f] = depth_everywhere(depth[f], filled[f])
        filled[f] = True
        _draw_from(f, clip, own[f], depth, filled, left, ties)
        counts = left.flatten(1).sum(dim=1)
    for f in range(left.shape[0]):
        if not bool(filled[f].all()):
            depth[f] = depth_everywhere(depth[f], filled[f])
    return order, ties, own[:, None], depth[:, None]


def _draw_from(
    f: int,
    clip: Clip,
    own: Tensor,
    depth: Tensor,
    filled: Tensor,
    left: Tensor,
    ties: list[list[Tie]],
) -> None:
    """Tie the unknown pixels of other frames that see what frame f invents; updates depth, filled,
    left, ties.
    """
    use = F.max_pool2d(own.float()[None], 5, stride=1, padding=2)[0] > 0
    for g in range(left.shape[0]):
        if not bool(left[g].any()):
            continue
        points = project(
            depth[f], clip.K[f], clip.world_from_camera[f], clip.K[g], clip.world_from_camera[g]
        )
        seen, source = draw_into(points, use, tuple(own.shape))
        take = torch.isfinite(seen)
        seen, source, take = _close_slits(seen, source, take, left[g])
        take &= left[g]
        rows, columns = torch.nonzero(take, as_tuple=True)
        if len(rows) == 0:
            continue
        place = source[rows, columns].numpy()
        ties[g].append(
            Tie(
                f,
                rows.numpy(),
                columns.numpy(),
                np.ascontiguousarray(place[:, 0]),
                np.ascontiguousarray(place[:, 1]),
            )
        )
        new = take & ~filled[g]
        depth[g] = torch.where(new, seen, depth[g])
        filled[g] |= take
        left[g] &= ~take


def _close_slits(
    seen: Tensor, source: Tensor, take: Tensor, left: Tensor, reach: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Extend a drawn surface by `reach` pixels where something is unknown beside it, so that no
    slits are left.
    """
    for _ in range(reach):
        grow = (F.max_pool2d(take.float()[None], 3, stride=1, padding=1)[0] > 0) & left & ~take
        if not bool(grow.any()):
            break
        h, w = take.shape
        x, y = pixel_centres(h, w)
        packed = torch.stack(
            [
                source[..., 0] - x,
                source[..., 1] - y,
                torch.where(take, seen, torch.zeros(())),
                torch.ones_like(x),
            ]
        )
        mean = F.avg_pool2d((packed * take)[None], 3, stride=1, padding=1)[0]
        mean = mean[:3] / mean[3:].clamp(min=1e-9)
        source = torch.where(
            grow[..., None], torch.stack([mean[0] + x, mean[1] + y], dim=-1), source
        )
        seen = torch.where(grow, mean[2], seen)
        take = take | grow
    return seen, source, take


def queries_at(
    factor: int, render: Tensor, trust: Tensor, own: Tensor, tied: Tensor, expected: Tensor
) -> Queries:
    """Queries of one frame at one scale. render and expected [3, h, w], the others [1, h, w], all
    padded to the scale.
    """
    pooled = F.avg_pool2d(torch.cat([render * trust, trust, own, tied, expected])[None], factor)[0]
    known, mine, others = pooled[3], pooled[4], pooled[5]
    near = F.max_pool2d((mine > 0).float()[None], 2 * RADIUS + 1, stride=1, padding=RADIUS)[0] > 0
    rows, columns = (v.numpy() for v in torch.nonzero(near, as_tuple=True))
    index = np.full(tuple(known.shape), -1, np.int32)
    index[rows, columns] = np.arange(len(rows), dtype=np.int32)
    return Queries(
        rows, columns, index, known, others, mine, pooled[:3] / known.clamp(min=1e-6), pooled[6:]
    )


def expected_colour(render: Tensor, trust: Tensor) -> Tensor:
    """Colour to expect at every pixel from the known ones, [3, h, w]: inverse distance weighting
    (Shepard 1968).

    Worked out on at most EXPECT_CELLS cells a side, where columns count as nearer than rows: what a
    move uncovers at a side continues along rows. render [3, h, w], trust [1, h, w]; 0 where nothing
    is known.
    """
    h, w = render.shape[-2:]
    factor = -(-max(h, w) // EXPECT_CELLS)
    padded = F.pad(torch.cat([render * trust, trust]), (0, -w % factor, 0, -h % factor))
    cells = F.avg_pool2d(padded[None], factor)[0]
    weight = cells[3].flatten()
    if float(weight.max()) == 0.0:
        return torch.zeros_like(render)
    y, x = torch.meshgrid(torch.arange(cells.shape[1]), torch.arange(cells.shape[2]), indexing="ij")
    place = torch.stack([y, EXPECT_COLUMN * x], dim=-1).flatten(0, 1).float()
    near = (
        weight / (torch.cdist(place, place).square() + EXPECT_NEAR) ** 2
    )  # squared distances, so weights fall as d^-4
    colours = (cells[:3] / cells[3].clamp(min=1e-6)).flatten(1)
    expected = (colours @ (near / near.sum(dim=1, keepdim=True)).T).unflatten(1, cells.shape[1:])
    return F.interpolate(expected[None], scale_factor=factor, mode="bilinear", align_corners=False)[
        0, :, :h, :w
    ]


@njit(**_OPTIONS)
def _sample(picture, x, y, out):  # type: ignore[no-untyped-def]
    """Catmull-Rom samples of picture [3, h, w] at (x, y) in pixels with centres at + 0.5; out [3,
    n].
    """
    h, w = picture.shape[1], picture.shape[2]
    wx = np.empty(4, np.float32)
    wy = np.empty(4, np.float32)
    for i in range(x.shape[0]):
        fx, fy = x[i] - np.float32(0.5), y[i] - np.float32(0.5)
        x0, y0 = int(np.floor(fx)), int(np.floor(fy))
        _weights(fx - np.float32(x0), wx)
        _weights(fy - np.float32(y0), wy)
        for c in range(3):
            total = np.float32(0.0)
            for j in range(4):
                row = min(max(y0 - 1 + j, 0), h - 1)
                line = np.float32(0.0)
                for k in range(4):
                    line += wx[k] * picture[c, row, min(max(x0 - 1 + k, 0), w - 1)]
                total += wy[j] * line
            out[c, i] = total


@njit(**_OPTIONS)
def _weights(t, w):  # type: ignore[no-untyped-def]
    half = np.float32(0.5)
    w[0] = half * t * (-np.float32(1.0) + t * (np.float32(2.0) - t))
    w[1] = np.float32(1.0) + half * t * t * (np.float32(3.0) * t - np.float32(5.0))
    w[2] = half * t * (np.float32(1.0) + t * (np.float32(4.0) - np.float32(3.0) * t))
    w[3] = half * t * t * (t - np.float32(1.0))


def look(ties: list[Tie], frames: Tensor, base: Tensor) -> Tensor:
    """`base` [3, h, w] with every tied pixel taken from the frame that invents it. frames [f, 3, h,
    w].
    """
    if not ties:
        return base
    result = base.numpy().copy()
    for tie in ties:
        out = np.empty((3, len(tie.rows)), np.float32)
        _sample(np.ascontiguousarray(frames[tie.frame].numpy()), tie.x, tie.y, out)
        result[:, tie.rows, tie.columns] = out
    return torch.from_numpy(result)
