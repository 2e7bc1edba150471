"""The blockout's depth is that of the geometry, known by formula; the scene is left as it was."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Matrix  # noqa: E402
from scene_splatter.blender_addon.cameras import blockout, conversion  # noqa: E402
from scene_splatter.blender_addon.jobs.slices import run  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

from tests.blender.splat_scene import add_splats, empty_scene, random_splats  # noqa: E402


def write_depth(*arguments) -> np.ndarray:
    """`write_depth_in_slices`, all at once."""
    return run(blockout.write_depth_in_slices(*arguments))


def measure(*arguments) -> np.ndarray:
    """`measure_in_slices`, all at once."""
    return run(blockout.measure_in_slices(*arguments))


def rays(scene, width: int, height: int) -> np.ndarray:
    """[h, w, 3] directions in camera space with z = 1."""
    full = conversion.render_size(scene.render)
    K = np.diag([width / full[0], height / full[1], 1]) @ conversion.intrinsics(
        scene.camera.data, scene.render
    )
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], -1)


def state_of_the_file() -> dict[str, object]:
    """Everything that a careless tool would leave behind."""
    scene = bpy.context.scene
    names = {
        kind: sorted(block.name for block in getattr(bpy.data, kind))
        for kind in ("objects", "meshes", "node_groups", "materials", "scenes")
    }
    selected = sorted(ob.name for ob in bpy.context.view_layer.objects if ob.select_get())
    active = bpy.context.view_layer.objects.active
    return names | {
        "frame": (scene.frame_current, scene.frame_subframe),
        "selected": selected,
        "active": active and active.name,
        "engine": scene.render.engine,
    }


def test_planes_spheres_and_nothing(tmp_path) -> None:
    scene = empty_scene(160, 120)
    camera = scene.camera
    camera.data.shift_x, camera.data.sensor_fit = 0.07, "VERTICAL"
    camera.location.z = 1.5
    bpy.ops.mesh.primitive_plane_add(size=200, location=(0, 99, 0))  # the floor, from y = -1 to 199
    bpy.ops.mesh.primitive_uv_sphere_add(
        radius=1, segments=256, ring_count=128, location=(0.5, 6, 2)
    )
    before = state_of_the_file()
    depth = write_depth(bpy.context, camera, 1, tmp_path / "depth.npy")
    assert state_of_the_file() == before
    assert depth.dtype == np.float32 and depth.shape == (120, 160)
    assert np.array_equal(np.load(tmp_path / "depth.npy"), depth)
    direction = rays(scene, 160, 120)
    with np.errstate(divide="ignore"):
        floor = np.where(direction[..., 1] > 0, 1.5 / direction[..., 1], np.inf)
    floor = np.where(floor < min(199, camera.data.clip_end), floor, np.inf)
    centre = np.array([0.5, -0.5, 6.0])
    a, b = (direction**2).sum(-1), direction @ centre
    under = b * b - a * (centre @ centre - 1)
    sphere = np.where(under > 0, (b - np.sqrt(np.maximum(under, 0))) / a, np.inf)
    expected = np.minimum(floor, sphere)
    edge = np.abs(under) < 0.05  # the mesh is a polyhedron: its outline is a little smaller
    sides = np.abs(direction[..., 0] * np.where(np.isfinite(floor), floor, 0)) > 99
    usable = ~edge & ~sides
    assert np.array_equal(np.isfinite(depth)[usable], np.isfinite(expected)[usable])
    both = usable & np.isfinite(expected)
    assert np.abs(depth[both] / expected[both] - 1).max() < 2e-3
    only_floor = both & (floor < sphere)
    assert (
        only_floor.sum() > 3000 and np.abs(depth[only_floor] / floor[only_floor] - 1).max() < 1e-4
    )


def wall(distance: float, **values: object):
    bpy.ops.mesh.primitive_plane_add(
        size=100, location=(0, distance, 0), rotation=(math.pi / 2, 0, 0)
    )
    for name, value in values.items():
        setattr(bpy.context.object, name, value)
    return bpy.context.object


def test_only_visible_renderable_surfaces_count() -> None:
    scene = empty_scene(32, 24)
    wall(9)
    wall(2, hide_render=True)
    wall(3, hide_viewport=True)
    wall(4).hide_set(True)
    add_splats(random_splats(50, 0))
    bpy.ops.object.light_add(location=(0, 1, 0))
    assert np.allclose(measure(bpy.context, scene.camera, 1, 32, 24), 9, atol=1e-4)


def test_instances_modifiers_curves_and_animation_are_evaluated() -> None:
    scene = empty_scene(32, 24)
    source = wall(0)
    source.location.y = 50
    collection = bpy.data.collections.new("set")
    scene.collection.objects.unlink(source)
    collection.objects.link(source)
    source.location = (0, 5, 0)
    empty = bpy.data.objects.new("instance", None)
    scene.collection.objects.link(empty)
    empty.instance_type, empty.instance_collection = "COLLECTION", collection
    for frame, y in ((1, 1.0), (11, 3.0)):
        empty.location.y = y
        empty.keyframe_insert("location", frame=frame)
    scene.frame_set(4)
    assert np.allclose(measure(bpy.context, scene.camera, 1, 32, 24), 6, atol=1e-4)
    assert np.allclose(measure(bpy.context, scene.camera, 11, 32, 24), 8, atol=1e-4)
    assert scene.frame_current == 4
    bpy.ops.object.text_add(location=(0, 2, 0), rotation=(math.pi / 2, 0, 0))
    bpy.context.object.data.body, bpy.context.object.data.size, bpy.context.object.data.align_x = (
        "I",
        9,
        "CENTER",
    )
    assert np.isclose(measure(bpy.context, scene.camera, 11, 32, 24), 2, atol=1e-4).sum() > 10


def test_clip_range_and_units() -> None:
    scene = empty_scene(16, 12)
    wall(2)
    wall(7)
    scene.camera.data.clip_start = 3
    assert np.allclose(measure(bpy.context, scene.camera, 1, 16, 12), 7, atol=1e-4)
    scene.camera.data.clip_end = 6
    assert np.isinf(measure(bpy.context, scene.camera, 1, 16, 12)).all()
    scene.camera.data.clip_start, scene.unit_settings.scale_length = 0.1, 0.01
    assert np.allclose(measure(bpy.context, scene.camera, 1, 16, 12), 0.02, atol=1e-6)


def test_nothing_in_view_and_bad_cameras_are_said_plainly(tmp_path) -> None:
    scene = empty_scene(16, 12)
    with pytest.raises(UserError, match="sees no geometry"):
        write_depth(bpy.context, scene.camera, 1, tmp_path / "depth.npy")
    wall(-5)
    with pytest.raises(UserError, match="sees no geometry"):
        write_depth(bpy.context, scene.camera, 1, tmp_path / "depth.npy")
    wall(5)
    with pytest.raises(UserError, match="does not exist"):
        write_depth(bpy.context, scene.camera, 1, tmp_path / "absent" / "depth.npy")
    scene.camera.data.type = "ORTHO"
    with pytest.raises(UserError, match="orthographic"):
        write_depth(bpy.context, scene.camera, 1, tmp_path / "depth.npy")
    assert list(tmp_path.iterdir()) == []


def test_it_agrees_with_the_ray_caster_of_blender_on_a_rough_surface() -> None:
    scene = empty_scene(40, 30)
    bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=5, radius=2, location=(0, 6, 0))
    mesh = bpy.context.object.data
    rng = np.random.default_rng(0)
    for vertex in mesh.vertices:
        vertex.co *= rng.uniform(0.9, 1.1)
    bpy.context.object.matrix_world = (
        Matrix.Translation((0, 6, 0))
        @ Matrix.Rotation(0.5, 4, "X")
        @ Matrix.Diagonal((1, 1.4, 0.8, 1))
    )
    bpy.context.view_layer.update()
    start = time.thread_time()
    depth = measure(bpy.context, scene.camera, 1, 40, 30)
    assert time.thread_time() - start < 2
    pose = np.array(scene.camera.matrix_world)
    world_rays = rays(scene, 40, 30) * (1, -1, -1) @ pose[:3, :3].T
    graph = bpy.context.evaluated_depsgraph_get()
    for row in range(0, 30, 3):
        for column in range(0, 40, 3):
            ray = world_rays[row, column]
            hit, point, *_ = scene.ray_cast(graph, pose[:3, 3], ray)
            expected = (
                np.linalg.norm(np.array(point) - pose[:3, 3]) / np.linalg.norm(ray)
                if hit
                else np.inf
            )
            assert depth[row, column] == pytest.approx(expected, rel=1e-3)
