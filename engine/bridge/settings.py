"""Every setting a user can change, once. Shared with Blender: standard library only.

A field carries its default, one line of text, unit, limits and choices. From here come the
command line's flags, Blender's properties, the job folder's settings.json and the README's
table. Names are unique over all groups, so a flag is just the field's name.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import Any

from .errors import UserError

_UNLIMITED = (-math.inf, math.inf)


def _setting(
    default: Any,
    text: str,
    *,
    unit: str = "",
    limits: tuple[float, float] = _UNLIMITED,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"text": text, "unit": unit, "limits": limits, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class PathSettings:
    """How the camera path becomes segments."""

    segment_length: int = _setting(
        25, "Frames generated together (N)", unit="frames", limits=(2, 201)
    )
    overlap: int = _setting(
        10, "Frames a segment shares with the one before (n)", unit="frames", limits=(1, 100)
    )
    frame_step: int = _setting(
        1, "Use every k-th frame of the path", unit="frames", limits=(1, 100)
    )
    move_frames: int = _setting(
        40, "Frames of a named move such as dolly:1.0", unit="frames", limits=(1, 10000)
    )
    motion_scale: float = _setting(
        0.0,
        "Length of one path unit; 0 takes metres as they are and scales a path of unknown unit by the scene's depth",
        unit="m",
        limits=(0.0, 1e6),
    )


@dataclass(frozen=True)
class GeometrySettings:
    """Where the first Gaussians come from."""

    depth: str = _setting(
        "auto",
        "Depth source: auto (the best model that is here, else box), box, a model's name, or a file (EXR, 16-bit PNG, NPY)",
    )
    depth_unit: float = _setting(
        0.0,
        "Metres of one unit of the depth file; 0: 0.001 for PNG, 1 for EXR and NPY",
        unit="m",
        limits=(0.0, 1e3),
    )
    fov: float = _setting(
        0.0,
        "Horizontal field of view; 0: from the path, else the depth model, else EXIF, else 60",
        unit="deg",
        limits=(0.0, 170.0),
    )
    horizon: float = _setting(
        0.45, "Height of the horizon in the picture, 0 top to 1 bottom", limits=(0.0, 1.0)
    )
    camera_height: float = _setting(
        1.6, "Height of the camera above the floor", unit="m", limits=(0.01, 1000.0)
    )
    box_width: float = _setting(
        6.0, "Distance between the side walls; 0 for none", unit="m", limits=(0.0, 1e4)
    )
    box_height: float = _setting(
        0.0, "Height of the ceiling above the floor; 0 for open sky", unit="m", limits=(0.0, 1e4)
    )
    box_depth: float = _setting(9.0, "Distance of the back wall", unit="m", limits=(0.1, 1e4))
    initialiser: str = _setting(
        "layers",
        "First Gaussians: layers (from depth), flash3d, or a .ply of them, such as SHARP's",
    )
    layers: int = _setting(
        2, "1: only what is seen; 2: also a layer behind depth edges", limits=(1, 2)
    )
    border: float = _setting(
        0.0, "Continue the scene beyond the frame by this share of its size", limits=(0.0, 0.5)
    )


@dataclass(frozen=True)
class MomentumSettings:
    """Latent and pixel momentum."""

    momentum: str = _setting(
        "full", "Which momentum is on", choices=("full", "latent", "pixel", "none")
    )
    lambda_0: float = _setting(0.7, "Strength of latent momentum, Eq. (10)", limits=(0.0, 1.0))
    tau: float = _setting(
        2.0,
        "Gaussian size above which a pixel counts as unseen, Eq. (15)",
        unit="px",
        limits=(0.01, 1e3),
    )
    similarity: str = _setting(
        "patch",
        "Features compared in Eq. (10): the prior's patches, or bare latent cells as printed",
        choices=("patch", "latent"),
    )
    reference_pool: str = _setting(
        "first",
        "What Eq. (10) compares with, beside the picture: a segment's first n frames, or cells of any frame that are sure",
        choices=("first", "confident"),
    )
    lambda_coverage: bool = _setting(
        True, "Multiply lambda by how much of a latent cell the scene covers"
    )
    momentum_start: float = _setting(
        0.3,
        "Share of denoising steps before momentum sets in; the two runs are one until then",
        limits=(0.0, 1.0),
    )
    diffusion: bool = _setting(
        True, "Enhance the frames with the video prior (off: refine on the renders alone)"
    )


@dataclass(frozen=True)
class PriorSettings:
    """The video diffusion model."""

    prior: str = _setting(
        "auto",
        "Video prior: auto (the best that fits this machine and whose weights are here), patch, or a name",
    )
    licences: str = _setting(
        "any",
        "Which weights may be used: any, or commercial: only those free for commercial use",
        choices=("any", "commercial"),
    )
    steps: int = _setting(0, "Denoising steps; 0 is the prior's own default", limits=(0, 1000))
    eta: float = _setting(
        0.0,
        "Noise added at every denoising step, DDIM's eta; 0 is deterministic, the paper's 1",
        limits=(0.0, 1.0),
    )
    guidance: float = _setting(
        -1.0, "Classifier-free guidance; -1 is the prior's own default", limits=(-1.0, 50.0)
    )
    reuse: float = _setting(
        0.0,
        "Leave network calls out while the clean estimate changes by less than this share a step; 0: never",
        limits=(0.0, 0.5),
    )
    lora: str = _setting("", "LoRA file (.safetensors) that is added to the weights of a Wan prior")
    gguf: str = _setting(
        "", "GGUF file with the network of Wan VACE or LTX in few bits, in place of its own weights"
    )
    attention: str = _setting(
        "native",
        "Attention kernel; others than native and flex must be installed",
        choices=("native", "flash", "sage", "xformers", "flex"),
    )
    prompt: str = _setting("", "Text for priors that read it; empty is the prior's own default")
    match_colours: bool = _setting(
        True, "Bring the prior's frames back to the colours of the render where the scene is known"
    )


@dataclass(frozen=True)
class RefineSettings:
    """Optimising the Gaussians on the frames."""

    recipe: str = _setting(
        "few_views", "Learning rates and densification", choices=("few_views", "paper")
    )
    refine_steps: int = _setting(300, "Optimiser steps per segment", limits=(0, 100000))
    max_gaussians: int = _setting(
        1_500_000, "Never more Gaussians than this", limits=(1000, 50_000_000)
    )
    anchor_weight: float = _setting(
        0.25, "Share of optimiser steps spent on the input image itself", limits=(0.0, 1.0)
    )
    ssim_weight: float = _setting(
        0.2, "Weight g of 1 - SSIM beside L1, Eq. (20)", limits=(0.0, 1.0)
    )
    sh_degree: int = _setting(0, "Degree of view-dependent colour", limits=(0, 3))


@dataclass(frozen=True)
class OutputSettings:
    """Sizes, colour and files."""

    width: int = _setting(
        512,
        "Width of the frames the engine works on; height follows the picture",
        unit="px",
        limits=(32, 4096),
    )
    blending: str = _setting(
        "display",
        "Space in which splats are blended: display as 3DGS viewers do, linear as Blender does",
        choices=("display", "linear"),
    )
    fps: float = _setting(
        0.0, "Frames per second of the fly-through; 0 is the path's own", limits=(0.0, 240.0)
    )
    seed: int = _setting(0, "Seed of everything random", limits=(0, 2**31 - 1))
    device: str = _setting("auto", "Where to compute", choices=("auto", "cpu", "cuda"))


@dataclass(frozen=True)
class SceneSettings:
    """All settings of one scene."""

    path: PathSettings = PathSettings()
    geometry: GeometrySettings = GeometrySettings()
    momentum: MomentumSettings = MomentumSettings()
    prior: PriorSettings = PriorSettings()
    refine: RefineSettings = RefineSettings()
    output: OutputSettings = OutputSettings()


PRESETS: dict[str, dict[str, Any]] = {
    "draft": {
        "width": 256,
        "refine_steps": 150,
        "segment_length": 9,
        "overlap": 3,
        "frame_step": 2,
    },
    "standard": {},
    "commercial-safe": {"licences": "commercial"},
    "paper": {
        "width": 1024,
        "refine_steps": 5000,
        "recipe": "paper",
        "prior": "viewcrafter_25",
        "initialiser": "flash3d",
        "eta": 1.0,
        "sh_degree": 1,
        "max_gaussians": 6_000_000,
    },
}


class Setting(typing.NamedTuple):
    """One field, for whoever makes a flag, a property or a table row of it."""

    group: str
    name: str
    type: type  # int, float, str or bool
    default: Any
    text: str
    unit: str
    limits: tuple[float, float]
    choices: tuple[str, ...]


def table() -> list[Setting]:
    """Every setting, in the order in which groups and fields are declared."""
    rows = []
    for group in dataclasses.fields(SceneSettings):
        own: Any = type(group.default)
        kinds = typing.get_type_hints(own)
        for f in dataclasses.fields(own):
            rows.append(Setting(group.name, f.name, kinds[f.name], f.default, **f.metadata))
    return rows


def make(preset: str = "standard", **values: Any) -> SceneSettings:
    """A preset with single settings changed, e.g. `make("draft", lambda_0=0.5)`.

    Raises UserError, with the setting's name and range, for an unknown name or a bad value.
    """
    if preset not in PRESETS:
        raise UserError(f"Unknown preset {preset!r}.", f"Choose one of {', '.join(PRESETS)}.")
    rows = {row.name: row for row in table()}
    groups: dict[str, dict[str, Any]] = {row.group: {} for row in rows.values()}
    for name, value in {**PRESETS[preset], **values}.items():
        if name not in rows:
            raise UserError(f"Unknown setting {name!r}.", "See the settings table in the README.")
        groups[rows[name].group][name] = _checked(rows[name], value)
    settings = SceneSettings(
        **{g: type(getattr(SceneSettings(), g))(**kw) for g, kw in groups.items()}
    )
    if settings.path.overlap >= settings.path.segment_length:
        raise UserError(
            f"overlap ({settings.path.overlap}) must be less than segment_length ({settings.path.segment_length}).",
            "Lower overlap or raise segment_length.",
        )
    return settings


def _checked(row: Setting, value: Any) -> Any:
    if row.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    kind: type = type(value)  # exactly: True is no number
    if kind is not row.type:
        raise UserError(f"{row.name} must be of type {row.type.__name__}, not {value!r}.")
    if row.choices and value not in row.choices:
        raise UserError(f"{row.name} is {value!r}.", f"It must be one of {', '.join(row.choices)}.")
    low, high = row.limits
    if row.type in (int, float) and not low <= value <= high:  # NaN fails this too
        raise UserError(
            f"{row.name} is {value}.",
            f"It must lie between {low} and {high}{' ' + row.unit if row.unit else ''}.",
        )
    return value


def to_json(settings: SceneSettings) -> dict[str, dict[str, Any]]:
    """Nested plain values, as settings.json holds them."""
    return dataclasses.asdict(settings)


def from_json(data: Any) -> SceneSettings:
    """Inverse of `to_json`. Missing settings take their default, unknown ones are refused."""
    if not isinstance(data, dict) or not all(isinstance(g, dict) for g in data.values()):
        raise UserError(
            "The settings are not an object of groups.",
            "Use a settings.json that this engine wrote.",
        )
    homes = {row.name: row.group for row in table()}
    for group, values in data.items():
        for name in values:
            if homes.get(name) != group:
                raise UserError(
                    f"Unknown setting {group}.{name}.",
                    "Use a settings.json that this engine wrote.",
                )
    return make(**{name: value for values in data.values() for name, value in values.items()})
