"""Two points scale a set, three points level it; which point a click finds."""

from __future__ import annotations

import math

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Matrix, Vector  # noqa: E402
from scene_splatter.blender_addon.publish import collections, ruler  # noqa: E402
from scene_splatter.blender_addon.splats import splat_object  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

from tests.blender.splat_scene import empty_scene, random_splats  # noqa: E402


@pytest.fixture
def tilted_set(addon):
    """A set with splats and an animated camera, tilted by 26 degrees, as an unknown camera makes
    it.
    """
    scene = empty_scene()
    root = collections.new_set(scene, "room")
    ob = splat_object.create(
        "room",
        random_splats(50, 3),
        blending="linear",
        collection=collections.part_of(root, "splats"),
    )
    bpy.context.view_layer.update()
    ob.matrix_world = Matrix.Rotation(math.radians(26), 4, "X") @ ob.matrix_world
    camera = scene.camera
    collections.link(camera, collections.part_of(root, "cameras"))
    for frame, x in ((1, 0.0), (10, 0.9)):
        camera.location.x = x
        camera.keyframe_insert("location", frame=frame)
    bpy.context.view_layer.objects.active = ob
    bpy.context.view_layer.update()
    return ob


def test_two_points_scale_everything_of_the_set_the_moving_camera_too(tilted_set) -> None:
    scene, camera = bpy.context.scene, bpy.context.scene.camera
    scene.frame_set(10)
    before = {ob.name: ob.matrix_world.translation.copy() for ob in (tilted_set, camera)}
    a, b = Vector((1, 2, 0)), Vector((1, 2, 0.7))
    found = bpy.ops.scene_splatter.ruler(
        "EXEC_DEFAULT", task="SCALE", point_a=a, point_b=b, length=2.1
    )
    assert found == {"FINISHED"}
    scene.frame_set(10)
    for ob in (tilted_set, camera):
        expected = a + (before[ob.name] - a) * 3
        assert (ob.matrix_world.translation - expected).length < 1e-5, ob.name
    assert tilted_set.matrix_world.to_scale()[0] == pytest.approx(3)
    # a second measurement finds the length that was said
    again = [a, a + (b - a) * 3]
    bpy.ops.scene_splatter.ruler(
        "EXEC_DEFAULT", task="SCALE", point_a=again[0], point_b=again[1], length=2.1
    )
    assert tilted_set.matrix_world.to_scale()[0] == pytest.approx(3, rel=1e-5)


def test_three_points_of_the_floor_level_the_set(tilted_set) -> None:
    tilt = Matrix.Rotation(math.radians(26), 4, "X")
    floor = [tilt @ Vector(p) for p in ((0, 2, -1.2), (1, 5, -1.2), (-2, 4, -1.2))]
    inside = [tilted_set.matrix_world.inverted() @ p for p in floor]
    points = dict(zip(("point_a", "point_b", "point_c"), floor, strict=True))
    assert bpy.ops.scene_splatter.ruler("EXEC_DEFAULT", task="LEVEL", **points) == {"FINISHED"}
    bpy.context.view_layer.update()
    heights = [(tilted_set.matrix_world @ p).z for p in inside]
    assert np.allclose(heights, 0, atol=1e-5)
    up = tilted_set.matrix_world.to_3x3() @ Vector((0, -1, 0))
    assert up.z > 0.9999, "y down in the file is down again"


def test_points_that_say_nothing_are_refused() -> None:
    a, b = Vector((0, 0, 0)), Vector((1, 1, 0))
    with pytest.raises(UserError, match="one line"):
        ruler.levelling(a, b, b * 3)
    with pytest.raises(UserError, match="wall"):
        ruler.levelling(a, b, Vector((0, 0, 1)))
    with pytest.raises(UserError, match="points are one"):
        ruler.scaling(a, a, 2.0)


def test_the_order_of_the_floors_points_does_not_matter() -> None:
    a, b, c = Vector((0, 0, 0)), Vector((1, 0, 0.3)), Vector((0, 1, 0.1))
    np.testing.assert_allclose(
        np.array(ruler.levelling(a, b, c)), np.array(ruler.levelling(c, b, a)), atol=1e-6
    )


def test_a_click_takes_the_front_surface_not_the_haze_before_it() -> None:
    rng = np.random.default_rng(0)

    def wall(z: float, n: int) -> np.ndarray:
        return np.c_[rng.uniform(-1, 1, (n, 2)), np.full(n, z)]

    haze, front, back = wall(1.0, 2000), wall(3.0, 4000), wall(5.0, 4000)
    means = np.concatenate([back, haze, front])
    opacities = np.concatenate([np.full(4000, 0.9), np.full(2000, 0.004), np.full(4000, 0.9)])
    direction = np.array([0.1, 0.05, 1.0]) / np.linalg.norm((0.1, 0.05, 1.0))
    found = ruler.pick(means, opacities, np.zeros(3), direction, 0.02)
    assert found is not None and found[2] == pytest.approx(3.0, abs=0.02)
    assert np.linalg.norm(found - direction * (found @ direction)) < 1e-6, "on the ray"
    assert ruler.pick(means, opacities, np.zeros(3), -direction, 0.02) is None
