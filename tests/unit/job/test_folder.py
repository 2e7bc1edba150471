"""A job folder never loses finished work, never mixes two jobs, and never shows half a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.bridge import settings
from engine.bridge.errors import UserError
from engine.job import folder as job_module
from engine.scene.gaussians import Gaussians

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "photo.PNG").write_bytes(b"picture")
    (tmp_path / "p.json").write_text("{}")
    return {"image": tmp_path / "photo.PNG", "path": tmp_path / "p.json"}


def _prepare(tmp_path, inputs, *, resume=False, **values):
    return job_module.prepare(
        tmp_path / "out ä", settings.make("draft", **values), inputs, resume=resume
    )


def test_inputs_are_copied_and_settings_read_back(tmp_path, inputs):
    job = _prepare(tmp_path, inputs, lambda_0=0.5)
    assert job.image.read_bytes() == b"picture"
    assert job.image.name == "image.png"
    assert job.settings == settings.make("draft", lambda_0=0.5)


def test_a_second_job_does_not_overwrite_the_first(tmp_path, inputs):
    with _prepare(tmp_path, inputs).new_segment(0):
        pass
    with pytest.raises(UserError, match="already holds a job"):
        _prepare(tmp_path, inputs)


def test_a_job_that_never_got_anywhere_can_be_started_anew(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    job.start()
    with job.locked(), pytest.raises(UserError, match="Another engine"):
        _prepare(tmp_path, inputs, seed=3)
    assert _prepare(tmp_path, inputs, seed=3).settings.output.seed == 3


def test_resume_with_other_settings_is_refused(tmp_path, inputs):
    _prepare(tmp_path, inputs)
    assert _prepare(tmp_path, inputs, resume=True).settings.output.seed == 0
    with pytest.raises(UserError, match="other settings"):
        _prepare(tmp_path, inputs, resume=True, seed=4)


def test_a_folder_of_the_user_is_left_alone(tmp_path, inputs):
    (tmp_path / "out ä").mkdir()
    (tmp_path / "out ä" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        _prepare(tmp_path, inputs)
    assert [f.name for f in (tmp_path / "out ä").iterdir()] == ["thesis.txt"]


def test_finished_segments_of_other_inputs_are_refused(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    job.start()
    with job.new_segment(0) as folder:
        (folder / "x").write_text("x")
    job.image.write_bytes(b"another picture")
    with pytest.raises(UserError, match="other settings or inputs"):
        job.start()


def test_a_job_of_an_older_engine_can_be_resumed(tmp_path, inputs):
    """Its settings.json lacks what has been added since; its job.json names no models."""
    folder = _prepare(tmp_path, inputs, prior="patch", depth="box").folder
    written = json.loads((folder / "settings.json").read_text())
    del written["video"]["licences"]
    (folder / "settings.json").write_text(json.dumps(written))
    job = job_module.Job(folder)
    (folder / "job.json").write_text(json.dumps({"format": 1, "fingerprint": job.fingerprint()}))
    with job.new_segment(0):
        pass
    again = job_module.Job(folder)
    again.start()
    assert again.settings.video.licences == "any" and again.models() == {}


def test_the_models_of_finished_segments_are_kept(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    job.start()
    job.keep_models({"prior": "patch", "depth": "box"})
    assert job.models() == {}  # nothing is made with them yet
    with job.new_segment(0):
        pass
    again = job_module.Job(job.folder)
    again.start()
    assert again.models() == {"prior": "patch", "depth": "box"}
    assert json.loads((job.folder / "job.json").read_text())["fingerprint"] == job.fingerprint()


def test_a_segment_appears_whole_or_not_at_all(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    with pytest.raises(RuntimeError), job.new_segment(0) as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert job.finished_segments() == 0
    with job.new_segment(0) as folder:
        assert not list(folder.iterdir()), "leftovers of the broken try"
        (folder / "x").write_text("whole")
    assert job.finished_segments() == 1
    assert (job.segment_folder(0) / "x").read_text() == "whole"


def test_a_gap_ends_the_finished_segments(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    for index in (0, 2):
        with job.new_segment(index):
            pass
    assert job.finished_segments() == 1


def test_atomic_keeps_the_old_file_when_the_writer_fails(tmp_path):
    target = tmp_path / "scene.ply"
    target.write_text("old")
    with pytest.raises(RuntimeError), job_module.atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["scene.ply"]


def test_two_engines_cannot_work_in_one_folder_and_a_dead_one_frees_it(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    program = (
        "import sys, pathlib; from engine.job.folder import Job\n"
        "with Job(pathlib.Path(sys.argv[1])).locked():\n print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(job.folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another engine"), job.locked():
            pass
        other.kill()
        other.wait()
    with job.locked():
        pass


def test_damaged_settings_are_named(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    (job.folder / "settings.json").write_text('{"path": ')
    with pytest.raises(UserError, match=r"settings\.json is not valid JSON"):
        job_module.Job(job.folder)


def test_gaussians_come_back_to_the_bit(tmp_path):
    made = Gaussians(*(torch.randn(7, *rest) for rest in ((3,), (4,), (3,), (), (3,), (15, 3))))
    job_module.save_gaussians(tmp_path / "g.npz", made)
    for a, b in zip(
        made, job_module.load_gaussians(tmp_path / "g.npz", torch.device("cpu")), strict=True
    ):
        assert torch.equal(a, b)


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        job_module.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_written_json_is_json(tmp_path):
    job_module.write_json(tmp_path / "a.json", {"x": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, None]}
