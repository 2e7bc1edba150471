"""The long straight lines of a picture: columns, door frames, cornices, the edges of tables.

Points of strong contrast vote for the lines that they may lie on, each for those along its own edge
only (Ballard, "Generalizing the Hough transform", 1981; Hough's is 1962). Where many votes meet,
a line is fitted to the points, and those of its stretches count that are covered well and long
enough. What stands before a line may hide a part of it: a gap does not end it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE = 512  # longer side at which lines are looked for
_FAINT = 0.03  # contrast per pixel in 0..1: three times what grain leaves after the blur
_RIM = 3  # pixels at the frame in which the blur knows no neighbours
_ANGLES = 120  # kinds of direction in half a turn
_OFF_BY = 2  # kinds by which the direction of a point may be wrong, to either side
_RHO_PX = 3.0  # width of the stripe of a vote: a line off by half a kind stays in it for long
_BANDS_PX = (3.0, 1.6, 1.2)  # from the line, fit by fit: where its points are
_GAP = 0.08  # of the longer side
_COVERED = 0.5  # share of a line's length that has points
LEAST = 0.15  # of the longer side: shorter ones are pieces (see straight.py)
_MOST = 1500  # places that are looked at, strongest first


def long_lines(image: Tensor) -> Tensor:
    """Ends [n, 2, 2] (line, end, x and y in pixels) of the long straight lines of image [3, h, w]
    in 0..1, those with most points first.
    """
    points, normals, size = _contrast(image)
    longer = max(size)
    if len(points) < _COVERED * LEAST * longer:
        return torch.zeros(0, 2, 2)
    angle = np.arctan2(normals[:, 1], normals[:, 0]) % math.pi
    kind = (angle * (_ANGLES / math.pi)).astype(int) % _ANGLES
    pools = [
        np.flatnonzero((kind - a + _OFF_BY + 1) % _ANGLES <= 2 * _OFF_BY + 2)
        for a in range(_ANGLES)
    ]
    free = np.ones(len(points), bool)
    found = []
    for a, rho in _voted(points, kind, size):
        pool = pools[a][free[pools[a]]]
        theta = (a + 0.5) * math.pi / _ANGLES
        normal = np.array([math.cos(theta), math.sin(theta)])
        near = pool[np.abs(points[pool] @ normal - rho) < _BANDS_PX[0]]
        for stretch in _stretches(points[near] @ [-normal[1], normal[0]], longer):
            line = _fitted(points, pool, near[stretch], longer)
            if line is None:
                continue
            start, end = line
            way = (end - start) / np.linalg.norm(end - start)
            off = points[pool] - start
            beside = np.abs(off[:, 0] * way[1] - off[:, 1] * way[0]) < 2 * _BANDS_PX[-1]
            along = off @ way
            free[pool[beside & (along >= 0) & (along <= np.linalg.norm(end - start))]] = False
            found.append(line)
    if not found:
        return torch.zeros(0, 2, 2)
    middle = np.array(size) / 2
    scale = torch.tensor([image.shape[2] / size[0], image.shape[1] / size[1]])
    return torch.from_numpy(np.array(found) + middle).float() * scale


def _contrast(image: Tensor) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Points [n, 2] on the crests of contrast, from the middle of the picture made small, unit
    normals [n, 2] of their edges, and (width, height) of it.
    """
    h, w = image.shape[1:]
    scale = _SIDE / max(h, w)
    height, width = max(round(h * scale), 8), max(round(w * scale), 8)
    small = F.interpolate(
        image[:, None].float().cpu(),
        size=(height, width),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    bell = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    soft = F.conv2d(
        F.pad(small, (2, 2, 2, 2), mode="replicate"), (bell[:, None] * bell)[None, None]
    )
    side = torch.tensor([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]) / 32
    slope = F.conv2d(
        F.pad(soft, (1, 1, 1, 1), mode="replicate"), torch.stack([side, side.T])[:, None]
    )
    # Of the colours the one that tells most: a golden column before a cream wall has no grey edge.
    strength, colour = slope.square().sum(1).sqrt().max(0)
    gx, gy = slope.gather(0, colour[None, None].expand(1, 2, -1, -1))[0].numpy()
    s = strength.numpy()
    inner = np.zeros_like(s, bool)
    inner[_RIM:-_RIM, _RIM:-_RIM] = True
    row, column = np.nonzero(inner & (s > _FAINT))
    normal = np.stack([gx[row, column], gy[row, column]], 1) / s[row, column, None]
    step = np.rint(normal / np.abs(normal).max(1, keepdims=True)).astype(int)
    crest = s[row, column] >= s[row + step[:, 1], column + step[:, 0]]
    crest &= s[row, column] >= s[row - step[:, 1], column - step[:, 0]]
    at = np.stack([column[crest] + 0.5, row[crest] + 0.5], 1) - np.array([width, height]) / 2
    return at, normal[crest], (width, height)


def _voted(points: np.ndarray, kind: np.ndarray, size: tuple[int, int]) -> list[tuple[int, float]]:
    """(kind of direction, distance from the middle) of the stripes with most points, most first."""
    half = math.ceil(math.hypot(*size) / 2 / _RHO_PX) + 1
    votes = np.zeros((_ANGLES, 2 * half))
    for off in range(-_OFF_BY, _OFF_BY + 1):
        turned = kind + off
        theta = (turned + 0.5) * math.pi / _ANGLES
        rho = points[:, 0] * np.cos(theta) + points[:, 1] * np.sin(theta)
        wrapped = turned % _ANGLES
        rho = np.where(wrapped == turned, rho, -rho)  # half a turn on, the normal points back
        cell = wrapped * 2 * half + np.floor(rho / _RHO_PX).astype(int) + half
        votes += np.bincount(cell, minlength=votes.size).reshape(votes.shape)
    order = np.argsort(-votes, axis=None, kind="stable")[:_MOST]
    enough = votes.flat[order] >= _COVERED * LEAST * max(size) / 2
    return [(int(c // (2 * half)), (c % (2 * half) - half + 0.5) * _RHO_PX) for c in order[enough]]


def _stretches(along: np.ndarray, longer: int) -> list[np.ndarray]:
    """Indices of the stretches without a large gap that are long and covered enough."""
    order = np.argsort(along, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(along[order]) > _GAP * longer) + 1)
    return [part for part in parts if len(part) and _is_line(along[part], longer)]


def _is_line(along: np.ndarray, longer: int) -> bool:
    length = float(along.max() - along.min())
    covered = len(np.unique(along.round()))
    return length >= LEAST * longer and covered >= _COVERED * length


def _fitted(
    points: np.ndarray, pool: np.ndarray, some: np.ndarray, longer: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both ends of the line through `some` of the points of the pool; None: there is none."""
    for band in _BANDS_PX[1:]:
        middle = points[some].mean(0)
        off = points[some] - middle
        way = np.linalg.eigh(off.T @ off)[1][:, 1]
        off = points[pool] - middle
        near = np.flatnonzero(np.abs(off[:, 0] * way[1] - off[:, 1] * way[0]) < band)
        along = off[near] @ way
        stretches = _stretches(along, longer)
        if not stretches:
            return None
        longest = max(stretches, key=lambda part: float(np.ptp(along[part])))
        some = pool[near[longest]]
    return middle + way * along[longest].min(), middle + way * along[longest].max()
