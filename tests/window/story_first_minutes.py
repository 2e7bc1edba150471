"""A newcomer's first ten minutes, by mouse alone: File > New > General, our tab, a picture,
Generate Scene, a scene in colour.

Every click is a real one (xdotool): of Blender's own buttons at the places where a window of 1600 x
900 with the default theme has them, of ours where the mouse finds them; after each the story looks
whether Blender did what was meant. The plan's
preset and settings are set from Python before the job, so that the machine of a test is done in
minutes; nothing else is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import bpy
from stage import (
    BLEND,
    PLAN,
    addon,
    check_main_thread,
    compiled,
    place_of,
    report,
    sidebar,
    until,
    view3d,
    watch_main_thread,
    wish,
)

FILE_MENU, NEW, GENERAL = (42, 13), (75, 38), (295, 37)
SIDEBAR_ARROW, TAB = (1306, 114), (1299, 346)
FIRST_FILE, TAKE_IT = (313, 138), (1528, 856)
MOST_ACTIONS = 7
AT_REST_S = 2.0  # Blender moves panels to their new places when one of them grows

actions: list[str] = []


def click(
    name: str, place: tuple[int, int], has_come: Callable[[], bool] = lambda: True
) -> Iterator[float]:
    """One action of the user, and what came of it; a click that a busy Blender took for nothing
    is repeated.
    """
    actions.append(name)
    for attempt in range(4):
        yield from wish(f"mouse_{len(actions)}_{attempt}", f"click {place[0]} {place[1]}")
        end = time.monotonic() + 15
        while time.monotonic() < end:
            yield 0.5
            if has_come():
                return
    raise AssertionError(f"{name}: nothing came of the click")


def story() -> Iterator[float]:
    """Yields the seconds to wait before the next step."""
    yield 3.0
    bpy.ops.wm.save_as_mainfile(filepath=str(BLEND))  # so that File > New asks nothing
    yield 1.0
    yield from new_file()
    watch_main_thread()
    actions.clear()
    yield from open_tab()
    yield from choose_picture()
    yield from generate()
    check_main_thread()
    report["actions"] = list(actions)
    assert len(actions) <= MOST_ACTIONS, actions


def new_file() -> Iterator[float]:
    """File > New > General."""
    assert bpy.data.filepath
    for attempt in range(3):  # a menu that a busy Blender did not open in time is opened again
        for name, place in (("File", FILE_MENU), ("New", NEW), ("General", GENERAL)):
            yield from click(name, place)
            yield 1.0
            if name == "New" and not attempt:
                yield from wish("1_file_new", "shot")
        yield 4.0
        if not bpy.data.filepath:
            break
    assert not bpy.data.filepath, "no new file"
    yield 2.0
    assert sorted(bpy.data.objects.keys()) == ["Camera", "Cube", "Light"]


def open_tab() -> Iterator[float]:
    """The sidebar's arrow, and our tab."""
    _, area = view3d()
    yield from click("sidebar", SIDEBAR_ARROW, lambda: area.spaces.active.show_region_ui)
    yield 2.0
    yield from click("our tab", TAB, lambda: sidebar().active_panel_category == "Scene Splatter")
    yield 1.0
    yield from wish("2_tab", "shot")


def browser() -> Any:
    """The file browser, as long as it is open."""
    window = bpy.context.window_manager.windows[0]
    return next((area for area in window.screen.areas if area.type == "FILE_BROWSER"), None)


def choose_picture() -> Iterator[float]:
    """One button, the file, and the browser's button: picture, upright camera that moves, no
    cube, the view through the camera.
    """
    place = yield from place_of("scene_splatter.choose_picture")
    yield from click("Choose Picture", place, lambda: browser() is not None)
    yield 4.0
    yield from wish("3_browser", "shot")
    yield from click("the file", FIRST_FILE, lambda: bool(browser().spaces.active.params.filename))
    yield from click("Choose Picture, in the browser", TAKE_IT, lambda: browser() is None)
    scene = bpy.context.window_manager.windows[0].scene
    yield from until(lambda: scene.scene_splatter.image_path != "", "the picture", 60)
    yield 3.0
    camera = scene.camera
    assert addon("cameras.first_camera").is_ours(camera), camera
    assert abs(math.degrees(camera.rotation_euler.x) - 90) < 4 and camera.rotation_euler.z == 0
    assert bpy.data.objects["Cube"].hide_get() and bpy.data.objects["Cube"].hide_render
    _, area = view3d()
    assert area.spaces.active.region_3d.view_perspective == "CAMERA"
    yield from wish("4_ready", "shot")
    group = scene.scene_splatter
    group.preset = PLAN["preset"]
    for name, value in PLAN["set"].items():
        setattr(group.settings, name, type(getattr(group.settings, name))(value))
    group.frame_end = PLAN["frames"]
    forecast = addon("jobs.request").forecast(scene)
    report["forecast"] = forecast.text()
    yield 1.0


def generate() -> Iterator[float]:
    """The last click; then the job shows itself outside the tab too, and ends in a scene in
    colour.
    """
    session = addon("jobs.delivery").session
    place = yield from place_of("scene_splatter.generate")
    began = time.monotonic()
    yield from click("Generate Scene", place, lambda: session.status.busy)
    shares: list[float] = []
    pictured = False
    while session.status.busy:
        assert time.monotonic() - began < PLAN["limit_s"], session.status
        if session.status.clock is not None:
            shares.append(session.status.clock.share)
            if not pictured and shares[-1] > 0.3:
                pictured = True
                yield AT_REST_S
                yield from wish("5_during", "shot")
        yield 0.3
    assert session.status.problem is None, session.status.problem
    assert shares == sorted(shares) and shares[-1] > 0.9, "one bar for the whole job"
    report["job_s"] = round(time.monotonic() - began, 1)
    yield from look(session)


def look(session: Any) -> Iterator[float]:
    """What the newcomer sees at the end."""
    scene = bpy.context.window_manager.windows[0].scene
    made = addon("jobs.delivery").last_object(scene)
    report["object"], report["outcome"] = made.name, session.status.outcome
    assert addon("ui.progress").ended()[1] == session.status.outcome, "said in the status bar"
    _, area = view3d()
    assert area.spaces.active.shading.type == "MATERIAL", "in colour without another click"
    yield 2.0
    yield from wish("6_finished", "shot")
    yield from compiled()
    yield from wish("7_scene", "shot")
