"""What a job is made of, by content: two jobs are the same where all of this is the same.

Names and places of files do not count, their bytes do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..bridge import camera_file
from ..bridge.errors import UserError

NAMES = {
    "image": "the picture",
    "path": "the camera path",
    "depth": "the depth map",
    "initial": "the first Gaussians",
    "redo": "what is redone",
    "mask": "the mask",
}


class Identity(NamedTuple):
    """A job's settings by name, and the SHA-256 of its inputs by their part in it (keys of
    NAMES).
    """

    settings: dict[str, Any]
    inputs: dict[str, str]


def digest(file: Path) -> str:
    """Compute the SHA-256 of a file's content. Raises UserError where it cannot be read."""
    try:
        if not file.is_file():  # a pipe or a device would never end
            raise UserError(
                f"{file} does not exist, or is no file.", "Put it back, then try again."
            )
        with open(file, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror or error}.", "Check the file and its rights."
        ) from error


def of(settings: dict[str, Any], inputs: Mapping[str, Any]) -> Identity:
    """Make the identity of flat settings {name: value} and of inputs, files or `Text`, by their
    part in the job.
    """
    return Identity(
        settings,
        {
            part: digest(source)
            if isinstance(source, Path)
            else hashlib.sha256(source.content).hexdigest()
            for part, source in inputs.items()
        },
    )


def differences(earlier: Identity, now: Identity) -> list[str]:
    """Say what is not the same: "the picture", "seed (5, was 0)". Empty for the same job."""
    changed = [
        text for part, text in NAMES.items() if earlier.inputs.get(part) != now.inputs.get(part)
    ]
    changed += [
        f"{name} ({_shown(now.settings.get(name))}, was {_shown(earlier.settings.get(name))})"
        for name in sorted(earlier.settings.keys() | now.settings.keys())
        if earlier.settings.get(name) != now.settings.get(name)
    ]
    return changed


def _shown(value: Any) -> str:
    text = "not set" if value in ("", None) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def same_cameras(one: bytes, other: bytes) -> bool:
    """Say whether two camera path files hold the same cameras, whatever way numbers are written."""
    try:
        a, b = (camera_file.from_json(json.loads(text), "path.json") for text in (one, other))
    except (UserError, ValueError, RecursionError):
        return False
    return (
        (a.width, a.height, a.fps, a.count) == (b.width, b.height, b.fps, b.count)
        and np.allclose(a.K, b.K, rtol=1e-9, atol=1e-9)
        and np.allclose(a.world_from_camera, b.world_from_camera, rtol=1e-9, atol=1e-9)
    )


def from_json(data: Any) -> Identity | None:
    """Return the identity that job.json holds; None where it holds none."""
    if not isinstance(data, dict):
        return None
    settings, inputs = data.get("settings"), data.get("inputs")
    if not isinstance(settings, dict) or not isinstance(inputs, dict):
        return None
    return Identity(settings, {str(k): str(v) for k, v in inputs.items()})


def of_older_engine(settings_json: Any, files: list[Path]) -> str:
    """Compute the one number that job.json of version 0.1 holds: over settings.json and all input
    files, by their names.
    """
    taken = hashlib.sha256(json.dumps(settings_json, sort_keys=True).encode())
    for file in sorted(files):
        taken.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return taken.hexdigest()
