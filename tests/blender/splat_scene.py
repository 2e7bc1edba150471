"""Small scenes of random Gaussians and cameras in Blender, and renders of them as arrays."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from scene_splatter.blender_addon.splats import splat_object
from scene_splatter.engine.bridge.splat_file import Splats

from tests.blender.splat_oracle import Camera

EEVEE = "BLENDER_EEVEE_NEXT" if bpy.app.version < (5, 0, 0) else "BLENDER_EEVEE"


def random_splats(n: int = 400, k: int = 15, seed: int = 0) -> Splats:
    """Anisotropic Gaussians in the view of a camera at the origin that looks along +z, 2 to 6 m
    away.
    """
    rng = np.random.default_rng(seed)
    z = rng.uniform(2, 6, n)
    means = np.stack([rng.uniform(-0.5, 0.5, n) * z, rng.uniform(-0.4, 0.4, n) * z, z], 1)
    parts = (
        means,
        rng.normal(size=(n, 4)),
        np.log(rng.lognormal(-2.5, 0.6, (n, 3))),
        rng.uniform(-2, 3, n),
        rng.normal(0, 0.9, (n, 3)),
        rng.normal(0, 0.12, (n, k, 3)),
    )
    return Splats(*(part.astype(np.float32) for part in parts))


def empty_scene(width: int = 128, height: int = 96) -> bpy.types.Scene:
    """A scene with nothing but a camera at the origin that looks along Blender's +y, rendering
    exactly one sample a pixel.
    """
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.rotation_euler = (np.pi / 2, 0, 0)
    camera.data.clip_start = 0.01
    camera.data.lens = 35
    render = scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
    render.film_transparent = True
    render.filter_size = 0.01
    render.threads_mode, render.threads = "FIXED", 2
    scene.view_settings.view_transform = "Standard"
    # drawn as each test says, not as the view asks
    scene.scene_splatter_match_view = scene.scene_splatter_exact = False
    scene.cycles.samples, scene.cycles.use_adaptive_sampling, scene.cycles.use_denoising = (
        1,
        False,
        False,
    )
    scene.cycles.pixel_filter_type, scene.cycles.max_bounces = "BOX", 0
    scene.cycles.transparent_max_bounces = scene.cycles.min_transparent_bounces = 1024
    _without_what_nobody_sees(scene)
    return scene


def _without_what_nobody_sees(scene: bpy.types.Scene) -> None:
    """EEVEE without shadows, in a world as black as none: each render of a software renderer would
    draw the world's probe of 4 megapixels and the shadows' maps, which takes 15 times as long.
    """
    eevee = scene.eevee
    eevee.taa_render_samples, eevee.use_shadows = 1, False
    eevee.shadow_pool_size = eevee.gi_irradiance_pool_size = "16"
    scene.world = bpy.data.worlds.new("black")
    scene.world.color, scene.world.probe_resolution = (0, 0, 0), "128"
    if scene.world.node_tree is not None:
        scene.world.node_tree.nodes.clear()


def opencv_camera(scene: bpy.types.Scene, ob: bpy.types.Object) -> Camera:
    """The scene camera in the object's space by Blender's own projection matrix, not by our
    formulas.
    """
    render, graph = scene.render, bpy.context.evaluated_depsgraph_get()
    width, height = (
        int(size * render.resolution_percentage / 100)
        for size in (render.resolution_x, render.resolution_y)
    )
    projection = np.array(
        scene.camera.evaluated_get(graph).calc_matrix_camera(
            graph, x=width, y=height, scale_x=render.pixel_aspect_x, scale_y=render.pixel_aspect_y
        )
    )
    fx, fy = projection[0, 0] * width / 2, projection[1, 1] * height / 2
    cx, cy = width / 2 * (1 - projection[0, 2]), height / 2 * (1 + projection[1, 2])
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    world_from_camera = np.array(scene.camera.matrix_world.normalized()) @ np.diag([1.0, -1, -1, 1])
    object_from_camera = np.linalg.inv(np.array(ob.matrix_world)) @ world_from_camera
    object_from_camera[:3, :3] /= np.cbrt(
        np.linalg.det(object_from_camera[:3, :3])
    )  # an object's scale changes no direction
    return Camera(K, np.linalg.inv(object_from_camera), width, height)


def render(scene: bpy.types.Scene, engine: str, path: Path) -> np.ndarray:
    """[h, w, 4] linear light, premultiplied, top row first."""
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "OPEN_EXR", "RGBA", "32"
    scene.render.engine = engine
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path))
    width, height = image.size
    pixels = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    return pixels.reshape(height, width, 4)[::-1]


def add_splats(splats: Splats, **values: object) -> bpy.types.Object:
    """An upright splat object with inputs of its modifier set."""
    ob = splat_object.create("splats", splats, blending=values.pop("blending", "linear"))
    for name, value in values.items():
        splat_object.set_input(splat_object.modifier_of(ob), name, value)
    bpy.context.view_layer.update()
    return ob
