"""Fetches the weights of a model from the Hugging Face hub, over plain HTTPS.

Resumable: a file arrives as `<file>.part` and gets its name when its checksum is right.
Proxies come from the environment (HTTPS_PROXY), a mirror from HF_ENDPOINT, a token for
gated models from HF_TOKEN; the token goes to the hub alone, not to where it redirects.
"""

from __future__ import annotations

import errno
import functools
import http.client
import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..bridge.errors import UserError
from . import weights

_log = logging.getLogger(__name__)
_BLOCK = 1 << 20
_TIMEOUT_S = 30.0
_ATTEMPTS = 4  # without a byte of progress
_SPARE_BYTES = 200 * 10**6  # left free on the disk

Report = Callable[[str, int, int, str], None]  # stage, bytes done, bytes in all, file


class RemoteFile(NamedTuple):
    """A file of a repository as the hub lists it."""

    path: str
    size: int
    kind: str  # "sha256" of the content, or "sha1" of git's blob
    checksum: str


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def listing(name: str) -> list[RemoteFile]:
    """The files that a model needs, with sizes and checksums, as its repository has them now."""
    repository = weights.known(name).repository
    url = f"{endpoint()}/api/models/{repository}/tree/main?recursive=true"
    with _open(url, name) as answer:
        try:
            entries = [e for e in json.load(answer) if e["type"] == "file"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{endpoint()} did not answer as a model hub does.",
                "Check HF_ENDPOINT and the proxy.",
            ) from error
    chosen = set(weights.selected(name, [e["path"] for e in entries]))
    files = [_remote(e) for e in entries if e["path"] in chosen]
    absent = [f for f in weights.known(name).needs if f not in chosen]
    if absent:
        raise UserError(
            f"{repository} no longer has {', '.join(absent)}.",
            "The model has moved; update this program.",
        )
    return files


def _remote(entry: dict[str, Any]) -> RemoteFile:
    path = entry["path"]
    if path.startswith("/") or ".." in path.split("/") or "\\" in path:
        raise UserError(
            f"The hub lists a file outside its folder: {path!r}.", "Do not use this mirror."
        )
    if "lfs" in entry:
        return RemoteFile(
            path, int(entry["lfs"]["size"]), "sha256", entry["lfs"]["oid"].removeprefix("sha256:")
        )
    return RemoteFile(path, int(entry["size"]), "sha1", entry["oid"])


def download(name: str, report: Report = lambda stage, done, total, text: None) -> Path:
    """Fetch what is missing of a model and return its folder. `report` may raise to stop; what has arrived stays usable."""
    home = weights.folder() / name
    files = listing(name)
    total = sum(f.size for f in files)
    rest = sum(f.size - _have(home / f.path) for f in files)
    _require_space(home, rest)
    done = 0
    try:
        _write_manifest(
            name, home, files
        )  # first: from here on a half-fetched model counts as missing
        for file in files:
            _fetch(
                name,
                file,
                home / file.path,
                functools.partial(_report_one, report, file.path, done, total),
            )
            done += file.size
    except OSError as error:
        raise _disk_error(error, home) from error
    report("download", total, total, "")
    return home


def _report_one(report: Report, path: str, before: int, total: int, arrived: int) -> None:
    report("download", before + arrived, total, path)


def _write_manifest(name: str, home: Path, files: list[RemoteFile]) -> None:
    content = {
        "repository": weights.known(name).repository,
        "files": {f.path: {"size": f.size, f.kind: f.checksum} for f in files},
    }
    temporary = home / (weights.MANIFEST + ".part")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(home / weights.MANIFEST)


def _have(target: Path) -> int:
    """Bytes of a file that are here already, finished or begun."""
    for path in (target, target.with_name(target.name + ".part")):
        if path.is_file():
            return path.stat().st_size
    return 0


def _require_space(home: Path, rest: int) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise _disk_error(error, home) from error
    if rest > 0 and rest + _SPARE_BYTES > free:
        raise UserError(
            f"Not enough disk space: {rest / 1e9:.1f} GB to fetch, {free / 1e9:.1f} GB free in {home}.",
            f"Free some space, or choose another weights folder (preferences, or {weights.FOLDER_VARIABLE}).",
        )


def _disk_error(error: OSError, home: Path) -> UserError:
    if error.errno == errno.ENOSPC:
        return UserError(
            f"The disk is full: {home}.",
            "Free some space and download again; what has arrived is kept.",
        )
    return UserError(
        f"Cannot write to {home} ({error.strerror or error}).",
        f"Choose another weights folder ({weights.FOLDER_VARIABLE}).",
    )


def _fetch(name: str, file: RemoteFile, target: Path, step: Callable[[int], None]) -> None:
    """One file, resumed where an earlier attempt stopped."""
    if target.is_file() and target.stat().st_size == file.size:
        step(file.size)
        return
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file() and part.stat().st_size > file.size:
        part.unlink()
    part.touch()
    failures = 0
    while part.stat().st_size < file.size:
        before = part.stat().st_size
        try:
            _append(name, file, part, step)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            _log.info("%s: %s", file.path, error)
        failures = failures + 1 if part.stat().st_size <= before else 0
        if failures == _ATTEMPTS:
            raise UserError(
                f"The connection keeps breaking; {file.path} stopped at {part.stat().st_size / 1e9:.2f} of {file.size / 1e9:.2f} GB.",
                "Download again later; it continues where it stopped.",
            )
        time.sleep(0.5 * failures)
    if weights.digest(part, file.kind) != file.checksum:
        part.unlink()
        raise UserError(
            f"{file.path} arrived damaged (its checksum is wrong) and was removed.",
            "Download again.",
        )
    part.replace(target)


def _append(name: str, file: RemoteFile, part: Path, step: Callable[[int], None]) -> None:
    start = part.stat().st_size
    url = f"{endpoint()}/{weights.known(name).repository}/resolve/main/{urllib.parse.quote(file.path)}"
    with _open(url, name, start) as answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb") as out:
            while block := answer.read(_BLOCK):
                out.write(block)
                step(out.tell())


def _open(url: str, name: str, start: int = 0) -> Any:
    """The answer to a GET, from byte `start` if the server can. Raises UserError for what a person can mend."""
    request = urllib.request.Request(url, headers={"User-Agent": "scene-splatter"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {os.environ['HF_TOKEN']}")
    by_hand = f"Or fetch the files elsewhere and put them into {weights.folder() / name}."
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        raise _refused(error, name, by_hand) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionResetError | TimeoutError):
            raise ConnectionError(str(error.reason)) from error
        raise UserError(
            f"Cannot reach {urllib.parse.urlsplit(url).hostname} ({error.reason}).",
            f"Check the network; behind a proxy set HTTPS_PROXY. {by_hand}",
        ) from error


def _refused(error: urllib.error.HTTPError, name: str, by_hand: str) -> Exception:
    page = f"{endpoint()}/{weights.known(name).repository}"
    if error.code in (401, 403):
        return UserError(
            f"{page} wants you to accept its licence first.",
            f"Accept it there, then set HF_TOKEN to a read token of yours. {by_hand}",
        )
    if error.code == 404:
        return UserError(
            f"Not found: {error.url}.", f"The model has moved; look at {page}. {by_hand}"
        )
    if error.code == 407:
        return UserError(
            "The proxy wants a name and a password.",
            "Set HTTPS_PROXY to http://name:password@proxy:port.",
        )
    if error.code == 416 or error.code == 429 or error.code >= 500:
        return ConnectionError(f"HTTP {error.code}")  # try again
    return UserError(f"The hub answered with HTTP {error.code} ({error.reason}).", by_hand)
