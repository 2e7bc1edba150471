"""The small depth network of our own: layers, and the file it ships in. Made by training/depth.

Input: a picture of about 6,000 pixels and, for each pixel, where its ray points (the lens).
Output at its size: log depth, the doubt of it, sky; for the picture: pitch, roll and the lens,
each with its doubt. It is a U-Net whose coarsest level looks at the whole picture at once by
attention. So few pixels are enough for the layout, and made and real pictures differ least
there; edges come back from the picture itself (`small_depth.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (24, 40, 96)  # channels at 1/2, 1/4, 1/8
MULTIPLE = 8


class Answer(NamedTuple):
    """What the network says, at the size of its input."""

    log_depth: Tensor  # [n, h, w] natural logarithm of metres along z
    log_doubt: Tensor  # [n, h, w] logarithm of the expected error of log_depth
    sky: Tensor  # [n, h, w] logit
    # [n, 6] pitch, roll (rad), log(focal / longer side), then the logarithms of their doubts
    camera: Tensor


class Look(NamedTuple):
    """What the network says of a picture, at the size of its input."""

    log_depth: Tensor  # [h, w]
    doubt: Tensor  # [h, w] expected error of log_depth
    sky: Tensor  # [h, w] 0..1
    pitch: float  # radians, above 0: looks down
    roll: float
    focal: float  # over the longer side
    pitch_doubt: float
    focal_doubt: float  # of its logarithm


class _Mixed(nn.Module):
    """Half of the channels normalised over the picture, half over the training set.

    The first half forgets a picture's light and contrast, which differ between made and real
    pictures more than its shapes do.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.share = channels // 2
        self.own = nn.InstanceNorm2d(self.share, affine=True)
        self.all = nn.BatchNorm2d(channels - self.share)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.own(x[:, : self.share]), self.all(x[:, self.share :])], 1)


def _block(
    inputs: int, outputs: int, stride: int = 1, kernel: int = 3, mixed: bool = False
) -> nn.Module:
    norm = _Mixed(outputs) if mixed else nn.BatchNorm2d(outputs)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, norm, nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _block(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class _Attention(nn.Module):
    """A transformer block over all cells of the coarsest level."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.between = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, cells, channels = x.shape
        qkv = self.qkv(self.before(x)).view(n, cells, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, cells, channels)
        x = x + self.out(seen)
        return x + self.down(F.gelu(self.up(self.between(x))))


class SmallDepth(nn.Module):
    """See the module's head."""

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        a, b, c = widths
        self.enter2 = _block(3, a, 2, 5, mixed=True)
        self.enter4 = nn.Sequential(_block(a, b, 2, mixed=True), _Residual(b))
        self.enter8 = nn.Sequential(_block(b + 3, c, 2), _Residual(c))
        self.place = nn.Linear(3, c)
        self.whole = nn.ModuleList(_Attention(c) for _ in range(3))
        self.camera = nn.Sequential(nn.Linear(2 * c, 64), nn.ReLU(), nn.Linear(64, 6))
        self.coarse = nn.Conv2d(c, 3, 1)
        self.up4 = _block(c + b + 3, b)
        self.narrow = _block(b, 16, 1, 1)
        self.up2 = _block(16 + a, 16)
        self.head = nn.Conv2d(16, 3, 3, 1, 1)
        nn.init.zeros_(self.camera[-1].weight)  # type: ignore[arg-type]

    def forward(self, image: Tensor, rays: Tensor) -> Answer:
        """image [n, 3, h, w] in 0..1, rays [n, 3, h / 4, w / 4] as `ray_field` gives them; h, w
        multiples of 8.
        """
        size = image.shape[2:]
        x2 = self.enter2((image - 0.45) * 4.0)
        x4 = torch.cat([self.enter4(x2), rays], 1)
        x8 = self.enter8(x4)
        n, c, h, w = x8.shape
        cells = x8.flatten(2).transpose(1, 2)
        cells = cells + self.place(F.avg_pool2d(rays, 2).flatten(2).transpose(1, 2))
        for block in self.whole:
            cells = block(cells)
        camera = self.camera(torch.cat([cells.mean(1), cells.amax(1)], 1))
        x8 = cells.transpose(1, 2).reshape(n, c, h, w)
        y4 = self.up4(torch.cat([_double(x8), x4], 1))
        y2 = self.up2(torch.cat([_double(self.narrow(y4)), x2], 1))
        plain = F.interpolate(
            self.coarse(x8), size=y2.shape[2:], mode="bilinear", align_corners=False
        )
        out = self.head(y2) + plain
        out = F.interpolate(out, size=size, mode="bilinear", align_corners=False)
        return Answer(out[:, 0] + 1.5, out[:, 1] - 1.0, out[:, 2], camera)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def ray_field(focal: Tensor, known: Tensor, height: int, width: int) -> Tensor:
    """[n, 3, height / 4, width / 4]: x / z and y / z of each ray, and 1 where the lens is known.

    focal [n]: focal length over the longer side of the picture; known [n]: 1 or 0.
    """
    h, w, longer = height // 4, width // 4, max(height, width)
    y = (torch.arange(h, device=focal.device) + 0.5) * 4 - height / 2
    x = (torch.arange(w, device=focal.device) + 0.5) * 4 - width / 2
    n = focal.shape[0]
    scale = 1.0 / (longer * focal)[:, None, None]
    return torch.stack(
        [
            (x[None, None, :] * scale).expand(n, h, w),
            (y[None, :, None] * scale).expand(n, h, w),
            known[:, None, None].expand(n, h, w),
        ],
        1,
    )
