"""The command line, with small models on disk in the layouts of the released ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from engine.__main__ import main
from tests import tiny_models as tiny


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny.save_viewcrafter(
        folder / "viewcrafter_25" / "model.ckpt", "module", config=tiny.VIEWCRAFTER_CLIP
    )
    tiny.save_wan_vace(folder / "wan_vace_1.3b")
    tiny.save_svd(folder / "svd")
    tiny.save_depth_model("zoedepth", folder / "zoedepth")
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    y, x = np.mgrid[0:64, 0:64] / 64.0
    pixels = np.stack([x, y, 0.5 + 0.5 * np.sin(12 * x) * np.cos(9 * y)], axis=-1)
    path = tmp_path_factory.mktemp("picture") / "image.png"
    Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
    return path


class Outcome(NamedTuple):
    """How a command ended."""

    returncode: int
    stderr: str


@pytest.fixture
def run(monkeypatch, capfd):
    """run(weights, *arguments) -> Outcome: the command in this process, which has read torch."""

    def command(weights: Path, *arguments: str) -> Outcome:
        monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(weights))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        capfd.readouterr()
        code = main(["generate", *arguments])
        return Outcome(code, capfd.readouterr().err)

    return command


@pytest.fixture
def generate(run, picture):
    """generate(weights, out, *arguments) -> Outcome: a job of two short segments."""
    quick = "--path dolly:0.3 --width 64 --move-frames 8 --segment-length 5 --overlap 2"
    quick += " --refine-steps 10 --device cpu --steps 2"

    def command(weights: Path, out: Path, *arguments: str) -> Outcome:
        job = ("--image", str(picture), "--out", str(out))
        return run(weights, *job, *quick.split(), *arguments)

    return command


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["viewcrafter_25", "wan_vace_1.3b", "svd"])
def test_a_scene_is_made_with_each_prior(generate, weights, tmp_path, prior):
    done = generate(weights, tmp_path / "out", "--prior", prior)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "scene.ply").stat().st_size > 1000
    assert prior in json.dumps(json.loads((tmp_path / "out" / "report.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["viewcrafter_25", "wan_vace_1.3b", "svd"])
def test_without_momentum_both_clips_are_the_free_run(generate, weights, tmp_path, prior):
    """lambda = 0; the other end, lambda = 1, is in unit/test_every_prior.py on latents:
    autoencoders of random weights keep nothing.
    """
    free = ["--lambda-0", "0", "--eta", "1", "--move-frames", "5"]
    done = generate(weights, tmp_path / "out", "--prior", prior, *free)
    assert done.returncode == 0, done.stderr[-2000:]
    maps = tmp_path / "out" / "segments" / "000" / "maps"
    for place in ("first", "middle", "last"):
        assert (maps / f"consistent_{place}.png").read_bytes() == (
            maps / f"free_{place}.png"
        ).read_bytes()
    assert (maps / "consistent_last.png").read_bytes() != (maps / "render_last.png").read_bytes()


@pytest.mark.slow
def test_the_default_tells_what_it_chose_and_resumes_with_it(generate, run, weights, tmp_path):
    """Without a GPU that is the patch prior, however many weights are here; depth is the learned
    model that is here.
    """
    out = tmp_path / "out"
    done = generate(weights, out, "--preset", "commercial-safe")
    assert done.returncode == 0, done.stderr[-2000:]
    head = done.stderr.splitlines()[:4]
    assert any("automatic prior: patch, because there is no GPU" in line for line in head)
    assert any("automatic depth: zoedepth" in line for line in head)
    facts = json.loads((out / "report.json").read_text())["facts"]
    assert (
        facts["commercial use"].startswith("commercial-safe was asked for; allowed")
        and "MIT" in facts["commercial use"]
    )
    assert "commercial-safe" in (out / "report.html").read_text()
    (out / "scene.ply").unlink()  # so that there is something left to do
    again = run(weights, "--out", str(out), "--resume")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "zoedepth, with which this job was begun" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["zoedepth", "moge_2", "depth_anything_3"])
def test_a_scene_is_made_on_learned_depth(generate, weights, tmp_path, depth):
    if depth != "zoedepth":  # not among those that the default may choose from above
        weights = tiny.save_depth_model(depth, tmp_path / "weights" / depth).parent
    done = generate(weights, tmp_path / "out", "--depth", depth, "--prior", "none")
    assert done.returncode == 0, done.stderr[-2000:]
    assert depth in (tmp_path / "out" / "report.json").read_text()


def test_absent_weights_are_one_line(generate, weights, tmp_path):
    done = generate(weights, tmp_path / "out", "--prior", "viewcrafter_16")
    assert done.returncode == 2
    assert "weights download viewcrafter_16" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_one_line(generate, weights, tmp_path):
    home = tmp_path / "weights" / "viewcrafter_25"
    home.mkdir(parents=True)
    whole = (weights / "viewcrafter_25" / "model.ckpt").read_bytes()
    (home / "model.ckpt").write_bytes(whole[: len(whole) // 3])
    done = generate(tmp_path / "weights", tmp_path / "out", "--prior", "viewcrafter_25")
    assert done.returncode == 2
    assert "truncated or damaged" in done.stderr and "Traceback" not in done.stderr


def test_a_segment_longer_than_the_prior_can_is_refused(generate, weights, tmp_path):
    done = generate(weights, tmp_path / "out", "--prior", "svd", "--segment-length", "8")
    assert done.returncode == 2
    assert "segment_length to 5" in done.stderr
