"""Where things lie: the engine's Python, its code, our files among the user's."""

from __future__ import annotations

import os
from pathlib import Path

import bpy

from ...engine.bridge.errors import UserError
from ...engine.bridge.user_folders import system_cache
from . import installer
from .session import EngineCommand

ROOT = __package__.rsplit(".blender_addon", 1)[0]  # bl_ext.<repository>.scene_splatter
PACKAGE = Path(__file__).resolve().parents[2]  # the folder that holds `engine` and install_deps.py
PYTHON_VARIABLE = "SCENE_SPLATTER_ENGINE_PYTHON"  # for farms: goes before the preference


def user_folder(name: str) -> Path:
    """A folder of ours among the user's files; the extension's own folder is replaced by every
    update.
    """
    if ROOT.startswith("bl_ext."):
        return Path(bpy.utils.extension_path_user(ROOT, path=name, create=True))
    return Path(
        bpy.utils.user_resource("DATAFILES", path=f"scene_splatter/{name}", create=True)
    )  # run from a checkout


def engine_folder() -> Path:
    """The environment that Install makes, a folder for each Blender."""
    version = ".".join(map(str, bpy.app.version[:2]))
    other = system_cache() / version / "engine"
    return installer.engine_folder(user_folder("engine"), other, windows=os.name == "nt")


def own_python() -> Path:
    """The interpreter in the environment that Install makes."""
    return installer.python_in(engine_folder())


def why_own_engine_incomplete() -> str:
    """Why the environment that Install makes is not there as it should be, or an empty text."""
    return installer.why_incomplete(engine_folder(), PACKAGE / "pyproject.toml")


def own_engine_changed() -> int:
    """When the environment that Install makes was last completed, in nanoseconds; 0 without one."""
    try:
        return (engine_folder() / installer.STAMP).stat().st_mtime_ns
    except OSError:
        return 0


def preferences_in(context: bpy.types.Context) -> bpy.types.AddonPreferences | None:
    """Our preferences; None where the extension was registered by a script and not enabled."""
    addon = context.preferences.addons.get(ROOT)
    return addon.preferences if addon else None


def engine_python(context: bpy.types.Context) -> Path:
    """The engine's interpreter: from the environment variable, the preference, or the one Install
    made.
    """
    chosen = os.environ.get(PYTHON_VARIABLE, "")
    preferences = preferences_in(context)
    if not chosen and preferences is not None and preferences.engine_source == "EXISTING":
        chosen = bpy.path.abspath(preferences.engine_python)
        if not chosen:
            raise UserError(
                "No Python of an existing engine is chosen.",
                "Choose one in the add-on's preferences, or install an engine.",
            )
    return Path(chosen) if chosen else own_python()


def uses_own_engine(context: bpy.types.Context) -> bool:
    """Whether the engine is the one that Install makes."""
    try:
        return engine_python(context) == own_python()
    except UserError:
        return False


def why_no_engine(context: bpy.types.Context) -> str:
    """Why there is no engine to start, or an empty text."""
    try:
        python = engine_python(context)
    except UserError as error:
        return str(error)
    if python == own_python():
        return why_own_engine_incomplete()
    return (
        ""
        if python.is_file()
        else f"The engine's Python {python} does not exist: choose another in the add-on's "
        "preferences"
    )


def engine_environment(context: bpy.types.Context) -> dict[str, str]:
    """Variables for the engine's processes."""
    preferences = preferences_in(context)
    weights = bpy.path.abspath(preferences.weights_folder) if preferences is not None else ""
    return {"SCENE_SPLATTER_WEIGHTS": weights} if weights else {}


def engine_command(context: bpy.types.Context) -> EngineCommand:
    """How to start the engine. Raises UserError if there is none."""
    reason = why_no_engine(context)
    if reason:
        raise UserError(reason + ".", "")
    return EngineCommand(
        engine_python(context),
        PACKAGE,
        engine_environment(context),
        user_folder("logs") / "engine.log",
    )
