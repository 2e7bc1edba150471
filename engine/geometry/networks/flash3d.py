"""Flash3D (arXiv 2406.04343): first Gaussians predicted from a picture and its depth, two for every
pixel.

The architecture is written from its description and the released state dict: a ResNet-50
over colour and depth, a decoder for the distance of the second layer behind the first, and a
decoder for the Gaussians of each layer. The released model takes its depth from UniDepth, whose
weights lie in the same file and are for non-commercial use; here any depth source gives it, and
that part of the file is not read.

A border of 32 pixels is added on every side, so that the scene goes on a little beyond the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...bridge.errors import UserError
from ...models import tensor_file
from ...scene.gaussians import Gaussians
from ...scene.pixels import pixel_centres

BORDER_PX = 32
LAYERS = 2
_PREFIX = "models.unidepth_extended."
_SPLIT = (3, 1, 3, 4, 3, 9)  # offset, opacity, scale, rotation, constant and linear colour
_SCALE_UNIT_M = 0.01
_DEPTH_UNIT_M = 20.0  # brings depth to the range of colour
_DISTANCE_LOG = (-10.0, 6.0)
_AGAIN = "Run: python -m engine weights verify flash3d - or download it again."


@dataclass(frozen=True)
class Flash3DConfig:
    """Sizes of the network. The defaults are those of the released checkpoint."""

    stem: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    depth_channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    gaussian_channels: tuple[int, ...] = (32, 32, 64, 128, 256)


class _Bottleneck(nn.Module):
    """A residual block of ResNet-50 (arXiv 1512.03385), the stride on its 3 x 3 convolution."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = (
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )
        else:
            self.downsample = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class _Encoder(nn.Module):
    """[b, 4, h, w] -> features at 1/2, 1/4, ..., 1/32; the first ones before their norm, which
    would lose absolute colour.
    """

    def __init__(self, config: Flash3DConfig) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, config.stem, 7, 2, 3), nn.BatchNorm2d(config.stem)
        channels = config.stem
        for k, count in enumerate(config.blocks):
            width = config.stem * 2**k
            stages = [
                _Bottleneck(channels if b == 0 else 4 * width, width, 2 if k and b == 0 else 1)
                for b in range(count)
            ]
            self.add_module(f"layer{k + 1}", nn.Sequential(*stages))
            channels = 4 * width

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv1((x - 0.45) / 0.225)
        features = [x]
        x = F.max_pool2d(F.relu(self.bn1(x)), 3, 2, 1)
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
            features.append(x)
        return features


class _Conv(nn.Module):
    """3 x 3 convolution with mirrored borders."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))


class _ConvELU(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv = _Conv(i, o)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.conv(x))


class _Decoder(nn.Module):
    """Features -> a map at full size: five times a convolution, doubling, the encoder's features, a
    convolution.
    """

    def __init__(
        self,
        config: Flash3DConfig,
        channels: tuple[int, ...],
        out_channels: int,
        *,
        last_is_3x3: bool,
    ) -> None:
        super().__init__()
        encoder = [config.stem] + [4 * config.stem * 2**k for k in range(4)]
        layers: list[nn.Module] = []
        for k in range(4, -1, -1):
            layers.append(_ConvELU(encoder[4] if k == 4 else channels[k + 1], channels[k]))
            layers.append(_ConvELU(channels[k] + (encoder[k - 1] if k else 0), channels[k]))
        if last_is_3x3:
            layers.append(_Conv(channels[0], out_channels))
        else:
            self.out = nn.Conv2d(channels[0], out_channels, 1)
        self.decoder = nn.ModuleList(layers)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for k in range(4, -1, -1):
            x = F.interpolate(self.decoder[2 * (4 - k)](x), scale_factor=2.0, mode="nearest")
            x = self.decoder[2 * (4 - k) + 1](torch.cat([x, features[k - 1]], dim=1) if k else x)
        return self.out(x) if hasattr(self, "out") else self.decoder[10](x)


class Flash3D(nn.Module):
    """Colour and depth -> the raw maps of both layers."""

    def __init__(self, config: Flash3DConfig) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"encoder": _Encoder(config)})
        decoders = {"depth": _Decoder(config, config.depth_channels, LAYERS - 1, last_is_3x3=True)}
        for k in range(LAYERS):
            decoders[f"gauss_decoder_{k}"] = _Decoder(
                config, config.gaussian_channels, sum(_SPLIT), last_is_3x3=False
            )
        self.models = nn.ModuleDict(decoders)

    def forward(self, image: Tensor, depth_m: Tensor) -> tuple[Tensor, Tensor]:
        """image [1, 3, h, w], depth_m [1, 1, h, w], sides multiples of 32 -> depth [2, h, w] of the
        layers, raw maps [2, 23, h, w].
        """
        features = self.encoder["encoder"](torch.cat([image, depth_m / _DEPTH_UNIT_M], dim=1))
        distance = self.models["depth"](features).clamp(*_DISTANCE_LOG).exp()
        depths = torch.cat([depth_m, distance], dim=1).cumsum(dim=1)[0]
        return depths, torch.cat(
            [self.models[f"gauss_decoder_{k}"](features) for k in range(LAYERS)]
        )


def gaussians_of(depths: Tensor, raw: Tensor, K: Tensor) -> Gaussians:
    """The maps of `Flash3D` -> Gaussians of degree 1, layer by layer, row by row.

    depths [2, h, w] metres, raw [2, 23, h, w], K [3, 3] of these maps. Every map is taken with
    channels last before pixels become a list: the release did not, and mixed colours and scales up.
    """
    layers, h, w = depths.shape
    u, v = pixel_centres(h, w, raw.device)
    rays = (
        torch.stack([u, v, torch.ones_like(u)], dim=-1)
        @ torch.linalg.inv(K.float()).to(raw.device).T
    )
    offset, opacity, scale, rotation, dc, rest = (
        raw.permute(0, 2, 3, 1).reshape(layers * h * w, -1).split(_SPLIT, dim=1)
    )
    means = (rays * depths[..., None]).reshape(-1, 3) + offset
    scales_log = scale + math.log(_SCALE_UNIT_M)
    return Gaussians(means, rotation, scales_log, opacity[:, 0], dc, rest.reshape(-1, 3, 3))


@torch.no_grad()
def predict(network: Flash3D, image: Tensor, depth_m: Tensor, K: Tensor) -> Gaussians:
    """First Gaussians in the axes of the picture's camera.

    image [3, h, w] in 0..1, depth_m [h, w] metres above 0 (inf: sky, put beyond the rest), K [3, 3]
    pixels.
    """
    h, w = depth_m.shape
    finite = depth_m[torch.isfinite(depth_m)]
    if finite.numel() == 0:
        raise ValueError("flash3d: depth is sky alone")
    depth_m = torch.where(torch.isfinite(depth_m), depth_m, 2.0 * finite.max())
    extra_h, extra_w = (-side % 32 for side in (h, w))
    around = (BORDER_PX, BORDER_PX + extra_w, BORDER_PX, BORDER_PX + extra_h)
    padded = F.pad(image[None].float(), around)
    depth = F.pad(depth_m[None, None].float(), around, mode="replicate")
    shift = torch.zeros_like(K)
    shift[0, 2] = shift[1, 2] = BORDER_PX
    depths, raw = network(padded, depth)
    gaussians = gaussians_of(depths, raw, K + shift)
    keep = torch.isfinite(
        torch.cat([t.flatten(1) if t.ndim > 1 else t[:, None] for t in gaussians], dim=1)
    ).all(dim=1)
    return gaussians.select(keep & (gaussians.means[:, 2] > 0))


def load(path: Path, config: Flash3DConfig | None = None) -> Flash3D:
    """The network from the released file, on the CPU. Raises UserError for what is wrong with it;
    nothing but tensors is unpickled.
    """
    content = tensor_file.read(path, _AGAIN)
    if not isinstance(content.get("model"), dict):
        raise UserError(f"{path} is no Flash3D checkpoint.", _AGAIN)
    unused = (f"{_PREFIX}unidepth.", f"{_PREFIX}encoder.encoder.fc.", "backproject_depth.")
    kept = {
        name.removeprefix(_PREFIX): t
        for name, t in content["model"].items()
        if not name.startswith(unused)
    }
    network = Flash3D(config or Flash3DConfig())
    tensor_file.fill(network, kept, torch.float32, str(path), _AGAIN)
    return network
