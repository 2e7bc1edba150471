"""Blender cameras and OpenCV cameras show the same picture, both ways."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from bpy_extras.object_utils import world_to_camera_view  # noqa: E402
from mathutils import Euler, Matrix, Vector  # noqa: E402
from scene_splatter.blender_addon.cameras import conversion, coverage, first_camera, moves  # noqa: E402
from scene_splatter.blender_addon.cameras.picture_header import Header  # noqa: E402
from scene_splatter.engine.bridge import camera_file  # noqa: E402
from scene_splatter.engine.bridge import moves as engine_moves  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

FITS = ("AUTO", "HORIZONTAL", "VERTICAL")


@pytest.fixture
def scene():
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(scene.camera)
    return scene


def project(path, index: int, point_blender, metres: float = 1.0) -> np.ndarray:
    """Pixel of a Blender world point by the exported numbers alone."""
    world = conversion.OPENCV_FROM_BLENDER[:3, :3] @ np.array(point_blender) * metres
    in_camera = np.linalg.inv(path.world_from_camera[index]) @ np.append(world, 1)
    pixel = path.K[index] @ in_camera[:3]
    return pixel[:2] / pixel[2]


def blender_pixel(scene, camera, point) -> np.ndarray:
    width, height = conversion.render_size(scene.render)
    u, v, depth = world_to_camera_view(scene, camera, Vector(point))
    assert depth > 0
    return np.array([u * width, (1 - v) * height])


def points_in_view(camera, rng, count=20) -> list[Vector]:
    pose = camera.matrix_world.normalized()
    return [
        pose @ Vector((rng.uniform(-0.3, 0.3) * z, rng.uniform(-0.3, 0.3) * z, -z))
        for z in rng.uniform(0.5, 30, count)
    ]


def test_random_cameras_reproject_to_a_hundredth_of_a_pixel(scene) -> None:
    rng = np.random.default_rng(0)
    camera, lens, render = scene.camera, scene.camera.data, scene.render
    for trial in range(200):
        lens.sensor_fit, lens.lens = FITS[trial % 3], rng.uniform(14, 120)
        lens.sensor_width, lens.sensor_height = rng.uniform(10, 60, 2)
        lens.shift_x, lens.shift_y = rng.uniform(-0.3, 0.3, 2)
        render.resolution_x, render.resolution_y = (int(v) * 2 for v in rng.integers(50, 1000, 2))
        render.resolution_percentage = int(rng.choice([50, 100]))
        render.pixel_aspect_x, render.pixel_aspect_y = rng.choice(
            [(1, 1), (2, 1), (1, 1.5), (1.2, 1)]
        )
        camera.matrix_world = Matrix.LocRotScale(
            Vector(rng.normal(0, 3, 3)),
            Euler(rng.uniform(-3, 3, 3)),
            Vector((rng.uniform(0.2, 3),) * 3),
        )
        bpy.context.view_layer.update()
        path = conversion.export(scene, camera, [1])
        for point in points_in_view(camera, rng, 5):
            # world_to_camera_view works in single precision: far-off pixels of strong shifts carry
            # its rounding
            assert (
                np.abs(project(path, 0, point) - blender_pixel(scene, camera, point)).max() < 0.01
            )


def test_animation_parents_constraints_and_subframes_are_evaluated(scene) -> None:
    camera = scene.camera
    parent, target = bpy.data.objects.new("rig", None), bpy.data.objects.new("target", None)
    for ob in (parent, target):
        scene.collection.objects.link(ob)
    camera.parent = parent
    parent.scale = (2, 2, 2)
    track = camera.constraints.new("TRACK_TO")
    track.target, track.track_axis, track.up_axis = target, "TRACK_NEGATIVE_Z", "UP_Y"
    target.location = (0.5, 10, 1)
    for frame, x, z, lens in ((1, 0, 1, 30), (20, 3, 2, 80)):
        parent.location, parent.rotation_euler, camera.data.lens = (x, 0, z), (0, 0, x * 0.2), lens
        parent.keyframe_insert("location", frame=frame)
        parent.keyframe_insert("rotation_euler", frame=frame)
        camera.data.keyframe_insert("lens", frame=frame)
    scene.frame_set(7, subframe=0.25)
    frames = [1, 1.5, 7.25, 13, 20]
    path = conversion.export(scene, camera, frames)
    assert (scene.frame_current, scene.frame_subframe) == (7, 0.25), "the scene's frame is put back"
    assert path.count == 5 and path.unit == "m" and len(set(path.K[:, 0, 0])) == 5
    for index, frame in enumerate(frames):
        scene.frame_set(math.floor(frame), subframe=frame % 1)
        for point in ((0.5, 10, 1), (0, 12, 3), (1, 8, 0)):
            assert (
                np.abs(project(path, index, point) - blender_pixel(scene, camera, point)).max()
                < 0.01
            )
        rotation = path.world_from_camera[index, :3, :3]
        assert np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-9, (
            "rigid though the parent is scaled"
        )
    assert path.fps == pytest.approx(24 / (19 / 4))


def test_render_border_changes_nothing(scene) -> None:
    before = conversion.export(scene, scene.camera, [1])
    scene.render.use_border, scene.render.border_max_x = True, 0.3
    after = conversion.export(scene, scene.camera, [1])
    assert (before.K == after.K).all() and before.width == after.width


def test_units_become_metres_and_back(scene) -> None:
    scene.unit_settings.scale_length = 0.01
    scene.camera.location = (100, 200, 300)
    bpy.context.view_layer.update()
    path = conversion.export(scene, scene.camera, [1])
    assert np.allclose(path.world_from_camera[0, :3, 3], (1, -3, 2))
    assert np.allclose(
        np.array(conversion.blender_from_opencv(path.world_from_camera[0], 0.01)),
        np.array(scene.camera.matrix_world),
        atol=1e-4,
    )
    # a result one metre ahead of the camera lies 100 units ahead of it
    ahead = conversion.placement(path, scene) @ Vector((0, 0, 1))
    assert np.allclose(ahead, np.array(scene.camera.matrix_world @ Vector((0, 0, -100))), atol=1e-3)


@pytest.mark.parametrize(("kind", "word"), [("ORTHO", "orthographic"), ("PANO", "panoramic")])
def test_other_cameras_are_refused_with_a_reason(scene, kind: str, word: str) -> None:
    scene.camera.data.type = kind
    scene.frame_set(5)
    with pytest.raises(UserError, match=word):
        conversion.export(scene, scene.camera, [1, 2])
    assert scene.frame_current == 5


def test_mirrored_cameras_and_empty_ranges_are_refused(scene) -> None:
    with pytest.raises(UserError, match="empty"):
        conversion.export(scene, scene.camera, [])
    scene.camera.scale.x = -1
    bpy.context.view_layer.update()
    with pytest.raises(UserError, match="mirrored"):
        conversion.export(scene, scene.camera, [1])


def test_a_path_becomes_a_camera_and_the_same_path_again(scene, tmp_path) -> None:
    rng = np.random.default_rng(2)
    K, poses = [], []
    for index in range(12):
        K.append([[500 + 10 * index, 0, 310 + index], [0, 400 + 8 * index, 250 - index], [0, 0, 1]])
        pose = np.array(Euler(rng.normal(0, 0.8, 3)).to_matrix().to_4x4())
        pose[:3, 3] = rng.normal(0, 2, 3)
        poses.append(pose)
    path = camera_file.CameraPath(np.array(K, float), np.array(poses), 640, 480, 30.0, "m")
    camera_file.write(tmp_path / "path.json", path)
    camera = conversion.add_camera(
        scene, camera_file.read(tmp_path / "path.json"), "match", start=10, set_render=True
    )
    again = conversion.export(scene, camera, range(10, 22))
    assert (again.width, again.height, again.fps) == (640, 480, 30)
    assert np.abs(again.K - path.K).max() < 1e-3
    assert np.abs(again.world_from_camera - path.world_from_camera).max() < 1e-5


def test_quaternion_keys_never_take_the_long_way(scene) -> None:
    poses = np.stack([np.array(Euler((0, 0.5 * i, 0)).to_matrix().to_4x4()) for i in range(14)])
    path = camera_file.CameraPath(
        np.tile(np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), (14, 1, 1)),
        poses,
        640,
        480,
        24.0,
        "m",
    )
    camera = conversion.add_camera(scene, path, "spin", set_render=True)
    half = conversion.export(scene, camera, [i + 1.5 for i in range(13)])
    forward = half.world_from_camera[:, :3, 2]
    between = poses[:-1, :3, 2] + poses[1:, :3, 2]
    assert (
        np.einsum("fi,fi->f", forward, between / np.linalg.norm(between, axis=1, keepdims=True))
        > 0.999
    ).all()


def test_match_camera_to_image(scene) -> None:
    image = bpy.data.images.new("picture", 800, 450)
    scene.render.pixel_aspect_x = 2
    conversion.match_camera_to_image(scene, scene.camera, image, fov_deg=70)
    path = conversion.export(scene, scene.camera, [1])
    assert (path.width, path.height) == (800, 450) and path.K[0, 0, 0] == pytest.approx(
        path.K[0, 1, 1]
    )
    assert 2 * math.degrees(math.atan(400 / path.K[0, 0, 0])) == pytest.approx(70)
    conversion.match_camera_to_image(scene, scene.camera, image)
    assert [b.image for b in scene.camera.data.background_images] == [image], (
        "the background is not added twice"
    )
    with pytest.raises(UserError, match="cannot be read"):
        missing = bpy.data.images.new("gone", 1, 1)
        missing.source, missing.filepath = "FILE", "//nowhere.png"
        conversion.match_camera_to_image(scene, scene.camera, missing)


def test_backgrounds_of_ours_do_not_pile_up_and_the_users_stay(scene) -> None:
    lens = scene.camera.data
    lens.background_images.new().image = bpy.data.images.new("the user's", 8, 8)
    lens.background_images.new()  # an empty one of the user's
    ours = [bpy.data.images.new(f"result {i}", 8, 8) for i in range(3)]
    for image in ours:
        conversion.show_behind(scene.camera, image)
    shown = [b.image.name if b.image else "" for b in lens.background_images]
    assert shown == ["the user's", "", "result 2"]


@pytest.mark.parametrize("metres", [1.0, 0.01])
@pytest.mark.parametrize("horizon", [0.5, 0.4])
def test_a_new_camera_stands_level_on_the_floor_of_the_box(
    scene, metres: float, horizon: float
) -> None:
    """The floor of the engine's box lies at z = 0, and everything up to a kilometre is drawn."""
    scene.unit_settings.scale_length = metres
    camera = first_camera.add(scene, "shot camera")
    assert scene.camera == camera and first_camera.is_ours(camera)
    first_camera.stand_upright(scene, camera, 1.6, horizon)
    bpy.context.view_layer.update()
    path = conversion.export(scene, camera, [1])
    height = path.height
    geometry = types.SimpleNamespace(
        horizon=horizon, camera_height=1.6, box_depth=9.0, box_width=0.0, box_height=0.0
    )
    depth = coverage.box_depth(path.K[0], path.width, height, geometry)
    z = depth[height - 1, path.width // 2]
    pixel = np.array([path.width / 2 + 0.5, height - 0.5, 1.0])
    world = path.world_from_camera[0] @ np.append(np.linalg.inv(path.K[0]) @ pixel * z, 1.0)
    assert world[1] == pytest.approx(0.0, abs=1e-5), "OpenCV's y is down: the floor is at height 0"
    assert np.allclose(path.world_from_camera[0][:3, 0], (1, 0, 0), atol=1e-6), "no roll"
    assert camera.data.clip_start * metres <= 0.0100001 and camera.data.clip_end * metres >= 999


def test_only_untouched_objects_of_the_default_file_are_hidden() -> None:
    bpy.ops.wm.read_factory_settings()
    scene, layer = bpy.context.scene, bpy.context.view_layer
    assert first_camera.is_default_camera(scene.camera)
    bpy.ops.ed.undo_push(message="before")
    assert first_camera.hide_default_objects(scene, layer) == ["Cube", "Light"]
    cube = bpy.data.objects["Cube"]
    assert cube.hide_get() and cube.hide_render and not scene.camera.hide_get()
    bpy.ops.wm.read_factory_settings()
    scene, layer = bpy.context.scene, bpy.context.view_layer
    bpy.data.objects["Cube"].data.vertices[0].co.x = 3
    bpy.data.objects["Light"].location.x = 0
    scene.camera.keyframe_insert("location", frame=1)
    assert not first_camera.is_default_camera(scene.camera)
    assert first_camera.hide_default_objects(scene, layer) == []


def test_a_photo_held_upright_gives_an_upright_render_and_its_lens(scene) -> None:
    """Orientation 6: the file has 4000 x 3000 pixels, and is to be turned by a quarter
    clockwise.
    """
    image = bpy.data.images.new("photo", 40, 30)
    conversion.match_camera_to_image(scene, scene.camera, image, Header(3000, 4000, 6, 53.0))
    assert (scene.render.resolution_x, scene.render.resolution_y) == (
        1440,
        1920,
    )  # the longer side stays
    assert math.degrees(scene.camera.data.angle_x) == pytest.approx(53, abs=1e-3)
    background = scene.camera.data.background_images[0]
    assert background.rotation == pytest.approx(math.pi / 2) and background.frame_method == "FIT"
    assert background.scale == pytest.approx(
        4 / 3
    )  # the lying picture fits the width; turned it shall fit the height
    conversion.match_camera_to_image(scene, scene.camera, image, Header(400, 300, 1, None))
    assert (scene.render.resolution_x, scene.render.resolution_y) == (400, 300)
    assert (background.rotation, background.scale, background.frame_method) == (0, 1, "STRETCH")
    assert math.degrees(scene.camera.data.angle_x) == pytest.approx(53, abs=1e-3)


SUM = "dolly:1.5+truck:-0.8+pedestal:0.2+pan:-30+tilt:10+orbit:40@5"
_PARENTS = (None, (1, 1, 1), (2, 2, 2), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("mode", ["XYZ", "QUATERNION", "AXIS_ANGLE"])
@pytest.mark.parametrize("spec", ["dolly:0.5", "dolly:1+truck:0.3", "tilt:190", SUM])
@pytest.mark.parametrize("parent", _PARENTS)
def test_a_sum_of_moves_is_the_command_lines(scene, mode: str, spec: str, parent) -> None:
    """Ordinary keys, metres of the world under scaled parents and in other units, all terms at
    once.
    """
    camera = scene.camera
    camera.rotation_mode = mode
    scene.unit_settings.scale_length = 0.1
    if parent is not None:
        rig = bpy.data.objects.new("rig", None)
        scene.collection.objects.link(rig)
        rig.matrix_world = Matrix.LocRotScale(
            Vector((3, 1, 0)), Euler((0.2, 0, 1.1)), Vector(parent)
        )
        camera.parent = rig
    camera.matrix_basis = Matrix.LocRotScale(Vector((1, 2, 3)), Euler((1.4, 0.1, 0.5)), None)
    bpy.context.view_layer.update()
    stood = camera.matrix_basis.copy()
    assert moves.add_move(scene, camera, "dolly:3", start=1, end=25) == 0
    assert np.allclose(camera.matrix_basis, stood, atol=1e-6), "it stands where it stood"
    assert moves.add_move(scene, camera, spec, start=1, end=25) == 2, "both keys are replaced"
    path = conversion.export(scene, camera, range(1, 26))
    relative = np.linalg.inv(path.world_from_camera[0]) @ path.world_from_camera
    wanted = engine_moves.move(spec, K=np.eye(3), width=1, height=1, frames=2).world_from_camera
    assert np.abs(relative[-1] - wanted[-1]).max() < 2e-5
    turns = relative[:-1, :3, :3].transpose(0, 2, 1) @ relative[1:, :3, :3]
    assert np.trace(turns, axis1=1, axis2=2).min() > 1 + 2 * math.cos(math.radians(16)), "no spin"


def test_an_orbit_keeps_its_point_in_the_centre(scene) -> None:
    moves.add_move(scene, scene.camera, "orbit:40@5", start=1, end=25)
    path = conversion.export(scene, scene.camera, range(1, 26))
    relative = np.linalg.inv(path.world_from_camera[0]) @ path.world_from_camera
    seen = np.linalg.inv(relative) @ np.array([0, 0, 5.0, 1])
    assert np.abs(seen[:, :3] - (0, 0, 5)).max() < 0.05 and relative[-1, 0, 3] > 0


def test_a_move_that_is_none_leaves_the_keys_alone(scene) -> None:
    moves.add_move(scene, scene.camera, "dolly:3", start=1, end=25)
    for spec, end in (("zoom:2", 25), ("fly:1", 25), ("dolly:1", 1)):
        with pytest.raises(UserError):
            moves.add_move(scene, scene.camera, spec, start=1, end=end)
    path = conversion.export(scene, scene.camera, [1, 25])
    travelled = np.diff(path.world_from_camera[:, :3, 3], axis=0)
    assert np.linalg.norm(travelled) == pytest.approx(3, abs=1e-5)


def test_what_the_panel_sums_is_spelled_as_the_command_line_takes_it() -> None:
    assert moves.spell(dict.fromkeys(moves.MOVES, 0.0), 4.0) == ""
    text = moves.spell({"dolly": 0.5, "pan": -10.0, "orbit": 20.0, "tilt": 0.0}, 3.0)
    assert text == "dolly:0.5+pan:-10+orbit:20@3"
    assert engine_moves.parse(text) == [
        ("dolly", 0.5, None),
        ("pan", -10.0, None),
        ("orbit", 20.0, 3.0),
    ]


def straight(count: int, step: float = 0.05) -> camera_file.CameraPath:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 2, 3] = np.arange(count) * step
    return camera_file.CameraPath(
        np.tile(np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), (count, 1, 1)),
        poses,
        640,
        480,
        24.0,
        "m",
    )


def warnings_of(path, scene) -> list[str]:
    return moves.path_warnings(path, list(range(1, path.count + 1)), scene, scene.camera)


def test_a_smooth_path_has_no_warnings(scene) -> None:
    assert warnings_of(straight(20), scene) == []


def test_jumps_stops_cuts_and_clipping_are_named(scene) -> None:
    jump = straight(20)
    jump.world_from_camera[10:, 0, 3] += 3
    (text,) = warnings_of(jump, scene)
    assert "3 m between frames 10 and 11" in text
    turn = straight(20)
    turn.world_from_camera[10:, :3, :3] = np.array(Euler((0, 1.2, 0)).to_matrix())
    (text,) = warnings_of(turn, scene)
    assert "69 degrees between frames 10 and 11" in text and "share too little" in text
    zoom = straight(20)
    zoom.K[15:, 0, 0] *= 1.5
    (text,) = warnings_of(zoom, scene)
    assert "lens changes by 50 % between frames 15 and 16" in text
    stop = straight(40)
    stop.world_from_camera[20:, 2, 3] = stop.world_from_camera[20, 2, 3]
    (text,) = warnings_of(stop, scene)
    assert "stands still from frame 21 to 40" in text
    other = bpy.data.objects.new("B", bpy.data.cameras.new("B"))
    scene.collection.objects.link(other)
    scene.timeline_markers.new("cut", frame=8).camera = other
    camera = bpy.data.objects["Camera"]  # the marker may have made B the scene's camera already
    (text,) = moves.path_warnings(straight(20), list(range(1, 21)), scene, camera)
    assert "At frame 8 the scene cuts to B" in text
    scene.camera = camera
    scene.timeline_markers.clear()
    scene.camera.data.clip_start, scene.camera.data.clip_end = 1, 5
    assert [
        "nearer than 1 m" in w or "beyond 5 m" in w for w in warnings_of(straight(20), scene)
    ] == [True, True]
