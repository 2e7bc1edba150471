"""The settings table as Blender properties, and back."""

from __future__ import annotations

import math
import random

import pytest

bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
from scene_splatter.blender_addon.jobs import request  # noqa: E402
from scene_splatter.blender_addon.ui import properties  # noqa: E402
from scene_splatter.engine.bridge import settings as engine_settings  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402
from scene_splatter.engine.bridge.segments import plan_segments  # noqa: E402

pytestmark = pytest.mark.blender

ROWS = {row.name: row for row in engine_settings.table()}


@pytest.mark.parametrize("name", ROWS)
def test_every_setting_has_a_property_with_its_default_text_limits_and_choices(
    empty_scene, name: str
) -> None:
    row = ROWS[name]
    group = empty_scene.scene_splatter.settings
    found = group.bl_rna.properties[name]
    assert found.description.startswith(row.text)
    if row.unit:
        assert f"({row.unit})" in found.name or "Unit: " in found.description
    value = getattr(group, name)
    assert (
        properties.shortest(value) if row.type is float else value
    ) == properties.BLENDER_DEFAULTS.get(name, row.default)
    if row.choices:
        assert tuple(found.enum_items.keys()) == row.choices
    for bound, limit in zip(
        (getattr(found, "hard_min", None), getattr(found, "hard_max", None)),
        row.limits,
        strict=True,
    ):
        if row.type in (int, float) and math.isfinite(limit):
            assert bound == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("preset", engine_settings.PRESETS)
def test_a_preset_reads_back_as_the_engine_makes_it_blended_in_linear_light(
    empty_scene, preset: str
) -> None:
    group = empty_scene.scene_splatter
    group.preset = preset
    assert properties.read(group) == engine_settings.make(preset, blending="linear")


def test_a_preset_leaves_alone_what_no_preset_names(empty_scene) -> None:
    group = empty_scene.scene_splatter
    group.settings.horizon, group.settings.seed, group.settings.width = 0.6, 7, 1000
    group.preset = "draft"
    read = properties.read(group)
    assert (read.geometry.horizon, read.output.seed, read.output.width) == (
        0.6,
        7,
        engine_settings.PRESETS["draft"]["width"],
    )


def test_decimals_survive_the_way_through_blenders_floats(empty_scene) -> None:
    group = empty_scene.scene_splatter
    draw = random.Random(1)
    for row in ROWS.values():
        if row.type is not float:
            continue
        low, high = max(row.limits[0], -100.0), min(row.limits[1], 100.0)
        for _ in range(20):
            value = float(f"{draw.uniform(low, high):.4g}")
            value = min(max(value, row.limits[0]), row.limits[1])
            setattr(group.settings, row.name, value)
            assert getattr(getattr(properties.read(group), row.group), row.name) == value


def test_settings_survive_json_and_a_saved_file(empty_scene, tmp_path) -> None:
    group = empty_scene.scene_splatter
    group.preset = "paper"
    group.settings.lambda_0 = 0.35
    group.shot = "hall"
    read = properties.read(group)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    again = bpy.context.scene.scene_splatter
    assert again.shot == "hall" and again.preset == "paper"
    assert (
        properties.read(again) == read == engine_settings.from_json(engine_settings.to_json(read))
    )


def test_values_that_do_not_go_together_name_both_settings(empty_scene) -> None:
    group = empty_scene.scene_splatter
    group.settings.segment_length, group.settings.overlap = 9, 9
    with pytest.raises(UserError, match=r"overlap \(9\) must be less than segment_length \(9\)"):
        properties.read(group)
    assert request.segments(empty_scene) == []


def test_files_become_whole_paths(empty_scene, tmp_path) -> None:
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    group = bpy.context.scene.scene_splatter
    group.settings.initialiser = "//first.ply"
    assert properties.read(group).geometry.initialiser == str(tmp_path / "first.ply")


def test_the_depth_source_becomes_the_engines_depth(empty_scene, tmp_path) -> None:
    group = empty_scene.scene_splatter
    assert properties.read(group).geometry.depth == "auto"
    group.depth_source = "BOX"
    assert properties.read(group).geometry.depth == "box"
    group.depth_source, group.depth_model = "MODEL", " depth_anything "
    assert properties.read(group).geometry.depth == "depth_anything"
    group.depth_model = " "
    assert "Name a depth model" in properties.depth_problem(group)
    group.depth_source, group.depth_file = "FILE", str(tmp_path / "no.exr")
    assert "no.exr does not exist" in properties.depth_problem(group)
    assert properties.read(group, "input/depth.exr").geometry.depth == "input/depth.exr"


def test_frames_are_the_scene_range_or_their_own_with_sub_frames(empty_scene) -> None:
    group = empty_scene.scene_splatter
    empty_scene.frame_start, empty_scene.frame_end = 10, 13
    assert properties.frames(empty_scene) == [10, 11, 12, 13]
    group.use_scene_range, group.frame_start, group.frame_end, group.samples_per_frame = (
        False,
        -1,
        1,
        2,
    )
    assert properties.frames(empty_scene) == [-1, -0.5, 0, 0.5, 1]
    group.frame_end = -2
    assert properties.frames(empty_scene) == [] and request.segments(empty_scene) == []


@pytest.mark.parametrize(
    ("count", "step", "samples"), [(1, 1, 1), (25, 1, 1), (49, 2, 1), (100, 3, 1), (30, 4, 2)]
)
def test_the_preview_cuts_the_path_as_the_engine_does(
    empty_scene, count: int, step: int, samples: int
) -> None:
    group = empty_scene.scene_splatter
    empty_scene.frame_start, empty_scene.frame_end = 1, count
    group.samples_per_frame, group.settings.frame_step = samples, step
    cameras = (count - 1) * samples + 1
    assert request.segments(empty_scene) == plan_segments(-(-(cameras - 1) // step) + 1, 25, 10)


def test_every_property_that_saves_is_out_of_the_animation_system(empty_scene) -> None:
    """A keyed setting would change while the camera is being read."""
    for group in (empty_scene.scene_splatter, empty_scene.scene_splatter.settings):
        for found in group.bl_rna.properties:
            if found.type not in ("POINTER", "COLLECTION") and found.identifier != "name":
                assert not found.is_animatable, found.identifier
