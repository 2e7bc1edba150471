"""Which build of torch a machine can use, and which one an environment has: standard library only.

The builds are those of the torch that pyproject.toml pins (2.13: CPU, CUDA 12.6, CUDA 13.0, and an
experimental 13.2 that is not used here; none for 12.8). A build has kernels for certain cards and
needs a driver from a certain CUDA on: within one major version an older driver will do.

    build   cards (compute capability)                    driver from
    cu130   7.5 Turing to 12.x Blackwell                  CUDA 13.0, release 580
    cu126   5.0 Maxwell to 9.0 Hopper, so Pascal, Volta   CUDA 12.0, release 525 (Windows 528)
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..bridge.errors import UserError
from .nvidia import HIDING, Card, Nvidia, dotted

KINDS = ("auto", "cpu", "cuda", "cu126", "cu130")  # what a person may ask for
_ASK_S = 180.0  # a cold disk and a virus scanner
_ASK = """
import json, torch
try:
    sees, why = bool(torch.cuda.is_available()), ""
except Exception as error:
    sees, why = False, str(error)
print("TORCH " + json.dumps([torch.__version__, torch.version.cuda, sees, why]))
"""


class Build(NamedTuple):
    """A build for CUDA."""

    name: str
    cuda: tuple[int, int]
    lowest: tuple[int, int]  # compute capability of the oldest cards with kernels
    highest: int  # its newest generation: binary code runs on later cards of one generation
    driver: tuple[int, int]  # the oldest CUDA of a driver
    release: str  # and its release

    def covers(self, card: Card, processor: str = "") -> bool:
        """Whether it has kernels for a card; on ARM processors from Ampere on."""
        lowest = max(self.lowest, (8, 0)) if _is_arm(processor) else self.lowest
        known = card.capability
        return known is not None and known >= lowest and known[0] <= self.highest

    def runs_on(self, here: Nvidia, processor: str = "") -> list[Card]:
        """The cards here that it can use, with the driver as it is."""
        if here.cuda is None or here.cuda < self.driver:
            return []
        return [card for card in here.cards if self.covers(card, processor)]


BUILDS = {  # the newest first
    "cu130": Build("cu130", (13, 0), (7, 5), 12, (13, 0), "580"),
    "cu126": Build("cu126", (12, 6), (5, 0), 9, (12, 0), "525 (on Windows 528)"),
}


class Choice(NamedTuple):
    """Which build of torch to install, and why."""

    build: str  # cpu, cu126 or cu130
    # folder of PyTorch's package index to ask besides the default one; empty: the default one has
    # this build
    folder: str
    why: str
    remedy: str = ""  # what to do for a better one
    exact: bool = False  # a person asked for this very build


class Torch(NamedTuple):
    """The torch of an environment."""

    version: str  # "2.13.0+cu130"
    cuda: str | None  # "13.0"; None: built for CPUs
    sees_card: bool | None = None  # whether CUDA can be used; None: only its files were read
    why_not: str = ""  # what torch said of that

    @property
    def build(self) -> str:
        """Its build, in the words of `Choice`."""
        return "cu" + self.cuda.replace(".", "") if self.cuda else "cpu"

    @property
    def release(self) -> str:
        """Its version without the build."""
        return self.version.partition("+")[0]

    @property
    def agrees(self) -> bool:
        """Whether it is built for what its version says, where that says anything."""
        return self.version.partition("+")[2] in ("", self.build)

    def text(self) -> str:
        """One line for a person."""
        return f"{self.version}, {f'built for CUDA {self.cuda}' if self.cuda else 'built for CPUs'}"


def choose(system: str, processor: str, here: Nvidia, wanted: str = "auto") -> Choice:
    """The build of torch for a machine: pure, so that every machine can be tried in a test.

    `system` and `processor` as platform.system() and platform.machine() say them; `wanted` is one
    of `KINDS`. Raises UserError where CUDA is asked for and cannot be.
    """
    # For Linux the default index has a build for CUDA, gigabytes larger.
    cpu = Choice("cpu", "cpu" if system == "Linux" else "", "for CPUs")
    if system == "Darwin":
        return cpu._replace(why="for CPUs: there is no CUDA on macOS", exact=wanted == "cpu")
    if wanted == "cpu":
        return cpu._replace(why="for CPUs, as asked", exact=True)
    if wanted in BUILDS:
        cuda = dotted(BUILDS[wanted].cuda)
        why, remedy = why_not_used(Torch("", cuda), here, processor)
        note = f"{why[0].upper()}{why[1:]}. {remedy}" if why else ""
        return Choice(wanted, wanted, f"for CUDA {cuda}, as asked", note, exact=True)
    if system == "Windows" and _is_arm(processor):
        none = "PyTorch has no build for CUDA on Windows with an ARM processor"
        return _refused(cpu, wanted, none, "")
    for build in BUILDS.values():
        cards = build.runs_on(here, processor)
        if cards:
            best = max(cards, key=lambda card: card.capability or (0, 0))
            driver = f"driver {here.driver}" if here.driver else "the driver"
            why = f"for CUDA {dotted(build.cuda)}: {best.text()}, {driver}"
            words = _outlook(build, best), left_out(build, here, processor)
            return Choice(build.name, build.name, why, " ".join(filter(None, words)))
    why, remedy = why_none(here, processor)
    said = here.cards or here.hidden or wanted == "cuda"
    return _refused(cpu, wanted, why, remedy if said else "")


def _refused(cpu: Choice, wanted: str, why: str, remedy: str) -> Choice:
    if wanted == "cuda":
        otherwise = "Or use --cuda cpu."
        raise UserError(f"{why[0].upper()}{why[1:]}.", f"{remedy} {otherwise}".strip())
    return cpu._replace(why=f"for CPUs: {why}", remedy=remedy)


def _outlook(build: Build, card: Card) -> str:
    if (card.capability or (0, 0)) >= BUILDS["cu130"].lowest:
        return ""
    return (
        f"{card.name} is older than Turing: CUDA {dotted(build.cuda)} is the last that knows it, "
        "and drivers after 580 do not. Gaussians are drawn by the CPU there."
    )


def left_out(build: Build, here: Nvidia, processor: str = "") -> str:
    """Which cards a build cannot use while it uses another, and what to do; empty for none."""
    used = build.runs_on(here, processor)
    others = [card for card in here.cards if card not in used]
    if not others or not used:
        return ""
    names, place = ", ".join(card.text() for card in others), here.cards.index(used[0])
    newer = next(
        (b for b in BUILDS.values() if all(b.covers(c, processor) for c in here.cards)), None
    )
    words = f"{names} cannot be used with it"
    if newer is not None and newer is not build:
        words += f"; with the NVIDIA driver {newer.release} or newer all of them could"
    return f"{words}. If jobs stay on the CPU, set {HIDING}={place} in the environment."


def why_none(here: Nvidia, processor: str = "") -> tuple[str, str]:
    """Why no build for CUDA runs on a machine, and the remedy. In the words of a sentence's end."""
    card = here.best
    if card is None and here.hidden:
        return (
            f"{HIDING} is {here.hidden}, which hides every card",
            f"Remove it from the environment, or name a card in it, such as {HIDING}=0, then run "
            "install_deps.py again.",
        )
    if card is None:
        return (
            "no NVIDIA card with a driver was found",
            "If there is one, install its driver from nvidia.com/drivers, then run "
            "install_deps.py again.",
        )
    driver = f"driver {here.driver}" if here.driver else "driver"
    again = "then run install_deps.py again."
    least = BUILDS["cu126"]
    if card.capability is None and here.driver and (here.cuda or (0, 0)) < least.driver:
        return (
            f"the {driver} of {card.name} is too old for PyTorch, which needs CUDA "
            f"{dotted(least.driver)}",
            f"Update the NVIDIA driver to {least.release} or newer (nvidia.com/drivers), {again}",
        )
    if card.capability is None:
        return (
            f"{card.name} is listed, but its {driver} does not answer",
            f"Restart, or install the NVIDIA driver (nvidia.com/drivers) anew, {again}",
        )
    fitting = [build for build in BUILDS.values() if build.covers(card, processor)]
    if fitting:
        needs = fitting[-1]  # the one that asks least of the driver
        speaks = f"speaks only CUDA {dotted(here.cuda)}" if here.cuda else "is too old for CUDA 11"
        return (
            f"the {driver} of {card.text()} {speaks}, and PyTorch needs CUDA "
            f"{dotted(needs.driver)} for it",
            f"Update the NVIDIA driver to {needs.release} or newer (nvidia.com/drivers), {again}",
        )
    if card.capability < (7, 5):
        return (
            f"{card.text()} is too old: PyTorch has no kernels for it",
            "The CPU computes; a card from Turing on (GTX 16, RTX 20) would be used.",
        )
    return (
        f"{card.text()} is newer than this PyTorch, which has no kernels for it",
        "Update Scene Splatter when it pins a PyTorch that knows the card; the CPU computes.",
    )


def serves(build: str, choice: Choice, here: Nvidia, processor: str = "") -> bool:
    """Whether an environment that has `build` need not be moved to `choice`.

    Builds for CUDA compute on the CPU too, and an older one that uses the best card is as good: no
    gigabytes are moved for nothing, and none because a driver was away for a moment.
    """
    if build == choice.build:
        return True
    if choice.exact:
        return False
    if choice.build == "cpu":
        return build in BUILDS
    return build in BUILDS and here.best in BUILDS[build].runs_on(here, processor)


def why_not_used(torch: Torch, here: Nvidia, processor: str = "") -> tuple[str, str]:
    """Why a torch cannot use the cards here, and the remedy; two empty texts where it should be
    able to, or where there is no card.
    """
    if here.best is None:
        return "", ""
    usable = [build.name for build in BUILDS.values() if build.runs_on(here, processor)]
    if not usable:
        return why_none(here, processor)
    name = here.best.text()
    if torch.build == "cpu":
        return f"this PyTorch is built for CPUs, although there is {name}", MOVE
    if torch.build in usable:
        return "", ""
    known = BUILDS.get(torch.build)
    if known is not None and known.covers(here.best, processor):
        return (
            f"this PyTorch is built for CUDA {torch.cuda}, which driver {here.driver or '?'} "
            "does not speak",
            f"{MOVE} Or update the NVIDIA driver to {known.release} or newer.",
        )
    return f"this PyTorch, built for CUDA {torch.cuda}, has no kernels for {name}", MOVE


def has_kernels(arches: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether a torch built for these (torch.cuda.get_arch_list) runs on a card: binary code (sm_)
    of one generation runs on its later revisions, intermediate code (compute_) on all later ones.
    Without any it is not known, and taken to be so.
    """
    return not arches or any(_runs_on(arch, *capability) for arch in arches)


def _runs_on(arch: str, major: int, minor: int) -> bool:
    kind, _, number = arch.partition("_")
    digits = "".join(c for c in number if c.isdigit())
    if not digits:
        return False
    built_major, built_minor = int(digits[:-1]), int(digits[-1])
    if kind == "compute":
        return (built_major, built_minor) <= (major, minor)
    return built_major == major and built_minor <= minor


MOVE = "Run install_deps.py --cuda auto: it installs the build that fits."


def read(package: Path) -> Torch | None:
    """The torch in the folder of its package, by its own file; None where there is none that is
    whole.
    """
    try:
        text = (package / "version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return Torch(version.group(1), cuda.group(1) if cuda else None) if version else None


def here() -> Torch | None:
    """The torch that this interpreter would import, by its own file; None without one."""
    spec = importlib.util.find_spec("torch")
    return read(Path(spec.origin).parent) if spec is not None and spec.origin else None


def ask(python: Path, environment: Mapping[str, str] | None = None) -> Torch:
    """The torch of an environment, imported there, in a process of its own.

    Raises UserError where it cannot be imported.
    """
    try:
        told = subprocess.run(
            [str(python), "-I", "-c", _ASK],
            env=dict(environment) if environment is not None else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASK_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"PyTorch did not load within {_ASK_S:.0f} s.",
            "Run the same command again; a virus scanner may be reading it.",
        ) from error
    for line in told.stdout.splitlines():
        if line.startswith("TORCH "):
            return Torch(*json.loads(line.removeprefix("TORCH ")))
    lines = [line.strip() for line in told.stderr.splitlines() if line.strip()]
    raise UserError(
        f"PyTorch is installed but cannot be loaded: {lines[-1] if lines else told.returncode}.",
        remedy_of(told.stderr),
    )


def remedy_of(words: str) -> str:
    """What to do when torch cannot be loaded, by what Python said."""
    if re.search(r"WinError (126|127|1114)|c10\.dll|vcruntime|MSVCP", words, re.IGNORECASE):
        return (
            "Install Microsoft's Visual C++ Redistributable for x64 (aka.ms/vs/17/release/"
            "vc_redist.x64.exe), then run install_deps.py again."
        )
    return "Run install_deps.py again; if it says the same, delete the environment's folder first."


def _is_arm(processor: str) -> bool:
    return processor.lower() in ("aarch64", "arm64")
