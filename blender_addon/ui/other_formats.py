"""File > Import and Export of every splat format but the plain .ply, by the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...engine.bridge import axes
from ..jobs import results
from ..jobs.side_job_operator import NeedsSplats, begin, why_not
from . import io_operators
from .dropped import OnView, TakesDrops
from .grey_with_reason import GreyWithReason

_FORMATS = (
    (".spz", "SPZ", "Small, lossy; version 4"),
    (".glb", "glTF binary", "Lossless; KHR_gaussian_splatting, with the camera"),
    (".usdc", "OpenUSD", "Lossless; ParticleField3DGaussianSplat, with the animated camera"),
    (".compressed.ply", "Compressed PLY", "Lossy; PlayCanvas and SuperSplat"),
    (".splat", "splat", "Lossy, no view-dependent colour"),
    (".sog", "SOG", "Smallest, lossy; PlayCanvas and SuperSplat"),
    (".ply", "PLY in other axes", "Lossless"),
)
_READABLE = "*.spz;*.glb;*.gltf;*.usd;*.usda;*.usdc;*.usdz;*.sog;*.splat;*.ksplat;meta.json"
_READABLE += ";*.ply;*.gz;*.zip"
_WITH_CAMERA = (".glb", ".usdc")


def with_ending(path: str, ending: str) -> str:
    """`path` with the ending of a format in the place of another format's, or after all others."""
    if path.lower().endswith(ending):
        return path
    known = sorted((e for e, *_ in _FORMATS), key=len, reverse=True)  # .compressed.ply before .ply
    other = next((e for e in known if path.lower().endswith(e)), "")
    return (path[: -len(other)] if other else path) + ending


class SCENESPLATTER_OT_export_format(NeedsSplats, bpy.types.Operator, ExportHelper):
    """Export the active splats as SPZ, glTF, USD, SOG and others, as they stand in the scene"""

    bl_idname = "scene_splatter.export_format"
    bl_label = "Export Gaussian Splats"
    bl_options: ClassVar = {"REGISTER", "PRESET"}

    filename_ext = ""
    check_extension = None
    filter_glob: StringProperty(default=_READABLE, options={"HIDDEN"})
    file_format: EnumProperty(name="Format", items=_FORMATS, default=".glb")
    axes: EnumProperty(
        name="Axes",
        description="The program that the file is for",
        items=[
            ("AUTO", "The Format's Own", "What readers of the format expect"),
            *((p.name, p.name, p.text) for p in axes.PRESETS.values()),
        ],
    )
    unit_scale: FloatProperty(
        name="Scale",
        description="Multiply all lengths by this",
        default=1.0,
        min=1e-6,
        soft_max=1000.0,
    )
    sh_degree: IntProperty(
        name="SH Degree",
        description="Keep no more view-dependent colour than this",
        default=3,
        min=0,
        max=3,
    )
    with_camera: BoolProperty(
        name="Camera",
        description="Export the scene camera too, where the format has cameras",
        default=True,
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """The browser opens with a name that has the format's ending."""
        result = super().invoke(context, event)
        self.check(context)
        return result

    def check(self, _context: bpy.types.Context) -> bool:
        """Keep the format's ending on the name, so that the browser itself warns of a file that
        is there already.
        """
        before: str = self.filepath
        self.filepath = with_ending(before, self.file_format)
        return self.filepath != before

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write the inputs, then let the engine convert."""
        asked = Path(bpy.path.abspath(self.filepath))
        path = Path(with_ending(str(asked), self.file_format))
        if path != asked and path.exists():  # nobody was asked about that one
            self.report(
                {"ERROR"},
                f"{path.name} exists already. Give the name with its ending to replace it, or "
                "another name.",
            )
            return {"CANCELLED"}
        camera = (
            self.with_camera
            and self.file_format in _WITH_CAMERA
            and context.scene.camera is not None
        )
        settings: dict[str, Any] = {
            "input": "scene.ply",
            "output": str(path),
            "unit_scale": self.unit_scale,
            "sh_degree": self.sh_degree,
        }
        if self.axes != "AUTO":
            settings["axes_out"] = self.axes
        if camera:
            settings["cameras"] = "cameras.json"

        def finish(outputs: dict[str, Any]) -> str:
            return f"{outputs['count']:,} Gaussians: {path.name}, {outputs['lossy']}"

        return begin(self, context, "Export", "convert", settings, finish, camera=camera)


class SCENESPLATTER_OT_import_format(GreyWithReason, bpy.types.Operator, TakesDrops):
    """Import Gaussian splats from SPZ, glTF, USD, SOG, splat or ksplat"""

    bl_idname = "scene_splatter.import_format"
    bl_label = "Import Gaussian Splats"
    bl_options: ClassVar = {"REGISTER", "UNDO", "PRESET"}

    filter_glob: StringProperty(default=_READABLE, options={"HIDDEN"})
    axes: EnumProperty(
        name="Axes",
        description="The axes of the file",
        items=[
            ("AUTO", "As the File Says", "Or what its format's custom is"),
            *((p.name, p.name, p.text) for p in axes.PRESETS.values()),
        ],
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """An engine, and no side job under way."""
        return why_not(context, need_splats=False)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """The engine makes a .ply of it, which is imported as any other."""
        path = Path(bpy.path.abspath(self.filepath))
        scene_name = context.scene.name
        settings = {"input": str(path), "output": "scene.ply", "axes_out": "opencv"} | (
            {} if self.axes == "AUTO" else {"axes_in": self.axes}
        )
        stem = path.parent.name if path.name == "meta.json" else path.name.split(".")[0]

        def finish(outputs: dict[str, Any]) -> str:
            scene = bpy.data.scenes.get(scene_name) or bpy.context.scene
            named = Path(outputs["scene"]).with_name(f"{stem}.ply")
            Path(outputs["scene"]).rename(named)
            ob = results.add(scene, results.read(named))
            ob["scene_splatter_fact_file"] = str(path)
            if scene == bpy.context.scene:
                io_operators.make_active(bpy.context, ob)
            bpy.ops.ed.undo_push(message="Import Gaussian Splats")
            return f"{outputs['count']:,} Gaussians: {ob.name}"

        return begin(self, context, "Import", "convert", settings, finish, splats=False)


class SCENESPLATTER_FH_formats(OnView, bpy.types.FileHandler):
    """Drop any other file of splats on the 3D view; where Blender reads that ending too, it asks
    which is meant.
    """

    bl_idname = "SCENESPLATTER_FH_formats"
    bl_label = "Gaussian splats"
    bl_import_operator = "scene_splatter.import_format"
    bl_file_extensions = ".spz;.glb;.usdz;.usdc;.usda;.sog;.splat;.ksplat"


register, unregister = bpy.utils.register_classes_factory(
    (SCENESPLATTER_OT_export_format, SCENESPLATTER_OT_import_format, SCENESPLATTER_FH_formats)
)
