"""Revisit, refit and the camera that a frame shows: each measure finds what was put there."""

from __future__ import annotations

import math

import pytest
import torch

from engine.evaluation import drawn, stability
from engine.geometry.layers import gaussians_from_depth
from engine.rasterize import rasterize

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def court():
    """(Gaussians, K, cameras [5, 4, 4]) of a drawn scene."""
    path = drawn.path("court", 200, WIDTH, HEIGHT)
    K = torch.from_numpy(path.K[0]).float()
    world = torch.from_numpy(path.world_from_camera[:5])
    boxes = drawn.SCENES["court"]()
    depth = drawn.survey(boxes, K, world[0], WIDTH, HEIGHT).depth_m.clamp(max=60.0)
    picture = drawn.draw(boxes, K, world[0], WIDTH, HEIGHT)
    scene = gaussians_from_depth(picture, depth, K).gaussians
    return scene, K, torch.linalg.inv(world).float()


def _view(scene, K, camera):
    drawn = rasterize(scene, K[None], camera[None], WIDTH, HEIGHT)
    rgb = drawn.rgb[0] / drawn.alpha[0].clamp(min=0.05)
    return rgb.permute(2, 0, 1).detach().clamp(0.0, 1.0)


@pytest.mark.parametrize(
    ("turn", "step"), [((0, 0, 0), (0, 0, 0)), ((0.01, -0.02, 0.005), (0.05, 0.0, -0.04))]
)
def test_the_camera_of_a_frame_is_found(court, turn, step):
    scene, K, cameras = court
    twist = torch.tensor([*turn, *step], dtype=torch.float64)
    true = stability._moved(cameras[0], twist)
    frame = _view(scene, K, true.float())
    everywhere = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    found = stability.find_camera(scene, frame, K, cameras[0], everywhere)
    asked = math.degrees(float(twist[:3].norm()))
    assert found.rotation_deg == pytest.approx(asked, abs=0.03)
    centre = torch.linalg.inv(true)[:3, 3]
    there = torch.linalg.inv(found.camera_from_world.double())[:3, 3]
    assert float((there - centre).norm()) < 0.01
    assert (found.shift_px > 1.0) == bool(any(turn)), "a move shows, standing still does not"
    assert found.shift_px < 0.1 or any(turn)


def test_a_revisit_is_counted_apart_for_what_was_seen_and_what_was_invented():
    revisit = stability.Revisit()
    first, seen = torch.full((3, 8, 8), 0.5), torch.zeros(8, 8, dtype=torch.bool)
    seen[:4] = True
    second = first.clone()
    second[:, 4:] += 0.1
    revisit.add(first, second, seen)
    assert revisit.psnr(seen=True) == 99.0
    assert revisit.psnr(seen=False) == pytest.approx(20.0, abs=1e-3)
    assert math.isnan(stability.Revisit().psnr(seen=True))


def test_frames_that_contradict_each_other_lose_the_refit(court):
    scene, K, cameras = court
    agreed = [_view(scene, K, camera) for camera in cameras]
    Ks = K.repeat(len(cameras), 1, 1)
    good = stability.refit_gap(scene, agreed, Ks, cameras, steps=40)
    # every odd frame slipped by two pixels
    slipped = [f.roll(2 * (i % 2), dims=2) for i, f in enumerate(agreed)]
    bad = stability.refit_gap(scene, slipped, Ks, cameras, steps=40)
    assert good.even > 24 and good.even - good.odd < 1.0
    assert bad.even - bad.odd > 2.5
