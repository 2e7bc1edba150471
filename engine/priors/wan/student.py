"""A distilled Wan text to video inside the networks that were made from Wan text to video.

VACE keeps the layers of text to video as they were and has its own beside them (arXiv 2503.07598,
context adapter): a student of text to video takes their place as it is. Fun InP was trained on from
them, so that what the student has learned beyond its teacher is added to it; its teacher's layers
are those inside VACE. What comes of the sum nobody has published.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...bridge.errors import UserError
from ...models import tensor_file
from .names import tensor_name

log = logging.getLogger(__name__)
_AGAIN = "Download it again: python -m engine weights download wan_1.3b_rcm"
# What text to video does not have, in VACE and in image to video.
_NOT_OF_TEXT_TO_VIDEO = ("vace_", "image_embedder", "add_k_proj", "add_v_proj", "norm_added_k")


def read(path: Path) -> dict[str, Tensor]:
    """{name in diffusers: tensor} of a checkpoint of rCM (.pt or .safetensors; arXiv 2510.08431),
    its counters left out. Raises UserError.
    """
    state = tensor_file.read(path, _AGAIN)
    return {
        tensor_name(name.removeprefix("net.")): value
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.split(".")[-1].startswith("accum_")
    }


@torch.no_grad()
def replace(transformer: nn.Module, path: Path) -> None:
    """Put the student's weights in place of those of text to video in `transformer`. Raises
    UserError where a tensor is lacking, unknown or of another size.
    """
    taught = _fitting(transformer, read(path), path)
    for name, target in transformer.state_dict().items():
        if name in taught:
            target.copy_(taught[name].reshape(target.shape))
    log.info("%s: %d tensors in place", path.name, len(taught))


@torch.no_grad()
def add(transformer: nn.Module, path: Path, teacher: Mapping[str, Tensor]) -> None:
    """Add to `transformer` what the student has beyond its `teacher` {name in diffusers: tensor}.
    Input channels that text to video does not have stay. Raises UserError like `replace`.
    """
    taught = _fitting(transformer, read(path), path)
    for name, target in transformer.state_dict().items():
        if name in taught:
            before = teacher[name].to(target)
            change = taught[name].reshape(before.shape).to(target) - before
            part = target[:, : before.shape[1]] if target.shape != before.shape else target
            part.add_(change)
    log.info("%s: %d tensors changed", path.name, len(taught))


def _fitting(transformer: nn.Module, taught: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    wanted = {
        name: tensor
        for name, tensor in transformer.state_dict().items()
        if not any(part in name for part in _NOT_OF_TEXT_TO_VIDEO)
    }
    wrong = sorted(wanted.keys() ^ taught.keys())
    if wrong:
        raise UserError(
            f"{path} does not fit: {len(wrong)} tensors lacking or unknown: "
            f"{', '.join(wrong[:5])}.",
            "Take a student of Wan 2.1 text to video of the same size, with full attention.",
        )
    sizes = [
        n
        for n, t in taught.items()
        if n != "patch_embedding.weight" and t.numel() != wanted[n].numel()
    ]
    first = taught["patch_embedding.weight"]
    rows = wanted["patch_embedding.weight"].shape[0]
    if first.shape[0] != rows or first.numel() > wanted["patch_embedding.weight"].numel():
        sizes.append("patch_embedding.weight")
    if sizes:
        raise UserError(
            f"{path} does not fit: {len(sizes)} of {len(taught)} tensors have another size, e.g. "
            f"{', '.join(sorted(sizes)[:5])}.",
            "It was made for another size of model.",
        )
    return taught
