"""Who may import whom: read from the source, so that a rule holds for code that no test runs."""

from __future__ import annotations

import ast
import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STANDARD = set(sys.stdlib_module_names) | {"__future__"}
TORCH_WORLD = {"torch", "numba", "scipy", "diffusers", "transformers", "gsplat", "imageio", "PIL"}
TORCH_WORLD |= {"warp"}
BLENDER_WORLD = {"bpy", "mathutils", "bmesh", "gpu", "gpu_extras", "blf", "bpy_extras", "_bpy"}
BRIDGE_NEEDS = {"numpy", "plyfile"}  # besides the standard library
NO_TORCH = [
    "engine/__init__.py",
    "engine/__main__.py",
    "engine/service/server.py",
    "engine/models/machine.py",
    "engine/service/rehearsal.py",
]
LOW = {"bridge", "scene"}
ROOMS = {  # room of the engine -> other rooms that it may import, inside functions too
    "bridge": set(),
    "scene": {"bridge"},
    "models": {"bridge"},
    "media": LOW,
    "formats": LOW,
    "cameras": LOW,
    "rasterize": LOW,
    "geometry": LOW | {"cameras", "media", "models", "rasterize"},
    "priors": LOW | {"geometry", "models"},
    "finishers": {"bridge", "models"},
    "method": LOW | {"finishers", "geometry", "priors", "rasterize"},
    "outputs": LOW | {"cameras", "formats", "media", "rasterize"},
    "job": LOW
    | {"cameras", "finishers", "formats", "geometry", "media", "method", "models", "outputs"}
    | {"priors", "rasterize"},
    "service": {"bridge", "job", "models"},
    "evaluation": LOW
    | {"cameras", "geometry", "job", "media", "method", "models", "priors", "rasterize"},
}
ROOMS["commands"] = set(ROOMS)  # they tie all together; only __main__ imports them
METHOD_TAKES = {  # what the paper's equations may know of the rooms that hold models
    "geometry": {"engine/geometry/completion.py", "engine/geometry/fill.py"},
    "priors": {"engine/priors/base.py"},
    "finishers": {"engine/finishers/base.py"},
}


def files_of(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "__pycache__" not in p.parts)


@functools.cache
def imports_of(path: Path, *, when_called: bool = True) -> frozenset[str]:
    """Absolute names, and files of this repository for relative names, that a module imports.

    Imports for type checking alone are left out; with `when_called` False, imports inside functions
    too.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                walk(child)
            return
        if not when_called and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(_targets(path, node))
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree)
    return frozenset(found)


def _targets(path: Path, node: ast.ImportFrom) -> set[str]:
    if not node.level:
        return {node.module or ""}
    folder = path.parent
    for _ in range(node.level - 1):
        folder = folder.parent
    base = folder.joinpath(*(node.module or "").split("."))
    files = {base.with_suffix(".py")} if node.module and base.with_suffix(".py").exists() else set()
    if not files:
        for alias in node.names:
            file = base / f"{alias.name}.py"
            package = base / alias.name / "__init__.py"
            files.add(
                file if file.exists() else package if package.exists() else base / "__init__.py"
            )
    return {f.relative_to(ROOT).as_posix() for f in files}


def existing(file: str, seen: dict[str, str]) -> Path:
    assert (ROOT / file).exists(), f"{seen.get(file)} imports {file}, which does not exist"
    return ROOT / file


def reachable(path: str, *, when_called: bool = True) -> dict[str, str]:
    """Everything that importing `path` brings, by name, with the file that imports it."""
    seen: dict[str, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        for name in imports_of(existing(file, seen), when_called=when_called):
            if name not in seen:
                seen[name] = file
                if name.endswith(".py"):
                    waiting.append(name)
    return seen


def top(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("folder", ["engine", "blender_addon"])
def test_inside_the_packages_imports_are_relative(folder):
    own = {"engine", "blender_addon", "scene_splatter", "tests", "benchmarks"}
    wrong = {
        f"{p.relative_to(ROOT)}: {n}"
        for p in files_of(folder)
        for n in imports_of(p)
        if not n.endswith(".py") and top(n) in own
    }
    assert not wrong


def test_the_engine_reaches_no_blender():
    wrong = {
        f"{p.relative_to(ROOT)}: {n}"
        for p in files_of("engine")
        for n in imports_of(p)
        if top(n) in BLENDER_WORLD
    }
    wrong |= {
        f"{p.relative_to(ROOT)}: {n}"
        for p in files_of("engine")
        for n in imports_of(p)
        if n.startswith("blender_addon")
    }
    assert not wrong


def test_the_addon_reaches_no_torch_however_far():
    assert files_of("blender_addon")
    wrong = {
        f"{path.relative_to(ROOT)} -> {by}: {name}"
        for path in files_of("blender_addon")
        for name, by in reachable(path.relative_to(ROOT).as_posix()).items()
        if not name.endswith(".py") and top(name) in TORCH_WORLD
    }
    assert not wrong


def test_the_addon_needs_nothing_but_blender_numpy_and_plyfile():
    allowed = STANDARD | BLENDER_WORLD | {"numpy", "plyfile", "idprop", "addon_utils"}
    wrong = {
        f"{path.relative_to(ROOT)} -> {by}: {name}"
        for path in files_of("blender_addon")
        for name, by in reachable(path.relative_to(ROOT).as_posix()).items()
        if not name.endswith(".py") and top(name) not in allowed
    }
    assert not wrong


def test_the_addon_imports_of_the_engine_the_bridge_alone():
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files_of("blender_addon")
        for name in imports_of(path)
        if name.startswith("engine/") and not name.startswith("engine/bridge/")
    }
    assert not wrong


def test_the_bridge_reaches_nothing_of_ours():
    for path in files_of("engine/bridge"):
        for name, by in reachable(path.relative_to(ROOT).as_posix()).items():
            if name.endswith(".py"):
                assert name.startswith("engine/bridge/") or name == "engine/__init__.py", (
                    f"{by} imports {name}"
                )
            else:
                assert top(name) in STANDARD | BRIDGE_NEEDS, f"{by} imports {name}"


def room_of(file: str) -> str:
    parts = file.split("/")
    return parts[1] if len(parts) > 2 else ""


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_the_rooms_below_it(room):
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files_of(f"engine/{room}")
        for name in imports_of(path)
        if name.startswith("engine/") and room_of(name) not in ROOMS[room] | {room}
    }
    assert not wrong


def test_every_room_is_listed():
    found = {room_of(p.relative_to(ROOT).as_posix()) for p in files_of("engine")} - {""}
    assert found == set(ROOMS)


def test_the_method_knows_models_by_their_interface_alone():
    for path in files_of("engine/method"):
        for name in imports_of(path):
            allowed = METHOD_TAKES.get(room_of(name))
            assert allowed is None or name in allowed, f"{path.name} imports {name}"


def test_networks_do_not_import_who_uses_them():
    for path in files_of("engine/geometry/networks"):
        for name in imports_of(path):
            own = name.startswith("engine/geometry/networks/")
            assert own or room_of(name) != "geometry" or name == "engine/geometry/base.py", name


def test_no_module_needs_itself_to_be_loaded():
    files = {
        p.relative_to(ROOT).as_posix(): p for f in ("engine", "blender_addon") for p in files_of(f)
    }
    graph = {
        name: {n for n in imports_of(path, when_called=False) if n in files}
        for name, path in files.items()
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", NO_TORCH)
def test_the_command_line_and_the_server_start_without_torch(path):
    wrong = {
        f"{by}: {n}"
        for n, by in reachable(path, when_called=False).items()
        if top(n) in TORCH_WORLD | {"numpy"}
    }
    assert not wrong


def test_importing_the_engine_imports_nothing():
    assert not imports_of(ROOT / "engine" / "__init__.py")


def test_the_root_package_imports_nothing_until_called():
    assert not {n for n in imports_of(ROOT / "__init__.py", when_called=False) if n != "__future__"}


def test_only_install_deps_decides_versions():
    """Everything the engine imports is pinned in pyproject.toml (or is a part of what is
    pinned).
    """
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = [
        *project["project"]["dependencies"],
        *(p for group in project["project"]["optional-dependencies"].values() for p in group),
    ]
    assert all("==" in pin for pin in pins)
    names = {pin.split("==")[0].split("[")[0].lower().replace("-", "_") for pin in pins}
    import_names = {
        "PIL": "pillow",
        "imageio_ffmpeg": "imageio_ffmpeg",
        "pxr": "usd_core",
        "yaml": "pyyaml",
        "skimage": "scikit_image",
        "warp": "warp_lang",
    }
    used = {
        top(n) for p in files_of("engine") for n in imports_of(p) if not n.endswith(".py")
    } - STANDARD
    unpinned = {n for n in used if import_names.get(n, n).lower().replace("-", "_") not in names}
    assert not unpinned
