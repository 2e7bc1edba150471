"""python -m engine doctor: what this machine can do, as text or as one line of JSON."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bridge.protocol import ENGINE_VERSION, VERSION
from ..models import machine, nvidia, torch_build
from ..service.server import remedy_of_absent_packages

OK, WARN, FAIL = "ok", "warn", "fail"
ROOT = Path(__file__).resolve().parents[2]
REINSTALL = "Run install_deps.py again."
MIN_PYTHON = (3, 11)
_LOW_DISK = 5e9  # bytes; a scene with its frames takes about 1 GB
_LOW_MEMORY = 4e9  # bytes; what the demo is promised to stay below


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report. Only `fail` means that the engine cannot run at all."""

    name: str
    state: str  # ok, warn or fail
    text: str
    remedy: str = ""
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the report. Exit code 1 if the engine cannot run at all, else 0."""
    checks = examine()
    ok = all(check.state != FAIL for check in checks)
    if ok:  # so that the panel can say how long the first job will take
        from ..job.forecast import leave_for_panel

        leave_for_panel()
    if args.json:
        text = (
            "The engine can run."
            if ok
            else next(f"{c.text} {c.remedy}" for c in checks if c.state == FAIL)
        )
        report = {
            "engine": ENGINE_VERSION,
            "protocol": VERSION,
            "ok": ok,
            "text": text,
            "checks": [dataclasses.asdict(c) for c in checks],
        }
        print(json.dumps(report, allow_nan=False))
    else:
        print(as_text(checks))
    return 0 if ok else 1


def as_text(checks: list[Check]) -> str:
    """A table of states, names and texts; remedies on lines of their own."""
    lines = [f"Scene Splatter engine {ENGINE_VERSION}"]
    width = max(len(check.name) for check in checks)
    for check in checks:
        lines.append(f"  {check.state:4}  {check.name:{width}}  {check.text}")
        if check.remedy:
            lines.append(f"  {'':4}  {'':{width}}  -> {check.remedy}")
    failed = [check.name for check in checks if check.state == FAIL]
    lines.append(
        f"The engine cannot run: {', '.join(failed)}." if failed else "The engine can run."
    )
    return "\n".join(lines)


def examine() -> list[Check]:
    """All checks, in the order in which they are told."""
    sections: list[Callable[[], Iterator[Check]]] = [
        _python,
        _packages,
        _card,
        _torch,
        _processor,
        _drawing,
        _ffmpeg,
        _gpu_rasteriser,
        _disk,
        _models,
        _blender,
    ]
    return [check for section in sections for check in section()]


def _python() -> Iterator[Check]:
    text = f"{platform.python_version()} ({machine.system()}), {sys.executable}"
    if sys.version_info < MIN_PYTHON:
        yield Check("python", FAIL, text, "Use Python 3.11 or newer to run install_deps.py.")
    else:
        yield Check("python", OK, text)


def _packages() -> Iterator[Check]:
    """The pinned packages against what is installed."""
    project = ROOT / "pyproject.toml"
    if not project.is_file():
        yield Check("packages", WARN, f"{project} is missing, so versions were not compared.")
        return
    pins = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    missing, other = [], []
    for pin in pins:
        name, _, wanted = pin.split(";")[0].strip().partition("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if found.split("+")[0] != wanted:
            other.append(f"{name} is {found}, tested with {wanted}")
    if missing:
        remedy = remedy_of_absent_packages()
        yield Check("packages", FAIL, f"Missing: {', '.join(missing)}.", remedy)
    elif other:
        yield Check("packages", WARN, "; ".join(other) + ".", REINSTALL)
    else:
        yield Check("packages", OK, f"all {len(pins)} at the tested versions")


def _card() -> Iterator[Check]:
    """Cards and driver, whatever torch makes of them."""
    here = nvidia.found()
    data = {
        "cards": [{"name": c.name, "capability": nvidia.dotted(c.capability)} for c in here.cards],
        "driver": here.driver,
        "driver_cuda": nvidia.dotted(here.cuda) if here.cuda else None,
    }
    if here.cards and not here.starts and not _torch_sees_card():
        yield Check(
            "graphics card",
            WARN,
            f"{here.text()}; CUDA does not start there",
            "Restart the computer; if it says the same, install the driver from "
            "nvidia.com/drivers anew.",
            data,
        )
    else:
        yield Check("graphics card", OK, here.text(), data=data)


def _torch_sees_card() -> bool:
    try:
        import torch
    except (ImportError, OSError):  # told by the next check
        return False
    return bool(torch.cuda.is_available())


def _torch() -> Iterator[Check]:
    """torch and the device that the engine will take."""
    try:
        import torch
    except (
        ImportError,
        OSError,
    ) as error:  # OSError: a library that torch needs is missing or damaged
        remedy = torch_build.remedy_of(str(error))
        yield Check("torch", FAIL, f"PyTorch cannot be loaded: {error}.", remedy)
        return
    built = torch_build.Torch(torch.__version__, torch.version.cuda)
    yield Check("torch", OK, built.text(), data={"cuda": built.cuda, "build": built.build})
    here = nvidia.found()
    if torch.cuda.is_available():
        yield _cuda_device(torch)
        return
    data = {"device": "cpu"}
    if here.best is None:
        yield Check("device", OK, "cpu", data=data)
        return
    why, remedy = torch_build.why_not_used(built, here, platform.machine())
    if not why:
        why = f"PyTorch cannot use {here.best.text()}, though build and driver fit it"
        remedy = "Restart the computer; if it says the same, install the NVIDIA driver anew."
    yield Check("device", WARN, f"cpu: {why}", remedy, data)


def _cuda_device(torch: Any) -> Check:
    name = torch.cuda.get_device_name(0)
    major, minor = torch.cuda.get_device_capability(0)
    free, total = torch.cuda.mem_get_info(0)
    text = f"cuda: {name} ({major}.{minor}), {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    data = {"device": "cuda", "name": name, "free_bytes": free, "total_bytes": total}
    built = torch.cuda.get_arch_list()
    if not torch_build.has_kernels(built, (major, minor)):
        found = nvidia.found()
        here = nvidia.Nvidia((nvidia.Card(name, (major, minor)),), cuda=found.cuda)
        fits = torch_build.choose(platform.system(), platform.machine(), here)
        others = [
            (number, card)
            for number, card in enumerate(found.cards)
            if card.capability is not None and torch_build.has_kernels(built, card.capability)
        ]
        if others:  # the installer takes the build of the best card, and that is there
            remedy = (
                f"Set {nvidia.HIDING}={others[0][0]} in the environment: jobs take "
                f"{others[0][1].text()} then."
            )
        elif fits.build != "cpu":
            remedy = f"Run install_deps.py --cuda auto: it installs {fits.build}, which has them."
        else:
            remedy = fits.remedy
        words = f"{text}; this PyTorch has no kernels for it ({', '.join(built)}): the CPU computes"
        return Check("device", WARN, words, remedy, {**data, "device": "cpu"})
    return Check("device", OK, text, data=data)


def _processor() -> Iterator[Check]:
    total, available = machine.memory_bytes()
    text = f"{machine.cpu_count()} cores, {available / 1e9:.1f} of {total / 1e9:.1f} GB memory free"
    data = {"cores": machine.cpu_count(), "memory_bytes": total, "available_bytes": available}
    if total and available < _LOW_MEMORY:
        yield Check("processor", WARN, text, "Close other programs, or use the preset draft.", data)
    else:
        yield Check("processor", OK, text, data=data)


def _drawing() -> Iterator[Check]:
    """Draw one Gaussian with the CPU rasteriser, for real."""
    try:
        import torch

        from ..rasterize import rasterize
        from ..scene.gaussians import Gaussians
    except (ImportError, OSError) as error:
        yield Check("rasteriser", FAIL, f"It cannot be loaded: {error}.", REINSTALL)
        return
    one = Gaussians(
        means=torch.tensor([[0.0, 0.0, 2.0]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales_log=torch.full((1, 3), -1.0),
        opacities_logit=torch.tensor([20.0]),
        sh_dc=torch.zeros(1, 3),
        sh_rest=torch.zeros(1, 0, 3),
    )
    K = torch.tensor([[[16.0, 0.0, 8.0], [0.0, 16.0, 8.0], [0.0, 0.0, 1.0]]])
    before_s = time.perf_counter()
    centre = float(
        rasterize(one, K, torch.eye(4)[None], 16, 16, backend="cpu").rgb[0, 7:9, 7:9].mean()
    )
    seconds = time.perf_counter() - before_s
    data = {"seconds": seconds, "compiled_files": _compiled_files()}
    text = (
        f"drew a Gaussian in {seconds:.2f} s; {data['compiled_files']} compiled kernel files "
        "are kept"
    )
    if abs(centre - 0.5) > 0.02:  # SH 0 is grey 0.5 by definition
        yield Check(
            "rasteriser",
            FAIL,
            f"It drew {centre:.3f} where 0.5 was expected.",
            "Report this, with the output of doctor --json.",
            data,
        )
    elif not data["compiled_files"]:
        yield Check(
            "rasteriser",
            WARN,
            text,
            "Every start compiles anew: make the engine's folder or ~/.cache writable, or set "
            "NUMBA_CACHE_DIR.",
            data,
        )
    else:
        yield Check("rasteriser", OK, text, data=data)


def _compiled_files() -> int:
    """How many files numba keeps for the engine's kernels."""
    import numba

    chosen = getattr(numba.config, "CACHE_DIR", "")  # numba fills its settings in at import
    folders = [Path(chosen)] if chosen else [ROOT / "engine", Path.home() / ".cache" / "numba"]
    return sum(1 for folder in folders if folder.is_dir() for _ in folder.rglob("*.nbi"))


def _ffmpeg() -> Iterator[Check]:
    try:
        import imageio_ffmpeg

        path = imageio_ffmpeg.get_ffmpeg_exe()
        first = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.splitlines()[0]
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        yield Check("ffmpeg", WARN, f"Videos cannot be written: {error}.", REINSTALL)
        return
    yield Check("ffmpeg", OK, " ".join(first.split()[:3]), data={"path": path})


def _gpu_rasteriser() -> Iterator[Check]:
    """Which of gsplat, Warp and the CPU draws in a job here, and why."""
    installed = {
        name: importlib.metadata.version(package)
        for name, package in (("gsplat", "gsplat"), ("warp", "warp-lang"))
        if importlib.util.find_spec(name) is not None
    }
    there = ", ".join(f"{name} {version}" for name, version in installed.items()) or "none"
    try:
        from ..models.device import card as device_card
        from ..rasterize import gpu_backend
    except (ImportError, OSError):  # told above
        return
    if device_card() is None:
        text = f"the CPU draws, as there is no CUDA device to use (installed for one: {there})"
        yield Check("GPU rasteriser", OK, text, data={"draws": "cpu"})
        return
    name, reasons = gpu_backend()
    if name:
        why = f" ({reasons})" if reasons else ""
        text = f"{name} {installed[name]} draws on the GPU{why}"
        yield Check("GPU rasteriser", OK, text, data={"draws": name})
        return
    remedy = (
        "Run install_deps.py --extra gpu."
        if "warp" not in installed
        else "Run install_deps.py again, and update the NVIDIA driver."
    )
    yield Check(
        "GPU rasteriser",
        WARN,
        f"the CPU draws, although there is a GPU: {reasons}",
        f"{remedy} What the CPU draws looks the same; it takes longer.",
        {"draws": "cpu"},
    )


def _disk() -> Iterator[Check]:
    for name, folder in (
        ("disk here", Path.cwd()),
        ("disk temporary", Path(tempfile.gettempdir())),
    ):
        free = shutil.disk_usage(folder).free
        text = f"{free / 1e9:.1f} GB free in {folder}"
        low = free < _LOW_DISK
        yield Check(
            name,
            WARN if low else OK,
            text,
            "Free some disk space." if low else "",
            {"free_bytes": free},
        )
        if not os.access(folder, os.W_OK):
            yield Check(
                name,
                WARN,
                f"{folder} cannot be written.",
                "Give --out a folder that can be written.",
            )


def _models() -> Iterator[Check]:
    """Video priors and depth sources by name, and whether their code and weights are here."""
    from .. import priors
    from ..models.registry import DEPTHS, PRIORS

    for row in PRIORS.values():
        module = f"{priors.__name__}.{row.factory.split(':')[0]}"
        yield _model("prior", row.name, row.weights, module)
    yield _small_depth()
    yield Check("depth box", OK, "ready", data={"ready": True})
    yield Check("depth-map files", OK, "ready: EXR, 16-bit PNG, NPY", data={"ready": True})
    for name in DEPTHS:
        yield _model("depth", name, (name,), f"{__package__.rpartition('.')[0]}.geometry.learned")


def _small_depth() -> Check:
    """The depth network that ships: its file is read."""
    from ..bridge.errors import UserError

    try:
        from ..geometry import small_depth

        small_depth.load()
    except ImportError as error:
        text = f"its code cannot be loaded: {error}"
        return Check("depth small", WARN, text, REINSTALL, {"ready": False})
    except UserError as error:
        return Check("depth small", WARN, str(error), error.hint, {"ready": False})
    return Check("depth small", OK, "ready, ships with the program", data={"ready": True})


def _model(kind: str, name: str, needs: tuple[str, ...], module: str) -> Check:
    """One model; that its weights are not here is no fault, so it is `ok` and says how to get
    them.
    """
    from ..models import weights

    try:
        importlib.import_module(module)
    except ImportError as error:
        return Check(
            f"{kind} {name}",
            WARN,
            f"its code cannot be loaded: {error}",
            REINSTALL,
            {"ready": False},
        )
    absent = next((need for need in needs if weights.missing(need)), None)
    if absent is not None:
        entry = weights.known(absent)
        text = f"no weights ({entry.size_gb:g} GB, {entry.licence.partition(':')[0]})"
        remedy = f"python -m engine weights download {absent}"
        return Check(f"{kind} {name}", OK, text, remedy, {"ready": False})
    return Check(f"{kind} {name}", OK, "ready", data={"ready": True})


def _blender() -> Iterator[Check]:
    path = shutil.which("blender")
    yield Check("blender", OK, path or "no blender on the PATH; the engine does not need it")
