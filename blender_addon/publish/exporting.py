"""Splat objects as .ply files."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ...engine.bridge import axes, splat_file
from ..cameras import conversion
from ..splats import splat_object
from . import collections


def write(
    scene: bpy.types.Scene, ob: bpy.types.Object, path: Path, *, in_world: bool = False
) -> int:
    """Write the Gaussians of `ob`; returns their number.

    in_world: as they stand in the scene, in OpenCV axes and metres; else in the object's own axes,
    which brings back what was imported bit for bit. Raises UserError, also for a stretched object
    in the world.
    """
    splats = splat_object.to_splats(ob)
    if in_world:
        splats = axes.transform_splats(splats, opencv_from_object(scene, ob))
    splat_file.write_ply(path, splats, comments_of(ob))
    return len(splats.means)


def comments_of(ob: bpy.types.Object) -> list[str]:
    """What a .ply says of its Gaussians: the blending they were made for, and where they come
    from.
    """
    facts = collections.read_provenance(ob)
    return [
        f"{splat_file.BLENDING_COMMENT} {ob.get(splat_object.BLENDING, 'display')}",
        *(
            f"scene_splatter {key}: {value}"
            for key, value in facts.items()
            if key not in ("file", "blending", "settings")
        ),
    ]


def opencv_from_object(scene: bpy.types.Scene, ob: bpy.types.Object) -> np.ndarray:
    """[4, 4] from an object's axes, as it stands in the scene, to the OpenCV axes and metres of
    files.
    """
    matrix = conversion.OPENCV_FROM_BLENDER @ np.array(ob.matrix_world, np.float64)
    matrix[:3] *= scene.unit_settings.scale_length
    nearest = np.round(matrix)  # Blender's sines of right angles are not quite 0 and 1
    return nearest if np.abs(matrix - nearest).max() < 1e-6 else matrix
