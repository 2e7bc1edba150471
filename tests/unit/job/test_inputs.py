"""From a job's files to the method's inputs: one camera for geometry, path, film and size
limits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.bridge import camera_file, settings
from engine.bridge.camera_file import CameraPath
from engine.job import inputs, report
from engine.job.folder import prepare
from engine.method.views import draw_views
from engine.models import choice
from engine.priors import working_multiple
from engine.scene.psnr import psnr

DRAWN = "patch", "wan_vace_1.3b", "viewcrafter_25"  # multiples of 8, 16 and 64


def _picture(folder: Path, w: int, h: int) -> Path:
    """Soft shapes, a square of a third of the height in the middle."""
    y, x = np.mgrid[0:h, 0:w]
    rgb = np.stack([120 + 60 * np.sin(x / 40), 120 + 60 * np.cos(y / 30), 90 + 0 * x], 2)
    a = h // 6
    rgb[h // 2 - a : h // 2 + a, w // 2 - a : w // 2 + a] = 230
    file = folder / "picture.png"
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(file)
    return file


def _load(folder: Path, size: tuple[int, int], path: Path | str, prior: str = "patch", **chosen):
    files = {"image": _picture(folder, *size)}
    if isinstance(path, Path):
        files["path"] = path
    else:
        files["path"] = folder / "move.txt"
        files["path"].write_text(path)
    plan = settings.make("standard", prior=prior, depth="box", **{"width": 192, **chosen})
    job = prepare(folder / "job", plan, files, resume=False)
    return inputs.load(job, torch.device("cpu")), plan


def _path_file(folder: Path, size: tuple[int, int], K: np.ndarray, count: int = 3) -> Path:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 0.1, count)
    file = folder / "given.json"
    camera_file.write(file, CameraPath(np.tile(K, (count, 1, 1)), poses, *size, 24.0, "m"))
    return file


@pytest.mark.parametrize("prior", DRAWN)
@pytest.mark.parametrize("size", [(1920, 1080), (1600, 1200), (1000, 563), (1080, 1920)])
def test_a_square_stays_a_square_and_the_film_has_the_pictures_aspect(tmp_path, prior, size):
    start, _ = _load(tmp_path, size, "truck:0.2", prior)
    w, h = size
    multiple = working_multiple(prior)
    _, height, width = start.inputs.image.shape
    assert width % multiple == 0 and height % multiple == 0
    # 1 m beside and 1 m below the axis, at 3 m, in pixels of the picture
    K = start.inputs.K[0].double()
    across, down = K[0, 0] / 3 * w / width, K[1, 1] / 3 * h / height
    assert float(across / down) == pytest.approx(1.0, abs=0.005)  # 0.889 at 7f06cef with 64
    assert start.path.width / start.path.height == pytest.approx(w / h, rel=0.011)
    film = start.path.K[0]
    assert film[0, 0] / film[1, 1] == pytest.approx(1.0, abs=0.011)
    assert max(start.path.width, start.path.height) == max(width, height)


@pytest.mark.parametrize("fov", [0.0, 45.0])
@pytest.mark.parametrize("kind", ["plain", "shifted", "stretched"])
@pytest.mark.parametrize("prior", ["patch", "viewcrafter_25"])
def test_the_first_view_shows_the_picture_whatever_the_paths_camera_is(tmp_path, fov, kind, prior):
    w, h = 960, 540
    K = np.array([[900.0, 0, w / 2], [0, 900.0, h / 2], [0, 0, 1]])
    if kind == "shifted":
        K[1, 2] = h / 5
    if kind == "stretched":
        K[1, 1] = 740.0
    start, plan = _load(tmp_path, (w, h), _path_file(tmp_path, (w, h), K), prior, fov=fov)
    one = start.inputs
    view = draw_views(one.gaussians, one.K[:1], one.camera_from_world[:1], one.image, plan)
    assert psnr(view.rgb[0], one.image) > 30.0
    _, height, width = one.image.shape
    if fov:
        assert 2 * np.degrees(np.arctan(width / 2 / float(one.K[0, 0, 0]))) == pytest.approx(fov)
    assert float(one.K[0, 1, 1] / one.K[0, 0, 0]) == pytest.approx(
        K[1, 1] / K[0, 0] * (height / h) / (width / w), rel=1e-5
    )
    assert float(one.K[0, 1, 2]) == pytest.approx(K[1, 2] * height / h, rel=1e-5)


def test_a_portrait_picture_costs_what_a_landscape_one_does(tmp_path):
    sizes = []
    for name, size in (("lying", (1920, 1080)), ("standing", (1080, 1920))):
        (tmp_path / name).mkdir()
        start, _ = _load(tmp_path / name, size, "truck:0.2", width=256)
        sizes.append(tuple(start.inputs.image.shape[1:]))
    assert sizes[0] == sizes[1][::-1]  # 144 x 256 and 456 x 256 at 7f06cef


def test_the_last_camera_is_kept_by_every_step(tmp_path):
    w, h = 480, 270
    K = np.array([[400.0, 0, w / 2], [0, 400.0, h / 2], [0, 0, 1]])
    file = _path_file(tmp_path, (w, h), K, count=10)
    start, _ = _load(tmp_path, (w, h), file, frame_step=4)
    assert start.path.count == 4
    assert start.path.world_from_camera[-1, 0, 3] == pytest.approx(0.1)


def test_a_text_file_of_cameras_in_a_job_is_no_named_move(tmp_path):
    lines = ["https://example.org/film"]
    for i in range(3):
        pose = f"1 0 0 {-0.05 * i} 0 1 0 0 0 0 1 0"
        lines.append(f"{i * 33333} 0.6 1.0666 0.5 0.5 0 0 {pose}")
    file = tmp_path / "cameras.txt"
    file.write_text("\n".join(lines) + "\n")
    start, _ = _load(tmp_path, (480, 270), file)
    assert start.path.count == 3


_RANDOM = np.random.default_rng(5)
BAD = {
    "black": (np.zeros((90, 160, 3)), "one colour"),
    "one colour": (np.full((90, 160, 3), 150.0), "one colour"),
    "16 x 16": (_RANDOM.uniform(0, 255, (16, 16, 3)), "pixels"),
    "portrait 1:3": (_RANDOM.uniform(60, 200, (240, 80, 3)), "longer"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_becomes_a_scene_and_a_word_in_the_verdict(tmp_path, name: str) -> None:
    """With the depth that ships: Gaussians without NaN, and the report's finding says why not to
    trust them.
    """
    pixels, word = BAD[name]
    picture, move = tmp_path / "bad.png", tmp_path / "move.txt"
    Image.fromarray(pixels.astype(np.uint8)).save(picture)
    move.write_text("dolly:0.3")
    plan = settings.make("draft", prior="patch", depth="small", width=96)
    job = prepare(tmp_path / "job", plan, {"image": picture, "path": move}, resume=False)
    start = inputs.load(job, torch.device("cpu"))
    for tensor in start.inputs.gaussians:
        if isinstance(tensor, torch.Tensor):
            assert bool(torch.isfinite(tensor).all())
    finding = report.geometry_finding(start.facts)
    assert not finding.ok and word in finding.measured and finding.advice
    assert "guess" in start.facts[report.GUESS]


@pytest.mark.parametrize("depth", ["small", "box"])
def test_without_a_learned_depth_one_line_says_what_a_download_would_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: str
) -> None:
    picture, move = tmp_path / "plain.png", tmp_path / "move.txt"
    rows = np.arange(64, dtype=np.uint8)[:, None, None]
    Image.fromarray(np.broadcast_to(3 * rows, (64, 96, 3)).copy()).save(picture)
    move.write_text("dolly:0.3")
    plan = settings.make("draft", prior="patch", depth=depth, width=96)
    job = prepare(tmp_path / "job", plan, {"image": picture, "path": move}, resume=False)

    def told() -> str:
        return inputs.load(job, torch.device("cpu")).facts[report.GUESS]

    said = told()
    assert "One small download (0.14 GB, MIT)" in said
    assert said.endswith("python -m engine weights download moge_2_small.")
    monkeypatch.setattr(choice, "best_depth", lambda **_: "moge_2_small")
    assert "download" not in told(), "it is here already"


def test_columns_that_sway_slowly_along_the_path_are_never_called_usual(tmp_path: Path) -> None:
    """A depth that is smooth and wrong: each tenth of a column is straight, the whole is not."""
    w, h = 512, 288
    rgb = np.full((h, w, 3), 90, np.uint8)
    for k in range(8):
        rgb[h // 10 : -h // 10, 40 + 56 * k : 66 + 56 * k] = 200
    picture, move, depth = (tmp_path / name for name in ("columns.png", "move.txt", "depth.npy"))
    Image.fromarray(rgb).save(picture)
    move.write_text("orbit:25")
    y, x = (np.mgrid[0:h, 0:w].astype(np.float32) + 0.5) / w

    def finding(sway: float) -> report.Finding:
        np.save(depth, (4 + sway * np.sin(np.pi * y * w / h)) / (1 + 0.2 * x))
        plan = settings.make("draft", prior="patch", depth=str(depth), width=w, fov=60.0)
        files = {"image": picture, "path": move, "depth": depth}
        job = prepare(tmp_path / f"job_{sway}", plan, files, resume=False)
        return report.geometry_finding(inputs.load(job, torch.device("cpu")).facts)

    usual, swaying = finding(0.0), finding(0.25)
    assert "All measures" in report.verdict([usual]) and "0 % of 16 long lines" in usual.measured
    assert "16 long lines bend" in report.verdict([swaying]) and "depth map" in swaying.advice
