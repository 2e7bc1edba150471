"""Low-rank additions to a Wan transformer, e.g. the distilled ones that need 4 steps and no
guidance.

They are added to the weights once, W + (alpha / rank) * up @ down, so that they cost nothing
afterwards. Files name layers as Wan's authors do; diffusers' names are taken too.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from ..bridge.errors import UserError

_PREFIXES = ("diffusion_model.", "transformer.", "model.", "pipe.dit.")
_ENDINGS = {
    ".lora_down.weight": "down",
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_up.weight": "up",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".alpha": "alpha",
    ".diff": "weight",
    ".diff_b": "bias",
    ".lora_B.bias": "bias",
}
_LAYERS = (
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"(\.attn\d)\.([qkv])$", r"\1.to_\2"),
    (r"(\.attn\d)\.o$", r"\1.to_out.0"),
    (r"(\.attn2)\.([kv])_img$", r"\1.add_\2_proj"),
    (r"\.attn2\.norm_k_img$", ".attn2.norm_added_k"),
    (r"\.ffn\.0$", ".ffn.net.0.proj"),
    (r"\.ffn\.2$", ".ffn.net.2"),
    (r"^(blocks\.\d+)\.norm3$", r"\1.norm2"),
    (r"^time_projection\.1$", "condition_embedder.time_proj"),
    (r"^(text|time)_embedding\.0$", r"condition_embedder.\1_embedder.linear_1"),
    (r"^(text|time)_embedding\.2$", r"condition_embedder.\1_embedder.linear_2"),
    (r"^head\.head$", "proj_out"),
)


def layer_name(name: str) -> str:
    """A layer's name in Wan's own code -> its name in diffusers; names of diffusers stay as they
    are.
    """
    for pattern, replacement in _LAYERS:
        name = re.sub(pattern, replacement, name)
    return name


def read(path: Path) -> dict[str, dict[str, Tensor]]:
    """{layer in diffusers' naming: {"down", "up", "alpha", "weight", "bias"}} of a .safetensors
    file. Raises UserError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is missing, truncated or damaged.", "Download it again."
        ) from error
    layers, unknown = by_layer(state)
    if unknown or not layers:
        raise UserError(
            f"{path} is no LoRA of Wan: {', '.join(sorted(unknown)[:5]) or 'it is empty'}.",
            "Take one made for Wan 2.1.",
        )
    return layers


def by_layer(state: dict[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """A file's tensors by the layer that they change, and the names that say nothing of one."""
    layers: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in state.items():
        name = next((key.removeprefix(p) for p in _PREFIXES if key.startswith(p)), key)
        ending = next(
            (e for e in sorted(_ENDINGS, key=len, reverse=True) if name.endswith(e)), None
        )
        if ending is None:
            unknown.append(key)
        else:
            layers.setdefault(layer_name(name.removesuffix(ending)), {})[_ENDINGS[ending]] = tensor
    return layers, unknown


def misfits(transformer: nn.Module, layers: dict[str, dict[str, Tensor]]) -> list[str]:
    """Layers that `transformer` has not, or has in another size."""
    modules = dict(transformer.named_modules())
    return [name for name, parts in layers.items() if not _fits(modules.get(name), parts)]


@torch.no_grad()
def fuse(transformer: nn.Module, path: Path, strength: float = 1.0) -> int:
    """Add the file's layers to the weights of `transformer`; the number of layers changed. Raises
    UserError if one does not fit.
    """
    layers = read(path)
    wrong = misfits(transformer, layers)
    if wrong:
        listed = f"{len(wrong)} of {len(layers)} layers, e.g. {', '.join(sorted(wrong)[:5])}"
        raise UserError(f"{path} does not fit: {listed}.", "It was made for another size of model.")
    for name, parts in layers.items():
        layer = transformer.get_submodule(name)
        delta = _delta(parts)
        if delta is not None:
            layer.weight.add_((strength * delta).reshape(layer.weight.shape).to(layer.weight))  # type: ignore[operator, union-attr, arg-type]
        if "bias" in parts:
            layer.bias.add_((strength * parts["bias"].float()).to(layer.bias))  # type: ignore[operator, union-attr, arg-type]
    return len(layers)


def _delta(parts: dict[str, Tensor]) -> Tensor | None:
    if "down" not in parts:
        return parts["weight"].float() if "weight" in parts else None
    down, up = parts["down"].float().flatten(1), parts["up"].float().flatten(1)
    scale = float(parts["alpha"]) / down.shape[0] if "alpha" in parts else 1.0
    return scale * up @ down


def _fits(layer: nn.Module | None, parts: dict[str, Tensor]) -> bool:
    if (
        layer is None
        or getattr(layer, "weight", None) is None
        or ("down" in parts) != ("up" in parts)
    ):
        return False
    if "bias" in parts and (layer.bias is None or layer.bias.shape != parts["bias"].shape):  # type: ignore[union-attr]
        return False
    if "down" in parts and parts["down"].shape[0] != parts["up"].shape[1]:
        return False
    delta_size = (
        parts["up"].shape[0] * parts["down"].flatten(1).shape[1] if "down" in parts else None
    )
    size = (
        delta_size
        if delta_size is not None
        else (parts["weight"].numel() if "weight" in parts else layer.weight.numel())
    )  # type: ignore[operator, union-attr]
    return size == layer.weight.numel()  # type: ignore[operator, union-attr]
