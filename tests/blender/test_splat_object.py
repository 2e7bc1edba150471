"""Gaussians as objects: the layout of Blender 5.3, bit for bit back, replaced in place, one undo
step.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Euler, Matrix, Vector  # noqa: E402
from scene_splatter.blender_addon.splats import render_check, splat_nodes, splat_object  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402
from scene_splatter.engine.bridge.splat_file import Splats  # noqa: E402

from tests.blender.splat_oracle import rotations  # noqa: E402
from tests.blender.splat_scene import add_splats, empty_scene, random_splats  # noqa: E402


@pytest.fixture(autouse=True)
def scene():
    return empty_scene()


def assert_same_bits(a: Splats, b: Splats) -> None:
    for name, x, y in zip(Splats._fields, a, b, strict=True):
        assert (
            x.dtype == y.dtype == np.float32 and x.shape == y.shape and x.tobytes() == y.tobytes()
        ), name


def values(ob, name: str, field: str, width: int) -> np.ndarray:
    attribute = ob.data.attributes[name]
    out = np.empty(len(attribute.data) * width, np.float32)
    attribute.data.foreach_get(field, out)
    return out.reshape(-1, width)


def test_the_layout_is_that_of_blender_5_3() -> None:
    splats = random_splats(30, 3)
    ob = splat_object.create("a", splats, blending="linear")
    assert ob.type == "POINTCLOUD" and len(ob.data.points) == 30
    assert np.array_equal(values(ob, "position", "vector", 3), splats.means)
    assert np.allclose(
        values(ob, "scale", "vector", 3), np.exp(splats.scales_log.astype(np.float64)), rtol=1e-6
    )
    quats = values(ob, "rotation", "value", 4)
    assert ob.data.attributes["rotation"].data_type == "QUATERNION" and np.allclose(
        np.linalg.norm(quats, axis=1), 1, atol=1e-6
    )
    assert np.allclose(rotations(quats), rotations(splats.quats), atol=1e-6)
    base = ob.data.attributes["radiance:base"]
    expected_type = (
        "FLOAT4"
        if "FLOAT4" in bpy.types.Attribute.bl_rna.properties["data_type"].enum_items
        else "FLOAT_COLOR"
    )
    assert base.data_type == expected_type
    base = values(ob, "radiance:base", "vector" if expected_type == "FLOAT4" else "color", 4)
    assert np.array_equal(base[:, :3], splats.sh_dc)
    assert np.allclose(
        base[:, 3], 1 / (1 + np.exp(-splats.opacities_logit.astype(np.float64))), atol=1e-6
    )
    for i in range(3):
        assert np.array_equal(values(ob, f"radiance:sh_{i}", "vector", 3), splats.sh_rest[:, i])
    assert "radiance:sh_3" not in ob.data.attributes and "color" not in ob.data.attributes
    assert ob["scene_splatter_blending"] == "linear"


def test_it_stands_upright_and_is_metric() -> None:
    splats = random_splats(3, 0)
    splats.means[:] = [(0, 0, 2), (1, 0, 2), (0, -1, 2)]  # ahead; to the right; up
    ob = splat_object.create("a", splats, blending="linear")
    bpy.context.view_layer.update()
    world = [np.array(ob.matrix_world @ Vector(mean)) for mean in splats.means]
    assert np.allclose(world, [(0, 2, 0), (1, 2, 0), (0, 2, 1)], atol=1e-6)


@pytest.mark.parametrize("k", [0, 3, 8, 15])
def test_what_was_imported_comes_back_bit_for_bit(k: int, tmp_path: Path) -> None:
    splats = random_splats(2000, k)
    splats.opacities_logit[:4] = 25, -40, 16.6, 0
    splats.scales_log[5] = -20.7, 5, -12
    ob = splat_object.create("a", splats, blending="display")
    assert_same_bits(splat_object.to_splats(ob), splats)
    ob.location = (1, 2, 3)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    assert_same_bits(splat_object.to_splats(bpy.data.objects["a"]), splats)


def test_an_edited_attribute_is_exported_as_edited() -> None:
    splats = random_splats(10, 0)
    ob = splat_object.create("a", splats, blending="linear")
    scale = values(ob, "scale", "vector", 3)
    scale[2] *= 2
    ob.data.attributes["scale"].data.foreach_set("vector", scale.ravel())
    rotation = values(ob, "rotation", "value", 4)
    rotation[3] = 0, 1, 0, 0
    ob.data.attributes["rotation"].data.foreach_set("value", rotation.ravel())
    back = splat_object.to_splats(ob)
    assert np.allclose(back.scales_log[2], splats.scales_log[2] + math.log(2), atol=1e-6)
    assert np.array_equal(back.quats[3], (0, 1, 0, 0))
    untouched = [i for i in range(10) if i not in (2, 3)]
    assert back.scales_log[untouched].tobytes() == splats.scales_log[untouched].tobytes()
    assert back.quats[untouched].tobytes() == splats.quats[untouched].tobytes()


def test_broken_edits_are_refused() -> None:
    ob = splat_object.create("a", random_splats(10, 0), blending="linear")
    ob.data.attributes["scale"].data.foreach_set("vector", np.zeros(30, np.float32))
    with pytest.raises(UserError, match="without size"):
        splat_object.to_splats(ob)
    plain = bpy.data.objects.new("plain", bpy.data.meshes.new("plain"))
    with pytest.raises(UserError, match="holds no Gaussians"):
        splat_object.to_splats(plain)
    with pytest.raises(UserError, match="holds no Gaussians"):
        splat_object.replace(plain, random_splats(2, 0), blending="linear")


def test_replacing_keeps_everything_but_the_gaussians(scene) -> None:
    ob = splat_object.create("a", random_splats(50, 3), blending="display")
    twin = bpy.data.objects.new("twin", ob.data)
    scene.collection.objects.link(twin)
    own = bpy.data.materials.new("own")
    ob.data.materials[0] = own
    ob.matrix_world = pose = Matrix.LocRotScale(
        Vector((1, 2, 3)), Euler((0.1, 0.2, 0.3)), Vector((2, 2, 2))
    )
    ob.keyframe_insert("location", frame=4)
    child = bpy.data.objects.new("child", None)
    scene.collection.objects.link(child)
    child.parent = ob
    ob["note"] = ob.data["note"] = "kept"
    name = ob.data.name
    new = random_splats(80, 15, seed=5)
    splat_object.replace(ob, new, blending="linear")
    assert_same_bits(splat_object.to_splats(ob), new)
    assert twin.data == ob.data and ob.data.name == name and len(bpy.data.pointclouds) == 1
    assert list(ob.data.materials) == [own] and ob["note"] == ob.data["note"] == "kept"
    assert (
        np.allclose(np.array(ob.matrix_basis), np.array(pose), atol=1e-6)
        and ob.animation_data.action is not None
        and child.parent == ob
    )
    modifier = splat_object.modifier_of(ob)
    assert (
        splat_object.get_input(modifier, "Linear Light") is True
        and splat_object.get_input(modifier, "SH Degree") == 3
    )
    assert ob["scene_splatter_blending"] == "linear"


def test_node_group_and_material_are_shared(scene) -> None:
    for index in range(3):
        splat_object.create(f"a{index}", random_splats(5, 0), blending="linear")
    assert sum("scene_splatter_version" in group for group in bpy.data.node_groups) == 1
    assert len([m for m in bpy.data.materials if "scene_splatter_version" in m]) == 1
    assert len(bpy.data.objects) == 4, (
        "the camera and three clouds: nothing is left of how they were made"
    )


def test_a_million_gaussians_in_under_a_second() -> None:
    splats = random_splats(1_000_000, 0)
    best = math.inf
    for _ in range(3):
        start = time.thread_time()
        ob = splat_object.create("big", splats, blending="linear")
        best = min(best, time.thread_time() - start)
        bpy.data.objects.remove(ob)
    assert best < 1.0


# --- the layout view -----------------------------------------------------------------------------


def drawn_in_viewport(ob) -> tuple[str, int]:
    """Type and number of points (or quads) that the viewport is given."""
    graph = bpy.context.evaluated_depsgraph_get()
    for instance in graph.object_instances:
        if instance.object.original == ob:
            data = instance.object.data
            if isinstance(data, bpy.types.Mesh) and len(data.polygons):
                return "quads", len(data.polygons)
            if isinstance(data, bpy.types.PointCloud) and len(data.points):
                return "points", len(data.points)
    return "nothing", 0


def test_the_viewport_shows_points_and_quads_where_asked(scene) -> None:
    splats = random_splats(1000, 0)
    ob = add_splats(splats)
    visible = int((1 / (1 + np.exp(-splats.opacities_logit)) >= splat_nodes.ALPHA_MIN).sum())
    assert drawn_in_viewport(ob) == ("points", 1000)
    modifier = splat_object.modifier_of(ob)
    splat_object.set_input(modifier, "Percentage", 25.0)
    kind, count = drawn_in_viewport(ob)
    assert kind == "points" and 200 < count < 300
    splat_object.set_input(modifier, "Percentage", 100.0)
    splat_object.set_input(modifier, "Exact in Viewport", True)
    assert drawn_in_viewport(ob) == ("quads", visible)


def test_the_crop_box_crops(scene) -> None:
    splats = random_splats(1000, 0)
    ob = add_splats(splats)
    box = bpy.data.objects.new("box", None)
    scene.collection.objects.link(box)
    box.matrix_world = Matrix.LocRotScale(
        Vector((0.3, 4, 0.1)), Euler((0.2, 0.1, 0.7)), Vector((0.8, 1.2, 0.5))
    )
    modifier = splat_object.modifier_of(ob)
    splat_object.set_input(modifier, "Crop Box", box)
    bpy.context.view_layer.update()
    assert drawn_in_viewport(ob) == ("points", 1000)
    splat_object.set_input(modifier, "Crop", True)
    bpy.context.view_layer.update()
    inside = (
        np.linalg.inv(np.array(box.matrix_world))
        @ np.array(ob.matrix_world)
        @ np.c_[splats.means, np.ones(1000)].T
    )
    expected = int((np.abs(inside[:3]) < 1).all(axis=0).sum())
    assert 20 < expected < 900 and drawn_in_viewport(ob) == ("points", expected)


# --- what must be set ----------------------------------------------------------------------------


def test_a_prepared_scene_has_no_warnings_and_each_wrong_setting_is_named(scene) -> None:
    ob = add_splats(random_splats(10, 0))
    scene.render.engine = "CYCLES"
    scene.view_settings.view_transform = "AgX"
    scene.cycles.transparent_max_bounces = 8
    scene.cycles.min_transparent_bounces = 0
    words = " ".join(render_check.render_warnings(scene, ob))
    assert "AgX" in words and "8 transparent bounces" in words and "chance" in words
    render_check.prepare_scene(scene, ob)
    assert render_check.render_warnings(scene, ob) == []

    def named(word: str) -> None:
        (warning,) = render_check.render_warnings(scene, ob)
        assert word in warning

    scene.view_settings.exposure = 1
    named("exposure")
    scene.view_settings.exposure = 0
    ob.scale.x = 2
    bpy.context.view_layer.update()
    named("stretched")
    ob.scale.x = 1
    bpy.context.view_layer.update()
    camera = scene.camera
    camera.data.type = "ORTHO"
    named("perspective")
    camera.data.type = "PERSP"
    scene.camera = None
    named("no camera")
    scene.camera = camera
    scene.render.use_motion_blur, ob.cycles.use_deform_motion = True, True
    named("sorted anew")
    scene.render.use_motion_blur = False
    ob["scene_splatter_blending"] = "display"
    named("made for display blending")
    ob["scene_splatter_blending"] = "linear"
    splat_object.modifier_of(ob).show_render = False
    named("off in renders")
    ob.modifiers.clear()
    named("lost its")


def test_display_splats_ask_for_raw(scene) -> None:
    ob = add_splats(random_splats(10, 0), blending="display")
    scene.render.engine = "CYCLES"
    render_check.prepare_scene(scene, ob)
    assert scene.view_settings.view_transform == "Raw"
    (warning,) = render_check.render_warnings(scene, ob)
    assert "display values" in warning
