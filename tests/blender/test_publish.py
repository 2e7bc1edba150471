"""Publishing a set: what the library holds, what stays editable, and what a new version does to
those who link it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Matrix  # noqa: E402
from scene_splatter.blender_addon.jobs import results  # noqa: E402
from scene_splatter.blender_addon.publish import collections, publish  # noqa: E402
from scene_splatter.blender_addon.splats import exact_colours, splat_object  # noqa: E402
from scene_splatter.engine.bridge import splat_file  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

from tests.blender.splat_scene import empty_scene, random_splats  # noqa: E402


@pytest.fixture
def shot(addon, tmp_path: Path):
    """A saved file with one set, SS_shot_v001, of 50 Gaussians."""
    scene = empty_scene()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    _add_set(tmp_path, 50)
    return bpy.context.scene if scene is None else scene


def _add_set(folder: Path, count: int) -> bpy.types.Collection:
    splat_file.write_ply(folder / "scene.ply", random_splats(count, 3, seed=count))
    ob = results.add(bpy.context.scene, results.read(folder / "scene.ply"), shot="shot")
    bpy.context.view_layer.update()
    return collections.set_of(ob)


def _splats_of(root: bpy.types.Collection) -> bpy.types.Object:
    return next(ob for ob in root.all_objects if splat_object.is_splat_object(ob))


def test_the_library_is_an_asset_library_with_everything_inside(shot, tmp_path):
    root = bpy.data.collections["SS_shot_v001"]
    before = splat_object.to_splats(_splats_of(root))
    shot.view_settings.view_transform = "AgX"
    shot.scene_splatter_match_view = shot.scene_splatter_exact = True
    assert exact_colours.is_on(shot)
    done = publish.publish(shot, root, tmp_path / "publish", link_back=False)
    assert exact_colours.is_on(shot)
    assert done.path == tmp_path / "publish" / "SS_shot_v001.blend" and done.version == 1
    assert sorted(p.name for p in done.path.parent.iterdir()) == [
        "SS_shot_v001.blend",
        "blender_assets.cats.txt",
    ]
    bpy.ops.wm.open_mainfile(filepath=str(done.path))
    held = bpy.data.collections["SS_shot"]
    assert held.use_fake_user and held.asset_data is not None
    assert (
        held.asset_data.catalog_id in (tmp_path / "publish" / "blender_assets.cats.txt").read_text()
    )
    if bpy.app.version[:2] not in (
        (5, 0),
        (5, 1),
    ):  # these leave previews out when they write a library
        assert tuple(held.preview.image_size) == (256, 256)
    for a, b in zip(before, splat_object.to_splats(_splats_of(held)), strict=True):
        np.testing.assert_array_equal(a, b)
    modifier = splat_object.modifier_of(_splats_of(held))
    assert splat_object.get_input(modifier, "Match in Renders"), "others have no such compositor"
    assert not bpy.data.libraries


def test_here_the_link_takes_the_place_of_the_set_and_only_its_placement_is_open(shot, tmp_path):
    root = bpy.data.collections["SS_shot_v001"]
    where = _splats_of(root).matrix_world.copy()
    done = publish.publish(shot, root, tmp_path / "publish")
    bpy.context.view_layer.update()
    (library,) = bpy.data.libraries
    assert (
        library.filepath == "//publish/SS_shot_v001.blend"
        or library.filepath == "//publish\\SS_shot_v001.blend"
    )
    shown = done.collection
    assert shown.override_library.reference.library == library
    ob = _splats_of(shown)
    assert ob.data.library == library and shot.objects.get(ob.name) is not None
    np.testing.assert_allclose(ob.matrix_world, where, atol=1e-6)
    open_objects = [o for o in shown.all_objects if not o.override_library.is_system_override]
    assert [publish.PLACEMENT in o for o in open_objects] == [True]
    open_objects[0].location = (1, 2, 3)
    bpy.context.view_layer.update()
    np.testing.assert_allclose(
        ob.matrix_world.translation, where.translation + open_objects[0].location, atol=1e-6
    )
    assert not [
        c
        for c in bpy.data.collections
        if c.library is None and c.override_library is None and collections.MARK in c
    ]


def test_a_new_version_replaces_the_data_and_keeps_every_users_placement(shot, tmp_path):
    folder = tmp_path / "publish"
    publish.publish(shot, bpy.data.collections["SS_shot_v001"], folder)
    # a layout file of somebody else, which links version 1, moves it and saves
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "layout.blend"))
    shown = publish.link(bpy.context.scene, folder / "SS_shot_v001.blend", "SS_shot")
    place = next(ob for ob in shown.objects if publish.PLACEMENT in ob)
    place.location = (4, 5, 6)
    follower = bpy.data.objects.new("follower", None)
    bpy.context.scene.collection.objects.link(follower)
    follower.parent = _splats_of(shown)
    bpy.ops.wm.save_mainfile()
    # the maker publishes version 2
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    done = publish.publish(bpy.context.scene, _add_set(tmp_path, 80), folder)
    assert done.version == 2 and len(bpy.data.libraries) == 1
    assert len(_splats_of(done.collection).data.points) == 80
    # the layout artist takes it
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "layout.blend"))
    assert (
        len(
            next(
                o for o in bpy.data.objects if o.type == "POINTCLOUD" and o.override_library
            ).data.points
        )
        == 50
    )
    assert bpy.ops.scene_splatter.use_newest() == {"FINISHED"}
    (library,) = bpy.data.libraries
    assert Path(
        bpy.path.abspath(library.filepath)
    ).name == "SS_shot_v002.blend" and library.filepath.startswith("//")
    shown = next(c for c in bpy.data.collections if c.override_library and collections.MARK in c)
    ob = _splats_of(shown)
    assert len(ob.data.points) == 80
    bpy.context.view_layer.update()
    place = next(o for o in shown.objects if publish.PLACEMENT in o)
    np.testing.assert_allclose(place.matrix_world.translation, (4, 5, 6), atol=1e-6)
    assert bpy.data.objects["follower"].parent == ob
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "layout.blend"))
    place = next(o for o in bpy.data.objects if publish.PLACEMENT in o and o.override_library)
    np.testing.assert_allclose(place.location, (4, 5, 6), atol=1e-6)


def test_the_operator_asks_for_a_saved_file_and_a_set(addon, tmp_path):
    empty_scene()
    splat_file.write_ply(tmp_path / "a.ply", random_splats(10, 0))
    ob = results.add(bpy.context.scene, results.read(tmp_path / "a.ply"))
    bpy.context.view_layer.objects.active = ob
    assert not bpy.ops.scene_splatter.publish.poll()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    assert not bpy.ops.scene_splatter.publish.poll(), "it is in no set"
    root = _add_set(tmp_path, 10)
    bpy.context.view_layer.objects.active = _splats_of(root)
    assert bpy.ops.scene_splatter.publish.poll()
    assert bpy.ops.scene_splatter.publish(directory="//lib/") == {"FINISHED"}
    assert (tmp_path / "lib" / "SS_shot_v001.blend").is_file()


def test_other_lines_of_a_catalogue_file_stay(shot, tmp_path):
    folder = tmp_path / "publish"
    folder.mkdir()
    line = "aaaaaaaa-0000-4000-8000-000000000000:Props:Props"
    (folder / "blender_assets.cats.txt").write_text(f"VERSION 1\n\n{line}")
    root = bpy.data.collections["SS_shot_v001"]
    publish.publish(shot, root, folder, link_back=False)
    text = (folder / "blender_assets.cats.txt").read_text().splitlines()
    assert line in text and sum("Scene Splatter" in t for t in text) == 1


def test_a_linked_set_and_an_empty_one_are_refused(shot, tmp_path):
    done = publish.publish(shot, bpy.data.collections["SS_shot_v001"], tmp_path / "publish")
    with pytest.raises(UserError, match="linked already"):
        publish.publish(shot, done.collection, tmp_path / "publish")
    with pytest.raises(UserError, match="no splats"):
        publish.publish(shot, collections.new_set(shot, "empty"), tmp_path / "publish")
    assert len(list((tmp_path / "publish").glob("*.blend"))) == 1


def test_an_object_of_the_users_own_is_neither_moved_nor_removed(shot, tmp_path):
    root = bpy.data.collections["SS_shot_v001"]
    camera = shot.camera
    camera.location = (1, 1, 1)
    collections.link(camera, collections.part_of(root, "cameras"))
    matrix = Matrix(camera.matrix_basis)
    publish.publish(shot, root, tmp_path / "publish")
    assert shot.camera is not None and shot.camera.library is None and shot.camera.parent is None
    np.testing.assert_allclose(shot.camera.matrix_basis, matrix)


def test_what_used_the_set_uses_its_link_afterwards(shot, tmp_path):
    """The scene's camera, a marker's camera, a child and a constraint of the user's own; for the
    first version and the next.
    """
    root = bpy.data.collections["SS_shot_v001"]
    camera = bpy.data.objects.new(
        "SS_shot_v001 camera", bpy.data.cameras.new("SS_shot_v001 camera")
    )
    collections.part_of(root, "cameras").objects.link(camera)
    shot.camera = camera
    shot.timeline_markers.new("cut", frame=7).camera = camera
    lamp = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "POINT"))
    shot.collection.objects.link(lamp)
    lamp.parent = _splats_of(root)
    lamp.constraints.new("TRACK_TO").target = camera
    done = publish.publish(shot, root, tmp_path / "publish")
    ours = [c for c in done.collection.all_objects if c.type == "CAMERA"]
    assert [
        shot.camera,
        shot.timeline_markers["cut"].camera,
        lamp.constraints[0].target,
    ] == ours * 3
    assert lamp.parent == _splats_of(done.collection)
    publish.publish(shot, _add_set(tmp_path, 80), tmp_path / "publish")
    assert len(lamp.parent.data.points) == 80
