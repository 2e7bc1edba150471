"""Runs tests/blender inside every Blender whose environment install_deps.py --dev has made.

SCENE_SPLATTER_BLENDER_TESTS=all: all files in all of them, as before a release.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from blender_versions import PYTHON_OF, environment_of, why_bpy_fails  # noqa: E402

from engine.bridge.client import child_environment  # noqa: E402

TIMEOUT_S = 1800
WHOLE = (
    "4.2",
    "5.3",
)  # the oldest and the newest run everything, the others what differs between Blenders
WITHOUT_BPY = ("test_session.py", "test_installer.py")  # they run where this file does
# They drive the engine for minutes, alike in every Blender: the first of WHOLE is enough.
ALIKE = ("test_addon_headless.py", "test_variants.py")
PARTS = (
    "test_splat_render.py",
    "test_splat_object.py",
    "test_cameras.py",
    "test_sequence.py",
    "test_free_view.py",
    "test_view_colours.py",
)
REQUIRED = os.environ.get(
    "SCENE_SPLATTER_BLENDERS", ""
).split()  # must be there: CI names them, so that none is skipped unseen


def absent(reason: str, version: str) -> None:
    """Skip, naming what is missing; fail where this Blender was asked for."""
    if version in REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.parametrize("version", sorted(PYTHON_OF))
def test_the_addon_in_blender(version, tmp_path, request):
    environment = environment_of(ROOT, version)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        absent(
            f"Blender {version} is not prepared: python3 install_deps.py --dev --blender "
            f"{version} (Python {PYTHON_OF[version]})",
            version,
        )
    all_of_them = os.environ.get("SCENE_SPLATTER_BLENDER_TESTS") == "all"
    everything = version in WHOLE or all_of_them
    wanted = ["tests/blender"] if everything else [f"tests/blender/{name}" for name in PARTS]
    if not all_of_them:
        left_out = WITHOUT_BPY + (() if version == WHOLE[0] else ALIKE)
        wanted += [f"--ignore=tests/blender/{name}" for name in left_out]
    problem = why_bpy_fails(python)
    if problem:
        absent(f"Blender {version}: {problem}", version)
    extra = {
        "BLENDER_USER_RESOURCES": str(tmp_path),
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    process = subprocess.Popen(
        [
            str(python),
            "-m",
            "pytest",
            *wanted,
            "-p",
            "no:cacheprovider",
            "-rs",
            "--durations=5",
            f"--basetemp={tmp_path / 'tmp'}",
        ],
        cwd=ROOT,
        env=child_environment(
            dict(os.environ), {**extra, "SCENE_SPLATTER_ENGINE_PYTHON": sys.executable}
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()  # an engine that it started leaves with it: its input ends
        pytest.fail(
            f"Blender {version} took more than {TIMEOUT_S} s:\n{process.communicate()[0][-8000:]}"
        )
    summary = output.strip().splitlines()[-1] if output.strip() else "no output"
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        sys.stdout.write(f"\nBlender {version}: {summary}\n")
    assert process.returncode == 0, output[-12000:]
    assert re.search(r"\b[1-9]\d* passed", output), output[-4000:]
