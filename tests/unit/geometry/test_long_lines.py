"""Long straight lines of a picture, and what a geometry that is smooth and wrong does to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine.cameras import trajectory
from engine.cameras.intrinsics import intrinsics_from_fov
from engine.geometry.box import box_view
from engine.geometry.long_lines import long_lines
from engine.geometry.straight import MOST_BENT, MOST_LEANING, Straightness, straightness

from .test_lines import room, true_depth

W, H = 512, 288
K = intrinsics_from_fov(60.0, W, H)


def columns(gap: bool = False, w: int = W, h: int = H) -> torch.Tensor:
    """A picture [3, h, w] of eight bright columns over nearly its height; a band may hide their
    middles.
    """
    fine = torch.full((2 * h, 2 * w), 0.35)
    for k in range(8):
        left = int(2 * w * (0.08 + 0.11 * k))
        fine[h // 5 : -h // 5, left : left + w // 20] = 0.8
    if gap:
        fine[h - h // 16 : h + h // 16] = 0.1
    image = torch.nn.functional.avg_pool2d(fine[None, None], 2)[0].expand(3, -1, -1)
    grain = 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return (image + grain).clamp(0, 1)


def grid(w: int = W, h: int = H) -> tuple[torch.Tensor, torch.Tensor]:
    v, u = torch.meshgrid(torch.arange(float(h)) + 0.5, torch.arange(float(w)) + 0.5, indexing="ij")
    return u / w, v / h


def orbited(image: torch.Tensor, depth: torch.Tensor, degrees: float = 25.0) -> Straightness:
    h, w = depth.shape
    lens = intrinsics_from_fov(60.0, w, h)
    path = trajectory.move(
        f"orbit:{degrees}",
        K=lens.numpy(),
        width=w,
        height=h,
        frames=12,
        depth_m=float(depth.median()),
    )
    cameras = torch.from_numpy(np.linalg.inv(path.world_from_camera)).float()
    return straightness(image, depth, lens, cameras)


def barrel() -> torch.Tensor:
    """A wall 4 m away, its middle height pushed back by a sixteenth: smooth, and wrong."""
    _, v = grid()
    return 4.0 * (1 + 0.06 * torch.sin(math.pi * v))


# --- the lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 3.0, 37.0, 90.0, 121.0, 179.0])
def test_a_line_is_found_whole_at_any_slant(degrees: float) -> None:
    u, v = grid(2 * W, 2 * H)
    way = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    x, y = (u - 0.5) * W, (v - 0.5) * H
    along, across = x * way[0] + y * way[1], x * way[1] - y * way[0]
    drawn = ((along.abs() < 100) & (across.abs() < 20)).float() * 0.5
    image = torch.nn.functional.avg_pool2d(drawn[None, None], 2)[0].expand(3, -1, -1)
    found = long_lines(image)
    assert len(found) == 2  # both edges of the bar
    for line in found:
        off = line - torch.tensor([W / 2, H / 2])
        assert ((off @ torch.stack([way[1], -way[0]])).abs() - 20).abs().max() < 1.0
        assert sorted((off @ way).tolist()) == pytest.approx([-100, 100], abs=5)


def test_what_stands_before_a_line_does_not_end_it() -> None:
    found = long_lines(columns(gap=True))
    upright = found[(found[:, 1, 0] - found[:, 0, 0]).abs() < 2]
    heights = (upright[:, 1, 1] - upright[:, 0, 1]).abs()
    assert len(upright) == 16 and heights.min() > 0.75 * H


def test_ends_are_pixels_of_the_picture_whatever_its_size() -> None:
    found, twice = long_lines(columns()), long_lines(columns(w=2 * W, h=2 * H))
    assert len(found) == len(twice) == 16
    ordered = [lines[lines[:, 0, 0].argsort()] for lines in (found, twice / 2)]
    assert (ordered[0][..., 0] - ordered[1][..., 0]).abs().max() < 1.0


def test_noise_a_plain_picture_and_a_tiny_one_have_no_long_lines() -> None:
    noise = torch.rand(3, H, W, generator=torch.Generator().manual_seed(0))
    for image in (noise, torch.full((3, H, W), 0.5), torch.zeros(3, 16, 16), torch.ones(3, 8, 400)):
        assert len(long_lines(image)) == 0


def test_a_curve_is_no_long_line() -> None:
    u, v = grid()
    ring = ((((u - 0.5) * W) ** 2 + ((v - 0.5) * H) ** 2).sqrt() < 110).float()
    assert len(long_lines(ring.expand(3, -1, -1))) == 0


# --- what a geometry does to them ----------------------------------------------------------------


def test_a_depth_that_sways_slowly_is_found_though_each_short_piece_is_straight() -> None:
    found = orbited(columns(), barrel())
    assert found.bent < MOST_BENT and not found.leaning > MOST_LEANING
    assert found.bowed > 0.5 and found.lines >= 12
    assert not found.fits and "long lines bend" in found.sentence


@pytest.mark.parametrize("slant", [0.0, 0.5, -0.8])
def test_columns_on_a_flat_wall_stay_straight(slant: float) -> None:
    u, _ = grid()
    wall = 4.0 / (1 + slant * (u - 0.5))  # inverse depth of a plane goes evenly
    found = orbited(columns(), wall)
    assert found.fits and found.lines >= 8 and found.bowed == 0.0


def test_a_room_with_its_true_depth_stays_straight() -> None:
    focal = float(K[0, 0]) / W
    found = orbited(room(6.0, focal, W, H), true_depth(6.0, focal, W, H))
    assert found.fits and found.lines >= 20 and found.bowed < 0.02


def test_columns_that_a_box_lays_on_its_floor_are_found() -> None:
    box = box_view(
        K, W, H, horizon=0.4, camera_height=1.6, box_width=0, box_height=0, box_depth=6
    ).depth_m
    found = orbited(columns(), box)
    assert not found.fits and found.bowed > 0.5


def test_a_shift_that_nobody_sees_is_none() -> None:
    """The same depth is right enough for a short move: what counts is what the film shows."""
    assert orbited(columns(), barrel(), degrees=1.0).bowed == 0.0


def test_two_things_in_one_line_by_accident_are_not_called_bent() -> None:
    _, v = grid()
    steps = torch.where(v < 0.5, 4.0, 6.0)
    found = orbited(columns(), steps)
    assert not found.bowed > 0.0


def test_an_edge_before_a_crooked_ground_is_kept_by_its_own_surface() -> None:
    image, depth = columns(), barrel()
    depth = torch.where(image[0] > 0.6, torch.tensor(3.0), depth)
    found = orbited(image, depth)
    assert found.lines >= 8 and found.bowed == 0.0
