"""Generate from the panel with a click, and look at everything on the way: panels, viewports,
rendered frames.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import bpy
import numpy as np
from mathutils import Euler
from stage import (
    HERE,
    PLAN,
    addon,
    check_main_thread,
    compiled,
    in_view,
    make_scene,
    place_of,
    report,
    show_sidebar,
    until,
    view3d,
    watch_main_thread,
    wish,
)

LONG_PATH = 2000  # frames
COLOURS_MATCH = 0.02  # between the means of a render and of the picture, of 1

MOMENTS = {
    "2_during_generate": lambda status: "generate" in status.stage and status.done > 0,
    "2_during_refine": lambda status: "refine" in status.stage and status.done > 5,
    "2_during_preview": lambda status: bool(status.preview),
}


def story() -> Iterator[float]:
    """Yields the seconds to wait before the next step."""
    yield 2.0
    make_scene()
    watch_main_thread()
    yield from show_sidebar()
    yield from wish("1_before", "shot")
    yield from check_a_long_path()
    session = addon("jobs.delivery").session
    place = yield from place_of("scene_splatter.generate")
    yield from wish("click_generate", "click {} {}".format(*place))
    yield from until(lambda: session.status.busy, "the start of the job", 20)
    yield from watch_job(session)
    assert session.status.problem is None, session.status.problem
    yield from look_at_result()
    check_main_thread()
    yield from render_frames()


def check_a_long_path() -> Iterator[float]:
    """Blender must not stand still while thousands of frames are read."""
    scene, session = bpy.context.scene, addon("jobs.delivery").session
    scene.scene_splatter.use_scene_range = False
    scene.scene_splatter.frame_start, scene.scene_splatter.frame_end = 1, LONG_PATH
    with in_view():
        bpy.ops.scene_splatter.check_path("INVOKE_DEFAULT")
    yield from until(lambda: not session.status.busy, "the check of a long path", 120)
    assert session.status.problem is None, session.status.problem
    report["long_path"] = addon("cameras.operators").notes[scene.name]
    scene.scene_splatter.use_scene_range = True


def watch_job(session: Any) -> Iterator[float]:
    """Until the job is over: pictures of the panel on the way."""
    began, left = time.monotonic(), dict(MOMENTS)
    while session.status.busy:
        assert time.monotonic() - began < PLAN["limit_s"], f"not done in time: {session.status}"
        for name in [name for name, has_come in left.items() if has_come(session.status)]:
            del left[name]
            yield 0.3
            yield from wish(name, "shot")
        yield 0.1
    report["job_s"] = round(time.monotonic() - began, 1)
    report["outcome"] = session.status.outcome
    report["moments_missed"] = sorted(left)


def look_at_result() -> Iterator[float]:
    """The panel afterwards; the viewport in colour, exact, from another side, and there as points,
    thinned and cropped.
    """
    _, area = view3d()
    scene, space = bpy.context.scene, area.spaces.active
    cloud = scene.scene_splatter.last_object
    assert cloud is not None, "nothing was imported"
    report["object"], report["points"] = cloud.name, len(cloud.data.points)
    report["collections"] = [collection.name for collection in bpy.data.collections]
    cloud.select_set(False)  # its outline would hide it
    yield 1.0
    yield from wish("3_after", "shot")
    with in_view():
        bpy.ops.scene_splatter.prepare_render()
        bpy.ops.scene_splatter.show_colours()
    yield from compiled()
    yield from wish("4_camera_view", "shot")
    space.shading.type = "RENDERED"
    yield from compiled()
    yield from wish("4_rendered_view", "shot")
    space.shading.type = "MATERIAL"
    region = space.region_3d
    region.view_perspective = "PERSP"
    region.view_location, region.view_distance = (0.0, 6.0, 1.5), 9.0
    region.view_rotation = Euler((math.radians(70), 0, math.radians(25))).to_quaternion()
    yield PLAN["settle_s"] / 3  # the points reach behind the words
    yield from wish("5_layout_view", "shot")
    splat_object = addon("splats.splat_object")
    modifier = splat_object.modifier_of(cloud)
    if modifier is not None:  # 5.3 draws by itself
        yield from until(
            lambda: splat_object.get_input(modifier, "From View"), "quads that face the eye", 60
        )
        scene.scene_splatter_view = "POINTS"
        yield from until(
            lambda: not splat_object.get_input(modifier, "Exact in Viewport"), "points", 60
        )
        yield from crop(cloud, modifier)
        scene.scene_splatter_view = "AUTO"
    region.view_perspective = "CAMERA"
    space.shading.type = "SOLID"
    yield 1.0


def crop(cloud: Any, modifier: Any) -> Iterator[float]:
    """A fifth of the points, then a crop box."""
    splat_object = addon("splats.splat_object")
    splat_object.set_input(modifier, "Percentage", 20.0)
    yield 5.0
    yield from wish("5_layout_fifth", "shot")
    splat_object.set_input(modifier, "Percentage", 100.0)
    with in_view():
        bpy.ops.scene_splatter.add_crop_box()
    box = splat_object.get_input(modifier, "Crop Box")
    box.location, box.scale = (0.0, 5.0, 1.5), (1.5, 6.0, 2.0)
    yield 5.0
    yield from wish("5_layout_crop", "shot")
    splat_object.set_input(modifier, "Crop", False)


def mean_colour(path: str) -> np.ndarray:
    """[3] of a picture's display values."""
    image = bpy.data.images.load(path)
    image.colorspace_settings.name = "Non-Color"
    image.pixels.foreach_get(pixels := np.empty(image.size[0] * image.size[1] * 4, np.float32))
    bpy.data.images.remove(image)
    return pixels.reshape(-1, 4)[:, :3].mean(0)


def render_frames() -> Iterator[float]:
    """The first and the last frame in Cycles and EEVEE, to files."""
    scene = bpy.context.scene
    scene.render.resolution_percentage = 50
    scene.cycles.samples, scene.cycles.use_denoising = 2, False  # Debian's Blender has no denoiser
    scene.eevee.taa_render_samples = 4
    eevee = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
    for engine, name in (("CYCLES", "cycles"), (eevee, "eevee")):
        scene.render.engine = engine
        for frame in (1, PLAN["frames"]):
            scene.frame_set(frame)
            scene.render.filepath = str(HERE / f"6_{name}_{frame:03d}.png")
            began = time.monotonic()
            bpy.ops.render.render(write_still=True)
            report[f"render_{name}_{frame}_s"] = round(time.monotonic() - began, 1)
            found, picture = mean_colour(scene.render.filepath), mean_colour(PLAN["image"])
            report[f"render_{name}_{frame}_colour"] = [round(float(c), 3) for c in found]
            assert abs(found - picture).max() < COLOURS_MATCH, (found, picture)
            yield 0.5
    bpy.ops.wm.save_mainfile()
