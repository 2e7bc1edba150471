"""Inverses of view transforms on a grid of display values, kept on disk for all files and sessions.

Blender 5 computes for more than a second on its main thread before it can invert AgX, in every
process anew. So what was worked out once is kept, for each Blender and colour configuration; and
while a job runs, a second Blender without a window works out what its result will need.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from pathlib import Path

import bpy
import numpy as np

from ..jobs.engine_location import user_folder
from . import view_inverse

_at_work: list[subprocess.Popen[bytes]] = []  # the second Blender, if one was started


def light_on_grid(space: str, gamma: float, side: int) -> np.ndarray:
    """[side ** 3, 3] scene-linear light that `space` has at the powers `gamma` of `grid`'s values,
    read from the disk where it is kept, else worked out and kept.
    """
    path = _path(space, gamma, side)
    kept = _read(path, side)
    if kept is not None:
        return kept
    light = view_inverse.through_files(view_inverse.grid(side) ** gamma, space)
    with contextlib.suppress(OSError):  # a full disk costs the next file a second
        view_inverse.keep(str(path), light)
    return light


def make_ready(space: str, gamma: float, side: int) -> bool:
    """Have a second Blender work out what `light_on_grid` would; whether one was started.

    Blender as a Python module has no program to start.
    """
    path = _path(space, gamma, side)
    _at_work[:] = [process for process in _at_work if process.poll() is None]
    if _at_work or not bpy.app.binary_path or _read(path, side) is not None:
        return False
    words = ["-b", "--factory-startup", "--python", view_inverse.__file__]
    values = [str(path), space, str(side), repr(gamma)]
    with contextlib.suppress(OSError):  # it is worked out when it is needed
        process = subprocess.Popen(
            [bpy.app.binary_path, *words, "--", *values],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        _at_work.append(process)
    return bool(_at_work)


def _path(space: str, gamma: float, side: int) -> Path:
    """The file of one grid: named by all that its values depend on."""
    config = os.environ.get("OCIO", "")
    changed = os.stat(config).st_mtime_ns if os.path.isfile(config) else 0
    build = bpy.app.build_hash.decode("ascii", "replace")
    key = f"{bpy.app.version_string} {build} {config} {changed} {space} {gamma:.4f} {side}"
    return user_folder("views") / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"


def _read(path: Path, side: int) -> np.ndarray | None:
    """What is kept there, if it is a grid."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        light = np.load(path, allow_pickle=False)
        if light.shape == (side**3, 3) and light.dtype == np.float32 and np.isfinite(light).all():
            return light
    return None
