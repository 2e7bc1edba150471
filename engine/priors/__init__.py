"""Video priors by name. A module is imported only when its prior is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..bridge.errors import UserError
from ..bridge.settings import NO_PRIOR

if TYPE_CHECKING:
    from torch import Tensor

    from ..bridge.settings import SceneSettings
    from .base import VideoPrior

# name -> "module:factory"; factory(settings: SceneSettings, image: [3, h, w], device: str) -> VideoPrior
REGISTRY: dict[str, str] = {
    "patch": "patch.prior:from_settings",
    "viewcrafter_25": "viewcrafter.prior:from_settings",
    "viewcrafter_25_sparse": "viewcrafter.prior:from_settings",
    "viewcrafter_16": "viewcrafter.prior:from_settings",
    "viewcrafter_25_512": "viewcrafter.prior:from_settings",
    "wan_vace_1.3b": "wan.vace:from_settings",
    "wan_vace_14b": "wan.vace:from_settings",
    "wan_vace_14b_fast": "wan.vace:from_settings",
    "wan_fun_inp_1.3b": "wan.inp:from_settings",
    "svd": "svd:from_settings",
    "cogvideox_i2v": "cogvideox:from_settings",
    "ltx": "ltx:from_settings",
}


def make_prior(settings: SceneSettings, image: Tensor, device: str) -> VideoPrior | None:
    """The prior that `settings.video.prior` names, for the picture `image` [3, h, w] in [0, 1] at working size; None for "none"."""
    name = settings.video.prior
    check(name)
    if name == NO_PRIOR:
        return None
    module, factory = REGISTRY[name].split(":")
    return getattr(importlib.import_module(f".{module}", __package__), factory)(
        settings, image, device
    )


def check(name: str) -> None:
    """Raise UserError where no prior has this name. "auto" is none: it is for choice.py to settle."""
    if name == "auto":
        raise UserError(
            "The video prior is still to be chosen.", f"Name one here: {', '.join(REGISTRY)}."
        )
    if name != NO_PRIOR and name not in REGISTRY:
        raise UserError(
            f"Unknown video prior: {name}.",
            f"Choose one of: auto, {NO_PRIOR}, {', '.join(REGISTRY)}.",
        )


def working_multiple(name: str) -> int:
    """What the working width and height must divide by for a prior: known before the prior is made."""
    fine = {
        NO_PRIOR: 8,
        "patch": 8,
        "cogvideox_i2v": 16,
        "wan_vace_1.3b": 16,
        "wan_vace_14b": 16,
        "wan_vace_14b_fast": 16,
        "wan_fun_inp_1.3b": 16,
    }
    return fine.get(name, 64)
