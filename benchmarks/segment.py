"""What the method costs: a whole segment against one plain pass of the same prior and the same
optimisation.

    python benchmarks/segment.py [PICTURE] [--width 512] [--frames 25] [--steps 300] [--rounds 1]

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
from engine.method import masks  # noqa: E402
from engine.method.enhance import enhance  # noqa: E402
from engine.method.refine import refine  # noqa: E402
from engine.method.scaffold import build_scaffold, paint  # noqa: E402
from engine.method.views import draw_views  # noqa: E402
from engine.scene.gaussians import concatenate  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "picture", nargs="?", type=Path, default=ROOT / "engine" / "demo" / "image.jpg"
    )
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--move", default="truck:1.5")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    pixels = images.load_image(args.picture).pixels
    width, height = images.working_size((pixels.shape[2], pixels.shape[1]), args.width, 8)
    image, K = images.resize(pixels, width, height), intrinsics_from_fov(60.0, width, height)
    plan = settings.make("standard", prior="patch", refine_steps=args.steps)
    first = gaussians_from_depth(image, Box(plan.geometry).estimate(image, K).depth_m, K).gaussians
    path = trajectory.move(args.move, K=K.numpy(), width=width, height=height, frames=args.frames)
    Ks, cameras = (
        torch.from_numpy(path.K).float(),
        torch.linalg.inv(torch.from_numpy(path.world_from_camera)).float(),
    )
    prior = priors.make_prior(plan, image, "cpu")
    forms = {
        "plain": settings.make("standard", prior="patch", refine_steps=args.steps, momentum="none"),
        "whole method": plan,
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name, chosen in forms.items():
            start = time.process_time()
            views = draw_views(first, Ks, cameras, image, plan, pin_first=True)
            built = build_scaffold(first, views, Ks, cameras, plan)
            ready = time.process_time()
            enhanced = enhance(
                views, built.depth, image, Ks, cameras, prior, chosen, 0, lambda done, total: None
            )
            middle = time.process_time()
            scene = concatenate(first.select(built.kept), paint(built.scaffold, enhanced.frames))
            refined = refine(scene, enhanced.frames, Ks, cameras, steps=args.steps).gaussians
            refined_at = time.process_time()
            draw_views(refined, Ks, cameras, image, plan)
            around = ready - start + time.process_time() - refined_at if name != "plain" else 0.0
            spent[name].append((around, middle - ready, refined_at - middle))
    unknown = float((~masks.known(enhanced.mu)).float().mean())
    print(
        f"{args.frames} frames {width}x{height}, {unknown:.1%} unknown, {args.steps} optimiser "
        f"steps; CPU s, median of {args.rounds}"
    )
    total = {}
    for name, rows in spent.items():
        parts = [statistics.median(column) for column in zip(*rows, strict=True)]
        total[name] = sum(parts)
        print(
            f"{name:14} render and scaffold {parts[0]:6.1f}  prior {parts[1]:6.1f}  "
            f"optimisation {parts[2]:6.1f}  together {total[name]:6.1f}"
        )
    print(
        f"the method costs {total['whole method'] / total['plain']:.2f} times the plain pass "
        "(the released code: 2.0 in the prior)"
    )


if __name__ == "__main__":
    main()
