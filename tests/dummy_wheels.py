"""Real wheels of a few bytes, and local indexes of them, for tests of the installer."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from urllib.parse import quote


def wheel(
    folder: Path,
    name: str = "tiny",
    version: str = "1.0",
    files: dict[str, str] | None = None,
    requires: tuple[str, ...] = (),
) -> Path:
    """A real wheel with the given files, else one module and one data file."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        **(
            files
            or {
                f"{name}.py": f"VALUE = {version!r}\n",
                f"{name}_data/kernel.so": "not really a library",
            }
        ),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
            digest = (
                base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
                .rstrip(b"=")
                .decode()
            )
            rows.append(f"{file},sha256={digest},{len(text)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return path


def torch_wheel(
    folder: Path,
    build: str,
    named: str | None = None,
    cuda: str | None = None,
    files: int = 1,
    broken: str = "",
) -> Path:
    """A torch that only knows its build ("cpu", "cu130"). `named`: the version in its name, if it
    is not 2.13.0+build; `cuda`: what it is really built for, if that is another; `files`: how many;
    `broken`: raises this when it is imported.
    """
    digits = build.removeprefix("cu") if build != "cpu" else ""
    real = cuda if cuda is not None else (f"{digits[:2]}.{digits[2:]}" if digits else "")
    return wheel(
        folder,
        "torch",
        named or f"2.13.0+{build}",
        {
            "torch/__init__.py": f"{broken}\nfrom . import cuda, version\n"
            "__version__ = version.__version__\n",
            "torch/version.py": f"__version__ = {f'2.13.0+{build}'!r}\n"
            f"cuda: 'str | None' = {real or None!r}\n",
            "torch/cuda/__init__.py": "def is_available(): return False\n",
            **{f"torch/part{i}.so": "x" * 1000 for i in range(files)},
        },
        ("nvidia-cublas",) if real else (),
    )


def index(folder: Path, wheels: Path) -> str:
    """The address of a simple index, as pip wants it, of all wheels in a folder."""
    for path in sorted(wheels.glob("*.whl")):
        page = folder / path.name.split("-")[0].replace("_", "-").lower() / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        before = page.read_text() if page.exists() else ""
        link = f'<a href="{path.parent.as_uri()}/{quote(path.name)}">{path.name}</a><br>\n'
        page.write_text(before + link)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.as_uri()
