"""A few splats far outside the scene, which would cost all others their precision in formats of
fixed steps.
"""

from __future__ import annotations

import numpy as np

from ..bridge.splats import Splats

_FAR = 100.0  # times the distance within which nine of ten splats lie
_FEW = 0.05  # of all splats; a sky of more is a part of the scene


def floaters(means: np.ndarray) -> np.ndarray:
    """[n, 3] -> [n] bool: the few splats that lie a hundred times farther out than nine tenths of
    the scene.
    """
    distance = np.abs(means - np.median(means, axis=0)).max(axis=1)
    far = distance > _FAR * max(float(np.quantile(distance, 0.9)), 1e-12)
    few = int(far.sum()) <= max(1, int(_FEW * len(means)))
    return far if few else np.zeros(len(means), bool)


def drawn_in(splats: Splats, which: np.ndarray, most: float) -> Splats:
    """The same splats, those of `which` [n] bool nearer, so that no coordinate is beyond +-most.

    They move along their line to the scene's median and shrink by the same factor, so that they
    look the same from there.
    """
    centre = np.median(splats.means[~which], axis=0).astype(np.float64)
    way = splats.means[which].astype(np.float64) - centre
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(way > 0, (most - centre) / way, (-most - centre) / way)
    factor = np.minimum(np.nan_to_num(room, nan=1.0, posinf=1.0, neginf=1.0).min(axis=1), 1.0)
    means, scales = splats.means.copy(), splats.scales_log.copy()
    means[which] = (centre + way * factor[:, None]).astype(np.float32)
    scales[which] += np.log(np.maximum(factor, 1e-30)).astype(np.float32)[:, None]
    return splats._replace(means=means, scales_log=scales)


def said(count: int, distance: float) -> str:
    """For people: what was done to `count` floaters, the farthest `distance` units out."""
    one = count == 1
    return (
        f"{count} splat{'' if one else 's'} up to {distance:.3g} units away, far outside the "
        "scene, "
        f"{'was' if one else 'were'} moved nearer along {'its' if one else 'their'} line of "
        "sight and shrunk alike, "
        "so that the others keep their precision"
    )
