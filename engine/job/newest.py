"""The newest scene of a job folder, finished or at work, and what belongs to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..bridge import camera_file
from ..bridge.camera_file import CameraPath
from .folder import GAUSSIANS, Job, read_json
from .report import read_stats


class Newest(NamedTuple):
    """What can be looked at now."""

    file: Path | None  # scene.ply, else the Gaussians of the last finished segment; None: not yet
    version: str  # another one when the file is another
    finished: bool
    segments: tuple[tuple[int, int], ...]  # new frames of each finished segment, first and end
    cameras: CameraPath | None  # None before the job has settled them
    picture: Path | None


def newest(folder: Path) -> Newest:
    """What a job folder has to show. Raises UserError where it holds no job, or a damaged one."""
    job = Job(folder)
    finished = is_finished(folder)
    done = job.finished_segments()
    scene = folder / "scene.ply"
    gaussians = job.segment_folder(done - 1) / GAUSSIANS
    file = scene if finished and scene.is_file() else gaussians if gaussians.is_file() else None
    cameras, picture = folder / "cameras.json", folder / "input.png"
    return Newest(
        file,
        _version(file, done),
        finished,
        _segments(job, done),
        camera_file.read(cameras) if cameras.is_file() else None,
        picture if picture.is_file() else job.image,
    )


def beside(scene: Path) -> Newest | None:
    """What belongs to a scene file that is a job's result; None for any other file."""
    folder = scene.parent
    own = scene.name in ("scene.ply", "scene_linear.ply") and (folder / "settings.json").is_file()
    return newest(folder) if own else None


def is_finished(folder: Path) -> bool:
    """Say whether a job was done to the end, by its own record; its results are not looked at."""
    record = read_json(folder / "job.json") if (folder / "job.json").is_file() else {}
    if not isinstance(record, dict) or "results" in record:
        return isinstance(record, dict)
    # version 0.1.0 noted nothing; its report was the last that it wrote
    return "format" not in record and (folder / "report.html").is_file()


def _version(file: Path | None, done: int) -> str:
    if file is None:
        return ""
    status = os.stat(file)
    return f"{done}-{file.name}-{status.st_mtime_ns}-{status.st_size}"


def _segments(job: Job, done: int) -> tuple[tuple[int, int], ...]:
    new, found = 0, []
    for index in range(done):
        stop = int(read_stats(job.segment_folder(index) / "stats.json")["stop"])
        found.append((new, stop))
        new = stop
    return tuple(found)
