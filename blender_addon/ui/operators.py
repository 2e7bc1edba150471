"""What the panel's buttons do: check, call one function, report."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Generator
from pathlib import Path

import bpy

from ...engine.bridge import camera_file
from ...engine.bridge.errors import UserError
from ..cameras import operators
from ..jobs import delivery, folders, request
from ..jobs.delivery import session
from ..jobs.slices import Step
from .grey_with_reason import GreyWithReason


def make_and_check(
    context: bpy.types.Context, parent: Path | None = None
) -> Generator[Step, None, request.Job]:
    """Write a job (`request.make_in_slices`) and name what is wrong with its path before any work
    starts.
    """
    job = yield from request.make_in_slices(context, parent)
    try:
        depth = job.folder / "input" / "depth.npy"
        path = camera_file.read(job.folder / "input" / "path.json")
        yield from operators.check_in_slices(context, path, depth if depth.is_file() else None)
    except BaseException:  # also when the user cancels, which closes the generator
        shutil.rmtree(job.folder, ignore_errors=True)
        raise
    return job


def hand_over(job: request.Job) -> str:
    """Give a job to the engine. Raises UserError."""
    delivery.begin(bpy.context, job.folder, job.ticket)
    return ""


class SCENESPLATTER_OT_generate(GreyWithReason, bpy.types.Operator):
    """Make a Gaussian scene from the image, along the camera's path"""

    bl_idname = "scene_splatter.generate"
    bl_label = "Generate Scene"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Whatever is missing."""
        return request.why_not(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Have the job folder written and handed to the engine; in a window this returns at
        once.
        """
        try:
            delivery.prepare(context, make_and_check(context), hand_over)
        except UserError as error:
            return _failed(self, error)
        return {"FINISHED"}


class SCENESPLATTER_OT_cancel(GreyWithReason, bpy.types.Operator):
    """Stop the job. What is finished stays, and Resume goes on from there"""

    bl_idname = "scene_splatter.cancel"
    bl_label = "Cancel"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only while a job runs."""
        return "" if session.status.busy else "No job is running"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Ask the engine; `pump` sees to the rest."""
        session.cancel()
        delivery.look_again()
        return {"FINISHED"}


class _OnWaitingJob(GreyWithReason):
    """Operators on the job that an earlier session left to this scene."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only where there is one."""
        return (
            ""
            if delivery.waiting_job(context.scene) is not None
            else "No unfinished job waits for this scene"
        )


class SCENESPLATTER_OT_resume(_OnWaitingJob, bpy.types.Operator):
    """Go on with the scene's unfinished job from its last finished segment"""

    bl_idname = "scene_splatter.resume"
    bl_label = "Resume"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Hand the folder to the engine again."""
        found = delivery.waiting_job(context.scene)
        assert found is not None  # poll
        ticket = dataclasses.replace(
            found.ticket, blend=bpy.data.filepath, scene=context.scene.name
        )
        try:
            delivery.begin(context, found.folder, ticket)
        except UserError as error:
            return _failed(self, error)
        return {"FINISHED"}


class SCENESPLATTER_OT_import_result(GreyWithReason, bpy.types.Operator):
    """Import the finished job that this scene is still waiting for, or whose result was undone or
    deleted
    """

    bl_idname = "scene_splatter.import_result"
    bl_label = "Import Result"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only where there is one."""
        if delivery.is_gone(context.scene) or delivery.waiting_job(context.scene) is not None:
            return ""
        return "No finished job waits for this scene"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Through the import operator, then remember that it was done."""
        folder, ticket = _to_import(context.scene)
        result = folders.result_of(folder) if folder else None
        if folder is None or ticket is None or result is None:
            return _failed(self, UserError("The job has no result.", "Press Resume."))
        try:
            name = delivery.import_result(result, context.scene, ticket)
            folders.write_ticket(folder, dataclasses.replace(ticket, imported=name))
        except UserError as error:
            return _failed(self, error)
        session.status.delivered = name
        delivery.look_again()
        return {"FINISHED"}


def _to_import(scene: bpy.types.Scene) -> tuple[Path | None, folders.Ticket | None]:
    """Folder and ticket of the job whose result the scene lacks."""
    if delivery.is_gone(scene):
        folder = session.status.folder
        return folder, folders.read_ticket(folder) if folder else None
    found = delivery.waiting_job(scene)
    return (found.folder, found.ticket) if found is not None else (None, None)


class SCENESPLATTER_OT_dismiss(_OnWaitingJob, bpy.types.Operator):
    """Stop offering this job. Its folder stays"""

    bl_idname = "scene_splatter.dismiss"
    bl_label = "Dismiss"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Note it on the ticket."""
        found = delivery.waiting_job(context.scene)
        assert found is not None  # poll
        try:
            folders.write_ticket(found.folder, dataclasses.replace(found.ticket, dismissed=True))
        except UserError as error:
            return _failed(self, error)
        delivery.look_again()
        return {"FINISHED"}


class _OnProblem(GreyWithReason):
    """Operators on the error that the panel shows."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only while one is shown."""
        return "" if session.status.problem is not None else "There is no error"


class SCENESPLATTER_OT_copy_details(_OnProblem, bpy.types.Operator):
    """Copy the error, its remedy and the end of the engine's log to the clipboard"""

    bl_idname = "scene_splatter.copy_details"
    bl_label = "Copy Details"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """For a bug report."""
        assert session.status.problem is not None  # poll
        context.window_manager.clipboard = session.status.problem.details
        return {"FINISHED"}


class SCENESPLATTER_OT_open_log(GreyWithReason, bpy.types.Operator):
    """Open the engine's log in the system's text editor"""

    bl_idname = "scene_splatter.open_log"
    bl_label = "Open Log"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only where there is a log."""
        problem = session.status.problem
        return "" if problem is not None and problem.log is not None else "There is no log"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """In the system's editor for text files."""
        problem = session.status.problem
        assert problem is not None and problem.log is not None  # poll
        if not problem.log.is_file():
            return _failed(
                self, UserError(f"{problem.log} does not exist.", "Press Copy Details instead.")
            )
        bpy.ops.wm.path_open(filepath=str(problem.log))
        return {"FINISHED"}


class SCENESPLATTER_OT_forget_problem(_OnProblem, bpy.types.Operator):
    """Take the error off the panel"""

    bl_idname = "scene_splatter.forget_problem"
    bl_label = "Dismiss Error"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """It stays in the log."""
        session.forget_problem()
        return {"FINISHED"}


class SCENESPLATTER_OT_open_folder(GreyWithReason, bpy.types.Operator):
    """Open the job's folder, with report.html and the fly-through"""

    bl_idname = "scene_splatter.open_folder"
    bl_label = "Open Job Folder"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only where the scene has a job."""
        return "" if context.scene.scene_splatter.job_folder else "This scene has no job yet"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """In the system's file browser."""
        folder = Path(context.scene.scene_splatter.job_folder)
        if not folder.is_dir():
            return _failed(self, UserError(f"{folder} does not exist any more.", ""))
        bpy.ops.wm.path_open(filepath=str(folder))
        return {"FINISHED"}


def _failed(operator: bpy.types.Operator, error: UserError) -> set[str]:
    """Keep the error in the panel, report it, and end the operator."""
    session.fail(error)
    operator.report({"ERROR"}, str(error))
    return {"CANCELLED"}


CLASSES = (
    SCENESPLATTER_OT_generate,
    SCENESPLATTER_OT_cancel,
    SCENESPLATTER_OT_resume,
    SCENESPLATTER_OT_import_result,
    SCENESPLATTER_OT_dismiss,
    SCENESPLATTER_OT_copy_details,
    SCENESPLATTER_OT_open_log,
    SCENESPLATTER_OT_forget_problem,
    SCENESPLATTER_OT_open_folder,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
