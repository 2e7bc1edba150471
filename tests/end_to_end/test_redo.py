"""A redo begins again at a segment and keeps what was before; the first result is never touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.__main__ import main
from engine.bridge import splat_file
from engine.bridge.errors import UserError
from engine.bridge.variants import folders, job_of, name_of
from engine.commands import view
from engine.job import folder as job_folder
from engine.job import forecast, newest, variants
from engine.media import images
from engine.media.mask import load_mask
from tests.format_samples import ROOT

QUICK = ["--preset", "draft", "--width", "48", "--segment-length", "4", "--overlap", "2"]
QUICK += ["--refine-steps", "12", "--steps", "3", "--move-frames", "10", "--frame-step", "1"]
QUICK += ["--depth", "box", "--prior", "patch", "--device", "cpu"]
SEGMENTS = 4


def _generate(*arguments: object) -> int:
    return main(["generate", *map(str, arguments)])


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A finished job of four segments."""
    home = tmp_path_factory.mktemp("redo")
    y, x = np.mgrid[0:36, 0:48]
    pixels = np.stack([x * 5, y * 7, 128 + 60 * ((x // 6 + y // 6) % 2)], axis=2)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(home / "a.png")
    path = ["--image", home / "a.png", "--path", "truck:1.5"]
    assert _generate(*path, "--out", home / "out", *QUICK) == 0
    assert job_folder.Job(home / "out").finished_segments() == SEGMENTS
    return home / "out"


def _content(folder: Path) -> dict[str, bytes]:
    """All files of a job by name, without its variants."""
    files = {f.relative_to(folder): f for f in folder.rglob("*") if f.is_file()}
    return {n.as_posix(): f.read_bytes() for n, f in files.items() if n.parts[0] != "variants"}


def _same_splats(one: Path, other: Path) -> bool:
    a, b = (splat_file.read_ply(folder / "scene.ply") for folder in (one, other))
    return all(map(np.array_equal, a, b))


def _segment(folder: Path, index: int) -> dict[str, bytes]:
    """The pictures of a segment."""
    content = _content(folder / "segments" / f"{index:03d}")
    return {name: bits for name, bits in content.items() if name.startswith(("frames", "maps"))}


@pytest.mark.parametrize("segment", [2, SEGMENTS])
def test_the_same_seed_gives_the_same_bits_from_there_on(job, segment):
    """Segment 2 begins with Gaussians that the job had dropped: they are learned again."""
    before = _content(job)
    assert _generate("--out", job, "--redo-from", segment, "--seed", 0) == 0
    made = list(folders(job).values())[-1]
    assert made != job and _content(job) == before, "the first result is as it was"
    for index in range(SEGMENTS):
        assert _segment(made, index) == _segment(job, index), index
    assert _same_splats(made, job)
    assert name_of(made) != "v1" and job_folder.Job(made).results() is not None


def test_another_seed_keeps_what_was_before_and_invents_what_comes_after(job):
    before = _content(job)
    used = {job_folder.Job(folder).settings.output.seed for folder in folders(job).values()}
    assert _generate("--out", job, "--redo-from", 3) == 0
    made = list(folders(job).values())[-1]
    seed = job_folder.Job(made).settings.output.seed
    assert seed not in used
    for index in range(SEGMENTS):
        assert (_segment(made, index) == _segment(job, index)) == (index < 2), index
    assert _content(job) == before
    again = list(folders(job))
    assert _generate("--out", job, "--redo-from", 3, "--seed", seed) == 0
    assert list(folders(job)) == again, "asked for again, it is the one that is there"
    # a variant of a variant: its first segments were made with another seed than the third
    assert _generate("--out", made, "--redo-from", 4, "--seed", seed) == 0
    third = list(folders(job).values())[-1]
    assert third.parent == job / "variants" and third != made
    assert job_folder.Job(third).redo().of == made.name
    assert _same_splats(third, made)


def test_a_dry_run_of_a_redo_tells_what_it_would_take_and_makes_nothing(job, tmp_path, capsys):
    before = _content(job), sorted(folders(job))
    mask = _mask(tmp_path / "mask.png", Image.open(job / "frames" / "0008.png").size, (2, 2, 9, 9))
    expected = {}
    for name, given in {
        "late": ["--redo-from", SEGMENTS],
        "early": ["--redo-from", 1],
        "masked": ["--redo-mask", f"8:{mask}", "--seed", 4],
    }.items():
        assert _generate("--out", job, "--dry-run", *given) == 0
        expected[name] = capsys.readouterr().out
        assert expected[name].rstrip().endswith("Nothing was made.")
    assert "redo: v1, begun again at segment 4, with seed" in expected["late"]
    assert "4 segments, 3 of them there already, about" in expected["late"]
    assert "there already" not in expected["early"]
    assert "v1, repainted through a mask of frame 8, with seed 4" in expected["masked"]
    late, early = (
        forecast.dry_run_of_redo(job, variants.Wish({}, segment))[1].estimate.seconds
        for segment in (SEGMENTS, 1)
    )
    assert late < early
    assert _generate("--out", job, "--dry-run", "--redo-from", 9) == 2
    assert "has segments 1 to 4" in capsys.readouterr().err
    assert (_content(job), sorted(folders(job))) == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="sends SIGKILL")
def test_a_redo_that_is_killed_loses_nothing_and_goes_on(job):
    before = _content(job)
    there = set(folders(job))
    redo = ["--out", str(job), "--redo-from", "2", "--seed", "77"]
    with subprocess.Popen(
        [sys.executable, "-m", "engine", "generate", *redo], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        end, made = time.monotonic() + 120, None
        while made is None or job_folder.Job(made).finished_segments() < 2:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
            new = sorted(set(folders(job)) - there)
            made = job / "variants" / new[0] if new else None
        process.send_signal(signal.SIGKILL)
    assert _content(job) == before and job_folder.Job(made).results() is None
    if made is not None:
        with pytest.raises(UserError, match="not finished"):
            variants.plan(made, variants.Wish({}, 3))
    kept = [_content(made / "segments" / f"{index:03d}") for index in range(2)]
    assert _generate(*redo) == 0, "the same command goes on with it"
    assert set(folders(job)) - there == {made.name}
    for index in range(2):
        now = _content(made / "segments" / f"{index:03d}")
        assert all(kept[index][name] == bits for name, bits in now.items()), index
    again = job / "variants" / "v99"  # without a seed too
    shutil.copytree(made, again)
    (again / "scene.ply").unlink()
    record = json.loads((again / "job.json").read_text())
    (again / "job.json").write_text(json.dumps({k: v for k, v in record.items() if k != "results"}))
    assert variants.plan(job, variants.Wish({}, 2)).settings.output.seed == 77
    shutil.rmtree(again)
    stopped = _content(made)
    assert _generate("--out", made, "--resume") == 0 and _content(made).keys() == stopped.keys()
    assert _content(job) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--redo-from", 0], "There is no segment 0"),
        (["--redo-from", 5], "has segments 1 to 4"),
        (["--redo-from", 2, "--resume"], "not with --resume"),
        (["--redo-from", 2, "--restart"], "not with --restart"),
        (["--redo-from", 2, "--image", "a.png"], "not with --image"),
        (["--redo-from", 2, "--width", 64], "keeps the width"),
        (["--redo-from", 2, "--prior", "nonsense"], "Unknown video prior"),
        (["--redo-from", 2, "--prior", "wan_vace_1.3b"], "Weights not found"),
        (["--redo-from", 2, "--seed", -1], "seed"),
    ],
)
def test_what_no_redo_can_be_made_of_is_refused_with_a_remedy(job, capsys, given, said):
    before = _content(job), sorted(folders(job))
    assert _generate("--out", job, *given) == 2
    told = capsys.readouterr().err
    assert said in told and told.count(". ") >= 1, told
    assert (_content(job), sorted(folders(job))) == before


def test_a_job_that_runs_or_is_not_finished_or_of_another_version_is_refused(job, tmp_path, capsys):
    with job_folder.locked(job):
        assert _generate("--out", job, "--redo-from", 2) == 2
        assert "Another engine is working" in capsys.readouterr().err
    assert _generate("--out", tmp_path, "--redo-from", 2) == 2
    assert "holds no job" in capsys.readouterr().err
    copy = tmp_path / "copy"
    shutil.copytree(job, copy, ignore=shutil.ignore_patterns("variants"))
    record = json.loads((copy / "job.json").read_text())
    (copy / "job.json").write_text(json.dumps(record | {"format": 1}))
    assert _generate("--out", copy, "--redo-from", 2) == 2
    assert "another version" in capsys.readouterr().err
    (copy / "job.json").write_text(json.dumps(record))
    frame = copy / "segments" / "000" / "frames" / "0001.png"
    frame.write_bytes(frame.read_bytes() + b"x")
    assert _generate("--out", copy, "--redo-from", 2) == 2
    assert "frames/0001.png of segment 1 has changed" in capsys.readouterr().err
    (copy / "scene.ply").unlink()
    assert _generate("--out", copy, "--redo-from", 2) == 2
    told = capsys.readouterr().err
    assert "not finished" in told and "--resume" in told
    assert list(folders(copy)) == ["v1"]


def test_work_in_a_variant_keeps_others_out_of_the_job_and_it_is_not_begun_anew(job, capsys):
    if len(folders(job)) == 1:
        assert _generate("--out", job, "--redo-from", SEGMENTS, "--seed", 3) == 0
    made = list(folders(job).values())[-1]
    with (
        job_folder.locked(made),
        pytest.raises(UserError, match="Another engine"),
        job_folder.locked(job),
    ):
        pass
    capsys.readouterr()
    assert _generate("--out", made, "--restart") == 2
    assert "is a variant" in capsys.readouterr().err


def test_a_restart_keeps_the_variants_with_the_result_they_came_from(job, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(job, copy, ignore=shutil.ignore_patterns("variants"))
    assert _generate("--out", copy, "--redo-from", SEGMENTS, "--seed", 3) == 0
    old = _content(copy / "variants" / "v2")
    short = ["--move-frames", 4]
    assert _generate("--out", copy, "--restart", *short) == 0
    kept = copy / "earlier" / "001"
    assert list(folders(copy)) == ["v1"] and list(folders(kept)) == ["v1", "v2"]
    assert _content(kept / "variants" / "v2") == old


def _mask(file: Path, size: tuple[int, int], box: tuple[int, int, int, int] | None) -> Path:
    mask = Image.new("L", size)
    if box is not None:
        mask.paste(255, box)
    mask.save(file)
    return file


def _frames(folder: Path) -> list[np.ndarray]:
    return [np.array(Image.open(file)) for file in sorted((folder / "frames").glob("*.png"))]


@pytest.fixture(scope="module")
def repainted(job, tmp_path_factory):
    """A variant repainted through a mask of frame 8, and the mask."""
    size = Image.open(job / "frames" / "0008.png").size
    mask = _mask(tmp_path_factory.mktemp("mask") / "mask.png", size, (51, 24, 56, 38))
    before = _content(job), set(folders(job))
    assert _generate("--out", job, "--redo-mask", f"8:{mask}", "--seed", 11) == 0
    assert _content(job) == before[0], "the first result is as it was"
    (new,) = set(folders(job)) - before[1]
    return folders(job)[new], mask


def test_a_repaint_changes_the_masked_pixels_of_its_frame_and_no_others(job, repainted):
    made, mask = repainted
    old, new, where = _frames(job), _frames(made), np.array(Image.open(mask)) > 0
    assert len(new) == len(old) and np.array_equal(old[8][~where], new[8][~where])
    assert (old[8][where] != new[8][where]).any(axis=1).mean() > 0.5
    assert np.array_equal(old[0], new[0]), "the first frame does not see what is masked"
    report = json.loads((made / "report.json").read_text(encoding="utf-8"))
    assert "through a mask of frame 8" in report["facts"]["repainted"]
    before, after = (json.loads((f / "report.json").read_text()) for f in (job, made))
    assert after["path_psnr"][0] > before["path_psnr"][0] - 1


def test_a_repaint_can_be_repainted_but_not_begun_again_at_a_segment(repainted, capsys):
    made, mask = repainted
    assert _generate("--out", made, "--redo-from", 2) == 2
    assert "repainted through a mask" in capsys.readouterr().err
    assert _generate("--out", made, "--redo-mask", f"8:{mask}") == 0
    again = list(folders(job_of(made)).values())[-1]
    assert job_folder.Job(again).redo().of == made.name
    (made.parent / again.name / "before" / "frames" / "0001.png").write_bytes(b"x")
    (again / "scene.ply").unlink()
    assert _generate("--out", again, "--resume") == 2
    assert "0001.png has changed" in capsys.readouterr().err


def test_the_picture_itself_can_be_repainted_and_its_own_first_frame_is_then_the_measure(
    job, tmp_path
):
    mask = _mask(tmp_path / "mask.png", (56, 40), (20, 10, 36, 28))
    assert _generate("--out", job, "--redo-mask", f"0:{mask}", "--seed", 5) == 0
    made = list(folders(job).values())[-1]
    old, new, where = _frames(job)[0], _frames(made)[0], np.array(Image.open(mask)) > 0
    assert np.array_equal(old[~where], new[~where])
    assert (old[where] != new[where]).any(axis=1).mean() > 0.5
    before, after = (json.loads((f / "report.json").read_text()) for f in (job, made))
    assert after["input_psnr"] == after["path_psnr"][0] > before["input_psnr"] - 6


@pytest.mark.parametrize(
    ("frame", "mask", "said"),
    [
        ("8", (30, 20, (2, 2, 8, 8)), "30x20 pixels, the frames of this job 56x40"),
        ("8", (56, 40, None), "is all black"),
        ("10", (56, 40, (2, 2, 8, 8)), "has frames 0 to 9"),
        ("-1", (56, 40, (2, 2, 8, 8)), "names no frame"),
        ("", (56, 40, (2, 2, 8, 8)), "names no frame"),
        ("8", None, "Check the file's name"),
    ],
)
def test_masks_that_no_repaint_can_be_made_of_are_refused(job, tmp_path, capsys, frame, mask, said):
    before = _content(job), sorted(folders(job))
    file = tmp_path / "mask.png"
    if mask is not None:
        _mask(file, mask[:2], mask[2])
    assert _generate("--out", job, f"--redo-mask={frame}:{file}") == 2
    assert said in capsys.readouterr().err
    assert _generate("--out", job, f"--redo-mask={frame}:{file}", "--redo-from", 2) == 2
    assert "Give one" in capsys.readouterr().err
    assert _generate("--out", job, f"--redo-mask={frame or 8}:{file}", "--prior", "none") == 2
    assert (_content(job), sorted(folders(job))) == before


def test_what_is_transparent_in_a_mask_is_not_marked(tmp_path):
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[5:10, 5:10] = 255
    pixels[:, 20:] = (255, 255, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png")
    assert mask.sum() == 25 and mask[5:10, 5:10].all()


def test_a_mask_of_two_to_one_is_not_taken_for_a_panorama(tmp_path):
    """White within a black rim, twice as wide as high: even along its poles, and without a seam."""
    file = _mask(tmp_path / "mask.png", (128, 64), (40, 20, 90, 50))
    with pytest.raises(UserError, match="panorama"):
        images.load_image(file)
    assert int(load_mask(file).sum()) == 50 * 30


def test_the_variants_stand_side_by_side_in_each_report_and_on_a_page_of_their_own(job):
    prompt = "<script>alert(1)</script> & more"
    assert _generate("--out", job, "--redo-from", SEGMENTS, "--prompt", prompt) == 0
    made = list(folders(job).values())[-1]
    assert job_folder.Job(made).settings.output.seed == 0, "only the prompt was to change"
    for page in (job / "variants" / "index.html", made / "report.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in text
        shown = text[text.index("<h2>Variants</h2>") :].split("<h2>Measures</h2>")[0]
        linked = re.findall(r'(?:src|href)="([^"]+)"', shown)
        names = [name for name, f in folders(job).items() if newest.is_finished(f)]
        assert len(linked) >= 4 * len(names) >= 8
        assert all((page.parent / name).is_file() for name in linked), linked
        assert all(f"{name}, frame 9" in shown for name in names)
    assert "<h2>Variants</h2>" not in (job / "report.html").read_text(encoding="utf-8")


def test_the_viewer_lists_the_variants_of_a_job(job):
    if len(folders(job)) == 1:
        assert _generate("--out", job, "--redo-from", SEGMENTS, "--seed", 3) == 0
    for opened in folders(job).values():
        source = view.open_source(opened, None, None, None, 24)
        listed = view.variants_beside(source)
        assert list(listed)[:2] == ["v1", "v2"] and listed[name_of(opened)] is source
        other = next(one for one in listed.values() if one is not source)
        assert other.state().contents.count > 0
    assert view.variants_beside(view.open_source(job / "scene.ply", None, None, None, 24)) == {}
