"""The same without a window: a function for scripts and farms, and `blender -b --command
scene_splatter`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import bpy

from ...engine.bridge import settings as engine_settings
from ...engine.bridge.errors import UserError
from ..cameras import operators as camera_tools
from ..ui import operators, properties
from . import delivery
from .session import PUMP_S, Problem
from .slices import run

EXIT_OK, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130

_command: list[object] = []


class Outcome(NamedTuple):
    """What a headless job came to."""

    folder: Path
    object_name: str  # empty if it was not imported
    problem: Problem | None


def wait(stream: TextIO | None = None) -> None:
    """Call `pump` until the job at hand is over. Ctrl-C cancels the job and raises
    KeyboardInterrupt.
    """
    session, shown = delivery.session, ""
    try:
        while session.status.busy:
            session.pump()
            status = session.status
            line = f"{status.stage}: {status.done} of {status.total} {status.text}".rstrip()
            if stream is not None and line != shown and status.busy:
                print(line, file=stream, flush=True)
                shown = line
            time.sleep(PUMP_S / 5)
    except KeyboardInterrupt:
        session.cancel()
        while session.status.busy:
            session.pump()
            time.sleep(PUMP_S / 5)
        raise


def generate(
    context: bpy.types.Context | None = None,
    out: str | Path | None = None,
    stream: TextIO | None = None,
) -> Outcome:
    """Generate a scene as the panel would, wait, and import it. For scripts without a window.

    `out` is the folder under which the job folder is made, by default where the panel makes it;
    `stream` gets a line for each step. Raises UserError for bad input; what happens to the job
    itself is in the outcome.
    """
    context = context or bpy.context
    delivery.session.refuse_if_busy()
    job = run(operators.make_and_check(context, Path(out) if out else None))
    for note in camera_tools.notes[context.scene.name] if stream is not None else ():
        print(note, file=stream, flush=True)
    delivery.begin(context, job.folder, job.ticket)
    wait(stream)
    made = delivery.last_object(context.scene)
    problem = delivery.session.status.problem
    return Outcome(job.folder, made.name if made and problem is None else "", problem)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blender -b FILE.blend --command scene_splatter", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "generate",
        help="make a Gaussian scene from an image along the scene's camera",
        allow_abbrev=False,
    )
    command.add_argument(
        "--blend", type=Path, help="the file to open, if it was not given before --command"
    )
    command.add_argument("--scene", help="name of the scene, by default the file's active one")
    command.add_argument("--image", type=Path, help="the picture, by default the panel's")
    command.add_argument("--camera", help="name of the camera object, by default the panel's")
    command.add_argument("--out", type=Path, help="folder under which the job folder is made")
    command.add_argument("--preset", choices=list(engine_settings.PRESETS))
    command.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="one setting; may be repeated",
    )
    command.add_argument("--save", type=Path, help="save the .blend with the result here")
    return parser


def run_command(arguments: list[str]) -> int:
    """`blender -b FILE.blend --command scene_splatter generate ...`; returns the exit code."""
    try:
        args = _parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has said what is wrong
        return int(stop.code or 0)
    try:
        return _generate(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        delivery.session.close()


def _generate(args: argparse.Namespace) -> int:
    _apply(args)
    outcome = generate(bpy.context, args.out, sys.stderr)
    if outcome.problem is not None:
        print(f"error: {outcome.problem.message} {outcome.problem.hint}", file=sys.stderr)
        return EXIT_FAILED
    if args.save is not None:
        try:
            bpy.ops.wm.save_as_mainfile(filepath=str(args.save.resolve()), copy=True)
        except RuntimeError as error:
            raise UserError(
                f"{args.save} could not be saved: {error}", "Choose another place for --save."
            ) from error
    print(outcome.folder)
    return EXIT_OK


def _apply(args: argparse.Namespace) -> None:
    """Put the command line into the scene's properties. Raises UserError for what is not there."""
    if args.blend is not None:
        try:
            bpy.ops.wm.open_mainfile(filepath=str(args.blend.resolve()))
        except RuntimeError as error:
            raise UserError(
                f"{args.blend} cannot be opened: {str(error).strip()}.", "Give a .blend file."
            ) from error
    if args.scene is not None:
        if args.scene not in bpy.data.scenes:
            raise UserError(
                f"There is no scene {args.scene!r}.",
                f"There are: {', '.join(bpy.data.scenes.keys())}.",
            )
        bpy.context.window.scene = bpy.data.scenes[args.scene]
    group = bpy.context.scene.scene_splatter
    if args.preset is not None:
        group.preset = args.preset
    if args.image is not None:
        group.image_from, group.image_path = "FILE", str(args.image.resolve())
    if args.camera is not None:
        camera = bpy.data.objects.get(args.camera)
        if camera is None or camera.type != "CAMERA":
            raise UserError(
                f"There is no camera {args.camera!r}.", "Name a camera object of the file."
            )
        group.camera = camera
    _assign(group, args.set)


def _assign(group: properties.SCENESPLATTER_PG_scene, assignments: list[str]) -> None:
    """`NAME=VALUE` into the settings, checked against the table first: Blender would clamp in
    silence.
    """
    rows = {row.name: row for row in engine_settings.table()}
    values = dict(_parsed(rows, assignment) for assignment in assignments)
    engine_settings.make(**{**properties.values(group), **values})
    for name, value in values.items():
        if name == "depth":
            group.depth_source, group.depth_model = {
                "box": ("BOX", ""),
                "small": ("SMALL", ""),
                "auto": ("AUTO", ""),
            }.get(value, ("MODEL", value))
        else:
            setattr(group.settings, name, value)


def _parsed(rows: dict[str, engine_settings.Setting], assignment: str) -> tuple[str, Any]:
    name, equals, text = assignment.partition("=")
    if not equals or name not in rows:
        raise UserError(
            f"--set {assignment!r} names no setting.", f"Settings are {', '.join(rows)}."
        )
    kind = rows[name].type
    try:
        return name, text.lower() in ("1", "true", "yes", "on") if kind is bool else kind(text)
    except ValueError:
        raise UserError(f"{name} must be a number, not {text!r}.", f"{rows[name].text}.") from None


def register() -> None:
    """Add the command."""
    _command.append(bpy.utils.register_cli_command("scene_splatter", run_command))


def unregister() -> None:
    """Remove it."""
    while _command:
        bpy.utils.unregister_cli_command(_command.pop())
