"""Depth Anything 3, metric (arXiv 2511.10647): metres for a known focal length, and sky, from one
picture.

DINOv2, the pyramid of Depth Anything (as in the transformers library) and two answers: depth for a
camera of 300 pixels, and sky. Names are those of the released state dict.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.depth_anything.modeling_depth_anything import DepthAnythingNeck

from ...bridge.errors import UserError
from ...cameras.intrinsics import DEFAULT_FOV_DEG, intrinsics_from_fov
from ...models import tensor_file
from ..base import IMAGENET, Reading, normalised
from . import dinov2

_AGAIN = "Run: python -m engine weights verify depth_anything_3 - or download it again."
_TAKEN = (4, 11, 17, 23)  # blocks of the backbone of 24
_LONGER_SIDE_PX = 504
_CANONICAL_FOCAL_PX = 300.0
_SKY = 0.3  # answers above this are sky
_FACTORS = (4, 2, 1, 0.5)
_BACKBONE, _HEAD = "model.backbone.pretrained.", "model.head."
_NAMES = (
    (r"^projects\.(\d)\.", r"neck.reassemble_stage.layers.\1.projection."),
    (r"^resize_layers\.(\d)\.", r"neck.reassemble_stage.layers.\1.resize."),
    (r"^scratch\.refinenet(\d)\.", lambda m: f"neck.fusion_stage.layers.{4 - int(m[1])}."),
    (r"\.resConfUnit([12])\.conv([12])\.", r".residual_layer\1.convolution\2."),
    (r"\.out_conv\.", ".projection."),
    (r"^scratch\.layer(\d)_rn\.", lambda m: f"neck.convs.{int(m[1]) - 1}."),
    (r"^scratch\.output_conv1\.", "shared."),
    (r"^scratch\.output_conv2\.", "depth."),
    (r"^scratch\.sky_output_conv2\.", "sky."),
)


class DepthAnything3(nn.Module):
    """[1, 3, 14 r, 14 c] normalised -> depth [14 r, 14 c] for the canonical camera, sky [14 r, 14
    c], 0 where there is none.
    """

    def __init__(self, backbone: nn.Module, widths: tuple[int, ...], fused: int, last: int) -> None:
        """`widths` of the four levels, `fused` channels after the pyramid, `last` channels before
        an answer.
        """
        super().__init__()
        self.backbone = backbone
        width = backbone.config.hidden_size  # type: ignore[union-attr]
        self.neck = DepthAnythingNeck(
            SimpleNamespace(
                neck_hidden_sizes=widths,
                reassemble_factors=_FACTORS,
                reassemble_hidden_size=width,
                fusion_hidden_size=fused,
                backbone_config=SimpleNamespace(hidden_size=width),
            )
        )
        self.neck.fusion_stage.layers[
            0
        ].residual_layer1 = nn.Identity()  # the coarsest level has nothing to join
        self.shared = nn.Conv2d(fused, fused // 2, 3, padding=1)
        self.depth, self.sky = (
            nn.Sequential(
                nn.Conv2d(fused // 2, last, 3, padding=1), nn.ReLU(), nn.Conv2d(last, 1, 1)
            )
            for _ in range(2)
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        size = tuple(pixels.shape[2:])
        rows, columns = (side // dinov2.PATCH_PX for side in size)
        x = self.shared(self.neck(list(self.backbone(pixels).feature_maps), rows, columns)[-1])
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        return self.depth(x)[0, 0].exp(), self.sky(x)[0, 0].relu()


def network_size(h: int, w: int) -> tuple[int, int]:
    """(height, width): the longer side 504, each side the nearest multiple of 14, ties upwards."""
    scale = _LONGER_SIDE_PX / max(h, w)
    patch = dinov2.PATCH_PX
    return tuple(max((round(side * scale) + patch // 2) // patch, 1) * patch for side in (h, w))  # type: ignore[return-value]


def read(network: DepthAnything3, image: Tensor) -> Reading:
    """What the network says of a picture [3, h, w] in 0..1."""
    h, w = image.shape[1:]
    size = network_size(h, w)
    small = F.interpolate(
        image[None], size=size, mode="bicubic", antialias=True, align_corners=False
    ).clamp(0.0, 1.0)
    answers = torch.stack(network(normalised(small, IMAGENET)))
    depth, sky = F.interpolate(answers[None], size=(h, w), mode="bilinear", align_corners=False)[0]
    shrunk = 0.5 * (size[0] / h + size[1] / w)

    def depth_for(focal_px: float | None) -> Tensor:
        """The focal length counts in pixels of the picture that the network saw."""
        focal = (
            float(intrinsics_from_fov(DEFAULT_FOV_DEG, w, h)[0, 0])
            if focal_px is None
            else focal_px
        )
        return depth * (focal * shrunk / _CANONICAL_FOCAL_PX)

    return Reading(depth_for, None, sky >= _SKY)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released file's tensors under the names that they have here."""
    result = {
        f"backbone.{n}": t for n, t in dinov2.names(tensor_file.part(state, _BACKBONE)).items()
    }
    for name, tensor in state.items():
        if name.startswith(_HEAD):
            name = name.removeprefix(_HEAD)
            for pattern, replacement in _NAMES:
                name = re.sub(pattern, replacement, name)
            result[name] = tensor
        elif not name.startswith(_BACKBONE):
            result[name.removeprefix("model.")] = tensor
    return result


def of_sizes(state: dict[str, Tensor], where: str) -> DepthAnything3:
    """The network without weights, its sizes read off the released file's tensors. Raises
    UserError.
    """
    backbone = dinov2.empty(tensor_file.part(state, _BACKBONE), _TAKEN, where, last_norm_eps=1e-5)
    try:
        widths = tuple(state[f"{_HEAD}projects.{k}.weight"].shape[0] for k in range(4))
        fused, last = (
            state[f"{_HEAD}scratch.{name}.weight"].shape[0]
            for name in ("layer1_rn", "output_conv2.0")
        )
    except KeyError as error:
        raise UserError(
            f"{where} is no metric Depth Anything 3: it lacks {error}.", _AGAIN
        ) from error
    with torch.device("meta"):
        return DepthAnything3(backbone, widths, fused, last)


def load(path: Path) -> DepthAnything3:
    """The network of the released file, on the CPU. Raises UserError for what is wrong with it."""
    state = tensor_file.read(path, _AGAIN)
    network = of_sizes(state, str(path))
    tensor_file.fill(network, renamed(state), torch.float32, str(path), _AGAIN)
    return network
