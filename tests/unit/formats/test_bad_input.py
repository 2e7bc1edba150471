"""Broken, lying and hostile files: one clear error, no crash, no flood of memory, nothing half
written.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from PIL import Image

from engine import formats
from engine.bridge.errors import UserError
from engine.bridge.splat_file import Splats
from engine.bridge.whole_file import replacing
from engine.formats import SplatScene
from engine.formats.scene import repaired
from tests.format_samples import random_splats

ENDINGS = (".ply", ".compressed.ply", ".spz", ".splat", ".glb", ".gltf", ".usdc", ".sog")


def _file(tmp_path: Path, ending: str, degree: int = 3) -> Path:
    path = tmp_path / f"good{ending}"
    formats.write(path, SplatScene(random_splats(300, degree)))
    return path


def _rejected(path: Path, words: str | None = None) -> None:
    with pytest.raises(UserError, match=words) as caught:
        formats.read(path)
    assert caught.value.hint, "an error without a remedy"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_truncated_file_is_refused(tmp_path, ending, share):
    good = _file(tmp_path, ending)
    data = good.read_bytes()
    cut = tmp_path / f"cut{ending}"
    size = int(len(data) * share)
    cut.write_bytes(data[: size - 1 if ending == ".splat" and size and size % 32 == 0 else size])
    _rejected(cut)


def test_a_gltf_whose_buffer_is_short_or_gone_is_refused(tmp_path):
    good = _file(tmp_path, ".gltf")
    binary = tmp_path / "good.bin"
    binary.write_bytes(binary.read_bytes()[:-40])
    _rejected(good, "claims")
    binary.unlink()
    _rejected(good, "Could not read")


def test_missing_empty_and_unknown_files_are_refused(tmp_path):
    _rejected(tmp_path / "no.ply", "Could not read")
    (tmp_path / "empty.spz").write_bytes(b"")
    _rejected(tmp_path / "empty.spz", "empty")
    (tmp_path / "a.thing").write_bytes(b"something")
    _rejected(tmp_path / "a.thing", "names no splat format")


def _spz_header(
    version: int, count: int, degree: int = 0, bits: int = 12, more: bytes = b""
) -> bytes:
    return struct.pack("<IIIBBBB", 0x5053474E, version, count, degree, bits, 0, 0) + more


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(_spz_header(3, 2**32 - 1)), "can hold"),
        (gzip.compress(_spz_header(3, 10)), "need"),
        (gzip.compress(_spz_header(3, 0)), "no splats"),
        (gzip.compress(_spz_header(9, 1)), "version 9"),
        (gzip.compress(_spz_header(3, 1, degree=7)), "degree 7"),
        (gzip.compress(_spz_header(3, 1, bits=90)), "fraction bits"),
        (gzip.compress(b"something else entirely"), "begin"),
        (b"\x1f\x8b" + bytes(40), "gzip"),
        (_spz_header(4, 90_000_000, more=bytes(16)), "can hold"),
        (_spz_header(4, 5, more=bytes(16)), "table"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # gzip holds the time of day
)
def test_spz_headers_that_lie_are_refused_before_memory_is_taken(tmp_path, data, words):
    path = tmp_path / "a.spz"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _rejected(path, words)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "bomb.spz"
    path.write_bytes(gzip.compress(_spz_header(3, 4) + bytes(400 << 20), compresslevel=1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert formats.read(path).count == 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_zstd_bomb_is_refused(tmp_path):
    count = 100
    sizes = [9 * count, count, 3 * count, 3 * count, 4 * count]
    streams = [zstandard.compress(bytes(s)) for s in sizes]
    streams[1] = zstandard.compress(bytes(300 << 20))
    toc = b"".join(struct.pack("<QQ", len(p), s) for p, s in zip(streams, sizes, strict=True))
    head = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, count, 0, 12, 0, 5, 32)
    path = tmp_path / "bomb.spz"
    path.write_bytes(head + toc + b"".join(streams))
    _rejected(path, "claims")


def _sog(tmp_path: Path, change=None, pictures=None, name: str = "a.sog", **meta) -> Path:
    count = 4

    def webp(size=(2, 2)) -> bytes:
        out = io.BytesIO()
        Image.new("RGBA", size, (128, 128, 128, 252)).save(out, "WEBP", lossless=True, exact=True)
        return out.getvalue()

    files = {f"{n}.webp": webp() for n in ("means_l", "means_u", "quats", "scales", "sh0")} | (
        pictures or {}
    )
    book = np.linspace(-3, 3, 256).tolist()
    said = {
        "version": 2,
        "count": count,
        "means": {
            "mins": [-1, -1, -1],
            "maxs": [1, 1, 1],
            "files": ["means_l.webp", "means_u.webp"],
        },
        "scales": {"codebook": book, "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": book, "files": ["sh0.webp"]},
    } | meta
    if change:
        change(said)
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", json.dumps(said))
        for file, data in files.items():
            archive.writestr(file, data)
    return path


def test_a_plain_sog_made_here_is_fine(tmp_path):
    assert formats.read(_sog(tmp_path)).count == 4


@pytest.mark.parametrize(
    "name",
    [
        "../secret.webp",
        "/etc/passwd",
        "..\\secret.webp",
        "C:secret.webp",
        "sub/means_l.webp",
        "",
        "..",
        7,
        None,
    ],
)
def test_sog_pictures_outside_the_archive_are_never_opened(tmp_path, name):
    def change(meta):
        meta["means"]["files"][0] = name

    _rejected(_sog(tmp_path, change), "outside itself")


def test_unbundled_sog_does_not_leave_its_folder(tmp_path):
    secret = tmp_path / "secret.webp"
    Image.new("RGBA", (2, 2)).save(secret, "WEBP", lossless=True)
    folder = tmp_path / "scene"
    folder.mkdir()
    with zipfile.ZipFile(_sog(tmp_path)) as archive:
        archive.extractall(folder)
    meta = json.loads((folder / "meta.json").read_text())
    meta["means"]["files"][0] = "../secret.webp"
    (folder / "meta.json").write_text(json.dumps(meta))
    _rejected(folder, "outside itself")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(count=10**12), "claims"),
        (lambda m: m.update(count=5), "pixels for 5"),
        (lambda m: m.update(count=True), "claims"),
        (lambda m: m.update(version=1), "version 2"),
        (lambda m: m.pop("scales"), "lacks"),
        (lambda m: m["scales"].update(codebook=[1.0]), "codebook"),
        (lambda m: m["means"].update(mins=[float("nan")] * 3), "limits"),
        (lambda m: m["means"].update(maxs=[1e9] * 3), "limits"),
        (
            lambda m: m.update(shN={"bands": 9, "codebook": [], "files": ["sh0.webp", "sh0.webp"]}),
            "degree 9",
        ),
        (
            lambda m: m.update(
                shN={"bands": 1, "codebook": list(range(256)), "files": ["sh0.webp", "sh0.webp"]}
            ),
            "wide",
        ),
    ],
)
def test_sog_lies_are_refused(tmp_path, change, words):
    _rejected(_sog(tmp_path, change), words)


def test_a_sog_zip_bomb_is_refused(tmp_path):
    path = _sog(tmp_path, pictures={"means_l.webp": bytes(1 << 20)})
    _rejected(path, "cannot be decoded")
    big = tmp_path / "big.sog"
    with zipfile.ZipFile(big, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", b" " * (40 << 20))
    assert big.stat().st_size < 100_000
    _rejected(big, "claims")


def _patched_glb(tmp_path: Path, change) -> Path:
    data = _file(tmp_path, ".glb", 0).read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    change(document)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + data[20 + size :]
    path = tmp_path / "patched.glb"
    path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["accessors"][0].update(count=2**31),
        lambda d: d["accessors"][0].update(count=-1),
        lambda d: d["accessors"][0].update(count=299),
        lambda d: d["accessors"][0].update(count="many"),
        lambda d: d["accessors"][0].update(byteOffset=10**9),
        lambda d: d["accessors"][0].update(type="MAT4"),
        lambda d: d["accessors"][0].update(componentType=1),
        lambda d: d["accessors"][0].pop("bufferView"),
        lambda d: d["bufferViews"][0].update(byteOffset=10**9),
        lambda d: d["bufferViews"][0].update(byteStride=4),
        lambda d: d["bufferViews"][0].update(buffer=3),
        lambda d: d["nodes"][0].update(children=[0]),
        lambda d: d["nodes"][0].update(mesh=9),
        lambda d: d["nodes"][0].update(matrix=[1, 2, 3]),
        lambda d: d["nodes"][0].update(scale=[1, 2, 3]),
        lambda d: d["scenes"][0].update(nodes=["x"]),
        lambda d: d["meshes"][0]["primitives"][0]["attributes"].pop("KHR_gaussian_splatting:SCALE"),
        lambda d: d["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"].update(
            kernel="cube"
        ),
        lambda d: d["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"].update(
            extensions={"KHR_gaussian_splatting_compression_spz_2": {"bufferView": 1}}
        ),
        lambda d: d["meshes"][0]["primitives"][0].update(extensions={}),
        lambda d: d.pop("asset"),
        lambda d: d.update(nodes={}),
        lambda d: d.update(meshes=[[]]),
        lambda d: d["meshes"][0].update(primitives=7),
    ],
)
def test_gltf_whose_parts_do_not_fit_is_refused(tmp_path, change):
    _rejected(_patched_glb(tmp_path, change))


@pytest.mark.parametrize(
    "uri",
    [
        "../secret.bin",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/x",
        "..%2fsecret.bin",
        "a\\b.bin",
    ],
)
def test_gltf_buffers_outside_the_folder_are_never_opened(tmp_path, uri):
    path = _file(tmp_path, ".gltf", 0)
    document = json.loads(path.read_text())
    document["buffers"][0]["uri"] = uri
    path.write_text(json.dumps(document))
    _rejected(path, "outside its folder")


def test_deeply_nested_json_is_refused(tmp_path):
    path = tmp_path / "deep.gltf"
    path.write_text('{"asset":{"version":"2.0"},"extras":' + "[" * 200_000 + "]" * 200_000 + "}")
    _rejected(path)


def test_usd_arrays_of_different_lengths_are_refused(tmp_path):
    from pxr import Usd, UsdVol

    path = _file(tmp_path, ".usda", 1)
    stage = Usd.Stage.Open(str(path))
    field = UsdVol.ParticleField3DGaussianSplat(stage.GetPrimAtPath("/scene/splats"))
    field.GetOpacitiesAttr().Set([0.5, 0.5])
    stage.GetRootLayer().Save()
    _rejected(path, "opacities")


def test_ksplat_sizes_are_checked(tmp_path, shared_data):
    data = bytearray((shared_data / "splats" / "fixtures" / "minimal.ksplat").read_bytes())
    path = tmp_path / "a.ksplat"
    for offset, value in (
        (4, 2**31),
        (16, 99),
        (4096, 2**31),
        (4100, 2**31),
        (4096 + 40, 9),
        (0, 3),
    ):
        broken = bytearray(data)
        struct.pack_into("<I" if offset else "<B", broken, offset, value)
        path.write_bytes(broken)
        _rejected(path)
    path.write_bytes(data[:-1])
    _rejected(path)


# ---- repairs


def _with(**changes) -> Splats:
    splats = random_splats(10, 1)
    return splats._replace(
        **{name: change(getattr(splats, name).copy()) for name, change in changes.items()}
    )


def _set(row: int, value):
    def change(array):
        array[row] = value
        return array

    return change


@pytest.mark.parametrize(
    "name", ["means", "quats", "scales_log", "opacities_logit", "sh_dc", "sh_rest"]
)
@pytest.mark.parametrize("ending", [".spz", ".glb", ".ply", ".usdc", ".splat"])
def test_a_splat_with_nan_is_left_out_and_that_is_said(tmp_path, caplog, name, ending):
    formats.write(tmp_path / f"a{ending}", SplatScene(_with(**{name: _set(3, np.nan)})))
    assert "left out 1 of 10" in caplog.text
    assert formats.read(tmp_path / f"a{ending}").count == 9


def test_zero_quaternions_and_infinite_logits_are_mended_and_that_is_said(caplog):
    splats = _with(quats=_set(2, 0), opacities_logit=_set(4, np.inf), scales_log=_set(5, -np.inf))
    after = repaired(splats, "x")
    np.testing.assert_array_equal(after.quats[2], (1, 0, 0, 0))
    assert np.isfinite(after.opacities_logit).all() and after.opacities_logit[4] > 16
    assert np.isfinite(after.scales_log).all()
    assert "zero quaternion" in caplog.text and "infinite opacity" in caplog.text


def test_sound_splats_are_not_copied_or_changed():
    splats = random_splats(10, 2)
    after = repaired(splats, "x")
    assert all(a is b for a, b in zip(splats, after, strict=True))


def test_a_scene_of_nothing_but_nan_is_refused(tmp_path):
    splats = _with(means=lambda a: a * np.nan)
    with pytest.raises(UserError, match="no sound splat"):
        formats.write(tmp_path / "a.glb", SplatScene(splats))
    assert list(tmp_path.iterdir()) == []


# ---- never half a file


@pytest.mark.parametrize(
    "ending",
    [".ply", ".compressed.ply", ".spz", ".splat", ".glb", ".gltf", ".usdc", ".usdz", ".sog"],
)
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, ending):
    path = _file(tmp_path, ending, 0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError):
        formats.write(path, SplatScene(random_splats(7, 0, seed=5)))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_exception_in_mid_write_leaves_no_litter(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_said(tmp_path):
    for ending in (".ply", ".glb", ".spz", ".usdc", ".usdz", ".sog"):
        with pytest.raises(UserError, match="does not exist"):
            formats.write(tmp_path / "nowhere" / f"a{ending}", SplatScene(random_splats(2, 0)))


def test_a_stage_of_endless_time_is_refused(tmp_path):
    from engine.formats import usd

    path = tmp_path / "a.usda"
    path.write_text(
        '#usda 1.0\n(\n    startTimeCode = 0\n    endTimeCode = 1e18\n)\ndef Camera "c"\n{\n}\n'
    )
    with pytest.raises(UserError, match="spans"):
        usd.cameras_of(path)
