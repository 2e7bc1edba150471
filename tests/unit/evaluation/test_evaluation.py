"""The evaluation measures what it says: metrics against other implementations, scenes against their
own geometry.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from engine.bridge.errors import UserError  # noqa: E402
from engine.commands import evaluate  # noqa: E402
from engine.evaluation import against_truth, experiments, runner, scenes, tables  # noqa: E402
from engine.job import frame_quality  # noqa: E402
from engine.media import images  # noqa: E402
from engine.models import weights  # noqa: E402
from tests import tiny_models  # noqa: E402

SCENES = evaluate.SCENES
NAMES = sorted(p.name for p in SCENES.iterdir())


def _pair(seed: int = 0, size: tuple[int, int] = (40, 56)) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(3, *size, generator=draw)
    truth = torch.nn.functional.avg_pool2d(truth[None], 5, 1, 2, count_include_pad=False)[0]
    return (truth + 0.1 * torch.randn(truth.shape, generator=draw)).clamp(0, 1), truth


def test_ssim_is_that_of_scikit_image():
    image, truth = _pair()
    theirs = structural_similarity(
        image.numpy().astype(np.float64),
        truth.numpy().astype(np.float64),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert against_truth.ssim(image, truth) == pytest.approx(theirs, abs=1e-5)


def test_measures_of_equal_pictures_are_perfect_and_get_worse_with_damage():
    image, truth = _pair()
    everywhere = torch.ones(truth.shape[1:], dtype=torch.bool)
    same = against_truth.frame_measures(truth, truth, everywhere)
    assert (
        same["ssim"] == pytest.approx(1.0, abs=1e-5)
        and same["structure"] == 0.0
        and same["psnr"] == 99.0
    )
    assert math.isnan(same["psnr_invented"]) and same["invented_share"] == 0.0
    damage = [against_truth.structure(torch.lerp(truth, image, x), truth) for x in (0.0, 0.3, 1.0)]
    assert damage[0] < damage[1] < damage[2] < 1.0


def test_structure_sees_blur_that_keeps_the_mean_and_not_a_change_of_brightness():
    _, truth = _pair(1)
    blurred = torch.nn.functional.avg_pool2d(truth[None], 9, 1, 4, count_include_pad=False)[0]
    assert against_truth.structure(blurred, truth) > 0.05
    assert against_truth.structure(truth * 0.5 + 0.2, truth * 0.5 + 0.25) < 1e-3


def test_seen_and_invented_share_out_the_frame():
    image, truth = _pair(2)
    seen = torch.zeros(truth.shape[1:], dtype=torch.bool)
    seen[:, :20] = True
    image[:, :, :20] = truth[:, :, :20]
    found = against_truth.frame_measures(image, truth, seen)
    assert found["psnr_seen"] == 99.0
    error = float((image - truth)[:, :, 20:].square().mean())
    assert found["psnr_invented"] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    assert found["invented_share"] == pytest.approx(36 / 56)
    # what is wrong only at the edge is not seen with the edge cropped
    border = truth.clone()
    border[:, :2] = 0.0
    assert against_truth.frame_measures(border, truth, seen)["psnr"] < 30
    assert against_truth.frame_measures(border, truth, seen, border=0.05)["psnr"] == 99.0


def test_smooth_fill_keeps_what_is_there_and_continues_a_ramp():
    ramp = torch.linspace(0, 1, 64).expand(3, 48, 64).contiguous()
    alpha = torch.ones(48, 64)
    alpha[10:30, 20:40] = 0.0
    filled = against_truth.fill_smoothly(ramp * alpha, alpha)
    assert torch.equal(filled[:, alpha > 0.5], ramp[:, alpha > 0.5])
    assert float((filled - ramp).abs().max()) < 0.15
    flat = against_truth.fill_smoothly(torch.full((3, 48, 64), 0.4) * alpha, alpha)
    assert torch.allclose(flat, torch.full_like(flat, 0.4), atol=1e-5)


def _points_of(view: scenes.View) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    K = torch.from_numpy(view.path.K).float()
    cameras = torch.from_numpy(np.linalg.inv(view.path.world_from_camera)).float()
    return images.load_image(view.image).pixels, torch.from_numpy(view.depth_m), K, cameras


@pytest.mark.parametrize("name", NAMES)
def test_depth_cameras_and_masks_of_a_shipped_scene_agree_with_its_pictures(name):
    """Each true frame's seen pixels, found through the input's depth alone, have the input's
    colours.
    """
    view = scenes.load_scene(SCENES / name, "small")
    image, depth, K, cameras = _points_of(view)
    depth = torch.where(torch.isfinite(depth), depth, torch.tensor(1e4))
    h, w = depth.shape
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    rays = torch.linalg.inv(K[0]) @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    world = torch.linalg.inv(cameras[0]) @ torch.cat([rays * depth.flatten(), torch.ones(1, h * w)])
    frame = 12
    local = (cameras[frame] @ world)[:3]
    uv = (K[frame] @ local)[:2] / local[2].clamp(min=1e-3)
    truth = images.load_image(view.truth[frame]).pixels
    seen = images.load_image(view.seen[frame]).pixels[0] > 0.5
    column, row = uv[0].floor().long(), uv[1].floor().long()
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h) & (local[2] > 0)
    # points that lie behind nearer ones are not in the picture: keep the nearest of every pixel
    nearest = torch.full((h * w,), torch.inf).scatter_reduce(
        0, (row * w + column)[inside], local[2][inside], "amin"
    )
    front = inside.clone()
    front[inside] = local[2][inside] < 1.02 * nearest[(row * w + column)[inside]]
    hit = torch.zeros(h * w, dtype=torch.bool)
    hit[(row * w + column)[front]] = True
    assert float(seen.flatten()[hit].float().mean()) > 0.9, (
        "pixels that the input's surface reaches are marked as seen"
    )
    there = truth[:, row[front], column[front]]
    error = (there - image.flatten(1)[:, front]).abs().mean(dim=0)
    still = (truth.flatten(1)[:, front] - image.flatten(1)[:, front]).abs().mean()
    assert float(error.median()) < 0.03
    assert float(error.mean()) < float(still), "nearer than the picture without the cameras"


def test_a_warp_by_true_depth_agrees_and_by_wrong_cameras_does_not():
    view = scenes.load_scene(SCENES / "room", "small")
    image, depth, K, cameras = _points_of(view)
    same, moved = frame_quality.Agreement(), frame_quality.Agreement()
    for agreement, second in ((same, 0), (moved, 12)):
        for camera in (0, second):
            agreement.add(image, depth, K[camera], cameras[camera])
    assert same.psnr > 60 and same.share > 0.95
    assert moved.psnr < 30


def test_paths_begin_at_the_input_and_grow():
    for name in NAMES:
        shares = {}
        for path in ("small", "medium", "hard"):
            view = scenes.load_scene(SCENES / name, path)
            pictures = set(range(1, 13)) if path == "medium" else {4, 8, 12}
            assert set(view.truth) == pictures and view.path.count == 13
            assert set(view.seen) == {4, 8, 12}
            masks = [images.load_image(file).pixels[0] for file in view.seen.values()]
            shares[path] = 1.0 - float(masks[-1].mean())
        assert shares["small"] < shares["medium"] <= shares["hard"] + 0.02, name


def test_folders_are_found_and_others_refused(tmp_path):
    assert [p.name for p in scenes.find([SCENES])] == NAMES
    with pytest.raises(UserError, match="holds no scenes"):
        scenes.find([tmp_path])
    with pytest.raises(UserError, match="has no path"):
        scenes.load_scene(SCENES / "room", "beyond")


def test_a_posed_set_is_one_view(shared_data):
    view = scenes.load(shared_data / "posed" / "dining_rgbd", path="posed", views=2, frames=9)
    assert view.path.count == 9 and sorted(view.truth) == [4, 8] and not view.seen
    assert np.isfinite(view.depth_m).all() and view.depth_m.min() > 0


def test_tables_compare_only_views_that_have_every_variant():
    def row(view: str, variant: str, psnr: float) -> dict[str, object]:
        values = {
            "psnr": psnr,
            "psnr_seen": psnr,
            "psnr_invented": psnr,
            "ssim": 0.5,
            "structure_invented": 0.1,
            "detail_invented": 1.0,
        }
        return {
            "view": view,
            "path": "medium",
            "seed": 0,
            "variant": variant,
            "cropped": values,
            **values,
        }

    rows = [
        row("a", "full", 20.0),
        row("a", "other", 10.0),
        row("b", "full", 22.0),
        row("b", "other", 14.0),
        row("c", "full", 90.0),
    ]
    text = tables.main_table(rows)
    assert "| full | 21.00 |" in text and "| other | 12.00 |" in text and "2 views, seed 0" in text
    rows.append({**row("a", "full", 30.0), "seed": 1})
    assert "| full | 22.00 |" not in tables.main_table(rows), (
        "a has no second seed of the other variant: nothing is complete"
    )
    rows += [
        {**row("a", "other", 12.0), "seed": 1},
        {**row("b", "full", 24.0), "seed": 1},
        {**row("b", "other", 16.0), "seed": 1},
    ]
    assert "| full | 24.00 |" in tables.main_table(rows) and "seeds 0 and 1" in tables.main_table(
        rows
    )
    assert tables.means([{"psnr": 1.0}, {"psnr": None}])["psnr"] == 1.0


def test_noise_is_the_largest_difference_between_seeds():
    def row(view: str, seed: int, psnr: float) -> dict[str, object]:
        return {"view": view, "path": "medium", "seed": seed, "variant": "full", "psnr": psnr}

    text = tables.noise_table(
        [row("a", 0, 20.0), row("a", 1, 21.0), row("b", 0, 24.0), row("b", 1, 22.0)]
    )
    assert "| full | 0.50 | 2.00 |" in text
    assert tables.noise_table([row("a", 0, 20.0)]) == ""


def test_an_experiment_says_which_views_and_seeds_it_takes():
    folders = scenes.find([SCENES])
    chosen = experiments.Experiment("?", {"one": {}}, views=("room",), seeds=(3, 4))
    assert [(f.name, seed) for f, _, seed, _ in experiments.runs(folders, chosen)] == [
        ("room", 3),
        ("room", 4),
    ]
    other = list(experiments.runs(folders, chosen, views=["desk", "night"], seeds=[5]))
    assert [(f.name, seed) for f, _, seed, _ in other] == [("desk", 5), ("night", 5)]
    for name, experiment in experiments.EXPERIMENTS.items():
        assert set(experiment.views) <= set(NAMES), name


def test_range_ends_at_the_first_frame_that_is_lost():
    frames = [
        {"invented_share": s, "psnr_invented": p}
        for s, p in ((0.1, 25.0), (0.2, 16.0), (0.3, 12.0), (0.4, 19.0))
    ]
    text = tables.range_table([{"view": "a", "path": "hard", "variant": "full", "frames": frames}])
    assert "| a | 20% | 40% |" in text
    frames.insert(0, {"invented_share": 0.0, "psnr_invented": None})  # it invents nothing
    again = tables.range_table([{"view": "a", "path": "hard", "variant": "full", "frames": frames}])
    assert again == text


def test_the_commands_names_are_the_experiments():
    assert set(evaluate.NAMES) == set(experiments.EXPERIMENTS)
    from engine.bridge import settings

    for experiment in experiments.EXPERIMENTS.values():
        for overrides in experiment.variants.values():
            settings.make(
                "draft",
                **{
                    k: v
                    for k, v in {**experiment.settings, **overrides}.items()
                    if k not in runner.BESIDE
                },
            )


def test_one_real_run_writes_tables_that_can_be_added_to(tmp_path):
    import argparse

    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    words = ["--experiment", "ablation", "--seeds", "0", "1", "--only", "studio"]
    words += ["--width", "48", "--steps", "2", "--refine-steps", "4", "--out", str(tmp_path)]
    assert evaluate.run(parser.parse_args(words)) == 0
    data = json.loads((tmp_path / "ablation.json").read_text())
    assert [row["seed"] for row in data["rows"]] == [0] * 5 + [1] * 5
    by_variant = {row["variant"]: row for row in data["rows"]}
    assert set(by_variant) == {
        *experiments.EXPERIMENTS["ablation"].variants,
        "without diffusion" + runner.FILLED,
    }
    assert by_variant["full"]["psnr"] > by_variant["without diffusion"]["psnr"] + 1.5
    text = (tmp_path / "ablation.md").read_text()
    assert (
        (tmp_path / "ablation.png").is_file() and "paper's PSNR" in text and "Seeds: 0, 1." in text
    )
    assert "PSNR between seeds" in text and "a segment's seconds" in text
    frame = by_variant["full"]["frames"][0]
    assert by_variant["full"]["cropped"]["psnr"] != frame["psnr"]
    before = (tmp_path / "ablation.json").read_text()
    assert evaluate.run(parser.parse_args(words)) == 0  # nothing is run twice
    assert json.loads((tmp_path / "ablation.json").read_text())["rows"] == data["rows"], before[
        :100
    ]
    with pytest.raises(UserError, match="other settings"):
        evaluate.run(parser.parse_args([*words, "--frames", "5"]))


def test_a_finishers_scene_is_measured_beside_the_one_that_it_repaired(tmp_path, monkeypatch):
    """The same run twice: as its segments left it, which is what it is without a finisher, and
    repaired.
    """
    import argparse

    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "weights"))
    words = ["--experiment", "view_range", "--only", "studio", "--width", "48", "--steps", "1"]
    words += ["--refine-steps", "2", "--fresh"]
    chosen = experiments.EXPERIMENTS["view_range"]
    one = chosen._replace(variants={"full": {"finisher_steps": 4}}, paths=("small",))
    monkeypatch.setitem(experiments.EXPERIMENTS, "view_range", one)
    with pytest.raises(UserError, match="Difix"):
        evaluate.run(parser.parse_args([*words, "--finisher", "difix", "--out", str(tmp_path)]))
    tiny_models.save_difix(tmp_path / "weights" / "difix")
    found = {}
    for name in ("none", "difix"):
        out = tmp_path / name
        assert evaluate.run(parser.parse_args([*words, "--finisher", name, "--out", str(out)])) == 0
        rows = json.loads((out / "view_range.json").read_text())["rows"]
        found[name] = {row["variant"]: row for row in rows}
    assert set(found["none"]) == {"full"} and set(found["difix"]) == {"full", "full, then difix"}
    before, after = found["difix"].values()
    assert before["psnr"] == found["none"]["full"]["psnr"] != after["psnr"]
    assert before["frames_invented"] == after["frames_invented"]  # those of the prior
    page = (tmp_path / "difix" / "view_range.md").read_text()
    assert "finisher difix" in page and "| full, then difix |" in page


def test_the_readme_shows_only_numbers_that_the_command_wrote():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == tables.with_main_table(readme, evaluate.RECORD), (
        "run python -m engine evaluate --out docs/evaluation"
    )
    section = readme.split("## Does it work?")[1].split("\n## ")[0]
    prose = section.split("<!-- evaluation -->")[0] + section.split("<!-- /evaluation -->")[1]
    assert not re.findall(r"\d+\.\d", prose), "results belong into the table"


def test_the_record_quotes_only_numbers_of_its_pages():
    record = (evaluate.RECORD / "README.md").read_text(encoding="utf-8")
    pages = "\n".join(
        page.read_text(encoding="utf-8")
        for page in evaluate.RECORD.glob("*.md")
        if page.name != "README.md"
    )
    quoted = record.split("## The scenes")[1].split("## Tried")[
        0
    ]  # before: settings; after: trials that have no page
    numbers = set(re.findall(r"(?<![\w.])\d+\.\d+", quoted))
    assert len(numbers) > 20
    assert not {number for number in numbers if number not in pages}
