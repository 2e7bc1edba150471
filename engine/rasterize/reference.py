"""Every Gaussian against every pixel in plain torch: slow, differentiable, any precision. The other
backends' oracle.

Written from the formulas alone; it shares only `constants` with the fast paths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..scene.colour import srgb_to_linear
from ..scene.harmonics import evaluate_sh
from ..scene.quaternions import rotation_from_quaternion
from . import constants as k


def project(gaussians, K: Tensor, camera_from_world: Tensor, width: int, height: int, near: float):
    """Means in pixels [n, 2], covariances [n, 2, 2] in px^2 before blur, depths [n], of one camera;
    EWA (Zwicker et al. 2001).
    """
    R, t = camera_from_world[:3, :3], camera_from_world[:3, 3]
    m = gaussians.means @ R.T + t
    z = torch.where(m[:, 2] >= near, m[:, 2], torch.ones_like(m[:, 2]))
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    slope = m[:, :2] / z[:, None]
    margin = k.FRUSTUM_MARGIN * torch.tensor([width, height], dtype=K.dtype)
    f, c = torch.stack([fx, fy]), torch.stack([cx, cy])
    size = torch.tensor([width, height], dtype=K.dtype)
    clamped = torch.minimum(torch.maximum(slope, -(c + margin) / f), (size - c + margin) / f)
    zero = torch.zeros_like(z)
    J = torch.stack(
        [fx / z, zero, -fx * clamped[:, 0] / z, zero, fy / z, -fy * clamped[:, 1] / z], -1
    ).reshape(-1, 2, 3)
    half = R @ rotation_from_quaternion(gaussians.quats) * gaussians.scales_log.exp()[:, None, :]
    T = J @ half
    return slope * f + c, T @ T.transpose(1, 2), m[:, 2]


def draw_reference(
    gaussians,
    K,
    camera_from_world,
    width,
    height,
    *,
    sh_degree,
    extra,
    depth,
    antialiased,
    near,
    linear,
    offsets_px,
):
    """One camera. Returns channels [3 + depth + e, h, w] before any background, and alpha [1, h,
    w].
    """
    means, covariance, depths = project(gaussians, K, camera_from_world, width, height, near)
    if offsets_px is not None:
        means = means + offsets_px
    blurred = covariance + k.BLUR_PX2 * torch.eye(2, dtype=means.dtype)
    opacity = torch.sigmoid(gaussians.opacities_logit)
    if antialiased:
        opacity = opacity * (covariance.det().clamp_min(0) / blurred.det()).sqrt()
    centre = -camera_from_world[:3, :3].T @ camera_from_world[:3, 3]
    colour = evaluate_sh(
        gaussians.sh_dc, gaussians.sh_rest, gaussians.means - centre, sh_degree
    ).clamp_min(0)
    if linear:
        colour = srgb_to_linear(colour)
    channels = torch.cat(
        [colour] + ([depths[:, None]] if depth else []) + ([extra] if extra is not None else []), -1
    )
    order = torch.argsort(depths.detach(), stable=True)
    order = order[(depths.detach() >= near)[order] & (blurred.detach().det() > 0)[order]]
    return _blend(
        means[order], blurred[order].inverse(), opacity[order], channels[order], width, height
    )


def _blend(means, conics, opacity, channels, width, height):
    y, x = torch.meshgrid(
        torch.arange(height, dtype=means.dtype) + 0.5,
        torch.arange(width, dtype=means.dtype) + 0.5,
        indexing="ij",
    )
    d = torch.stack([x, y], -1)[None] - means[:, None, None]  # [n, h, w, 2]
    s = (0.5 * torch.einsum("nhwi,nij,nhwj->nhw", d, conics, d)).clamp_min(0)
    raw = opacity[:, None, None] * torch.exp(-s)
    alpha = torch.where(raw >= k.ALPHA_MIN, raw.clamp_max(k.ALPHA_MAX), torch.zeros_like(raw))
    light = torch.ones(height, width, dtype=means.dtype)
    alive = torch.ones(height, width, dtype=torch.bool)
    image = torch.zeros(channels.shape[1], height, width, dtype=means.dtype)
    for a, c in zip(alpha, channels, strict=True):
        rest = light * (1 - a)
        alive = alive & (rest > k.T_MIN)
        image = image + torch.where(alive, light * a, 0.0)[None] * c[:, None, None]
        light = torch.where(alive, rest, light)
    return image, (1 - light)[None]
