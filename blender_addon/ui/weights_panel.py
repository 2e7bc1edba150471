"""Model weights in the preferences: what there is, under which licence, and fetching one when asked
to.
"""

from __future__ import annotations

from typing import Any

import bpy

from ...engine.bridge.errors import UserError
from ..jobs import engine_location
from . import engine_setup
from .engine_setup import tasks
from .grey_with_reason import GreyWithReason
from .layout import draw_wrapped

BETTER_DEPTH = "moge_2_small"  # the smallest download that changes most


def known() -> list[dict[str, Any]]:
    """The models that the engine listed; empty before it was asked."""
    fetched = {line.get("name") for line in tasks["download"].findings if line.get("done")}
    return [
        {**line, "present": line["present"] or line["name"] in fetched}
        for line in tasks["weights"].findings
        if {"name", "licence", "size_gb", "present"} <= line.keys()
    ]


def _run(
    operator: bpy.types.Operator, context: bpy.types.Context, task: str, *arguments: str
) -> set[str]:
    try:
        command = engine_location.engine_command(context)
        tasks[task].start(
            [str(command.python), "-m", "engine", "weights", "--json", *arguments],
            command.root,
            command.environment,
        )
    except UserError as error:
        operator.report({"ERROR"}, str(error))
        return {"CANCELLED"}
    engine_setup.watch()
    return {"FINISHED"}


class SCENESPLATTER_OT_list_weights(GreyWithReason, bpy.types.Operator):
    """Ask the engine which models it can use, what they weigh and under which licence they come.
    Needs no network
    """

    bl_idname = "scene_splatter.list_weights"
    bl_label = "List Models"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only with an engine."""
        return engine_location.why_no_engine(context) or engine_setup.why_busy()

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start it and return at once."""
        return _run(self, context, "weights", "list")


class SCENESPLATTER_OT_download_weights(GreyWithReason, bpy.types.Operator):
    """Fetch a model's weights into the weights folder"""

    bl_idname = "scene_splatter.download_weights"
    bl_label = "Download Weights"

    model: bpy.props.StringProperty(options={"HIDDEN", "SKIP_SAVE"})
    accept: bpy.props.BoolProperty(
        name="I accept this licence",
        description="Needed where a model may not be used commercially without further ado",
        default=False,
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only where Blender may go online."""
        return (
            engine_location.why_no_engine(context)
            or engine_setup.why_busy()
            or engine_setup.why_offline()
        )

    def _facts(self) -> dict[str, Any]:
        return next((line for line in known() if line["name"] == self.model), {})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Say size and licence first."""
        self.accept = False
        return context.window_manager.invoke_props_dialog(self, width=500)

    def draw(self, context: bpy.types.Context) -> None:
        """What will be fetched, and under which licence."""
        facts, column = self._facts(), self.layout.column()
        draw_wrapped(
            column, f"{facts.get('title', self.model)}: about {facts.get('size_gb', 0):.3g} GB.", 80
        )
        draw_wrapped(column, f"Licence: {facts.get('licence', 'unknown')}.", 80)
        if facts.get("page"):
            draw_wrapped(column, f"From {facts['page']}", 80)
        if not facts.get("commercial_use"):
            column.prop(self, "accept")

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start the download and return at once. A licence with conditions must have been
        accepted.
        """
        facts = self._facts()
        if not facts:
            self.report(
                {"ERROR"}, f"There is no model {self.model!r} in the list. Press List Models."
            )
            return {"CANCELLED"}
        if not facts.get("commercial_use") and not self.accept:
            self.report(
                {"ERROR"},
                f"{facts.get('title', self.model)}: {facts['licence']}. Accept the licence to "
                "fetch it.",
            )
            return {"CANCELLED"}
        return _run(
            self,
            context,
            "download",
            "download",
            self.model,
            *(["--accept-licence"] if self.accept else []),
        )


class SCENESPLATTER_OT_verify_weights(GreyWithReason, bpy.types.Operator):
    """Read a model's files and compare their checksums. Needs no network"""

    bl_idname = "scene_splatter.verify_weights"
    bl_label = "Verify Weights"

    model: bpy.props.StringProperty(options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Only with an engine."""
        return engine_location.why_no_engine(context) or engine_setup.why_busy()

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start it and return at once."""
        return _run(self, context, "verify", "verify", self.model)


def verdict() -> str:
    """What the last verification found; empty before there was one."""
    found = next((line for line in tasks["verify"].findings if "problems" in line), None)
    if found is None:
        return ""
    if found["problems"]:
        return f"{found['name']}: {'; '.join(found['problems'])}. Download it again"
    return f"{found['name']}: " + (
        "all checksums are right"
        if found["checked"]
        else "all files are there; no checksum of them is known"
    )


def draw_better_depth(layout: bpy.types.UILayout, width: int) -> None:
    """What one small download would change, with the button that asks for it; nothing once it is
    here.
    """
    facts = next((line for line in known() if line["name"] == BETTER_DEPTH), None)
    if facts is not None and facts["present"]:
        return
    text = "This depth is a guess by the small network; one small download is far better."
    draw_wrapped(layout, text, width, icon="INFO")
    for name in ("weights", "download"):
        if tasks[name].running:
            engine_setup.draw_running(layout, tasks[name])
            return
        if tasks[name].code:
            engine_setup.draw_failed(layout, tasks[name])
    if facts is None:
        layout.operator("scene_splatter.list_weights", text="Show It", icon="VIEWZOOM")
        return
    text = f"Get {facts['name']}: {facts['size_gb']:.2g} GB, {facts['licence']}"
    layout.operator("scene_splatter.download_weights", text=text, icon="IMPORT").model = facts[
        "name"
    ]


def draw(layout: bpy.types.UILayout) -> None:
    """The list with a button for each model: fetch what is not here, verify what is."""
    header, body = layout.panel("scene_splatter_weights", default_closed=True)
    header.label(text="Model Weights")
    if body is None:
        return
    for name in ("weights", "download", "verify"):
        if tasks[name].running:
            engine_setup.draw_running(body, tasks[name])
    body.operator("scene_splatter.list_weights", icon="FILE_REFRESH")
    for name in ("weights", "download"):
        if tasks[name].code:
            engine_setup.draw_failed(body, tasks[name])
    if verdict():
        draw_wrapped(body, verdict(), 80, icon="ERROR" if tasks["verify"].code else "CHECKMARK")
    elif tasks["verify"].code:
        engine_setup.draw_failed(body, tasks["verify"])
    for facts in known():
        row = body.row()
        use = (
            "commercial use allowed"
            if facts.get("commercial_use")
            else "not for commercial use, or with conditions"
        )
        draw_wrapped(
            row, f"{facts['name']}: {facts['size_gb']:.3g} GB; {facts['licence']}; {use}", 80
        )
        if facts["present"]:
            row.operator("scene_splatter.verify_weights", text="", icon="CHECKMARK").model = facts[
                "name"
            ]
        else:
            row.operator("scene_splatter.download_weights", text="", icon="IMPORT").model = facts[
                "name"
            ]


CLASSES = (
    SCENESPLATTER_OT_list_weights,
    SCENESPLATTER_OT_download_weights,
    SCENESPLATTER_OT_verify_weights,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
