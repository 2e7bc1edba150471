"""The heads of pictures, against Pillow and the engine, which read the whole."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from engine.bridge.errors import UserError
from engine.media import images

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location(
    "picture_header", ROOT / "blender_addon" / "cameras" / "picture_header.py"
)
assert spec is not None and spec.loader is not None
picture_header = importlib.util.module_from_spec(spec)
sys.modules["picture_header"] = picture_header
spec.loader.exec_module(picture_header)


def save(path: Path, orientation: int = 1, focal_35mm: int = 0, **options: object) -> Path:
    """60 x 40 pixels as the sensor saw them."""
    exif = Image.Exif()
    exif[0x112] = orientation
    if focal_35mm:
        exif.get_ifd(0x8769)[0xA405] = focal_35mm
    Image.effect_noise((60, 40), 50).convert("RGB").save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("focal_35mm", [0, 24])
def test_size_orientation_and_lens_are_the_engines(
    tmp_path: Path, suffix: str, orientation: int, focal_35mm: int
) -> None:
    path = save(tmp_path / f"a.{suffix}", orientation, focal_35mm)
    header, whole = picture_header.read(path), images.load_image(path)
    assert (header.height, header.width) == tuple(whole.pixels.shape[1:])
    assert header.orientation == orientation and header.lies == (orientation >= 5)
    assert header.fov_deg == (pytest.approx(whole.fov_deg, abs=0.01) if focal_35mm else None)


@pytest.mark.parametrize(
    "options",
    [{"lossless": True}, {"lossless": False}, {"lossless": False, "icc_profile": b"x" * 200}],
)
def test_webp(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "a.webp"
    Image.effect_noise((61, 43), 50).convert("RGB").save(path, **options)
    assert picture_header.read(path)[:2] == (61, 43)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def as_engine(path: Path) -> None:
    """The header says what the engine makes of the whole file."""
    header, whole = picture_header.read(path), images.load_image(path)
    assert (header.height, header.width) == tuple(whole.pixels.shape[1:])
    assert (header.fov_deg is None) == (whole.fov_deg is None)
    if whole.fov_deg is not None:
        assert header.fov_deg == pytest.approx(whole.fov_deg, abs=0.01)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "png"])
@pytest.mark.parametrize("exif", [None, 3])
def test_a_turn_that_only_xmp_tells(tmp_path: Path, suffix: str, exif: int | None) -> None:
    """EXIF goes first; the lying picture shows which of the two was heeded."""
    path, options = tmp_path / f"a.{suffix}", {}
    if exif:
        options["exif"] = Image.Exif()
        options["exif"][0x112] = exif
    if suffix == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", (XMP % 6).decode(), zip=bool(exif))
    elif suffix == "tif":
        options["tiffinfo"] = {700: XMP % 6, **({0x112: exif} if exif else {})}
        options.pop("exif", None)
    else:
        options["xmp"] = XMP % 6
    Image.effect_noise((60, 40), 50).convert("RGB").save(path, **options)
    as_engine(path)
    assert picture_header.read(path).orientation == (exif or 6)


@pytest.mark.parametrize("packed", [False, True])
def test_exif_as_old_programs_write_it_into_png(tmp_path: Path, packed: bool) -> None:
    exif = Image.Exif()
    exif[0x112] = 8
    raw = exif.tobytes()
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=packed)
    path = tmp_path / "a.png"
    Image.effect_noise((60, 40), 50).convert("RGB").save(path, pnginfo=info)
    as_engine(path)
    assert picture_header.read(path).orientation == 8


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("unit", [2, 3])
def test_a_lens_from_the_density_of_the_sensor(tmp_path: Path, orientation: int, unit: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    exif.get_ifd(0x8769).update(
        {
            0x920A: TiffImagePlugin.IFDRational(350, 10),
            0xA20E: TiffImagePlugin.IFDRational(600 if unit == 2 else 236, 10),
            0xA210: unit,
            0xA002: 120,
        }
    )
    path = tmp_path / "a.jpg"
    Image.effect_noise((60, 40), 50).convert("RGB").save(path, exif=exif)
    as_engine(path)
    assert picture_header.read(path).fov_deg is not None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_thumbnail_is_turned_as_the_engine_turns_the_picture(
    tmp_path: Path, orientation: int
) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[20:, 30:], pixels[:20, 30:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    whole = images.load_image(tmp_path / "a.png").pixels.permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(picture_header.upright(pixels, orientation), whole, atol=0.01)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_file_that_is_cut_short_is_known_before_a_job(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", 6)
    assert picture_header.damage(path) == ""
    whole = path.read_bytes()
    path.write_bytes(whole + b"what a phone adds" * 9000)
    assert picture_header.damage(path) == ""
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError):
        images.load_image(path)
    assert "cut short" in picture_header.damage(path)
    path.write_bytes(b"")
    assert "empty" in picture_header.damage(path)
    path.write_bytes(b"<html>not found</html>")
    assert "no picture" in picture_header.damage(path)
    path.unlink()
    assert "cannot be read" in picture_header.damage(path)


def test_a_progressive_jpeg_with_a_thumbnail_and_comments(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", 6, 50, progressive=True, comment=b"hello", dpi=(72, 72))
    assert picture_header.read(path)[:3] == (40, 60, 6)


def test_exr(tmp_path: Path) -> None:
    path = tmp_path / "a.exr"
    images.write_exr(path, {name: np.ones((43, 61), np.float32) for name in "RGB"})
    assert picture_header.read(path) == (61, 43, 1, None)
    whole = path.read_bytes()
    for length in range(min(len(whole), 600)):
        path.write_bytes(whole[:length])
        picture_header._read.cache_clear()
        assert picture_header.read(path) in (None, (61, 43, 1, None))


def test_a_picture_that_changes_is_read_again(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg")
    assert picture_header.read(path).width == 60
    Image.new("RGB", (10, 20)).save(path)
    assert picture_header.read(path).width == 10


def test_what_is_no_picture_has_no_header(tmp_path: Path) -> None:
    assert picture_header.read(tmp_path / "none.jpg") is None
    path = tmp_path / "a.jpg"
    for data in (
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe0\0\0",
        b"\x89PNG\r\n\x1a\n",
        b"II*\0\xff\xff\xff\xff",
        b"RIFF....WEBP",
        b"\0" * 100,
    ):
        path.write_bytes(data)
        assert picture_header.read(path) is None, data


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_file_cut_short_anywhere_does_no_harm(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"a.{suffix}", 6, 24).read_bytes()
    path = tmp_path / f"b.{suffix}"
    for length in range(min(len(whole), 400)):
        path.write_bytes(whole[:length])
        picture_header._read.cache_clear()
        header = picture_header.read(path)
        assert header is None or {header.width, header.height} == {60, 40}


def test_real_photos(shared_data: Path) -> None:
    for path in sorted((shared_data / "images").glob("*.jpg")):
        whole = images.load_image(path)
        assert picture_header.read(path)[:2] == (whole.pixels.shape[2], whole.pixels.shape[1])
