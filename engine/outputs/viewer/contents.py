"""What a page holds of a scene: its splats as SPZ, cameras, picture, and where each was seen."""

from __future__ import annotations

import base64
import gzip
import io
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import formats
from ...bridge.camera_file import CameraPath
from ...bridge.errors import UserError
from ...formats import spz
from ...formats.scene import SplatScene, WriteOptions
from ...scene.gaussians import Gaussians, at_most
from ...scene.morton import morton_order
from .labels import labels
from .packing import packed

_PICTURE_PX = 640  # longer side of the input picture in the page
_SIZE = (1280, 720)  # of the view, without cameras
_FOV_DEG = 60.0
_AHEAD = 0.6  # share of splats before the origin that makes the origin the first camera
_SIDEWAYS = 0.5  # cosine: cameras that stand farther from upright than this have an up of their own
# A position is rounded to this share of the splat's own size: half a percent of what is drawn.
_UNSEEN = 1e-4  # of the distance: a tenth of a pixel
_POSITION_STEP = 1 / 16
_SPZ_BITS = 16  # of a metre, the finest step of SPZ


@dataclass(frozen=True)
class Contents:
    """One scene as a page shows it."""

    title: str
    spz: bytes  # in OpenCV axes and metres, unlike SPZ files for others
    count: int  # splats in it
    antialiased: bool
    first: np.ndarray  # [16] fx fy cx cy and the rows of world_from_camera: the first view
    size: tuple[int, int]  # pixels of the views
    up: np.ndarray  # [3]
    focus_m: float  # how far ahead of the first camera most of the scene is
    cameras: CameraPath | None = None
    picture: bytes | None = None  # JPEG
    segments: tuple[tuple[int, int], ...] = ()  # new frames of each, first and end
    labels: bytes | None = None  # one a splat, gzip

    @cached_property
    def packed(self) -> bytes:
        """The splats as a page holds them."""
        return packed(self.spz)

    def facts(self) -> dict[str, Any]:
        """What the page's script reads, as plain values."""
        cameras = self.cameras
        return {
            "title": self.title,
            "antialiased": self.antialiased,
            "first": _rounded(self.first),
            "width": self.size[0],
            "height": self.size[1],
            "up": _rounded(self.up),
            "focus_m": round(self.focus_m, 4),
            "cameras": None
            if cameras is None
            else {
                "fps": cameras.fps,
                "frames": [_rounded(frame) for frame in _frames(cameras)],
            },
            "picture": None
            if self.picture is None
            else "data:image/jpeg;base64," + base64.b64encode(self.picture).decode(),
            "segments": [list(segment) for segment in self.segments],
            "labelled": self.labels is not None,
        }


def contents(
    scene: SplatScene,
    title: str,
    *,
    cameras: CameraPath | None = None,
    picture: Path | None = None,
    segments: tuple[tuple[int, int], ...] = (),
    count: int | None = None,
) -> Contents:
    """What a page shows of a scene of any axes, unit and colour coding.

    `cameras` are in the scene's world, OpenCV axes and metres; None takes the scene's own, if it
    has any. `picture` is an image file of what the first camera sees. `count` keeps so many of the
    splats. Raises UserError for a scene that SPZ cannot hold.
    """
    if count is not None and count < 1:
        raise UserError(f"--count {count} leaves no splats.", "Give a number above 0.")
    cameras = scene.cameras if cameras is None else cameras
    options = WriteOptions(axes="opencv", metres_per_unit=1.0)
    scene = formats.prepared(formats.FORMATS["spz"], scene, options)
    order = morton_order(scene.splats.means)  # neighbours are alike, and pack well
    splats = type(scene.splats)(*(values[order] for values in scene.splats))
    gaussians = Gaussians(*(torch.from_numpy(np.array(a, np.float32, order="C")) for a in splats))
    if count is not None:
        gaussians = at_most(gaussians, count)
    first, size = _first_view(gaussians.means.numpy(), cameras)
    focus_m = _focus_m(gaussians.means.numpy(), first)
    shown = Contents(
        title=title,
        spz=_as_spz(gaussians, scene.metadata.antialiased, focus_m),
        count=gaussians.count,
        antialiased=scene.metadata.antialiased,
        first=first,
        size=size,
        up=_up(cameras),
        focus_m=focus_m,
        cameras=cameras,
        picture=None if picture is None else _jpeg(picture),
    )
    if cameras is None or cameras.count < 2:
        return shown
    segments = segments or ((0, cameras.count),)
    where = labels(gaussians, cameras, segments)
    return replace(shown, segments=segments, labels=gzip.compress(where.tobytes(), 9, mtime=0))


def _as_spz(gaussians: Gaussians, antialiased: bool, focus_m: float) -> bytes:
    """SPZ version 3, with positions no finer than their splat's size asks for: the rest is noise,
    and packs badly. Scales below SPZ's least become that without a word where it is no pixel at
    `focus_m`.
    """
    if math.exp(spz.SCALE_LOG_LEAST) < _UNSEEN * focus_m:
        seen = gaussians.scales_log.clamp_min(spz.SCALE_LOG_LEAST)
        gaussians = gaussians._replace(scales_log=seen)
    size = torch.exp(gaussians.scales_log.median(dim=1).values).double()
    step = torch.exp2(torch.floor(torch.log2(size * _POSITION_STEP)).clamp(-_SPZ_BITS, 0))
    means = (gaussians.means.double() / step[:, None]).round() * step[:, None]
    splats = spz.Splats(*(t.numpy() for t in gaussians._replace(means=means.float())))
    return spz.encode(splats, version=3, antialiased=antialiased)


def _frames(cameras: CameraPath) -> np.ndarray:
    """[f, 16] fx fy cx cy and the first three rows of world_from_camera."""
    K = cameras.K
    lens = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=1)
    return np.concatenate([lens, cameras.world_from_camera[:, :3].reshape(-1, 12)], axis=1)


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 7) for v in values]


def _first_view(
    means: np.ndarray, cameras: CameraPath | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """The first camera, [16], and its size: the path's, the origin if the scene lies before it,
    else one from where most of the scene is seen.
    """
    if cameras is not None:
        return _frames(cameras)[0], (cameras.width, cameras.height)
    width, height = _SIZE
    focal = width / 2 / np.tan(np.radians(_FOV_DEG / 2))
    position = np.zeros(3)
    ahead = (means[:, 2] > 0) & (np.abs(means[:, 0]) < means[:, 2])
    if ahead.mean() < _AHEAD:
        low, high = np.percentile(means, (5, 95), axis=0)
        position = (low + high) / 2
        position[2] = low[2] - max(high[0] - low[0], (high[1] - low[1]) * width / height)
    rows = np.concatenate([np.eye(3), position[:, None]], axis=1)
    return np.concatenate([[focal, focal, width / 2, height / 2], rows.reshape(-1)]), _SIZE


def _up(cameras: CameraPath | None) -> np.ndarray:
    """The scene's up: minus y, or the cameras' where they stand another way in their world."""
    up = np.array([0.0, -1.0, 0.0])
    if cameras is None:
        return up
    theirs = -cameras.world_from_camera[:, :3, 1].mean(axis=0)
    length = np.linalg.norm(theirs)
    return theirs / length if length > 1e-3 and theirs @ up < _SIDEWAYS * length else up


def _focus_m(means: np.ndarray, first: np.ndarray) -> float:
    rows = first[4:].reshape(3, 4)
    ahead = (means - rows[:, 3]) @ rows[:, 2]
    seen = ahead[ahead > 0]
    return float(np.median(seen)) if len(seen) else 1.0


def _jpeg(picture: Path) -> bytes:
    from ...media import images

    pixels = images.load_image(picture, photo=False).pixels
    h, w = pixels.shape[1:]
    scale = min(1.0, _PICTURE_PX / max(w, h))
    small = images.resize(pixels, max(1, round(w * scale)), max(1, round(h * scale)))
    from PIL import Image

    array = (small.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="JPEG", quality=88)
    return stream.getvalue()
