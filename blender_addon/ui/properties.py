"""Blender properties made from the engine's settings table, and the way back: `read`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import bpy

from ...engine.bridge import settings as engine_settings
from ...engine.bridge.settings import SceneSettings, Setting
from ..cameras import moves

BLENDER_DEFAULTS: dict[str, Any] = {
    "blending": "linear"
}  # Blender blends light, so a scene for Blender is refined in light
NOT_HERE = ("move_frames",)  # in Blender the frame range says how long a move is
PRESET_VALUES = sorted({name for values in engine_settings.PRESETS.values() for name in values})

_LABELS = {
    "sh_degree": "SH Degree",
    "lambda_0": "Lambda 0",
    "fov": "Field of View",
    "segment_length": "Frames per Segment",
}
_PRESET_TEXT = {
    "draft": "Small frames and few steps: see quickly whether path and depth fit",
    "quick": "The frames of Standard with the fastest model that is here, and half the refinement",
    "standard": "The default",
    "best": "Large frames, the best model that is here, twice the refinement: takes several times "
    "as long",
    "commercial-safe": "Only weights that are free for commercial use; "
    "a model that is not is refused",
    "paper": "The paper's sizes and steps; needs the weights of ViewCrafter and Flash3D, a GPU. "
    "It departs from the paper in these points: " + "; ".join(engine_settings.DEPARTURES),
}
_UNITS = {"m": "metres", "deg": "degrees", "px": "pixels"}
_LABEL_LETTERS = 14  # in a sidebar as wide as Blender makes it
_ROWS = {row.name: row for row in engine_settings.table()}
_SETTING_NAMES = re.compile(  # names that are words of plain English too stay as they are
    rf"\b({'|'.join(name for name in _ROWS if '_' in name)})\b"
)
_DOWNLOAD = re.compile(
    r"(Run: )?python -m engine weights download ([a-z0-9_]+)"
    r"(?: - or press Download in the add-on's preferences)?(?=\.|$)"
)
_RELATIVE = (
    "is_path_supports_blend_relative" in bpy.types.Property.bl_rna.properties
)  # newer Blenders want to be told of //
_PATH_OPTIONS = {"PATH_SUPPORTS_BLEND_RELATIVE"} if _RELATIVE else set()
_PRESET_ITEMS = tuple(
    (name, name.title(), _PRESET_TEXT.get(name, "")) for name in engine_settings.PRESETS
)
_DEPTH_SOURCES = (
    (
        "AUTO",
        "Automatic",
        "The best large depth model whose weights are here, else the small network that ships",
    ),
    (
        "BOX",
        "Box",
        "Floor, walls and back wall from a horizon and a few measures: needs nothing but the "
        "picture",
    ),
    ("BLOCKOUT", "Blockout", "Depth of the geometry that stands in the scene under the camera"),
    ("FILE", "Depth Map", "A depth map file: EXR, 16-bit PNG or NPY"),
    ("MODEL", "Model", "A learned depth model of the engine, by name"),
    (  # last: Blender's files keep the place in this list
        "SMALL",
        "Small Network",
        "A guess by the small network that ships: nothing to download; one large model gives far "
        "better depth",
    ),
)
MODEL_NAMES: dict[str, tuple[str, ...]] = {"depth": (), "prior": ()}


def basic() -> list[Setting]:
    """The settings that the panel shows first; depth has properties of its own."""
    return [
        row for row in engine_settings.table() if row.basic and row.name not in (*NOT_HERE, "depth")
    ]


def in_panel_words(text: str) -> str:
    """A sentence of the engine with its settings called what the panel calls them, lambda_0 is
    Lambda 0 there, and with the button that downloads a model in place of the command.
    """
    text = _DOWNLOAD.sub(_download_button, text)
    return _SETTING_NAMES.sub(lambda found: label(_ROWS[found[0]]), text)


def _download_button(found: re.Match[str]) -> str:
    press = "Press" if found[1] else "press"
    return f"{press} Download for {found[2]} under Model Weights in the add-on's preferences"


def label(row: Setting) -> str:
    """A setting's name as the panel shows it, with its unit where the panel has room for both."""
    name = _LABELS.get(row.name, row.name.replace("_", " ").title())
    with_unit = f"{name} ({row.unit})"
    has_room = row.unit and row.unit != "frames" and len(with_unit) <= _LABEL_LETTERS
    return with_unit if has_room else name


def tooltip(row: Setting) -> str:
    """What a setting means, and its unit."""
    return f"{row.text}. Unit: {_UNITS.get(row.unit, row.unit)}" if row.unit else row.text


def shortest(value: float) -> float:
    """The shortest decimal that is this float32: Blender stores 0.9 as 0.8999999761581421."""
    return float(f"{value:.7g}")


def _model_search(kind: str) -> Any:
    def search(_self: Any, _context: bpy.types.Context, typed: str) -> list[str]:
        return [name for name in ("auto", *MODEL_NAMES[kind]) if typed.lower() in name.lower()]

    return search


def make_property(row: Setting) -> Any:
    """The Blender property of one setting, with its default, limits, choices and text."""
    default = BLENDER_DEFAULTS.get(row.name, row.default)
    common = {"name": label(row), "description": tooltip(row), "default": default, "options": set()}
    if row.choices:
        text = engine_settings.CHOICE_TEXT[row.name]
        items = [(choice, choice.replace("_", " ").title(), text[choice]) for choice in row.choices]
        return bpy.props.EnumProperty(**common, items=items)
    if row.type is bool:
        return bpy.props.BoolProperty(**common)
    if row.type is str:
        if row.name in MODEL_NAMES:
            return bpy.props.StringProperty(
                **common, search=_model_search(row.name), search_options={"SUGGESTION"}
            )
        return bpy.props.StringProperty(**common)
    low, high = row.limits
    bounds = {
        key: row.type(value) for key, value in (("min", low), ("max", high)) if math.isfinite(value)
    }
    if row.type is int:
        return bpy.props.IntProperty(**common, **bounds)
    if row.limits == (0.0, 1.0):
        return bpy.props.FloatProperty(**common, **bounds, subtype="FACTOR")
    return bpy.props.FloatProperty(**common, **bounds, precision=3)


def make_settings_group() -> type:
    """A PropertyGroup with one property for each row of the settings table."""
    annotations = {row.name: make_property(row) for row in engine_settings.table()}
    namespace = {
        "__annotations__": annotations,
        "__doc__": "The engine's settings.",
        "__module__": __name__,
    }
    return type("SCENESPLATTER_PG_settings", (bpy.types.PropertyGroup,), namespace)


SCENESPLATTER_PG_settings = make_settings_group()


def use_preset(group: Any, preset: str) -> None:
    """Set every value that any preset names; what no preset names stays as the user has it."""
    made = engine_settings.make(preset, **BLENDER_DEFAULTS)
    for row in engine_settings.table():
        if row.name in PRESET_VALUES or row.name in BLENDER_DEFAULTS:
            setattr(group, row.name, getattr(getattr(made, row.group), row.name))


def _preset_changed(self: Any, _context: bpy.types.Context) -> None:
    use_preset(self.settings, self.preset)


def _is_camera(_self: Any, candidate: bpy.types.Object) -> bool:
    return candidate.type == "CAMERA"


def _amount(name: str, direction: str, default: float = 0.0, *, turns: bool = False) -> Any:
    """The property of one of the moves that are summed."""
    unit, limit = ("degrees", 3600.0) if turns else ("metres", 1e4)
    return bpy.props.FloatProperty(
        name=f"{name} ({'°' if turns else 'm'})",
        description=f"{unit.title()} {direction}; negative goes the other way, 0 leaves it out",
        default=default,
        min=-limit,
        max=limit,
        step=100 if turns else 10,
        precision=1 if turns else 2,
        options=set(),
    )


class SCENESPLATTER_PG_scene(bpy.types.PropertyGroup):
    """What the panel asks for, kept with the scene."""

    shot: bpy.props.StringProperty(
        name="Name",
        description="Name of the collection: SS_<name>_v001",
        default="shot",
        options=set(),
    )
    image_from: bpy.props.EnumProperty(
        name="Image From",
        items=[
            ("FILE", "File", "A picture on disk"),
            ("IMAGE", "Blender", "A picture that is already in this file, packed or not"),
        ],
        options=set(),
    )
    image_path: bpy.props.StringProperty(
        name="Image",
        description="The picture from which the scene is made",
        subtype="FILE_PATH",
        options=_PATH_OPTIONS,
    )
    image: bpy.props.PointerProperty(
        name="Image", description="The picture from which the scene is made", type=bpy.types.Image
    )
    camera: bpy.props.PointerProperty(
        name="Camera",
        description="Its animation is the path; empty: the scene's camera",
        type=bpy.types.Object,
        poll=_is_camera,
    )
    use_scene_range: bpy.props.BoolProperty(
        name="Scene Range", description="Use the scene's frame range", default=True, options=set()
    )
    frame_start: bpy.props.IntProperty(
        name="Start", description="First frame of the path", default=1, options=set()
    )
    frame_end: bpy.props.IntProperty(
        name="End", description="Last frame of the path", default=49, options=set()
    )
    samples_per_frame: bpy.props.IntProperty(
        name="Cameras per Frame",
        description="More than 1 takes the camera between frames too",
        default=1,
        min=1,
        max=16,
        options=set(),
    )
    move_dolly: _amount("Dolly", "forward", 0.5)
    move_truck: _amount("Truck", "to the right")
    move_pedestal: _amount("Pedestal", "up")
    move_pan: _amount("Pan", "turning to the right", turns=True)
    move_tilt: _amount("Tilt", "turning up", turns=True)
    move_orbit: _amount("Orbit", "to the right round a point ahead", turns=True)
    move_distance: bpy.props.FloatProperty(
        name="Orbit Distance (m)",
        description="Metres to the point ahead that an orbit goes round",
        default=4.0,
        min=0.01,
        max=1e4,
        precision=2,
        options=set(),
    )
    preset: bpy.props.EnumProperty(
        name="Preset",
        description="Sets size, steps, models and segments; everything else stays",
        items=_PRESET_ITEMS,
        default="standard",
        update=_preset_changed,
        options=set(),
    )
    depth_source: bpy.props.EnumProperty(
        name="Depth",
        description="Where the first geometry comes from",
        items=_DEPTH_SOURCES,
        options=set(),
    )
    depth_file: bpy.props.StringProperty(
        name="Depth Map", subtype="FILE_PATH", options=_PATH_OPTIONS
    )
    depth_model: bpy.props.StringProperty(
        name="Depth Model",
        search=_model_search("depth"),
        search_options={"SUGGESTION"},
        options=set(),
    )
    replace_last: bpy.props.BoolProperty(
        name="Replace the Last Result",
        description="Put the new Gaussians into the object of the last result; its transform, "
        "materials and links stay",
        default=False,
        options=set(),
    )
    redo_seed: bpy.props.IntProperty(
        name="Seed",
        description="Seed of a redo; -1: a new one, or the same where prior or prompt change",
        default=-1,
        min=-1,
        options=set(),
    )
    redo_prior: bpy.props.StringProperty(
        name="Prior",
        description="Video prior of a redo; empty: the same as before",
        search=_model_search("prior"),
        search_options={"SUGGESTION"},
        options=set(),
    )
    redo_prompt: bpy.props.StringProperty(
        name="Prompt",
        description="Prompt of a redo, for priors that read it; empty: the same as before",
        options=set(),
    )
    last_object: bpy.props.PointerProperty(name="Last Result", type=bpy.types.Object)
    job_folder: bpy.props.StringProperty(
        name="Job Folder", description="The last job started from this scene", options={"HIDDEN"}
    )
    settings: bpy.props.PointerProperty(type=SCENESPLATTER_PG_settings)


def camera_of(scene: bpy.types.Scene) -> bpy.types.Object | None:
    """The camera whose animation is the path."""
    return scene.scene_splatter.camera or scene.camera


def move_of(group: SCENESPLATTER_PG_scene) -> str:
    """The panel's moves as the command line takes them, e.g. "dolly:0.5+pan:-10"; empty if all
    are 0.
    """
    amounts = {name: shortest(getattr(group, f"move_{name}")) for name in moves.MOVES}
    return moves.spell(amounts, shortest(group.move_distance))


def frame_range(scene: bpy.types.Scene) -> tuple[int, int]:
    """First and last frame of the path, both included."""
    group = scene.scene_splatter
    return (
        (scene.frame_start, scene.frame_end)
        if group.use_scene_range
        else (group.frame_start, group.frame_end)
    )


def frames(scene: bpy.types.Scene) -> list[float]:
    """The scene times at which the camera is taken, sub-frames included; empty if the range is."""
    start, end = frame_range(scene)
    samples = scene.scene_splatter.samples_per_frame
    return [start + i / samples for i in range((end - start) * samples + 1)] if end >= start else []


def depth_problem(group: SCENESPLATTER_PG_scene) -> str:
    """Why the chosen depth source cannot be used, or an empty text."""
    if group.depth_source == "FILE":
        if not group.depth_file:
            return "Choose a depth map file"
        path = Path(bpy.path.abspath(group.depth_file))
        return "" if path.is_file() else f"The depth map {path.name} does not exist"
    if group.depth_source == "MODEL" and not group.depth_model.strip():
        return "Name a depth model, or choose another depth source"
    return ""


def values(group: SCENESPLATTER_PG_scene) -> dict[str, Any]:
    """Every setting by name, as the panel has it."""
    found: dict[str, Any] = {}
    for row in engine_settings.table():
        value = getattr(group.settings, row.name)
        value = bpy.path.abspath(value) if row.name == "initialiser" and value else value
        found[row.name] = shortest(value) if row.type is float else value
    found["depth"] = {
        "MODEL": group.depth_model.strip(),
        "AUTO": "auto",
        "SMALL": "small",
    }.get(group.depth_source, "box")
    return found


def read(group: SCENESPLATTER_PG_scene, depth_file: str = "") -> SceneSettings:
    """The engine's settings as the panel has them; `depth_file` names the job's own depth map,
    where there is one.

    Raises UserError, with the setting's name and range, for values that do not go together.
    """
    return engine_settings.make(
        **{**values(group), **({"depth": depth_file} if depth_file else {})}
    )


CLASSES = (SCENESPLATTER_PG_settings, SCENESPLATTER_PG_scene)


def register() -> None:
    """Add the classes and `Scene.scene_splatter`."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.scene_splatter = bpy.props.PointerProperty(type=SCENESPLATTER_PG_scene)


def unregister() -> None:
    """Remove them."""
    del bpy.types.Scene.scene_splatter
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
