"""Many jobs in real processes: done, failed, killed, resumed; here and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engine import formats
from engine.bridge.errors import UserError
from engine.formats import SplatScene
from engine.service import batch
from tests.format_samples import ROOT, random_splats


def _batch(tmp_path: Path, *jobs, **defaults) -> Path:
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"defaults": defaults, "jobs": list(jobs)}))
    return path


def _rehearsal(name: str, **settings):
    return {"name": name, "kind": "rehearsal", "settings": settings}


def _command(path: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", "batch", str(path), "--out", str(out), *more]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def _starts(folder: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in (folder / batch.ATTEMPTS).read_text().splitlines()]
    except OSError:
        return []


def _kill_when_started(folder: Path, limit_s: float = 120) -> threading.Thread:
    """Kill the first worker of a job hard, in mid job."""

    def wait_and_kill() -> None:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            starts = _starts(folder)
            if starts:
                time.sleep(0.5)
                os.kill(starts[0]["pid"], signal.SIGKILL)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def test_every_job_gets_one_outcome_and_the_table_tells(tmp_path):
    formats.write(tmp_path / "a.ply", SplatScene(random_splats(10, 0)))
    path = _batch(
        tmp_path,
        _rehearsal("fine", steps=2),
        _rehearsal("user_error", end="user_error"),
        _rehearsal("bug", end="bug"),
        {"name": "to_spz", "kind": "convert", "settings": {"input": "a.ply", "output": "a.spz"}},
        {"name": "no_image", "image": "missing.png", "path": "dolly:1.0"},
    )
    done = _command(path, tmp_path / "out", "--workers", "2")
    assert done.returncode == 1, done.stderr
    results = {o["name"]: o for o in json.loads((tmp_path / "out" / "results.json").read_text())}
    assert {n: o["status"] for n, o in results.items()} == {
        "fine": "done",
        "user_error": "failed",
        "bug": "failed",
        "to_spz": "done",
        "no_image": "failed",
    }
    assert formats.read(tmp_path / "out" / "to_spz" / "a.spz").count == 10
    assert "missing.png" in results["no_image"]["error"]
    assert done.stdout == (tmp_path / "out" / "results.md").read_text()
    assert all(f"| {name} |" in done.stdout for name in results)


def test_a_second_run_does_only_what_is_left(tmp_path):
    out = tmp_path / "out"
    path = _batch(tmp_path, _rehearsal("a", steps=1), _rehearsal("b", steps=1))
    requests = batch.read(path)
    assert [o.status for o in batch.run(requests, out)] == ["done", "done"]
    stamps = {r.name: (out / r.name / batch.OUTCOME).stat().st_mtime_ns for r in requests}
    changed = batch.read(_batch(tmp_path, _rehearsal("a", steps=1), _rehearsal("b", steps=2)))
    assert [o.status for o in batch.run(changed, out)] == ["done", "done"]
    assert (out / "a" / batch.OUTCOME).stat().st_mtime_ns == stamps["a"]
    assert (out / "b" / batch.OUTCOME).stat().st_mtime_ns != stamps["b"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is needed")
def test_a_killed_process_is_replaced(tmp_path):
    out = tmp_path / "out"
    requests = batch.read(_batch(tmp_path, _rehearsal("victim", steps=60, step_s=0.05)))
    killer = _kill_when_started(out / "victim")
    outcomes = list(batch.run(requests, out))
    killer.join(5)
    assert [(o.status, o.attempts) for o in outcomes] == [("done", 2)]
    pids = [s["pid"] for s in _starts(out / "victim")]
    assert len(set(pids)) == 2


def test_a_job_that_always_dies_is_given_up_and_the_others_go_on(tmp_path):
    requests = batch.read(
        _batch(tmp_path, _rehearsal("dies", end="abort", steps=1), _rehearsal("lives", steps=1))
    )
    outcomes = {o.name: o for o in batch.run(requests, tmp_path / "out", retries=1)}
    assert outcomes["dies"].status == "lost" and outcomes["dies"].attempts == 2
    assert outcomes["lives"].status == "done"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is needed")
def test_ray_replaces_a_killed_worker(tmp_path):
    """Two workers on this machine, one killed in mid job: its job ends on another worker."""
    pytest.importorskip("ray", reason="Ray is not installed")
    if any(letter.isspace() for letter in sys.executable):
        pytest.skip("Ray needs an environment without a space in its path")
    out = tmp_path / "out"
    path = _batch(
        tmp_path,
        _rehearsal("victim", steps=80, step_s=0.05),
        _rehearsal("other", steps=20, step_s=0.05),
        _rehearsal("third", steps=2),
    )
    killer = _kill_when_started(out / "victim")
    done = _command(path, out, "--ray", "local", "--workers", "2")
    killer.join(5)
    assert done.returncode == 0, done.stderr + done.stdout
    starts = _starts(out / "victim")
    assert len(starts) == 2 and starts[0]["pid"] != starts[1]["pid"]
    assert all((out / name / "result.txt").read_text() for name in ("victim", "other", "third"))
    assert {o["name"]: o["attempts"] for o in json.loads((out / "results.json").read_text())}[
        "victim"
    ] == 2


@pytest.mark.slow
def test_a_real_scene_is_generated_and_found_done_later(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    settings = {"width": 64, "refine_steps": 2, "segment_length": 3, "overlap": 1, "frame_step": 4}
    path = _batch(
        tmp_path,
        {
            "name": "shot_010",
            "image": "a.png",
            "path": "dolly:0.3",
            "preset": "draft",
            "settings": settings,
        },
    )
    first = _command(path, tmp_path / "out")
    assert first.returncode == 0, first.stderr + first.stdout
    assert (tmp_path / "out" / "shot_010" / "scene.ply").is_file()
    stamp = (tmp_path / "out" / "shot_010" / "scene.ply").stat().st_mtime_ns
    again = _command(path, tmp_path / "out")
    assert (
        again.returncode == 0
        and (tmp_path / "out" / "shot_010" / "scene.ply").stat().st_mtime_ns == stamp
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"jobs": []}',
        '{"jobs": [1]}',
        '{"jobs": [{"name": "../x", "image": "a"}]}',
        '{"jobs": [{"name": "a"}]}',
        '{"jobs": [{"name": "a", "kind": "paint"}]}',
        '{"jobs": [{"name": "a", "image": "i"}, {"name": "A", "image": "i"}]}',
        '{"jobs": [{"name": "a", "image": "i", "gpu": 1}]}',
    ],
)
def test_a_batch_file_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "jobs.json").write_text(text)
    with pytest.raises(UserError):
        batch.read(tmp_path / "jobs.json")


def test_files_of_a_job_are_looked_for_beside_the_batch_file(tmp_path):
    (tmp_path / "first.ply").write_bytes(b"")
    job = {
        "name": "a",
        "image": "a.png",
        "settings": {"initialiser": "first.ply", "depth": "moge_2"},
    }
    found = batch.read(_batch(tmp_path, job))[0].settings
    assert (
        found["initialiser"] == str(tmp_path.resolve() / "first.ply") and found["depth"] == "moge_2"
    )


def test_ray_is_refused_where_it_would_wait_for_ever(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(sys, "executable", "/opt/my engine/bin/python")
    requests = batch.read(_batch(tmp_path, _rehearsal("one", steps=1)))
    with pytest.raises(UserError, match="space"):
        list(batch.run(requests, tmp_path / "out", ray="local", workers=1))
