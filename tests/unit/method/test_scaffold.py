"""The scaffold closes holes, in one geometry for all frames, and keeps what is known."""

from __future__ import annotations

import torch

from engine.method import scaffold
from engine.rasterize import rasterize

W, H = 64, 40
K = torch.tensor([[50.0, 0.0, W / 2], [0.0, 50.0, H / 2], [0.0, 0.0, 1.0]])


def _wall(depth=4.0):
    """A wall that fills the first view."""
    row, column = (
        t.flatten() for t in torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    )
    return scaffold.pixel_gaussians(row, column, torch.full((H * W,), depth), K, torch.eye(4), 0)


def _truck(offsets):
    cameras = torch.eye(4).repeat(len(offsets), 1, 1)
    cameras[:, 0, 3] = -torch.tensor(offsets)
    return K.expand(len(offsets), 3, 3), cameras


def test_pixel_gaussians_project_to_their_pixels_at_their_depth():
    camera = torch.eye(4)
    camera[:3, :3] = torch.linalg.matrix_exp(
        torch.tensor([[0.0, -0.2, 0.1], [0.2, 0.0, -0.3], [-0.1, 0.3, 0.0]])
    )
    camera[:3, 3] = torch.tensor([0.3, -0.2, 0.5])
    row, column, depth = torch.tensor([3, 20]), torch.tensor([5, 60]), torch.tensor([2.0, 7.0])
    made = scaffold.pixel_gaussians(row, column, depth, K, camera, 1)
    seen = made.means @ camera[:3, :3].T + camera[:3, 3]
    pixels = seen @ K.T
    assert torch.allclose(seen[:, 2], depth, atol=1e-5)
    assert torch.allclose(
        pixels[:, :2] / pixels[:, 2:], torch.stack([column, row], 1) + 0.5, atol=1e-3
    )
    assert made.sh_rest.shape == (2, 3, 3)


def test_every_hole_is_closed_and_depth_continues_the_wall():
    Ks, cameras = _truck([0.0, 0.6, 1.2])
    wall = _wall()
    before = rasterize(wall, Ks, cameras, W, H).alpha
    made, depth = scaffold.build_scaffold(wall, Ks, cameras, W, H, sh_degree=0)
    after = rasterize(scaffold.concatenate(wall, made.gaussians), Ks, cameras, W, H).alpha
    assert (before < 0.5).float().mean() > 0.05
    assert (after < 0.5).float().mean() < 0.01
    assert torch.allclose(depth, torch.tensor(4.0), rtol=0.05)


def test_a_covered_view_needs_no_scaffold():
    Ks, cameras = _truck([0.0])
    made, _ = scaffold.build_scaffold(_wall(), Ks, cameras, W, H, sh_degree=0)
    assert made.gaussians.count == 0


def test_paint_gives_each_gaussian_its_own_pixel():
    Ks, cameras = _truck([0.0, 1.0])
    made, _ = scaffold.build_scaffold(_wall(), Ks, cameras, W, H, sh_degree=0)
    frames = torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(0))
    painted = scaffold.paint(made, frames)
    index = 7
    colour = painted.sh_dc[index] * 0.28209479177387814 + 0.5
    assert torch.allclose(
        colour, frames[made.frame[index], :, made.row[index], made.column[index]], atol=1e-5
    )


def test_a_turn_away_from_everything_is_bridged_by_the_frames_between():
    angles = torch.linspace(
        0.0, 1.6, 9
    )  # the last camera looks 90 degrees away: alone it sees nothing at all
    cameras = torch.eye(4).repeat(9, 1, 1)
    cameras[:, 0, 0], cameras[:, 0, 2] = torch.cos(angles), -torch.sin(angles)
    cameras[:, 2, 0], cameras[:, 2, 2] = torch.sin(angles), torch.cos(angles)
    Ks = K.expand(9, 3, 3)
    wall = _wall()
    assert rasterize(wall, Ks[-1:], cameras[-1:], W, H).alpha.max() < 0.01
    made, _ = scaffold.build_scaffold(wall, Ks, cameras, W, H, sh_degree=0)
    alpha = rasterize(scaffold.concatenate(wall, made.gaussians), Ks, cameras, W, H).alpha
    assert (alpha[-1] > 0.5).float().mean() > 0.95
