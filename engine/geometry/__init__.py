"""Depth sources, and the first Gaussians that are made from depth.

It imports `cameras`, `media`, `models`, `rasterize`, `scene` and `bridge`. `priors`, `job`,
`evaluation` and `commands` may import it; `method` takes `completion` and `fill` alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..bridge.errors import UserError
from ..bridge.settings import GeometrySettings
from .base import DepthSource
from .box import Box
from .depth_file import ENDINGS, DepthFile

WITHOUT_WEIGHTS = ("small", "box")  # sources that need no download


def make_depth_source(
    settings: GeometrySettings,
    device: torch.device | str,
    *,
    folder: Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> DepthSource:
    """The depth source that `settings.depth` names: "small", "box", a depth map file, or a learned
    model.

    A relative file name is looked for in `folder` first. `image_size` (width, height) is the
    whole picture's, for a depth map's aspect. Raises UserError for a name that is none of these,
    and what the model's own loader raises.
    """
    from .learned import LEARNED  # reaches the model code only when it is called

    name = settings.depth.strip()
    if name == "box":
        return Box(settings)
    if name == "small":
        from .small_depth import load

        return load(settings=settings)
    if name in LEARNED:
        return LEARNED[name](settings, torch.device(device))
    if Path(name).suffix.lower() in ENDINGS:
        inside = folder / name if folder is not None else Path(name)
        return DepthFile(
            inside if os.path.isfile(inside) else Path(name), settings.depth_unit, image_size
        )
    raise _unknown(name)


def check(name: str) -> None:
    """Raise UserError where `name` is neither a depth source nor the name of a depth map file."""
    from .learned import LEARNED

    if (
        name.strip() not in (*WITHOUT_WEIGHTS, *LEARNED)
        and Path(name).suffix.lower() not in ENDINGS
    ):
        raise _unknown(name)


def _unknown(name: str) -> UserError:
    from .learned import LEARNED

    if name == "auto":
        return UserError(
            "The depth source is still to be chosen.",
            f"Name one here: {', '.join((*WITHOUT_WEIGHTS, *LEARNED))}.",
        )
    names = ", ".join(("auto", *WITHOUT_WEIGHTS, *LEARNED))
    return UserError(
        f"Unknown depth source {name!r}.",
        f"Choose one of {names}, or an EXR, 16-bit PNG or NPY file.",
    )
