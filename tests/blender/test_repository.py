"""Our own extension repository: one script makes the zip and the index that Blender reads."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

if importlib.util.find_spec("bpy") is None:
    pytest.skip("bpy is not installed in this Python", allow_module_level=True)
pytestmark = pytest.mark.blender

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(),
    reason="not a git checkout, or git is not installed",
)
def test_the_index_names_the_zip_with_its_checksum(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_repository.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "repository ä")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    version = tomllib.loads((ROOT / "blender_manifest.toml").read_text("utf-8"))["version"]
    archive = tmp_path / "repository ä" / f"scene_splatter-{version}.zip"
    entry = json.loads((archive.parent / "index.json").read_text("utf-8"))["data"][0]
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert entry["id"] == "scene_splatter" and entry["version"] == version
    assert entry["archive_hash"] == f"sha256:{digest}"
    assert entry["archive_size"] == archive.stat().st_size
    assert entry["archive_url"].endswith(archive.name)
