"""The scaffold closes holes, in one geometry for all frames, and keeps what is known."""

from __future__ import annotations

import torch

from engine.bridge import moves, settings
from engine.geometry.layers import gaussians_from_depth
from engine.method import masks, scaffold
from engine.method.views import draw_views
from engine.rasterize import rasterize
from engine.scene.gaussians import concatenate

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


def _build(scene, Ks, cameras, **chosen):
    plan = settings.make("standard", **chosen)
    views = draw_views(scene, Ks, cameras, torch.zeros(3, H, W), plan)
    return scaffold.build_scaffold(scene, views, Ks, cameras, plan)


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
    made, depth, _ = _build(wall, Ks, cameras)
    after = rasterize(concatenate(wall, made.gaussians), Ks, cameras, W, H).alpha
    assert (before < 0.5).float().mean() > 0.05
    assert (after < 0.5).float().mean() < 0.01
    assert torch.allclose(depth, torch.tensor(4.0), rtol=0.05)


def test_a_covered_view_needs_no_scaffold():
    Ks, cameras = _truck([0.0])
    made = _build(_wall(), Ks, cameras).scaffold
    assert made.gaussians.count == 0


def test_paint_gives_each_gaussian_its_own_pixel():
    Ks, cameras = _truck([0.0, 1.0])
    made = _build(_wall(), Ks, cameras).scaffold
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
    made = _build(wall, Ks, cameras).scaffold
    alpha = rasterize(concatenate(wall, made.gaussians), Ks, cameras, W, H).alpha
    assert (alpha[-1] > 0.5).float().mean() > 0.95


def test_every_unknown_pixel_gets_gaussians_where_a_blurred_border_covers_it():
    """With border 0.25 nothing is a hole by coverage, yet all beyond the frame is unknown: 0
    scaffold Gaussians at 7f06cef.
    """
    w, h = 96, 56
    lens = torch.tensor([[80.0, 0, w / 2], [0, 80.0, h / 2], [0, 0, 1]])
    image = torch.rand(3, h, w, generator=torch.Generator().manual_seed(0))
    first = gaussians_from_depth(image, torch.full((h, w), 3.0), lens, border=0.25).gaussians
    path = moves.move("truck:0.6", K=lens.numpy(), width=w, height=h, frames=3)
    Ks = torch.from_numpy(path.K).float()
    cameras = torch.linalg.inv(torch.from_numpy(path.world_from_camera)).float()
    plan = settings.make("standard")
    views = draw_views(first, Ks, cameras, image, plan, pin_first=True)
    hole = ~masks.known(views.mu)
    assert float(hole[-1].float().mean()) > 0.1 and float(views.alpha[-1][hole[-1]].mean()) > 0.5
    built = scaffold.build_scaffold(first, views, Ks, cameras, plan)
    scene = concatenate(first.select(built.kept), built.scaffold.gaussians)
    after = draw_views(scene, Ks, cameras, image, plan, pin_first=True)
    still = ~masks.known(after.mu)
    assert int((still & hole).sum()) < 0.02 * int(hole.sum())
    assert int((still & ~hole).sum()) < 0.005 * int((~hole).sum())


def test_a_scene_without_holes_is_not_drawn_again(monkeypatch):
    Ks, cameras = _truck([0.0, 0.0, 0.0])
    plan = settings.make("standard")
    views = draw_views(_wall(), Ks, cameras, torch.zeros(3, H, W), plan)
    monkeypatch.setattr(scaffold, "rasterize", None)
    built = scaffold.build_scaffold(_wall(), views, Ks, cameras, plan)
    assert built.scaffold.gaussians.count == 0 and bool(built.kept.all())


def test_the_cap_holds_and_is_thinned_evenly():
    Ks, cameras = _truck([0.0, 1.6])
    wall = _wall()
    many = _build(wall, Ks, cameras).scaffold
    few = _build(wall, Ks, cameras, max_gaussians=W * H + 300).scaffold
    assert few.gaussians.count == 300 < many.gaussians.count
    assert abs(float(few.row.float().mean()) - float(many.row.float().mean())) < 2.0
