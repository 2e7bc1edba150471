"""Which Blenders the add-on is tested with, which Python each needs, and where their environments
are.

Standard library only: install_deps.py --dev and the test that runs the environments both use it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PYTHON_OF = {
    "4.2": "3.11",
    "4.5": "3.11",
    "5.0": "3.11",
    "5.1": "3.13",
    "5.2": "3.13",
    "5.3": "3.13",
}
DEBIAN_PACKAGES = (
    "libx11-6 libxrender1 libxxf86vm1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libxext6 "
    "libgl1 libgomp1 "
    "libegl1 libegl-mesa0 libgl1-mesa-dri"
)


def python_of(version: str) -> str:
    """The Python that Blender's module of this version is built for."""
    return PYTHON_OF[version]


def environment_of(root: Path, version: str) -> Path:
    """The folder of that Blender's environment."""
    return root / f".venv-blender-{version}"


def find_python(version: str) -> Path | None:
    """An interpreter of this version that really runs and can make environments, or None."""
    for candidate in _candidates(version):
        if candidate.is_file() and _is(candidate, version):
            return candidate
    return None


def _candidates(version: str) -> Iterator[Path]:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        yield Path(sys.executable)
    folders = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    for folder in folders:
        yield folder / f"python{version}"
    homes = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))]
    homes += [
        p.parent for p in folders if p.name == "shims"
    ]  # pyenv's root, where PYENV_ROOT is not set
    for home in homes:
        for found in sorted(home.glob(f"versions/{version}*"), reverse=True):
            yield found / "bin" / "python3"
            yield found / "python.exe"
    for found in sorted(
        Path.home().glob(f".local/share/uv/python/cpython-{version}*"), reverse=True
    ):
        yield found / "bin" / "python3"
    launcher = shutil.which("py") if os.name == "nt" else None
    if launcher:
        told = _run([launcher, f"-{version}", "-c", "import sys; print(sys.executable)"])
        if told.returncode == 0:
            yield Path(told.stdout.strip())


def _is(python: Path, version: str) -> bool:
    """pyenv leaves launchers on the PATH for versions that are not active: only running one
    tells.
    """
    told = _run(
        [
            str(python),
            "-I",
            "-c",
            "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])",
        ]
    )
    return told.returncode == 0 and told.stdout.strip() == version


def why_bpy_fails(python: Path) -> str:
    """Why Blender's module cannot be imported there, with the remedy; empty if it can."""
    told = _run([str(python), "-I", "-c", "import bpy"], timeout_s=120)
    if told.returncode == 0:
        return ""
    reason = next(
        (line for line in reversed(told.stdout.splitlines()) if line.strip()), "no reason given"
    )
    remedy = (
        f" On Debian: sudo apt-get install --no-install-recommends {DEBIAN_PACKAGES}"
        if ".so" in reason
        else ""
    )
    return f"its module cannot be imported: {reason}.{remedy}"


def _run(command: list[str], timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, stdout=str(error))
