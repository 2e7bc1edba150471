"""The coarse prior: its code, its denoiser, its drift, and how far a cell leaks."""

from __future__ import annotations

import pytest
import torch

from engine.evaluation import coarse, drawn
from engine.method import sampler
from engine.priors.base import Clip
from engine.scene.psnr import psnr

H, W = 64, 96


@pytest.fixture(scope="module")
def frames():
    path = drawn.path("gallery", 81, W, H)
    scene, K = drawn.SCENES["gallery"](), torch.from_numpy(path.K[0]).float()
    cameras = torch.from_numpy(path.world_from_camera[:5])
    return torch.stack([drawn.draw(scene, K, c, W, H) for c in cameras])


def _clip(frames):
    count = frames.shape[0]
    return Clip(
        image=frames[0],
        render=frames,
        known=torch.ones(count, 1, H, W),
        depth=torch.ones(count, 1, H, W),
        K=torch.eye(3).repeat(count, 1, 1),
        world_from_camera=torch.eye(4).repeat(count, 1, 1),
        prompt="",
    )


def _free(frames, drift, seed=0):
    prior = coarse.Coarse(frames[0], lambda cameras: frames, drift)
    z = prior.encode(frames)
    out = sampler.sample(
        prior,
        prior.condition(_clip(frames)),
        z,
        torch.zeros(z.shape[1:]),
        steps=10,
        generator=prior.generator(seed),
    )
    return prior.decode(out.free)


def test_the_code_keeps_flat_colours_exactly_and_pictures_well(frames):
    coder = coarse.Coder(H, W)
    flat = torch.full((5, 3, H, W), 0.3)
    assert float((coder.decode(coder.encode(flat)) - flat).abs().max()) < 1e-4
    z = coder.encode(frames)
    assert z.shape[1:] == (2, H // 8, W // 8)
    assert psnr(coder.decode(z), frames) > 27
    again = coder.encode(coder.decode(z))
    assert torch.allclose(again, z, atol=1e-3), "a projection: coding twice is coding once"
    with pytest.raises(ValueError, match="1 \\+ a multiple of 4"):
        coder.encode(frames[:4])


def test_a_cell_leaks_over_its_edge_and_not_far():
    found = coarse.leakage(coarse.Coder(64, 96), 64, 96)
    assert 0.1 < found.into[0] < 0.4, "the pixel at the edge of a change is told by it"
    assert 0.05 < found.out[0] < 0.3, "some of a cell's energy falls outside its eight pixels"
    assert found.into == sorted(found.into, reverse=True) and found.into[-1] < 0.01
    assert found.out[2] < 1e-6, "windows are two cells wide"


def test_the_denoiser_is_exact_for_clips_that_scatter_round_the_truth(frames):
    prior = coarse.Coarse(frames[0], lambda cameras: frames, coarse.Drift(spread=0.3))
    levels, mean = prior.levels(8), prior.condition(_clip(frames))
    draw = torch.Generator().manual_seed(1)
    x0 = mean.mean + 0.3 * torch.randn(mean.mean.shape, generator=draw)
    level = levels[5]
    x = level.a * x0 + level.b * torch.randn(x0.shape, generator=draw)
    x0_hat, eps_hat = prior.predict(x[None], 5, mean)
    assert torch.allclose(level.a * x0_hat + level.b * eps_hat, x[None], atol=1e-4)
    # the posterior mean: its error is uncorrelated with what it was told, and of the posterior's
    # size
    error, told = x0_hat[0] - x0, x - level.a * mean.mean
    assert abs(float((error * told).mean())) < 0.01
    variance = 0.09 * level.b**2 / (level.a**2 * 0.09 + level.b**2)
    assert float(error.var()) == pytest.approx(variance, rel=0.03)


def test_without_drift_the_free_run_is_the_truth_and_with_drift_it_leaves_it_along_the_clip(frames):
    sure = _free(frames, coarse.Drift(spread=0.0))
    prior = coarse.Coarse(frames[0], lambda cameras: frames, coarse.Drift())
    assert psnr(sure, prior.decode(prior.encode(frames))) > 50
    slipped = _free(frames, coarse.Drift(drift_px=3.0, spread=0.02))
    values = [psnr(a, b) for a, b in zip(slipped, frames, strict=True)]
    assert values[0] > values[2] > values[4] and values[4] < 26
    one, other = (_free(frames, coarse.Drift(), seed) for seed in (0, 1))
    assert psnr(one, other) < 40, "another noise gives another clip"
