"""Writes straight_scenes.npz: made pictures with their true depth, for the verdict on a geometry.

Four on which a plain box is wrong where an eye can see it (tables seen from above, a room), and two
rooms more. Made by training/depth from seeds that no network is trained on; textures.npy as
training/README.md has it. The file is of the scenes as they were before valleys and towers came to
them; made again, these seeds give other scenes.

    python -m tests.golden.make_straight_scenes textures.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from training.depth import scenes

SEEDS = tuple(700_000_000 + k for k in (10, 26, 28, 29, 14, 21))


def main(textures: Path) -> None:
    bank = np.load(textures).astype(np.float32)
    made = [scenes.sample(seed, bank, 256, 172) for seed in SEEDS]
    np.savez_compressed(
        Path(__file__).with_name("straight_scenes.npz"),
        image=np.stack([np.rint(m.image * 255) for m in made]).astype(np.uint8),
        depth=np.stack([m.depth for m in made]).astype(np.float16),
        focal_px=np.array([m.focal_px for m in made], np.float32),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
