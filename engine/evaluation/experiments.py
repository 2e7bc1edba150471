"""What is compared: every experiment's question, variants, views and paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from . import drawn
from .runner import CAST, COARSE, MEASURES, TRUST


class Experiment(NamedTuple):
    """Variants of the settings that are run on the same views."""

    question: str
    variants: dict[str, dict[str, Any]]
    # of the made scenes; posed sets have one path of their own
    paths: tuple[str, ...] = ("medium",)
    views: tuple[str, ...] = ()  # of the made scenes; none: all
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] = MappingProxyType({})  # of all variants, before their own
    drawn: bool = False  # run on the scenes of drawn.py instead, see `drawn_scenes`


_MULTI = {"segment_length": 5, "overlap": 2}
_UNSURE = {TRUST: 0.6}
_TINT = {CAST: True, **_UNSURE}
_FIVE = ("room", "desk", "night", "landscape", "street")
_ROOMS = ("room", "desk", "night")  # for sweeps: an indoor view, a near one, a dark one
# the coarse prior at the scenes' own size: slips by 1.5 pixels along a clip and tints it by 2 %
_COARSE = {COARSE: (1.5, 0.02, 0.15)}
_AT_SIZE = {"width": 192, "refine_steps": 80}
_PARTS: dict[str, dict[str, Any]] = {
    "full": {},
    "without latent momentum": {"momentum": "pixel"},
    "without pixel momentum": {"momentum": "latent"},
    "without diffusion": {"prior": "none"},
    "lambda as printed": {"lambda_coverage": False},
    "lambda as printed, without pixel momentum": {"lambda_coverage": False, "momentum": "latent"},
    "free run alone": {"momentum": "none"},
}
DRAWN_SIZE = (128, 72)
LONGEST = 300  # frames; shorter paths are its beginning


EXPERIMENTS: dict[str, Experiment] = {
    "coarse_ablation": Experiment(
        "What does each part of the method give, with a prior of coarse cells that drifts?",
        _PARTS,
        views=_FIVE,
        settings={**_AT_SIZE, **_COARSE, MEASURES: ("camera",)},
    ),
    "coarse_drift": Experiment(
        "How much may the coarse prior drift?",
        {
            f"{name}, drift {px:g} px": {**parts, COARSE: (px, 0.02 if px else 0.0, 0.15)}
            for px in (0.0, 4.0)
            for name, parts in (
                ("full", {}),
                ("without pixel momentum", {"momentum": "latent"}),
                ("free run alone", {"momentum": "none"}),
            )
        },
        views=("room", "desk"),
        settings=_AT_SIZE,
    ),
    "out_and_back": Experiment(
        "Out and back on the same way: is what was invented still there when it is seen again?",
        {
            "full": {},
            "without pixel momentum": {"momentum": "latent"},
            "free run alone": {"momentum": "none"},
        },
        paths=("medium_back",),
        views=_ROOMS,
        settings={**_AT_SIZE, **_COARSE, MEASURES: ("revisit", "refit", "camera")},
    ),
    "long_paths": Experiment(
        "A hundred and three hundred frames: does the scene hold, and are the first n frames "
        "good references?",
        {"full": {}, "free run alone": {"momentum": "none"}},
        paths=("100", "300"),
        settings={
            "width": DRAWN_SIZE[0],
            "segment_length": 25,
            "overlap": 10,
            **_COARSE,
            MEASURES: ("camera", "references"),
        },
        drawn=True,
    ),
    "ablation": Experiment(
        "What does each part of the method give?",
        {
            "full": {},
            "without latent momentum": {"momentum": "pixel"},
            "without pixel momentum": {"momentum": "latent"},
            "without diffusion": {"prior": "none"},
        },
        seeds=(0, 1),
    ),
    "printed_form": Experiment(
        "The same with lambda as printed, without our factor of coverage",
        {
            "full": {"lambda_coverage": False},
            "without pixel momentum": {"momentum": "latent", "lambda_coverage": False},
            "free run alone": {"momentum": "none"},
        },
        views=_ROOMS,
    ),
    "drifting_prior": Experiment(
        "The same with a prior that keeps only a fifth of the render at every step, and so "
        "drifts as video networks do",
        {
            "full": _UNSURE,
            "without latent momentum": {"momentum": "pixel", **_UNSURE},
            "without pixel momentum": {"momentum": "latent", **_UNSURE},
            "free run alone": {"momentum": "none", **_UNSURE},
        },
        seeds=(0, 1),
    ),
    "drifting_printed": Experiment(
        "The drifting prior (it keeps a fifth of the render), and lambda as printed: nearest to "
        "the conditions of the paper's ablation",
        {
            "full": {"lambda_coverage": False, **_UNSURE},
            "without latent momentum": {"momentum": "pixel", "lambda_coverage": False, **_UNSURE},
            "without pixel momentum": {"momentum": "latent", "lambda_coverage": False, **_UNSURE},
            "free run alone": {"momentum": "none", "lambda_coverage": False, **_UNSURE},
        },
        views=(*_ROOMS, "studio"),
    ),
    "lambda_0": Experiment(
        "Where does consistency break, where does generation fail? With the drifting prior",
        {
            f"lambda_0 {x:g}": {"lambda_0": x, **_UNSURE}
            for x in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
        },
        views=_FIVE,
    ),
    "tau": Experiment(
        "How large may a Gaussian be and still count as known?",
        {f"tau {x:g}": {"tau": x} for x in (0.1, 0.3, 0.5, 1.0, 2.0, 4.0)},
        views=_FIVE,
    ),
    "momentum_start": Experiment(
        "When may momentum set in? With the drifting prior",
        {f"from {x:.0%}": {"momentum_start": x, **_UNSURE} for x in (0.0, 0.3, 0.6)},
        views=_ROOMS,
    ),
    "colour_match": Experiment(
        "Does matching the prior's colours to the render pay? The drifting prior, without and "
        "with a colour cast of its frames",
        {
            "no cast, matched": _UNSURE,
            "no cast, not matched": {"match_colours": False, **_UNSURE},
            "cast, matched": _TINT,
            "cast, not matched": {"match_colours": False, **_TINT},
        },
        views=_FIVE,
    ),
    "segments": Experiment(
        "Length N and overlap n",
        {
            f"N {n}, n {o}": {"segment_length": n, "overlap": o}
            for n, o in ((13, 1), (9, 1), (9, 3), (9, 6), (5, 1), (5, 2), (5, 4))
        },
        views=_ROOMS,
    ),
    "convergence": Experiment(
        "Does the reconstruction converge over segments, with and without momentum? With the "
        "drifting prior",
        {
            "with momentum": {**_MULTI, **_UNSURE},
            "without momentum": {**_MULTI, **_UNSURE, "momentum": "none"},
        },
        views=_ROOMS,
    ),
    "view_range": Experiment(
        "How far may the camera go?",
        {"full": {}, "without diffusion": {"prior": "none"}},
        ("small", "medium", "hard"),
    ),
}


def runs(
    folders: list[Path],
    chosen: Experiment,
    *,
    views: list[str] | None = None,
    seeds: list[int] | None = None,
) -> Iterator[tuple[Path, str, int, str]]:
    """(folder, path, seed, variant) of an experiment; posed sets have the one path "posed", the
    same in every experiment.

    `views` and `seeds` replace those that the experiment names.
    """
    for seed in seeds or chosen.seeds:
        for folder in folders:
            posed = (folder / "transforms.json").is_file()
            if views is not None and folder.name not in views:
                continue
            if views is None and not posed and chosen.views and folder.name not in chosen.views:
                continue
            for path in ("posed",) if posed else chosen.paths:
                for variant in chosen.variants:
                    yield folder, path, seed, variant


def drawn_scenes(folder: Path, paths: tuple[str, ...]) -> list[Path]:
    """Draw the scenes of drawn.py with these paths into a folder; one that is there already is
    kept.

    A path is named by its frames: "100" is the first hundred of the LONGEST.
    """
    width, height = DRAWN_SIZE
    for name in drawn.SCENES:
        whole = drawn.path(name, LONGEST, width, height)
        for kind in paths:
            count = int(kind)
            cameras = whole._replace(
                K=whole.K[:count], world_from_camera=whole.world_from_camera[:count]
            )
            drawn.write(folder / name, name, kind, cameras)
    return [folder / name for name in drawn.SCENES]
