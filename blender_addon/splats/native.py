"""Between our node-drawn splats and Blender 5.3's own: one click either way.

Both kinds hold the same attributes under the same names, so nothing is resampled: upgrading gives
the point cloud its splat type and a modifier that blurs by less than a pixel in place of the one
that draws; going back does the reverse. Transforms, materials of the user's, animation and links
stay.

Which to take: nodes are exact at one sample in Cycles. Blender's own splats are drawn from every
side and fast by EEVEE, but their transparency is chance in Cycles: the noise falls with the number
of samples.
"""

from __future__ import annotations

from typing import ClassVar

import bpy

from ...engine.bridge.errors import UserError
from . import splat_object
from .native_material import native_material
from .splat_material import splat_material


def to_native(ob: bpy.types.Object) -> None:
    """Let Blender draw the Gaussians of `ob`. Raises UserError where it cannot, or the data are
    linked.
    """
    if not splat_object.is_native():
        raise UserError(
            "This Blender has no splats of its own.", "Blender 5.3 and later have them."
        )
    # An older Blender stored what is a vector of four here as a colour: writing all anew gives
    # every value its type.
    splat_object.replace(
        ob, splat_object.to_splats(ob), blending=ob.get(splat_object.BLENDING, "display")
    )
    ob.data.type = splat_object.NATIVE_TYPE
    _exchange(ob.data.materials, splat_material(), native_material())
    for user in [other for other in bpy.data.objects if other.data == ob.data]:
        modifier = splat_object.modifier_of(user)
        if modifier is not None:
            user.modifiers.remove(modifier)
        splat_object.add_filter(user)


def to_nodes(ob: bpy.types.Object) -> None:
    """Draw the Gaussians of `ob` by our nodes. Raises UserError if it holds none, or is linked."""
    if not splat_object.is_splat_object(ob):
        raise UserError(f"{ob.name} holds no Gaussians.", "Choose a splat object.")
    if not ob.data.is_editable:
        raise UserError(
            f"{ob.name} is linked from another file.", "Change it in that file, or make it local."
        )
    if splat_object.is_native():
        ob.data.type = "POINTS"
        _exchange(ob.data.materials, native_material(), splat_material())
    for user in [other for other in bpy.data.objects if other.data == ob.data]:
        screen_filter = splat_object.filter_of(user)
        if screen_filter is not None:
            user.modifiers.remove(screen_filter)
        splat_object.show_by_nodes(user)


def _exchange(
    materials: bpy.types.IDMaterials, old: bpy.types.Material, new: bpy.types.Material
) -> None:
    """Put `new` where `old` was, or where there is none; materials of the user's own stay."""
    for slot, material in enumerate(materials):
        if material is None or material == old:
            materials[slot] = new
    if len(materials) == 0:
        materials.append(new)


class SCENESPLATTER_OT_upgrade_splats(bpy.types.Operator):
    """Make older splat objects native splats of this Blender, or go back to the add-on's nodes"""

    bl_idname = "scene_splatter.upgrade_splats"
    bl_label = "Upgrade to Native Splats"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    back: bpy.props.BoolProperty(
        name="Back to Nodes", description="Draw by the add-on's nodes again", default=False
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Selected or active splat objects in a Blender that draws splats itself."""
        if not splat_object.is_native():
            cls.poll_message_set("Blender 5.3 and later have native splats")
            return False
        cls.poll_message_set("Make a splat object active")
        return splat_object.is_splat_object(context.view_layer.objects.active)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """All selected splat objects, and the active one."""
        chosen = {*context.selected_objects, context.view_layer.objects.active}
        changed = 0
        for ob in chosen:
            if splat_object.is_splat_object(ob) and splat_object.drawn_natively(ob) == self.back:
                try:
                    (to_nodes if self.back else to_native)(ob)
                except UserError as error:
                    self.report({"WARNING"}, str(error))
                    continue
                changed += 1
        self.report({"INFO"}, f"{changed} splat objects changed")
        return {"FINISHED"}


def register() -> None:
    """Add the operator."""
    bpy.utils.register_class(SCENESPLATTER_OT_upgrade_splats)


def unregister() -> None:
    """Remove it."""
    bpy.utils.unregister_class(SCENESPLATTER_OT_upgrade_splats)
