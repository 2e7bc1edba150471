"""What a segment gets, and what it costs, does not depend on the length of the path."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from engine.bridge import settings
from engine.bridge.segments import Segment
from engine.method.refine import (
    NEW,
    PICTURE,
    frame_schedule,
    frame_shares,
    in_view,
    refine,
    refine_segment,
    size_limits,
)
from engine.method.scaffold import pixel_gaussians
from engine.rasterize import rasterize
from engine.scene.gaussians import Gaussians, at_most, sh_dc_from_colour
from engine.scene.psnr import psnr

W, H, Z, FOCAL = 48, 32, 4.0, 40.0
STEP_PX = 3  # between frames
K1 = torch.tensor([[FOCAL, 0, W / 2], [0, FOCAL, H / 2], [0, 0, 1]])


class _Drawn:
    """Frames that are drawn when they are asked for."""

    def __init__(self, scene: Gaussians, cameras: torch.Tensor) -> None:
        self.scene, self.cameras, self.read = scene, cameras, set()

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, i: int) -> torch.Tensor:
        self.read.add(i)
        near = in_view(self.scene, K1[None], self.cameras[i : i + 1], W, H)
        drawn = rasterize(self.scene.select(near), K1[None], self.cameras[i : i + 1], W, H)
        return drawn.rgb[0].permute(2, 0, 1).clamp(0, 1)


def _wall(f: int) -> tuple[Gaussians, _Drawn, torch.Tensor, torch.Tensor]:
    """A painted wall along a path of f frames; what only the last 15 see has wrong colours. The
    last 96 columns are always the same.
    """
    generator = torch.Generator().manual_seed(0)
    columns = W + STEP_PX * (f - 1)
    tile = F.interpolate(
        torch.rand(1, 3, H // 4, 24, generator=generator), size=(H, 96), mode="bicubic"
    )[0].clamp(0, 1)
    wrong = torch.randn(3, H, 96, generator=generator)
    picture, wrong = (t.repeat(1, 1, columns // 96 + 1)[:, :, -columns:] for t in (tile, wrong))
    row, column = (
        t.flatten() for t in torch.meshgrid(torch.arange(H), torch.arange(columns), indexing="ij")
    )
    true = pixel_gaussians(row, column, torch.full(row.shape, Z), K1, torch.eye(4), 0)
    true = true._replace(sh_dc=sh_dc_from_colour(picture.flatten(1).T))
    cameras = torch.eye(4).repeat(f, 1, 1)
    cameras[:, 0, 3] = -STEP_PX * torch.arange(f) * Z / FOCAL
    Ks = K1.expand(f, 3, 3)
    frames = _Drawn(true, cameras)
    unseen = column >= W + STEP_PX * (f - 16)
    start = true._replace(sh_dc=true.sh_dc + wrong.flatten(1).T * unseen[:, None])
    return start, frames, Ks, cameras


def _learned(f: int, steps: int = 300) -> float:
    """PSNR in dB of the last 15 frames after their segment was refined."""
    start, frames, Ks, cameras = _wall(f)
    segment = Segment(f - 25, f, f - 15)
    plan = settings.make("standard", prior="patch", refine_steps=steps)
    path = SimpleNamespace(K=Ks, camera_from_world=cameras)
    made = refine_segment(start, frames, path, plan, segment, 1, lambda done, total: None)
    drawn = _Drawn(made.gaussians, cameras)
    return sum(psnr(drawn[i], frames[i]) for i in range(f - 15, f)) / 15


def test_new_frames_are_learned_as_well_at_the_end_of_a_long_path_as_of_a_short_one():
    """At 7f06cef: 41.6 dB at 25 frames, 34.0 at 100, 29.3 at 300."""
    found = {f: _learned(f) for f in (25, 100, 1000)}
    assert max(found.values()) - min(found.values()) < 1.5, found


@pytest.mark.parametrize("f", [30, 100, 1000])
def test_shares_are_fixed(f):
    start, _, Ks, cameras = _wall(f)
    share = frame_shares(start, Ks, cameras, W, H, Segment(f - 25, f, f - 15))
    schedule = frame_schedule(share, 300, 0, True)
    assert sum(i >= f - 15 for i in schedule) == pytest.approx(300 * NEW, abs=15)
    # along this wall only the shortest path's segment still sees anything of the picture
    assert schedule.count(0) == (pytest.approx(300 * PICTURE, abs=1) if f == 30 else 0)


def test_a_schedule_of_a_thousand_frames_is_made_at_once():
    """2.6 s at 7f06cef."""
    before = time.process_time()
    schedule = frame_schedule(torch.ones(1000), 5000, 0, True)
    assert time.process_time() - before < 0.5
    assert [schedule.count(i) for i in range(1000)] == [5] * 1000


def test_only_what_is_looked_at_is_worked_on_and_nothing_else_changes():
    start, frames, Ks, cameras = _wall(120)
    shares = torch.zeros(120)
    shares[100:110] = 1.0
    made = refine(start, frames, Ks, cameras, steps=12, frame_weights=shares)
    seen = in_view(start, Ks[100:110], cameras[100:110], W, H)
    assert made.counts[0][1] == int(seen.sum()) < 0.5 * start.count
    for before, after in zip(start, made.gaussians, strict=True):
        assert torch.equal(before[~seen], after[~seen])
    drawn = rasterize(start, Ks[100:110], cameras[100:110], W, H).rgb
    alone = rasterize(start.select(seen), Ks[100:110], cameras[100:110], W, H).rgb
    assert torch.equal(drawn, alone)


def test_frames_are_read_when_they_are_looked_at():
    start, frames, Ks, cameras = _wall(60)

    frames.read.clear()
    made = refine(start, frames, Ks, cameras, steps=10)
    assert frames.read == {0, *made.frames}


def test_limits_of_size_do_not_move_with_the_principal_point():
    """A lens shift, cy 20 of 100 rows: at 7f06cef a Gaussian in row 90 counted as seen by nobody
    and might not grow.
    """
    one = pixel_gaussians(
        torch.tensor([90]), torch.tensor([24]), torch.tensor([2.0]), K1, torch.eye(4), 0
    )
    shifted = K1.clone()
    shifted[1, 2] = 20.0
    one = one._replace(
        means=torch.tensor([[0.0, (90.5 - 20.0) / FOCAL * 2.0, 2.0]]), scales_log=one.scales_log - 3
    )
    limits = size_limits(one, shifted[None], torch.eye(4)[None], W, 100, 1.5)
    assert float(limits.middle) == pytest.approx(
        float(torch.log(torch.tensor(1.5 * 2.0 / FOCAL))), abs=1e-4
    )


def test_a_dense_first_geometry_is_thinned_to_the_cap_and_stays_closed():
    row, column = (
        t.flatten() for t in torch.meshgrid(torch.arange(2 * H), torch.arange(2 * W), indexing="ij")
    )
    fine = K1.clone()
    fine[:2] *= 2
    dense = pixel_gaussians(row, column, torch.full(row.shape, Z), fine, torch.eye(4), 0)
    thin = at_most(dense, dense.count // 5)
    assert thin.count == dense.count // 5
    alpha = rasterize(thin, K1[None], torch.eye(4)[None], W, H).alpha
    assert float((alpha > 0.5).float().mean()) > 0.97
    faint = dense._replace(opacities_logit=torch.where(column < W, -3.0, 3.0))
    assert bool((at_most(faint, dense.count // 2).opacities_logit > 0).all())
