"""Pitch and lens from straight edges, and what a geometry does to them, against cameras that are
known.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.bridge.settings import GeometrySettings
from engine.cameras.intrinsics import intrinsics_from_fov
from engine.geometry.box import Box, box_view
from engine.geometry.lines import camera_from_lines, horizon_of
from engine.geometry.straight import straightness


def room(
    pitch_deg: float, focal: float, w: int = 320, h: int = 214, yaw_deg: float = 20.0
) -> torch.Tensor:
    """A picture [3, h, w] of the inside of a room with a grid of lines on all its faces."""
    w, h = 4 * w, 4 * h  # averaged at the end: no stairs along the edges
    v, u = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    x, y = (u - w / 2) / (focal * w), (v - h / 2) / (focal * w)
    pitch, yaw = math.radians(pitch_deg), math.radians(yaw_deg)
    down, ahead = y * math.cos(pitch) + math.sin(pitch), math.cos(pitch) - y * math.sin(pitch)
    right, ahead = (
        x * math.cos(yaw) + ahead * math.sin(yaw),
        ahead * math.cos(yaw) - x * math.sin(yaw),
    )
    ray = torch.stack([right, down, ahead])
    far = torch.tensor([3.0, 1.5, 5.0])[:, None, None] / ray.abs().clamp(min=1e-6)
    t, axis = far.min(0)
    p = ray * t
    line = (((p % 0.8) / 0.8 - 0.5).abs() < 0.04).float()
    face = torch.nn.functional.one_hot(axis, 3).permute(2, 0, 1)
    drawn = (line * (1 - face)).amax(0)
    fine = (0.75 - 0.1 * axis - 0.5 * drawn).clamp(0, 1)
    return torch.nn.functional.avg_pool2d(fine[None, None], 4)[0].expand(3, -1, -1).contiguous()


@pytest.mark.parametrize("pitch", [-12.0, 0.0, 9.0, 25.0])
@pytest.mark.parametrize("focal", [0.75, 1.1])
def test_the_pitch_of_a_room_is_found_with_its_lens(pitch: float, focal: float) -> None:
    found = camera_from_lines(room(pitch, focal), focal)
    assert found is not None and found.sure
    assert math.degrees(found.pitch) == pytest.approx(pitch, abs=1.5)
    assert math.degrees(found.roll) == pytest.approx(0.0, abs=1.5)


def test_the_lens_of_a_room_is_found_where_it_says_that_it_is_sure() -> None:
    errors = []
    for focal in (0.7, 0.9, 1.25):
        for pitch in (4.0, 16.0):
            found = camera_from_lines(room(pitch, focal))
            if found is not None and found.lens_sure:
                errors.append(abs(math.log(found.focal / focal)))
    assert errors and max(errors) < 0.2


def test_a_picture_without_edges_has_no_camera() -> None:
    assert camera_from_lines(torch.full((3, 60, 90), 0.5)) is None
    assert camera_from_lines(torch.zeros(3, 16, 16)) is None


def test_noise_is_not_sure() -> None:
    noise = torch.rand(3, 120, 160, generator=torch.Generator().manual_seed(0))
    found = camera_from_lines(noise)
    assert found is None or not found.sure


def test_the_horizon_is_where_level_rays_go() -> None:
    assert horizon_of(0.0, 0.9, 300, 400) == pytest.approx(0.5)
    assert horizon_of(math.radians(10), 1.0, 300, 400) == pytest.approx(
        0.5 - math.tan(math.radians(10)) * 400 / 300
    )


# --- what a geometry does to straight edges -----------------------------------------------------


def sideways(metres: float) -> torch.Tensor:
    cameras = torch.eye(4).repeat(5, 1, 1)
    cameras[:, 0, 3] = torch.linspace(0, metres, 5)
    return cameras


def true_depth(
    pitch_deg: float, focal: float, w: int = 320, h: int = 214, yaw_deg: float = 20.0
) -> torch.Tensor:
    v, u = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    x, y = (u - w / 2) / (focal * w), (v - h / 2) / (focal * w)
    pitch, yaw = math.radians(pitch_deg), math.radians(yaw_deg)
    down, ahead = y * math.cos(pitch) + math.sin(pitch), math.cos(pitch) - y * math.sin(pitch)
    right, ahead = (
        x * math.cos(yaw) + ahead * math.sin(yaw),
        ahead * math.cos(yaw) - x * math.sin(yaw),
    )
    ray = torch.stack([right, down, ahead]).abs().clamp(min=1e-6)
    return (torch.tensor([3.0, 1.5, 5.0])[:, None, None] / ray).amin(0)


def test_true_depth_keeps_edges_straight_and_upright() -> None:
    K = intrinsics_from_fov(math.degrees(2 * math.atan(0.5 / 0.8)), 320, 214)
    found = straightness(room(9.0, 0.8), true_depth(9.0, 0.8), K, sideways(0.7))
    assert found.fits and found.pieces >= 20 and found.uprights >= 20
    assert found.leaning < 0.05 and found.bent < 0.02


def test_a_floor_where_a_wall_stands_is_found_by_its_leaning_uprights() -> None:
    K = intrinsics_from_fov(math.degrees(2 * math.atan(0.5 / 0.8)), 320, 214)
    floor = box_view(
        K, 320, 214, horizon=0.02, camera_height=1.0, box_width=0, box_height=0, box_depth=100
    ).depth_m
    found = straightness(room(9.0, 0.8), floor, K, sideways(0.3))
    assert not found.fits and found.leaning > 0.8
    assert "lean" in found.sentence


def test_waves_in_the_depth_bend_straight_edges() -> None:
    K = intrinsics_from_fov(math.degrees(2 * math.atan(0.5 / 0.8)), 320, 214)
    v, u = torch.meshgrid(torch.arange(214.0), torch.arange(320.0), indexing="ij")
    waves = true_depth(9.0, 0.8) * (1 + 0.25 * torch.sin(u / 6) * torch.sin(v / 6))
    assert not straightness(room(9.0, 0.8), waves, K, sideways(0.7)).fits


SCENES = Path(__file__).parents[2] / "golden" / "straight_scenes.npz"
NO_BOX = (0, 1, 2, 3)  # tables seen from above, a room seen at a slant


def made_scene(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Picture, true depth, K, and a path 1 m ahead and 0.4 m aside in a scene 4 m away."""
    with np.load(SCENES) as made:
        image = torch.from_numpy(made["image"][number]).permute(2, 0, 1).float() / 255
        depth = torch.from_numpy(made["depth"][number].astype(np.float32))
        focal = float(made["focal_px"][number])
    h, w = depth.shape
    K = torch.tensor([[focal, 0.0, w / 2], [0.0, focal, h / 2], [0.0, 0.0, 1.0]])
    cameras = sideways(-0.1 * float(depth[torch.isfinite(depth)].median()))
    cameras[:, 2, 3] = 2.5 * cameras[:, 0, 3]
    return image, depth, K, cameras


@pytest.mark.parametrize("number", range(6))
def test_true_depth_of_a_cluttered_scene_passes(number: int) -> None:
    image, depth, K, cameras = made_scene(number)
    found = straightness(image, depth, K, cameras)
    assert found.fits and found.pieces >= 20, found.sentence


@pytest.mark.parametrize("number", NO_BOX)
def test_a_box_behind_a_scene_that_is_none_fails(number: int) -> None:
    image, depth, K, cameras = made_scene(number)
    box = Box(GeometrySettings()).estimate(image, K).depth_m
    near = torch.isfinite(depth)
    box = box * torch.exp((depth.log() - box.log())[near].median())
    found = straightness(image, box, K, cameras)
    assert not found.fits and "lean" in found.sentence, found.sentence


@pytest.mark.parametrize("number", [1, 4, 5])
def test_a_depth_in_waves_fails_on_a_cluttered_scene(number: int) -> None:
    image, depth, K, cameras = made_scene(number)
    v, u = torch.meshgrid(*(torch.arange(float(n)) for n in depth.shape), indexing="ij")
    waves = depth * (1 + 0.15 * torch.sin(u / 5) * torch.sin(v / 5))
    assert not straightness(image, waves, K, cameras).fits


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_path_on_which_nothing_moves_shows_nothing_wrong(frames: int) -> None:
    """What counts is what the film shows: a still camera shows the picture, whatever the depth."""
    image, _, K, _ = made_scene(0)
    box = Box(GeometrySettings()).estimate(image, K).depth_m
    assert straightness(image, box, K, torch.eye(4).repeat(frames, 1, 1)).fits


def test_nothing_is_said_of_a_picture_without_edges() -> None:
    K = intrinsics_from_fov(60.0, 96, 64)
    found = straightness(torch.full((3, 64, 96), 0.5), torch.ones(64, 96), K, sideways(0.2))
    assert found.fits and "too few" in found.sentence
