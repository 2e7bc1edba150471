"""What momentum costs: a whole segment against one plain pass of the same prior and the same optimisation.

    python benchmarks/segment.py [PICTURE] [--width 256] [--frames 25] [--steps 150] [--rounds 3]

Scene Splatter as released runs the prior twice a segment. Here both runs share what they have
in common. The two forms alternate in one process; the table gives the median CPU seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine import priors  # noqa: E402
from engine.bridge import settings  # noqa: E402
from engine.cameras import trajectory  # noqa: E402
from engine.cameras.intrinsics import intrinsics_from_fov  # noqa: E402
from engine.geometry.box import Box  # noqa: E402
from engine.geometry.layers import gaussians_from_depth  # noqa: E402
from engine.media import images  # noqa: E402
from engine.method import scaffold  # noqa: E402
from engine.method.enhance import enhance  # noqa: E402
from engine.method.refine import refine  # noqa: E402
from engine.method.views import render  # noqa: E402
from engine.scene.gaussians import concatenate  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "picture", nargs="?", type=Path, default=ROOT / "engine" / "demo" / "image.jpg"
    )
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--move", default="truck:1.5")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    pixels = images.load_image(args.picture).pixels
    width, height = images.working_size((pixels.shape[2], pixels.shape[1]), args.width, 8)
    image, K = images.resize(pixels, width, height), intrinsics_from_fov(60.0, width, height)
    plan = settings.make("draft", prior="patch", refine_steps=args.steps)
    first = gaussians_from_depth(image, Box(plan.geometry).estimate(image, K).depth_m, K).gaussians
    path = trajectory.move(args.move, K=K.numpy(), width=width, height=height, frames=args.frames)
    Ks, cameras = (
        torch.from_numpy(path.K).float(),
        torch.linalg.inv(torch.from_numpy(path.world_from_camera)).float(),
    )
    views = render(first, Ks, cameras, image, plan, pin_first=True)
    holes, depth = scaffold.build_scaffold(first, Ks, cameras, width, height, sh_degree=0)
    prior = priors.make_prior(plan, image, "cpu")
    forms = {
        "plain": settings.make("draft", prior="patch", refine_steps=args.steps, momentum="none"),
        "with momentum": plan,
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name, chosen in forms.items():
            start = time.process_time()
            enhanced = enhance(
                views, depth, image, Ks, cameras, prior, chosen, 0, lambda done, total: None
            )
            middle = time.process_time()
            refine(
                concatenate(first, scaffold.paint(holes, enhanced.frames)),
                enhanced.frames,
                Ks,
                cameras,
                steps=args.steps,
            )
            spent[name].append((middle - start, time.process_time() - middle))
    unknown = float((enhanced.mu <= 0.5).float().mean())
    print(
        f"{args.frames} frames {width}x{height}, {unknown:.1%} unknown, {args.steps} optimiser steps; CPU s, median of {args.rounds}"
    )
    total = {}
    for name, rows in spent.items():
        prior_s, refine_s = (statistics.median(column) for column in zip(*rows, strict=True))
        total[name] = prior_s + refine_s
        print(
            f"{name:14} prior {prior_s:6.1f}  optimisation {refine_s:6.1f}  together {total[name]:6.1f}"
        )
    print(
        f"momentum costs {total['with momentum'] / total['plain']:.2f} times the plain segment (the released code: 2.0 in the prior)"
    )


if __name__ == "__main__":
    main()
