"""Refinement: recipes, schedules, density control, and that it is the same run each time."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from engine.method.densify import DensifySchedule, DensifyState, densify
from engine.method.momentum import pixel_coefficient, scale_map
from engine.method.refine import (
    RECIPES,
    Recipe,
    SizeLimits,
    exponential,
    frame_schedule,
    limit_sizes,
    median_depth,
    refine,
)
from engine.rasterize import rasterize
from engine.rasterize.kernels.adam import Adam
from engine.scene.colour import linear_to_srgb
from engine.scene.gaussians import Gaussians, sh_dc_from_colour

W, H = 48, 32
K1 = torch.tensor([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]])


def relief(seed: int) -> Gaussians:
    """One Gaussian per pixel on a wavy surface, with a random smooth texture."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    z = (2.5 + 0.4 * torch.sin(x / W * 6 + seed) + 0.3 * torch.cos(y / H * 5)).reshape(-1, 1)
    means = (
        torch.stack([(x.reshape(-1) - 24) / 40, (y.reshape(-1) - 16) / 40, torch.ones(W * H)], 1)
        * z
    )
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 12, 18, generator=g), (H, W), mode="bicubic"
    )[0].clamp(0, 1)
    quats = torch.zeros(W * H, 4)
    quats[:, 0] = 1
    return Gaussians(
        means,
        quats,
        (0.7 * z / 40).log().repeat(1, 3),
        torch.full((W * H,), 2.5),
        sh_dc_from_colour(texture.reshape(3, -1).T),
        torch.zeros(W * H, 0, 3),
    )


def path(f: int) -> torch.Tensor:
    camera_from_world = torch.eye(4).repeat(f, 1, 1)
    camera_from_world[:, 0, 3] = torch.linspace(-0.25, 0.25, f)
    camera_from_world[:, 2, 3] = -torch.linspace(-0.25, 0.25, f).abs()
    return camera_from_world


def scene(seed: int, f: int = 7) -> tuple[Gaussians, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(wrong start, frames of the truth, K, cameras): depth is off by some per cent, colours are
    those of the middle frame.
    """
    truth, cameras, K = relief(seed), path(f), K1.repeat(f, 1, 1)
    frames = rasterize(truth, K, cameras, W, H).rgb.permute(0, 3, 1, 2).clamp(0, 1)
    u = torch.arange(W * H) / W
    error = 1 + 0.05 * torch.sin(u * 0.9 + seed) + 0.03 * torch.cos(u * 2.1)
    middle = frames[f // 2].reshape(3, -1).T
    return (
        truth._replace(means=truth.means * error[:, None], sh_dc=sh_dc_from_colour(middle)),
        frames,
        K,
        cameras,
    )


def psnr(
    g: Gaussians,
    frames: torch.Tensor,
    K: torch.Tensor,
    cameras: torch.Tensor,
    blending: str = "display",
) -> float:
    image = rasterize(g, K, cameras, W, H, blending=blending).rgb.permute(0, 3, 1, 2)
    image = linear_to_srgb(image) if blending == "linear" else image
    return float(-10 * (image - frames).square().mean().log10())


@pytest.mark.parametrize("blending", ["display", "linear"])
def test_refining_improves_views_that_it_never_saw(blending: str) -> None:
    start, frames, K, cameras = scene(0)
    train, held = [0, 2, 4, 6], [1, 3, 5]
    result = refine(start, frames[train], K[train], cameras[train], steps=80, blending=blending)
    held_views = (frames[held], K[held], cameras[held], blending)
    assert psnr(result.gaussians, *held_views) - psnr(start, *held_views) > 5
    assert sum(result.losses[-4:]) < 0.5 * sum(result.losses[:4])
    assert result.counts == [(0, W * H), (80, W * H)]


def test_same_arguments_same_bits_and_inputs_untouched() -> None:
    start, frames, K, cameras = scene(1)
    copy = start.map(torch.clone)
    a = refine(start, frames, K, cameras, steps=12, sh_degree=1, seed=3)
    b = refine(start, frames, K, cameras, steps=12, sh_degree=1, seed=3)
    assert a.losses == b.losses and a.frames == b.frames
    assert all(torch.equal(x, y) for x, y in zip(a.gaussians, b.gaussians, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(start, copy, strict=True))
    assert a.gaussians.sh_degree == 1 and a.gaussians.sh_rest.any()
    assert not a.gaussians.means.requires_grad


def test_no_steps_changes_nothing() -> None:
    start, frames, K, cameras = scene(1)
    result = refine(start, frames, K, cameras, steps=0)
    assert (
        all(torch.equal(x, y) for x, y in zip(start, result.gaussians, strict=True))
        and result.losses == []
    )


def test_pixels_of_weight_zero_are_not_supervised() -> None:
    """Garbage on the masked half must not reach the Gaussians that only that half sees."""
    start, frames, K, cameras = scene(2, f=1)
    frames, weights = frames.clone(), torch.ones(1, 1, H, W)
    frames[..., : W // 2], weights[..., : W // 2] = 1.0, 0.0
    result = refine(start, frames, K, cameras, steps=10, pixel_weights=weights, ssim_weight=0.0)
    far_left = torch.zeros(H, W, dtype=torch.bool)
    far_left[:, : W // 2 - 8] = True
    assert torch.equal(
        result.gaussians.sh_dc[far_left.reshape(-1)], start.sh_dc[far_left.reshape(-1)]
    )
    assert not torch.equal(
        result.gaussians.sh_dc[~far_left.reshape(-1)], start.sh_dc[~far_left.reshape(-1)]
    )


@pytest.mark.parametrize(
    "weights", [[1.0, 1, 1], [3.0, 1, 2, 0], [0.25, 0.75 / 4] + [0.75 / 4] * 3]
)
def test_every_frame_is_within_one_of_its_share_at_any_time(weights: list[float]) -> None:
    schedule = frame_schedule(torch.tensor(weights), 100, seed=5, shuffled=True)
    total = sum(weights)
    for n in range(1, 101):
        for i, w in enumerate(weights):
            assert abs(schedule[:n].count(i) - n * w / total) < 1.0 + 1e-6


def test_schedule_is_sequential_or_a_seeded_order() -> None:
    assert frame_schedule(torch.ones(4), 8, 0, shuffled=False) == [0, 1, 2, 3] * 2
    a, b = (frame_schedule(torch.ones(9), 18, seed, shuffled=True) for seed in (0, 1))
    assert a != b and sorted(a[:9]) == list(range(9)) and a[:9] == a[9:]


def test_position_rate_is_geometric() -> None:
    assert exponential(1e-3, 1e-5, 0.0) == pytest.approx(1e-3)
    assert exponential(1e-3, 1e-5, 0.5) == pytest.approx(1e-4)
    assert exponential(1e-3, 1e-5, 1.0) == pytest.approx(1e-5)


def test_median_depth_is_of_what_is_in_front() -> None:
    g = relief(0)._replace(means=torch.tensor([[0.0, 0, -5], [0, 0, 1], [0, 0, 2], [0, 0, 9]]))
    assert median_depth(g, torch.eye(4)) == 2.0


def test_progress_is_reported_and_may_cancel() -> None:
    class Stop(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def report(stage: str, done: int, total: int, text: str = "", preview: object = None) -> None:
        seen.append((done, total))
        if len(seen) == 2:
            raise Stop

    start, frames, K, cameras = scene(0)
    with pytest.raises(Stop):
        refine(start, frames, K, cameras, steps=10_000, report=report)
    assert seen[0] == (0, 10_000) and 0 < seen[1][0] < 10_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": torch.zeros(3, H, W)},
        {"K": K1[None]},
        {"camera_from_world": torch.eye(4)[None]},
        {"frame_weights": torch.tensor([1.0, -1.0])},
        {"frame_weights": torch.zeros(2)},
        {"frames": torch.full((2, 3, H, W), math.nan)},
        {"steps": -1},
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict) -> None:
    arguments = {
        "frames": torch.zeros(2, 3, H, W),
        "K": K1.repeat(2, 1, 1),
        "camera_from_world": path(2),
    }
    with pytest.raises(ValueError):
        refine(relief(0), **{"steps": 1, **arguments, **wrong})


@pytest.mark.parametrize("threads", [1, 3])
def test_our_adam_takes_torchs_steps(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE_SPLATTER_THREADS", str(threads))
    g = torch.Generator().manual_seed(0)
    start = torch.randn(70_001, 3, generator=g)
    ours, theirs = start.clone().requires_grad_(), start.double().requires_grad_()
    a = Adam([{"params": [ours], "lr": 1e-2}], 1e-15)
    b = torch.optim.Adam([{"params": [theirs], "lr": 1e-2}], eps=1e-15)
    for _ in range(5):
        ours.grad = torch.randn(70_001, 3, generator=g) * 1e-4
        theirs.grad = ours.grad.double()
        a.step()
        b.step()
    torch.testing.assert_close(ours.double(), theirs, atol=5e-6, rtol=0)


# Density control


def optimised(g: Gaussians) -> tuple[Gaussians, Adam]:
    """Parameters with one Adam step's moments."""
    params = g.map(lambda t: t.clone().requires_grad_())
    optimizer = Adam([{"params": [t], "lr": 0.0} for t in params], 1e-15)
    for t in params:
        t.grad = torch.arange(t.numel(), dtype=torch.float32).reshape(t.shape)
    optimizer.step()
    return params, optimizer


def grow(g: Gaussians, pull: torch.Tensor, cap: int = 1000, step: int = 600, **numbers):
    params, optimizer = optimised(g)
    state = DensifyState(g.count, g.means.device)
    state.pull, state.seen = pull, torch.ones(g.count)
    new = densify(
        params,
        optimizer,
        state,
        DensifySchedule(**numbers),
        step,
        5000,
        5.0,
        cap,
        torch.Generator().manual_seed(0),
    )
    return new, optimizer, state


def four() -> Gaussians:
    g = relief(0).select(torch.arange(4))
    return g._replace(scales_log=torch.tensor([0.01, 0.5, 0.01, 0.5]).log()[:, None].repeat(1, 3))


def test_small_ones_are_cloned_large_ones_split_quiet_ones_kept() -> None:
    g = four()
    new, optimizer, state = grow(g, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert new.count == 6 == state.pull.shape[0]
    assert torch.equal(
        new.means[[0, 1, 4, 5]], g.means[[0, 0, 2, 3]]
    )  # the clone beside its original, the split one is gone
    torch.testing.assert_close(new.scales_log[2:4], g.scales_log[[1, 1]] - math.log(1.6))
    assert not torch.equal(new.means[2], new.means[3])
    moments = optimizer.state[new.means]["exp_avg"]
    torch.testing.assert_close(
        moments[4], 0.1 * torch.arange(6.0, 9.0)
    )  # survivors keep their moments
    assert not moments[1:4].any()
    assert [
        group["params"][0] is t for group, t in zip(optimizer.param_groups, new, strict=True)
    ] == [True] * 6


def test_halves_of_a_split_are_spread_like_the_gaussian_they_replace() -> None:
    n = 4000
    quat = torch.tensor([0.8, 0.2, -0.4, 0.4])
    g = Gaussians(
        torch.zeros(n, 3),
        quat.repeat(n, 1),
        torch.tensor([0.5, 0.2, 0.9]).log().repeat(n, 1),
        torch.ones(n),
        torch.zeros(n, 3),
        torch.zeros(n, 0, 3),
    )
    new, _, _ = grow(g, torch.ones(n), cap=2 * n)
    from engine.scene.quaternions import rotation_from_quaternion

    half = rotation_from_quaternion(quat[None])[0] * torch.tensor([0.5, 0.2, 0.9])
    torch.testing.assert_close(torch.cov(new.means.detach().T), half @ half.T, atol=0.03, rtol=0.05)


def test_never_more_than_the_cap_and_the_strongest_first() -> None:
    new, _, _ = grow(four(), torch.tensor([1.0, 0.3, 2.0, 0.2]), cap=5)
    assert new.count == 5 and torch.equal(new.means, four().means[[0, 1, 2, 2, 3]])


def test_transparent_and_oversized_ones_go() -> None:
    g = four()._replace(opacities_logit=torch.tensor([-9.0, 2.0, 2.0, 2.0]))
    assert grow(g, torch.zeros(4))[0].count == 3
    huge = four()._replace(
        scales_log=torch.tensor([0.01, 1.5, 0.01, 0.5]).log()[:, None].repeat(1, 3)
    )
    assert (
        grow(huge, torch.zeros(4), step=600)[0].count == 4
    )  # size counts only after `screen_from`
    assert grow(huge, torch.zeros(4), step=3300)[0].count == 3


def test_opacity_reset_lowers_once_and_never_close_to_the_end() -> None:
    bright = four()._replace(opacities_logit=torch.full((4,), 3.0))
    reset, optimizer, _ = grow(bright, torch.zeros(4), step=3000)
    assert float(torch.sigmoid(reset.opacities_logit.detach()).max()) == pytest.approx(
        0.01, rel=1e-4
    )
    assert not optimizer.state[reset.opacities_logit]["exp_avg"].any()
    late, _, _ = grow(bright, torch.zeros(4), step=3000, reset_needs_steps=2001)
    assert float(torch.sigmoid(late.opacities_logit.detach()).min()) > 0.9


def test_nothing_happens_between_the_appointed_steps() -> None:
    for step in (500, 550, 4700, 4800):
        params, optimizer = optimised(four())
        state = DensifyState(4, params.means.device)
        plan, draws = DensifySchedule(), torch.Generator()
        assert densify(params, optimizer, state, plan, step, 5000, 5.0, 100, draws) is None


def test_paper_recipe_has_the_published_numbers() -> None:
    r = RECIPES["paper"]
    assert (r.means * 5, r.means_final * 5) == pytest.approx((1.5e-4, 8e-6))
    assert (r.sh_dc, r.sh_rest, r.opacities_logit, r.scales_log, r.quats) == (
        1e-3,
        5e-5,
        1e-2,
        2e-4,
        2e-4,
    )
    d = r.densify
    assert (d.start, d.every, d.gradient, d.min_opacity) == (500, 100, 2e-4, 0.005)
    assert d.small * r.scene_scale == pytest.approx(
        0.01 * 10
    ) and d.max_scale * r.scene_scale == pytest.approx(1.0)


def test_paper_recipe_densifies_within_its_cap() -> None:
    start, frames, K, cameras = scene(3)
    early = DensifySchedule(start=5, every=10, settle_steps=5)
    few = dataclasses.replace(RECIPES["paper"], densify=early)
    result = refine(start, frames, K, cameras, recipe=few, steps=40, max_gaussians=W * H + 50)
    assert max(n for _, n in result.counts) <= W * H + 50
    assert len(result.counts) > 2 and result.gaussians.count == result.counts[-1][1]


# The few-views recipe against gsplat's defaults


def detailed_truth(
    kind: str, width: int, height: int, f_px: float
) -> tuple[Gaussians, torch.Tensor]:
    """(one Gaussian per pixel of a finely textured surface, its relative depth error): relief,
    steps or floor and wall.
    """
    g = torch.Generator().manual_seed(0)
    texture = torch.full((1, 3, height, width), -0.4)
    for size, share in ((8, 0.63), (20, 0.54), (40, 0.36), (80, 0.27)):
        coarse = torch.rand(1, 3, max(size * height // width, 2), size, generator=g)
        texture += share * torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    u, v = x / width, y / height
    z = {
        "relief": 3 + 0.8 * torch.sin(9 * u) + 0.6 * torch.cos(7 * v),
        "steps": torch.where(((u * 4).floor() + (v * 3).floor()) % 2 == 0, 2.2, 3.6) + 0.2 * u,
        "floor": (1.2 / (v - 0.45).clamp_min(1e-3)).clamp_max(5.0),
    }[kind].reshape(-1, 1)
    n = width * height
    rays = torch.stack(
        [(x - width / 2) / f_px, (y - height / 2) / f_px, torch.ones_like(x)], -1
    ).reshape(n, 3)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    truth = Gaussians(
        rays * z,
        quats,
        (0.7 * z / f_px).log().repeat(1, 3),
        torch.full((n,), 2.9),
        sh_dc_from_colour(texture[0].clamp(0, 1).reshape(3, -1).T),
        torch.zeros(n, 0, 3),
    )
    error = 0.06 * torch.sin(9 * u + 5 * v) + 0.042 * torch.cos(13 * u * v + 2)
    return truth, error.reshape(-1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relief", "steps", "floor"])
def test_few_views_recipe_beats_gsplat_defaults_on_held_out_views(kind: str) -> None:
    """By 5 dB after 300 steps on four of seven views, as shipped: with the limit on sizes, which
    serves the scale map.

    gsplat's position rate is per camera extent and decays over 30 000 steps.
    """
    width, height, f_px, reach_m = 96, 64, 80.0, 0.6
    truth, error = detailed_truth(kind, width, height, f_px)
    K = torch.tensor([[f_px, 0, width / 2], [0, f_px, height / 2], [0, 0, 1]]).repeat(7, 1, 1)
    t = torch.linspace(-1, 1, 7)
    cameras = torch.eye(4).repeat(7, 1, 1)
    cameras[:, :3, 3] = reach_m * torch.stack([t, 0.2 * t * t, -0.4 * t.abs()], 1)
    frames = rasterize(truth, K, cameras, width, height).rgb.permute(0, 3, 1, 2).clamp(0, 1)
    start = truth._replace(
        means=truth.means * (1 + error), sh_dc=sh_dc_from_colour(frames[3].reshape(3, -1).T)
    )
    gsplat = dataclasses.replace(
        RECIPES["few_views"],
        means=1.6e-4,
        means_final=1.6e-4 * 0.01 ** (300 / 30_000),
        scales_log=5e-3,
        quats=1e-3,
        opacities_logit=5e-2,
        sh_dc=2.5e-3,
        sh_rest=1.25e-4,
        scene_scale=1.1 * reach_m,
        largest_px=None,
    )
    train, held = [0, 2, 4, 6], [1, 3, 5]

    def held_out(recipe: str | Recipe) -> float:
        g = refine(
            start, frames[train], K[train], cameras[train], recipe=recipe, steps=300
        ).gaussians
        image = rasterize(g, K[held], cameras[held], width, height).rgb.permute(0, 3, 1, 2)
        return float(-10 * (image - frames[held]).square().mean().log10())

    assert held_out("few_views") >= held_out(gsplat) + 5


def test_limited_sizes_keep_the_longest_axis_and_leave_the_rest_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(200, 3, generator=generator)
    middle, longest = torch.full((200,), 0.2), torch.full((200, 3), 1.2)
    after = before.clone()
    limit_sizes(after, SizeLimits(middle, longest))
    expected = before.sort(dim=1).values.clamp(max=torch.tensor([0.2, 0.2, 1.2]))
    assert torch.equal(after.sort(dim=1).values, expected) and bool((after <= before).all())
    again = after.clone()
    limit_sizes(again, SizeLimits(middle, longest))
    assert torch.equal(again, after)


def test_gaussians_come_back_in_the_order_given() -> None:
    g, K, cameras = relief(0), K1.repeat(3, 1, 1), path(3)
    frames = rasterize(g, K, cameras, W, H).rgb.permute(0, 3, 1, 2).clamp(0, 1)
    still = dataclasses.replace(
        RECIPES["few_views"], means=1e-12, means_final=1e-12, scales_log=0.0, quats=0.0
    )
    shuffled = g.select(torch.randperm(g.count, generator=torch.Generator().manual_seed(0)))
    refined = refine(shuffled, frames, K, cameras, recipe=still, steps=5).gaussians
    torch.testing.assert_close(refined.means, shuffled.means)
    assert (
        refine(
            g.select(torch.zeros(0, dtype=torch.long)), frames, K, cameras, steps=2
        ).gaussians.count
        == 0
    )


@pytest.mark.slow
def test_flat_regions_stay_seen_from_segment_to_segment() -> None:
    """Frames with noise, a flat sky and floor, a camera that goes forward: with the limit on sizes
    the scale map calls nothing unseen that is covered; without it a tenth and more of it."""
    width, height, f_px, views = 96, 64, 80.0, 21
    truth, error = detailed_truth("floor", width, height, f_px)
    colours = truth.sh_dc.reshape(height, width, 3).clone()
    colours[:28], colours[28:, :48] = torch.tensor([-0.4, 0.1, 0.9]), torch.tensor([0.3, 0.2, -0.1])
    truth = truth._replace(sh_dc=colours.reshape(-1, 3))
    K = torch.tensor([[f_px, 0, width / 2], [0, f_px, height / 2], [0, 0, 1]]).repeat(views, 1, 1)
    t, cameras = torch.linspace(0, 1, views), torch.eye(4).repeat(views, 1, 1)
    cameras[:, 0, 3], cameras[:, 2, 3] = -0.5 * t, -0.8 * t
    frames = rasterize(truth, K, cameras, width, height).rgb.permute(0, 3, 1, 2)
    frames = (
        frames + 0.02 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(3))
    ).clamp(0, 1)
    start = truth._replace(
        means=truth.means * (1 + error), sh_dc=sh_dc_from_colour(frames[0].reshape(3, -1).T)
    )

    def unseen(recipe: Recipe) -> float:
        g = start
        for segment in range(3):
            train = list(range(0, 7 * (segment + 1), 2))
            g = refine(
                g, frames[train], K[train], cameras[train], recipe=recipe, steps=200
            ).gaussians
        drawn = rasterize(
            g,
            K,
            cameras,
            width,
            height,
            extra=g.scales_log.median(dim=1, keepdim=True).values.exp(),
        )
        size_px = scale_map(
            drawn.extra[..., 0],
            drawn.alpha[..., 0],
            drawn.depth[..., 0],
            torch.full((views,), f_px),
        )
        seen = pixel_coefficient(size_px, torch.ones_like(size_px), tau=2.0)[
            drawn.alpha[..., 0] > 0.9
        ]
        return float((seen < 0.99).float().mean())

    assert unseen(RECIPES["few_views"]) == 0
    assert unseen(dataclasses.replace(RECIPES["few_views"], largest_px=None)) > 0.1
