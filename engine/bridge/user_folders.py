"""Where this system keeps what programs may make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Windows' longest path, unless it is told to take longer ones, and the longest of the engine's
# files below site-packages: a licence within PyTorch, 167 characters, 173 with the name of a build.
MOST_PATH, LONGEST_FILE = 259, 173
_SITE = "\\Lib\\site-packages\\"


def system_cache() -> Path:
    """The folder of ours among the user's caches, by the system's own rule. Nothing is made."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "scene_splatter"


def longest_path(environment: str) -> int:
    """Characters of the longest path in the engine's environment in a folder, on Windows."""
    return len(environment) + len(_SITE) + LONGEST_FILE
