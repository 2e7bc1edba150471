"""Gaussians drawn by numpy in float64, every Gaussian against every pixel: the oracle of the
Blender renders.

Written from the formulas, with no code of the add-on or the engine. Cameras are OpenCV's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ALPHA_MIN, ALPHA_MAX, BLUR_PX2, NEAR, MARGIN = 1 / 255, 0.999, 0.3, 0.01, 0.15


class Camera(NamedTuple):
    K: np.ndarray  # [3, 3] px, centres at +0.5
    camera_from_world: np.ndarray  # [4, 4]
    width: int
    height: int


def rotations(quats: np.ndarray) -> np.ndarray:
    """[n, 4] w x y z -> [n, 3, 3]."""
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float64).T
    u = np.stack([x, y, z], 1)
    cross = np.zeros((len(w), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross -= cross.transpose(0, 2, 1)
    return (
        (w * w - (u * u).sum(1))[:, None, None] * np.eye(3)
        + 2 * u[:, :, None] * u[:, None, :]
        + 2 * w[:, None, None] * cross
    )


def real_sh(direction: np.ndarray) -> np.ndarray:
    """[n, 3] unit -> [n, 16], from Legendre's functions with 3DGS's signs (Condon-Shortley phase,
    order m = -l..l).
    """
    from math import factorial, pi, sqrt

    x, y, z = direction.T
    phi, sine = np.arctan2(y, x), np.sqrt(np.maximum(0, 1 - z * z))
    legendre = {
        (0, 0): 1 + 0 * z,
        (1, 0): z,
        (1, 1): -sine,
        (2, 0): (3 * z**2 - 1) / 2,
        (2, 1): -3 * z * sine,
        (2, 2): 3 * sine**2,
        (3, 0): (5 * z**3 - 3 * z) / 2,
        (3, 1): -1.5 * (5 * z**2 - 1) * sine,
        (3, 2): 15 * z * sine**2,
        (3, 3): -15 * sine**3,
    }
    columns = []
    for degree in range(4):
        for m in range(-degree, degree + 1):
            norm = sqrt(
                (2 * degree + 1)
                / (4 * pi)
                * factorial(degree - abs(m))
                / factorial(degree + abs(m))
            )
            angle = 1.0 if m == 0 else sqrt(2) * (np.sin(-m * phi) if m < 0 else np.cos(m * phi))
            columns.append(norm * legendre[degree, abs(m)] * angle)
    return np.stack(columns, 1)


def srgb_to_linear(c: np.ndarray) -> np.ndarray:
    return np.where(c <= 0.04045, c / 12.92, ((np.maximum(c, 0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(c: np.ndarray) -> np.ndarray:
    return np.where(c <= 0.0031308, c * 12.92, 1.055 * np.maximum(c, 1e-9) ** (1 / 2.4) - 0.055)


def draw(
    splats, camera: Camera, *, along_rays: bool = False, linear: bool = True, blur: float = BLUR_PX2
) -> np.ndarray:
    """[h, w, 4]: premultiplied colour, in linear light or as stored, and alpha."""
    R, t = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    means = splats.means.astype(np.float64)
    in_camera = means @ R.T + t
    direction = means + R.T @ t
    basis = real_sh(direction / np.linalg.norm(direction, axis=1, keepdims=True))
    coefficients = np.concatenate([splats.sh_dc[:, None], splats.sh_rest], 1).astype(np.float64)
    colour = np.maximum(
        0.5 + np.einsum("nk,nkc->nc", basis[:, : coefficients.shape[1]], coefficients), 0
    )
    colour = srgb_to_linear(colour) if linear else colour
    opacity = 1 / (1 + np.exp(-splats.opacities_logit.astype(np.float64)))
    half = R @ rotations(splats.quats) * np.exp(splats.scales_log.astype(np.float64))[:, None, :]
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    u, v = (x - cx) / fx, (y - cy) / fy  # slopes of the pixels' rays
    image, light = (
        np.zeros((camera.height, camera.width, 3)),
        np.ones((camera.height, camera.width)),
    )
    for i in np.argsort(in_camera[:, 2], kind="stable"):
        if in_camera[i, 2] < NEAR:
            continue
        response = _along_ray if along_rays else _projected
        s = response(in_camera[i], half[i], camera, u, v, blur)
        alpha = opacity[i] * np.exp(-0.5 * s)
        alpha = np.where(alpha < ALPHA_MIN, 0, np.minimum(alpha, ALPHA_MAX))
        image += (light * alpha)[..., None] * colour[i]
        light = light * (1 - alpha)
    return np.concatenate([image, 1 - light[..., None]], -1)


def _projected(
    mean: np.ndarray, half: np.ndarray, camera: Camera, u: np.ndarray, v: np.ndarray, blur: float
) -> np.ndarray:
    """Squared distance from the projected mean in standard deviations; u, v are slopes of the
    pixels' rays.
    """
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    slope = mean[:2] / mean[2]
    low = -np.array([cx + MARGIN * camera.width, cy + MARGIN * camera.height]) / (fx, fy)
    high = np.array(
        [camera.width - cx + MARGIN * camera.width, camera.height - cy + MARGIN * camera.height]
    ) / (fx, fy)
    a, b = np.clip(slope, low, high)
    J = np.array([[fx, 0, -fx * a], [0, fy, -fy * b]]) / mean[2]
    conic = np.linalg.inv(J @ half @ half.T @ J.T + blur * np.eye(2))
    x, y = fx * (u - slope[0]), fy * (v - slope[1])
    return (conic[0, 0] * x + 2 * conic[0, 1] * y) * x + conic[1, 1] * y * y


def _along_ray(
    mean: np.ndarray, half: np.ndarray, camera: Camera, u: np.ndarray, v: np.ndarray, blur: float
) -> np.ndarray:
    """Squared distance of the ray from the mean where the Gaussian is a unit sphere; blur widens
    the scales as a pixel at z.
    """
    lengths = np.linalg.norm(half, axis=0)
    wide = np.sqrt(lengths**2 + blur * mean[2] ** 2 / (camera.K[0, 0] * camera.K[1, 1]))
    whiten = (half / lengths / wide).T
    m = whiten @ mean
    d = [row[0] * u + row[1] * v + row[2] for row in whiten]
    along = d[0] * m[0] + d[1] * m[1] + d[2] * m[2]
    return m @ m - along**2 / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Decibels for values in [0, 1]."""
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))
