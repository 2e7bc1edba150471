"""Numbered .ply files played as one object: which file belongs to which frame, and two ways to show
it.

In Blender 5.3 a chain of nodes reads the file of the frame (Scene Time, Format String, Import PLY):
whoever opens the .blend sees the sequence, on a farm as well, without this add-on. Before, or where
the files are of a kind that Blender cannot read, a handler puts each frame's Gaussians into the
object's own cloud. That cloud is made once, as large as the largest file needs, because no data may
be made or removed while a render runs; what a frame does not need lies at the first Gaussian,
without opacity or size.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bpy
import numpy as np
from bpy.app.handlers import persistent

from ...engine.bridge import splat_file
from ...engine.bridge.errors import UserError
from ...engine.bridge.splat_file import Splats
from . import splat_object
from .node_builder import NodeBuilder, Value

log = logging.getLogger(__name__)

MODIFIER_NAME = "Sequence"
_NUMBERED = re.compile(r"(.*?)(\d+)(\.ply)", re.IGNORECASE)
_HEADER_BYTES = 1 << 16
_NOTHING_LOG = -20.7  # ln of a size that nobody sees; splat_file's smallest
_NO_OPACITY = -30.0  # logit
_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()


class Files(NamedTuple):
    """Numbered files: `folder`/`prefix`NUMBER`suffix`, NUMBER = first, first + step, ... of
    `length` files.
    """

    folder: Path
    prefix: str
    suffix: str
    digits: int  # numbers are padded with zeros to this width, 0: not at all
    first: int
    step: int
    length: int

    def path(self, index: int) -> Path:
        """The file of a place in the sequence, 0 to length - 1."""
        number = str(self.first + index * self.step).zfill(self.digits)
        return self.folder / f"{self.prefix}{number}{self.suffix}"


def find(path: Path) -> Files:
    """The numbered files that `path` is one of. Raises UserError where there are none, or some are
    missing.
    """
    match = _NUMBERED.fullmatch(path.name)
    if match is None:
        raise UserError(
            f"{path.name} has no number before .ply.",
            "Choose one file of a sequence, such as smoke_0001.ply.",
        )
    prefix, _, suffix = match.groups()
    numbers = {}
    for file in path.parent.glob("*"):
        other = _NUMBERED.fullmatch(file.name)
        if other and other[1] == prefix and other[3] == suffix:
            numbers[int(other[2])] = other[2]
    if not numbers:
        raise UserError(f"There is no file {path}.", "Choose one file of a sequence.")
    found = sorted(numbers)
    step = min((b - a for a, b in itertools.pairwise(found)), default=1)
    missing = sorted(set(range(found[0], found[-1] + 1, step)) - set(found))
    if missing or any((number - found[0]) % step for number in found):
        raise UserError(
            f"The sequence {prefix}* is not complete: number "
            f"{missing[0] if missing else found[-1]} does not fit between "
            f"{found[0]} and {found[-1]}.",
            "Put all files of the sequence into one folder, numbered in equal steps.",
        )
    widths = {len(text) for text in numbers.values()}
    digits = max(widths) if len(widths) == 1 else 0
    if digits == 0 and any(text.startswith("0") and len(text) > 1 for text in numbers.values()):
        raise UserError(
            f"Some numbers of {prefix}* begin with zeros, and their lengths differ.",
            "Number the files with as many digits everywhere.",
        )
    return Files(path.parent, prefix, suffix, digits, found[0], step, len(found))


def index_at(frame: float, start: float, speed: float, loop: str, count: int) -> int:
    """The place in a sequence of `count` files that frame shows: floor((frame - start) speed),
    held, looped or bounced.
    """
    place = math.floor((frame - start) * speed + 1e-6)
    if loop == "LOOP":
        return place % count
    if loop == "BOUNCE" and count > 1:
        place %= 2 * count - 2
        return min(place, 2 * count - 2 - place)
    return min(max(place, 0), count - 1)


class SCENESPLATTER_PG_sequence(bpy.types.PropertyGroup):
    """What a splat object plays; empty `pattern`: nothing."""

    def _changed(self, _context: bpy.types.Context) -> None:
        if self.pattern:
            _said(self.id_data, _apply)

    folder: bpy.props.StringProperty(name="Folder", subtype="DIR_PATH", options=_RELATIVE)
    pattern: bpy.props.StringProperty(name="Files", description="Prefix, *, suffix of the files")
    digits: bpy.props.IntProperty()
    first: bpy.props.IntProperty()
    step: bpy.props.IntProperty(default=1)
    count: bpy.props.IntProperty()
    start: bpy.props.IntProperty(
        name="Start Frame", description="The frame of the first file", default=1, update=_changed
    )
    speed: bpy.props.FloatProperty(
        name="Speed",
        description="Files a frame",
        default=1.0,
        min=0.001,
        max=100.0,
        update=_changed,
    )
    loop: bpy.props.EnumProperty(
        name="At the End",
        description="What is shown before the first and after the last file",
        items=(
            ("HOLD", "Hold", "The first file before, the last one after"),
            ("LOOP", "Loop", "From the beginning again"),
            ("BOUNCE", "Back and Forth", "Backwards, then forwards again"),
        ),
        update=_changed,
    )


def files_of(ob: bpy.types.Object) -> Files | None:
    """What an object plays, None if nothing."""
    group = ob.scene_splatter_sequence
    if not group.pattern:
        return None
    prefix, suffix = group.pattern.split("*", 1)
    folder = Path(bpy.path.abspath(group.folder))
    return Files(folder, prefix, suffix, group.digits, group.first, group.step, group.count)


def plays_by_nodes(ob: bpy.types.Object) -> bool:
    """Whether nodes read the files; else the handler does."""
    return _chain_of(ob) is not None


def create(
    scene: bpy.types.Scene,
    files: Files,
    *,
    start: int,
    speed: float = 1.0,
    loop: str = "HOLD",
    by_nodes: bool | None = None,
    collection: bpy.types.Collection | None = None,
) -> bpy.types.Object:
    """A new upright splat object that plays `files`.

    by_nodes: by Blender's own nodes, None: where this Blender can. Raises UserError for files that
    are no splats.
    """
    counts = [_size(files.path(index)) for index in range(files.length)]
    plain = all(whole for _, _, whole in counts)
    can = can_play_by_nodes() and plain
    if by_nodes and not can:
        raise UserError(
            "Nodes cannot play this sequence.",
            "It takes Blender 5.3 and plain .ply files; let the add-on play it.",
        )
    by_nodes = can if by_nodes is None else by_nodes
    shown = splat_file.read_ply(files.path(0))
    blending = splat_file.blending_of(splat_file.read_comments(files.path(0)))
    largest, most = max(n for n, _, _ in counts), max(k for _, k, _ in counts)
    if not by_nodes:
        shown = _padded(shown, largest, most)
    name = files.prefix.rstrip("_-. ") or files.folder.name
    ob = splat_object.create(name, shown, blending=blending, collection=collection)
    group = ob.scene_splatter_sequence
    group.folder = bpy.path.relpath(str(files.folder)) if bpy.data.filepath else str(files.folder)
    group.digits, group.first, group.step, group.count = (
        files.digits,
        files.first,
        files.step,
        files.length,
    )
    group.start, group.speed, group.loop = start, speed, loop
    group.pattern = f"{files.prefix}*{files.suffix}"
    if by_nodes:
        modifier = ob.modifiers.new(MODIFIER_NAME, "NODES")
        modifier.node_group = _chain(files, name)
        splat_object.set_input(
            splat_object.modifier_of(ob), "SH Degree", splat_object.DEGREES[most]
        )
        while ob.modifiers[0] != modifier:  # read first, then draw
            ob.modifiers.move(len(ob.modifiers) - 1, 0)
    else:
        scene.render.use_lock_interface = (
            True  # the viewport must not draw data that a render changes
        )
    _apply(ob)
    return ob


def can_play_by_nodes() -> bool:
    """Whether this Blender has nodes that read .ply files of splats."""
    return splat_object.is_native() and hasattr(bpy.types, "GeometryNodeImportPLY")


def _apply(ob: bpy.types.Object) -> None:
    """Have the object show its file of the current frame."""
    chain, group = _chain_of(ob), ob.scene_splatter_sequence
    if chain is None:
        show(ob, bpy.context.scene.frame_current_final)
        return
    for name, value in (
        ("Start Frame", float(group.start)),
        ("Speed", group.speed),
        ("Loop", group.loop == "LOOP"),
        ("Back and Forth", group.loop == "BOUNCE"),
    ):
        splat_object.set_input(chain, name, value)


# --- by the handler
# --------------------------------------------------------------------------------

SHOWN = "scene_splatter_shown"  # custom property of a cloud: the file that it holds now
PROBLEM = "scene_splatter_sequence_problem"  # of an object: why the file of a frame is not shown


def show(ob: bpy.types.Object, frame: float) -> bool:
    """Put the Gaussians of the frame's file into the object's cloud; whether anything was to be
    done.

    Raises UserError for a file that cannot be read, and for one with more Gaussians than the
    sequence had when it was imported.
    """
    files, group = files_of(ob), ob.scene_splatter_sequence
    if files is None or not ob.data.is_editable or plays_by_nodes(ob):
        return False
    speed = float(f"{group.speed:.7g}")  # Blender stores 0.7 as 0.699999988
    path = files.path(index_at(frame, group.start, speed, group.loop, files.length))
    try:
        version = f"{path.name} {path.stat().st_mtime_ns}"
    except OSError:
        version = ""  # reading says why
    if version and ob.data.get(SHOWN) == version:
        return False
    splats = splat_file.read_ply(path)
    room = splat_object.coefficients(ob.data)
    splat_object.overwrite(ob, _padded(splats, len(ob.data.points), room), len(splats.means))
    ob.data[SHOWN] = version  # not beside the data: undo turns both back
    return True


def _padded(splats: Splats, count: int, k: int) -> Splats:
    """The same Gaussians and invisible ones at the place of the first, `count` in all, with k
    coefficients each.
    """
    n, have = len(splats.means), splats.sh_rest.shape[1]
    if n > count or have > k:
        raise UserError(
            f"A file of the sequence has grown: {n} Gaussians with {have} SH coefficients, room "
            f"for {count} with {k}.",
            "Import the sequence again.",
        )
    fill = count - n

    def longer(values: np.ndarray, filling: np.ndarray | float) -> np.ndarray:
        more = np.broadcast_to(np.asarray(filling, np.float32), (fill, *values.shape[1:]))
        return np.concatenate([values, more])

    rest = np.zeros((count, k, 3), np.float32)
    rest[:n, :have] = splats.sh_rest
    return Splats(
        longer(splats.means, splats.means[0]),
        longer(splats.quats, np.array((1, 0, 0, 0), np.float32)),
        longer(splats.scales_log, _NOTHING_LOG),
        longer(splats.opacities_logit, _NO_OPACITY),
        longer(splats.sh_dc, 0.0),
        rest,
    )


def _size(path: Path) -> tuple[int, int, bool]:
    """Gaussians, SH coefficients each, and whether it is a plain 3DGS file, by the header of a
    .ply. Raises UserError.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise UserError(
            f"Could not read {path}: {error.strerror}.", "Put the file back, or import again."
        ) from error
    text = head.split(b"end_header", 1)[0].decode("ascii", "replace")
    count = re.search(r"element vertex (\d+)", text)
    if not head.startswith(b"ply") or count is None:
        raise UserError(f"{path} is not a .ply of splats.", "Take it out of the folder.")
    coefficients = min(len(re.findall(r"\bf_rest_\d+", text)) // 3, 15)
    return int(count[1]), coefficients, "packed_position" not in text


def _said(ob: bpy.types.Object, do: Callable[[bpy.types.Object], object]) -> None:
    """What goes wrong is written down at the object: a render goes on with the last file that could
    be read.
    """
    try:
        do(ob)
    except UserError as error:
        log.error("%s: %s", ob.name, error)
        ob[PROBLEM] = str(error)
    else:
        if PROBLEM in ob:
            del ob[PROBLEM]


@persistent
def _on_frame(scene: bpy.types.Scene, *_: object) -> None:
    """Before a frame is evaluated, in the viewport and in renders."""
    for ob in scene.objects:
        if ob.type == "POINTCLOUD" and ob.scene_splatter_sequence.pattern:
            _said(ob, lambda ob: show(ob, scene.frame_current_final))


# --- files saved elsewhere
# ------------------------------------------------------------------------

_before: list[tuple[Callable[[str], None], str]] = []  # how to set a path, and what it was


def _relative_paths() -> Iterator[tuple[str, Callable[[str], None]]]:
    """The paths relative to the .blend that sequences keep, each with how to set it."""
    for ob in bpy.data.objects:
        if not ob.is_editable or not ob.scene_splatter_sequence.pattern:
            continue
        group = ob.scene_splatter_sequence
        yield group.folder, functools.partial(setattr, group, "folder")
    for tree in bpy.data.node_groups:
        if tree.is_editable and "scene_splatter_sequence" in tree:
            for node in tree.nodes:
                if node.bl_idname == "FunctionNodeFormatString":
                    folder, _, prefix = node.inputs["start"].default_value.rpartition("/")
                    yield folder, functools.partial(_set_start, node.inputs["start"], prefix)


def _set_start(socket: bpy.types.NodeSocketString, prefix: str, folder: str) -> None:
    socket.default_value = f"{folder.rstrip('/')}/{prefix}"


@persistent
def _on_save_pre(target: str, *_: object) -> None:
    """Have relative paths lead to the same files from where the .blend is going to lie, as Blender
    does with its own.
    """
    _before.clear()
    old, new = Path(bpy.data.filepath).parent, Path(target).parent
    if not bpy.data.filepath or not target or old == new:
        return
    for path, put in list(_relative_paths()):
        if path.startswith("//"):
            _before.append((put, path))
            put(_relative(bpy.path.abspath(path), new))


@persistent
def _on_save_post(target: str, *_: object) -> None:
    """A copy was written, or nothing: this file stays where it is, and so do its paths."""
    if bpy.data.filepath != target:
        for put, path in _before:
            put(path)
    _before.clear()


def _relative(path: str, folder: Path) -> str:
    """`path` from `folder` on, as Blender writes it; whole on another drive of Windows."""
    try:
        return bpy.path.relpath(path, start=str(folder))
    except ValueError:
        return path


# --- by nodes (Blender 5.3)
# ------------------------------------------------------------------------


def _chain_of(ob: bpy.types.Object) -> bpy.types.NodesModifier | None:
    return next(
        (
            m
            for m in ob.modifiers
            if m.type == "NODES"
            and m.node_group is not None
            and "scene_splatter_sequence" in m.node_group
        ),
        None,
    )


def _chain(files: Files, name: str) -> bpy.types.NodeTree:
    """Nodes that read the file of the scene's frame, with `index_at` written as nodes."""
    group = bpy.data.node_groups.new(f"{name} sequence", "GeometryNodeTree")
    group["scene_splatter_sequence"] = 1
    group.is_modifier = True
    interface = group.interface
    interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    for title, kind, default in (
        ("Start Frame", "Float", 1.0),
        ("Speed", "Float", 1.0),
        ("Loop", "Bool", False),
        ("Back and Forth", "Bool", False),
    ):
        interface.new_socket(
            title, in_out="INPUT", socket_type=f"NodeSocket{kind}"
        ).default_value = default
    b = NodeBuilder(group)
    entry = b.node("NodeGroupInput")
    inputs = {socket.name: Value(b, socket) for socket in entry.outputs if socket.name}
    frame = b.output("GeometryNodeInputSceneTime", "Frame")
    place = b.math("FLOOR", (frame - inputs["Start Frame"]) * inputs["Speed"] + 1e-6)
    last = float(files.length - 1)
    held = place.maximum(0.0).minimum(last)
    looped = b.math("FLOORED_MODULO", place, float(files.length))
    period = max(2.0 * last, 1.0)
    forth = b.math("FLOORED_MODULO", place, period)
    bounced = forth.minimum(forth * -1.0 + 2.0 * last) if files.length > 1 else held
    index = b.switch(inputs["Loop"], held, looped, "FLOAT")
    index = b.switch(inputs["Back and Forth"], index, bounced, "FLOAT")
    number = b.output(
        "FunctionNodeFloatToInt", 0, {0: index * float(files.step) + float(files.first)}
    )
    text = b.node("FunctionNodeFormatString")
    for kind, item in (("STRING", "start"), ("INT", "number"), ("STRING", "end")):
        text.format_items.new(kind, item)
    folder = bpy.path.relpath(str(files.folder)) if bpy.data.filepath else str(files.folder)
    pad = f":0{files.digits}" if files.digits else ""
    text.inputs["Format"].default_value = f"{{start}}{{number{pad}}}{{end}}"
    _set_start(text.inputs["start"], files.prefix, folder)
    text.inputs["end"].default_value = files.suffix
    group.links.new(number.socket, text.inputs["number"])
    read = b.node("GeometryNodeImportPLY")
    group.links.new(text.outputs[0], read.inputs[0])
    plain = b.node("GeometryNodePointsSetType")
    group.links.new(read.outputs[0], plain.inputs[0])
    plain.inputs["Type"].default_value = "Points"
    group.links.new(plain.outputs[0], b.node("NodeGroupOutput").inputs[0])
    return group


def _after_saving() -> tuple[list[Any], list[Any]]:
    return bpy.app.handlers.save_post, bpy.app.handlers.save_post_fail


def register() -> None:
    """Add the object's properties and the handlers."""
    bpy.utils.register_class(SCENESPLATTER_PG_sequence)
    bpy.types.Object.scene_splatter_sequence = bpy.props.PointerProperty(
        type=SCENESPLATTER_PG_sequence
    )
    bpy.app.handlers.frame_change_pre.append(_on_frame)
    bpy.app.handlers.save_pre.append(_on_save_pre)
    for handlers in _after_saving():
        handlers.append(_on_save_post)


def unregister() -> None:
    """Remove them."""
    for handlers in _after_saving():
        handlers.remove(_on_save_post)
    bpy.app.handlers.save_pre.remove(_on_save_pre)
    bpy.app.handlers.frame_change_pre.remove(_on_frame)
    del bpy.types.Object.scene_splatter_sequence
    bpy.utils.unregister_class(SCENESPLATTER_PG_sequence)
