#!/usr/bin/env python3
"""Build the extension's zip and the index of an extension repository around it.

    python scripts/make_repository.py FOLDER [--blender BLENDER]

FOLDER then holds scene_splatter-<version>.zip and index.json; served by any web server, its
index.json is what people add under Edit > Preferences > Get Extensions > Repositories. The work is
done by `blender --command extension build` and `server-generate`: by the Blender that --blender
names, by the one on the PATH, or by the same tool inside this Python's bpy module.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tool(blender: str | None) -> list[str]:
    """The command that takes Blender's extension subcommands. SystemExit where there is none."""
    found = blender or shutil.which("blender")
    if found:
        return [found, "--command", "extension"]
    spec = importlib.util.find_spec("bpy")
    if spec is not None and spec.origin is not None:
        place = Path(spec.origin).parent
        for script in place.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"):
            return [sys.executable, str(script)]
    raise SystemExit("error: no Blender was found. Name one with --blender, or install bpy.")


def tracked_files() -> list[str]:
    """Files of the repository as git knows them, so that a working tree's rubbish stays out."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def make(folder: Path, blender: str | None = None) -> list[Path]:
    """Write the zip and index.json into `folder`; the files that lie there now."""
    command = tool(blender)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "scene_splatter"
        for name in tracked_files():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
        _run([*command, "build", "--source-dir", str(source), "--output-dir", str(folder)])
    _run([*command, "server-generate", "--repo-dir", str(folder)])
    return sorted(folder.iterdir())


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"error: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blender", help="a Blender to do it with (default: the one on the PATH)")
    arguments = parser.parse_args()
    for file in make(arguments.folder.resolve(), arguments.blender):
        print(file)
