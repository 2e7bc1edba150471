"""Folders of numbered splat files: one scene a frame, as simulations and 4D captures write them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ..bridge.errors import UserError

_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)(?P<ending>\.ply)", re.IGNORECASE)
MOST_FRAMES = 100_000


class Sequence(NamedTuple):
    """Files in the order of their numbers."""

    files: tuple[Path, ...]
    numbers: tuple[int, ...]

    def at(self, frame: float) -> int:
        """Index of the file that is shown `frame` frames after the first: the last whose number has
        come. A number that is missing shows the one before; beyond the end the last stays.
        """
        wanted = self.numbers[0] + frame
        shown = [i for i, number in enumerate(self.numbers) if number <= wanted + 1e-6]
        return shown[-1] if shown else 0


def sequence(folder: Path) -> Sequence:
    """The numbered .ply files of a folder, such as smoke_0001.ply. UserError where there are none,
    or those of more than one name.
    """
    found: dict[str, dict[int, Path]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _NUMBERED.fullmatch(entry.name)
            if match and not entry.name.startswith(".") and entry.is_file():
                found.setdefault(match["stem"], {})[int(match["number"])] = Path(entry.path)
    if not found:
        raise UserError(
            f"{folder} holds no job and no numbered .ply files.",
            "Give a splat file, a job's folder, or a folder with scene_0001.ply and so on.",
        )
    if len(found) > 1:
        names = ", ".join(f"{stem}####.ply" for stem in sorted(found)[:5])
        raise UserError(
            f"{folder} holds more than one sequence: {names}.", "Put each into a folder of its own."
        )
    (files,) = found.values()
    if len(files) > MOST_FRAMES:
        raise UserError(f"{folder} holds {len(files):,} frames.", "Give at most 100,000.")
    numbers = sorted(files)
    return Sequence(tuple(files[n] for n in numbers), tuple(numbers))
