"""Writes the averaged weights of a checkpoint as the file that ships: float16 safetensors.

python -m training.depth.export RUN_FOLDER/checkpoint.pt [engine/geometry/small_depth.safetensors]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.geometry.small_depth import WEIGHTS


def main(checkpoint: Path, out: Path) -> None:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in state["mean"].items()
    }
    save_file(tensors, out, metadata={"seen": str(state["seen"]), "made": str(state["made"])})
    print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB after {state['seen']} samples of {state['made']} pictures"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else WEIGHTS)
