"""Depth of the scene's own geometry under a camera: a layout artist's blockout decides where things
are.

All visible, renderable geometry, instances included, is collected as triangles in the camera's
space; geometry nodes cast one ray through every pixel centre. That is as exact as a render, runs
without a graphics card, and touches nothing of the user's scene: what it needs lives for one
evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path

import bpy
import numpy as np

from ...engine.bridge.errors import UserError
from ...engine.bridge.whole_file import replacing
from ..jobs.slices import Step
from ..splats import scratch_scene
from ..splats.node_builder import NodeBuilder, Value
from ..splats.splat_object import is_splat_object
from . import conversion

LONGEST_PX = 1024
_RAYS = 65_536  # of one slice
_HEAVY = (
    50_000  # triangles; sorting so many for every slice would take longer than the rays: all in one
)
_SOLID = {"MESH", "CURVE", "SURFACE", "META", "FONT"}
_DEPTH = "depth"


def write_depth_in_slices(
    context: bpy.types.Context, camera: bpy.types.Object, frame: float, path: Path
) -> Generator[Step, None, np.ndarray]:
    """Write the depth map of the blockout, seen by `camera` at `frame`, as NPY, and return it.

    [h, w] float32, metres along the camera's axis, inf where nothing is; at the render's size, at
    most LONGEST_PX wide or high. The scene's frame is put back. Raises UserError if nothing is in
    view, if the camera is no perspective one, or if the file cannot be written.
    """
    width, height, name = *conversion.render_size(context.scene.render), camera.name
    share = min(1.0, LONGEST_PX / max(width, height))
    depth = yield from measure_in_slices(
        context, camera, frame, max(1, round(width * share)), max(1, round(height * share))
    )
    if not np.isfinite(depth).any():
        raise UserError(
            f"{name} sees no geometry at frame {frame:g}.",
            "Put the blockout in its view and make it renderable, or choose another depth source.",
        )
    with replacing(path) as file:
        np.save(file, depth)
    return depth


def measure_in_slices(
    context: bpy.types.Context, camera: bpy.types.Object, frame: float, width: int, height: int
) -> Generator[Step, None, np.ndarray]:
    """Depth [height, width] float32 in metres, inf where no ray hits within the camera's clip
    range. See `write_depth_in_slices`.

    The geometry is taken in the first slice, so it does not matter what happens to it later.
    """
    scene = context.scene
    metres, full = scene.unit_settings.scale_length, conversion.render_size(scene.render)
    before = scene.frame_current, scene.frame_subframe
    try:
        scene.frame_set(math.floor(frame), subframe=frame - math.floor(frame))
        graph = context.evaluated_depsgraph_get()
        eye = camera.evaluated_get(graph)
        K = conversion.intrinsics(eye.data, scene.render)
        world_from_camera = conversion.world_from_camera(
            eye.matrix_world, 1.0, camera.name
        )  # in Blender units
        camera_from_blender = np.linalg.inv(world_from_camera) @ conversion.OPENCV_FROM_BLENDER
        triangles = _triangles(graph, camera_from_blender)
        clip = eye.data.clip_start, eye.data.clip_end
    finally:
        scene.frame_set(before[0], subframe=before[1])
    if len(triangles) == 0:
        return np.full((height, width), np.inf, np.float32)
    K = np.diag([width / full[0], height / full[1], 1.0]) @ K
    rows = height if len(triangles) > _HEAVY else max(1, _RAYS // width)
    bands = []
    for top in range(0, height, rows):
        yield Step("Measuring the blockout", top, height)
        bands.append(
            _cast(
                triangles,
                K - [[0, 0, 0], [0, 0, top], [0, 0, 0]],
                width,
                min(rows, height - top),
                clip,
            )
        )
    return (np.concatenate(bands) * metres).astype(np.float32)


def _triangles(graph: bpy.types.Depsgraph, camera_from_blender: np.ndarray) -> np.ndarray:
    """[n, 3, 3] float32 corners of all visible, renderable surfaces in the camera's space; those
    wholly behind it left out.
    """
    parts = []
    for instance in graph.object_instances:
        ob = instance.object
        if ob.type not in _SOLID or not instance.show_self or is_splat_object(ob.original):
            continue
        if ob.original.hide_render or (
            instance.parent is not None and instance.parent.original.hide_render
        ):
            continue
        if (
            instance.is_instance
            and instance.parent is not None
            and is_splat_object(instance.parent.original)
        ):
            continue  # the quads of Gaussians are no blockout
        mesh = ob.to_mesh()
        if mesh is None:
            continue
        try:
            corners = _corners(mesh, camera_from_blender @ np.array(instance.matrix_world))
        finally:
            ob.to_mesh_clear()
        parts.append(corners[(corners[:, :, 2] > 0).any(axis=1)])
    return np.concatenate(parts) if parts else np.empty((0, 3, 3), np.float32)


def _corners(mesh: bpy.types.Mesh, matrix: np.ndarray) -> np.ndarray:
    mesh.calc_loop_triangles()
    points = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", points)
    indices = np.empty(len(mesh.loop_triangles) * 3, np.int32)
    mesh.loop_triangles.foreach_get("vertices", indices)
    points = points.reshape(-1, 3).astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return points.astype(np.float32)[indices].reshape(-1, 3, 3)


def _cast(
    triangles: np.ndarray, K: np.ndarray, width: int, height: int, clip: tuple[float, float]
) -> np.ndarray:
    """Depth [height, width] in the triangles' unit of the first hit of every pixel's ray."""
    mesh = bpy.data.meshes.new("blockout")
    group = bpy.data.node_groups.new("blockout", "GeometryNodeTree")
    try:
        _fill(mesh, triangles)
        _make_rays(group, K, width, height, clip)
        values = np.empty(width * height, np.float32)
        with scratch_scene.evaluated(mesh, group) as ob:
            ob.data.attributes[_DEPTH].data.foreach_get("value", values)
    finally:
        bpy.data.node_groups.remove(group)
        bpy.data.meshes.remove(mesh)
    return np.where(values > 0, values, np.inf).reshape(height, width)


def _fill(mesh: bpy.types.Mesh, triangles: np.ndarray) -> None:
    count = len(triangles)
    mesh.vertices.add(count * 3)
    mesh.vertices.foreach_set("co", triangles.ravel())
    mesh.loops.add(count * 3)
    mesh.loops.foreach_set("vertex_index", np.arange(count * 3, dtype=np.int32))
    mesh.polygons.add(count)
    mesh.polygons.foreach_set("loop_start", np.arange(0, count * 3, 3, dtype=np.int32))
    mesh.update(calc_edges=True)


def _make_rays(
    group: bpy.types.NodeTree, K: np.ndarray, width: int, height: int, clip: tuple[float, float]
) -> None:
    """One vertex a pixel, row by row, with the depth where its ray from the origin hits the input
    mesh; 0 where it does not.
    """
    for io in ("INPUT", "OUTPUT"):
        group.interface.new_socket("Geometry", in_out=io, socket_type="NodeSocketGeometry")
    b = NodeBuilder(group)
    index = b.output("GeometryNodeInputIndex")
    row = b.math("FLOOR", (index + 0.5) / float(width))
    column = index - row * float(width)
    ray = b.vector((column + (0.5 - K[0, 2])) / K[0, 0], (row + (0.5 - K[1, 2])) / K[1, 1], 1.0)
    start, end = clip
    hit = b.node(
        "GeometryNodeRaycast",
        {
            "Target Geometry": b.output("NodeGroupInput"),
            "Source Position": ray * start,
            "Ray Direction": ray,
            "Ray Length": ray.length() * (end - start),
        },
    )
    depth = Value(b, hit.outputs["Hit Position"]).xyz()[2] * Value(b, hit.outputs["Is Hit"])
    grid = b.output("GeometryNodeMeshLine", 0, {"Count": width * height})
    b.node("NodeGroupOutput", {0: b.store(grid, _DEPTH, "FLOAT", depth)})
