"""geometry/layers.py and edges.py: the picture comes out again, planes are planes, nothing bridges
an edge.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.cameras import trajectory
from engine.cameras.intrinsics import intrinsics_from_fov
from engine.geometry.box import box_view
from engine.geometry.depth_file import DepthFile
from engine.geometry.edges import cleaned, depth_edges, grow_behind
from engine.geometry.layers import (
    BEHIND,
    BORDER,
    SEEN,
    UNDERLAY,
    gaussians_from_depth,
    with_sky,
)
from engine.media import images
from engine.rasterize import rasterize
from engine.scene.gaussians import Gaussians
from engine.scene.quaternions import quaternions

W, H = 96, 64
K = intrinsics_from_fov(60.0, W, H)
EYE = torch.eye(4)


def picture(w: int = W, h: int = H) -> torch.Tensor:
    """Smooth colours with some detail: red to the right, green down, blue waves."""
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    return torch.stack(
        [0.2 + 0.6 * x, 0.2 + 0.6 * y, 0.5 + 0.3 * torch.sin(20 * x) * torch.sin(14 * y)]
    )


def room() -> torch.Tensor:
    return box_view(
        K, W, H, horizon=0.4, camera_height=1.6, box_width=5, box_height=0, box_depth=7
    ).depth_m


def step(near: float = 2.0, far: float = 6.0) -> torch.Tensor:
    """A near panel in the left half before a far wall."""
    depth = torch.full((H, W), far)
    depth[:, : W // 2] = near
    return depth


def first_layer(depth: torch.Tensor) -> Gaussians:
    layered = gaussians_from_depth(picture(), depth, K, layers=1)
    return layered.gaussians.select(layered.layer == SEEN)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean()))


def draw(
    gaussians: Gaussians,
    K: torch.Tensor = K,
    camera_from_world: torch.Tensor = EYE,
    w: int = W,
    h: int = H,
    **options,
):
    drawn = rasterize(gaussians, K[None], camera_from_world[None], w, h, **options)
    return drawn.rgb[0].permute(2, 0, 1), drawn.alpha[0, ..., 0], drawn.depth[0, ..., 0]


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> torch.Tensor:
    """camera_from_world of a camera at (x, y, z)."""
    m = torch.eye(4)
    m[:3, 3] = -torch.tensor([x, y, z])
    return m


@pytest.mark.parametrize(
    "depth", [room(), step(), torch.full((H, W), 3.0)], ids=["room", "step", "wall"]
)
def test_the_source_view_is_the_picture_without_holes_at_the_right_depth(
    depth: torch.Tensor,
) -> None:
    rgb, alpha, drawn_depth = draw(gaussians_from_depth(picture(), depth, K).gaussians)
    assert psnr(rgb, picture()) > 32 and float(alpha.min()) > 0.98
    assert float((drawn_depth / depth - 1).abs().median()) < 0.02


def test_linear_blending_gives_the_picture_too() -> None:
    """Each Gaussian's colour is decoded and blended in linear light; coded again, it is the
    picture.
    """
    gaussians = gaussians_from_depth(picture(), room(), K, blending="linear").gaussians
    light, _, _ = draw(gaussians, blending="linear")
    coded = torch.where(
        light > 0.0031308, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * light
    )
    assert psnr(coded, picture()) > 32


def test_one_gaussian_a_pixel_and_only_one_layer_where_nothing_is_torn() -> None:
    layered = gaussians_from_depth(picture(), room(), K, layers=2, sh_degree=2)
    assert int((layered.layer == SEEN).sum()) == W * H and set(layered.layer.tolist()) == {
        SEEN,
        UNDERLAY,
    }
    assert layered.gaussians.count < 1.12 * W * H and layered.gaussians.sh_rest.shape == (
        layered.gaussians.count,
        8,
        3,
    )
    assert all(bool(torch.isfinite(t).all()) for t in layered.gaussians)


def test_means_unproject_to_their_pixels() -> None:
    g = first_layer(room())
    pixels = g.means @ K.T
    pixels = (pixels[:, :2] / pixels[:, 2:]).reshape(H, W, 2)
    assert torch.allclose(pixels[..., 0], (torch.arange(W) + 0.5).expand(H, W), atol=1e-3)
    assert torch.allclose(pixels[..., 1], (torch.arange(H) + 0.5)[:, None].expand(H, W), atol=1e-3)


def covariance(g: Gaussians) -> torch.Tensor:
    """[n, 3, 3] from the stored quaternions and scales, by the textbook formula."""
    w, x, y, z = torch.nn.functional.normalize(g.quats, dim=1).unbind(1)
    R = torch.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ],
        1,
    ).reshape(-1, 3, 3)
    return R @ torch.diag_embed(torch.exp(2 * g.scales_log)) @ R.mT


def test_discs_project_to_round_pixels_and_lie_in_their_plane() -> None:
    """On a slanted plane every disc's footprint in the source view is the same circle, however
    slanted.
    """
    v, u = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    normal = torch.nn.functional.normalize(torch.tensor([0.5, -0.6, -1.0]), dim=0)
    ray = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], -1)
    depth = -3.0 / (ray @ normal)
    g = first_layer(depth)
    cov, (x, y, z) = covariance(g), g.means.unbind(1)
    J = torch.zeros(g.count, 2, 3)
    J[:, 0, 0], J[:, 0, 2], J[:, 1, 1], J[:, 1, 2] = (
        K[0, 0] / z,
        -K[0, 0] * x / z**2,
        K[1, 1] / z,
        -K[1, 1] * y / z**2,
    )
    footprint = (J @ cov @ J.mT).reshape(H, W, 2, 2)[2:-2, 2:-2]
    radius2 = footprint[H // 2, W // 2, 0, 0]
    assert (
        torch.allclose(footprint, radius2 * torch.eye(2), atol=0.03 * float(radius2))
        and 0.25**2 < float(radius2) < 0.6**2
    )
    along_normal = torch.sqrt((cov @ normal) @ normal).reshape(H, W)[2:-2, 2:-2]
    thickness = g.scales_log.amin(1).exp().reshape(H, W)[2:-2, 2:-2]
    assert torch.allclose(along_normal, thickness, rtol=0.05)


def test_nothing_bridges_an_edge() -> None:
    """No rubber sheet: seen from the side, nothing of the first layer lies between the panel and
    the wall.
    """
    g = gaussians_from_depth(picture(), step(), K, layers=1).gaussians
    reach = torch.sqrt(covariance(g)[:, 2, 2])
    assert (
        bool(((g.means[:, 2] < 2.01) | (g.means[:, 2] > 5.99)).all())
        and float((3 * reach).max()) < 0.05
    )
    _, alpha, _ = draw(g, camera_from_world=moved(x=0.5))
    gap = (alpha < 0.5).float().mean()
    wanted = (
        0.5 * float(K[0, 0]) * (1 / 2 - 1 / 6) / W
    )  # the parallax between panel and wall, and the rim of the frame
    rim = 0.5 * float(K[0, 0]) / 6 / W
    assert float(gap) == pytest.approx(wanted + rim, rel=0.1)


def test_the_second_layer_closes_the_gap_from_behind() -> None:
    layered = gaussians_from_depth(picture(), step(), K, layers=2)
    behind = layered.gaussians.select(layered.layer == BEHIND)
    assert 0 < behind.count <= 4 * H and bool((behind.means[:, 2] > 5.9).all())  # 3 % of 96 pixels
    assert torch.equal(
        first_layer(step()).means, layered.gaussians.select(layered.layer == SEEN).means
    )
    small = moved(x=2.0 / float(K[0, 0]) / (1 / 2 - 1 / 6))  # two pixels of parallax
    for layers, closed in ((1, False), (2, True)):
        _, alpha, _ = draw(
            gaussians_from_depth(picture(), step(), K, layers=layers).gaussians,
            camera_from_world=small,
        )
        assert bool((alpha[:, W // 4 : -W // 4] > 0.9).all()) == closed


def test_the_underlay_closes_the_gaps_of_a_close_view_and_is_hidden_in_the_first() -> None:
    wall = torch.full((H, W), 4.0)
    layered = gaussians_from_depth(picture(), wall, K)
    g, bare = layered.gaussians, first_layer(wall)
    close = moved(z=4 - 4 / 2.5)  # two and a half times as large
    inner = slice(8, -8)
    assert float(draw(bare, camera_from_world=close)[1][inner, inner].min()) < 0.8
    assert float(draw(g, camera_from_world=close)[1][inner, inner].min()) > 0.9
    assert float((draw(g)[0] - draw(bare)[0]).abs().max()) < 0.02


def test_a_floor_goes_on_behind_an_object() -> None:
    """The far side of an edge is continued with its slope, as the plane it is."""
    inverse = torch.linspace(0.1, 0.5, H)[:, None].expand(H, W).clone()
    plane = inverse.clone()
    inverse[10:40, 30:60] = 0.8
    band = grow_behind(inverse, picture().permute(1, 2, 0), depth_edges(inverse), 5)
    assert (
        bool(band.mask[10:40, 30:60].any())
        and not bool(band.mask[:, :30].any())
        and not bool(band.mask[:10].any())
    )
    assert float((band.inverse - plane)[band.mask].abs().max()) < 0.01


def test_edges_are_jumps_not_slopes() -> None:
    assert not bool(depth_edges(1 / room()).any())
    steep = (1 / torch.linspace(0.002, 1.0, H))[:, None].expand(H, W)  # a floor to half a kilometre
    assert not bool(depth_edges(1 / steep).any())
    edges = depth_edges(1 / step())
    assert (
        bool(edges[0, :, W // 2].all()) and int(edges.sum()) == H
    )  # the wall's first column has the panel to its left


def test_soft_edges_become_hard_and_surfaces_stay() -> None:
    hard = 1 / step()
    soft = hard.clone()
    soft[:, W // 2 - 1], soft[:, W // 2] = (
        0.7 * hard[:, 0] + 0.3 * hard[:, -1],
        0.3 * hard[:, 0] + 0.7 * hard[:, -1],
    )
    assert torch.allclose(cleaned(soft), hard, atol=1e-6) and bool(depth_edges(cleaned(soft)).any())
    for surface in (1 / room(), 1 / step(), torch.full((H, W), 0.3)):
        assert torch.allclose(cleaned(surface), surface, rtol=0.02)
    pole = torch.full((H, W), 0.1)
    pole[:, 40] = 0.5
    assert torch.equal(cleaned(pole), pole)  # one pixel wide, but a thing of its own


def test_the_border_goes_on_outside_the_frame_only() -> None:
    layered = gaussians_from_depth(picture(), room(), K, border=0.25)
    outside = layered.gaussians.select(layered.layer == BORDER)
    pixels = outside.means @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    inside = (pixels > 0).all(1) & (pixels[:, 0] < W) & (pixels[:, 1] < H)
    assert (
        outside.count > 0
        and not bool(inside.any())
        and all(bool(torch.isfinite(t).all()) for t in outside)
    )
    assert float(pixels[:, 0].min()) < -0.2 * W and float(pixels[:, 0].max()) > 1.2 * W
    wide = K.clone()
    wide[0, 2], wide[1, 2] = wide[0, 2] + 16, wide[1, 2] + 12
    _, alpha, depth = draw(layered.gaussians, K=wide, w=W + 32, h=H + 24)
    assert float(alpha.min()) > 0.9
    truth = box_view(
        wide,
        W + 32,
        H + 24,
        horizon=(0.4 * H + 12) / (H + 24),
        camera_height=1.6,
        box_width=5,
        box_height=0,
        box_depth=7,
    )
    assert float((depth / truth.depth_m - 1).abs().median()) < 0.06
    assert psnr(draw(layered.gaussians)[0], picture()) > 30  # and the picture itself is what it was


def test_border_counts_as_unseen_for_the_scale_map() -> None:
    layered = gaussians_from_depth(picture(), torch.full((H, W), 4.0), K, border=0.2)
    px = layered.gaussians.scales_log.amax(1).exp() * K[0, 0] / layered.gaussians.means[:, 2]
    assert (
        float(px[layered.layer == BORDER].min()) > 4
        and float(px[layered.layer == SEEN].max()) < 0.5
    )


def test_sky_lies_beyond_everything() -> None:
    depth = room()
    depth[:20] = torch.inf
    assert float(with_sky(depth)[:20].min()) >= 100 and torch.equal(
        with_sky(depth)[20:], depth[20:]
    )
    rgb, _, drawn = draw(gaussians_from_depth(picture(), depth, K).gaussians)
    assert psnr(rgb, picture()) > 30 and float(drawn[:18].min()) > 50


def test_the_same_input_gives_the_same_gaussians() -> None:
    a, b = (gaussians_from_depth(picture(), step(), K, border=0.1).gaussians for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "depth",
    [
        torch.zeros(H, W),
        torch.full((H, W), torch.nan),
        torch.full((H, W), torch.inf),
        -room(),
        room()[:-1],
    ],
)
def test_unusable_depth_is_a_programming_error(depth: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        gaussians_from_depth(picture(), depth, K)


def test_quaternions_agree_with_scipy() -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    R = np.concatenate(
        [
            rotation.random(200, random_state=0).as_matrix(),
            rotation.from_euler("xyz", [[180, 0, 0], [0, 180, 0], [0, 0, 180]], True).as_matrix(),
        ]
    )
    wanted = rotation.from_matrix(R).as_quat()[:, [3, 0, 1, 2]]
    got = quaternions(torch.from_numpy(R)).numpy()
    assert np.abs(np.abs((got * wanted).sum(1)) - 1).max() < 1e-9


# --- real pictures ------------------------------------------------------------------------------


def test_every_shared_picture_comes_out_again_at_over_30_db(shared_data: Path) -> None:
    """Before any optimisation, with the default box; the official release reaches 18.9 dB."""
    for file in sorted(shared_data.glob("images/*")):
        pixels = images.load_image(file).pixels
        w, h = images.working_size((pixels.shape[2], pixels.shape[1]), 256, 8)
        image, lens = images.resize(pixels, w, h), intrinsics_from_fov(60.0, w, h)
        depth = box_view(
            lens, w, h, horizon=0.45, camera_height=1.6, box_width=6, box_height=0, box_depth=9
        ).depth_m
        rgb, _, _ = draw(gaussians_from_depth(image, depth, lens).gaussians, lens, w=w, h=h)
        assert psnr(rgb.clamp(0, 1), image) > 28, file.name


def test_the_motorcycle_seen_by_the_other_camera(shared_data: Path) -> None:
    """Real depth, a real second view: where the first layer covers it, the drawing agrees with the
    photograph.
    """
    folder = shared_data / "posed" / "motorcycle_stereo"
    left, right = (
        images.load_image(folder / "images" / name).pixels for name in ("left.png", "right.png")
    )
    w, h = 368, 248
    path = trajectory.relative_to_first(
        trajectory.scaled_to(
            trajectory.load(folder / "transforms.json", image_size=(741, 500)), w, h
        )
    )
    image, K = images.resize(left, w, h), torch.from_numpy(path.K).float()
    depth = (
        DepthFile(folder / "depth" / "left.png", image_size=(741, 500))
        .estimate(image, K[0])
        .depth_m
    )
    there = torch.from_numpy(np.linalg.inv(path.world_from_camera[1])).float()
    score = {}
    for layers in (1, 2):
        g = gaussians_from_depth(image, depth, K[0], layers=layers).gaussians
        assert psnr(draw(g, K[0], w=w, h=h)[0], image) > 30
        rgb, alpha, _ = draw(g, K[1], there, w, h)
        wanted = images.resize(right, w, h)
        if layers == 1:
            seen = alpha > 0.9
            assert psnr(rgb[:, seen], wanted[:, seen]) > 24 and float(seen.float().mean()) > 0.85
        score[layers] = psnr(rgb, wanted)
    assert score[2] > score[1] + 1.0 and not math.isnan(score[2])
