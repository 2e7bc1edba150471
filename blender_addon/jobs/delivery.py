"""The session inside Blender: its timer, its handlers, and the import of its result.

A job belongs to the scene that asked for it. It goes on while other files are open, while the
user undoes and redoes, and after Blender is gone its folder waits for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import bpy
from bpy.app.handlers import persistent

from ...engine.bridge import estimate, speeds
from ...engine.bridge.errors import UserError
from ..cameras import first_camera, views
from ..splats import view_colours
from . import engine_location, folders, results
from .session import Delivery, Phase, Session
from .slices import Result, Step, run

_owner = {
    "scene": "",
    "detached": False,
}  # the scene of the job at hand, and whether its file was closed


def redraw() -> None:
    """Draw the sidebars of all 3D views again, and the status bars, which are of no area that
    Python can reach.
    """
    for window in bpy.context.window_manager.windows if bpy.context.window_manager else []:
        if not bpy.app.background and not window.modal_operators:  # a tool's own words stay
            with bpy.context.temp_override(window=window):
                window.workspace.status_text_set_internal(None)
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def why_not_now(folder: Path) -> str:
    """Why the result in `folder` cannot be imported at this moment, or an empty text."""
    result = folders.result_of(folder)
    if result is not None and scene_of(folder) is not None and not results.read_ahead(result):
        return "Reading the result"
    if bpy.app.is_job_running("RENDER"):
        return "Waiting for the render to end"
    for window in bpy.context.window_manager.windows:
        if any(
            operator.bl_idname != "SCREEN_OT_animation_step" for operator in window.modal_operators
        ):
            return "Waiting for the running tool to end"
    return ""


def scene_of(folder: Path) -> bpy.types.Scene | None:
    """The scene in the open file that asked for the job in `folder`."""
    return next(
        (scene for scene in bpy.data.scenes if scene.scene_splatter.job_folder == str(folder)), None
    )


def deliver(folder: Path, ticket: folders.Ticket, _outputs: dict[str, Any]) -> Delivery:
    """Import a finished job into the scene that asked for it, if that scene is open."""
    result = folders.result_of(folder)
    if result is None:
        raise UserError(
            f"The engine finished, but {folder.name} holds no scene.",
            "Press Open Log; Resume makes it again.",
        )
    scene = scene_of(folder)
    if scene is None:
        where = Path(ticket.blend).name if ticket.blend else "a file that was never saved"
        return Delivery(
            "",
            f"Finished. It belongs to {where}: open that file to import it, or import {result} "
            "here.",
        )
    _results.clear()
    name = import_result(result, scene, ticket)
    return Delivery(name, f"Finished: {name}.")


def import_result(result: Path, scene: bpy.types.Scene, ticket: folders.Ticket) -> str:
    """Run the public import operator on a job's result in `scene`; returns the object's name.

    Raises UserError with what the operator reported.
    """
    before = set(scene.objects)
    replaced = ticket.replace if ticket.replace in scene.objects else ""  # it may have been deleted
    arguments = {
        "filepath": str(result),
        "replace": replaced,
        "collection": ticket.shot,
        "number": folders.number_of(result.parent),
        "is_result": True,
    }
    try:
        with in_scene(scene):
            bpy.ops.scene_splatter.import_splats("EXEC_DEFAULT", True, **arguments)
    except RuntimeError as error:  # an operator's ERROR report arrives as this
        raise UserError(_report_text(error), f"The result is kept in {result.parent}.") from error
    if replaced:
        made = scene.objects[replaced]
    else:
        new = [ob for ob in scene.objects if ob not in before and ob.type == "POINTCLOUD"]
        if not new:
            raise UserError("The import made no object.", f"Import {result} with File > Import.")
        made = new[0]
    if first_camera.is_ours(scene.camera):  # a newcomer's view; others keep theirs
        views.show_colours(scene)
    return made.name


def last_object(scene: bpy.types.Scene) -> bpy.types.Object | None:
    """The object of the scene's last result; None where there is none, or none any more: a pointer
    outlives deletion.
    """
    made = scene.scene_splatter.last_object
    return made if made is not None and scene.objects.get(made.name) == made else None


def outcome(scene: bpy.types.Scene) -> str:
    """One line on how the last job ended, as it is now: its result may have been undone or deleted
    since.
    """
    status = session.status
    if is_gone(scene):
        return (
            f"{status.delivered} is not in the scene any more: undone, or deleted. "
            "Redo brings it back, or import it again from the job folder."
        )
    return status.outcome


def is_gone(scene: bpy.types.Scene) -> bool:
    """Whether the last job's result came into the scene, and is not there any more."""
    status = session.status
    return (
        not status.busy
        and bool(status.delivered)
        and not _owner["detached"]
        and _owner["scene"] == scene.name
        and last_object(scene) is None
    )


def in_scene(scene: bpy.types.Scene) -> Any:
    """A context whose scene this is, in the window that shows it; a timer's own has none."""
    window = next((w for w in bpy.context.window_manager.windows if w.scene == scene), None)
    override = {"scene": scene, "view_layer": window.view_layer if window else scene.view_layers[0]}
    if window is not None:
        override["window"] = window
    return bpy.context.temp_override(**override)


def _report_text(error: RuntimeError) -> str:
    """An operator's report without what Blender puts around it; of a traceback the last line, which
    names the error.
    """
    lines = [
        line.strip()
        for line in str(error).strip().splitlines()
        if line.strip() and not line.startswith("Location:")
    ]
    return (lines[-1] if any("Traceback" in line for line in lines) else lines[0]).removeprefix(
        "Error: "
    )


def result_lines(scene: bpy.types.Scene) -> list[tuple[str, str]]:
    """What the engine reported of the scene's last finished job: (name, value). Read from the disk
    once.
    """
    folder = scene.scene_splatter.job_folder
    if folder and folder not in _results:
        _results[folder] = folders.result_lines(Path(folder))
    return _results.get(folder, [])


_results: dict[str, list[tuple[str, str]]] = {}

session = Session(deliver, why_not_now, redraw)


def _tick() -> float | None:
    return session.pump()


def run_timer() -> None:
    """See to it that `pump` is called. The timer outlives file loads."""
    if not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=0.05, persistent=True)


def prepare(
    context: bpy.types.Context,
    steps: Generator[Step, None, Result],
    finish: Callable[[Result], str],
) -> None:
    """Do sliced work for the scene of `context`, then call `finish` with its result. Without a
    window, at once.

    Raises UserError if a job runs, and without a window whatever the work and `finish` raise.
    """
    if bpy.app.background:
        session.refuse_if_busy()
        session.status.outcome = finish(run(steps))
        return
    name = context.scene.name

    def finish_in_scene(result: Result) -> str:
        with in_scene(bpy.data.scenes[name]):
            return finish(result)

    session.prepare(_always_in(name, steps), finish_in_scene)
    _owner.update(scene=name, detached=False)
    if bpy.app.timers.is_registered(_tick):  # it may sleep for a second yet
        bpy.app.timers.unregister(_tick)
    run_timer()


def _always_in(name: str, steps: Generator[Step, None, Result]) -> Generator[Step, None, Result]:
    """`steps`, with the scene `name` as the context's at every slice."""
    try:
        while True:
            scene = bpy.data.scenes.get(name)
            if scene is None:
                raise UserError(f"The scene {name} is gone.", "Press the button again.")
            with in_scene(scene):
                try:
                    step = next(steps)
                except StopIteration as stop:
                    return stop.value
            yield step
    finally:
        steps.close()


def begin(
    context: bpy.types.Context,
    folder: Path,
    ticket: folders.Ticket,
    kind: str = "generate",
    settings: dict[str, Any] | None = None,
) -> None:
    """Start or resume the job in `folder` for the scene of `context`. Raises UserError."""
    scene = context.scene
    work = folders.work_of(folder)
    clock = estimate.Clock(work, speeds.speeds_for(work)) if work is not None else None
    session.start(engine_location.engine_command(context), folder, ticket, kind, settings, clock)
    scene.scene_splatter.job_folder = str(folder)
    _owner.update(scene=scene.name, detached=False)
    _waiting.clear()
    _results.clear()
    if not bpy.app.background:
        view_colours.prepare_table(scene)
    run_timer()


_waiting: dict[str, folders.Leftover | None] = {}  # by scene; drawing must not read the disk


def waiting_job(scene: bpy.types.Scene) -> folders.Leftover | None:
    """A job that this scene asked for and never got: the panel offers Resume or Import."""
    if session.status.busy:
        return None
    if scene.name not in _waiting:
        _waiting[scene.name] = _find_waiting(scene)
    return _waiting[scene.name]


def _find_waiting(scene: bpy.types.Scene) -> folders.Leftover | None:
    remembered, since = scene.scene_splatter.job_folder, 0.0
    if remembered:
        folder = Path(remembered)
        folder = (
            folder if folder.is_dir() else folders.moved_to(folder, jobs_parent())
        )  # the project may have moved
        found = folders.look_at(folder)
        if found is not None:
            return found
        since = folders.last_changed(folder)
    if not bpy.data.filepath:
        return None
    # Blender died before the file was saved: the jobs beside the file know whose they are
    later = folders.leftovers(jobs_parent(), bpy.data.filepath, since)
    return next((leftover for leftover in later if leftover.ticket.scene == scene.name), None)


def look_again() -> None:
    """Forget what is known about leftover jobs, and results read for them; the next drawing looks
    at the disk once.
    """
    _waiting.clear()
    results.forget_ahead()
    redraw()


def jobs_parent() -> Path:
    """Where new job folders go: beside the .blend, else in the extension's own folder."""
    if bpy.data.filepath:
        return Path(bpy.data.filepath).parent / "scene_splatter"
    return engine_location.user_folder("jobs")


@persistent
def _on_load(*_: Any) -> None:
    """Another file is open: the job goes on, but may no longer have a scene to go to."""
    _waiting.clear()
    if session.status.phase is Phase.PREPARING:  # its camera and scene are gone
        session.cancel()
        return
    folder = session.status.folder
    if not session.status.busy or folder is None:
        session.forget_outcome()  # it was about the file before
        return
    if scene_of(folder) is None:
        ticket = folders.read_ticket(folder)
        same_file = (
            ticket is not None and ticket.blend and Path(ticket.blend) == Path(bpy.data.filepath)
        )
        scene = bpy.data.scenes.get(ticket.scene) if ticket is not None and same_file else None
        if scene is not None:  # the file was reverted to a state from before the job
            scene.scene_splatter.job_folder = str(folder)
    _owner["detached"] = scene_of(folder) is None


@persistent
def _on_undo(*_: Any) -> None:
    """Undo takes back that the scene has a job; the job itself goes on."""
    folder = session.status.folder
    scene = bpy.data.scenes.get(_owner["scene"])
    if session.status.busy and folder is not None and scene is not None and not _owner["detached"]:
        scene.scene_splatter.job_folder = str(folder)
    _waiting.clear()


@persistent
def _on_save(*_: Any) -> None:
    """The file of the job at hand may have a name only now, or another one."""
    folder = session.status.folder
    if session.status.busy and folder is not None and scene_of(folder) is not None:
        session.saved_as(bpy.data.filepath)


_HANDLERS = (
    ("load_post", _on_load),
    ("save_post", _on_save),
    ("undo_post", _on_undo),
    ("redo_post", _on_undo),
)


def register() -> None:
    """Add the handlers."""
    for name, handler in _HANDLERS:
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    """Remove handlers and timer, end the engine."""
    for name, handler in _HANDLERS:
        handlers = getattr(bpy.app.handlers, name)
        if handler in handlers:
            handlers.remove(handler)
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    session.close()
