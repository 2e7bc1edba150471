"""Splat colours in Cycles' final pictures without the error of mixing: turned round for the view
after they are mixed.

`view_colours` gives each Gaussian the light that the view transform shows as its colour, before
Gaussians are mixed in a pixel. Here renders get linear light as it was made, and the compositor
does the rest where pixels are mixed already:
    light = inverse of the view (emission coded as sRGB) / 2^exposure + (picture - emission)
Cycles keeps the emission that the camera sees in a pass of its own, attenuated by all that is in
front of it.
"""

from __future__ import annotations

from typing import ClassVar

import bpy

from ..ui.grey_with_reason import GreyWithReason
from . import splat_object, view_colours

GROUP_NAME = "Scene Splatter Exact Colours"
# custom property of the group, and of the tree that we made for it: the view settings
_MARK = "scene_splatter_exact"
_LINEAR, _SRGB = "Linear Rec.709", "sRGB"
_NEW = bpy.app.version >= (5, 0, 0)  # the compositor is a node group of the scene


def why_not(scene: bpy.types.Scene) -> str:
    """Why the compositor of `scene` cannot do it, or an empty text."""
    if scene.render.engine != "CYCLES":
        return "Only Cycles keeps the emission that the camera sees in a pass"
    reason = view_colours.why_not(scene)
    if reason:
        return reason
    if scene.view_settings.gamma != 1.0:
        return "Set Gamma of the colour management to 1 first"
    tree = _tree(scene)
    if tree is not None and _MARK not in tree and not _is_default(tree):
        return "The compositor has nodes already: add the pass Emission and this by hand"
    return ""


def is_on(scene: bpy.types.Scene) -> bool:
    """Whether the compositor of `scene` does it."""
    tree = _tree(scene)
    return tree is not None and _MARK in tree


def is_current(scene: bpy.types.Scene) -> bool:
    """Whether what the compositor does is for the scene's view settings of now."""
    tree = _tree(scene)
    return tree is not None and tree.get(_MARK) == view_colours.key_of(scene)


def switch_on(scene: bpy.types.Scene) -> None:
    """Make the compositor's nodes, anew where they are, and let the nodes of splats render linear
    light.
    """
    for layer in scene.view_layers:
        layer.use_pass_emit = True
    if _NEW:
        tree = scene.compositing_node_group
        if tree is None or _MARK not in tree:
            tree = bpy.data.node_groups.new(GROUP_NAME, "CompositorNodeTree")
            tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
            scene.compositing_node_group = tree
        tree.nodes.clear()
        end = tree.nodes.new("NodeGroupOutput")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        end = tree.nodes.new("CompositorNodeComposite")
    tree[_MARK] = view_colours.key_of(scene)
    scene.render.use_compositing = True
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene = scene
    picture, alpha = layers.outputs["Image"], layers.outputs["Alpha"]
    emission = next(s for s in layers.outputs if s.name in ("Emit", "Emission"))
    view = scene.view_settings
    turned = emission
    if view.view_transform == "Raw":
        turned = _converted(tree, turned, _LINEAR, _SRGB)
    elif view.view_transform != "Standard":
        turned = _converted(tree, turned, _LINEAR, _SRGB)
        turned = _converted(tree, turned, view_colours.space_of(view.view_transform), _LINEAR)
    exposure = tree.nodes.new("CompositorNodeExposure")
    exposure.inputs["Exposure"].default_value = -view.exposure
    tree.links.new(turned, exposure.inputs["Image"])
    rest = _mixed(tree, "SUBTRACT", picture, emission)
    summed = _mixed(tree, "ADD", rest, exposure.outputs["Image"])
    with_alpha = tree.nodes.new("CompositorNodeSetAlpha")
    if hasattr(with_alpha, "mode"):
        with_alpha.mode = "REPLACE_ALPHA"
    else:
        with_alpha.inputs["Type"].default_value = "Replace Alpha"
    tree.links.new(summed, with_alpha.inputs["Image"])
    tree.links.new(alpha, with_alpha.inputs["Alpha"])
    tree.links.new(with_alpha.outputs[0], end.inputs[0])
    for number, node in enumerate(tree.nodes):
        node.location = (200 * number, 0)
    _set_splats(scene)


def switch_off(scene: bpy.types.Scene) -> None:
    """Take the nodes out; splats render in the colours of the viewport again."""
    tree = _tree(scene)
    if tree is not None and _MARK in tree:
        if _NEW:
            scene.compositing_node_group = None
            bpy.data.node_groups.remove(tree)
        else:
            tree.nodes.clear()
            del tree[_MARK]
            scene.use_nodes = False
    _set_splats(scene)


def _set_splats(scene: bpy.types.Scene) -> None:
    for ob in scene.objects:
        if ob.type == "POINTCLOUD" and splat_object.is_splat_object(ob):
            view_colours.match(scene, ob, in_renders=not is_on(scene))


def _tree(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    if _NEW:
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def _is_default(tree: bpy.types.NodeTree) -> bool:
    """A tree that only hands the render on, as Blender makes it."""
    ends = {
        "CompositorNodeComposite",
        "NodeGroupOutput",
        "CompositorNodeRLayers",
        "CompositorNodeViewer",
    }
    return all(node.bl_idname in ends for node in tree.nodes)


def _converted(
    tree: bpy.types.NodeTree, socket: bpy.types.NodeSocket, source: str, target: str
) -> bpy.types.NodeSocket:
    node = tree.nodes.new("CompositorNodeConvertColorSpace")
    node.from_color_space, node.to_color_space = source, target
    tree.links.new(socket, node.inputs[0])
    return node.outputs[0]


def _mixed(
    tree: bpy.types.NodeTree, blend: str, a: bpy.types.NodeSocket, b: bpy.types.NodeSocket
) -> bpy.types.NodeSocket:
    if _NEW:
        node = tree.nodes.new("ShaderNodeMix")
        node.data_type = "RGBA"
        first, second = (next(s for s in node.inputs if s.enabled and s.name == n) for n in "AB")
    else:
        node = tree.nodes.new("CompositorNodeMixRGB")
        first, second = node.inputs[1], node.inputs[2]
    node.blend_type = blend
    node.inputs[0].default_value = 1.0
    tree.links.new(a, first)
    tree.links.new(b, second)
    return next(s for s in node.outputs if s.enabled)


class SCENESPLATTER_OT_exact_colours(GreyWithReason, bpy.types.Operator):
    """Let the compositor keep the splats' colours in Cycles' final pictures, exactly also where
    light and dark meet; meshes that glow are taken for splats
    """

    bl_idname = "scene_splatter.exact_colours"
    bl_label = "Exact Colours in Renders"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Cycles, a view that can be undone, a compositor without nodes."""
        return "" if is_on(context.scene) else why_not(context.scene)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """On, or off again."""
        (switch_off if is_on(context.scene) else switch_on)(context.scene)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory((SCENESPLATTER_OT_exact_colours,))
