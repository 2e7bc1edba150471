"""Which disc size, how much sharpening, and does the underlay pay? PSNR of the first Gaussians.

    python benchmarks/first_geometry.py PICTURE [PICTURE ...]

Each picture is laid on a wall 4 m away, where a closer view is a known picture: the enlarged
middle. "source" is the view of the picture itself, the other columns are views 1.25, 1.6 and 2.2
times as large, and the least alpha in the closest one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.cameras.intrinsics import intrinsics_from_fov
from engine.geometry import layers
from engine.media import images
from engine.rasterize import rasterize

DISTANCE_M, ZOOMS = 4.0, (1.0, 1.25, 1.6, 2.2)
CASES = [
    (0.4, 0, True),
    (0.4, 2, False),
    (0.4, 2, True),
    (0.4, 3, True),
    (0.4, 5, True),
    (0.35, 2, True),
    (0.3, 1, True),
    (0.3, 2, True),
    (0.25, 1, True),
    (0.25, 2, True),
    (0.5, 2, True),
    (0.6, 2, True),
]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a.clamp(0, 1) - b.clamp(0, 1)) ** 2).mean()))


def measure(image: torch.Tensor, underlay: bool) -> list[float]:
    """PSNR at each zoom, then the least alpha of the closest view."""
    h, w = image.shape[1:]
    K = intrinsics_from_fov(60.0, w, h)
    layered = layers.gaussians_from_depth(image, torch.full((h, w), DISTANCE_M), K)
    gaussians = (
        layered.gaussians
        if underlay
        else layered.gaussians.select(layered.layer != layers.UNDERLAY)
    )
    row: list[float] = []
    alpha = torch.ones(1)
    for zoom in ZOOMS:
        camera = torch.eye(4)[None]
        camera[0, 2, 3] = DISTANCE_M / zoom - DISTANCE_M
        drawn = rasterize(gaussians, K[None], camera, w, h)
        grid = F.affine_grid(torch.eye(2, 3)[None] / zoom, [1, 3, h, w], align_corners=False)
        wanted = F.grid_sample(
            image[None], grid, mode="bicubic", padding_mode="border", align_corners=False
        )[0]
        row.append(psnr(drawn.rgb[0].permute(2, 0, 1), wanted))
        alpha = drawn.alpha[0, 8:-8, 8:-8]
    return [*row, float(alpha.min())]


def main() -> None:
    pictures = []
    for path in sys.argv[1:]:
        pixels = images.load_image(path).pixels
        pictures.append(
            images.resize(pixels, *images.working_size((pixels.shape[2], pixels.shape[1]), 256, 8))
        )
    if not pictures:
        sys.exit(__doc__)
    print("sigma_px  sharpening  underlay   source    x1.25     x1.6     x2.2    alpha")
    for sigma, steps, underlay in CASES:
        layers._SIGMA_PX, layers._SHARPENING_STEPS = sigma, steps
        mean = torch.tensor([measure(image, underlay) for image in pictures]).mean(0).tolist()
        print(
            f"{sigma:8.2f}  {steps:10d}  {underlay!s:>8}"
            + "".join(f"{value:9.2f}" for value in mean)
        )


if __name__ == "__main__":
    main()
