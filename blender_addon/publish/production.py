"""What a production asks of splats: a proxy mesh, passes for compositing, and the panel of all such
tools.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import bpy
import numpy as np
import plyfile
from bpy.props import BoolProperty, EnumProperty, IntProperty, StringProperty

from ...engine.bridge.errors import UserError
from ..jobs import side_job_operator
from ..jobs.side_job_operator import NeedsSplats, begin, side_job
from ..splats import splat_object
from ..ui.layout import InSidebar
from . import collections

PROXY = "scene_splatter_proxy"  # custom property of a proxy mesh: the name of its splat object
PROXY_LAYER = "Splat Proxy"
_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()


class SCENESPLATTER_OT_make_proxy(NeedsSplats, bpy.types.Operator):
    """Make a mesh of the active splats' surface, for shadows, collisions and snapping"""

    bl_idname = "scene_splatter.make_proxy"
    bl_label = "Make Proxy Mesh"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    faces: IntProperty(
        name="Faces", description="Face budget", default=20_000, min=100, max=2_000_000
    )
    resolution: IntProperty(
        name="Resolution", description="Voxels along the longest side", default=160, min=16, max=512
    )
    use: EnumProperty(
        name="Use",
        items=(
            (
                "SHADOW",
                "Shadow Catcher",
                "A view layer without the splats has only the shadows that fall on it, to lay "
                "over their picture",
            ),
            (
                "HOLDOUT",
                "Holdout",
                "A view layer without the splats has holes where the proxy hides things, to lay "
                "over their picture",
            ),
            ("PLAIN", "Snapping and Collisions", "Seen in the viewport only"),
        ),
    )
    from_camera: BoolProperty(
        name="From the Camera's Path",
        description="Only what the scene camera sees; off: from all around",
        default=True,
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Ask for the budget."""
        return context.window_manager.invoke_props_dialog(self)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write the inputs, then let the engine fuse rendered depth."""
        camera = self.from_camera and context.scene.camera is not None
        use, scene_name = self.use, context.scene.name
        name, metres = (
            context.view_layer.objects.active.name,
            context.scene.unit_settings.scale_length,
        )
        settings: dict[str, Any] = {
            "scene": "scene.ply",
            "output": "proxy.ply",
            "faces": self.faces,
            "resolution": self.resolution,
            "axes": "blender",
        }
        if camera:
            settings["cameras"] = "cameras.json"

        def finish(outputs: dict[str, Any]) -> str:
            ob = bpy.data.objects.get(name)
            if ob is None:
                raise UserError(f"{name} is not in the file any more.", "Make the proxy again.")
            proxy = show_proxy(
                bpy.data.scenes.get(scene_name) or bpy.context.scene,
                ob,
                Path(outputs["mesh"]),
                use,
                metres,
            )
            bpy.ops.ed.undo_push(message="Make Proxy Mesh")
            where = (
                "not rendered" if use == "PLAIN" else f"rendered in the view layer {PROXY_LAYER}"
            )
            return f"{proxy.name}: {outputs['faces']:,} faces, {where}"

        return begin(self, context, "Proxy mesh", "mesh", settings, finish, camera=camera)


def show_proxy(
    scene: bpy.types.Scene, ob: bpy.types.Object, path: Path, use: str, metres: float
) -> bpy.types.Object:
    """The mesh file (Blender's axes, metres, world) as a child of `ob` in its set; an older proxy
    takes the new mesh.

    A plain one is for snapping and collisions and never rendered. Shadow catchers and holdouts are
    rendered in a view layer of their own, without the splats: as they lie in the midst of those,
    they would hide half of them.
    """
    data = plyfile.PlyData.read(str(path))
    places_m = np.stack([data["vertex"][axis] for axis in "xyz"], axis=1).astype(np.float32)
    triangles = np.stack(data["face"]["vertex_indices"]).astype(np.int32)
    proxy = next(
        (child for child in ob.children if PROXY in child and child.override_library is None), None
    )
    mesh = bpy.data.meshes.new(f"{ob.name} proxy")
    mesh.from_pydata((places_m / metres).tolist(), [], triangles.tolist())
    mesh.validate()
    if proxy is None:
        proxy = bpy.data.objects.new(f"{ob.name} proxy", mesh)
        _home_of_proxy(scene, ob).objects.link(proxy)
        proxy.parent = ob
        proxy[PROXY] = ob.name
        proxy.display_type = "WIRE"
    else:
        old, proxy.data = proxy.data, mesh
        if old.users == 0:
            bpy.data.meshes.remove(old)
    proxy.matrix_basis.identity()
    proxy.matrix_parent_inverse = ob.matrix_world.inverted()  # its vertices are in the world's axes
    proxy.is_shadow_catcher, proxy.is_holdout = use == "SHADOW", use == "HOLDOUT"
    proxy.hide_render = use == "PLAIN"
    if use != "PLAIN":
        _render_apart(scene, ob, proxy)
    return proxy


def _home_of_proxy(scene: bpy.types.Scene, ob: bpy.types.Object) -> bpy.types.Collection:
    """A collection for nothing but the proxy: in the set of `ob`, or in the scene where that is
    linked or there is none.
    """
    root = collections.set_of(ob)
    if root is not None and root.library is None and root.override_library is None:
        return collections.part_of(root, collections.PROXY)
    home = bpy.data.collections.new(f"{ob.name} proxy")
    scene.collection.children.link(home)
    return home


def _render_apart(scene: bpy.types.Scene, ob: bpy.types.Object, proxy: bpy.types.Object) -> None:
    """Show the proxy in the view layer PROXY_LAYER only, and the splats in all others but that."""
    if collections.set_of(ob) is None:
        _give_own_collection(ob)
    apart = scene.view_layers.get(PROXY_LAYER) or scene.view_layers.new(PROXY_LAYER)
    for layer in scene.view_layers:
        for collection in (ob if layer == apart else proxy).users_collection:
            for place in _places_of(collection, layer.layer_collection):
                place.exclude = True


def _give_own_collection(ob: bpy.types.Object) -> None:
    """Put an object among others into a collection of its own below theirs: view layers leave out
    whole collections only.
    """
    if any(len(c.objects) == 1 and not c.children for c in ob.users_collection):
        return
    own = bpy.data.collections.new(ob.name)
    for collection in ob.users_collection:
        collection.children.link(own)
        collection.objects.unlink(ob)
    own.objects.link(ob)


def _places_of(
    collection: bpy.types.Collection, below: bpy.types.LayerCollection
) -> list[bpy.types.LayerCollection]:
    """Where a collection stands in a view layer."""
    found = [place for child in below.children for place in _places_of(collection, child)]
    return [*found, below] if below.collection == collection else found


class SCENESPLATTER_OT_render_passes(NeedsSplats, bpy.types.Operator):
    """Render the active splats by the engine through the scene camera: colour, exact alpha, depth
    and normals
    """

    bl_idname = "scene_splatter.render_passes"
    bl_label = "Render Splat Passes"
    bl_options: ClassVar = {"REGISTER"}

    directory: StringProperty(
        name="Folder", subtype="DIR_PATH", default="//passes/", options=_RELATIVE
    )
    kind: EnumProperty(
        name="Files",
        items=(
            ("multilayer", "Multilayer EXR", "All passes in one file a frame, linear"),
            ("exr", "EXR", "A file for each pass, linear"),
            ("png", "PNG", "8-bit display colours, 16-bit depth in millimetres"),
        ),
    )
    holdout: StringProperty(
        name="Holdout",
        description="Depth files of the scene that hide splats, such as //depth_####.exr",
        subtype="FILE_PATH",
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """A splat object, a camera, an engine."""
        return super().why_not(context) or (
            "" if context.scene.camera is not None else "The scene has no camera"
        )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Ask for folder and files."""
        return context.window_manager.invoke_props_dialog(self)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write the inputs, then let the engine render."""
        target = Path(bpy.path.abspath(self.directory))
        settings: dict[str, Any] = {
            "scene": "scene.ply",
            "cameras": "cameras.json",
            "output": str(target),
            "kind": self.kind,
            "first_frame": context.scene.frame_start,
        }
        if self.holdout:
            settings["holdout"] = bpy.path.abspath(self.holdout)
        return begin(
            self,
            context,
            "Passes",
            "render",
            settings,
            lambda out: f"{out['count']} frames in {target}",
            camera=True,
        )


class SCENESPLATTER_OT_cancel_side_job(bpy.types.Operator):
    """Stop what the engine is doing for the splats"""

    bl_idname = "scene_splatter.cancel_side_job"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Only while something runs."""
        return side_job.running

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Ask the engine."""
        side_job.cancel()
        return {"FINISHED"}


class SCENESPLATTER_PT_tools(InSidebar, bpy.types.Panel):
    """Other formats, proxy mesh, passes and publishing; how the running one gets on stands at the
    top of the tab.
    """

    bl_idname = "SCENESPLATTER_PT_tools"
    bl_label = "Production"
    bl_options: ClassVar = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Buttons."""
        column = self.layout.column(align=True)
        column.operator("scene_splatter.export_format", text="Export Other Format", icon="EXPORT")
        column.operator("scene_splatter.make_proxy", icon="MESH_ICOSPHERE")
        column.operator("scene_splatter.render_passes", icon="RENDERLAYERS")
        if splat_object.is_native():
            row = column.row(align=True)
            row.operator("scene_splatter.upgrade_splats", icon="SHADING_RENDERED")
            row.operator("scene_splatter.upgrade_splats", text="", icon="LOOP_BACK").back = True
        row = column.row(align=True)
        row.operator("scene_splatter.publish", icon="ASSET_MANAGER")
        row.operator("scene_splatter.use_newest", text="", icon="FILE_REFRESH")


_register, _unregister = bpy.utils.register_classes_factory(
    (
        SCENESPLATTER_OT_make_proxy,
        SCENESPLATTER_OT_render_passes,
        SCENESPLATTER_OT_cancel_side_job,
        SCENESPLATTER_PT_tools,
    )
)
register = _register


def unregister() -> None:
    """Take the classes out; a side job under way ends."""
    side_job_operator.close()
    _unregister()
