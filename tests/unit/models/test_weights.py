"""Weights on disk and their download, against a real HTTP server that breaks in real ways."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from engine.__main__ import main
from engine.bridge.errors import Cancelled, UserError
from engine.models import download, registry, weights

CONTENT = {
    "model_index.json": b'{"_class_name": "WanVACEPipeline"}',
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": bytes(range(256)) * 9000,
    "README.md": b"not needed",
    "assets/cat.png": b"not needed either",
}
NAME = "wan_vace_1.3b"
BIG = "transformer/diffusion_pytorch_model.safetensors"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers like the model hub. `faults` says what goes wrong."""

    content: dict[str, bytes] = CONTENT
    faults: dict[str, int] = {}  # noqa: RUF012
    requests: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.requests.append((path, self.headers.get("Range")))
        assert self.headers.get("Authorization") is None, "no token over plain http"
        if "status" in self.faults:
            self.send_error(self.faults["status"])
        elif path.startswith("/api/models/"):
            self._send(json.dumps(self._listing()).encode())
        elif path.startswith("/elsewhere/"):
            assert self.headers.get("Authorization") is None, "the token must not leave the hub"
            self._file(path.removeprefix("/elsewhere/"))
        else:
            self.send_response(302)
            self.send_header("Location", "/elsewhere/" + path.split("/resolve/main/")[1])
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _listing(self) -> list[dict]:
        entries = [{"type": "directory", "path": "transformer", "oid": "x", "size": 0}]
        for path, data in self.content.items():
            entry = {
                "type": "file",
                "path": path,
                "size": len(data),
                "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
            }
            if path == BIG:
                entry |= {
                    "oid": "0" * 40,
                    "lfs": {
                        "oid": hashlib.sha256(data).hexdigest(),
                        "size": len(data),
                        "pointerSize": 130,
                    },
                }
            entries.append(entry)
        return entries + (
            [{"type": "file", "path": "../evil.json", "size": 1, "oid": "0"}]
            if "evil" in self.faults
            else []
        )

    def _file(self, name: str) -> None:
        data, start = self.content[name], 0
        if "damage" in self.faults:
            data = b"?" + data[1:]
        if "long" in self.faults:
            data += b"x" * 10**6
        wanted = self.headers.get("Range")
        if wanted and "no_ranges" not in self.faults:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:]
        if name == BIG and self.faults.get("cut", 0) > 0:
            self.faults["cut"] -= 1
            self.wfile.write(rest[: len(rest) // 2])
            self.close_connection = True
            return
        self.wfile.write(rest)

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    Hub.faults, Hub.requests = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(download.time, "sleep", lambda s: None)
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def home() -> Path:
    return weights.folder() / NAME


def test_a_download_brings_what_is_needed_and_only_that(hub):
    seen: list[tuple[int, int]] = []
    assert weights.missing(NAME)
    download.download(NAME, lambda stage, done, total, text: seen.append((done, total)))
    files = sorted(
        str(p.relative_to(home())).replace("\\", "/") for p in home().rglob("*") if p.is_file()
    )
    assert files == ["model_index.json", weights.MANIFEST, "transformer/config.json", BIG]
    assert all((home() / f).read_bytes() == CONTENT[f] for f in files if f != weights.MANIFEST)
    assert weights.require(NAME) == home()
    assert weights.verify(NAME) == []
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done) and done[-1] == totals[-1] == sum(
        len(CONTENT[f]) for f in files if f != weights.MANIFEST
    )


def test_a_second_download_fetches_nothing_again(hub):
    download.download(NAME)
    hub.requests.clear()
    download.download(NAME)
    assert [path for path, _ in hub.requests] == [
        "/api/models/Wan-AI/Wan2.1-VACE-1.3B-diffusers/tree/main"
    ]


def test_a_broken_connection_is_continued_where_it_stopped(hub):
    hub.faults["cut"] = 2
    download.download(NAME)
    assert (home() / BIG).read_bytes() == CONTENT[BIG]
    ranges = [r for path, r in hub.requests if path.endswith(BIG) and path.startswith("/elsewhere")]
    half = len(CONTENT[BIG]) // 2
    assert ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_server_without_ranges_starts_the_file_again(hub):
    hub.faults.update(cut=1, no_ranges=1)
    download.download(NAME)
    assert (home() / BIG).read_bytes() == CONTENT[BIG]


def test_a_connection_that_never_works_ends_with_what_arrived_kept(hub):
    hub.faults["cut"] = 10**6
    Hub.content = CONTENT | {BIG: b"x"}  # half of one byte is none: no progress
    try:
        with pytest.raises(UserError, match="keeps breaking"):
            download.download(NAME)
    finally:
        Hub.content = CONTENT
    assert (home() / "model_index.json").is_file()
    with pytest.raises(UserError, match="The download is not finished"):
        weights.require(NAME)


def test_cancelling_keeps_what_arrived(hub):
    def report(stage: str, done: int, total: int, text: str) -> None:
        if text == BIG:
            raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        download.download(NAME, report)
    part = home() / (BIG + ".part")
    size = part.stat().st_size
    assert 0 < size < len(CONTENT[BIG])
    download.download(NAME)
    assert (Hub.requests[-1][1] or "") == f"bytes={size}-"
    assert weights.verify(NAME) == []


def test_a_damaged_file_is_refused_and_removed(hub):
    hub.faults["damage"] = 1
    with pytest.raises(UserError, match="checksum is wrong"):
        download.download(NAME)
    assert not list(home().rglob("*.part")) and not list(home().rglob("*.safetensors"))


def test_verify_finds_a_changed_and_a_lost_file(hub):
    download.download(NAME)
    data = bytearray(CONTENT[BIG])
    data[1000] ^= 1
    (home() / BIG).write_bytes(data)
    (home() / "transformer/config.json").unlink()
    assert weights.verify(NAME) == [
        "transformer/config.json is missing or too short",
        f"{BIG} has another checksum than the released file",
    ]
    assert main(["weights", "verify", NAME]) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "accept its licence"),
        (403, "accept its licence"),
        (404, "Not found"),
        (407, "proxy wants"),
        (400, "HTTP 400"),
    ],
)
def test_refusals_are_told_plainly(hub, status, message):
    hub.faults["status"] = status
    with pytest.raises(UserError, match=message):
        download.download(NAME)


def test_no_network_names_the_proxy_and_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(UserError, match="Cannot reach 127") as caught:
        download.download(NAME)
    assert "HTTPS_PROXY" in caught.value.hint and str(tmp_path) in caught.value.hint


def test_the_token_goes_over_https_alone_and_to_the_hub_alone(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    download.download(NAME)  # the server, plain http, asserts that it never sees it
    sent = []

    def answer(request, timeout):
        sent.append((request.unredirected_hdrs, request.headers))
        raise urllib.error.URLError("no network here")

    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    with pytest.raises(UserError, match="Cannot reach"):
        download.listing(NAME)
    ((once, always),) = sent
    assert once == {"Authorization": "Bearer secret"} and "Authorization" not in always


def test_offline_means_offline(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        download.download(NAME)
    assert hub.requests == []


def test_a_file_that_was_damaged_here_is_mended(hub):
    download.download(NAME)
    file = home() / BIG
    file.write_bytes(b"?" + file.read_bytes()[1:])
    hub.requests.clear()
    download.download(NAME)
    assert file.read_bytes() == CONTENT[BIG] and weights.verify(NAME) == []
    assert [path for path, _ in hub.requests if path.startswith("/elsewhere")] == [
        f"/elsewhere/{BIG}"
    ]


def test_a_body_longer_than_listed_is_not_written_on_and_on(hub):
    hub.faults["long"] = 1
    with pytest.raises(UserError, match="longer than"):
        download.download(NAME)
    assert sum(f.stat().st_size for f in home().rglob("*") if f.is_file()) < 10**6


@pytest.mark.parametrize("url", ["hub", "file:///etc", "ftp://hub", "http://", "http://a b", "x:y"])
def test_an_address_that_is_none_is_named(monkeypatch, url):
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(UserError, match="HF_ENDPOINT"):
        download.listing(NAME)


def test_a_listed_path_stays_in_its_folder_on_every_system():
    inside = ("a.json", "a/b-c_d.1.bin", "\u00e4/x")
    outside = (
        "",
        "/a",
        "../a",
        "a/../b",
        "a//b",
        "./a",
        "C:/x/y.json",
        "a\\b",
        "a\0",
        "nul",
        "a/CON.txt",
    )
    assert all(map(download.stays_inside, inside))
    assert not any(map(download.stays_inside, (*outside, "a.", "a ", "a/b:c", "a\nb")))


def test_too_little_disk_is_said_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(
        download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})()
    )
    with pytest.raises(UserError, match="Not enough disk space"):
        download.download(NAME)
    assert not any("/elsewhere/" in path for path, _ in hub.requests)


def test_a_disk_that_fills_up_keeps_what_arrived(hub, monkeypatch):
    real, written = Path.open, []

    def open_(self, mode="r", *args, **kwargs):
        file = real(self, mode, *args, **kwargs)
        if self.name.endswith(".safetensors.part") and mode in ("ab", "wb"):
            write = file.write

            class Full:
                def __enter__(self):
                    return self

                def __exit__(self, *error):
                    file.close()

                def tell(self):
                    return file.tell()

                def write(self, block):
                    if written:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    written.append(write(block))

            return Full()
        return file

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(UserError, match="disk is full"):
        download.download(NAME)
    assert (home() / (BIG + ".part")).stat().st_size == written[0] > 0


def test_a_listing_may_not_leave_its_folder(hub, monkeypatch):
    hub.faults["evil"] = 1
    monkeypatch.setattr(weights, "selected", lambda name, files: files)
    with pytest.raises(UserError, match="outside its folder"):
        download.listing(NAME)


def test_files_put_there_by_hand_count(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"10\.44 GB; Apache-2\.0.*weights download viewcrafter_25"):
        weights.require("viewcrafter_25")
    (tmp_path / "viewcrafter_25").mkdir()
    (tmp_path / "viewcrafter_25" / "model.ckpt").write_bytes(b"x")
    assert (
        weights.checkpoint_in("viewcrafter_25", weights.require("viewcrafter_25")).name
        == "model.ckpt"
    )
    assert weights.verify("viewcrafter_25") == [
        "model.ckpt has another checksum than the released file"
    ]
    (tmp_path / "viewcrafter_16").write_bytes(b"a file where a folder should be")
    with pytest.raises(UserError, match="is a file, not a folder"):
        weights.require("viewcrafter_16")


def test_a_renamed_checkpoint_is_found_if_it_is_the_only_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    home = tmp_path / "viewcrafter_25"
    home.mkdir()
    (home / "ViewCrafter_25.ckpt").write_bytes(b"x")
    (home / "text_0123.safetensors").write_bytes(b"kept text")
    assert weights.missing("viewcrafter_25") == []
    assert (
        weights.checkpoint_in("viewcrafter_25", weights.require("viewcrafter_25")).name
        == "ViewCrafter_25.ckpt"
    )
    assert weights.verify("viewcrafter_25") == [
        "model.ckpt has another checksum than the released file"
    ]
    (home / "another.ckpt").write_bytes(b"y")
    with pytest.raises(UserError, match="Weights not found"):
        weights.require("viewcrafter_25")
    (tmp_path / "depth_anything_3").mkdir()
    (tmp_path / "depth_anything_3" / "text_x.safetensors").write_bytes(b"no model")
    assert weights.missing("depth_anything_3") == ["model.safetensors"]


def test_a_damaged_manifest_is_a_matter_of_its_own_model_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    for name in ("svd", "moge_2"):
        for file in weights.known(name).needs:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes(b"{}")
    (tmp_path / "svd" / weights.MANIFEST).write_text("{half")
    assert weights.missing("svd") == [weights.MANIFEST] and weights.missing("moge_2") == []
    assert main(["weights", "list"]) == 0
    with pytest.raises(UserError, match="Weights not found"):
        weights.require("svd")
    with pytest.raises(UserError, match="is damaged"):
        weights.verify("svd")


def test_a_folder_in_place_of_the_file_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    (tmp_path / "viewcrafter_25" / "model.ckpt").mkdir(parents=True)
    (tmp_path / "viewcrafter_25" / "model.ckpt" / "real.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match="is a folder, not the file") as caught:
        weights.require("viewcrafter_25")
    assert "real.ckpt" in caught.value.hint


def test_a_download_goes_through_a_proxy(hub, monkeypatch):
    """The hub has a name that nobody can look up: the proxy, which here is the same server, gets
    the whole address.
    """
    server = download.endpoint()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setattr(
        urllib.request, "_opener", None
    )  # it remembers the proxies of its first request
    monkeypatch.setattr(Hub, "do_GET", through_proxy(Hub.do_GET, seen := []))
    assert (download.download(NAME) / BIG).read_bytes() == CONTENT[BIG]
    assert weights.verify(NAME) == []
    assert all(address.startswith("http://hub.invalid/") for address in seen) and len(seen) >= 4


def through_proxy(get, seen: list[str]):
    """A handler that takes what a client sends to a proxy: an address in place of a path."""

    def do_get(self) -> None:
        seen.append(self.path)
        self.path = self.path.removeprefix("http://hub.invalid")
        get(self)

    return do_get


def test_licences_are_said_and_conditions_must_be_accepted(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.WITH_FILES)
    assert all("commercial use: yes" in line or "commercial use: NO" in line for line in lines)
    assert main(["weights", "download", "depth_pro"]) == 2
    assert "research only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing is fetched, not even asked for


def test_json_for_the_add_on(hub, capsys):
    assert main(["weights", "--json", "download", NAME]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {"done": True, "name": NAME, "folder": str(home())}
    assert lines[-2]["done"] == lines[-2]["total"]
    assert main(["weights", "--json", "list"]) == 0
    listed = {d["name"]: d for d in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed[NAME]["present"] and not listed["svd"]["present"]
    assert main(["weights", "where", NAME]) == 0
    assert capsys.readouterr().out.strip() == str(home())


def test_show_tells_size_licence_and_checksum(hub, capsys):
    assert main(["weights", "show", "viewcrafter_25"]) == 0
    shown = capsys.readouterr().out
    assert all(
        text in shown
        for text in (
            "10.44",
            "Apache-2.0",
            "commercial use: yes",
            "present: no",
            "model.ckpt 5676e29d8f9d5b6c",
        )
    )
    assert main(["weights", "show", NAME]) == 0
    assert "none known before the download" in capsys.readouterr().out
    download.download(NAME)
    assert main(["weights", "show", NAME]) == 0
    assert f"{BIG} {hashlib.sha256(CONTENT[BIG]).hexdigest()}" in capsys.readouterr().out


def test_unknown_names_are_told_the_known_ones(capsys):
    assert main(["weights", "show", "dalle"]) == 2
    assert "viewcrafter_25" in capsys.readouterr().err


def test_every_entry_is_complete():
    for name, entry in registry.WITH_FILES.items():
        assert entry.kind in registry.KINDS
        assert entry.licence and entry.size_gb > 0 and entry.repository.count("/") == 1
        assert weights.selected(name, list(entry.needs)) == list(entry.needs)
        if entry.kind == "prior":
            assert name in registry.PRIORS
    fp16, fp32 = (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    )
    assert weights.selected("svd", [fp16, fp32, "svd_xt.safetensors"]) == [fp16]
