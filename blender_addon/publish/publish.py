"""Publish a set for layout: a library file that others link, with an override of its place only.

    <folder>/SS_<shot>_v001.blend     the collection SS_<shot>, marked as an asset with catalogue
    and preview
    <folder>/blender_assets.cats.txt  the catalogue, so that the folder is an asset library

The names inside have no number, so a new version takes the place of an old one under every link:
`use_newest` points a file's library at the newest version, and placements, animation of the
placement and links stay. In the file that publishes, the set is replaced by its own link.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np

from ...engine.bridge.errors import UserError
from ...engine.bridge.whole_file import replacing_path
from ..splats import exact_colours, splat_object, view_colours
from ..ui.grey_with_reason import GreyWithReason
from . import collections
from .production import PROXY

CATALOGUE = "Scene Splatter"
_CATALOGUE_FILE = "blender_assets.cats.txt"
_CATALOGUE_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "catalogue.scene_splatter"))
_VERSION = re.compile(r"_v(\d+)$")
_PREVIEW_PX = 256
_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()
PLACEMENT = "scene_splatter_placement"  # custom property of the empty that carries the whole set


class Published(NamedTuple):
    """A library on disk and what this file now shows of it."""

    path: Path
    version: int
    collection: (
        bpy.types.Collection | None
    )  # the override in this file, None if it was not linked back


def publish(
    scene: bpy.types.Scene, root: bpy.types.Collection, folder: Path, *, link_back: bool = True
) -> Published:
    """Write `root` as the next version of its shot into `folder`; show the link in place of the
    local set.

    Raises UserError where the folder cannot be written or the set holds no splats; then nothing is
    changed on disk.
    """
    if root.library is not None or root.override_library is not None:
        raise UserError(
            f"{root.name} is linked already.",
            "Make a new version in the file that holds it, or generate a new set.",
        )
    if not any(splat_object.is_splat_object(ob) for ob in root.all_objects):
        raise UserError(f"{root.name} holds no splats.", "Choose a set with a splat object in it.")
    name = _VERSION.sub("", root.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Choose another one."
        ) from error
    version = 1 + max((n for n, _ in versions(folder, name)), default=0)
    path = folder / f"{name}_v{version:03d}.blend"
    place = placement(root)
    rendered = [ob for ob in root.all_objects if PROXY in ob and not ob.hide_render]
    for (
        proxy
    ) in rendered:  # whoever links the set has no view layer that keeps it apart from the splats
        proxy.hide_render = True
    displaced = _use_plain_names(root, name)
    _mark(root, f"Version {version}")
    for ob in filter(splat_object.is_splat_object, root.all_objects):
        exact_colours.stand_alone(ob)
    _write_library(path, root)
    view_colours.sync(scene)
    _write_catalogue(folder)
    if not link_back:
        for proxy in rendered:
            proxy.hide_render = False
        _give_back_names(displaced)
        return Published(path, version, None)
    older = _linked_library(folder, name)
    matrix = place.matrix_world.copy()
    uses = _uses_of({ob for ob in root.all_objects if _only_in(ob, root)})
    _remove_local(scene, root)
    _give_back_names(displaced)
    shown = None
    if older is not None:
        relocate(older, path)
        shown = next(
            (
                c
                for c in bpy.data.collections
                if c.override_library and c.override_library.reference.library == older
            ),
            None,
        )
    if shown is None:
        shown = link(scene, path, name)
        _place_of(shown).matrix_world = matrix
    _use_instead(uses, shown)
    return Published(path, version, shown)


def versions(folder: Path, name: str) -> list[tuple[int, Path]]:
    """(number, file) of every published version of a shot, oldest first."""
    found = []
    for file in folder.glob(f"{name}_v*.blend"):
        match = _VERSION.search(file.stem)
        if match and file.stem[: match.start()] == name:
            found.append((int(match[1]), file))
    return sorted(found)


def link(scene: bpy.types.Scene, path: Path, name: str) -> bpy.types.Collection:
    """Link the collection `name` of a library and override it so that only its placement can be
    changed.

    Raises UserError when the file holds no such collection.
    """
    with bpy.data.libraries.load(str(path), link=True, relative=bool(bpy.data.filepath)) as (
        source,
        target,
    ):
        if name not in source.collections:
            raise UserError(
                f"{path.name} holds no collection {name}.", "Choose a file that Publish wrote."
            )
        target.collections = [name]
    linked = target.collections[0]
    scene.collection.children.link(linked)
    view_layer = scene.view_layers[0]
    shown = linked.override_hierarchy_create(scene, view_layer, do_fully_editable=False)
    if any(
        child == linked for child in scene.collection.children
    ):  # the override stands beside what it overrides
        scene.collection.children.unlink(linked)
    _place_of(shown).override_library.is_system_override = False
    return shown


def use_newest(library: bpy.types.Library) -> int | None:
    """Point a published library at the newest version beside it; returns its number, None where it
    is the newest.
    """
    path = Path(bpy.path.abspath(library.filepath))
    match = _VERSION.search(path.stem)
    if match is None:
        return None
    found = versions(path.parent, path.stem[: match.start()])
    if not found or found[-1][0] <= int(match[1]):
        return None
    relocate(library, found[-1][1])
    return found[-1][0]


def relocate(library: bpy.types.Library, path: Path) -> None:
    """Read a library's data from another file; what links to it stays linked."""
    bpy.ops.wm.lib_relocate(
        library=library.name,
        directory=str(path.parent) + os.sep,
        filename=path.name,
        relative_path=bool(bpy.data.filepath),
    )


def published_libraries() -> list[bpy.types.Library]:
    """Libraries of the open file that `publish` wrote."""
    return [
        lib
        for lib in bpy.data.libraries
        if any(collections.MARK in c for c in bpy.data.collections if c.library == lib)
    ]


# --- the local set
# ---------------------------------------------------------------------------------


def placement(root: bpy.types.Collection, *, everything: bool = False) -> bpy.types.Object:
    """An empty that carries the objects of the set, at first at the world's origin; kept once it is
    made.

    everything: also those that others use too, such as the camera that the user made.
    """
    place = next((ob for ob in root.objects if PLACEMENT in ob), None)
    if place is None:
        place = bpy.data.objects.new(f"{root.name} placement", None)
        place[PLACEMENT] = True
        place.empty_display_type, place.empty_display_size = "ARROWS", 0.5
        root.objects.link(place)
    for ob in list(root.all_objects):
        if (
            ob is not place and ob.parent is None and (everything or _only_in(ob, root))
        ):  # an object that others use stays theirs
            ob.parent = place
            ob.matrix_parent_inverse = place.matrix_world.inverted()
    return place


def _only_in(ob: bpy.types.Object, root: bpy.types.Collection) -> bool:
    return all(c == root or c in root.children_recursive for c in ob.users_collection)


def _place_of(root: bpy.types.Collection) -> bpy.types.Object:
    return next(ob for ob in root.objects if PLACEMENT in ob)


def _use_plain_names(root: bpy.types.Collection, name: str) -> list[tuple[bpy.types.ID, str]]:
    """Names without the set's number, the same in every version: links go by name.

    Others who hold such a name (the override of an older version) step aside; they and their names
    are returned.
    """
    old = root.name
    own = [ob for ob in root.all_objects if _only_in(ob, root)]
    blocks: list[bpy.types.ID] = [root, *root.children_recursive, *own]
    blocks += [ob.data for ob in own if ob.data is not None and ob.data.library is None]
    displaced = []
    for block in dict.fromkeys(blocks):
        if not block.name.startswith(old):
            continue
        wanted = name + block.name[len(old) :]
        taken = _HOMES[block.id_type]().get((wanted, None)) if block.id_type in _HOMES else None
        if taken is not None and taken != block:
            displaced.append((taken, wanted))
            taken.name = f"{wanted} older"
        block.name = wanted
    return displaced


_HOMES = {
    "COLLECTION": lambda: bpy.data.collections,
    "OBJECT": lambda: bpy.data.objects,
    "POINTCLOUD": lambda: bpy.data.pointclouds,
    "CAMERA": lambda: bpy.data.cameras,
}


def _give_back_names(displaced: list[tuple[bpy.types.ID, str]]) -> None:
    for block, name in displaced:
        if _HOMES[block.id_type]().get((name, None)) is None:
            block.name = name


def _mark(root: bpy.types.Collection, description: str) -> None:
    root.asset_mark()
    data = root.asset_data
    data.catalog_id = _CATALOGUE_ID
    data.description = f"Gaussian scene. {description}"
    data.author = ""
    for tag in ("gaussian splats", "scene splatter"):
        if tag not in data.tags:
            data.tags.new(tag)
    _set_preview(root)


def _set_preview(root: bpy.types.Collection) -> None:
    """The picture that the scene was made from, or a plain square: rendering a preview needs a
    window.

    Blender 5.0 and 5.1 leave it out when they write the library.
    """
    picture = next(
        (
            ob.data
            for ob in root.all_objects
            if ob.type == "EMPTY" and isinstance(ob.data, bpy.types.Image)
        ),
        None,
    )
    pixels = np.tile(np.array([0.2, 0.25, 0.35, 1.0], np.float32), (_PREVIEW_PX, _PREVIEW_PX, 1))
    if picture is not None and picture.size[0] > 0 and picture.channels == 4:
        width, height = picture.size
        whole = np.empty(width * height * 4, np.float32)
        picture.pixels.foreach_get(whole)
        whole = whole.reshape(height, width, 4)
        side = min(width, height)
        top, left = (height - side) // 2, (width - side) // 2
        steps = ((np.arange(_PREVIEW_PX) + 0.5) * side / _PREVIEW_PX).astype(int)
        pixels = whole[np.ix_(top + steps, left + steps)]
    preview = root.preview_ensure()
    preview.image_size = (_PREVIEW_PX, _PREVIEW_PX)
    preview.image_pixels_float.foreach_set(np.ascontiguousarray(pixels, np.float32).ravel())


def _uses_of(own: set[bpy.types.Object]) -> list[tuple[bpy.types.bpy_struct, str, str]]:
    """(owner, attribute, object's name) of what others in the file make of the set: cameras of
    scenes and markers, parents, targets.
    """
    others = [ob for ob in bpy.data.objects if ob not in own]
    owners: list[tuple[bpy.types.bpy_struct, str]] = [
        (scene, "camera") for scene in bpy.data.scenes
    ]
    owners += [(marker, "camera") for scene in bpy.data.scenes for marker in scene.timeline_markers]
    owners += [(ob, "parent") for ob in others]
    owners += [(constraint, "target") for ob in others for constraint in ob.constraints]
    found = [(owner, attribute, getattr(owner, attribute, None)) for owner, attribute in owners]
    return [
        (owner, attribute, ob.name)
        for owner, attribute, ob in found
        if ob is not None and ob in own
    ]


def _use_instead(
    uses: list[tuple[bpy.types.bpy_struct, str, str]], shown: bpy.types.Collection
) -> None:
    """Let the link's objects serve those who used the local ones of the same names."""
    linked = {ob.name: ob for ob in shown.all_objects}
    for owner, attribute, name in uses:
        if name in linked:
            setattr(owner, attribute, linked[name])


def _remove_local(scene: bpy.types.Scene, root: bpy.types.Collection) -> None:
    """Take the local set out of the file; objects that other collections use stay."""
    own = [ob for ob in root.all_objects if _only_in(ob, root)]
    data = [ob.data for ob in own if ob.data is not None]
    children = list(root.children_recursive)
    for ob in own:
        bpy.data.objects.remove(ob)
    for collection in (*children, root):
        bpy.data.collections.remove(collection)
    for block in dict.fromkeys(data):
        if block.users == 0 and isinstance(block, (bpy.types.PointCloud, bpy.types.Camera)):
            bpy.data.batch_remove([block])
    scene.view_layers.update()


# --- files
# -------------------------------------------------------------------------------------------


def _write_library(path: Path, root: bpy.types.Collection) -> None:
    """The set and all it needs, paths relative to the library; the file appears when it is
    whole.
    """
    try:
        with replacing_path(path) as partial:
            bpy.data.libraries.write(
                str(partial), {root}, path_remap="RELATIVE_ALL", fake_user=True, compress=True
            )
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be written: {error}.",
            "Choose a folder that you may write to, on a disk with room.",
        ) from error


def _write_catalogue(folder: Path) -> None:
    """Add our catalogue to the folder's catalogue file; lines of others stay."""
    path = folder / _CATALOGUE_FILE
    line = f"{_CATALOGUE_ID}:{CATALOGUE}:{CATALOGUE}"
    text = (
        path.read_text(encoding="utf-8")
        if path.is_file()
        else "# Asset catalogues of Blender.\n\nVERSION 1\n\n"
    )
    if line in text.splitlines():
        return
    text += "" if text.endswith("\n") else "\n"
    with replacing_path(path) as partial:
        partial.write_text(f"{text}{line}\n", encoding="utf-8")


def _linked_library(folder: Path, name: str) -> bpy.types.Library | None:
    files = {file.resolve() for _, file in versions(folder, name)}
    return next(
        (
            lib
            for lib in bpy.data.libraries
            if Path(bpy.path.abspath(lib.filepath)).resolve() in files
        ),
        None,
    )


# --- operators
# ---------------------------------------------------------------------------------------


class SCENESPLATTER_OT_publish(GreyWithReason, bpy.types.Operator):
    """Write the set of the active splats as a library file with an asset, and show its link here
    instead
    """

    bl_idname = "scene_splatter.publish"
    bl_label = "Publish for Layout"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender reads a plain set)

    directory: bpy.props.StringProperty(
        name="Folder", subtype="DIR_PATH", default="//publish/", options=_RELATIVE
    )
    link_back: bpy.props.BoolProperty(
        name="Link Back",
        description="Show the published set in place of the local one",
        default=True,
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """A local set, and a saved file for its paths to be relative to."""
        ob = context.view_layer.objects.active
        if not splat_object.is_splat_object(ob) or collections.set_of(ob) is None:
            return "Make a splat object of a set active"
        return "" if bpy.data.filepath else "Save the file first: the link is relative to it"

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Ask for the folder."""
        return context.window_manager.invoke_props_dialog(self)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Write, then link."""
        root = collections.set_of(context.view_layer.objects.active)
        try:
            done = publish(
                context.scene,
                root,
                Path(bpy.path.abspath(self.directory)),
                link_back=self.link_back,
            )
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, f"Published {done.path.name}")
        return {"FINISHED"}


class SCENESPLATTER_OT_use_newest(GreyWithReason, bpy.types.Operator):
    """Take the newest published version of every linked set; where it stands and what links to it
    stay
    """

    bl_idname = "scene_splatter.use_newest"
    bl_label = "Use Newest Versions"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012

    @classmethod
    def why_not(cls, _context: bpy.types.Context) -> str:
        """Only with published sets in the file."""
        return "" if published_libraries() else "No published set is linked"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Relocate each library that has a newer sibling."""
        found = [(lib.name, use_newest(lib)) for lib in published_libraries()]
        newer = [f"{name} -> v{number:03d}" for name, number in found if number is not None]
        self.report({"INFO"}, ", ".join(newer) or "All linked sets are the newest")
        return {"FINISHED"}


register, unregister = bpy.utils.register_classes_factory(
    (SCENESPLATTER_OT_publish, SCENESPLATTER_OT_use_newest)
)
