"""Files that appear whole or not at all, also when the program is killed. Shared with Blender.

A file is written under a name of its own beside the target, `.<stem>.<process>.partial<suffix>`,
and renamed. What a killed process left under such a name is removed by the next writer of the same
target, or by `sweep` for a folder that is known to be ours alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import UserError

_HINT = "Check that the folder exists and may be written to, and that its disk has room."
FULL_DISK = (  # what a job has to say there
    "Free some disk space and start the job again; it goes on from its last finished segment."
)
_LONGEST = 80  # characters of a stem that a temporary name repeats; file systems end at 255 bytes
# All but the first are names that earlier versions gave.
_PARTIAL = re.compile(
    r"\.(?!blender\.).+\.partial(\.[^.]*)?"
    r"|\..+\.part|\.[0-9a-f]{8}\.part\..+|flythrough\.part\.mp4"
    r"|(settings|preview|result|outcome|cameras|depth|path)\.[a-z]+\.(partial|part|tmp)"
)
_TEMPORARY = re.compile(r"scene_splatter_(\d+)_\w+")
_PROCESS = re.compile(r"\.(\d+)\.partial(\.[^.]*)?")


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to; what is there becomes `path` when the block ends well, and goes when not.

    The file under that path exists already, empty and made anew, so that no link is written
    through. A link at `path` itself is replaced, not followed. Raises OSError.
    """
    path = Path(path)
    _remove_stale(path)
    temporary = partial_name(path)
    make_new(temporary)
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_path(path: str | Path, hint: str = _HINT) -> Iterator[Path]:
    """`whole_file` for a file that a user asked for: raises UserError, with `hint`, for OSError."""
    try:
        with whole_file(path) as temporary:
            yield temporary
    except OSError as error:
        folder = Path(path).parent
        if not folder.is_dir():
            raise UserError(f"The folder {folder} does not exist.", hint) from error
        raise UserError(f"{path} cannot be written: {error.strerror or error}.", hint) from error


@contextlib.contextmanager
def replacing(path: str | Path, hint: str = _HINT) -> Iterator[BinaryIO]:
    """Give an open file that becomes `path` when the block ends well; see `replacing_path`."""
    with (
        replacing_path(path, hint) as temporary,
        temporary.open("wb") as file,
    ):  # closed before the rename, which Windows insists on
        yield file


@contextlib.contextmanager
def scratch_folder(path: str | Path) -> Iterator[Path]:
    """A folder for what goes into the file `path`, beside it; a killed process's is removed by
    the next. Raises OSError.
    """
    path = Path(path)
    folder = partial_name(path.with_suffix(".parts"))
    _remove_stale(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A private folder where the system keeps temporary files; those of killed processes of ours
    are removed first.
    """
    place = Path(tempfile.gettempdir())
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(place)):
            match = _TEMPORARY.fullmatch(entry.name)
            owner = entry.stat(follow_symlinks=False).st_uid
            if match and owner == getattr(os, "getuid", int)() and not _lives(int(match[1])):
                _remove(entry)
    with tempfile.TemporaryDirectory(
        prefix=temporary_prefix(), dir=place, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def temporary_prefix() -> str:
    """How the names of this process's temporary folders begin."""
    return f"scene_splatter_{os.getpid()}_"


def partial_name(path: Path) -> Path:
    """Where this process writes `path` before it is whole: same folder, same suffix."""
    stem = path.stem
    if len(stem) > _LONGEST:
        stem = f"{stem[: _LONGEST - 9]}_{zlib.crc32(stem.encode('utf-8', 'replace')):08x}"
    return path.with_name(f".{stem}.{os.getpid()}.partial{path.suffix}")


def is_partial(name: str) -> bool:
    """Whether a file of that name is a leftover of a write in a job's folder, by this version or an
    earlier one.

    Blender's own ticket is not: it may be at it now.
    """
    return _PARTIAL.fullmatch(name) is not None


def make_new(path: Path) -> None:
    """An empty file at `path`; what was there, a link too, is removed first. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def append_text(path: Path, text: str) -> None:
    """Add text at the end of a file, which is made if need be. A link is not followed. Raises
    OSError.
    """
    if is_link(path):
        raise OSError(f"{path} is a link")
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="replace") as file:
        file.write(text)


def is_link(path: Path) -> bool:
    """Whether a path is a symbolic link, or a junction of Windows."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    reparse = getattr(found, "st_file_attributes", 0) & 0x400  # FILE_ATTRIBUTE_REPARSE_POINT
    return stat.S_ISLNK(found.st_mode) or bool(
        reparse and getattr(found, "st_reparse_tag", 0) == 0xA0000003  # a mount point
    )


def refuse_links(folder: Path) -> None:
    """UserError where a job's folder holds links, pipes or devices: what is written or read
    through them lies elsewhere.
    """
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            place = Path(entry.path)
            if is_link(place):
                raise UserError(
                    f"{place} is a link; the engine follows none in a job's folder.",
                    "Delete the link, or put a copy of what it leads to in its place.",
                )
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                waiting.append(place)
            elif not stat.S_ISREG(mode):
                raise UserError(f"{place} is no ordinary file.", "Delete it, then try again.")


def sweep(folder: Path) -> None:
    """Remove all leftovers of writes in a folder that nobody else works in; folders inside it
    stay as they are.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if is_partial(entry.name):
                _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(entry.path)


def _remove_stale(path: Path) -> None:
    """Leftovers of targets with the same stem whose process has ended."""
    start = partial_name(path).name.removesuffix(f".{os.getpid()}.partial{path.suffix}")
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            rest = entry.name.removeprefix(start)
            match = _PROCESS.fullmatch(rest) if rest != entry.name else None
            if match and not _lives(int(match[1])):
                _remove(entry)


def _lives(process: int) -> bool:
    """Whether a process of that number runs on this machine."""
    if process == os.getpid():
        return True
    if os.name == "nt":  # there os.kill ends a process, whatever the signal
        import ctypes

        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]  # Windows only
        handle = kernel.OpenProcess(0x1000, False, process)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
