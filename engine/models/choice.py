"""Which models a job uses: the best that its machine can run, from what is there and what may be
used.

`prior` and `depth` may say "auto"; `licences` may ask for weights that are free for commercial use
alone. Both are settled here, once, before the work starts. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..bridge import candidates, speeds
from ..bridge.candidates import DEFAULT, LONG_S, Candidate, Wish
from ..bridge.errors import UserError
from ..bridge.estimate import duration
from ..bridge.settings import SceneSettings
from . import weights
from .registry import DEPTHS, PRIORS, Model

GIB = 2**30
AUTO = "auto"


class Chosen(NamedTuple):
    """Settings without "auto", and sentences for the user and the report."""

    settings: SceneSettings
    facts: dict[str, str]


def candidate(row: Model, *, here: bool = False) -> Candidate:
    """A row, as far as it matters for the choice; `here`: its weights are there."""
    return Candidate(
        row.name,
        here,
        row.trained,
        row.fixed_gib,
        row.least_gib,
        int(row.most_frames) if math.isfinite(row.most_frames) else 0,
        row.only_size,
        free_to_use(row),
        row.sees_render,
        row.work,
    )


def known() -> tuple[Candidate, ...]:
    """All that "auto" may take, by rank, and whether their weights are here."""
    return tuple(candidate(row, here=_is_here(row)) for row in PRIORS.values() if not row.untried)


def weights_changed() -> None:
    """Tell Blender's panel, which prices what "auto" takes, that weights came or went. Raises
    OSError.
    """
    here = speeds.machine()
    if here is not None and here.card:
        speeds.keep_machine(here._replace(known=known()))


def _is_here(row: Model) -> bool:
    return not any(weights.missing(name) for name in row.weights)


def suitable(free_bytes: int | None, wish: Wish = DEFAULT) -> list[Model]:
    """Candidates, best first, that fit `free_bytes` of GPU memory (None: no GPU, where only the
    patch prior is of use).
    """
    gib = 0.0 if free_bytes is None else free_bytes / GIB
    rows = (candidate(row) for row in PRIORS.values() if not row.untried)
    return [PRIORS[c.name] for c in candidates.suitable(rows, gib, wish)]


def seconds(row: Model, wish: Wish) -> float:
    """What a segment is reckoned to take, without refinement: on the card of the wish, else on one
    of 1e12 operations a second, for comparison alone.
    """
    return candidates.segment_seconds(candidate(row), wish)


def near(row: Model, longer: int) -> bool:
    """Whether a prior was trained at about this longer side."""
    return candidates.near(row.trained[1], longer)


def free_to_use(candidate: Model) -> bool:
    """Whether all weights of a prior may be used commercially."""
    return all(weights.known(name).commercial_use for name in candidate.weights)


def best_here(free_bytes: int | None, wish: Wish = DEFAULT) -> str:
    """The name of the best prior that fits and whose weights are there. Never fails: the patch
    prior always is.
    """
    return next(row.name for row in suitable(free_bytes, wish) if _is_here(row))


def best_depth(*, commercial: bool = False) -> str:
    """The name of the best learned depth model whose weights are there, else "small", which ships
    with the program.
    """
    allowed = (name for name in DEPTHS if weights.known(name).commercial_use or not commercial)
    return next((name for name in allowed if not weights.missing(name)), "small")


def used_weights(settings: SceneSettings) -> dict[str, str]:
    """{name of weights: what for} of all weights that settings without "auto" ask for."""
    prior = PRIORS.get(settings.video.prior)
    used = dict.fromkeys(prior.weights if prior else (), f"prior {settings.video.prior}")
    if settings.geometry.depth.strip() in DEPTHS:
        used[settings.geometry.depth.strip()] = f"depth {settings.geometry.depth.strip()}"
    if settings.geometry.initialiser.strip() == "flash3d":
        used["flash3d"] = "initialiser flash3d"
    if settings.finishes:
        used[settings.refine.finisher] = f"finisher {settings.refine.finisher}"
    return used


def check(settings: SceneSettings) -> None:
    """Raise UserError where `licences` is commercial and a chosen model may not be used so."""
    if settings.video.licences != "commercial":
        return
    for name, purpose in used_weights(settings).items():
        entry = weights.known(name)
        if not entry.commercial_use:
            raise UserError(
                f"{purpose} is not free for commercial use ({entry.licence}), and licences is "
                "set to commercial.",
                "Choose another model (python -m engine weights list tells which), auto, or set "
                "licences to any.",
            )


def settle(
    settings: SceneSettings,
    size: tuple[int, int],
    free_bytes: int | None,
    earlier: dict[str, str] | None = None,
    *,
    tera: float | None = None,
) -> Chosen:
    """The settings with a prior and a depth source in place of "auto", and what to tell of it.

    `size` (width, height) of the frames at work, about; `free_bytes` of GPU memory, None without a
    GPU; `tera` 1e12 operations a second of the card, if it is known; `earlier` {"prior", "depth"}
    that the job was begun with, so that a resumed job goes on with the same. Raises UserError as
    `check` does, and where weights are missing.
    """
    earlier, commercial, facts = earlier or {}, settings.video.licences == "commercial", {}
    if settings.video.prior == AUTO:
        wish = Wish(
            settings.video.priority, commercial, size, settings.cameras.segment_length, tera
        )
        name = earlier.get("prior") or best_here(free_bytes, wish)
        facts["automatic prior"] = _why_prior(name, "prior" in earlier, free_bytes, wish)
        settings = replace(settings, video=replace(settings.video, prior=name))
    if settings.geometry.depth.strip() == AUTO:
        name = earlier.get("depth") or best_depth(commercial=commercial)
        settings = replace(settings, geometry=replace(settings.geometry, depth=name))
        facts["automatic depth"] = _why_depth(name, "depth" in earlier)
    candidate = PRIORS.get(settings.video.prior)
    if candidate is not None and not near(candidate, max(size)):
        trained = (
            f"{candidate.name} was trained at {candidate.trained[1]} pixels along the longer side"
        )
        facts["note on the width"] = f"{trained}, not {max(size)}: try width {candidate.trained[1]}"
    check(settings)
    _require(list(used_weights(settings)))
    return Chosen(settings, facts | licences(settings))


def _require(names: list[str]) -> None:
    """Raise UserError, before any work, where weights are missing: all of them at once."""
    absent = [name for name in names if weights.missing(name)]
    if len(absent) > 1:
        entries = {name: weights.known(name) for name in absent}
        raise UserError(
            "Weights not found: "
            f"{'; '.join(f'{e.title} ({e.size_gb:g} GB; {e.licence})' for e in entries.values())}.",
            f"Run, for each of {', '.join(absent)}: python -m engine weights download NAME. "
            f"Place: {weights.folder()}",
        )
    for name in names:
        weights.require(name)


def _why_prior(name: str, begun: bool, free_bytes: int | None, wish: Wish) -> str:
    if begun:
        return f"{name}, with which this job was begun"
    if free_bytes is None:
        return f"{name}, because there is no GPU that can be used, and every other prior needs one"
    gpu = f"{free_bytes / GIB:.1f} GiB of GPU memory are free"
    if name == "patch":
        return (
            f"{name}, because {gpu} and the weights of no prior that fits are here (see "
            "python -m engine weights recommend)"
        )
    what = "the fastest" if wish.priority == "speed" else "the best"
    if wish.tera is None:
        return f"{name}, {what} whose weights are here and that fits: {gpu}"
    takes = seconds(PRIORS[name], wish)
    if wish.priority == "balanced":
        within = f"within {LONG_S // 60} minutes a segment"
        what = f"the best {within}" if takes <= LONG_S else f"the fastest, none being {within}"
    return (
        f"{name}, {what}, of those whose weights are here and that fit: {gpu}; about "
        f"{duration(takes)} a segment are reckoned"
    )


def _why_depth(name: str, begun: bool) -> str:
    if begun:
        return f"{name}, with which this job was begun"
    if name == "small":
        return (
            f"{name}, the small network that ships, because the weights of no large depth "
            "model are here (python -m engine weights download moge_2_small gets one)"
        )
    return f"{name}, the best depth model whose weights are here"


def licences(settings: SceneSettings) -> dict[str, str]:
    """What the report says of commercial use, for settings without "auto"."""
    used = used_weights(settings)
    named = {name: f"{purpose} ({weights.known(name).licence})" for name, purpose in used.items()}
    refused = [named[name] for name in used if not weights.known(name).commercial_use]
    if refused:
        return {"commercial use": f"NO, or with conditions: {'; '.join(refused)}"}
    text = (
        f"allowed by the licences of all weights used: {'; '.join(named.values())}"
        if used
        else "free: no weights are used but those that ship with the program"
        if settings.geometry.depth.strip() == "small"
        else "free: no weights are used"
    )
    if settings.video.licences == "commercial":
        text = f"commercial-safe was asked for; {text}"
    given = Path(settings.geometry.initialiser.strip())
    if given.suffix:
        text += f". Given as a file, of which only you know the licence: {given.name}"
    return {"commercial use": text}
