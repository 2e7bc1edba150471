"""Build the viewer's vendored library, engine/outputs/viewer/spark.js, from npm.

    python scripts/build_viewer.py            builds it, with its licences, versions and checksum
    python scripts/build_viewer.py --check    builds it elsewhere; fails where a byte differs

Needs Node.js 20 or newer and the npm registry. Every package is pinned with its checksum by
scripts/viewer/package-lock.json; none of their install scripts run. esbuild makes the same bytes
of the same packages. A newer version: change scripts/viewer/package.json, run `npm install
--package-lock-only --ignore-scripts` in that folder, then this, then the tests in
tests/browser.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "scripts" / "viewer"
TARGET = ROOT / "engine" / "outputs" / "viewer"
LIBRARY, LICENCES, RECORD = "spark.js", "spark_licences.txt", "spark.json"
BUNDLED = ("@sparkjsdev/spark", "three", "fflate")  # what is in the bundle; esbuild is not


def build(folder: Path) -> dict[str, bytes]:
    """The three files, by name, built in an empty `folder`. Raises CalledProcessError."""
    for name in ("package.json", "package-lock.json", "library.js"):
        shutil.copyfile(SOURCE / name, folder / name)
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm was not found: install Node.js 20 or newer.")
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([npm, "ci", *quiet], cwd=folder, check=True)
    modules = folder / "node_modules"
    esbuild = [str(modules / ".bin" / "esbuild"), "library.js", "--bundle", "--minify"]
    options = ["--format=iife", "--charset=ascii", "--legal-comments=none", f"--outfile={LIBRARY}"]
    subprocess.run([*esbuild, *options, "--log-level=error"], cwd=folder, check=True)
    packages, licences = {}, []
    for name in BUNDLED:
        package = json.loads((modules / name / "package.json").read_text(encoding="utf-8"))
        packages[name] = package["version"]
        text = (modules / name / "LICENSE").read_text(encoding="utf-8").strip()
        licences.append(f"{name} {package['version']} ({package['license']})\n\n{text}\n")
    library = (folder / LIBRARY).read_bytes()
    tool = json.loads((modules / "esbuild" / "package.json").read_text(encoding="utf-8"))
    record = {
        "file": LIBRARY,
        "made_by": "scripts/build_viewer.py",
        "packages": packages,
        "bundler": f"esbuild {tool['version']}",
        "bytes": len(library),
        "sha256": hashlib.sha256(library).hexdigest(),
    }
    return {
        LIBRARY: library,
        LICENCES: f"\n{'-' * 72}\n\n".join(licences).encode(),
        RECORD: (json.dumps(record, indent=1) + "\n").encode(),
    }


def main() -> int:
    """Build, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory(prefix="scene_splatter_viewer_") as folder:
        files = build(Path(folder))
    if not check:
        for name, content in files.items():
            (TARGET / name).write_bytes(content)
        sys.stdout.write(files[RECORD].decode())
        return 0
    different = [n for n, content in files.items() if (TARGET / n).read_bytes() != content]
    sys.stdout.write(f"different: {', '.join(different)}\n" if different else "the same bytes\n")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
