"""Locks that end with the process that holds them, however it ends. Shared with Blender."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import IO

from .whole_file import is_link

_BUSY = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}


def hold(path: Path, patience_s: float = 0.0) -> IO[bytes]:
    """Lock `path`, a file that is made if need be; the lock is held until the file is closed.

    Raises BlockingIOError where somebody else still holds it after `patience_s` seconds, and
    OSError where the file cannot be opened, is a link, or lies on a file system without locks.
    """
    if is_link(path):
        raise OSError(errno.ELOOP, "it is a link", str(path))
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags, 0o666), "r+b")
    end = time.monotonic() + patience_s
    while True:
        try:
            _lock(file.fileno())
            return file
        except OSError as error:
            if error.errno in _BUSY and time.monotonic() < end:
                time.sleep(0.05)
                continue
            file.close()
            if error.errno in _BUSY:
                raise BlockingIOError(error.errno, "somebody else holds it", str(path)) from None
            raise OSError(error.errno, "its file system knows no locks", str(path)) from error


def _lock(number: int) -> None:
    if os.name == "nt":
        import msvcrt

        os.lseek(number, 0, os.SEEK_SET)  # the byte that is locked is the one at the position
        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows only
    else:
        import fcntl

        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
