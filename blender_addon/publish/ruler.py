"""A ruler for scenes without scale: two points and their distance scale a set, three points of the
floor level it.

What is scaled or turned is the whole set (splats, its camera, proxy): an empty carries it, so that
nothing inside is touched and animation stays. Splats outside of sets are moved themselves.
"""

from __future__ import annotations

import math
from typing import ClassVar

import blf
import bpy
import gpu
import numpy as np
from bpy.props import EnumProperty, FloatProperty, FloatVectorProperty
from bpy_extras import view3d_utils
from gpu_extras.batch import batch_for_shader
from mathutils import Matrix, Vector

from ...engine.bridge.errors import UserError
from ...engine.bridge.splats import sigmoid
from ..splats import splat_object
from ..ui.grey_with_reason import GreyWithReason
from . import collections
from .publish import placement

_REACH_PX = 8.0  # a click finds Gaussians this near to its ray
_OPAQUE = 0.5  # what hides what is behind it


def pick(
    means: np.ndarray,
    opacities: np.ndarray,
    origin: np.ndarray,
    direction: np.ndarray,
    spread: float,
) -> np.ndarray | None:
    """The place on the surface of Gaussians that a ray meets, [3]; None where it meets none.

    means [n, 3] and a unit direction in the same axes; spread: half width of the ray at distance 1.
    The first Gaussian along the ray at which the opacities met so far let less than half of the
    light through, else the most opaque.
    """
    offset = means - origin
    along = offset @ direction
    aside = np.linalg.norm(offset - along[:, None] * direction, axis=1)
    met = np.flatnonzero((along > 1e-6) & (aside < np.maximum(along, 1e-6) * spread))
    if len(met) == 0:
        return None
    met = met[np.argsort(along[met])]
    # near the ray's middle counts more: a click between two surfaces takes the one under it
    weight = opacities[met] * np.exp(-0.5 * (aside[met] / (along[met] * spread / 2)) ** 2)
    clear = np.cumprod(1 - np.clip(weight, 0, 0.999))
    hidden = np.flatnonzero(clear < 1 - _OPAQUE)
    chosen = met[hidden[0]] if len(hidden) else met[int(np.argmax(weight))]
    return origin + direction * along[chosen]


def scaling(a: Vector, b: Vector, length: float) -> Matrix:
    """World transform that makes the distance from a to b `length` Blender units, with a where it
    is. Raises UserError.
    """
    distance = (b - a).length
    if distance < 1e-9 or length <= 0:
        raise UserError("The two points are one, or the length is zero.", "Pick two points apart.")
    return Matrix.Translation(a) @ Matrix.Scale(length / distance, 4) @ Matrix.Translation(-a)


def levelling(a: Vector, b: Vector, c: Vector) -> Matrix:
    """World transform that turns the plane of three points level, by the shortest way, and puts it
    at height 0.

    The side that is up stays up. Raises UserError for points on a line, and for a plane that
    stands.
    """
    normal = (b - a).cross(c - a)
    if normal.length < 1e-4 * max((b - a).length_squared, (c - a).length_squared, 1e-12):
        raise UserError(
            "The three points lie on one line.", "Pick points of the floor that are far apart."
        )
    normal.normalize()
    if normal.z < 0:
        normal.negate()
    if normal.z < math.cos(math.radians(80)):
        raise UserError("These three points make a wall.", "Pick three points of the floor.")
    turn = normal.rotation_difference(Vector((0, 0, 1))).to_matrix().to_4x4()
    middle = (a + b + c) / 3
    moved = Matrix.Translation(middle) @ turn @ Matrix.Translation(-middle)
    return Matrix.Translation((0, 0, -middle.z)) @ moved


def transform(ob: bpy.types.Object, matrix: Matrix) -> bpy.types.Object:
    """Move the set of `ob` by a world matrix, or `ob` itself where it is in none; returns what was
    moved.
    """
    root = collections.set_of(ob)
    if root is None:
        moved = ob
        while moved.parent is not None:
            moved = moved.parent
    else:
        if root.library is not None or root.override_library is not None:
            moved = next(o for o in root.objects if o.parent is None)
        else:
            moved = placement(root, everything=True)
    if moved.animation_data is not None and moved.animation_data.action is not None:
        raise UserError(
            f"{moved.name} is animated.", "Clear its animation, or parent it to an empty."
        )
    moved.matrix_world = matrix @ moved.matrix_world
    return moved


class SCENESPLATTER_OT_ruler(GreyWithReason, bpy.types.Operator):
    """Click two points of the splats and say how far apart they are: the set is scaled. Or click
    three points of the floor: it is levelled
    """

    bl_idname = "scene_splatter.ruler"
    bl_label = "Ruler"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    task: EnumProperty(
        name="Task",
        items=(
            ("SCALE", "Scale", "Two points and their distance"),
            ("LEVEL", "Level", "Three points of the floor"),
        ),
    )
    length: FloatProperty(
        name="Distance",
        description="How far the two points are apart",
        default=1.0,
        min=1e-6,
        subtype="DISTANCE",
        unit="LENGTH",
    )
    point_a: FloatVectorProperty(name="First", subtype="TRANSLATION", options={"SKIP_SAVE"})
    point_b: FloatVectorProperty(name="Second", subtype="TRANSLATION", options={"SKIP_SAVE"})
    point_c: FloatVectorProperty(name="Third", subtype="TRANSLATION", options={"SKIP_SAVE"})

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """A splat object is active."""
        ob = context.view_layer.objects.active
        return "" if splat_object.is_splat_object(ob) else "Make a splat object active"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """With the points as they are given, world coordinates."""
        a, b, c = (Vector(p) for p in (self.point_a, self.point_b, self.point_c))
        try:
            matrix = scaling(a, b, self.length) if self.task == "SCALE" else levelling(a, b, c)
            moved = transform(context.view_layer.objects.active, matrix)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        context.view_layer.update()
        change = (
            matrix.to_scale()[0]
            if self.task == "SCALE"
            else math.degrees(matrix.to_quaternion().angle)
        )
        unit = "times as large" if self.task == "SCALE" else "degrees turned"
        self.report({"INFO"}, f"{moved.name}: {change:.3g} {unit}")
        return {"FINISHED"}

    def draw(self, _context: bpy.types.Context) -> None:
        """In the dialog after two clicks, and in Adjust Last Operation."""
        self.layout.prop(self, "length" if self.task == "SCALE" else "task")

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Wait for the clicks, in a 3D view."""
        if context.area is None or context.area.type != "VIEW_3D":
            self.report({"ERROR"}, "Start the ruler in a 3D view.")
            return {"CANCELLED"}
        ob = context.view_layer.objects.active
        splats = splat_object.to_splats(ob)
        matrix = np.array(ob.matrix_world, np.float64)
        self._means = splats.means.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        self._opacities = sigmoid(splats.opacities_logit)
        self._points: list[Vector] = []
        self._handle = bpy.types.SpaceView3D.draw_handler_add(
            self._draw_points, (context,), "WINDOW", "POST_PIXEL"
        )
        context.window_manager.modal_handler_add(self)
        self._say(context)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Left click: a point; Backspace: one less; Escape or right click: end. All else is the
        view's.
        """
        if event.type in {"ESC", "RIGHTMOUSE"}:
            self._end(context)
            return {"CANCELLED"}
        if event.type == "BACK_SPACE" and event.value == "PRESS" and self._points:
            self._points.pop()
            self._say(context)
            return {"RUNNING_MODAL"}
        if event.type != "LEFTMOUSE" or event.value != "PRESS":
            return {"PASS_THROUGH"}
        region = next((r for r in context.area.regions if r.type == "WINDOW"), None)
        mouse = (event.mouse_x - region.x, event.mouse_y - region.y) if region else (-1, -1)
        if region is None or not (0 <= mouse[0] < region.width and 0 <= mouse[1] < region.height):
            return {"PASS_THROUGH"}
        found = self._pick(context, region, mouse)
        if found is None:
            self.report({"WARNING"}, "There are no splats under the mouse.")
            return {"RUNNING_MODAL"}
        self._points.append(found)
        self._say(context)
        if len(self._points) < (2 if self.task == "SCALE" else 3):
            return {"RUNNING_MODAL"}
        self._end(context)
        for name, point in zip(("point_a", "point_b", "point_c"), self._points, strict=False):
            setattr(self, name, point)
        if self.task == "LEVEL":
            return self.execute(context)
        self.length = (self._points[1] - self._points[0]).length
        return context.window_manager.invoke_props_dialog(self)

    def _pick(
        self, context: bpy.types.Context, region: bpy.types.Region, mouse: tuple[float, float]
    ) -> Vector | None:
        view = context.area.spaces.active.region_3d
        origin = view3d_utils.region_2d_to_origin_3d(region, view, mouse)
        direction = view3d_utils.region_2d_to_vector_3d(region, view, mouse).normalized()
        beside = (mouse[0] + _REACH_PX, mouse[1])
        spread = direction.angle(view3d_utils.region_2d_to_vector_3d(region, view, beside), 0.0)
        found = pick(
            self._means,
            self._opacities,
            np.array(origin),
            np.array(direction),
            max(math.tan(spread), 1e-3),
        )
        return None if found is None else Vector(found)

    def _say(self, context: bpy.types.Context) -> None:
        done, wanted = len(self._points), 2 if self.task == "SCALE" else 3
        what = "of a known distance" if self.task == "SCALE" else "of the floor"
        context.workspace.status_text_set(
            f"Click point {done + 1} of {wanted} {what}   Backspace: one less   Escape: end"
        )
        context.area.tag_redraw()

    def _end(self, context: bpy.types.Context) -> None:
        bpy.types.SpaceView3D.draw_handler_remove(self._handle, "WINDOW")
        context.workspace.status_text_set(None)
        context.area.tag_redraw()

    def _draw_points(self, context: bpy.types.Context) -> None:
        region, view = context.region, context.region_data
        if view is None:
            return
        places = [view3d_utils.location_3d_to_region_2d(region, view, p) for p in self._points]
        places = [p for p in places if p is not None]
        if not places:
            return
        shader = gpu.shader.from_builtin("UNIFORM_COLOR")
        shader.uniform_float("color", (1.0, 0.6, 0.1, 1.0))
        gpu.state.point_size_set(9.0)
        batch_for_shader(shader, "POINTS", {"pos": places}).draw(shader)
        if len(places) > 1:
            batch_for_shader(shader, "LINE_STRIP", {"pos": places}).draw(shader)
        blf.size(0, 13)
        blf.position(0, places[-1].x + 10, places[-1].y + 6, 0)
        blf.draw(0, str(len(self._points)))


register, unregister = bpy.utils.register_classes_factory((SCENESPLATTER_OT_ruler,))
