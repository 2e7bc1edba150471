"""What a job will take, told before it starts, by the command line's dry run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.__main__ import EXIT_USER_ERROR, main
from engine.bridge import estimate, settings, speeds
from engine.bridge.errors import UserError
from engine.bridge.estimate import Speeds
from engine.bridge.settings import PRESETS
from engine.job import forecast
from engine.media import images
from engine.models import choice, price
from engine.models.nvidia import Card


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
    assert re.search(r"the memory is main memory, of which [\d.]+ GB are free now\n", told)
    assert told.rstrip().endswith("Nothing was made.")


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


CARDS = [
    ("NVIDIA GeForce RTX 4060 Laptop GPU", (8, 9), 7.0),
    ("NVIDIA GeForce RTX 3060", (8, 6), 11.0),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", (8, 9), 15.0),
    ("NVIDIA GeForce RTX 4090", (8, 9), 22.5),
    ("NVIDIA A100-SXM4-80GB", (8, 0), 78.0),
    ("Tesla T4", (7, 5), 14.5),
    ("NVIDIA GeForce GTX 1080", (6, 1), 7.0),
    ("NVIDIA GeForce MX450", (7, 5), 1.6),
]


@pytest.mark.parametrize(("name", "capability", "gib"), CARDS)
@pytest.mark.parametrize("picture", [(1920, 1080), (1500, 1000), (1000, 1000), (1080, 1920)])
def test_the_panel_prices_the_prior_that_the_job_will_take(
    here, monkeypatch, name, capability, gib, picture
) -> None:
    """By what the engine left for it; the panel knows neither the card nor the models."""
    card = Card(name, capability)
    monkeypatch.setattr(choice.weights, "missing", lambda name: "")
    speeds.keep_machine(price.reckon(card, gib, choice.known()))
    for preset in PRESETS:
        asked = settings.make(preset, prior="auto", initialiser="layers")
        size = images.working_size(picture, asked.output.width, 8)
        free = int(gib * choice.GIB)
        job = choice.settle(asked, size, free, tera=price.rate(card)).settings
        aspect = picture[1] / picture[0]
        told = [
            estimate.predict(work, speeds.speeds_for(work))
            for work in (
                estimate.work_of(asked, 40, aspect),
                estimate.work_of(job, 40, aspect)._replace(device="cuda"),
            )
        ]
        assert told[0] is not None and told[0].text() == told[1].text(), (preset, job.video.prior)


def test_weights_that_come_are_priced_at_once(here, monkeypatch) -> None:
    card = Card("NVIDIA GeForce RTX 4090", (8, 9))
    speeds.keep_machine(price.reckon(card, 22.0, choice.known()))
    asked = estimate.work_of(settings.make(), 40, 9 / 16)
    before = estimate.predict(asked, speeds.speeds_for(asked))
    monkeypatch.setattr(choice.weights, "missing", lambda name: "")
    choice.weights_changed()
    after = estimate.predict(asked, speeds.speeds_for(asked))
    assert after.memory_gb > before.memory_gb + 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_gone_is_priced_no_longer(here) -> None:
    """Its driver does not start, or torch was moved to the CPU: the job computes there."""
    card = Card("NVIDIA GeForce RTX 4090", (8, 9))
    speeds.keep_machine(price.reckon(card, 22.0, choice.known()))
    _, told = forecast.dry_run(here / "out", here / "picture.png", None, "standard", {})
    assert told.work.device == "cpu" and speeds.machine().card == ""
    panel = estimate.work_of(settings.make(), 40, 100 / 150)
    assert estimate.predict(panel, speeds.speeds_for(panel)).text() == told.estimate.text()


def test_a_card_says_how_much_of_its_memory_is_free(here) -> None:
    work = estimate.work_of(settings.make(), 40, 9 / 16)
    known = estimate.Estimate(90.0, 31.0, False, "reckoned", "")
    told = forecast.Forecast(work, "NVIDIA GeForce GTX 1080", known, 0, 7.5).text()
    assert "31 GB, reckoned; the memory is GPU memory, of which 7.5 GB are free now" in told
    assert "free" not in forecast.Forecast(work, "", known).text()
