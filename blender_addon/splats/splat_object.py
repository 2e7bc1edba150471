"""Gaussians as Blender objects: point cloud, attributes, modifier, material; and back.

Attributes are named and stored as Blender 5.3 does: `position`, `scale` (standard deviations, not
logs), `rotation` (unit quaternion w x y z), `radiance:base` (constant SH coefficient, opacity 0 to
1) and `radiance:sh_<i>`. Beside them lie the forms that the file had (`scene_splatter:*`), because
the activations lose bits: reading an object back gives what was imported, bit for bit, and new
values only where somebody edited the attributes.

The data stay in the file's axes (OpenCV: x right, y down, z forward) and the object is turned
upright. So nothing is resampled, SH need no rotation, and the object's transform is the user's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import bpy
import numpy as np

from ...engine.bridge.errors import UserError
from ...engine.bridge.splat_file import BLENDINGS, Splats
from ..cameras import drivers
from . import marks, scratch_scene, splat_nodes
from .sh_nodes import BASE, coefficient_name
from .splat_material import splat_material

MODIFIER_NAME, FILTER_MODIFIER = "Gaussians", "Screen Filter"
# custom property of a cloud that has more points than Gaussians: how many are real
COUNT = "scene_splatter_count"
DEGREES = {0: 0, 3: 1, 8: 2, 15: 3}  # SH coefficients above the constant -> degree
NATIVE_TYPE = "GAUSSIAN_SPLAT"  # of point clouds, in Blender 5.3 and later
# custom property of the object: one of BLENDINGS, what the Gaussians were made for
BLENDING = "scene_splatter_blending"
UPRIGHT_EULER = (-math.pi / 2, 0.0, 0.0)  # OpenCV's y down, z forward -> Blender's z up, y forward

_STORED_SCALE, _STORED_OPACITY, _STORED_ROTATION = (
    "scene_splatter:scale_log",
    "scene_splatter:opacity_logit",
    "scene_splatter:rotation",
)
_FIELDS = {
    "FLOAT_VECTOR": "vector",
    "FLOAT": "value",
    "QUATERNION": "value",
    "FLOAT_COLOR": "color",
    "FLOAT4": "vector",
}
_BLOCK = 1024  # Gaussians
_SAME = (
    2e-6  # relative: an activated value closer than this to the stored one's has not been edited
)


class Prepared(NamedTuple):
    """Gaussians, and the attributes that Blender keeps of them: (name, data type, values one after
    the other).
    """

    splats: Splats
    attributes: list[tuple[str, str, np.ndarray]]


def prepare(splats: Splats) -> Prepared:
    """Compute the attributes. Needs no Blender, so it may run in a thread."""
    base = np.concatenate([splats.sh_dc, _sigmoid(splats.opacities_logit)[:, None]], axis=1)
    rest = np.empty((splats.sh_rest.shape[1], len(splats.means), 3), np.float32)
    for start in range(
        0, len(splats.means), _BLOCK
    ):  # block by block: each coefficient of all Gaussians would miss the cache
        rest[:, start : start + _BLOCK] = splats.sh_rest[start : start + _BLOCK].transpose(1, 0, 2)
    attributes = [
        ("position", "FLOAT_VECTOR", splats.means),
        ("scale", "FLOAT_VECTOR", np.exp(splats.scales_log)),
        ("rotation", "QUATERNION", _normalised(splats.quats)),
        (BASE, "FLOAT4", base),
        *((coefficient_name(i), "FLOAT_VECTOR", values) for i, values in enumerate(rest)),
        (_STORED_SCALE, "FLOAT_VECTOR", splats.scales_log),
        (_STORED_OPACITY, "FLOAT", splats.opacities_logit),
        (_STORED_ROTATION, "QUATERNION", splats.quats),
    ]
    return Prepared(
        splats,
        [
            (name, kind, np.ascontiguousarray(values, np.float32).ravel())
            for name, kind, values in attributes
        ],
    )


def is_native() -> bool:
    """Whether this Blender (5.3 and later) can draw Gaussians by itself."""
    return "type" in bpy.types.PointCloud.bl_rna.properties


def drawn_natively(ob: bpy.types.Object) -> bool:
    """Whether Blender itself draws the Gaussians of `ob`: its point cloud is of the type for
    splats.
    """
    return is_native() and ob.data.type == NATIVE_TYPE


def is_splat_object(ob: bpy.types.Object | None) -> bool:
    """A point cloud with the attributes of Gaussians."""
    return (
        ob is not None
        and ob.type == "POINTCLOUD"
        and all(name in ob.data.attributes for name in ("scale", "rotation", BASE))
    )


def create(
    name: str,
    splats: Splats | Prepared,
    *,
    blending: str,
    collection: bpy.types.Collection | None = None,
) -> bpy.types.Object:
    """A new, upright object that shows `splats`, linked to `collection` (default: the scene's own).

    Our nodes draw it, in every Blender: they are exact. `native.to_native` hands it to Blender 5.3.
    blending: the space the Gaussians were optimised for, one of BLENDINGS.
    """
    if blending not in BLENDINGS:
        raise ValueError(f"blending must be one of {BLENDINGS}, received {blending!r}")
    prepared = splats if isinstance(splats, Prepared) else prepare(splats)
    cloud = _new_cloud(name, prepared)
    ob = bpy.data.objects.new(name, cloud)
    (collection or bpy.context.scene.collection).objects.link(ob)
    ob.rotation_euler = UPRIGHT_EULER
    cloud.materials.append(splat_material())
    if hasattr(ob, "cycles"):
        ob.cycles.use_deform_motion = (
            False  # the quads are sorted anew in every frame: their motion means nothing
        )
    _add_modifier(ob)
    _describe(ob, prepared.splats, blending)
    return ob


def replace(ob: bpy.types.Object, splats: Splats | Prepared, *, blending: str) -> None:
    """Give `ob`, and all objects that share its data, other Gaussians. Transform, materials,
    animation and links stay.

    Raises UserError if the object is no splat or is linked from another file.
    """
    if not is_splat_object(ob):
        raise UserError(f"{ob.name} holds no Gaussians.", "Choose a splat object to replace.")
    if not ob.data.is_editable:
        raise UserError(
            f"{ob.name} is linked from another file.", "Replace it in that file, or make it local."
        )
    old = ob.data
    name = old.name
    prepared = splats if isinstance(splats, Prepared) else prepare(splats)
    new = _new_cloud(name, prepared)
    if is_native():
        new.type = old.type
    for material in old.materials:
        new.materials.append(material)
    for key, value in old.items():
        if key not in new and key != COUNT:
            new[key] = value
    if old.animation_data is not None and old.animation_data.action is not None:
        data = new.animation_data_create()
        data.action = old.animation_data.action
        if hasattr(data, "action_slot"):
            data.action_slot = old.animation_data.action_slot
    users = [other for other in bpy.data.objects if other.data == old]
    old.user_remap(new)
    bpy.data.pointclouds.remove(old)
    new.name = name
    for user in users:
        _describe(user, prepared.splats, blending)


def to_splats(ob: bpy.types.Object) -> Splats:
    """The Gaussians of an object in its own axes; bit for bit what was imported, where nothing was
    edited.

    Raises UserError if the object holds none, or values that are no Gaussians.
    """
    if not is_splat_object(ob):
        raise UserError(
            f"{ob.name} holds no Gaussians.",
            "Choose an object that was imported from a splat file.",
        )
    return splats_of(ob.data, ob.name)


def splats_of(cloud: bpy.types.PointCloud, name: str) -> Splats:
    """As `to_splats`, of a point cloud with the attributes of Gaussians; `name` is what errors call
    it.

    Of a cloud that has more points than Gaussians (a sequence's) only the Gaussians.
    """
    scale, rotation, base = (
        read_attribute(cloud, "scale"),
        read_attribute(cloud, "rotation"),
        read_attribute(cloud, BASE),
    )
    if len(scale) == 0:
        raise UserError(
            f"{name} has no points left.", "Undo the deletion, or import the scene again."
        )
    if not (scale > 0).all() or not rotation.any(axis=1).all():
        raise UserError(
            f"{name} has Gaussians without size or rotation.",
            "Undo the edit of its scale or rotation attribute.",
        )
    with np.errstate(divide="ignore"):
        scales_log = _unedited(cloud, _STORED_SCALE, scale, np.exp, np.log(scale))
        opacity = np.clip(base[:, 3].astype(np.float64), 1e-7, 1 - 2.0**-24)
        logit = (np.log(opacity) - np.log1p(-opacity)).astype(np.float32)
    opacities_logit = _unedited(cloud, _STORED_OPACITY, base[:, 3], _sigmoid, logit)
    quats = _unedited(cloud, _STORED_ROTATION, rotation, _normalised, rotation)
    k = coefficients(cloud)
    rest = np.empty((len(scale), k, 3), np.float32)
    for i in range(k):
        rest[:, i] = read_attribute(cloud, coefficient_name(i))
    found = Splats(
        read_attribute(cloud, "position"),
        quats,
        scales_log,
        opacities_logit,
        np.ascontiguousarray(base[:, :3]),
        rest,
    )
    count = cloud.get(COUNT, len(scale))
    return found if count == len(scale) else Splats(*(part[:count] for part in found))


def coefficients(cloud: bpy.types.PointCloud) -> int:
    """SH coefficients above the constant that a cloud has, of whole degrees up to 3."""
    k = 0
    while coefficient_name(k) in cloud.attributes:
        k += 1
    return max(count for count in (0, 3, 8, 15) if count <= k)


def overwrite(ob: bpy.types.Object, splats: Splats, count: int) -> None:
    """Put other Gaussians, as many as before, into the object's own cloud; the first `count` are
    real.

    Nothing is made or removed, so a render may be under way.
    """
    _write_attributes(ob.data, prepare(splats))
    ob.data[COUNT] = count
    ob.data.update_tag()


def positions(ob: bpy.types.Object) -> np.ndarray:
    """[n, 3] means of an object's Gaussians, in its own axes."""
    return read_attribute(ob.data, "position")


def modifier_of(ob: bpy.types.Object) -> bpy.types.NodesModifier | None:
    """The modifier that draws the Gaussians; None on Blenders that draw them natively, or where the
    user removed it.
    """
    for modifier in ob.modifiers:
        if (
            modifier.type == "NODES"
            and modifier.node_group is not None
            and "scene_splatter_version" in modifier.node_group
        ):
            return modifier
    return None


def filter_of(ob: bpy.types.Object) -> bpy.types.NodesModifier | None:
    """The modifier that blurs Gaussians which Blender itself draws, None where there is none."""
    return next(
        (
            m
            for m in ob.modifiers
            if m.type == "NODES"
            and m.node_group is not None
            and "scene_splatter_filter" in m.node_group
        ),
        None,
    )


def add_filter(ob: bpy.types.Object) -> None:
    """Blur the Gaussians of `ob` as 3DGS does, where Blender itself draws them."""
    if filter_of(ob) is None:
        modifier = ob.modifiers.new(FILTER_MODIFIER, "NODES")
        modifier.node_group = splat_nodes.filter_group()
        _follow_camera(modifier)


def get_input(modifier: bpy.types.NodesModifier, name: str) -> object:
    """Value of a modifier input by its name in the panel."""
    identifier = splat_nodes.socket_identifier(modifier.node_group, name)
    return (
        getattr(modifier.properties.inputs, identifier).value
        if hasattr(modifier, "properties")
        else modifier[identifier]
    )


def set_input(modifier: bpy.types.NodesModifier, name: str, value: object) -> None:
    """Set a modifier input by its name in the panel and have the object evaluated again."""
    identifier = splat_nodes.socket_identifier(modifier.node_group, name)
    if hasattr(modifier, "properties"):  # 5.2 and later
        getattr(modifier.properties.inputs, identifier).value = value
    else:
        modifier[identifier] = value
    modifier.id_data.update_tag()


def show_by_nodes(ob: bpy.types.Object) -> None:
    """Draw the Gaussians of `ob` by our modifier, where it was removed or never needed."""
    if modifier_of(ob) is None:
        _add_modifier(ob)
    _describe(ob, to_splats(ob), ob.get(BLENDING, "display"))


def _describe(ob: bpy.types.Object, splats: Splats, blending: str) -> None:
    ob[BLENDING] = blending
    modifier = modifier_of(ob)
    if modifier is not None:
        set_input(modifier, "Linear Light", blending == "linear")
        set_input(modifier, "SH Degree", DEGREES[splats.sh_rest.shape[1]])


def _add_modifier(ob: bpy.types.Object) -> None:
    group = splat_nodes.splat_group()
    modifier = ob.modifiers.new(MODIFIER_NAME, "NODES")
    modifier.node_group = group
    set_input(modifier, "Material", splat_material())
    _follow_camera(modifier)


def _follow_camera(modifier: bpy.types.NodesModifier) -> None:
    drivers.add_camera_drivers(
        modifier,
        {
            name: splat_nodes.socket_identifier(modifier.node_group, name)
            for name in drivers.EXPRESSIONS
        },
    )


# --- attributes ----------------------------------------------------------------------------------


def _new_cloud(name: str, prepared: Prepared) -> bpy.types.PointCloud:
    cloud = _empty_cloud(name, len(prepared.splats.means))
    _write_attributes(cloud, prepared)
    marks.mark(cloud)
    return cloud


def _write_attributes(cloud: bpy.types.PointCloud, prepared: Prepared) -> None:
    has_float4 = "FLOAT4" in bpy.types.Attribute.bl_rna.properties["data_type"].enum_items
    for attribute, kind, values in prepared.attributes:
        kind = "FLOAT_COLOR" if kind == "FLOAT4" and not has_float4 else kind
        made = cloud.attributes.get(attribute) or cloud.attributes.new(attribute, kind, "POINT")
        made.data.foreach_set(_FIELDS[kind], values)


def _empty_cloud(name: str, count: int) -> bpy.types.PointCloud:
    """A point cloud of `count` points at the origin."""
    cloud = bpy.data.pointclouds.new(name)
    if hasattr(cloud, "resize"):
        cloud.resize(count)
        return cloud
    # Before 5.2 no call makes points: geometry nodes do, on an object that lives for one
    # evaluation.
    group = bpy.data.node_groups.new("points", "GeometryNodeTree")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    points = group.nodes.new("GeometryNodePoints")
    points.inputs["Count"].default_value = count
    group.links.new(points.outputs[0], group.nodes.new("NodeGroupOutput").inputs[0])
    try:
        with scratch_scene.evaluated(cloud, group) as maker:
            made = maker.data.copy()
    finally:
        bpy.data.node_groups.remove(group)
        bpy.data.pointclouds.remove(cloud)
    made.name = name
    return made


def read_attribute(cloud: bpy.types.PointCloud, name: str) -> np.ndarray:
    """[n] or [n, 3 or 4] float32: the values of an attribute of the points."""
    attribute = cloud.attributes[name]
    width = {"FLOAT": 1, "FLOAT_VECTOR": 3}.get(attribute.data_type, 4)
    values = np.empty(len(attribute.data) * width, np.float32)
    attribute.data.foreach_get(_FIELDS[attribute.data_type], values)
    return values if width == 1 else values.reshape(-1, width)


def _unedited(
    cloud: bpy.types.PointCloud, stored: str, current: np.ndarray, activate, recomputed: np.ndarray
) -> np.ndarray:
    """The stored form where its activation still is the current value, else the recomputed one."""
    if stored not in cloud.attributes:
        return recomputed.astype(np.float32)
    kept = read_attribute(cloud, stored)
    same = np.abs(activate(kept) - current) <= _SAME * np.maximum(
        np.abs(current), 1e-12 if current.ndim > 1 and current.shape[1] == 3 else 1.0
    )
    same = same.all(axis=1, keepdims=True) if kept.shape[-1] == 4 and kept.ndim == 2 else same
    return np.where(same, kept, recomputed).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


def _normalised(quats: np.ndarray) -> np.ndarray:
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)
