"""Blender's tests run in the pip module `bpy`, one process for all of them.

The add-on's code imports its neighbours relatively, so it needs a package around it: here the
repository itself becomes the package `scene_splatter`, as Blender makes it `bl_ext.<...>`.
Files that need bpy begin with `bpy = pytest.importorskip("bpy")` and are marked `blender`.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HAS_BPY = importlib.util.find_spec("bpy") is not None

if HAS_BPY:  # before bpy is imported: preferences and extensions of this run only
    RESOURCES = tempfile.mkdtemp(prefix="scene_splatter_blender_")
    os.environ["BLENDER_USER_RESOURCES"] = RESOURCES
os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")

_exit_code = [0]


def _make_package() -> None:
    spec = importlib.util.spec_from_file_location(
        "scene_splatter", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
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
    """Leave at once: with an operator registered, bpy 4.2 crashes and 4.5 hangs in the
    interpreter's own exit.
    """
    if HAS_BPY:
        shutil.rmtree(RESOURCES, ignore_errors=True)
    if "bpy" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_code[0])


@pytest.fixture(scope="session", autouse=HAS_BPY)
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

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    return bpy.context.scene


@pytest.fixture
def save_picture(addon):
    """A function that writes a gradient as a picture file and leaves no datablock behind."""
    return _save_picture


def _save_picture(path: Path, file_format: str = "PNG", size: tuple[int, int] = (64, 36)) -> Path:
    """A gradient as a picture file, written by Blender; leaves no datablock behind."""
    import bpy
    import numpy as np

    width, height = size
    image = bpy.data.images.new("picture", width, height)
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., 0], pixels[..., 1] = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    image.pixels.foreach_set(pixels.ravel())
    image.filepath_raw, image.file_format = str(path), file_format
    image.save()
    bpy.data.images.remove(image)
    return path


def _animated_camera(scene: Any, name: str = "Camera") -> Any:
    """A perspective camera that travels 0.9 m along x from frame 1 to 10."""
    import bpy

    camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
    scene.collection.objects.link(camera)
    camera.rotation_euler = (math.pi / 2, 0.0, 0.0)
    for frame, x in ((1, 0.0), (10, 0.9)):
        camera.location = (x, 0.0, 1.6)
        camera.keyframe_insert("location", frame=frame)
    return camera


@pytest.fixture
def ready(empty_scene, tmp_path, monkeypatch):
    """A saved scene in which Generate can be pressed: a camera on its way, a picture, an
    interpreter for the engine.
    """
    import bpy

    monkeypatch.setenv("SCENE_SPLATTER_ENGINE_PYTHON", sys.executable)
    empty_scene.camera = _animated_camera(empty_scene)
    empty_scene.frame_start, empty_scene.frame_end = 1, 10
    empty_scene.render.resolution_x, empty_scene.render.resolution_y = 64, 36
    empty_scene.scene_splatter.image_path = str(_save_picture(tmp_path / "picture.png"))
    empty_scene.frame_set(1)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return bpy.context.scene


@pytest.fixture
def real_engine(ready, monkeypatch):
    """As `ready`, with the engine's own environment, where install_deps.py made it."""
    python = ROOT / (".venv/Scripts/python.exe" if sys.platform == "win32" else ".venv/bin/python")
    has_torch = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    if (
        not python.is_file()
        or subprocess.run([python, "-c", has_torch], capture_output=True, check=False).returncode
    ):
        pytest.skip("the engine's environment .venv is not there; install_deps.py makes it")
    monkeypatch.setenv("SCENE_SPLATTER_ENGINE_PYTHON", str(python))
    return ready


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs a finished job keeps it for the others."""
    return tmp_path_factory.mktemp("made") / "shot_v001"
