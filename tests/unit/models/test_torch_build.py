"""Which torch for which machine: every machine is tried, by parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.bridge.errors import UserError
from engine.models import torch_build
from engine.models.nvidia import Card, Nvidia, cuda_of
from engine.models.torch_build import BUILDS, Torch, choose, serves, why_not_used

CARDS = {
    "Tesla K80": (3, 7),
    "GeForce GTX 980": (5, 2),
    "GeForce GTX 1080": (6, 1),
    "TITAN V": (7, 0),
    "GeForce RTX 2080": (7, 5),
    "A100": (8, 0),
    "GeForce RTX 3060": (8, 6),
    "GeForce RTX 4070": (8, 9),
    "H100": (9, 0),
    "B200": (10, 0),
    "GeForce RTX 5090": (12, 0),
    "GB10": (12, 1),
}


def machine(driver: str, *names: str) -> Nvidia:
    """A machine with these cards and this release of the driver."""
    return Nvidia(tuple(Card(name, CARDS[name]) for name in names), driver, cuda_of(driver))


@pytest.mark.parametrize("system", ["Linux", "Windows"])
@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("580.88", "- 126 126 126 130 130 130 130 130 130 130 130"),
        ("595.10", "- 126 126 126 130 130 130 130 130 130 130 130"),
        ("576.02", "- 126 126 126 126 126 126 126 126 - - -"),  # CUDA 12.9
        ("528.33", "- 126 126 126 126 126 126 126 126 - - -"),  # CUDA 12.0
        ("511.65", "- - - - - - - - - - - -"),  # CUDA 11.6
        ("391.35", "- - - - - - - - - - - -"),
    ],
)
def test_every_card_with_every_driver_gets_a_build_that_runs_or_the_cpu_with_a_remedy(
    system, driver, expected
):
    for name, build in zip(CARDS, expected.split(), strict=True):
        here = machine(driver, name)
        choice = choose(system, "x86_64", here)
        assert choice.build == ("cpu" if build == "-" else f"cu{build}"), name
        assert name in choice.why
        if build == "-":
            assert choice.remedy and choice.folder == ("cpu" if system == "Linux" else "")
            with pytest.raises(UserError) as refusal:
                choose(system, "x86_64", here, "cuda")
            assert "--cuda cpu" in refusal.value.hint and name in refusal.value.message
        else:
            assert driver in choice.why and BUILDS[choice.build].runs_on(here) == [here.cards[0]]


@pytest.mark.parametrize(
    ("driver", "name", "words"),
    [
        ("576.02", "GeForce RTX 5090", "speaks only CUDA 12.9|driver to 580 or newer"),
        ("511.65", "GeForce RTX 3060", "speaks only CUDA 11.6|driver to 525"),
        ("391.35", "GeForce RTX 3060", "too old for CUDA 11|driver to 525"),
        ("511.65", "GeForce GTX 1080", "speaks only CUDA 11.6|driver to 525"),
        ("580.88", "Tesla K80", "too old: PyTorch has no kernels for it|from Turing on"),
    ],
)
def test_the_sentence_says_what_is_in_the_way_and_what_to_do(driver, name, words):
    choice = choose("Linux", "x86_64", machine(driver, name))
    why, remedy = words.split("|")
    assert why in choice.why and remedy in choice.remedy


def test_cards_before_turing_are_told_what_they_can_expect():
    choice = choose("Windows", "AMD64", machine("580.88", "GeForce GTX 1080"))
    assert choice.build == "cu126" and "drawn by the CPU" in choice.remedy
    assert choose("Windows", "AMD64", machine("580.88", "GeForce RTX 2080")).remedy == ""


def test_the_best_of_several_cards_that_can_be_used_decides():
    both = machine("580.88", "GeForce GTX 1080", "GeForce RTX 3060")
    assert choose("Linux", "x86_64", both).build == "cu130"
    behind = machine("560.35", "GeForce GTX 1080", "GeForce RTX 5090")
    assert choose("Linux", "x86_64", behind).build == "cu126"


@pytest.mark.parametrize(
    ("system", "processor", "wanted", "build", "folder"),
    [
        ("Linux", "x86_64", "auto", "cpu", "cpu"),  # the default index has gigabytes of CUDA
        ("Windows", "AMD64", "auto", "cpu", ""),
        ("Darwin", "arm64", "auto", "cpu", ""),
        ("Darwin", "arm64", "cuda", "cpu", ""),
        ("Darwin", "arm64", "cu130", "cpu", ""),
        ("Linux", "x86_64", "cpu", "cpu", "cpu"),
        ("Linux", "x86_64", "cu126", "cu126", "cu126"),  # made for another machine
    ],
)
def test_machines_without_a_card(system, processor, wanted, build, folder):
    choice = choose(system, processor, Nvidia(), wanted)
    assert (choice.build, choice.folder) == (build, folder)
    assert choice.why and not choice.remedy


def test_a_build_that_was_asked_for_is_taken_with_a_word_if_it_does_not_run_here():
    old = machine("580.88", "GeForce GTX 1080")
    assert choose("Linux", "x86_64", old, "cu126").remedy == ""
    choice = choose("Linux", "x86_64", old, "cu130")
    assert choice.build == "cu130" and "no kernels for GeForce GTX 1080" in choice.remedy


def test_arm_processors_have_fewer_builds():
    ada = machine("580.88", "GeForce RTX 4070")
    assert choose("Windows", "ARM64", ada).build == "cpu"
    assert choose("Linux", "aarch64", machine("580.88", "GB10")).build == "cu130"
    turing = machine("580.88", "GeForce RTX 2080")
    assert choose("Linux", "aarch64", turing).build == "cpu"


def test_a_card_that_is_listed_while_its_driver_is_silent_is_said_so():
    listed = Nvidia((Card("NVIDIA RTX A4000", None),), "580.88", (13, 0), starts=False)
    choice = choose("Windows", "AMD64", listed)
    assert choice.build == "cpu" and "does not answer" in choice.why and "anew" in choice.remedy


def test_what_is_there_serves_unless_it_cannot_be_used_or_another_was_asked_for():
    turing, none = machine("580.88", "GeForce RTX 2080"), Nvidia()
    pascal = machine("580.88", "GeForce GTX 1080")
    auto = choose("Linux", "x86_64", turing)
    assert serves("cu130", auto, turing) and serves("cu126", auto, turing)
    assert not serves("cpu", auto, turing)
    assert not serves("cu126", choose("Linux", "x86_64", turing, "cu130"), turing)
    assert not serves("cu130", choose("Linux", "x86_64", pascal), pascal)
    assert serves("cu130", choose("Linux", "x86_64", none), none), "it computes on the CPU too"
    assert not serves("cu130", choose("Linux", "x86_64", none, "cpu"), none)
    assert not serves("rocm72", choose("Linux", "x86_64", none), none)


@pytest.mark.parametrize(
    ("torch", "driver", "name", "words"),
    [
        (Torch("2.13.0+cpu", None), "580.88", "GeForce RTX 4070", "built for CPUs"),
        (Torch("2.13.0+cu130", "13.0"), "580.88", "GeForce GTX 1080", "no kernels for GeForce"),
        (Torch("2.13.0+cu130", "13.0"), "551.23", "GeForce RTX 4070", "driver 551.23 does not"),
        (Torch("2.13.0+cu126", "12.6"), "580.88", "GeForce RTX 5090", "no kernels for GeForce"),
        (Torch("2.13.0+cu126", "12.6"), "470.10", "GeForce RTX 3060", "speaks only CUDA 11.4"),
        (Torch("2.13.0+cu130", "13.0"), "580.88", "GeForce RTX 4070", ""),
        (Torch("2.13.0+cu126", "12.6"), "580.88", "GeForce RTX 4070", ""),
    ],
)
def test_why_a_torch_does_not_use_the_card(torch, driver, name, words):
    why, remedy = why_not_used(torch, machine(driver, name))
    assert words in why and bool(words) == bool(why) == bool(remedy)


def test_the_torch_of_an_environment_is_asked_in_a_process_of_its_own():
    """The one that runs this test, against what it says when it is imported here."""
    torch = pytest.importorskip("torch")
    seen = torch_build.ask(Path(sys.executable))
    assert (seen.version, seen.cuda) == (torch.__version__, torch.version.cuda)
    assert seen.sees_card == torch.cuda.is_available()
    read = torch_build.here()
    assert (read.version, read.cuda) == (seen.version, seen.cuda)


def test_a_torch_that_cannot_be_loaded_on_windows_has_a_known_remedy():
    words = "OSError: [WinError 126] The specified module could not be found. Error loading c10.dll"
    assert "Visual C++ Redistributable" in torch_build.remedy_of(words)
    assert "install_deps.py" in torch_build.remedy_of("ImportError: something else")


def test_the_builds_are_those_of_the_pinned_torch():
    """The table is of torch 2.13: whoever pins another has to look at it again."""
    root = Path(__file__).resolve().parents[3]
    assert '"torch==2.13.0"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert "(2.13:" in torch_build.__doc__


def test_of_two_cards_the_one_that_is_left_out_is_named_with_what_to_do():
    two = machine("572.16", "GeForce RTX 5090", "GeForce RTX 3060")
    choice = choose("Windows", "AMD64", two)
    assert choice.build == "cu126" and "GeForce RTX 3060" in choice.why
    assert "GeForce RTX 5090 (12.0) cannot be used with it" in choice.remedy
    assert "driver 580 or newer all of them could" in choice.remedy
    assert "CUDA_VISIBLE_DEVICES=1 " in choice.remedy
    old = choose("Linux", "x86_64", machine("580.88", "GeForce GTX 1080", "GeForce RTX 4070"))
    assert old.build == "cu130" and "GeForce GTX 1080 (6.1) cannot be used" in old.remedy
    both = choose("Linux", "x86_64", machine("580.88", "GeForce RTX 2080", "GeForce RTX 4070"))
    assert both.remedy == ""


def test_cards_that_are_hidden_are_not_said_to_lack_a_driver():
    choice = choose("Linux", "x86_64", Nvidia(hidden="empty"))
    assert choice.build == "cpu" and "CUDA_VISIBLE_DEVICES is empty" in choice.why
    assert "Remove it from the environment" in choice.remedy
    with pytest.raises(UserError, match="hides every card"):
        choose("Linux", "x86_64", Nvidia(hidden="-1"), "cuda")


@pytest.mark.parametrize(
    ("arches", "capability", "runs"),
    [
        (["sm_75", "sm_80"], (7, 5), True),
        (["sm_75", "sm_80"], (8, 9), True),
        (["sm_75", "sm_80"], (7, 0), False),
        (["sm_80", "sm_90a"], (9, 0), True),
        (["sm_80"], (12, 0), False),
        (["sm_80", "compute_80"], (12, 0), True),
        (["sm_100", "sm_120"], (12, 1), True),
        (["gfx1100"], (8, 9), False),
        ([], (8, 9), True),
    ],
)
def test_binary_code_runs_within_its_generation_and_intermediate_code_on_all_later(
    arches, capability, runs
):
    assert torch_build.has_kernels(arches, capability) == runs


@pytest.mark.parametrize("driver", ["450.80.02", "391.35"])
def test_a_card_that_only_an_old_driver_lists_needs_a_newer_one(driver):
    """Its capability is not known, as of cards in Windows' registry, but the release is."""
    listed = Nvidia((Card("Tesla T4", None),), driver, cuda_of(driver), starts=False)
    choice = choose("Windows", "AMD64", listed)
    assert choice.build == "cpu" and f"driver {driver} of Tesla T4 is too old" in choice.why
    assert "driver to 525 (on Windows 528) or newer" in choice.remedy
