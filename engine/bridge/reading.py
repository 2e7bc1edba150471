"""One boundary around every reader of a foreign file, and what all of them do first.

Shared with Blender: standard library and numpy only. A reader runs inside `reading`: whatever a
file's bytes make it raise becomes a UserError that names the file. Names are opened by `open_file`,
which takes plain files alone, since a pipe or a device would never end. `text_of` guesses
encodings.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from .errors import UserError

log = logging.getLogger(__name__)

AGAIN = "Export or download it again."
_TEXT_BYTES = 512 << 20
_NUMBER_PARTS = re.compile(r"(\d+)")


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], remedy: str = AGAIN) -> Iterator[None]:
    """Turn every exception of the block into a UserError about `path`; UserErrors pass as they are.

    `remedy` is the hint. What was raised goes to the log with its traceback, so that a fault of
    the reader can be told from a fault of the file.
    """
    name = os.fspath(path)
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is None:  # a decoder's complaint about the bytes
            log.info("%s", name, exc_info=True)
            raise UserError(f"{name} is damaged: {_first_line(error)}.", remedy) from error
        raise UserError(
            f"{name} cannot be read: {error.strerror or error}.",
            "Check the file's name, its permissions and the disk.",
        ) from error
    except MemoryError as error:
        raise UserError(
            f"{name} asks for more memory than there is.",
            "Use a smaller file, close other programs, or use a machine with more memory.",
        ) from error
    except Exception as error:
        from .errors import Cancelled

        if isinstance(error, Cancelled):
            raise
        log.info("%s", name, exc_info=True)
        raise UserError(f"{name} is damaged: {_first_line(error)}.", remedy) from error


def _first_line(error: BaseException) -> str:
    """What the exception says, in one short line."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a message that quotes bytes which are no text
        lines = []
    said = lines[0][:200].rstrip(" .:") if lines else ""
    return said or f"it cannot be understood ({type(error).__name__})"


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """The plain file `path`, open for reading. UserError for folders, pipes, devices and what
    cannot be opened.
    """
    path = Path(path)
    try:
        # without waiting: opening a pipe that nobody writes to would never return
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except (OSError, ValueError) as error:
        if path.is_dir():  # Windows refuses to open one
            raise UserError(f"Could not read {path}: it is a folder.", "Give a file.") from error
        raise UserError(
            f"Could not read {path}: {getattr(error, 'strerror', None) or error}.",
            "Check the file's name and rights.",
        ) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "it is a folder" if stat.S_ISDIR(mode) else "it is a pipe or a device, not a file"
        raise UserError(f"Could not read {path}: {what}.", "Give a file.")
    return os.fdopen(descriptor, "rb")


def head_of(path: str | os.PathLike[str], count: int = 512) -> bytes:
    """The first bytes of a plain file. UserError when it cannot be read or is empty."""
    with reading(path), open_file(path) as file:
        head = file.read(count)
    if not head:
        raise UserError(f"{path} is empty.", AGAIN)
    return head


def bytes_of(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """A whole plain file of at most `most` bytes. UserError when it is larger, empty, or cannot be
    read.
    """
    with reading(path), open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UserError(
                f"{path} has {size / 1e6:,.0f} MB, more than such a file can have "
                f"({most / 1e6:,.0f} MB).",
                "Check that it is the right file.",
            )
        data = file.read()
    if not data:
        raise UserError(f"{path} is empty.", AGAIN)
    return data


def text_of(path: str | os.PathLike[str], most: int = _TEXT_BYTES) -> str:
    """The text of a file: UTF-8, UTF-16 or UTF-32 with or without a mark, else Windows' western
    letters.

    UserError for files that hold bytes which no text has.
    """
    data = bytes_of(path, most)
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace")
    if b"\0" in data[:4096]:
        even, odd = data[:4096:2].count(0), data[1:4096:2].count(0)
        half = len(data[:4096]) / 2
        if odd > 0.4 * half and even < 0.1 * half:
            return data.decode("utf-16-le", "replace")
        if even > 0.4 * half and odd < 0.1 * half:
            return data.decode("utf-16-be", "replace")
        raise UserError(f"{path} is not a text file.", "Check that it is the right file.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def json_of(path: str | os.PathLike[str], most: int = _TEXT_BYTES) -> Any:
    """What a JSON file holds, in any encoding of `text_of`. UserError when it is not JSON."""
    return parsed_json(text_of(path, most), os.fspath(path))


def parsed_json(text: str, name: str, remedy: str = AGAIN) -> Any:
    """What JSON text says. UserError, which names `name`, when it is not JSON or nested without
    end.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not valid JSON ({_first_line(error)}).", remedy) from error


def npy_of(file: IO[bytes], size: int, what: str) -> np.ndarray:
    """The array of plain numbers in an open NPY file of `size` bytes, whose header must fit that
    size.

    UserError for pickles, text and headers that lie; no memory is taken before.
    """
    with reading(what, "Save it with numpy.save as plain numbers."):
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in read:
            raise UserError(f"{what} is NPY version {version}.", "Save it with numpy.save.")
        shape, fortran, dtype = read[version](file)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise UserError(
                f"{what} does not hold plain numbers.", "Save it with numpy.save as a float array."
            )
        count = math.prod(shape)
        if count * dtype.itemsize > size:
            raise UserError(
                f"{what} is damaged: its header claims {count:,} numbers, more than {size:,} "
                "bytes hold.",
                AGAIN,
            )
        data = file.read(count * dtype.itemsize)
        if len(data) < count * dtype.itemsize:
            raise UserError(f"{what} is cut short.", AGAIN)
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _whole(digits: str) -> int | float:
    """A whole number of JSON. One with hundreds of digits is infinite, as a float of that size
    is.
    """
    return (
        int(digits) if len(digits) < 300 else math.copysign(math.inf, -1 if digits[0] == "-" else 1)
    )


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key for file names: numbers compare as numbers, `\\` and `/` alike, capitals last.

    frame_2 comes before frame_10; the same order is used for every listing of frames.
    """
    parts = _NUMBER_PARTS.split(name.replace("\\", "/"))
    key = [
        (0, int(part[:300]), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts
    ]
    return [*key, (2, 0, name)]  # same but for case or leading zeros: any order, but always one
