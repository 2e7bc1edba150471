"""Pictures and films: reading any photo as plain RGB, and writing PNG, EXR and MP4.

Inside the engine a picture is float32 [3, h, w] in 0..1, display-referred (sRGB-coded).
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import imageio_ffmpeg
import numpy as np
import OpenEXR
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ..bridge.errors import UserError
from ..scene.colour import linear_to_srgb

MAX_PIXELS = 100_000_000
_READABLE = "Give a photo as JPEG, PNG, TIFF, WebP or another common picture format."
_FILM_ENDINGS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"}
_DIAGONAL_MM = math.hypot(36, 24)
_EXR_MAGIC = b"\x76\x2f\x31\x01"


class ImageFile(NamedTuple):
    """A picture and what its file says of the camera."""

    pixels: Tensor  # [3, h, w] float32 in 0..1, upright
    fov_deg: float | None  # horizontal, of the upright picture; from EXIF
    notes: tuple[str, ...]  # what was done to it, for the report


def load_image(path: str | Path) -> ImageFile:
    """Read a photo: upright by its EXIF orientation, as sRGB whatever mode the file has.

    Grey is repeated, CMYK and other profiles become sRGB, 16 bits keep their precision, and
    transparent parts are laid over white. The light in an EXR becomes what Blender's Standard view
    shows of it. Raises UserError for a file that is missing, empty,
    cut off, no picture, a film, or over 100 megapixels.
    """
    path = Path(path)
    data = _bytes_of(path)
    if data.startswith(_EXR_MAGIC):
        return _light(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the size limit below is our own, and damage is reported by its effect
            with Image.open(BytesIO(data)) as image:
                _refuse_size(image.size, path)
                return _converted(image)
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except UnidentifiedImageError as error:
        film = path.suffix.lower() in _FILM_ENDINGS or (
            data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"heic", b"mif1")
        )
        what = "is a film" if film else "is not a picture that can be read"
        hint = "Save one frame of it as PNG, and give that." if film else _READABLE
        raise UserError(f"{path} {what}.", hint) from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
    ) as error:  # what Pillow's decoders raise on damaged files
        raise UserError(
            f"{path} is damaged or cut off ({error}).",
            "Save the picture again, or copy it again from its source.",
        ) from error


def _bytes_of(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder.", _READABLE)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"The picture {path} does not exist.", "Check the file's name.") from error
    except OSError as error:
        raise UserError(
            f"The picture {path} cannot be read: {error.strerror}.", "Check its permissions."
        ) from error
    if not data:
        raise UserError(
            f"The picture {path} is empty.",
            "Save the picture again, or copy it again from its source.",
        )
    return data


def _refuse_size(size: tuple[int, int], path: Path) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_large(path, size)
    if min(size) < 16:
        raise UserError(
            f"{path} has only {size[0]}x{size[1]} pixels.",
            "Give a picture of at least 16x16 pixels.",
        )


def _too_large(path: Path, size: tuple[int, int] | None = None) -> UserError:
    what = f" ({size[0]}x{size[1]})" if size else ""
    return UserError(
        f"{path} has more than 100 megapixels{what}.",
        "Scale the picture down; 4000 pixels of width are plenty.",
    )


def _light(path: Path) -> ImageFile:
    """An EXR picture of scene light with Rec. 709 primaries and, where it has alpha, premultiplied colours."""
    channels = read_exr(path)
    layer = next(
        (
            name[:-1]
            for name in channels
            if name.endswith("R") and {name[:-1] + "G", name[:-1] + "B"} <= channels.keys()
        ),
        None,
    )
    if layer is not None:
        light = np.stack([channels[layer + name] for name in "RGB"])
    elif "Y" in channels:
        light = np.stack([channels["Y"]] * 3)
    else:
        raise UserError(
            f"{path} holds no colours, but {', '.join(channels)}.",
            "Save the picture with channels R, G and B.",
        )
    _refuse_size((light.shape[2], light.shape[1]), path)
    notes = ["Light, shown as under the Standard view."]
    alpha = channels.get(f"{layer or ''}A")
    if alpha is not None and alpha.min() < 1.0:
        light = light + (1.0 - np.clip(alpha, 0.0, 1.0))
        notes.append("Transparent parts were laid over white.")
    light = np.clip(np.nan_to_num(light, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    return ImageFile(linear_to_srgb(torch.from_numpy(light.astype(np.float32))), None, tuple(notes))


def _converted(image: Image.Image) -> ImageFile:
    notes = []
    held = getattr(image, "n_frames", 1)
    if held > 1 and image.format not in ("MPO", "JPEG"):
        notes.append(f"The file holds {held} pictures; the first is used.")
    fov = fov_from_exif(image)
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    profile, upright = image.info.get("icc_profile"), ImageOps.exif_transpose(image)
    if orientation not in (0, 1):
        notes.append("Turned upright by its EXIF orientation.")
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        pixels = _deep_grey(upright)
        notes.append("A greyscale picture.")
    else:
        pixels, more = _eight_bits(upright, profile)
        notes += more
    return ImageFile(
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), fov, tuple(notes)
    )


def _deep_grey(image: Image.Image) -> np.ndarray:
    """16 or 32 bits of grey -> [h, w, 3] in 0..1. Floats are in 0..1, or are scaled by their largest."""
    grey = np.asarray(image, np.float32)
    grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    full = 65535.0 if image.mode != "F" and grey.max() <= 65535 else max(1.0, float(grey.max()))
    return np.repeat(np.clip(grey / full, 0, 1)[:, :, None], 3, 2)


def _eight_bits(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, list[str]]:
    """Any other mode -> [h, w, 3] float32 in 0..1, and notes."""
    notes = []
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        if np.asarray(layered.getchannel("A")).min() < 255:
            notes.append("Transparent parts were laid over white.")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert(
            "RGB"
        )
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            name = ImageCms.getProfileDescription(source).strip()
            if "sRGB" not in name:
                turned = ImageCms.profileToProfile(
                    image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                image = turned or image
                notes.append(f"Converted from {name} to sRGB.")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            notes.append("Its colour profile is damaged and was ignored.")
    if image.mode == "CMYK":
        notes.append("Converted from CMYK.")
    if image.mode in ("L", "1", "LA"):
        notes.append("A greyscale picture.")
    return np.asarray(image.convert("RGB"), np.float32) / 255.0, notes


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


def working_size(image_size: tuple[int, int], width: int, multiple: int) -> tuple[int, int]:
    """(width, height) near `width`, of the picture's aspect, both multiples of `multiple`."""
    w = max(multiple, round(width / multiple) * multiple)
    return w, max(multiple, round(w * image_size[1] / image_size[0] / multiple) * multiple)


def resize(pixels: Tensor, width: int, height: int) -> Tensor:
    """[..., c, h, w] or [c, h, w] to another size with antialiasing; edges of the frame stay edges of the frame.

    Display-referred values are averaged as they are, as picture programs do.
    """
    if pixels.shape[-2:] == (height, width):
        return pixels
    batch = pixels.reshape(-1, *pixels.shape[-3:])
    out = F.interpolate(
        batch, (height, width), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    return out.reshape(*pixels.shape[:-2], height, width)


def to_bytes(pixels: Tensor) -> np.ndarray:
    """[3, h, w] or [1, h, w] in 0..1 -> uint8 [h, w, 3], rounded."""
    rgb = pixels.detach().clamp(0, 1).nan_to_num().expand(3, -1, -1)
    return (rgb * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def save_png(path: str | Path, pixels: Tensor) -> None:
    """Write [3, h, w] (or [1, h, w], as grey) in 0..1 as an 8-bit PNG."""
    try:
        Image.fromarray(to_bytes(pixels)).save(path, format="PNG", compress_level=3)
    except OSError as error:
        raise _unwritable(path, error) from error


def save_video(path: str | Path, frames: Iterable[Tensor], fps: float) -> int:
    """Write frames [3, h, w] in 0..1 as an H.264 MP4 that plays everywhere; returns their count.

    An odd width or height gets one more column or row, since the format halves its colours.
    Frames may come from a generator, one at a time; the file appears only when it is whole.
    Raises UserError if it cannot be written.
    """
    path = Path(path)
    partial, encoder, count = path.with_name(f"{path.stem}.part.mp4"), None, 0
    with tempfile.TemporaryFile() as log:
        try:
            for frame in frames:
                picture = to_bytes(frame)
                picture = np.pad(
                    picture,
                    ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)),
                    mode="edge",
                )
                if encoder is None:
                    encoder = _encoder(partial, picture.shape[1], picture.shape[0], fps, log)
                assert encoder.stdin is not None
                encoder.stdin.write(picture.tobytes())
                count += 1
            if encoder is None:
                raise ValueError("frames: expected at least one")
            encoder.communicate()  # closes its input and waits
            if encoder.returncode != 0:
                raise OSError(_first_line(log))
            os.replace(partial, path)
        except OSError as error:
            raise _unwritable(path, OSError(_first_line(log) or error)) from error
        finally:
            if encoder is not None and encoder.poll() is None:
                encoder.kill()
                encoder.wait()
            partial.unlink(missing_ok=True)
    return count


def _encoder(
    path: Path, width: int, height: int, fps: float, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """ffmpeg, reading rgb24 frames. BT.709 is converted to and named: players guess BT.601 for small pictures else."""
    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        f"{fps:.6g}",
        "-i",
        "-",
    ]
    colour = [
        "-vf",
        "scale=out_color_matrix=bt709:out_range=tv",
        "-colorspace",
        "bt709",
        "-color_primaries",
        "bt709",
        "-color_trc",
        "bt709",
    ]
    output = [
        "-c:v",
        "libx264",
        "-crf",
        "16",
        "-pix_fmt",
        "yuv420p",
        *colour,
        "-movflags",
        "+faststart",
        str(path.absolute()),
    ]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *output]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)


def _first_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else ""


def _unwritable(path: str | Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written: {error.strerror or error}.",
        "Choose a folder that you may write to, on a disk with room.",
    )


def read_exr(path: str | Path) -> dict[str, np.ndarray]:
    """Channels of all parts of an EXR file (Blender writes a part for each pass from 5.0 on): name -> [h, w] float32.

    Channels keep the file's names ("R", "Z", "ViewLayer.Depth.Z", ...); one that an earlier part has too
    bears its part's name before its own. Raises UserError.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The EXR file {path} does not exist.", "Check the file's name.")
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels: dict[str, np.ndarray] = {}
            for part in file.parts:
                for name, channel in part.channels.items():
                    channels[f"{part.name()}.{name}" if name in channels else name] = np.asarray(
                        channel.pixels, np.float32
                    )
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise UserError(
            f"{path} is not a readable EXR file ({error}).",
            "Render or export it again as a scan-line EXR.",
        ) from error
    if any(values.ndim != 2 for values in channels.values()):
        raise UserError(
            f"{path} is a deep EXR file.", "Render or export it again as a plain (flat) EXR."
        )
    return channels


def depth_channel(channels: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """The depth [h, w] among an EXR's channels: Depth.Z of a layer, else Z, Depth, V, Y or R. UserError when there is none.

    A Z beside an X is a component of a vector, such as a normal, and no depth.
    """
    names = {name.lower(): name for name in channels}
    for wanted in ("depth.z", "depth.v", "z", "depth", "v", "y", "r"):
        for low, name in names.items():
            whole, _, last = low.rpartition(".")
            if (
                (low == wanted or low.endswith("." + wanted))
                and f"{whole}.x".lstrip(".") not in names
                and (last != "r" or not whole)
            ):
                return channels[name]
    if len(channels) == 1:
        return next(iter(channels.values()))
    raise UserError(
        f"{path} has no depth channel, only {', '.join(channels)}.",
        "Save the depth pass (channel Z).",
    )


def write_exr(path: str | Path, channels: dict[str, np.ndarray]) -> None:
    """Write channels name -> [h, w] as a 32-bit float EXR (ZIP). Raises UserError."""
    if (
        not channels
        or len({np.shape(v) for v in channels.values()}) != 1
        or any(np.ndim(v) != 2 for v in channels.values())
    ):
        raise ValueError(
            f"channels: expected [h, w] arrays of one shape, got { {k: np.shape(v) for k, v in channels.items()} }"
        )
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    try:
        arrays = {
            name: np.ascontiguousarray(values, np.float32) for name, values in channels.items()
        }
        with OpenEXR.File(header, arrays) as file:
            file.write(str(path))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{path} cannot be written ({error}).",
            "Choose a folder that you may write to, on a disk with room.",
        ) from error
