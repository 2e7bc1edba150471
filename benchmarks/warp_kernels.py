"""What Warp's compiler makes of the GPU kernels for each card, without a card: registers, spills,
shared memory.

python benchmarks/warp_kernels.py
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.rasterize.warp import kernels, loss

CHANNELS = 5  # colour, depth, size: what a segment's render draws
CARDS = {75: "Turing", 80: "A100", 86: "RTX 30", 89: "RTX 40", 90: "H100", 120: "RTX 50"}


def main() -> None:
    print("| card | kernel | registers | spilled, bytes | shared, bytes |\n|---|---|---|---|---|")
    for arch, card in CARDS.items():
        with tempfile.TemporaryDirectory() as folder:
            figures = kernels.compile_for(arch, CHANNELS, Path(folder), loss.KERNELS)
            for name, f in figures.items():
                kernel = re.sub(r"blending__locals__|_[0-9a-f]{8}_cuda_kernel", "", name)
                kernel = kernel.removesuffix("_forward") if kernel.count("ward") > 1 else kernel
                print(
                    f"| sm_{arch} ({card}) | {kernel} | {f.registers} | {f.stack_bytes} "
                    f"| {f.shared_bytes} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
