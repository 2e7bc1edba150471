"""The process in which every USD file is read: limited in memory and time, so that no file can end
the engine or fill the machine.

Damaged files can crash OpenUSD, and small texts can compose into endless stages. The child reads
the stage (`usd_stage`) and hands the arrays back in a file; the engine itself never opens one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.reading import head_of, reading
from ..bridge.splats import Splats
from ..bridge.whole_file import temporary_folder
from .scene import Metadata, SplatScene, damaged

_ROOT = Path(__file__).resolve().parents[2]
_FREE_BYTES = 512 << 20  # what OpenUSD itself takes
_BYTES_A_BYTE = 40  # packed .usdc; text needs ten
_CPU_S, _BYTES_A_SECOND = 6, 5e6
_WAIT_FACTOR = 8  # a busy machine may be this much slower than its processor time
_CAMERA = ("K", "world_from_camera")


def read(path: Path, what: str) -> SplatScene | CameraPath | None:
    """The "scene" or the "cameras" of a stage file. Raises UserError, also when the guard gave
    up.
    """
    path = Path(path).resolve()
    head_of(path)  # a plain file, which can be read
    limit_s = _CPU_S + path.stat().st_size / _BYTES_A_SECOND
    with temporary_folder() as folder:
        command = [sys.executable, "-m", __name__, str(path), str(folder), what, str(limit_s)]
        env = {k: v for k, v in os.environ.items() if k != "PYTHONSTARTUP"}
        # Blender starts the engine with PYTHONSAFEPATH: the current folder is not searched
        env["PYTHONPATH"] = str(_ROOT)
        try:
            done = subprocess.run(
                command,
                cwd=_ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=limit_s * _WAIT_FACTOR,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _gave_up(path, limit_s) from error
        answer = Path(folder) / "answer.json"
        if done.returncode != 0 or not answer.is_file():
            raise _gave_up(path, limit_s)
        said = json.loads(answer.read_text("utf-8"))
        if "error" in said:
            raise UserError(said["error"], said["hint"])
        with np.load(Path(folder) / "arrays.npz", allow_pickle=False) as arrays:
            return _restored(said, dict(arrays), what)


def _gave_up(path: Path, limit_s: float) -> UserError:
    return damaged(
        path, f"USD cannot read it, or not within {limit_s:.0f} s and the memory of a sound file"
    )


def _restored(
    said: dict[str, Any], arrays: dict[str, np.ndarray], what: str
) -> SplatScene | CameraPath | None:
    cameras = None
    if said["cameras"] is not None:
        (width, height), fps, unit, notes = said["cameras"]
        K, poses = (arrays[name] for name in _CAMERA)
        cameras = CameraPath(K, poses, width, height, fps, unit, tuple(notes))
    if what == "cameras":
        return cameras
    known: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in said["metadata"].items()
    }
    return SplatScene(
        Splats(*(arrays[name] for name in Splats._fields)), Metadata(**known), cameras
    )


def _limit(path: Path, limit_s: float) -> None:
    if sys.platform == "linux":
        import resource

        most = _FREE_BYTES + _BYTES_A_BYTE * path.stat().st_size
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s) + 1, int(limit_s) + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(path: Path, what: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from . import usd_stage

    arrays: dict[str, np.ndarray] = {}
    said: dict[str, Any] = {"cameras": None}
    if what == "scene":
        scene = usd_stage.scene_of(path)
        cameras = scene.cameras
        arrays |= scene.splats._asdict()
        said["metadata"] = vars(scene.metadata)
    else:
        cameras = usd_stage.cameras_of(path)
    if cameras is not None:
        arrays |= {name: getattr(cameras, name) for name in _CAMERA}
        size = (int(cameras.width), int(cameras.height))
        said["cameras"] = (size, float(cameras.fps), cameras.unit, cameras.notes)
    return said, arrays


def _main(path: Path, folder: Path, what: str, limit_s: float) -> None:
    _limit(path, limit_s)
    try:
        with reading(path):
            said, arrays = _answer(path, what)
    except UserError as error:
        said, arrays = {"error": error.message, "hint": error.hint}, {}
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    (folder / "answer.json").write_text(json.dumps(said), "utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
    sys.stdout.flush()
    os._exit(0)  # USD's own leave-taking can crash after a damaged file
