"""A proxy mesh of a splat scene, for shadows, collisions and snapping: TSDF fusion of rendered
depth.

Depth is rendered from many cameras and fused into a truncated signed distance on a voxel grid
(Curless and Levoy 1996); its zero set is taken by scikit-image's marching cubes (Lewiner) and cut
down to the face budget by fast-simplification (quadric error, Garland and Heckbert 1997), smoothed
before. Both libraries are small wheels; Open3D does all three steps but is 400 MB and lags behind
Python. Surfaces exist only where some camera saw them from outside.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.harmonics import sphere_directions
from ..bridge.progress import Report
from .passes import Drawable, draw_passes

log = logging.getLogger(__name__)

_TRUNCATION_VOXELS = 4.0
_SOLID_ALPHA = 0.5  # pixels with less are taken for empty
_EDGE = (
    0.08  # relative depth step to a neighbour that marks an edge, where expected depth is a blur
)
_SMALLEST_SHARE = 0.01  # pieces with fewer of the faces than this are dust
_SMOOTH_IN, _SMOOTH_OUT = 0.5, -0.53
_SLAB = 1 << 21  # voxels treated at a time


class Mesh(NamedTuple):
    """A triangle mesh in OpenCV axes, metres; faces turn counter-clockwise seen from outside."""

    vertices: np.ndarray  # [v, 3] float32
    faces: np.ndarray  # [f, 3] int32


class DepthView(NamedTuple):
    """A depth map, 0 where nothing solid is seen, and its camera."""

    depth: np.ndarray  # [h, w] float32 metres along the axis
    K: np.ndarray  # [3, 3]
    world_from_camera: np.ndarray  # [4, 4]


def _silent(*_: object, **__: object) -> None:
    return


def proxy(
    scene: Drawable,
    cameras: CameraPath | None = None,
    *,
    faces: int = 20_000,
    resolution: int = 160,
    max_depth_m: float = 0.0,
    views: int = 24,
    report: Report = _silent,
) -> Mesh:
    """The surface that `cameras` see (at most `views` of them), or a ring of cameras round the
    scene without.

    `resolution` is the number of voxels along the longest side. `max_depth_m` 0 takes nine tenths
    of the depths seen. UserError when nothing solid is seen.
    """
    if faces < 4 or not 8 <= resolution <= 768 or views < 1:
        raise UserError(
            f"{faces} faces, {resolution} voxels and {views} views are not possible.",
            "Ask for 4 faces, 8 to 768 voxels, 1 view or more.",
        )
    chosen = _spread(cameras, views) if cameras is not None else around(scene, views)
    maps = []
    for i in range(chosen.count):
        report("depth", i, chosen.count)
        maps.append(
            DepthView(solid_depth(scene, chosen, i), chosen.K[i], chosen.world_from_camera[i])
        )
    seen = [m.depth[m.depth > 0] for m in maps]
    if not any(len(s) for s in seen):
        raise UserError(
            "The cameras see nothing solid.",
            "Check the cameras, or raise the opacity of the splats.",
        )
    if max_depth_m <= 0:
        max_depth_m = float(np.quantile(np.concatenate(seen), 0.9)) * 1.1
    origin, voxel, shape = _grid(maps, max_depth_m, resolution)
    distance, observed = fuse(maps, origin, voxel, shape, max_depth_m, report)
    report("surface", 0, 1)
    mesh = surface(distance, observed, origin, voxel)
    mesh = simplified(smoothed(without_dust(mesh)), faces)
    report("surface", 1, 1, f"{len(mesh.faces)} faces")
    return mesh


def _spread(path: CameraPath, count: int) -> CameraPath:
    index = np.unique(np.linspace(0, path.count - 1, min(count, path.count)).round().astype(int))
    return path._replace(K=path.K[index], world_from_camera=path.world_from_camera[index])


def around(scene: Drawable, count: int) -> CameraPath:
    """Cameras on a sphere round the middle of the opaque splats, looking in."""
    means = (
        scene.gaussians.means[torch.sigmoid(scene.gaussians.opacities_logit) > _SOLID_ALPHA]
        .cpu()
        .numpy()
    )
    if not len(means):
        raise UserError(
            "The scene has no opaque splats.", "Give cameras, or raise the opacity of the splats."
        )
    centre = np.median(means, axis=0)
    radius = float(np.quantile(np.linalg.norm(means - centre, axis=1), 0.95)) + 1e-6
    poses = np.tile(np.eye(4), (count, 1, 1))
    for i, direction in enumerate(sphere_directions(count)):
        up = np.array([0.0, 1, 0]) if abs(direction[1]) < 0.95 else np.array([1.0, 0, 0])
        right = np.cross(up, -direction)
        right /= np.linalg.norm(right)
        poses[i, :3, :3] = np.stack([right, np.cross(-direction, right), -direction], axis=1)
        poses[i, :3, 3] = centre + 3 * radius * direction
    side = 384
    focal = side / 2 / np.tan(np.arcsin(1 / 3)) * 0.9
    K = np.tile(np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]]), (count, 1, 1))
    return CameraPath(K, poses, side, side, 24.0, "m")


def solid_depth(scene: Drawable, path: CameraPath, index: int) -> np.ndarray:
    """[h, w] metres; 0 where alpha is low or where depth jumps, since expected depth floats between
    surfaces there.
    """
    pose = path.world_from_camera[index]
    drawn = draw_passes(scene, path.K[index], pose, path.width, path.height)
    depth = (
        torch.where(drawn.alpha > _SOLID_ALPHA, drawn.depth, 0.0).cpu().numpy().astype(np.float32)
    )
    edge = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        step = np.abs(np.diff(depth, axis=axis)) > _EDGE * np.minimum(
            np.delete(depth, 0, axis), np.delete(depth, -1, axis)
        )
        first, second = [slice(None)] * 2, [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= step
        edge[tuple(second)] |= step
    return np.where(edge, 0, depth)


def _points(view: DepthView, max_depth_m: float) -> np.ndarray:
    rows, columns = np.nonzero((view.depth > 0) & (view.depth <= max_depth_m))
    z = view.depth[rows, columns].astype(np.float64)
    x = (columns + 0.5 - view.K[0, 2]) / view.K[0, 0] * z
    y = (rows + 0.5 - view.K[1, 2]) / view.K[1, 1] * z
    return (
        np.stack([x, y, z], axis=1) @ view.world_from_camera[:3, :3].T
        + view.world_from_camera[:3, 3]
    )


def _grid(
    maps: list[DepthView], max_depth_m: float, resolution: int
) -> tuple[np.ndarray, float, tuple[int, int, int]]:
    points = np.concatenate([_points(m, max_depth_m)[::7] for m in maps])
    if not len(points):
        raise UserError(f"Nothing solid lies within {max_depth_m:g} m.", "Raise the largest depth.")
    low, high = points.min(axis=0), points.max(axis=0)
    voxel = max(float((high - low).max()) / resolution, 1e-6)
    border = (_TRUNCATION_VOXELS + 1) * voxel
    shape = tuple(int(n) for n in np.ceil((high - low + 2 * border) / voxel).astype(int) + 1)
    return low - border, voxel, shape  # type: ignore[return-value]


def fuse(
    maps: list[DepthView],
    origin: np.ndarray,
    voxel: float,
    shape: tuple[int, int, int],
    max_depth_m: float,
    report: Report = _silent,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean truncated distance [x, y, z] in units of the truncation (positive outside) and where it
    was observed.
    """
    total, weight = np.zeros(shape, np.float32).reshape(-1), np.zeros(shape, np.float32).reshape(-1)
    truncation = _TRUNCATION_VOXELS * voxel
    for number, view in enumerate(maps):
        report("fusing", number, len(maps))
        camera_from_world = np.linalg.inv(view.world_from_camera)
        for start in range(0, total.size, _SLAB):
            index = np.arange(start, min(start + _SLAB, total.size))
            places = np.stack(np.unravel_index(index, shape), axis=1) * voxel + origin
            local = (places @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]).astype(
                np.float32
            )
            sampled, z = _sampled(view, local)
            signed = sampled - z
            use = (sampled > 0) & (sampled <= max_depth_m) & (signed > -truncation)
            total[index[use]] += np.minimum(signed[use] / truncation, 1.0)
            weight[index[use]] += 1.0
    observed = weight > 0
    distance = np.where(observed, total / np.maximum(weight, 1), 1.0).astype(np.float32)
    return distance.reshape(shape), observed.reshape(shape)


def _sampled(view: DepthView, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth at the pixel each point [n, 3] falls into (0 outside the picture) and the points' own
    depth.
    """
    z = local[:, 2]
    safe = np.maximum(z, 1e-6)
    u = np.floor(np.clip(local[:, 0] / safe * view.K[0, 0] + view.K[0, 2], -1, 1e6)).astype(
        np.int64
    )
    v = np.floor(np.clip(local[:, 1] / safe * view.K[1, 1] + view.K[1, 2], -1, 1e6)).astype(
        np.int64
    )
    height, width = view.depth.shape
    inside = (z > 1e-6) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
    depth = np.zeros(len(z), np.float32)
    depth[inside] = view.depth[v[inside], u[inside]]
    return depth, z


def surface(distance: np.ndarray, observed: np.ndarray, origin: np.ndarray, voxel: float) -> Mesh:
    """The zero set between observed voxels, in metres."""
    from skimage.measure import marching_cubes

    if not ((distance < 0) & observed).any():
        raise UserError(
            "No surface was found in the rendered depth.",
            "Raise the resolution, or give cameras that look at the scene.",
        )
    vertices, faces, _, _ = marching_cubes(distance, 0.0, gradient_direction="descent")
    ends = (
        np.floor(vertices).astype(int),
        np.ceil(vertices).astype(int),
    )  # each vertex lies on an edge of the grid
    known = observed[tuple(ends[0].T)] & observed[tuple(ends[1].T)]
    kept = faces[known[faces].all(axis=1)]
    return _compact((vertices * voxel + origin).astype(np.float32), kept)


def _compact(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    used, inverse = np.unique(faces, return_inverse=True)
    return Mesh(
        np.ascontiguousarray(vertices[used], np.float32), inverse.reshape(-1, 3).astype(np.int32)
    )


def without_dust(mesh: Mesh) -> Mesh:
    """The mesh without pieces that have less than a hundredth of its faces."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(mesh.faces):
        raise UserError(
            "No surface was found in the rendered depth.",
            "Raise the resolution, or give cameras that look at the scene.",
        )
    a, b = mesh.faces[:, [0, 1]].reshape(-1), mesh.faces[:, [1, 2]].reshape(-1)
    count = len(mesh.vertices)
    _, piece = connected_components(
        coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(count, count)), directed=False
    )
    of_face = piece[mesh.faces[:, 0]]
    sizes = np.bincount(of_face)
    return _compact(mesh.vertices, mesh.faces[sizes[of_face] >= _SMALLEST_SHARE * len(mesh.faces)])


def smoothed(mesh: Mesh, rounds: int = 10) -> Mesh:
    """The mesh without the ripple of single voxels; shape and size stay (Taubin 1995: a step in, a
    longer step out).
    """
    from scipy.sparse import coo_matrix, diags

    a, b = mesh.faces[:, [0, 1, 2]].reshape(-1), mesh.faces[:, [1, 2, 0]].reshape(-1)
    count = len(mesh.vertices)
    joined = coo_matrix(
        (np.ones(2 * len(a)), (np.concatenate([a, b]), np.concatenate([b, a]))),
        shape=(count, count),
    ).tocsr()
    joined.data[:] = 1.0
    mean = diags(1.0 / np.maximum(np.asarray(joined.sum(axis=1)).reshape(-1), 1)) @ joined
    places = mesh.vertices.astype(np.float64)
    for _ in range(rounds):
        for step in (_SMOOTH_IN, _SMOOTH_OUT):
            places = places + step * (mean @ places - places)
    return mesh._replace(vertices=places.astype(np.float32))


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """At most `faces` faces."""
    from fast_simplification import simplify

    if len(mesh.faces) <= faces:
        return mesh
    vertices, triangles = simplify(mesh.vertices, mesh.faces, target_count=faces, agg=5)
    for _ in range(3):  # the library stops a little above its target where edges must not collapse
        if len(triangles) <= faces:
            break
        vertices, triangles = simplify(vertices, triangles, target_count=int(faces * 0.97), agg=9)
    if len(triangles) > faces:
        log.warning(
            "the mesh has %d faces: it cannot be cut down to %d without holes",
            len(triangles),
            faces,
        )
    return _compact(np.asarray(vertices, np.float32), np.asarray(triangles, np.int64))


def write(path: Path, mesh: Mesh) -> None:
    """Binary little-endian .ply with vertices and triangles. UserError when it cannot be
    written.
    """
    from ..bridge.whole_file import replacing

    header = (
        "ply\nformat binary_little_endian 1.0\ncomment scene_splatter proxy mesh\nelement "
        f"vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(mesh.faces), [("n", "u1"), ("v", "<i4", 3)])
    rows["n"], rows["v"] = 3, mesh.faces
    with replacing(path) as file:
        file.write(header.encode() + mesh.vertices.astype("<f4").tobytes() + rows.tobytes())
