"""Transforms put into the data of splats; Blender's own Apply found out and made up for; clouds of
Blender's own importer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Euler, Matrix, Vector  # noqa: E402
from scene_splatter.blender_addon.publish import exporting  # noqa: E402
from scene_splatter.blender_addon.splats import (  # noqa: E402
    applying,
    marks,
    native,
    render_check,
    splat_object,
)
from scene_splatter.engine.bridge import splat_file  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

from tests.blender.splat_oracle import psnr  # noqa: E402
from tests.blender.splat_scene import add_splats, empty_scene, random_splats, render  # noqa: E402
from tests.blender.test_splat_object import assert_same_bits  # noqa: E402

MOVE = Matrix.LocRotScale(Vector((0.3, -0.2, 0.4)), Euler((0.2, -0.3, 0.25)), Vector((1.3,) * 3))


@pytest.fixture
def splats(addon):
    """Splats of SH degree 3, moved, turned and scaled in view of the camera."""
    empty_scene(96, 64)
    ob = add_splats(random_splats(200, 15))
    ob.matrix_world = MOVE @ ob.matrix_world
    bpy.context.view_layer.objects.active = ob
    ob.select_set(True)
    bpy.context.view_layer.update()
    return ob


def test_applying_changes_nothing_that_is_seen(splats, tmp_path: Path) -> None:
    scene = bpy.context.scene
    child = bpy.data.objects.new("child", None)
    scene.collection.objects.link(child)
    child.parent = splats
    bpy.context.view_layer.update()
    place = child.matrix_world.copy()
    before = render(scene, "CYCLES", tmp_path / "a.exr")
    assert bpy.ops.scene_splatter.apply_transform() == {"FINISHED"}
    assert splats.matrix_basis == Matrix.Identity(4)
    after = render(scene, "CYCLES", tmp_path / "b.exr")
    assert psnr(after, before) > 75
    assert np.allclose(np.array(child.matrix_world), np.array(place), atol=1e-5)
    assert applying.applied_by_blender(splats) is None


def test_blenders_own_apply_is_found_out_and_repaired(splats, tmp_path: Path) -> None:
    """The real operator of Blender, which moves the points and nothing else."""
    scene = bpy.context.scene
    before = render(scene, "CYCLES", tmp_path / "a.exr")
    assert applying.applied_by_blender(splats) is None
    bpy.ops.object.transform_apply()
    assert psnr(render(scene, "CYCLES", tmp_path / "b.exr"), before) < 30, "Blender breaks it"
    assert any("Apply" in text for text in render_check.render_warnings(scene, splats))
    assert bpy.ops.scene_splatter.repair_applied() == {"FINISHED"}
    assert psnr(render(scene, "CYCLES", tmp_path / "c.exr"), before) > 70
    assert not any("Apply" in text for text in render_check.render_warnings(scene, splats))
    assert not bpy.ops.scene_splatter.repair_applied.poll()


def test_edits_that_are_no_similarity_are_not_taken_for_apply(splats) -> None:
    positions = splat_object.positions(splats)
    positions[::3] += (0.1, 0, 0)
    splats.data.attributes["position"].data.foreach_set("vector", positions.ravel())
    assert applying.applied_by_blender(splats) is None
    with pytest.raises(UserError, match="needs no repair"):
        applying.repair(splats)


def test_the_similarity_between_points_is_the_one_they_were_moved_by() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        points = rng.normal(size=(24, 3))
        turn = np.array(Euler(rng.uniform(-3, 3, 3)).to_matrix())
        scale, shift = rng.uniform(0.1, 9), rng.normal(size=3)
        found = marks.similarity_between(points, scale * points @ turn.T + shift)
        np.testing.assert_allclose(found[:3, :3], scale * turn, atol=1e-6 * scale)
        np.testing.assert_allclose(found[:3, 3], shift, atol=1e-5)
    assert marks.similarity_between(points, points) is None
    assert marks.similarity_between(points, points * (1, 1, 2)) is None
    assert marks.similarity_between(points, points * (1, 1, -1)) is None, "a mirror"
    line = np.outer(np.arange(24.0), (1, 2, 3))
    assert marks.similarity_between(line, line + 1) is None


def test_what_cannot_be_applied_is_refused_with_a_reason(splats) -> None:
    twin = bpy.data.objects.new("twin", splats.data)
    with pytest.raises(UserError, match="other objects"):
        applying.apply(splats)
    bpy.data.objects.remove(twin)
    splats.keyframe_insert("location", frame=1)
    with pytest.raises(UserError, match="animated"):
        applying.apply(splats)
    splats.animation_data_clear()
    splats.scale.x *= 2
    bpy.context.view_layer.update()
    before = splat_object.to_splats(splats)
    with pytest.raises(UserError, match="unequally"):
        applying.apply(splats)
    assert_same_bits(splat_object.to_splats(splats), before)


def test_clouds_of_blenders_own_importer_are_stood_up_drawn_and_exported(
    addon, tmp_path: Path
) -> None:
    if not splat_object.is_native():
        pytest.skip("this Blender imports no splats: 5.3 and later do")
    scene = empty_scene(96, 64)
    made = random_splats(150, 15)
    splat_file.write_ply(tmp_path / "a.ply", made)
    bpy.ops.wm.ply_import(filepath=str(tmp_path / "a.ply"))
    ob = bpy.context.view_layer.objects.active
    assert ob.type == "POINTCLOUD" and splat_object.drawn_natively(ob)
    assert bpy.ops.scene_splatter.stand_upright() == {"FINISHED"}
    bpy.context.view_layer.update()
    exporting.write(scene, ob, tmp_path / "b.ply", in_world=True)
    back = splat_file.read_ply(tmp_path / "b.ply")
    np.testing.assert_array_equal(back.means, made.means)
    np.testing.assert_array_equal(back.sh_rest, made.sh_rest)
    np.testing.assert_allclose(back.scales_log, made.scales_log, atol=2e-6)
    np.testing.assert_allclose(back.opacities_logit, made.opacities_logit, atol=1e-5)
    native.to_nodes(ob)
    found = render(scene, "CYCLES", tmp_path / "a.exr")
    bpy.data.objects.remove(ob)
    add_splats(made, blending="display")
    assert psnr(found, render(scene, "CYCLES", tmp_path / "b.exr")) > 70


def test_native_splats_are_applied_too(addon) -> None:
    if not splat_object.is_native():
        pytest.skip("this Blender has no native splats: 5.3 and later have them")
    empty_scene()
    ob = add_splats(random_splats(30, 3))
    native.to_native(ob)
    ob.location = (1, 2, 3)
    bpy.context.view_layer.update()
    before = splat_object.to_splats(ob)
    applying.apply(ob)
    assert splat_object.drawn_natively(ob)
    moved = splat_object.to_splats(ob)
    turned = before.means * (1, -1, -1)  # OpenCV's y and z, for the quarter turn that stood it up
    np.testing.assert_allclose(moved.means[:, 0], before.means[:, 0] + 1, atol=1e-5)
    np.testing.assert_allclose(moved.means[:, 2], turned[:, 1] + 3, atol=1e-5)
