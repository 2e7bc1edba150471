"""Preferences: which engine, its installation and check, the weights' folder, licences."""

from __future__ import annotations

import os

import bpy

from ..jobs import engine_location
from . import engine_setup, weights_panel


class SCENESPLATTER_AP_preferences(bpy.types.AddonPreferences):
    """Drawn under Edit > Preferences > Add-ons > Scene Splatter."""

    bl_idname = engine_location.ROOT

    engine_source: bpy.props.EnumProperty(
        name="Engine",
        items=[
            ("OWN", "Installed Here", "The extension's own environment, in your user folder"),
            ("EXISTING", "Existing", "A Python that has the engine's packages already"),
        ],
    )
    engine_python: bpy.props.StringProperty(
        name="Python",
        description="Interpreter of an environment that install_deps.py made",
        subtype="FILE_PATH",
    )
    weights_folder: bpy.props.StringProperty(
        name="Weights Folder",
        description="Where model weights are kept; empty: the engine's own cache",
        subtype="DIR_PATH",
    )
    torch_build: bpy.props.EnumProperty(
        name="Compute",
        items=[
            ("auto", "Automatic", "What this machine has"),
            ("cpu", "CPU", "Smaller, for machines without an NVIDIA card"),
            ("cuda", "CUDA", "For NVIDIA cards"),
        ],
    )

    def draw(self, context: bpy.types.Context) -> None:
        """Engine, its installation, weights, licences."""
        layout = self.layout
        layout.use_property_split = True
        box = layout.box()
        if os.environ.get(engine_location.PYTHON_VARIABLE):
            box.label(
                text=f"{engine_location.PYTHON_VARIABLE} decides: "
                f"{os.environ[engine_location.PYTHON_VARIABLE]}",
                icon="INFO",
            )
        box.row().prop(self, "engine_source", expand=True)
        if self.engine_source == "EXISTING":
            box.prop(self, "engine_python")
        else:
            box.prop(self, "torch_build")
            engine_setup.draw_install(box)
        engine_setup.draw_check(box, context)
        layout.prop(self, "weights_folder")
        weights_panel.draw(layout)
        engine_setup.draw_licences(layout)


def register() -> None:
    """Add the preferences."""
    bpy.utils.register_class(SCENESPLATTER_AP_preferences)


def unregister() -> None:
    """Remove them."""
    bpy.utils.unregister_class(SCENESPLATTER_AP_preferences)
