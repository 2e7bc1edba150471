"""Names of Wan's tensors: its authors' -> those of the library diffusers."""

from __future__ import annotations

import re

from .. import lora

_NAMES = (
    (r"^img_emb\.proj\.0\.", "condition_embedder.image_embedder.norm1."),
    (r"^img_emb\.proj\.1\.", "condition_embedder.image_embedder.ff.net.0.proj."),
    (r"^img_emb\.proj\.3\.", "condition_embedder.image_embedder.ff.net.2."),
    (r"^img_emb\.proj\.4\.", "condition_embedder.image_embedder.norm2."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"\.modulation$", ".scale_shift_table"),
)


def tensor_name(name: str) -> str:
    """A tensor's name in Wan's own code -> its name in diffusers; names of diffusers stay."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    layer, dot, kind = name.rpartition(".")
    return f"{lora.layer_name(layer)}{dot}{kind}" if dot else name
