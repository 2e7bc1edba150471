"""Blender's tests run in the pip module `bpy`, one process for all of them.

The add-on's code imports its neighbours relatively, so it needs a package around it: here the
repository itself becomes the package `scene_splatter`, as Blender makes it `bl_ext.<...>`.
Files that need bpy begin with `bpy = pytest.importorskip("bpy")` and are marked `blender`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HAS_BPY = importlib.util.find_spec("bpy") is not None

if HAS_BPY:  # before bpy is imported: preferences and extensions of this run only
    os.environ["BLENDER_USER_RESOURCES"] = tempfile.mkdtemp(prefix="scene_splatter_blender_")
os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")

_exit_code = [0]


def _make_package() -> None:
    spec = importlib.util.spec_from_file_location("scene_splatter", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["scene_splatter"] = package
    spec.loader.exec_module(package)


_make_package()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember the exit code for `pytest_unconfigure`."""
    _exit_code[0] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave at once: with an operator registered, bpy 4.2 crashes and 4.5 hangs in the interpreter's own exit."""
    if "bpy" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_code[0])


@pytest.fixture(scope="session")
def addon():
    """The registered add-on, as the package `scene_splatter`."""
    package = sys.modules["scene_splatter"]
    package.register()
    yield package
    package.unregister()


@pytest.fixture
def empty_scene(addon):
    """A fresh file with nothing in it."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    return bpy.context.scene
