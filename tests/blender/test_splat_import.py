"""File > Import and Export, and a finished job's arrival as a set."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Euler, Matrix, Vector  # noqa: E402
from scene_splatter.blender_addon.cameras import conversion  # noqa: E402
from scene_splatter.blender_addon.jobs import results  # noqa: E402
from scene_splatter.blender_addon.publish import collections, exporting  # noqa: E402
from scene_splatter.blender_addon.splats import layout_view, splat_object  # noqa: E402
from scene_splatter.engine.bridge import camera_file, splat_file  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

from tests.blender.splat_scene import add_splats, empty_scene, random_splats  # noqa: E402
from tests.blender.test_splat_object import assert_same_bits  # noqa: E402


@pytest.fixture(autouse=True)
def scene(addon):
    return empty_scene()


def run_import(path: Path, **arguments: object) -> bpy.types.Object:
    before = set(bpy.data.objects)
    bpy.ops.scene_splatter.import_splats("EXEC_DEFAULT", True, filepath=str(path), **arguments)
    new = [ob for ob in bpy.data.objects if ob not in before and ob.type == "POINTCLOUD"]
    return new[0] if new else bpy.context.view_layer.objects.active


def snapshot() -> dict[str, list[str]]:
    kinds = (
        "objects",
        "pointclouds",
        "node_groups",
        "materials",
        "collections",
        "cameras",
        "images",
        "actions",
    )
    return {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in kinds}


def test_import_then_export_is_bit_exact_wherever_the_object_stands(tmp_path: Path) -> None:
    splats = random_splats(500, 15)
    splat_file.write_ply(
        tmp_path / "a.ply", splats, ["scene_splatter blending linear", "scene_splatter seed: 7"]
    )
    ob = run_import(tmp_path / "a.ply")
    assert (
        ob.name == "a"
        and bpy.context.view_layer.objects.active == ob
        and ob["scene_splatter_blending"] == "linear"
    )
    ob.matrix_world = Matrix.LocRotScale(Vector((3, 2, 1)), Euler((1, 2, 3)), None)
    bpy.context.view_layer.update()
    bpy.ops.scene_splatter.export_splats(filepath=str(tmp_path / "b.ply"))
    assert_same_bits(splat_file.read_ply(tmp_path / "b.ply"), splats)
    comments = splat_file.read_comments(tmp_path / "b.ply")
    assert "scene_splatter blending linear" in comments and "scene_splatter seed: 7" in comments


def test_export_in_the_world_follows_the_object(tmp_path: Path, scene) -> None:
    splats = random_splats(40, 3)
    ob = add_splats(splats)
    exporting.write(scene, ob, tmp_path / "upright.ply", in_world=True)
    assert_same_bits(splat_file.read_ply(tmp_path / "upright.ply"), splats)
    ob.matrix_world = Matrix.Translation((5, 0, 1)) @ ob.matrix_world @ Matrix.Scale(2, 4)
    bpy.context.view_layer.update()
    exporting.write(scene, ob, tmp_path / "moved.ply", in_world=True)
    moved = splat_file.read_ply(tmp_path / "moved.ply")
    assert np.allclose(moved.means, splats.means * 2 + (5, -1, 0), atol=1e-4)
    assert np.allclose(moved.scales_log, splats.scales_log + np.log(2), atol=1e-5)
    ob.scale = (1, 2, 1)
    bpy.context.view_layer.update()
    with pytest.raises(UserError, match="unequally"):
        exporting.write(scene, ob, tmp_path / "never.ply", in_world=True)


@pytest.mark.parametrize(
    "name",
    [
        "train1000/train-1000.ply",
        "leica-sofort/leica-sofort-top8192.ply",
        "biker/biker.compressed.ply",
        "train3/test-splat.3-points-from-train.ply",
    ],
)
def test_real_files_of_every_dialect(shared_data: Path, name: str) -> None:
    path = shared_data / "splats" / name
    ob = run_import(path)
    assert_same_bits(splat_object.to_splats(ob), splat_file.read_ply(path))
    assert ob["scene_splatter_blending"] == "display", (
        "3DGS files blend display values unless they say otherwise"
    )


def test_one_undo_step(tmp_path: Path) -> None:
    splat_file.write_ply(tmp_path / "a.ply", random_splats(20, 0))
    bpy.ops.ed.undo_push(message="before")
    before = snapshot()["objects"]
    run_import(tmp_path / "a.ply", collection="shot")
    assert snapshot()["objects"] != before
    bpy.ops.ed.undo()
    assert snapshot()["objects"] == before and not any(
        c.name.startswith("SS_") for c in bpy.data.collections
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
    ],
)
def test_a_bad_file_is_said_plainly_and_changes_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.ply").write_bytes(content)
    before = snapshot()
    with pytest.raises(RuntimeError, match=r"bad\.ply"):
        run_import(tmp_path / "bad.ply", collection="shot")
    with pytest.raises(RuntimeError, match=r"absent\.ply"):
        run_import(tmp_path / "absent.ply")
    splat_file.write_ply(tmp_path / "good.ply", random_splats(3, 0))
    with pytest.raises(RuntimeError, match="no splat object named nobody"):
        run_import(tmp_path / "good.ply", replace="nobody")
    assert snapshot() == before


def test_export_without_a_splat_object_says_so(scene) -> None:
    bpy.context.view_layer.objects.active = scene.camera
    assert not bpy.ops.scene_splatter.export_splats.poll()


def job_folder(tmp_path: Path, scene, *, ticket: bool) -> Path:
    """What a finished job of this scene leaves: its camera moved, so the first pose matters."""
    folder = tmp_path / "job"
    (folder / "input").mkdir(parents=True)
    camera = scene.camera
    camera.matrix_world = Matrix.LocRotScale(Vector((1, -2, 1.5)), Euler((1.4, 0, 0.3)), None)
    bpy.context.view_layer.update()
    camera_file.write(folder / "input" / "path.json", conversion.export(scene, camera, [1, 2, 3]))
    image = bpy.data.images.new("made", 32, 24)
    image.filepath_raw, image.file_format = str(folder / "input" / "image.png"), "PNG"
    image.save()
    bpy.data.images.remove(image)
    (folder / "settings.json").write_text(json.dumps({"output": {"seed": 7}}))
    if ticket:
        (folder / "blender.json").write_text(
            json.dumps({"blend": "", "scene": scene.name, "shot": "kitchen", "camera": camera.name})
        )
    splat_file.write_ply(
        folder / "scene_linear.ply",
        random_splats(200, 0),
        ["scene_splatter blending linear", "scene_splatter prior: patch (MIT)"],
    )
    return folder


def test_a_job_arrives_as_a_set_where_its_camera_saw_it(tmp_path: Path, scene) -> None:
    folder = job_folder(tmp_path, scene, ticket=True)
    ob = run_import(folder / "scene_linear.ply", collection="kitchen")
    root = bpy.data.collections["SS_kitchen_v001"]
    assert collections.set_of(ob) == root
    parts = {child.name: [o.name for o in child.objects] for child in root.children}
    assert parts == {
        "SS_kitchen_v001 splats": ["SS_kitchen_v001 Gaussians"],
        "SS_kitchen_v001 cameras": ["Camera"],
        "SS_kitchen_v001 source": ["SS_kitchen_v001 source"],
    }
    assert [o.name for o in scene.collection.objects] == ["Camera"], (
        "nothing new lies in the scene's own collection"
    )
    assert scene.camera.data.background_images[0].image.size[:] == (32, 24)
    # the result's axes are those of the first camera: one metre ahead of it is one metre ahead of
    # Blender's
    bpy.context.view_layer.update()
    ahead = ob.matrix_world @ Vector((0.25, 0.5, 1))
    assert np.allclose(ahead, scene.camera.matrix_world @ Vector((0.25, -0.5, -1)), atol=1e-5)
    for block in (ob, root):
        facts = collections.read_provenance(block)
        assert (
            facts["prior"] == "patch (MIT)" and json.loads(facts["settings"])["output"]["seed"] == 7
        )
        assert (
            facts["image_sha256"]
            == hashlib.sha256((folder / "input/image.png").read_bytes()).hexdigest()
        )
        assert facts["tool"].startswith("Scene Splatter 0.")
    run_import(folder / "scene_linear.ply", collection="kitchen")
    assert "SS_kitchen_v002" in bpy.data.collections


@pytest.mark.parametrize("metres", [1.0, 0.01])
def test_the_camera_of_a_result_sees_all_of_its_depth(tmp_path: Path, scene, metres) -> None:
    """In a scene whose unit is a centimetre, Blender's far end of 100 units is one metre."""
    scene.unit_settings.scale_length = metres
    folder, lens = job_folder(tmp_path, scene, ticket=True), scene.camera.data
    lens.clip_start, lens.clip_end = 1.0, 2.0
    ob = run_import(folder / "scene_linear.ply", collection="kitchen")
    bpy.context.view_layer.update()
    to_camera = scene.camera.matrix_world.inverted() @ ob.matrix_world
    depth = [-(to_camera @ Vector(mean)).z for mean in splat_object.positions(ob).tolist()]
    assert lens.clip_start <= min(depth) and lens.clip_end >= max(depth)


def test_generated_again_in_place_the_set_keeps_its_objects(tmp_path: Path, scene) -> None:
    folder = job_folder(tmp_path, scene, ticket=True)
    ob = run_import(folder / "scene_linear.ply", collection="kitchen")
    ob.location.x += 1
    pose = ob.matrix_basis.copy()
    new = random_splats(90, 3, seed=9)
    splat_file.write_ply(
        folder / "scene_linear.ply",
        new,
        ["scene_splatter blending linear", "scene_splatter prior: other"],
    )
    run_import(folder / "scene_linear.ply", replace=ob.name, collection="kitchen")
    assert_same_bits(splat_object.to_splats(ob), new)
    assert ob.matrix_basis == pose and "SS_kitchen_v002" not in bpy.data.collections
    assert collections.read_provenance(bpy.data.collections["SS_kitchen_v001"])["prior"] == "other"


def test_a_job_of_the_command_line_brings_its_camera(tmp_path: Path, scene) -> None:
    folder = job_folder(tmp_path, scene, ticket=False)
    expected = conversion.export(scene, scene.camera, [1])
    bpy.data.objects.remove(scene.camera)
    scene.frame_start = 11
    run_import(folder / "scene_linear.ply", collection="cli")
    made = bpy.data.collections["SS_cli_v001 cameras"].objects[0]
    assert scene.camera == made and made.data.background_images[0].image is not None
    again = conversion.export(scene, made, [11])
    assert np.allclose(
        again.world_from_camera, expected.world_from_camera, atol=1e-5
    ) and np.allclose(again.K, expected.K, atol=1e-3)


def test_the_cameras_of_a_result_stand_where_its_gaussians_do(tmp_path: Path, scene) -> None:
    """cameras.json has the axes of the first camera, as scene.ply has; both come in by hand."""
    folder = job_folder(tmp_path, scene, ticket=False)
    asked = camera_file.read(folder / "input" / "path.json")
    first = np.linalg.inv(asked.world_from_camera[0])
    camera_file.write(
        folder / "cameras.json", asked._replace(world_from_camera=first @ asked.world_from_camera)
    )
    bpy.data.objects.remove(scene.camera)
    ob = run_import(folder / "scene_linear.ply")
    assert bpy.ops.scene_splatter.import_camera_path(filepath=str(folder / "cameras.json")) == {
        "FINISHED"
    }
    again = conversion.export(scene, scene.camera, [1, 2, 3])
    assert np.allclose(again.world_from_camera, asked.world_from_camera, atol=1e-5)
    ahead = ob.matrix_world @ Vector((0, 0, 1))
    assert np.allclose(ahead, scene.camera.matrix_world @ Vector((0, 0, -1)), atol=1e-5)


def test_a_camera_path_file_becomes_the_scenes_camera(tmp_path: Path, scene) -> None:
    path = job_folder(tmp_path, scene, ticket=False) / "input" / "path.json"
    expected = camera_file.read(path)
    bpy.data.objects.remove(scene.camera)
    bpy.ops.scene_splatter.import_camera_path(filepath=str(path))
    again = conversion.export(scene, scene.camera, [1, 2, 3])
    assert (
        np.allclose(again.world_from_camera, expected.world_from_camera, atol=1e-5)
        and again.width == expected.width
    )
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"bad\.json"):
        bpy.ops.scene_splatter.import_camera_path(filepath=str(tmp_path / "bad.json"))


def test_the_layout_view_follows_what_the_3d_view_looks_at(scene) -> None:
    ob = add_splats(random_splats(30, 0))
    modifier = splat_object.modifier_of(ob)
    manager = bpy.context.window_manager
    area = next(area for area in manager.windows[0].screen.areas if area.type == "VIEW_3D")
    space = area.spaces.active

    def form() -> bool:
        layout_view.sync(manager)
        return bool(splat_object.get_input(modifier, "Exact in Viewport"))

    space.region_3d.view_perspective, space.shading.type = "PERSP", "MATERIAL"
    assert form() is False
    space.region_3d.view_perspective = "CAMERA"
    assert form() is True and layout_view.sync(manager) == 0, (
        "nothing is touched while nothing changes"
    )
    space.shading.type = "SOLID"
    assert form() is False
    scene.scene_splatter_view = "EXACT"
    assert form() is True
    space.shading.type, scene.scene_splatter_view = "RENDERED", "POINTS"
    assert form() is False


def test_menus_have_the_entries() -> None:
    for menu in (bpy.types.TOPBAR_MT_file_import, bpy.types.TOPBAR_MT_file_export):
        assert any(
            getattr(f, "__module__", "").endswith("blender_addon.ui.io_operators")
            for f in menu._dyn_ui_initialize()
        )


def test_a_file_read_ahead_is_the_file_and_a_newer_one_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    for count in (5, 7):
        splat_file.write_ply(path, random_splats(count, 0), ("scene_splatter blending linear",))
        end = time.monotonic() + 30
        while not results.read_ahead(path):
            assert time.monotonic() < end
            time.sleep(0.01)
        ahead, now = results.read(path), results.read(path)
        assert len(ahead.splats.means) == count and ahead.blending == "linear"
        for one, other in zip(ahead.splats, now.splats, strict=True):
            np.testing.assert_array_equal(one, other)
    results.read_ahead(path)
    splat_file.write_ply(path, random_splats(9, 0))  # a resumed job made it anew
    assert len(results.read(path, "linear").splats.means) == 9
    path.write_bytes(b"ply damaged")
    while not results.read_ahead(path):
        time.sleep(0.01)
    with pytest.raises(UserError, match=r"damaged|cannot be read|not a .ply"):
        results.read(path)


def test_a_crop_box_holds_the_splats_and_the_viewport_shows_what_is_inside(tmp_path: Path) -> None:
    splats = random_splats(400, 0)
    splat_file.write_ply(tmp_path / "a.ply", splats)
    ob = run_import(tmp_path / "a.ply")
    modifier = splat_object.modifier_of(ob)
    if modifier is None:
        pytest.skip("this Blender draws splats by itself")
    ob.location = (3, 2, 1)
    bpy.context.view_layer.update()
    assert bpy.ops.scene_splatter.add_crop_box() == {"FINISHED"}
    box = splat_object.get_input(modifier, "Crop Box")
    assert box.type == "EMPTY" and box.name == "a crop" and splat_object.get_input(modifier, "Crop")

    def shown() -> np.ndarray:
        graph = bpy.context.evaluated_depsgraph_get()
        cloud = ob.evaluated_get(graph).data
        found = np.empty(len(cloud.points) * 3, np.float32)
        cloud.attributes["position"].data.foreach_get("vector", found)
        return found.reshape(-1, 3)

    bpy.context.view_layer.update()
    assert 0.6 * 400 < len(shown()) < 400  # nine tenths on each of three axes
    in_box = np.array(box.matrix_world.inverted() @ ob.matrix_world)
    local = shown() @ in_box[:3, :3].T + in_box[:3, 3]
    assert np.abs(local).max() <= 1 + 1e-5
    box.scale = (1e-4, 1e-4, 1e-4)
    bpy.context.view_layer.update()
    assert len(shown()) == 0
    assert not bpy.ops.scene_splatter.show_colours.poll()  # there is no 3D view here


def test_a_file_with_broken_splats_comes_in_without_them_and_a_packed_one_too(
    tmp_path: Path,
) -> None:
    splats = random_splats(9, 0)
    splats.means[4, 1] = np.nan
    splats.quats[2] = 0
    names = [name for name, _ in splat_file._columns(splats)]
    table = np.stack([column for _, column in splat_file._columns(splats)], axis=1).astype("<f4")
    head = "ply\nformat binary_little_endian 1.0\ncomment Stra\xdfe\nelement vertex 9\n"
    head += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    (tmp_path / "a.ply").write_bytes(head.encode("latin-1") + table.tobytes())
    (tmp_path / "b.ply.gz").write_bytes(gzip.compress((tmp_path / "a.ply").read_bytes()))
    for name in ("a.ply", "b.ply.gz"):
        assert len(run_import(tmp_path / name).data.points) == 8
        assert len(results.read(tmp_path / name).notes) == 2


def test_the_cameras_of_a_training_come_in(tmp_path: Path, scene) -> None:
    if scene.camera is not None:
        bpy.data.objects.remove(scene.camera)
    entry = {"width": 320, "height": 240, "fx": 300.0, "fy": 300.0, "rotation": np.eye(3).tolist()}
    cameras = [
        entry | {"id": i, "img_name": f"{i:05d}", "position": [0.1 * i, 0.0, 0.0]} for i in range(3)
    ]
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(cameras[1:] + cameras[:1]))
    assert bpy.ops.scene_splatter.import_camera_path(filepath=str(path)) == {"FINISHED"}
    first = scene.frame_start
    again = conversion.export(scene, scene.camera, [first, first + 1, first + 2])
    np.testing.assert_allclose(again.world_from_camera[:, 0, 3], [0.0, 0.1, 0.2], atol=1e-5)
