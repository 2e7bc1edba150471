"""The job folder: what is written when, atomically, and what a resume may trust.

    settings.json         the settings, complete
    input/                image, path.json, depth map, first Gaussians: copies, so a job can be moved and replayed
    job.json              fingerprint of settings and inputs, the models that were chosen
    segments/000/         one finished segment each; the folder appears by a rename, whole or not at all
    scene.ply ...         results, each written under a temporary name and renamed

A folder that has `segments/i` has everything that segment i + 1 needs; nothing in it changes later.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bridge import settings as settings_module
from ..bridge.errors import UserError
from ..bridge.settings import SceneSettings
from ..scene.gaussians import Gaussians

FORMAT_VERSION = 1
_JOB, _SETTINGS, _LOCK = "job.json", "settings.json", "job.lock"


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; a file that is not JSON is a UserError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not valid JSON: {error}.", "Delete the folder and start the job again."
        ) from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved over it when the block ends well and deleted when it does not."""
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Job:
    """One job folder, locked for as long as the object lives inside `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written = read_json(folder / _SETTINGS)
        self.settings: SceneSettings = settings_module.from_json(self._written)
        self.left_out = settings_module.left_out(self._written)  # sentences for the user

    @property
    def image(self) -> Path:
        """The input picture: the one file input/image.*."""
        return self._one_input("image")

    @property
    def path(self) -> Path:
        """The camera path: input/path.json."""
        return self._one_input("path")

    @property
    def depth(self) -> Path | None:
        """The depth map input/depth.*, where the settings name a file."""
        files = sorted((self.folder / "input").glob("depth.*"))
        return files[0] if files else None

    def _one_input(self, stem: str) -> Path:
        files = sorted((self.folder / "input").glob(f"{stem}.*"))
        if len(files) != 1:
            raise UserError(
                f"{self.folder / 'input'} must hold exactly one {stem} file, not {len(files)}.",
                "Start the job again.",
            )
        return files[0]

    def segment_folder(self, index: int) -> Path:
        return self.folder / "segments" / f"{index:03d}"

    def finished_segments(self) -> int:
        """How many segments, from the first on, are whole."""
        count = 0
        while self.segment_folder(count).is_dir():
            count += 1
        return count

    @contextmanager
    def new_segment(self, index: int) -> Iterator[Path]:
        """A folder to fill; it becomes segments/<index> when the block ends well."""
        final = self.segment_folder(index)
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                with open(file, "r+b") as handle:
                    os.fsync(handle.fileno())
        os.replace(partial, final)

    def start(self) -> None:
        """Write job.json, or check that the folder's finished segments belong to these settings and inputs.

        Raises UserError where they belong to others: nothing of another job is overwritten.
        """
        mine = {"format": FORMAT_VERSION, "fingerprint": self.fingerprint()}
        file = self.folder / _JOB
        earlier = read_json(file) if file.exists() else {}
        same = {name: earlier.get(name) for name in mine} == mine
        if earlier and not same and self.finished_segments():
            raise UserError(
                f"{self.folder} holds the work of a job with other settings or inputs.",
                "Choose another output folder, or delete this one.",
            )
        write_json(file, earlier if same else mine)

    def models(self) -> dict[str, str]:
        """The models with which the finished segments were made, by setting; empty before there are any."""
        return read_json(self.folder / _JOB).get("models", {}) if self.finished_segments() else {}

    def keep_models(self, models: dict[str, str]) -> None:
        """Note the models that are at work, for a later resume. After `start`."""
        write_json(self.folder / _JOB, read_json(self.folder / _JOB) | {"models": models})

    def discard(self) -> None:
        """Remove a job that never finished a segment, so that it can be started anew. UserError while an engine works on it."""
        with self.locked():
            for name in ("input", "segments"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            for name in (_JOB, _SETTINGS, "engine.log"):
                (self.folder / name).unlink(missing_ok=True)
        (self.folder / _LOCK).unlink()

    def fingerprint(self) -> str:
        """SHA-256 over the settings as they were written and the bytes of every input."""
        digest = hashlib.sha256(json.dumps(self._written, sort_keys=True).encode())
        for file in sorted((self.folder / "input").iterdir()):
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second engine on it gets a UserError. The lock ends with the process, however it ends."""
        with open(self.folder / _LOCK, "a+b") as handle:
            _lock(handle, self.folder)
            yield


def prepare(folder: Path, settings: SceneSettings, inputs: dict[str, Path], *, resume: bool) -> Job:
    """Make a job folder of settings and input files ({"image": ..., "path": ..., "depth": ..., "initial": ...}).

    A folder that already holds a job is only taken with `resume`, and then only if it is the
    same job. A folder with other things in it is left alone. Raises UserError.
    """
    if (folder / _SETTINGS).exists():
        job = Job(folder)
        if resume:
            if job.settings != settings:
                raise UserError(
                    f"{folder} holds a job with other settings.",
                    "Resume it with its own settings, or choose another --out.",
                )
            return job
        if job.finished_segments():
            raise UserError(
                f"{folder} already holds a job.",
                "Add --resume to continue it, or choose another --out.",
            )
        job.discard()
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty and is not a job folder.",
            "Choose an empty or a new folder for --out.",
        )
    (folder / "input").mkdir(parents=True, exist_ok=True)
    for stem, source in inputs.items():
        shutil.copyfile(source, folder / "input" / f"{stem}{source.suffix.lower()}")
    write_json(
        folder / _SETTINGS, settings_module.to_json(settings)
    )  # last: its presence says the inputs are whole
    return Job(folder)


def save_gaussians(path: Path, gaussians: Gaussians) -> None:
    """Exact float32 copy of a scene between segments (not for users: they get scene.ply)."""
    np.savez(
        path,
        **{name: tensor.detach().cpu().numpy() for name, tensor in gaussians._asdict().items()},
    )


def load_gaussians(path: Path, device: torch.device) -> Gaussians:
    """Inverse of `save_gaussians`."""
    with np.load(path, allow_pickle=False) as arrays:
        return Gaussians(*(torch.from_numpy(arrays[name]).to(device) for name in Gaussians._fields))


def _lock(handle: Any, folder: Path) -> None:
    busy = UserError(
        f"Another engine is working in {folder}.", "Wait for it or cancel it, then try again."
    )
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows only
        else:
            import fcntl

            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise busy from None
