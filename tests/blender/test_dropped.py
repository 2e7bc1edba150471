"""Files dropped on the 3D view, by Blender's own operator for drops."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from scene_splatter.blender_addon.publish import sequences  # noqa: E402
from scene_splatter.blender_addon.splats import sequence, splat_object  # noqa: E402
from scene_splatter.blender_addon.ui import io_operators, other_formats  # noqa: E402
from scene_splatter.engine.bridge import splat_file  # noqa: E402

from tests.blender.splat_scene import random_splats  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
ENDING = ".dropped"  # that no handler of Blender's takes: of several it would ask which is meant


def drop(path: Path) -> None:
    """What Blender does when a file falls on its first 3D view."""
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.wm.drop_import_file(directory=str(path.parent), files=[{"name": path.name}])


@contextmanager
def handled_alone(handler: type) -> Iterator[None]:
    """Our handler under another ending, alone with it; the operator that it calls is the real
    one.
    """
    members = {
        "bl_idname": "TEST_FH_alone",
        "bl_file_extensions": ENDING,
        "bl_label": handler.bl_label,
        "bl_import_operator": handler.bl_import_operator,
        "__doc__": handler.__doc__,
    }
    alone = type("TEST_FH_alone", handler.__bases__, members)
    bpy.utils.register_class(alone)
    try:
        yield
    finally:
        bpy.utils.unregister_class(alone)


def test_a_dropped_picture_becomes_the_scene_s_with_a_camera(addon, tmp_path: Path) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=False)
    path = Path(shutil.copy(ROOT / "engine/demo/image.jpg", tmp_path / "a room.jpg"))
    own = [
        getattr(bpy.types, name)
        for name in ("VIEW3D_FH_empty_image", "VIEW3D_FH_camera_background_image")
        if hasattr(bpy.types, name)
    ]
    for handler in own:
        bpy.utils.unregister_class(handler)
    try:
        drop(path)
    finally:
        for handler in own:
            bpy.utils.register_class(handler)
    scene = bpy.context.scene
    assert Path(scene.scene_splatter.image_path) == path
    assert scene.camera is not None and scene.camera.name != "Camera"


def test_a_dropped_ply_is_imported_at_once_and_not_asked_for_again(addon, tmp_path: Path) -> None:
    splat_file.write_ply(tmp_path / f"cloud{ENDING}", random_splats(50))
    with handled_alone(io_operators.SCENESPLATTER_FH_ply):
        drop(tmp_path / f"cloud{ENDING}")
    made = bpy.context.view_layer.objects.active
    assert splat_object.is_splat_object(made) and len(made.data.points) == 50
    again = bpy.context.window_manager.operator_properties_last("scene_splatter.import_splats")
    assert not again.filepath, "a menu's entry would import the dropped file again"


def test_one_dropped_file_of_a_series_brings_the_whole_series(
    addon, tmp_path: Path, monkeypatch
) -> None:
    pattern = sequence._NUMBERED.pattern
    monkeypatch.setattr(sequence, "_NUMBERED", re.compile(pattern.replace(r"\.ply", ENDING)))
    for number in range(3):
        splat_file.write_ply(tmp_path / f"s_{number:02d}{ENDING}", random_splats(20, 0, number))
    with handled_alone(sequences.SCENESPLATTER_FH_sequence):
        drop(tmp_path / f"s_01{ENDING}")
    assert sequence.files_of(bpy.context.view_layer.objects.active).length == 3


def test_other_formats_are_handed_to_the_engine(addon, tmp_path: Path, monkeypatch) -> None:
    taken: list[str] = []

    def execute(self: bpy.types.Operator, _context: bpy.types.Context) -> set[str]:
        taken.append(self.filepath)
        return {"FINISHED"}

    operator = other_formats.SCENESPLATTER_OT_import_format
    monkeypatch.setattr(operator, "execute", execute)
    monkeypatch.setattr(operator, "why_not", classmethod(lambda _cls, _context: ""))
    (tmp_path / "room.ksplat").write_bytes(b"x")
    drop(tmp_path / "room.ksplat")
    assert taken == [str(tmp_path / "room.ksplat")]


def test_blender_hands_folders_to_nobody(addon, tmp_path: Path) -> None:
    """The documentation says so; when it changes, folders can be taken."""
    (tmp_path / "frames").mkdir()
    before = set(bpy.data.objects)
    drop(tmp_path / "frames")
    assert set(bpy.data.objects) == before
