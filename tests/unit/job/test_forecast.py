"""What a job will take, told before it starts, by the command line's dry run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.__main__ import EXIT_USER_ERROR, main
from engine.bridge import estimate, speeds
from engine.bridge.errors import UserError
from engine.bridge.estimate import Speeds
from engine.job import forecast


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, and a memory of jobs of its own."""
    monkeypatch.setenv(speeds.CACHE_VARIABLE, str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 255, (100, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path


def dry(here: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    image, out = str(here / "picture.png"), str(here / "out")
    given = ["--image", image, "--out", out, "--device", "cpu", "--dry-run", *arguments]
    assert main(["generate", *given]) == 0
    assert not (here / "out").exists(), "a dry run makes nothing"
    return capsys.readouterr().out


def test_a_dry_run_tells_models_frames_minutes_and_memory(here, capsys) -> None:
    told = dry(here, "--width", "512", capsys=capsys)
    assert "automatic prior: patch, because" in told and "automatic depth" in told
    assert "40 frames in 2 segments, about" in told and "GB, a guess before the first job" in told
    assert "the memory is main memory" in told and told.rstrip().endswith("Nothing was made.")


def test_twice_the_frames_take_about_twice_the_minutes(here) -> None:
    def seconds(frames: int) -> float:
        values = {"move_frames": frames, "width": 512, "device": "cpu", "refine_steps": 300}
        _, told = forecast.dry_run(
            here / "out", here / "picture.png", "dolly:1.0", "standard", values
        )
        assert told.estimate is not None and told.work.path == frames
        return told.estimate.seconds

    few, many = seconds(85), seconds(170)
    assert 1.7 < many / few < 2.3


def test_a_picture_needs_no_flag_and_two_are_one_too_many(here, capsys) -> None:
    picture, out = str(here / "picture.png"), str(here / "out")
    rest = ["--out", out, "--device", "cpu", "--dry-run"]
    told = []
    for given in ([picture, *rest], [*rest, picture], ["--image", picture, *rest]):
        assert main(["generate", *given]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] and told.count(told[0]) == 3
    assert main(["generate", picture, "--image", picture, *rest]) == EXIT_USER_ERROR
    assert "Two pictures" in capsys.readouterr().err


def test_what_the_last_job_took_moves_the_next_dry_run(here, capsys) -> None:
    first = dry(here, capsys=capsys)
    _, told = forecast.dry_run(
        here / "out", here / "picture.png", None, "standard", {"device": "cpu"}
    )
    slow = Speeds({part: 10 * s for part, s in estimate.TABLE.items()}, 24, True, 3.0, 1.0)
    speeds.keep(told.work, slow)
    second = dry(here, capsys=capsys)
    assert "as the last job here went" in second and second != first
    (speeds.user_cache() / speeds.HISTORY).write_text("{")
    assert "speeds.json is damaged and was ignored" in dry(here, capsys=capsys)


def test_a_path_file_and_the_frame_step_are_counted(here, capsys) -> None:
    demo = Path(forecast.__file__).resolve().parents[1] / "demo" / "path.json"
    whole = dry(here, "--path", str(demo), capsys=capsys)
    fewer = dry(here, "--path", str(demo), "--frame-step", "4", capsys=capsys)
    count = [int(text.partition(" frames in ")[0].split()[-1]) for text in (whole, fewer)]
    assert count[0] > count[1] >= count[0] // 4


def test_what_no_job_could_do_no_dry_run_promises(here) -> None:
    with pytest.raises(UserError, match=r"does not exist|Could not read|cannot be"):
        forecast.dry_run(here / "out", here / "none.png", None, "standard", {})
    with pytest.raises(UserError, match="Unknown video prior"):
        forecast.dry_run(here / "out", here / "picture.png", None, "standard", {"prior": "nobody"})
    assert not (here / "out").exists()
