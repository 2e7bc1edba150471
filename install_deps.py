#!/usr/bin/env python3
"""Makes the engine's own Python environment. Standard library only; no package is ever compiled.

    python3 install_deps.py              the engine, in .venv
    python3 install_deps.py --dev        also the tools for tests, and environments with Blender's
    module

Run it again at any time: it does what is missing, mends what is broken, and is done at once
where nothing is to be done. All versions stand in pyproject.toml.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

MIN_PYTHON = (3, 11)
if sys.version_info < MIN_PYTHON:  # before anything that an older Python does not know
    sys.stderr.write(
        "error: this is Python {}; Scene Splatter needs {}.{} or newer. Install a newer Python "
        "and run this file with it, "
        "for example: python3.12 install_deps.py\n".format(platform.python_version(), *MIN_PYTHON)
    )
    sys.exit(2)

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # Blender starts this file with -I, which leaves its folder out

from engine.bridge.client import child_environment  # noqa: E402
from engine.bridge.errors import UserError  # noqa: E402
from engine.models import machine  # noqa: E402

TORCH_INDEX = (
    "https://download.pytorch.org/whl/"  # builds for CPUs and for each CUDA, in a folder each
)
STAMP, MARKER = "scene_splatter.json", "scene_splatter.part"
SIZES_GB = {
    "cpu": (0.5, 2.6),
    "cuda": (3.5, 9.0),
    "blender": (0.4, 1.2),
}  # download, on disk; measured on Linux
PROBE_S = 4.0
TINY_JOB = (
    "--preset draft --width 96 --move-frames 9 --steps 2 --refine-steps 8 --prior patch "
    "--depth box --device cpu"
)
LIBRARIES = (".so", ".pyd", ".dll", ".dylib")
AGAIN = "Run the same command again; what was downloaded is kept."


class Pins(NamedTuple):
    """pyproject.toml, as far as it is about versions."""

    engine: list[str]
    extras: dict[str, list[str]]
    groups: dict[str, list[str]]
    constraints: list[str]


class Told:
    """What the user reads: lines of text, or lines of JSON for Blender."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def __call__(
        self, text: str, stage: str = "install", done: int = 0, total: int = 0, **more: Any
    ) -> None:
        if self.as_json:
            print(
                json.dumps({"stage": stage, "text": text, "done": done, "total": total, **more}),
                flush=True,
            )
        else:
            print(text, flush=True)

    def detail(self, line: str) -> None:
        """A line of somebody else's, e.g. pip's."""
        print(line if self.as_json else f"    {line}", flush=True)


def read_pins(path: Path) -> Pins:
    """Read the versions. Raises UserError if the file is missing or damaged."""
    import tomllib

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        project = data["project"]
        groups, constraints = (
            data["dependency-groups"],
            data["tool"]["scene-splatter"]["constraints"],
        )
        return Pins(project["dependencies"], project["optional-dependencies"], groups, constraints)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read: {error!r}.", "Fetch Scene Splatter again."
        ) from error


def python_in(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def damage(environment: Path) -> str:
    """What is broken in an environment, by its packages' own lists of files; empty if nothing
    is.
    """
    if not python_in(environment).is_file():
        return "its interpreter is missing"
    for site in (
        *environment.glob("lib/python3*/site-packages"),
        *environment.glob("Lib/site-packages"),
    ):
        for leftover in site.glob("~*"):
            return f"{leftover.name} is left from an interrupted installation"
        for info in site.glob("*.dist-info"):
            try:
                rows = list(csv.reader((info / "RECORD").read_text(encoding="utf-8").splitlines()))
            except OSError:
                return f"{info.name} is not complete"
            for name, _, size in (row for row in rows if len(row) == 3 and row[2]):
                try:
                    found = os.stat(site / name).st_size
                except OSError:
                    return f"{name} is missing"
                if found != int(size) and name.endswith(
                    LIBRARIES
                ):  # other files may be changed on purpose, as certificates are
                    return f"{name} has {found} bytes instead of {size}"
    if subprocess.run(
        [python_in(environment), "-I", "-c", "import sys"], capture_output=True, check=False
    ).returncode:
        return "its interpreter does not start"
    return ""


class Environment:
    """One virtual environment on its way from absent to complete."""

    def __init__(
        self,
        folder: Path,
        requirements: list[str],
        build: str,
        python: Path,
        told: Told,
        pins: Pins,
    ) -> None:
        self.folder, self.requirements, self.build = folder, requirements, build
        self.creator, self.told, self.pins = python, told, pins
        self.python = python_in(folder)

    def wanted(self) -> dict[str, Any]:
        """Everything that decides what has to be installed."""
        return {
            "requirements": sorted(self.requirements),
            "constraints": sorted(self.pins.constraints),
            "build": self.build,
        }

    def complete(self) -> bool:
        """Whether the last installation ended well, had all this and maybe more, and nothing has
        broken since.
        """
        try:
            stamp = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
            has, wanted = stamp["has"], self.wanted()
            enough = set(wanted["requirements"]) <= set(has["requirements"])
            same = all(has[name] == wanted[name] for name in ("constraints", "build"))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return enough and same and not damage(self.folder)

    def prepare(self) -> None:
        """An environment that pip can work in: the existing one if it is whole, else a new one."""
        if self.folder.exists() and any(self.folder.iterdir()):
            broken = damage(self.folder)
            ours = (
                any((self.folder / name).exists() for name in (STAMP, MARKER))
                or self.folder.parent == ROOT
            )
            if not ours:  # never delete what somebody else made
                raise UserError(
                    f"{self.folder} is not empty and was not made by this program.",
                    "Name another folder with --env.",
                )
            (self.folder / MARKER).touch()
            (self.folder / STAMP).unlink(missing_ok=True)
            if not broken:
                return
            self.told(f"{self.folder} is broken ({broken}); making it anew.")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MARKER).touch()
        self._create()

    def _create(self) -> None:
        self.told(f"Making {self.folder} with {self.creator} ...", "create")
        command = [str(self.creator), "-I", "-m", "venv", str(self.folder)]
        made = run(command)
        if made.returncode == 0:
            return
        # Debian's Pythons, and so its Blenders, may lack ensurepip: take the pip of the interpreter
        # that runs this.
        has_pip = run([str(self.creator), "-I", "-m", "pip", "--version"]).returncode == 0
        if has_pip and run([*command, "--without-pip", "--clear"]).returncode == 0:
            borrowed = run(
                [
                    str(self.creator),
                    "-I",
                    "-m",
                    "pip",
                    "--python",
                    str(self.folder),
                    "install",
                    "--only-binary=:all:",
                    "pip",
                ]
            )
            if borrowed.returncode == 0:
                return
        remedy = (
            "On Debian and Ubuntu: sudo apt install python3-venv. Elsewhere use another "
            "Python, e.g. from python.org."
        )
        raise UserError(
            f"{self.creator} cannot make environments: {last_line(made.stdout)}.", remedy
        )

    def install(self, index: str, no_deps: tuple[str, ...] = ()) -> None:
        """Install what is pinned; the stamp is the caller's to write, as the very last thing."""
        lists = self.folder / "pins"
        lists.mkdir(exist_ok=True)
        (lists / "requirements.txt").write_text(
            "\n".join(self.requirements) + "\n", encoding="utf-8"
        )
        (lists / "constraints.txt").write_text(
            "\n".join(self.pins.constraints) + "\n", encoding="utf-8"
        )
        arguments = ["-r", str(lists / "requirements.txt"), "-c", str(lists / "constraints.txt")]
        self._pip(arguments + (["--extra-index-url", TORCH_INDEX + index] if index else []))
        for name in no_deps:
            self._pip(["--no-deps", name])

    def _pip(self, arguments: list[str]) -> None:
        command = [
            str(self.python),
            "-m",
            "pip",
            "install",
            "--only-binary=:all:",
            "--no-input",
            "--progress-bar=off",
        ]
        command += ["--disable-pip-version-check", "--no-warn-script-location", *arguments]
        expected, seen, lines = len(self.requirements) + len(self.pins.constraints), 0, []
        with subprocess.Popen(
            command,
            env=pip_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as pip:
            assert pip.stdout
            for line in map(str.rstrip, pip.stdout):
                lines.append(line)
                if match := re.match(
                    r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line
                ):
                    seen += 1
                    if line.startswith("Collecting"):
                        self.told(
                            f"  fetching {match[1]}", "download", min(seen, expected), expected + 1
                        )
                elif line.startswith("Installing collected packages"):
                    self.told(
                        "  unpacking (this takes a minute) ...", "unpack", expected, expected + 1
                    )
                elif line.startswith("Downloading") or line.startswith("  Downloading"):
                    self.told(f"  {line.strip()}", "download", min(seen, expected), expected + 1)
        if pip.returncode:
            for line in lines[-15:]:
                self.told.detail(line)
            raise explain_pip_failure("\n".join(lines))

    def seal(self, **more: str) -> None:
        """Say that everything is in place: written last, so that an interruption never leaves it
        behind.
        """
        partial = self.folder / (STAMP + ".partial")
        stamp = {"has": self.wanted(), **more}
        partial.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        os.replace(partial, self.folder / STAMP)
        (self.folder / MARKER).unlink(missing_ok=True)


def explain_pip_failure(output: str) -> UserError:
    """Plain words for what pip said."""
    if re.search(r"No space left|Errno 28|not enough space", output, re.IGNORECASE):
        return UserError("The disk is full.", f"Free some space. {AGAIN}")
    if re.search(
        r"name resolution|getaddrinfo|NewConnectionError|Connection "
        r"(?:refused|aborted|reset)|timed out|ProxyError",
        output,
    ):
        return UserError(
            "The package index cannot be reached.",
            f"Check the network, or pip's proxy and index settings. {AGAIN}",
        )
    if re.search(r"CERTIFICATE_VERIFY_FAILED|SSLError", output):
        return UserError(
            "The package index's certificate was refused.",
            "Check the clock and the network's certificates (pip config set global.cert).",
        )
    if match := re.search(
        r"(?:No matching distribution found for|Could not find a version that satisfies the "
        r"requirement) (\S+)",
        output,
    ):
        text = (
            f"There is no ready-made {match[1]} for Python {platform.python_version()} on "
            f"{machine.system()}."
        )
        return UserError(
            text, "Use another Python (3.11 to 3.13 are the safest); nothing is compiled here."
        )
    if re.search(r"Permission denied|Access is denied|Errno 13|WinError 5", output):
        return UserError(
            "A file of the environment cannot be written.",
            f"Close the programs that use it (Blender, too), then: {AGAIN}",
        )
    return UserError("pip could not install the packages.", f"Its last lines stand above. {AGAIN}")


def pip_environment() -> dict[str, str]:
    """pip's own settings stay (mirrors, proxies); what steers another Python does not."""
    return child_environment(dict(os.environ), {"PIP_REQUIRE_VIRTUALENV": "0"})


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command quietly; its output and errors together."""
    return subprocess.run(
        command,
        env=pip_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def last_line(text: str) -> str:
    """The last line with anything on it."""
    return next(
        (line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing"
    ).rstrip(".")


def reachable(url: str) -> bool:
    """Whether a page answers soon: a dead index would make pip retry for minutes."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def check_space(folder: Path, needed_gb: float) -> None:
    """Raises UserError if the disk that `folder` will be on is too full."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb < needed_gb:
        raise UserError(
            f"{existing} has {free_gb:.1f} GB free, {needed_gb:.1f} GB are needed.",
            "Free some space or name another folder.",
        )


def size_gb(folder: Path) -> float:
    """What a folder takes."""
    return (
        sum(
            os.lstat(os.path.join(at, name)).st_size
            for at, _, names in os.walk(folder)
            for name in names
        )
        / 1e9
    )


def install_engine(args: argparse.Namespace, pins: Pins, told: Told) -> None:
    """The engine's environment, from nothing or from whatever is there."""
    devices = machine.nvidia_devices()
    capabilities = [float(capability) for _, capability in devices]
    torch = machine.choose_torch(
        platform.system(), capabilities, machine.driver_cuda_version(), args.cuda
    )
    requirements = [*pins.engine, *(pins.groups["dev"] if args.dev else [])]
    for name in args.extra:
        if name not in pins.extras:
            raise UserError(f"There is no extra {name!r}.", f"Known: {', '.join(pins.extras)}.")
        requirements += pins.extras[name]
    target = Environment(args.env, requirements, torch.build, Path(sys.executable), told, pins)
    if target.complete():
        told(f"{args.env} is complete (PyTorch {torch.why}).", done=1, total=1)
        return
    if args.check:
        raise UserError(
            f"{args.env} is not complete: "
            f"{damage(args.env) or 'not what pyproject.toml asks for'}.",
            "Run install_deps.py.",
        )
    download, disk = SIZES_GB["cpu" if torch.build == "cpu" else "cuda"]
    told(
        f"Scene Splatter's engine: about {download} GB to download, {disk} GB on disk, into "
        f"{args.env}"
    )
    told(
        f"PyTorch {torch.why}. Packages: "
        f"{', '.join(pin.replace('==', ' ') for pin in requirements)}."
    )
    check_space(args.env, disk)
    index = torch.folder
    if index and not reachable(f"{TORCH_INDEX}{index}/torch/"):
        told(
            "PyTorch's own index cannot be reached, so pip's default index decides instead of "
            f"{index}; it may be the larger CUDA build."
        )
        index = ""
    target.prepare()
    target.install(index)
    compile_kernels(target.python, told)
    target.seal()
    told(f"{args.env} takes {size_gb(args.env):.1f} GB.", "done", 1, 1)


def compile_kernels(python: Path, told: Told) -> None:
    """Fill the cache of compiled kernels, the rasteriser's and the built-in prior's, so that the
    first job need not.
    """
    told(
        "Compiling the CPU kernels for this processor, once (a tiny scene is made on the way) ...",
        "warm",
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tiny = ["generate", *TINY_JOB.split(), "--out", str(Path(folder) / "tiny")]
        for arguments in (
            ["-c", "from engine.rasterize import compile_all; compile_all()"],
            ["-m", "engine", *tiny],
        ):
            warm = run_in_root([str(python), *arguments])
            if warm.returncode:  # the doctor, which comes next, says what is wrong
                told.detail(last_line(warm.stdout))


def run_in_root(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of the new environment beside the engine."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=pip_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def ask_doctor(python: Path, told: Told) -> None:
    """Let the engine say what it can do. Raises UserError if it cannot run."""
    doctor = run_in_root([str(python), "-m", "engine", "doctor"])
    for line in doctor.stdout.splitlines():
        told.detail(line)
    if doctor.returncode:
        raise UserError(
            "The engine is installed but cannot run.", "See what the doctor says above."
        )


def install_blenders(args: argparse.Namespace, pins: Pins, told: Told) -> None:
    """Environments with Blender's module, for the tests of the add-on; what cannot be made is
    said.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from blender_versions import environment_of, find_python, python_of, why_bpy_fails

    for version in args.blender:
        if f"blender-{version}" not in pins.groups:
            known = ", ".join(
                name.removeprefix("blender-") for name in pins.groups if name.startswith("blender-")
            )
            raise UserError(f"No module is pinned for Blender {version}.", f"Known: {known}.")
        needs = python_of(version)
        python = find_python(needs)
        if python is None:
            told(
                f"Blender {version}: skipped, Python {needs} was not found (python.org, pyenv or "
                "your system's packages have it)."
            )
            continue
        target = Environment(
            environment_of(ROOT, version),
            pins.groups[f"blender-{version}"],
            f"blender {version}",
            python,
            told,
            pins,
        )
        if target.complete():
            told(f"{target.folder} is complete (Blender {version}).")
            continue
        download, disk = SIZES_GB["blender"]
        told(
            f"Blender {version} as a Python module, for tests: about {download} GB to download, "
            f"{disk} GB on disk."
        )
        check_space(target.folder, disk)
        target.prepare()
        plyfile = next(pin for pin in pins.engine if pin.startswith("plyfile"))
        target.install("", no_deps=(plyfile,))  # as Blender installs an extension's wheels
        target.seal(blender=version)
        if problem := why_bpy_fails(target.python):
            told(f"Blender {version}: {problem}")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="install_deps.py", description="Makes the engine's own Python environment."
    )
    parser.add_argument(
        "--env",
        "--venv",
        type=Path,
        default=ROOT / ".venv",
        metavar="DIR",
        help="where it goes (default: .venv beside this file)",
    )
    parser.add_argument(
        "--dev",
        action="store_true",
        help="also the tools for tests, and environments with Blender's module",
    )
    parser.add_argument(
        "--blender",
        nargs="*",
        metavar="VERSION",
        help="which Blenders --dev prepares (default: 4.2 5.2 5.3)",
    )
    builds = ("auto", "cpu", "cuda", "cu126", "cu130")
    parser.add_argument(
        "--cuda",
        "--torch",
        choices=builds,
        default="auto",
        help="build of PyTorch (default: what the machine can use)",
    )
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="NAME",
        help="an optional group of pyproject.toml, e.g. gpu",
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; say whether all is complete"
    )
    parser.add_argument(
        "--json", "--json-progress", action="store_true", help="progress as lines of JSON"
    )
    args = parser.parse_args(arguments)
    args.env = args.env.expanduser().absolute()
    args.blender = args.blender if args.blender is not None else ["4.2", "5.2", "5.3"]
    return args


def main(arguments: list[str]) -> int:
    """0: complete; 1: it did not work, and why was said; 2: wrong usage; 130: interrupted."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    args = parse(arguments)
    told = Told(args.json)
    try:
        pins = read_pins(ROOT / "pyproject.toml")
        install_engine(args, pins, told)
        if args.dev and not args.check:
            install_blenders(args, pins, told)
        ask_doctor(python_in(args.env), told)
    except UserError as error:
        told(f"error: {error}", "error", ok=False)
        return 1
    except KeyboardInterrupt:
        told(f"Interrupted. {AGAIN}", "error", ok=False)
        return 130
    told("All is ready.", "done", 1, 1, ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
