"""How long does a million splats take to write and read in each format, and how large is the file?

python benchmarks/formats.py [COUNT] [DEGREE] [ENDING ...]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import formats
from engine.bridge.errors import UserError
from engine.bridge.splat_file import Splats
from engine.formats import SplatScene, WriteOptions

ENDINGS = (
    ".ply",
    ".compressed.ply",
    ".splat",
    ".spz v3",
    ".spz v4",
    ".glb",
    ".glb spz",
    ".usdc",
    ".usda",
    ".sog",
)


def trained_like(count: int, degree: int) -> Splats:
    """Splats with the statistics of a trained scene: clustered places, small flat shapes, weak
    harmonics.
    """
    rng = np.random.default_rng(0)
    k = (degree + 1) ** 2 - 1
    centres = rng.normal(0, 3, (200, 3))
    return Splats(
        (centres[rng.integers(0, 200, count)] + rng.normal(0, 0.3, (count, 3))).astype(np.float32),
        rng.normal(0, 1, (count, 4)).astype(np.float32),
        rng.normal(-5, 1, (count, 3)).astype(np.float32),
        rng.normal(0, 3, count).astype(np.float32),
        rng.normal(0, 0.8, (count, 3)).astype(np.float32),
        rng.normal(0, 0.08, (count, k, 3)).astype(np.float32),
    )


def main() -> None:
    """Print one row a format."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    degree = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    scene = SplatScene(trained_like(count, degree))
    sys.stdout.write(
        f"{count} splats, SH degree {degree}\n\n| format | write, s | of it CPU | read, s | of "
        "it CPU | MB |\n"
    )
    sys.stdout.write("|---|---|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[3:] or ENDINGS:
            ending, *mode = name.split()
            path = Path(folder) / f"scene{ending}"
            options = WriteOptions(spz_version=3 if "v3" in mode else 4, compress_spz="spz" in mode)
            start, start_cpu = time.perf_counter(), time.process_time()
            try:
                formats.write(path, scene, options)
            except UserError as error:
                sys.stdout.write(f"| {name} | {error.message} | | |\n")
                continue
            wrote, wrote_cpu = time.perf_counter() - start, time.process_time() - start_cpu
            start, start_cpu = time.perf_counter(), time.process_time()
            formats.read(path)
            took, took_cpu = time.perf_counter() - start, time.process_time() - start_cpu
            megabytes = path.stat().st_size / 1e6
            sys.stdout.write(
                f"| {name} | {wrote:.2f} | {wrote_cpu:.2f} | {took:.2f} | {took_cpu:.2f} | "
                f"{megabytes:.1f} |\n"
            )
            sys.stdout.flush()
            path.unlink()
    sys.stdout.write(
        f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB\n"
    )


if __name__ == "__main__":
    main()
