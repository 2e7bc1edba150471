"""The Blender side: what is registered, and in which order. Importing this needs no bpy."""

from __future__ import annotations

from types import ModuleType


def _modules() -> list[ModuleType]:
    """Modules with `register` and `unregister`, in the order of registration."""
    from . import (
        camera_tools,
        delivery,
        engine_setup,
        headless,
        io_operators,
        layout_view,
        native,
        operators,
        other_formats,
        panels,
        preferences,
        production,
        properties,
        publish,
        splat_panel,
        weights_panel,
    )

    setup = [properties, engine_setup, weights_panel, preferences]
    return [
        *setup,
        io_operators,
        layout_view,
        operators,
        camera_tools,
        panels,
        splat_panel,
        publish,
        other_formats,
        production,
        native,
        delivery,
        headless,
    ]


def register() -> None:
    """Add everything to Blender."""
    for module in _modules():
        module.register()


def unregister() -> None:
    """Take everything out again; ends the engine."""
    for module in reversed(_modules()):
        module.unregister()
