"""A redo begins again at a segment and keeps what was before; the first result is never touched."""

from __future__ import annotations

import json
import os
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
from engine.job import folder as job_folder
from engine.job import variants
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
    made = list(variants.folders(job).values())[-1]
    assert made != job and _content(job) == before, "the first result is as it was"
    for index in range(SEGMENTS):
        assert _segment(made, index) == _segment(job, index), index
    assert _same_splats(made, job)
    assert variants.name_of(made) != "v1" and job_folder.Job(made).results() is not None


def test_another_seed_keeps_what_was_before_and_invents_what_comes_after(job):
    before = _content(job)
    assert _generate("--out", job, "--redo-from", 3) == 0
    made = list(variants.folders(job).values())[-1]
    assert job_folder.Job(made).settings.output.seed == 1, "one that no variant has"
    for index in range(SEGMENTS):
        assert (_segment(made, index) == _segment(job, index)) == (index < 2), index
    assert _content(job) == before
    again = list(variants.folders(job))
    assert _generate("--out", job, "--redo-from", 3, "--seed", 1) == 0
    assert list(variants.folders(job)) == again, "asked for again, it is the one that is there"
    # a variant of a variant: its first segments were made with another seed than the third
    assert _generate("--out", made, "--redo-from", 4, "--seed", 1) == 0
    third = list(variants.folders(job).values())[-1]
    assert third.parent == job / "variants" and third != made
    assert job_folder.Job(third).redo().of == made.name
    assert _same_splats(third, made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sends SIGKILL")
def test_a_redo_that_is_killed_loses_nothing_and_goes_on(job):
    before = _content(job)
    there = set(variants.folders(job))
    redo = ["--out", str(job), "--redo-from", "2", "--seed", "77"]
    with subprocess.Popen(
        [sys.executable, "-m", "engine", "generate", *redo], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        end, made = time.monotonic() + 120, None
        while made is None or job_folder.Job(made).finished_segments() < 2:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
            new = sorted(set(variants.folders(job)) - there)
            made = job / "variants" / new[0] if new else None
        process.send_signal(signal.SIGKILL)
    assert _content(job) == before and job_folder.Job(made).results() is None
    if made is not None:
        with pytest.raises(UserError, match="not finished"):
            variants.plan(made, 3, {})
    kept = [_content(made / "segments" / f"{index:03d}") for index in range(2)]
    assert _generate(*redo) == 0, "the same command goes on with it"
    assert set(variants.folders(job)) - there == {made.name}
    for index in range(2):
        now = _content(made / "segments" / f"{index:03d}")
        assert all(kept[index][name] == bits for name, bits in now.items()), index
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
    before = _content(job), sorted(variants.folders(job))
    assert _generate("--out", job, *given) == 2
    told = capsys.readouterr().err
    assert said in told and told.count(". ") >= 1, told
    assert (_content(job), sorted(variants.folders(job))) == before


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
    assert list(variants.folders(copy)) == ["v1"]


def test_work_in_a_variant_keeps_others_out_of_the_job_and_it_is_not_begun_anew(job, capsys):
    if len(variants.folders(job)) == 1:
        assert _generate("--out", job, "--redo-from", SEGMENTS, "--seed", 3) == 0
    made = list(variants.folders(job).values())[-1]
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
    assert list(variants.folders(copy)) == ["v1"] and list(variants.folders(kept)) == ["v1", "v2"]
    assert _content(kept / "variants" / "v2") == old
