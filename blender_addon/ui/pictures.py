"""The picture of a scene: choosing a file, dropping one on a 3D view, and a thumbnail of it for the
panel.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
import bpy.utils.previews
import numpy as np
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ...engine.bridge.colour import linear_to_srgb
from ...engine.bridge.errors import UserError
from ..cameras import first_camera, operators, picture_header
from ..jobs import delivery, request
from . import properties
from .dropped import OnView

ENDINGS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".tif",
    ".tiff",
    ".exr",
    ".hdr",
    ".bmp",
    ".tga",
    ".jp2",
)
TAB = "Scene Splatter"
_THUMBNAIL_PX = 192  # longest side
_DISPLAYS = (  # how the file browser shows files; its numbers are Blender's own
    ("DEFAULT", "Default", "As it was last", 0),
    ("LIST_VERTICAL", "List", "Names under each other", 1),
    ("THUMBNAIL", "Thumbnails", "Small pictures", 3),
)
_thumbnails: dict[str, bpy.utils.previews.ImagePreviewCollection] = {}
# pictures that a drawing asked for: collection, key, and path or image's name
_wanted: list[tuple[str, str, str]] = []
_KEPT = {"picture": 1, "variants": 32}  # thumbnails that stay when another comes


def choose(context: bpy.types.Context, path: Path) -> list[str]:
    """Make `path` the panel's picture; in a file without a camera of the user's, also the camera
    for it.

    A camera that was made here before gets the new picture's shape and lens, and stays where it is;
    any other is left alone. Returns what was done beside, in sentences. Raises UserError, before
    anything is changed, where the picture cannot be read.
    """
    scene = context.scene
    group = scene.scene_splatter
    request.refuse_unreadable(path)
    group.image_from, group.image_path = "FILE", str(path)
    if group.shot == "shot":
        group.shot = path.stem
    camera = properties.camera_of(scene)
    if camera is None or (group.camera is None and first_camera.is_default_camera(camera)):
        return operators.set_up_camera(context)
    if first_camera.is_ours(camera):
        operators.match(scene, camera)
    return []


class SCENESPLATTER_OT_choose_picture(bpy.types.Operator):
    """Choose the picture from which the scene is made. In a new file this also adds a camera for
    it, with the move below
    """

    bl_idname = "scene_splatter.choose_picture"
    bl_label = "Choose Picture"
    bl_options: ClassVar[set[str]] = {"REGISTER", "UNDO"}

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_image: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    display_type: EnumProperty(items=_DISPLAYS, default="THUMBNAIL", options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """A dropped file is taken at once; else the file browser asks, beside the picture of
        before.
        """
        if self.filepath:
            return self.execute(context)
        before = context.scene.scene_splatter.image_path
        if before:
            self.filepath = bpy.path.abspath(before)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """One undo step."""
        try:
            said = choose(context, Path(bpy.path.abspath(self.filepath)))
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        operators.notes[context.scene.name] = said
        delivery.session.forget_outcome()
        _open_tab(context)
        return {"FINISHED"}


def _open_tab(context: bpy.types.Context) -> None:
    """Show our tab in the view on which a picture was dropped."""
    area = context.area
    if bpy.app.background or area is None or area.type != "VIEW_3D":
        return
    space = area.spaces.active
    if space.show_region_ui:
        return  # the user has it open, at whatever tab
    space.show_region_ui = True

    def choose_tab() -> None:
        for region in area.regions:
            if region.type == "UI" and hasattr(region, "active_panel_category"):
                try:
                    region.active_panel_category = TAB
                except (AttributeError, TypeError):  # 4.2 lets it be read only
                    return

    bpy.app.timers.register(choose_tab, first_interval=0.2)  # the tabs are known once it was drawn


class SCENESPLATTER_FH_picture(OnView, bpy.types.FileHandler):
    """Drop a picture on the 3D view: it becomes the scene's."""

    bl_idname = "SCENESPLATTER_FH_picture"
    bl_label = "Scene Splatter: make a scene of it"
    bl_import_operator = "scene_splatter.choose_picture"
    bl_file_extensions = ";".join(ENDINGS)


def thumbnail(group: properties.SCENESPLATTER_PG_scene) -> int:
    """Icon of the chosen picture, upright; 0 until it is there. Drawing reads no pictures: a timer
    does.
    """
    return _icon("picture", *_key(group))


def thumbnail_of(path: Path) -> int:
    """Icon of a picture file among several that are shown together; 0 until it is there."""
    return _icon("variants", *_key_of_file(path))


def _icon(name: str, key: str, source: str) -> int:
    collection = _thumbnails.get(name)
    if collection is None or not key:
        return 0
    if key not in collection:
        if (name, key, source) not in _wanted:
            _wanted.append((name, key, source))
            if not bpy.app.timers.is_registered(make_wanted):
                bpy.app.timers.register(make_wanted, first_interval=0.05)
        return 0
    return collection[key].icon_id


def _key(group: properties.SCENESPLATTER_PG_scene) -> tuple[str, str]:
    """What a thumbnail is kept under, and where its pixels come from; empty where nothing is
    chosen.
    """
    if group.image_from == "IMAGE":
        image = group.image
        return (f"image {image.name_full} {tuple(image.size)}", image.name) if image else ("", "")
    return _key_of_file(Path(bpy.path.abspath(group.image_path))) if group.image_path else ("", "")


def _key_of_file(path: Path) -> tuple[str, str]:
    try:
        return f"{path} {path.stat().st_mtime_ns}", str(path)
    except OSError:
        return "", ""


def make_wanted() -> None:
    """Make the thumbnails that drawings asked for. For tests too, where timers do not fire."""
    while _wanted:
        name, key, source = _wanted.pop(0)
        small = _small(key, source)
        if name in _thumbnails:
            add_preview(_thumbnails[name], key, small, _KEPT[name])
    delivery.redraw()


def _small(key: str, source: str) -> np.ndarray:
    """uint8 [h, w, 3] of a picture, at most _THUMBNAIL_PX long, upright; grey where it cannot be
    read.
    """
    grey = np.full((8, 8, 3), 64, np.uint8)
    header = None
    try:
        if key.startswith("image "):
            image = bpy.data.images[source].copy()
        else:
            header = picture_header.read(Path(source))
            image = bpy.data.images.load(source)
    except (RuntimeError, KeyError):
        return grey
    try:
        width, height = image.size
        if not width or not height:
            return grey
        share = min(1.0, _THUMBNAIL_PX / max(width, height))
        width, height = max(1, round(width * share)), max(1, round(height * share))
        image.scale(width, height)
        pixels = np.empty(width * height * image.channels, np.float32)
        image.pixels.foreach_get(pixels)
        rgb = pixels.reshape(height, width, image.channels)[::-1]
        rgb = np.repeat(rgb[..., :1], 3, axis=2) if image.channels < 3 else rgb[..., :3]
        if image.is_float:
            rgb = linear_to_srgb(np.clip(np.nan_to_num(rgb), 0.0, 1.0))
        small = (np.clip(rgb, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
        return picture_header.upright(small, header.orientation if header is not None else 1)
    finally:
        bpy.data.images.remove(image)


def add_preview(
    collection: bpy.utils.previews.ImagePreviewCollection,
    key: str,
    picture: np.ndarray,
    kept: int = 1,
) -> None:
    """A picture uint8 [h, w, 3]; the last ones stay too, because a region may still be drawn with
    them.
    """
    for old in list(collection)[:-kept]:
        del collection[old]
    height, width = picture.shape[:2]
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = picture[::-1] / np.float32(255)  # Blender's first row is the lowest
    preview = collection.new(key)
    preview.image_size = width, height
    preview.image_pixels_float.foreach_set(rgba.ravel())


_register, _unregister = bpy.utils.register_classes_factory(
    (SCENESPLATTER_OT_choose_picture, SCENESPLATTER_FH_picture)
)


def register() -> None:
    """Add the operator and the handler of dropped files."""
    for name in _KEPT:
        _thumbnails[name] = bpy.utils.previews.new()
    _register()


def unregister() -> None:
    """Remove them."""
    if bpy.app.timers.is_registered(make_wanted):
        bpy.app.timers.unregister(make_wanted)
    _wanted.clear()
    _unregister()
    for name in _KEPT:
        bpy.utils.previews.remove(_thumbnails.pop(name))
