"""Job folders as Blender sees them: where they lie, whose they are, and who works in them now. No
bpy.

A job outlives Blender. Beside what the engine writes, the folder holds `blender.json` (the
`Ticket`: which file and scene asked, what became of it) and `blender.lock`, which a Blender
holds locked while it runs the job; the system lets go of it however that Blender ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...engine.bridge import camera_file, estimate, lock, variants
from ...engine.bridge.errors import UserError
from ...engine.bridge.estimate import Work
from ...engine.bridge.reading import json_of
from ...engine.bridge.segments import kept_frames
from ...engine.bridge.settings import from_json
from ...engine.bridge.whole_file import replacing_path

TICKET = "blender.json"
LOCK = "blender.lock"
RESULTS = ("scene_linear.ply", "scene.ply")  # in the order in which Blender prefers them


@dataclass(frozen=True)
class Ticket:
    """Who asked for a job, and what became of it."""

    blend: str  # path of the .blend, empty if it was never saved
    scene: str
    shot: str
    camera: str = ""  # name of the camera object whose path it is
    replace: str = ""  # name of the object whose Gaussians the result replaces
    done: bool = False  # the engine said Done
    imported: str = ""  # name of the object that the import made
    dismissed: bool = False  # the user does not want to be asked again
    picture: str = ""  # what the picture is called outside of the job folder


_FIELDS = dataclasses.fields(Ticket)
_TICKET_BYTES = 1 << 20


class Claim:
    """A job folder that this Blender works in, until `release`."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where another Blender works in that folder or it cannot be written."""
        self.folder = folder
        try:
            self._file: IO[bytes] | None = lock.hold(folder / LOCK)
        except BlockingIOError:
            raise UserError(
                f"The job in {folder.name} is running in another Blender.",
                "Wait for it there, or cancel it there.",
            ) from None
        except OSError as error:
            raise UserError(
                f"The job folder cannot be written: {error}.",
                "Free some space, or save the file in another place.",
            ) from error

    def release(self) -> None:
        """Let another Blender have it. May be called twice."""
        if self._file is not None:
            self._file.close()  # closing gives the lock back
            self._file = None


def is_claimed(folder: Path) -> bool:
    """Whether a Blender, this one included, works in the folder now."""
    if not (folder / LOCK).is_file():
        return False
    try:
        Claim(folder).release()
    except UserError:
        return True
    return False


def new_folder(parent: Path, shot: str) -> Path:
    """Make `parent/<shot>_v001`, or the next free number. Raises UserError if nothing can be
    written there.
    """
    name = re.sub(r"[^\w.-]+", "_", shot).strip("._") or "shot"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10000):
            folder = parent / f"{name}_v{number:03d}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                (folder / "input").mkdir()
                return folder
    except OSError as error:
        message = f"No job folder can be made in {parent}: {error.strerror}."
        raise UserError(message, "Save the file in a folder that you can write to.") from error
    raise UserError(f"{parent} holds 9999 jobs named {name}.", "Choose another name.")


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the file is whole or not there. Raises UserError, e.g. where the disk
    is full.
    """
    with replacing_path(path, "Free some space on that disk.") as partial:
        partial.write_text(json.dumps(data, indent=2), encoding="utf-8")


def write_ticket(folder: Path, ticket: Ticket) -> None:
    """Remember who asked for the job in `folder`."""
    write_json(folder / TICKET, dataclasses.asdict(ticket))


def read_ticket(folder: Path) -> Ticket | None:
    """The ticket of a job folder; None where there is none that can be read."""
    try:
        data = json_of(folder / TICKET, _TICKET_BYTES)
        kinds = {field.name: bool if field.type == "bool" else str for field in _FIELDS}
        known = {name: value for name, value in data.items() if name in kinds}
        sound = all(type(value) is kinds[name] for name, value in known.items())
        return Ticket(**known) if sound else None
    except (UserError, TypeError, AttributeError):
        return None


def result_of(folder: Path) -> Path | None:
    """The splat file that Blender imports from a job, None as long as there is none."""
    return next((folder / name for name in RESULTS if (folder / name).is_file()), None)


def is_whole(result: Path) -> bool:
    """Whether a result of a job is as long as the engine made it; of older engines that is not
    known, and believed.
    """
    try:
        expected = json_of(result.parent / "job.json")["results"]["bytes"][result.name]
    except (UserError, KeyError, TypeError):
        return True
    return bool(result.stat().st_size == expected)


@dataclass(frozen=True)
class Leftover:
    """A job that an earlier Blender left: finished but not imported, or not finished."""

    folder: Path
    ticket: Ticket
    finished: bool


def look_at(folder: Path) -> Leftover | None:
    """What is left to do about a job folder; None if nothing is, or another Blender is at it."""
    ticket = read_ticket(folder)
    if ticket is None or ticket.imported or ticket.dismissed or is_claimed(folder):
        return None
    if not (folder / "settings.json").is_file():
        return None  # its inputs were never complete
    result = result_of(folder)
    return Leftover(folder, ticket, ticket.done and result is not None and is_whole(result))


def last_changed(folder: Path) -> float:
    """When a job's ticket was written last, in seconds; 0 where there is none."""
    try:
        return (folder / TICKET).stat().st_mtime
    except OSError:
        return 0.0


def leftovers(parent: Path, blend: str, since: float = 0.0) -> Iterator[Leftover]:
    """Jobs under `parent` that `blend` asked for after `since` and never got, newest first."""
    if not parent.is_dir():
        return
    paths = [*parent.iterdir(), *parent.glob(f"*/{variants.FOLDER}/v*")]
    dated = [(last_changed(path), path) for path in paths]
    for _, folder in sorted((pair for pair in dated if pair[0] > since), reverse=True):
        found = look_at(folder)
        if found is not None and found.ticket.blend == blend:
            yield found


def moved_to(folder: Path, parent: Path) -> Path:
    """Where a job's folder, or a variant's, would lie if its project had moved to `parent`."""
    job = folder.parent.parent if folder.parent.name == variants.FOLDER else folder
    return parent / folder.relative_to(job.parent)


def number_of(folder: Path) -> int:
    """The number that `new_folder` gave, 0 where the folder has another kind of name."""
    found = re.search(r"_v(\d+)$", folder.name)
    return int(found[1]) if found else 0


def work_of(folder: Path) -> Work | None:
    """How much there is to do in a job folder; None where its inputs do not tell."""
    try:
        settings = from_json(json_of(folder / "settings.json"))
        path = camera_file.read(folder / "input" / "path.json")
        count = len(kept_frames(path.count, settings.cameras.frame_step))
        return estimate.work_of(settings, count, path.height / path.width)
    except (ValueError, UserError):
        return None


def result_lines(folder: Path) -> list[tuple[str, str]]:
    """What report.json says of a finished job, as (name, value) for the panel; empty where there
    is no report.
    """
    try:
        report = json_of(folder / "report.json")
        facts, segments = report["facts"], report["segments"]
        lines = [
            (str(finding["name"]), f"{finding['measured']}. {finding['advice']}")
            for finding in report["findings"]
            if not finding["ok"]
        ]
        if not lines:
            lines = [
                ("Verdict", str(report["verdict"])),
                ("Input view", f"{report['input_psnr']:.1f} dB PSNR"),
            ]
        lines += [
            (name.title(), str(facts[name]))
            for name in ("prior", "depth", "finisher", "device", "seed")
            if name in facts
        ]
        guess = "how far to trust the depth"
        if guess in facts and not all(finding["ok"] for finding in report["findings"]):
            lines.append((guess.capitalize(), str(facts[guess])))  # else the verdict has it
        last = report.get("repair") or (segments or [{}])[-1]  # whoever refined last
        if "gaussians" in last:
            lines.append(("Gaussians", f"{last['gaussians']:,}"))
        lines.append(("Segments", f"{len(segments)}, refined in {report['seconds_total']:.0f} s"))
    except (UserError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return []
    return lines
