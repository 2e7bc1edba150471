"""Which video prior suits a machine: the best that fits its memory, from what is there and what may be used."""

from __future__ import annotations

from typing import NamedTuple

from .. import weights
from .memory import GIB


class Candidate(NamedTuple):
    """A prior and the least GPU memory it runs in at its native size."""

    name: str
    least_gib: float  # estimates of memory.py's leanest useful rung; quoted figures where it has none of its own
    needs: tuple[str, ...]  # names of weights


# Best first: those that see the render, then by quality; the patch prior needs neither GPU nor weights.
RANKING = (
    Candidate("viewcrafter_25", 15.0, ("viewcrafter_25",)),
    Candidate("wan_vace_14b_fast", 22.0, ("wan_vace_14b", "wan_14b_lightx2v")),
    Candidate("wan_vace_14b", 22.0, ("wan_vace_14b",)),
    Candidate("viewcrafter_16", 10.5, ("viewcrafter_16",)),
    Candidate("viewcrafter_25_sparse", 15.0, ("viewcrafter_25_sparse",)),
    Candidate("wan_vace_1.3b", 8.2, ("wan_vace_1.3b",)),
    Candidate("wan_fun_inp_1.3b", 8.2, ("wan_fun_inp_1.3b", "wan_vace_1.3b", "wan_image_encoder")),
    Candidate("viewcrafter_25_512", 6.5, ("viewcrafter_25_512",)),
    Candidate("ltx", 10.0, ("ltx",)),
    Candidate("svd", 8.0, ("svd",)),
    Candidate("cogvideox_i2v", 19.0, ("cogvideox_i2v",)),
    Candidate("patch", 0.0, ()),
)


def suitable(free_bytes: int | None, *, commercial: bool = False) -> list[Candidate]:
    """Candidates, best first, that fit `free_bytes` of GPU memory (None: no GPU, where only the patch prior is of use).

    `commercial` leaves out whatever may not be used commercially without further ado.
    """
    gib = 0.0 if free_bytes is None else free_bytes / GIB
    return [c for c in RANKING if c.least_gib <= gib and not (commercial and not free_to_use(c))]


def free_to_use(candidate: Candidate) -> bool:
    """Whether all weights of a prior may be used commercially."""
    return all(weights.known(name).commercial_use for name in candidate.needs)


def best_here(free_bytes: int | None, *, commercial: bool = False) -> str:
    """The name of the best prior that fits and whose weights are there. Never fails: the patch prior always is."""
    return next(c.name for c in suitable(free_bytes, commercial=commercial) if not any(weights.missing(n) for n in c.needs))
