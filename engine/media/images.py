"""Pictures at the size of the work, and out again: PNG and MP4. Reading them is `photos`, EXR is
`exr`.

Inside the engine a picture is float32 [3, h, w] in 0..1, display-referred (sRGB-coded).
"""

from __future__ import annotations

import math
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..bridge.errors import UserError
from ..bridge.whole_file import replacing_path
from ..scene.colour import linear_to_srgb, srgb_to_linear
from .exr import depth_channel, read_exr, write_exr
from .photos import FEWEST_PX, MAX_PIXELS, ImageFile, fov_from_exif, load_image

__all__ = [
    "FEWEST_PX",
    "MAX_PIXELS",
    "ImageFile",
    "depth_channel",
    "fov_from_exif",
    "load_image",
    "read_exr",
    "resize",
    "save_png",
    "save_video",
    "shown_size",
    "to_bytes",
    "working_size",
    "write_exr",
]

_WRITABLE = "Choose a folder that you may write to, on a disk with room."

_ASPECT_KEPT = 0.01  # how far the aspect of a working size may be off, where it can


def working_size(image_size: tuple[int, int], longer: int, multiple: int) -> tuple[int, int]:
    """(width, height) of the picture's aspect, multiples of `multiple`, the longer side near
    `longer` pixels.

    Where sizes within a quarter of `longer` keep the aspect to 1 %, the nearest of them; else the
    one that keeps it best. A picture on its side has the same size on its side.
    """
    ratio = min(image_size) / max(image_size)
    steps = {longer // multiple, -(-longer // multiple)} | {
        k for k in range(1, 5 * longer // (4 * multiple) + 1) if 5 * k * multiple >= 4 * longer
    }

    def rank(size: tuple[int, int]) -> tuple[bool, float, float]:
        squeezed = abs(math.log(size[1] / size[0] / ratio))
        off = abs(math.log(size[0] / longer))
        return (True, squeezed, off) if squeezed > _ASPECT_KEPT else (False, off, squeezed)

    sizes = [
        (k * multiple, max(1, side) * multiple)
        for k in sorted(steps)
        if k > 0
        for side in (int(k * ratio), int(k * ratio) + 1)
    ]
    long, short = min(sizes, key=rank)
    return (long, short) if image_size[0] >= image_size[1] else (short, long)


def shown_size(image_size: tuple[int, int], longer: int) -> tuple[int, int]:
    """(width, height), both even, of the picture's aspect as closely as whole pixels allow."""
    share = longer / max(image_size)
    width, height = (max(2, 2 * round(side * share / 2)) for side in image_size)
    return width, height


def resize(pixels: Tensor, width: int, height: int) -> Tensor:
    """[..., c, h, w] or [c, h, w] to another size with antialiasing; edges of the frame stay edges
    of the frame.

    What becomes smaller is averaged in light, as a lens far away would: leaves against a sky and
    lamps at night keep their brightness.
    """
    if pixels.shape[-2:] == (height, width):
        return pixels
    batch = pixels.reshape(-1, *pixels.shape[-3:])
    smaller = height < pixels.shape[-2] or width < pixels.shape[-1]
    out = F.interpolate(
        srgb_to_linear(batch) if smaller else batch,
        (height, width),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    ).clamp(0, 1)
    out = linear_to_srgb(out) if smaller else out
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
    encoder, count = None, 0
    with tempfile.TemporaryFile() as log, replacing_path(path, _WRITABLE) as partial:
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
        except OSError as error:  # ffmpeg knows better than a broken pipe
            raise OSError(_first_line(log) or error) from error
        finally:
            if encoder is not None and encoder.poll() is None:
                encoder.kill()
                encoder.wait()
    return count


def _encoder(
    path: Path, width: int, height: int, fps: float, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """ffmpeg, reading rgb24 frames. BT.709 is converted to and named: players guess BT.601 for
    small pictures else.
    """
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
        _WRITABLE,
    )
