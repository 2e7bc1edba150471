"""Redo a part by hand: a job, then a click on Repaint, strokes of the mouse on the camera's view,
the list of variants, and a click on Use: back to the first result.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import bpy
from stage import (
    PLAN,
    addon,
    compiled,
    in_view,
    make_scene,
    place_of,
    report,
    show_sidebar,
    sidebar,
    until,
    view3d,
    wish,
)

MOST_LOOKS = 8  # at the sidebar, further down each time


def story() -> Iterator[float]:
    """Yields the seconds to wait before the next step."""
    yield 2.0
    make_scene()
    yield from show_sidebar()
    session, scene = addon("jobs.delivery").session, bpy.context.scene
    with in_view():
        bpy.ops.scene_splatter.generate("INVOKE_DEFAULT")
    yield from until(lambda: session.status.busy, "the start of the job", 20)
    yield from until(lambda: not session.status.busy, "the end of the job")
    assert session.status.problem is None, session.status.problem
    with in_view():
        bpy.ops.scene_splatter.prepare_render()
        bpy.ops.scene_splatter.show_colours()
    scene.scene_splatter.last_object.select_set(False)
    yield from compiled()
    yield from wish("1_result", "shot")
    scene.frame_set(PLAN["frames"])
    yield from repaint(session)
    yield PLAN["settle_s"] / 3
    yield from wish("4_repainted", "shot")
    variants = addon("jobs.variants")
    report["variants"] = [variant.text for variant in variants.of(scene)]
    assert variants.shown(scene) == "v2", report["variants"]
    use = yield from place_below("scene_splatter.use_variant", 'name="v1"')
    yield from wish("5_variants", "shot")
    yield from wish("7_use", "click {} {}".format(*use))
    yield from until(lambda: variants.shown(scene) == "v1", "the first result", 30)
    yield PLAN["settle_s"] / 3
    yield from wish("6_first_again", "shot")


def place_below(operator: str, arguments: str = "") -> Generator[float, None, tuple[int, int]]:
    """As `place_of`, of a button that may stand further down: the variants stand below the steps
    and the result.
    """
    yield from scroll(8)
    for _ in range(MOST_LOOKS):
        try:
            return (yield from place_of(operator, arguments=arguments))
        except AssertionError:
            yield from scroll(4)
    return (yield from place_of(operator, arguments=arguments))


def scroll(turns: int) -> Iterator[float]:
    """Turn the mouse's wheel over the sidebar."""
    window, region = view3d()[0], sidebar()
    x, y = region.x + region.width // 2, window.height - region.y - region.height // 2
    yield from wish("scroll", f"scroll {x} {y} {turns}")
    yield 1.0


def repaint(session: Any) -> Iterator[float]:
    """Click Repaint, draw over the right of the picture, and press Enter."""
    button = yield from place_below("scene_splatter.repaint")
    yield from wish("click_repaint", "click {} {}".format(*button))
    yield 2.0
    running = [operator.bl_idname for operator in view3d()[0].modal_operators]
    assert running == ["SCENE_SPLATTER_OT_repaint"], running
    window, area = view3d()
    region = next(region for region in area.regions if region.type == "WINDOW")
    strokes, scene = addon("cameras.strokes"), bpy.context.scene
    picture = strokes.picture_in(region, area.spaces.active.region_3d, scene, scene.camera)
    assert picture is not None
    report["picture"] = [round(side) for side in picture]

    def at(right: float, up: float) -> tuple[int, int]:
        x = region.x + picture.left + right * (picture.right - picture.left)
        y = region.y + picture.bottom + up * (picture.top - picture.bottom)
        return round(x), round(window.height - y)

    for start, end in (((0.72, 0.4), (0.72, 0.75)), ((0.78, 0.75), (0.78, 0.4))):
        yield from wish("drag", "drag {} {} {} {}".format(*at(*start), *at(*end)))
        yield 0.5
    yield 1.0
    yield from wish("2_strokes", "shot")
    yield from wish("enter", "key Return")
    yield from until(lambda: session.status.busy, "the start of the redo")
    yield 3.0
    yield from wish("3_at_work", "shot")
    yield from until(lambda: not session.status.busy, "the end of the redo")
    assert session.status.problem is None, session.status.problem
    job = Path(scene.scene_splatter.job_folder)
    masks = sorted((job.parent.parent / "masks").glob("*.png"))
    assert len(masks) == 1, masks
    report["mask"] = masks[0].name
