"""Blender cameras as OpenCV ones, and back: the only change of axes on the way to the engine.

Blender's world has z up, its cameras look along -z. The engine has x right, y down, z forward for
the world as for the camera, and metres; a scene whose unit is not the metre is scaled.
    world_from_camera = OPENCV_FROM_BLENDER @ matrix_world @ diag(1, -1, -1, 1)
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Sequence

import bpy
import numpy as np
from mathutils import Matrix

from ...engine.bridge.camera_file import CameraPath
from ...engine.bridge.errors import UserError
from ..jobs.slices import SLICE_S, Step, run
from .picture_header import Header

OPENCV_FROM_BLENDER = np.array(
    [[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
)  # z up -> y down
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # looks along -z, y up -> looks along z, y down
NEAR_M, FAR_M = 0.01, 1000.0  # what the cameras that are made here draw at least
_KINDS = {"ORTHO": "orthographic", "PANO": "panoramic"}


def render_size(render: bpy.types.RenderSettings) -> tuple[int, int]:
    """Width and height of the picture in pixels; a render border does not change them."""
    share = render.resolution_percentage / 100
    return int(render.resolution_x * share), int(render.resolution_y * share)


def intrinsics(lens: bpy.types.Camera, render: bpy.types.RenderSettings) -> np.ndarray:
    """K [3, 3] in pixels, centres at +0.5. Raises UserError if the camera is not a perspective
    one.
    """
    if lens.type != "PERSP":
        raise UserError(
            f"{lens.name} is {_KINDS.get(lens.type, lens.type.lower())}.",
            "Only perspective cameras can be used.",
        )
    width, height = render_size(render)
    stretch = render.pixel_aspect_y / render.pixel_aspect_x
    fit = lens.sensor_fit
    sensor = lens.sensor_height if fit == "VERTICAL" else lens.sensor_width
    if fit == "AUTO":
        fit = "HORIZONTAL" if width >= stretch * height else "VERTICAL"
    view = width if fit == "HORIZONTAL" else stretch * height  # pixels that the sensor's size spans
    fx = lens.lens * view / sensor
    cx, cy = width / 2 - lens.shift_x * view, height / 2 + lens.shift_y * view / stretch
    return np.array([[fx, 0, cx], [0, fx / stretch, cy], [0, 0, 1]])


def world_from_camera(
    matrix_world: Matrix, metres: float = 1.0, name: str = "The camera"
) -> np.ndarray:
    """[4, 4] rigid, OpenCV axes, of a camera's world matrix; its scale is ignored, as Blender does.

    metres: length of one Blender unit. Raises UserError for a mirrored camera.
    """
    if matrix_world.to_3x3().determinant() <= 0:
        raise UserError(
            f"{name} is mirrored: it, or something it is parented to, has a negative scale.",
            "Apply or clear that scale.",
        )
    location, rotation, _ = matrix_world.decompose()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.normalized().to_matrix()
    matrix[:3, 3] = np.array(location) * metres
    return _orthonormal(OPENCV_FROM_BLENDER @ matrix @ _FLIP)


def blender_from_opencv(matrix: np.ndarray, metres: float = 1.0) -> Matrix:
    """The world matrix of a Blender camera, from world_from_camera [4, 4]: inverse of
    `world_from_camera`.
    """
    blender = OPENCV_FROM_BLENDER.T @ np.asarray(matrix, np.float64) @ _FLIP
    blender[:3, 3] /= metres
    return Matrix(blender.tolist())


def placement(path: CameraPath, scene: bpy.types.Scene) -> Matrix:
    """World matrix of an object whose axes are those of the path's first camera, as the engine's
    results are.
    """
    metres = scene.unit_settings.scale_length
    matrix = OPENCV_FROM_BLENDER.T @ path.world_from_camera[0]
    matrix[:3] /= metres
    return Matrix(matrix.tolist())


def export(scene: bpy.types.Scene, camera: bpy.types.Object, frames: Iterable[float]) -> CameraPath:
    """The camera at these frames (fractions are sub-frames) with everything that moves it
    evaluated.

    Lens, shift and sensor may be animated, the render's size may not. The scene's frame is put
    back. Raises UserError for cameras that are no perspective ones.
    """
    return run(export_in_slices(scene, camera, frames, math.inf))


def export_in_slices(
    scene: bpy.types.Scene,
    camera: bpy.types.Object,
    frames: Iterable[float],
    slice_s: float = SLICE_S,
) -> Generator[Step, None, CameraPath]:
    """As `export`, but gives Blender back after every `slice_s` seconds; between slices the scene's
    frame is the user's.

    What the user does between two slices counts from there on. Raises UserError, also where scene
    or camera are gone by then: both are looked up by name, because undo makes new objects.
    """
    frames, names = list(frames), (scene.name, camera.name)
    if not frames:
        raise UserError("The frame range is empty.", "Choose at least one frame.")
    size, metres, fps = (
        render_size(scene.render),
        scene.unit_settings.scale_length,
        scene.render.fps / scene.render.fps_base,
    )
    matrices: list[np.ndarray] = []
    lenses: list[np.ndarray] = []
    while len(matrices) < len(frames):
        done = len(matrices)
        if done:
            yield Step("Reading the camera path", done, len(frames))
            scene, camera = _still_there(*names, size)
        before = scene.frame_current, scene.frame_subframe
        end = time.perf_counter() + slice_s
        try:
            for frame in frames[done:]:
                if len(matrices) > done and time.perf_counter() > end:
                    break
                scene.frame_set(math.floor(frame), subframe=frame - math.floor(frame))
                evaluated = camera.evaluated_get(bpy.context.evaluated_depsgraph_get())
                lenses.append(intrinsics(evaluated.data, scene.render))
                matrices.append(world_from_camera(evaluated.matrix_world, metres, names[1]))
        finally:
            scene.frame_set(before[0], subframe=before[1])
    step = (frames[-1] - frames[0]) / (len(frames) - 1) if len(frames) > 1 else 1.0
    return CameraPath(
        np.stack(lenses), np.stack(matrices), *size, fps / abs(step) if step else fps, "m"
    )


def _still_there(
    scene_name: str, camera_name: str, size: tuple[int, int]
) -> tuple[bpy.types.Scene, bpy.types.Object]:
    scene, camera = bpy.data.scenes.get(scene_name), bpy.data.objects.get(camera_name)
    if (
        scene is None
        or camera is None
        or camera.type != "CAMERA"
        or render_size(scene.render) != size
    ):
        raise UserError(
            "The scene or its camera was changed while the path was read.",
            "Press the button again.",
        )
    return scene, camera


def _orthonormal(matrix: np.ndarray) -> np.ndarray:
    """The nearest rigid matrix: Blender's are of single precision."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    rigid = matrix.copy()
    rigid[:3, :3] = u @ vt
    return rigid


def add_camera(
    scene: bpy.types.Scene,
    path: CameraPath,
    name: str,
    *,
    start: int = 1,
    collection: bpy.types.Collection | None = None,
    set_render: bool = False,
) -> bpy.types.Object:
    """An animated camera that shows what the path's cameras show, one keyframe a frame from `start`
    on.

    set_render: give the scene the path's size, pixel aspect and frame rate; without that the
    picture is the same only where they agree.
    """
    if set_render:
        _set_render(scene.render, path)
    lens = bpy.data.cameras.new(name)
    lens.sensor_fit, lens.sensor_width = "HORIZONTAL", 36.0
    widen_clip(scene, lens, NEAR_M, FAR_M)
    camera = bpy.data.objects.new(name, lens)
    (collection or scene.collection).objects.link(camera)
    camera.rotation_mode = "QUATERNION"
    metres = scene.unit_settings.scale_length
    lens_moves = bool(np.ptp(path.K, axis=0).any())
    previous = None
    for index in range(path.count):
        location, rotation, _ = blender_from_opencv(
            path.world_from_camera[index], metres
        ).decompose()
        if previous is not None:
            rotation.make_compatible(previous)  # q and -q are one rotation: no spin between keys
        previous = rotation
        camera.location, camera.rotation_quaternion = location, rotation
        _set_lens(lens, path.K[index], path)
        if path.count > 1:
            _key(camera, ("location", "rotation_quaternion"), start + index)
            if lens_moves:
                _key(lens, ("lens", "shift_x", "shift_y"), start + index)
    for block in (camera, lens):
        if block.animation_data is not None:
            for point in (
                point for curve in animation_curves(block) for point in curve.keyframe_points
            ):
                point.interpolation = "LINEAR"  # a sampled path has no ease of its own
    return camera


def _set_lens(lens: bpy.types.Camera, K: np.ndarray, path: CameraPath) -> None:
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    lens.lens = fx * lens.sensor_width / path.width
    lens.shift_x = 0.5 - cx / path.width
    lens.shift_y = (cy - path.height / 2) * (fx / fy) / path.width


def _set_render(render: bpy.types.RenderSettings, path: CameraPath) -> None:
    render.resolution_x, render.resolution_y, render.resolution_percentage = (
        path.width,
        path.height,
        100,
    )
    stretch = path.K[0, 0, 0] / path.K[0, 1, 1]
    render.pixel_aspect_x, render.pixel_aspect_y = (
        (1.0, stretch) if stretch >= 1 else (1.0 / stretch, 1.0)
    )
    render.fps = max(1, round(path.fps))
    render.fps_base = render.fps / path.fps


def _key(block: bpy.types.ID, properties: Sequence[str], frame: float) -> None:
    for name in properties:
        block.keyframe_insert(name, frame=frame)


def animation_curves(block: bpy.types.ID) -> list[bpy.types.FCurve]:
    """Animation curves of an object or lens: in its action's slot since 4.4, in the action itself
    before.
    """
    data = block.animation_data
    if not hasattr(data, "action_slot"):
        return list(data.action.fcurves)
    bags = (
        [
            strip.channelbag(data.action_slot)
            for layer in data.action.layers
            for strip in layer.strips
        ]
        if data.action_slot
        else []
    )
    return [curve for bag in bags if bag is not None for curve in bag.fcurves]


def match_camera_to_image(
    scene: bpy.types.Scene,
    camera: bpy.types.Object,
    image: bpy.types.Image,
    header: Header | None = None,
    *,
    fov_deg: float = 0.0,
) -> None:
    """Give the render the image's shape and the camera its lens, and show the image behind the
    camera's view.

    The render becomes no larger than the image, nor than it was.
    header: what the image's file says, where it is known; a photo held upright is shown upright.
    fov_deg: horizontal angle of the lens; 0 takes the photo's own, or leaves the lens where that is
    not known. Raises UserError if the image has no size.
    """
    width, height = (header.width, header.height) if header is not None else image.size
    if not width or not height:
        raise UserError(f"{image.name} cannot be read.", "Choose an image that Blender can open.")
    render = scene.render
    share = min(1.0, max(render.resolution_x, render.resolution_y) / max(width, height))
    render.resolution_x, render.resolution_y = (
        max(round(width * share), 1),
        max(round(height * share), 1),
    )
    render.pixel_aspect_x = render.pixel_aspect_y = 1.0
    fov_deg = fov_deg or (header.fov_deg if header is not None and header.fov_deg else 0.0)
    if fov_deg:
        lens = camera.data
        lens.sensor_fit = "HORIZONTAL"
        lens.lens = lens.sensor_width / 2 / math.tan(math.radians(fov_deg) / 2)
    show_behind(camera, image, header)


def widen_clip(
    scene: bpy.types.Scene, lens: bpy.types.Camera, near_m: float, far_m: float
) -> tuple[float, float]:
    """Let a camera draw from `near_m` to `far_m` metres at least, whatever the scene's unit is.

    What it draws already stays: the range only grows. Returns it in Blender's units.
    """
    metres = scene.unit_settings.scale_length
    lens.clip_start = max(
        min(lens.clip_start, near_m / metres), 1e-6
    )  # the least that Blender takes
    lens.clip_end = max(lens.clip_end, far_m / metres)
    return lens.clip_start, lens.clip_end


_TURNS = {
    3: 180.0,
    4: 180.0,
    5: 90.0,
    6: 90.0,
    7: -90.0,
    8: -90.0,
}  # degrees clockwise that make a photo of this orientation upright
_MIRRORED = (2, 4, 5, 7)
_OURS = "scene_splatter_picture"  # custom property of images that were put behind a camera here


def show_behind(
    camera: bpy.types.Object, image: bpy.types.Image, header: Header | None = None
) -> None:
    """Make `image` the camera's background, upright, in the place of an older one of ours; the
    user's own stay.
    """
    backgrounds = camera.data.background_images
    for old in [b for b in backgrounds if b.image not in (None, image) and b.image.get(_OURS)]:
        backgrounds.remove(old)
    background = next((b for b in backgrounds if b.image == image), None) or backgrounds.new()
    image[_OURS] = True
    background.image = image
    background.alpha = 0.5
    background.frame_method, background.scale = "STRETCH", 1.0
    if header is not None and header.lies:  # Blender fits first and turns then
        background.frame_method, background.scale = (
            "FIT",
            max(header.width, header.height) / min(header.width, header.height),
        )
    orientation = header.orientation if header is not None else 1
    background.rotation = math.radians(_TURNS.get(orientation, 0.0))
    background.use_flip_x, background.use_flip_y = orientation in _MIRRORED, False
    camera.data.show_background_images = True
