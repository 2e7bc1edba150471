"""Laws of the patch prior: the closed-form denoiser, the clip's shared geometry, the interface."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from engine.bridge.settings import make
from engine.models.registry import PRIORS
from engine.priors import make_prior
from engine.priors.base import Clip
from engine.priors.patch import bank, search
from engine.priors.patch.clip import expected_colour, plan
from engine.priors.patch.prior import PatchPrior
from engine.priors.patch.search import CANDIDATES, LENGTH, RADIUS, SIDE
from engine.priors.patch.warp import draw_into, project

H, W = 32, 48


def picture(height: int = H, width: int = W, seed: int = 0) -> torch.Tensor:
    """A floor, a wall and blobs: structured, with texture, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    base = torch.stack([0.3 + 0.5 * y, 0.5 + 0.3 * torch.sin(9 * x), 0.7 - 0.5 * y])
    return (base + 0.05 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)


def clip_of(
    image: torch.Tensor, frames: int = 1, unknown_columns: int = 12, step_m: float = 0.0
) -> Clip:
    """A camera that moves to the right before a wall 4 m away; a band at the right is unknown and
    grows.
    """
    _, h, w = image.shape
    known = torch.ones(frames, 1, h, w)
    cameras = torch.eye(4).repeat(frames, 1, 1)
    for f in range(frames):
        known[f, ..., w - unknown_columns * (f + 1) // frames :] = 0
        cameras[f, 0, 3] = f * step_m
    K = torch.tensor([[40.0, 0, w / 2], [0, 40.0, h / 2], [0, 0, 1]]).repeat(frames, 1, 1)
    return Clip(image, image * known, known, torch.full((frames, 1, h, w), 4.0), K, cameras, "")


def run(
    prior: PatchPrior,
    condition: object,
    shape: tuple[int, ...],
    *,
    runs: int = 1,
    seed: int = 0,
    steps: int = 8,
) -> torch.Tensor:
    """The deterministic loop x' = a' x0 + b' eps without momentum, latents [runs, 3, f, h, w]."""
    levels = prior.levels(steps)
    eps = torch.randn(shape, generator=prior.generator(seed))
    x = (levels[0].b * eps)[None].repeat(runs, 1, 1, 1, 1)
    for i in range(steps):
        x0, noise = prior.predict(x, i, condition)
        x = levels[i + 1].a * x0 + levels[i + 1].b * noise
    return x


# ---------------------------------------------------------------- levels and latents


@pytest.mark.parametrize("steps", [1, 2, 7, 24])
def test_levels_preserve_variance_and_end_clean(steps: int) -> None:
    levels = PatchPrior(picture()).levels(steps)
    assert len(levels) == steps + 1
    assert all(math.isclose(v.a**2 + v.b**2, 1.0, abs_tol=1e-9) for v in levels)
    assert (levels[-1].a, levels[-1].b) == (1.0, 0.0)
    assert all(now.b > then.b for now, then in itertools.pairwise(levels))


def test_no_steps_asked_for_means_the_default() -> None:
    prior = PatchPrior(picture())
    assert len(prior.levels(0)) == PRIORS["patch"].steps + 1 == prior.spec.steps + 1


def test_decode_inverts_encode() -> None:
    frames = torch.rand(3, 3, H, W, generator=torch.Generator().manual_seed(1))
    prior = PatchPrior(picture())
    latents = prior.encode(frames)
    assert latents.shape == (3, 3, H, W)
    torch.testing.assert_close(prior.decode(latents), frames)


def test_registry_makes_the_patch_prior() -> None:
    assert make_prior(make(prior="patch"), picture(), "cpu").spec.name == "patch"


# ---------------------------------------------------------------- the posterior against the formula


def tiny_problem(noise: float) -> tuple[bank.Scale, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    scale = bank.build(2 * picture(16, 20) - 1)[-1]
    generator = np.random.default_rng(3)
    target = generator.normal(0, 0.6, (10 + 2 * RADIUS, 12 + 2 * RADIUS, 3)).astype(np.float32)
    weight = (
        generator.uniform(0.2, 1.0, target.shape[:2]).astype(np.float32) / np.float32(noise) ** 2
    )
    weight[:RADIUS] = 0
    rows, columns = (
        v.reshape(-1) for v in np.meshgrid(np.arange(0, 10, 3), np.arange(0, 12, 4), indexing="ij")
    )
    return scale, target, weight, rows, columns


def brute_force(
    scale: bank.Scale,
    target: np.ndarray,
    weight: np.ndarray,
    y: int,
    x: int,
    s_v: float,
    height: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(energies [n], bank patches [n, 147]) in float64, straight from the formula, with loops over
    the pictures.
    """
    energies, patches = [], []
    t = target[y : y + SIDE, x : x + SIDE].astype(np.float64)
    w = weight[y : y + SIDE, x : x + SIDE].astype(np.float64)
    for m in range(2):
        image = scale.picture[m].reshape(scale.picture.shape[1], -1, 3).astype(np.float64)
        for cy in range(RADIUS, image.shape[0] - RADIUS):
            for cx in range(RADIUS, image.shape[1] - RADIUS):
                patch = image[cy - RADIUS : cy + RADIUS + 1, cx - RADIUS : cx + RADIUS + 1]
                dv = (y + 0.5) / height - (cy + 0.5) / image.shape[0]
                energies.append(
                    0.5 * (w[..., None] * (t - patch) ** 2).sum() + dv**2 / (2 * s_v**2)
                )
                patches.append(patch.reshape(-1))
    return np.array(energies), np.array(patches)


@pytest.mark.parametrize("noise", [0.3, 2.0, 10.0])
def test_posterior_mean_is_the_softmax_over_all_patches(noise: float) -> None:
    scale, target, weight, rows, columns = tiny_problem(noise)
    n, s_v = len(rows), 0.2
    mean, variance = np.empty((n, LENGTH), np.float32), np.empty(n, np.float32)
    codes, energies = np.empty((n, CANDIDATES), np.int32), np.empty((n, CANDIDATES), np.float32)
    search.posterior_all(
        0,
        n,
        target,
        weight,
        rows,
        columns,
        scale.patches,
        scale.codes,
        scale.heights,
        np.float32(0.5 / s_v**2),
        10,
        mean,
        variance,
        codes,
        energies,
    )
    for q in range(n):
        exact, patches = brute_force(scale, target, weight, rows[q], columns[q], s_v, 10)
        p = np.exp(exact.min() - exact)
        p /= p.sum()
        expected = p @ patches
        np.testing.assert_allclose(mean[q], expected, atol=2e-3)
        np.testing.assert_allclose(variance[q], (p @ patches**2 - expected**2).mean(), atol=2e-3)
        np.testing.assert_allclose(energies[q], np.sort(exact)[:CANDIDATES], rtol=1e-4)
        assert set(codes[q]) == {int(scale.codes[k]) for k in np.argsort(exact)[:CANDIDATES]}


def test_search_finds_the_best_patches_from_a_bad_start() -> None:
    """Queries are patches of the bank itself at a constant offset; random starts must converge to
    that offset.
    """
    scale = bank.build(2 * picture(40, 60) - 1)[-1]
    image = scale.picture[0].reshape(40, 60, 3)
    target = np.pad(image[10:26, 20:44], ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)))
    weight = np.pad(np.full((16, 24), 25.0, np.float32), RADIUS)
    rows, columns = (
        v.reshape(-1) for v in np.meshgrid(np.arange(16), np.arange(24), indexing="ij")
    )
    index = np.arange(16 * 24, dtype=np.int32).reshape(16, 24)
    n = len(rows)
    start = np.random.default_rng(0)
    codes = (
        start.integers(3, 37, (n, CANDIDATES)) * 60 + start.integers(3, 57, (n, CANDIDATES))
    ).astype(np.int32)
    energies = np.full((n, CANDIDATES), np.inf, np.float32)
    for sweep in range(12):
        search.search(
            0,
            n,
            target,
            weight,
            rows,
            columns,
            index,
            scale.picture,
            np.float32(0),
            16,
            np.float32(0.2),
            sweep,
            0,
            16,
            codes.copy(),
            codes,
            energies,
        )
    truth = (rows + 10) * 60 + columns + 20
    assert (codes[:, 0] == truth).mean() > 0.95


# ---------------------------------------------------------------- predict


def test_prediction_decomposes_the_noisy_latents() -> None:
    prior, image = PatchPrior(picture()), picture()
    condition = prior.condition(clip_of(image, frames=2))
    levels = prior.levels(6)
    x = torch.randn(2, 3, 2, H, W, generator=torch.Generator().manual_seed(4))
    for i in (0, 3, 5):
        x0, eps = prior.predict(x, i, condition)
        assert x0.shape == eps.shape == x.shape
        torch.testing.assert_close(levels[i].a * x0 + levels[i].b * eps, x, atol=1e-4, rtol=1e-4)


def test_what_is_known_follows_the_render() -> None:
    image = picture()
    prior = PatchPrior(image)
    clip = clip_of(image)
    x = run(prior, prior.condition(clip), (3, 1, H, W))
    known = clip.known[0].bool().expand(3, -1, -1)
    torch.testing.assert_close(
        prior.decode(x[0])[0][known], clip.render[0][known], atol=1e-5, rtol=0
    )


def test_a_clip_without_unknown_pixels_invents_nothing() -> None:
    image = picture()
    prior = PatchPrior(image)
    clip = clip_of(image, frames=2, unknown_columns=0)
    condition = prior.condition(clip)
    assert condition.order == []
    x0, _ = prior.predict(
        torch.randn(1, 3, 2, H, W, generator=torch.Generator().manual_seed(0)), 0, condition
    )
    torch.testing.assert_close(prior.decode(x0[0]), clip.render, atol=1e-6, rtol=0)


def test_nothing_known_at_all_still_gives_a_picture() -> None:
    image = picture()
    prior = PatchPrior(image)
    clip = clip_of(image, unknown_columns=W)
    out = prior.decode(run(prior, prior.condition(clip), (3, 1, H, W))[0])
    assert torch.isfinite(out).all()
    assert float((out[0].mean(dim=(1, 2)) - image.mean(dim=(1, 2))).abs().max()) < 0.25


def test_a_regular_texture_is_continued() -> None:
    """Stripes are known on three quarters of the frame; the rest must be the same stripes in
    phase.
    """
    x = torch.arange(64).float()
    image = (0.5 + 0.4 * torch.sin(2 * math.pi * x / 8)).expand(3, 32, 64).contiguous()
    prior = PatchPrior(image)
    clip = clip_of(image, unknown_columns=16)
    out = prior.decode(run(prior, prior.condition(clip), (3, 1, 32, 64), steps=24)[0])[0]
    error = (out - image)[..., 48:].square().mean()
    assert -10 * math.log10(float(error)) > 15  # an arbitrary phase gives 8


def test_bits_do_not_depend_on_runs_or_threads() -> None:
    image = picture(48, 72)
    prior = PatchPrior(image)
    condition = prior.condition(clip_of(image, frames=2, step_m=0.3))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(prior, condition, (3, 2, 48, 72), runs=1)
        torch.set_num_threads(3)
        two = run(prior, condition, (3, 2, 48, 72), runs=2)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], two[0]) and torch.equal(two[0], two[1])


def test_each_run_of_a_batch_equals_that_run_alone() -> None:
    """Also where runs differ in known cells only, which is computed once, or in invented ones,
    which is not.
    """
    image = picture()
    prior = PatchPrior(image)
    clip = clip_of(image)
    condition = prior.condition(clip)
    prior.levels(6)
    base = torch.randn(3, 1, H, W, generator=torch.Generator().manual_seed(5))
    other = torch.randn(3, 1, H, W, generator=torch.Generator().manual_seed(6))
    known = clip.known.transpose(0, 1)
    batch = torch.stack(
        [base, torch.where(known > 0, other, base), torch.where(known > 0, base, other)]
    )
    together = prior.predict(batch, 3, condition)
    for r in range(3):
        one = prior.predict(batch[r : r + 1], 3, condition)
        assert torch.equal(together[0][r], one[0][0]) and torch.equal(together[1][r], one[1][0])
    assert torch.equal(together[0][0], together[0][1])
    assert not torch.equal(together[0][0], together[0][2])


def test_noise_decides_what_is_invented() -> None:
    image = picture()
    prior = PatchPrior(image)
    condition = prior.condition(clip_of(image, unknown_columns=20))
    a, b = (run(prior, condition, (3, 1, H, W), seed=s) for s in (0, 1))
    assert float((a - b).abs()[..., W - 12 :].mean()) > 1e-3


def test_expected_colours_are_means_of_the_known_ones_and_follow_the_rows() -> None:
    image = 2 * picture(48, 90) - 1
    known = torch.ones(1, 48, 90)
    known[..., 60:] = 0.0
    nothing = torch.full_like(
        image, 7.0
    )  # what the render shows where it is not trusted must not matter
    expected = expected_colour(torch.where(known > 0, image, nothing), known)
    seen = image[..., :60].flatten(1)
    assert bool((expected.flatten(1) >= seen.amin(dim=1, keepdim=True) - 1e-5).all())
    assert bool((expected.flatten(1) <= seen.amax(dim=1, keepdim=True) + 1e-5).all())
    flat = expected_colour(torch.full((3, 48, 90), 0.3) * known, known)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3), atol=1e-5, rtol=0)
    layers = torch.linspace(-1, 1, 48)[:, None].expand(3, 48, 90)
    hidden = expected_colour(layers * known, known)[..., 62:80]
    assert (
        float((hidden - layers[..., 62:80]).abs().mean()) < 0.25
    )  # the mean over the whole frame is off by 0.5
    assert float(expected_colour(layers, torch.zeros_like(known)).abs().max()) == 0.0


def test_a_wall_goes_on_as_a_wall() -> None:
    """Half of the picture is an object that belongs at the left; a hole in the wall at the right
    must not fill with it.
    """
    image = torch.full((3, 32, 64), 0.8)
    image[:, :, :32] = 0.1 + 0.2 * torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    prior = PatchPrior(image)
    clip = clip_of(image, unknown_columns=16)
    for seed in range(4):
        out = prior.decode(run(prior, prior.condition(clip), (3, 1, 32, 64), seed=seed)[0])[0]
        assert float((out[..., 50:] - 0.8).abs().mean()) < 0.1


@pytest.mark.parametrize("size", [(33, 47), (17, 90), (24, 24)])
def test_any_size_works(size: tuple[int, int]) -> None:
    image = picture(*size)
    prior = PatchPrior(image)
    clip = clip_of(image)
    out = prior.decode(run(prior, prior.condition(clip), (3, 1, *size), steps=3)[0])
    assert out.shape == clip.render.shape and torch.isfinite(out).all()


def test_partial_coverage_is_kept_in_part() -> None:
    image = picture()
    clip = clip_of(image, unknown_columns=0)
    clip.known[..., :10] = 0.75  # half way between not kept (0.5) and kept (1)
    prior = PatchPrior(image)
    condition = prior.condition(clip)
    assert float(condition.trust[0, 0, 5, 5]) == pytest.approx(0.5)
    assert condition.order == [0]


def test_wrong_sizes_are_named() -> None:
    prior = PatchPrior(picture())
    with pytest.raises(ValueError, match="condition"):
        prior.condition(clip_of(picture(H, W + 8)))
    with pytest.raises(ValueError, match="at least 7"):
        PatchPrior(torch.rand(3, 6, 40))


# ---------------------------------------------------------------- frames of a clip


def test_every_unknown_pixel_is_invented_once_or_looked_up() -> None:
    clip = clip_of(picture(), frames=4, step_m=0.25)
    _, ties, own, _ = plan(clip)
    for f in range(4):
        count = own[f, 0].long()
        for tie in ties[f]:
            count[tie.rows, tie.columns] += 1
        assert torch.equal(count.bool(), clip.known[f, 0] < 0.98)
        assert int(count.max()) <= 1


def test_projection_of_a_shifted_wall_is_the_disparity() -> None:
    K = torch.tensor([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]])
    b = torch.eye(4)
    b[0, 3] = 0.5
    points = project(torch.full((H, W), 4.0), K, torch.eye(4), K, b)
    x = torch.arange(W) + 0.5
    torch.testing.assert_close(points[0], (x - 40.0 * 0.5 / 4.0).expand(H, W), atol=1e-4, rtol=0)
    depth, source = draw_into(points, torch.ones(H, W, dtype=torch.bool), (H, W))
    seen = torch.isfinite(depth)
    assert torch.equal(seen[H // 2, : W - 6], torch.ones(W - 6, dtype=torch.bool))
    shift = source[..., 0] - x
    torch.testing.assert_close(shift[seen], torch.full_like(shift[seen], 5.0), atol=1e-3, rtol=0)


def test_nearer_surface_hides_the_farther() -> None:
    K = torch.tensor([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]])
    depth = torch.full((H, W), 4.0)
    depth[:, :10] = 2.0
    b = torch.eye(4)
    b[0, 3] = -0.4  # the camera moves left: the near strip covers what was right of it
    drawn, _ = draw_into(
        project(depth, K, torch.eye(4), K, b), torch.ones(H, W, dtype=torch.bool), (H, W)
    )
    assert float(drawn[H // 2, 12]) == pytest.approx(2.0)
    assert float(drawn[H // 2, 30]) == pytest.approx(4.0)


def test_frames_agree_better_than_frames_made_alone() -> None:
    """Warp error in what two frames invented: one clip against two clips of one frame each."""
    image = picture(48, 72)
    step = 0.8  # 8 px between the frames
    clip = clip_of(image, frames=2, unknown_columns=24, step_m=step)
    prior = PatchPrior(image)
    together = prior.decode(run(prior, prior.condition(clip), (3, 2, 48, 72), steps=16)[0])
    alone = []
    for f in range(2):
        fields = (clip.render, clip.known, clip.depth, clip.K, clip.world_from_camera)
        single = Clip(image, *(v[f : f + 1] for v in fields), "")
        alone.append(
            prior.decode(run(prior, prior.condition(single), (3, 1, 48, 72), steps=16, seed=f)[0])[
                0
            ]
        )
    shift = 8
    place = slice(72 - 12, 72)  # unknown in frame 0, hence in frame 1 eight pixels further left

    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(
            (a[..., place] - b[..., place.start - shift : place.stop - shift]).abs().mean()
        )

    assert error(together[0], together[1]) < 0.02
    assert error(together[0], together[1]) < 0.5 * error(alone[0], alone[1])


# ---------------------------------------------------------------- features


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1), dim=0)


def test_features_of_a_hole_are_unlike_the_picture() -> None:
    image = picture()
    prior = PatchPrior(image)
    features = prior.features(prior.encode(torch.stack([image, torch.zeros(3, H, W)])))
    assert features.shape[1] == 2
    assert float(cosine(features[:, 0], features[:, 1]).mean()) < 0.5


def test_features_ignore_contrast_as_cosines() -> None:
    image = picture()
    prior = PatchPrior(image)
    z = prior.encode(image[None])
    mean = z.mean(dim=(1, 2, 3), keepdim=True)
    softer = mean + 0.5 * (z - mean)
    torch.testing.assert_close(
        cosine(prior.features(z), prior.features(softer)),
        torch.ones(H // 4 * (W // 4)),
        atol=1e-3,
        rtol=0,
    )


def test_features_of_flat_places_compare_their_colour() -> None:
    image = picture()
    prior = PatchPrior(image)
    flat = torch.stack([torch.full((3, H, W), v) for v in (0.9, 0.8, 0.05)])
    features = prior.features(prior.encode(flat))
    assert float(cosine(features[:, 0], features[:, 1]).min()) > 0.9
    assert float(cosine(features[:, 0], features[:, 2]).max()) < 0.0


def test_features_tell_places_apart() -> None:
    """The cosine of a place with itself under a little noise is far above that with another
    place.
    """
    image = picture()
    prior = PatchPrior(image)
    noisy = (
        image + 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1)
    a, b = prior.features(prior.encode(image[None])), prior.features(prior.encode(noisy[None]))
    same = cosine(a, b).mean()
    other = cosine(a, b.flip(-1).flip(-2)).mean()
    assert float(same) > 0.9
    assert float(same - other) > 0.4
