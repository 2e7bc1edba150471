"""Collects surface textures from freely licensed pictures into one array for the ray caster.

Sources (none of them is a picture that depth is judged on):
- OpenArena's textures, Debian's openarena-081-textures, GPL-2.0-or-later;
- scikit-image's astronaut, brick, camera, chelsea, coffee, grass, gravel, moon: CC0 or public
domain;
- Blender's eight studio lights for world shading, CC0.

    python training/depth/textures.py OPENARENA_FOLDER BLENDER_DATAFILES_FOLDER textures.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 96
_SKIMAGE = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "moon")


def _crops(picture: Image.Image, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    out = []
    w, h = picture.size
    for _ in range(count):
        side = int(min(w, h) * rng.uniform(0.35, 1.0))
        x, y = rng.integers(0, w - side + 1), rng.integers(0, h - side + 1)
        crop = picture.crop((x, y, x + side, y + side)).resize(
            (SIDE, SIDE), Image.Resampling.LANCZOS
        )
        out.append((np.asarray(crop, np.float32) / 255) ** 2.2)
    return out


def _light(path: Path) -> Image.Image:
    import OpenEXR

    with OpenEXR.File(str(path)) as file:
        pixels = file.channels()["RGB"].pixels
    pixels = pixels / (np.percentile(pixels, 90) + 1e-6)
    return Image.fromarray((np.clip(pixels, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8))


def collect(openarena: Path, blender: Path) -> np.ndarray:
    """float16 [n, SIDE, SIDE, 3], linear."""
    import skimage.data

    rng, bank = np.random.default_rng(0), []
    for path in sorted(openarena.rglob("*")):
        if path.suffix.lower() not in (".jpg", ".tga", ".png"):
            continue
        try:
            picture = Image.open(path).convert("RGB")
        except OSError:
            continue
        pixels = np.asarray(picture.resize((32, 32)), np.float32)
        if min(picture.size) < 128 or pixels.std() < 6 or pixels.mean() < 25:
            continue
        bank += _crops(picture, 1, rng)
    for name in _SKIMAGE:
        bank += _crops(Image.fromarray(getattr(skimage.data, name)()).convert("RGB"), 14, rng)
    for path in sorted((blender / "studiolights" / "world").glob("*.exr")):
        bank += _crops(_light(path), 14, rng)
    return np.stack(bank).astype(np.float16)


if __name__ == "__main__":
    made = collect(Path(sys.argv[1]), Path(sys.argv[2]))
    np.save(sys.argv[3], made)
    print(made.shape)
