"""Where a job computes: on the card if this torch has kernels for it, else where it can."""

from __future__ import annotations

import logging

import pytest

from engine.bridge.errors import UserError

torch = pytest.importorskip("torch")

from engine.models import device  # noqa: E402


@pytest.fixture
def machine(monkeypatch):
    """machine(name, capability, arches): torch sees this card and was built for these."""

    def pretend(name: str, capability: tuple[int, int], arches: list[str]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(name))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: arches)

    return pretend


CU126, CU130 = ["sm_50", "sm_60", "sm_75", "sm_90"], ["sm_75", "sm_86", "sm_120"]


@pytest.mark.parametrize(
    ("name", "capability", "arches"),
    [("NVIDIA GeForce RTX 5090", (12, 0), CU126), ("NVIDIA GeForce GTX 1080", (6, 1), CU130)],
)
def test_a_card_without_kernels_leaves_the_job_to_the_cpu_and_is_no_card(
    machine, caplog, name, capability, arches
):
    machine(name, capability, arches)
    with caplog.at_level(logging.WARNING):
        assert device.choose("auto").type == "cpu"
    assert f"no kernels for {name}" in caplog.text and "doctor" in caplog.text
    with pytest.raises(UserError, match=f"no kernels for {name}") as refusal:
        device.choose("cuda")
    assert "doctor" in refusal.value.hint and "--device auto" in refusal.value.hint
    assert device.card() is None and device.tera("cuda") is None


def test_a_card_with_kernels_computes(machine, caplog):
    machine("NVIDIA GeForce RTX 4070", (8, 9), CU130)
    assert device.choose("auto").type == device.choose("cuda").type == "cuda"
    assert device.choose("cpu").type == "cpu"
    assert device.card().name == "NVIDIA GeForce RTX 4070" and not caplog.text


def test_no_card_is_the_cpu_or_a_sentence(machine):
    machine("", (0, 0), [])
    assert device.choose("auto").type == "cpu" and device.card() is None
    with pytest.raises(UserError, match="No CUDA device"):
        device.choose("cuda")
