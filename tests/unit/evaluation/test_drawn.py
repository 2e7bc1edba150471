"""Drawn scenes: pictures, depth and masks of one geometry; paths out and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.evaluation import drawn, experiments, references, scenes

W, H = 96, 56


@pytest.mark.parametrize("name", sorted(drawn.SCENES))
def test_a_point_that_both_cameras_see_has_one_colour(name):
    """The second picture, looked up from the first along its depth, is the first where the mask
    says seen.
    """
    scene, path = drawn.SCENES[name](), drawn.path(name, 60, W, H)
    K = torch.from_numpy(path.K[0]).float()
    first, world = (torch.from_numpy(path.world_from_camera[i]).float() for i in (0, 10))
    picture, other = (drawn.draw(scene, K, c, W, H) for c in (first, world))
    points = drawn.survey(scene, K, world, W, H).points
    seen = drawn.seen_from(scene, K, points)
    assert 0.5 < float(seen.float().mean()) < 1.0
    uv = points @ K.T
    grid = uv[..., :2] / uv[..., 2:] / torch.tensor([W, H]) * 2 - 1
    looked_up = F.grid_sample(picture[None], grid[None], align_corners=False)[0]
    error = (looked_up - other).abs().mean(dim=0)
    assert float(error[seen].median()) < 0.02
    assert float(error[~seen].median()) > 2 * float(error[seen].median())


def test_what_cannot_be_in_an_outline_is_not_cast_and_nothing_else():
    scene, path = drawn.gallery(), drawn.path("gallery", 10, W, H)
    K = torch.from_numpy(path.K[0]).float()
    world = torch.from_numpy(path.world_from_camera[7]).float()
    whole = drawn.cast(scene, world[:3, 3], drawn._rays(K, world, W, H)).t.reshape(H, W)
    assert torch.equal(whole, drawn.survey(scene, K, world, W, H).depth_m)


def test_a_folder_is_read_as_a_scene_and_a_second_path_shares_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "DRAWN_SIZE", (32, 24))
    monkeypatch.setattr(experiments, "LONGEST", 6)
    folders = experiments.drawn_scenes(tmp_path, ("4", "6"))
    assert [f.name for f in folders] == list(drawn.SCENES)
    view = scenes.load(folders[0], path="4", views=3, frames=13)
    assert sorted(view.truth) == [1, 2, 3] and set(view.seen) == {1, 2, 3}
    assert view.depth_m.shape == (24, 32)
    longer = scenes.load(folders[0], path="6", views=3, frames=13)
    assert np.allclose(longer.path.world_from_camera[:4], view.path.world_from_camera)


def test_out_and_back_ends_where_it_began():
    view = scenes.load(scenes_folder() / "desk", path="medium_back", views=3, frames=13)
    poses = view.path.world_from_camera
    assert len(poses) == 25 and np.allclose(poses, poses[::-1])
    assert set(view.truth) == set(range(1, 25))
    assert view.truth[24] == view.image and view.truth[20] == view.truth[4]
    assert set(view.seen) == {4, 8, 12, 16, 20}


def scenes_folder():
    from engine.commands.evaluate import SCENES

    return SCENES


def test_likeness_is_one_for_a_cell_of_the_pool_and_nothing_for_an_empty_pool():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(16, 2, 3, 4, generator=draw)
    assert torch.allclose(
        references.likeness(features, 3.0 * features.flatten(1)), torch.ones(2, 3, 4), atol=1e-5
    )
    assert float(references.likeness(features, features[:, 0, 0, :0]).max()) == 0.0
    far = references.likeness(features, -features.flatten(1))
    assert float(far.max()) < 1.0
