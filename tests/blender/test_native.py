"""From node-drawn splats to Blender's own and back; the first half can only run where Blender has some."""

from __future__ import annotations

import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from scene_splatter.blender_addon import native, splat_object  # noqa: E402
from scene_splatter.engine.errors import UserError  # noqa: E402

from tests.blender.splat_scene import add_splats, empty_scene, random_splats  # noqa: E402
from tests.blender.test_splat_object import assert_same_bits  # noqa: E402


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
    assert splat_object.get_input(modifier, "SH Degree") == 2 and splat_object.get_input(modifier, "Material") is not None
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
    assert native.is_upgraded(splats) and splat_object.modifier_of(splats) is None
    assert_same_bits(splat_object.to_splats(splats), before)
    assert bpy.ops.scene_splatter.upgrade_splats(back=True) == {"FINISHED"}
    assert not native.is_upgraded(splats) and splat_object.modifier_of(splats) is not None
    assert_same_bits(splat_object.to_splats(splats), before)


def test_what_holds_no_gaussians_is_refused(splats):
    empty = bpy.data.objects.new("empty", None)
    with pytest.raises(UserError, match="no Gaussians"):
        native.to_nodes(empty)
