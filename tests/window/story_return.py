"""After the crash of Blender: the file is opened again, the unfinished job is offered, resumed and
imported.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy
from stage import BLEND, HERE, addon, in_view, report, show_sidebar, until, wish


def story() -> Iterator[float]:
    """Yields the seconds to wait before the next step."""
    yield 2.0
    with in_view():
        bpy.ops.wm.open_mainfile(filepath=str(BLEND))
    yield 1.0
    yield from show_sidebar()
    delivery = addon("jobs.delivery")
    waiting = delivery.waiting_job(bpy.context.scene)
    assert waiting is not None and not waiting.finished, waiting
    assert waiting.folder.name == (HERE / "unfinished.txt").read_text(), waiting
    yield from wish("8_resume_offered", "shot")
    before = set(bpy.data.objects.keys())
    with in_view():
        bpy.ops.scene_splatter.resume("INVOKE_DEFAULT")
    yield from until(lambda: not delivery.session.status.busy, "the end of the job")
    assert delivery.session.status.problem is None, delivery.session.status.problem
    new = [
        name
        for name in set(bpy.data.objects.keys()) - before
        if bpy.data.objects[name].type == "POINTCLOUD"
    ]
    assert len(new) == 1, new
    report["resumed"] = new[0]
    yield 1.0
    yield from wish("8_resumed", "shot")
