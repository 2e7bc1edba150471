"""Render passes: what alpha, depth, normals and holdout mean, on splats whose picture is known."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from engine import formats
from engine.bridge import camera_file
from engine.bridge.camera_file import CameraPath
from engine.bridge.errors import UserError
from engine.bridge.harmonics import SH_C0
from engine.bridge.splat_file import Splats
from engine.commands import render as command
from engine.formats import Metadata, SplatScene
from engine.media.images import read_exr
from engine.outputs import passes

W, H = 64, 48
K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])


def _cards(*cards: tuple[float, float, tuple[float, float, float]], tilt: float = 0.0) -> Splats:
    """Flat, wide splats facing the camera at given depths, opacities and display colours."""
    n = len(cards)
    depth, opacity, colour = (np.array(column, np.float64) for column in zip(*cards, strict=True))
    means = np.zeros((n, 3), np.float32)
    means[:, 2] = depth
    quat = np.array([np.cos(tilt / 2), 0, np.sin(tilt / 2), 0], np.float32)
    return Splats(
        means,
        np.tile(quat, (n, 1)),
        np.log(np.tile([20.0, 20, 1e-3], (n, 1)) * depth[:, None]).astype(np.float32),
        np.log(opacity / (1 - opacity)).astype(np.float32),
        ((colour - 0.5) / SH_C0).astype(np.float32),
        np.zeros((n, 0, 3), np.float32),
    )


def _draw(splats: Splats, blend_linear: bool = False, **options) -> passes.Passes:
    scene = passes.drawable(
        SplatScene(splats, Metadata(blend_linear=blend_linear)), torch.device("cpu")
    )
    return passes.draw_passes(scene, K, np.eye(4), W, H, **options)


RED, GREEN = (0.8, 0.2, 0.1), (0.1, 0.6, 0.3)


def test_two_cards_blend_by_the_over_rule():
    out = _draw(_cards((2.0, 0.5, RED), (4.0, 0.8, GREEN)))
    centre = (24, 32)
    alpha = 1 - 0.5 * 0.2
    assert out.alpha[centre].item() == pytest.approx(alpha, abs=2e-3)
    expected = 0.5 * np.array(RED) + 0.5 * 0.8 * np.array(GREEN)
    np.testing.assert_allclose(out.rgb[centre], expected, atol=3e-3)
    assert out.depth[centre].item() == pytest.approx((0.5 * 2 + 0.4 * 4) / alpha, rel=5e-3)


def test_linear_colour_is_the_decoded_straight_colour_times_alpha():
    display, linear = (_draw(_cards((2.0, 0.5, RED)), linear=flag) for flag in (False, True))
    straight = display.rgb[24, 32] / display.alpha[24, 32]
    decoded = ((straight + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(linear.rgb[24, 32] / linear.alpha[24, 32], decoded, atol=2e-3)


def test_linear_blending_blends_light():
    out = _draw(_cards((2.0, 0.5, RED), (4.0, 0.8, GREEN)), blend_linear=True, linear=True)

    def light(c):
        return ((np.array(c) + 0.055) / 1.055) ** 2.4

    np.testing.assert_allclose(out.rgb[24, 32], 0.5 * light(RED) + 0.4 * light(GREEN), atol=3e-3)


def test_normals_face_the_camera_and_follow_the_tilt():
    straight, tilted = _draw(_cards((2.0, 0.9, RED))), _draw(_cards((2.0, 0.9, RED), tilt=0.4))
    np.testing.assert_allclose(straight.normal[24, 32], (0, 0, -1), atol=1e-3)
    np.testing.assert_allclose(tilted.normal[24, 32], (-np.sin(0.4), 0, -np.cos(0.4)), atol=1e-3)
    assert torch.allclose(tilted.normal.norm(dim=-1)[10:40, 10:50], torch.ones(30, 40), atol=1e-4)


def test_empty_pixels_are_transparent_black_and_far():
    splats = _cards((2.0, 0.9, RED))._replace(scales_log=np.full((1, 3), -4, np.float32))
    out = _draw(splats)
    assert out.alpha[0, 0] == 0 and (out.rgb[0, 0] == 0).all() and (out.normal[0, 0] == 0).all()
    assert out.depth[0, 0] == passes.NOTHING_DEPTH_M


def test_holdout_hides_what_lies_behind_it_and_nothing_else():
    splats = _cards((2.0, 0.5, RED), (4.0, 0.8, GREEN))
    holdout = np.full((H, W), np.inf)
    holdout[:, :32] = 3.0  # an object between the cards, in the left half
    holdout[:10, :32] = 1.0  # before both
    out, whole, front = (
        _draw(splats, holdout_m=holdout),
        _draw(splats),
        _draw(_cards((2.0, 0.5, RED))),
    )
    np.testing.assert_allclose(out.rgb[10:, :32], front.rgb[10:, :32], atol=1e-6)
    np.testing.assert_allclose(out.alpha[10:, :32], front.alpha[10:, :32], atol=1e-6)
    assert (out.alpha[:10, :32] == 0).all()
    np.testing.assert_array_equal(out.rgb[:, 32:], whole.rgb[:, 32:])


def test_a_sloping_holdout_is_within_a_level_of_cutting_each_pixel_itself():
    rng = np.random.default_rng(0)
    splats = _cards(*[(float(d), 0.2, tuple(rng.uniform(0, 1, 3))) for d in np.linspace(1, 5, 24)])
    holdout = np.tile(np.linspace(0.5, 6, W), (H, 1))
    out = _draw(splats, holdout_m=holdout, holdout_levels=64)
    for column in (3, 20, 41, 60):
        exact = _draw(splats, holdout_m=np.full((H, W), holdout[0, column]))
        np.testing.assert_allclose(out.rgb[:, column], exact.rgb[:, column], atol=1e-5)
    rough = _draw(splats, holdout_m=holdout, holdout_levels=8)
    assert (rough.alpha - out.alpha).abs().max() < 0.35
    assert (torch.diff(rough.alpha, dim=1) > -1e-4).all(), "a farther object cannot hide more"


# ---- the command


def _scene_and_cameras(tmp_path, frames: int = 3):
    formats.write(tmp_path / "scene.ply", SplatScene(_cards((2.0, 0.5, RED), (4.0, 0.8, GREEN))))
    world = np.tile(np.eye(4), (frames, 1, 1))
    world[:, 2, 3] = -0.1 * np.arange(frames)
    camera_file.write(
        tmp_path / "cameras.json", CameraPath(np.tile(K, (frames, 1, 1)), world, W, H, 24.0, "m")
    )


def _run(tmp_path, **more):
    calls = []
    (tmp_path / "render.json").write_text(
        json.dumps(
            {"scene": "scene.ply", "cameras": "cameras.json", "output": "out", "device": "cpu"}
            | more
        )
    )
    result = command.run_job(tmp_path, lambda *a, **k: calls.append(a))
    assert calls[-1][1] == calls[-1][2]
    return result


def test_png_frames_are_straight_and_named_by_frame(tmp_path):
    _scene_and_cameras(tmp_path)
    result = _run(tmp_path, frames="2-3", first_frame=101, layers=["rgba", "depth"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "depth_0102.png",
        "depth_0103.png",
        "rgba_0102.png",
        "rgba_0103.png",
    ]
    rgba = np.asarray(Image.open(tmp_path / "out" / "rgba_0102.png"))[24, 32] / 255
    expected = (0.5 * np.array(RED) + 0.4 * np.array(GREEN)) / 0.9
    np.testing.assert_allclose(rgba, (*expected, 0.9), atol=0.01)
    depth = np.asarray(Image.open(tmp_path / "out" / "depth_0102.png"))[24, 32] / 1000
    assert depth == pytest.approx((0.5 * 2.1 + 0.4 * 4.1) / 0.9, rel=0.01)
    assert result["count"] == 2


def test_multilayer_exr_names_its_passes_as_blender_does_and_is_linear(tmp_path):
    _scene_and_cameras(tmp_path, 1)
    _run(tmp_path, kind="multilayer")
    channels = read_exr(tmp_path / "out" / "layers_0001.exr")
    assert set(channels) == {
        f"ViewLayer.{c}"
        for c in (
            "Combined.R",
            "Combined.G",
            "Combined.B",
            "Combined.A",
            "Depth.Z",
            "Normal.X",
            "Normal.Y",
            "Normal.Z",
        )
    }
    straight = (0.5 * np.array(RED) + 0.4 * np.array(GREEN)) / 0.9
    light = ((straight + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(
        [channels[f"ViewLayer.Combined.{c}"][24, 32] for c in "RGB"], light * 0.9, atol=5e-3
    )
    np.testing.assert_allclose(
        [channels[f"ViewLayer.Normal.{c}"][24, 32] for c in "XYZ"], (0, -1, 0), atol=2e-3
    )  # Blender: towards -Y


def test_plain_exr_and_width(tmp_path):
    _scene_and_cameras(tmp_path, 1)
    result = _run(tmp_path, kind="exr", width=32)
    assert (result["width"], result["height"]) == (32, 24)
    assert read_exr(tmp_path / "out" / "depth_0001.exr")["Z"].shape == (24, 32)
    assert set(read_exr(tmp_path / "out" / "rgba_0001.exr")) == set("RGBA")


def test_video(tmp_path):
    _scene_and_cameras(tmp_path)
    _run(tmp_path, output="a.mp4", background=[1.0, 1.0, 1.0])
    assert (tmp_path / "a.mp4").stat().st_size > 500


def test_holdout_files_are_found_by_frame(tmp_path):
    _scene_and_cameras(tmp_path, 2)
    np.save(tmp_path / "depth_01.npy", np.full((H // 2, W // 2), 1.0))
    np.save(tmp_path / "depth_02.npy", np.full((H // 2, W // 2), 3.0))
    _run(tmp_path, holdout="depth_##.npy", layers=["rgba"])
    alphas = [
        np.asarray(Image.open(tmp_path / "out" / f"rgba_000{i}.png"))[24, 32, 3] for i in (1, 2)
    ]
    assert alphas[0] == 0 and alphas[1] == pytest.approx(127.5, abs=2)
    with pytest.raises(UserError, match="does not exist"):
        _run(tmp_path, holdout="missing_#.npy")


@pytest.mark.parametrize(
    "more",
    [
        {"kind": "gif"},
        {"kind": "mp4"},
        {"layers": ["beauty"]},
        {"frames": "0"},
        {"frames": "9"},
        {"frames": "2-1"},
        {"width": -4},
        {"output": "a.mp4", "kind": "png"},
        {"surprise": 1},
    ],
)
def test_wishes_that_cannot_be_met_are_refused(tmp_path, more):
    _scene_and_cameras(tmp_path)
    with pytest.raises(UserError):
        _run(tmp_path, **more)


def test_cameras_may_come_from_a_stage(tmp_path, caplog):
    _scene_and_cameras(tmp_path)
    path = camera_file.read(tmp_path / "cameras.json")
    scene = SplatScene(formats.read(tmp_path / "scene.ply").splats, cameras=path)
    formats.write(tmp_path / "shot.usda", scene)
    with caplog.at_level(logging.INFO):
        loaded = command.load_cameras(tmp_path / "shot.usda")
    np.testing.assert_allclose(loaded.world_from_camera, path.world_from_camera, atol=1e-6)


def _numbered(folder, numbers) -> None:
    """A card that is red at number 1 and darker at each later one."""
    folder.mkdir()
    for number in numbers:
        card = _cards((2.0, 0.9, (1.0 / number, 0.0, 0.0)))
        formats.write(folder / f"smoke_{number:04d}.ply", SplatScene(card))


def _reds(tmp_path, result) -> list[float]:
    """The middle of each frame, 0 to 1."""
    pictures = [np.asarray(Image.open(file)) for file in result["files"]]
    return [round(p[p.shape[0] // 2, p.shape[1] // 2, 0] / 255, 2) for p in pictures]


def test_numbered_files_are_drawn_each_at_its_time(tmp_path):
    _scene_and_cameras(tmp_path, frames=6)
    _numbered(tmp_path / "smoke", (1, 2, 4))
    same_rate = _run(tmp_path, scene="smoke", layers=["rgba"])
    assert _reds(tmp_path, same_rate) == pytest.approx([1, 0.5, 0.5, 0.25, 0.25, 0.25], abs=0.02)
    half = _run(tmp_path, scene="smoke", layers=["rgba"], fps=12.0)
    assert _reds(tmp_path, half) == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.5], abs=0.02)


def test_one_camera_stands_still_for_all_numbered_files(tmp_path):
    _scene_and_cameras(tmp_path, frames=1)
    _numbered(tmp_path / "smoke", (3, 4, 6))
    still = _run(tmp_path, scene="smoke", layers=["rgba"])
    assert _reds(tmp_path, still) == pytest.approx([1 / 3, 0.25, 0.25, 1 / 6], abs=0.02)


def test_a_folder_of_two_sequences_is_refused_and_one_without_any(tmp_path):
    _scene_and_cameras(tmp_path)
    _numbered(tmp_path / "smoke", (1,))
    (tmp_path / "smoke" / "fire_1.ply").write_bytes((tmp_path / "scene.ply").read_bytes())
    with pytest.raises(UserError, match="more than one sequence"):
        _run(tmp_path, scene="smoke")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no numbered"):
        _run(tmp_path, scene="none")
