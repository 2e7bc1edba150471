"""Variants in Blender: strokes become a mask, a redo becomes a variant, a click swaps the splats.

The redo runs in the real engine; without its environment those tests are skipped by name.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
from scene_splatter.blender_addon.cameras import picture_header, strokes  # noqa: E402
from scene_splatter.blender_addon.cameras.strokes import Rectangle, Stroke  # noqa: E402
from scene_splatter.blender_addon.jobs import delivery, folders, headless, variants  # noqa: E402
from scene_splatter.blender_addon.splats import splat_object  # noqa: E402
from scene_splatter.blender_addon.ui import pictures, variants_panel  # noqa: E402
from scene_splatter.engine.bridge.errors import UserError  # noqa: E402

from tests.blender.test_addon_headless import SMALL  # noqa: E402
from tests.blender.test_addon_panels import CheckingLayout  # noqa: E402

pytestmark = pytest.mark.blender


def test_a_stroke_marks_what_its_brush_passed_over() -> None:
    """Against every pixel centre's distance from the line, computed one by one."""
    picture, size = Rectangle(100.0, 50.0, 420.0, 230.0), (64, 36)  # 5 region pixels for one
    drawn = [Stroke([(150.0, 100.0), (200.0, 180.0), (300.0, 180.0)], 20.0)]
    mask = strokes.mask_of(drawn, picture, size)

    def distance(p: complex, a: complex, b: complex) -> float:
        share = ((p - a) * (b - a).conjugate()).real / abs(b - a) ** 2
        return abs(p - a - min(max(share, 0.0), 1.0) * (b - a))

    ends = [complex(*point) for point in drawn[0].points]
    for row in range(36):
        for column in range(64):
            place = complex(100 + 5 * (column + 0.5), 230 - 5 * (row + 0.5))
            near = min(distance(place, a, b) for a, b in itertools.pairwise(ends))
            assert mask[row, column] == (near <= 20.0), (row, column)


def test_a_click_marks_a_disc_and_strokes_outside_the_picture_nothing() -> None:
    picture, size = Rectangle(0.0, 0.0, 640.0, 360.0), (64, 36)
    mask = strokes.mask_of([Stroke([(320.0, 180.0)], 100.0)], picture, size)
    assert mask.sum() == pytest.approx(math.pi * 10**2, rel=0.05)
    assert mask[17:19, 31:33].all() and not mask[:, :20].any()
    tiny = strokes.mask_of([Stroke([(320.0, 180.0)], 0.5)], picture, size)
    assert 1 <= tiny.sum() <= 4, "what was touched is marked, however fine the brush"
    assert not strokes.mask_of([Stroke([(-300.0, 180.0)], 40.0)], picture, size).any()
    assert not strokes.mask_of([], picture, size).any()


def test_the_picture_of_a_mask_is_white_where_it_says_yes(addon: Any, tmp_path: Path) -> None:
    mask = np.zeros((36, 64), bool)
    mask[3:9, 40:60] = True
    strokes.write_png(tmp_path / "mask.png", mask)
    header = picture_header.read(tmp_path / "mask.png")
    assert header is not None and (header.width, header.height) == (64, 36)
    image = bpy.data.images.load(str(tmp_path / "mask.png"))
    pixels = np.array(image.pixels).reshape(36, 64, 4)[::-1]
    bpy.data.images.remove(image)
    assert np.array_equal(pixels[..., 0] > 0.5, mask)


class _Region:
    type, x, y = "WINDOW", 100, 50  # where it lies in its window

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height


def _view_of(scene: Any, region: _Region) -> Any:
    """What a 3D view that looks through the scene's camera and just fits it would be."""
    bpy.context.view_layer.update()
    camera, depsgraph = scene.camera, bpy.context.evaluated_depsgraph_get()
    lens = camera.calc_matrix_camera(depsgraph, x=region.width, y=region.height)
    return SimpleNamespace(
        view_perspective="CAMERA", perspective_matrix=lens @ camera.matrix_world.inverted()
    )


def test_the_cameras_picture_is_found_in_the_view(ready: Any) -> None:
    region = _Region(640, 360)
    view = _view_of(ready, region)
    found = strokes.picture_in(region, view, ready, ready.camera)
    assert found == pytest.approx((0.0, 0.0, 640.0, 360.0), abs=0.01)
    view.view_perspective = "PERSP"
    assert strokes.picture_in(region, view, ready, ready.camera) is None


def test_hands_draw_take_back_and_begin(ready: Any, tmp_path: Path, save_picture: Any) -> None:
    """The operator's own functions, fed with a mouse's events; no window is there."""
    job = tmp_path / "job"
    (job / "frames").mkdir(parents=True)
    save_picture(job / "frames" / "0005.png", size=(64, 36))
    ready.scene_splatter.job_folder = str(job)
    region = _Region(640, 360)
    space = SimpleNamespace(region_3d=_view_of(ready, region))
    context = SimpleNamespace(
        scene=ready,
        workspace=SimpleNamespace(status_text_set=lambda _text: None),
        area=SimpleNamespace(
            regions=[region], spaces=SimpleNamespace(active=space), tag_redraw=lambda: None
        ),
    )
    kind = variants_panel.SCENESPLATTER_OT_repaint
    hand = SimpleNamespace(
        _place=variants.Place(5, 6.0, 2),
        _strokes=[],
        _drawing=False,
        _handle=bpy.types.SpaceView3D.draw_handler_add(lambda: None, (), "WINDOW", "POST_PIXEL"),
        execute=lambda _context: {"FINISHED"},
    )
    for name in ("_finish", "_written", "_end"):
        setattr(hand, name, getattr(kind, name).__get__(hand))

    def does(what: str, value: str, x: float, y: float) -> set[str]:
        mouse = {"mouse_x": region.x + x, "mouse_y": region.y + y}
        return kind.modal(hand, context, SimpleNamespace(type=what, value=value, **mouse))

    for x, y in ((320.0, 180.0), (100.0, 100.0)):
        assert does("LEFTMOUSE", "PRESS", x, y) == {"RUNNING_MODAL"}
        does("INBETWEEN_MOUSEMOVE", "NOTHING", x + 20.0, y)
        does("MOUSEMOVE", "NOTHING", x + 40.0, y)
        does("LEFTMOUSE", "RELEASE", x + 40.0, y)
        does("MOUSEMOVE", "NOTHING", x + 300.0, y)
    assert [len(stroke.points) for stroke in hand._strokes] == [3, 3]
    does("BACK_SPACE", "PRESS", 0.0, 0.0)
    assert does("LEFTMOUSE", "PRESS", 700.0, 10.0) == {"PASS_THROUGH"}, "the sidebar stays usable"
    assert does("RET", "PRESS", 0.0, 0.0) == {"FINISHED"}
    assert hand.mask == str(job / "masks" / "frame_0005_001.png")
    drawn = strokes.mask_of(
        [Stroke([(320.0, 180.0), (360.0, 180.0)], kind._radius)],
        Rectangle(0.0, 0.0, 640.0, 360.0),
        (64, 36),
    )
    image = bpy.data.images.load(hand.mask)
    written = np.array(image.pixels).reshape(36, 64, 4)[::-1, :, 0] > 0.5
    bpy.data.images.remove(image)
    assert np.array_equal(written, drawn)


@pytest.fixture
def job(real_engine: Any, made: Path, tmp_path: Path) -> Any:
    """A scene with a finished job of four segments."""
    for name, value in SMALL.items():
        setattr(real_engine.scene_splatter.settings, name, value)
    real_engine.scene_splatter.depth_source = "BOX"
    if not made.exists():
        outcome = headless.generate(bpy.context, tmp_path / "jobs")
        assert outcome.problem is None
        shutil.copytree(outcome.folder, made)
    else:
        shutil.copytree(made, tmp_path / "jobs" / made.name)
        real_engine.scene_splatter.job_folder = str(tmp_path / "jobs" / made.name)
        variants.use(bpy.context, "v1")
    return real_engine


def _drawn_panel() -> list[str]:
    layout = CheckingLayout()
    panel = type("Panel", (), {"layout": layout})()
    variants_panel.SCENESPLATTER_PT_variants.draw(panel, bpy.context)
    return layout.seen


def _colours(scene: Any) -> np.ndarray:
    return splat_object.to_splats(delivery.last_object(scene)).sh_dc


@pytest.mark.slow
def test_redo_from_here_repaint_and_back_with_one_click(job: Any) -> None:
    root, first = Path(job.scene_splatter.job_folder), _colours(job)
    result = {f.name: f.read_bytes() for f in root.iterdir() if f.is_file()}
    (only,) = variants.of(job)
    assert only.finished and only.text == "first result, seed 0" and variants.shown(job) == "v1"
    name = delivery.last_object(job).name

    job.frame_set(6)  # segments of four cameras that share two: 0-3, 2-5, 4-7, 6-9
    assert variants.place(job) == variants.Place(5, 6.0, 2)
    assert bpy.ops.scene_splatter.redo_from_here() == {"FINISHED"}
    headless.wait()
    assert delivery.session.status.problem is None
    assert [v.text for v in variants.of(job)][1] == "v1 from segment 2, seed 1"
    assert variants.shown(job) == "v2" and delivery.last_object(job).name == name
    redone = _colours(job)
    assert redone.shape != first.shape or not np.array_equal(redone, first)
    assert len([ob for ob in job.objects if ob.type == "POINTCLOUD"]) == 1

    drawn = [Stroke([(50.0, 4.0), (60.0, 20.0)], 6.0)]
    mask = variants_panel.write_mask(
        Path(job.scene_splatter.job_folder), 9, drawn, Rectangle(0.0, 0.0, 64.0, 36.0)
    )
    assert mask == root / "masks" / "frame_0009_001.png"
    job.frame_set(10)
    job.scene_splatter.redo_seed = 7
    assert bpy.ops.scene_splatter.repaint(mask=str(mask)) == {"FINISHED"}
    headless.wait()
    assert delivery.session.status.problem is None
    assert [v.text for v in variants.of(job)][2] == "v2 repainted at frame 9, seed 7"

    assert bpy.ops.scene_splatter.use_variant(name="v1") == {"FINISHED"}
    assert variants.shown(job) == "v1" and np.array_equal(_colours(job), first)
    assert bpy.ops.scene_splatter.use_variant(name="v2") == {"FINISHED"}
    assert variants.shown(job) == "v2" and np.array_equal(_colours(job), redone)
    for file, bits in result.items():
        if file != "blender.json":  # says what it became in Blender
            assert (root / file).read_bytes() == bits, file

    seen = _drawn_panel()
    assert sum(text.startswith("v") for text in seen) == 3
    assert seen.count("Shown") == 1 and seen.count("Use") == 2
    pictures.make_wanted()  # without a window icons are 0, so the collection is looked at
    shown = {key.rsplit(" ", 1)[0] for key in pictures._thumbnails["variants"]}
    assert {str(v.picture) for v in variants.of(job)} <= shown
    assert all(v.picture.name == "0009.png" for v in variants.of(job))
    assert {"Redo from Here", "Repaint"} <= set(seen)


@pytest.mark.slow
def test_what_no_redo_can_be_made_of_is_said(job: Any, tmp_path: Path) -> None:
    root = Path(job.scene_splatter.job_folder)
    with pytest.raises(UserError, match="Nothing of the picture is marked"):
        variants_panel.write_mask(root, 3, [], Rectangle(0.0, 0.0, 64.0, 36.0))
    small = tmp_path / "small.png"
    strokes.write_png(small, np.ones((18, 32), bool))
    for call, words in (
        (lambda: bpy.ops.scene_splatter.repaint(mask=str(small)), "32x18 pixels"),
        (lambda: bpy.ops.scene_splatter.repaint(), "There is no mask"),
        (lambda: bpy.ops.scene_splatter.use_variant(name="v9"), "no finished variant v9"),
    ):
        with pytest.raises(RuntimeError, match=words):
            call()
    job.scene_splatter.redo_prior = "nonsense"
    with pytest.raises(RuntimeError, match="Unknown video prior"):
        bpy.ops.scene_splatter.redo_from_here()
    job.frame_end = 7
    with pytest.raises(RuntimeError, match="has 7 cameras, the job 10"):
        bpy.ops.scene_splatter.redo_from_here()
    record = json.loads((root / "job.json").read_text())
    (root / "job.json").write_text(json.dumps(record | {"format": 1}))
    job.frame_end = 10
    job.scene_splatter.redo_prior = ""
    with pytest.raises(RuntimeError, match="another version"):
        bpy.ops.scene_splatter.redo_from_here()
    assert [v.name for v in variants.of(job)] == ["v1"]


def test_an_unfinished_variant_waits_for_its_file_also_where_the_project_has_moved(
    tmp_path: Path,
) -> None:
    ticket = folders.Ticket("/project/shot.blend", "Scene", "hall")
    job = folders.new_folder(tmp_path, "hall")
    made = job / "variants" / "v2"
    made.mkdir(parents=True)
    for folder, imported in ((job, "hall Gaussians"), (made, "")):
        (folder / "settings.json").write_text("{}")
        folders.write_ticket(folder, dataclasses.replace(ticket, imported=imported))
    (left,) = folders.leftovers(tmp_path, ticket.blend)
    assert left.folder == made and not left.finished
    old = Path("/elsewhere/scene_splatter/hall_v001")
    assert folders.moved_to(old / "variants" / "v2", tmp_path) == made
    assert folders.moved_to(old, tmp_path) == job


def test_without_a_finished_job_the_buttons_say_why(ready: Any) -> None:
    assert variants.of(ready) == [] and not variants_panel.SCENESPLATTER_PT_variants.poll(
        bpy.context
    )
    assert variants.why_not(bpy.context) == "This scene has no finished job yet"
    with pytest.raises(RuntimeError):
        bpy.ops.scene_splatter.redo_from_here()
