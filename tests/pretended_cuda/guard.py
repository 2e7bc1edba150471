"""Compiles and loads the guard: `load()` before torch is imported."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")


def why_not() -> str:
    """In words why CUDA cannot be pretended here, "" if it can."""
    if os.name == "nt" or sys.platform == "darwin":
        return "CUDA is pretended on Linux alone"
    return "" if _compiler() else "no C++ compiler (g++ or clang++) was found"


def _compiler() -> str | None:
    return shutil.which("g++") or shutil.which("clang++")


def load() -> None:
    """Compile the guard once for this torch, and load it. Raises RuntimeError where torch is
    imported already.
    """
    if "torch" in sys.modules:
        raise RuntimeError("the guard must be loaded before torch is imported")
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError("torch is not installed")
    torch = Path(spec.origin).parent
    version = (torch / "version.py").read_text(encoding="utf-8")
    made_of = f"{torch}{version}{SOURCE.read_text(encoding='utf-8')}"
    key = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    library = Path(tempfile.gettempdir()) / f"pretended_cuda_{os.getuid()}_{key}.so"
    if not library.exists():
        compiler = _compiler()
        assert compiler is not None, why_not()
        built = library.with_suffix(f".{os.getpid()}.so")
        subprocess.run(
            [
                compiler,
                "-std=c++20",
                "-O1",
                "-fPIC",
                "-shared",
                f"-I{torch / 'include'}",
                str(SOURCE),
                "-o",
                str(built),
                f"-L{torch / 'lib'}",
                "-ltorch_cpu",
                "-lc10",
                f"-Wl,-rpath,{torch / 'lib'}",
            ],
            check=True,
        )
        built.replace(library)
    ctypes.CDLL(str(library))
