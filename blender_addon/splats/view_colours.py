"""Splats that look as they were made under any view transform, while the scene keeps its own.

A view transform such as AgX changes every colour on its way to the screen; meshes are lit for it,
splats are photographs that went through a camera's already. So splats emit the light that the
scene's transform shows as their colour: its inverse, sampled on a grid of display values by
Blender's own colour management and looked up by the nodes.

The inverse belongs to each Gaussian, before they are mixed: where light and dark Gaussians share a
pixel the mix is brighter than it was made. `exact_colours` makes final pictures free of that.
Colours that a transform never shows (AgX has no pure red) come as near as it can.
"""

from __future__ import annotations

import threading

import bpy
import numpy as np

from ...engine.bridge.colour import srgb_to_linear
from . import splat_object, view_inverse, view_tables
from .sh_nodes import TABLE_SIDE, TABLE_UNIT

_BY_FORMULA = ("Standard", "Raw")  # view transforms whose inverse needs no colour management
# custom property of a table's image: the view settings that it was made for
KEY = "scene_splatter_view"
_SRGB = "sRGB"


def why_not(scene: bpy.types.Scene) -> str:
    """Why the view of `scene` has no inverse here, or an empty text."""
    view = scene.view_settings
    if view.look != "None" or view.use_curve_mapping:
        return (
            "A look or a curve of the colour management cannot be undone for splats: colours "
            "change a little."
        )
    if getattr(view, "use_white_balance", False):
        return (
            "White balance of the colour management cannot be undone for splats: colours "
            "change a little."
        )
    if scene.display_settings.display_device != _SRGB:
        return (
            "Colours of splats can be kept on the sRGB display only, not on "
            f"{scene.display_settings.display_device}."
        )
    if view.view_transform not in _BY_FORMULA and not space_of(view.view_transform):
        return f"The view transform {view.view_transform} cannot be undone for splats."
    return ""


def space_of(view_transform: str) -> str:
    """The colour space whose values are what the transform puts on an sRGB screen; empty if there
    is none.
    """
    spaces = bpy.types.ColorManagedInputColorspaceSettings.bl_rna.properties["name"].enum_items
    for name in (f"{view_transform} Base {_SRGB}", f"{view_transform} {_SRGB}"):
        if name in spaces:
            return name
    return ""


def key_of(scene: bpy.types.Scene) -> str:
    """What a table depends on."""
    view = scene.view_settings
    return f"{view.view_transform} {view.exposure:.4f} {view.gamma:.4f}"


def light_for(
    colours: np.ndarray, view_transform: str, exposure: float, gamma: float
) -> np.ndarray:
    """[n, 3] display values -> [n, 3] scene-linear light that the view shows as them, by Blender's
    colour management.
    """
    seen = np.clip(colours, 0, 1) ** gamma  # gamma comes last: shown = transformed ^ (1 / gamma)
    if view_transform == "Raw":
        light = seen
    elif view_transform == "Standard":
        light = srgb_to_linear(seen)
    else:
        light = view_inverse.through_files(seen, space_of(view_transform))
    return light / 2.0**exposure


def prepare_table(scene: bpy.types.Scene) -> None:
    """While something else is waited for, have what `table` needs worked out elsewhere."""
    view = scene.view_settings
    space = "" if view.view_transform in _BY_FORMULA else space_of(view.view_transform)
    if scene.scene_splatter_match_view and space:
        view_tables.make_ready(space, view.gamma, TABLE_SIDE)


def table(scene: bpy.types.Scene) -> bpy.types.Image:
    """The inverse of the scene's view as an image of the file: TABLE_SIDE slices of blue, green up,
    red to the right.
    """
    key = key_of(scene)
    for image in bpy.data.images:
        if image.get(KEY) == key and image.library is None:
            return image
    view, side = scene.view_settings, TABLE_SIDE
    if view.view_transform in _BY_FORMULA:
        grid = view_inverse.grid(side)
        light = light_for(grid, view.view_transform, view.exposure, view.gamma)
    else:
        light = view_tables.light_on_grid(space_of(view.view_transform), view.gamma, side)
        light = light / 2.0**view.exposure
    rows = np.ones((side, side * side, 4), np.float32)
    rows[..., :3] = (np.sign(light) * np.log2(1 + np.abs(light) / TABLE_UNIT)).reshape(
        side, side * side, 3
    )
    name = f"Scene Splatter {view.view_transform}"
    image = bpy.data.images.new(name, side * side, side, float_buffer=True, is_data=True)
    image.pixels.foreach_set(rows.ravel())
    image.pack()
    image[KEY] = key
    return image


def match(scene: bpy.types.Scene, ob: bpy.types.Object, *, in_renders: str = "") -> bool:
    """Have our nodes draw `ob` for the scene's view transform; whether anything was changed.

    Standard and Raw need no table: linear light and the stored values are what they show as they
    are. in_renders: the blending, linear or display, that renders are left in (`exact_colours`).
    """
    modifier = splat_object.modifier_of(ob)
    if modifier is None or not ob.is_editable or not has_inputs(modifier):
        return False
    view = scene.view_settings
    wanted: dict[str, object]
    if (
        why_not(scene)
        and view.view_transform not in _BY_FORMULA
        and not space_of(view.view_transform)
    ):
        wanted = {"Match View": False, "Linear Light": ob.get(splat_object.BLENDING) == "linear"}
    elif in_renders or needs_table(scene):
        wanted = {"Match View": True, "View Table": table(scene)}
    elif view.view_transform == "Standard":
        wanted = {"Match View": False, "Linear Light": True}
    else:
        wanted = {"Match View": False, "Linear Light": False}
    if in_renders:
        wanted["Linear Light"] = in_renders == "linear"
    wanted["Match in Renders"] = not in_renders
    changed = False
    for name, value in wanted.items():
        if splat_object.get_input(modifier, name) != value:
            splat_object.set_input(modifier, name, value)
            changed = True
    return changed


def draw_as_made(ob: bpy.types.Object) -> None:
    """Have our nodes emit what `ob` was made with, whatever a scene's view does with it."""
    modifier = splat_object.modifier_of(ob)
    if modifier is None or not ob.is_editable or not has_inputs(modifier):
        return
    as_made = {
        "Match View": False,
        "Match in Renders": True,
        "Linear Light": ob.get(splat_object.BLENDING) == "linear",
    }
    for name, value in as_made.items():
        splat_object.set_input(modifier, name, value)


def needs_table(scene: bpy.types.Scene) -> bool:
    """Whether the view changes linear light and stored values alike; Standard and Raw each show one
    of them as it is.
    """
    view = scene.view_settings
    plain = view.exposure == 0.0 and view.gamma == 1.0
    return not (plain and view.view_transform in _BY_FORMULA)


def is_matched(scene: bpy.types.Scene, ob: bpy.types.Object) -> bool:
    """Whether `ob` is drawn for the scene's view transform as it is now."""
    modifier = splat_object.modifier_of(ob)
    if modifier is None or not has_inputs(modifier):
        return False
    made_for = splat_object.get_input(modifier, "View Table")
    if splat_object.get_input(modifier, "Match View"):
        return isinstance(made_for, bpy.types.Image) and made_for.get(KEY) == key_of(scene)
    linear = bool(splat_object.get_input(modifier, "Linear Light"))
    return key_of(scene) == f"{'Standard' if linear else 'Raw'} 0.0000 1.0000"


def has_inputs(modifier: bpy.types.NodesModifier) -> bool:
    """Whether a modifier's nodes know view tables; those of older files do not."""
    return any(item.name == "View Table" for item in modifier.node_group.interface.items_tree)


def sync(scene: bpy.types.Scene) -> int:
    """Match all splats of a scene that wants it; returns how many were changed."""
    from . import exact_colours  # it needs this module

    exact_colours.sync(scene)
    if not scene.scene_splatter_match_view or not bpy.data.pointclouds:
        return 0
    in_renders = exact_colours.blending_of(scene) if exact_colours.is_on(scene) else ""
    return sum(
        match(scene, ob, in_renders=in_renders)
        for ob in scene.objects
        if ob.type == "POINTCLOUD" and splat_object.is_splat_object(ob)
    )


@bpy.app.handlers.persistent
def _before_render(scene: bpy.types.Scene, *_: object) -> None:
    # A render that a user started runs in a thread, where nothing may be changed; the timer of the
    # layout view has seen to it. A script's render may follow a change of the scene at once.
    if threading.current_thread() is threading.main_thread():
        sync(scene)


def _changed(_group: object, context: bpy.types.Context) -> None:
    scene = context.scene
    sync(scene)
    if not scene.scene_splatter_match_view:
        for ob in scene.objects:
            if ob.type == "POINTCLOUD" and splat_object.is_splat_object(ob):
                draw_as_made(ob)


def register() -> None:
    """Add the scene's choice, on by default."""
    bpy.types.Scene.scene_splatter_match_view = bpy.props.BoolProperty(
        name="Keep Colours",
        description="Splats look as they were made under the scene's own view transform (AgX, "
        "Filmic); the transform stays as it is",
        default=True,
        update=_changed,
    )
    bpy.app.handlers.render_init.append(_before_render)


def unregister() -> None:
    """Take it out again."""
    bpy.app.handlers.render_init.remove(_before_render)
    del bpy.types.Scene.scene_splatter_match_view
