"""Geometry nodes evaluated in a scene of their own, so that the user's scene is neither changed nor
evaluated for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import bpy


@contextmanager
def evaluated(
    data: bpy.types.Mesh | bpy.types.PointCloud, group: bpy.types.NodeTree
) -> Iterator[bpy.types.Object]:
    """An evaluated object with `data` and the node group as its modifier. It is gone afterwards;
    data and group are the caller's.
    """
    scene, ob = bpy.data.scenes.new("scene_splatter"), bpy.data.objects.new("scene_splatter", data)
    try:
        scene.collection.objects.link(ob)
        ob.modifiers.new("nodes", "NODES").node_group = group
        layer = scene.view_layers[0]
        layer.update()
        yield ob.evaluated_get(layer.depsgraph)
    finally:
        bpy.data.objects.remove(ob)
        bpy.data.scenes.remove(scene)
