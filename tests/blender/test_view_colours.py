"""Splats keep their colours under the scene's own view transform, and meshes beside them stay as
they are lit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from scene_splatter.blender_addon.splats import (  # noqa: E402
    exact_colours,
    render_check,
    splat_object,
    view_colours,
)
from scene_splatter.engine.bridge.splat_file import Splats  # noqa: E402

from tests.blender.splat_oracle import linear_to_srgb, psnr  # noqa: E402
from tests.blender.splat_scene import add_splats, empty_scene, random_splats, render  # noqa: E402

VIEWS = [("AgX", 0.0, 1.0), ("AgX", -0.8, 1.2), ("Filmic", 0.0, 1.0), ("Standard", 0.5, 1.0)]


def shown(scene: bpy.types.Scene, light: np.ndarray, folder: Path) -> np.ndarray:
    """[h, w, 3] scene-linear -> what Blender's own colour management puts on the screen, 16
    bits.
    """
    height, width = light.shape[:2]
    image = bpy.data.images.new("light", width, height, float_buffer=True)
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., :3] = light[::-1]
    image.pixels.foreach_set(pixels.ravel())
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "16"
    image.save_render(str(folder / "shown.png"), scene=scene)
    bpy.data.images.remove(image)
    saved = bpy.data.images.load(str(folder / "shown.png"))
    saved.colorspace_settings.name = "Non-Color"
    saved.pixels.foreach_get(found := np.empty(width * height * 4, np.float32))
    bpy.data.images.remove(saved)
    return found.reshape(height, width, 4)[::-1, :, :3]


def wall() -> Splats:
    """A wall of Gaussians 4 m away whose colours change slowly, as surfaces of photographs do."""
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(-2, 2, 80), np.linspace(-1.4, 1.4, 56)))
    n = len(x)
    grey = 0.45 + 0.3 * np.sin(1.3 * x + 0.5) * np.cos(1.7 * y)
    tint = 0.12 * np.stack([np.sin(2 * y), 0.5 * np.cos(x + y), np.cos(1.5 * x)], 1)
    parts = (
        np.stack([x, y, np.full(n, 4.0)], 1),
        np.tile((1.0, 0, 0, 0), (n, 1)),
        np.log(np.tile((0.035, 0.035, 0.004), (n, 1))),
        np.full(n, 6.0),
        (grey[:, None] + tint - 0.5) / 0.28209479177387814,
        np.zeros((n, 0, 3)),
    )
    return Splats(*(part.astype(np.float32) for part in parts))


def set_view(scene: bpy.types.Scene, transform: str, exposure: float, gamma: float) -> None:
    view = scene.view_settings
    view.view_transform, view.exposure, view.gamma = transform, exposure, gamma


@pytest.mark.parametrize(("transform", "exposure", "gamma"), VIEWS)
def test_the_light_of_a_colour_is_shown_as_that_colour(
    addon, tmp_path: Path, transform: str, exposure: float, gamma: float
) -> None:
    """By Blender's own colour management in the other direction."""
    scene = empty_scene()
    set_view(scene, transform, exposure, gamma)
    rng = np.random.default_rng(0)
    grey = rng.uniform(0.05, 0.9, (400, 1))
    colours = np.clip(grey + rng.uniform(-0.1, 0.1, (400, 3)), 0, 1)
    light = view_colours.light_for(colours, transform, exposure, gamma)
    found = shown(scene, light.reshape(20, 20, 3).astype(np.float32), tmp_path).reshape(-1, 3)
    assert np.quantile(np.abs(found - colours), 0.98) < 0.004


@pytest.mark.parametrize(("transform", "exposure", "gamma"), VIEWS)
def test_a_wall_looks_as_it_was_made_beside_a_lit_mesh_that_stays_as_it_is(
    addon, tmp_path: Path, transform: str, exposure: float, gamma: float
) -> None:
    scene = empty_scene(144, 96)
    bpy.ops.mesh.primitive_cube_add(size=0.7, location=(0.3, 2.5, 0.1), rotation=(0.3, 0.2, 0.6))
    cube = bpy.context.object
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy, sun.data.angle, sun.rotation_euler = 3.0, 0.0, (0.6, 0.3, 0.1)
    scene.collection.objects.link(sun)
    set_view(scene, transform, exposure, gamma)
    alone = render(scene, "CYCLES", tmp_path / "mesh.exr")
    cube.hide_render = True
    wall_object = add_splats(wall())
    wall_object.visible_diffuse = wall_object.visible_glossy = (
        False  # splats light meshes: not here
    )
    made = render(scene, "CYCLES", tmp_path / "made.exr")[..., :3]  # linear light, as the engine's
    scene.scene_splatter_match_view = True
    assert view_colours.sync(scene) == 0, "it was done at once"
    matched = render(scene, "CYCLES", tmp_path / "matched.exr")[..., :3]
    expected = linear_to_srgb(np.clip(made, 0, 1))
    decibel = psnr(shown(scene, matched, tmp_path), expected)
    before = psnr(shown(scene, made, tmp_path), expected)
    print(f"{transform} {exposure}: {decibel:.1f} dB, {before:.1f} dB without")
    assert decibel > 50 > 35 > before
    assert scene.view_settings.view_transform == transform
    cube.hide_render = False
    both = render(scene, "CYCLES", tmp_path / "both.exr")
    mesh = alone[..., 3] == 1
    for axis in (0, 1):  # not its outline, whose pixels see both
        mesh &= np.roll(mesh, 1, axis) & np.roll(mesh, -1, axis)
    assert mesh.sum() > 300
    np.testing.assert_allclose(both[mesh], alone[mesh], atol=1e-5)


def test_what_the_nodes_look_up_is_the_table_also_from_a_saved_file(addon, tmp_path: Path) -> None:
    scene = empty_scene(144, 96)
    set_view(scene, "AgX", 0.0, 1.0)
    add_splats(wall())
    scene.scene_splatter_match_view = True
    before = render(scene, "CYCLES", tmp_path / "a.exr")
    assert before[..., :3].max() > 0.3
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    scene = bpy.context.scene
    assert view_colours.sync(scene) == 0, "the table of the file serves"
    after = render(scene, "CYCLES", tmp_path / "b.exr")
    np.testing.assert_allclose(after, before, atol=2e-3)


def test_standard_and_raw_need_no_table_and_looks_are_said(addon) -> None:
    scene = empty_scene()
    scene.render.engine = "CYCLES"
    ob = add_splats(random_splats(10, 0))
    scene.scene_splatter_match_view = True
    modifier = splat_object.modifier_of(ob)
    for transform, linear in (("Raw", False), ("Standard", True)):
        set_view(scene, transform, 0.0, 1.0)
        view_colours.sync(scene)
        assert bool(splat_object.get_input(modifier, "Linear Light")) is linear
        assert not splat_object.get_input(modifier, "Match View")
        assert not render_check.render_warnings(scene, ob)
    assert not any(view_colours.KEY in image for image in bpy.data.images)
    set_view(scene, "AgX", 0.0, 1.0)
    assert any("AgX" in text for text in render_check.render_warnings(scene, ob))
    view_colours.sync(scene)
    assert not render_check.render_warnings(scene, ob)
    scene.view_settings.look = "AgX - High Contrast"
    assert any("look" in text for text in render_check.render_warnings(scene, ob))


def test_a_scene_that_wants_it_not_is_left_alone(addon) -> None:
    scene = empty_scene()
    ob = add_splats(random_splats(10, 0))
    set_view(scene, "AgX", 0.0, 1.0)
    assert view_colours.sync(scene) == 0
    assert not splat_object.get_input(splat_object.modifier_of(ob), "Match View")


@pytest.mark.parametrize("transform", ["AgX", "Filmic"])
def test_exact_colours_hold_where_light_and_dark_gaussians_share_pixels(
    addon, tmp_path: Path, transform: str
) -> None:
    scene = empty_scene(144, 96)
    bpy.ops.mesh.primitive_cube_add(size=0.7, location=(0.3, 2.5, 0.1), rotation=(0.3, 0.2, 0.6))
    cube = bpy.context.object
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy, sun.data.angle, sun.rotation_euler = 3.0, 0.0, (0.6, 0.3, 0.1)
    scene.collection.objects.link(sun)
    set_view(scene, transform, 0.3, 1.0)
    alone = render(scene, "CYCLES", tmp_path / "mesh.exr")
    cube.hide_render = True
    checks = wall()
    cells = np.floor(checks.means[:, 0] * 6) + np.floor(checks.means[:, 1] * 6)
    checks.sh_dc[:] = np.where(cells[:, None] % 2, 0.35, -0.35) / 0.28209479177387814
    ob = add_splats(checks)
    ob.visible_diffuse = ob.visible_glossy = False
    made = render(scene, "CYCLES", tmp_path / "made.exr")
    expected = linear_to_srgb(np.clip(made[..., :3], 0, 1))
    scene.scene_splatter_match_view = True
    mixed = psnr(
        shown(scene, render(scene, "CYCLES", tmp_path / "a.exr")[..., :3], tmp_path), expected
    )
    assert bpy.ops.scene_splatter.exact_colours() == {"FINISHED"}
    exact_picture = render(scene, "CYCLES", tmp_path / "b.exr")
    exact = psnr(shown(scene, exact_picture[..., :3], tmp_path), expected)
    print(f"{transform}: {exact:.1f} dB, {mixed:.1f} dB where each Gaussian is matched")
    assert exact > 45 and exact > mixed + 8
    np.testing.assert_allclose(exact_picture[..., 3], made[..., 3], atol=1e-4)
    assert not render_check.render_warnings(scene, ob)
    cube.hide_render = False
    both = render(scene, "CYCLES", tmp_path / "both.exr")
    mesh = alone[..., 3] == 1
    for axis in (0, 1):
        mesh &= np.roll(mesh, 1, axis) & np.roll(mesh, -1, axis)
    np.testing.assert_allclose(both[mesh], alone[mesh], atol=1e-3)
    scene.view_settings.exposure = -0.5
    assert any("Exact" in text for text in render_check.render_warnings(scene, ob))
    view_colours.sync(scene)
    assert not render_check.render_warnings(scene, ob)
    cube.hide_render = True
    darker = render(scene, "CYCLES", tmp_path / "d.exr")[..., :3]
    assert psnr(shown(scene, darker, tmp_path), expected) > 45
    scene.view_settings.exposure = 0.3
    assert bpy.ops.scene_splatter.exact_colours() == {"FINISHED"}
    assert not exact_colours.is_on(scene)
    again = psnr(
        shown(scene, render(scene, "CYCLES", tmp_path / "c.exr")[..., :3], tmp_path), expected
    )
    assert abs(again - mixed) < 3, "as before"


def test_a_compositor_with_nodes_of_the_users_is_left_alone(addon) -> None:
    scene = empty_scene()
    scene.render.engine = "CYCLES"
    set_view(scene, "AgX", 0.0, 1.0)
    if bpy.app.version >= (5, 0, 0):
        tree = bpy.data.node_groups.new("mine", "CompositorNodeTree")
        scene.compositing_node_group = tree
    else:
        scene.use_nodes = True
        tree = scene.node_tree
    tree.nodes.new("CompositorNodeBlur")
    assert "by hand" in exact_colours.why_not(scene)
    assert not bpy.ops.scene_splatter.exact_colours.poll()
