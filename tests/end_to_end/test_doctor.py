"""The doctor, as a process: what it says of this machine, and what it says where something is
missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def ask(
    *arguments: str, before: str = "", path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the doctor in a process of its own, after the statement `before`; `path` goes before the
    PATH.
    """
    program = (
        f"{before}\nimport sys\nfrom engine.__main__ import main\nsys.exit(main(['doctor', "
        "*sys.argv[1:]]))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
        env={**os.environ, "PATH": os.pathsep.join([str(path or ROOT), os.environ["PATH"]])},
    )


PRETEND = """
import torch
from engine.models import nvidia
nvidia.from_cuda = nvidia.from_nvml = lambda: None  # so that nvidia-smi is asked
torch.version.cuda, torch.__version__ = "13.0", "2.13.0+cu130"
torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda *_: "NVIDIA GeForce RTX 4070"
torch.cuda.get_device_capability = lambda *_: (8, 9)
torch.cuda.mem_get_info = lambda *_: (10_500_000_000, 12_000_000_000)
torch.cuda.get_arch_list = lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
"""


@pytest.mark.skipif(os.name == "nt", reason="the stand-in of nvidia-smi is a shell script")
def test_a_machine_with_pretended_cuda_tells_card_driver_build_and_what_draws(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4070, 8.9, 580.88'\n")
    smi.chmod(0o755)
    told = ask("--json", before=PRETEND, path=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    checks = {c["name"]: c for c in json.loads(told.stdout)["checks"]}
    card = checks["graphics card"]
    assert "RTX 4070 (8.9), driver 580.88 for CUDA up to 13.0" in card["text"]
    assert card["data"]["driver_cuda"] == "13.0" and card["state"] == "ok"
    assert checks["torch"]["text"] == "2.13.0+cu130, built for CUDA 13.0"
    assert checks["device"]["text"].startswith("cuda: NVIDIA GeForce RTX 4070 (8.9), 10.5 of 12.0")
    assert checks["device"]["state"] == "ok"
    drawing = checks["GPU rasteriser"]  # nothing can really draw there, and it says why
    assert (
        drawing["state"] == "warn" and "the CPU draws, although there is a GPU" in drawing["text"]
    )
    assert "gsplat" in drawing["text"] and "warp" in drawing["text"].lower() and drawing["remedy"]


def test_this_machine_can_run_the_engine():
    told = ask("--json")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("\n") == 1  # one line, for programs that read lines
    report = json.loads(told.stdout)
    assert report["ok"] is True
    checks = {c["name"]: c for c in report["checks"]}
    assert {
        "python",
        "torch",
        "device",
        "rasteriser",
        "ffmpeg",
        "GPU rasteriser",
        "prior patch",
    } <= checks.keys()
    assert (
        checks["processor"]["data"]["cores"] >= 1
        and checks["processor"]["data"]["memory_bytes"] > 1e9
    )
    assert all(c["remedy"] for c in report["checks"] if c["state"] != "ok")


def test_the_text_says_the_same_as_the_json():
    text = ask()
    names = [c["name"] for c in json.loads(ask("--json").stdout)["checks"]]
    assert text.returncode == 0
    assert text.stdout.rstrip().endswith("The engine can run.")
    for name in names:
        assert f"  {name} " in text.stdout


def test_an_engine_without_torch_fails_with_the_remedy():
    hide = "import sys; sys.modules['torch'] = None"  # Python's own way to make an import fail
    told = ask("--json", before=hide)
    report = json.loads(told.stdout)
    assert told.returncode == 1 and report["ok"] is False
    torch = next(c for c in report["checks"] if c["name"] == "torch")
    assert torch["state"] == "fail" and "install_deps.py" in torch["remedy"]
    assert "install_deps.py" in report["text"]
