"""Depth sources: the box is exact, depth files are read or refused by name, fields of view have an
order.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.bridge.errors import UserError
from engine.bridge.settings import GeometrySettings, make
from engine.cameras import trajectory
from engine.cameras.intrinsics import choose_intrinsics, fov_of, intrinsics_from_fov
from engine.geometry import make_depth_source
from engine.geometry.box import BACK, CEILING, FLOOR, LEFT, RIGHT, box_view
from engine.geometry.depth_file import DepthFile, read_depth, resample_depth
from engine.media import images

W, H = 96, 64
IMAGE = torch.rand(3, H, W, generator=torch.Generator().manual_seed(0))
K = intrinsics_from_fov(70.0, W, H)
ROOM = {"horizon": 0.4, "camera_height": 1.6, "box_width": 5.0, "box_height": 2.7, "box_depth": 7.0}


def upright_points(depth: torch.Tensor, K: torch.Tensor, horizon: float) -> torch.Tensor:
    """[h, w, 3] points in axes with y along gravity: the camera is pitched so that the horizon lies
    where it is said to.
    """
    h, w = depth.shape
    v, u = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    points = (
        torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], -1)
        * depth[..., None]
    )
    pitch = math.atan((float(K[1, 2]) - horizon * h) / float(K[1, 1]))
    c, s = math.cos(pitch), math.sin(pitch)
    return points @ torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]])


@pytest.mark.parametrize("horizon", [0.2, 0.5, 0.7])
@pytest.mark.parametrize(("w", "h"), [(96, 64), (64, 96)])
def test_every_box_pixel_lies_on_its_face_and_inside_the_box(
    horizon: float, w: int, h: int
) -> None:
    K = intrinsics_from_fov(80.0, w, h)
    view = box_view(K, w, h, **{**ROOM, "horizon": horizon})
    x, y, z = upright_points(view.depth_m, K, horizon).unbind(-1)
    planes = {FLOOR: y - 1.6, LEFT: x + 2.5, RIGHT: x - 2.5, CEILING: y + 1.1, BACK: z - 7.0}
    for face, off in planes.items():
        assert bool((off[view.face == face].abs() < 1e-4).all())
    assert bool(
        (y < 1.6001).all()
        and (y > -1.1001).all()
        and (x.abs() < 2.5001).all()
        and (z < 7.0001).all()
    )
    assert {int(f) for f in view.face.unique()} >= {FLOOR, BACK}


def test_the_horizon_separates_floor_from_what_is_above() -> None:
    """With endless walls away and the backdrop at 10 km the floor ends at the horizon row."""
    view = box_view(
        K, W, H, horizon=0.4, camera_height=1.6, box_width=0, box_height=0, box_depth=1e4
    )
    rows = (view.face == FLOOR).float().mean(1)
    first = int(torch.nonzero(rows > 0.5)[0, 0])
    assert (
        abs(first - 0.4 * H) <= 1.0
        and bool((rows[first:] == 1).all())
        and bool((rows[:first] == 0).all())
    )


def test_a_level_camera_sees_the_floor_at_the_textbook_depth() -> None:
    view = box_view(
        K, W, H, horizon=0.5, camera_height=2.0, box_width=0, box_height=0, box_depth=1e4
    )
    bottom = float(view.depth_m[H - 1, W // 2])
    assert bottom == pytest.approx(2.0 * float(K[1, 1]) / (H / 2 - 0.5), rel=1e-5)


def test_open_sky_has_no_edge_at_the_horizon() -> None:
    view = box_view(
        K, W, H, horizon=0.45, camera_height=1.6, box_width=6, box_height=0, box_depth=9
    )
    assert bool(torch.isfinite(view.depth_m).all()) and CEILING not in view.face
    ratio = view.depth_m[1:] / view.depth_m[:-1]
    assert float(torch.maximum(ratio, 1 / ratio).max()) < 1.2


def test_a_ceiling_below_the_camera_is_refused() -> None:
    with pytest.raises(UserError, match="box_height"):
        box_view(K, W, H, **{**ROOM, "box_height": 1.5})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"box_width": 0.0},
        {"box_height": 2.5},
        {"horizon": 0.001},
        {"horizon": 1.0},
        {"fov": 170.0},
        {"box_depth": 1e4},
    ],
)
def test_every_setting_gives_usable_depth(values: dict[str, float]) -> None:
    source = make_depth_source(make("standard", depth="box", **values).geometry, "cpu")
    hint = intrinsics_from_fov(values["fov"], W, H) if "fov" in values else None
    depth = source.estimate(IMAGE, hint).depth_m
    assert depth.shape == (H, W) and bool((depth > 0).all()) and bool(torch.isfinite(depth).any())


# --- files --------------------------------------------------------------------------------------


def slope() -> np.ndarray:
    """A floor: inverse depth grows downwards."""
    return (1 / np.linspace(0.1, 0.5, H)[:, None] * np.ones((1, W))).astype(np.float32)


def write(path: Path, depth: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, depth)
    elif path.suffix == ".exr":
        images.write_exr(path, {"ViewLayer.Depth.Z": depth.astype(np.float32)})
    else:
        Image.fromarray(np.round(depth * 1000).astype(np.uint16)).save(path)
    return path


@pytest.mark.parametrize("end", ["exr", "png", "npy"])
def test_depth_files_read_as_metres(tmp_path: Path, end: str) -> None:
    estimate = DepthFile(write(tmp_path / f"d.{end}", slope())).estimate(IMAGE, None)
    assert (
        np.abs(estimate.depth_m.numpy() - slope()).max() < 6e-4
        and estimate.metric
        and estimate.notes == ()
    )


def test_depth_unit_is_the_length_of_one_unit(tmp_path: Path) -> None:
    assert np.allclose(
        read_depth(write(tmp_path / "d.npy", slope() * 100), 0.01), slope(), rtol=1e-5
    )
    raw = np.round(slope() * 5000).astype(np.uint16)
    Image.fromarray(raw).save(tmp_path / "d.png")
    assert np.allclose(read_depth(tmp_path / "d.png", 1 / 5000), slope(), atol=2e-4)


def test_another_size_of_the_same_shape_is_resampled_and_said(tmp_path: Path) -> None:
    big = np.repeat(np.repeat(slope(), 3, 0), 3, 1)
    estimate = DepthFile(write(tmp_path / "d.npy", big)).estimate(IMAGE, None)
    assert (
        np.abs(estimate.depth_m.numpy() / slope() - 1).max() < 0.06
        and "resampled" in estimate.notes[0]
    )


def test_another_shape_is_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"64x64.*96x64"):
        DepthFile(write(tmp_path / "d.npy", slope()[:, :64])).estimate(IMAGE, None)
    # What counts is the shape of the whole picture, not of the working size.
    DepthFile(write(tmp_path / "d.npy", slope()[:, :64]), image_size=(1000, 1000)).estimate(
        IMAGE, None
    )


def test_resampling_never_mixes_near_and_far() -> None:
    depth = torch.full((120, 160), 2.0)
    depth[:, 83:] = 10.0
    depth[:30] = torch.inf
    depth[100:, :20] = 0.0
    for width, height in ((64, 48), (37, 29), (320, 240)):
        assert set(resample_depth(depth, width, height).unique().tolist()) <= {
            0.0,
            2.0,
            10.0,
            torch.inf,
        }


def test_resampled_planes_stay_planes() -> None:
    v = torch.arange(240) + 0.5
    depth = (1 / (0.1 + 0.001 * v))[:, None].expand(240, 320)
    got = 1 / resample_depth(depth, 160, 120)[:, 0]
    wanted = 0.1 + 0.001 * (torch.arange(120) + 0.5) * 2
    assert float((got - wanted).abs()[2:-2].max()) < 1e-5


def test_holes_are_filled_and_reported(tmp_path: Path) -> None:
    depth = slope()
    depth[20:40, 30:60], depth[50, 50] = 0, np.nan
    estimate = DepthFile(write(tmp_path / "d.npy", depth)).estimate(IMAGE, None)
    assert (
        np.abs(estimate.depth_m.numpy() / slope() - 1).max() < 0.02
    )  # a plane goes on through its hole
    assert "9.8 %" in estimate.notes[0]


def test_sky_stays_sky_and_holes_beside_it_join_the_nearer(tmp_path: Path) -> None:
    depth = slope()
    depth[:20], depth[20:24] = 1e10, 0.0
    got = DepthFile(write(tmp_path / "d.exr", depth)).estimate(IMAGE, None).depth_m
    assert bool(torch.isinf(got[:22]).all()) and bool(torch.isfinite(got[22:]).all())


BAD = {
    "negative": (-slope(), "negative"),
    "one negative": (np.where(np.arange(W) == 3, -1, slope()), "negative"),
    "all equal": (np.full((H, W), 3.0), "same depth everywhere"),
    "all zero": (np.zeros((H, W)), "only 0.0 %"),
    "all NaN": (np.full((H, W), np.nan), "only 0.0 %"),
    "mostly holes": (np.where(np.arange(W) < 3, slope(), 0), "only 3.1 %"),
    "colour": (np.ones((H, W, 3)), "shape"),
    "row": (np.arange(5.0), "shape"),
    "text": (np.array([["a"]]), "plain numbers"),
    "too far": (slope() * 1e9, "depth_unit"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_depth_is_refused_by_name(tmp_path: Path, case: str) -> None:
    values, words = BAD[case]
    np.save(tmp_path / "d.npy", values)
    with pytest.raises(UserError, match=words) as caught:
        read_depth(tmp_path / "d.npy")
    assert "d.npy" in caught.value.message and caught.value.hint


def test_broken_files_are_user_errors(tmp_path: Path) -> None:
    for end in ("exr", "png", "npy"):
        good = write(tmp_path / f"good.{end}", slope()).read_bytes()
        for content in (b"", b"hello", good[: len(good) // 2]):
            (tmp_path / f"d.{end}").write_bytes(content)
            with pytest.raises(UserError, match=rf"d\.{end}"):
                read_depth(tmp_path / f"d.{end}")
    Image.fromarray(np.zeros((H, W), np.uint8)).save(tmp_path / "d.png")
    for name, words in {
        "d.png": "8 bits",
        "no.npy": "does not exist",
        "d.jpg": "cannot be read|can be read",
    }.items():
        with pytest.raises(UserError, match=words):
            read_depth(tmp_path / name)
    np.save(tmp_path / "d.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="plain numbers"):
        read_depth(tmp_path / "d.npy")


def test_sources_by_name(tmp_path: Path) -> None:
    write(tmp_path / "d.npy", slope())
    inside = make_depth_source(GeometrySettings(depth="d.npy"), "cpu", folder=tmp_path)
    assert inside.estimate(IMAGE, None).depth_m.shape == (H, W)
    with pytest.raises(UserError, match="wizard") as caught:
        make_depth_source(GeometrySettings(depth="wizard"), "cpu")
    assert "box" in caught.value.hint


# --- field of view ------------------------------------------------------------------------------


class Knows:
    name, licence, lens_is_a_guess = "a source that knows", "none", False

    def intrinsics(self, image: torch.Tensor) -> torch.Tensor:
        return intrinsics_from_fov(50.0, W, H)


def test_the_order_of_who_knows_the_field_of_view() -> None:
    path = trajectory.move("dolly", K=intrinsics_from_fov(40.0, W, H).numpy(), width=W, height=H)
    box = make_depth_source(GeometrySettings(depth="box"), "cpu")
    cases = [
        ((35.0, path, 45.0, Knows()), 35, "as set"),
        ((0.0, path, 45.0, Knows()), 40, "path"),
        ((0.0, None, 45.0, Knows()), 50, "that knows"),
        ((0.0, None, 45.0, box), 45, "EXIF"),
        ((0.0, None, None, None), 60, "assumed"),
    ]
    for arguments, degrees, words in cases:
        K, sentence = choose_intrinsics(*arguments, IMAGE)
        assert (
            fov_of(K, W) == pytest.approx(degrees, abs=1e-3)
            and words in sentence
            and f"{degrees}.0" in sentence
        )


def test_the_assumed_lens_is_the_same_upright_and_lying() -> None:
    lying, standing = (
        choose_intrinsics(0.0, None, None, None, image)[0][0, 0]
        for image in (IMAGE, IMAGE.transpose(1, 2))
    )
    assert float(lying) == pytest.approx(float(standing))
