"""Splat colours in final pictures without the error of mixing: turned round for the view after
Gaussians are mixed.

`view_colours` gives each Gaussian the light that the view transform shows as its colour, before
Gaussians are mixed in a pixel. Here renders get linear light as it was made, and the compositor
does the rest where pixels are mixed already:
    light = inverse of the view (light of the splats coded as sRGB) / 2^exposure + (picture - it)
Splats that were made for blending display values are rendered and mixed as such, without coding.
Both engines keep the light that reaches the camera from splats, attenuated by all that is in front
of it, in a pass. EEVEE has one of all blended surfaces. Cycles has one of all emission, and one of
all light that comes from a light group, on meshes too: what both have is of the splats, so meshes
that glow stay as they are.

It is on by default. In a compositor that has nodes of the user's it is put behind the render layers
on request.
"""

from __future__ import annotations

from typing import ClassVar

import bpy

from ..ui.grey_with_reason import GreyWithReason
from . import splat_object, view_colours

GROUP_NAME = "Scene Splatter Exact Colours"
LIGHT_GROUP = "Splats"
_MARK = "scene_splatter_exact"  # custom property of the group: what it was made for
_OURS = "scene_splatter_tree"  # custom property of a compositor that we made
_LINEAR, _SRGB = "Linear Rec.709", "sRGB"
_TOO_BRIGHT = "where light and dark splats share a pixel, renders are brighter than they were made."
_NEW = bpy.app.version >= (5, 0, 0)  # the compositor is a node group of the scene
_ENDS = {
    "CompositorNodeComposite",
    "NodeGroupOutput",
    "CompositorNodeRLayers",
    "CompositorNodeViewer",
}


def why_not(scene: bpy.types.Scene) -> str:
    """Why the compositor of `scene` cannot do it, or an empty text."""
    if not _has_pass_of_splats(scene):
        return "Only Cycles and EEVEE keep the light of splats in a pass"
    if not scene.render.use_compositing:
        return "Compositing is off in the scene's Post Processing"
    if scene.render.engine != "CYCLES" and _shows_others(scene):
        return "EEVEE cannot tell linked or instanced splats from those of this file"
    return view_colours.why_not(scene)


def why_off(scene: bpy.types.Scene) -> str:
    """Why renders of `scene` mix colours less well than they could, or an empty text."""
    if not scene.scene_splatter_exact or is_on(scene) or not _is_needed(scene):
        return ""
    if why_not(scene):
        return f"{why_not(scene)}: {_TOO_BRIGHT}"
    return f"The compositor has nodes of yours: {_TOO_BRIGHT}" if is_taken(scene) else ""


def is_on(scene: bpy.types.Scene) -> bool:
    """Whether the compositor of `scene` does it."""
    return bool(_placed(scene)) and scene.render.use_compositing


def is_taken(scene: bpy.types.Scene) -> bool:
    """Whether the compositor of `scene` has nodes of the user's, so that he is asked first."""
    tree = _tree(scene)
    return tree is not None and not _is_plain(tree) and not _placed(scene)


def sync(scene: bpy.types.Scene) -> None:
    """Switch it on, off or bring it up to date, as the scene wants it and its view needs it."""
    wanted = (
        bool(bpy.data.pointclouds)
        and scene.scene_splatter_match_view
        and scene.scene_splatter_exact
        and not why_not(scene)
        and _is_needed(scene)
    )
    if not wanted:
        if _placed(scene):
            switch_off(scene)
    elif not _placed(scene):
        if not is_taken(scene):
            switch_on(scene)
    elif any(node.node_tree.get(_MARK) != _made_for(scene) for node in _placed(scene)):
        switch_on(scene)
    elif scene.render.engine == "CYCLES":
        _join_light_group(scene)


def blending_of(scene: bpy.types.Scene) -> str:
    """The space in which renders mix the scene's splats, linear or display: the one that they were
    made for, linear where they differ or Blender itself draws them.
    """
    splats = _splats(scene)
    by_nodes = all(splat_object.modifier_of(ob) is not None for ob in splats)
    made_for = {ob.get(splat_object.BLENDING, "display") for ob in splats}
    return "display" if by_nodes and made_for == {"display"} else "linear"


def stand_alone(ob: bpy.types.Object) -> None:
    """Have `ob` need no compositor, for files that others link."""
    modifier = splat_object.modifier_of(ob)
    if modifier is not None and view_colours.has_inputs(modifier):
        splat_object.set_input(modifier, "Match in Renders", True)
    if ob.lightgroup == LIGHT_GROUP:
        ob.lightgroup = ""


def _is_needed(scene: bpy.types.Scene) -> bool:
    """Whether the view shows the splats' blending, as it is, otherwise than as it was made."""
    if not _splats(scene):
        return False
    as_is = {"linear": "Standard", "display": "Raw"}[blending_of(scene)]
    return view_colours.needs_table(scene) or scene.view_settings.view_transform != as_is


def _splats(scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """Splats that can be told how to be drawn."""
    return [
        ob for ob in scene.objects if splat_object.is_splat_object(ob) and not _stands_alone(ob)
    ]


def _stands_alone(ob: bpy.types.Object) -> bool:
    """Whether `ob` is linked, or drawn by nodes of an older file, and keeps its colours itself."""
    modifier = splat_object.modifier_of(ob)
    return not ob.is_editable or (modifier is not None and not view_colours.has_inputs(modifier))


def _shows_others(scene: bpy.types.Scene) -> bool:
    """Whether there are splats in `scene` that stand alone, also inside of instances."""
    instanced = {ob.instance_collection for ob in scene.objects if ob.instance_collection}
    return any(
        splat_object.is_splat_object(ob) and (inside or _stands_alone(ob))
        for inside, objects in (
            (False, scene.objects),
            *((True, collection.all_objects) for collection in instanced),
        )
        for ob in objects
    )


def switch_on(scene: bpy.types.Scene) -> None:
    """Put the group behind the scene's render layers, anew where it is."""
    _take_out(scene)
    tree = _tree(scene) or _new_tree(scene)
    sources = [n for n in tree.nodes if n.bl_idname == "CompositorNodeRLayers" and n.scene == scene]
    for layer in {scene.view_layers.get(node.layer) for node in sources} - {None}:
        _keep_passes(scene, layer)
    if scene.render.engine == "CYCLES":
        _join_light_group(scene)
    group = _make_group(scene)
    for source in sources:
        node = tree.nodes.new("CompositorNodeGroup")
        node.node_tree, node.width = group, 220
        node.location = (source.location.x + 300, source.location.y)
        picture = source.outputs["Image"]
        for link in list(picture.links):
            tree.links.new(node.outputs[0], link.to_socket)
        tree.links.new(picture, node.inputs["Image"])
        tree.links.new(source.outputs["Alpha"], node.inputs["Alpha"])
        for name, output in zip(("A", "B"), _passes(scene, source), strict=True):
            tree.links.new(output, node.inputs[name])


def switch_off(scene: bpy.types.Scene) -> None:
    """Take the group out, and the compositor too if we made it and nobody has added to it."""
    _take_out(scene)
    tree = _tree(scene)
    if tree is None or _OURS not in tree or not _is_plain(tree):
        return
    if _NEW:
        scene.compositing_node_group = None
        bpy.data.node_groups.remove(tree)
    else:
        del tree[_OURS]
        scene.use_nodes = False


def _take_out(scene: bpy.types.Scene) -> None:
    tree, group = _tree(scene), None
    if tree is None:
        return
    for node in _placed(scene):
        group = node.node_tree
        source = node.inputs["Image"].links[0].from_socket if node.inputs["Image"].links else None
        for link in list(node.outputs[0].links):
            if source is not None:
                tree.links.new(source, link.to_socket)
        tree.nodes.remove(node)
    if group is not None and group.users == 0:
        bpy.data.node_groups.remove(group)


def _placed(scene: bpy.types.Scene) -> list[bpy.types.Node]:
    """Our group's nodes in the compositor of `scene`."""
    tree = _tree(scene)
    return [
        node
        for node in (tree.nodes if tree is not None else [])
        if node.bl_idname == "CompositorNodeGroup"
        and node.node_tree is not None
        and _MARK in node.node_tree
    ]


def _made_for(scene: bpy.types.Scene) -> str:
    """What the group and its links depend on."""
    engine = "Cycles" if scene.render.engine == "CYCLES" else "EEVEE"
    return f"{engine} {blending_of(scene)} {view_colours.key_of(scene)}"


def _tree(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    if _NEW:
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def _is_plain(tree: bpy.types.NodeTree) -> bool:
    """A tree that only hands the render on, as Blender makes it."""
    return all(node.bl_idname in _ENDS for node in tree.nodes)


def _new_tree(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    """A compositor that hands on the first view layer that is rendered."""
    if _NEW:
        tree = bpy.data.node_groups.new(GROUP_NAME, "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        scene.compositing_node_group = tree
        end = tree.nodes.new("NodeGroupOutput")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        end = tree.nodes.new("CompositorNodeComposite")
    tree[_OURS] = True
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene = scene
    layers.layer = next(
        (layer for layer in scene.view_layers if layer.use), scene.view_layers[0]
    ).name
    end.location = (700, 0)
    tree.links.new(layers.outputs["Image"], end.inputs[0])
    return tree


# --- passes --------------------------------------------------------------------------------------


def _has_pass_of_splats(scene: bpy.types.Scene) -> bool:
    return scene.render.engine == "CYCLES" or scene.render.engine.startswith("BLENDER_EEVEE")


def _keep_passes(scene: bpy.types.Scene, layer: bpy.types.ViewLayer) -> None:
    """Have a view layer keep the passes that hold the light of splats."""
    if scene.render.engine == "CYCLES":
        layer.use_pass_emit = True
        if LIGHT_GROUP not in layer.lightgroups:
            layer.lightgroups.add(name=LIGHT_GROUP)
    else:
        layer.eevee.use_pass_transparent = True


def _join_light_group(scene: bpy.types.Scene) -> None:
    """Put all splats of the scene that are in no light group into ours."""
    for ob in _splats(scene):
        if not ob.lightgroup and ob.is_editable:
            ob.lightgroup = LIGHT_GROUP


def _passes(
    scene: bpy.types.Scene, source: bpy.types.Node
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """Two pictures of which the darker one, channel by channel, is the light of splats."""
    outputs = {socket.name: socket for socket in source.outputs if socket.enabled}
    if scene.render.engine != "CYCLES":
        blended = outputs.get("Transparent") or outputs["Transp"]
        return blended, blended
    emission = outputs.get("Emission") or outputs["Emit"]
    if any(ob.lightgroup != LIGHT_GROUP for ob in _splats(scene)):  # of the user's own light group
        return emission, emission
    return emission, outputs[f"Combined_{LIGHT_GROUP}"]


# --- the group -----------------------------------------------------------------------------------


def _make_group(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    tree = bpy.data.node_groups.new(GROUP_NAME, "CompositorNodeTree")
    tree[_MARK] = _made_for(scene)
    for name, kind in (("Image", "Color"), ("Alpha", "Float"), ("A", "Color"), ("B", "Color")):
        tree.interface.new_socket(name, in_out="INPUT", socket_type=f"NodeSocket{kind}")
    tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    entry, end = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    picture, splats = entry.outputs["Image"], _mixed(tree, "DARKEN", *entry.outputs[2:4])
    exposure = tree.nodes.new("CompositorNodeExposure")
    exposure.inputs["Exposure"].default_value = -scene.view_settings.exposure
    turned = _turned_round(tree, splats, scene.view_settings, blending_of(scene))
    tree.links.new(turned, exposure.inputs["Image"])
    rest = _mixed(tree, "SUBTRACT", picture, splats)
    summed = _mixed(tree, "ADD", rest, exposure.outputs["Image"])
    with_alpha = tree.nodes.new("CompositorNodeSetAlpha")
    if hasattr(with_alpha, "mode"):
        with_alpha.mode = "REPLACE_ALPHA"
    else:
        with_alpha.inputs["Type"].default_value = "Replace Alpha"
    tree.links.new(summed, with_alpha.inputs["Image"])
    tree.links.new(entry.outputs["Alpha"], with_alpha.inputs["Alpha"])
    tree.links.new(with_alpha.outputs[0], end.inputs[0])
    for number, node in enumerate(tree.nodes):
        node.location = (200 * number, 0)
    return tree


def _turned_round(
    tree: bpy.types.NodeTree,
    splats: bpy.types.NodeSocket,
    view: bpy.types.ColorManagedViewSettings,
    blending: str,
) -> bpy.types.NodeSocket:
    """The light that the view, without its exposure, shows as `splats`: linear light or display
    values.
    """
    colour = _converted(tree, splats, _LINEAR, _SRGB) if blending == "linear" else splats
    if view.gamma != 1.0:  # it comes last: shown = transformed ^ (1 / gamma)
        power = tree.nodes.new("ShaderNodeGamma" if _NEW else "CompositorNodeGamma")
        power.inputs[1].default_value = view.gamma
        tree.links.new(colour, power.inputs[0])
        colour = power.outputs[0]
    if view.view_transform == "Raw":
        return colour
    space = view_colours.space_of(view.view_transform)
    return _converted(tree, colour, space or _SRGB, _LINEAR)


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
    """Put Exact Colours behind the render layers of your own compositor nodes; unticking it takes
    it out again
    """

    bl_idname = "scene_splatter.exact_colours"
    bl_label = "Add to My Compositor"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """An engine with passes, a view that can be undone, render layers in the compositor."""
        scene = context.scene
        reason = why_not(scene)
        if reason:
            return reason
        tree = _tree(scene)
        if tree is not None and not any(n.bl_idname == "CompositorNodeRLayers" for n in tree.nodes):
            return "The compositor shows no render layers"
        return ""

    def execute(self, context: bpy.types.Context) -> set[str]:
        """One undo step."""
        scene = context.scene
        scene.scene_splatter_exact = True
        if not is_on(scene):
            switch_on(scene)
        view_colours.sync(scene)
        return {"FINISHED"}


def _changed(_group: object, context: bpy.types.Context) -> None:
    view_colours.sync(context.scene)


_add_classes, _remove_classes = bpy.utils.register_classes_factory(
    (SCENESPLATTER_OT_exact_colours,)
)


def register() -> None:
    """Add the operator, and the scene's choice, on by default."""
    _add_classes()
    bpy.types.Scene.scene_splatter_exact = bpy.props.BoolProperty(
        name="Exact Colours in Renders",
        description="The compositor keeps the splats' colours where pixels are mixed already; off: "
        "each Gaussian is changed before, and where light and dark meet the mix is too bright",
        default=True,
        update=_changed,
    )


def unregister() -> None:
    """Take them out again."""
    del bpy.types.Scene.scene_splatter_exact
    _remove_classes()
