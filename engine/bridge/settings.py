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
NO_PRIOR = "none"  # the value of `prior` that leaves the video prior out
NO_FINISHER = "none"


def _setting(
    default: Any,
    text: str,
    *,
    unit: str = "",
    limits: tuple[float, float] = _UNLIMITED,
    choices: tuple[str, ...] = (),
    basic: bool = False,
) -> Any:
    metadata = {"text": text, "unit": unit, "limits": limits, "choices": choices, "basic": basic}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class CameraSettings:
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
        40,
        "Frames of a named move such as dolly:1.0",
        unit="frames",
        limits=(1, 10000),
        basic=True,
    )
    motion_scale: float = _setting(
        0.0,
        "Length of one path unit; 0 takes metres as they are and scales a path of unknown unit "
        "by the scene's depth",
        unit="m",
        limits=(0.0, 1e6),
    )


USUAL_HORIZON = 0.45  # of the box, where neither the user nor the picture tells
USUAL_CAMERA_HEIGHT_M = 1.6


@dataclass(frozen=True)
class GeometrySettings:
    """Where the first Gaussians come from."""

    depth: str = _setting(
        "auto",
        "Depth source: auto (the best model that is here, else small), small, box, a model's "
        "name, or a file (EXR, 16-bit PNG, NPY)",
        basic=True,
    )
    depth_unit: float = _setting(
        0.0,
        "Metres of one unit of the depth file; 0: 0.001 for PNG, 1 for EXR and NPY",
        unit="m",
        limits=(0.0, 1e3),
    )
    fov: float = _setting(
        0.0,
        "Horizontal field of view; 0: from the path, else a large depth model, else EXIF, else a "
        "guess from the picture, else 60",
        unit="deg",
        limits=(0.0, 170.0),
        basic=True,
    )
    horizon: float = _setting(
        0.0,
        "Height of the horizon in the picture for the box, 0.001 top to 1 bottom; 0: found from "
        "the picture's lines",
        limits=(0.0, 1.0),
    )
    camera_height: float = _setting(
        0.0,
        "Height of the camera above the floor, which settles the scale; 0: the depth source's "
        "own metres (box: 1.6)",
        unit="m",
        limits=(0.0, 1000.0),
        basic=True,
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
    border: float = _setting(
        0.0, "Continue the scene beyond the frame by this share of its size", limits=(0.0, 0.5)
    )


@dataclass(frozen=True)
class MethodSettings:
    """How much latent and pixel momentum hold the frames to the scene."""

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
    lambda_coverage: bool = _setting(
        True, "Multiply lambda by how much of a latent cell the scene covers"
    )
    momentum_start: float = _setting(
        0.3,
        "Share of denoising steps before momentum sets in; the two runs are one until then",
        limits=(0.0, 1.0),
    )


@dataclass(frozen=True)
class VideoSettings:
    """Which video diffusion model there is, and how it denoises."""

    prior: str = _setting(
        "auto",
        "Video prior: auto (the best that fits this machine and whose weights are here), patch, "
        "a name, or none",
        basic=True,
    )
    priority: str = _setting(
        "balanced",
        "What auto weighs: speed, quality, or balanced: quality within a quarter of an hour a "
        "segment",
        choices=("balanced", "speed", "quality"),
    )
    licences: str = _setting(
        "any",
        "Which weights may be used: any, or commercial: only those free for commercial use",
        choices=("any", "commercial"),
        basic=True,
    )
    steps: int = _setting(0, "Denoising steps; 0 is the prior's own default", limits=(0, 1000))
    eta: float = _setting(
        0.0,
        "Noise added at every denoising step, DDIM's eta; 0 is deterministic, the paper's 1",
        limits=(0.0, 1.0),
    )
    prompt: str = _setting(
        "",
        "Text for priors that read it; empty is the prior's own default",
        basic=True,
    )
    match_colours: bool = _setting(
        True, "Bring the prior's frames back to the colours of the render where the scene is known"
    )


@dataclass(frozen=True)
class RefineSettings:
    """How the Gaussians are optimised on the frames."""

    recipe: str = _setting(
        "few_views", "Learning rates and densification", choices=("few_views", "paper")
    )
    refine_steps: int = _setting(300, "Optimiser steps per segment", limits=(0, 100000))
    max_gaussians: int = _setting(
        1_500_000, "Never more Gaussians than this", limits=(1000, 50_000_000)
    )
    sh_degree: int = _setting(0, "Degree of view-dependent colour", limits=(0, 3))
    finisher: str = _setting(
        NO_FINISHER,
        "Network that repairs the finished scene's frames, which are then learned once more: none, "
        "difix, or difix_ref, which sees the picture",
        choices=(NO_FINISHER, "difix", "difix_ref"),
    )
    finisher_weight: float = _setting(
        0.3,
        "Share of the last refinement for the repaired frames, the picture has the rest; 0: none",
        limits=(0.0, 1.0),
    )
    finisher_steps: int = _setting(
        150, "Optimiser steps of that last refinement, for each segment", limits=(1, 100000)
    )


@dataclass(frozen=True)
class OutputSettings:
    """Sizes, colour, seed and device."""

    width: int = _setting(
        512,
        "Longer side of the frames the engine works on; the other follows the picture",
        unit="px",
        limits=(32, 4096),
        basic=True,
    )
    blending: str = _setting(
        "display",
        "Space in which splats are blended: display as 3DGS viewers do, linear as Blender does",
        choices=("display", "linear"),
    )
    seed: int = _setting(
        0,
        "Seed of everything random",
        limits=(0, 2**31 - 1),
        basic=True,
    )
    device: str = _setting("auto", "Where to compute", choices=("auto", "cpu", "cuda"))


@dataclass(frozen=True)
class SceneSettings:
    """All settings of one scene."""

    cameras: CameraSettings = CameraSettings()
    geometry: GeometrySettings = GeometrySettings()
    method: MethodSettings = MethodSettings()
    video: VideoSettings = VideoSettings()
    refine: RefineSettings = RefineSettings()
    output: OutputSettings = OutputSettings()

    @property
    def enhances(self) -> bool:
        """Whether a video prior enhances the frames. Without one the Gaussians learn from the
        renders alone.
        """
        return self.video.prior != NO_PRIOR

    @property
    def finishes(self) -> bool:
        """Whether a finisher repairs the frames of the finished scene, and they count."""
        return self.refine.finisher != NO_FINISHER and self.refine.finisher_weight > 0.0


PRESETS: dict[str, dict[str, Any]] = {
    "draft": {
        "width": 256,
        "refine_steps": 150,
        "segment_length": 9,
        "overlap": 3,
        "frame_step": 2,
    },
    "quick": {"priority": "speed", "refine_steps": 150},
    "standard": {},
    "best": {"priority": "quality", "width": 1024, "refine_steps": 600},
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
        "lambda_coverage": False,
        "momentum_start": 0.0,
        "match_colours": False,
    },
}
# Where preset paper is not the paper: said in its tooltip, in the README and in the report of its
# jobs.
DEPARTURES = (
    "lambda_0 0.7 and tau 2 are ours: the paper gives neither",
    "the noise of Eq. (8) is sqrt(1 - abar), as a variance-preserving process needs, not 1 - "
    "sqrt(abar)",
    "holes of the render are filled from around them before its latents become the source of Eq. "
    "(8)",
    "Eq. (10) compares neighbourhoods of cells, with a sample of the picture and of the first "
    "frames",
    "the scale map of Eq. (14) is in pixels, not in metres",
    "every hole pixel gets a Gaussian of its own before refinement",
    "half of the steps go to the new frames of a segment, a fifth to the picture",
    "opacities are not reset in the last 1500 steps, and nothing is added or removed in the last "
    "300",
    "segments are cut evenly where M, N and n do not fit",
    "the first frame of the path is the picture itself, not the prior's version of it",
    "there are never more than max_gaussians, and what is too faint to be drawn goes after each "
    "segment",
)


# What each choice means, for tooltips: one line for every choice of every setting above.
CHOICE_TEXT: dict[str, dict[str, str]] = {
    "momentum": {
        "full": "Latent and pixel momentum, as in the paper",
        "latent": "Only the momentum that holds the clip to the render while it is denoised",
        "pixel": "Only the momentum that keeps the finished pixels where the scene is known",
        "none": "Neither: the video prior alone decides",
    },
    "priority": {
        "balanced": "The best model that makes a segment within a quarter of an hour on this card",
        "speed": "The fastest model, in few steps where its weights are here",
        "quality": "The best model, however long it takes",
    },
    "licences": {
        "any": "Every model may be used; mind its licence before you sell what it made",
        "commercial": "Only weights that are free for commercial use; others are refused",
    },
    "recipe": {
        "few_views": "Rates and densification for the few frames of a shot: sharper, no floaters",
        "paper": "The paper's rates and densification; takes thousands of steps",
    },
    "finisher": {
        "none": "The scene stays as its segments left it",
        "difix": "Takes blur and floaters out of every frame; weights with conditions",
        "difix_ref": "The same, with your picture shown beside each frame; non-commercial weights",
    },
    "blending": {
        "display": "As viewers of splats do",
        "linear": "As Blender does: lights, meshes and splats agree",
    },
    "device": {
        "auto": "The graphics card if there is one that can be used, else the processor",
        "cpu": "The processor, even if there is a graphics card",
        "cuda": "An NVIDIA card; refused where there is none",
    },
}


class Gone(typing.NamedTuple):
    """A setting that older versions had and this one has not."""

    same: tuple[Any, ...]  # the values with which this version does the same
    now: str  # what it does instead of any other value


# Settings of version 0.1.0. Their files still resume; `left_out` says what a job had asked for.
GONE: dict[str, Gone] = {
    "layers": Gone((2,), "what lies behind depth edges is always continued"),
    "similarity": Gone(("patch",), "Eq. (10) compares the prior's patches"),
    "reference_pool": Gone(("first",), "Eq. (10) compares with the first frames of a segment"),
    "diffusion": Gone((True, False), "prior none says the same"),
    "guidance": Gone((-1.0,), "every prior has its own guidance"),
    "reuse": Gone((0.0,), "no network call is left out"),
    "lora": Gone(("",), "priors bring their own"),
    "gguf": Gone(("",), "weights are read from the model's folder"),
    "attention": Gone(("native",), "PyTorch's own attention is used"),
    "anchor_weight": Gone((0.25,), "the picture has a fixed share of the steps"),
    "ssim_weight": Gone((0.2,), "Eq. (20) has g = 0.2"),
    "fps": Gone((0.0,), "the fly-through has the path's own rate"),
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
    basic: bool  # one of the few that most people change; shown first


def table() -> list[Setting]:
    """List every setting, in the order in which groups and fields are declared."""
    rows = []
    for group in dataclasses.fields(SceneSettings):
        own: Any = type(group.default)
        kinds = typing.get_type_hints(own)
        for f in dataclasses.fields(own):
            rows.append(Setting(group.name, f.name, kinds[f.name], f.default, **f.metadata))
    return rows


def make(preset: str = "standard", **values: Any) -> SceneSettings:
    """Make a preset with single settings changed, e.g. `make("draft", lambda_0=0.5)`.

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
    if settings.cameras.overlap >= settings.cameras.segment_length:
        raise UserError(
            f"overlap ({settings.cameras.overlap}) must be less than segment_length "
            f"({settings.cameras.segment_length}).",
            "Lower overlap or raise segment_length.",
        )
    return settings


def _checked(row: Setting, value: Any) -> Any:
    if row.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 10**300 else math.inf
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
    """Turn settings into nested plain values, as settings.json holds them."""
    return dataclasses.asdict(settings)


def from_json(data: Any) -> SceneSettings:
    """Read what `to_json` made. Missing settings take their default; `left_out` tells of those that
    are gone.

    Files of older versions are read too: names are unique over all groups, so the group a value
    stands in does not matter. Raises UserError for a setting that no version had, or a bad value.
    """
    known = {row.name for row in table()}
    values = _values(data)
    for name in values:
        if name not in known and name not in GONE:
            raise UserError(
                f"Unknown setting {name}.", "Use a settings.json that this engine wrote."
            )
    if values.get("diffusion") is False:
        values["prior"] = NO_PRIOR
    return make(**{name: value for name, value in values.items() if name in known})


def left_out(data: Any) -> list[str]:
    """Say in sentences which values of a settings.json this version does not follow; [] if there
    are none.
    """
    return [
        f"{name} was {value!r}; this version has no such setting: {GONE[name].now}."
        for name, value in _values(data).items()
        if name in GONE and value not in GONE[name].same
    ]


def _values(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(g, dict) for g in data.values()):
        raise UserError(
            "The settings are not an object of groups.",
            "Use a settings.json that this engine wrote.",
        )
    return {name: value for group in data.values() for name, value in group.items()}
