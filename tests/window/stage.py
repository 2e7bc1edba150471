"""What every story of the window test shares inside Blender: the plan, the report, wishes, the
scene, a stopwatch.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import bpy

HERE = Path(__file__).resolve().parent
PLAN = json.loads((HERE / "plan.json").read_text())
PACKAGE = "bl_ext.user_default.scene_splatter.blender_addon"
BLEND = HERE / "demo.blend"
LIMIT_MS = 50.0
# What takes longer, and why: an import cannot be cut into pieces. Blender evaluates a new point
# cloud and makes 600 nodes once in a file.
LONGER = {"pump while delivering", "SCENESPLATTER_OT_import_splats.execute"}
_THIRD_LINE = "172x18+68+127"  # of the words in the view's corner, where "Compiling" is said
_QUIET_LOOKS, _WHITE = 3, 0.7
_BUTTON_PX, _LOOKS = 14, 2  # less than a button is high; looks at each place

report: dict[str, Any] = {"blender": bpy.app.version_string}
durations: dict[
    str, list[tuple[float, float]]
] = {}  # of calls on the main thread: milliseconds by the clock, and of computing


def addon(name: str) -> ModuleType:
    """A module of the installed add-on."""
    return importlib.import_module(f"{PACKAGE}.{name}")


def view3d() -> tuple[Any, Any]:
    """The window, and its first 3D view."""
    window = bpy.context.window_manager.windows[0]
    return window, next(area for area in window.screen.areas if area.type == "VIEW_3D")


def in_view() -> Any:
    """A context for operators that want a 3D view; a timer's own has none."""
    window, area = view3d()
    return bpy.context.temp_override(
        window=window, area=area, region=next(r for r in area.regions if r.type == "WINDOW")
    )


def wish(name: str, text: str) -> Iterator[float]:
    """Ask the program outside for something, and wait until it is granted."""
    path = HERE / f"{name}.wish"
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(path)
    while path.exists():
        yield 0.1


def until(has_come: Callable[[], bool], what: str, limit_s: float | None = None) -> Iterator[float]:
    """Wait for something, but not for ever."""
    end = time.monotonic() + (limit_s or PLAN["limit_s"])
    while not has_come():
        assert time.monotonic() < end, (
            f"{what} did not come: {addon('jobs.delivery').session.status}"
        )
        yield 0.05


def sidebar() -> Any:
    """The region that has our tab."""
    _, area = view3d()
    return next(region for region in area.regions if region.type == "UI")


def place_of(operator: str, *, arguments: str = "") -> Generator[float, None, tuple[int, int]]:
    """Where the sidebar has the button of an operator, in pixels from the window's upper left: the
    mouse goes down over it until Blender says that this button is under it. `arguments`: what
    stands in its call as Python, to tell it from others of the same operator.
    """
    window, area = view3d()
    region = sidebar()
    for share in (0.4, 0.75):  # of two buttons in a row either
        x = round(region.x + share * region.width)
        for y in range(region.y + region.height - 20, region.y, -_BUTTON_PX):
            place = (x, window.height - y)
            yield from wish("point", "point {} {}".format(*place))
            for _ in range(_LOOKS):
                yield 0.1
                call = _under_mouse(window, area, region)
                if call.startswith(f"bpy.ops.{operator}(") and arguments in call:
                    return place
    raise AssertionError(f"the sidebar has no button for {operator} {arguments}")


def _under_mouse(window: Any, area: Any, region: Any) -> str:
    """What a press of the button under the mouse would do, as Python; empty where there is none."""
    with bpy.context.temp_override(window=window, area=area, region=region):
        if not bpy.ops.ui.copy_python_command_button.poll():
            return ""
        bpy.ops.ui.copy_python_command_button()
    return bpy.context.window_manager.clipboard


def make_scene() -> None:
    """The picture as the camera's view, and a camera that moves half a metre forwards and
    sideways.
    """
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
    bpy.ops.wm.save_as_mainfile(filepath=str(BLEND))


def show_sidebar() -> Iterator[float]:
    """Open our tab, and look through the camera."""
    _, area = view3d()
    area.spaces.active.show_region_ui = True
    yield 1.0
    sidebar().active_panel_category = "Scene Splatter"
    area.spaces.active.region_3d.view_perspective = "CAMERA"
    yield 1.5


def compiled() -> Iterator[float]:
    """Until the view says no longer that it compiles shaders, which takes a software renderer
    minutes on a busy machine. The view must be dark behind its words.
    """
    end, quiet = time.monotonic() + PLAN["limit_s"], 0
    while quiet < _QUIET_LOOKS:
        assert time.monotonic() < end, "the shaders are not ready"
        yield 2.0
        yield from wish("compiling", f"light {_THIRD_LINE}")
        quiet = 0 if float((HERE / "compiling.txt").read_text()) > _WHITE else quiet + 1


# --- the main thread -----------------------------------------------------------------------------


def watch_main_thread() -> None:
    """Measure every call that Blender makes into the add-on: operators, drawing, timers, by the
    session's phase.
    """
    package = importlib.import_module(PACKAGE)
    for module in package._modules():
        for cls in vars(module).values():
            if (
                isinstance(cls, type)
                and cls.__module__ == module.__name__
                and issubclass(cls, bpy.types.Operator | bpy.types.Panel)
            ):
                for method in ("execute", "draw"):
                    if method in vars(cls):
                        setattr(
                            cls,
                            method,
                            _timed_method(vars(cls)[method], f"{cls.__name__}.{method}"),
                        )
    session = addon("jobs.delivery").session
    session.pump = _timed(session.pump, lambda: _pump_while(session.status))
    layout_view = addon("splats.layout_view")
    layout_view.sync = _timed(layout_view.sync, "layout_view.sync")


def _pump_while(status: Any) -> str:
    """What the session's timer is about to do; of preparing also after which stage."""
    after = f", after {status.stage}" if status.phase.value == "preparing" and status.stage else ""
    return f"pump while {status.phase.value}{after}"


def _timed(function: Callable[..., Any], name: str | Callable[[], str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def measured(*args: Any) -> Any:
        label = name if isinstance(name, str) else name()
        clock, computing = time.perf_counter(), time.thread_time()
        try:
            return function(*args)
        finally:
            taken = (1e3 * (time.perf_counter() - clock), 1e3 * (time.thread_time() - computing))
            durations.setdefault(label, []).append(taken)

    return measured


def _timed_method(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    measured = _timed(method, name)
    return lambda self, context: measured(self, context)  # Blender counts the arguments


def main_thread_table() -> dict[str, dict[str, float]]:
    """Of every kind of call: how many, and the longest, by the clock and in computing time."""
    return {
        name: {
            "calls": len(all_),
            "longest_ms": round(max(a for a, _ in all_), 1),
            "longest_cpu_ms": round(max(b for _, b in all_), 1),
        }
        for name, all_ in sorted(durations.items())
    }


def check_main_thread() -> None:
    """No call computed for longer than LIMIT_MS, but for those in LONGER. The clock is no measure
    on a busy machine.
    """
    table = main_thread_table()
    report["main_thread"] = table
    long = {
        name: row
        for name, row in table.items()
        if row["longest_cpu_ms"] > LIMIT_MS and name not in LONGER
    }
    assert not long, f"held Blender for longer than {LIMIT_MS} ms: {long}"


# --- running a story -----------------------------------------------------------------------------


def run(story: Iterator[float]) -> None:
    """Walk through a story, which yields the seconds to wait before its next step; then write
    the report and end Blender.
    """

    def tick() -> float | None:
        try:
            return next(story)
        except StopIteration:
            report["done"] = True
        except Exception as error:
            report["error"] = "".join(traceback.format_exception(error))
        (HERE / "report.json").write_text(json.dumps(report, indent=2))
        bpy.ops.wm.quit_blender()
        return None

    bpy.app.timers.register(tick, first_interval=1.0, persistent=True)
