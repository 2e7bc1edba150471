"""OpenEXR in and out: the channels of any flat file, checked against its header before memory is
taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR

from ..bridge.errors import UserError
from ..bridge.reading import head_of, open_file, reading

MAGIC = b"\x76\x2f\x31\x01"
_MAX_PIXELS = 100_000_000
_MAX_BYTES = 4 << 30  # of all channels together: a film frame of 8K with forty passes has less
_FREE_BYTES = 256 << 20
_MOST_RATIO = 300  # a picture that packs better is blank; beyond _FREE_BYTES it is taken for a lie
_REMEDY = "Render or export it again as a scan-line EXR."


def read_exr(path: str | Path) -> dict[str, np.ndarray]:
    """Channels of all parts of an EXR file (Blender writes a part for each pass from 5.0 on): name
    -> [h, w] float32.

    Channels keep the file's names ("R", "Z", "ViewLayer.Depth.Z", ...); one that an earlier part
    has too bears its part's name before its own. Raises UserError.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"The EXR file {path} does not exist.", "Check the file's name.")
    channels: dict[str, np.ndarray] = {}
    with reading(path, _REMEDY):
        if not head_of(path, 4).startswith(MAGIC):
            raise UserError(f"{path} is not a readable EXR file.", _REMEDY)
        try:
            with OpenEXR.File(str(path), header_only=True) as file:
                _check_size(file.parts, path)
            with OpenEXR.File(str(path), separate_channels=True) as file:
                for part in file.parts:
                    for name, channel in part.channels.items():
                        key = f"{part.name()}.{name}" if name in channels else name
                        channels[key] = np.asarray(channel.pixels, np.float32)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a readable EXR file ({error}).", _REMEDY) from error
    if any(values.ndim != 2 for values in channels.values()):
        raise UserError(
            f"{path} is a deep EXR file.", "Render or export it again as a plain (flat) EXR."
        )
    if not channels:
        raise UserError(f"{path} holds no channels.", _REMEDY)
    return channels


def _check_size(parts: Any, path: Path) -> None:
    """UserError for headers that claim more than a picture has, or than the file can hold."""
    total = 0
    for part in parts:
        low, high = (np.asarray(corner, np.int64) for corner in part.header["dataWindow"])
        width, height = (int(side) for side in high - low + 1)
        if width < 1 or height < 1:
            raise UserError(f"{path} is damaged: a picture of {width}x{height}.", _REMEDY)
        if width * height > _MAX_PIXELS:
            raise UserError(
                f"{path} has more than 100 megapixels ({width}x{height}).",
                "Scale the picture down; 4000 pixels of width are plenty.",
            )
        total += width * height * 4 * max(1, len(part.header.get("channels", ())))
    with open_file(path) as file:
        packed = file.seek(0, 2)
    if total > _MAX_BYTES or total > _FREE_BYTES + _MOST_RATIO * packed:
        raise UserError(
            f"{path} claims {total / 1e6:,.0f} MB of pixels in {packed / 1e6:,.1f} MB.",
            "Render or export it again with fewer channels.",
        )


def depth_channel(channels: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """The depth [h, w] among an EXR's channels: Depth.Z of a layer, else Z, Depth, V, Y or R.
    UserError when there is none.

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
            "channels: expected [h, w] arrays of one shape, got "
            f"{ {k: np.shape(v) for k, v in channels.items()} }"
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
