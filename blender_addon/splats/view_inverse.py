"""The light that a colour space's values stand for, by Blender's own colour management: a picture
file is converted when it is read, and nothing else is.

It is also a script, which a second Blender runs (`view_tables`): so it imports nothing of ours.

    blender -b --factory-startup --python view_inverse.py -- FILE SPACE SIDE GAMMA
"""

from __future__ import annotations

import os
import sys
import tempfile

import bpy
import numpy as np


def through_files(values: np.ndarray, space: str) -> np.ndarray:
    """Values [n, 3] in a colour space -> scene-linear light [n, 3]."""
    rows = np.ones((len(values), 1, 4), np.float32)
    rows[:, 0, :3] = values
    with tempfile.TemporaryDirectory(
        prefix="scene_splatter_", ignore_cleanup_errors=True
    ) as folder:
        path = os.path.join(folder, "view.exr")
        written = bpy.data.images.new("view", 1, len(values), float_buffer=True, is_data=True)
        read = None
        try:
            written.pixels.foreach_set(rows.ravel())
            written.filepath_raw, written.file_format = path, "OPEN_EXR"
            written.save()
            read = bpy.data.images.load(path)
            read.colorspace_settings.name = space
            pixels = np.empty(rows.size, np.float32)
            read.pixels.foreach_get(pixels)
        finally:
            for image in (written, read):
                if image is not None:
                    bpy.data.images.remove(image)
    return pixels.reshape(-1, 4)[:, :3]


def grid(side: int) -> np.ndarray:
    """[side ** 3, 3]: display values from 0 to 1, rows of green, in them slices of blue, in them
    red.
    """
    steps = np.linspace(0, 1, side)
    green, blue, red = np.meshgrid(steps, steps, steps, indexing="ij")
    return np.stack([red, green, blue], -1).reshape(-1, 3)


def keep(path: str, light: np.ndarray) -> None:
    """Write an array whole or not at all. Raises OSError."""
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            np.save(file, light)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


if __name__ == "__main__":
    _path, _space, _side, _gamma = sys.argv[sys.argv.index("--") + 1 :]
    keep(_path, through_files(grid(int(_side)) ** float(_gamma), _space))
