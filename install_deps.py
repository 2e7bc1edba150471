#!/usr/bin/env python3
"""Makes the engine's own Python environment. Standard library only; no package is ever compiled.

    python3 install_deps.py              the engine, in .venv
    python3 install_deps.py --dev        also the tools for tests, and environments with Blender's
    module
    python3 install_deps.py --dry-run    changes nothing; says which PyTorch it would install

Run it again at any time: it does what is missing, mends what is broken, moves PyTorch to the build
that the machine needs, and is done at once where nothing is to be done. All versions stand in
pyproject.toml. Without a network: --wheels FOLDER, filled by --download FOLDER elsewhere.
"""

from __future__ import annotations

import argparse
import csv
import errno
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from engine.bridge.user_folders import MOST_PATH, longest_path  # noqa: E402
from engine.models import machine, nvidia, torch_build  # noqa: E402
from engine.models.torch_build import Choice, Torch  # noqa: E402

TORCH_INDEX = (
    "https://download.pytorch.org/whl/"  # builds for CPUs and for each CUDA, in a folder each
)
STAMP, MARKER = "scene_splatter.json", "scene_splatter.part"
SIZES_GB = {
    "cpu": (0.5, 2.6),
    "cuda": (3.5, 9.0),
    "blender": (0.4, 1.2),
}  # download, on disk; measured on Linux
SMALL_GB = 0.5  # on disk, where PyTorch is in its place and little else is missing
PROBES_S = (4.0, 8.0)
# What only builds for CUDA bring, gigabytes of it: pip leaves it behind when they go.
CUDA_LIBRARIES = ("nvidia-", "cuda-", "triton")
TINY_JOB = (
    "--preset draft --width 96 --move-frames 9 --steps 2 --refine-steps 8 --prior patch "
    "--depth box --device cpu"
)
UNNEEDED = """
import re, sys
from importlib.metadata import distributions
def plain(name): return re.sub("[-_.]+", "-", name).lower()
needs = {plain(d.metadata["Name"]): {plain(re.match("[A-Za-z0-9._-]+", line)[0])
         for line in d.requires or []} for d in distributions()}
keep = {name for name in needs if not name.startswith(tuple(sys.argv[1:]))}
while True:
    more = set().union(*(needs[name] for name in keep)) & set(needs) - keep
    if not more: break
    keep |= more
print(*sorted(set(needs) - keep))
"""  # in the environment: the names of packages of these beginnings that no other package asks for
LIBRARIES = (".so", ".pyd", ".dll", ".dylib")
PIP_ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_PYTHON")
IS_64_BIT = sys.maxsize > 2**32
LONG_PATHS = (
    "Allow long paths (as administrator: reg add HKLM\\SYSTEM\\CurrentControlSet\\Control"
    "\\FileSystem /v LongPathsEnabled /t REG_DWORD /d 1 /f, then restart), or name a shorter "
    "folder with --env."
)
AGAIN = "Run the same command again; what was downloaded is kept."
OFFLINE = (
    "Without a network: fill a folder on a computer with the same system and Python "
    "(install_deps.py --download FOLDER), bring it here, and run install_deps.py --wheels FOLDER."
)


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


def sites(environment: Path) -> list[Path]:
    """The folders of an environment that hold its packages."""
    return [
        *environment.glob("lib/python3*/site-packages"),
        *environment.glob("Lib/site-packages"),
    ]


def damage(environment: Path) -> str:
    """What is broken in an environment, by its packages' own lists of files; empty if nothing
    is.
    """
    if not python_in(environment).is_file():
        return "its interpreter is missing"
    sealed = (environment / STAMP).is_file()
    for site in sites(environment):
        for leftover in site.glob("~*"):
            # what pip puts aside, Windows keeps where a program has it open: no harm after the end
            if not sealed:
                return f"{leftover.name} is left from an interrupted installation"
        for info in site.glob("*.dist-info"):
            if harm := _harm(site, info):
                return harm
    if subprocess.run(
        [python_in(environment), "-I", "-c", "import sys"], capture_output=True, check=False
    ).returncode:
        return "its interpreter does not start"
    return ""


def _harm(site: Path, info: Path) -> str:
    """What is broken in a package, by its own list of files; empty if nothing is."""
    try:
        rows = list(csv.reader((info / "RECORD").read_text(encoding="utf-8").splitlines()))
        sizes = {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[2]}
    except (OSError, ValueError, csv.Error):
        return f"{info.name} is not complete"
    if not any(len(row) == 3 for row in rows):  # nothing, or the zeros of a failed power
        return f"{info.name} is not complete"
    for name, size in sizes.items():
        try:
            found = os.stat(site / name).st_size
        except OSError:
            return f"{name} is missing"
        # other files may be changed on purpose, as certificates are, but not emptied
        if found != size and (name.endswith(LIBRARIES) or found == 0):
            return f"{name} has {found} bytes instead of {size}"
    return ""


class Source(NamedTuple):
    """Where pip takes packages from."""

    arguments: tuple[str, ...] = ()  # for pip
    exact: bool = False  # it has torch under the name of its build, e.g. torch 2.13.0+cu130


DEFAULT_INDEX = Source()


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
        serves: Callable[[str], bool] | None = None,
    ) -> None:
        """`serves` says of builds of torch whether they will do, besides `build` itself."""
        self.folder, self.requirements, self.build = folder, requirements, build
        self.creator, self.told, self.pins = python, told, pins
        self.python = python_in(folder)
        self.serves = serves or (lambda found: found == self.build)
        self._damage: str | None = None
        self.torch_pin = next((pin for pin in requirements if pin.startswith("torch==")), "")

    def wanted(self) -> dict[str, Any]:
        """Everything that decides what has to be installed."""
        return {
            "requirements": sorted(self.requirements),
            "constraints": sorted(self.pins.constraints),
            "build": self.build,
        }

    def stamp(self) -> dict[str, Any]:
        """What the last whole installation left in the environment; empty where there is none."""
        try:
            told = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def torch(self) -> Torch | None:
        """The torch that lies in the environment, by its own file; None where pip did not come to
        the end of unpacking it, and where the environment has to be made anew.
        """
        for site in sites(self.folder):
            there = torch_build.read(site / "torch")
            if there is not None and any(site.glob("torch-*.dist-info/RECORD")):
                return None if self.broken() else there
        return None

    def broken(self) -> str:
        """`damage` of the environment, looked at once until it is prepared."""
        if self._damage is None:
            self._damage = damage(self.folder) if self.folder.is_dir() else ""
        return self._damage

    def torch_in_place(self) -> bool:
        """Whether the pinned torch lies there, in a build that will do."""
        there = self.torch()
        if there is None or there.release != self.torch_pin.partition("==")[2]:
            return False
        return there.agrees and self.serves(there.build)

    def complete(self, *, any_torch: bool = False) -> bool:
        """Whether the last installation ended well, had all this and maybe more, and nothing has
        broken since, nor has torch been changed by somebody else. `any_torch`: in whatever build.
        """
        self._damage = None
        try:
            has, wanted = self.stamp()["has"], self.wanted()
            enough = set(wanted["requirements"]) <= set(has["requirements"])
            same = has["constraints"] == wanted["constraints"]
            same = same and (any_torch or self.serves(has["build"]))
            if self.torch_pin:
                there = self.torch()
                whole = there is not None and there.version == has["torch"]
                same = same and whole and (any_torch or self.torch_in_place())
        except (KeyError, TypeError):
            return False
        return enough and same and not self.broken()

    def prepare(self) -> None:
        """An environment that pip can work in: the existing one if it is whole, else a new one."""
        if self.folder.exists() and any(self.folder.iterdir()):
            self._damage = None
            broken = self.broken()
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
        self._damage = ""
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

    def install(self, source: Source = DEFAULT_INDEX, no_deps: tuple[str, ...] = ()) -> None:
        """Install what is pinned, torch in the wanted build; the stamp is the caller's to write, as
        the very last thing.
        """
        other = self.torch_pin and self.torch() is not None and not self.torch_in_place()
        named = f"{self.torch_pin}+{self.build}" if source.exact else self.torch_pin
        info = f"{named.replace('==', '-')}.dist-info"
        satisfied = not source.exact or any((site / info).exists() for site in sites(self.folder))
        if other and satisfied:  # pip would believe that what is there is what is wanted
            self._pip(["--force-reinstall", "--no-deps", named, *source.arguments])
        lists = self.write_lists(self.folder / "pins", source)
        self._pip([*lists, *source.arguments])
        for name in no_deps:
            self._pip(["--no-deps", name])
        for site in sites(self.folder):  # of a program that was still running, under Windows
            for leftover in site.glob("~*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def write_lists(self, folder: Path, source: Source) -> list[str]:
        """Write what is wanted, and return pip's arguments that name it. Torch is asked for by its
        build where the source has it so.
        """
        wanted = list(self.requirements)
        if self.torch_pin and source.exact:
            wanted[wanted.index(self.torch_pin)] = f"{self.torch_pin}+{self.build}"
        folder.mkdir(exist_ok=True)
        files = []
        for name, lines in (("requirements", wanted), ("constraints", self.pins.constraints)):
            file = folder / f"{name}.txt"
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
            files.append(str(file))
        return ["-r", files[0], "-c", files[1]]

    def download(self, folder: Path, source: Source) -> None:
        """Fetch every wheel into a folder, for a computer without a network; nothing is installed.
        Raises UserError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as lists:
            arguments = self.write_lists(Path(lists), source)
            command = [str(self.creator), "-m", "pip", "download", "--only-binary=:all:"]
            self._run_pip([*command, "--dest", str(folder), *arguments, *source.arguments])

    def check_torch(self) -> Torch:
        """The torch that is really there: imported, in the environment itself.

        Raises UserError where it cannot be imported, and where pip delivered another release.
        """
        seen = torch_build.ask(self.python, pip_environment())
        release = self.torch_pin.partition("==")[2]
        if seen.release != release:
            raise UserError(
                f"pip was asked for PyTorch {release}, but {seen.version} is there.",
                f"Delete {self.folder}, then: {AGAIN}",
            )
        return seen

    def drop_cuda_libraries(self) -> None:
        """Remove the libraries of CUDA that nothing needs any more. Failing is no harm."""
        found = run([str(self.python), "-I", "-c", UNNEEDED, *CUDA_LIBRARIES])
        names = found.stdout.split() if found.returncode == 0 else []
        if names:
            self.told(f"Removing what only CUDA needs: {', '.join(names)}.")
            run([str(self.python), "-I", "-m", "pip", "uninstall", "--yes", *names])

    def _pip(self, arguments: list[str]) -> None:
        command = [str(self.python), "-m", "pip", "install", "--only-binary=:all:"]
        self._run_pip([*command, "--no-warn-script-location", *arguments])

    def _run_pip(self, command: list[str]) -> None:
        command += ["--no-input", "--progress-bar=off", "--disable-pip-version-check"]
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
            raise explain_pip_failure("\n".join(lines), offline="--no-index" in command)

    def seal(self, torch: Torch | None = None, **more: str) -> None:
        """Say that everything is in place: written last, so that an interruption never leaves it
        behind. Of torch it says what was seen, whatever was wanted.
        """
        partial = self.folder / (STAMP + ".partial")
        stamp = {"has": self.wanted(), **more}
        if torch is not None:
            stamp["has"] |= {"build": torch.build, "torch": torch.version}
        partial.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        os.replace(partial, self.folder / STAMP)
        (self.folder / MARKER).unlink(missing_ok=True)


def explain_system_failure(error: OSError, environment: Path) -> UserError:
    """Plain words for what the system refused."""
    place = error.filename or environment
    if error.errno == errno.ENOSPC:
        return UserError(f"The disk of {place} is full.", f"Free some space. {AGAIN}")
    if isinstance(error, PermissionError):
        return UserError(
            f"{place} cannot be changed: {error.strerror}.",
            "Close the programs that use it (Blender, too), see to it that the folder can be "
            f"written, or name another with --env, then: {AGAIN}",
        )
    return UserError(
        f"{place}: {error.strerror or error}.", f"Name another folder with --env, or: {AGAIN}"
    )


def explain_pip_failure(output: str, *, offline: bool = False) -> UserError:
    """Plain words for what pip said; `offline`: it looked into a folder of wheels alone."""
    if re.search(r"No space left|Errno 28|not enough space", output, re.IGNORECASE):
        return UserError(
            "The disk is full.",
            f"Free some space, on the disk of the temporary folder ({tempfile.gettempdir()}) "
            f"too. {AGAIN}",
        )
    if re.search(r"Long Path support|File name too long|WinError 206", output, re.IGNORECASE):
        return UserError("A path would be longer than this system allows.", LONG_PATHS)
    if re.search(
        r"name resolution|getaddrinfo|NewConnectionError|Connection "
        r"(?:refused|aborted|reset)|timed out|ProxyError",
        output,
    ):
        return UserError(
            "The package index cannot be reached.",
            f"Check the network, or pip's proxy and index settings. {AGAIN} {OFFLINE}",
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
        if offline:
            return UserError(f"The folder of wheels has no {match[1]} for this computer.", OFFLINE)
        text = (
            f"There is no ready-made {match[1]} for Python {platform.python_version()} on "
            f"{machine.system()}."
        )
        return UserError(text, other_python(platform.system(), platform.machine(), IS_64_BIT))
    if match := re.search(r"Cannot install (.+?) because these package versions", output):
        return UserError(
            f"pip may not install {match[1]}: a constraint of this computer's forbids it, or there "
            "is no ready-made one.",
            "Look at pip's settings (pip config list, PIP_CONSTRAINT) and leave the constraint "
            f"out. {other_python(platform.system(), platform.machine(), IS_64_BIT)} {AGAIN}",
        )
    if re.search(r"Permission denied|Access is denied|Errno 13|WinError 5", output):
        return UserError(
            "A file of the environment cannot be written.",
            f"Close the programs that use it (Blender, too), then: {AGAIN}",
        )
    return UserError("pip could not install the packages.", f"Its last lines stand above. {AGAIN}")


def other_python(system: str, processor: str, is_64_bit: bool) -> str:
    """What to do where there is no wheel of a package for this Python, on this `system` and
    `processor` as module platform names them.
    """
    if not is_64_bit:
        return "This Python has 32 bits: use one with 64 bits, from python.org."
    if system == "Darwin" and processor == "x86_64":
        return (
            "On a Mac with Apple's processor use a Python for it (from python.org, and not under "
            "Rosetta); for Intel's nobody publishes this PyTorch any more."
        )
    if system == "Darwin":
        return (
            "This PyTorch needs macOS 14 or newer; there, use another Python (3.11 to 3.13 are the "
            "safest)."
        )
    if system == "Windows" and processor.lower() in ("arm64", "aarch64"):
        return "Use a Python for x64 (python.org, Windows installer 64-bit): it runs here too."
    return "Use another Python (3.11 to 3.13 are the safest); nothing is compiled here."


def pip_environment() -> dict[str, str]:
    """pip's own settings stay (mirrors, proxies); what steers another Python, or leads packages
    elsewhere, does not.
    """
    base = {name: value for name, value in os.environ.items() if name not in PIP_ELSEWHERE}
    return child_environment(base, {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_USER": "0"})


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
    if url.startswith("file:"):
        return os.path.isdir(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    for patience_s in PROBES_S:
        try:
            with urllib.request.urlopen(url, timeout=patience_s) as answer:
                return bool(answer.status == 200)
        except TimeoutError:
            continue
        except (urllib.error.URLError, OSError, ValueError) as error:
            if not isinstance(getattr(error, "reason", None), TimeoutError):
                return False
    return False


def check_length(folder: Path, long_paths: bool) -> None:
    """Raises UserError if files of an environment in `folder` would have longer paths than
    Windows takes; `long_paths`: it takes them.
    """
    longest = longest_path(str(folder))
    if longest > MOST_PATH and not long_paths:
        raise UserError(
            f"{folder} is too long a path: files in it would have {longest} characters, and "
            f"Windows takes {MOST_PATH}.",
            f"{LONG_PATHS} It may have {len(str(folder)) - longest + MOST_PATH} characters.",
        )


def takes_long_paths() -> bool:
    """Whether this system takes paths of any length: all but Windows, unless it is told to."""
    if sys.platform != "win32":
        return True
    import winreg

    try:
        place = r"SYSTEM\CurrentControlSet\Control\FileSystem"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, place) as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
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


def pip_reaches(index: str, pin: str) -> bool:
    """Whether pip finds a release of a package in an index, by its own proxy and certificates."""
    name, _, release = pin.partition("==")
    command = [sys.executable, "-m", "pip", "index", "versions", name, "--index-url", index]
    told = run([*command, "--no-input", "--retries=1", f"--timeout={PROBES_S[-1]:g}"])
    return told.returncode == 0 and release in re.split(r"[\s,()]+", told.stdout)


class Plan(NamedTuple):
    """What a run will do to the engine's environment."""

    choice: Choice
    target: Environment
    here: nvidia.Nvidia

    @property
    def moves(self) -> bool:
        """Whether torch has to be fetched."""
        return not self.target.torch_in_place()

    @property
    def sizes_gb(self) -> tuple[float, float]:
        """(download, on disk), about; where torch is in its place, what the rest may need."""
        download, disk = SIZES_GB["cpu" if self.choice.build == "cpu" else "cuda"]
        return (download, disk) if self.moves else (SMALL_GB, SMALL_GB)

    def text(self) -> str:
        """One line: which torch there is, and which one will be there."""
        there = self.target.torch()
        if there is None:
            return f"PyTorch {self.choice.why}."
        if self.moves:
            return f"PyTorch {self.choice.why}, in place of {there.text()}."
        kept = (
            "" if there.build == self.choice.build else f" is kept; new would be {self.choice.why}"
        )
        return f"PyTorch {there.text()}{kept}."


def plan_engine(args: argparse.Namespace, pins: Pins, told: Told) -> Plan:
    """Which packages this machine needs, in which build of torch. Raises UserError."""
    here, processor = nvidia.found(), platform.machine()
    choice = torch_build.choose(platform.system(), processor, here, args.cuda)
    requirements = [*pins.engine, *(pins.groups["dev"] if args.dev else [])]
    gpu = ["gpu"] if choice.build != "cpu" else []  # without it the CPU draws beside a card
    for name in dict.fromkeys([*args.extra, *gpu]):
        if name not in pins.extras:
            raise UserError(f"There is no extra {name!r}.", f"Known: {', '.join(pins.extras)}.")
        requirements += [pin for pin in pins.extras[name] if pin not in requirements]

    def serves(build: str) -> bool:
        return torch_build.serves(build, choice, here, processor)

    target = Environment(
        args.env, requirements, choice.build, Path(sys.executable), told, pins, serves
    )
    return Plan(choice, target, here)


def install_engine(args: argparse.Namespace, pins: Pins, told: Told) -> None:
    """The engine's environment, from nothing or from whatever is there."""
    plan = plan_engine(args, pins, told)
    choice, target = plan.choice, plan.target
    complete = target.complete()
    if args.dry_run:
        tell_plan(plan, complete, told)
        return
    if complete and not args.download:
        told(f"{args.env} is complete. {plan.text()}", done=1, total=1)
        if choice.remedy:
            told(choice.remedy)
        return
    if args.check:
        raise UserError(
            f"{args.env} is not complete: "
            f"{target.broken() or 'not what pyproject.toml and this machine ask for'}.",
            "Run install_deps.py.",
        )
    needs_torch = plan.moves or args.download is not None
    source = DEFAULT_INDEX
    if args.wheels is not None:
        source = folder_of_wheels(args.wheels, plan, needs_torch)
    elif needs_torch:
        source = find_index(plan, platform.system(), args.torch_index, told)
    tell_plan(plan, complete, told)
    if args.download:
        target.download(args.download, source)
        told(f"{args.download} has all wheels for: install_deps.py --wheels FOLDER", "done", 1, 1)
        return
    tried = target.stamp().get("instead_of") == choice.build and not source.arguments
    if tried and target.complete(any_torch=True):
        told(f"Nothing was changed: {args.env} is complete but for that.", "done", 1, 1)
        return
    check_length(args.env, takes_long_paths())
    # of the default index it is not known which build it has: the larger, maybe
    unknown = plan.moves and bool(choice.folder) and not source.arguments
    check_space(args.env, SIZES_GB["cuda"][1] if unknown else plan.sizes_gb[1])
    before = target.torch()
    target.prepare()
    target.install(source)
    seen = target.check_torch()
    instead_of = judge(seen, plan, source, told)
    if seen.build == "cpu" or (before is not None and before.build != seen.build):
        target.drop_cuda_libraries()
    compile_kernels(target.python, told)
    target.seal(seen, **instead_of)
    told(f"{args.env} takes {size_gb(args.env):.1f} GB.", "done", 1, 1)


def tell_plan(plan: Plan, complete: bool, told: Told) -> None:
    """Say what is there, what will be done, and how large it is."""
    (download, disk), target = plan.sizes_gb, plan.target
    told(f"This machine: {plan.here.text()}.")
    there = target.torch()
    told(
        plan.text(),
        "plan",
        build=plan.choice.build,
        has=there.text() if there else "",
        remedy=plan.choice.remedy,
        complete=complete,
        moves=plan.moves,
        download_gb=download,
        disk_gb=disk,
    )
    if plan.choice.remedy:
        told(plan.choice.remedy)
    if complete:
        told(f"{target.folder} is complete.")
        return
    told(
        f"Scene Splatter's engine: about {download} GB to download, {disk} GB on disk, into "
        f"{target.folder}"
    )
    told(f"Packages: {', '.join(pin.replace('==', ' ') for pin in target.requirements)}.")


def folder_of_wheels(wheels: Path, plan: Plan, needs_torch: bool) -> Source:
    """A folder as the only source. Raises UserError if it is none."""
    if not wheels.is_dir():
        raise UserError(f"{wheels} is no folder.", "Name the folder that holds the wheels.")
    release = plan.target.torch_pin.replace("==", "-")
    named = f"{release}+{plan.choice.build}-"
    names = [urllib.parse.unquote(wheel.name) for wheel in wheels.glob("*.whl")]
    exact = needs_torch and any(name.startswith(named) for name in names)
    torches = sorted(name for name in names if name.startswith("torch-"))
    if needs_torch and torches and not any(n.startswith((named, f"{release}-")) for n in torches):
        raise UserError(
            f"{wheels} holds {', '.join(torches)}, and not PyTorch "
            f"{plan.target.torch_pin.partition('==')[2]} {plan.choice.why} ({plan.choice.build}).",
            f"Fetch it: install_deps.py --cuda {plan.choice.build} --download FOLDER. For what is "
            f"there say so: --cuda {_build_named(torches[0])} --wheels FOLDER.",
        )
    return Source(("--no-index", "--find-links", str(wheels)), exact)


def _build_named(wheel: str) -> str:
    build = wheel.split("-")[1].partition("+")[2]
    return build if build in torch_build.KINDS else "cpu"


def find_index(plan: Plan, system: str, torch_index: str, told: Told) -> Source:
    """The index that has the wanted build of torch, on a `system` of platform.system().

    Raises UserError where the build cannot be had. Elsewhere than on Windows the default index may
    have it, or one that works on the CPU: `judge` looks at what came.
    """
    choice = plan.choice
    if not choice.folder:
        return DEFAULT_INDEX
    index = f"{torch_index.rstrip('/')}/{choice.folder}/"
    if reachable(f"{index}torch/") or pip_reaches(index, f"{plan.target.torch_pin}+{choice.build}"):
        return Source(("--extra-index-url", index), True)
    lost = f"PyTorch's index {index} cannot be reached"
    remedy = f"Check the network and its proxy, then: {AGAIN} {OFFLINE}"
    if system == "Windows" or choice.exact:
        raise UserError(f"{lost}, and only it has PyTorch {choice.why}.", remedy)
    told(f"{lost}, so pip's default index decides which build of PyTorch comes.")
    return DEFAULT_INDEX


def judge(seen: Torch, plan: Plan, source: Source, told: Told) -> dict[str, str]:
    """Compare the torch that came with the one that was wanted. {"instead_of": build} where pip's
    default index had another one, with which the engine can work on the CPU.

    Raises UserError where a build was asked for by name, of a person or of an index.
    """
    choice, serves = plan.choice, plan.target.serves
    if not serves(seen.build):
        if source.arguments or choice.exact:
            raise UserError(
                f"PyTorch {choice.why} was asked for ({choice.build}), but what came is "
                f"{seen.text()}.",
                "An index, a mirror or a folder of wheels holds another build under this name: "
                f"run `pip cache purge`, look at pip's settings (pip config list), then: {AGAIN}",
            )
        told(
            f"PyTorch {seen.text()} came instead of {choice.build}: the engine works on the CPU. "
            f"{AGAIN}"
        )
        return {"instead_of": choice.build}
    if not seen.agrees:
        raise UserError(
            f"PyTorch calls itself {seen.version} but is {seen.text().partition(', ')[2]}.",
            f"Its wheel is not what its name says: run `pip cache purge`, then: {AGAIN}",
        )
    told(f"PyTorch {seen.text()} was loaded.")
    if seen.build != "cpu" and plan.here.cards and not seen.sees_card:
        why, remedy = torch_build.why_not_used(seen, plan.here, platform.machine())
        why = why or seen.why_not or "the driver did not start"
        told(f"It sees no card yet: {why}. {remedy or 'Restart the computer.'}")
    return {}


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

    def install(version: str) -> None:
        needs = python_of(version)
        python = find_python(needs)
        if python is None:
            told(
                f"Blender {version}: skipped, Python {needs} was not found (python.org, pyenv or "
                "your system's packages have it)."
            )
            return
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
            return
        download, disk = SIZES_GB["blender"]
        told(
            f"Blender {version} as a Python module, for tests: about {download} GB to download, "
            f"{disk} GB on disk."
        )
        check_space(target.folder, disk)
        target.prepare()
        plyfile = next(pin for pin in pins.engine if pin.startswith("plyfile"))
        target.install(no_deps=(plyfile,))  # as Blender installs an extension's wheels
        target.seal(blender=version)
        if problem := why_bpy_fails(target.python):
            told(f"Blender {version}: {problem}")

    with ThreadPoolExecutor(2) as pool:  # unpacking keeps one core busy each
        list(pool.map(install, args.blender))


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
    parser.add_argument(
        "--cuda",
        "--torch",
        choices=torch_build.KINDS,
        default="auto",
        help="build of PyTorch (default: what the machine can use); moves what is there",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        metavar="DIR",
        help="take every package from this folder of wheels, without a network",
    )
    parser.add_argument(
        "--download",
        type=Path,
        metavar="DIR",
        help="install nothing; fetch all wheels into this folder, for --wheels elsewhere",
    )
    parser.add_argument(
        "--torch-index",
        default=TORCH_INDEX,
        metavar="URL",
        help=f"a mirror of {TORCH_INDEX}",
    )
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="NAME",
        help="an optional group of pyproject.toml, e.g. farm; gpu comes with CUDA",
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; say whether all is complete"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="change nothing; say what would be installed, and why",
    )
    parser.add_argument(
        "--json", "--json-progress", action="store_true", help="progress as lines of JSON"
    )
    args = parser.parse_args(arguments)
    args.env = args.env.expanduser().absolute()
    for name in ("wheels", "download"):
        folder = getattr(args, name)
        setattr(args, name, folder.expanduser().absolute() if folder else None)
    args.blender = args.blender if args.blender is not None else ["4.2", "5.2", "5.3"]
    return args


def first_command(env: Path) -> str:
    """What to type next, for who reads this in a terminal."""
    python = python_in(env.absolute())
    own = env.absolute().is_relative_to(ROOT)
    words = str(python.relative_to(ROOT) if own else python)
    words = f'"{words}"' if " " in words else words
    where = "" if Path.cwd() == ROOT else f" in {ROOT}"
    return f"Make the demo{where}: {words} -m engine generate"


def main(arguments: list[str]) -> int:
    """0: complete; 1: it did not work, and why was said; 2: wrong usage; 130: interrupted."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    args = parse(arguments)
    told = Told(args.json)
    try:
        pins = read_pins(ROOT / "pyproject.toml")
        install_engine(args, pins, told)
        if args.dry_run or args.download:
            return 0
        if args.dev and not args.check:
            install_blenders(args, pins, told)
        ask_doctor(python_in(args.env), told)
    except UserError as error:
        told(f"error: {error}", "error", ok=False)
        return 1
    except OSError as error:
        told(f"error: {explain_system_failure(error, args.env)}", "error", ok=False)
        return 1
    except KeyboardInterrupt:
        told(f"Interrupted. {AGAIN}", "error", ok=False)
        return 130
    ready = "All is ready."
    told(ready if args.json else f"{ready} {first_command(args.env)}", "done", 1, 1, ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
