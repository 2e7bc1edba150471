"""Where to compute."""

from __future__ import annotations

import torch

from ..bridge.errors import UserError


def choose(wish: str) -> torch.device:
    """The device of the setting `device`: "cuda" where there is one and "auto" or "cuda" is asked
    for, else "cpu".

    Raises UserError for "cuda" on a machine without one.
    """
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "No CUDA device can be used.", "Run `python -m engine doctor`, or use --device auto."
        )
    return torch.device("cuda")
