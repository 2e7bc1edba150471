"""The panels draw in every state. Without a window there is no layout, so a checking one stands in:

it refuses properties, operators and icons that Blender does not have, as Blender's own does only
by a line in the console. tests/window/run_window_test.py looks at the real thing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
from scene_splatter.blender_addon.cameras import conversion, views  # noqa: E402
from scene_splatter.blender_addon.jobs import (  # noqa: E402
    delivery,
    engine_location,
    folders,
    installer,
    request,
)
from scene_splatter.blender_addon.jobs.session import Phase, Problem, Status  # noqa: E402
from scene_splatter.blender_addon.publish import production  # noqa: E402
from scene_splatter.blender_addon.ui import (  # noqa: E402
    engine_setup,
    layout,
    panels,
    pictures,
    progress,
    properties,
    splat_panel,
    steps,
)
from scene_splatter.engine.bridge import estimate, speeds  # noqa: E402
from scene_splatter.engine.bridge.splat_file import Splats, write_ply  # noqa: E402

pytestmark = pytest.mark.blender

ICONS = set(bpy.types.UILayout.bl_rna.functions["prop"].parameters["icon"].enum_items.keys())


class CheckingLayout:
    """Takes the calls that our panels make; remembers what would be seen."""

    def __init__(self, seen: list[str] | None = None) -> None:
        self.seen = seen if seen is not None else []

    def _child(self, **_: Any) -> CheckingLayout:
        return CheckingLayout(self.seen)

    row = column = box = split = grid_flow = _child

    def panel(
        self, _name: str, default_closed: bool = False
    ) -> tuple[CheckingLayout, CheckingLayout]:
        return self._child(), self._child()

    def label(self, text: str = "", icon: str = "NONE") -> None:
        assert icon in ICONS, icon
        self.seen.append(text)

    def prop(
        self,
        data: Any,
        name: str,
        text: str | None = None,
        expand: bool = False,
        toggle: bool = False,
    ) -> None:
        data.path_resolve(name)  # ValueError if there is none; a custom property is '["name"]'
        self.seen.append(text or name)

    def operator(
        self, name: str, text: str | None = None, icon: str = "NONE", emboss: bool = True
    ) -> Any:
        assert icon in ICONS, icon
        module, operator = name.split(".")
        label = (
            getattr(getattr(bpy.ops, module), operator).get_rna_type().name
        )  # KeyError if there is none
        self.seen.append(text or label)
        return type("Arguments", (), {})()

    def operator_menu_enum(self, name: str, enum: str, icon: str = "NONE") -> None:
        self.operator(name, icon=icon)
        module, operator = name.split(".")
        assert enum in getattr(getattr(bpy.ops, module), operator).get_rna_type().properties

    def prop_search(
        self, data: Any, name: str, _where: Any, collection: str, text: str = ""
    ) -> None:
        assert hasattr(bpy.data, collection)
        self.prop(data, name, text)

    def template_ID(self, data: Any, name: str, open: str = "") -> None:
        self.prop(data, name)

    def template_icon(self, icon_value: int, scale: float = 1.0) -> None:
        self.seen.append("a picture")

    def progress(self, text: str = "", factor: float = 0.0) -> None:
        assert 0.0 <= factor <= 1.0
        self.seen.append(f"{text} [{factor:.2f}]")


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Status:
    """The session's status for one test."""
    made = Status()
    monkeypatch.setattr(delivery.session, "status", made)
    return made


def drawn(panel: type) -> list[str]:
    layout = CheckingLayout()
    instance = type("Drawn", (), {"layout": layout})()
    panel.draw(instance, bpy.context)
    return layout.seen


def text_of(panel: type) -> str:
    return " ".join(drawn(panel))


def all_panels() -> list[type]:
    return [panels.SCENESPLATTER_PT_main, panels.SCENESPLATTER_PT_settings, *panels.SETTINGS_PANELS]


def test_all_settings_are_drawn_exactly_once(empty_scene, status: Status) -> None:
    names = [name for panel in all_panels() for name in drawn(panel)]
    for row in properties.engine_settings.table():
        wanted = int(
            row.name not in ("depth", *properties.NOT_HERE)
        )  # depth is drawn as depth_source
        assert names.count(row.name) == wanted, row.name


@pytest.mark.parametrize(
    ("source", "words"), [("AUTO", "a guess"), ("SMALL", "a guess"), ("BOX", "is smeared")]
)
def test_a_depth_that_is_not_measured_says_so_where_it_is_chosen(
    empty_scene, status: Status, source: str, words: str
) -> None:
    empty_scene.scene_splatter.depth_source = source
    assert words in text_of(panels.SCENESPLATTER_PT_settings)
    empty_scene.scene_splatter.depth_source = "BLOCKOUT"
    assert words not in text_of(panels.SCENESPLATTER_PT_settings)


def test_a_better_depth_is_one_button_until_it_is_here(
    empty_scene, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_scene.scene_splatter.depth_source = "AUTO"
    listed, fetched = installer.Task("List"), installer.Task("Download")
    monkeypatch.setitem(engine_setup.tasks, "weights", listed)
    monkeypatch.setitem(engine_setup.tasks, "download", fetched)
    assert "Show It" in drawn(panels.SCENESPLATTER_PT_settings)
    facts = {"name": "moge_2_small", "licence": "MIT", "size_gb": 0.14, "present": False}
    listed.findings.append(facts)
    assert "Get moge_2_small: 0.14 GB, MIT" in drawn(panels.SCENESPLATTER_PT_settings)
    fetched.findings.append({"done": True, "name": "moge_2_small", "folder": "somewhere"})
    text = text_of(panels.SCENESPLATTER_PT_settings)
    assert "moge_2_small" not in text and "a guess" not in text


def test_an_icon_and_a_box_take_their_part_of_a_line() -> None:
    text = "Without a downloaded model the depth is a guess by the small network"
    plain, beside_icon = CheckingLayout(), CheckingLayout()
    layout.draw_wrapped(plain, text, 36)
    layout.draw_wrapped(beside_icon, text, 36, icon="INFO")
    assert max(map(len, plain.seen)) == 36 and max(map(len, beside_icon.seen)) <= 32
    assert " ".join(plain.seen) == " ".join(beside_icon.seen) == text


def test_long_paths_are_broken_after_their_slashes() -> None:
    said = "Import /home/somebody/pictures/scene_splatter/hall_v001/scene.ply or C:\\a\\bc here."
    lines = layout.lines_of(said, 28)
    assert lines == [
        "Import /home/somebody/",
        "pictures/scene_splatter/",
        "hall_v001/scene.ply or",
        "C:\\a\\bc here.",
    ]
    assert layout.lines_of("", 9) == [""]
    assert layout.lines_of("x" * 12 + " y", 5) == ["xxxxx", "xxxxx", "xx y"]
    assert layout.lines_of("C:\\temporary\\b", 8) == ["C:\\", "temporar", "y\\b"]


def test_a_missing_models_command_becomes_the_button_that_downloads_it() -> None:
    press = "ress Download for moge_2_small under Model Weights in the add-on's preferences"
    command = "python -m engine weights download moge_2_small"
    for said, shown in (
        (
            f"Run: {command} - or press Download in the add-on's preferences. Place: /w",
            "P{}. Place: /w",
        ),
        (f"Run: {command}", "P{}"),
        (f"Far better: {command}.", "Far better: p{}."),
    ):
        assert properties.in_panel_words(said) == shown.format(press)


@pytest.mark.parametrize("row", properties.basic(), ids=lambda row: row.name)
def test_no_name_of_a_basic_setting_is_cut_at_the_sidebars_first_width(row) -> None:
    assert len(properties.label(row)) <= 14  # as seen in a window of Blender 5.2


def test_every_choice_of_every_property_and_operator_has_a_tooltip(empty_scene) -> None:
    groups = [bpy.types.Scene.bl_rna.properties["scene_splatter"].fixed_type]
    groups.append(groups[0].properties["settings"].fixed_type)
    groups.append(
        bpy.types.AddonPreferences.bl_rna_get_subclass_py("SCENESPLATTER_AP_preferences").bl_rna
    )
    for name in dir(bpy.ops.scene_splatter):
        groups.append(getattr(bpy.ops.scene_splatter, name).get_rna_type())
    missing = [
        f"{group.identifier}.{prop.identifier}.{item.identifier}"
        for group in groups
        for prop in group.properties
        if prop.type == "ENUM" and prop.identifier not in ("bl_idname", "rna_type")
        for item in prop.enum_items
        if not item.description
    ]
    assert missing == []


def test_the_checking_layout_can_fail(empty_scene) -> None:
    with pytest.raises(ValueError):
        CheckingLayout().prop(empty_scene, "no_such_property")
    with pytest.raises(AssertionError):
        CheckingLayout().label(text="a", icon="NO_SUCH_ICON")
    with pytest.raises((KeyError, AttributeError)):
        CheckingLayout().operator("scene_splatter.no_such_operator")


def test_a_disabled_generate_says_why(
    empty_scene, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, "/no/python")
    text = text_of(panels.SCENESPLATTER_PT_main)
    assert "The engine's Python /no/python does not exist" in text and "Preferences" in text
    assert "Install Engine" not in text, "another engine was asked for"
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, __file__)
    empty_scene.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    for kind in ("FILE", "IMAGE"):
        empty_scene.scene_splatter.image_from = kind
        assert steps.of(empty_scene).picture == "Choose a picture"
    empty_scene.scene_splatter.image = bpy.data.images.new("square", 64, 64)
    text = text_of(panels.SCENESPLATTER_PT_main)
    assert "The render is 1920 x 1080, the picture 64 x 64: press Match" in text
    assert text.count("The render is") == 1, "nothing is said twice"


@pytest.fixture
def default_file(addon, status: Status, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Blender's default file, untouched, and an engine."""
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, __file__)
    bpy.ops.wm.read_factory_settings()
    return bpy.context.scene


def test_the_straight_path_from_the_default_file(
    default_file, save_picture, tmp_path: Path
) -> None:
    """Choosing a picture is all: an upright camera that moves, no cube, three segments, and the
    way is free.
    """
    scene = default_file
    assert steps.of(scene)[:2] == (
        "Choose a picture",
        "Blender's default camera looks down on things: press New Camera, or choose one",
    )
    picture = save_picture(tmp_path / "hall.png", size=(800, 450))
    assert bpy.ops.scene_splatter.choose_picture(filepath=str(picture)) == {"FINISHED"}
    assert steps.of(scene).done and request.why_not(bpy.context) == ""
    camera = scene.camera
    assert camera.name == "hall camera" and scene.scene_splatter.shot == "hall"
    assert camera.rotation_euler.z == 0 and abs(math.degrees(camera.rotation_euler.x) - 90) < 4
    assert camera.location.z == pytest.approx(1.6)
    assert math.degrees(camera.data.angle_x) == pytest.approx(60)
    view = next(views.of(scene))
    assert view.region_3d.view_perspective == "CAMERA"
    assert bpy.data.objects["Cube"].hide_get() and bpy.data.objects["Light"].hide_render
    text = text_of(panels.SCENESPLATTER_PT_main)
    assert "Cube and Light of Blender's default file are hidden" in text
    assert "49 frames in 3 segments" in text and "About" in text and " GB" in text
    path = conversion.export(scene, camera, [1, 49])
    travelled = path.world_from_camera[1, :3, 3] - path.world_from_camera[0, :3, 3]
    assert np.linalg.norm(travelled) == pytest.approx(0.5, abs=1e-5)
    assert np.allclose(travelled, path.world_from_camera[0, :3, 2] * 0.5, atol=1e-5), "forward"


def test_the_browser_shows_pictures_alone_as_thumbnails(addon) -> None:
    properties_of = bpy.ops.scene_splatter.choose_picture.get_rna_type().properties
    assert properties_of["filter_image"].default and properties_of["filter_folder"].default
    assert properties_of["display_type"].default == "THUMBNAIL"


def test_match_looks_through_the_camera_that_it_matched(
    default_file, save_picture, tmp_path: Path
) -> None:
    scene = default_file
    scene.scene_splatter.image_path = str(save_picture(tmp_path / "hall.png"))
    scene.scene_splatter.camera = scene.camera
    view = next(views.of(scene))
    assert view.region_3d.view_perspective != "CAMERA"
    assert bpy.ops.scene_splatter.match_camera() == {"FINISHED"}
    assert view.region_3d.view_perspective == "CAMERA"


def test_another_picture_keeps_the_camera_that_was_made(
    default_file, save_picture, tmp_path: Path
) -> None:
    scene = default_file
    bpy.ops.scene_splatter.choose_picture(filepath=str(save_picture(tmp_path / "a.png")))
    made = scene.camera
    made.location.x = 2
    tall = save_picture(tmp_path / "b.png", size=(360, 640))
    bpy.ops.scene_splatter.choose_picture(filepath=str(tall))
    assert scene.camera == made and made.location.x == 2 and steps.of(scene).done
    assert len(made.data.background_images) == 1


def test_a_camera_of_the_users_own_is_left_alone(
    ready, status: Status, save_picture, tmp_path: Path
) -> None:
    before, camera = conversion.export(ready, ready.camera, [1, 10]), ready.camera
    square = save_picture(tmp_path / "b.png", size=(64, 64))
    bpy.ops.scene_splatter.choose_picture(filepath=str(square))
    after = conversion.export(ready, camera, [1, 10])
    assert ready.camera == camera and np.array_equal(
        before.world_from_camera, after.world_from_camera
    )
    assert "press Match" in steps.of(ready).camera
    bpy.ops.scene_splatter.match_camera()
    assert steps.of(ready).done


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n half"])
def test_a_picture_that_cannot_be_read_changes_nothing(
    default_file, tmp_path: Path, content: bytes
) -> None:
    scene, path = default_file, tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"bad\.png"):
        bpy.ops.scene_splatter.choose_picture(filepath=str(path))
    assert scene.scene_splatter.image_path == "" and scene.camera.name == "Camera"
    scene.scene_splatter.image_path = str(path)  # typed
    assert "bad.png" in request.why_not(bpy.context)


def test_the_thumbnail_is_the_picture_turned_upright(
    default_file, save_picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = save_picture(tmp_path / "a.png", size=(400, 200))
    header = pictures.picture_header.read(picture)
    monkeypatch.setattr(
        pictures.picture_header, "read", lambda _path: header._replace(orientation=6)
    )
    group = default_file.scene_splatter
    group.image_path = str(picture)
    pictures._wanted.clear()
    assert pictures.thumbnail(group) == 0 and pictures.thumbnail(group) == 0
    assert len(pictures._wanted) == 1, "it is asked for once, and made by a timer"
    images = len(bpy.data.images)
    pictures.make_wanted()
    key = list(pictures._thumbnails["picture"])[-1]
    made = pictures._thumbnails["picture"][key]
    assert tuple(made.image_size) == (96, 192) and len(bpy.data.images) == images
    shown = np.empty(96 * 192 * 4, np.float32)
    made.image_pixels_float.foreach_get(shown)
    shown = shown.reshape(
        192, 96, 4
    )  # red grows to the right of the file: downwards once it is turned
    assert shown[0, 48, 0] > 0.9 and shown[-1, 48, 0] < 0.1


def test_a_running_job_shows_the_whole_of_it_stage_time_and_cancel(
    empty_scene, status: Status
) -> None:
    now = time.monotonic()
    work = estimate.work_of(properties.engine_settings.make(), 40, 0.5)
    status.clock = estimate.Clock(work, speeds.speeds_for(work), now - 65)
    status.clock.tell("segment 1 of 2: render", 1, 1, now - 60)
    status.phase, status.stage, status.done, status.total = (
        Phase.RUNNING,
        "segment 1 of 2: refine",
        30,
        120,
    )
    status.clock.tell(status.stage, 30, 120)
    status.started_s, status.stage_started_s = now - 65, now - 10
    seen = drawn(panels.SCENESPLATTER_PT_main)
    assert (
        "Segment 1 of 2: refine, 30 of 120" in seen and "Cancel" in seen and "1:05 so far" in seen
    )
    (bar,) = [line for line in seen if line.endswith("]")]
    share = round(status.clock.share, 2)
    assert f"{share:.0%}, " in bar and "left" in bar and f"[{share:.2f}]" in bar and 0 < share < 0.5
    assert "Generate Scene" not in seen
    status.clock, status.total = None, 0  # not known
    assert " [0.00]" in " ".join(drawn(panels.SCENESPLATTER_PT_main))
    status.phase, status.stage = Phase.PREPARING, "Looking for what has to be invented"
    assert text_of(panels.SCENESPLATTER_PT_main).count(status.stage) == 1, "not said twice"


def test_whatever_runs_is_seen_in_the_panel_and_in_the_status_bar(
    empty_scene, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bar() -> str:
        layout = CheckingLayout()
        progress._draw_status_bar(type("Header", (), {"layout": layout})(), bpy.context)
        return " ".join(layout.seen)

    assert bar() == ""
    monkeypatch.setattr(progress.side_job, "running", True)
    monkeypatch.setattr(progress.side_job, "title", "Export")
    monkeypatch.setattr(progress.side_job, "stage", "writing")
    monkeypatch.setattr(progress.side_job, "factor", 0.5)
    monkeypatch.setattr(engine_setup.tasks["download"], "running", True)
    for text in (bar(), text_of(panels.SCENESPLATTER_PT_main)):
        assert "Export: writing [0.50]" in text and "Download: " in text
    tools = text_of(production.SCENESPLATTER_PT_tools)
    assert "writing" not in tools, "in one place"
    monkeypatch.setattr(progress.side_job, "running", False)
    monkeypatch.setattr(engine_setup.tasks["download"], "running", False)
    status.phase, status.done, status.total = Phase.RUNNING, 1, 4
    assert "Scene Splatter: 25%" in bar() and "[0.25]" in bar() and "Cancel" in bar()
    status.phase, status.outcome, status.ended_s = Phase.IDLE, "Finished: x.", time.monotonic() - 5
    assert bar() == "Scene Splatter: Finished: x."
    status.ended_s -= 60
    assert bar() == ""


def test_the_newest_preview_frame_is_shown(empty_scene, status: Status, tmp_path: Path) -> None:
    status.phase = Phase.RUNNING
    assert "a picture" not in drawn(panels.SCENESPLATTER_PT_main)
    status.preview = str(tmp_path / "preview.npy")
    assert "a picture" not in drawn(panels.SCENESPLATTER_PT_main)
    previews = panels._previews["frames"]
    for seconds in (1, 1, 2, 3):  # the engine writes every preview to the same place
        picture = np.zeros((2, 4, 3), np.uint8)
        picture[0, 0] = 51 * seconds
        np.save(status.preview, picture)
        os.utime(status.preview, (seconds, seconds))
        drawn(panels.SCENESPLATTER_PT_main)  # without a window Blender gives it no icon yet
        newest = previews[f"{status.preview} {seconds}000000000"]
        assert tuple(newest.image_size) == (4, 2)
        shown = np.empty(4 * 2 * 4, np.float32)
        newest.image_pixels_float.foreach_get(shown)
        np.testing.assert_allclose(
            shown.reshape(2, 4, 4)[1, 0], [0.2 * seconds] * 3 + [1.0], atol=1 / 255
        )  # the highest row is the last
    assert len(previews) == 2
    Path(status.preview).write_bytes(b"damaged")
    assert "a picture" not in drawn(panels.SCENESPLATTER_PT_main)


def test_the_last_error_stays_with_its_remedy_and_its_buttons(
    empty_scene, status: Status, tmp_path: Path
) -> None:
    status.problem = Problem(
        "The machine ran out of memory.",
        "Choose the preset draft.",
        "details",
        tmp_path / "engine.log",
    )
    text = text_of(panels.SCENESPLATTER_PT_main)
    assert all(
        words in text
        for words in (
            "ran out of memory.",
            "preset draft.",
            "Copy Details",
            "Open Log",
            "Dismiss Error",
        )
    )
    assert "Generate Scene" in text  # and the next try is one click away
    bpy.ops.scene_splatter.forget_problem()
    assert "out of memory" not in text_of(panels.SCENESPLATTER_PT_main)


def test_a_waiting_job_is_offered_to_resume_or_import(
    empty_scene, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = folders.Leftover(Path("hall_v003"), folders.Ticket("", "Scene", "hall"), finished=False)
    monkeypatch.setattr(delivery, "waiting_job", lambda _scene: left)
    text = text_of(panels.SCENESPLATTER_PT_main)
    assert "hall_v003 is not finished." in text and "Resume" in text
    monkeypatch.setattr(
        delivery, "waiting_job", lambda _scene: dataclasses.replace(left, finished=True)
    )
    assert "Import Result" in text_of(panels.SCENESPLATTER_PT_main)


def test_the_notes_of_the_last_camera_tool_are_listed_once(
    empty_scene, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "The camera turns 40 degrees between frames 3 and 4."
    monkeypatch.setitem(panels.operators.notes, empty_scene.name, [note])
    text = text_of(panels.SCENESPLATTER_PT_main)
    for words in ("New Camera", "Match", "Add Move", "Check Path"):
        assert words in text
    assert text.count("turns 40 degrees") == 1


def test_the_active_splats_show_their_view_their_warnings_and_where_they_come_from(
    empty_scene, tmp_path: Path
) -> None:
    assert not splat_panel.SCENESPLATTER_PT_splats.poll(bpy.context)
    write_splats(tmp_path / "a.ply")
    bpy.ops.scene_splatter.import_splats(filepath=str(tmp_path / "a.ply"))
    assert splat_panel.SCENESPLATTER_PT_splats.poll(bpy.context)
    seen = drawn(splat_panel.SCENESPLATTER_PT_splats)
    assert "3 Gaussians" in seen and "Set Up Rendering" in seen
    if not splat_panel.splat_object.is_native():
        assert (
            len(
                {"Exact in Viewport", "Percentage", "Crop", "Crop Box", "SH Degree", "Low-pass"}
                & set(seen)
                | {"value"} & set(seen)
            )
            >= 1
        )
    bpy.context.scene.render.engine = "CYCLES"
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    bpy.context.scene.camera = camera
    bpy.ops.scene_splatter.prepare_render()
    left = splat_panel.render_check.render_warnings(
        bpy.context.scene, bpy.context.view_layer.objects.active
    )
    assert not any("bounces" in warning or "view transform" in warning for warning in left), left


def write_splats(path: Path) -> None:
    """Three Gaussians."""
    zeros = np.zeros((3, 3), np.float32)
    quats = np.tile(np.float32([1, 0, 0, 0]), (3, 1))
    write_ply(
        path,
        Splats(
            zeros, quats, zeros - 3, np.zeros(3, np.float32), zeros, np.zeros((3, 0, 3), np.float32)
        ),
    )


def test_the_segments_are_listed_in_scene_frames(empty_scene, status: Status) -> None:
    empty_scene.frame_start, empty_scene.frame_end = 101, 140
    (path_panel,) = (
        panel for panel in panels.SETTINGS_PANELS if panel.__name__ == "SCENESPLATTER_PT_cameras"
    )
    assert drawn(path_panel)[-3:] == [
        "40 cameras in 2 segments",
        "1:  frames 101 to 125,  25 new",
        "2:  frames 116 to 140,  15 new",
    ]
    empty_scene.frame_end = 1000
    assert drawn(path_panel)[-1].startswith("and ")
    empty_scene.scene_splatter.use_scene_range = False
    empty_scene.scene_splatter.frame_end = 0
    assert "No segments" in text_of(path_panel)


def test_the_results_numbers_are_listed(empty_scene, status: Status, tmp_path: Path) -> None:
    assert not panels.SCENESPLATTER_PT_result.poll(bpy.context)
    report = {
        "verdict": "Lower lambda_0.",
        "input_psnr": 31.4159,
        "findings": [
            {
                "name": "Blank regions",
                "ok": False,
                "measured": "30 % are blank",
                "advice": "Lower lambda_0.",
            },
            {"name": "Seams", "ok": True, "measured": "none", "advice": ""},
        ],
        "facts": {
            "prior": "patch",
            "seed": 3,
            "how far to trust the depth": "It is a guess. One download gives a better one: "
            "python -m engine weights download moge_2_small.",
        },
        "segments": [{}, {"gaussians": 43008}],
        "seconds_total": 61.2,
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    empty_scene.scene_splatter.job_folder = str(tmp_path)
    assert panels.SCENESPLATTER_PT_result.poll(bpy.context)
    text = text_of(panels.SCENESPLATTER_PT_result)
    for words in (
        "Blank regions: 30 % are blank. Lower Lambda 0.",
        "Prior: patch",
        "How far to trust the depth: It is a guess. One download gives a better one: press "
        "Download for moge_2_small under Model Weights in the add-on's preferences.",
        "2, refined in 61 s",
        "Open Job Folder",
    ):
        assert words in text, text
    assert "Seams" not in text and text.count("Lower") == 1, "nothing is said twice"
    report["findings"] = report["findings"][1:]
    (tmp_path / "report.json").write_text(json.dumps(report))
    delivery._results.clear()
    text = text_of(panels.SCENESPLATTER_PT_result)
    assert "31.4 dB PSNR" in text and text.count("PSNR") == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"facts": 1, "segments": 2}'])
def test_a_damaged_report_shows_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    assert folders.result_lines(tmp_path) == []


def test_the_preferences_draw_before_during_and_after(
    empty_scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, "/no/python")
    layout = CheckingLayout()
    engine_setup.draw_install(layout)
    engine_setup.draw_check(layout, bpy.context)
    engine_setup.draw_licences(layout)
    assert "use_online_access" in layout.seen and "not allowed to go online" in " ".join(
        layout.seen
    )  # one click from Install
    assert "/no/python does not exist" in " ".join(layout.seen) and "GPL-3.0-or-later" in " ".join(
        layout.seen
    )
    task = engine_setup.tasks["install"]
    monkeypatch.setattr(task, "running", True)
    monkeypatch.setattr(task, "factor", 0.5)
    layout = CheckingLayout()
    engine_setup.draw_install(layout)
    assert "Install ... [0.50]" in layout.seen
