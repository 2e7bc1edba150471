"""The .ply container: a header and its elements as NumPy tables. Shared with Blender: numpy only.

Text, little-endian and big-endian files; every number type; comments in any encoding; text of two
bytes a letter, decimal commas and values parted by commas too. Elements that nobody asks for are
stepped over, lists included. Memory is taken for what was asked for, and
only after the header's claim was held against the size of the file.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from .errors import UserError
from .reading import AGAIN, open_file, reading

_HEADER_BYTES = 1 << 20
_MOST_ROWS = 100_000_000  # a header that asks for more is taken for a lie
_MOST_LISTS = 5_000_000  # rows with lists that are stepped over one by one
_TEXT_BLOCK = 1 << 20
_EDITED_BYTES = 256 << 20
_UTF8_MARK = b"\xef\xbb\xbf"
_WIDE = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
    "int64": "i8",
    "uint64": "u8",
}
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


class Property(NamedTuple):
    """One column of an element. `length` is the type of a list's length; numbers have none."""

    name: str
    type: str
    length: str = ""


class Element(NamedTuple):
    """One table that the header announces."""

    name: str
    count: int  # type: ignore[assignment]  # a tuple of fields has no use for tuple.count
    properties: tuple[Property, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.properties)

    @property
    def has_lists(self) -> bool:
        return any(p.length for p in self.properties)

    def dtype(self, order: str) -> np.dtype:
        return np.dtype([(p.name, (order or "<") + p.type) for p in self.properties])


class Header(NamedTuple):
    """What a .ply says before its numbers."""

    order: str  # "<", ">", or "" for text
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    size: int  # bytes

    def element(self, name: str) -> Element | None:
        return next((e for e in self.elements if e.name == name), None)

    def body_size(self) -> int | None:
        """Bytes of all elements; None for text and for lists, whose length is not known before."""
        if not self.order or any(e.has_lists for e in self.elements):
            return None
        return sum(e.count * e.dtype(self.order).itemsize for e in self.elements)


class Table(NamedTuple):
    """The elements of a .ply that were asked for."""

    header: Header
    rows: dict[str, np.ndarray]  # structured arrays [count]
    left: int  # bytes behind the last element of a binary file


def read(path: str | os.PathLike[str], wanted: Iterable[str]) -> Table:
    """Read the header and those of the `wanted` elements that the file has. Raises UserError for
    anything that does not fit.
    """
    path = Path(path)
    with reading(path), _opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        header = parse_header(file.read(_HEADER_BYTES), path)
        file.seek(header.size)
        names = {e.name for e in header.elements if e.name in set(wanted)}
        rows, last = (
            {},
            max((i for i, e in enumerate(header.elements) if e.name in names), default=-1),
        )
        for element in header.elements[: last + 1]:
            if element.name in names and not element.has_lists:
                rows[element.name] = _table(file, element, header.order, size, path)
            else:
                _step_over(file, element, header.order, size, path)
        left = 0
        if header.order and not any(e.has_lists for e in header.elements[last + 1 :]):
            more = sum(
                e.count * e.dtype(header.order).itemsize for e in header.elements[last + 1 :]
            )
            left = max(0, size - file.tell() - more)
        return Table(header, rows, left)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a .ply and leave its numbers alone."""
    with reading(path), _opened(path) as file:
        return parse_header(file.read(_HEADER_BYTES), path)


def begins(head: bytes) -> bool:
    """Whether a file with these first bytes is a .ply, in any form that is read here."""
    return re.match(rb"ply[ \t]*[\r\n]", _bare(head)) is not None


def _bare(head: bytes) -> bytes:
    """The first bytes as plain text has them: without a mark, with one byte a letter."""
    for mark, name in _WIDE.items():
        if head.startswith(mark):
            return head[len(mark) :].decode(name, "replace").encode("utf-8").lstrip()
    return head.removeprefix(_UTF8_MARK).lstrip()


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    """The open file; of text that an editor saved, what it says in UTF-8 from "ply" on."""
    file = open_file(path)
    head = file.read(64)
    file.seek(0)
    if not begins(head) or head.startswith(b"ply"):
        return file
    with file:
        if os.fstat(file.fileno()).st_size > _EDITED_BYTES:
            raise UserError(
                f"{path} is text in an encoding that is read up to {_EDITED_BYTES >> 20} MB.",
                "Save it as UTF-8 without a mark.",
            )
        bare = _bare(file.read())
    if head.startswith(tuple(_WIDE)) and parse_header(bare[:_HEADER_BYTES], path).order:
        raise _damaged(path, "its binary numbers were saved as text")
    return io.BytesIO(bare)


def parse_header(data: bytes, path: str | os.PathLike[str]) -> Header:
    """Read the header at the beginning of `data`. Raises UserError when it is no .ply or makes no
    sense.
    """
    if not re.match(rb"ply[ \t]*[\r\n]", data):
        raise UserError(
            f"{path} is not a .ply file.", "Choose a .ply that a Gaussian splatting tool wrote."
        )
    end = re.search(rb"[\r\n]end_header[ \t]*(\r\n|\r|\n)", data)
    if end is None:
        raise _damaged(path, "its header does not end")
    order, elements, comments = None, [], []
    for line in re.split(rb"\r\n|\r|\n", data[: end.start()])[1:]:
        words = _text(line).split()
        if not words or words[0] == "obj_info":
            continue
        if words[0] == "comment":
            comments.append(_text(line).strip()[len("comment") :].strip())
        elif words[0] == "format":
            order = _FORMATS.get(words[1]) if len(words) > 1 else None
            if order is None:
                raise _damaged(
                    path, f"the format {' '.join(words[1:2]) or 'without a name'} is unknown"
                )
        elif words[0] == "element" and len(words) == 3 and re.fullmatch(r"\d{1,18}", words[2]):
            if int(words[2]) > _MOST_ROWS:
                raise _damaged(path, f"it announces {words[2]} rows of {words[1]}")
            elements.append(Element(words[1], int(words[2]), ()))
        elif words[0] == "property" and elements and len(words) in (3, 5):
            elements[-1] = _with_property(elements[-1], words[1:], path)
        else:
            raise _damaged(path, f"its header has the line {_text(line)[:80]!r}")
    if order is None:
        raise _damaged(path, "its header names no format")
    return Header(order, tuple(elements), tuple(comments), end.end())


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")


def _with_property(element: Element, words: list[str], path: str | os.PathLike[str]) -> Element:
    """The element with one more column; a name that is there already gets a tail, so that it is not
    lost.
    """
    kinds = [words[0]] if len(words) == 2 else words[1:3]
    if (len(words) == 4 and words[0] != "list") or any(kind not in _TYPES for kind in kinds):
        raise _damaged(
            path, f"the property {words[-1]} has the unknown type {' '.join(words[:-1])}"
        )
    name = words[-1]
    while name in element.names:
        name += "_again"
    length = _TYPES[kinds[0]] if len(words) == 4 else ""
    return element._replace(
        properties=(*element.properties, Property(name, _TYPES[kinds[-1]], length))
    )


def _damaged(path: str | os.PathLike[str], what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}.", AGAIN)


def _table(file: BinaryIO, element: Element, order: str, size: int, path: Path) -> np.ndarray:
    dtype = element.dtype(order)
    if not element.properties:
        return np.zeros(0, dtype)
    if not order:
        return _text_table(file, element, size, path)
    there = size - file.tell()
    if element.count * dtype.itemsize > there:
        raise _damaged(
            path,
            f"it is cut short: {element.count} rows of {element.name} need "
            f"{element.count * dtype.itemsize:,} bytes, there are {there:,}",
        )
    rows = np.empty(element.count, dtype)
    if element.count and file.readinto(rows.view(np.uint8).data) != rows.nbytes:  # type: ignore[attr-defined]
        raise _damaged(path, "it is cut short")
    return rows


def _text_table(file: BinaryIO, element: Element, size: int, path: Path) -> np.ndarray:
    """Numbers of a text file, block by block, in float64 or in the columns' own types."""
    width = len(element.properties)
    if element.count * width * 2 > size - file.tell() + 1:  # a digit and a blank each
        raise _damaged(path, f"{element.count} rows of {element.name} cannot be in {size:,} bytes")
    rows = np.empty(element.count, element.dtype(""))
    done, spare = 0, np.empty(0)
    while done < element.count:
        lines = file.readlines(_TEXT_BLOCK)
        if not lines:
            raise _damaged(
                path, f"it is cut short: {done} of {element.count} rows of {element.name}"
            )
        taken = lines[: element.count - done]
        values = _numbers(b"".join(taken), len(taken) * width, path)
        if not len(spare) and len(taken) < len(lines) and len(values) == len(taken) * width:
            file.seek(-sum(map(len, lines[len(taken) :])), 1)  # the next element begins here
        values = np.concatenate([spare, values])
        whole = min(len(values) // width, element.count - done)
        with np.errstate(all="ignore"):
            block = values[: whole * width].reshape(whole, width)
            for i, name in enumerate(element.names):
                rows[name][done : done + whole] = block[:, i]
        spare, done = values[whole * width :], done + whole
    return rows


def _numbers(text: bytes, count: int, path: Path) -> np.ndarray:
    """The numbers in rows of text, about `count`. A comma is a decimal point, or parts them."""
    if b"," in text or b";" in text:
        parted = text.replace(b";", b" ")
        pointed = parted.replace(b",", b".")
        parts = b"." in text or len(pointed.split()) < count
        text = parted.replace(b",", b" ") if parts else pointed
    try:
        return np.array(text.split(), np.float64)
    except ValueError as error:
        raise _damaged(path, f"a row holds something that is no number ({error})") from error


def _step_over(file: BinaryIO, element: Element, order: str, size: int, path: Path) -> None:
    if not order:
        for _ in range(element.count):
            if not file.readline():
                raise _damaged(path, f"it is cut short inside {element.name}")
        return
    if not element.has_lists:
        file.seek(element.count * element.dtype(order).itemsize, 1)
        return
    if element.count > _MOST_LISTS:
        raise _damaged(path, f"it has {element.count} rows of lists before its Gaussians")
    kinds = [
        (
            np.dtype(order + (p.length or p.type)),
            np.dtype(order + p.type).itemsize if p.length else 0,
        )
        for p in element.properties
    ]
    for _ in range(element.count):
        for head, item in kinds:
            raw = file.read(head.itemsize)
            if len(raw) < head.itemsize or file.tell() > size:
                raise _damaged(path, f"it is cut short inside {element.name}")
            if item:
                length = int(np.frombuffer(raw, head)[0])
                if length < 0:
                    raise _damaged(path, f"a list of {element.name} has the length {length}")
                file.seek(length * item, 1)
