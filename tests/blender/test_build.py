"""The built zip: what is in it, Blender's own validation, and the installed and enabled
extension.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

SPEC = importlib.util.find_spec("bpy")
if SPEC is None or SPEC.origin is None:
    pytest.skip("bpy is not installed in this Python", allow_module_level=True)
pytestmark = pytest.mark.blender

ROOT = Path(__file__).resolve().parents[2]
TOOL = next(Path(SPEC.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))
ALLOWED = re.compile(
    r"(__init__\.py|blender_manifest\.toml|install_deps\.py|pyproject\.toml|README\.md|CHANGELOG\.md|LICENSE|NOTICE(\.md)?"
    r"|wheels/plyfile-[\d.]+-py3-none-any\.whl"
    r"|blender_addon/([a-z_]+/)*\w+\.py"
    r"|engine/([a-z_]+/)*\w+\.(py|json|jpg|png|md|txt|html|css|js)"
    r"|engine/geometry/small_depth\.safetensors)"
)
NEEDED = (
    "engine/__main__.py",
    "engine/service/server.py",
    "engine/commands/serve.py",
    "engine/geometry/small_depth.safetensors",
    "blender_addon/jobs/session.py",
    "install_deps.py",
    "pyproject.toml",
)
MANIFEST = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))


def run_tool(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it would be committed now, with the rubbish that a working tree
    collects.
    """
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, or git is not installed")
    folder = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    rubbish = (
        ".env",
        ".venv/lib/a.py",
        "engine/__pycache__/a.pyc",
        "out/demo/scene.ply",
        "build/b.py",
        "old.zip",
        "shared/data/a.png",
    )
    for name in rubbish:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("rubbish")
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip that Blender's own builder makes."""
    target = tmp_path_factory.mktemp("built") / "scene_splatter.zip"
    run_tool("build", "--source-dir", str(source), "--output-filepath", str(target))
    return target


def test_the_zip_holds_what_it_should_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    assert [name for name in names if not ALLOWED.fullmatch(name)] == []
    assert [
        name
        for name in (*NEEDED, *(wheel.removeprefix("./") for wheel in MANIFEST["wheels"]))
        if name not in names
    ] == []


def test_the_zip_is_small(built: Path) -> None:
    assert built.stat().st_size < 5e6


def test_blenders_own_tool_validates_folder_and_zip(source: Path, built: Path) -> None:
    run_tool("validate", str(source))
    run_tool("validate", str(built))


def test_the_manifest_agrees_with_the_engine() -> None:
    from scene_splatter.engine.bridge.protocol import ENGINE_VERSION

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert MANIFEST["version"] == ENGINE_VERSION == project["version"]
    assert MANIFEST["id"] == "scene_splatter" and MANIFEST["blender_version_min"] == "4.2.0"
    assert MANIFEST["license"] == ["SPDX:GPL-3.0-or-later"]
    assert all(
        len(text) <= 64 and not text.endswith(".")
        for text in (MANIFEST["tagline"], *MANIFEST["permissions"].values())
    )


def test_the_add_on_imports_no_torch_and_nothing_absolute_of_ours() -> None:
    """What Blender's Python has: the standard library, bpy and its kin, numpy, plyfile."""
    known = {
        *sys.stdlib_module_names,
        "bpy",
        "bpy_extras",
        "mathutils",
        "gpu",
        "gpu_extras",
        "blf",
        "idprop",
        "numpy",
        "plyfile",
    }
    for path in (ROOT / "blender_addon").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= known, f"{path.name} imports {names}"


INSTALL = """
import json, os, pathlib, sys, tempfile, time
import bpy
bpy.ops.extensions.package_install_files(
    filepath=sys.argv[1], repo="user_default", enable_on_install=True, overwrite=True
)
name = "bl_ext.user_default.scene_splatter"
found = {"enabled": name in bpy.context.preferences.addons}
found["panel"] = hasattr(bpy.types, "SCENESPLATTER_PT_main")
found["property"] = bpy.context.scene.scene_splatter.settings.segment_length
resources = pathlib.Path(os.environ["BLENDER_USER_RESOURCES"])
found["wheel"] = any(resources.rglob("site-packages/plyfile.py"))
found["torch"] = "torch" in sys.modules
addon = sys.modules[name + ".blender_addon.jobs.engine_location"]
found["package"] = str(addon.PACKAGE)
found["user_folder"] = str(addon.user_folder("engine"))
found["preferences"] = addon.preferences_in(bpy.context).engine_source
session = sys.modules[name + ".blender_addon.jobs.delivery"].session
jobs = sys.modules[name + ".blender_addon.jobs.folders"]
os.environ[addon.PYTHON_VARIABLE] = sys.executable
folder = jobs.new_folder(pathlib.Path(tempfile.mkdtemp()), "a")
session.start(addon.engine_command(bpy.context), folder, jobs.Ticket("", "Scene", "a"), "rehearsal")
end = time.monotonic() + 30
while session.status.phase.value not in ("delivering", "idle") and time.monotonic() < end:
    for message in session._client.poll():
        session._take(message)
    time.sleep(0.02)
found["rehearsal"] = session.status.outputs.get("steps")
session.close()
bpy.ops.preferences.addon_disable(module=name)
found["gone"] = not (
    hasattr(bpy.types, "SCENESPLATTER_PT_main") or hasattr(bpy.types.Scene, "scene_splatter")
)
bpy.ops.preferences.addon_enable(module=name)
found["again"] = hasattr(bpy.types, "SCENESPLATTER_PT_main")
repositories = [repository.module for repository in bpy.context.preferences.extensions.repos]
bpy.ops.extensions.package_uninstall(
    repo_index=repositories.index("user_default"), pkg_id="scene_splatter"
)
found["uninstalled"] = not hasattr(bpy.types, "SCENESPLATTER_PT_main")
print("FOUND", json.dumps(found), flush=True)
os._exit(0)
"""


def test_the_zip_installs_enables_runs_its_engine_disables_and_uninstalls(
    built: Path, tmp_path: Path
) -> None:
    """In a process of its own, with user folders of its own whose name has a space and an
    umlaut.
    """
    user = tmp_path / "user ü"
    user.mkdir()
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(user)}
    done = subprocess.run(
        [sys.executable, "-c", INSTALL, str(built)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line is not None, done.stdout + done.stderr
    found = json.loads(line.removeprefix("FOUND "))
    assert all(found.pop(name).startswith(str(user)) for name in ("package", "user_folder")), found
    assert found == {
        "enabled": True,
        "panel": True,
        "property": 25,
        "wheel": True,
        "torch": False,
        "preferences": "OWN",
        "rehearsal": 5,
        "gone": True,
        "again": True,
        "uninstalled": True,
    }
