"""Bad input gives a plain message, and the user's scene is as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
from scene_splatter.blender_addon.cameras import picture_header  # noqa: E402
from scene_splatter.blender_addon.jobs import delivery, engine_location, request  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

pytestmark = pytest.mark.blender


def snapshot() -> dict[str, Any]:
    """What a user would miss if it changed."""
    scene = bpy.context.scene
    kinds = [
        name
        for name in dir(bpy.data)
        if isinstance(getattr(bpy.data, name), bpy.types.bpy_prop_collection)
    ]
    data = {
        kind: sorted((item.name, item.users) for item in getattr(bpy.data, kind)) for kind in kinds
    }
    camera = [tuple(row) for ob in scene.objects for row in ob.matrix_world]
    render = (
        scene.render.resolution_x,
        scene.render.filepath,
        scene.render.engine,
        scene.render.image_settings.file_format,
    )
    return {
        **data,
        "camera": camera,
        "render": render,
        "frame": (scene.frame_current, scene.frame_subframe),
        "mode": bpy.context.mode,
    }


def refused(match: str) -> None:
    """Generate is refused with this message; nothing changes and no job folder is left."""
    before = snapshot()
    parent = delivery.jobs_parent()
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    with pytest.raises(UserError, match=match):
        request.make(bpy.context)
    assert snapshot() == before
    assert (sorted(parent.iterdir()) if parent.is_dir() else []) == folders


def refused_by_poll(match: str) -> None:
    """As `refused`, and the button is grey."""
    assert not bpy.ops.scene_splatter.generate.poll()
    with pytest.raises(RuntimeError, match="poll"):
        bpy.ops.scene_splatter.generate()
    refused(match)


def test_what_is_ready_is_not_refused(ready: Any) -> None:
    assert request.why_not(bpy.context) == ""
    before = snapshot()
    job = request.make(bpy.context)
    assert sorted(path.name for path in (job.folder / "input").iterdir()) == [
        "image.png",
        "path.json",
    ]
    assert snapshot() == before


def test_no_camera(ready: Any) -> None:
    bpy.data.objects.remove(ready.camera)
    refused_by_poll("There is no camera")


@pytest.mark.parametrize(("kind", "word"), [("ORTHO", "orthographic"), ("PANO", "panoramic")])
def test_a_camera_of_another_type(ready: Any, kind: str, word: str) -> None:
    ready.camera.data.type = kind
    refused_by_poll(f"Camera is {word}: only perspective cameras")


def test_a_camera_that_does_not_move(ready: Any) -> None:
    ready.camera.animation_data_clear()
    refused("Camera does not move in this frame range.*Animate it")


def test_one_frame_is_enough_and_needs_no_movement(ready: Any) -> None:
    ready.camera.animation_data_clear()
    ready.frame_end = 1
    assert request.make(bpy.context).folder.is_dir()


def test_an_empty_frame_range(ready: Any) -> None:
    ready.scene_splatter.use_scene_range = False
    ready.scene_splatter.frame_start, ready.scene_splatter.frame_end = 5, 4
    refused_by_poll("The frame range is empty: it ends \\(4\\) before it starts \\(5\\)")


def test_no_image_and_a_missing_image(ready: Any) -> None:
    ready.scene_splatter.image_path = ""
    refused_by_poll("Choose a picture")
    ready.scene_splatter.image_path = "//nothing/here.png"
    refused_by_poll("here.png does not exist")
    ready.scene_splatter.image_from = "IMAGE"
    refused_by_poll("Choose a picture")


def test_a_movie(ready: Any, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"not even a film")
    ready.scene_splatter.image_path = str(tmp_path / "film.mp4")
    refused_by_poll("film.mp4 is a movie: choose a single picture")


@pytest.mark.parametrize(
    ("source", "words"),
    [("MOVIE", "a movie"), ("SEQUENCE", "an image sequence"), ("TILED", "a set of tiles")],
)
def test_a_blender_image_that_is_no_single_picture(
    ready: Any, tmp_path: Path, source: str, words: str
) -> None:
    image = bpy.data.images.load(str(tmp_path / "picture.png"))
    image.source = source
    ready.scene_splatter.image_from, ready.scene_splatter.image = "IMAGE", image
    refused_by_poll(f"picture.png is {words}")


def test_a_blender_image_whose_file_is_gone(ready: Any, tmp_path: Path, save_picture: Any) -> None:
    ready.scene_splatter.image_from = "IMAGE"
    ready.scene_splatter.image = bpy.data.images.load(str(save_picture(tmp_path / "gone.png")))
    (tmp_path / "gone.png").unlink()
    refused_by_poll("The file of gone.png is missing")


def written_picture(folder: Path) -> np.ndarray:
    """The job's input picture as Blender reads it, [h, w, 4]."""
    path = next((folder / "input").glob("image.*"))
    image = bpy.data.images.load(str(path))
    image.colorspace_settings.name = "Non-Color"
    pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(pixels)
    shape = (image.size[1], image.size[0], 4)
    bpy.data.images.remove(image)
    return pixels.reshape(shape)


def test_a_packed_image_goes_over_byte_by_byte(
    ready: Any, tmp_path: Path, save_picture: Any
) -> None:
    path = save_picture(tmp_path / "packed.jpg", "JPEG")
    data = path.read_bytes()
    image = bpy.data.images.load(str(path))
    image.pack()
    path.unlink()
    ready.scene_splatter.image_from, ready.scene_splatter.image = "IMAGE", image
    folder = request.make(bpy.context).folder
    assert (folder / "input" / "image.jpg").read_bytes() == data


def test_a_painted_image_goes_over_as_it_looks(ready: Any) -> None:
    image = bpy.data.images.new("painted", 8, 4)
    image.pixels.foreach_set(np.tile(np.float32([0.2, 0.4, 0.6, 1.0]), 32))
    ready.scene_splatter.image_from, ready.scene_splatter.image = "IMAGE", image
    ready.render.resolution_x, ready.render.resolution_y = image.size
    before = (image.filepath, image.filepath_raw, image.is_dirty, image.source)
    got = written_picture(request.make(bpy.context).folder)
    assert got.shape == (4, 8, 4)
    np.testing.assert_allclose(
        got[..., :3], np.broadcast_to([0.2, 0.4, 0.6], (4, 8, 3)), atol=1 / 255
    )
    assert (image.filepath, image.filepath_raw, image.is_dirty, image.source) == before


@pytest.mark.parametrize(
    ("kind", "suffix", "file_format"), [("IMAGE", "exr", "OPEN_EXR"), ("FILE", "hdr", "HDR")]
)
def test_light_goes_over_as_the_standard_view_shows_it(
    ready: Any, tmp_path: Path, kind: str, suffix: str, file_format: str
) -> None:
    """Linear 0.214 is sRGB 0.5; light above 1 is white."""
    image = bpy.data.images.new("light", 8, 4, float_buffer=True)
    ready.render.resolution_x, ready.render.resolution_y = image.size
    image.filepath_raw, image.file_format = str(tmp_path / f"light.{suffix}"), file_format
    image.colorspace_settings.name = (
        "Linear Rec.709"  # of the file; the path's ending resets it, and it resets the pixels
    )
    image.pixels.foreach_set(
        np.tile(np.float32([0.2140411, 0.0, 1.0, 1.0, 0.0031308, 7.0, 0.5, 1.0]), 16)
    )
    group = ready.scene_splatter
    group.image_from, group.image = kind, image
    if kind == "FILE":
        image.save()
        group.image_path = image.filepath_raw
    got = written_picture(request.make(bpy.context).folder)
    tolerance = 4 if suffix == "hdr" else 1  # .hdr has one exponent for three colours
    np.testing.assert_allclose(
        got[0, :2, :3], [[0.5, 0.0, 1.0], [0.04045, 1.0, 0.7354]], atol=tolerance / 255
    )


def test_an_exr_file_goes_over_byte_by_byte_unless_its_colours_are_others(
    ready: Any, tmp_path: Path
) -> None:
    path = tmp_path / "light.exr"
    made = bpy.data.images.new("light", 64, 36, float_buffer=True)
    made.filepath_raw, made.file_format = str(path), "OPEN_EXR"
    made.save()
    bpy.data.images.remove(made)
    group = ready.scene_splatter
    group.image_from, group.image = "IMAGE", bpy.data.images.load(str(path))
    for space, name in (("Linear Rec.709", "image.exr"), ("ACEScg", "image.png")):
        group.image.colorspace_settings.name = space
        assert (request.make(bpy.context).folder / "input" / name).is_file()
    assert (
        delivery.jobs_parent() / "shot_v001" / "input" / "image.exr"
    ).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("said", "other"),
    [
        (b"", False),
        (b"\0colorInteropID\0string\0\x10\0\0\0lin_rec709_scene", False),
        (b"\0colorInteropID\0string\0\x0d\0\0\0lin_ap1_scene", True),
        (b"\0chromaticities\0chromaticities\0", True),
    ],
)
def test_what_an_exr_says_of_its_primaries(tmp_path: Path, said: bytes, other: bool) -> None:
    path = tmp_path / "a.exr"
    path.write_bytes(b"\x76\x2f\x31\x01\x02\0\0\0channels" + said + b"\0" * 100)
    assert picture_header.names_other_primaries(path) is other


@pytest.mark.parametrize("kind", ["FILE", "IMAGE"])
def test_a_picture_of_another_shape_than_the_render(ready: Any, kind: str) -> None:
    """The engine would refuse it later; the button that mends it is named."""
    group = ready.scene_splatter
    if kind == "IMAGE":
        group.image_from, group.image = "IMAGE", bpy.data.images.load(group.image_path)
    ready.render.resolution_x, ready.render.resolution_y = 1920, 1280
    refused_by_poll("The render is 1920 x 1280, the picture 64 x 36: press Match")
    bpy.ops.scene_splatter.match_camera()
    assert (ready.render.resolution_x, ready.render.resolution_y) == (64, 36)
    assert request.why_not(bpy.context) == ""


def test_no_engine(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(engine_location.PYTHON_VARIABLE)
    refused_by_poll("The engine is not installed: press Install")


def test_settings_that_do_not_go_together(ready: Any) -> None:
    ready.scene_splatter.settings.segment_length, ready.scene_splatter.settings.overlap = 5, 8
    refused("overlap \\(8\\) must be less than segment_length \\(5\\)")


def test_a_depth_map_that_is_missing(ready: Any) -> None:
    ready.scene_splatter.depth_source = "FILE"
    refused_by_poll("Choose a depth map file")
    ready.scene_splatter.depth_file = "//no.exr"
    refused_by_poll("The depth map no.exr does not exist")


def test_a_depth_map_and_a_blockout_go_into_the_job_under_a_relative_name(
    ready: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "mine.npy", np.full((36, 64), 3.0, np.float32))
    ready.scene_splatter.depth_source, ready.scene_splatter.depth_file = (
        "FILE",
        str(tmp_path / "mine.npy"),
    )
    folder = request.make(bpy.context).folder
    assert (folder / "input" / "depth.npy").read_bytes() == (tmp_path / "mine.npy").read_bytes()
    assert (
        json.loads((folder / "settings.json").read_text())["geometry"]["depth"] == "input/depth.npy"
    )
    ready.scene_splatter.depth_source = "BLOCKOUT"
    refused("Camera sees no geometry at frame 1")
    bpy.ops.mesh.primitive_plane_add(
        size=20.0, location=(0.0, 5.0, 0.0), rotation=(np.pi / 2, 0.0, 0.0)
    )
    before = snapshot()
    folder = request.make(bpy.context).folder
    assert snapshot() == before
    np.testing.assert_allclose(
        np.load(folder / "input" / "depth.npy"), 5.0, rtol=1e-4
    )  # a wall five metres ahead
    assert (
        json.loads((folder / "settings.json").read_text())["geometry"]["depth"] == "input/depth.npy"
    )


def test_a_place_that_cannot_be_written(ready: Any, tmp_path: Path) -> None:
    (tmp_path / "scene_splatter").write_text("a file where the folder should be")
    refused("No job folder can be made")


def test_a_full_disk_leaves_no_half_job(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture's copy is the first large file; /dev/full stands for a disk without space."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, the disk that is always full")

    def copy_to_full_disk(source: Path, _target: Path) -> Path:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(Path(source).read_bytes())
        raise AssertionError("the disk was not full")

    monkeypatch.setattr(request.shutil, "copyfile", copy_to_full_disk)
    refused("No space left on device.*Free some space")


def test_an_operator_that_fails_reports_and_keeps_the_error_in_the_panel(ready: Any) -> None:
    ready.camera.animation_data_clear()
    with pytest.raises(RuntimeError, match="does not move"):
        bpy.ops.scene_splatter.generate()
    problem = delivery.session.status.problem
    assert (
        problem is not None and "does not move" in problem.message and "Animate it" in problem.hint
    )
    bpy.ops.scene_splatter.copy_details()
    bpy.ops.scene_splatter.forget_problem()
    assert delivery.session.status.problem is None
