"""MoGe-2 (arXiv 2507.02546): points in metres and the field of view from one picture.

Written from the paper and the released state dict: DINOv2, a pyramid of convolutions ("neck") and
one more for each answer: points up to a shift along the axis of view, a mask of what has a
distance, and the scale in metres. Shift and focal length are those under which the points project
to their own pixels. The checkpoint tells its own sizes, so every released size of the model is
read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...bridge.errors import UserError
from ...models import tensor_file
from ..base import IMAGENET, Reading, normalised
from . import dinov2

_AGAIN = "Run: python -m engine weights verify moge_2 (or moge_2_small) - or download it again."
_BACKBONE = "encoder.backbone."
_TOKENS = (1200, 3600)  # where the checkpoint says nothing; the most are taken
_SOLVER_SIDE = 64  # points of a grid this fine decide on shift and focal length
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group_norm": lambda c: nn.GroupNorm(c // 32, c),
    "layer_norm": lambda c: nn.GroupNorm(1, c),
    "instance_norm": nn.InstanceNorm2d,
    "none": lambda c: nn.Identity(),
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "silu": nn.SiLU,
    "elu": nn.ELU,
}


@dataclass(frozen=True)
class StackConfig:
    """Sizes of one pyramid, under the names of the checkpoint's own description; coarsest level
    first.
    """

    dim_in: tuple[int | None, ...]
    dim_res_blocks: tuple[int, ...]
    dim_out: tuple[int | None, ...]
    num_res_blocks: tuple[int, ...]
    resamplers: tuple[str, ...]
    dim_times_res_block_hidden: int = 1
    res_block_in_norm: str = "layer_norm"
    res_block_hidden_norm: str = "group_norm"
    activation: str = "relu"

    @staticmethod
    def of(given: dict[str, Any]) -> StackConfig:
        """From the description; a single value stands for every level."""
        levels = len(given["dim_res_blocks"])
        spread = {
            name: tuple(value) if isinstance(value, list | tuple) else (value,) * count
            for name, count in (
                ("dim_in", levels),
                ("dim_out", levels),
                ("num_res_blocks", levels),
                ("resamplers", levels - 1),
            )
            for value in (given.get(name, 1 if name == "num_res_blocks" else None),)
        }
        return StackConfig(**{**given, "dim_res_blocks": tuple(given["dim_res_blocks"]), **spread})


def _conv3(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="replicate")


class _Residual(nn.Module):
    def __init__(self, channels: int, config: StackConfig) -> None:
        super().__init__()
        hidden, activation = (
            config.dim_times_res_block_hidden * channels,
            _ACTIVATIONS[config.activation],
        )
        self.layers = nn.Sequential(
            _NORMS[config.res_block_in_norm](channels),
            activation(),
            _conv3(channels, hidden),
            _NORMS[config.res_block_hidden_norm](hidden),
            activation(),
            _conv3(hidden, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _twice_as_fine(kind: str, c_in: int, c_out: int) -> nn.Sequential:
    if kind == "conv_transpose":
        return nn.Sequential(nn.ConvTranspose2d(c_in, c_out, 2, stride=2), _conv3(c_out, c_out))
    if kind == "pixel_shuffle":
        return nn.Sequential(_conv3(c_in, 4 * c_out), nn.PixelShuffle(2), _conv3(c_out, c_out))
    if kind in ("bilinear", "nearest"):
        return nn.Sequential(nn.Upsample(scale_factor=2, mode=kind), _conv3(c_in, c_out))
    raise KeyError(kind)


class _Stack(nn.Module):
    """A pyramid: features of every level in, features of every level out, each level twice as fine
    as the one before.
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        widths = config.dim_res_blocks
        self.input_blocks = nn.ModuleList(
            _joint(a, b) for a, b in zip(config.dim_in, widths, strict=True)
        )
        self.resamplers = nn.ModuleList(
            _twice_as_fine(kind, a, b)
            for kind, a, b in zip(config.resamplers, widths[:-1], widths[1:], strict=True)
        )
        self.res_blocks = nn.ModuleList(
            nn.Sequential(*(_Residual(c, config) for _ in range(n)))
            for c, n in zip(widths, config.num_res_blocks, strict=True)
        )
        self.output_blocks = nn.ModuleList(
            _joint(a, b) for a, b in zip(widths, config.dim_out, strict=True)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        x, out = None, []
        for k, (enter, blocks, leave) in enumerate(
            zip(self.input_blocks, self.res_blocks, self.output_blocks, strict=True)
        ):
            given = enter(features[k])
            x = blocks(given if x is None else self.resamplers[k - 1](x) + given)
            out.append(leave(x))
        return out


def _joint(c_in: int | None, c_out: int | None) -> nn.Module:
    return nn.Identity() if c_in is None or c_out is None else nn.Conv2d(c_in, c_out, 1)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def view_plane(rows: int, columns: int, aspect: float) -> Tensor:
    """[2, rows, columns]: where cells lie on the picture, x right and y down, half its diagonal
    being 1.
    """
    diagonal = (1.0 + aspect**2) ** 0.5
    x, y = (
        torch.linspace(-1.0, 1.0, n) * (span / diagonal * (n - 1) / n) if n > 1 else torch.zeros(1)
        for n, span in ((columns, aspect), (rows, 1.0))
    )
    return torch.stack([x[None].expand(rows, -1), y[:, None].expand(-1, columns)])


_REMAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda xy, z: torch.cat([xy, z]),
    "sinh": lambda xy, z: torch.cat([xy, z]).sinh(),
    "exp": lambda xy, z: torch.cat([xy * z.exp(), z.exp()]),
    "sinh_exp": lambda xy, z: torch.cat([xy.sinh(), z.exp()]),
}


class _Encoder(nn.Module):
    """Picture -> the coarsest features [1, c, rows, columns] and the class token [1, d]."""

    def __init__(self, backbone: nn.Module, maps: int, channels: int) -> None:
        super().__init__()
        width: Any = backbone.config.hidden_size  # type: ignore[union-attr]
        self.backbone = backbone
        self.output_projections = nn.ModuleList(nn.Conv2d(width, channels, 1) for _ in range(maps))

    def forward(self, image: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        size = (dinov2.PATCH_PX * rows, dinov2.PATCH_PX * columns)
        small = F.interpolate(
            image[None], size=size, mode="bilinear", align_corners=False, antialias=True
        )
        maps = self.backbone(normalised(small, IMAGENET)).feature_maps
        grids = [m[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)) for m in maps]
        projected = [p(g) for p, g in zip(self.output_projections, grids, strict=True)]
        return torch.stack(projected).sum(dim=0), maps[-1][:, 0]


class MoGe(nn.Module):
    """Picture -> points [3, h, w] up to scale and shift, mask [h, w] in 0..1 of what has a
    distance, metres of one unit.
    """

    def __init__(self, config: dict[str, Any], backbone: nn.Module) -> None:
        """`config` is the checkpoint's own description."""
        super().__init__()
        taken = config["encoder"]["intermediate_layers"]
        maps = taken if isinstance(taken, int) else len(taken)
        self.encoder = _Encoder(backbone, maps, config["encoder"]["dim_out"])
        self.neck, self.points_head, self.mask_head = (
            _Stack(StackConfig.of(config[name])) for name in ("neck", "points_head", "mask_head")
        )
        self.scale_head = _mlp(config["scale_head"]["dims"])
        self.tokens = max(config.get("num_tokens_range", _TOKENS))
        self._remap = _REMAPS[config.get("remap_output", "linear")]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, float]:
        """image [3, h, w] in 0..1."""
        h, w = image.shape[1:]
        aspect = w / h
        rows, columns = (max(round((self.tokens * a) ** 0.5), 1) for a in (1.0 / aspect, aspect))
        features, class_token = self.encoder(image, rows, columns)
        levels = []
        for k in range(len(self.neck.res_blocks)):
            plane = view_plane(rows * 2**k, columns * 2**k, aspect)[None].to(image)
            levels.append(torch.cat([features, plane], dim=1) if k == 0 else plane)
        levels = self.neck(levels)
        points, mask = (
            F.interpolate(head(levels)[-1], size=(h, w), mode="bilinear", align_corners=False)[0]
            for head in (self.points_head, self.mask_head)
        )
        return (
            self._remap(points[:2], points[2:]),
            mask[0].sigmoid(),
            float(self.scale_head(class_token).exp()),
        )


def shift_and_focal(
    points: Tensor, mask: Tensor, focal: float | None = None
) -> tuple[float, float]:
    """(shift along z, focal length in half diagonals) that best project points [3, h, w] to their
    own pixels.

    Least squares of focal * (x, y) / (z + shift) - (u, v) over a coarse grid of the pixels of
    `mask` [h, w] bool; `focal`: if it is known, only the shift is looked for. (0, 1) where there is
    too little to tell.
    """
    from scipy.optimize import least_squares

    h, w = mask.shape
    stacked = torch.cat([points, view_plane(h, w, w / h).to(points), mask[None].to(points)])
    coarse = F.interpolate(stacked[None], size=(_SOLVER_SIDE, _SOLVER_SIDE), mode="nearest")[
        0
    ].flatten(1)
    xy, z, uv = (t.T.double().cpu().numpy() for t in (coarse[:2], coarse[2:3], coarse[3:5]))
    kept = coarse[5].cpu().numpy() > 0
    xy, z, uv = xy[kept], z[kept], uv[kept]
    if len(uv) < 2:
        return 0.0, 1.0 if focal is None else focal

    def best(shift: np.ndarray) -> tuple[np.ndarray, float]:
        seen = xy / (z + shift)
        return seen, float((seen * uv).sum() / np.square(seen).sum()) if focal is None else focal

    def error(shift: np.ndarray) -> np.ndarray:
        seen, f = best(shift)
        return (f * seen - uv).ravel()

    shift = least_squares(error, x0=np.zeros(1), ftol=1e-3, method="lm").x
    return float(shift[0]), best(shift)[1]


def read(network: MoGe, image: Tensor) -> Reading:
    """What the network says of a picture [3, h, w] in 0..1. What has no distance counts as sky."""
    h, w = image.shape[1:]
    points, mask, metres = network(image)
    known = mask > 0.5
    half_diagonal = 0.5 * (h**2 + w**2) ** 0.5
    own_shift, own_focal = shift_and_focal(points, known)

    def depth_for(focal_px: float | None) -> Tensor:
        shift = (
            own_shift
            if focal_px is None
            else shift_and_focal(points, known, focal_px / half_diagonal)[0]
        )
        return metres * (points[2] + shift)

    fov = 2.0 * float(np.degrees(np.arctan(0.5 * w / (own_focal * half_diagonal))))
    return Reading(depth_for, fov, ~known)


def load(path: Path) -> MoGe:
    """The network of a released file, on the CPU. Raises UserError for what is wrong with it."""
    content = tensor_file.read(path, _AGAIN)
    config, state = content.get("model_config"), content.get("model")
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise UserError(f"{path} is no MoGe-2 checkpoint.", _AGAIN)
    network = of_description(config, state, str(path))
    tensor_file.fill(network, renamed(state), torch.float32, str(path), _AGAIN)
    return network


def of_description(config: dict[str, Any], state: dict[str, Tensor], where: str) -> MoGe:
    """The network without weights that a checkpoint describes. `where` names the file in messages.
    Raises UserError.
    """
    lacking = [
        name
        for name in ("encoder", "neck", "points_head", "mask_head", "scale_head")
        if not config.get(name)
    ]
    if lacking:
        raise UserError(
            f"{where} is no MoGe-2 checkpoint with metres: its description lacks "
            f"{', '.join(lacking)}.",
            _AGAIN,
        )
    backbone = dinov2.empty(
        tensor_file.part(state, _BACKBONE), config["encoder"]["intermediate_layers"], where
    )
    try:
        with torch.device("meta"):
            return MoGe(config, backbone)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} describes a network that is not known here ({error!r}).", _AGAIN
        ) from error


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors under the names that they have here, without those that are not
    used.
    """
    unused = ("normal_head.", "encoder.image_mean", "encoder.image_std", _BACKBONE)
    kept = {name: t for name, t in state.items() if not name.startswith(unused)}
    return kept | {
        f"{_BACKBONE}{name}": t
        for name, t in dinov2.names(tensor_file.part(state, _BACKBONE)).items()
    }
