"""Video priors by name. A module is imported only when its prior is asked for.

It imports `models`, `geometry`, `scene` and `bridge`. `job`, `evaluation` and `commands` may
import it; `method` knows `base` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bridge.errors import UserError
from ..bridge.settings import NO_PRIOR
from ..models import registry
from ..models.registry import PRIORS

if TYPE_CHECKING:
    from torch import Tensor

    from ..bridge.settings import SceneSettings
    from .base import VideoPrior


def make_prior(settings: SceneSettings, image: Tensor, device: str) -> VideoPrior | None:
    """The prior that `settings.video.prior` names, for the picture `image` [3, h, w] in [0, 1] at
    working size; None for "none".
    """
    name = settings.video.prior
    check(name)
    if name == NO_PRIOR:
        return None
    return registry.factory(registry.prior(name), __package__)(settings, image, device)


def check(name: str) -> None:
    """Raise UserError where no prior has this name. "auto" is none: it is for choice.py to
    settle.
    """
    if name == "auto":
        raise UserError(
            "The video prior is still to be chosen.", f"Name one here: {', '.join(PRIORS)}."
        )
    if name != NO_PRIOR and name not in PRIORS:
        raise UserError(
            f"Unknown video prior: {name}.",
            f"Choose one of: auto, {NO_PRIOR}, {', '.join(PRIORS)}.",
        )


def working_multiple(name: str) -> int:
    """What the working width and height must divide by for a prior: known before the prior is
    made.
    """
    return PRIORS[name].multiple if name in PRIORS else 8
