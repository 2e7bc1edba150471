"""What is reckoned of priors on cards: laws of the arithmetic. No figure here was measured."""

from __future__ import annotations

import itertools

import pytest

from engine.models import price
from engine.models.nvidia import Card
from engine.models.registry import PRIORS, needed_gib

CARDS = [
    Card("NVIDIA GeForce GTX 1080", (6, 1)),
    Card("NVIDIA GeForce RTX 2060", (7, 5)),
    Card("NVIDIA GeForce RTX 3060", (8, 6)),
    Card("NVIDIA GeForce RTX 4070", (8, 9)),
    Card("NVIDIA GeForce RTX 4090", (8, 9)),
    Card("NVIDIA H100 80GB HBM3", (9, 0)),
]


def test_a_faster_card_is_reckoned_faster_for_every_prior() -> None:
    reckoned = [price.reckon(card) for card in CARDS if card.capability != (7, 5)]
    for slower, faster in itertools.pairwise(reckoned):
        for name in slower.priors.keys() - {"patch"}:  # it computes on the CPU
            assert faster.priors[name].seconds < slower.priors[name].seconds
        assert faster.parts["refine"] < slower.parts["refine"]


def test_every_prior_has_a_price() -> None:
    assert price.reckon(CARDS[3]).priors.keys() == set(PRIORS)


def test_a_card_nobody_listed_goes_by_its_generation_and_laptops_are_slower() -> None:
    assert price.rate(Card("NVIDIA GeForce RTX 9999", (12, 0))) > 10
    assert price.rate(Card("NVIDIA Something", None)) > 0
    laptop = Card("NVIDIA GeForce RTX 4070 Laptop GPU", (8, 9))
    assert price.rate(laptop) < price.rate(CARDS[3])


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "4070 Ti"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("Tesla T4", "T4"),
        ("GRID T4-4Q", "T4"),
        ("NVIDIA GH200 480GB", "H200"),
        ("NVIDIA A100X", "A100"),
        ("NVIDIA RTX A4000", "A4000"),
        ("NVIDIA TITAN V", "V100"),
    ],
)
def test_names_of_cards_are_not_mixed_up(name: str, like: str) -> None:
    expected = {
        "4070 Ti": 80,
        "RTX 6000 Ada": 362,
        "A6000": 155,
        "L4": 121,
        "L40": 362,
        "A100": 312,
        "H100 PCIe": 756,
        "H200": 989,
        "T4": 65,
        "A4000": 77,
        "V100": 112,
    }
    assert price.rate(Card(name, (8, 9))) == expected[like]


@pytest.mark.parametrize(
    ("name", "capability", "below"),
    [
        ("NVIDIA RTX A1000 Laptop GPU", (8, 6), 25),  # no A100
        ("NVIDIA RTX A400", (8, 6), 25),  # no A40
        ("NVIDIA RTX A2000 12GB", (8, 6), 50),
        ("NVIDIA T1000 8GB", (7, 5), 10),  # no matrix units to speak of
        ("NVIDIA GeForce MX450", (7, 5), 10),
        ("NVIDIA GeForce RTX 2050", (8, 6), 25),
        ("NVIDIA H20", (9, 0), 200),
        ("NVIDIA A16", (8, 6), 25),
    ],
)
def test_a_small_card_is_not_taken_for_a_large_one(name, capability, below) -> None:
    assert 0 < price.rate(Card(name, capability)) < below


def test_a_part_of_a_card_is_as_fast_as_its_part() -> None:
    whole = price.rate(Card("NVIDIA H100 80GB HBM3", (9, 0)))
    for part in (1, 2, 3, 4, 7):
        card = Card(f"NVIDIA H100 80GB HBM3 MIG {part}g.{10 * part}gb", (9, 0))
        assert price.rate(card) == pytest.approx(whole * part / 7)


def test_the_memory_that_is_told_is_what_the_choice_of_priors_asks_for() -> None:
    told = price.reckon(CARDS[3]).priors
    for name in ("viewcrafter_25", "wan_vace_1.3b", "svd"):
        height, width = PRIORS[name].trained
        law = told[name].fixed_gb + told[name].gb_per_frame_mp * 25 * width * height / 1e6
        asked = needed_gib(PRIORS[name], (width, height)) * 1.073741824
        assert law == pytest.approx(asked, rel=0.1), name


def test_where_the_cpu_draws_only_the_network_is_faster() -> None:
    told = price.reckon(CARDS[3], card_draws=False)
    assert told.parts.keys() == {"start", "repair"} and told.priors
