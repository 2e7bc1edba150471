"""engine/media/images.py: any photo reads as upright RGB; what is written reads back."""

from __future__ import annotations

import math
import subprocess
from io import BytesIO
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

from engine.bridge.errors import UserError
from engine.media import images


def gradient(h: int = 30, w: int = 40) -> np.ndarray:
    """[h, w, 3] uint8: red grows to the right, green downwards."""
    y, x = np.mgrid[:h, :w]
    return np.stack([x * 255 // (w - 1), y * 255 // (h - 1), np.full((h, w), 64)], -1).astype(
        np.uint8
    )


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def loaded(path: Path) -> np.ndarray:
    pixels = images.load_image(path).pixels
    assert pixels.dtype == torch.float32 and pixels.shape[0] == 3
    return pixels.permute(1, 2, 0).numpy()


def test_rgb_png_reads_exactly(tmp_path: Path) -> None:
    assert np.array_equal(
        loaded(saved(tmp_path / "a.png", Image.fromarray(gradient()))) * 255, gradient()
    )


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "RGBX", "YCbCr", "LAB", "CMYK"])
def test_modes_agree_with_pillow_conversion(tmp_path: Path, mode: str) -> None:
    image = (
        Image.fromarray(gradient()).convert("RGB").convert(mode)
        if mode != "LAB"
        else lab(Image.fromarray(gradient()))
    )
    end = "png" if mode in ("L", "LA", "P", "1", "RGBA") else "tif"
    got = loaded(saved(tmp_path / f"a.{end}", image))
    assert got.shape == (30, 40, 3)
    if mode not in ("1", "LAB"):  # colours survive as far as the mode can hold them
        wanted = np.asarray(image.convert("RGB"), np.float32) / 255
        assert np.abs(got - wanted).max() < 0.02


def lab(image: Image.Image) -> Image.Image:
    return ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )


def test_16_bit_grey_keeps_its_precision(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    got = loaded(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert np.abs(got[..., 0] * 65535 - values).max() < 0.01
    assert np.array_equal(got[..., 0], got[..., 2])


def test_transparent_parts_are_white_and_said(tmp_path: Path) -> None:
    rgba = np.dstack([gradient(), np.full((30, 40), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    file = images.load_image(saved(tmp_path / "a.png", Image.fromarray(rgba)))
    assert (file.pixels[:, :10] == 1).all() and any("white" in note for note in file.notes)
    assert torch.equal(
        file.pixels[:, 10:], torch.from_numpy(gradient()[10:]).permute(2, 0, 1) / 255
    )


def test_cmyk_jpeg_looks_like_its_rgb(tmp_path: Path) -> None:
    got = loaded(saved(tmp_path / "a.jpg", Image.fromarray(gradient()).convert("CMYK"), quality=95))
    assert np.abs(got * 255 - gradient()).mean() < 6


def test_odd_or_damaged_profiles_never_stop_the_picture(tmp_path: Path) -> None:
    flat = Image.new("RGB", (32, 32), (128, 128, 128))
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for profile in (xyz, b"not a profile", xyz[:60]):
        file = images.load_image(saved(tmp_path / "a.tif", flat, icc_profile=profile))
        assert torch.equal(file.pixels, torch.full((3, 32, 32), 128 / 255)) and any(
            "profile" in note for note in file.notes
        )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(tmp_path: Path, orientation: int) -> None:
    upright = gradient()
    # How each orientation stores an upright picture (TIFF 6.0: where row 0 and column 0 are).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(loaded(path) * 255, upright)


@pytest.mark.parametrize(("orientation", "side"), [(1, 600), (6, 400)])
def test_fov_from_35_mm_focal_length(tmp_path: Path, orientation: int, side: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (600, 400)), exif=exif)
    wanted = 2 * math.degrees(
        math.atan(side / 600 * 18 / 28)
    )  # 3:2 is the format of 35 mm film: 36 x 24 mm
    assert images.load_image(path).fov_deg == pytest.approx(wanted, abs=1e-6)


def test_fov_from_focal_length_and_sensor(tmp_path: Path) -> None:
    exif = Image.Exif()
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    camera[ExifTags.Base.FocalLength] = 50.0
    camera[ExifTags.Base.FocalPlaneXResolution] = 6000 / 36.0  # 6000 pixels on 36 mm
    camera[ExifTags.Base.FocalPlaneResolutionUnit] = 4
    camera[ExifTags.Base.ExifImageWidth] = 6000
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (600, 400)), exif=exif)
    assert images.load_image(path).fov_deg == pytest.approx(
        2 * math.degrees(math.atan(18 / 50)), abs=1e-3
    )


def test_no_exif_no_fov(tmp_path: Path) -> None:
    assert images.load_image(saved(tmp_path / "a.png", Image.fromarray(gradient()))).fov_deg is None


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    buffer = BytesIO()
    (image or Image.fromarray(gradient(120, 160))).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "TGA"])
def test_cut_off_or_damaged_pictures_are_user_errors_or_read(tmp_path: Path, kind: str) -> None:
    data, rng = encoded(kind), np.random.default_rng(0)
    path = tmp_path / "a.bin"
    for keep in [1, 4, 10, 30, *range(50, len(data), max(1, len(data) // 40))]:
        path.write_bytes(data[:keep])
        try_load(path)
    for _ in range(150):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 8):
            broken[at] = rng.integers(0, 256)
        path.write_bytes(bytes(broken))
        try_load(path)


def try_load(path: Path) -> None:
    try:
        pixels = images.load_image(path).pixels
    except UserError as error:
        assert str(path) in error.message and error.hint
    else:
        assert torch.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    data = encoded("JPEG")
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged"):
        images.load_image(tmp_path / "a.jpg")


def test_missing_empty_folder_text_and_film_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("hello")
    images.save_video(tmp_path / "film.mp4", [torch.zeros(3, 16, 16)] * 2, 24)
    (tmp_path / "film.jpg").write_bytes((tmp_path / "film.mp4").read_bytes())
    cases = {
        "no.png": "does not exist",
        "empty.png": "is empty",
        "": "is a folder",
        "text.jpg": "not a picture",
        "film.mp4": "is a film",
        "film.jpg": "is a film",
    }
    for name, words in cases.items():
        with pytest.raises(UserError, match=words):
            images.load_image(tmp_path / name)


def test_over_100_megapixels_is_refused_before_decoding(tmp_path: Path) -> None:
    for side in (10_001, 20_000):
        path = saved(tmp_path / "big.png", Image.new("1", (side, 10_000)))
        with pytest.raises(UserError, match="100 megapixels"):
            images.load_image(path)


def test_every_shared_picture_reads(shared_data: Path) -> None:
    files = [
        f
        for f in shared_data.rglob("*")
        if f.suffix in (".jpg", ".png") and "splats" not in f.parts
    ]
    assert len(files) > 30
    for file in files:
        pixels = images.load_image(file).pixels
        assert torch.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1, file


@pytest.mark.parametrize(
    ("size", "longer", "multiple", "wanted"),
    [
        ((1920, 1080), 512, 8, (512, 288)),
        ((1920, 1080), 512, 64, (576, 320)),
        ((1920, 1080), 1024, 64, (1024, 576)),
        ((1080, 1920), 512, 64, (320, 576)),
        ((4000, 10), 512, 8, (640, 8)),
        ((1024, 1024), 100, 64, (128, 128)),
    ],
)
def test_working_size_is_near_and_a_multiple(
    size: tuple[int, int], longer: int, multiple: int, wanted: tuple[int, int]
) -> None:
    assert images.working_size(size, longer, multiple) == wanted


@pytest.mark.parametrize(
    "size", [(1920, 1080), (4, 3), (3, 2), (5, 3), (1000, 563), (9, 16), (1, 1)]
)
@pytest.mark.parametrize("longer", [256, 512, 768, 1024])
@pytest.mark.parametrize("multiple", [8, 16])
def test_working_sizes_keep_the_aspect(size: tuple[int, int], longer: int, multiple: int) -> None:
    scaled = (size[0] * 1000, size[1] * 1000)
    width, height = images.working_size(scaled, longer, multiple)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.0101)
    assert 0.8 <= max(width, height) / longer <= 1.25
    assert images.working_size(scaled[::-1], longer, multiple) == (height, width)


def test_resize_keeps_a_linear_ramp_and_the_frame() -> None:
    """Halving and doubling must not shift: a ramp over pixel centres stays that ramp, away from the
    edges.
    """
    ramp = ((torch.arange(64) + 0.5) / 64).expand(3, 48, 64)
    for width, height in ((32, 24), (128, 96)):
        out = images.resize(ramp, width, height)
        wanted = (torch.arange(width) + 0.5) / width
        assert out.shape == (3, height, width)
        assert (out[:, :, 8:-8] - wanted[8:-8]).abs().max() < 1e-3


def test_resize_averages_fine_detail() -> None:
    """Half the light of white is 0.735 of the display, not 0.5."""
    checker = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(3, 64, 64)
    assert (images.resize(checker, 16, 16)[:, 3:-3, 3:-3] - 0.7354).abs().max() < 0.02


def test_png_round_trip(tmp_path: Path) -> None:
    pixels = torch.from_numpy(gradient()).permute(2, 0, 1) / 255
    images.save_png(tmp_path / "a.png", pixels)
    assert torch.equal(images.load_image(tmp_path / "a.png").pixels, pixels)


@pytest.mark.parametrize(("h", "w"), [(64, 96), (63, 95), (33, 64)])
def test_video_has_every_frame_even_sides_and_the_colours(tmp_path: Path, h: int, w: int) -> None:
    frames = [
        torch.full((3, h, w), level) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
        for level in np.linspace(0.2, 0.8, 7)
    ]
    path = tmp_path / "a b ü.mp4"
    assert images.save_video(path, iter(frames), 12.5) == 7
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    got = [np.frombuffer(frame, np.uint8).reshape(h + h % 2, w + w % 2, 3) for frame in reader]
    assert meta["fps"] == 12.5 and len(got) == 7
    for frame, wanted in zip(got, frames, strict=True):
        assert np.abs(frame[:h, :w] - images.to_bytes(wanted).astype(float)).mean() < 4


def test_video_into_a_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        images.save_video(tmp_path / "missing" / "a.mp4", [torch.zeros(3, 16, 16)] * 3, 24)


def test_video_leaves_no_process_behind(tmp_path: Path) -> None:
    def broken():
        yield torch.zeros(3, 16, 16)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.save_video(tmp_path / "a.mp4", broken(), 24)
    listing = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=False
    ).stdout
    assert str(tmp_path / "a.mp4") not in listing


def test_exr_round_trip_keeps_names_and_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    channels = {
        name: rng.normal(size=(7, 11)).astype(np.float32)
        for name in ("Z", "ViewLayer.Depth.Z", "R")
    }
    channels["Z"][0, 0] = np.inf
    images.write_exr(tmp_path / "a.exr", channels)
    got = images.read_exr(tmp_path / "a.exr")
    assert got.keys() == channels.keys()
    assert all(np.array_equal(got[name], channels[name]) for name in channels)


def test_all_parts_of_an_exr_are_read(tmp_path: Path) -> None:
    """As Blender writes them from 5.0 on: a part for each pass. Parts of other programs repeat
    plain channel names.
    """
    OpenEXR = pytest.importorskip("OpenEXR")
    values = {name: np.full((4, 6), i, np.float32) for i, name in enumerate("ABCD")}
    parts = [
        OpenEXR.Part(
            {"type": OpenEXR.scanlineimage},
            {"ViewLayer.Combined.R": values["A"]},
            name="ViewLayer.Combined",
        ),
        OpenEXR.Part(
            {"type": OpenEXR.scanlineimage},
            {"ViewLayer.Depth.Z": values["B"]},
            name="ViewLayer.Depth",
        ),
        OpenEXR.Part({"type": OpenEXR.scanlineimage}, {"Y": values["C"]}, name="left"),
        OpenEXR.Part({"type": OpenEXR.scanlineimage}, {"Y": values["D"]}, name="right"),
    ]
    with OpenEXR.File(parts) as file:
        file.write(str(tmp_path / "a.exr"))
    got = images.read_exr(tmp_path / "a.exr")
    assert {name: channel[0, 0] for name, channel in got.items()} == {
        "ViewLayer.Combined.R": 0,
        "ViewLayer.Depth.Z": 1,
        "Y": 2,
        "right.Y": 3,
    }


@pytest.mark.parametrize(
    ("names", "depth"),
    [
        (["R", "G", "B", "Z"], "Z"),
        (
            ["ViewLayer.Denoising Normal.X", "ViewLayer.Denoising Normal.Z", "ViewLayer.Depth.Z"],
            "ViewLayer.Depth.Z",
        ),
        (["ViewLayer.Vector.X", "ViewLayer.Vector.Z", "ViewLayer.Mist.Z"], "ViewLayer.Mist.Z"),
        (["depth.V"], "depth.V"),
        (["Y"], "Y"),
        (["R", "G", "B"], "R"),
        (["whatever"], "whatever"),
        (["ViewLayer.Combined.R", "ViewLayer.Combined.A"], None),
        (["Normal.X", "Normal.Y", "Normal.Z"], None),
    ],
)
def test_the_depth_among_the_channels(tmp_path: Path, names: list[str], depth: str | None) -> None:
    channels = {name: np.full((2, 2), i, np.float32) for i, name in enumerate(names)}
    if depth is None:
        with pytest.raises(UserError, match="no depth channel"):
            images.depth_channel(channels, tmp_path)
    else:
        assert images.depth_channel(channels, tmp_path) is channels[depth]


def test_bad_exr_is_a_user_error(tmp_path: Path) -> None:
    images.write_exr(tmp_path / "a.exr", {"Z": np.ones((64, 64), np.float32)})
    data = (tmp_path / "a.exr").read_bytes()
    for content in (b"", b"hello", data[: len(data) // 2], data[:20]):
        (tmp_path / "b.exr").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.exr"):
            images.read_exr(tmp_path / "b.exr")


def test_light_reads_as_the_standard_view_shows_it(tmp_path: Path) -> None:
    """IEC 61966-2-1: 0.214 of light is 0.5 on the screen; what is brighter than white is white."""
    light = np.zeros((20, 30, 3), np.float32)
    light[:, :10], light[:, 10:20], light[:, 20:] = (
        [0.2140411, 0.0, 1.0],
        [0.0031308, 7.0, 0.5],
        [-1.0, np.nan, np.inf],
    )
    for prefix in ("", "ViewLayer.Combined."):
        images.write_exr(
            tmp_path / "a.exr", {prefix + name: light[..., i] for i, name in enumerate("RGB")}
        )
        got = loaded(tmp_path / "a.exr")
        np.testing.assert_allclose(
            got[0, [0, 10, 20]],
            [[0.5, 0.0, 1.0], [0.04045, 1.0, 0.7354], [0.0, 0.0, 1.0]],
            atol=1e-4,
        )
    images.write_exr(tmp_path / "a.exr", {"Y": light[..., 0] * 0 + 0.2140411})
    np.testing.assert_allclose(loaded(tmp_path / "a.exr"), 0.5, atol=1e-4)


def test_transparent_light_lies_over_white(tmp_path: Path) -> None:
    """Colours of an EXR are premultiplied: half of a black pixel lets half of white through."""
    half = np.full((20, 30), 0.5, np.float32)
    images.write_exr(tmp_path / "a.exr", {"R": 0 * half, "G": 0 * half, "B": half, "A": half})
    read = images.load_image(tmp_path / "a.exr")
    np.testing.assert_allclose(read.pixels[:, 0, 0], [0.7354, 0.7354, 1.0], atol=1e-4)
    assert any("white" in note for note in read.notes)


def test_an_exr_without_colours_is_named(tmp_path: Path) -> None:
    images.write_exr(tmp_path / "a.exr", {"Z": np.ones((20, 30), np.float32)})
    with pytest.raises(UserError, match=r"no colours, but Z"):
        images.load_image(tmp_path / "a.exr")
