"""What the format readers return and the writers take, and the rules that all of them share."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..bridge.axes import between, preset, similarity, transform_splats
from ..bridge.camera_file import CameraPath
from ..bridge.colour import linear_to_srgb, srgb_to_linear
from ..bridge.errors import UserError
from ..bridge.harmonics import COEFFICIENTS, SH_C0, basis, degree_of, sphere_directions
from ..bridge.reading import bytes_of
from ..bridge.splats import OPACITY_LOGIT_LIMIT, SCALE_LOG_FLOOR, Splats
from ..bridge.splats import repaired as mend

log = logging.getLogger(__name__)

DISPLAY = "srgb_rec709_display"  # the names are those of KHR_gaussian_splatting
LINEAR = "lin_rec709_display"
COLOUR_SPACES = (DISPLAY, LINEAR)
MOST_SPLATS = 100_000_000  # a header that asks for more is taken for a lie


@dataclass(frozen=True)
class Metadata:
    """What a splat file says, or leaves to its format's custom, about its numbers."""

    axes: str = "opencv"  # a name of engine.bridge.axes.PRESETS
    metres_per_unit: float = 1.0
    colour_space: str = DISPLAY  # in what the coefficients are coded and blended
    blend_linear: bool = False  # display-coded colours, decoded before blending (Blender 5.3's way)
    antialiased: bool = False  # trained with the Mip-Splatting filter
    comments: tuple[str, ...] = ()
    source: str = ""  # the format read
    lossy: tuple[str, ...] = ()  # what the format had already cost, for people
    lost: tuple[str, ...] = ()  # what this file holds and the scene does not, a sentence each


@dataclass(frozen=True)
class SplatScene:
    """Splats with what is known about them; cameras and background picture when the file has
    them.
    """

    splats: Splats
    metadata: Metadata = field(default_factory=Metadata)
    cameras: CameraPath | None = None  # always OpenCV axes and metres, whatever the splats' axes

    @property
    def count(self) -> int:
        return self.splats.means.shape[0]

    def in_axes(self, axes: str, metres_per_unit: float | None = None) -> SplatScene:
        """The same scene in other axes and units. A change of nothing returns the scene itself.

        `metres_per_unit` defaults to the scene's own unit, so only directions change.
        """
        here, there = preset(self.metadata.axes).name, preset(axes).name
        unit = self.metadata.metres_per_unit if metres_per_unit is None else metres_per_unit
        if not np.isfinite(unit) or unit <= 0:
            raise UserError(f"A unit of {unit} metres makes no sense.", "Give a positive number.")
        matrix = similarity(between(here, there), self.metadata.metres_per_unit / unit)
        metadata = dataclasses.replace(self.metadata, axes=there, metres_per_unit=unit)
        return dataclasses.replace(
            self, splats=transform_splats(self.splats, matrix), metadata=metadata
        )


@dataclass(frozen=True)
class WriteOptions:
    """Choices of a write. None leaves a choice to the format."""

    axes: str | None = None  # preset name; None: the format's own custom
    metres_per_unit: float | None = None
    sh_degree: int | None = None  # never more than the scene has
    colour_space: str | None = None  # one of COLOUR_SPACES; None: the scene's own
    spz_version: int = 4
    node_matrix: np.ndarray | None = (
        None  # [4, 4] in the scene's axes, kept as a node where the format has nodes
    )
    compress_spz: bool = False  # glTF: hold the splats as an SPZ blob
    image_plane: Path | None = (
        None  # picture behind the camera's view, in formats that hold cameras
    )


def logit(opacity: np.ndarray) -> np.ndarray:
    """Logit of an opacity in 0..1, kept within +-OPACITY_LOGIT_LIMIT, float32."""
    p = np.asarray(opacity, np.float64)
    with np.errstate(divide="ignore"):
        value = np.log(p) - np.log1p(-p)
    return np.clip(value, -OPACITY_LOGIT_LIMIT, OPACITY_LOGIT_LIMIT).astype(np.float32)


def log_scale(scale: np.ndarray) -> np.ndarray:
    """ln of a linear scale, zero (a flat splat) becoming SCALE_LOG_FLOOR, float32."""
    s = np.asarray(scale, np.float64)
    return np.log(np.maximum(s, np.exp(SCALE_LOG_FLOOR))).astype(np.float32)


def read_bytes(path: Path) -> bytes:
    """The whole file; UserError when it cannot be read or is empty."""
    return bytes_of(path)


def damaged(path: Path | str, what: str) -> UserError:
    """The error for a file whose bytes do not hold together."""
    return UserError(f"{path} is damaged: {what}.", "Export or download it again.")


def repaired(splats: Splats, where: str) -> Splats:
    """`splats.repaired` of the bridge, with its sentences in the log."""
    mended, notes = mend(splats, where)
    for note in notes:
        log.warning("%s: %s", where, note)
    return mended


def with_degree(splats: Splats, degree: int | None) -> Splats:
    """The splats with no more than `degree` bands of view-dependent colour. None keeps all."""
    have = degree_of(splats.sh_rest.shape[1])
    if degree is None or degree >= have:
        if degree is not None and not 0 <= degree <= 3:
            raise UserError(f"SH degree {degree} is unknown.", "Choose 0, 1, 2 or 3.")
        return splats
    if degree < 0:
        raise UserError(f"SH degree {degree} is unknown.", "Choose 0, 1, 2 or 3.")
    return splats._replace(sh_rest=np.ascontiguousarray(splats.sh_rest[:, : COEFFICIENTS[degree]]))


def recoded(splats: Splats, transfer: Callable[[np.ndarray], np.ndarray]) -> Splats:
    """Coefficients of transfer(colour) for each splat: exact at degree 0, best fit above.

    Each splat's colour is sampled in 64 directions, passed through `transfer` and projected back
    onto the basis (least squares). Work goes in blocks so that memory stays small.
    """
    degree = degree_of(splats.sh_rest.shape[1])
    if degree == 0:
        return splats._replace(
            sh_dc=((transfer(splats.sh_dc * SH_C0 + 0.5) - 0.5) / SH_C0).astype(np.float32)
        )
    values = basis(sphere_directions(64), degree).astype(np.float32)  # [64, k]
    back = np.linalg.pinv(values.astype(np.float64)).astype(np.float32)  # [k, 64]
    dc, rest = np.empty_like(splats.sh_dc), np.empty_like(splats.sh_rest)
    for start in range(0, len(dc), 50_000):
        part = slice(start, start + 50_000)
        coefficients = np.concatenate(
            [splats.sh_dc[part, None], splats.sh_rest[part]], axis=1
        )  # [m, k, 3]
        colour = transfer(np.tensordot(coefficients, values, axes=(1, 1)) + 0.5) - 0.5  # [m, 3, 64]
        fitted = np.tensordot(colour.astype(np.float32), back, axes=(2, 1))  # [m, 3, k]
        dc[part], rest[part] = fitted[:, :, 0], fitted[:, :, 1:].transpose(0, 2, 1)
    return splats._replace(sh_dc=dc, sh_rest=rest)


def in_colour_space(scene: SplatScene, colour_space: str | None) -> SplatScene:
    """The scene with its colours coded in `colour_space`. None keeps the scene's own.

    Each splat keeps its colour; where splats overlap, blending in another space looks different,
    which is logged. A scene that is display-coded but blended in linear light changes exactly.
    """
    have = scene.metadata.colour_space
    if colour_space is None or colour_space == have:
        return scene
    if colour_space not in COLOUR_SPACES:
        raise UserError(
            f"Unknown colour space {colour_space!r}.", f"Choose one of {', '.join(COLOUR_SPACES)}."
        )
    if not scene.metadata.blend_linear and have == DISPLAY:
        log.warning(
            "the splats were made for display-referred blending: overlaps look different in %s",
            colour_space,
        )
    splats = recoded(scene.splats, srgb_to_linear if colour_space == LINEAR else linear_to_srgb)
    blend_linear = (
        have == LINEAR
    )  # linear colours coded for display must still be blended in linear light
    metadata = dataclasses.replace(
        scene.metadata, colour_space=colour_space, blend_linear=blend_linear
    )
    return dataclasses.replace(scene, splats=splats, metadata=metadata)
