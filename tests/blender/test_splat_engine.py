"""Blender's renders against the engine's own pictures of a generated scene, at three lenses.

The pictures lie in tests/golden/splat_renders.npz; make_splat_renders.py beside it made them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from mathutils import Matrix  # noqa: E402
from scene_splatter.blender_addon.cameras import conversion  # noqa: E402
from scene_splatter.blender_addon.splats import render_check  # noqa: E402
from scene_splatter.engine.bridge.splat_file import Splats  # noqa: E402

from tests.blender import splat_oracle  # noqa: E402
from tests.blender.splat_scene import EEVEE, add_splats, empty_scene, render  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "splat_renders.npz"


def load(blending: str, lens_index: int):
    """The scene in Blender, seen by the golden camera; the engine's picture [h, w, 4]; the lens in
    mm.
    """
    data = np.load(GOLDEN)
    splats = Splats(*(data[name] for name in Splats._fields))
    expected = data[blending][lens_index].astype(np.float32)
    scene = empty_scene(expected.shape[1], expected.shape[0])
    ob = add_splats(splats, blending=blending)
    scene.camera.matrix_world = conversion.blender_from_opencv(data["world_from_camera"])
    scene.camera.data.lens, scene.camera.data.sensor_width = (
        float(data["lenses_mm"][lens_index]),
        36,
    )
    render_check.prepare_scene(scene, ob)
    bpy.context.view_layer.update()
    return scene, ob, expected


@pytest.mark.parametrize("lens", [0, 1, 2], ids=["18mm", "35mm", "85mm"])
@pytest.mark.parametrize("blending", ["linear", "display"])
def test_cycles_agrees_with_the_engine_to_45_db(tmp_path: Path, blending: str, lens: int) -> None:
    scene, _, expected = load(blending, lens)
    measured = splat_oracle.psnr(render(scene, "CYCLES", tmp_path / "a.exr"), expected)
    print(f"Cycles, {blending}, lens {lens}: {measured:.1f} dB")
    assert measured > 45


@pytest.mark.slow
@pytest.mark.parametrize("lens", [0, 1, 2], ids=["18mm", "35mm", "85mm"])
def test_eevee_agrees_with_the_engine_to_40_db(tmp_path: Path, lens: int) -> None:
    scene, _, expected = load("linear", lens)
    measured = splat_oracle.psnr(render(scene, EEVEE, tmp_path / "a.exr"), expected)
    print(f"EEVEE, lens {lens}: {measured:.1f} dB")
    assert measured > 40


def test_the_picture_under_the_standard_view_is_the_engines_display_picture(tmp_path: Path) -> None:
    """An artist's PNG: 8 bits, colour managed, against the engine's linear picture coded as
    sRGB.
    """
    scene, _, expected = load("linear", 1)
    scene.render.film_transparent = False
    scene.world = None  # black
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "8"
    scene.render.engine, scene.render.dither_intensity, scene.render.filepath = (
        "CYCLES",
        0.0,
        str(tmp_path / "a.png"),
    )
    assert scene.view_settings.view_transform == "Standard"
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(tmp_path / "a.png"))
    image.colorspace_settings.name = "Non-Color"
    pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(pixels)
    picture = pixels.reshape(image.size[1], image.size[0], 4)[::-1, :, :3]
    assert (
        splat_oracle.psnr(picture, splat_oracle.linear_to_srgb(np.clip(expected[..., :3], 0, 1)))
        > 45
    )


def test_the_other_blending_is_far_off(tmp_path: Path) -> None:
    """What the blending property prevents: linear splats emitted as display values."""
    scene, _, _ = load("linear", 1)
    _, _, display = load("display", 1)
    scene, _, linear = load("linear", 1)
    picture = render(scene, "CYCLES", tmp_path / "a.exr")
    assert splat_oracle.psnr(picture, linear) > 45 > 30 > splat_oracle.psnr(picture, display)


def test_a_turned_set_looks_the_same_from_its_camera(tmp_path: Path) -> None:
    scene, ob, expected = load("linear", 1)
    turn = (
        Matrix.Translation((3, -4, 2)) @ Matrix.Rotation(1.0, 4, "Z") @ Matrix.Rotation(0.4, 4, "X")
    )
    ob.matrix_world = turn @ ob.matrix_world
    scene.camera.matrix_world = turn @ scene.camera.matrix_world
    bpy.context.view_layer.update()
    assert splat_oracle.psnr(render(scene, "CYCLES", tmp_path / "a.exr"), expected) > 45
