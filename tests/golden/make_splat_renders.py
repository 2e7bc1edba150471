"""Make splat_renders.npz: a small scene of the engine and its own pictures of it, for the tests in
Blender.

Run from the repository root with the engine's Python: python -m tests.golden.make_splat_renders
The picture is a formula, the depth the built-in box: no outside data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engine.geometry.layers import gaussians_from_depth
from engine.rasterize import rasterize

TARGET = Path(__file__).with_name("splat_renders.npz")
WIDTH, HEIGHT = 96, 64
RENDER_WIDTH, RENDER_HEIGHT = 144, 96
LENSES_MM = (18.0, 35.0, 85.0)
SENSOR_MM = 36.0


def picture() -> torch.Tensor:
    """[3, h, w]: bands, a disc and fine stripes, so that edges and detail both matter."""
    y, x = torch.meshgrid(
        torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1.5, WIDTH), indexing="ij"
    )
    red = 0.5 + 0.4 * torch.sin(12 * x + 5 * y)
    green = torch.where((x - 0.9) ** 2 + (y - 0.4) ** 2 < 0.06, 0.9, 0.25 + 0.4 * y)
    blue = 0.5 + 0.35 * torch.cos(40 * y) * (x > 0.5)
    return torch.stack([red, green, blue]).clamp(0, 1)


def depth() -> torch.Tensor:
    """[h, w] metres: a floor, a back wall at 7 m and a block that stands out at 3 m."""
    y, x = torch.meshgrid(
        torch.linspace(-0.5, 0.5, HEIGHT), torch.linspace(-0.75, 0.75, WIDTH), indexing="ij"
    )
    floor = torch.where(y > 0.02, 1.2 / y.clamp_min(0.02), torch.inf)
    block = torch.where((x - 0.15).abs().lt(0.18) & (y + 0.05).abs().lt(0.2), 3.0, torch.inf)
    return torch.minimum(torch.minimum(floor, block), torch.tensor(7.0))


def main() -> None:
    """Write the file."""
    image_K = torch.tensor([[WIDTH / 1.5, 0, WIDTH / 2], [0, WIDTH / 1.5, HEIGHT / 2], [0, 0, 1]])
    gaussians = gaussians_from_depth(picture(), depth(), image_K, blending="linear").gaussians
    angle = 0.12
    world_from_camera = torch.eye(4)
    world_from_camera[:3, :3] = torch.tensor(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    world_from_camera[:3, 3] = torch.tensor([-0.25, -0.1, 0.3])
    camera_from_world = torch.linalg.inv(world_from_camera)
    parts = {name: t.numpy() for name, t in gaussians._asdict().items()}
    parts |= {"world_from_camera": world_from_camera.numpy(), "lenses_mm": np.array(LENSES_MM)}
    for blending in ("linear", "display"):
        pictures = []
        for lens in LENSES_MM:
            f = lens * RENDER_WIDTH / SENSOR_MM
            K = torch.tensor([[f, 0, RENDER_WIDTH / 2], [0, f, RENDER_HEIGHT / 2], [0, 0, 1]])
            drawn = rasterize(
                gaussians,
                K[None],
                camera_from_world[None],
                RENDER_WIDTH,
                RENDER_HEIGHT,
                blending=blending,
            )
            pictures.append(torch.cat([drawn.rgb[0], drawn.alpha[0]], -1).numpy())
        parts[blending] = np.stack(pictures).astype(np.float16)
    np.savez_compressed(TARGET, **parts)


if __name__ == "__main__":
    main()
