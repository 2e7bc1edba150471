"""What the doctor says of cards, drivers, builds of torch and drawing, on machines that are
pretended.
"""

from __future__ import annotations

import pytest

from engine.commands import doctor
from engine.models import nvidia
from engine.models.nvidia import Card, Nvidia, cuda_of

torch = pytest.importorskip("torch")
ARCHES = {
    "cu126": ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"],
    "cu130": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
}


@pytest.fixture
def pretend(monkeypatch):
    """pretend(build, driver, name, capability, sees): a machine; the doctor's checks by name."""
    from engine import rasterize
    from engine.rasterize import gsplat_backend
    from engine.rasterize.warp import backend as warp_backend

    caches = (rasterize.gpu_backend, gsplat_backend.why_unusable, warp_backend.why_unusable)

    def checks(build, driver="", name="", capability=(0, 0), sees=False, draws=""):
        cards = (Card(name, capability),) if name else ()
        here = Nvidia(cards, driver, cuda_of(driver))
        digits = build.removeprefix("cu")
        cuda = f"{digits[:2]}.{digits[2:]}" if build != "cpu" else None
        monkeypatch.setattr(nvidia, "found", lambda: here)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch, "__version__", f"2.13.0+{build}")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: sees)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (8 * 10**9, 10**10))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ARCHES.get(build, []))
        for cache in caches:
            cache.cache_clear()
        if draws:
            monkeypatch.setattr(
                gsplat_backend, "why_unusable", lambda: "gsplat has no compiled kernels"
            )
            monkeypatch.setattr(warp_backend, "why_unusable", lambda: "")
        sections = (doctor._card, doctor._torch, doctor._gpu_rasteriser)
        return {check.name: check for section in sections for check in section()}

    yield checks
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


def test_a_machine_without_a_card_is_as_it_should_be(pretend):
    checks = pretend("cpu")
    assert all(check.state == "ok" for check in checks.values())
    assert checks["graphics card"].text == "no NVIDIA card was found"
    assert "the CPU draws" in checks["GPU rasteriser"].text


def test_a_card_that_fits_says_which_rasteriser_draws_and_why_not_the_other(pretend):
    checks = pretend("cu130", "580.88", "RTX 4070", (8, 9), sees=True, draws="warp")
    assert {check.state for check in checks.values()} == {"ok"}
    assert "warp" in checks["GPU rasteriser"].text
    assert "gsplat has no compiled kernels" in checks["GPU rasteriser"].text


@pytest.mark.parametrize(
    ("build", "driver", "name", "capability", "why", "remedy"),
    [
        ("cpu", "580.88", "RTX 4070", (8, 9), "built for CPUs, although", "--cuda auto"),
        ("cu130", "551.23", "RTX 4070", (8, 9), "driver 551.23 does not speak", "580 or newer"),
        ("cu130", "580.88", "GTX 1080", (6, 1), "no kernels for GTX 1080", "--cuda auto"),
        ("cu130", "551.23", "RTX 5090", (12, 0), "speaks only CUDA 12.4", "driver to 580"),
        ("cpu", "470.10", "RTX 3060", (8, 6), "speaks only CUDA 11.4", "driver to 525"),
        ("cpu", "470.10", "Tesla K80", (3, 7), "too old: PyTorch has no kernels", "from Turing on"),
        ("cu130", "580.88", "RTX 4070", (8, 9), "though build and driver fit", "Restart"),
    ],
)
def test_a_card_that_is_not_used_is_said_with_the_remedy(
    pretend, build, driver, name, capability, why, remedy
):
    device = pretend(build, driver, name, capability)["device"]
    assert device.state == "warn" and device.text.startswith("cpu: ")
    assert why in device.text and remedy in device.remedy


@pytest.mark.parametrize(
    ("build", "driver", "name", "capability", "remedy"),
    [
        ("cu130", "580.88", "GTX 1080", (6, 1), "it installs cu126, which has them"),
        ("cu126", "580.88", "RTX 5090", (12, 0), "it installs cu130, which has them"),
        ("cu126", "551.23", "RTX 5090", (12, 0), "driver to 580 or newer"),
    ],
)
def test_a_build_without_kernels_for_the_card_names_the_build_that_has_them(
    pretend, build, driver, name, capability, remedy
):
    device = pretend(build, driver, name, capability, sees=True)["device"]
    assert device.state == "warn" and "has no kernels for it" in device.text
    assert remedy in device.remedy


def test_of_two_cards_jobs_are_led_to_the_one_that_this_torch_knows(pretend, monkeypatch):
    """The installer has nothing better: it has the build of the newer card already."""
    pretend("cu130", "580.88", "GTX 1080", (6, 1), sees=True)
    both = Nvidia((Card("GTX 1080", (6, 1)), Card("RTX 4070", (8, 9))), "580.88", (13, 0))
    monkeypatch.setattr(nvidia, "found", lambda: both)
    checks = {check.name: check for check in doctor._torch()}
    assert "no kernels for it" in checks["device"].text and checks["device"].state == "warn"
    assert "CUDA_VISIBLE_DEVICES=1" in checks["device"].remedy
    assert "RTX 4070" in checks["device"].remedy and checks["device"].data["device"] == "cpu"


def test_where_torch_has_no_kernels_nothing_is_said_to_draw_on_the_card(pretend):
    drawing = pretend("cu126", "580.88", "RTX 5090", (12, 0), sees=True, draws="warp")
    assert drawing["GPU rasteriser"].data["draws"] == "cpu"


def test_a_driver_that_does_not_start_is_told_with_the_card(pretend, monkeypatch):
    listed = Nvidia((Card("RTX 3060", None),), "580.88", (13, 0), starts=False)
    pretend("cpu")
    monkeypatch.setattr(nvidia, "found", lambda: listed)
    card = next(doctor._card())
    assert card.state == "warn" and "CUDA does not start" in card.text and "anew" in card.remedy
