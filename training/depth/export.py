"""Writes the weights of a checkpoint as the file that ships: float16 safetensors.

python -m training.depth.export RUN_FOLDER/checkpoint.pt textures.npy [mean or net]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from engine.geometry.networks.small import SmallDepth, ray_field
from engine.geometry.small_depth import WEIGHTS

from . import scenes


def bias(network: SmallDepth, bank: np.ndarray, count: int = 100) -> float:
    """Median error of log depth over scenes that were not trained on."""
    errors = []
    for k in range(count):
        made = scenes.sample(800_000_000 + k, bank, 96, 64)
        image = torch.from_numpy(made.image).permute(2, 0, 1)[None]
        with torch.no_grad():
            rays = ray_field(torch.tensor([made.focal_px / 96]), torch.ones(1), 64, 96)
            found = network.eval()(image, rays).log_depth[0]
        truth = torch.from_numpy(made.depth)
        seen = torch.isfinite(truth) & (truth < 400)
        errors.append(float((found - truth.log())[seen].median()))
    return float(np.median(errors))


def main(checkpoint: Path, textures: Path, which: str = "mean", out: Path = WEIGHTS) -> None:
    """`which`: "mean", the averaged weights, or "net", those of the end."""
    torch.set_num_threads(1)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network = SmallDepth()
    network.load_state_dict(state[which])
    off = bias(network, np.load(textures).astype(np.float32))
    with torch.no_grad():
        network.head.bias[0] -= off
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(tensors, out, metadata={"seen": str(state["seen"]), "made": str(state["made"])})
    print(f"scale corrected by a factor of {np.exp(-off):.2f}")
    print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB after {state['seen']} samples of "
        f"{state['made']} pictures"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
