"""Splats in a free view: quads turned to the eye and sorted for it, as the render draws them
through a camera there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Euler, Matrix, Vector  # noqa: E402
from scene_splatter.blender_addon.splats import layout_view, splat_nodes, splat_object  # noqa: E402

from tests.blender.splat_oracle import draw, psnr  # noqa: E402
from tests.blender.splat_scene import (  # noqa: E402
    add_splats,
    empty_scene,
    opencv_camera,
    random_splats,
    render,
)


def eye_at(matrix: Matrix, focal: float, width: int, height: int) -> layout_view.Eye:
    axes = [matrix.to_3x3().col[i].normalized() for i in range(3)]
    return layout_view.Eye(
        matrix.translation, axes[0], axes[1], -axes[2], focal, float(width), float(height)
    )


def viewport_mesh(ob: bpy.types.Object) -> bpy.types.Object:
    """What the viewport is given of `ob`, as a mesh of its own in its place."""
    graph = bpy.context.evaluated_depsgraph_get()
    for instance in graph.object_instances:
        if instance.object.original == ob and isinstance(instance.object.data, bpy.types.Mesh):
            mesh = instance.object.data.copy()
            made = bpy.data.objects.new("seen", mesh)
            bpy.context.scene.collection.objects.link(made)
            made.matrix_world = ob.matrix_world
            return made
    raise AssertionError("the viewport is given no quads")


def test_quads_face_any_eye_exactly(addon, tmp_path: Path) -> None:
    """From 60 degrees beside the scene camera, where its own quads would be off, on a turned and
    scaled object.
    """
    scene, splats = empty_scene(), random_splats(300, 15)
    ob = add_splats(splats)
    ob.matrix_world = Matrix.LocRotScale(
        Vector((0.5, -1, 0.2)), Euler((0.2, 0.4, -0.7)), Vector((1.6,) * 3)
    )
    bpy.context.view_layer.update()
    middle = ob.matrix_world @ Vector((0, 0, 4))
    aside = middle + Vector((5, -4, 2.0))
    pose = (middle - aside).to_track_quat("-Z", "Y").to_matrix().to_4x4()
    pose.translation = aside
    layout_view.turn_to(ob, eye_at(pose, 35 / 36 * 128, 128, 96))
    seen = viewport_mesh(ob)
    ob.hide_render = True
    scene.camera.matrix_world = pose
    bpy.context.view_layer.update()
    picture = render(scene, "CYCLES", tmp_path / "a.exr")
    expected = draw(splats, opencv_camera(scene, ob))
    assert expected[..., 3].max() > 0.5 and len(seen.data.polygons) > 200
    assert psnr(picture, expected) > 70


def test_renders_are_not_touched_by_the_view(addon, tmp_path: Path) -> None:
    scene, splats = empty_scene(), random_splats(200, 3)
    ob = add_splats(splats)
    layout_view.turn_to(ob, eye_at(Matrix.Translation((9, 9, 9)), 100.0, 64, 64))
    picture = render(scene, "CYCLES", tmp_path / "a.exr")
    assert psnr(picture, draw(splats, opencv_camera(scene, ob))) > 75


def test_a_free_view_shows_no_more_than_its_limit(addon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splat_nodes, "FREE_LIMIT", 250)
    empty_scene()
    splats = random_splats(1000, 0)
    splats.opacities_logit[:] = 1.0
    ob = add_splats(splats)
    layout_view.turn_to(ob, eye_at(Euler((np.pi / 2, 0, 0)).to_matrix().to_4x4(), 100.0, 64, 64))
    assert 200 < len(viewport_mesh(ob).data.polygons) < 300
    modifier = splat_object.modifier_of(ob)
    splat_object.set_input(modifier, "From View", False)
    assert len(viewport_mesh(ob).data.polygons) == 1000


def test_blender_5_3_draws_the_gaussians_of_a_free_view_itself(addon) -> None:
    if not splat_object.is_native():
        pytest.skip("this Blender has no native splats: 5.3 and later have them")
    empty_scene()
    ob = add_splats(random_splats(100, 3))
    modifier = splat_object.modifier_of(ob)
    graph = bpy.context.evaluated_depsgraph_get()
    assert ob.evaluated_get(graph).data.type == "POINTS"
    splat_object.set_input(modifier, "As Splats", True)
    bpy.context.view_layer.update()
    cloud = ob.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    assert cloud.type == "GAUSSIAN_SPLAT" and len(cloud.points) == 100
    assert "scene_splatter_native" in cloud.materials[0]


class _View:
    """What `eye_of` reads of a 3D view, with the matrices of Blender's own projection."""

    def __init__(
        self, pose: Matrix, projection: Matrix, *, perspective: bool, pivot: Vector
    ) -> None:
        self.view_matrix, self.window_matrix = pose.inverted(), projection
        self.is_perspective, self.view_location, self.view_distance = perspective, pivot, 5.0


class _Region:
    width, height = 320, 200


@pytest.mark.parametrize("perspective", [True, False], ids=["perspective", "orthographic"])
def test_the_eye_of_a_view_projects_as_the_view_does(addon, perspective: bool) -> None:
    """Against the view's own matrices, for points about its pivot."""
    scene = empty_scene(320, 200)
    camera = scene.camera.data
    camera.type, camera.ortho_scale = "PERSP" if perspective else "ORTHO", 4.0
    pose = Matrix.LocRotScale(Vector((3, -4, 2)), Euler((1.1, 0.1, 0.6)), None)
    projection = scene.camera.calc_matrix_camera(
        bpy.context.evaluated_depsgraph_get(), x=320, y=200
    )
    pivot = pose @ Vector((0, 0, -5))
    eye = layout_view.eye_of(_Region, _View(pose, projection, perspective=perspective, pivot=pivot))
    rng = np.random.default_rng(1)
    for offset in rng.uniform(-0.7, 0.7, (20, 3)):
        point = pivot + Vector(offset)
        clip = projection @ pose.inverted() @ point.to_4d()
        expected = np.array((clip.x, clip.y)) / clip.w * (160, 100)
        ray = point - eye.centre
        depth = ray.dot(eye.forward)
        found = eye.focal * np.array((ray.dot(eye.right), ray.dot(eye.up))) / depth
        tolerance = (
            0.01 if perspective else 0.3
        )  # pixels; an orthographic view is far, not infinitely far
        np.testing.assert_allclose(found, expected, atol=tolerance)
