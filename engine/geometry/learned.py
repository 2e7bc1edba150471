"""Learned depth models by name: each factory takes the settings and the device and loads its model.

The networks are those of the transformers library; what a picture goes through before and
after is here, because the library's own way needs torchvision. Weights are read from the weights
folder alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import model_folder, weights
from ..errors import UserError
from ..settings import GeometrySettings
from .base import DepthEstimate, DepthSource

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_SATURATED = 0.98  # share of a model's farthest depth from which it means sky
_DEPTH_PRO_SKY_M = 5_000.0  # it ends at 10 km
_NEAREST_M = 1e-3
_FOV_DEG = (5.0, 170.0)  # a model that says otherwise is not to be believed


def normalised(image: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """[1, 3, h, w] in 0..1 -> (x - mean) / deviation by channel."""
    mean, deviation = (torch.tensor(v, device=image.device)[:, None, None] for v in statistics)
    return (image - mean) / deviation


def network_size(h: int, w: int, wanted: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(height, width) close to h x w in aspect, scaled as little as possible to fit one side of `wanted`, in multiples."""
    scale = min(wanted[0] / h, wanted[1] / w, key=lambda s: abs(1.0 - s))
    return tuple(max(round(side * scale / multiple), 1) * multiple for side in (h, w))  # type: ignore[return-value]


class _Raw(NamedTuple):
    """What a model says of a picture [3, h, w]."""

    depth_m: Tensor  # [h, w]
    fov_deg: float | None  # horizontal
    sky_from_m: float  # depth from which it means sky


class _DepthAnything:
    """Depth Anything V2 (arXiv 2406.09414), metric: sides of about 518 in steps of 14, aspect kept."""

    def __init__(self, network: nn.Module, outdoor: bool) -> None:
        self.network, self.outdoor = network, outdoor

    def __call__(self, image: Tensor) -> _Raw:
        h, w = image.shape[1:]
        size = network_size(h, w, (518, 518), 14)
        small = F.interpolate(image[None], size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 1.0)
        depth = self.network(normalised(small, _IMAGENET)).predicted_depth
        far = float(self.network.config.max_depth)  # type: ignore[union-attr, arg-type]
        depth = F.interpolate(depth[None].float(), size=(h, w), mode="bilinear", align_corners=False)[0, 0]
        return _Raw(depth, None, _SATURATED * far if self.outdoor else float("inf"))


class _ZoeDepth:
    """ZoeDepth (arXiv 2302.12288): 384 x 512 in steps of 32, on a picture with mirrored borders."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, image: Tensor) -> _Raw:
        h, w = image.shape[1:]
        top, left = (min(int((side / 2.0) ** 0.5 * 3.0), side - 1) for side in (h, w))
        padded = F.pad(image[None], (left, left, top, top), mode="reflect")
        size = network_size(padded.shape[2], padded.shape[3], (384, 512), 32)
        small = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
        depth = self.network(normalised(small, _HALF)).predicted_depth
        depth = F.interpolate(depth[None].float(), size=padded.shape[2:], mode="bicubic", align_corners=False)[0, 0]
        return _Raw(depth[top : top + h, left : left + w], None, float("inf"))


class _DepthPro:
    """Depth Pro (arXiv 2410.02073): 1536 x 1536, inverse depth for a canonical camera, and the field of view."""

    SIDE = 1536

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, image: Tensor) -> _Raw:
        h, w = image.shape[1:]
        square = F.interpolate(image[None], size=(self.SIDE, self.SIDE), mode="bilinear", align_corners=False)
        output = self.network(normalised(square, _HALF))
        fov = output.field_of_view.float().reshape(())
        focal_px = 0.5 * w / torch.tan(0.5 * torch.deg2rad(fov))
        inverse = output.predicted_depth[None].float() * (w / focal_px)
        inverse = F.interpolate(inverse, size=(h, w), mode="bilinear", align_corners=False)[0, 0]
        return _Raw(1.0 / inverse.clamp(1e-4, 1e4), float(fov), _DEPTH_PRO_SKY_M)


class LearnedDepth:
    """A depth source (see base.py) on a network."""

    def __init__(self, name: str, licence: str, device: torch.device, model: Callable[[Tensor], _Raw]) -> None:
        self.name, self.licence = name, licence
        self._device, self._model = device, model
        self._last: tuple[Tensor, _Raw] | None = None

    def intrinsics(self, image: Tensor) -> Tensor | None:
        """K [3, 3] from the model's field of view, with square pixels and the centre in the middle."""
        raw = self._look(image)
        return None if raw.fov_deg is None else _camera(raw.fov_deg, image)

    def estimate(self, image: Tensor, K_hint: Tensor | None) -> DepthEstimate:
        raw = self._look(image)
        depth, notes = raw.depth_m.to(image.device), []
        if not bool(torch.isfinite(depth).all()):
            raise UserError(f"{self.name} gave depth that is not a number.", "Its weights may be damaged: python -m engine weights verify.")
        sky = depth >= raw.sky_from_m
        depth = depth.clamp(min=_NEAREST_M)
        if bool(sky.any()) and not bool(sky.all()):
            depth = depth.masked_fill(sky, float("inf"))
            notes.append(f"{100.0 * float(sky.float().mean()):.0f} % of the picture taken as sky")
        K = None if raw.fov_deg is None else _camera(raw.fov_deg, image)
        if K is not None and K_hint is not None:
            # inverse depth was scaled by the model's own focal length; a known camera knows better
            depth = depth * (float(K_hint[0, 0]) / float(K[0, 0]))
            K = K_hint
            notes.append(f"focal length given, the model would say {float(_camera(raw.fov_deg or 60.0, image)[0, 0]):.0f} px")
        return DepthEstimate(depth, K, True, self.licence, self.name, tuple(notes))

    @torch.no_grad()
    def _look(self, image: Tensor) -> _Raw:
        """The network's answer, kept: field of view and depth of a picture are asked for one after the other."""
        if self._last is None or self._last[0] is not image:
            self._last = (image, self._model(image.to(self._device, torch.float32)))
        raw = self._last[1]
        if raw.fov_deg is not None and not _FOV_DEG[0] <= raw.fov_deg <= _FOV_DEG[1]:
            raise UserError(f"{self.name} takes the field of view for {raw.fov_deg:.1f} degrees.", "Set fov, or another depth source.")
        return raw


def _camera(fov_deg: float, image: Tensor) -> Tensor:
    h, w = image.shape[1:]
    focal = 0.5 * w / float(torch.tan(torch.deg2rad(torch.tensor(0.5 * fov_deg))))
    return torch.tensor([[focal, 0.0, 0.5 * w], [0.0, focal, 0.5 * h], [0.0, 0.0, 1.0]])


def load(name: str, folder: Path, device: torch.device) -> LearnedDepth:
    """The model `name` of LEARNED from a folder in transformers' layout. Raises UserError for what is wrong with it."""
    from transformers import DepthAnythingForDepthEstimation, DepthProForDepthEstimation, ZoeDepthForDepthEstimation

    kinds: dict[str, tuple[type[nn.Module], Callable[[nn.Module], Callable[[Tensor], _Raw]]]] = {
        "depth_anything_v2_indoor": (DepthAnythingForDepthEstimation, lambda n: _DepthAnything(n, outdoor=False)),
        "depth_anything_v2_outdoor": (DepthAnythingForDepthEstimation, lambda n: _DepthAnything(n, outdoor=True)),
        "zoedepth": (ZoeDepthForDepthEstimation, _ZoeDepth),
        "depth_pro": (DepthProForDepthEstimation, _DepthPro),
    }
    kind, wrap = kinds[name]
    network = model_folder.part(folder, "", kind, torch.float32).to(device)
    if kind is DepthAnythingForDepthEstimation and network.config.depth_estimation_type != "metric":  # type: ignore[union-attr]
        raise UserError(f"{folder} holds relative depth, without metres.", "Take the metric weights of Depth Anything V2.")
    if kind is DepthProForDepthEstimation and not network.config.use_fov_model:  # type: ignore[union-attr]
        raise UserError(f"{folder} lacks the field-of-view head.", f"Run: python -m engine weights download {name}")
    return LearnedDepth(name, weights.known(name).licence, device, wrap(network))


def _from_settings(name: str) -> Callable[[GeometrySettings, torch.device], DepthSource]:
    return lambda settings, device: load(name, weights.require(name), device)


LEARNED: dict[str, Callable[[GeometrySettings, torch.device], DepthSource]] = {
    name: _from_settings(name) for name, entry in weights.WEIGHTS.items() if entry.kind == "depth"
}
