"""DINOv2 (arXiv 2304.07193) as the backbone of depth models, from tensors under its authors' names.

The network is that of the transformers library. Here are the names, the sizes, which are
read off the tensors, and how positions are stretched over a grid of another size: by a scale
that is a tenth of a patch too large, which models were trained with and the library left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Backbone, Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from ...bridge.errors import UserError

PATCH_PX = 14
_HEAD_CHANNELS = 64  # of every released size
_STRETCH = 0.1  # patches
_NAMES = (
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"^norm\.", "layernorm."),
)


class _Embeddings(Dinov2Embeddings):
    """Patches with positions in the authors' way."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        table = self.position_embeddings
        side = round((table.shape[1] - 1) ** 0.5)
        rows, columns = height // PATCH_PX, width // PATCH_PX
        if (rows, columns) == (side, side):
            return table
        grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
        scale = ((rows + _STRETCH) / side, (columns + _STRETCH) / side)
        stretched = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], stretched.flatten(2).transpose(1, 2).to(table)], dim=1)


def names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names -> transformers'. Query, key and value come apart."""
    result = {}
    for name, tensor in state.items():
        fused = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name)
        if fused:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                result[f"encoder.layer.{fused[1]}.attention.{letter}_proj.{fused[2]}"] = third
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def empty(
    state: dict[str, Tensor], taken: Sequence[int] | int, what: str, *, last_norm_eps: float = 1e-6
) -> nn.Module:
    """The backbone without weights, of the size of `state`: [1, 3, 14 h, 14 w] -> feature maps [1,
    1 + h w, d], class token first.

    `taken` are the blocks whose normalised outputs are wanted (a number: so many of the last).
    Raises UserError.
    """
    try:
        width, positions = state["pos_embed"].shape[2], state["pos_embed"].shape[1] - 1
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        ratio = state["blocks.0.mlp.fc1.weight"].shape[0] // width
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{what} holds no DINOv2 backbone ({error}).", "These are the weights of another model."
        ) from error
    blocks = range(layers - taken, layers) if isinstance(taken, int) else taken
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // _HEAD_CHANNELS, 1),
        mlp_ratio=ratio,
        image_size=PATCH_PX * round(positions**0.5),
        patch_size=PATCH_PX,
        layer_norm_eps=1e-6,
        use_mask_token="mask_token" in state,
        out_features=[f"stage{k + 1}" for k in blocks],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    with torch.device("meta"):
        backbone = Dinov2Backbone(config)
        backbone.embeddings = _Embeddings(config)
    backbone.layernorm.eps = last_norm_eps
    return backbone
