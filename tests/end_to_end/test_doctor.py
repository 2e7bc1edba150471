"""The doctor, as a process: what it says of this machine, and what it says where something is
missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from engine.commands import doctor

ROOT = Path(__file__).resolve().parents[2]


def ask(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the doctor in a process of its own, after the statement `before`."""
    program = (
        f"{before}\nimport sys\nfrom engine.__main__ import main\nsys.exit(main(['doctor', "
        "*sys.argv[1:]]))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


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


def test_binary_kernels_run_on_later_revisions_and_intermediate_code_on_later_generations():
    runs = {
        ("sm_80", 8, 6): True,
        ("sm_86", 8, 0): False,
        ("sm_80", 9, 0): False,
        ("sm_90a", 9, 0): True,
        ("compute_80", 12, 0): True,
        ("compute_120", 9, 0): False,
        ("sm_120", 12, 1): True,
    }
    assert {case: doctor._runs_on(*case) for case in runs} == runs
