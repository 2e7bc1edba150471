"""What this computer has, asked without importing torch: standard library only.

install_deps.py chooses the torch build from it, the engine introduces itself with it, and
`doctor` tells it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from typing import NamedTuple

from ..bridge.errors import UserError

_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75  # CUDA driver API, CUdevice_attribute
_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class TorchChoice(NamedTuple):
    """Which build of torch, and where it is."""

    build: str  # cpu, cu126 or cu130
    folder: str  # folder of PyTorch's package index to ask besides the default one; empty: none
    why: str


def nvidia_devices() -> list[tuple[str, str]]:
    """(name, compute capability such as "9.0") of every device that the NVIDIA driver offers; []
    without a driver.
    """
    driver = _cuda_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    devices = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        if (
            driver.cuDeviceGet(ctypes.byref(device), index) != 0
            or driver.cuDeviceGetName(name, len(name), device) != 0
        ):
            continue
        driver.cuDeviceGetAttribute(
            ctypes.byref(major), _CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device
        )
        driver.cuDeviceGetAttribute(
            ctypes.byref(minor), _CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device
        )
        devices.append((name.value.decode("utf-8", "replace"), f"{major.value}.{minor.value}"))
    return devices


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver speaks, e.g. (13, 0); None without a driver."""
    driver = _cuda_driver()
    version = ctypes.c_int(0)
    if (
        driver is None
        or driver.cuDriverGetVersion(ctypes.byref(version)) != 0
        or version.value == 0
    ):
        return None
    return version.value // 1000, version.value % 1000 // 10


def _cuda_driver() -> ctypes.CDLL | None:
    for name in ("nvcuda.dll",) if os.name == "nt" else ("libcuda.so.1", "libcuda.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def choose_torch(
    system: str, capabilities: list[float], driver: tuple[int, int] | None, wanted: str = "auto"
) -> TorchChoice:
    """The build of torch for a machine: pure, so that every machine can be tried in a test.

    `system` as platform.system() says it; `capabilities` of the NVIDIA devices (9.0 for an H100),
    empty without any; `driver` the newest CUDA that the driver speaks; `wanted` auto, cpu, cuda,
    cu126 or cu130. CUDA 13 needs a driver for 13 and a device from 7.5 on; CUDA 12.6 has kernels up
    to 9.0.
    """
    default_is_cpu = (
        system != "Linux"
    )  # for Linux the default index has a build with CUDA, gigabytes larger
    cpu = TorchChoice("cpu", "" if default_is_cpu else "cpu", "for CPUs")
    if wanted.startswith("cu") and wanted != "cuda":
        return TorchChoice(wanted, wanted, "as asked")
    if wanted == "cpu":
        return cpu._replace(why="for CPUs, as asked")
    if system == "Darwin":
        return cpu._replace(why="for CPUs: there is no CUDA on macOS")
    if not capabilities or driver is None:
        if wanted == "cuda":
            raise UserError(
                "No NVIDIA driver with a device was found.",
                "Install the driver from nvidia.com, or use --cuda cpu.",
            )
        return cpu._replace(why="for CPUs: no NVIDIA driver with a device was found")
    if driver >= (13, 0) and max(capabilities) >= 7.5:
        return TorchChoice(
            "cu130",
            "cu130",
            f"for CUDA 13.0: the NVIDIA driver speaks CUDA {driver[0]}.{driver[1]}",
        )
    if driver >= (12, 0) and max(capabilities) < 10.0:
        return TorchChoice(
            "cu126",
            "cu126",
            f"for CUDA 12.6: the NVIDIA driver speaks CUDA {driver[0]}.{driver[1]}",
        )
    if wanted == "cuda":
        raise UserError(
            f"The NVIDIA driver speaks only CUDA {driver[0]}.{driver[1]}.",
            "Update the driver, or use --cuda cpu.",
        )
    return cpu._replace(
        why=f"for CPUs: the NVIDIA driver speaks only CUDA {driver[0]}.{driver[1]}; update "
        "it to use the GPU"
    )


def torch_build() -> tuple[str, str | None] | None:
    """(version, CUDA version or None) of the torch that this interpreter would import; None without
    one.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    version_file = Path(spec.origin).with_name("version.py")
    try:
        text = version_file.read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return (version.group(1), cuda.group(1) if cuda else None) if version else None


def likely_device() -> str:
    """One line for a person, e.g. "cpu (8 cores)" or "cuda (NVIDIA H100, 9.0)"; the engine decides
    when it starts.
    """
    build = torch_build()
    devices = nvidia_devices() if build and build[1] else []
    if devices:
        name, capability = devices[0]
        return f"cuda ({name}, {capability})"
    return f"cpu ({cpu_count()} cores)"


def cpu_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> tuple[int, int]:
    """(total, available now) main memory; (0, 0) where the system does not tell."""
    if sys.platform == "win32":
        return _memory_windows()
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # macOS: the total only
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    sizes = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in text.splitlines()
        if line.endswith("kB")
    }
    total = sizes.get("MemTotal", 0)
    return total, sizes.get("MemAvailable", total)


def _memory_windows() -> tuple[int, int]:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *(
                (name, ctypes.c_uint64)
                for name in ("total", "available", "f1", "f2", "f3", "f4", "f5")
            ),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - the attribute exists on Windows only
    return (
        (status.total, status.available)
        if kernel.GlobalMemoryStatusEx(ctypes.byref(status))
        else (0, 0)
    )


def system() -> str:
    """Operating system and processor, e.g. "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"
