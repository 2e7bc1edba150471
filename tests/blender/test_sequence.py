"""Numbered .ply files as one object: which file a frame shows, the handler, Blender 5.3's nodes,
files out of an animation.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Matrix  # noqa: E402
from scene_splatter.blender_addon.publish import sequences  # noqa: E402
from scene_splatter.blender_addon.splats import sequence, splat_object  # noqa: E402
from scene_splatter.engine.bridge import axes, splat_file  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

from tests.blender.splat_oracle import draw, psnr  # noqa: E402
from tests.blender.splat_scene import (  # noqa: E402
    add_splats,
    empty_scene,
    opencv_camera,
    random_splats,
    render,
)
from tests.blender.test_splat_object import assert_same_bits  # noqa: E402

SIZES = ((60, 3), (90, 0), (45, 8))  # Gaussians and SH coefficients of each file
READERS = ["ADDON", *(["NODES"] if sequence.can_play_by_nodes() else [])]


@pytest.fixture
def files(addon, tmp_path: Path) -> list[Path]:
    """Three numbered files that differ in everything."""
    empty_scene()
    folder = tmp_path / "smoke {a}"
    folder.mkdir()
    paths = []
    for index, (n, k) in enumerate(SIZES):
        paths.append(folder / f"s_{index * 5 + 8:03}.ply")
        comments = ["scene_splatter blending linear"]
        splat_file.write_ply(paths[-1], random_splats(n, k, seed=index), comments)
    return paths


def bring_in(path: Path, **arguments: object) -> bpy.types.Object:
    found = bpy.ops.scene_splatter.import_sequence(filepath=str(path), **arguments)
    assert found == {"FINISHED"}
    return bpy.context.view_layer.objects.active


def shown(ob: bpy.types.Object) -> splat_file.Splats:
    with sequences.without_drawing(ob):
        bpy.context.view_layer.update()
        return sequences.evaluated(ob)


@pytest.mark.parametrize(
    ("loop", "by_hand"),
    [
        ("HOLD", [0, 0, 0, 0, 1, 2, 2, 2, 2]),
        ("LOOP", [1, 2, 0, 0, 1, 2, 0, 1, 2]),
        ("BOUNCE", [2, 1, 0, 0, 1, 2, 1, 0, 1]),
    ],
)
def test_place_in_the_sequence(loop: str, by_hand: list[int]) -> None:
    """Three files from frame 10."""
    frames = (8, 9, 10, 10.5, 11, 12, 13, 14, 15)
    assert [sequence.index_at(f, 10, 1.0, loop, 3) for f in frames] == by_hand
    assert sequence.index_at(30, 10, 0.1, "HOLD", 3) == 2  # 20 frames at a tenth
    assert sequence.index_at(11, 10, 2.0, "LOOP", 3) == 2


@pytest.mark.parametrize("reader", READERS)
def test_every_frame_shows_its_file(files: list[Path], reader: str) -> None:
    scene = bpy.context.scene
    ob = bring_in(files[1], start=3, reader=reader, loop="BOUNCE")
    assert sequence.plays_by_nodes(ob) == (reader == "NODES")
    for frame, index in ((1, 2), (2, 1), (3, 0), (4, 1), (5, 2), (6, 1), (7, 0), (40, 1)):
        scene.frame_set(frame)
        expected = splat_file.read_ply(files[index])
        found = shown(ob)
        assert len(found.means) == len(expected.means), frame
        np.testing.assert_array_equal(found.means, expected.means)
        np.testing.assert_allclose(found.scales_log, expected.scales_log, atol=1e-5)
        np.testing.assert_allclose(found.sh_dc, expected.sh_dc, atol=1e-6)
        k = expected.sh_rest.shape[1]
        np.testing.assert_allclose(found.sh_rest[:, :k], expected.sh_rest, atol=1e-6)
        assert not found.sh_rest[:, k:].any()
    ob.scene_splatter_sequence.loop = "HOLD"
    ob.scene_splatter_sequence.start = 41
    assert len(shown(ob).means) == SIZES[0][0], "changed settings count at once"


@pytest.mark.parametrize("reader", READERS)
def test_a_speed_is_the_decimal_that_was_typed(files: list[Path], reader: str) -> None:
    """At 0.7 files a frame the file after ten frames is the seventh, also after a thousand."""
    ob = bring_in(files[0], start=1, reader=reader, loop="LOOP", speed=0.7)
    for tens in (1, 10, 100):
        bpy.context.scene.frame_set(1 + 10 * tens)
        assert len(shown(ob).means) == SIZES[7 * tens % 3][0], tens


@pytest.mark.parametrize("reader", READERS)
def test_a_background_render_draws_the_frames_file(
    files: list[Path], reader: str, tmp_path: Path
) -> None:
    scene = bpy.context.scene
    ob = bring_in(files[0], start=1, reader=reader)
    for frame in (2, 3):
        scene.frame_set(frame)
        splats = splat_file.read_ply(files[frame - 1])
        expected = draw(splats, opencv_camera(scene, ob))
        assert psnr(render(scene, "CYCLES", tmp_path / "a.exr"), expected) > 60


FARM = """
import sys
from pathlib import Path
import bpy
with_addon, blend, out = sys.argv[1] == "1", sys.argv[2], sys.argv[3]
if with_addon:
    sys.path.insert(0, sys.argv[4])
    import tests.blender.conftest
    sys.modules["scene_splatter"].register()
bpy.ops.wm.open_mainfile(filepath=blend)
bpy.context.scene.render.filepath = out
bpy.ops.render.render(animation=True)
import os
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_farm_renders_the_saved_file(files: list[Path], reader: str, tmp_path: Path) -> None:
    """Another process opens the .blend and renders its frames: nodes need no add-on there, the
    handler does.
    """
    scene = bpy.context.scene
    ob = bring_in(files[0], start=1, reader=reader)
    scene.frame_start, scene.frame_end = 2, 3
    scene.render.engine = "CYCLES"
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "OPEN_EXR", "RGBA", "32"
    expected = {}
    for frame in (2, 3):
        scene.frame_set(frame)
        expected[frame] = draw(splat_file.read_ply(files[frame - 1]), opencv_camera(scene, ob))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "farm.blend"))
    root = Path(__file__).resolve().parents[2]
    arguments = ["0" if reader == "NODES" else "1", str(tmp_path / "farm.blend")]
    subprocess.run(
        [sys.executable, "-c", FARM, *arguments, str(tmp_path / "f_"), str(root)],
        check=True,
        timeout=300,
    )
    for frame, picture in expected.items():
        image = bpy.data.images.load(str(tmp_path / f"f_{frame:04}.exr"))
        pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
        image.pixels.foreach_get(pixels)
        found = pixels.reshape(image.size[1], image.size[0], 4)[::-1]
        assert psnr(found, picture) > 60, frame


def test_incomplete_and_unnumbered_files_are_refused(files: list[Path]) -> None:
    files[1].rename(files[1].with_name("s_014.ply"))
    with pytest.raises(UserError, match="not complete"):
        sequence.find(files[0])
    with pytest.raises(UserError, match="no number"):
        sequence.find(files[0].with_name("scene.ply"))
    before = set(bpy.data.objects)
    with pytest.raises(RuntimeError, match="not complete"):
        bpy.ops.scene_splatter.import_sequence(filepath=str(files[0]))
    assert set(bpy.data.objects) == before


def test_a_file_that_is_gone_is_said_and_the_last_picture_stays(files: list[Path]) -> None:
    ob = bring_in(files[0], start=1, reader="ADDON")
    bpy.context.scene.frame_set(1)
    files[1].unlink()
    bpy.context.scene.frame_set(2)
    assert "Could not read" in ob[sequence.PROBLEM] and len(shown(ob).means) == SIZES[0][0]
    bpy.context.scene.frame_set(3)
    assert sequence.PROBLEM not in ob and len(shown(ob).means) == SIZES[2][0]


def test_imported_again_in_place_of_a_deleted_one_it_shows_the_frames_file(
    files: list[Path],
) -> None:
    bpy.context.scene.frame_set(2)
    for _ in range(2):
        ob = bring_in(files[0], start=1, reader="ADDON")
        assert len(shown(ob).means) == SIZES[1][0]
        bpy.data.pointclouds.remove(ob.data)


@pytest.mark.parametrize("prefix", ["s_", ""])
@pytest.mark.parametrize("reader", READERS)
def test_a_blend_saved_elsewhere_plays_the_same_files(
    files: list[Path], reader: str, prefix: str, tmp_path: Path
) -> None:
    for place in ("first", "deep/er"):
        (tmp_path / place).mkdir(parents=True)
    files = [path.rename(path.with_name(path.name.replace("s_", prefix))) for path in files]
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "first" / "a.blend"))
    name = bring_in(files[0], start=1, reader=reader).name

    def plays(frame: int) -> None:
        bpy.context.scene.frame_set(frame)
        ob = bpy.data.objects[name]
        assert ob.scene_splatter_sequence.folder.startswith("//")
        assert len(shown(ob).means) == SIZES[frame - 1][0] and sequence.PROBLEM not in ob

    copy, moved = (str(tmp_path / "deep" / path) for path in ("b.blend", "er/c.blend"))
    bpy.ops.wm.save_as_mainfile(filepath=copy, copy=True)
    plays(2)
    bpy.ops.wm.save_as_mainfile(filepath=moved)
    plays(3)
    for path in (copy, moved):
        bpy.ops.wm.open_mainfile(filepath=path)
        plays(1)
        plays(2)


@pytest.mark.parametrize("reader", READERS)
def test_a_sequence_out_and_in_again_is_the_same(
    files: list[Path], reader: str, tmp_path: Path
) -> None:
    scene = bpy.context.scene
    bring_in(files[0], start=1, reader=reader)
    scene.frame_start, scene.frame_end = 1, 3
    target = tmp_path / "out.ply"
    assert bpy.ops.scene_splatter.export_sequence(filepath=str(target), in_world=False) == {
        "FINISHED"
    }
    for index, path in enumerate(files):
        made, given = splat_file.read_ply(tmp_path / f"out_{index + 1:04}.ply"), path
        original = splat_file.read_ply(given)
        np.testing.assert_array_equal(made.means, original.means)
        np.testing.assert_allclose(made.opacities_logit, original.opacities_logit, atol=2e-5)
    with pytest.raises(RuntimeError, match="exist already"):
        bpy.ops.scene_splatter.export_sequence(filepath=str(target))


def test_an_animated_object_becomes_files_in_world_axes(addon, tmp_path: Path) -> None:
    scene = empty_scene()
    made = random_splats(40, 15)
    ob = add_splats(made)
    bpy.context.view_layer.objects.active = ob
    scene.frame_start, scene.frame_end = 1, 2
    ob.keyframe_insert("location", frame=1)
    ob.keyframe_insert("rotation_euler", frame=1)
    ob.location, ob.rotation_euler.z = (1, 2, 3), 0.7
    ob.keyframe_insert("location", frame=2)
    ob.keyframe_insert("rotation_euler", frame=2)
    scene.frame_set(2)
    moved = np.array(ob.matrix_world)
    bpy.ops.scene_splatter.export_sequence(filepath=str(tmp_path / "o.ply"))
    first, second = (splat_file.read_ply(tmp_path / f"o_000{i}.ply") for i in (1, 2))
    assert_same_bits(first, made)
    to_opencv = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    expected = axes.transform_splats(made, to_opencv @ moved)
    np.testing.assert_allclose(second.means, expected.means, atol=1e-5)
    np.testing.assert_allclose(second.sh_rest, expected.sh_rest, atol=1e-5)
    assert scene.frame_current == 2 and splat_object.modifier_of(ob).show_viewport
    assert Matrix(moved.tolist()) == ob.matrix_world
