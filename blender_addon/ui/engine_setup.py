"""Installing and checking the engine from the preferences: two tasks, their operators, their
drawing.
"""

from __future__ import annotations

import time
from typing import Any

import bpy

from ...engine.bridge.errors import UserError
from ..jobs import delivery, engine_location
from ..jobs.installer import Task, installing_python
from ..jobs.side_job_operator import side_job
from . import properties
from .grey_with_reason import GreyWithReason
from .layout import draw_wrapped

LICENCE_TEXT = (
    "PyTorch, NumPy, SciPy and numba: BSD. Pillow: MIT-CMU. imageio: BSD; its FFmpeg: LGPL/GPL. "
    "plyfile: GPL-3.0-or-later. "
    "No model weights are part of it: each has a licence of its own, said before it is fetched."
)
tasks = {
    "install": Task("Install"),
    "check": Task("Check"),
    "weights": Task("List"),
    "download": Task("Download"),
    "verify": Task("Verify"),
}
plan = Task("Plan")  # what Install would do; not among the tasks that keep others waiting
_planned = {"for": ("", 0)}  # the build asked for, and the installation it was asked of
PLAN_S = 4.0  # a dialog waits so long for the plan


def _tick() -> float | None:
    changed = [task.pump() for task in (*tasks.values(), plan)]
    if any(changed):
        _learn_names()
        _redraw()
    return 0.2 if any(task.running for task in (*tasks.values(), plan)) else None


def pump() -> None:
    """For tests and scripts, where timers do not fire."""
    _tick()


def watch() -> None:
    """See to it that the tasks are pumped. Timers do not fire without a window: `pump`."""
    if not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, persistent=True)


def _redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PREFERENCES":
                area.tag_redraw()
    delivery.redraw()  # the panel and the status bar show it too


def why_busy() -> str:
    """Why nothing else can be started now, or an empty text."""
    return next((f"{task.title} is running" for task in tasks.values() if task.running), "")


def why_in_use() -> str:
    """Why the engine's files cannot be changed now, or an empty text."""
    if delivery.session.status.busy:
        return "The engine is at work: wait for the job or cancel it"
    return f"The engine is at work: {side_job.title}" if side_job.running else ""


def why_offline() -> str:
    """Why nothing may be fetched, or an empty text."""
    if bpy.app.online_access:
        return ""
    where = (
        "it was started with --offline-mode"
        if bpy.app.online_access_override
        else "allow it in Preferences > System > Network"
    )
    return f"Blender is not allowed to go online: {where}"


def install_command(torch_build: str) -> list[str]:
    """The command line that makes the extension's own environment, or mends it."""
    script = str(engine_location.PACKAGE / "install_deps.py")
    environment = str(engine_location.engine_folder())
    return [
        installing_python(),
        "-I",
        "-u",
        script,
        "--env",
        environment,
        "--json",
        "--torch",
        torch_build,
    ]


def wanted_build(context: bpy.types.Context) -> str:
    """The preference: auto, cpu or cuda."""
    preferences = engine_location.preferences_in(context)
    return preferences.torch_build if preferences else "auto"


def planned(build: str) -> dict[str, Any]:
    """What Install would do for this build on this machine, as install_deps.py says it; empty while
    it is being asked, which this begins. {"problem": text} where it cannot be done.
    """
    asked_for = (build, engine_location.own_engine_changed())
    if _planned["for"] != asked_for and not tasks["install"].running:
        plan.cancel()
        _planned["for"] = asked_for
        try:
            plan.start([*install_command(build), "--dry-run"], engine_location.PACKAGE)
        except UserError as error:
            return {"problem": str(error)}
        watch()
    if plan.running:
        return {}
    for finding in plan.findings:
        if finding.get("stage") == "plan":
            return finding
    return {"problem": plan.text.removeprefix("error: ") or "The installer says nothing."}


def _await_plan(build: str) -> None:
    """Give the plan a moment: a dialog is drawn once."""
    end_s = time.monotonic() + PLAN_S
    while not planned(build) and time.monotonic() < end_s:
        plan.pump()
        time.sleep(0.02)


def draw_plan(layout: bpy.types.UILayout, build: str) -> None:
    """Which PyTorch Install would bring, why, how much that is, and what would be better."""
    told = planned(build)
    if not told:
        layout.label(text="Looking at this machine ...", icon="TIME")
    elif "problem" in told:
        draw_wrapped(layout, told["problem"], 90, icon="ERROR")
    else:
        draw_wrapped(layout, told["text"], 90, icon="INFO")
        if not told["complete"]:
            sizes = f"{told['download_gb']:g} GB to download, {told['disk_gb']:g} GB on disk"
            draw_wrapped(layout, f"About {sizes}, in {engine_location.engine_folder()}.", 90)
        if told["remedy"]:
            draw_wrapped(layout, told["remedy"], 90, icon="FORWARD")


class SCENESPLATTER_OT_install_engine(GreyWithReason, bpy.types.Operator):
    """Make the engine's own Python environment in your user folder. Blender's Python is not
    touched
    """

    bl_idname = "scene_splatter.install_engine"
    bl_label = "Install Engine"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Not while it or a job runs, and only where Blender may go online."""
        return why_busy() or why_in_use() or why_offline()

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Say build, size and licences first."""
        _await_plan(wanted_build(context))
        return context.window_manager.invoke_props_dialog(self, width=500)

    def draw(self, context: bpy.types.Context) -> None:
        """What will be fetched."""
        column = self.layout.column()
        draw_plan(column, wanted_build(context))
        draw_wrapped(column, LICENCE_TEXT, 80)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start install_deps.py and return at once."""
        plan.cancel()
        try:
            delivery.session.release()  # Windows changes no library that a program has open
            tasks["install"].start(install_command(wanted_build(context)), engine_location.PACKAGE)
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        watch()
        return {"FINISHED"}


class SCENESPLATTER_OT_cancel_install(bpy.types.Operator):
    """Stop; pressing Install again goes on with what is there"""

    bl_idname = "scene_splatter.cancel_install"
    bl_label = "Cancel"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """End the processes."""
        for task in tasks.values():
            task.cancel()
        return {"FINISHED"}


class SCENESPLATTER_OT_check_engine(GreyWithReason, bpy.types.Operator):
    """Ask the engine what it can do on this machine"""

    bl_idname = "scene_splatter.check_engine"
    bl_label = "Check"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only with an engine."""
        return engine_location.why_no_engine(context) or why_busy()

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start `doctor --json` and return at once."""
        command = engine_location.engine_command(context)
        try:
            tasks["check"].start(
                [str(command.python), "-m", "engine", "doctor", "--json"],
                command.root,
                command.environment,
            )
        except UserError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        watch()
        return {"FINISHED"}


class SCENESPLATTER_OT_copy_install_log(bpy.types.Operator):
    """Copy what the last installation or check said"""

    bl_idname = "scene_splatter.copy_install_log"
    bl_label = "Copy Log"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """To the clipboard."""
        context.window_manager.clipboard = "\n".join(
            line for task in tasks.values() for line in task.log
        )
        return {"FINISHED"}


def draw_running(layout: bpy.types.UILayout, task: Task) -> None:
    """A bar and Cancel."""
    row = layout.row()
    row.progress(factor=task.factor, text=task.text or f"{task.title} ...")
    row.operator("scene_splatter.cancel_install", text="", icon="X")


def draw_failed(layout: bpy.types.UILayout, task: Task) -> None:
    """What went wrong, in the task's own last words."""
    words = "was cancelled" if task.cancelled else f"failed (exit code {task.code})"
    layout.label(text=f"{task.title} {words}", icon="ERROR")
    said = task.text or (task.log[-1] if task.log else "")
    if said:
        draw_wrapped(layout, said[:500], 90)
    layout.operator("scene_splatter.copy_install_log", icon="COPYDOWN")


def draw_install(layout: bpy.types.UILayout) -> None:
    """Install, its progress, or why it failed."""
    task = tasks["install"]
    if task.running:
        draw_running(layout, task)
        return
    offline = why_offline()
    if offline:
        draw_wrapped(layout, offline, 90, icon="ERROR")
        if not bpy.app.online_access_override:
            layout.prop(bpy.context.preferences.system, "use_online_access")
    build = wanted_build(bpy.context)
    draw_plan(layout, build)
    layout.operator("scene_splatter.install_engine", text=install_label(build), icon="IMPORT")
    if task.code:
        draw_failed(layout, task)
    elif not engine_location.why_own_engine_incomplete():
        layout.label(text="The engine is installed", icon="CHECKMARK")


def install_label(build: str) -> str:
    """What the button does."""
    if not engine_location.own_python().is_file():
        return "Install Engine"
    told = planned(build)
    if told.get("has") and told.get("moves"):
        return "Move Engine to the CPU" if told["build"] == "cpu" else "Move Engine to CUDA"
    return "Repair or Update Engine"


def findings_of(task: Task) -> dict[str, Any]:
    """What the doctor said, as one object."""
    return task.findings[-1] if task.findings else {}


_ICONS = {"ok": "CHECKMARK", "warn": "INFO", "fail": "ERROR"}


def _learn_names() -> None:
    """Offer the models that the doctor found where the panel asks for one."""
    checks = findings_of(tasks["check"]).get("checks", [])
    for kind in properties.MODEL_NAMES:
        found = [
            check["name"].removeprefix(f"{kind} ")
            for check in checks
            if check["name"].startswith(f"{kind} ")
        ]
        found += [line["name"] for line in tasks["weights"].findings if line.get("kind") == kind]
        if found:
            properties.MODEL_NAMES[kind] = tuple(dict.fromkeys(found))


def draw_check(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Check, and what it found."""
    task = tasks["check"]
    reason = engine_location.why_no_engine(context)
    if reason:
        draw_wrapped(layout, reason, 90, icon="INFO")
    if task.running:
        draw_running(layout, task)
        return
    layout.operator("scene_splatter.check_engine", icon="CHECKMARK")
    findings = findings_of(task)
    absent = False
    for check in findings.get("checks", []):
        not_here = check.get("data", {}).get("ready") is False and check["state"] == "ok"
        absent = absent or not_here
        icon = "RADIOBUT_OFF" if not_here else _ICONS.get(check["state"], "NONE")
        draw_wrapped(layout, f"{check['name']}: {check['text']}", 100, icon=icon)
        if check.get("remedy") and not not_here:  # the remedy is a command line; here is a button
            draw_wrapped(layout, check["remedy"], 100, icon="FORWARD")
    if absent:
        draw_wrapped(layout, "Model Weights, below, fetches those that are not here.", 100)
    if task.code and not findings:
        draw_failed(layout, task)


def draw_licences(layout: bpy.types.UILayout) -> None:
    """Under what terms all this comes."""
    header, body = layout.panel("scene_splatter_licences", default_closed=True)
    header.label(text="Licences")
    if body is not None:
        draw_wrapped(body, "This extension: GPL-3.0-or-later. " + LICENCE_TEXT, 100)


CLASSES = (
    SCENESPLATTER_OT_install_engine,
    SCENESPLATTER_OT_cancel_install,
    SCENESPLATTER_OT_check_engine,
    SCENESPLATTER_OT_copy_install_log,
)


def register() -> None:
    """Add the operators."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Remove them; end what runs."""
    for task in (*tasks.values(), plan):
        task.cancel()
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
