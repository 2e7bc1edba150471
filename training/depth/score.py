"""Scores a depth source on real pictures with true cameras, by the protocol of the trial.

Pictures at 256 wide, the camera from the set's file, depth of every pixel with truth (RGB-D) or of
the projected sparse points, scaled by the median of truth over prediction; AbsRel = mean |p - g| /
g, delta = share with max(p / g, g / p) < 1.25; mean over up to six frames a set, then over the
sets.

    python -m training.depth.score POSED_FOLDER [--weights FILE or CHECKPOINT] [--box] [--sheet
    out.png]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from engine.bridge.settings import GeometrySettings
from engine.geometry.base import DepthSource
from engine.geometry.box import Box

WIDTH, MOST_FRAMES = 256, 6


class View(NamedTuple):
    """A picture with truth at some of its pixels."""

    name: str
    image: torch.Tensor  # [3, h, w]
    K: torch.Tensor  # [3, 3]
    column: np.ndarray  # [n] pixels
    row: np.ndarray
    depth: np.ndarray  # [n] metres, or any unit


def _points(path: Path) -> np.ndarray:
    from plyfile import PlyData

    vertex = PlyData.read(str(path))["vertex"]
    return np.stack([vertex[a] for a in "xyz"], 1).astype(np.float64)


def views(folder: Path) -> list[View]:
    """The frames of one posed set that are judged."""
    facts = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
    frames = sorted(facts["frames"], key=lambda f: f["file_path"])
    frames = [f for f in frames if f.get("depth_file_path") or (folder / "sparse_pc.ply").exists()]
    pick = np.unique(
        np.linspace(0, len(frames) - 1, min(MOST_FRAMES, len(frames))).round().astype(int)
    )
    points = _points(folder / "sparse_pc.ply") if (folder / "sparse_pc.ply").exists() else None
    out = []
    for frame in (frames[i] for i in pick):
        picture = Image.open(folder / frame["file_path"]).convert("RGB")
        scale = WIDTH / picture.width
        w, h = WIDTH, round(picture.height * scale)
        at = {k: frame.get(k, facts.get(k)) for k in ("fl_x", "fl_y", "cx", "cy", "w")}
        s = w / float(at["w"] or picture.width)
        K = torch.tensor(
            [[at["fl_x"] * s, 0, at["cx"] * s], [0, at["fl_y"] * s, at["cy"] * s], [0, 0, 1.0]]
        )
        image = torch.from_numpy(
            np.asarray(picture.resize((w, h), Image.Resampling.LANCZOS), np.float32) / 255
        ).permute(2, 0, 1)
        if frame.get("depth_file_path"):
            truth = np.asarray(Image.open(folder / frame["depth_file_path"]), np.float64) / 1000
            v, u = np.nonzero(truth > 0)
            g = truth[v, u]
            u, v = (
                ((u + 0.5) * w / truth.shape[1]).astype(int),
                ((v + 0.5) * h / truth.shape[0]).astype(int),
            )
        else:
            assert points is not None
            to_camera = np.linalg.inv(np.array(frame["transform_matrix"])) @ np.eye(4)
            p = points @ to_camera[:3, :3].T + to_camera[:3, 3]
            p = p * [1, -1, -1]
            g = p[:, 2]
            ok = g > 1e-6
            p, g = p[ok], g[ok]
            u = np.floor(K[0, 0].item() * p[:, 0] / g + K[0, 2].item()).astype(int)
            v = np.floor(K[1, 1].item() * p[:, 1] / g + K[1, 2].item()).astype(int)
            ok = (u >= 0) & (u < w) & (v >= 0) & (v < h)
            u, v, g = u[ok], v[ok], g[ok]
        out.append(View(f"{folder.name}/{Path(frame['file_path']).stem}", image, K, u, v, g))
    return out


def score(depth: np.ndarray, view: View) -> tuple[float, float]:
    """(AbsRel, delta) of a depth map [h, w] at the view's points, after the median."""
    p = np.minimum(depth[view.row, view.column], 1e4)
    p = p * np.median(view.depth / p)
    ratio = np.maximum(p / view.depth, view.depth / p)
    return float(np.mean(np.abs(p - view.depth) / view.depth)), float(np.mean(ratio < 1.25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("posed", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--box", action="store_true")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source: DepthSource
    if arguments.box:
        source = Box(GeometrySettings(horizon=0.45))
    else:
        from engine.geometry.small_depth import load

        source = load(arguments.weights)
    rows, tiles = [], []
    for folder in sorted(arguments.posed.iterdir()):
        if not (folder / "transforms.json").exists():
            continue
        scores = []
        for view in views(folder):
            depth = source.estimate(view.image, view.K).depth_m.numpy()
            scores.append(score(depth, view))
            tiles.append(_tile(view, depth))
        if not scores:
            continue
        a, d = np.mean(scores, 0)
        rows.append((a, d))
        print(f"{folder.name:20} {len(scores)} frames  AbsRel {a:.3f}  delta {d:.3f}")
    print(
        f"{'mean':20}           AbsRel {np.mean(rows, 0)[0]:.3f}  delta {np.mean(rows, 0)[1]:.3f}"
    )
    if arguments.sheet:
        tiles = [t.resize((384, 128)) for t in tiles]
        sheet = Image.new("RGB", (384 * 4, 128 * ((len(tiles) + 3) // 4)))
        for i, t in enumerate(tiles):
            sheet.paste(t, (384 * (i % 4), 128 * (i // 4)))
        sheet.save(arguments.sheet)


def shade(depth: np.ndarray) -> np.ndarray:
    """Depth as grey [h, w], near bright, on a logarithmic scale; sky black."""
    seen = np.isfinite(depth)
    g = np.log(np.where(seen, depth, 1.0))
    low, high = np.percentile(g[seen], [1, 99]) if seen.any() else (0, 1)
    return np.where(seen, 0.1 + 0.9 * np.clip((high - g) / (high - low + 1e-6), 0, 1), 0)


def _tile(view: View, depth: np.ndarray) -> Image.Image:
    grey = np.repeat(shade(depth)[..., None], 3, 2)
    both = np.concatenate([view.image.permute(1, 2, 0).numpy(), grey], 1)
    return Image.fromarray((both * 255).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
