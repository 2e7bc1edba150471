"""The material that Blender 5.3's own splats need."""

from __future__ import annotations

import bpy

from .node_builder import NodeBuilder

NATIVE_NAME, RADIANCE = "Scene Splatter Native Gaussians", "radiance"


def native_material() -> bpy.types.Material:
    """What Blender 5.3's own splats need: the light that it works out itself. Made when it is first
    asked for.

    Blender puts each Gaussian's colour, in linear light, into the attribute `radiance`, and sees to
    opacity. A material that does not read it shows splats black, or lit by the scene.
    """
    for material in bpy.data.materials:
        if material.get("scene_splatter_native") == 1 and material.library is None:
            return material
    material = bpy.data.materials.new(NATIVE_NAME)
    material["scene_splatter_native"] = 1
    if hasattr(material, "cycles"):
        material.cycles.emission_sampling = "NONE"
    tree = material.node_tree
    tree.nodes.clear()
    b = NodeBuilder(tree)
    colour = b.output(
        "ShaderNodeAttribute", "Color", attribute_name=RADIANCE, attribute_type="GEOMETRY"
    )
    light = b.output("ShaderNodeEmission", 0, {"Color": colour})
    b.node("ShaderNodeOutputMaterial", {"Surface": light})
    b.arrange()
    return material
