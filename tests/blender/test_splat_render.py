"""Cycles and EEVEE draw Gaussians as an exact numpy compositor does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Euler, Matrix, Vector  # noqa: E402
from scene_splatter.blender_addon.splats import splat_object  # noqa: E402

from tests.blender import splat_oracle  # noqa: E402
from tests.blender.splat_scene import (  # noqa: E402
    EEVEE,
    add_splats,
    empty_scene,
    opencv_camera,
    random_splats,
    render,
)

PLACES = 64  # of the pinhole on the lens


def agreement(
    scene, ob, splats, engine: str, path: Path, *, along_rays: bool = False, linear: bool = True
) -> float:
    """Decibels between Blender's picture and the oracle's."""
    bpy.context.view_layer.update()
    picture = render(scene, engine, path)
    expected = splat_oracle.draw(
        splats, opencv_camera(scene, ob), along_rays=along_rays, linear=linear
    )
    assert expected[..., 3].max() > 0.5, "the Gaussians must be in view"
    return splat_oracle.psnr(picture, expected)


@pytest.mark.parametrize("along_rays", [False, True], ids=["projected", "along_rays"])
def test_cycles_draws_each_form_exactly(tmp_path: Path, along_rays: bool) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats, **{"Along Rays": along_rays})
    assert agreement(scene, ob, splats, "CYCLES", tmp_path / "a.exr", along_rays=along_rays) > 75


@pytest.mark.slow
@pytest.mark.parametrize("along_rays", [False, True], ids=["projected", "along_rays"])
def test_eevee_draws_each_form_to_50_db(tmp_path: Path, along_rays: bool) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats, **{"Along Rays": along_rays})
    assert agreement(scene, ob, splats, EEVEE, tmp_path / "a.exr", along_rays=along_rays) > 50


def test_the_two_forms_differ(tmp_path: Path) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats)
    assert agreement(scene, ob, splats, "CYCLES", tmp_path / "a.exr", along_rays=True) < 60


def test_display_values_are_blended_as_they_are(tmp_path: Path) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats, blending="display")
    assert agreement(scene, ob, splats, "CYCLES", tmp_path / "a.exr", linear=False) > 75
    assert agreement(scene, ob, splats, "CYCLES", tmp_path / "a.exr", linear=True) < 35


@pytest.mark.parametrize("along_rays", [False, True], ids=["projected", "along_rays"])
def test_any_lens_shift_pixel_and_object_transform(tmp_path: Path, along_rays: bool) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats, **{"Along Rays": along_rays})
    ob.matrix_world = Matrix.LocRotScale(
        Vector((1, -2, 0.5)), Euler((0.4, 1.1, -2)), Vector((1.7,) * 3)
    )
    bpy.context.view_layer.update()
    to_opencv = Euler((np.pi + 0.1, -0.07, 0.2)).to_matrix().to_4x4()
    scene.camera.matrix_world = ob.matrix_world @ Matrix.Translation((0.2, 0.1, -0.3)) @ to_opencv
    scene.camera.data.lens = 20
    scene.camera.data.shift_x, scene.camera.data.shift_y = 0.15, -0.1
    scene.render.pixel_aspect_y = 1.5
    assert agreement(scene, ob, splats, "CYCLES", tmp_path / "a.exr", along_rays=along_rays) > 75


def test_the_camera_is_followed_frame_by_frame(tmp_path: Path) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats)
    camera = scene.camera
    for frame, lens, x in ((1, 24, 0), (10, 50, 0.5)):
        camera.data.lens, camera.location.x = lens, x
        camera.data.keyframe_insert("lens", frame=frame)
        camera.keyframe_insert("location", frame=frame)
    for frame in (1, 6, 10):
        scene.frame_set(frame)
        assert agreement(scene, ob, splats, "CYCLES", tmp_path / "a.exr") > 75, frame


def test_another_scene_camera_is_followed(tmp_path: Path) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats)
    bpy.data.objects.remove(scene.camera)
    bpy.context.view_layer.update()
    other = bpy.data.objects.new("Other", bpy.data.cameras.new("Other"))
    scene.collection.objects.link(other)
    other.rotation_euler = (np.pi / 2, 0.1, 0.05)
    other.data.lens, other.data.clip_start, other.data.sensor_fit = 28, 0.01, "VERTICAL"
    scene.camera = other
    assert agreement(scene, ob, splats, "CYCLES", tmp_path / "a.exr") > 75


def add_plane(distance: float) -> bpy.types.Object:
    """A wall that glows (0.25, 0.5, 0.75), across the view at a distance along Blender's +y."""
    bpy.ops.mesh.primitive_plane_add(size=50, location=(0, distance, 0), rotation=(np.pi / 2, 0, 0))
    material = bpy.data.materials.new("wall")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    glow = nodes.new("ShaderNodeEmission")
    glow.inputs["Color"].default_value = (0.25, 0.5, 0.75, 1)
    material.node_tree.links.new(glow.outputs[0], nodes.new("ShaderNodeOutputMaterial").inputs[0])
    bpy.context.object.data.materials.append(material)
    bpy.context.view_layer.update()
    return bpy.context.object


def test_meshes_hide_and_are_seen_through_gaussians(tmp_path: Path) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats)
    add_plane(4.0)
    camera = opencv_camera(scene, ob)
    in_front = type(splats)(*(part[splats.means[:, 2] < 4] for part in splats))
    expected = splat_oracle.draw(in_front, camera)
    expected = expected[..., :3] + (1 - expected[..., 3:]) * (0.25, 0.5, 0.75)
    # quads stand in the plane of the mean, so only Gaussians whose mean is in front are drawn
    assert splat_oracle.psnr(render(scene, "CYCLES", tmp_path / "a.exr")[..., :3], expected) > 75


@pytest.mark.parametrize(("engine", "decibel"), [("CYCLES", 75), (EEVEE, 50)])
def test_a_holdout_mesh_cuts_a_hole_behind_the_gaussians_in_front_of_it(
    tmp_path: Path, engine: str, decibel: float
) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats)
    add_plane(4.0).is_holdout = True
    in_front = type(splats)(*(part[splats.means[:, 2] < 4] for part in splats))
    expected = splat_oracle.draw(in_front, opencv_camera(scene, ob))
    assert splat_oracle.psnr(render(scene, engine, tmp_path / "a.exr"), expected) > decibel


def test_gaussians_as_a_holdout_cut_their_shape_out_of_what_is_behind(tmp_path: Path) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats)
    add_plane(8.0)
    ob.is_holdout = True
    clear = 1 - splat_oracle.draw(splats, opencv_camera(scene, ob))[..., 3:]
    expected = np.concatenate([clear * (0.25, 0.5, 0.75), clear], axis=-1)
    assert splat_oracle.psnr(render(scene, "CYCLES", tmp_path / "a.exr"), expected) > 75


def test_depth_of_field_blurs_what_is_out_of_focus(tmp_path: Path) -> None:
    scene, splats = empty_scene(64, 48), random_splats(60, 0)
    add_splats(splats)
    sharp = render(scene, "CYCLES", tmp_path / "a.exr")
    lens = scene.camera.data
    lens.dof.use_dof, lens.dof.aperture_fstop, lens.dof.focus_distance = True, 0.06, 4.0
    scene.cycles.samples = 128
    blurred = render(scene, "CYCLES", tmp_path / "b.exr")
    # The mean over the lens: pinhole pictures from points of the aperture, sheared so that the
    # plane in focus stands still.
    radius = lens.lens / 1000 / lens.dof.aperture_fstop / 2
    camera = opencv_camera(scene, bpy.data.objects["splats"])
    pictures = []
    for i in range(PLACES):  # a sunflower's: they fill the disc evenly
        angle, distance = i * np.pi * (3 - 5**0.5), radius * ((i + 0.5) / PLACES) ** 0.5
        dx, dy = distance * np.cos(angle), distance * np.sin(angle)
        K, move = camera.K.copy(), np.eye(4)
        K[0, 2] += K[0, 0] * dx / 4.0
        K[1, 2] += K[1, 1] * dy / 4.0
        move[:2, 3] = -dx, -dy
        pictures.append(
            splat_oracle.draw(
                splats, camera._replace(K=K, camera_from_world=move @ camera.camera_from_world)
            )
        )
    expected = np.mean(pictures, 0)
    assert splat_oracle.psnr(blurred, expected) > 38
    assert splat_oracle.psnr(sharp, expected) < 34


def test_sh_degree_limits_the_view_dependence(tmp_path: Path) -> None:
    scene, splats = empty_scene(64, 48), random_splats(150)
    for degree, k in ((0, 0), (1, 3), (2, 8)):
        ob = add_splats(splats, **{"SH Degree": degree})
        truncated = splats._replace(sh_rest=splats.sh_rest[:, :k])
        assert agreement(scene, ob, truncated, "CYCLES", tmp_path / "a.exr") > 75
        bpy.data.objects.remove(ob)


def test_low_pass_off_is_the_unblurred_gaussian(tmp_path: Path) -> None:
    scene, splats = empty_scene(), random_splats()
    ob = add_splats(splats, **{"Low-pass": 0.0})
    picture = render(scene, "CYCLES", tmp_path / "a.exr")
    assert (
        splat_oracle.psnr(picture, splat_oracle.draw(splats, opencv_camera(scene, ob), blur=0.0))
        > 70
    )
    assert splat_object.get_input(splat_object.modifier_of(ob), "Low-pass") == 0.0
