"""The results of a job: whole, and made with the memory of one camera whatever the path."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from engine.bridge import camera_file, settings
from engine.bridge.camera_file import CameraPath
from engine.job import report, results
from engine.job.folder import prepare, read_json, write_json
from engine.job.inputs import Loaded
from engine.media import images
from engine.method.pipeline import Inputs
from engine.scene.gaussians import Gaussians

SIZE = (32, 48)


def _wall() -> Gaussians:
    """A coloured wall two metres away, one Gaussian for two pixels."""
    h, w = SIZE
    y, x = torch.meshgrid(torch.arange(0, h, 2) + 1.0, torch.arange(0, w, 2) + 1.0, indexing="ij")
    means = torch.stack([(x - w / 2) / w, (y - h / 2) / w, torch.ones_like(x)], dim=-1)
    means = 2.0 * means.reshape(-1, 3)
    draw = torch.Generator().manual_seed(0)
    n = means.shape[0]
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        scales_log=torch.full((n, 3), float(np.log(2.0 * 1.2 / w))),
        opacities_logit=torch.full((n,), 3.0),
        sh_dc=torch.randn(n, 3, generator=draw) * 0.5,
        sh_rest=torch.zeros(n, 0, 3),
    )


@pytest.fixture
def finished(tmp_path):
    """make(frames, **settings) -> (job, loaded): a job folder whose segments, of ten frames, are
    there.
    """

    def make(count: int, **chosen: object):
        h, w = SIZE
        K = np.tile(np.array([[w, 0, w / 2], [0, w, h / 2], [0, 0, 1.0]]), (count, 1, 1))
        world_from_camera = np.tile(np.eye(4), (count, 1, 1))
        world_from_camera[:, 0, 3] = np.linspace(0.0, 0.3, count)
        path = CameraPath(
            K=K, world_from_camera=world_from_camera, width=w, height=h, fps=12.0, unit="m"
        )
        gaussians = _wall()
        image = torch.rand(3, h, w, generator=torch.Generator().manual_seed(1))
        images.save_png(tmp_path / "image.png", image)
        camera_file.write(tmp_path / "path.json", path)
        job = prepare(
            tmp_path / "job",
            settings.make("draft", prior="patch", **chosen),
            {"image": tmp_path / "image.png", "path": tmp_path / "path.json"},
            resume=False,
        )
        cameras = torch.from_numpy(np.linalg.inv(world_from_camera)).float()
        inputs = Inputs(image, torch.from_numpy(K).float(), cameras, gaussians)
        loaded = Loaded(inputs, path, {"seed": 0})
        for index in range(0, count, 10):
            with job.new_segment(index // 10) as folder:
                (folder / "frames").mkdir()
                for i in range(index, min(index + 10, count)):
                    drawn = results._draw(job, loaded, gaussians, i).rgb[0]
                    images.save_png(folder / "frames" / f"{i:04d}.png", drawn)
                write_json(folder / "stats.json", _stats(index, min(index + 10, count)))
        return job, loaded

    return make


def _stats(start: int, stop: int) -> dict[str, object]:
    return {
        "start": start,
        "stop": stop,
        "new": start,
        "seconds": {"render": 1.0},
        "peak_mb": {"render": 1.0},
        "unknown_share": 0.0,
        "lambda_mean": 0.7,
        "mu_mean": 1.0,
        "drift_psnr": 40.0,
        "unseen_detail": None,
        "seam": None,
        "losses": [0.1 / (1 + i) for i in range(20)],
        "gaussians": 10,
        "opacity_mean": 0.9,
        "view_psnr": [],
    }


def test_results_are_whole_and_their_numbers_are_those_of_the_frames(finished):
    job, loaded = finished(12)
    made = results.write(job, loaded, loaded.inputs.gaussians, lambda *_, **__: None)
    assert set(made) == {"scene", "page", "cameras", "flythrough", "numbers", "report"}
    data = read_json(job.folder / "report.json")
    assert len(data["path_psnr"]) == len(data["path_ssim"]) == 12
    assert min(data["path_psnr"]) > 45, "the scene against its own renders, 8 bits apart"
    assert data["agreement_psnr"] > 25 and data["input_psnr"] < 15
    assert len(list((job.folder / "frames").glob("*.png"))) == 12
    assert data["revisit_psnr"] is None and "seen again" not in data["facts"]
    assert (job.folder / "input_render.png").is_file()


def test_a_path_that_comes_back_is_told_how_its_end_fits_its_start(finished):
    job, loaded = finished(12)
    cameras = loaded.inputs.camera_from_world.clone()
    cameras[-1] = cameras[0]
    looped = loaded._replace(inputs=loaded.inputs._replace(camera_from_world=cameras))
    results.write(job, looped, looped.inputs.gaussians, lambda *_, **__: None)
    data = read_json(job.folder / "report.json")
    last = images.load_image(job.folder / "frames" / "0011.png").pixels
    assert data["revisit_psnr"] == results.psnr(last, loaded.inputs.image)
    assert f"{data['revisit_psnr']:.1f} dB" in data["facts"]["seen again"]


@pytest.mark.parametrize("count", [20, 80])
def test_no_more_than_two_views_are_held_at_a_time(finished, monkeypatch, count):
    """Fails at 7f06cef, where the list, its stack and the depths of all cameras were held."""
    job, loaded = finished(count)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most, draw = 0, results.draw_views

    def counted(*args, **keywords):
        nonlocal most
        most = max(most, len(alive))
        views = draw(*args, **keywords)
        alive.add(views.rgb)
        alive.add(views.depth)
        return views

    monkeypatch.setattr(results, "draw_views", counted)
    results.write(job, loaded, loaded.inputs.gaussians, lambda *_, **__: None)
    assert 0 < most <= 4, "rgb and depth of this camera and of the one before"


def test_a_scene_of_linear_light_is_refitted_in_rounds_that_span_the_path(finished, monkeypatch):
    monkeypatch.setattr(results, "_REFIT_VIEWS", 6)
    monkeypatch.setattr(results, "_REFIT_STEPS", 5)
    job, loaded = finished(20, blending="linear")
    seen: list[tuple[int, list[float]]] = []
    refine = results.refine

    def noted(gaussians, frames, K, cameras, **keywords):
        seen.append((len(frames), cameras[:, 0, 3].tolist()))
        return refine(gaussians, frames, K, cameras, **keywords)

    monkeypatch.setattr(results, "refine", noted)
    steps: list[tuple[int, int]] = []

    def report(stage, done, total, *_, **__):
        if stage.startswith("refit"):
            steps.append((done, total))

    made = results.write(job, loaded, loaded.inputs.gaussians, report)
    assert set(made) >= {"scene", "scene_linear"}
    assert len(seen) == 4 and all(count <= 6 for count, _ in seen)
    assert all(max(xs) - min(xs) > 0.2 for _, xs in seen), "every round spans the path of 0.3 m"
    every = [x for _, xs in seen for x in xs]
    assert len(every) == 20 == len({round(x, 5) for x in every})
    assert steps == sorted(steps) and steps[-1] == (20, 20)


def test_no_words_of_a_job_become_markup_in_its_report():
    bad = "<script>alert('x')</script>\"><img src=x onerror=y>"
    segment = {"start": 0, "stop": 3, "unknown_share": 0.1, "lambda_mean": 0.5, "mu_mean": 0.5}
    segment |= {"gaussians": 5, "opacity_mean": 0.5, "seconds": {bad: 1.0}, "peak_mb": {bad: 2.0}}
    finding = {"name": bad, "measured": bad, "advice": bad, "ok": False}
    data = {"facts": {bad: bad}, "verdict": bad, "findings": [finding], "segments": [segment]}
    repair = {"shown": [[bad, bad]], "seconds": {bad: 1.0}}
    page = report._page(data | {"input_psnr": 30.0, "repair": repair})
    assert "alert" in page and "<script" not in page and "<img src=x" not in page
