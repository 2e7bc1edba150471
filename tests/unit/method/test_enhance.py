"""A window enhanced with a network whose latent cells are as coarse as those of real ones: 8 x 8
pixels, 4 frames.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from engine.bridge import settings
from engine.method.enhance import enhance, picture_cells
from engine.method.views import Views
from engine.priors.base import Level, PriorSpec
from engine.priors.notation import patch_features

H, W, COUNT = 64, 96, 9
CELL, TOGETHER = 8, 4
SPEC = PriorSpec(
    name="perfect",
    frames=lambda n: 1 + -(-(n - 1) // TOGETHER) * TOGETHER,
    size_multiple=CELL,
    native_size=None,
    t_factor=TOGETHER,
    s_factor=CELL,
    channels=3,
    steps=20,
    sees=frozenset(),
    licence="GPL-3.0-or-later",
    commercial_use=True,
)


class Perfect:
    """Answers with the truth, coded as a coarse autoencoder codes it: means over cells."""

    def __init__(self, truth, spec=SPEC):
        self.spec, self.truth, self.coded = spec, truth, []

    def levels(self, steps):
        self.table = [Level(0, 1 - s, s) for s in torch.linspace(1, 0, steps + 1).tolist()]
        return self.table

    def encode(self, frames):
        self.coded.append(frames)
        small = F.avg_pool2d(2 * frames - 1, CELL)
        if len(small) == 1:
            return small.transpose(0, 1)
        rest = small[1:].unflatten(0, (-1, TOGETHER)).mean(dim=1)
        return torch.cat([small[:1], rest]).transpose(0, 1)

    def decode(self, latents):
        z = latents.transpose(0, 1)
        frames = torch.cat([z[:1], z[1:].repeat_interleave(TOGETHER, dim=0)])
        return F.interpolate(frames, scale_factor=CELL) * 0.5 + 0.5

    def condition(self, clip):
        self.shown = clip
        return None

    def predict(self, x, i, condition):
        clean = self.encode(self.truth)[None]
        self.coded.pop()
        return clean.expand_as(x), (x - self.table[i].a * clean) / self.table[i].b

    def z_scale(self, i):
        return 1.0

    def features(self, latents):
        return patch_features(latents)

    def generator(self, seed):
        return torch.Generator().manual_seed(seed)


def _hole(rows=slice(None), columns=slice(52, None)):
    known = torch.ones(COUNT, H, W)
    known[1:, rows, columns] = 0.0
    return known


def _views(truth, known):
    return Views(truth * known[:, None], known, torch.full_like(known, 3.0), 0.5 * known, known)


def _run(prior, truth, known, **chosen):
    plan = settings.make("standard", prior="patch", **chosen)
    K = torch.tensor([[80.0, 0, W / 2], [0, 80.0, H / 2], [0, 0, 1]]).expand(COUNT, 3, 3)
    cameras = torch.eye(4).expand(COUNT, 4, 4)
    depth = torch.full((COUNT, H, W), 3.0)
    return enhance(
        _views(truth, known), depth, truth[0], K, cameras, prior, plan, 1, lambda done, total: None
    )


@pytest.mark.parametrize("coverage", [True, False])
@pytest.mark.parametrize("columns", [slice(52, None), slice(30, 41)])
def test_a_known_pixel_beside_a_hole_keeps_its_colour(columns, coverage):
    truth = torch.full((COUNT, 3, H, W), 0.8)
    known = _hole(columns=columns)
    made = _run(Perfect(truth), truth, known, lambda_coverage=coverage)
    wrong = (made.frames - truth).abs().amax(dim=1)[known > 0].max()
    assert wrong < 0.01  # 0.14 at 7f06cef


def test_a_network_that_starts_from_the_render_starts_from_no_hole():
    """SVD, LTX and CogVideoX keep at large scale what they start from: a black hole would stay
    one.
    """
    generator = torch.Generator().manual_seed(0)
    truth = 0.6 + 0.3 * torch.rand(COUNT, 3, H, W, generator=generator)
    prior = Perfect(truth, dataclasses.replace(SPEC, starts_from_render=True))
    known = _hole(columns=slice(36, 70))
    _run(prior, truth, known)
    source = next(frames for frames in prior.coded if len(frames) == SPEC.frames(COUNT))
    inside = source[:COUNT].permute(1, 0, 2, 3)[:, known == 0]
    assert inside.mean() == pytest.approx(float(truth.mean()), abs=0.03)  # 0 at 7f06cef
    assert torch.equal(
        source[:COUNT].permute(1, 0, 2, 3)[:, known > 0], truth.permute(1, 0, 2, 3)[:, known > 0]
    )


def test_what_the_network_is_shown_has_its_holes_black():
    truth = torch.full((COUNT, 3, H, W), 0.8)
    prior = Perfect(truth)
    _run(prior, truth, _hole())
    shown = prior.shown
    assert float(shown.render[shown.known.expand_as(shown.render) == 0].max()) == 0.0


def test_lambda_differs_from_place_to_place():
    """Eq. (10) compares with a sample, and no cell with itself: over textures lambda has a
    spread.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(COUNT, 3, H // CELL, W // CELL, generator=generator)
    truth = F.interpolate(coarse, scale_factor=CELL)
    made = _run(Perfect(truth), truth, torch.ones(COUNT, H, W))
    assert float(made.lam[1:].std()) > 0.03


def test_the_picture_is_coded_once_for_all_segments():
    truth = torch.full((COUNT, 3, H, W), 0.8)
    prior = Perfect(truth)
    cells = picture_cells(prior, truth[0])
    plan = settings.make("standard", prior="patch")
    K = torch.tensor([[80.0, 0, W / 2], [0, 80.0, H / 2], [0, 0, 1]]).expand(COUNT, 3, 3)
    cameras, depth = torch.eye(4).expand(COUNT, 4, 4), torch.full((COUNT, H, W), 3.0)
    views = _views(truth, _hole())
    for index in (1, 2):
        enhance(views, depth, truth[0], K, cameras, prior, plan, index, lambda *_: None, cells)
    assert [len(frames) for frames in prior.coded].count(1) == 1
