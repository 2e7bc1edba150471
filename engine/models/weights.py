"""Files of the registry's models: where they lie, whether they are whole.

Nothing here fetches anything; `download.py` does, when asked. Weights lie in one folder per
model below `folder()`. Files that a user put there by hand count like downloaded ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from ..bridge.errors import UserError
from ..bridge.user_folders import system_cache
from . import registry
from .registry import Model

FOLDER_VARIABLE = "SCENE_SPLATTER_WEIGHTS"
MANIFEST = "scene_splatter_files.json"
KEPT_TEXT = "text_"  # how files of text embeddings that are kept beside weights begin


def folder() -> Path:
    """Where weights are kept: $SCENE_SPLATTER_WEIGHTS, else the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else system_cache() / "weights"


def known(name: str) -> Model:
    """The row of a model that has files. Raises UserError for a name that is none."""
    if name not in registry.WITH_FILES:
        names = ", ".join(registry.WITH_FILES)
        raise UserError(f"Unknown weights: {name}.", f"Choose one of: {names}.")
    return registry.WITH_FILES[name]


def missing(name: str) -> list[str]:
    """Files that should be there and are not, or are shorter than they should be; [] if the model
    can be used.
    """
    entry, home = known(name), folder() / name
    try:
        listed = manifest(home)
    except UserError:  # one damaged model is no reason for the others not to be used
        return [MANIFEST]
    if not listed and _by_another_name(name) is not None:
        return []
    wanted = {file: facts["size"] for file, facts in listed.items()} or dict.fromkeys(
        entry.needs, 0
    )
    return [
        file
        for file, size in wanted.items()
        if not (home / file).is_file() or (home / file).stat().st_size < size
    ]


def require(name: str) -> Path:
    """The folder of a model whose files are there. Raises UserError, saying how to get them,
    otherwise.
    """
    entry, home = known(name), folder() / name
    if home.is_file():
        raise UserError(
            f"{home} is a file, not a folder of weights.",
            f"Put the file into a folder of that name: {home}/{entry.needs[0]}.",
        )
    if (home / entry.needs[0]).is_dir():
        inside = ", ".join(sorted(p.name for p in (home / entry.needs[0]).iterdir())[:3])
        raise UserError(
            f"{home / entry.needs[0]} is a folder, not the file of that name.",
            f"Put the file itself into {home}{f' (the folder holds {inside})' if inside else ''}.",
        )
    if missing(name):
        begun = (
            " The download is not finished." if home.is_dir() and any(home.rglob("*.part")) else ""
        )
        raise UserError(
            f"Weights not found: {entry.title} ({entry.size_gb:g} GB; {entry.licence}).{begun}",
            f"Run: python -m engine weights download {name} - or press Download in the add-on's "
            f"preferences. Place: {home}",
        )
    return home


def checkpoint_in(name: str, home: Path) -> Path:
    """The one file of a single-file model: the released name, else any one checkpoint in its
    folder.
    """
    for wanted in known(name).needs:
        if (home / wanted).is_file():
            return home / wanted
    other = _by_another_name(name)
    if other is None:
        raise UserError(
            f"No checkpoint in {home}.", f"Run: python -m engine weights download {name}"
        )
    return other


def _by_another_name(name: str) -> Path | None:
    """The one checkpoint in a single-file model's folder, if it was put there by hand under another
    name.
    """
    entry, home = known(name), folder() / name
    ending = Path(entry.needs[0]).suffix
    if len(entry.needs) > 1 or ending == ".json" or (home / entry.needs[0]).exists():
        return None
    found = [p for p in home.glob(f"*{ending}") if p.is_file() and not p.name.startswith(KEPT_TEXT)]
    return found[0] if len(found) == 1 else None


def selected(name: str, files: list[str]) -> list[str]:
    """Those of a repository's files that the model needs."""
    entry = known(name)
    return [
        f
        for f in files
        if any(fnmatch(f, p) for p in entry.files) and not any(fnmatch(f, p) for p in entry.without)
    ]


def manifest(home: Path) -> dict[str, dict]:
    """{file: {"size", "sha256" or "sha1"}} as the download left it; {} if the files were put there
    by hand.
    """
    path = home / MANIFEST
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        for facts in files.values():
            if type(facts["size"]) is not int or not isinstance(
                facts.get("sha256", facts.get("sha1")), str
            ):
                raise ValueError("a file without size or checksum")
        return files
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged.", "Delete it and download again; files that are whole are kept."
        ) from error


def digest(path: Path, kind: str, step: Callable[[int], None] = lambda size: None) -> str:
    """Checksum of a file as the hub gives it: "sha256" of the content, or "sha1" of git's blob."""
    git_head = b"blob %d\0" % path.stat().st_size
    state = hashlib.sha256() if kind == "sha256" else hashlib.sha1(git_head, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            state.update(block)
            step(len(block))
    return state.hexdigest()


def verify(name: str, step: Callable[[int], None] = lambda size: None) -> list[str]:
    """Read every file and compare checksums; a list of what is wrong, [] if nothing. `step(bytes
    read)` may raise to stop.
    """
    entry, home = known(name), folder() / name
    absent = missing(name)
    problems = [f"{file} is missing or too short" for file in absent]
    expected = {file: ("sha256", value) for file, value in entry.sha256.items()}
    for file, facts in manifest(home).items():
        expected[file] = (
            ("sha256", facts["sha256"]) if "sha256" in facts else ("sha1", facts["sha1"])
        )
    other = None if absent else _by_another_name(name)
    for file, (kind, value) in expected.items():
        if file not in absent and not digest(other or home / file, kind, step).startswith(value):
            problems.append(f"{file} has another checksum than the released file")
    return problems


def checksums(name: str) -> dict[str, str]:
    """SHA-256 of a model's large files, as far as it is known: of the released files, or as the
    download noted it; some are beginnings.
    """
    noted = {
        file: facts["sha256"]
        for file, facts in manifest(folder() / name).items()
        if "sha256" in facts
    }
    return {**known(name).sha256, **noted}


def verifiable(name: str) -> bool:
    """Whether any checksum is known for this model."""
    return bool(known(name).sha256 or manifest(folder() / name))
