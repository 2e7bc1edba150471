"""Depth completion continues planes and does not smear occluders."""

from __future__ import annotations

import pytest
import torch

from engine.geometry.completion import complete_depth

H, W = 72, 128
V, U = torch.meshgrid(torch.arange(H) / W, torch.arange(W) / W, indexing="ij")


@pytest.mark.parametrize("hole", [U > 0.75, U < 0.2, (U > 0.4) & (U < 0.5) & (V > 0.1) & (V < 0.4)])
def test_a_plane_is_continued(hole):
    depth = 1.0 / (0.05 + 0.3 * V + 0.1 * U)
    completed = complete_depth(depth, ~hole)
    error = ((completed - depth).abs() / depth)[hole]
    assert error.mean() < 0.02
    assert error.max() < 0.1


def test_known_depth_is_returned_as_it_is():
    depth = 1.0 + torch.rand(H, W, generator=torch.Generator().manual_seed(0))
    known = U < 0.6
    assert torch.equal(complete_depth(depth, known)[known], depth[known])


def test_behind_an_occluder_the_far_side_continues():
    depth = torch.full((H, W), 10.0)
    depth[20:50, 30:60] = 2.0
    hole = torch.zeros(H, W, dtype=torch.bool)
    hole[20:50, 60:68] = True
    assert complete_depth(depth, ~hole)[hole].min() > 8.0


def test_result_is_positive_for_a_hole_over_almost_everything():
    known = torch.zeros(H, W, dtype=torch.bool)
    known[3, 5] = True
    assert torch.allclose(
        complete_depth(torch.full((H, W), 4.0), known), torch.tensor(4.0), rtol=1e-3
    )


def test_nothing_known_is_refused():
    with pytest.raises(ValueError, match="no pixel"):
        complete_depth(torch.ones(4, 4), torch.zeros(4, 4, dtype=torch.bool))


def test_sparse_samples_keep_a_near_object_near():
    depth = torch.full((H, W), 10.0)
    depth[20:60, 30:90] = 3.0
    known = torch.rand(H, W, generator=torch.Generator().manual_seed(0)) < 0.05
    completed = complete_depth(depth, known, holes=False)
    right = (completed - depth).abs() < 0.15 * depth
    assert right[30:50, 40:80].all()
    assert right.float().mean() > 0.8
