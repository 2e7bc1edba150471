"""The Blender side: what is registered, and in which order. Importing this needs no bpy."""

from __future__ import annotations

from types import ModuleType


def _modules() -> list[ModuleType]:
    """Modules with `register` and `unregister`, in the order of registration."""
    from .cameras import operators as camera_tools
    from .jobs import delivery, headless
    from .publish import production, publish, ruler, sequences
    from .splats import (
        applying,
        exact_colours,
        layout_view,
        native,
        sequence,
        view_colours,
    )
    from .ui import (
        engine_setup,
        io_operators,
        operators,
        other_formats,
        panels,
        pictures,
        preferences,
        progress,
        properties,
        splat_panel,
        variants_panel,
        weights_panel,
    )

    setup = [properties, engine_setup, weights_panel, preferences]
    return [
        *setup,
        io_operators,
        view_colours,
        exact_colours,
        layout_view,
        operators,
        camera_tools,
        pictures,
        panels,
        variants_panel,
        splat_panel,
        publish,
        other_formats,
        production,
        native,
        applying,
        sequence,
        sequences,
        ruler,
        progress,
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
