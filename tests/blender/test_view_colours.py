"""Splats keep their colours under the scene's own view transform, and meshes beside them stay as
they are lit.
"""

from __future__ import annotations

import subprocess
import sys
import threading
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
    view_inverse,
    view_tables,
)
from scene_splatter.engine.bridge.splat_file import Splats  # noqa: E402

from tests.blender.splat_oracle import linear_to_srgb, psnr  # noqa: E402
from tests.blender.splat_scene import (  # noqa: E402
    EEVEE,
    add_splats,
    empty_scene,
    random_splats,
    render,
)

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
    cube = lit_cube(scene)
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
    mesh = inside(alone[..., 3])
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


def test_an_inverse_is_worked_out_once_also_by_another_blender(
    addon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits from the disk, from this process and from the script of the other Blender."""
    monkeypatch.setattr(view_tables, "user_folder", lambda _name: tmp_path)
    expected = view_colours.light_for(view_inverse.grid(9), "AgX", 0.0, 1.2)
    arguments = (view_colours.space_of("AgX"), 1.2, 9)
    path = view_tables._path(*arguments)
    command = [sys.executable, view_inverse.__file__, "--", str(path), arguments[0], "9", "1.2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert np.array_equal(np.load(path), expected)

    def never(*_: object) -> None:
        raise AssertionError("worked out again")

    with monkeypatch.context() as patch:
        patch.setattr(view_inverse, "through_files", never)
        assert np.array_equal(view_tables.light_on_grid(*arguments), expected)
    path.write_bytes(path.read_bytes()[:500])
    assert np.array_equal(view_tables.light_on_grid(*arguments), expected), "a damaged file"
    assert np.array_equal(np.load(path), expected), "is mended"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


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


def checks() -> Splats:
    """The wall, light and dark by turns."""
    made = wall()
    cells = np.floor(made.means[:, 0] * 6) + np.floor(made.means[:, 1] * 6)
    made.sh_dc[:] = np.where(cells[:, None] % 2, 0.35, -0.35) / 0.28209479177387814
    return made


def lit_cube(scene: bpy.types.Scene) -> bpy.types.Object:
    """A cube before the wall, under a sun."""
    bpy.ops.mesh.primitive_cube_add(size=0.7, location=(0.3, 2.5, 0.1), rotation=(0.3, 0.2, 0.6))
    cube = bpy.context.object
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy, sun.data.angle, sun.rotation_euler = 3.0, 0.0, (0.6, 0.3, 0.1)
    scene.collection.objects.link(sun)
    return cube


def inside(alpha: np.ndarray) -> np.ndarray:
    """Pixels that a mesh fills, without its outline, whose pixels see both."""
    mesh = alpha == 1
    for axis in (0, 1):
        mesh &= np.roll(mesh, 1, axis) & np.roll(mesh, -1, axis)
    assert mesh.sum() > 300
    return mesh


@pytest.mark.parametrize(
    ("engine", "transform"), [("CYCLES", "AgX"), ("CYCLES", "Filmic"), (EEVEE, "AgX")]
)
def test_exact_colours_hold_where_light_and_dark_gaussians_share_pixels(
    addon, tmp_path: Path, engine: str, transform: str
) -> None:
    scene = empty_scene(144, 96)
    scene.render.engine = engine
    cube = lit_cube(scene)
    set_view(scene, transform, 0.3, 1.2)
    alone = render(scene, engine, tmp_path / "mesh.exr")
    cube.hide_render = True
    ob = add_splats(checks())
    ob.visible_diffuse = ob.visible_glossy = False
    # by the same engine: of Gaussians at one depth each draws another one in front
    made = render(scene, engine, tmp_path / "made.exr")
    expected = linear_to_srgb(np.clip(made[..., :3], 0, 1))
    scene.render.engine = engine
    scene.scene_splatter_match_view = True
    mixed = psnr(
        shown(scene, render(scene, engine, tmp_path / "a.exr")[..., :3], tmp_path), expected
    )
    scene.scene_splatter_exact = True
    assert exact_colours.is_on(scene), "at once"
    exact_picture = render(scene, engine, tmp_path / "b.exr")
    exact = psnr(shown(scene, exact_picture[..., :3], tmp_path), expected)
    print(f"{engine} {transform}: {exact:.1f} dB, {mixed:.1f} dB where each Gaussian is matched")
    assert exact > 50 and exact > mixed + 20
    np.testing.assert_allclose(exact_picture[..., 3], made[..., 3], atol=0.01)
    assert scene.view_settings.view_transform == transform
    assert not render_check.render_warnings(scene, ob)
    cube.hide_render = False
    both, mesh = render(scene, engine, tmp_path / "both.exr"), inside(alone[..., 3])
    np.testing.assert_allclose(both[mesh], alone[mesh], atol=1e-3)
    cube.hide_render = True
    scene.view_settings.exposure = -0.5
    view_colours.sync(scene)
    assert not render_check.render_warnings(scene, ob)
    darker = render(scene, engine, tmp_path / "d.exr")[..., :3]
    assert psnr(shown(scene, darker, tmp_path), expected) > 50
    scene.scene_splatter_exact = False
    assert not exact_colours.is_on(scene)


def test_splats_made_for_blending_display_values_are_mixed_as_such_under_any_view(
    addon, tmp_path: Path
) -> None:
    scene = empty_scene(144, 96)
    set_view(scene, "Raw", 0.0, 1.0)
    add_splats(random_splats(300, 3), blending="display")
    made = np.clip(render(scene, "CYCLES", tmp_path / "made.exr")[..., :3], 0, 1)
    scene.scene_splatter_match_view = scene.scene_splatter_exact = True
    for transform, least in (("Standard", 60), ("Filmic", 50)):
        set_view(scene, transform, 0.0, 1.0)
        view_colours.sync(scene)
        found = shown(scene, render(scene, "CYCLES", tmp_path / "found.exr")[..., :3], tmp_path)
        print(f"{transform}: {psnr(found, made):.1f} dB")
        assert psnr(found, made) > least
    set_view(scene, "Raw", 0.0, 1.0)
    view_colours.sync(scene)
    assert not exact_colours.is_on(scene), "Raw shows them as they are"


def test_a_mesh_that_glows_stays_as_it_is(addon, tmp_path: Path) -> None:
    scene = empty_scene(144, 96)
    set_view(scene, "AgX", 0.0, 1.0)
    cube = lit_cube(scene)
    cube.data.materials.append(bpy.data.materials.new("glow"))
    material = cube.data.materials[0]
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    shader = next(n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
    shader.inputs["Emission Color"].default_value = (0.9, 0.4, 0.1, 1.0)
    shader.inputs["Emission Strength"].default_value = 2.0
    alone = render(scene, "CYCLES", tmp_path / "mesh.exr")
    assert alone[..., 0].max() > 1.5
    ob = add_splats(checks())
    ob.visible_diffuse = ob.visible_glossy = False  # their light on the glow is taken for splats
    scene.scene_splatter_match_view = scene.scene_splatter_exact = True
    assert exact_colours.is_on(scene)
    both, mesh = render(scene, "CYCLES", tmp_path / "both.exr"), inside(alone[..., 3])
    np.testing.assert_allclose(both[mesh], alone[mesh], atol=0.01)


def compositor(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    if bpy.app.version >= (5, 0, 0):
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def test_the_compositor_is_set_up_by_default_and_leaves_no_trace(addon) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=False)
    scene = bpy.context.scene
    assert scene.view_settings.view_transform == "AgX" and compositor(scene) is None
    ob = add_splats(checks())
    view_colours.sync(scene)  # the timer does it where there is a window
    assert exact_colours.is_on(scene)
    before = compositor(scene)
    view_colours.sync(scene)
    assert compositor(scene) == before and len(before.nodes) == 3
    scene.render.engine = "CYCLES"
    view_colours.sync(scene)
    assert ob.lightgroup == exact_colours.LIGHT_GROUP and scene.view_layers[0].use_pass_emit
    scene.render.use_compositing = False
    view_colours.sync(scene)
    assert compositor(scene) is None
    modifier = splat_object.modifier_of(ob)
    assert splat_object.get_input(modifier, "Match in Renders"), "else they would be washed out"
    assert any("Compositing is off" in text for text in render_check.render_warnings(scene, ob))
    scene.render.use_compositing = True
    view_colours.sync(scene)
    assert exact_colours.is_on(scene)
    bpy.data.objects.remove(ob)
    bpy.data.pointclouds.remove(bpy.data.pointclouds[0])
    view_colours.sync(scene)
    assert compositor(scene) is None
    assert not any(exact_colours.GROUP_NAME in group.name for group in bpy.data.node_groups)


def test_a_compositor_with_nodes_of_the_users_is_asked_for(addon) -> None:
    scene = empty_scene()
    scene.render.engine = "CYCLES"
    set_view(scene, "AgX", 0.0, 1.0)
    if bpy.app.version >= (5, 0, 0):
        tree = bpy.data.node_groups.new("mine", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        scene.compositing_node_group = tree
        end = tree.nodes.new("NodeGroupOutput")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        end = tree.nodes.new("CompositorNodeComposite")
    layers, blur = tree.nodes.new("CompositorNodeRLayers"), tree.nodes.new("CompositorNodeBlur")
    layers.scene = scene
    tree.links.new(layers.outputs["Image"], blur.inputs["Image"])
    tree.links.new(blur.outputs[0], end.inputs[0])
    ob = add_splats(checks())
    scene.scene_splatter_match_view = scene.scene_splatter_exact = True
    view_colours.sync(scene)
    assert len(tree.nodes) == 3 and not exact_colours.is_on(scene)
    assert any("nodes of yours" in text for text in render_check.render_warnings(scene, ob))
    assert bpy.ops.scene_splatter.exact_colours() == {"FINISHED"}
    assert exact_colours.is_on(scene) and not render_check.render_warnings(scene, ob)
    assert blur.inputs["Image"].links[0].from_node.node_tree.name == exact_colours.GROUP_NAME
    scene.view_settings.exposure = 0.5
    view_colours.sync(scene)
    assert len(tree.nodes) == 4, "brought up to date in its place"
    scene.scene_splatter_exact = False
    assert len(tree.nodes) == 3 and blur.inputs["Image"].links[0].from_node == layers
    assert compositor(scene) == tree


def test_a_render_finds_the_compositor_of_its_engine_but_a_thread_changes_nothing(addon) -> None:
    scene = empty_scene(64, 48)
    set_view(scene, "AgX", 0.0, 1.0)
    scene.render.engine = EEVEE
    add_splats(wall())
    scene.scene_splatter_match_view = scene.scene_splatter_exact = True
    view_colours.sync(scene)
    scene.render.engine = "CYCLES"  # as a script does that renders at once

    def made_for() -> list[str]:
        tree = compositor(scene)
        return [n.node_tree[exact_colours._MARK] for n in tree.nodes if hasattr(n, "node_tree")]

    thread = threading.Thread(target=view_colours._before_render, args=(scene,))
    thread.start()
    thread.join()
    assert all(made.startswith("EEVEE") for made in made_for())
    view_colours._before_render(scene)
    assert made_for() and all(made.startswith("Cycles") for made in made_for())


def test_without_keep_colours_splats_are_as_before(addon) -> None:
    scene = empty_scene()
    set_view(scene, "AgX", 0.0, 1.0)
    modifier = splat_object.modifier_of(add_splats(checks()))
    scene.scene_splatter_exact = scene.scene_splatter_match_view = True
    assert exact_colours.is_on(scene) and splat_object.get_input(modifier, "Match View")
    scene.scene_splatter_match_view = False
    assert not exact_colours.is_on(scene)
    assert not splat_object.get_input(modifier, "Match View")
    assert splat_object.get_input(modifier, "Linear Light")


def test_splats_that_stand_alone_are_not_turned_round_twice(addon) -> None:
    """Of linked sets, which other files cannot tell how to be drawn: here in an instance."""
    scene = empty_scene()
    set_view(scene, "AgX", 0.0, 1.0)
    scene.render.engine = EEVEE
    scene.scene_splatter_match_view = scene.scene_splatter_exact = True
    inside = add_splats(checks())
    view_colours.sync(scene)
    assert exact_colours.is_on(scene)
    exact_colours.stand_alone(inside)
    collection = bpy.data.collections.new("set")
    collection.objects.link(inside)
    scene.collection.objects.unlink(inside)
    instance = bpy.data.objects.new("instance", None)
    instance.instance_type, instance.instance_collection = "COLLECTION", collection
    scene.collection.objects.link(instance)
    ob = add_splats(checks())
    view_colours.sync(scene)
    assert not exact_colours.is_on(scene), "EEVEE's pass has both"
    assert any("instanced" in text for text in render_check.render_warnings(scene, ob))
    scene.render.engine = "CYCLES"
    view_colours.sync(scene)
    assert exact_colours.is_on(scene) and inside.lightgroup != exact_colours.LIGHT_GROUP
    assert splat_object.get_input(splat_object.modifier_of(inside), "Match in Renders")
