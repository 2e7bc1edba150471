"""Where results go in the file: one versioned collection a set, with what it came from written on
it.

    SS_<shot>_v001
        SS_<shot>_v001 splats     the Gaussians
        SS_<shot>_v001 cameras    the camera of the shot
        SS_<shot>_v001 source     an empty that holds the picture
        SS_<shot>_v001 proxy      the proxy mesh, once there is one
Generated again in place, the set keeps its number and objects; a new import makes the next number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import bpy

PREFIX = "SS_"
MARK = "scene_splatter_set"  # custom property of a set's root collection: the shot's name
PART = "scene_splatter_part"  # custom property of a set's child collections: which part they are
PARTS = ("splats", "cameras", "source")
PROXY = "proxy"  # a part too, made when it is needed
_COLOUR_TAG = "COLOR_05"


def new_set(scene: bpy.types.Scene, shot: str, number: int = 0) -> bpy.types.Collection:
    """A new set under the scene's own collection, with `number` as its job folder has it; the next
    free one if that is taken, or 0.
    """
    name = re.sub(r"[^\w.-]+", "_", shot).strip("._") or "shot"
    if not number or f"{PREFIX}{name}_v{number:03d}" in bpy.data.collections:
        number = 1
    while f"{PREFIX}{name}_v{number:03d}" in bpy.data.collections:
        number += 1
    root = bpy.data.collections.new(f"{PREFIX}{name}_v{number:03d}")
    root[MARK] = shot
    root.color_tag = _COLOUR_TAG
    scene.collection.children.link(root)
    for part in PARTS:
        _new_part(root, part)
    return root


def _new_part(root: bpy.types.Collection, part: str) -> bpy.types.Collection:
    made = bpy.data.collections.new(f"{root.name} {part}")
    made[PART] = part  # names are the user's to change
    root.children.link(made)
    return made


def part_of(root: bpy.types.Collection, part: str) -> bpy.types.Collection:
    """A set's child collection, made again if the user removed it."""
    if part not in (*PARTS, PROXY):
        raise ValueError(f"part must be one of {(*PARTS, PROXY)}, received {part!r}")
    within = list(root.children_recursive)  # the user may have sorted them into others
    found = next((child for child in within if child.get(PART) == part), None)
    if found is None:  # a set of an earlier version has names only
        found = next((child for child in root.children if child.name.endswith(part)), None)
    return found if found is not None else _new_part(root, part)


def set_of(ob: bpy.types.Object) -> bpy.types.Collection | None:
    """The set that an object belongs to, None if it lies elsewhere."""
    for root in bpy.data.collections:
        if MARK in root and ob.name in root.all_objects:
            return root
    return None


def link(ob: bpy.types.Object, collection: bpy.types.Collection) -> None:
    """Show `ob` in `collection` too; it stays where it was."""
    if ob.name not in collection.objects:
        collection.objects.link(ob)


def write_provenance(block: bpy.types.ID, facts: dict[str, str | int | float]) -> None:
    """Keep facts as custom properties `scene_splatter_<key>`; those of an earlier result go."""
    for key in [key for key in block.keys() if key.startswith("scene_splatter_fact_")]:  # noqa: SIM118 (a Blender ID is no dict)
        del block[key]
    for key, value in facts.items():
        block[f"scene_splatter_fact_{re.sub(r'[^a-z0-9]+', '_', key.lower()).strip('_')}"] = value


def read_provenance(block: bpy.types.ID) -> dict[str, str | int | float]:
    """What `write_provenance` kept."""
    start = "scene_splatter_fact_"
    return {key[len(start) :]: value for key, value in block.items() if key.startswith(start)}


def facts_of_comments(comments: Iterable[str]) -> dict[str, str]:
    """Facts in a .ply's comments, `scene_splatter <key>: <value>`; other lines belong to other
    tools.
    """
    pairs = (re.match(r"scene_splatter (.+?): (.*)", comment) for comment in comments)
    return {pair[1]: pair[2] for pair in pairs if pair}
