"""File > Import of numbered .ply files as one object that plays them, and File > Export of moving
splats as such files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import bpy
import numpy as np
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...engine.bridge import axes, splat_file
from ...engine.bridge.errors import UserError
from ...engine.bridge.splat_file import Splats
from ..splats import render_check, sequence, splat_object
from ..ui.dropped import OnView, TakesDrops
from ..ui.grey_with_reason import GreyWithReason
from ..ui.layout import InSidebar
from . import exporting

_LABEL = "Gaussian splat sequence (.ply)"


def write_sequence(
    scene: bpy.types.Scene,
    ob: bpy.types.Object,
    path: Path,
    frames: range,
    *,
    in_world: bool = True,
    overwrite: bool = False,
) -> Iterator[Path]:
    """Write what `ob` shows in each frame as PATH_0001.ply and so on, named by the frame; yields
    each file.

    Sequences, modifiers and edits of the data are taken as they are evaluated, without the nodes
    that draw. The scene's frame is put back. Raises UserError; files that exist are not touched
    unless `overwrite`.
    """
    digits = max(4, len(str(max(frames, default=0))))
    targets = [path.with_name(f"{path.stem}_{frame:0{digits}}.ply") for frame in frames]
    if not targets or frames[0] < 0:
        raise UserError("The frame range is empty or begins below 0.", "Choose frames from 0 on.")
    there = [target.name for target in targets if target.exists()]
    if there and not overwrite:
        raise UserError(
            f"{len(there)} files exist already, {there[0]} first.",
            "Choose another name, or switch Overwrite on.",
        )
    before = scene.frame_current, scene.frame_subframe
    comments = exporting.comments_of(ob)
    try:
        with without_drawing(ob):
            for frame, target in zip(frames, targets, strict=True):
                scene.frame_set(frame)
                splats = evaluated(ob)
                if in_world:
                    splats = axes.transform_splats(splats, exporting.opencv_from_object(scene, ob))
                splat_file.write_ply(target, splats, comments)
                yield target
    finally:
        scene.frame_set(before[0], subframe=before[1])


@contextmanager
def without_drawing(ob: bpy.types.Object) -> Iterator[None]:
    """The object evaluated as Gaussians: our nodes that make quads, points or blurred scales of
    them are off meanwhile.
    """
    drawing = [m for m in (splat_object.modifier_of(ob), splat_object.filter_of(ob)) if m]
    shown = [m.show_viewport for m in drawing]
    for modifier in drawing:
        modifier.show_viewport = False
    try:
        yield
    finally:
        for modifier, was in zip(drawing, shown, strict=True):
            modifier.show_viewport = was


def evaluated(ob: bpy.types.Object) -> Splats:
    """The Gaussians that the modifiers of `ob` leave in the current frame. Raises UserError where
    they leave none.
    """
    graph = bpy.context.evaluated_depsgraph_get()
    cloud = ob.evaluated_get(graph).data
    needed = ("scale", "rotation", splat_object.BASE)
    if not isinstance(cloud, bpy.types.PointCloud) or any(
        name not in cloud.attributes for name in needed
    ):
        raise UserError(
            f"The modifiers of {ob.name} leave no Gaussians in this frame.",
            "Switch off the one that makes something else of them.",
        )
    return splat_object.splats_of(cloud, ob.name)


class SCENESPLATTER_OT_import_sequence(bpy.types.Operator, TakesDrops):
    """Import numbered .ply files as one splat object that plays them; choose any one of the
    files
    """

    bl_idname = "scene_splatter.import_sequence"
    bl_label = "Import Splat Sequence"
    bl_options: ClassVar = {"REGISTER", "UNDO", "PRESET"}

    filename_ext = ".ply"
    filter_glob: StringProperty(default="*.ply", options={"HIDDEN"})
    start: IntProperty(
        name="Start Frame", description="The frame of the first file; 0: the scene's first", min=0
    )
    speed: FloatProperty(
        name="Speed", description="Files a frame", default=1.0, min=0.001, max=100.0
    )
    loop: EnumProperty(
        name="At the End",
        items=(
            ("HOLD", "Hold", "The first file before, the last one after"),
            ("LOOP", "Loop", "From the beginning again"),
            ("BOUNCE", "Back and Forth", "Backwards, then forwards again"),
        ),
    )
    reader: EnumProperty(
        name="Read by",
        description="Who reads the file of a frame",
        items=(
            ("AUTO", "Automatic", "Blender's own nodes where it has them, else the add-on"),
            ("NODES", "Blender's Nodes", "Blender 5.3 and later: works without the add-on"),
            (
                "ADDON",
                "The Add-on",
                "Any Blender and compressed .ply; a farm needs the add-on too",
            ),
        ),
    )
    set_range: BoolProperty(
        name="Extend Scene",
        description="Let the scene end no earlier than the sequence",
        default=True,
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Find the files, read the headers, make the object."""
        scene = context.scene
        start = self.start or scene.frame_start
        try:
            files = sequence.find(Path(bpy.path.abspath(self.filepath)))
            ob = sequence.create(
                scene,
                files,
                start=start,
                speed=self.speed,
                loop=self.loop,
                by_nodes={"AUTO": None, "NODES": True, "ADDON": False}[self.reader],
                collection=context.collection,
            )
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if self.set_range:
            last = start + int(np.ceil(files.length / self.speed)) - 1
            scene.frame_end = max(scene.frame_end, last)
        render_check.prepare_scene(scene)
        context.view_layer.update()
        if ob.name in context.view_layer.objects:
            for other in context.selected_objects:
                other.select_set(False)
            ob.select_set(True)
            context.view_layer.objects.active = ob
        who = "Blender's nodes" if sequence.plays_by_nodes(ob) else "the add-on"
        self.report({"INFO"}, f"{files.length} files, read by {who}: {ob.name}")
        return {"FINISHED"}


class SCENESPLATTER_OT_export_sequence(GreyWithReason, bpy.types.Operator, ExportHelper):
    """Export the active splats frame by frame as numbered .ply files"""

    bl_idname = "scene_splatter.export_sequence"
    bl_label = "Export Splat Sequence"
    bl_options: ClassVar = {"REGISTER", "PRESET"}

    filename_ext = ".ply"
    check_existing: BoolProperty(default=False, options={"HIDDEN"})
    filter_glob: StringProperty(default="*.ply", options={"HIDDEN"})
    in_world: BoolProperty(
        name="As It Stands in the Scene",
        description="World axes and metres, so that animation of the object is in the files; off: "
        "the object's own axes",
        default=True,
    )
    overwrite: BoolProperty(
        name="Overwrite", description="Replace files of the same names", default=False
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """A splat object is active."""
        ob = context.view_layer.objects.active
        return "" if splat_object.is_splat_object(ob) else "Make a splat object active"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """All frames of the scene's range."""
        scene, ob = context.scene, context.view_layer.objects.active
        frames = range(scene.frame_start, scene.frame_end + 1, scene.frame_step)
        path = Path(bpy.path.abspath(self.filepath))
        manager, count = context.window_manager, 0
        manager.progress_begin(0, len(frames))
        try:
            written = write_sequence(
                scene, ob, path, frames, in_world=self.in_world, overwrite=self.overwrite
            )
            for _ in written:
                count += 1
                manager.progress_update(count)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        finally:
            manager.progress_end()
        self.report({"INFO"}, f"{count} files written beside {path.parent}")
        return {"FINISHED"}


class SCENESPLATTER_FH_sequence(OnView, bpy.types.FileHandler):
    """Drop one numbered .ply, or all, on the 3D view: Blender asks which importer is meant."""

    bl_idname = "SCENESPLATTER_FH_sequence"
    bl_label = _LABEL
    bl_import_operator = "scene_splatter.import_sequence"
    bl_export_operator = "scene_splatter.export_sequence"
    bl_file_extensions = ".ply"


class SCENESPLATTER_PT_sequence(InSidebar, bpy.types.Panel):
    """How the active object plays its files."""

    bl_idname = "SCENESPLATTER_PT_sequence"
    bl_parent_id = "SCENESPLATTER_PT_splats"
    bl_label = "Sequence"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where the active object plays one."""
        ob = context.view_layer.objects.active
        return splat_object.is_splat_object(ob) and sequence.files_of(ob) is not None

    def draw(self, context: bpy.types.Context) -> None:
        """Start, speed, end; what is read now; why not."""
        ob = context.view_layer.objects.active
        group, files = ob.scene_splatter_sequence, sequence.files_of(ob)
        assert files is not None  # poll
        column = self.layout.column()
        column.use_property_split, column.use_property_decorate = True, False
        for name in ("start", "speed", "loop"):
            column.prop(group, name)
        frame = context.scene.frame_current_final
        index = sequence.index_at(frame, group.start, group.speed, group.loop, files.length)
        column.label(text=f"{files.path(index).name}, {index + 1} of {files.length}")
        who = "Blender's nodes" if sequence.plays_by_nodes(ob) else "the add-on"
        column.label(text=f"Read by {who}", icon="FILE_REFRESH")
        if sequence.PROBLEM in ob:
            column.label(text=ob[sequence.PROBLEM], icon="ERROR")


def _import_menu(self: bpy.types.Menu, _context: bpy.types.Context) -> None:
    self.layout.operator("scene_splatter.import_sequence", text=_LABEL)


def _export_menu(self: bpy.types.Menu, _context: bpy.types.Context) -> None:
    self.layout.operator("scene_splatter.export_sequence", text=_LABEL)


_register, _unregister = bpy.utils.register_classes_factory(
    (
        SCENESPLATTER_OT_import_sequence,
        SCENESPLATTER_OT_export_sequence,
        SCENESPLATTER_FH_sequence,
        SCENESPLATTER_PT_sequence,
    )
)


def register() -> None:
    """Add operators, panel and menu entries."""
    _register()
    bpy.types.TOPBAR_MT_file_import.append(_import_menu)
    bpy.types.TOPBAR_MT_file_export.append(_export_menu)


def unregister() -> None:
    """Take them out again."""
    bpy.types.TOPBAR_MT_file_export.remove(_export_menu)
    bpy.types.TOPBAR_MT_file_import.remove(_import_menu)
    _unregister()
