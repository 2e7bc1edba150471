"""Requests of small jobs (render, mesh): a JSON object of known keys, each of the right kind and
within sense.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from ..bridge.errors import UserError
from ..bridge.reading import json_of


class Field(NamedTuple):
    """What a key may hold. `least` and `most` are limits of a number, or of each number of a
    list.
    """

    default: Any
    kind: type  # str, int, float, bool or list
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()


def read(folder: Path, name: str) -> Any:
    """The request in a job's folder. UserError when it is no JSON."""
    return json_of(folder / name, 1 << 20)


def checked(request: Any, fields: dict[str, Field], what: str) -> dict[str, Any]:
    """The request with defaults filled in; None stands for the default. UserError that names the
    key that is wrong.
    """
    if not isinstance(request, dict) or request.keys() - fields.keys():
        raise UserError(
            f"{what} does not understand {request!r:.200}.", f"It knows {', '.join(fields)}."
        )
    values = {name: field.default for name, field in fields.items()}
    for name, value in request.items():
        field = fields[name]
        if value is not None:
            values[name] = _one(value, field, f"{what}: {name}")
    return values


def _one(value: Any, field: Field, what: str) -> Any:
    if field.kind is list:
        if not isinstance(value, list | tuple) or len(value) > 100:
            raise UserError(f"{what} is {value!r:.80}.", "Give a list.")
        item = field._replace(kind=type(field.default[0]) if field.default else str)
        return [_one(one, item, what) for one in value]
    if field.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e300 else math.inf
    if type(value) is not field.kind:
        raise UserError(
            f"{what} is {value!r:.80}.", f"It must be of the kind {field.kind.__name__}."
        )
    if isinstance(value, int | float) and not field.least <= value <= field.most:
        raise UserError(
            f"{what} is {value!r:.80}.", f"It must lie in {field.least:g}..{field.most:g}."
        )
    if field.choices and value not in field.choices:
        raise UserError(f"{what} is {value!r:.80}.", f"Choose one of {', '.join(field.choices)}.")
    return value
