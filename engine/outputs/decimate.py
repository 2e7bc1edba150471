"""Fewer Gaussians that look like the many: neighbours are merged where a view loses least.

A merge keeps the first two moments of the pair (Salmond's mixture reduction): its mean, covariance
and colour are those of the two together. Which pairs are merged follows from what that costs: the
difference of their colours, and the blur, which is the Kullback-Leibler bound of Runnalls (2007)
weighed by how much the colours around vary. Both are counted in what the pair is worth: its light
in the views of a camera path where there is one, else its opacity times its area.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from ..bridge.camera_file import CameraPath
from ..bridge.harmonics import SH_C0
from ..bridge.quaternions import rotation_of
from ..bridge.splats import Splats, sigmoid
from ..formats.scene import SplatScene, log_scale, logit
from ..rasterize import rasterize
from ..scene.psnr import decibels
from ..scene.quaternions import quaternions
from .passes import Drawable, drawable

NEIGHBOURS = 8
BLUR_FLOOR = 1e-3  # colour variance that a blur costs even where all around is of one colour
SHARE_OF_A_ROUND = 0.5  # of the pairs found, the cheaper half is merged before looking again
TIE = 1e-3
MOST_OPAQUE = 1 - 1e-6
VIEWS = 12  # of a path, spread evenly: enough to see all that it sees
WIDTH = 640  # of these views at most: a pixel of a film is what counts, and time


def decimated_scene(scene: SplatScene, count: int, device: torch.device) -> SplatScene:
    """The scene with at most `count` splats. What its cameras see, if it has any, is kept best."""
    splats = scene.in_axes("opencv", 1.0)
    light = None
    if scene.cameras is not None and scene.count > count:
        light = light_in_views(drawable(scene, device), scene.cameras)
    fewer = replace(splats, splats=decimated(splats.splats, count, light))
    return fewer.in_axes(scene.metadata.axes, scene.metadata.metres_per_unit)


def light_in_views(scene: Drawable, path: CameraPath) -> np.ndarray:
    """[n] pixels that each splat makes up along the path: the sum of its blending weights."""
    # the derivative of a blended channel's sum by the splat's value of it is the sum of its weights
    weight = torch.zeros(scene.gaussians.count, 1, device=scene.gaussians.means.device)
    weight.requires_grad_(True)
    for K, camera, width, height in _views(path, weight.device):
        drawn = rasterize(
            scene.gaussians, K, camera, width, height, extra=weight, antialiased=scene.antialiased
        )
        drawn.extra.sum().backward()
    assert weight.grad is not None
    return weight.grad[:, 0].cpu().numpy().astype(np.float64)


def likeness_db(a: Drawable, b: Drawable, path: CameraPath) -> float:
    """PSNR of b's views along the path against a's, on black, in the colours of a screen."""
    error, pixels = 0.0, 0
    with torch.no_grad():
        for K, camera, width, height in _views(path, a.gaussians.means.device):
            pictures = [
                rasterize(
                    s.gaussians,
                    K,
                    camera,
                    width,
                    height,
                    antialiased=s.antialiased,
                    depth=False,
                ).rgb.clamp(0, 1)
                for s in (a, b)
            ]
            error += float(((pictures[0] - pictures[1]) ** 2).sum())
            pixels += pictures[0].numel()
    return decibels(error / pixels)


def _views(path: CameraPath, device: torch.device):
    """(K, camera from world, width, height) of at most VIEWS cameras, at most WIDTH wide."""
    shrink = min(1.0, WIDTH / max(path.width, path.height))
    width, height = max(1, round(path.width * shrink)), max(1, round(path.height * shrink))
    scale = np.array([width / path.width, height / path.height, 1.0])[:, None]
    for i in np.unique(np.linspace(0, path.count - 1, VIEWS).round().astype(int)):
        K = torch.as_tensor(path.K[i] * scale, dtype=torch.float32, device=device)[None]
        camera = np.linalg.inv(path.world_from_camera[i])
        yield K, torch.as_tensor(camera, dtype=torch.float32, device=device)[None], width, height


def area(scales_log: np.ndarray) -> np.ndarray:
    """[n, 3] -> [n]: a Gaussian's extent in a view, averaged over directions, up to a factor."""
    a, b, c = np.exp(scales_log.astype(np.float64)).T
    return a * b + b * c + c * a


def decimated(splats: Splats, count: int, light: np.ndarray | None = None) -> Splats:
    """At most `count` splats that look like `splats`; these themselves where they are few.

    `light` [n] is what each adds to the views that matter (the sum of its blending weights, in
    pixels); what no view shows is merged first, and nothing is dropped. Raises ValueError for a
    count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    opacity = sigmoid(splats.opacities_logit).astype(np.float64)
    mass = opacity * area(splats.scales_log)
    worth = mass / mass.sum() + 1e-12 / len(mass)
    if light is not None and light.sum() > 0:
        # a little of the mass, so that what is out of sight is merged sensibly too
        worth = light / light.sum() + 1e-4 * worth
    while len(worth) > count:
        splats, worth = _merged(splats, worth, len(worth) - count)
    return splats


def _merged(splats: Splats, worth: np.ndarray, at_most: int) -> tuple[Splats, np.ndarray]:
    """The splats after one round of at most `at_most` merges of disjoint pairs, the cheapest."""
    n = len(worth)
    rotations = rotation_of(splats.quats)
    axes = rotations * np.exp(splats.scales_log.astype(np.float64))[:, None, :]
    covariance = axes @ axes.transpose(0, 2, 1)
    colour = splats.sh_dc.astype(np.float64) * SH_C0
    means = splats.means.astype(np.float64)
    k = min(NEIGHBOURS, n - 1)
    near = _neighbours(means, k)
    cost = np.empty((n, k))
    log_volume = 2 * splats.scales_log.astype(np.float64).sum(axis=1)
    contrast = colour[near].var(axis=1).sum(axis=1) + BLUR_FLOOR
    triangle = covariance[:, *np.triu_indices(3)]
    for start in range(0, n, 65536):
        i = np.arange(start, min(start + 65536, n))[:, None]
        cost[start : start + 65536] = _cost(
            i, near[i[:, 0]], worth, means, triangle, colour, log_volume, contrast
        )
    # equal costs, as on a grid, are put in a fixed random order: else each waits for the next
    order = 1 + TIE * np.random.default_rng(n).random(n)
    first, second = _cheapest_pairs(near, cost * order[:, None] * order[near], at_most)
    return _joined(splats, worth, covariance, means, first, second)


def _neighbours(means: np.ndarray, k: int) -> np.ndarray:
    """[n, k] the nearest others of each."""
    found = cKDTree(means).query(means, k + 1, workers=-1)[1]
    # among splats of one place, oneself need not come first, nor at all
    left_out = found == np.arange(len(means))[:, None]
    left_out[~left_out.any(axis=1), -1] = True
    return found[~left_out].reshape(-1, k)


def _cost(
    i: np.ndarray,  # [m, 1]
    j: np.ndarray,  # [m, k]
    worth: np.ndarray,
    means: np.ndarray,
    covariance: np.ndarray,  # [n, 6] upper triangle, row by row
    colour: np.ndarray,
    log_volume: np.ndarray,
    contrast: np.ndarray,
) -> np.ndarray:
    """[m, k] what the views lose if i and j become one."""
    both = worth[i] + worth[j]
    share = (worth[i] / both)[..., None]
    other = 1 - share
    x, y, z = np.moveaxis(np.sqrt(share * other) * (means[i] - means[j]), -1, 0)
    joined = share * covariance[i] + other * covariance[j]
    xx, xy, xz, yy, yz, zz = np.moveaxis(joined, -1, 0)
    xx, xy, xz, yy, yz, zz = xx + x * x, xy + x * y, xz + x * z, yy + y * y, yz + y * z, zz + z * z
    determinant = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    log_joined = np.log(np.maximum(determinant, 1e-300))
    blur = 0.5 * (log_joined - share[..., 0] * log_volume[i] - other[..., 0] * log_volume[j])
    hue = ((colour[i] - colour[j]) ** 2).sum(axis=-1)
    variance = np.maximum(contrast[i], contrast[j])
    return both * ((share * other)[..., 0] * hue + np.maximum(blur, 0) * variance)


def _cheapest_pairs(
    near: np.ndarray, cost: np.ndarray, at_most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint pairs, cheapest first: pairs that are each other's cheapest."""
    n = len(near)
    best = cost.argmin(axis=1)
    everyone = np.arange(n)
    choice, price = near[everyone, best], cost[everyone, best]
    # a choice is binding when the chosen one has none cheaper: its own, or another's of it
    cheapest = price.copy()
    np.minimum.at(cheapest, choice, price)
    binding = (price <= cheapest) & (price <= cheapest[choice])
    i, j, paid = everyone[binding], choice[binding], price[binding]
    order = np.argsort(paid, kind="stable")
    i, j = i[order], j[order]
    # ties can leave one in two pairs; the first pair of each has it
    rank = np.full(n, n)
    np.minimum.at(rank, i, np.arange(len(i)))
    np.minimum.at(rank, j, np.arange(len(j)))
    alone = (rank[i] == np.arange(len(i))) & (rank[j] == np.arange(len(j)))
    i, j = i[alone], j[alone]
    wanted = min(at_most, max(1, int(np.ceil(SHARE_OF_A_ROUND * len(i)))))
    return i[:wanted], j[:wanted]


def _joined(
    splats: Splats,
    worth: np.ndarray,
    covariance: np.ndarray,
    means: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
) -> tuple[Splats, np.ndarray]:
    """All splats but those of the pairs (i, j), then one for each pair."""
    both = worth[i] + worth[j]
    share = worth[i] / both
    other = 1 - share

    def mix(values: np.ndarray) -> np.ndarray:
        ahead = (slice(None),) + (None,) * (values.ndim - 1)
        return share[ahead] * values[i] + other[ahead] * values[j]

    apart = means[i] - means[j]
    joined = mix(covariance)
    joined += (share * other)[:, None, None] * apart[:, :, None] * apart[:, None, :]
    values, vectors = np.linalg.eigh(joined)
    vectors[:, :, 0] *= np.linalg.det(vectors)[:, None]  # a rotation, no mirror
    scales_log = log_scale(np.sqrt(np.maximum(values, 0))).astype(np.float64)
    opaque, held_back = _union(splats, covariance, apart, share, i, j)
    # as large as it must be to hold back what the two do: their extents overlap, and so do they
    grow = held_back / np.maximum(opaque * area(scales_log), 1e-300)
    new = Splats(
        mix(means),
        quaternions(torch.from_numpy(vectors)).numpy(),
        scales_log + 0.5 * np.log(np.clip(grow, 0.25, 4))[:, None],
        logit(np.minimum(opaque, MOST_OPAQUE)),
        mix(splats.sh_dc.astype(np.float64)),
        mix(splats.sh_rest.astype(np.float64)),
    )
    stays = np.ones(len(worth), bool)
    stays[i] = stays[j] = False
    kept = Splats(
        *(
            np.concatenate([old[stays], made.astype(np.float32)])
            for old, made in zip(splats, new, strict=True)
        )
    )
    return kept, np.concatenate([worth[stays], both])


def _union(
    splats: Splats,
    covariance: np.ndarray,
    apart: np.ndarray,  # [m, 3] from the second's mean to the first's
    share: np.ndarray,  # [m] of the first
    i: np.ndarray,
    j: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """[m] opacity of the two at their common mean, and the light that they hold back together.

    Where both cover a place they hold back 1 - (1 - a)(1 - b), not a + b. A view rarely looks along
    a surface, so a distance across a thin splat counts as if it were half as thick as it is wide.
    """
    opacity = sigmoid(splats.opacities_logit).astype(np.float64)
    extent = area(splats.scales_log)
    width = np.exp(2 * np.median(splats.scales_log.astype(np.float64), axis=1))

    def fall_off(cov: np.ndarray, wide: np.ndarray, offset: np.ndarray) -> np.ndarray:
        thick = cov + 0.25 * wide[:, None, None] * np.eye(3)
        solved = np.linalg.solve(thick, offset[..., None])[..., 0]
        return np.exp(-0.5 * (offset * solved).sum(axis=1))

    both = fall_off(covariance[i] + covariance[j], width[i] + width[j], apart)
    shared = opacity[i] * opacity[j] * extent[i] * extent[j] / (extent[i] + extent[j]) * both
    held_back = opacity[i] * extent[i] + opacity[j] * extent[j] - shared
    a = opacity[i] * fall_off(covariance[i], width[i], (1 - share)[:, None] * apart)
    b = opacity[j] * fall_off(covariance[j], width[j], share[:, None] * apart)
    mean = share * opacity[i] + (1 - share) * opacity[j]
    return np.maximum(1 - (1 - a) * (1 - b), mean), held_back
