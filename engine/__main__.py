"""python -m engine COMMAND: the engine's command line.

Only the chosen command's module is imported, so that help and small commands start at once.
"""

from __future__ import annotations

import os
import sys

# before anything that an older Python does not know
if sys.version_info < (3, 11):  # noqa: UP036
    sys.stderr.write(
        "error: this is Python {}.{}; the engine needs 3.11 or newer. Use the environment that "
        "install_deps.py makes: .venv/bin/python -m engine (Windows: .venv\\Scripts\\python -m "
        "engine).\n".format(*sys.version_info)
    )
    sys.exit(1)
if __name__ == "__main__" and not sys.flags.safe_path:
    # "-m" puts the current folder first, where a stranger's torch.py may lie, unless it is the
    # engine's own
    _root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:1] = [p for p in sys.path[:1] if p and os.path.samefile(p, _root)]
    sys.path[:] = [p for p in sys.path if p not in ("", os.curdir)]

import argparse
import importlib
import logging
import tempfile
import traceback
from pathlib import Path
from typing import TextIO

from .bridge.errors import Cancelled, UserError
from .bridge.protocol import ENGINE_VERSION
from .service import leaving
from .service.server import describe_failure

COMMANDS = {
    "generate": "make a Gaussian scene from one image and a camera path",
    "render": "draw a .ply along a camera path, to pictures or a video",
    "convert": "turn a splat file into another format",
    "view": "fly through a scene in the browser",
    "mesh": "make a proxy mesh of a splat file",
    "evaluate": "run the method's experiments on scenes with known truth",
    "batch": "make many scenes, one after another",
    "weights": "list, fetch and check the weights of optional models",
    "doctor": "tell what this machine can do",
    "serve": "take jobs over standard input, for Blender",
}
EXIT_ERROR = 1  # a bug, or a machine that cannot run the engine
EXIT_USER_ERROR = 2  # something that the user can mend
EXIT_INTERRUPTED = 130


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser of all commands; only the chosen one's arguments are known to it."""
    parser = argparse.ArgumentParser(
        prog="python -m engine",
        description="One image and a camera path become a Gaussian scene.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"scene-splatter {ENGINE_VERSION}")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more on standard error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
        )
        if name == chosen:
            importlib.import_module(f".commands.{name}", __package__).add_arguments(command)
    return parser


def main(arguments: list[str]) -> int:
    """Run one command and return the exit code."""
    _speak_utf8(sys.stdout)
    _speak_utf8(sys.stderr)
    # read when torch is loaded: its idle threads must not spin while Blender and our own threads
    # want the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    chosen = next((word for word in arguments if word in COMMANDS), None)
    try:
        args = build_parser(chosen).parse_args(arguments)
        level = logging.INFO if args.verbose or args.command == "serve" else logging.WARNING
        console = logging.StreamHandler(sys.stderr)
        console.setLevel(level)
        logging.basicConfig(
            level=level,
            handlers=[console],
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        logging.getLogger(__package__).setLevel(
            logging.INFO
        )  # a job's engine.log tells more than the console
        return int(importlib.import_module(f".commands.{args.command}", __package__).run(args))
    except UserError as error:
        _say(f"error: {error}")
        return EXIT_USER_ERROR
    except (KeyboardInterrupt, Cancelled) as stop:
        leaving.ignore_interrupts()
        _say(str(stop) or "interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, e.g. head, has seen enough
        sys.stdout = None  # type: ignore[assignment]  # nothing left to flush at exit
        return EXIT_ERROR
    except Exception as error:
        message, hint = describe_failure(error)
        _say(f"error: {message} {hint or f'The full report is in {_write_report()}.'}")
        return EXIT_ERROR


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _write_report() -> Path:
    """The current traceback, in a new file of the temporary folder."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="scene_splatter_", suffix=".log", encoding="utf-8", delete=False
    ) as file:
        file.write(traceback.format_exc())
    return Path(file.name)


def _speak_utf8(stream: TextIO | None) -> None:
    """Windows consoles and pipes default to other encodings; a name that cannot be shown must not
    stop a job.
    """
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    leaving.end_soon_after_an_interrupt(EXIT_INTERRUPTED)
    leaving.leave(main(sys.argv[1:]))
