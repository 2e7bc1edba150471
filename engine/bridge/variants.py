"""Where the variants of a job lie: side by side in its folder, the first result being v1. Shared
with Blender: standard library only.

    JOB/                 v1
    JOB/variants/v2/     a redo, itself a job folder; input/redo.json says what it began with
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = "variants"
FIRST = "v1"
_NAME = re.compile(r"v([2-9]|[1-9]\d{1,5})")


def holds_job(folder: Path) -> bool:
    """Say whether a job was prepared in a folder to the end."""
    return (folder / "settings.json").is_file()


def job_of(folder: Path) -> Path:
    """Return the folder of the job whose variant a folder is; the folder itself for any other."""
    home = folder.parent.parent
    return home if folder.parent.name == FOLDER and holds_job(home) else folder


def name_of(folder: Path) -> str:
    """Return the name of the variant that a job folder is: "v1" for the job itself."""
    return FIRST if job_of(folder) == folder else folder.name


def number_of(name: str) -> int:
    """Return the number of a redo's name, 2 or more; 0 for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def folders(job: Path) -> dict[str, Path]:
    """Return the folders of a job's variants by name, the first result before the others."""
    found = [f for f in (job / FOLDER).glob("v*") if number_of(f.name) and holds_job(f)]
    return {FIRST: job} | {f.name: f for f in sorted(found, key=lambda f: number_of(f.name))}
