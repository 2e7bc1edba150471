"""Transforms put into the data of splats, with all that must turn: places, sizes, rotations,
view-dependent colour.

Blender's own Apply moves the points and leaves the rest as it was, without a word: the scene falls
apart. Each cloud therefore carries the places of a few of its points. Where they differ from the
points by one and the same move, turn and scale, Blender's Apply has been used; what it left out is
known then, and can be made up for (`marks`).
"""

from __future__ import annotations

from typing import ClassVar

import bpy
import numpy as np
from mathutils import Matrix

from ...engine.bridge import axes
from ...engine.bridge.errors import UserError
from ..ui.grey_with_reason import GreyWithReason
from . import marks, splat_object


def applied_by_blender(ob: bpy.types.Object) -> np.ndarray | None:
    """The transform [4, 4] that Blender's Apply put into the points of `ob` alone, None if it did
    not.
    """
    return None if splat_object.COUNT in ob.data else marks.move_of(ob.data)


def repair(ob: bpy.types.Object) -> None:
    """Turn and scale what Blender's Apply left as it was. Raises UserError where it was not
    used.
    """
    matrix = applied_by_blender(ob)
    if matrix is None:
        raise UserError(f"{ob.name} needs no repair.", "Its points are where they were.")
    found = splat_object.to_splats(ob)
    turned = axes.transform_splats(found, matrix)._replace(means=found.means)
    splat_object.replace(ob, turned, blending=ob.get(splat_object.BLENDING, "display"))


def apply(ob: bpy.types.Object) -> None:
    """Put the object's own transform into its data; it looks as before and has none. Children stay
    where they are.

    Raises UserError for unequal scales and for what would change others: shared data, animation,
    sequences.
    """
    reason = why_not_apply(ob)
    if reason:
        raise UserError(reason, "Nothing was changed.")
    matrix = ob.matrix_basis.copy()
    turned = axes.transform_splats(splat_object.to_splats(ob), np.array(matrix, np.float64))
    splat_object.replace(ob, turned, blending=ob.get(splat_object.BLENDING, "display"))
    for child in ob.children:
        child.matrix_parent_inverse = matrix @ child.matrix_parent_inverse
    ob.matrix_basis = Matrix.Identity(4)
    ob.delta_location, ob.delta_rotation_euler, ob.delta_scale = (0, 0, 0), (0, 0, 0), (1, 1, 1)


def why_not_apply(ob: bpy.types.Object) -> str:
    """Why the transform of `ob` cannot go into its data, or an empty text."""
    if not ob.data.is_editable:
        return f"{ob.name} is linked from another file"
    if ob.data.users > 1:
        return f"The data of {ob.name} is used by other objects too: make it single-user first"
    if splat_object.COUNT in ob.data or ob.scene_splatter_sequence.pattern:
        return f"{ob.name} plays files, which stay as they are: export it as a sequence"
    animation = ob.animation_data
    driven = animation is not None and any(
        d.data_path.startswith(_TRANSFORMS) for d in animation.drivers
    )
    if animation is not None and (animation.action is not None or driven):
        return f"{ob.name} is animated: clear its animation first"
    return ""


def stand_upright(ob: bpy.types.Object) -> None:
    """Turn an object whose data have y down and z forward, as 3DGS files do, so that it stands in
    Blender's z up.
    """
    upright = Matrix.Rotation(splat_object.UPRIGHT_EULER[0], 4, "X")
    ob.matrix_world = ob.matrix_world @ upright


_TRANSFORMS = ("location", "rotation", "scale", "delta_")


class _OnActive(GreyWithReason):
    """Operators on the active splat object, each one undo step."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """A splat object is active."""
        ob = context.view_layer.objects.active
        return "" if splat_object.is_splat_object(ob) else "Make a splat object active"


class SCENESPLATTER_OT_apply_transform(_OnActive, bpy.types.Operator):
    """Put the transform of the splats into their data, with sizes, rotations and view-dependent
    colour; Blender's own Apply moves the points only
    """

    bl_idname = "scene_splatter.apply_transform"
    bl_label = "Apply Transform to Splats"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """A splat object of its own, without animation."""
        return super().why_not(context) or why_not_apply(context.view_layer.objects.active)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The active object."""
        ob = context.view_layer.objects.active
        try:
            apply(ob)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class SCENESPLATTER_OT_repair_applied(_OnActive, bpy.types.Operator):
    """Turn and scale what Blender's Apply left out: sizes, rotations and view-dependent colour"""

    bl_idname = "scene_splatter.repair_applied"
    bl_label = "Repair Applied Transform"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Blender's Apply was used on the active splats."""
        ob = context.view_layer.objects.active
        return super().why_not(context) or (
            ""
            if applied_by_blender(ob) is not None
            else "Blender's Apply was not used on these splats"
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The active object."""
        try:
            repair(context.view_layer.objects.active)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class SCENESPLATTER_OT_stand_upright(_OnActive, bpy.types.Operator):
    """Stand splats up that Blender's own importer laid on their back: their files have y down and z
    forward
    """

    bl_idname = "scene_splatter.stand_upright"
    bl_label = "Stand Upright"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """All selected splats, and the active ones."""
        chosen = {*context.selected_objects, context.view_layer.objects.active}
        for ob in chosen:
            if splat_object.is_splat_object(ob):
                stand_upright(ob)
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (
        SCENESPLATTER_OT_apply_transform,
        SCENESPLATTER_OT_repair_applied,
        SCENESPLATTER_OT_stand_upright,
    )
)
