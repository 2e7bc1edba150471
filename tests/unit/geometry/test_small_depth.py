"""The depth network that ships: same bits, no NaN, sentences on what is not to be trusted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from engine.bridge.errors import UserError
from engine.bridge.settings import GeometrySettings
from engine.cameras.intrinsics import intrinsics_from_fov
from engine.geometry import make_depth_source, small_depth
from engine.geometry.guided import along_edges
from engine.geometry.layout import Layout, fit_layout
from engine.geometry.networks.small import Look, SmallDepth, ray_field
from engine.media import images

DEMO = Path(__file__).parents[3] / "engine" / "demo" / "image.jpg"


@pytest.fixture(scope="module")
def source() -> small_depth.Small:
    return small_depth.load()


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return images.resize(images.load_image(DEMO).pixels, 256, 144)


def test_the_file_is_small() -> None:
    assert small_depth.WEIGHTS.stat().st_size < 8e6


def test_the_same_picture_gives_the_same_bits(source, picture) -> None:
    first = small_depth.load().estimate(picture, None)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        second = source.estimate(picture.clone(), None)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first.depth_m, second.depth_m)
    assert first.K is not None and second.K is not None and torch.equal(first.K, second.K)
    assert first.notes == second.notes


def test_it_says_that_it_is_a_guess_and_how_sure(source, picture) -> None:
    estimate = source.estimate(picture, None)
    assert "guess" in estimate.guess and " % " in estimate.guess
    assert "metres" in " ".join(estimate.notes)


BAD = {
    "black": (torch.zeros(3, 90, 160), "one colour"),
    "one colour": (torch.full((3, 90, 160), 0.6), "one colour"),
    "16 x 16": (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)), "16 x 16"),
    "portrait 1:3": (torch.rand(3, 240, 80, generator=torch.Generator().manual_seed(2)), "longer"),
    "panorama": (torch.rand(3, 60, 360, generator=torch.Generator().manual_seed(3)), "panorama"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_give_depth_and_a_word(source, name: str) -> None:
    image, word = BAD[name]
    estimate = source.estimate(image, None)
    assert estimate.depth_m.shape == image.shape[1:]
    assert bool((estimate.depth_m > 0).all()) and not bool(torch.isnan(estimate.depth_m).any())
    assert bool(torch.isfinite(estimate.depth_m).any())
    assert any("NOT TO BE TRUSTED" in note and word in note for note in estimate.notes)


# --- depth that cannot be right ------------------------------------------------------------------

_H, _W = 96, 144


def _said(depth: torch.Tensor, doubt: float = 0.2, pitch: float = 0.0) -> str:
    """The warnings on a depth map [_H, _W] of a grey picture with much noise."""
    picture = torch.rand(1, _H, _W, generator=torch.Generator().manual_seed(4)).expand(3, -1, -1)
    still = torch.zeros(_H, _W)
    answer = Look(depth.log(), still + doubt, still, pitch, 0.0, 0.866, 0.05, 0.1)
    layout = Layout(depth.log(), still.bool(), pitch, 1.6, 0.0)
    found = small_depth.warnings(picture, answer, layout, None, depth, 0.866)
    return " ".join(found)


def _floor(pitch: float = 0.0, wall_m: float = 8.0) -> torch.Tensor:
    """Depth of a level floor 1.6 m below the camera and a wall behind it."""
    v = ((torch.arange(_H) + 0.5) - _H / 2) / (_W * 0.866)
    down = v * math.cos(pitch) + math.sin(pitch)
    return torch.minimum(1.6 / down.clamp(min=1e-3), torch.tensor(wall_m))[:, None].expand(_H, _W)


@pytest.mark.parametrize("pitch", [0.0, 0.3])
def test_a_plain_floor_and_wall_are_not_suspected(pitch: float) -> None:
    assert _said(_floor(pitch), pitch=pitch) == ""


def test_a_wall_through_the_camera_is_said() -> None:
    depth = _floor().clone()
    depth[:, :12] = 0.06
    assert "CANNOT BE RIGHT" in _said(depth) and "through the camera" in _said(depth)


def test_a_floor_that_rises_towards_the_camera_is_said() -> None:
    depth = _floor(wall_m=100.0).clone()
    depth[_H // 2 :] = depth[_H // 2 :].flip(0)
    assert "CANNOT BE RIGHT" in _said(depth) and "floor rises" in _said(depth)


def test_a_picture_unlike_all_training_is_said() -> None:
    assert "unlike" in _said(_floor(), doubt=0.9) and _said(_floor(), doubt=0.3) == ""


def test_a_fisheye_picture_is_named(source, picture) -> None:
    h, w = picture.shape[1:]
    v, u = torch.meshgrid(torch.arange(h) - h / 2, torch.arange(w) - w / 2, indexing="ij")
    disc = (u * u + v * v).sqrt() < h * 0.52
    notes = source.estimate(picture.clamp(min=0.3) * disc, None).notes
    assert any("fisheye" in note for note in notes)


@pytest.mark.parametrize(
    ("height", "middle_m", "wanted"),
    [(0.1, 0.8, 16.0), (3.2, 4.0, 0.5), (0.01, 1.0, 40.0), (1.6, 0.5, 3.0)],
    ids=["a floor too near", "a floor too far", "never beyond 40 m", "never nearer than 1.5 m"],
)
def test_without_a_height_the_floor_lies_an_eyes_height_below(height, middle_m, wanted) -> None:
    floor = torch.ones(4, 4, dtype=torch.bool)
    layout = Layout(*[None] * len(Layout._fields))._replace(height=height, floor=floor)
    factor, rule = small_depth._scale(layout, 0.0, middle_m)
    assert factor == pytest.approx(wanted) and "camera_height" in rule


def test_the_cameras_height_settles_the_scale(picture) -> None:
    depths = [
        small_depth.load(settings=GeometrySettings(camera_height=height))
        .estimate(picture, None)
        .depth_m
        for height in (1.0, 2.0)
    ]
    seen = torch.isfinite(depths[0]) & (depths[0] > 0.1) & (depths[1] < 900)
    torch.testing.assert_close(depths[0][seen] * 2, depths[1][seen])


def test_the_lens_given_is_the_lens_used(source, picture) -> None:
    K = intrinsics_from_fov(40.0, 256, 144)
    estimate = source.estimate(picture, K)
    assert estimate.K is not None and torch.equal(estimate.K, K)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "small_depth.safetensors"
    broken.write_bytes(small_depth.WEIGHTS.read_bytes()[:5000])
    with pytest.raises(UserError):
        small_depth.load(broken)


def test_the_source_goes_by_its_name() -> None:
    assert make_depth_source(GeometrySettings(depth="small"), "cpu").name == "small network"


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (24, 96), (80, 80)])
def test_the_network_answers_at_the_size_of_its_input(shape: tuple[int, int]) -> None:
    answer = SmallDepth().eval()(
        torch.rand(2, 3, *shape), ray_field(torch.ones(2), torch.ones(2), *shape)
    )
    assert answer.log_depth.shape == answer.sky.shape == (2, *shape) and answer.camera.shape == (
        2,
        6,
    )


def test_an_upright_room_is_its_own_layout() -> None:
    """Depth of a room that a layout can be: the fit finds it, whatever its scale."""
    h, w, focal, pitch = 64, 96, 0.8, 0.1
    v, u = torch.meshgrid(
        (torch.arange(h) + 0.5 - h / 2) / (w * focal),
        (torch.arange(w) + 0.5 - w / 2) / (w * focal),
        indexing="ij",
    )
    down, ahead = v * math.cos(pitch) + math.sin(pitch), math.cos(pitch) - v * math.sin(pitch)
    nearness = torch.stack([down / 1.5, -u / 2.7, u / 1.8, -down / 1.5, ahead / 6.0]).amax(0)
    still = torch.zeros(h, w)
    truth = Look(-nearness.log(), still + 0.1, still, pitch, 0.0, focal, 0.05, 0.1)
    found = fit_layout(truth, focal, pitch, 0.05)
    assert found.fit < 0.05
    assert found.height == pytest.approx(1.5, rel=0.1)
    assert float((found.log_depth - truth.log_depth).abs().mean()) < 0.05


def test_an_edge_of_the_picture_becomes_an_edge_of_the_map() -> None:
    """A soft step two coarse cells off its edge in the picture ends on the edge, and values stay in
    range.
    """
    image = torch.zeros(3, 128, 192)
    image[:, :, 101:] = 0.8
    coarse = torch.linspace(0, 1, 5).repeat(16, 1)
    coarse = torch.cat([torch.zeros(16, 11), coarse, torch.ones(16, 8)], 1)[
        None
    ]  # step near column 13.5 of 24
    fine = along_edges(coarse, image)[0]
    assert fine.shape == (128, 192) and float(fine.min()) >= 0 and float(fine.max()) <= 1
    jump = (fine[:, 1:] - fine[:, :-1]).mean(0)
    assert int(jump.argmax()) == 100 and float(jump.max()) > 0.25
