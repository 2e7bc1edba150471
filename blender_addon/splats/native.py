"""Between our node-drawn splats and Blender 5.3's own: one click either way.

Both kinds hold the same attributes under the same names, so nothing is resampled: upgrading gives the
point cloud its splat type and takes the modifier off, going back does the reverse. Transforms,
materials, animation and links stay.
"""

from __future__ import annotations

from typing import ClassVar

import bpy

from ...engine.bridge.errors import UserError
from . import splat_object


def is_upgraded(ob: bpy.types.Object) -> bool:
    """Whether Blender itself draws the object's Gaussians."""
    return splat_object.is_native() and ob.data.type != _plain_type()


def _plain_type() -> str:
    """The type that point clouds have when nothing else is said."""
    return bpy.types.PointCloud.bl_rna.properties["type"].default


def to_native(ob: bpy.types.Object) -> None:
    """Let Blender draw the Gaussians of `ob`. Raises UserError where it cannot, or the data are linked."""
    if not splat_object.is_native():
        raise UserError(
            "This Blender has no splats of its own.", "Blender 5.3 and later have them."
        )
    splat_object.replace(
        ob, splat_object.to_splats(ob), blending=ob.get(splat_object.BLENDING, "display")
    )
    modifier = splat_object.modifier_of(ob)
    if modifier is not None:
        ob.modifiers.remove(modifier)


def to_nodes(ob: bpy.types.Object) -> None:
    """Draw the Gaussians of `ob` by our nodes. Raises UserError if it holds none, or is linked."""
    if not splat_object.is_splat_object(ob):
        raise UserError(f"{ob.name} holds no Gaussians.", "Choose a splat object.")
    if not ob.data.is_editable:
        raise UserError(
            f"{ob.name} is linked from another file.", "Change it in that file, or make it local."
        )
    if splat_object.is_native():
        ob.data.type = _plain_type()
    splat_object.show_by_nodes(ob)


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
            if splat_object.is_splat_object(ob) and is_upgraded(ob) == self.back:
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
