"""Shapes and procedural materials for benchmarks/scene_builders.py. Runs in Blender's Python
(bpy).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import bmesh
import bpy

Colour = Sequence[float]
Place = Sequence[float]


def material(
    kind: str,
    first: Colour,
    second: Colour = (0.0, 0.0, 0.0),
    *,
    scale: float = 4.0,
    rough: float = 0.7,
    upright: bool = False,
    glow: float = 0.0,
) -> bpy.types.Material:
    """A procedural material of linear colours. kind: plain, noise, bricks, checks, cells, wood,
    glow.

    Patterns live in the world's metres, `scale` features a metre; `upright` lays them on walls, (x
    + y, z).
    """
    made = bpy.data.materials.new(kind)
    made.use_nodes = True
    nodes, links = made.node_tree.nodes, made.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = rough
    shader.inputs["Base Color"].default_value = (*first, 1.0)
    if kind == "glow":
        shader.inputs["Emission Color"].default_value = (*first, 1.0)
        shader.inputs["Emission Strength"].default_value = glow
    if kind in ("plain", "glow"):
        return made
    where = _coordinates(nodes, links, upright)
    if kind in ("bricks", "checks"):
        texture = nodes.new("ShaderNodeTexBrick" if kind == "bricks" else "ShaderNodeTexChecker")
        texture.inputs["Color1"].default_value, texture.inputs["Color2"].default_value = (
            (*first, 1.0),
            (*second, 1.0),
        )
        if kind == "bricks":
            texture.inputs["Color2"].default_value = (*(0.75 * c for c in first), 1.0)
            texture.inputs["Mortar"].default_value = (*second, 1.0)
            texture.inputs["Mortar Size"].default_value = 0.03
        texture.inputs["Scale"].default_value = scale
        links.new(where, texture.inputs["Vector"])
        links.new(texture.outputs["Color"], shader.inputs["Base Color"])
        return made
    texture = nodes.new(
        {
            "noise": "ShaderNodeTexNoise",
            "cells": "ShaderNodeTexVoronoi",
            "wood": "ShaderNodeTexWave",
        }[kind]
    )
    texture.inputs["Scale"].default_value = scale
    if kind == "wood":
        texture.inputs["Distortion"].default_value = 6.0
        texture.inputs["Detail"].default_value = 3.0
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (
        (*first, 1.0),
        (*second, 1.0),
    )
    if kind == "noise":
        ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.35, 0.65
        texture.inputs["Detail"].default_value = 5.0
    links.new(where, texture.inputs["Vector"])
    links.new(texture.outputs["Distance" if kind == "cells" else "Fac"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], shader.inputs["Base Color"])
    return made


def _coordinates(
    nodes: bpy.types.Nodes, links: bpy.types.NodeLinks, upright: bool
) -> bpy.types.NodeSocket:
    position = nodes.new("ShaderNodeNewGeometry").outputs["Position"]
    if not upright:
        return position
    split, add, join = (
        nodes.new("ShaderNodeSeparateXYZ"),
        nodes.new("ShaderNodeMath"),
        nodes.new("ShaderNodeCombineXYZ"),
    )
    links.new(position, split.inputs[0])
    links.new(split.outputs["X"], add.inputs[0])
    links.new(split.outputs["Y"], add.inputs[1])
    links.new(add.outputs[0], join.inputs["X"])
    links.new(split.outputs["Z"], join.inputs["Y"])
    return join.outputs[0]


def _place(
    mesh: bpy.types.Mesh, at: Place, turn_deg: Place, made: bpy.types.Material
) -> bpy.types.Object:
    mesh.materials.append(made)
    thing = bpy.data.objects.new(mesh.name, mesh)
    thing.location = at
    thing.rotation_euler = [math.radians(a) for a in turn_deg]
    bpy.context.scene.collection.objects.link(thing)
    return thing


def box(
    size: Place, at: Place, made: bpy.types.Material, turn_deg: Place = (0, 0, 0)
) -> bpy.types.Object:
    """A box of `size` metres standing on `at` (the middle of its bottom face)."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    corners = [(sx * x, sy * y, sz * z) for sz in (0, 1) for sy in (-1, 1) for sx in (-1, 1)]
    faces = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    mesh = bpy.data.meshes.new("box")
    mesh.from_pydata(corners, [], faces)
    return _place(mesh, at, turn_deg, made)


def cone(
    bottom: float,
    top: float,
    height: float,
    at: Place,
    made: bpy.types.Material,
    turn_deg: Place = (0, 0, 0),
    sides: int = 16,
) -> bpy.types.Object:
    """A cone or cylinder with these radii standing on `at`."""
    shape = bmesh.new()
    bmesh.ops.create_cone(
        shape, cap_ends=True, segments=sides, radius1=bottom, radius2=top, depth=height
    )
    bmesh.ops.translate(shape, vec=(0, 0, height / 2), verts=shape.verts)
    return _finish(shape, at, turn_deg, made)


def ball(
    radius: float, at: Place, made: bpy.types.Material, stretch: Place = (1, 1, 1), detail: int = 4
) -> bpy.types.Object:
    """A sphere round `at`, stretched along the axes."""
    shape = bmesh.new()
    bmesh.ops.create_icosphere(shape, subdivisions=detail, radius=radius)
    bmesh.ops.scale(shape, vec=stretch, verts=shape.verts)
    return _finish(shape, at, (0, 0, 0), made, smooth=True)


def _finish(
    shape: bmesh.types.BMesh,
    at: Place,
    turn_deg: Place,
    made: bpy.types.Material,
    smooth: bool = False,
) -> bpy.types.Object:
    for face in shape.faces:
        face.smooth = smooth
    mesh = bpy.data.meshes.new("shape")
    shape.to_mesh(mesh)
    shape.free()
    return _place(mesh, at, turn_deg, made)


def rod(
    start: Place, end: Place, radius: float, made: bpy.types.Material, tip: float | None = None
) -> bpy.types.Object:
    """A thin cylinder between two points, e.g. a branch that narrows to `tip`."""
    from mathutils import Vector

    along = Vector(end) - Vector(start)
    thing = cone(radius, radius if tip is None else tip, along.length, start, made, sides=8)
    thing.rotation_euler = along.to_track_quat("Z", "Y").to_euler()
    return thing


def surface(
    heights: Sequence[Sequence[float]], size: float, at: Place, made: bpy.types.Material
) -> bpy.types.Object:
    """Ground from a square grid of heights in metres, `size` metres wide, centred on `at`."""
    n = len(heights)
    step = size / (n - 1)
    points = [
        (x * step - size / 2, y * step - size / 2, heights[y][x])
        for y in range(n)
        for x in range(n)
    ]
    faces = [
        (y * n + x, y * n + x + 1, (y + 1) * n + x + 1, (y + 1) * n + x)
        for y in range(n - 1)
        for x in range(n - 1)
    ]
    mesh = bpy.data.meshes.new("ground")
    mesh.from_pydata(points, [], faces)
    mesh.polygons.foreach_set("use_smooth", [True] * len(faces))
    return _place(mesh, at, (0, 0, 0), made)


def light(
    kind: str,
    at: Place,
    power: float,
    colour: Colour = (1, 1, 1),
    *,
    size: float = 1.0,
    turn_deg: Place = (0, 0, 0),
) -> None:
    """kind POINT, AREA (watts) or SUN (watts a square metre); an AREA light shines down before it
    is turned.
    """
    lamp = bpy.data.lights.new(kind, kind)
    lamp.energy, lamp.color = power, colour
    if kind == "AREA":
        lamp.size = size
    elif kind == "SUN":
        lamp.angle = math.radians(size)
    else:
        lamp.shadow_soft_size = 0.1 * size
    thing = bpy.data.objects.new(kind, lamp)
    thing.location = at
    thing.rotation_euler = [math.radians(a) for a in turn_deg]
    bpy.context.scene.collection.objects.link(thing)


def sky(horizon: Colour, zenith: Colour, strength: float = 1.0) -> None:
    """A world whose colour goes from the horizon to the zenith."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    split, ramp = nodes.new("ShaderNodeSeparateXYZ"), nodes.new("ShaderNodeValToRGB")
    links.new(nodes.new("ShaderNodeTexCoord").outputs["Generated"], split.inputs[0])
    links.new(split.outputs["Z"], ramp.inputs["Fac"])
    ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (
        (*horizon, 1.0),
        (*zenith, 1.0),
    )
    ramp.color_ramp.elements[1].position = 0.6
    links.new(ramp.outputs["Color"], nodes["Background"].inputs["Color"])
    nodes["Background"].inputs["Strength"].default_value = strength
