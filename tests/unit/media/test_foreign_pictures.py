"""Pictures of every depth, profile and kind: the same colours whatever a profile is called, or a
name and a remedy.
"""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from engine.bridge.errors import UserError
from engine.media import profiles
from engine.media.images import load_image, write_exr

RNG = np.random.default_rng(0)
RGB = np.linspace(0, 1, 40 * 48 * 3).reshape(3, 40, 48).transpose(1, 2, 0)[:, ::-1]  # [h, w, 3]


def _srgb_light(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _profile(curve: bytes, primaries: np.ndarray, name: str) -> bytes:
    """A small ICC profile: three curves alike, three primaries [3, 3] in columns."""

    def xyz(v):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(x * 65536) for x in v))

    text = name.encode("ascii")
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(1 + 78)
    tags = {b"desc": described, b"wtpt": xyz((0.9642, 1, 0.8249)), b"cprt": b"text\0\0\0\0none\0"}
    tags |= {n: xyz(primaries[:, i]) for i, n in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= {n: curve for n in (b"rTRC", b"gTRC", b"bTRC")}
    at, table, body = 132 + 12 * len(tags), b"", b""
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", tag, at + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s", at + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ "
    )
    head += (
        struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp")
        + bytes(28)
        + struct.pack(">3i", 63190, 65536, 54061)
    )
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


LINEAR = b"curv\0\0\0\0\0\0\0\0"
GAMMA_22 = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
SRGB = profiles._SRGB_D50
ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)


def _png16(values: np.ndarray, profile: bytes | None = None, more: bytes = b"") -> bytes:
    """A 16-bit RGB PNG, written by hand: Pillow cannot."""
    h, w, _ = values.shape
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    out = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0)) + more
    )
    if profile:
        out += chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))
    return out + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def _read(tmp_path: Path, data: bytes, name: str = "a.png"):
    (tmp_path / name).write_bytes(data)
    found = load_image(tmp_path / name)
    return found.pixels.permute(1, 2, 0).numpy().astype(float), found.notes


@pytest.mark.parametrize("name", ["sRGB linear", "GIMP built-in Linear sRGB", "plain", "not sRGB"])
def test_linear_srgb_is_decoded_whatever_it_is_called(tmp_path, name):
    light = np.rint(_srgb_light(RGB) * 65535).astype(np.uint16)
    read, notes = _read(tmp_path, _png16(light, _profile(LINEAR, SRGB, name)))
    np.testing.assert_allclose(read, RGB, atol=1e-3)
    assert "Converted" in notes[0]


@pytest.mark.parametrize("name", ["sRGB", "Camera RGB", "Linear"])
def test_what_is_srgb_stays_as_it_is_whatever_it_is_called(tmp_path, name):
    curve = b"para\0\0\0\0\0\3\0\0" + struct.pack(
        ">5i", *(round(x * 65536) for x in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    )
    values = np.rint(RGB * 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG", icc_profile=_profile(curve, SRGB, name))
    read, notes = _read(tmp_path, out.getvalue())
    np.testing.assert_array_equal(np.rint(read * 255), values)
    assert notes == ()


def test_the_conversion_agrees_with_littlecms(tmp_path):
    values = np.rint(RGB * 255).astype(np.uint8)
    profile = _profile(GAMMA_22, ADOBE, "Adobe-like sRGB")
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG", icc_profile=profile)
    read, _ = _read(tmp_path, out.getvalue())
    oracle = ImageCms.profileToProfile(
        Image.fromarray(values),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    assert np.abs(read * 255 - np.asarray(oracle)).max() < 2.5


def test_sixteen_bits_stay_sixteen(tmp_path):
    deep = RNG.integers(0, 65536, (20, 24, 3)).astype(np.uint16)
    read, notes = _read(tmp_path, _png16(deep))
    np.testing.assert_array_equal(np.rint(read * 65535), deep)
    assert notes == ()


def test_a_gamma_of_the_png_is_obeyed(tmp_path):
    data = struct.pack(">I", 100000)
    chunk = struct.pack(">I", 4) + b"gAMA" + data + struct.pack(">I", zlib.crc32(b"gAMA" + data))
    light = np.rint(_srgb_light(RGB) * 65535).astype(np.uint16)
    read, notes = _read(tmp_path, _png16(light, more=chunk))
    np.testing.assert_allclose(read, RGB, atol=1e-3)
    assert "gamma" in notes[0]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "1", "LAB", "YCbCr", "RGBA"])
def test_every_mode_becomes_three_channels_of_the_right_colour(tmp_path, mode):
    picture = Image.new("RGB", (32, 32), (200, 60, 60))
    if mode == "LAB":
        picture = ImageCms.profileToProfile(
            picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        picture = picture.convert(mode, palette=Image.Palette.ADAPTIVE)
    ending = "tif" if mode in ("CMYK", "LAB", "YCbCr") else "png"
    picture.save(tmp_path / f"a.{ending}")
    pixels = load_image(tmp_path / f"a.{ending}").pixels
    assert pixels.shape == (3, 32, 32)
    if mode not in ("L", "LA", "1"):
        np.testing.assert_allclose(pixels[:, 5, 5].numpy() * 255, (200, 60, 60), atol=3)


def _float_tiff() -> bytes:
    entries = [(256, 3, 1, 32), (257, 3, 1, 32), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [
        (273, 4, 1, 220),
        (277, 3, 1, 3),
        (278, 3, 1, 32),
        (279, 4, 1, 12288),
        (339, 3, 3, 210),
    ]
    body = b"II*\0" + struct.pack("<IH", 8, len(entries))
    body += b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    return (
        body.ljust(200, b"\0")
        + struct.pack("<3H", 32, 32, 32).ljust(10, b"\0")
        + struct.pack("<3H", 3, 3, 3).ljust(10, b"\0")
        + bytes(12288)
    )


def _dng() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48)).save(out, "TIFF", tiffinfo={50706: bytes((1, 4, 0, 0))})
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.tif", _float_tiff(), "32-bit float TIFF"),
        ("a.tif", _dng(), "raw photo"),
        ("a.dng", b"II*\0" + bytes(90), "raw photo"),
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        ("a.jpg", b"\0\0\0\x18ftypheix\0\0\0\0mif1heix", "HEIF"),
        ("a.jxl", b"\xff\x0a" + bytes(60), "JPEG XL"),
        ("a.hdr", b"#?RADIANCE\n", "HDR"),
        ("a.jpg", b"<html><body>404</body></html>", "web page"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("a.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "film"),
        ("a.svg", b"<?xml version='1.0'?><svg xmlns='x'/>", "SVG"),
        ("a.psb", b"8BPS\0\2" + bytes(60), "Photoshop"),
        ("a.xcf", b"gimp xcf v011\0" + bytes(60), "GIMP"),
        ("a.pfm", b"PF\n16 16\n-1.0\n" + bytes(60), "PFM"),
        ("a.dpx", b"SDPX" + bytes(90), "DPX"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        ("a.dcm", bytes(128) + b"DICM" + bytes(60), "DICOM"),
        ("a.kra", b"PK\3\4" + bytes(26) + b"mimetypeapplication/x-krita", "Krita"),
    ],
)
def test_foreign_pictures_are_named_with_a_remedy(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        load_image(tmp_path / name)
    assert caught.value.hint and "damaged" not in str(caught.value)


def test_an_exr_shows_colours_however_they_are_written_and_coordinates_never(tmp_path):
    values = np.random.default_rng(0).random((20, 24)).astype(np.float32)
    for names in ("RGB", "rgb", ("beauty.R", "beauty.G", "beauty.B"), ("x.r", "x.g", "x.b")):
        write_exr(tmp_path / "a.exr", {n: values / (i + 1) for i, n in enumerate(names)})
        pixels = load_image(tmp_path / "a.exr").pixels
        assert pixels[0].mean() > pixels[1].mean() > pixels[2].mean()
    for names in ("XYZ", ("N.X", "N.Y", "N.Z"), "UV"):
        write_exr(tmp_path / "a.exr", {n: values for n in names})
        with pytest.raises(UserError, match="no colours"):
            load_image(tmp_path / "a.exr")


def _panorama(width: int = 512) -> np.ndarray:
    """A room painted round: everything has the period of the whole turn, and fades to one colour at
    the poles.
    """
    u, v = np.meshgrid(np.arange(width) / width, np.arange(width // 2) / (width / 2))
    waves = sum(np.sin(2 * np.pi * k * u + k * k) / k for k in range(1, 9))
    grey = 0.5 + 0.15 * waves * np.sin(np.pi * v) ** 2 + 0.2 * np.cos(np.pi * v)
    return np.repeat(np.clip(grey * 255, 0, 255).astype(np.uint8)[..., None], 3, 2)


def test_a_panorama_is_seen_and_a_wide_view_is_not(tmp_path):
    round_about = _panorama()
    Image.fromarray(round_about).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="panorama"):
        load_image(tmp_path / "a.png")
    view = np.asarray(Image.fromarray(round_about[60:190, :260]).resize((512, 256)))
    Image.fromarray(view).save(tmp_path / "b.png")
    assert load_image(tmp_path / "b.png").pixels.shape == (3, 256, 512)
    Image.new("RGB", (512, 256), "red").save(tmp_path / "c.png")
    assert load_image(tmp_path / "c.png").pixels.shape == (3, 256, 512)


def test_blank_giants_are_refused_before_memory_is_taken(tmp_path):
    head = struct.pack(">IIBBBBB", 9900, 9900, 1, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
        for k, d in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    write_exr(tmp_path / "b.exr", {c: np.zeros((20, 20), np.float32) for c in "RGB"})
    small = struct.pack("<4i", 0, 0, 19, 19)
    data = (tmp_path / "b.exr").read_bytes()
    (tmp_path / "b.exr").write_bytes(data.replace(small, struct.pack("<4i", 0, 0, 8999, 8999)))
    for name in ("a.png", "b.exr"):
        tracemalloc.start()
        with pytest.raises(UserError, match="claims"):
            load_image(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
        tracemalloc.stop()
