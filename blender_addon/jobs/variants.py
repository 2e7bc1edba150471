"""The variants of a scene's job in Blender: which there are, which is shown, and how one begins.

A redo is made by the engine as a side job, which takes a second; the variant is then a job like any
other: the session runs it, Resume goes on with it, and its result takes the place of the last.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import bpy

from ...engine.bridge import variants as layout
from ...engine.bridge.errors import UserError
from ...engine.bridge.reading import json_of
from ...engine.bridge.segments import kept_frames, plan_segments
from ...engine.bridge.settings import SceneSettings, from_json
from ..ui import properties
from . import delivery, folders, side_job_operator


class Variant(NamedTuple):
    """One variant as the panel lists it."""

    name: str
    folder: Path
    text: str  # what it is, in a few words
    finished: bool
    picture: Path | None  # its last frame


_listed: dict[tuple[str, int, bool, int], list[Variant]] = {}  # drawing must not read the disk


def of(scene: bpy.types.Scene) -> list[Variant]:
    """The variants of the scene's last job, the first result before the others; empty where it has
    none that is finished.
    """
    folder = scene.scene_splatter.job_folder
    if not folder:
        return []
    job = layout.job_of(Path(folder))
    key = (str(job), _changed(job / layout.FOLDER), delivery.session.status.busy, _changed(job))
    if key not in _listed:
        _listed.clear()
        found = [_variant(name, where) for name, where in layout.folders(job).items()]
        _listed[key] = found if any(variant.finished for variant in found) else []
    return _listed[key]


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _variant(name: str, folder: Path) -> Variant:
    frames = sorted((folder / "frames").glob("[0-9]*.png"))
    result = folders.result_of(folder)
    finished = result is not None and folders.is_whole(result) and bool(frames)
    return Variant(name, folder, _words(name, folder), finished, frames[-1] if frames else None)


def _words(name: str, folder: Path) -> str:
    try:
        seed = f"seed {from_json(json_of(folder / 'settings.json')).output.seed}"
        if name == layout.FIRST:
            return f"first result, {seed}"
        redo = json_of(folder / "input" / "redo.json")
        if redo["frame"] is not None:
            return f"{redo['of']} repainted at frame {redo['frame']}, {seed}"
        return f"{redo['of']} from segment {redo['segment']}, {seed}"
    except (UserError, ValueError, KeyError, TypeError):
        return "its folder is damaged"


def shown(scene: bpy.types.Scene) -> str:
    """The name of the variant that the scene's last job is."""
    folder = scene.scene_splatter.job_folder
    return layout.name_of(Path(folder)) if folder else ""


def use(context: bpy.types.Context, name: str) -> str:
    """Give the object of the last result the Gaussians of another variant; where it was deleted, a
    new one. Returns its name. Raises UserError.
    """
    scene = context.scene
    variant = next((v for v in of(scene) if v.name == name), None)
    result = folders.result_of(variant.folder) if variant is not None else None
    if variant is None or result is None or not variant.finished:
        raise UserError(f"There is no finished variant {name}.", "Choose one of the list.")
    last = delivery.last_object(scene)
    ticket = dataclasses.replace(
        _ticket(scene, variant.folder), replace=last.name if last is not None else ""
    )
    made = delivery.import_result(result, scene, ticket)
    folders.write_ticket(variant.folder, dataclasses.replace(ticket, done=True, imported=made))
    scene.scene_splatter.job_folder = str(variant.folder)
    delivery.session.status.delivered = made
    delivery.look_again()
    return made


def _ticket(scene: bpy.types.Scene, folder: Path) -> folders.Ticket:
    """The ticket of a variant, for this scene: its own, or after that of its job."""
    found = folders.read_ticket(folder) or folders.read_ticket(layout.job_of(folder))
    ticket = found or folders.Ticket(bpy.data.filepath, scene.name, scene.scene_splatter.shot)
    return dataclasses.replace(ticket, blend=bpy.data.filepath, scene=scene.name)


def why_not(context: bpy.types.Context) -> str:
    """Why no redo can begin now, or an empty text."""
    if delivery.session.status.busy:
        return "A job is running"
    now = shown(context.scene)
    if not any(v.name == now and v.finished for v in of(context.scene)):
        return "This scene has no finished job yet"
    return side_job_operator.why_not(context, need_splats=False)


class Place(NamedTuple):
    """A camera of a finished job."""

    camera: int  # of its frames, from 0
    scene_frame: float
    segment: int  # that made it first, from 1


def place(scene: bpy.types.Scene) -> Place:
    """The camera of the scene's job nearest to the current frame. Raises UserError where the frame
    range is not the job's.
    """
    folder = Path(scene.scene_splatter.job_folder)
    settings = _settings(folder)
    taken = properties.frames(scene)
    kept = kept_frames(len(taken), settings.cameras.frame_step)
    count = len(list((folder / "frames").glob("[0-9]*.png")))
    if not kept or len(kept) != count:
        raise UserError(
            f"The frame range has {len(kept)} cameras, the job {count}.",
            "Set the frame range and Cameras per Frame as they were for the job.",
        )
    now = scene.frame_current_final
    index = min(range(count), key=lambda i: abs(taken[kept[i]] - now))
    cut = settings.cameras
    plan = plan_segments(count, cut.segment_length, cut.overlap)
    segment = next(k for k, one in enumerate(plan, start=1) if index < one.stop)
    return Place(index, taken[kept[index]], segment)


def _settings(folder: Path) -> SceneSettings:
    try:
        return from_json(json_of(folder / "settings.json"))
    except ValueError as error:
        raise UserError(f"{folder / 'settings.json'} is damaged.", "Redo another job.") from error


def begin(
    operator: bpy.types.Operator, context: bpy.types.Context, wish: dict[str, Any]
) -> set[str]:
    """Have the engine make a variant of the one that is shown, then start it. `wish` is what the
    engine's `redo` takes, but for the settings, which are the panel's.
    """
    scene = context.scene
    folder, name = Path(scene.scene_splatter.job_folder), scene.name

    def start(outputs: dict[str, Any]) -> str:
        made = Path(str(outputs["folder"]))
        scene = bpy.data.scenes.get(name)
        if scene is None:
            raise UserError(f"The scene {name} is gone.", f"The redo waits in {made}.")
        last = delivery.last_object(scene)
        ticket = dataclasses.replace(
            _ticket(scene, made),
            replace=last.name if last is not None else "",
            done=False,
            imported="",
            dismissed=False,
        )
        with delivery.in_scene(scene):
            delivery.begin(bpy.context, made, ticket)
        return ""

    return side_job_operator.begin_in(
        operator, context, "Redo", "redo", folder, {**wish, "values": changes(scene)}, start
    )


def changes(scene: bpy.types.Scene) -> dict[str, Any]:
    """What the panel changes in a redo, as the engine names it; empty: a seed that no variant
    has.
    """
    group = scene.scene_splatter
    found = {"prior": group.redo_prior.strip(), "prompt": group.redo_prompt.strip()}
    seed = {"seed": group.redo_seed} if group.redo_seed >= 0 else {}
    return {**{key: text for key, text in found.items() if text}, **seed}
