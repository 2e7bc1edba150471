"""Scene Splatter: Blender looks for `register` and `unregister` here, beside the manifest.
Importing this imports nothing else.
"""


def register() -> None:
    """Add the extension's classes to Blender."""
    from .blender_addon import register as register_addon

    register_addon()


def unregister() -> None:
    """Take them out again and end the engine."""
    from .blender_addon import unregister as unregister_addon

    unregister_addon()
