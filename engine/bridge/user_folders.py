"""Where this system keeps what programs may make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def system_cache() -> Path:
    """The folder of ours among the user's caches, by the system's own rule. Nothing is made."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "scene_splatter"
