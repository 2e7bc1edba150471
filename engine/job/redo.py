"""What a variant of a job began with: input/redo.json.

of        "v1"     the variant that was redone
segment   3        the first segment that was made again, from 1; those before it are copies
made      [...]    for each of those copies: what it was made with, by the settings that a redo
                   may change
frame     12       with a mask (input/mask.png): the frame that it belongs to, from 0; else null
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..bridge.errors import UserError
from ..bridge.reading import parsed_json
from ..bridge.settings import SceneSettings

FILE = "redo.json"
CHANGEABLE = ("seed", "prior", "prompt")  # the settings that a redo may change


class Redo(NamedTuple):
    """A redo as its variant keeps it."""

    of: str
    kept: int  # segments that are the same as those of `of`
    made: tuple[dict[str, Any], ...]  # CHANGEABLE of each of them
    frame: int | None = None  # of the mask; None: no mask

    def settings_of(self, index: int, settings: SceneSettings) -> SceneSettings:
        """The settings with which segment `index` of the variant was made."""
        return with_changes(settings, self.made[index]) if index < self.kept else settings


def changeable(settings: SceneSettings) -> dict[str, Any]:
    """Return the settings that a redo may change, by name."""
    video = settings.video
    return {"seed": settings.output.seed, "prior": video.prior, "prompt": video.prompt}


def with_changes(settings: SceneSettings, values: dict[str, Any]) -> SceneSettings:
    """Put values of `changeable` into settings."""
    video = replace(settings.video, prior=values["prior"], prompt=values["prompt"])
    return replace(settings, video=video, output=replace(settings.output, seed=values["seed"]))


def to_text(redo: Redo) -> str:
    """What redo.json holds of a redo."""
    data = {"of": redo.of, "segment": redo.kept + 1, "made": list(redo.made), "frame": redo.frame}
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def read(file: Path) -> Redo | None:
    """Read redo.json; None where there is none. Raises UserError for a damaged one."""
    if not file.is_file():
        return None
    remedy = "Delete the folder of the variant, then redo again."
    try:
        data = parsed_json(file.read_text(encoding="utf-8"), str(file), remedy)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.", remedy) from error
    if not _sound(data):
        raise UserError(f"{file} is damaged.", remedy)
    return Redo(data["of"], data["segment"] - 1, tuple(data["made"]), data["frame"])


def _sound(data: Any) -> bool:
    def number(value: Any, least: int) -> bool:
        return type(value) is int and value >= least

    return (
        isinstance(data, dict)
        and isinstance(data.get("of"), str)
        and number(data.get("segment"), 1)
        and isinstance(data.get("made"), list)
        and len(data["made"]) == data["segment"] - 1
        and all(
            isinstance(one, dict)
            and number(one.get("seed"), 0)
            and isinstance(one.get("prior"), str)
            and isinstance(one.get("prompt"), str)
            for one in data["made"]
        )
        and "frame" in data
        and (data["frame"] is None or number(data["frame"], 0))
    )
