"""view: fly through a scene in the browser; a job that is at work shows what it has so far."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from ..bridge.errors import UserError

if TYPE_CHECKING:
    from ..bridge.camera_file import CameraPath
    from ..outputs.viewer.contents import Contents
    from ..outputs.viewer.server import Source, State

log = logging.getLogger(__name__)
_WAIT_S = 2.0  # between two looks at a job that has no scene yet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of view."""
    parser.add_argument(
        "scene",
        metavar="SCENE",
        help="a splat file of any known format, a job's folder (also while it runs), or a folder "
        "of numbered .ply files",
    )
    parser.add_argument("--cameras", metavar="FILE", help="a camera path to show and play along")
    parser.add_argument("--picture", metavar="FILE", help="what the first camera sees, beside it")
    parser.add_argument("--count", type=int, help="show no more than so many splats")
    parser.add_argument(
        "--fps", type=float, default=24.0, help="frames a second of numbered files (default 24)"
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument(
        "--no-browser", action="store_true", help="only say the address, open nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C. The address is the first line of standard output."""
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port} is no port.", "Give 1 to 65535, or 0 for a free one.")
    if not 0 < args.fps <= 1000:
        raise UserError(f"--fps {args.fps} is not possible.", "Give a number up to 1000.")
    from ..outputs.viewer.server import Server

    source = open_source(
        Path(args.scene),
        Path(args.cameras) if args.cameras else None,
        Path(args.picture) if args.picture else None,
        args.count,
        args.fps,
    )
    try:
        if isinstance(source, JobSource):
            source.wait()
        source.state()  # what cannot be shown is said before a browser opens
        server = Server(source, args.port, variants_beside(source))
        with contextlib.closing(server):
            sys.stdout.write(f"{server.address}\n")
            sys.stdout.flush()
            if not args.no_browser and not _opened(server.address):
                sys.stderr.write("No browser was found: open the address above in one.\n")
            sys.stderr.write("Ctrl-C ends it.\n")
            server.serve()
    except KeyboardInterrupt:
        return 0
    return 0


def _opened(address: str) -> bool:
    """Whether a browser with windows took the address."""
    if sys.platform not in ("win32", "darwin") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False  # a browser of the terminal would take it over, and draws no WebGL
    return webbrowser.open(address)


def open_source(
    scene: Path, cameras: Path | None, picture: Path | None, count: int | None, fps: float
) -> FileSource | JobSource | SequenceSource:
    """What SCENE is. Raises UserError for what is none of it."""
    if picture is not None and not picture.is_file():
        raise UserError(f"The picture {picture} does not exist.", "Check the name.")
    path = None
    if cameras is not None:
        from .render import load_cameras

        path = load_cameras(cameras)
    if not os.path.exists(scene):
        raise UserError(f"{scene} does not exist.", "Check the name.")
    if not scene.is_dir() or (scene / "meta.json").is_file():
        return FileSource(scene, path, picture, count)
    from ..job.folder import holds_job

    if holds_job(scene):
        return JobSource(scene, path, picture, count)
    return SequenceSource(scene, path, picture, count, fps)


class FileSource:
    """One splat file; with the cameras and the picture of the job whose result it is."""

    frames, fps = 1, 0.0

    def __init__(
        self, file: Path, cameras: CameraPath | None, picture: Path | None, count: int | None
    ) -> None:
        self._asked = (file, cameras, picture, count)
        self._state: State | None = None
        self._lock = threading.Lock()

    def state(self) -> State:
        from ..outputs.viewer.server import State

        with self._lock:
            if self._state is None:
                self._state = State("1", False, "", scene_contents(*self._asked))
            return self._state

    def frame(self, index: int) -> bytes:
        return self.state().contents.spz


def scene_contents(
    file: Path, cameras: CameraPath | None, picture: Path | None, count: int | None
) -> Contents:
    """What a page shows of a splat file. Raises UserError."""
    from .. import formats
    from ..job.newest import beside
    from ..outputs.viewer.contents import contents

    scene = formats.read(file)
    job = beside(file)
    segments: tuple[tuple[int, int], ...] = ()
    if job is not None and cameras is None:
        cameras, segments = job.cameras, job.segments
        picture = picture or job.picture
    return contents(
        scene, file.name, cameras=cameras, picture=picture, segments=segments, count=count
    )


class JobSource:
    """A job's folder: its scene, or what the last finished segment has of it."""

    frames, fps = 1, 0.0

    def __init__(
        self, folder: Path, cameras: CameraPath | None, picture: Path | None, count: int | None
    ) -> None:
        self.folder, self._cameras, self._picture, self._count = folder, cameras, picture, count
        self._state: State | None = None
        self._lock = threading.Lock()

    def beside(self, folder: Path) -> JobSource:
        """Another variant, shown in the same way."""
        return JobSource(folder, self._cameras, self._picture, self._count)

    def wait(self) -> None:
        """Until the first segment is there. An interrupt ends it."""
        from ..job.newest import newest

        said = False
        while newest(self.folder).file is None:
            if not said:
                sys.stderr.write(
                    f"{self.folder} has no scene yet: its first segment is not finished. Waiting "
                    "for it; Ctrl-C ends it.\n"
                )
                said = True
            time.sleep(_WAIT_S)

    def state(self) -> State:
        from ..job.newest import newest
        from ..outputs.viewer.server import State

        with self._lock:
            now = newest(self.folder)
            if now.file is None:
                raise UserError(
                    f"{self.folder} has no scene yet: its first segment is not finished.",
                    "Try again when it is.",
                )
            count = len(now.segments)
            note = "" if now.finished else f"{count} segment{'s' * (count > 1)} so far"
            if self._state is None or self._state.version != now.version:
                shown = self._contents(now.file, now.cameras, now.picture, now.segments)
                self._state = State(now.version, not now.finished, note, shown)
            return self._state

    def _contents(
        self,
        file: Path,
        cameras: CameraPath | None,
        picture: Path | None,
        segments: tuple[tuple[int, int], ...],
    ) -> Contents:
        from .. import formats
        from ..formats.scene import SplatScene
        from ..outputs.viewer.contents import contents

        if file.suffix == ".ply":
            scene = formats.read(file)
        else:
            import torch

            from ..bridge.splat_file import Splats
            from ..job.folder import load_gaussians

            loaded = load_gaussians(file, torch.device("cpu"))
            scene = SplatScene(Splats(*(values.numpy() for values in loaded)))
        return contents(
            scene,
            self.folder.resolve().name,
            cameras=self._cameras or cameras,
            picture=self._picture or picture,
            segments=() if self._cameras else segments,
            count=self._count,
        )

    def frame(self, index: int) -> bytes:
        return self.state().contents.spz


def variants_beside(source: Source) -> dict[str, Source]:
    """The variants of the job that a source is, by name, itself among them; none of any other. One
    without a scene is left out.
    """
    from ..bridge.variants import folders, job_of
    from ..job.newest import newest

    if not isinstance(source, JobSource):
        return {}
    own = source.folder.resolve()
    return {
        name: source if folder == own else source.beside(folder)
        for name, folder in folders(job_of(own)).items()
        if folder == own or newest(folder).file is not None
    }


class SequenceSource:
    """A folder of numbered .ply files, read when they are asked for."""

    def __init__(
        self,
        folder: Path,
        cameras: CameraPath | None,
        picture: Path | None,
        count: int | None,
        fps: float,
    ) -> None:
        from ..formats.sequence import sequence

        self._files = sequence(folder).files
        self.frames, self.fps = len(self._files), fps
        self._name, self._rest, self._count = folder.resolve().name, (cameras, picture), count
        self._state: State | None = None
        self._lock = threading.Lock()

    def state(self) -> State:
        from ..outputs.viewer.server import State

        with self._lock:
            if self._state is None:
                cameras, picture = self._rest
                first = scene_contents(self._files[0], cameras, picture, self._count)
                self._state = State("1", False, "", first)
            return self._state

    def frame(self, index: int) -> bytes:
        return scene_contents(self._files[index], None, None, self._count).spz
