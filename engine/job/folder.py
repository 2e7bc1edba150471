"""The job folder: what is written when, whole or not at all, and what a resume may trust.

    job.lock              first of all: says that the folder is ours; held while an engine works in
    it
    input/                image, path.json, depth map, first Gaussians: copies, so a job can be
    moved and replayed
    settings.json         the settings, complete; after the inputs, so its presence says that they
    are whole
    job.json              the job's identity (settings and SHA-256 of every input), the models that
    were
                          chosen, and at the end the SHA-256 of every result
    segments/000/         one finished segment each; the folder appears by a rename, whole or not at
    all,
                          with the SHA-256 of its files in files.json
    repaired/             of a job with a finisher: the repaired frames and the scene after the last
                          refinement (`repair`); whole like a segment, of the segments that it names
    scene.ply ...         results, each written under a temporary name and renamed
    earlier/001/          what lay here before --restart, or before results were made again
    variants/v2/          a redo of the job, itself a job folder (`variants`)

A folder that has `segments/i` has everything that segment i + 1 needs; of the Gaussians those of
the last two segments stay. All of them would be the square of a long path's length; the last
alone would cost the whole job where that file is damaged.
No link inside a job folder is followed: such a folder is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import torch

from ..bridge import lock
from ..bridge import settings as settings_module
from ..bridge.errors import UserError
from ..bridge.reading import parsed_json, reading
from ..bridge.settings import SceneSettings
from ..bridge.variants import FOLDER as VARIANTS
from ..bridge.variants import holds_job, job_of
from ..bridge.whole_file import is_partial, refuse_links, sweep, whole_file
from ..scene.gaussians import Gaussians
from . import identity, redo
from .identity import Identity
from .redo import Redo

FORMAT_VERSION = 2
EARLIER = "earlier"
_JOB, _SETTINGS, _LOCK, _LOG, _MANIFEST = (
    "job.json",
    "settings.json",
    "job.lock",
    "engine.log",
    "files.json",
)
GAUSSIANS = "gaussians.npz"
REPAIRED, REPAIRED_STATS = "repaired", "stats.json"
_STAGED, _OLD_INPUT = ".input.partial", ".old_input.partial"
# written by Blender and by batches; alone they make no job of a folder
_OF_OTHERS = {"blender.json", "blender.lock", "batch.lock", "attempts.jsonl", "outcome.json"}
_STAY = {_LOCK, EARLIER, "blender.lock", "batch.lock"}  # when the rest is put aside
_FILE_ENDINGS = (".exr", ".png", ".npy", ".ply")  # with one of these a setting names a file
_PARTS = ("image", "path", "depth", "initial", "redo", "mask")


class AnotherJob(UserError):
    """The job that was asked for is not the one whose work the folder holds."""


class Text(NamedTuple):
    """An input that is no file yet: its ending, such as ".json", and its content."""

    suffix: str
    content: bytes


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises a UserError that names the file where it is not JSON, or holds NaN
    or infinity, which the engine never writes.
    """
    remedy = "Delete the folder and start the job again."
    try:
        data = parsed_json(path.read_text(encoding="utf-8"), str(path), remedy)
        json.dumps(data, allow_nan=False)
        return data
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}.", remedy) from None
    except ValueError:
        raise UserError(f"{path} is damaged: it holds NaN or infinity.", remedy) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror or error}.", "Start the job again."
        ) from None


@contextmanager
def locked(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a folder that is new, empty or a job's; it is made if need be. Leftovers of a killed
    engine are cleared.

    Raises UserError while another engine holds it (after `patience_s` seconds of trying), for a
    folder with foreign things in it, and for one with links inside. The lock ends with the
    process, however it ends. Who works in a variant holds its job too.
    """
    with contextlib.ExitStack() as held:
        job = job_of(folder)
        if job != folder:
            held.enter_context(locked(job, patience_s))
        held.enter_context(_locked(folder, patience_s))
        yield


@contextmanager
def _locked(folder: Path, patience_s: float) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign(folder)
        handle = lock.hold(folder / _LOCK, patience_s)
    except BlockingIOError:
        raise UserError(
            f"Another engine is working in {folder}.", "Wait for it or cancel it, then try again."
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder} cannot be a job's folder: {error.filename or folder}: "
            f"{error.strerror or error}.",
            "Choose another folder, on a disk of this machine that can be written.",
        ) from error
    with handle:
        refuse_links(folder)
        _finish_putting_aside(folder)
        for inside in ("", "segments", "frames", "input", VARIANTS):
            sweep(folder / inside)
        yield


def refuse_foreign(folder: Path) -> None:
    """Raise UserError for a folder that is neither empty nor a job's."""
    names = {entry.name for entry in os.scandir(folder) if not is_partial(entry.name)} - _OF_OTHERS
    if names and not names & {_LOCK, _SETTINGS}:
        raise UserError(
            f"{folder} is not empty and is not a job folder.",
            "Choose an empty or a new folder for --out.",
        )


class Job:
    """One job folder. Whoever writes in it holds `locked` around the work."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder holds no job, or a damaged one."""
        self.folder = folder
        if not holds_job(folder):
            raise UserError(
                f"{folder} holds no job, or one whose preparation was broken off.",
                "Start it with --image, --path and --out.",
            )
        self._written = read_json(folder / _SETTINGS)
        self.settings: SceneSettings = settings_module.from_json(self._written)
        self.left_out = settings_module.left_out(self._written)  # sentences for the user

    @property
    def image(self) -> Path:
        """The input picture: the one file input/image.*."""
        return self._one_input("image")

    @property
    def path(self) -> Path:
        """The camera path: input/path.json."""
        return self._one_input("path")

    @property
    def depth(self) -> Path | None:
        """The depth map input/depth.*, where the settings name a file."""
        return self._input("depth")

    @property
    def mask(self) -> Path | None:
        """The mask of a repaint: input/mask.png."""
        return self._input("mask")

    def redo(self) -> Redo | None:
        """Say with what a variant began; None for a job's first result. Raises UserError where that
        is damaged.
        """
        return redo.read(self.folder / "input" / redo.FILE)

    def inputs(self) -> dict[str, Path]:
        """Return the files of input/ by their part in the job. Raises UserError where one is
        missing, or there twice.
        """
        found = {"image": self.image, "path": self.path}
        found |= {part: file for part in _PARTS if (file := self._input(part)) is not None}
        values = flat(self.settings)
        for setting, part in (("depth", "depth"), ("initialiser", "initial")):
            name = str(values[setting]).strip()
            if Path(name).suffix.lower() not in _FILE_ENDINGS:
                continue
            if part not in found or name != f"input/{found[part].name}":
                raise UserError(
                    f"The settings of the job in {self.folder} name {name}, which is not among "
                    "its inputs.",
                    f"Start it anew, with --{setting} and the file.",
                )
        return found

    def _input(self, part: str) -> Path | None:
        files = sorted((self.folder / "input").glob(f"{part}.*"))
        return files[0] if files else None

    def _one_input(self, part: str) -> Path:
        files = sorted((self.folder / "input").glob(f"{part}.*"))
        if len(files) != 1:
            raise UserError(
                f"{self.folder / 'input'} must hold exactly one {part} file, not {len(files)}.",
                "Start the job anew, with --restart and its inputs.",
            )
        return files[0]

    def segment_folder(self, index: int) -> Path:
        """Return the folder of a finished segment, whether it is there or not."""
        return self.folder / "segments" / f"{index:03d}"

    def finished_segments(self) -> int:
        """Count the segments that are there, from the first on without a gap."""
        count = 0
        while self.segment_folder(count).is_dir():
            count += 1
        return count

    @contextmanager
    def new_segment(self, index: int) -> Iterator[Path]:
        """Give a folder to fill; it becomes segments/<index> when the block ends well."""
        with _whole(self.segment_folder(index)) as partial:
            yield partial

    @contextmanager
    def new_repaired(self) -> Iterator[Path]:
        """Give a folder to fill; it becomes repaired/ when the block ends well, in place of one
        that is not to be trusted.
        """
        shutil.rmtree(self.folder / REPAIRED, ignore_errors=True)
        with _whole(self.folder / REPAIRED) as partial:
            yield partial

    def repaired(self) -> Path | None:
        """Return repaired/ where it is whole and was made of the segments that are there now, else
        None.
        """
        folder = self.folder / REPAIRED
        try:
            stats = read_json(folder / REPAIRED_STATS)
            current = stats["of"] == self.state_of_segments()
            whole = (folder / GAUSSIANS).is_file() and not changed_file(folder)
        except (UserError, KeyError, TypeError):
            return None
        return folder if current and whole else None

    def state_of_segments(self) -> list[str]:
        """Return the content of the Gaussians that each finished segment left, the first first."""
        count = self.finished_segments()
        return [str(_listed(self.segment_folder(i)).get(GAUSSIANS, "")) for i in range(count)]

    def last_gaussians(self) -> Path:
        """Return the file of a finished job's Gaussians, whether it is there or not."""
        last = self.repaired() or self.segment_folder(self.finished_segments() - 1)
        return last / GAUSSIANS

    def identity(self) -> Identity:
        """Say by content what the folder holds now."""
        return identity.of(flat(self.settings), self.inputs())

    def start(self) -> list[str]:
        """Write job.json, or check that the folder's work belongs to these settings and inputs.

        Segments that are damaged are dropped, with those after them, to be made again; the lines
        that are returned say so. Raises UserError where the work belongs to other inputs, naming
        what has changed: nothing of another job is overwritten.
        """
        mine, earlier = self.identity(), self._record()
        known = identity.from_json(earlier)
        if known is not None:
            known = known._replace(settings=_as_of_now(known.settings))
            changed = identity.differences(known, mine)
        else:
            old = earlier.get("fingerprint")
            files = list((self.folder / "input").iterdir())
            same = old == identity.of_older_engine(self._written, files)
            changed = [] if old is None or same else ["the settings or an input"]
            if same and self.finished_segments():
                raise AnotherJob(
                    f"The segments in {self.folder} were made by version 0.1.0, whose method cut "
                    "and sized them otherwise.",
                    "Finish the job with that version, choose another --out, or add --restart: "
                    f"it begins anew and keeps what is here under {EARLIER}/.",
                )
        if changed and self.finished_segments():
            raise AnotherJob(
                f"{self.folder} holds the work of another job. Not the same: {'; '.join(changed)}.",
                "Put that back to go on with it, choose another --out, or add --restart: "
                f"it begins anew and keeps what is here under {EARLIER}/.",
            )
        kept: dict[str, Any] = {}
        if not changed:
            kept = {n: earlier[n] for n in ("models", "results") if n in earlier}
        self._write_record(
            {"format": FORMAT_VERSION, "settings": mine.settings, "inputs": mine.inputs, **kept}
        )
        return self._drop_damaged()

    def refuse_other_version(self) -> None:
        """Raise UserError for work that another version began, which this one cannot build upon."""
        if self._record().get("format", FORMAT_VERSION) != FORMAT_VERSION:
            raise UserError(
                f"The job in {self.folder} was made by another version of the engine.",
                "Go on with it in that version, or make it anew with --restart, which keeps it.",
            )

    def _record(self) -> dict[str, Any]:
        file = self.folder / _JOB
        data = read_json(file) if file.exists() else {}
        if not isinstance(data, dict):
            raise UserError(f"{file} is damaged.", "Delete the folder and start the job again.")
        return data

    def _write_record(self, data: dict[str, Any]) -> None:
        if data != (read_json(self.folder / _JOB) if (self.folder / _JOB).exists() else None):
            write_json(self.folder / _JOB, data)

    def known_identity(self) -> Identity:
        """Return the identity with which the work here was made; where the job has not begun, that
        of what the folder holds.
        """
        known = identity.from_json(self._record())
        if known is None:
            return self.identity()
        return known._replace(settings=_as_of_now(known.settings))

    def _drop_damaged(self) -> list[str]:
        count, redone = self.finished_segments(), self.redo()
        kept = redone.kept if redone is not None else 0
        first, problem = self.first_damage(count)
        if first < kept:
            raise UserError(
                f"A segment that this variant has from {redone.of if redone else ''} is damaged or "
                f"gone ({problem or 'it is not there'}).",
                f"Redo the job again: --out {job_of(self.folder)} --redo-from {kept + 1}.",
            )
        while first > kept:  # work goes on from a segment whose Gaussians are whole
            broken = damage_of_gaussians(self.segment_folder(first - 1))
            if not broken:
                break
            first, problem = first - 1, broken if first == count else problem
        if first == count:
            return self._drop_old_repaired()
        shutil.rmtree(self.folder / REPAIRED, ignore_errors=True)
        # the last first: killed, no gap is left
        for later in range(count - 1, first - 1, -1):
            dropped = self.segment_folder(later)
            partial = dropped.with_name(f".{dropped.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            os.replace(dropped, partial)
            shutil.rmtree(partial, ignore_errors=True)
        data = self._record()
        data.pop("results", None)
        self._write_record(data)
        which = (
            f"segment {first + 1} is"
            if first == count - 1
            else f"segments {first + 1} to {count} are"
        )
        return [f"a segment is damaged ({problem}): {which} made again"]

    def _drop_old_repaired(self) -> list[str]:
        if not (self.folder / REPAIRED).is_dir() or self.repaired() is not None:
            return []
        shutil.rmtree(self.folder / REPAIRED, ignore_errors=True)
        data = self._record()
        data.pop("results", None)
        self._write_record(data)
        return ["the repaired frames have changed, or belong to other segments: made again"]

    def first_damage(self, count: int) -> tuple[int, str]:
        """Find the first of `count` finished segments that has changed, Gaussians apart: (its
        index, what it is); (count, "") where all are whole.
        """
        problems = ((i, _damage(self.segment_folder(i))) for i in range(count))
        return next(((i, problem) for i, problem in problems if problem), (count, ""))

    def remembered(self, count: int) -> int:
        """Say after how many of the first `count` segments the Gaussians are there: the most."""
        there = (
            n for n in range(count, 0, -1) if (self.segment_folder(n - 1) / GAUSSIANS).is_file()
        )
        return next(there, 0)

    def drop_old_gaussians(self) -> None:
        """Remove the Gaussians of all finished segments but the last two."""
        for index in range(self.finished_segments() - 2):
            (self.segment_folder(index) / GAUSSIANS).unlink(missing_ok=True)

    def models(self) -> dict[str, str]:
        """Return the models with which the finished segments were made, by setting; empty before
        there are any.
        """
        models = self._record().get("models", {}) if self.finished_segments() else {}
        return models if isinstance(models, dict) else {}

    def keep_models(self, models: dict[str, str]) -> None:
        """Note which models are at work, for a later resume. `start` comes before."""
        self._write_record(self._record() | {"models": models})

    def keep_results(self, outputs: dict[str, str]) -> None:
        """Note that the job is done: its outputs {name: file in the folder}, and the content of
        every result.
        """
        names = [Path(file).relative_to(self.folder).as_posix() for file in outputs.values()]
        names += ["input.png", "input_render.png"]
        for inside in ("frames", "plots"):
            names += sorted(f"{inside}/{file.name}" for file in (self.folder / inside).glob("*.*"))
        files = {n: identity.digest(self.folder / n) for n in names if (self.folder / n).is_file()}
        named = {
            name: Path(file).relative_to(self.folder).as_posix() for name, file in outputs.items()
        }
        sizes = {
            name: (self.folder / name).stat().st_size for name in files
        }  # Blender looks at these
        kept = {"outputs": named, "files": files, "bytes": sizes}
        self._write_record(self._record() | {"results": kept})

    def results(self) -> dict[str, str] | None:
        """Return the outputs {name: file} of a job that is done; None where it is not done, or an
        output is gone or changed.
        """
        results: Any = self._record().get("results")
        try:
            files, outputs = results["files"], results["outputs"]
            whole = bool(files) and all(
                not leads_out(name) and identity.digest(self.folder / name) == content
                for name, content in files.items()
            )
            if not whole or any(file not in files for file in outputs.values()):
                return None
            return {str(n): str(self.folder / file) for n, file in outputs.items()}
        except (KeyError, TypeError, AttributeError, UserError):
            return None

    def put_changed_results_aside(self) -> list[str]:
        """Keep results that somebody changed, before new ones take their names. Returns a line
        about each.
        """
        data = self._record()
        results = data.pop("results", None)
        files = results.get("files") if isinstance(results, dict) else None
        if not isinstance(files, dict):
            return []
        changed = [
            name
            for name, content in files.items()
            if not leads_out(name)
            and (self.folder / name).is_file()
            and identity.digest(self.folder / name) != content
        ]
        kept = _free_number(self.folder)
        for name in changed:
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.folder / name, kept / name)
        self._write_record(data)
        where = kept.relative_to(self.folder).as_posix()
        return [f"{name} was changed since it was made; it is kept as {where}" for name in changed]


@contextmanager
def _whole(final: Path) -> Iterator[Path]:
    """A folder to fill; it gets its name, and a list of its content, when the block ends well."""
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    for file in list_content(partial):
        with open(file, "r+b") as handle:
            os.fsync(handle.fileno())
    os.replace(partial, final)


def flat(settings: SceneSettings) -> dict[str, Any]:
    """Return all settings by name, without their groups."""
    groups = settings_module.to_json(settings).values()
    return {name: value for group in groups for name, value in group.items()}


def leads_out(name: str) -> bool:
    """Say whether a name that a file lists could lie outside the folder of the list, here or on
    Windows.
    """
    parts = PureWindowsPath(name).parts
    return not parts or ".." in parts or ":" in name or "\0" in name or name[0] in "/\\"


def _as_of_now(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote, as this one counts them: what it does not know is
    left out, what is new has its default.
    """
    here = flat(SceneSettings())
    return {name: settings.get(name, default) for name, default in here.items()}


def list_content(folder: Path) -> list[Path]:
    """Write the SHA-256 of all files in a folder into its files.json. Returns the files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    content = {file.relative_to(folder).as_posix(): identity.digest(file) for file in files}
    write_json(folder / _MANIFEST, content)
    return files


def changed_file(folder: Path) -> str:
    """Name a file that is not as `list_content` found it, or give an empty text. Raises UserError
    where one is gone.
    """
    return next((name for name in _listed(folder) if _has_changed(folder, name)), "")


def _damage(segment: Path) -> str:
    """What is wrong with a finished segment apart from its Gaussians, or an empty text."""
    try:
        for name in _listed(segment):
            if name != GAUSSIANS and _has_changed(segment, name):
                return f"{name} of segment {int(segment.name) + 1} has changed"
    except UserError as error:
        return error.message.rstrip(".")
    return ""


def damage_of_gaussians(segment: Path) -> str:
    """Why no work can go on from the Gaussians of a segment, or an empty text. Those of version 0.1
    have no list of their files.
    """
    what = f"{GAUSSIANS} of segment {int(segment.name) + 1}"
    if not (segment / GAUSSIANS).is_file():
        return f"{what} is missing"
    try:
        return f"{what} has changed" if _has_changed(segment, GAUSSIANS) else ""
    except UserError as error:
        return error.message.rstrip(".")


def _listed(segment: Path) -> dict[str, Any]:
    """The content of a segment's files, by name; empty for segments without a list."""
    file = segment / _MANIFEST
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged.")
    return content


def _has_changed(segment: Path, name: str) -> bool:
    content = _listed(segment)
    if not content:
        return False
    return leads_out(name) or identity.digest(segment / name) != content.get(name)


def prepare(folder: Path, settings: SceneSettings, inputs: dict[str, Path], *, resume: bool) -> Job:
    """Make a job folder of settings and input files ({"image": ..., "path": ..., "depth": ...,
    "initial": ...}).

    A folder that already holds a job is only taken with `resume`, and then only if it is the
    same job. A folder with other things in it is left alone. Raises UserError.
    """
    with locked(folder):
        return prepare_locked(folder, settings, {**inputs}, resume=resume, restart=False)


def prepare_locked(
    folder: Path,
    settings: SceneSettings,
    inputs: dict[str, Path | Text],
    *,
    resume: bool,
    restart: bool,
) -> Job:
    """`prepare` in a folder that the caller has `locked`; on resuming, inputs that are not given
    are those of the job.

    With `restart`, the job that is there is kept under a number. Raises UserError, `AnotherJob`
    where `resume` asks for another one than is there.
    """
    if restart and job_of(folder) != folder:
        raise UserError(
            f"{folder} is a variant, which is not begun anew.",
            f"Make another one: --out {job_of(folder)} --redo-from and a segment.",
        )
    if holds_job(folder) and not restart:
        job = Job(folder)
        if resume:
            _refuse_another(job, settings, inputs)
            if job.settings != settings:  # the same files under other names
                write_json(folder / _SETTINGS, settings_module.to_json(settings))
            return Job(folder)
        if job.finished_segments():
            raise UserError(
                f"{folder} already holds a job.",
                "Add --resume to continue it, --restart to begin anew "
                f"(what is there is kept under {EARLIER}/), or choose another --out.",
            )
    staged = folder / _STAGED
    write_inputs(staged, inputs)
    if any((folder / "segments").glob("[0-9]*")):  # work that is given up, or lost its settings
        put_aside(folder)
    for name in (_SETTINGS, _JOB, _LOG):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "segments", ignore_errors=True)
    if (folder / "input").exists():  # by a rename: nothing half is ever named input
        os.replace(folder / "input", folder / _OLD_INPUT)
        shutil.rmtree(folder / _OLD_INPUT, ignore_errors=True)
    os.replace(staged, folder / "input")
    write_json(folder / _SETTINGS, settings_module.to_json(settings))
    return Job(folder)


def write_inputs(folder: Path, inputs: dict[str, Path | Text]) -> None:
    """Make a new folder with a copy of every input, named by its part in the job."""
    folder.mkdir()
    for part, source in inputs.items():
        target = folder / f"{part}{source.suffix.lower()}"
        if isinstance(source, Text):
            target.write_bytes(source.content)
        else:
            shutil.copyfile(source, target)


def _refuse_another(job: Job, settings: SceneSettings, inputs: dict[str, Path | Text]) -> None:
    asked, known = identity.of(flat(settings), inputs), job.known_identity()
    there, given = job.inputs()["path"], inputs.get("path")
    if (
        isinstance(given, Text)
        and given.suffix == there.suffix == ".json"
        and identity.digest(there) == known.inputs.get("path")
        and identity.same_cameras(there.read_bytes(), given.content)
    ):
        asked.inputs["path"] = known.inputs["path"]
    given_parts = {part: asked.inputs.get(part, content) for part, content in known.inputs.items()}
    changed = identity.differences(known, asked._replace(inputs={**given_parts, **asked.inputs}))
    if changed:
        raise AnotherJob(
            f"{job.folder} holds another job. Not the same: {'; '.join(changed)}.",
            "Resume it with what it was made of (--resume alone will do), choose another --out, or "
            f"give --restart in place of --resume: what is there is kept under {EARLIER}/.",
        )


def put_aside(folder: Path) -> Path:
    """Move everything in a locked job folder to earlier/<number>/, and return that folder.

    Killed in the middle, the next engine that locks the folder finishes it.
    """
    kept = _free_number(folder)
    partial = kept.with_name(f".{kept.name}.partial")
    try:
        partial.mkdir(parents=True)
        _finish_putting_aside(folder)
    except OSError as error:
        raise UserError(
            f"What is in {folder} could not be put aside: {error.strerror or error}.",
            "Close the programs that have it open, then try again.",
        ) from error
    return kept


def _free_number(folder: Path) -> Path:
    number = 1
    while (folder / EARLIER / f"{number:03d}").exists():
        number += 1
    return folder / EARLIER / f"{number:03d}"


def _finish_putting_aside(folder: Path) -> None:
    for partial in sorted((folder / EARLIER).glob(".*.partial")):
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if entry.name not in _STAY and not is_partial(entry.name):
                os.replace(entry.path, partial / entry.name)
        os.replace(partial, partial.with_name(partial.name.split(".")[1]))


def save_gaussians(path: Path, gaussians: Gaussians) -> None:
    """Write an exact float32 copy of a scene, for the next segment; users get scene.ply."""
    np.savez(
        path,
        **{name: tensor.detach().cpu().numpy() for name, tensor in gaussians._asdict().items()},
    )


def load_gaussians(path: Path, device: torch.device) -> Gaussians:
    """Read what `save_gaussians` wrote. Raises UserError for a file that is missing or damaged."""
    remedy = (
        f"Delete {path.parent.name} and the segments after it, then resume: they are made again."
    )
    with reading(path, remedy), np.load(path, allow_pickle=False) as arrays:
        return Gaussians(*(torch.from_numpy(arrays[name]).to(device) for name in Gaussians._fields))
