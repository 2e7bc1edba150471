"""Cards and driver: what is made of the answers of nvidia-smi, of Windows' registry and of the
libraries of the driver.
"""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from engine.models import nvidia
from engine.models.nvidia import Card, cuda_of, parse_displays, parse_smi


@pytest.mark.parametrize(
    ("release", "cuda"),
    [
        ("580.88", (13, 0)),
        ("581.15", (13, 0)),
        ("596.02", (13, 2)),
        ("575.51", (12, 9)),
        ("528.33", (12, 0)),
        ("525.60.13", (12, 0)),
        ("470.256.02", (11, 4)),
        ("391.35", None),
        ("", None),
        ("[N/A]", None),
    ],
)
def test_the_release_of_a_driver_tells_its_cuda(release, cuda):
    assert cuda_of(release) == cuda


def test_lines_of_nvidia_smi():
    told = parse_smi(
        "NVIDIA GeForce RTX 4070 Ti, 8.9, 580.88\nNVIDIA GeForce GTX 1080, 6.1, 580.88\n"
    )
    assert told.cards == (
        Card("NVIDIA GeForce RTX 4070 Ti", (8, 9)),
        Card("NVIDIA GeForce GTX 1080", (6, 1)),
    )
    assert (told.driver, told.cuda, told.best.name) == ("580.88", (13, 0), told.cards[0].name)
    assert "RTX 4070 Ti (8.9)" in told.text() and "driver 580.88 for CUDA up to 13.0" in told.text()
    assert parse_smi("Quadro K600, [N/A], 391.35").cards == (Card("Quadro K600", None),)
    assert parse_smi("No devices were found\n") is None and parse_smi("") is None


def test_displays_of_windows():
    told = parse_displays(
        [
            ("Intel(R) UHD Graphics 770", "31.0.101.4502"),
            ("NVIDIA GeForce RTX 3060", "32.0.15.8088"),
        ]
    )
    assert told.cards == (Card("NVIDIA GeForce RTX 3060", None),) and not told.starts
    assert (told.driver, told.cuda) == ("580.88", (13, 0))
    assert parse_displays([("AMD Radeon", "31.0.1.2")]) is None
    assert parse_displays([("NVIDIA T400", "")]).driver == ""


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
@pytest.mark.parametrize(
    ("script", "cards"),
    [
        ("echo 'NVIDIA L4, 8.9, 550.54.15'", 1),
        ("echo 'NVIDIA-SMI has failed because it could not talk to the driver'; exit 9", 0),
        ("exit 0", 0),
        ("printf '\\377\\376, 8.9\\n'", 0),
    ],
)
def test_the_program_nvidia_smi_on_the_path(tmp_path, monkeypatch, script, cards):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(nvidia, "_SMI_S", 0.5)
    monkeypatch.setattr(nvidia, "from_cuda", lambda: None)
    monkeypatch.setattr(nvidia, "from_nvml", lambda: None)
    monkeypatch.setattr(nvidia, "from_bus", lambda: None)
    told = nvidia.found()
    assert len(told.cards) == cards
    if cards:
        assert (told.driver, told.cuda, told.starts) == ("550.54.15", (12, 4), False)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """smi(script): the program nvidia-smi, the only one that answers, somewhere; its path."""
    monkeypatch.setattr(nvidia, "from_cuda", lambda: None)
    monkeypatch.setattr(nvidia, "from_nvml", lambda: None)
    monkeypatch.setattr(nvidia, "from_bus", lambda: None)
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")

    def make(script: str):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        return program

    return make


def test_a_program_that_does_not_answer_speaks_of_a_card(smi, monkeypatch):
    smi("sleep 30")
    monkeypatch.setattr(nvidia, "_SMI_S", 0.3)
    told = nvidia.found()
    assert told.cards == (Card("an NVIDIA card", None),) and not told.starts


def test_an_old_program_that_knows_no_capabilities_tells_name_and_release(smi):
    smi(
        'case "$*" in *compute_cap*) echo "Field \\"compute_cap\\" is not valid"; exit 2;; esac\n'
        "echo 'Tesla K80, 450.80.02'"
    )
    told = nvidia.found()
    assert told.cards == (Card("Tesla K80", None),)
    assert (told.driver, told.cuda) == ("450.80.02", (11, 0))


def test_the_program_is_found_where_the_driver_puts_it_without_the_path(smi, monkeypatch):
    program = smi("echo 'NVIDIA L4, 8.9, 550.54.15'")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(nvidia, "_SMI_PLACES", ("/nowhere/nvidia-smi", str(program)))
    program.write_text(program.read_text().replace("#!/bin/sh", "#!/bin/sh\nPATH=/bin"))
    assert nvidia.found().cards == (Card("NVIDIA L4", (8, 9)),)


@pytest.mark.skipif(os.name == "nt", reason="Linux's bus, in links")
def test_a_card_on_the_bus_without_a_driver_is_a_card(tmp_path):
    for name, vendor, kind, driver in (
        ("0000:00:02.0", "0x8086", "0x030000", "i915"),
        ("0000:01:00.0", "0x10de", "0x030000", "nouveau"),
        ("0000:01:00.1", "0x10de", "0x040300", "snd_hda_intel"),
        ("0000:02:00.0", "0x10de", "0x030200", "vfio-pci"),
    ):
        device = tmp_path / name
        device.mkdir()
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
        (tmp_path / "drivers" / driver).mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(tmp_path / "drivers" / driver)
    (tmp_path / "broken").mkdir()
    told = nvidia.from_bus(tmp_path)
    assert told.cards == (Card("an NVIDIA card", None),) and not told.starts
    assert nvidia.from_bus(tmp_path / "none") is None


class Library:
    """Stands for the driver's libraries, called through ctypes as they are."""

    def __init__(self, start: int = 0, devices: int = 1) -> None:
        self.start, self.devices = start, devices

    def put(self, pointer, value) -> int:
        pointer._obj.value = value
        return 0

    def cuInit(self, _flags):
        return self.start

    def cuDeviceGetCount(self, count):
        return self.put(count, self.devices)

    def cuDriverGetVersion(self, version):
        return self.put(version, 13000)

    def cuDeviceGet(self, device, index):
        return self.put(device, index)

    def cuDeviceGetName(self, name, _length, _device):
        name.value = b"NVIDIA H100"
        return 0

    def cuDeviceGetAttribute(self, value, attribute, _device):
        return self.put(value, {75: 9, 76: 0}[attribute])

    def nvmlInit_v2(self):
        return self.start

    def nvmlShutdown(self):
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        return self.put(count, self.devices)

    def nvmlDeviceGetHandleByIndex_v2(self, _index, _device):
        return 0

    def nvmlDeviceGetName(self, _device, text, _length):
        text.value = b"NVIDIA H100"
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, _device, major, minor):
        return self.put(major, 9) + self.put(minor, 0)

    def nvmlSystemGetDriverVersion(self, text, _length):
        text.value = b"580.159.03"
        return 0

    def nvmlSystemGetCudaDriverVersion(self, version):
        return self.put(version, 13000)


def libraries(monkeypatch, cuda: Library | None, nvml: Library | None) -> None:
    monkeypatch.setattr(
        nvidia, "_library", lambda name, *_: cuda if name.startswith("nvcuda") else nvml
    )
    monkeypatch.setattr(nvidia, "from_smi", lambda: None)


def test_cuda_tells_the_cards_and_nvml_the_release(monkeypatch):
    libraries(monkeypatch, Library(), Library())
    told = nvidia.found()
    assert told == nvidia.Nvidia((Card("NVIDIA H100", (9, 0)),), "580.159.03", (13, 0), True)


def test_a_cuda_that_does_not_start_leaves_the_cards_to_nvml(monkeypatch):
    """As after an update of the driver without a restart: 803, versions do not match."""
    libraries(monkeypatch, Library(start=803), Library())
    told = nvidia.found()
    assert told.cards[0].capability == (9, 0) and not told.starts


def test_cards_that_are_hidden_on_purpose_stay_hidden(monkeypatch):
    """CUDA_VISIBLE_DEVICES="": cuInit answers 100."""
    libraries(monkeypatch, Library(start=100), Library())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = nvidia.found()
    assert told.cards == () and told.hidden == "empty"
    assert told.text() == "no NVIDIA card is shown: CUDA_VISIBLE_DEVICES is empty"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "is -1" in nvidia.found().text()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert nvidia.found() == nvidia.Nvidia()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    libraries(monkeypatch, Library(start=100), None)
    assert nvidia.found() == nvidia.Nvidia(), "nothing is there to hide"


def test_a_library_of_the_drivers_name_that_is_none_is_passed_over(monkeypatch):
    libraries(monkeypatch, object(), object())
    monkeypatch.setattr(nvidia, "from_registry", lambda: None)
    monkeypatch.setattr(nvidia, "from_bus", lambda: None)
    assert nvidia.found() == nvidia.Nvidia()


def test_no_driver_is_no_card(monkeypatch):
    libraries(monkeypatch, None, None)
    monkeypatch.setattr(nvidia, "from_registry", lambda: None)
    monkeypatch.setattr(nvidia, "from_bus", lambda: None)
    assert nvidia.found() == nvidia.Nvidia()
    assert nvidia.found().text() == "no NVIDIA card was found"


def test_the_real_registry_and_libraries_never_raise():
    assert nvidia.found().text()
    if sys.platform != "win32":
        assert nvidia.from_registry() is None
    assert ctypes.c_int(0).value == 0
