"""Depth from a file: EXR, 16-bit PNG or NPY, made by a renderer, a sensor or another program."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..bridge.errors import UserError
from ..bridge.kinds import refuse_foreign
from ..bridge.reading import npy_of, open_file, reading
from ..media.images import MAX_PIXELS, depth_channel, read_exr
from .base import DepthEstimate
from .completion import complete_depth

ENDINGS = (".exr", ".png", ".npy")
SKY_M = 1e6  # renderers write 1e10 or so where a ray hits nothing
_ASPECT_TOLERANCE = 0.01
_EDGE_RATIO = 1.05
_FEWEST = 0.05
_MAX_NPY_BYTES = 8 * MAX_PIXELS + 4096


def read_depth(path: str | Path, unit_m: float = 0.0) -> np.ndarray:
    """Depth in metres, [h, w] float32, as the file has it: 0 and NaN mean unknown, inf is sky.

    `unit_m` is the length of one unit of the file; 0 means 0.001 (millimetres) for PNG, 1 for
    EXR and NPY. Raises UserError for files that are missing, broken, or no depth map.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise UserError(
            f"{path.name} is not a depth map that can be read.",
            "Give an EXR, a 16-bit PNG or an NPY file.",
        )
    if not os.path.exists(path):
        raise UserError(
            f"The depth map {path} does not exist.", "Check the file's name, or use --depth box."
        )
    raw = read_values(path)
    if raw.ndim != 2 or min(raw.shape) < 2:
        raise UserError(
            f"{path.name} has the shape {raw.shape}.",
            "A depth map has one value per pixel: [height, width].",
        )
    depth = raw.astype(np.float32) * (unit_m or (0.001 if path.suffix.lower() == ".png" else 1.0))
    known = depth[np.isfinite(depth) & (depth != 0)]
    if (known < 0).any():
        raise UserError(
            f"{path.name} has negative depth.",
            "Depth is the distance along the camera's axis in metres; 0 means unknown.",
        )
    if known.size < _FEWEST * depth.size:
        raise UserError(
            f"{path.name} knows the depth of only {100 * known.size / depth.size:.1f} % of its "
            "pixels.",
            "At least 5 % must be above 0.",
        )
    if known.min() == known.max():
        raise UserError(
            f"{path.name} has the same depth everywhere ({known.min():g} m).",
            "Check that it is a depth map, and its channel.",
        )
    depth[depth >= SKY_M] = np.inf
    if not np.isfinite(depth[depth > 0]).any():
        raise UserError(
            f"{path.name} is farther than {SKY_M:g} m everywhere.",
            "Set depth_unit to the length of one unit in metres.",
        )
    return depth


def read_values(path: Path) -> np.ndarray:
    """The numbers of a depth file as they are, [h, w] or whatever shape an NPY has. UserError for
    any other bytes.
    """
    readers = {".exr": _from_exr, ".png": _from_png, ".npy": _from_npy}
    with reading(path, "Export the depth map again."):
        refuse_foreign(path, "a depth map", ("picture", "table"))
        return readers[path.suffix.lower()](path)


def _from_exr(path: Path) -> np.ndarray:
    return depth_channel(read_exr(path), path)


def _from_png(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path.name} has more than 100 megapixels.", "Scale the depth map down."
                )
            if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
                raise UserError(
                    f"{path.name} is a {image.mode} picture with 8 bits.",
                    "A PNG depth map is 16-bit grey, in millimetres.",
                )
            return np.asarray(image).astype(np.float32)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path.name} is not a readable PNG ({error}).", "Export the depth map again."
        ) from error


def _from_npy(path: Path) -> np.ndarray:
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_NPY_BYTES:
            raise UserError(f"{path.name} has {size / 1e6:,.0f} MB.", "Scale the depth map down.")
        return np.squeeze(npy_of(file, size, path.name))


def resample_depth(depth: Tensor, width: int, height: int) -> Tensor:
    """Depth [h, w] at another size without mixing near and far: 0 stays unknown, inf stays sky.

    Inverse depth is averaged (so planes stay planes) where a pixel's surroundings differ by less
    than 5 %; elsewhere the nearest value is taken.
    """
    h, w = depth.shape
    if (h, w) == (height, width):
        return depth
    known = depth > 0
    inverse = torch.where(known, 1.0 / depth.clamp(min=1e-9), torch.zeros_like(depth))[
        None, None
    ].double()
    smooth = F.interpolate(
        inverse, (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0, 0]
    near = F.interpolate(inverse, (height, width), mode="nearest-exact")[0, 0]
    radius = (max(1, round(h / height)), max(1, round(w / width)))
    window, pad = (2 * radius[0] + 1, 2 * radius[1] + 1), radius
    high = F.interpolate(
        F.max_pool2d(inverse, window, 1, pad), (height, width), mode="nearest-exact"
    )[0, 0]
    low = F.interpolate(
        -F.max_pool2d(-inverse, window, 1, pad), (height, width), mode="nearest-exact"
    )[0, 0]
    steep = high > _EDGE_RATIO * low  # also true beside holes (0) and sky (0)
    value = torch.where(steep, near, smooth)
    unknown = (
        F.interpolate((~known)[None, None].float(), (height, width), mode="nearest-exact")[0, 0] > 0
    )
    result = torch.where(value > 0, 1.0 / value.clamp(min=1e-12), torch.inf)
    return torch.where(unknown, torch.zeros_like(result), result).float()


class DepthFile:
    """The depth source that a file name gives."""

    licence = "the user's own"
    lens_is_a_guess = False

    def __init__(
        self, path: str | Path, unit_m: float = 0.0, image_size: tuple[int, int] | None = None
    ) -> None:
        """`image_size` (width, height) is the whole picture's, if it is not the one given to
        `estimate`.
        """
        self.name = f"depth map {Path(path).name}"
        self._path, self._unit_m, self._image_size = Path(path), unit_m, image_size

    def intrinsics(self, image: Tensor) -> None:
        """A depth map does not say which lens it was taken with."""
        return None

    def estimate(self, image: Tensor, K_hint: Tensor | None) -> DepthEstimate:
        """Depth at the size of image [3, h, w].

        A map of another size is resampled if it has the picture's aspect, else refused. Holes
        (0 or NaN) are filled by continuing the surfaces around them, the far side behind objects.
        """
        height, width = image.shape[-2:]
        raw = read_depth(self._path, self._unit_m)
        h, w = raw.shape
        full = self._image_size or (width, height)
        if abs(w * full[1] / (h * full[0]) - 1) > _ASPECT_TOLERANCE:
            raise UserError(
                f"{self._path.name} is {w}x{h}, the picture is {full[0]}x{full[1]}: the shapes "
                "differ.",
                "Give a depth map of the picture itself, at its size or another size of the same "
                "shape.",
            )
        notes = (
            [f"The depth map was resampled from {w}x{h} to {width}x{height}."]
            if (w, h) != full
            else []
        )
        depth = resample_depth(
            torch.nan_to_num(torch.from_numpy(raw), nan=0.0, posinf=torch.inf), width, height
        )
        holes = depth == 0
        if bool(holes.any()):
            notes.append(
                f"Holes in the depth map were filled ({100 * float(holes.float().mean()):.1f} % "
                "of the picture)."
            )
            depth = _filled(depth, holes)
        return DepthEstimate(
            depth.to(image.device), None, True, self.licence, self.name, tuple(notes)
        )


def _filled(depth: Tensor, holes: Tensor) -> Tensor:
    """Holes next to nothing but sky become sky; others continue what is around them."""
    sky = torch.isinf(depth)
    solid = ~holes & ~sky
    filled = torch.where(sky, depth, complete_depth(torch.where(solid, depth, 0.0), solid))
    if not bool(sky.any()):
        return filled
    return torch.where(holes & (_distance_rank(sky) < _distance_rank(solid)), torch.inf, filled)


def _distance_rank(mask: Tensor) -> Tensor:
    """[h, w]: chessboard distance to the mask's pixels, in steps (as far as the longer side)."""
    distance = torch.where(mask, 0.0, float(max(mask.shape)))[None, None]
    step = 1
    while True:
        shrunk = torch.minimum(distance, -F.max_pool2d(-distance, 3, 1, 1) + 1)
        if torch.equal(shrunk, distance) or step > max(mask.shape):
            return distance[0, 0]
        distance, step = shrunk, step + 1
