"""The panel of the active splat object: how it is shown, what would render wrongly, where it comes
from.
"""

from __future__ import annotations

import bpy

from ..publish import collections
from ..splats import applying, exact_colours, layout_view, render_check, splat_nodes, splat_object
from .grey_with_reason import GreyWithReason
from .layout import InSidebar, draw_wrapped, sidebar_width

_LAYOUT = ("Percentage", "Point Size", "Crop", "Crop Box")
_VIEWPORT = "Viewports show mixes of light and dark brighter than renders do"
_RENDER = ("SH Degree", "Low-pass", "Along Rays")


def _active(context: bpy.types.Context) -> bpy.types.Object | None:
    ob = context.view_layer.objects.active
    return ob if splat_object.is_splat_object(ob) else None


def _draw_input(layout: bpy.types.UILayout, modifier: bpy.types.NodesModifier, name: str) -> None:
    identifier = splat_nodes.socket_identifier(modifier.node_group, name)
    if hasattr(modifier, "properties"):  # 5.2 and later
        layout.prop(getattr(modifier.properties.inputs, identifier), "value", text=name)
    elif name == "Crop Box":
        layout.prop_search(modifier, f'["{identifier}"]', bpy.data, "objects", text=name)
    else:
        layout.prop(modifier, f'["{identifier}"]', text=name)


def _draw_limit(
    layout: bpy.types.UILayout, ob: bpy.types.Object, modifier: bpy.types.NodesModifier
) -> None:
    """How many of the Gaussians a free view shows, where that is not all."""
    count, limit = len(ob.data.points), splat_nodes.FREE_LIMIT
    if (
        count > limit
        and layout_view.has_free_view(modifier)
        and splat_object.get_input(modifier, "From View")
    ):
        layout.label(text=f"Free view: {limit:,} of {count:,} Gaussians", icon="INFO")


def _draw_exact(layout: bpy.types.UILayout, scene: bpy.types.Scene, width: int) -> None:
    """Whether the compositor keeps the colours of renders, how to have it do so beside nodes of the
    user's, and what it cannot reach.
    """
    if not scene.scene_splatter_match_view:
        return
    layout.prop(scene, "scene_splatter_exact")
    if exact_colours.is_on(scene):
        draw_wrapped(layout, _VIEWPORT, width, icon="INFO")
    elif scene.scene_splatter_exact and exact_colours.is_taken(scene):
        layout.operator("scene_splatter.exact_colours", icon="NODE_COMPOSITING")


class SCENESPLATTER_OT_prepare_render(GreyWithReason, bpy.types.Operator):
    """Set what exact rendering needs: transparent bounces, the view transform, the material's
    render method
    """

    bl_idname = "scene_splatter.prepare_render"
    bl_label = "Set Up Rendering"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender reads a plain set)

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only with a splat object."""
        return "" if _active(context) is not None else "Make a splat object active"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """One undo step."""
        render_check.prepare_scene(context.scene, _active(context))
        return {"FINISHED"}


class SCENESPLATTER_PT_splats(InSidebar, bpy.types.Panel):
    """Layout view, exact rendering, provenance."""

    bl_idname = "SCENESPLATTER_PT_splats"
    bl_label = "Active Splats"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only with a splat object."""
        return _active(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """For the active object."""
        layout, ob, width = self.layout, _active(context), sidebar_width(context)
        assert ob is not None  # poll
        layout.label(text=f"{len(ob.data.points):,} Gaussians", icon="OUTLINER_OB_POINTCLOUD")
        if layout_view.shows_no_colours(context.space_data):
            layout.operator("scene_splatter.show_colours", icon="SHADING_TEXTURE")
        modifier = splat_object.modifier_of(ob)
        if modifier is not None:
            layout.prop(context.scene, "scene_splatter_match_view")
            _draw_exact(layout, context.scene, width)
            if not context.scene.scene_splatter_match_view:
                _draw_input(layout, modifier, "Linear Light")
            row = layout.split(factor=0.4)  # else Blender cuts the name
            row.label(text="Layout View")
            row.prop(context.scene, "scene_splatter_view", text="")
            _draw_limit(layout, ob, modifier)
            column = layout.column(heading="Layout")
            for name in _LAYOUT:
                _draw_input(column, modifier, name)
            if splat_object.get_input(modifier, "Crop Box") is None:
                column.operator("scene_splatter.add_crop_box", icon="CUBE")
            column = layout.column(heading="Render")
            for name in _RENDER:
                _draw_input(column, modifier, name)
        if (
            splat_object.BLENDING not in ob
        ):  # Blender's own importer made it, and lays files on their back
            layout.operator("scene_splatter.stand_upright", icon="ORIENTATION_GLOBAL")
        warnings = render_check.render_warnings(context.scene, ob)
        for warning in warnings:
            draw_wrapped(layout, warning, width, icon="ERROR")
        if warnings:
            layout.operator("scene_splatter.prepare_render", icon="CHECKMARK")
        if applying.applied_by_blender(ob) is not None:
            layout.operator("scene_splatter.repair_applied", icon="FILE_REFRESH")
        layout.operator(
            "scene_splatter.apply_transform", text="Apply Transform", icon="OBJECT_ORIGIN"
        )
        row = layout.row(align=True)
        row.operator("scene_splatter.ruler", text="Scale", icon="DRIVER_DISTANCE").task = "SCALE"
        row.operator("scene_splatter.ruler", text="Level", icon="ORIENTATION_NORMAL").task = "LEVEL"
        row = layout.row(align=True)
        row.operator("scene_splatter.export_splats", text="Export", icon="EXPORT")
        row.operator("scene_splatter.publish", text="Publish", icon="ASSET_MANAGER")
        row.operator("scene_splatter.use_newest", text="", icon="FILE_REFRESH")
        header, body = layout.panel("scene_splatter_provenance", default_closed=True)
        header.label(text="Where It Comes From")
        if body is not None:
            for name, value in collections.read_provenance(ob).items():
                draw_wrapped(body, f"{name.replace('_', ' ')}: {value}", width)


CLASSES = (SCENESPLATTER_OT_prepare_render, SCENESPLATTER_PT_splats)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
