"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet, for those who have its two files of weights.

The weights are not part of the project: AlexNet's as torchvision publishes them and the linear
heads of the lpips package. Without them the evaluation reports `against_truth.structure`
instead and says so.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge.errors import UserError

BACKBONE, HEADS = "alexnet-owt-7be5be79.pth", "alex.pth"
_HINT = (
    f"It must hold {BACKBONE} (torchvision's AlexNet) and {HEADS} (lpips/weights/v0.1 of the "
    "lpips package)."
)
_LAYERS = {
    0: (4, 2),
    3: (1, 2),
    6: (1, 1),
    8: (1, 1),
    10: (1, 1),
}  # of AlexNet's `features`: (stride, padding)
_POOLED_FIRST = (3, 6)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of colours in [-1, 1]


class Lpips:
    """The distance with its weights. Raises UserError for a folder without them."""

    def __init__(self, folder: Path) -> None:
        backbone, heads = (_load(folder / name) for name in (BACKBONE, HEADS))
        try:
            self._convolutions = [
                (backbone[f"features.{i}.weight"], backbone[f"features.{i}.bias"]) for i in _LAYERS
            ]
            self._heads = [heads[f"lin{k}.model.1.weight"] for k in range(len(_LAYERS))]
        except KeyError as error:
            raise UserError(
                f"{folder} holds other weights: {error.args[0]} is missing.", _HINT
            ) from None

    def distance(self, image: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
        """LPIPS of [3, h, w] in [0, 1], or the mean of its map where `where` [h, w] is true; NaN if
        empty.
        """
        layers = self._layers(image, truth)
        if where is None:
            return float(sum(layer.mean() for layer in layers))
        size = image.shape[1:]
        drawn = [
            F.interpolate(layer, size=size, mode="bilinear", align_corners=False)[0, 0][where]
            for layer in layers
        ]
        return float(torch.stack(drawn).sum(dim=0).mean()) if bool(where.any()) else math.nan

    def _layers(self, image: Tensor, truth: Tensor) -> list[Tensor]:
        pairs = zip(self._heads, self._features(image), self._features(truth), strict=True)
        return [F.conv2d((_unit(x) - _unit(y)).square(), head) for head, x, y in pairs]

    def _features(self, image: Tensor) -> list[Tensor]:
        shift, scale = (image.new_tensor(v)[:, None, None] for v in (_SHIFT, _SCALE))
        x = ((2.0 * image.clamp(0.0, 1.0) - 1.0 - shift) / scale)[None]
        found = []
        for (i, (stride, padding)), (weight, bias) in zip(
            _LAYERS.items(), self._convolutions, strict=True
        ):
            x = F.max_pool2d(x, 3, 2) if i in _POOLED_FIRST else x
            x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))
            found.append(x)
        return found


def _unit(features: Tensor) -> Tensor:
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


def _load(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise UserError(f"{file} is not there.", _HINT)
    data: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return data
