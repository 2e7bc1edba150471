"""LPIPS against its definition, written with torch.nn's own AlexNet layers, on random weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.bridge.errors import UserError
from engine.evaluation.lpips import BACKBONE, HEADS, Lpips

CHANNELS = (64, 192, 384, 256, 256)


def alexnet_features() -> nn.Sequential:
    """Krizhevsky's network of 2014, in the order of torchvision's `features`."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[Path, nn.Sequential, list[torch.Tensor]]:
    torch.manual_seed(0)
    folder, network = tmp_path_factory.mktemp("lpips"), alexnet_features()
    heads = [torch.rand(1, c, 1, 1) for c in CHANNELS]
    torch.save(
        {f"features.{name}": value for name, value in network.state_dict().items()},
        folder / BACKBONE,
    )
    torch.save({f"lin{k}.model.1.weight": head for k, head in enumerate(heads)}, folder / HEADS)
    return folder, network, heads


def by_definition(
    network: nn.Sequential, heads: list[torch.Tensor], image: torch.Tensor, truth: torch.Tensor
) -> float:
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (
        (((2 * v - 1).permute(1, 2, 0) - shift) / scale).permute(2, 0, 1)[None]
        for v in (image, truth)
    )
    total, k = 0.0, 0
    for layer in network:
        x, y = layer(x), layer(y)
        if isinstance(layer, nn.ReLU):
            unlike = (
                x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                - y / (y.square().sum(1, keepdim=True).sqrt() + 1e-10)
            ) ** 2
            total += float((unlike * heads[k]).sum(1).mean())
            k += 1
    return total


def test_distance_is_the_definition(weights) -> None:
    folder, network, heads = weights
    draw = torch.Generator().manual_seed(1)
    image, truth = torch.rand(2, 3, 70, 96, generator=draw)
    ours = Lpips(folder)
    with torch.no_grad():
        assert ours.distance(image, truth) == pytest.approx(
            by_definition(network, heads, image, truth), rel=1e-5
        )
    assert ours.distance(truth, truth) == 0.0


def test_the_map_is_large_where_the_pictures_differ(weights) -> None:
    ours = Lpips(weights[0])
    truth = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(2))
    image = truth.clone()
    image[:, :, :40] = 0.5
    left = torch.zeros(128, 128, dtype=torch.bool)
    left[:, :40] = True
    right = torch.zeros(128, 128, dtype=torch.bool)
    right[:, 100:] = True
    assert ours.distance(image, truth, left) > 3 * ours.distance(image, truth, right)
    everywhere = ours.distance(image, truth, torch.ones_like(left))
    assert everywhere == pytest.approx(ours.distance(image, truth), rel=0.05)
    assert math.isnan(ours.distance(image, truth, torch.zeros_like(left)))


def test_missing_and_wrong_weights_are_named(tmp_path, weights) -> None:
    with pytest.raises(UserError, match="is not there"):
        Lpips(tmp_path)
    torch.save({}, tmp_path / BACKBONE)
    torch.save({}, tmp_path / HEADS)
    with pytest.raises(UserError, match=r"features\.0\.weight is missing"):
        Lpips(tmp_path)
