"""A real Blender with a window: press Generate, wait, look at the panel during and after, render a
frame.

Not collected by pytest: it needs an X server (it starts Xvfb where there is no DISPLAY), a
Blender 4.2 or newer and an engine. It ends with exit code 0 if every step worked, and leaves
pictures to look at in --out:

    python tests/window/run_window_test.py --engine-python .venv/bin/python --image photo.jpg --out
    out/window

Four stories can be played: `generate` (story_generate.py); `incidents` (story_incidents.py, then
story_return.py in a new Blender): cancelling, crashes of engine and Blender, undo, other files; and
`first_minutes` (story_first_minutes.py): a newcomer's way by mouse alone, from File > New to a
scene; `redo` (story_redo.py): a stroke on the camera's view, and back.

Blender may live in a chroot (`--chroot DIR`, as root): then `--out` must be a folder of that
chroot, and the repository's environment must be visible in it under the same path.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
INSIDE = (
    "in_blender.py",
    "stage.py",
    "story_first_minutes.py",
    "story_generate.py",
    "story_incidents.py",
    "story_redo.py",
    "story_return.py",
    "second_blender.py",
)
STORIES = {
    "generate": ("story_generate",),
    "incidents": ("story_incidents", "story_return"),
    "first_minutes": ("story_first_minutes",),
    "redo": ("story_redo",),
}
ENGINE_LEAVES_S = 10.0  # after the death of its Blender
SIZE = (1600, 900)
DISPLAY = ":97"
_DRAG_S = "0.4"  # rest of a dragged mouse: a software renderer sees few of its places


def main() -> int:
    """Run all steps; print a line for each."""
    args = _parse()
    out: Path = args.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    blender = _Blender(args, out)
    blender.install(_build(blender, out))
    shutil.copyfile(args.image, out / f"picture{args.image.suffix}")
    shutil.copyfile(args.image, out / "home" / f"hall{args.image.suffix}")
    for name in INSIDE:
        shutil.copyfile(HERE / name, out / name)
    with _display() as display:
        blender.environment["DISPLAY"] = display
        for story in (story for name in args.story for story in STORIES[name]):
            if code := _play(blender, args, story):
                return code
    return 0


def _play(blender: _Blender, args: argparse.Namespace, story: str) -> int:
    """Play one story in one Blender; print its report. 0 if it came to its end."""
    out: Path = args.out
    plan = {
        "story": story,
        "image": blender.inside(out / f"picture{args.image.suffix}"),
        "preset": args.preset,
        "set": dict(pair.split("=", 1) for pair in args.set),
        "frames": args.frames,
        "limit_s": args.limit,
        "settle_s": args.settle,
    }
    (out / "plan.json").write_text(json.dumps(plan))
    (out / "report.json").unlink(missing_ok=True)
    code = _watch(blender, out, story, 6 * args.limit + 3 * args.settle + 600)
    report = (
        json.loads((out / "report.json").read_text())
        if (out / "report.json").is_file()
        else {"error": "Blender wrote no report"}
    )
    (out / f"report_{story}.json").write_text(json.dumps(report, indent=2))
    print(f"{story}: {json.dumps(report, indent=2)}", flush=True)
    return code or int("error" in report)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blender", default="blender", help="Blender's command")
    parser.add_argument("--chroot", type=Path, help="the root folder in which that command lives")
    parser.add_argument("--engine-python", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--story", nargs="+", choices=list(STORIES), default=["generate"])
    parser.add_argument("--preset", default="draft")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting; may be repeated",
    )
    parser.add_argument("--frames", type=int, default=25, help="length of the path")
    parser.add_argument(
        "--settle",
        type=float,
        default=60.0,
        help="seconds for a software renderer to draw; shaders are waited for",
    )
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for the job")
    args = parser.parse_args()
    args.out, args.engine_python = args.out.absolute(), args.engine_python.absolute()
    return args


class _Blender:
    """How to run Blender: directly or in a chroot, with user folders of this test only."""

    def __init__(self, args: argparse.Namespace, out: Path) -> None:
        self.chroot = args.chroot.absolute() if args.chroot else None
        self.command = [*(["chroot", str(self.chroot)] if self.chroot else []), args.blender]
        user, home = out / "user", out / "home"  # the file browser opens at home
        user.mkdir()
        home.mkdir()
        self.environment = {
            **os.environ,
            "BLENDER_USER_RESOURCES": self.inside(user),
            "SCENE_SPLATTER_ENGINE_PYTHON": str(args.engine_python),
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "LC_ALL": "C.UTF-8",
            "HOME": self.inside(home),
        }

    def inside(self, path: Path) -> str:
        """A path as Blender sees it."""
        return "/" + str(path.relative_to(self.chroot)) if self.chroot else str(path)

    def run(self, *arguments: str) -> None:
        """Run a Blender command to its end; raises CalledProcessError."""
        subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            check=True,
            timeout=180,
            stdout=subprocess.DEVNULL,
        )

    def install(self, archive: Path) -> None:
        """Install and enable the extension; no splash screen in the pictures, the file browser
        where the mouse finds it.
        """
        self.run(
            "--command",
            "extension",
            "install-file",
            "-r",
            "user_default",
            "--enable",
            self.inside(archive),
        )
        preferences = (
            "import bpy; view = bpy.context.preferences.view; view.show_splash = False; "
            "view.filebrowser_display_type = 'SCREEN'; bpy.ops.wm.save_userpref()"
        )
        self.run("-b", "--python-expr", preferences)
        print("installed and enabled")


def _build(blender: _Blender, out: Path) -> Path:
    """The zip, made by that Blender from the repository's tracked files."""
    source = out / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    target = out / "scene_splatter.zip"
    blender.run(
        "--command",
        "extension",
        "build",
        "--source-dir",
        blender.inside(source),
        "--output-filepath",
        blender.inside(target),
    )
    blender.run("--command", "extension", "validate", blender.inside(target))
    print(f"built and validated, {target.stat().st_size} bytes")
    return target


@contextmanager
def _display() -> Iterator[str]:
    """A display: the one there is, or Xvfb."""
    if os.environ.get("DISPLAY"):
        yield os.environ["DISPLAY"]
        return
    width, height = SIZE
    command = [
        "Xvfb",
        DISPLAY,
        "-screen",
        "0",
        f"{width}x{height}x24",
        "+extension",
        "GLX",
        "-nolisten",
        "tcp",
    ]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        time.sleep(2.0)
        yield DISPLAY
    finally:
        server.terminate()
        server.wait()


def _watch(blender: _Blender, out: Path, story: str, limit_s: float) -> int:
    """Run Blender's window and grant its wishes; its exit code, 0 where it wished to be killed
    and its engine left with it.
    """
    script = blender.inside(out / "in_blender.py")
    arguments = [
        "--window-geometry",
        "0",
        "0",
        *map(str, SIZE),
        "--python-exit-code",
        "3",
        "--python",
        script,
    ]
    with open(out / f"{story}.log", "wb") as log:
        process = subprocess.Popen(
            [*blender.command, *arguments],
            env=blender.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + limit_s
        while process.poll() is None and time.monotonic() < deadline:
            for wish in sorted(out.glob("*.wish")):
                if wish.read_text() == "kill":
                    wish.unlink()
                    process.kill()
                    process.wait()
                    (out / "incidents.json").rename(out / "report.json")
                    return _engine_left(int((out / "engine.pid").read_text()))
                _grant(wish, blender, out)
            time.sleep(0.1)
        if process.poll() is None:
            process.kill()
            print("Blender did not end in time", file=sys.stderr)
        return process.wait()


def _engine_left(pid: int) -> int:
    """0 if the engine ends by itself soon after its Blender."""
    began = time.monotonic()
    while time.monotonic() < began + ENGINE_LEAVES_S:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.is_file() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            print(f"the engine left {time.monotonic() - began:.1f} s after its Blender was killed")
            return 0
        time.sleep(0.1)
    print("the engine outlived its Blender", file=sys.stderr)
    return 1


def _grant(wish: Path, blender: _Blender, out: Path) -> None:
    """A wish is a file: NAME.wish holds "point X Y", "click X Y", "drag X Y X Y", "scroll X Y
    TIMES", "key NAME", "shot", "light WxH+X+Y" (the brightest spot there, 0 to 1, goes to NAME.txt)
    or "second" (Blender); it is deleted when it is granted.
    """
    words = wish.read_text().split()
    environment = {**os.environ, "DISPLAY": blender.environment["DISPLAY"]}
    if words[0] == "point":
        move = ["mousemove", words[1], words[2], "sleep", "0.05", "mousemove_relative", "1", "0"]
        subprocess.run(["xdotool", *move], env=environment, check=True)
    elif words[0] == "click":
        # the mouse comes from somewhere and rests: Blender looks at what is under it as it moves
        move = ["mousemove", words[1], words[2], "sleep", "1", "mousemove_relative", "1", "0"]
        subprocess.run(
            ["xdotool", *move, "sleep", "1.5", "click", "1"], env=environment, check=True
        )
    elif words[0] == "drag":
        steps = [f"{a} {b}".split() for a, b in _between(*map(int, words[1:5]))]
        moves = [word for step in steps for word in ("mousemove", *step, "sleep", _DRAG_S)]
        arguments = [*moves[:5], "mousedown", "1", *moves[5:], "mouseup", "1"]
        subprocess.run(["xdotool", *arguments], env=environment, check=True)
    elif words[0] == "scroll":
        turn = ["click", "--repeat", words[3], "--delay", "60", "5"]
        arguments = ["mousemove", words[1], words[2], "sleep", "0.5", *turn]
        subprocess.run(["xdotool", *arguments], env=environment, check=True)
    elif words[0] == "key":
        subprocess.run(["xdotool", "key", words[1]], env=environment, check=True)
    elif words[0] == "shot":
        subprocess.run(
            ["import", "-window", "root", str(wish.with_suffix(".png"))],
            env=environment,
            check=True,
        )
        print(f"picture: {wish.with_suffix('.png').name}", flush=True)
    elif words[0] == "light":
        command = [
            "import",
            "-window",
            "root",
            "-crop",
            words[1],
            "-format",
            "%[fx:maxima]",
            "info:",
        ]
        seen = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        wish.with_suffix(".txt").write_text(seen.stdout)
    elif words[0] == "second":
        script = blender.inside(out / "second_blender.py")
        arguments = [
            "-b",
            blender.inside(out / "demo.blend"),
            "--python-exit-code",
            "3",
            "--python",
            script,
        ]
        with open(out / "second.log", "wb") as log:
            code = subprocess.call(
                [*blender.command, *arguments],
                env=blender.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        (out / "second.txt").write_text(str(code))
    wish.unlink()


def _between(x: int, y: int, to_x: int, to_y: int, steps: int = 8) -> list[tuple[int, int]]:
    """Places on the way of the mouse, both ends among them."""
    shares = [i / steps for i in range(steps + 1)]
    return [(round(x + (to_x - x) * s), round(y + (to_y - y) * s)) for s in shares]


if __name__ == "__main__":
    sys.exit(main())
