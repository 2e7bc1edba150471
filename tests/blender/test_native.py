"""From node-drawn splats to Blender's own and back; the first half can only run where Blender has
some.
"""

from __future__ import annotations

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from scene_splatter.blender_addon.splats import native, splat_object  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

from tests.blender.splat_oracle import psnr  # noqa: E402
from tests.blender.splat_scene import add_splats, empty_scene, random_splats, render  # noqa: E402
from tests.blender.test_splat_engine import load  # noqa: E402
from tests.blender.test_splat_object import assert_same_bits  # noqa: E402

FLOAT4 = (
    "FLOAT4"
    if "FLOAT4" in bpy.types.Attribute.bl_rna.properties["data_type"].enum_items
    else "FLOAT_COLOR"
)


@pytest.fixture
def splats(addon):
    empty_scene()
    ob = add_splats(random_splats(60, 8))
    bpy.context.view_layer.objects.active = ob
    return ob


def test_back_to_nodes_brings_the_modifier_and_keeps_every_bit(splats):
    before = splat_object.to_splats(splats)
    for modifier in list(splats.modifiers):
        splats.modifiers.remove(modifier)
    matrix = splats.matrix_world.copy()
    native.to_nodes(splats)
    native.to_nodes(splats)  # a second time changes nothing
    assert [m.type for m in splats.modifiers] == ["NODES"]
    modifier = splat_object.modifier_of(splats)
    assert (
        splat_object.get_input(modifier, "SH Degree") == 2
        and splat_object.get_input(modifier, "Material") is not None
    )
    assert_same_bits(splat_object.to_splats(splats), before)
    assert splats.matrix_world == matrix


def test_where_blender_has_no_splats_the_reason_is_said(splats):
    if splat_object.is_native():
        pytest.skip("this Blender has native splats")
    assert not bpy.ops.scene_splatter.upgrade_splats.poll()
    with pytest.raises(UserError, match=r"5\.3"):
        native.to_native(splats)
    assert splat_object.modifier_of(splats) is not None


def test_upgrading_and_going_back_keeps_every_bit(splats):
    if not splat_object.is_native():
        pytest.skip("this Blender has no native splats: 5.3 and later have them")
    native.to_nodes(splats)
    before = splat_object.to_splats(splats)
    assert bpy.ops.scene_splatter.upgrade_splats() == {"FINISHED"}
    assert splat_object.drawn_natively(splats) and splat_object.modifier_of(splats) is None
    assert_same_bits(splat_object.to_splats(splats), before)
    assert bpy.ops.scene_splatter.upgrade_splats(back=True) == {"FINISHED"}
    assert not splat_object.drawn_natively(splats) and splat_object.modifier_of(splats) is not None
    assert_same_bits(splat_object.to_splats(splats), before)


def test_blenders_own_drawing_has_the_same_light_and_alpha_as_ours(addon, tmp_path):
    """In a form that its noise leaves: means over the picture. A material that reads the wrong
    attribute is black.
    """
    if not splat_object.is_native():
        pytest.skip("this Blender has no native splats: 5.3 and later have them")
    scene = empty_scene(64, 48)
    scene.cycles.samples = 32
    ob = add_splats(random_splats(150, 3), **{"Along Rays": True})
    ours = render(scene, "CYCLES", tmp_path / "a.exr").mean((0, 1))
    native.to_native(ob)
    blenders = render(scene, "CYCLES", tmp_path / "b.exr").mean((0, 1))
    np.testing.assert_allclose(blenders, ours, rtol=0.04)


def test_the_screen_filter_widens_every_gaussian_by_its_share_of_a_pixel(addon):
    """3DGS adds 0.3 px^2 to the image; here to the scale, at the depth that each has in the frame's
    camera.
    """
    if not splat_object.is_native():
        pytest.skip("this Blender has no native splats: 5.3 and later have them")
    scene, made = empty_scene(320, 200), random_splats(60, 0)
    ob = add_splats(made)
    native.to_native(ob)
    scene.camera.data.lens = 24
    scene.camera.data.keyframe_insert("lens", frame=1)
    scene.camera.data.lens = 60
    scene.camera.data.keyframe_insert("lens", frame=2)
    for frame, lens in ((1, 24.0), (2, 60.0)):
        scene.frame_set(frame)
        shown = ob.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
        found = splat_object.read_attribute(shown, "scale")
        pixel = made.means[:, 2:] / (lens / 36 * 320)
        expected = np.sqrt(np.exp(made.scales_log.astype(np.float64)) ** 2 + 0.3 * pixel**2)
        np.testing.assert_allclose(found, expected, rtol=2e-5)
        assert shown.type == "GAUSSIAN_SPLAT"


@pytest.mark.slow
def test_the_filtered_formula_of_blenders_splats_is_the_engines_picture_to_45_db(addon, tmp_path):
    """At 512 wide and 35 mm, without the noise of Blender's own: our nodes can draw the same
    formula exactly.
    """
    scene, ob, _ = load("linear", 1)
    scene.render.resolution_x, scene.render.resolution_y = 512, 341
    engines = render(scene, "CYCLES", tmp_path / "a.exr")  # as projected: 69 dB of the engine's
    modifier = splat_object.modifier_of(ob)
    splat_object.set_input(modifier, "Along Rays", True)
    filtered = psnr(render(scene, "CYCLES", tmp_path / "b.exr"), engines)
    splat_object.set_input(modifier, "Low-pass", 0.0)
    plain = psnr(render(scene, "CYCLES", tmp_path / "c.exr"), engines)
    print(f"along rays: {filtered:.1f} dB with the filter, {plain:.1f} dB without")
    assert filtered > 45 > plain


def test_materials_of_the_users_own_stay(splats):
    own = bpy.data.materials.new("own")
    splats.data.materials[0] = own
    native.to_nodes(splats)
    assert list(splats.data.materials) == [own]
    if splat_object.is_native():
        native.to_native(splats)
        assert list(splats.data.materials) == [own]


def _cloud_of_the_documented_layout(name, splats, base_type):
    """What Blender 5.3's own importer makes: its attributes alone, nothing of ours."""
    own = splat_object.create("maker", splats, blending="display")
    cloud = own.data
    cloud.name = name
    for attribute in [a.name for a in cloud.attributes if a.name.startswith("scene_splatter:")]:
        cloud.attributes.remove(cloud.attributes[attribute])
    if cloud.attributes["radiance:base"].data_type != base_type:
        cloud.attributes.remove(cloud.attributes["radiance:base"])
        base = np.concatenate(
            [splats.sh_dc, 1 / (1 + np.exp(-splats.opacities_logit[:, None]))], axis=1
        ).astype(np.float32)
        cloud.attributes.new("radiance:base", base_type, "POINT").data.foreach_set(
            "color", base.ravel()
        )
    bpy.data.objects.remove(own)
    ob = bpy.data.objects.new(name, cloud)
    bpy.context.scene.collection.objects.link(ob)
    return ob


def test_splats_of_blenders_own_layout_are_read_and_drawn_by_nodes(addon):
    empty_scene()
    made = random_splats(60, 15)
    ob = _cloud_of_the_documented_layout("native", made, FLOAT4)
    native.to_nodes(ob)
    back = splat_object.to_splats(ob)
    np.testing.assert_array_equal(back.means, made.means)
    np.testing.assert_array_equal(back.sh_dc, made.sh_dc)
    np.testing.assert_array_equal(back.sh_rest, made.sh_rest)
    np.testing.assert_allclose(back.scales_log, made.scales_log, atol=1e-6)
    np.testing.assert_allclose(back.opacities_logit, made.opacities_logit, atol=2e-6)
    np.testing.assert_allclose(
        back.quats, made.quats / np.linalg.norm(made.quats, axis=1, keepdims=True), atol=1e-6
    )
    assert splat_object.get_input(splat_object.modifier_of(ob), "SH Degree") == 3


def test_what_an_older_blender_stored_as_colour_gets_this_blenders_type(addon):
    """Before 5.2 there is no FLOAT4, so radiance:base is a colour; upgrading and replacing write it
    anew.
    """
    empty_scene()
    made = random_splats(60, 3)
    ob = _cloud_of_the_documented_layout("older", made, "FLOAT_COLOR")
    assert ob.data.attributes["radiance:base"].data_type == "FLOAT_COLOR"
    splat_object.replace(ob, splat_object.to_splats(ob), blending="display")
    assert ob.data.attributes["radiance:base"].data_type == FLOAT4
    back = splat_object.to_splats(ob)
    np.testing.assert_array_equal(back.sh_dc, made.sh_dc)
    np.testing.assert_allclose(back.opacities_logit, made.opacities_logit, atol=2e-6)


def test_what_holds_no_gaussians_is_refused(splats):
    empty = bpy.data.objects.new("empty", None)
    with pytest.raises(UserError, match="no Gaussians"):
        native.to_nodes(empty)
