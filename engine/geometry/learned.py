"""Learned depth models by name: each factory takes the settings and the device and loads its model.

The networks are those of the transformers library; what a picture goes through before and
after is here, because the library's own way needs torchvision. Weights are read from the weights
folder alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bridge.errors import UserError
from ..bridge.settings import GeometrySettings
from ..models import model_folder, registry, weights
from ..models.device import networks_at_work
from ..models.registry import DEPTHS
from .base import IMAGENET, DepthEstimate, DepthSource, Reading, normalised

_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_SATURATED = 0.98  # share of a model's farthest depth from which it means sky
_DEPTH_PRO_SKY_M = 5_000.0  # it ends at 10 km
_NEAREST_M = 1e-3
_FOV_DEG = (5.0, 170.0)  # a model that says otherwise is not to be believed


def network_size(h: int, w: int, wanted: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(height, width) close to h x w in aspect, scaled as little as possible to fit one side of
    `wanted`, in multiples.
    """
    scale = min(wanted[0] / h, wanted[1] / w, key=lambda s: abs(1.0 - s))
    return tuple(max(round(side * scale / multiple), 1) * multiple for side in (h, w))  # type: ignore[return-value]


class _DepthAnything:
    """Depth Anything V2 (arXiv 2406.09414), metric: sides of about 518 in steps of 14, aspect
    kept.
    """

    def __init__(self, network: nn.Module, outdoor: bool) -> None:
        self.network, self.outdoor = network, outdoor

    def __call__(self, image: Tensor) -> Reading:
        h, w = image.shape[1:]
        size = network_size(h, w, (518, 518), 14)
        small = F.interpolate(
            image[None], size=size, mode="bicubic", antialias=True, align_corners=False
        ).clamp(0.0, 1.0)
        depth = self.network(normalised(small, IMAGENET)).predicted_depth
        far = float(self.network.config.max_depth)  # type: ignore[union-attr, arg-type]
        depth = F.interpolate(
            depth[None].float(), size=(h, w), mode="bilinear", align_corners=False
        )[0, 0]
        sky = (
            depth >= _SATURATED * far if self.outdoor else torch.zeros_like(depth, dtype=torch.bool)
        )
        return Reading(lambda focal_px: depth, None, sky)


class _ZoeDepth:
    """ZoeDepth (arXiv 2302.12288): 384 x 512 in steps of 32, on a picture with mirrored borders."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, image: Tensor) -> Reading:
        h, w = image.shape[1:]
        top, left = (min(int((side / 2.0) ** 0.5 * 3.0), side - 1) for side in (h, w))
        padded = F.pad(image[None], (left, left, top, top), mode="reflect")
        size = network_size(padded.shape[2], padded.shape[3], (384, 512), 32)
        small = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
        depth = self.network(normalised(small, _HALF)).predicted_depth
        depth = F.interpolate(
            depth[None].float(), size=padded.shape[2:], mode="bicubic", align_corners=False
        )[0, 0]
        depth = depth[top : top + h, left : left + w]
        return Reading(lambda focal_px: depth, None, torch.zeros_like(depth, dtype=torch.bool))


class _DepthPro:
    """Depth Pro (arXiv 2410.02073): 1536 x 1536, inverse depth for a canonical camera, and the
    field of view.
    """

    SIDE = 1536

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, image: Tensor) -> Reading:
        h, w = image.shape[1:]
        square = F.interpolate(
            image[None], size=(self.SIDE, self.SIDE), mode="bilinear", align_corners=False
        )
        output = self.network(normalised(square, _HALF).to(next(self.network.parameters()).dtype))
        fov = output.field_of_view.float().reshape(())
        own_focal = float(0.5 * w / torch.tan(0.5 * torch.deg2rad(fov)))
        canonical = (
            F.interpolate(
                output.predicted_depth[None].float(),
                size=(h, w),
                mode="bilinear",
                align_corners=False,
            )[0, 0]
            * w
        )

        def depth_for(focal_px: float | None) -> Tensor:
            return 1.0 / (canonical / (focal_px or own_focal)).clamp(1e-4, 1e4)

        return Reading(depth_for, float(fov), depth_for(None) >= _DEPTH_PRO_SKY_M)


class LearnedDepth:
    """A depth source (see base.py) on a network."""

    lens_is_a_guess = False

    def __init__(
        self, name: str, licence: str, device: torch.device, model: Callable[[Tensor], Reading]
    ) -> None:
        self.name, self.licence = name, licence
        self._device, self._model = device, model
        self._last: tuple[Tensor, Reading] | None = None

    def intrinsics(self, image: Tensor) -> Tensor | None:
        """K [3, 3] from the model's field of view, with square pixels and the centre in the
        middle.
        """
        return self._own_camera(self._look(image), image)

    def estimate(self, image: Tensor, K_hint: Tensor | None) -> DepthEstimate:
        raw, notes = self._look(image), []
        depth = raw.depth_for(
            None if K_hint is None else float(K_hint[0, 0] * K_hint[1, 1]) ** 0.5
        ).to(image.device)
        sky = raw.sky.to(image.device)
        if not bool(torch.isfinite(depth).all()):
            raise UserError(
                f"{self.name} gave depth that is not a number.",
                "Its weights may be damaged: python -m engine weights verify.",
            )
        depth = depth.clamp(min=_NEAREST_M)
        if bool(sky.any()) and not bool(sky.all()):
            depth = depth.masked_fill(sky, float("inf"))
            notes.append(f"{100.0 * float(sky.float().mean()):.0f} % of the picture taken as sky")
        K = (
            K_hint
            if K_hint is not None and raw.fov_deg is not None
            else self._own_camera(raw, image)
        )
        if K_hint is not None and raw.fov_deg is not None:
            notes.append(f"field of view given, the model would say {raw.fov_deg:.1f} degrees")
        return DepthEstimate(depth, K, True, self.licence, self.name, tuple(notes))

    @torch.no_grad()
    def _look(self, image: Tensor) -> Reading:
        """The network's answer, kept: field of view and depth of a picture are asked for one after
        the other.
        """
        if self._last is None or self._last[0] is not image:
            try:
                with networks_at_work():
                    self._last = (image, self._model(image.to(self._device, torch.float32)))
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{self.name} does not fit into the graphics memory that is free.",
                    "Close other programs that use the card, or take depth moge_2_small.",
                ) from error
        return self._last[1]

    def _own_camera(self, raw: Reading, image: Tensor) -> Tensor | None:
        if raw.fov_deg is None:
            return None
        if not _FOV_DEG[0] <= raw.fov_deg <= _FOV_DEG[1]:
            raise UserError(
                f"{self.name} takes the field of view for {raw.fov_deg:.1f} degrees.",
                "Set fov, or another depth source.",
            )
        return _camera(raw.fov_deg, image)


def _camera(fov_deg: float, image: Tensor) -> Tensor:
    h, w = image.shape[1:]
    focal = 0.5 * w / float(torch.tan(torch.deg2rad(torch.tensor(0.5 * fov_deg))))
    return torch.tensor([[focal, 0.0, 0.5 * w], [0.0, focal, 0.5 * h], [0.0, 0.0, 1.0]])


def load(name: str, folder: Path, device: torch.device) -> LearnedDepth:
    """The model `name` of LEARNED from its weights folder. Raises UserError for what is wrong with
    it.
    """
    row = weights.known(name)
    model = registry.factory(row, __package__)(name, folder, device)
    return LearnedDepth(name, row.licence, device, model)


def depth_anything_v2(name: str, folder: Path, device: torch.device) -> Callable[[Tensor], Reading]:
    from transformers import DepthAnythingForDepthEstimation

    network = model_folder.part(folder, "", DepthAnythingForDepthEstimation, torch.float32).to(
        device
    )
    if network.config.depth_estimation_type != "metric":
        raise UserError(
            f"{folder} holds relative depth, without metres.",
            "Take the metric weights of Depth Anything V2.",
        )
    return _DepthAnything(network, outdoor=name.endswith("outdoor"))


def zoedepth(name: str, folder: Path, device: torch.device) -> Callable[[Tensor], Reading]:
    from transformers import ZoeDepthForDepthEstimation

    return _ZoeDepth(
        model_folder.part(folder, "", ZoeDepthForDepthEstimation, torch.float32).to(device)
    )


def depth_pro(name: str, folder: Path, device: torch.device) -> Callable[[Tensor], Reading]:
    from transformers import DepthProForDepthEstimation

    # its weights are released in 16 bits; in 32 it takes 7.4 GiB of a card instead of 3.7
    kind = torch.float16 if device.type == "cuda" else torch.float32
    network = model_folder.part(folder, "", DepthProForDepthEstimation, kind).to(device)
    if not network.config.use_fov_model:
        raise UserError(
            f"{folder} lacks the field-of-view head.",
            f"Run: python -m engine weights download {name}",
        )
    return _DepthPro(network)


def moge(name: str, folder: Path, device: torch.device) -> Callable[[Tensor], Reading]:
    from .networks import moge as network

    return functools.partial(
        network.read, network.load(weights.checkpoint_in(name, folder)).to(device)
    )


def depth_anything_3(name: str, folder: Path, device: torch.device) -> Callable[[Tensor], Reading]:
    from .networks import depth_anything_3 as network

    return functools.partial(
        network.read, network.load(weights.checkpoint_in(name, folder)).to(device)
    )


def _from_settings(name: str) -> Callable[[GeometrySettings, torch.device], DepthSource]:
    return lambda settings, device: load(name, weights.require(name), device)


LEARNED: dict[str, Callable[[GeometrySettings, torch.device], DepthSource]] = {
    name: _from_settings(name) for name in DEPTHS
}
