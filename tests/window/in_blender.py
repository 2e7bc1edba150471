"""What the window test does inside Blender: a timer walks through the steps of `story`.

Started by run_window_test.py with plan.json beside this file; ends Blender when it is done.
"""

from __future__ import annotations

import importlib
import json
import math
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

HERE = Path(__file__).resolve().parent
PLAN = json.loads((HERE / "plan.json").read_text())
PACKAGE = "bl_ext.user_default.scene_splatter.blender_addon"
GENERATE_AT = (1174, 415)  # the button in a window of 1600 x 900 with the default theme
report: dict[str, Any] = {"blender": bpy.app.version_string}


def delivery() -> Any:
    return importlib.import_module(f"{PACKAGE}.delivery")


def view3d() -> tuple[Any, Any]:
    window = bpy.context.window_manager.windows[0]
    return window, next(area for area in window.screen.areas if area.type == "VIEW_3D")


def wish(name: str, text: str) -> Iterator[float]:
    """Ask the program outside for a click or a picture, and wait until it is granted."""
    path = HERE / f"{name}.wish"
    path.write_text(text)
    while path.exists():
        yield 0.1


def make_scene() -> None:
    """The picture as the camera's view, and a camera that moves half a metre forwards and sideways."""
    scene = bpy.context.scene
    for ob in list(scene.objects):
        bpy.data.objects.remove(ob)
    picture = bpy.data.images.load(PLAN["image"])
    width, height = picture.size
    scene.render.resolution_x, scene.render.resolution_y = 640, max(2, round(640 * height / width))
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.lens = 30.0
    camera.rotation_euler = (math.pi / 2, 0.0, 0.0)
    scene.frame_start, scene.frame_end = 1, PLAN["frames"]
    for frame, (x, y) in ((1, (0.0, 0.0)), (PLAN["frames"], (0.35, 0.5))):
        camera.location = (x, y, 1.6)
        camera.keyframe_insert("location", frame=frame)
    group = scene.scene_splatter
    group.shot, group.image_path, group.preset = "demo", PLAN["image"], PLAN["preset"]
    for name, value in PLAN["set"].items():
        setattr(group.settings, name, type(getattr(group.settings, name))(value))
    bpy.ops.wm.save_as_mainfile(filepath=str(HERE / "demo.blend"))


def story() -> Iterator[float]:
    """Yields the seconds to wait before the next step."""
    yield 2.0
    make_scene()
    window, area = view3d()
    area.spaces.active.show_region_ui = True
    yield 1.0
    sidebar = next(region for region in area.regions if region.type == "UI")
    sidebar.active_panel_category = "Scene Splatter"
    area.spaces.active.region_3d.view_perspective = "CAMERA"
    yield 1.5
    yield from wish("1_before", "shot")
    session = delivery().session
    yield from wish("click_generate", "click {} {}".format(*GENERATE_AT))
    yield 1.0
    report["clicked"] = session.status.busy
    if not session.status.busy:  # another version or theme puts the button elsewhere
        with bpy.context.temp_override(window=window, area=area):
            bpy.ops.scene_splatter.generate("INVOKE_DEFAULT")
    yield from watch_job(session)
    assert session.status.problem is None, session.status.problem
    yield from look_at_result(window, area)


MOMENTS = {
    "2_during_generate": lambda status: "generate" in status.stage and status.done > 0,
    "2_during_refine": lambda status: "refine" in status.stage and status.done > 5,
    "2_during_preview": lambda status: bool(status.preview),
}


def watch_job(session: Any) -> Iterator[float]:
    """Until the job is over: the longest gap between two timer calls, and pictures of the panel on the way."""
    began, longest, left, last = time.monotonic(), 0.0, dict(MOMENTS), time.monotonic()
    while session.status.busy:
        now = time.monotonic()
        longest, last = max(longest, now - last - 0.1), now
        assert now - began < PLAN["limit_s"], f"not done in time: {session.status}"
        for name in [name for name, has_come in left.items() if has_come(session.status)]:
            del left[name]
            yield 0.3
            yield from wish(name, "shot")
            last = time.monotonic()
        yield 0.1
    report["job_s"] = round(time.monotonic() - began, 1)
    report["longest_gap_between_timers_s"] = round(longest, 3)
    report["outcome"] = session.status.outcome
    report["moments_missed"] = sorted(left)


def look_at_result(window: Any, area: Any) -> Iterator[float]:
    """The panel afterwards, the viewport rendered, a frame rendered to a file."""
    scene = bpy.context.scene
    cloud = scene.scene_splatter.last_object
    assert cloud is not None, "nothing was imported"
    report["object"], report["points"] = cloud.name, len(cloud.data.points)
    cloud.select_set(False)  # its outline would hide it
    report["collections"] = [collection.name for collection in bpy.data.collections]
    yield 1.0
    yield from wish("3_after", "shot")
    splat_object = importlib.import_module(f"{PACKAGE}.splat_object")
    modifier = splat_object.modifier_of(cloud)
    if modifier is not None:  # 5.3 draws by itself
        splat_object.set_input(modifier, "Exact in Viewport", True)
    bpy.ops.scene_splatter.prepare_render()
    area.spaces.active.shading.type = "RENDERED"
    yield PLAN["settle_s"]  # the software renderer compiles shaders
    yield from wish("4_rendered_view", "shot")
    area.spaces.active.shading.type = "SOLID"
    yield 1.0
    scene.render.engine = "CYCLES"
    scene.render.resolution_percentage = 50
    scene.cycles.samples, scene.cycles.use_denoising = 2, False  # Debian's Blender has no denoiser
    for frame in (1, PLAN["frames"]):
        scene.frame_set(frame)
        scene.render.filepath = str(HERE / f"5_frame_{frame:03d}.png")
        began = time.monotonic()
        bpy.ops.render.render(write_still=True)
        report[f"render_{frame}_s"] = round(time.monotonic() - began, 1)
        yield 0.5
    bpy.ops.wm.save_mainfile()


steps = story()


def tick() -> float | None:
    try:
        return next(steps)
    except StopIteration:
        pass
    except Exception as error:
        report["error"] = "".join(traceback.format_exception(error))
    (HERE / "report.json").write_text(json.dumps(report, indent=2))
    bpy.ops.wm.quit_blender()
    return None


bpy.app.timers.register(tick, first_interval=1.0, persistent=True)
