"""The messages between Blender and the engine. Shared with Blender: standard library only.

One message is one line of ASCII JSON, `{"type": "Progress", ...}`, over the engine's standard
input and output. A message never holds an array: large data are files in the job folder.
Every `Start` is answered by exactly one of `Done`, `Cancelled` and `Failed`.
"""

from __future__ import annotations

import json
import math
import typing
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

VERSION = 1  # of this wire; both sides compare it in Hello
ENGINE_VERSION = "0.2.0"  # of the product, the same as in pyproject.toml and the manifest
MAX_LINE = 1 << 20  # bytes of one message, its newline included
_QUOTED = 200  # characters of a refused line that the error shows


class ProtocolError(ValueError):
    """A line that is not a message of this protocol; the text quotes it."""


@dataclass(frozen=True)
class Start:
    """Begin a job. `kind` is generate, redo, render, convert, mesh or rehearsal."""

    job: str
    kind: str
    folder: str  # the job folder, an absolute path
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cancel:
    """End that job as soon as it looks; the job's one answer answers this too."""

    job: str


@dataclass(frozen=True)
class Quit:
    """Cancel what runs and leave."""


@dataclass(frozen=True)
class Hello:
    """Greet: the engine's first message, with its version and device."""

    protocol: int
    engine: str
    device: str


@dataclass(frozen=True)
class Progress:
    """Tell how far a job is. `total` 0: not known. `preview`, or empty: the path of a picture [h,
    w, 3], uint8 as NPY.
    """

    job: str
    stage: str
    done: int
    total: int
    text: str = ""
    preview: str = ""


@dataclass(frozen=True)
class Done:
    """Name the job's results: paths and plain values."""

    job: str
    outputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cancelled:
    """Say that the job ended because it was asked to; what it had finished is in its folder."""

    job: str


@dataclass(frozen=True)
class Failed:
    """Say what went wrong with a job and what to do about it, as to a person."""

    job: str
    error: str
    hint: str = ""


Message = Start | Cancel | Quit | Hello | Progress | Done | Cancelled | Failed

_TYPES: dict[str, type] = {t.__name__: t for t in typing.get_args(Message)}
_KINDS: dict[str, dict[str, type]] = {
    name: {key: typing.get_origin(hint) or hint for key, hint in typing.get_type_hints(t).items()}
    for name, t in _TYPES.items()
}


def encode(message: Message) -> bytes:
    """Turn a message into one line of ASCII JSON with its newline.

    Raises ValueError for a wrong type, for NaN or infinity, and for more than MAX_LINE bytes.
    """
    name = type(message).__name__
    if _TYPES.get(name) is not type(message):
        raise ValueError(f"expected a message of the protocol, received {message!r:.200}")
    values = {f.name: getattr(message, f.name) for f in fields(message)}
    wrong = _wrong_field(name, values)
    if wrong:
        raise ValueError(f"{name}: {wrong}")
    line = (
        json.dumps({"type": name, **values}, allow_nan=False, ensure_ascii=True).encode("ascii")
        + b"\n"
    )
    if len(line) > MAX_LINE:
        raise ValueError(
            f"{name} takes {len(line)} bytes, at most {MAX_LINE} are allowed; large data belong "
            "in files"
        )
    return line


def decode(line: bytes) -> Message:
    """Read what `encode` made. Raises ProtocolError, which quotes the line, for anything else."""
    if len(line) > MAX_LINE:
        raise ProtocolError(f"a line of more than {MAX_LINE} bytes: {_quote(line)}")
    try:
        values = json.loads(
            line.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_repeats,
        )
    except (
        ValueError,
        RecursionError,
    ) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ProtocolError(f"not a message ({error}): {_quote(line)}") from error
    if not isinstance(values, dict) or not isinstance(values.get("type"), str):
        raise ProtocolError(f"not a message (no type): {_quote(line)}")
    name = values.pop("type")
    if name not in _TYPES:
        raise ProtocolError(f"unknown message {name!r:.60}: {_quote(line)}")
    wrong = _wrong_field(name, values)
    if wrong:
        raise ProtocolError(f"{name}: {wrong}: {_quote(line)}")
    return typing.cast(Message, _TYPES[name](**values))


def shortened(text: str, limit: int = 4000) -> str:
    """Cut a text to at most `limit` characters: its beginning and its end."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _wrong_field(name: str, values: dict[str, Any]) -> str:
    """What is wrong with these fields of message `name`, or an empty text."""
    kinds = _KINDS[name]
    unknown = sorted(values.keys() - kinds.keys())
    if unknown:
        return f"unknown field {unknown[0]!r:.60}"
    required = {
        f.name
        for f in fields(_TYPES[name])
        if f.default is MISSING and f.default_factory is MISSING
    }
    missing = sorted(required - values.keys())
    if missing:
        return f"{missing[0]} is missing"
    for key, value in values.items():
        if type(value) is not kinds[key]:
            return f"{key} must be of type {kinds[key].__name__}, received {value!r:.60}"
        if not _is_plain(value):
            return f"{key} holds something that is no plain JSON value"
    return ""


def _is_plain(value: Any, depth: int = 0) -> bool:
    if depth > 20:
        return False
    if isinstance(value, dict):
        return all(type(k) is str and _is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, list):
        return all(_is_plain(v, depth + 1) for v in value)
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (str, int, bool)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _quote(line: bytes) -> str:
    return repr(line[:_QUOTED].decode("utf-8", "replace")) + ("..." if len(line) > _QUOTED else "")
