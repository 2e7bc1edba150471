"""A whole job with a small finisher of random weights: what it leaves, what a stop costs, and what
weight 0 changes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.__main__ import main
from engine.bridge.errors import Cancelled
from engine.job import folder, repair
from engine.job import run as job_run
from engine.models import weights
from tests import tiny_models as tiny

QUICK = [
    *("--width", "64", "--move-frames", "7", "--segment-length", "5", "--overlap", "2"),
    *("--refine-steps", "20", "--finisher-steps", "20", "--prior", "patch", "--steps", "2"),
    *("--depth", "box", "--path", "truck:0.6", "--device", "cpu"),
]
FINISHER = ["--finisher", "difix_ref", "--finisher-weight", "0.3"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "room.png"
    pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((128, 64), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.fixture(scope="module", autouse=True)
def _weights(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("weights")
    tiny.save_difix(root / "difix_ref")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(weights.FOLDER_VARIABLE, str(root))
        yield


def generate(picture: Path, out: Path, *more: str) -> int:
    return main(["generate", "--image", str(picture), "--out", str(out), *QUICK, *more])


@pytest.fixture(scope="module")
def finished(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("job") / "out"
    assert generate(picture, out, *FINISHER) == 0
    return out


def scene(out: Path) -> bytes:
    """The Gaussians of scene.ply, without the comments of its head."""
    return (out / "scene.ply").read_bytes().split(b"end_header\n", 1)[1]


def test_the_frames_are_repaired_and_the_report_says_what_that_did(finished: Path) -> None:
    stats = json.loads((finished / "repaired" / "stats.json").read_text())
    names = [file.stem for file in sorted((finished / "repaired" / "frames").glob("*.png"))]
    assert names == [f"{i:04d}" for i in range(1, 7)]  # all but the picture
    away, near = stats["repaired_psnr"]
    assert near > away  # they were learned
    data = json.loads((finished / "report.json").read_text())
    assert data["repair"]["input_psnr"] == stats["input_psnr"]
    assert "difix_ref repaired 6 frames" in data["facts"]["finisher"]
    assert "NVIDIA non-commercial" in data["facts"]["commercial use"]
    assert data["facts"]["commercial use"].startswith("NO")
    assert any(finding["name"] == "Finisher" for finding in data["findings"])
    page = (finished / "report.html").read_text(encoding="utf-8")
    for one, two in data["repair"]["shown"]:
        assert f"repaired/{one}" in page and f"repaired/frames/{two}" in page
        assert (finished / "repaired" / one).is_file()


def test_weight_0_changes_nothing(picture: Path, tmp_path: Path) -> None:
    short, zero = ("--move-frames", "3"), ("--finisher", "difix_ref", "--finisher-weight", "0")
    assert generate(picture, tmp_path / "none", *short) == 0
    assert generate(picture, tmp_path / "zero", *short, *zero) == 0
    assert scene(tmp_path / "none") == scene(tmp_path / "zero")
    assert not (tmp_path / "zero" / "repaired").exists()


@pytest.mark.parametrize("at", [3, 8])
def test_a_job_stopped_in_its_repair_ends_with_the_same_bits(
    at: int, finished: Path, picture: Path, tmp_path: Path
) -> None:
    """Between frames, and in the last refinement: the segments stay as they are."""
    out, seen = tmp_path / "out", 0

    def stop(stage: str, *_, **__) -> None:
        nonlocal seen
        seen += stage == repair.STAGE
        if seen == at:
            raise Cancelled("asked to stop")

    shutil.copytree(finished, out)
    shutil.rmtree(out / "repaired")
    (out / "scene.ply").unlink()
    assert folder.Job(out).repaired() is None
    with pytest.raises(Cancelled), folder.locked(out):
        job_run.work(folder.Job(out), stop)
    assert not (out / "repaired").exists()
    before = {f: f.stat().st_mtime_ns for f in sorted((out / "segments").rglob("*"))}
    assert main(["generate", "--out", str(out), "--resume"]) == 0
    assert {f: f.stat().st_mtime_ns for f in sorted((out / "segments").rglob("*"))} == before
    assert scene(out) == scene(finished)


def test_what_is_repaired_is_not_repaired_again(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "scene.ply").unlink()
    before = (out / "repaired" / "stats.json").stat().st_mtime_ns
    assert main(["generate", "--out", str(out), "--resume"]) == 0
    assert (out / "repaired" / "stats.json").stat().st_mtime_ns == before
    assert scene(out) == scene(finished)


@pytest.mark.parametrize("damage", ["frame", "Gaussians", "segments"])
def test_what_cannot_be_trusted_is_made_again(damage: str, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    if damage == "frame":
        (out / "repaired" / "frames" / "0003.png").write_bytes(b"")
    elif damage == "Gaussians":
        (out / "repaired" / "gaussians.npz").unlink()
    else:  # the last segment is damaged, and with it what was made of it
        (out / "segments" / "001" / "frames" / "0006.png").write_bytes(b"")
    assert main(["generate", "--out", str(out), "--resume"]) == 0
    assert folder.Job(out).repaired() is not None
    assert scene(out) == scene(finished)


def test_another_last_segment_makes_the_repair_stale(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "segments" / "001")
    assert folder.Job(out).repaired() is None


def test_a_repaint_begins_with_the_repaired_scene_and_moves_nothing_of_it(
    finished: Path, tmp_path: Path
) -> None:
    out, mask = tmp_path / "out", tmp_path / "mask.png"
    shutil.copytree(finished, out)
    frame = Image.open(out / "frames" / "0003.png")
    marked = Image.new("L", frame.size)
    marked.paste(255, (20, 10, 40, 25))
    marked.save(mask)
    assert main(["generate", "--out", str(out), "--redo-mask", f"3:{mask}"]) == 0
    variant = out / "variants" / "v2"
    assert (variant / "before" / "gaussians.npz").read_bytes() == (
        out / "repaired" / "gaussians.npz"
    ).read_bytes()
    assert not (variant / "repaired").exists()
    told = json.loads((variant / "report.json").read_text())["facts"]["finisher"]
    assert "a repaint moves nothing" in told


def test_it_is_refused_for_commercial_work_and_without_its_weights(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(picture, tmp_path / "a", *FINISHER, "--licences", "commercial") != 0
    assert "finisher difix_ref is not free for commercial use" in capsys.readouterr().err
    assert generate(picture, tmp_path / "b", "--finisher", "difix") != 0
    told = capsys.readouterr().err
    assert "weights download difix" in told and "Stability AI" in told
