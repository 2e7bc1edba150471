"""NVIDIA's cards and driver, asked without torch: standard library only.

Asked in turn, until one answers: the CUDA driver itself, NVML (the driver's library of
management), the program nvidia-smi, and the registry of Windows or the bus of Linux. The later ones
answer where CUDA does not start, so that a person can be told why.
"""

from __future__ import annotations

import csv
import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: compute capability
_NO_DEVICE = 100  # CUresult: CUDA works, and there is no card, or CUDA_VISIBLE_DEVICES hides it
_SMI_S = 10.0
# Where the driver puts it, if it is not on the PATH.
_SMI_PLACES = (
    r"C:\Windows\System32\nvidia-smi.exe",
    r"C:\Program Files\NVIDIA Corporation\NVSMI\nvidia-smi.exe",
    "/usr/lib/wsl/lib/nvidia-smi",
    "/usr/bin/nvidia-smi",
    "/opt/bin/nvidia-smi",
)
_WSL = "/usr/lib/wsl/lib"  # and its libraries there
HIDING = "CUDA_VISIBLE_DEVICES"
_VENDOR, _DISPLAY = "0x10de", ("0x0300", "0x0302")  # NVIDIA's; classes of PCI devices
_UNNAMED = "an NVIDIA card"
_DISPLAYS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
# The newest CUDA of each branch of drivers, from NVIDIA's release notes of CUDA.
_BRANCHES = {
    450: (11, 0),
    470: (11, 4),
    510: (11, 6),
    525: (12, 0),
    530: (12, 1),
    535: (12, 2),
    545: (12, 3),
    550: (12, 4),
    555: (12, 5),
    560: (12, 6),
    565: (12, 7),
    570: (12, 8),
    575: (12, 9),
    580: (13, 0),
    590: (13, 1),
    595: (13, 2),
}


class Card(NamedTuple):
    """One card."""

    name: str
    capability: tuple[int, int] | None  # compute capability, e.g. (8, 9); None: nobody could tell

    def text(self) -> str:
        """The name with the capability, e.g. "NVIDIA GeForce RTX 4070 (8.9)"."""
        return f"{self.name} ({dotted(self.capability)})" if self.capability else self.name


class Nvidia(NamedTuple):
    """What there is of NVIDIA's."""

    cards: tuple[Card, ...] = ()
    driver: str = ""  # its release, e.g. "580.88"; empty: unknown
    cuda: tuple[int, int] | None = None  # the newest CUDA that the driver speaks
    starts: bool = True  # the CUDA driver answers; false: only others know of the cards
    hidden: str = ""  # what CUDA_VISIBLE_DEVICES says, where CUDA works and shows no card

    @property
    def best(self) -> Card | None:
        """The card of the highest capability, None without any."""
        return max(self.cards, key=lambda card: card.capability or (0, 0), default=None)

    def text(self) -> str:
        """One line for a person."""
        if not self.cards and self.hidden:
            return f"no NVIDIA card is shown: {HIDING} is {self.hidden}"
        if not self.cards:
            return "no NVIDIA card was found"
        driver = f"driver {self.driver}" if self.driver else "a driver of unknown release"
        speaks = f" for CUDA up to {dotted(self.cuda)}" if self.cuda else ""
        return f"{', '.join(card.text() for card in self.cards)}, {driver}{speaks}"


def dotted(version: tuple[int, int] | None) -> str:
    """A version as people write it, e.g. "13.0"."""
    return ".".join(map(str, version)) if version else "?"


def found() -> Nvidia:
    """Cards and driver of this machine."""
    cuda = from_cuda()
    if cuda is not None and cuda.hidden and not (from_nvml() or from_smi()):
        return Nvidia()  # nothing is there to hide
    if cuda is not None:
        return cuda if cuda.driver or not cuda.cards else cuda._replace(driver=_release())
    for source in (from_nvml, from_smi, from_registry, from_bus):
        answer = source()
        if answer is not None and answer.cards:
            return answer
    return Nvidia()


def _release() -> str:
    """The driver's release, which CUDA itself does not tell."""
    for source in (from_nvml, from_smi):
        answer = source()
        if answer is not None:
            return answer.driver
    return ""


def from_cuda() -> Nvidia | None:
    """What the CUDA driver offers to a program; None where it is absent or does not start."""
    driver = _library("nvcuda.dll", "libcuda.so.1", "libcuda.so")
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    if driver is None:
        return None
    try:
        code = driver.cuInit(0)
    except AttributeError:  # something else of this name
        return None
    if code == _NO_DEVICE:
        hiding = os.environ.get(HIDING)
        return Nvidia() if hiding is None else Nvidia(hidden=hiding or "empty")
    if code != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return None
    driver.cuDriverGetVersion(ctypes.byref(version))
    cards = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        if (
            driver.cuDeviceGet(ctypes.byref(device), index) != 0
            or driver.cuDeviceGetName(name, len(name), device) != 0
        ):
            continue
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        cards.append(Card(name.value.decode("utf-8", "replace"), (major.value, minor.value)))
    return Nvidia(tuple(cards), "", _version(version.value))


def from_nvml() -> Nvidia | None:
    """What NVML knows; None where it is absent or does not start."""
    nvml = _library("nvml.dll", "libnvidia-ml.so.1", "libnvidia-ml.so")
    try:
        if nvml is None or nvml.nvmlInit_v2() != 0:
            return None
    except AttributeError:
        return None
    try:
        count, version = ctypes.c_uint(0), ctypes.c_int(0)
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        cards = []
        for index in range(count.value):
            device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
                continue
            nvml.nvmlDeviceGetName(device, text, len(text))
            name = text.value.decode("utf-8", "replace")
            knows = nvml.nvmlDeviceGetCudaComputeCapability(
                device, ctypes.byref(major), ctypes.byref(minor)
            )
            cards.append(Card(name, (major.value, minor.value) if knows == 0 else None))
        released = nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0
        release = text.value.decode("ascii", "replace") if released else ""
        nvml.nvmlSystemGetCudaDriverVersion(ctypes.byref(version))
        return Nvidia(
            tuple(cards), release, _version(version.value) or cuda_of(release), starts=False
        )
    except (AttributeError, OSError):  # an NVML older than these functions
        return None
    finally:
        nvml.nvmlShutdown()


def from_smi() -> Nvidia | None:
    """What the program nvidia-smi tells; None where it is absent or fails. One that does not
    answer speaks of a card whose driver does not.
    """
    places = (place for place in _SMI_PLACES if os.path.isfile(place))
    program = shutil.which("nvidia-smi") or next(places, None)
    if program is None:
        return None
    for fields in ("name,compute_cap,driver_version", "name,driver_version"):  # as old ones know
        try:
            told = subprocess.run(
                [program, f"--query-gpu={fields}", "--format=csv,noheader"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_SMI_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Nvidia((Card(_UNNAMED, None),), starts=False)
        except OSError:
            return None
        if told.returncode == 0:
            return parse_smi(told.stdout, fields.count(",") + 1)
    return None


def parse_smi(text: str, fields: int = 3) -> Nvidia | None:
    """nvidia-smi's lines "name, capability, driver", of 2 `fields` "name, driver"; None where there
    is none of them.
    """
    cards, release = [], ""
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != fields or not row[0].strip():
            continue
        numbers = re.fullmatch(r"(\d+)\.(\d+)", row[1].strip()) if fields == 3 else None
        cards.append(Card(row[0].strip(), (int(numbers[1]), int(numbers[2])) if numbers else None))
        release = row[-1].strip()
    return Nvidia(tuple(cards), release, cuda_of(release), starts=False) if cards else None


def from_bus(devices: Path = Path("/sys/bus/pci/devices")) -> Nvidia | None:
    """NVIDIA's cards on Linux's PCI bus, which are there without any driver too; not those that are
    lent to a virtual machine. None if there are none.
    """
    cards = []
    for device in sorted(devices.glob("*")):
        try:
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
            kind = (device / "class").read_text(encoding="ascii").strip()
            lent = os.path.basename(os.path.realpath(device / "driver")) == "vfio-pci"
        except (OSError, ValueError):
            continue
        if vendor == _VENDOR and kind.startswith(_DISPLAY) and not lent:
            cards.append(Card(_UNNAMED, None))
    return Nvidia(tuple(cards), starts=False) if cards else None


def from_registry() -> Nvidia | None:
    """What Windows lists of displays of NVIDIA's: names and the driver's release."""
    if sys.platform != "win32":
        return None
    return parse_displays(_windows_displays())


def parse_displays(displays: list[tuple[str, str]]) -> Nvidia | None:
    """NVIDIA's among displays (description, driver's version as Windows writes it); None if there
    are none. "32.0.15.8088" is release 580.88: the last five digits.
    """
    ours = [(name, version) for name, version in displays if "nvidia" in name.lower()]
    if not ours:
        return None
    digits = re.sub(r"\D", "", ours[0][1])[-5:]
    release = f"{digits[:3]}.{digits[3:]}" if len(digits) == 5 else ""
    cards = tuple(Card(name, None) for name, _ in ours)
    return Nvidia(cards, release, cuda_of(release), starts=False)


def _windows_displays() -> list[tuple[str, str]]:
    import winreg

    registry: Any = winreg  # the attributes exist on Windows only
    displays = []
    for number in range(32):
        try:
            with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, rf"{_DISPLAYS}\{number:04}") as key:
                displays.append(
                    (
                        str(registry.QueryValueEx(key, "DriverDesc")[0]),
                        str(registry.QueryValueEx(key, "DriverVersion")[0]),
                    )
                )
        except OSError:
            continue
    return displays


def cuda_of(release: str) -> tuple[int, int] | None:
    """The newest CUDA that a driver of this release speaks, e.g. (13, 0) for "580.88"; None for one
    older than CUDA 11.
    """
    branch = re.match(r"\d+", release)
    known = [number for number in _BRANCHES if branch and number <= int(branch[0])]
    return _BRANCHES[max(known)] if known else None


def _version(number: int) -> tuple[int, int] | None:
    """CUDA's own way of writing 13.0, 13000; None for nothing."""
    return (number // 1000, number % 1000 // 10) if number else None


def _library(windows: str, *others: str) -> Any:
    """A library of the driver, None where there is none."""
    for name in (windows,) if os.name == "nt" else (*others, f"{_WSL}/{others[0]}"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
