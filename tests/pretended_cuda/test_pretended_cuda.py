"""Full-size networks without values, and whole jobs with values, on a pretended CUDA device.

What this cannot show: kernels of CUDA libraries, speed, pictures, what torch's allocator wastes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretended_cuda import guard

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.pretended_cuda

# prior : frames x height x width : branches at a time, offload, tiles, 8bit
CASES = (
    "viewcrafter_25:25x576x1024:4,none",
    "viewcrafter_25:25x576x1024:1,parts,tiles",
    "viewcrafter_25:25x576x1024:1,layers,tiles",
    "viewcrafter_25_512:25x320x512:1,parts,tiles",
    "wan_vace_1.3b:25x480x832:4,none",
    "wan_vace_1.3b:25x480x832:1,parts,tiles",
    "wan_vace_1.3b:25x480x832:1,parts,tiles,8bit",
    "wan_vace_1.3b:81x480x832:1,parts,tiles",
    "wan_vace_1.3b:81x480x832:1,layers,tiles",
    "wan_fun_inp_1.3b:25x480x832:1,parts,tiles",
    "wan_vace_14b:25x480x832:1,parts,tiles",
    "wan_vace_14b:25x720x1280:1,layers,tiles",
    "fixanything:29x480x832:1,parts,tiles",
    "fixanything:65x480x832:1,parts,tiles",
    "fixanything:65x480x832:1,layers,tiles",
    "svd:25x576x1024:4,none",
    "svd:25x576x1024:1,parts,tiles",
    "svd:25x576x1024:1,layers,tiles",
    "ltx:25x512x704:1,parts,tiles",
    "ltx:97x512x704:4,none",
    "ltx_13b_fast:25x480x832:1,parts,tiles",
    "cogvideox_i2v:25x480x720:1,parts,tiles",
    "cogvideox_i2v:25x480x720:4,layers",
    "cogvideox_i2v:49x480x720:1,layers,tiles",
    "cogvideox_i2v:49x480x720:1,parts,tiles",
)
FINISHERS = ("difix:576x1024:none", "difix_ref:576x1024:parts", "difix_ref:288x512:none")
DEPTHS = ("moge_2", "depth_pro", "zoedepth", "depth_anything_3", "depth_anything_v2_indoor")
JOBS = (
    ("patch", "box"),
    ("viewcrafter_25", "moge_2"),
    ("wan_vace_1.3b", "zoedepth"),
    ("svd", "depth_anything_v2_indoor"),
    ("ltx", "depth_anything_3"),
    ("wan_fun_inp_1.3b", "depth_pro"),
    ("cogvideox_i2v", "box"),
    ("fixanything_fast", "box"),
    ("wan_vace_1.3b_fast", "box"),
)


@pytest.fixture(autouse=True)
def _possible(request: pytest.FixtureRequest) -> None:
    if "pretended_cuda" not in (request.config.option.markexpr or ""):
        pytest.skip("only when asked for: -m pretended_cuda")
    if guard.why_not():
        pytest.skip(guard.why_not())


def _run(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_a_full_size_prior_keeps_to_the_device_and_to_the_memory_that_it_says(case: str) -> None:
    found = _run("tests.pretended_cuda.fake", case)
    assert "error" not in found, "\n".join(found["error"])
    assert not found["mixed"]
    peak = max(found["peaks"].values())
    # never more than it says, margins left out; and not so much less that cards stand idle
    assert peak <= (found["estimate"] - 0.6) / 1.1, found
    assert found["estimate"] <= 1.45 * peak + 1.4, found


@pytest.mark.parametrize("finisher", FINISHERS)
def test_a_full_size_finisher_keeps_to_the_device_and_to_the_memory_that_it_says(
    finisher: str,
) -> None:
    found = _run("tests.pretended_cuda.fake", f"finisher:{finisher}")
    assert "error" not in found, "\n".join(found["error"])
    assert not found["mixed"]
    peak = max(found["peaks"].values())
    assert peak <= (found["estimate"] - 0.6) / 1.1, found
    assert found["estimate"] <= 1.45 * peak + 1.4, found


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_full_size_depth_model_keeps_to_the_device(depth: str) -> None:
    found = _run("tests.pretended_cuda.fake", f"depth:{depth}:576x1024")
    assert "error" not in found, "\n".join(found["error"])
    assert not found["mixed"] and found["peaks"]["depth"] < 6.0


@pytest.mark.parametrize(("prior", "depth"), JOBS)
def test_a_whole_job_mixes_no_devices(prior: str, depth: str, tmp_path: Path) -> None:
    found = _run("tests.pretended_cuda.pretend", "job", str(tmp_path), prior, depth)
    assert "scene" in " ".join(found["outputs"]) and found["operations"] > 1000


def test_where_the_cpu_draws_refinement_stays_on_the_cpu(tmp_path: Path) -> None:
    found = _run("tests.pretended_cuda.pretend", "job", str(tmp_path), "viewcrafter_25", "box", "")
    assert found["down_in_refine"] == {} and found["up_in_refine"] == {}


def test_a_refinement_step_waits_for_the_device_once() -> None:
    found = _run("tests.pretended_cuda.pretend", "refine")
    for recipe, figures in found.items():
        assert figures["waits_a_step"] <= 1.0, (recipe, figures["lines"])
        assert max(figures["losses"]) < 1e-4 and figures["on"] == "cuda"
