"""The material of splats: what each quad of `splat_nodes` looks like at a point.

    alpha = min(opacity exp(-|a x b|^2 / (2 |b|^2)), 0.999), nothing below 1/255
mixed between transparent and the Gaussian's own light. It is not lit by the scene.
"""

from __future__ import annotations

import bpy

from .node_builder import NodeBuilder, Value
from .splat_nodes import ALPHA_MIN, COLOUR, A, B

MATERIAL_NAME = "Scene Splatter Gaussians"
ALPHA_MAX = 0.999  # the engine's rasterize.constants


def splat_material() -> bpy.types.Material:
    """The shared material; made when it is first asked for."""
    for material in bpy.data.materials:
        if material.get("scene_splatter_version") == 1 and material.library is None:
            return material
    material = bpy.data.materials.new(MATERIAL_NAME)
    material["scene_splatter_version"] = 1
    if bpy.app.version < (5, 0, 0):  # always on later, and deprecated
        material.use_nodes = True
    material.surface_render_method = (
        "BLENDED"  # EEVEE draws the quads in the order that the nodes sorted them into
    )
    material.use_transparency_overlap = True
    if hasattr(material, "cycles"):
        material.cycles.emission_sampling = "NONE"  # a million quads are no lamps
    _make_shader(material.node_tree)
    return material


def _attribute(b: NodeBuilder, name: str, output: str) -> Value:
    return b.output("ShaderNodeAttribute", output, attribute_name=name, attribute_type="GEOMETRY")


def _make_shader(tree: bpy.types.NodeTree) -> None:
    tree.nodes.clear()
    b = NodeBuilder(tree)
    distance = _attribute(b, A, "Vector").cross(_attribute(b, B, "Vector").normalized())
    opacity = _attribute(b, COLOUR, "Alpha")
    alpha = opacity * b.math("EXPONENT", distance.dot(distance) * -0.5)
    alpha = alpha * (1.0 - alpha.less_than(ALPHA_MIN))
    light = b.output("ShaderNodeEmission", 0, {"Color": _attribute(b, COLOUR, "Color")})
    clear = b.output("ShaderNodeBsdfTransparent")
    mixed = b.output("ShaderNodeMixShader", 0, {0: alpha.minimum(ALPHA_MAX), 1: clear, 2: light})
    b.node("ShaderNodeOutputMaterial", {"Surface": mixed})
    b.arrange()
