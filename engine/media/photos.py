"""Pictures in: any photo as plain sRGB, upright, whatever kind, mode, depth and profile its file
has.

Inside the engine a picture is float32 [3, h, w] in 0..1, display-referred (sRGB-coded).
"""

from __future__ import annotations

import math
import os
import re
import struct
import subprocess
import warnings
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ..bridge.errors import UserError
from ..bridge.kinds import kind_of, refuse_foreign
from ..bridge.reading import bytes_of, reading
from ..scene.colour import linear_to_srgb
from . import exr, profiles

MAX_PIXELS = 100_000_000
_MAX_BYTES = 2 << 30
_READABLE = "Give a photo as JPEG, PNG, TIFF, WebP or another common picture format."
_AGAIN = "Save the picture again, or copy it again from its source."
_DIAGONAL_MM = math.hypot(36, 24)
FEWEST_PX = 16
_FREE_PIXELS = 16_000_000  # blank pictures of up to this size pack as well as they like
_MOST_PACKED = 600  # pixels to a byte of file; beyond, nothing but a blank or a lie
_DNG_VERSION, _SUBFILE, _BITS, _SAMPLE_FORMAT = 50706, 254, 258, 339
_DECODE_S = 60
_ROWS = 64  # that are converted at a time


class ImageFile(NamedTuple):
    """A picture and what its file says of the camera."""

    pixels: Tensor  # [3, h, w] float32 in 0..1, upright
    fov_deg: float | None  # horizontal, of the upright picture; from EXIF
    notes: tuple[str, ...]  # what was done to it, for the report


def load_image(path: str | Path, *, photo: bool = True) -> ImageFile:
    """Read a photo: upright by its EXIF orientation, as sRGB whatever mode the file has.

    Grey is repeated, CMYK and other profiles become sRGB (by what the profile holds, not by its
    name), 16 bits keep their precision, and transparent parts are laid over white. The light in an
    EXR becomes what Blender's Standard view shows of it. Raises UserError for a file that is
    missing, empty, cut off, of a foreign kind, a film, a panorama, or over 100 megapixels.

    A mask, or a frame that was drawn, may look like a panorama: `photo` false takes it as it is.
    """
    path = Path(path)
    data = _bytes_of(path)
    refuse_foreign(path, "a picture that can be read", ("picture",), data[:512])
    with reading(path, _AGAIN):
        if data.startswith(exr.MAGIC):
            return _light(path)
        with warnings.catch_warnings():
            # the size limit below is our own, and damage is reported by its effect
            warnings.simplefilter("ignore")
            return _photo(path, data, photo)


def _bytes_of(path: Path) -> bytes:
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder.", _READABLE)
    if not os.path.exists(path):
        remote = re.match(r"[a-zA-Z]{2,}:/", path.as_posix())
        hint = "Download it, and give the file." if remote else "Check the file's name."
        raise UserError(f"The picture {path} does not exist.", hint)
    return bytes_of(path, _MAX_BYTES)


def _photo(path: Path, data: bytes, photo: bool) -> ImageFile:
    try:
        with Image.open(BytesIO(data)) as image:
            _refuse_size(image.size, path)
            if image.width * image.height > _FREE_PIXELS + _MOST_PACKED * len(data):
                raise UserError(
                    f"{path} claims {image.width}x{image.height} pixels in {len(data):,} bytes.",
                    _AGAIN,
                )
            _refuse_raw(image, path)
            if photo:
                _refuse_panorama(image, data, path)
            return _converted(image, data, path)
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except UnidentifiedImageError as error:
        if data[:4] in (b"II*\0", b"MM\0*"):
            raise _odd_tiff(data, path) from error
        kind = kind_of(data[:512], path.name)
        said = (
            f"{kind.name}, in a form that cannot be read"
            if kind
            else "not a picture that can be read"
        )
        raise UserError(f"{path} is {said}.", _READABLE) from error


def _refuse_size(size: tuple[int, int], path: Path) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_large(path, size)
    if min(size) < FEWEST_PX:
        raise UserError(
            f"{path} has only {size[0]}x{size[1]} pixels.",
            f"Give a picture of at least {FEWEST_PX}x{FEWEST_PX} pixels.",
        )


def _too_large(path: Path, size: tuple[int, int] | None = None) -> UserError:
    what = f" ({size[0]}x{size[1]})" if size else ""
    return UserError(
        f"{path} has more than 100 megapixels{what}.",
        "Scale the picture down; 4000 pixels of width are plenty.",
    )


def _refuse_raw(image: Image.Image, path: Path) -> None:
    """A raw photo is a TIFF whose first picture is a small preview."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if _DNG_VERSION in tags or tags.get(_SUBFILE) == 1:
        raise UserError(
            f"{path} is a raw photo (only its small preview could be read).",
            "Develop it (in a raw converter or a photo program), and save it as JPEG or 16-bit "
            "PNG.",
        )


def _odd_tiff(data: bytes, path: Path) -> UserError:
    """The error for a TIFF that Pillow does not know, with what its first directory says."""
    order = "<" if data[:2] == b"II" else ">"
    said: dict[int, int] = {}
    try:
        (place,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, place)
        for i in range(min(count, 200)):
            tag, kind, values, raw = struct.unpack_from(order + "HHII", data, place + 2 + 12 * i)
            if tag in (_BITS, _SAMPLE_FORMAT) and kind == 3:
                at = raw if values > 2 else place + 2 + 12 * i + 8
                (said[tag],) = struct.unpack_from(order + "H", data, at)
    except struct.error:
        return UserError(f"{path} is a damaged TIFF.", _AGAIN)
    bits, floats = said.get(_BITS, 0), said.get(_SAMPLE_FORMAT, 1) == 3
    return UserError(
        f"{path} is a {bits}-bit {'float ' if floats else ''}TIFF, which cannot be read.",
        "Save it as EXR, or as TIFF or PNG with 16 bits.",
    )


def _refuse_panorama(image: Image.Image, data: bytes, path: Path) -> None:
    """A 360 degree panorama is no picture of a camera: told by its metadata, or by its shape, seam
    and poles.
    """
    start = data[: 1 << 20]
    told = b"GPano" in start and b"equirectangular" in start
    if not told and abs(image.width / image.height - 2) > 0.004:
        return
    if told or _wraps_round(image):
        raise UserError(
            f"{path} is a 360 degree panorama.",
            "Give a picture of one view: cut it out with a panorama viewer, at 90 degrees or less.",
        )


def _wraps_round(image: Image.Image) -> bool:
    """Whether a 2:1 picture goes on from its right edge to its left and is of one colour along its
    poles.
    """
    if image.width < 64:
        return False
    small = image.copy()
    small.draft("RGB", (512, 256))
    grey = np.asarray(small.convert("L").resize((256, 128), Image.Resampling.BOX), np.float32)
    spread = float(grey.std())
    if spread < 4:
        return False
    usual = float(np.abs(np.diff(grey, axis=1)).mean())
    seam = float(np.abs(grey[:, 0] - grey[:, -1]).mean())
    poles = max(float(grey[0].std()), float(grey[-1].std()))
    return seam < 2 * usual + 1 and poles < 0.15 * spread


def _light(path: Path) -> ImageFile:
    """An EXR picture of scene light with Rec. 709 primaries and, where it has alpha, premultiplied
    colours.
    """
    channels = exr.read_exr(path)
    layer, letters = next(
        (
            (name[:-1], letters)
            for letters in ("RGBA", "rgba")
            for name in channels
            if name.endswith(letters[0])
            and {name[:-1] + c for c in letters[1:3]} <= channels.keys()
        ),
        (None, "RGBA"),
    )
    grey = "Y" in channels and "X" not in channels  # beside an X it is a coordinate
    if layer is not None:
        names = [layer + letter for letter in letters[:3]]
    elif grey:
        names = ["Y"] * 3
    else:
        raise UserError(
            f"{path} holds no colours, but {', '.join(channels)}.",
            "Save the picture with channels R, G and B.",
        )
    height, width = channels[names[0]].shape
    _refuse_size((width, height), path)
    notes = ["Light, shown as under the Standard view."]
    if layer is None and {"RY", "BY"} <= channels.keys():
        notes.append("Its colours (RY, BY) were left out: it is grey.")
    alpha = channels.get((layer or "") + letters[3])
    channels = {name: channels[name] for name in names}  # no other is needed beside what follows
    see_through = alpha is not None and alpha.min() < 1.0
    if see_through:
        notes.append("Transparent parts were laid over white.")
    shown = torch.empty(3, height, width)
    for top in range(0, height, _ROWS):  # some rows at a time, so that no second picture is held
        rows = slice(top, top + _ROWS)
        for i, name in enumerate(names):
            light = channels[name][rows]
            if alpha is not None and see_through:
                light = light + (1.0 - np.clip(alpha[rows], 0.0, 1.0))
            light = np.clip(np.nan_to_num(light, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
            shown[i, rows] = linear_to_srgb(torch.from_numpy(light))
    return ImageFile(shown, None, tuple(notes))


def _converted(image: Image.Image, data: bytes, path: Path) -> ImageFile:
    notes = []
    held = getattr(image, "n_frames", 1)
    if held > 1 and image.format not in ("MPO", "JPEG"):
        notes.append(f"The file holds {held} pictures; the first is used.")
    fov = fov_from_exif(image)
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    plain = "srgb" in image.info  # PNG's own word for sRGB, which stands above its gamma
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in range(2, 9):
        notes.append("Turned upright by its EXIF orientation.")
    deep, more = _deep_colour(image, data)
    notes += more
    if deep is not None:
        pixels = _turned(deep, orientation)
    else:
        image.load()
        image = ImageOps.exif_transpose(image)
        pixels, more = _plain_values(image, profile)
        notes += more
    if profile:
        pixels, more = _in_srgb(pixels, profile)
        notes += more
    elif (
        isinstance(gamma, float) and not plain and 0.05 < gamma < 5 and abs(gamma * 2.2 - 1) > 0.02
    ):
        pixels = profiles.of_gamma(gamma).to_srgb(pixels.astype(np.float32) / _full(pixels))
        notes.append(f"Converted from the gamma {gamma:.3g} that the PNG names.")
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, 2)
    chw = np.empty((3, *pixels.shape[:2]), np.float32)
    for i in range(3):  # one channel at a time, so that no second picture in floats is held
        np.divide(pixels[..., i], np.float32(_full(pixels)), out=chw[i], dtype=np.float32)
    return ImageFile(torch.from_numpy(chw), fov, tuple(dict.fromkeys(notes)))


def _full(pixels: np.ndarray) -> float:
    return 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[h, w, c] as EXIF's orientation wants it: quarter turns to the left, then mirrored or not."""
    turns, mirrored = {
        2: (0, True),
        3: (2, False),
        4: (2, True),
        5: (3, True),
        6: (3, False),
        7: (1, True),
        8: (1, False),
    }.get(orientation, (0, False))
    turned = np.rot90(pixels, turns)
    return turned[:, ::-1] if mirrored else turned


def _deep_colour(image: Image.Image, data: bytes) -> tuple[np.ndarray | None, list[str]]:
    """[h, w, 3] uint16 of a PNG or TIFF with 16 bits a colour, which Pillow reads as 8; None for
    all others.
    """
    bits = image.tag_v2.get(_BITS) if isinstance(image, TiffImageFile) else None
    png = image.format == "PNG" and len(data) > 25 and data[24] == 16 and data[25] in (2, 4, 6)
    tiff = bits is not None and set(bits) == {16} and len(bits) in (3, 4) and image.mode != "CMYK"
    if not (png or tiff):
        return None, []
    kind = "png_pipe" if png else "tiff_pipe"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-threads", "1"]
    command += ["-max_pixels", str(MAX_PIXELS), "-f", kind, "-i", "-", "-frames:v", "1"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgba64le", "-"]
    width, height = image.size
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, check=False, timeout=_DECODE_S
        )
        whole = done.returncode == 0 and len(done.stdout) == width * height * 8
    except subprocess.TimeoutExpired:
        whole = False
    if not whole:
        image.load()  # which says what is damaged, if it is
        return None, ["Read with 8 of its 16 bits."]
    pixels = np.frombuffer(done.stdout, "<u2").reshape(height, width, 4)
    opaque = pixels[..., 3].min() == 65535
    if opaque or (tiff and len(bits or ()) == 3):
        return pixels[..., :3], []
    laid = np.empty((height, width, 3), np.float32)
    for top in range(0, height, _ROWS):
        block = pixels[top : top + _ROWS].astype(np.float32) / 65535
        laid[top : top + _ROWS] = block[..., :3] * block[..., 3:] + (1 - block[..., 3:])
    return laid, ["Transparent parts were laid over white."]


def _plain_values(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, list[str]]:
    """Any picture as [h, w, 1 or 3] of uint8 or float, in its own colours, without transparency;
    and notes.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image), ["A greyscale picture."]
    notes = []
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        if np.asarray(layered.getchannel("A")).min() < 255:
            notes.append("Transparent parts were laid over white.")
        white = Image.new("RGBA", layered.size, "white")
        grey = image.mode in ("LA", "La")
        image = Image.alpha_composite(white, layered).convert("L" if grey else "RGB")
    if image.mode in ("CMYK", "LAB"):
        converted, note = _by_tables(image, profile)
        return np.asarray(converted), [*notes, note]
    if image.mode in ("L", "1", "LA"):
        notes.append("A greyscale picture.")
        return np.asarray(image.convert("L"))[..., None], notes
    return np.asarray(image.convert("RGB")), notes


def _deep_grey(image: Image.Image) -> np.ndarray:
    """16 or 32 bits of grey -> [h, w, 1] in 0..1. Floats are in 0..1, or are scaled by their
    largest.
    """
    grey = np.asarray(image, np.float32)
    grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    full = 65535.0 if image.mode != "F" and grey.max() <= 65535 else max(1.0, float(grey.max()))
    return np.clip(grey / np.float32(full), 0, 1)[..., None]


def _by_tables(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """A CMYK or LAB picture as RGB, by its profile where it has a sound one."""
    try:
        if image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif profile:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
        else:
            return image.convert("RGB"), "Converted from CMYK."
        turned = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        return turned or image.convert("RGB"), f"Converted from {image.mode} by its profile."
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        if image.mode == "LAB":
            raise
        return image.convert(
            "RGB"
        ), "Converted from CMYK; its colour profile is damaged and was ignored."


def _in_srgb(pixels: np.ndarray, profile: bytes) -> tuple[np.ndarray, list[str]]:
    """[h, w, c] in a profile's colours -> the same in sRGB, [h, w, 1 or 3], and notes."""
    if profile[16:20] in (b"CMYK", b"Lab "):
        return pixels, []  # done by its tables
    known = profiles.parsed(profile)
    if known is not None:
        if known.is_srgb:
            return pixels, []
        if len(known.curves) > pixels.shape[2]:
            pixels = np.repeat(pixels, 3, 2)
        values = pixels[..., : len(known.curves)]
        values = values if values.dtype.kind == "f" else values.astype(np.float32) / _full(values)
        return known.to_srgb(values), [f"Converted from {_name_of(profile)} to sRGB."]
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = "L" if profile[16:20] == b"GRAY" else "RGB"
        eight = pixels
        if eight.dtype != np.uint8:
            eight = np.rint(eight.astype(np.float32) * (255 / _full(eight))).astype(np.uint8)
        picture = Image.fromarray(eight[..., 0] if eight.shape[2] == 1 else eight).convert(mode)
        turned = ImageCms.profileToProfile(
            picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        if turned is None:
            return pixels, []
        return np.asarray(turned), [f"Converted from {_name_of(profile)} to sRGB."]
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return pixels, ["Its colour profile is damaged and was ignored."]


def _name_of(profile: bytes) -> str:
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "its profile"


def fov_from_exif(image: Image.Image) -> float | None:
    """Horizontal field of view in degrees of the upright picture, if its EXIF tells.

    FocalLengthIn35mmFilm is read as the focal length whose frame has a 43.27 mm diagonal (CIPA
    DC-008), else FocalLength with the sensor size that follows from FocalPlaneXResolution.
    """
    exif = image.getexif()
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    width, height = image.size
    turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    f35 = _positive(camera.get(ExifTags.Base.FocalLengthIn35mmFilm))
    focal = _positive(camera.get(ExifTags.Base.FocalLength))
    density = _positive(camera.get(ExifTags.Base.FocalPlaneXResolution))
    unit_mm = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}.get(
        camera.get(ExifTags.Base.FocalPlaneResolutionUnit, 2), 25.4
    )
    if f35:
        focal_px = f35 / _DIAGONAL_MM * math.hypot(width, height)
    elif focal and density:
        taken = (
            _positive(camera.get(ExifTags.Base.ExifImageWidth)) or width
        )  # the density is of the picture as taken
        focal_px = focal / unit_mm * density * width / taken
    else:
        return None
    fov = math.degrees(2 * math.atan((height if turned else width) / 2 / focal_px))
    return fov if 2.0 <= fov <= 160.0 else None


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
