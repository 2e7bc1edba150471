"""Which models a job uses: the best that its machine can run, from what is there and what may be
used.

`prior` and `depth` may say "auto"; `licences` may ask for weights that are free for commercial use
alone. Both are settled here, once, before the work starts. Standard library only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..bridge.errors import UserError
from ..bridge.estimate import duration
from ..bridge.settings import SceneSettings
from . import price, weights
from .registry import DEPTHS, PRIORS, Model, needed_gib

GIB = 2**30
AUTO = "auto"
LONG_S = 900  # a segment that takes longer is too long for "balanced"
_OFF = 1.7  # working width and a prior's trained width may differ by this factor


class Chosen(NamedTuple):
    """Settings without "auto", and sentences for the user and the report."""

    settings: SceneSettings
    facts: dict[str, str]


class Wish(NamedTuple):
    """What a prior is asked for."""

    priority: str = "balanced"  # the setting of that name
    commercial: bool = False  # leave out what may not be used commercially without further ado
    size: tuple[int, int] | None = None  # (width, height) of the frames at work; None: as trained
    frames: int = 0  # at a time; 0: 25, or as many as a prior makes
    tera: float | None = None  # 1e12 operations a second of the card, if it is known


DEFAULT = Wish()


def suitable(free_bytes: int | None, wish: Wish = DEFAULT) -> list[Model]:
    """Candidates, best first, that fit `free_bytes` of GPU memory (None: no GPU, where only the
    patch prior is of use).

    Priors trained at about the width at work come first. Among them "quality" goes by the rank of
    the registry; "balanced" too, but whatever takes longer than LONG_S for a segment comes after
    it, the fastest first; "speed" takes the fastest of those that see the render, then the others.
    """
    gib = 0.0 if free_bytes is None else free_bytes / GIB
    fit = [
        c
        for c in PRIORS.values()
        if needed_gib(c, wish.size) <= gib
        and not c.untried
        and wish.frames <= c.most_frames
        and not (wish.commercial and not free_to_use(c))
        and (wish.size is None or c.only_size in (None, wish.size))
    ]

    def order(c: Model) -> tuple[bool, ...]:
        needs_none = c.trained[1] == 0
        if wish.size is None:
            return (needs_none,)
        return needs_none, not near(c, max(wish.size))

    def pace(c: Model) -> tuple[bool, float]:
        if wish.priority == "speed":
            return not c.sees_render, seconds(c, wish)
        late = wish.priority == "balanced" and wish.tera is not None and seconds(c, wish) > LONG_S
        return late, seconds(c, wish) if late else 0.0

    return sorted(fit, key=lambda c: (order(c), pace(c)))  # stable: the order within stays


def seconds(candidate: Model, wish: Wish) -> float:
    """What a segment is reckoned to take, without refinement: on the card of the wish, else on one
    of 1e12 operations a second, for comparison alone.
    """
    size = wish.size or (candidate.trained[1], candidate.trained[0])
    frames = wish.frames or int(min(25, candidate.most_frames))
    return price.clip_seconds(candidate, size, frames, wish.tera or 1.0)


def near(candidate: Model, longer: int) -> bool:
    """Whether a prior was trained at about this longer side."""
    return candidate.trained[1] == 0 or 1.0 / _OFF <= longer / candidate.trained[1] <= _OFF


def free_to_use(candidate: Model) -> bool:
    """Whether all weights of a prior may be used commercially."""
    return all(weights.known(name).commercial_use for name in candidate.weights)


def best_here(free_bytes: int | None, wish: Wish = DEFAULT) -> str:
    """The name of the best prior that fits and whose weights are there. Never fails: the patch
    prior always is.
    """
    return next(
        c.name for c in suitable(free_bytes, wish) if not any(weights.missing(n) for n in c.weights)
    )


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
