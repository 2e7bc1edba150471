"""Reads checkpoints that are one file: tensors alone, every name and shape checked.

Nothing is unpickled but tensors and plain values. For models that lie on disk as a folder
see `model_folder.py`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bridge.errors import UserError
from ..bridge.reading import reading

_ENDINGS = (".ckpt", ".pt", ".pth", ".safetensors")


def read(path: Path, again: str) -> dict[str, Any]:
    """What a .safetensors or PyTorch file holds, on the CPU, mapped from the file where possible.

    `again` says how to get the file. Raises UserError, naming what is wrong, for a folder, a file
    that is absent, truncated, a Git LFS pointer or a web page, and for one that holds more than
    tensors and plain values.
    """
    _require_file(path, again)
    with reading(path, again):
        safe = path.suffix == ".safetensors"
        content = _read_safetensors(path, again) if safe else _unpickle(path, again)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no checkpoint: it holds a {type(content).__name__}.", again)
    return content


def _require_file(path: Path, again: str) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in _ENDINGS)
        hint = (
            f"Give the file inside: {', '.join(inside[:3])}."
            if inside
            else "Give the path of the checkpoint file."
        )
        raise UserError(f"{path} is a folder, not a checkpoint.", hint)
    if not path.is_file():
        raise UserError(f"Weights not found: {path}.", again)
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights themselves.", again)
    if head.lstrip()[:1] == b"<":
        raise UserError(f"{path} is a web page, not a checkpoint.", again)


def _unpickle(path: Path, again: str) -> Any:
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is damaged; it was not opened "
            f"({_first_line(error)}).",
            again,
        ) from error
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} is truncated or damaged ({_first_line(error)}).", again) from error


def _read_safetensors(path: Path, again: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or damaged ({_first_line(error)}).", again) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def fill(
    module: nn.Module, state: dict[str, Tensor], dtype: torch.dtype, what: str, again: str
) -> None:
    """Give `module` the tensors of `state`, ready for use; every name and shape must agree. Raises
    UserError naming the first five.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for text, names in (
        ("lacks", sorted(wanted.keys() - state.keys())),
        ("has unknown", sorted(state.keys() - wanted.keys())),
        (
            "has other sizes of",
            sorted(n for n in wanted.keys() & state.keys() if wanted[n] != tuple(state[n].shape)),
        ),
    ):
        if names:
            listed = ", ".join(names[:5])
            raise UserError(
                f"{what} {text} {len(names)} of {len(wanted)} tensors: "
                f"{listed}{', ...' if len(names) > 5 else ''}.",
                "The file is damaged or belongs to another model. " + again,
            )
    module.load_state_dict(
        {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}, assign=True
    )
    module.eval().requires_grad_(False)
