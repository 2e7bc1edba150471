"""Reads models that lie on disk as diffusers keeps them: a folder a part, model_index.json beside
them.

Everything is read from the disk alone, from safetensors alone, and every weight must be
there: the libraries would only warn and go on with random numbers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..bridge.errors import UserError
from ..bridge.reading import json_of
from ..bridge.whole_file import replacing_path
from .weights import KEPT_TEXT

log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=nn.Module)
_AGAIN = "Check it with: python -m engine weights verify NAME - or download it again."


def require(folder: Path, *pipelines: str) -> None:
    """Raises UserError unless `folder` holds one of these pipelines."""
    if folder.is_file():
        raise UserError(
            f"{folder} is a file; this model is a folder.",
            "Give the folder that holds model_index.json.",
        )
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(
            f"Weights not found: {index}.",
            "Give the folder that holds model_index.json, or download it again.",
        )
    try:
        found = str(json_of(index)["_class_name"])
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{index} is damaged.", _AGAIN) from error
    if found not in pipelines:
        raise UserError(
            f"{folder} holds {found}, not {' or '.join(pipelines)}.",
            "These are the weights of another model.",
        )


def part(folder: Path, name: str, kind: type[_M], dtype: torch.dtype) -> _M:
    """One network of a pipeline's folder, in `dtype` on the CPU, ready for use. Raises UserError
    for damaged or missing weights.
    """
    home = folder / name
    if not (home / "config.json").is_file():
        raise UserError(f"Weights not found: {home}.", "The model is not whole. " + _AGAIN)
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    _require_kind(home, kind)
    _no_progress_bars()
    half = {"variant": "fp16"} if any(home.glob("*.fp16.safetensors")) else {}
    try:
        model, info = kind.from_pretrained(  # type: ignore[attr-defined]
            home,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **_dtype(kind, dtype),
            **half,
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        raise UserError(
            f"{home} is truncated, damaged or of another kind ({_first_line(error)}).", _AGAIN
        ) from error
    for text, key in (
        ("lacks", "missing_keys"),
        ("has unknown", "unexpected_keys"),
        ("has other sizes of", "mismatched_keys"),
    ):
        names = sorted(str(n) for n in info[key])
        if names:
            raise UserError(
                f"{home} {text} {len(names)} tensors: "
                f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}.",
                _AGAIN,
            )
    return model.eval().requires_grad_(False)


def _require_kind(home: Path, kind: type[nn.Module]) -> None:
    try:
        config = json_of(home / "config.json")
        found = config.get("_class_name") or (config.get("architectures") or [kind.__name__])[0]
    except (UserError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{home / 'config.json'} is damaged.", _AGAIN) from error
    if found != kind.__name__:
        raise UserError(
            f"{home} holds {found}, not {kind.__name__}.", "These are the weights of another model."
        )


def _no_progress_bars() -> None:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _dtype(kind: type[nn.Module], dtype: torch.dtype) -> dict[str, Any]:
    return {"torch_dtype" if kind.__module__.startswith("diffusers") else "dtype": dtype}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def sentence_embeddings(
    folder: Path,
    encoder: type[nn.Module],
    sentences: list[str],
    length: int,
    *,
    masked: bool = True,
) -> dict[str, Tensor]:
    """What a T5 makes of sentences: {"embeddings": [n, length, d], "mask": [n, length] bool}.

    `masked`: whether the encoder itself is told which tokens are padding. The result is kept in a
    small file in `folder`, because the encoder is often larger than the rest of the model and is
    then never loaded again for the same sentences.
    """
    from safetensors.torch import load_file, save_file

    sentences = [re.sub(r"\s+", " ", s).strip() for s in sentences]
    kept = folder / f"{KEPT_TEXT}{_key(folder, sentences, length, masked)}.safetensors"
    if kept.is_file():
        return load_file(kept)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"{folder / 'tokenizer'} cannot be read ({_first_line(error)}).", _AGAIN
        ) from error
    tokens = tokenizer(
        sentences, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    log.info("reading the text encoder once, for %d sentences", len(sentences))
    model = part(
        folder, "text_encoder", encoder, torch.bfloat16 if _large(folder) else torch.float32
    )
    with torch.no_grad():
        embeddings = model(
            tokens.input_ids, tokens.attention_mask if masked else None
        ).last_hidden_state
    result = {"embeddings": embeddings.contiguous(), "mask": tokens.attention_mask.bool()}
    try:
        with replacing_path(kept) as temporary:
            save_file(result, temporary)
    except UserError as error:  # a read-only folder only costs the time again
        log.info("text embeddings not kept: %s", error)
    return result


def _large(folder: Path) -> bool:
    return sum(f.stat().st_size for f in (folder / "text_encoder").glob("*.safetensors")) > 4e9


def _key(folder: Path, sentences: list[str], length: int, masked: bool) -> str:
    facts = [
        (f.name, f.stat().st_size, f.stat().st_mtime_ns)
        for f in sorted((folder / "text_encoder").glob("*.safetensors"))
    ]
    return hashlib.sha256(json.dumps([facts, sentences, length, masked]).encode()).hexdigest()[:16]


def in_16_bits(*modules: nn.Module) -> int:
    """Bytes of the weights of networks in 16 bits."""
    return 2 * sum(p.numel() for module in modules for p in module.parameters())


def largest_layer(network: nn.Module) -> int:
    """Bytes of the weights of the largest layer in 16 bits: a module's own parameters."""
    own = (sum(p.numel() for p in m.parameters(recurse=False)) for m in network.modules())
    return 2 * max(own, default=0)
