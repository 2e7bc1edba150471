"""Camera moves as ordinary keyframes, and plain words about paths that will not work well."""

from __future__ import annotations

import math

import bpy
import numpy as np
from mathutils import Matrix, Quaternion, Vector

from ...engine.bridge import moves
from ...engine.bridge.camera_file import CameraPath
from ...engine.bridge.errors import UserError
from .conversion import animation_curves

MOVES = ("dolly", "truck", "pedestal", "pan", "tilt", "orbit")
_TURN_STEP_DEG = 5.0  # between keys of a move that turns
_JUMP = 8.0  # a step this many times the usual one is a jump
_JUMP_DEG = 4.0  # but not if it is small to the eye
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # a camera of the engine looks along +z with y down


def spell(amounts: dict[str, float], distance_m: float) -> str:
    """A sum of moves in the command line's words, e.g. "dolly:0.5+orbit:20@4"; empty if nothing
    moves.

    amounts: metres or degrees by name of MOVES; distance_m: of the point that an orbit goes round.
    """
    terms = [(name, amounts[name]) for name in MOVES if amounts.get(name)]
    return "+".join(
        f"{name}:{amount:.6g}" + (f"@{distance_m:.6g}" if name == "orbit" else "")
        for name, amount in terms
    )


def add_move(
    scene: bpy.types.Scene, camera: bpy.types.Object, spec: str, *, start: int, end: int
) -> int:
    """Animate `camera` from where it stands now, with ordinary keyframes from frame `start` to
    `end`.

    spec: a move as the command line takes it (`engine.bridge.moves`), seen from the camera; metres
    are metres of the world, whatever scale the camera or what it is parented to has. Keys of
    location and rotation that the camera has between the two frames are replaced, others stay;
    returns how many were replaced. Raises UserError for a move that is none, and for a range
    without length.
    """
    if end <= start:
        raise UserError(
            f"The move ends (frame {end}) before it starts ({start}).",
            "Choose a longer frame range.",
        )
    terms = moves.parse(spec)
    if any(name == "zoom" for name, _, _ in terms):
        raise UserError("A zoom is no move of the camera.", "Animate the lens's Focal Length.")
    turned = sum(
        abs(amount) for name, amount, _ in terms if name not in ("dolly", "truck", "pedestal")
    )
    steps = max(1, math.ceil(turned / _TURN_STEP_DEG))
    if moves.loops(spec):
        steps *= 2  # out and back: a key where it turns
    path = moves.move(spec, K=np.eye(3), width=1, height=1, frames=steps + 1, ease="linear")
    bpy.context.view_layer.update()
    metres, at_start = scene.unit_settings.scale_length, camera.matrix_basis.copy()
    location, rotation, _ = camera.matrix_world.decompose()
    first, parent = Matrix.LocRotScale(location, rotation, None), _parent_matrix(camera)
    rotation_path = {"QUATERNION": "rotation_quaternion", "AXIS_ANGLE": "rotation_axis_angle"}.get(
        camera.rotation_mode, "rotation_euler"
    )
    replaced = _clear_keys(camera, start, end)
    scale = camera.scale.copy()
    for step, relative in enumerate(path.world_from_camera):
        moved = _FLIP @ relative @ _FLIP
        moved[:3, 3] /= metres
        basis = parent.inverted_safe() @ first @ Matrix(moved.tolist())
        _stand(camera, basis, scale)
        frame = start + (end - start) * step / steps
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert(rotation_path, frame=frame)
    camera.matrix_basis = at_start
    return replaced


def _stand(camera: bpy.types.Object, basis: Matrix, scale: Vector) -> None:
    """Give `camera` place and direction of `basis`, and turns that go on from those it has: no spin
    between keys.
    """
    before, mode = camera.rotation_euler.copy(), camera.rotation_mode
    quaternion = camera.rotation_quaternion.copy()
    camera.matrix_basis = Matrix.LocRotScale(basis.to_translation(), _rotation_of(basis), scale)
    if mode == "QUATERNION":
        turned = camera.rotation_quaternion.copy()
        turned.make_compatible(quaternion)
        camera.rotation_quaternion = turned
    elif mode != "AXIS_ANGLE":
        turned = camera.rotation_euler.copy()
        turned.make_compatible(before)
        camera.rotation_euler = turned


def _rotation_of(matrix: Matrix) -> Quaternion:
    """The rotation of a matrix whose scale is of any size; a shear counts as far as Blender's
    cameras heed it.
    """
    return matrix.normalized().to_quaternion()


def _parent_matrix(camera: bpy.types.Object) -> Matrix:
    """What `camera`'s own location and rotation are seen from: its world matrix is this times its
    own.
    """
    if camera.parent is None:
        return Matrix.Identity(4)
    if camera.parent_type == "OBJECT":
        return camera.parent.matrix_world @ camera.matrix_parent_inverse
    return camera.matrix_world @ camera.matrix_basis.inverted_safe()


def _clear_keys(camera: bpy.types.Object, start: int, end: int) -> int:
    """Remove keys of location and rotation from `start` to `end`, both included; how many frames
    had some.
    """
    if camera.animation_data is None or camera.animation_data.action is None:
        return 0
    frames = set()
    for curve in animation_curves(camera):
        if curve.data_path == "location" or curve.data_path.startswith("rotation"):
            for point in reversed([p for p in curve.keyframe_points if start <= p.co.x <= end]):
                frames.add(point.co.x)
                curve.keyframe_points.remove(point)
    return len(frames)


def may_move(camera: bpy.types.Object) -> bool:
    """Whether anything could move `camera` over time: keys, drivers, constraints, or what it is
    parented to.
    """
    while camera is not None:
        data = camera.animation_data
        if data is not None and (data.action is not None or data.drivers or data.nla_tracks):
            return True
        if any(not constraint.mute for constraint in camera.constraints):
            return True
        camera = camera.parent
    return False


def path_warnings(
    path: CameraPath, frames: list[float], scene: bpy.types.Scene, camera: bpy.types.Object
) -> list[str]:
    """What may go wrong with a path of `cameras.export`, one sentence each: jumps, stops, cuts to
    other cameras, clipping.
    """
    warnings = [*_jumps(path, frames), *_standstill(path, frames), *_cuts(scene, camera, frames)]
    metres = scene.unit_settings.scale_length
    if camera.data.clip_start * metres > 0.1 + 1e-6:
        warnings.append(
            f"{camera.name} clips everything nearer than {camera.data.clip_start * metres:.2g} "
            "m: lower its Clip Start."
        )
    if camera.data.clip_end * metres < 20:
        warnings.append(
            f"{camera.name} clips everything beyond {camera.data.clip_end * metres:.2g} m: raise "
            "its Clip End."
        )
    return warnings


def _steps(path: CameraPath) -> tuple[np.ndarray, np.ndarray]:
    """[f - 1] metres and degrees between neighbouring cameras."""
    centres, turns = path.world_from_camera[:, :3, 3], path.world_from_camera[:, :3, :3]
    relative = np.einsum("fji,fjk->fik", turns[:-1], turns[1:])
    cosine = np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)
    return np.linalg.norm(np.diff(centres, axis=0), axis=1), np.degrees(np.arccos(cosine))


def _jumps(path: CameraPath, frames: list[float]) -> list[str]:
    if path.count < 3:
        return []
    metres, degrees = _steps(path)
    fov = 2 * math.degrees(math.atan(path.width / 2 / path.K[:, 0, 0].max()))
    found = []
    usual, usual_turn, largest = (
        _median_of_others(metres),
        _median_of_others(degrees),
        _largest_of_others(metres),
    )
    cut = degrees > fov / 2
    turned = (degrees > np.maximum(_JUMP * usual_turn, _JUMP_DEG)) & ~cut
    moved = (metres > _JUMP * usual) & (metres > 0.05) & (metres > 1.5 * largest)
    for index in np.flatnonzero(cut | turned | moved):
        between = f"between frames {frames[index]:g} and {frames[index + 1]:g}"
        if cut[index]:
            found.append(
                f"The camera turns {degrees[index]:.0f} degrees {between}: the two views share "
                "too little."
            )
        elif turned[index]:
            found.append(
                f"The camera turns {degrees[index]:.0f} degrees {between}, "
                f"{usual_turn[index]:.1f} elsewhere: is that a jump?"
            )
        if moved[index]:
            found.append(
                f"The camera moves {metres[index]:.2g} m {between}, {usual[index]:.2g} m "
                "elsewhere: is that a jump?"
            )
    zoom = path.K[1:, 0, 0] / path.K[:-1, 0, 0]
    for index in np.flatnonzero(np.abs(np.log(zoom)) > math.log(1.25)):
        between = f"between frames {frames[index]:g} and {frames[index + 1]:g}"
        found.append(
            f"The lens changes by {abs(zoom[index] - 1) * 100:.0f} % {between}: is that a jump?"
        )
    return found


def _median_of_others(values: np.ndarray) -> np.ndarray:
    """[n > 1] -> [n]: for each value the median of all others."""
    order = np.argsort(values, kind="stable")
    rank, ordered = np.argsort(order), values[order]
    low, high = (len(values) - 2) // 2, (len(values) - 1) // 2  # the middle of n - 1 values
    return (ordered[low + (rank <= low)] + ordered[high + (rank <= high)]) / 2


def _largest_of_others(values: np.ndarray) -> np.ndarray:
    """[n > 1] -> [n]: for each value the largest of all others."""
    second, first = np.argsort(values, kind="stable")[-2:]
    return np.where(np.arange(len(values)) == first, values[second], values[first])


def _standstill(path: CameraPath, frames: list[float]) -> list[str]:
    """Runs of at least a quarter of the path, and at least five frames, in which nothing moves."""
    if path.count < 2:
        return []
    metres, degrees = _steps(path)
    still = (metres < 1e-6) & (degrees < 1e-4) & (np.abs(np.diff(path.K[:, 0, 0])) < 1e-6)
    found, first = [], None
    for index in range(len(still) + 1):
        if index < len(still) and still[index]:
            first = index if first is None else first
            continue
        if first is not None and index - first >= max(5, path.count // 4):
            found.append(
                f"The camera stands still from frame {frames[first]:g} to {frames[index]:g}: "
                "shorten the range, or animate it there."
            )
        first = None
    return found


def _cuts(scene: bpy.types.Scene, camera: bpy.types.Object, frames: list[float]) -> list[str]:
    """Timeline markers in the range that hand over to another camera."""
    return [
        f"At frame {marker.frame} the scene cuts to {marker.camera.name}; the path stays with "
        f"{camera.name}."
        for marker in sorted(scene.timeline_markers, key=lambda m: m.frame)
        if marker.camera not in (None, camera) and frames[0] <= marker.frame <= frames[-1]
    ]
