"""Fetches the weights of a model from the Hugging Face hub, over plain HTTPS.

Resumable: a file arrives as `<file>.part` and gets its name when its checksum is right. A file that
is here already is read and compared, and fetched again where it is damaged.
Proxies come from the environment (HTTPS_PROXY), a mirror from HF_ENDPOINT, a token for
gated models from HF_TOKEN; the token goes to the hub alone, not to where it redirects, and never
over plain http. HF_HUB_OFFLINE=1 keeps everything off the network.
"""

from __future__ import annotations

import errno
import functools
import http.client
import json
import logging
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..bridge.errors import UserError
from ..bridge.whole_file import whole_file
from . import weights

log = logging.getLogger(__name__)
_BLOCK = 1 << 20
_TIMEOUT_S = 30.0
_ATTEMPTS = 4  # without a byte of progress
_LONGEST_LISTING = 32 << 20  # bytes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows
_SPARE_BYTES = 200 * 10**6  # left free on the disk

Report = Callable[[str, int, int, str], None]  # stage, bytes done, bytes in all, file


class RemoteFile(NamedTuple):
    """A file of a repository as the hub lists it."""

    path: str
    size: int
    kind: str  # "sha256" of the content, or "sha1" of git's blob
    checksum: str


def endpoint() -> str:
    """Where the hub is. Raises UserError where HF_ENDPOINT is no address."""
    url = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or "https://huggingface.co"
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or any(c.isspace() or not c.isprintable() for c in url):
        raise UserError(
            f"HF_ENDPOINT is {url!r}, which is no address of a hub.",
            "Set it to something like https://huggingface.co, or unset it.",
        )
    return url


def listing(name: str) -> list[RemoteFile]:
    """The files that a model needs, with sizes and checksums, as its repository has them now."""
    repository = weights.known(name).repository
    entries = _entries(f"{endpoint()}/api/models/{repository}/tree/main?recursive=true", name)
    chosen = set(weights.selected(name, [e.path for e in entries]))
    files = [entry for entry in entries if entry.path in chosen]
    absent = [f for f in weights.known(name).needs if f not in chosen]
    if absent:
        raise UserError(
            f"{repository} no longer has {', '.join(absent)}.",
            "The model has moved; update this program.",
        )
    return files


def _entries(url: str, name: str) -> list[RemoteFile]:
    for attempt in range(_ATTEMPTS):
        try:
            with _open(url, name) as answer:
                text = answer.read(_LONGEST_LISTING + 1)
            break
        except (http.client.HTTPException, OSError) as error:
            log.info("%s: %s", url, error)
            reason = error
            time.sleep(0.5 * attempt)
    else:
        raise UserError(
            f"{endpoint()} does not answer ({reason}).", "Try again later, or check HF_ENDPOINT."
        )
    try:
        if len(text) > _LONGEST_LISTING:
            raise ValueError("too long")
        return [_remote(entry) for entry in json.loads(text) if entry["type"] == "file"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{endpoint()} did not answer as a model hub does.",
            "Check HF_ENDPOINT and the proxy.",
        ) from error


def _remote(entry: dict[str, Any]) -> RemoteFile:
    path = entry["path"]
    if not stays_inside(path):
        raise UserError(
            f"The hub lists a file outside its folder: {path!r:.200}.", "Do not use this mirror."
        )
    kind, noted = ("sha256", entry["lfs"]) if "lfs" in entry else ("sha1", entry)
    size, checksum = noted["size"], noted["oid"].removeprefix("sha256:")
    digits = {"sha256": 64, "sha1": 40}[kind]
    if type(size) is not int or size < 0 or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", checksum):
        raise ValueError(f"size {size!r:.40}, checksum {checksum!r:.80}")
    return RemoteFile(path, size, kind, checksum)


def stays_inside(path: str) -> bool:
    """Whether a listed path names a file below the folder it is put in, on every system."""
    parts = path.split("/")
    return not any(
        part in ("", ".", "..")
        or part[-1] in ". "
        or any(c in '\\:*?"<>|' or not c.isprintable() for c in part)
        or _RESERVED.fullmatch(part)
        for part in parts
    )


def download(name: str, report: Report = lambda stage, done, total, text: None) -> Path:
    """Fetch what is missing of a model and return its folder. `report` may raise to stop; what has
    arrived stays usable.
    """
    home = weights.folder() / name
    files = listing(name)
    total = sum(f.size for f in files)
    try:
        sound = {f.path for f in files if _is_sound(home / f.path, f, report, total)}
        rest = sum(f.size - _begun(home / f.path) for f in files if f.path not in sound)
        _require_space(home, rest)
        done = sum(f.size for f in files if f.path in sound)
        # first: from here on a half-fetched model counts as missing
        _write_manifest(name, home, files)
        for file in files:
            if file.path not in sound:
                step = functools.partial(_report_one, report, file.path, done, total)
                _fetch(name, file, home / file.path, step)
                done += file.size
    except OSError as error:
        raise _disk_error(error, home) from error
    report("download", total, total, "")
    return home


def _is_sound(target: Path, file: RemoteFile, report: Report, total: int) -> bool:
    """Whether a file is here already, as the hub has it; reading a large one takes a while."""
    if not target.is_file() or target.stat().st_size != file.size:
        return False
    report("checking", 0, total, file.path)
    return weights.digest(target, file.kind) == file.checksum


def _report_one(report: Report, path: str, before: int, total: int, arrived: int) -> None:
    report("download", before + arrived, total, path)


def _write_manifest(name: str, home: Path, files: list[RemoteFile]) -> None:
    content = {
        "repository": weights.known(name).repository,
        "files": {f.path: {"size": f.size, f.kind: f.checksum} for f in files},
    }
    with whole_file(home / weights.MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _begun(target: Path) -> int:
    """Bytes of a file that an earlier attempt has fetched."""
    part = target.with_name(target.name + ".part")
    return part.stat().st_size if part.is_file() else 0


def _require_space(home: Path, rest: int) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise _disk_error(error, home) from error
    if rest > 0 and rest + _SPARE_BYTES > free:
        raise UserError(
            f"Not enough disk space: {rest / 1e9:.1f} GB to fetch, {free / 1e9:.1f} GB free in "
            f"{home}.",
            "Free some space, or choose another weights folder (preferences, or "
            f"{weights.FOLDER_VARIABLE}).",
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
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            log.info("%s: %s", file.path, error)
        failures = failures + 1 if part.stat().st_size <= before else 0
        if failures == _ATTEMPTS:
            raise UserError(
                f"The connection keeps breaking; {file.path} stopped at "
                f"{part.stat().st_size / 1e9:.2f} of {file.size / 1e9:.2f} GB.",
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
    repository = weights.known(name).repository
    url = f"{endpoint()}/{repository}/resolve/main/{urllib.parse.quote(file.path)}"
    with _open(url, name, start) as answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        place = str(answer.headers.get("Content-Range", ""))
        if resumed and place and not place.startswith(f"bytes {start}-"):
            raise ConnectionError(f"asked for bytes from {start} on, received {place}")
        with part.open("ab" if resumed else "wb") as out:
            while block := answer.read(_BLOCK):
                if out.tell() + len(block) > file.size:
                    raise UserError(
                        f"{file.path} is longer than the hub says ({file.size} bytes).",
                        "Do not use this mirror.",
                    )
                out.write(block)
                step(out.tell())


def _open(url: str, name: str, start: int = 0) -> Any:
    """The answer to a GET, from byte `start` if the server can. Raises UserError for what a person
    can mend.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(
            "HF_HUB_OFFLINE is set: nothing is fetched from the network.",
            f"Unset it, or put the files into {weights.folder() / name}.",
        )
    request = urllib.request.Request(url, headers={"User-Agent": "scene-splatter"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and not (token.isascii() and token.isprintable()):
        raise UserError("HF_TOKEN is no token of the hub.", "Set it to hf_..., or unset it.")
    if token and request.type == "https":  # plain http would show it to everybody on the way
        request.add_unredirected_header("Authorization", f"Bearer {token}")
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
