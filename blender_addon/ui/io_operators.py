"""File > Import and Export of Gaussian splats; a finished job is imported by the same operator."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...engine.bridge.errors import UserError
from ..cameras import conversion
from ..jobs import results
from ..publish import exporting
from ..splats import render_check, splat_object
from .dropped import OnView, TakesDrops
from .grey_with_reason import GreyWithReason

_LABEL = "Gaussian splats (.ply)"
_OTHER_LABEL = "Gaussian splats (.spz .glb .usd .sog .splat)"  # the operators of `other_formats`


class SCENESPLATTER_OT_import_splats(bpy.types.Operator, TakesDrops):
    """Import Gaussian splats: 3DGS .ply of any tool, PlayCanvas compressed .ply"""

    bl_idname = "scene_splatter.import_splats"
    bl_label = "Import Gaussian Splats"
    bl_options: ClassVar = {"REGISTER", "UNDO", "PRESET"}

    filename_ext = ".ply"
    filter_glob: StringProperty(default="*.ply;*.gz;*.zip", options={"HIDDEN"})
    blending: EnumProperty(
        name="Made for",
        description="The space in which the Gaussians are blended",
        items=(
            (
                "FILE",
                "What the file says",
                "Display values, unless the file's comments say otherwise",
            ),
            (
                "display",
                "Display values",
                "As 3DGS tools and viewers blend; exact under the Raw view transform",
            ),
            (
                "linear",
                "Linear light",
                "As Blender blends; exact under the Standard view transform",
            ),
        ),
    )
    view_transform: BoolProperty(
        name="Set View Transform",
        description="Take the view transform that shows the colours as they are, "
        "for the whole scene",
        default=False,
    )
    replace: StringProperty(
        name="Replace",
        description="Name of a splat object that takes the new Gaussians",
        options={"HIDDEN", "SKIP_SAVE"},
    )
    collection: StringProperty(
        name="Set",
        description="Name of the set of collections to make",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    number: IntProperty(
        name="Number",
        description="Number of the set, if it is free; 0: the next free one",
        options={"HIDDEN", "SKIP_SAVE"},
    )
    is_result: BoolProperty(
        name="Result",
        description="The panel's job made it: remembered as the scene's last result "
        "in the same undo "
        "step",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Read, check, then change the scene."""
        try:
            replaced = self._replaced(context.scene)
            source = results.read(
                Path(bpy.path.abspath(self.filepath)),
                "" if self.blending == "FILE" else self.blending,
            )
            if replaced is not None:
                results.replace(context.scene, replaced, source)
                ob = replaced
            else:
                ob = results.add(
                    context.scene,
                    source,
                    shot=self.collection,
                    number=self.number,
                    collection=context.collection,
                )
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if self.view_transform:
            render_check.prepare_scene(context.scene, ob)
        if source.notes:
            self.report({"WARNING"}, f"{source.path.name}: {'; '.join(source.notes)}")
        make_active(context, ob)
        if self.is_result:
            context.scene.scene_splatter.last_object = ob
        self.report({"INFO"}, f"{len(source.splats.means):,} Gaussians: {ob.name}")
        return {"FINISHED"}

    def _replaced(self, scene: bpy.types.Scene) -> bpy.types.Object | None:
        if not self.replace:
            return None
        ob = scene.objects.get(self.replace)  # one that was deleted may live on without a scene
        if not splat_object.is_splat_object(ob):
            raise UserError(
                f"There is no splat object named {self.replace}.", "Import it as a new object."
            )
        return ob


def make_active(context: bpy.types.Context, ob: bpy.types.Object) -> None:
    """Select the new object alone, as Blender's importers do, where the view layer shows it."""
    context.view_layer.update()  # 5.2 lists a new object only after this
    if ob.name not in context.view_layer.objects:
        return
    for other in context.view_layer.objects:
        if other.select_get():
            other.select_set(False)
    ob.select_set(True)
    context.view_layer.objects.active = ob


class SCENESPLATTER_OT_export_splats(GreyWithReason, bpy.types.Operator, ExportHelper):
    """Export the active splat object as 3DGS .ply"""

    bl_idname = "scene_splatter.export_splats"
    bl_label = "Export Gaussian Splats"
    bl_options: ClassVar = {"REGISTER", "PRESET"}

    filename_ext = ".ply"
    filter_glob: StringProperty(default="*.ply", options={"HIDDEN"})
    place: EnumProperty(
        name="Place",
        description="What the file's axes are",
        items=(
            (
                "OBJECT",
                "As imported",
                "The object's own axes: what was imported comes out bit for bit, however the "
                "object is placed",
            ),
            (
                "WORLD",
                "As it stands in the scene",
                "World axes turned to the y-down, z-forward axes of such files, in metres",
            ),
        ),
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """A splat object is active."""
        return (
            ""
            if splat_object.is_splat_object(context.view_layer.objects.active)
            else "Make a splat object active"
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write the file."""
        try:
            ob = context.view_layer.objects.active
            count = exporting.write(
                context.scene,
                ob,
                Path(bpy.path.abspath(self.filepath)),
                in_world=self.place == "WORLD",
            )
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, f"{count:,} Gaussians written")
        return {"FINISHED"}


class SCENESPLATTER_OT_import_camera_path(bpy.types.Operator, TakesDrops):
    """Make an animated camera of a camera path file: the engine's path.json or cameras.json, or the
    cameras.json of a 3DGS training
    """

    bl_idname = "scene_splatter.import_camera_path"
    bl_label = "Import Camera Path"
    bl_options: ClassVar = {"REGISTER", "UNDO", "PRESET"}

    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})
    set_render: BoolProperty(
        name="Set Render",
        description="Also take the path's size, pixel aspect and frame rate",
        default=True,
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Read the file, make the camera; it becomes the scene's if there is none."""
        scene, path = context.scene, Path(bpy.path.abspath(self.filepath))
        try:
            camera_path = results.read_cameras(path)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        camera = conversion.add_camera(
            scene,
            camera_path,
            path.stem,
            start=scene.frame_start,
            collection=context.collection,
            set_render=self.set_render,
        )
        scene.camera = scene.camera or camera
        if camera_path.notes:
            self.report({"WARNING"}, f"{path.name}: {' '.join(camera_path.notes)}")
        self.report({"INFO"}, f"{camera_path.count} frames: {camera.name}")
        return {"FINISHED"}


class SCENESPLATTER_FH_ply(OnView, bpy.types.FileHandler):
    """Drop a .ply on the 3D view; Blender asks which importer is meant, its own being another."""

    bl_idname = "SCENESPLATTER_FH_ply"
    bl_label = _LABEL
    bl_import_operator = "scene_splatter.import_splats"
    bl_export_operator = "scene_splatter.export_splats"
    bl_file_extensions = ".ply"


_IMPORTS = (
    ("scene_splatter.import_splats", _LABEL),
    ("scene_splatter.import_format", _OTHER_LABEL),
    ("scene_splatter.import_camera_path", "Scene Splatter camera path (.json)"),
)
_EXPORTS = (
    ("scene_splatter.export_splats", _LABEL),
    ("scene_splatter.export_format", _OTHER_LABEL),
)


def _import_menu(self: bpy.types.Menu, _context: bpy.types.Context) -> None:
    for operator, text in _IMPORTS:
        self.layout.operator(operator, text=text)


def _export_menu(self: bpy.types.Menu, _context: bpy.types.Context) -> None:
    for operator, text in _EXPORTS:
        self.layout.operator(operator, text=text)


_register, _unregister = bpy.utils.register_classes_factory(
    (
        SCENESPLATTER_OT_import_splats,
        SCENESPLATTER_OT_export_splats,
        SCENESPLATTER_OT_import_camera_path,
        SCENESPLATTER_FH_ply,
    )
)


def register() -> None:
    """Add operators and menu entries."""
    _register()
    bpy.types.TOPBAR_MT_file_import.append(_import_menu)
    bpy.types.TOPBAR_MT_file_export.append(_export_menu)


def unregister() -> None:
    """Take them out again."""
    bpy.types.TOPBAR_MT_file_export.remove(_export_menu)
    bpy.types.TOPBAR_MT_file_import.remove(_import_menu)
    _unregister()
