"""The variants of a job side by side: in each one's report, and in variants/index.html."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import NamedTuple

from ..bridge.variants import FOLDER, folders
from ..bridge.whole_file import whole_file
from . import newest, redo, variants
from .folder import Job
from .report import HEAD, PAGE, STYLE, figure

INDEX = "index.html"  # in the folder of the variants
_MOST_MASKED = 3  # frames that are shown because a mask belongs to them


class Row(NamedTuple):
    """One variant."""

    name: str
    folder: Path
    what: str  # what it was begun with
    masked: int | None  # the frame of its mask
    changed: dict[str, object]  # the settings that a redo may change


def rows(job: Path, own: Path | None = None) -> list[Row]:
    """The finished variants of a job, and `own`, whose report is being written. Raises
    UserError.
    """
    found = []
    for name, folder in folders(job).items():
        if folder != own and not newest.is_finished(folder):
            continue
        there = Job(folder)
        redone = there.redo()
        what = next(iter(variants.described(there).values()), f"{name} is the first result")
        settings = redo.changeable(variants.settled(there, there.settings))
        found.append(Row(name, folder, what, redone and redone.frame, settings))
    return found


def table(found: list[Row], beside: Path) -> str:
    """HTML of the variants as a page in the folder `beside` shows them; empty for one alone."""
    if len(found) < 2:
        return ""
    frames = _frames(found)
    head = "".join(f"<th>{name}</th>" for name in ("variant", *redo.CHANGEABLE))
    lines = "".join(_line(row, beside) for row in found)
    pictures = "".join(_pictures(found, index, beside) for index in frames)
    return f"<h2>Variants</h2><table><tr>{head}</tr>{lines}</table>{pictures}"


def write_index(job: Path) -> Path | None:
    """Write variants/index.html anew; None where there is only the first result."""
    home = job / FOLDER
    shown = table(rows(job), home)
    if not shown:
        return None
    with whole_file(home / INDEX) as temporary:
        temporary.write_text(
            f"{HEAD}<title>Scene Splatter variants</title><style>{STYLE}</style>"
            f"<h1>{html.escape(job.resolve().name)}</h1>{shown}</html>\n",
            encoding="utf-8",
        )
    return home / INDEX


def _frames(found: list[Row]) -> list[int]:
    """The middle and the last frame of the path, and those that masks belong to."""
    last = len(list((found[0].folder / "frames").glob("*.png"))) - 1
    masked = [row.masked for row in found if row.masked is not None][:_MOST_MASKED]
    return sorted({last // 2, last, *masked})


def _line(row: Row, beside: Path) -> str:
    links = " ".join(
        f'<a href="{_link(row.folder / file, beside)}">{text}</a>'
        for file, text in (("report.html", "report"), (PAGE, "scene"))
    )
    values = "".join(f"<td>{html.escape(str(row.changed[n]))}</td>" for n in redo.CHANGEABLE)
    return f"<tr><td>{html.escape(row.what)}: {links}</td>{values}</tr>"


def _pictures(found: list[Row], index: int, beside: Path) -> str:
    each = "".join(
        figure(
            _link(row.folder / "frames" / f"{index:04d}.png", beside), f"{row.name}, frame {index}"
        )
        for row in found
    )
    return f'<div class="row wrapped">{each}</div>'


def _link(file: Path, beside: Path) -> str:
    """Names of ours alone: nothing to escape."""
    return Path(os.path.relpath(file, beside)).as_posix()
