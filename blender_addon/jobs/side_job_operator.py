"""What operators that run a side job share: the timer, the temporary folder, the inputs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

from ...engine.bridge import camera_file
from ...engine.bridge.errors import UserError
from ...engine.bridge.whole_file import temporary_prefix
from ..cameras import conversion
from ..publish import exporting
from ..splats import splat_object
from ..ui.grey_with_reason import GreyWithReason
from . import delivery, engine_location
from .side_job import SideJob

side_job = SideJob()


def _tick() -> float | None:
    if side_job.pump():
        delivery.redraw()
    return 0.1 if side_job.running else None


def begin(
    operator: bpy.types.Operator,
    context: bpy.types.Context,
    title: str,
    kind: str,
    settings: dict[str, Any],
    finish: Callable[[dict[str, Any]], str],
    *,
    splats: bool = True,
    camera: bool = False,
) -> set[str]:
    """Start the side job on a temporary folder that holds its inputs; in the background, where no
    timer fires, wait for its end.

    splats: the active object as scene.ply, as it stands in the world (OpenCV axes, metres); camera:
    the scene camera's path as cameras.json. `finish` runs while the folder and the engine's outputs
    in it exist.
    """
    folder = Path(tempfile.mkdtemp(prefix=temporary_prefix()))
    try:
        if splats:
            exporting.write(
                context.scene,
                context.view_layer.objects.active,
                folder / "scene.ply",
                in_world=True,
            )
        if camera:
            scene = context.scene
            frames = range(scene.frame_start, scene.frame_end + 1)
            camera_file.write(
                folder / "cameras.json", conversion.export(scene, scene.camera, frames)
            )
    except UserError as error:
        shutil.rmtree(folder, ignore_errors=True)
        operator.report({"ERROR"}, str(error))
        return {"CANCELLED"}
    return begin_in(
        operator,
        context,
        title,
        kind,
        folder,
        settings,
        finish,
        lambda: shutil.rmtree(folder, ignore_errors=True),
    )


def begin_in(
    operator: bpy.types.Operator,
    context: bpy.types.Context,
    title: str,
    kind: str,
    folder: Path,
    settings: dict[str, Any],
    finish: Callable[[dict[str, Any]], str],
    always: Callable[[], None] = lambda: None,
) -> set[str]:
    """Start the side job on a folder that is there; in the background wait for its end. `finish`
    runs after success, `always` at the end in every case.
    """
    try:
        command = engine_location.engine_command(context)
    except UserError as error:
        always()
        operator.report({"ERROR"}, str(error))
        return {"CANCELLED"}
    try:
        side_job.begin(title, command, kind, folder, settings, finish, always)
    except UserError as error:
        operator.report({"ERROR"}, str(error))
        return {"CANCELLED"}
    if not bpy.app.background:
        if not bpy.app.timers.is_registered(_tick):
            bpy.app.timers.register(_tick, persistent=True)
        return {"FINISHED"}
    side_job.wait()
    if side_job.problem:
        operator.report({"ERROR"}, side_job.problem)
        return {"CANCELLED"}
    if side_job.outcome:
        operator.report({"INFO"}, side_job.outcome)
    return {"FINISHED"}


def why_not(context: bpy.types.Context, *, need_splats: bool = True) -> str:
    """Why nothing can be started now, or an empty text."""
    if need_splats and not splat_object.is_splat_object(context.view_layer.objects.active):
        return "Make a splat object active"
    if side_job.running:
        return f"{side_job.title} is running"
    return engine_location.why_no_engine(context)


class NeedsSplats(GreyWithReason):
    """Operators on the active splat object."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """An active splat object, an engine, and no side job under way."""
        return why_not(context)


def close() -> None:
    """A side job under way ends; for unregistering."""
    side_job.close()
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
