"""Named axes of other programs, and moving splats between them.

The engine's own axes are OpenCV's (x right, y down, z forward, metres). A preset says how a
program names the same directions and what length its unit has. A similarity (uniform scale,
rotation or mirror, shift) carries a Gaussian to a Gaussian: the centre is mapped, ln s is added
to the log scales, and view-dependent colour is turned by its band matrices.

Mirrors (the left-handed programs): the covariance R S^2 R^T becomes M R S^2 R^T M^T, and M R has
determinant -1, so it is no rotation and has no quaternion. -M R is one, and gives the same
covariance with the same scales, since a Gaussian is even along each of its axes. Where M only
flips axes, the conjugate M R M serves as well; it is used then because it only changes signs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .errors import UserError
from .harmonics import rotate_sh
from .quaternions import quaternion_of
from .splat_file import Splats


class AxisPreset(NamedTuple):
    """How a program names directions: its coordinates = from_opencv @ OpenCV coordinates /
    metres_per_unit.
    """

    name: str
    from_opencv: np.ndarray  # [3, 3], one +1 or -1 in every row and column
    metres_per_unit: float
    text: str

    @property
    def mirrored(self) -> bool:
        """True for left-handed axes."""
        return bool(np.linalg.det(self.from_opencv) < 0)


def _preset(
    name: str, rows: tuple[tuple[int, int, int], ...], metres_per_unit: float, text: str
) -> AxisPreset:
    return AxisPreset(name, np.array(rows, np.float64), metres_per_unit, text)


_RUB = ((1, 0, 0), (0, -1, 0), (0, 0, -1))
_RDF = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

PRESETS: dict[str, AxisPreset] = {
    p.name: p
    for p in (
        _preset(
            "opencv",
            _RDF,
            1.0,
            "x right, y down, z forward: COLMAP, 3DGS trainers and their .ply files",
        ),
        _preset(
            "blender",
            ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
            1.0,
            "x right, y forward, z up; right-handed; metres",
        ),
        _preset("gltf", _RUB, 1.0, "x right, y up, z back; right-handed; metres"),
        _preset("houdini", _RUB, 1.0, "x right, y up, z back; right-handed; metres"),
        _preset(
            "nuke", _RUB, 1.0, "x right, y up, z back; right-handed; one unit taken as a metre"
        ),
        _preset(
            "unreal",
            ((0, 0, 1), (1, 0, 0), (0, -1, 0)),
            0.01,
            "x forward, y right, z up; left-handed; centimetres",
        ),
        _preset(
            "unity",
            ((1, 0, 0), (0, -1, 0), (0, 0, 1)),
            1.0,
            "x right, y up, z forward; left-handed; metres",
        ),
        _preset(
            "supersplat",
            _RDF,
            1.0,
            "what SuperSplat expects in a file (x right, y down, z forward): it turns files by "
            "180 degrees about z itself",
        ),
    )
}


def preset(name: str) -> AxisPreset:
    """The preset called `name` (any case). UserError naming the choices otherwise."""
    found = PRESETS.get(name.lower())
    if found is None:
        raise UserError(f"Unknown axes {name!r}.", f"Choose one of {', '.join(PRESETS)}.")
    return found


def between(source: str, target: str) -> np.ndarray:
    """[3, 3] signed permutation: directions in `source` axes -> the same directions in `target`
    axes.
    """
    return preset(target).from_opencv @ preset(source).from_opencv.T


def similarity(
    linear: np.ndarray, scale: float = 1.0, shift: np.ndarray | None = None
) -> np.ndarray:
    """[4, 4] of an orthogonal [3, 3], a scale and a shift [3]."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.asarray(linear, np.float64)
    if shift is not None:
        matrix[:3, 3] = shift
    return matrix


def decompose_similarity(matrix: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """[4, 4] -> (scale > 0, orthogonal [3, 3] with determinant +1 or -1, shift [3]).

    UserError when the matrix is not a similarity: splats cannot carry shear or unequal scales
    (their colour would have to follow directions that no band matrix can bend).
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise UserError(
            "The transform is not a 4x4 matrix of finite numbers.", "Give 16 numbers, row by row."
        )
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-9:
        raise UserError("The transform has a projective last row.", "The last row must be 0 0 0 1.")
    linear = matrix[:3, :3]
    scales = np.linalg.svd(linear, compute_uv=False)
    if scales[2] < 1e-12:
        raise UserError(
            "The transform flattens the splats: one of its scales is zero.",
            "Give the object a scale other than zero.",
        )
    if scales[0] / scales[2] > 1 + 1e-4:
        raise UserError(
            f"The transform scales unequally or shears (its scales are {scales[0]:.6g}, "
            f"{scales[1]:.6g}, {scales[2]:.6g}).",
            "Splats keep their look only under move, turn and uniform scale: set the same scale "
            "on all axes and clear the parents' shear.",
        )
    scale = float(np.cbrt(abs(np.linalg.det(linear))))
    u, _, vt = np.linalg.svd(linear)  # the nearest orthogonal matrix: takes off rounding
    orthogonal = u @ vt
    exact = np.round(orthogonal)
    if np.abs(orthogonal - exact).max() < 1e-12:
        orthogonal = exact
    return scale, orthogonal, matrix[:3, 3].copy()


def _left_product(quaternion: np.ndarray) -> np.ndarray:
    """[4, 4] matrix of q -> quaternion (x) q."""
    w, x, y, z = quaternion
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])


def _turned(quats: np.ndarray, orthogonal: np.ndarray) -> np.ndarray:
    """[n, 4] rotations R -> quaternions of the same Gaussians seen through an orthogonal [3, 3]."""
    determinant = round(np.linalg.det(orthogonal))
    flips = np.diagonal(orthogonal)
    if np.array_equal(orthogonal, np.diag(flips)):  # M R M: the axis of R becomes det M * M axis
        return quats * np.concatenate([[1.0], determinant * flips]).astype(np.float32)
    return (
        quats.astype(np.float64) @ _left_product(quaternion_of(determinant * orthogonal)).T
    ).astype(np.float32)


def transform_splats(splats: Splats, matrix: np.ndarray) -> Splats:
    """Carry splats by a similarity [4, 4] (new = matrix @ old): centres, log scales, quaternions,
    SH.

    Mirrors are allowed. Quaternions keep their norm. The identity returns `splats` itself.
    UserError for shear, unequal or zero scales.
    """
    scale, orthogonal, shift = decompose_similarity(matrix)
    if scale == 1.0 and not shift.any() and np.array_equal(orthogonal, np.eye(3)):
        return splats
    means = splats.means
    if scale != 1.0 or not np.array_equal(orthogonal, np.eye(3)):
        means = means.astype(np.float64) @ (scale * orthogonal).T
    means = (means + shift).astype(np.float32)
    quats = _turned(splats.quats, orthogonal)
    scales_log = (
        splats.scales_log
        if scale == 1.0
        else (splats.scales_log + np.float32(np.log(scale))).astype(np.float32)
    )
    return splats._replace(
        means=means,
        quats=quats,
        scales_log=scales_log,
        sh_rest=rotate_sh(splats.sh_rest, orthogonal),
    )
