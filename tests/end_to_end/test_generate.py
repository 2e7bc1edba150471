"""The real command on small pictures: results, resume to the same bits, cancel, kill, and bad
input.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from engine.__main__ import main
from engine.bridge import splat_file
from engine.job import folder
from engine.media import images

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "--preset",
    "draft",
    "--width",
    "64",
    "--segment-length",
    "4",
    "--overlap",
    "2",
    "--refine-steps",
    "40",
    "--steps",
    "4",
    "--move-frames",
    "12",
    "--depth",
    "box",
]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A room-like gradient with a grid: structure, but cheap."""
    y, x = np.mgrid[0:48, 0:72]
    rgb = (
        np.stack([x * 3, y * 4, 128 + 60 * ((x // 8 + y // 8) % 2)], axis=2)
        .clip(0, 255)
        .astype(np.uint8)
    )
    file = tmp_path_factory.mktemp("picture") / "röom.png"
    Image.fromarray(rgb).save(file)
    return file


def _arguments(picture, out, *more):
    return [
        "generate",
        "--image",
        str(picture),
        "--path",
        "truck:1.5",
        "--out",
        str(out),
        *QUICK,
        *more,
    ]


def _process(arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        encoding="utf-8",
    )


def _wait_for(condition, seconds=180.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(picture, tmp_path_factory):
    """One uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(_arguments(picture, out)) == 0
    return out


def test_a_run_leaves_everything_it_promises(finished, picture):
    for name in (
        "scene.ply",
        "scene.html",
        "cameras.json",
        "flythrough.mp4",
        "settings.json",
        "report.json",
        "report.html",
        "engine.log",
    ):
        assert (finished / name).stat().st_size > 0, name
    assert (
        len(list((finished / "frames").glob("*.png"))) == 7
    )  # 12 frames, every second one and the last
    assert folder.Job(finished).finished_segments() == 3
    data = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert data["input_psnr"] > 26.0
    assert data["agreement_psnr"] > 25
    assert (
        len(data["path_ssim"]) == 7
        and 0.7 < min(data["path_ssim"]) <= max(data["path_ssim"]) <= 1.0
    )
    assert "GPL-3.0-or-later" in data["facts"]["prior"]
    assert splat_file.read_ply(finished / "scene.ply").means.shape[0] > 64 * 40


def test_the_log_tells_what_was_chosen_and_every_stage_once(finished):
    lines = (finished / "engine.log").read_text(encoding="utf-8").splitlines()
    for words in (
        "prior: patch",
        "depth: ",
        "device: ",
        "segment 1 of 3: generate",
        "segment 3 of 3: refine",
        "fly-through",
        "done",
    ):
        assert any(words in line for line in lines), words
    assert len(lines) < 40


def test_the_first_frame_is_the_picture_and_the_scene_shows_it_upright(finished, picture):
    truth = images.resize(
        images.load_image(picture).pixels, *Image.open(finished / "input.png").size
    )
    assert (images.load_image(finished / "frames" / "0000.png").pixels - truth).abs().max() < 0.01
    drawn = images.load_image(finished / "input_render.png").pixels
    for wrong in (drawn.flip(1), drawn.flip(2), drawn.flip(0)):
        assert (drawn - truth).square().mean() * 10 < (wrong - truth).square().mean()


def test_what_the_move_uncovers_is_filled(finished):
    last = images.load_image(sorted((finished / "frames").glob("*.png"))[-1]).pixels
    assert (last.amax(dim=0) < 0.02).float().mean() < 0.01, "black holes"


def _same_scene(a, b):
    index = folder.Job(a).finished_segments() - 1
    one, two = (np.load(f / "segments" / f"{index:03d}" / "gaussians.npz") for f in (a, b))
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert [len(list(f.rglob("gaussians.npz"))) for f in (a, b)] == [2, 2]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits_and_repeats_nothing(finished, picture, tmp_path):
    out = tmp_path / "out"
    process = _process(_arguments(picture, out))
    _wait_for(lambda: (out / "segments" / "000").is_dir() or process.poll() is not None)
    process.kill()
    process.communicate()
    before = (out / "segments" / "000" / "stats.json").stat().st_mtime_ns
    assert main(["generate", "--out", str(out), "--resume"]) == 0
    assert (out / "segments" / "000" / "stats.json").stat().st_mtime_ns == before
    _same_scene(finished, out)
    np.testing.assert_array_equal(
        splat_file.read_ply(out / "scene.ply").means,
        splat_file.read_ply(finished / "scene.ply").means,
    )


def _cpu_s() -> float:
    """Processor time of all child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_ends_in_two_seconds_and_says_how_to_go_on(picture, tmp_path):
    out = tmp_path / "out"
    process = _process(_arguments(picture, out, "--refine-steps", "3000"))
    _wait_for(lambda: (out / "engine.log").exists())
    _wait_for(lambda: "generate" in (out / "engine.log").read_text(encoding="utf-8"), 240.0)
    before = _cpu_s()
    spent = psutil.Process(process.pid).cpu_times()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    took = _cpu_s() - before - spent.user - spent.system
    assert process.returncode == 130
    assert "--resume" in errors
    assert not list((out / "segments").glob("[0-9]*")) or folder.Job(out).finished_segments() > 0
    assert took < 2.0  # of processor time: on an idle machine the user waits no longer


def test_linear_blending_writes_both_scenes(picture, tmp_path):
    out = tmp_path / "out"
    assert main(_arguments(picture, out, "--blending", "linear", "--move-frames", "4")) == 0
    display, linear = (
        splat_file.read_ply(out / "scene.ply"),
        splat_file.read_ply(out / "scene_linear.ply"),
    )
    assert display.means.shape == linear.means.shape
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["input_psnr"] > 26.0


@pytest.mark.parametrize("frames", ["1", "2", "3"])
def test_paths_shorter_than_a_segment_work(picture, tmp_path, frames):
    assert (
        main(
            _arguments(
                picture,
                tmp_path / "out",
                "--move-frames",
                frames,
                "--frame-step",
                "1",
                "--refine-steps",
                "5",
            )
        )
        == 0
    )
    assert len(list((tmp_path / "out" / "frames").glob("*.png"))) == int(frames)


@pytest.mark.parametrize(
    "change",
    [{"momentum": "latent"}, {"momentum": "pixel"}, {"momentum": "none"}, {"prior": "none"}],
)
def test_every_ablation_runs(picture, tmp_path, change):
    flags = [part for name, value in change.items() for part in (f"--{name}", value)]
    out = tmp_path / "out"
    assert main(_arguments(picture, out, "--move-frames", "4", "--refine-steps", "5", *flags)) == 0
    segment = json.loads((out / "segments" / "000" / "stats.json").read_text(encoding="utf-8"))
    facts = json.loads((out / "report.json").read_text(encoding="utf-8"))["facts"]
    if change == {"prior": "none"}:  # the renders alone: nothing was asked of a prior
        assert facts["prior"].startswith("none") and segment["lambda_mean"] == 1.0
    else:
        assert (segment["lambda_mean"] > 0.0) == (change["momentum"] == "latent")
    frames = [images.load_image(file).pixels for file in sorted((out / "frames").glob("*.png"))]
    assert len(frames) == 3 and float((frames[0] - frames[-1]).abs().mean()) > 1e-3


def _bad(arguments, capsys, *words):
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    for word in words:
        assert word in said, said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lambda-0", "7"], ["lambda_0", "between 0.0 and 1.0"]),
        (["--overlap", "4"], ["overlap", "segment_length"]),
        (["--depth", "nowhere.exr"], ["nowhere.exr", "does not exist"]),
        (["--depth", "gypsy_depth"], ["gypsy_depth"]),
        (["--prior", "no_such_prior"], ["no_such_prior"]),
        (["--path", "missing.json"], ["missing.json", "does not exist"]),
        (["--path", "dolly:1.0+teleport:3"], ["teleport"]),
    ],
)
def test_bad_settings_and_paths_are_one_line(picture, tmp_path, capsys, flags, words):
    out = tmp_path / "out"
    _bad([*_arguments(picture, out), *flags], capsys, *words)
    assert not (out / "scene.ply").exists()


def test_bad_pictures_leave_nothing_behind(tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    _bad(_arguments(tmp_path / "none.png", out), capsys, "none.png")
    _bad(_arguments(tmp_path / "cut.png", out), capsys, "cut.png")
    assert not out.exists()


def test_bad_depth_maps_are_named(picture, tmp_path, capsys):
    for name, depth in {
        "negative": -np.ones((48, 72)),
        "equal": np.ones((48, 72)),
        "nan": np.full((48, 72), np.nan),
    }.items():
        np.save(tmp_path / f"{name}.npy", depth.astype(np.float32))
        _bad(
            _arguments(picture, tmp_path / name, "--depth", str(tmp_path / f"{name}.npy")),
            capsys,
            "depth",
        )


def test_a_path_with_nan_is_refused_before_anything_is_written(picture, tmp_path, capsys):
    frame = {"K": [[60, 0, 36], [0, 60, 24], [0, 0, 1]], "world_from_camera": np.eye(4).tolist()}
    frame["world_from_camera"][0][3] = None
    path = {
        "format": "scene_splatter_camera_path",
        "version": 1,
        "fps": 24,
        "width": 72,
        "height": 48,
        "unit": "m",
        "frames": [frame],
    }
    (tmp_path / "p.json").write_text(json.dumps(path))
    _bad(
        [*_arguments(picture, tmp_path / "out"), "--path", str(tmp_path / "p.json")],
        capsys,
        "p.json",
    )
    assert not (tmp_path / "out").exists()


def test_an_output_folder_of_another_job_is_refused(finished, picture, capsys):
    before = (finished / "scene.ply").read_bytes()
    _bad(_arguments(picture, finished, "--seed", "5"), capsys, "already holds a job")
    assert (finished / "scene.ply").read_bytes() == before


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="needs a user who may not write everywhere"
)
def test_a_read_only_output_folder_is_named(picture, tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    _bad(_arguments(picture, tmp_path / "locked" / "out"), capsys, "locked")


def test_odd_pictures_simply_work(tmp_path):
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    for name, image in {
        "grey.png": rgb.convert("L"),
        "rgba.png": rgb.convert("RGBA"),
        "cmyk.jpg": rgb.convert("CMYK"),
    }.items():
        image.save(tmp_path / name)
        assert (
            main(
                _arguments(
                    tmp_path / name,
                    tmp_path / name.split(".")[0],
                    "--move-frames",
                    "2",
                    "--refine-steps",
                    "3",
                )
            )
            == 0
        )


def test_everything_is_seeded(picture, tmp_path):
    for name in "ab":
        torch.manual_seed(ord(name))  # a global generator must not matter
        assert (
            main(_arguments(picture, tmp_path / name, "--move-frames", "4", "--refine-steps", "5"))
            == 0
        )
    one, two = (np.load(tmp_path / n / "segments" / "000" / "gaussians.npz") for n in "ab")
    for key in one.files:
        np.testing.assert_array_equal(one[key], two[key])
