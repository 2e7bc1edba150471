"""How fast this machine is: remembered from its own jobs, else reckoned, else a table.

Two files in the user's cache. `speeds.json` has a record a job that ended: machine, device, card,
prior, recipe, size, and the seconds that a unit of each part took (`estimate` says what the units
are). `machine.json` is what the engine reckons for the card here before any job ran, so that
Blender's panel, which knows no card, can tell a time too. Both may be damaged or made by somebody
else: what is not as it should be is left out, with a word.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .candidates import Candidate, Wish, suitable
from .errors import UserError
from .estimate import PARTS, TABLE, USUAL_STEPS, Speeds, Work
from .reading import json_of
from .user_folders import system_cache
from .whole_file import whole_file

CACHE_VARIABLE = "SCENE_SPLATTER_CACHE"
HISTORY, MACHINE = "speeds.json", "machine.json"
_MOST_BYTES = 1 << 20
_MOST_RECORDS = 64
_MOST_S = 1e6  # a unit; nothing takes eleven days
_MOST_GB = 1e4
_MOST_PX, _MOST_TERA, _MOST_WORK = 1e5, 1e6, 1e7
SMALLEST_MP = 0.02  # of a frame: smaller jobs, as the installer's, are all starting and no work
_FAR = math.log(20.0)  # sizes further apart, as areas, teach nothing about each other
_FACTORS = 0.02, 50.0  # how far the speed of one prior may correct the guess for another
# What the table was measured with, on a machine without a card. They compute on the CPU beside a
# card too.
_EMBEDDED = ("patch", "none")


class Record(NamedTuple):
    """What one job taught."""

    machine: str
    device: str  # "cpu" or "cuda"
    card: str  # its name; empty on the CPU
    prior: str
    recipe: str
    megapixels: float
    speeds: Speeds  # of the parts that it had


class Reckoned(NamedTuple):
    """What a prior is taken to need on a card."""

    seconds: float  # a unit of "generate"
    steps: int
    fixed_gb: float  # GPU memory without frames
    gb_per_frame_mp: float  # and for each frame of a megapixel in a segment


class Machine(NamedTuple):
    """What the engine reckons of the machine that it runs on."""

    card: str  # its name; empty: the CPU computes
    free_gib: float  # of its memory
    tera: float  # 1e12 operations a second that are reckoned of it
    known: tuple[Candidate, ...]  # the priors that "auto" may take, by rank
    parts: Mapping[str, float]  # seconds a unit of the parts besides "generate"
    priors: Mapping[str, Reckoned]


NO_CARD = Machine("", 0.0, 0.0, (), {}, {})


def user_cache() -> Path:
    """The folder of ours among the user's caches: $SCENE_SPLATTER_CACHE, else the system's.
    Nothing is made.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else system_cache()


def machine_name() -> str:
    """Which computer this is: homes may be shared by several."""
    return f"{platform.node()}, {platform.machine()}, {os.cpu_count()} cores"


def speeds_for(work: Work, folder: Path | None = None) -> Speeds | None:
    """What is known of the speed of this job: the last one alike here, else what is reckoned for
    the card, else the table of the CPU, else None.
    """
    records, note = history(folder)
    here = machine(folder)
    device, card, prior = _settled(work, here)
    alike = [r for r in records if (r.device, r.card) == (device, card)]
    same = [r for r in reversed(alike) if r.prior == prior and _likeness(r, work)[1] >= -_FAR]
    reckoned = _reckoned(here, device, prior)
    if same:
        best = max(same, key=lambda record: _likeness(record, work))  # the newest of the best
        exact = _likeness(best, work) == (True, 0.0)
        how = "as the last job here went" if exact else "as a job of another size here went"
        usual = reckoned or best.speeds._replace(seconds=TABLE)
        return best.speeds._replace(
            seconds={**usual.seconds, **best.speeds.seconds},
            memory_law=usual.memory_law,
            source=how,
            note=note,
        )
    if reckoned is None:
        if device == "cpu" and prior in _EMBEDDED:
            return Speeds(TABLE, USUAL_STEPS, False, note=note)
        return None
    last = alike[-1] if alike else None
    return _corrected(reckoned, prior, last, here)._replace(note=note)


def _settled(work: Work, here: Machine | None) -> tuple[str, str, str]:
    """(device, card, prior) that a job comes to; "auto" is what it takes here."""
    cuda = work.device == "cuda" or (work.device == "auto" and here is not None and here.card != "")
    if not cuda:
        return "cpu", "", "patch" if work.prior == "auto" else work.prior
    prior = _taken(work, here) if work.prior == "auto" else work.prior
    return "cuda", here.card if here is not None else "", prior


def _taken(work: Work, here: Machine | None) -> str:
    if here is None:
        return ""
    wish = Wish(work.priority, work.commercial, work.size, work.segment, here.tera)
    fitting = suitable(here.known, here.free_gib, wish)
    return next((c.name for c in fitting if c.here), "")


def _likeness(record: Record, work: Work) -> tuple[bool, float]:
    size = abs(math.log(record.megapixels / work.megapixels))
    return record.recipe == work.recipe, -round(size, 2)


def _reckoned(here: Machine | None, device: str, prior: str) -> Speeds | None:
    if here is None or device != "cuda":
        return None
    embedded = prior in _EMBEDDED
    known = here.priors.get(_EMBEDDED[0] if embedded else prior)
    if known is None:
        return None
    start = {"start": TABLE["start"]} if embedded else {}
    return Speeds(
        {**TABLE, **here.parts, **start, "generate": known.seconds},
        known.steps,
        False,
        memory_law=(known.fixed_gb, known.gb_per_frame_mp),
        source=f"reckoned for {here.card}, not measured",
    )


def _corrected(reckoned: Speeds, prior: str, last: Record | None, here: Machine | None) -> Speeds:
    """What is reckoned for a prior, with what a job with another one, or of quite another size,
    taught of this machine.
    """
    if last is None or here is None:
        return reckoned
    taught, known = last.speeds.seconds, here.priors.get(last.prior)
    like = (prior in _EMBEDDED) == (last.prior in _EMBEDDED)  # both on the card, or neither
    own = () if like else ("start",)
    seconds = {**reckoned.seconds, **{p: s for p, s in taught.items() if p not in own}}
    seconds["generate"] = reckoned.seconds["generate"]
    if like and known is not None and known.seconds > 0 and "generate" in taught:
        factor = taught["generate"] / known.seconds
        seconds["generate"] *= min(max(factor, _FACTORS[0]), _FACTORS[1])
    source = f"by what {last.prior} took here; this prior never ran"
    if last.prior == prior:
        source = "by what a job of quite another size took here"
    return reckoned._replace(seconds=seconds, source=source)


def segment_seconds(
    prior: str, card: str, frames_mp: float, steps: int, folder: Path | None = None
) -> float | None:
    """Seconds that a prior would take for `frames_mp` frames x megapixels in `steps` steps, by the
    last job with it on this card; None where none ran.
    """
    for record in reversed(history(folder)[0]):
        alike = (record.device, record.card, record.prior) == ("cuda", card, prior)
        if alike and "generate" in record.speeds.seconds:
            return record.speeds.seconds["generate"] * frames_mp * steps
    return None


def keep(work: Work, speeds: Speeds, card: str = "", folder: Path | None = None) -> None:
    """Remember how fast a job went; `work` is of settled settings, on "cpu" or "cuda". Jobs below
    `SMALLEST_MP` are not remembered. Raises OSError.
    """
    if work.megapixels < SMALLEST_MP:
        return
    records, _ = history(folder)
    new = Record(
        machine_name(), work.device, card, work.prior, work.recipe, work.megapixels, speeds
    )
    kept = [record for record in records if record[:6] != new[:6]]
    told = [_as_json(record) for record in [*kept, new][-_MOST_RECORDS:]]
    _write(HISTORY, {"records": told}, folder)


def history(folder: Path | None = None) -> tuple[list[Record], str]:
    """(the records of this machine, the oldest first; a word where some could not be used)."""
    told, word = _read(HISTORY, folder)
    entries = told.get("records", []) if isinstance(told, dict) else None
    if entries is None or not isinstance(entries, list):
        return [], word or f"{HISTORY} is damaged and was ignored"
    records = [_record(entry) for entry in entries[-_MOST_RECORDS:]]
    if None in records:
        word = f"damaged lines of {HISTORY} were ignored"
    mine = machine_name()
    return [r for r in records if r is not None and r.machine == mine], word


def keep_machine(here: Machine, folder: Path | None = None) -> None:
    """Write what the engine reckons of this machine, for the panel. Raises OSError."""
    told = {
        "machine": machine_name(),
        **here._asdict(),
        "parts": dict(here.parts),
    }
    told["priors"] = {name: list(row) for name, row in here.priors.items()}
    _write(MACHINE, told, folder)


def machine(folder: Path | None = None) -> Machine | None:
    """What the engine last reckoned of this machine; None where it has not yet, or cannot be
    used.
    """
    told, _ = _read(MACHINE, folder)
    try:
        if told["machine"] != machine_name():
            return None
        parts = _parts(told["parts"])
        priors = {str(name): _reckoned_row(row) for name, row in told["priors"].items()}
        known = tuple(_candidate(row) for row in told["known"])
        free, tera = _number(told["free_gib"], _MOST_GB), _number(told["tera"], _MOST_TERA)
        return Machine(_word(told["card"]), free, tera, known, parts, priors)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _candidate(row: Any) -> Candidate:
    name, here, trained, fixed, least, frames, only, commercial, sees, work = row
    return Candidate(
        _word(name),
        here is True,
        _size(trained),
        _number(fixed, _MOST_GB),
        _number(least, _MOST_GB),
        int(_number(frames, 1e6)),
        None if only is None else _size(only),
        commercial is True,
        sees is True,
        _number(work, _MOST_WORK),
    )


def _size(value: Any) -> tuple[int, int]:
    one, other = value
    return int(_number(one, _MOST_PX)), int(_number(other, _MOST_PX))


def _reckoned_row(row: Any) -> Reckoned:
    seconds, steps, fixed, each = row
    return Reckoned(
        _number(seconds, _MOST_S),
        int(_number(steps, 1e4)),
        _number(fixed, _MOST_GB),
        _number(each, _MOST_GB),
    )


def _as_json(record: Record) -> dict[str, Any]:
    speeds = record.speeds
    return {
        **{name: getattr(record, name) for name in record._fields if name != "speeds"},
        "seconds": dict(speeds.seconds),
        "steps": speeds.steps,
        "memory_gb": speeds.memory_gb,
        "frames_mp": speeds.frames_mp,
    }


def _record(entry: Any) -> Record | None:
    """A record as it was written; None where it is not one."""
    try:
        seconds, megapixels = _parts(entry["seconds"]), _number(entry["megapixels"], 1e3)
        if megapixels <= 0:
            return None
        device = _word(entry["device"])
        speeds = Speeds(
            seconds,
            int(_number(entry["steps"], 1e4)),
            True,
            _number(entry["memory_gb"], _MOST_GB),
            _number(entry["frames_mp"], 1e4),
        )
        names = (_word(entry["machine"]), device, _word(entry["card"]), _word(entry["prior"]))
        return Record(*names, _word(entry["recipe"]), megapixels, speeds)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _number(value: Any, most: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= most:  # NaN is neither
        raise ValueError(value)
    return float(value)


def _parts(value: Any) -> dict[str, float]:
    seconds = {part: _number(each, _MOST_S) for part, each in value.items()}
    if not seconds.keys() <= set(PARTS):
        raise ValueError(value)
    return seconds


def _word(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or not (value.isprintable() or not value):
        raise ValueError(value)
    return value


def _read(name: str, folder: Path | None) -> tuple[Any, str]:
    """(what a file holds, {} where it cannot be used; a word on that)."""
    path = (folder or user_cache()) / name
    if not os.path.lexists(path):
        return {}, ""
    try:
        return json_of(path, _MOST_BYTES), ""
    except UserError:
        return {}, f"{name} is damaged and was ignored"


def _write(name: str, told: dict[str, Any], folder: Path | None) -> None:
    place = folder or user_cache()
    place.mkdir(parents=True, exist_ok=True)
    with whole_file(place / name) as partial:
        partial.write_text(json.dumps(told, indent=1, allow_nan=False), encoding="utf-8")
