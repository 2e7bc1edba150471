"""What a kill, a rival or a changed input must never do. The long form is benchmarks/kills.py."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.__main__ import main
from engine.bridge.client import EngineClient
from engine.bridge.protocol import Hello, Progress, Start
from engine.job import folder as job_folder
from engine.service import batch
from tests.format_samples import ROOT

linux = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, and sends SIGKILL")
TINY = ["--preset", "draft", "--width", "48", "--segment-length", "3", "--overlap", "1"]
TINY += ["--refine-steps", "2", "--steps", "2", "--move-frames", "3", "--frame-step", "1"]
TINY += ["--depth", "box", "--prior", "patch", "--device", "cpu"]
SETTINGS = {"width": 48, "segment_length": 3, "overlap": 1, "refine_steps": 2, "steps": 2}
SETTINGS |= {"move_frames": 3, "frame_step": 1, "depth": "box", "prior": "patch"}


def _picture(file: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (36, 48, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def _generate(*arguments: object) -> int:
    return main(["generate", *map(str, arguments)])


@linux
@pytest.mark.parametrize(
    ("kind", "step", "least"), [("prepare", 1, 12), ("restart", 8, 3), ("redo", 12, 3)]
)
def test_a_kill_at_any_file_operation_of_the_preparation_loses_nothing(kind, step, least):
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), kind, str(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == found["tries"] >= least, found
    assert found["lost"] == found["refused"] == found["left"] == 0, found["notes"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a picture and a finished job of it in out/."""
    home = tmp_path_factory.mktemp("finished")
    picture = _picture(home / "a.png", 0)
    assert _generate("--image", picture, "--path", "truck:1.0", "--out", home / "out", *TINY) == 0
    return home


def _content(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in files}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--image", "b.png"], "the picture"),
        (["--path", "orbit:20"], "the camera path"),
        (["--seed", "5"], "seed (5, was 0)"),
        (["--preset", "standard"], "width (512, was 48)"),
        (["--depth", "d.npy"], "the depth map"),
    ],
)
def test_a_resume_refuses_what_has_changed(finished, capsys, monkeypatch, given, named):
    monkeypatch.chdir(finished)
    _picture(finished / "b.png", 1)
    np.save(finished / "d.npy", np.linspace(1, 9, 36 * 48, dtype=np.float32).reshape(36, 48))
    before = _content(finished / "out")
    assert _generate("--out", "out", "--resume", *given) == 2
    assert _content(finished / "out") == before
    said = capsys.readouterr().err
    assert named in said and "--restart" in said


def test_a_finished_job_is_not_made_twice_but_a_lost_result_is(finished, capsys):
    scene = finished / "out" / "scene.ply"
    stamp, bits = scene.stat().st_mtime_ns, scene.read_bytes()
    assert _generate("--out", finished / "out", "--resume") == 0
    same = ["--image", finished / "a.png", "--path", "truck:1.0", *TINY]
    assert _generate(*same, "--out", finished / "out", "--resume") == 0
    assert scene.stat().st_mtime_ns == stamp
    scene.unlink()
    assert _generate("--out", finished / "out", "--resume") == 0
    assert scene.read_bytes() == bits and f"scene: {scene}" in capsys.readouterr().out


def test_a_full_disk_says_what_to_do_and_costs_no_finished_segment(
    tmp_path, monkeypatch, capsys, finished
):
    """The disk is full at the first map of the second segment, and has room again afterwards."""
    save, wanted = Image.Image.save, Path("segments/.001.partial/maps")

    def full(image: Image.Image, file: object, *rest: object, **named: object) -> None:
        if Path(str(file)).parent.parts[-3:] == wanted.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        save(image, file, *rest, **named)

    more = ["--move-frames", "5", "--out", tmp_path / "out"]
    given = ["--image", finished / "a.png", "--path", "truck:1.0", *TINY, *more]
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        assert _generate(*given) == 2
    said = capsys.readouterr().err
    assert "No space left" in said and "goes on from its last finished segment" in said
    first = tmp_path / "out" / "segments" / "000" / "stats.json"
    before = first.stat().st_mtime_ns
    assert _generate("--out", tmp_path / "out", "--resume") == 0
    assert first.stat().st_mtime_ns == before


@pytest.mark.slow
@linux
def test_of_two_jobs_that_begin_in_one_folder_one_is_made(tmp_path):
    pictures = [_picture(tmp_path / f"{seed}.png", seed) for seed in (1, 2)]
    command = [sys.executable, "-m", "engine", "generate", "--path", "truck:1.0", *TINY]
    both = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / "out"), "--image", str(picture)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for picture in pictures
    ]
    codes = [process.wait(300) for process in both]
    assert sorted(codes) == [0, 2]
    winner = pictures[codes.index(0)]
    assert job_folder.Job(tmp_path / "out").image.read_bytes() == winner.read_bytes()


def _batch(folder: Path, *jobs: dict) -> list[batch.Request]:
    (folder / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    return batch.read(folder / "jobs.json")


@pytest.mark.slow
def test_a_batch_knows_its_jobs_by_content(tmp_path):
    picture, out = _picture(tmp_path / "a.png", 0), tmp_path / "out"
    job = {"name": "a", "image": "a.png", "path": "truck:1.0", "preset": "draft"}
    job["settings"] = SETTINGS
    assert [o.status for o in batch.run(_batch(tmp_path, job), out)] == ["done"]
    scene = (out / "a" / "scene.ply").read_bytes()

    _picture(picture, 1)  # other bytes under the same name
    (changed,) = batch.run(_batch(tmp_path, job), out)
    assert changed.status == "failed" and "the picture" in changed.error
    assert "--restart" in changed.error and (out / "a" / "scene.ply").read_bytes() == scene

    (anew,) = batch.run(_batch(tmp_path, job), out, restart=True)
    assert anew.status == "done" and (out / "a" / "scene.ply").read_bytes() != scene
    assert (out / "a" / "earlier" / "001" / "scene.ply").read_bytes() == scene


def test_outputs_that_are_gone_are_made_again(tmp_path):
    requests = _batch(tmp_path, {"name": "r", "kind": "rehearsal", "settings": {"steps": 1}})
    out = tmp_path / "out"
    assert [o.status for o in batch.run(requests, out)] == ["done"]
    assert batch.finished(out / "r", requests[0]) is not None
    (out / "r" / "result.txt").write_text("somebody's")
    assert batch.finished(out / "r", requests[0]) is None
    assert [o.status for o in batch.run(requests, out)] == ["done"]
    assert (out / "r" / "result.txt").read_text() == "1 steps\n"


def _wait_for(condition, seconds: float = 120.0) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, "waited too long"
        time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_the_workers_of_a_killed_batch_end_with_it(tmp_path):
    hang = {"kind": "rehearsal", "settings": {"end": "hang", "steps": 1}}
    _batch(tmp_path, {"name": "a", **hang}, {"name": "b", **hang})
    out = tmp_path / "out"
    command = [sys.executable, "-m", "engine", "batch", str(tmp_path / "jobs.json")]
    parent = subprocess.Popen(
        [*command, "--out", str(out), "--workers", "2"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    starts = [out / name / batch.ATTEMPTS for name in ("a", "b")]
    _wait_for(lambda: all(s.is_file() and s.read_text().endswith("\n") for s in starts))
    workers = [json.loads(s.read_text().splitlines()[0])["pid"] for s in starts]
    assert all(map(_runs, workers))
    parent.kill()
    parent.wait()
    _wait_for(lambda: not any(map(_runs, workers)), 30)  # they would hang for ever


@pytest.mark.slow
def test_the_engine_is_gone_when_its_pipe_ends_in_a_real_job(tmp_path):
    picture = _picture(tmp_path / "a.png", 0)
    with job_folder.locked(tmp_path / "out"):
        pass
    from engine.job import run

    with run.prepared_job(
        tmp_path / "out", picture, "truck:1.0", "draft", {**SETTINGS, "refine_steps": 5000}
    ):
        pass
    client = EngineClient.start(sys.executable, ROOT)
    seen: list[object] = []

    def arrived(kind: type, stage: str = "") -> bool:
        seen.extend(client.wait(0.1))
        return any(isinstance(m, kind) and stage in getattr(m, "stage", "") for m in seen)

    try:
        _wait_for(lambda: arrived(Hello))
        client.send(Start("j", "generate", str(tmp_path / "out")))
        _wait_for(lambda: arrived(Progress, "refine"))
        client._outgoing.put(None)  # as Blender's end does: the pipe closes without a word
        _wait_for(lambda: not client.alive, 30)
        assert not (tmp_path / "out" / "scene.ply").exists(), "it broke the job off"
    finally:
        client.kill()


def test_nothing_is_imported_from_the_current_folder(tmp_path):
    for name in ("torch", "numpy", "json", "argparse", "logging", "hashlib", "tempfile"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'caught')!r}, 'w')")
    _batch(tmp_path, {"name": "r", "kind": "rehearsal", "settings": {"steps": 1}})
    start = "import sys; sys.path[0] = sys.argv.pop(1); from engine.__main__ import main; "
    flamenco = [sys.executable, "-c", start + "sys.exit(main(sys.argv[1:]))", str(ROOT)]
    assert start in (ROOT / "docs" / "flamenco" / "scene_splatter.js").read_text(encoding="utf-8")
    words = ["batch", "jobs.json", "--out", "out"]
    for command in ([sys.executable, "-m", "engine"], flamenco):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "caught").exists()
        (tmp_path / "out" / "r" / "outcome.json").unlink()


def test_paths_of_windows_are_read_in_a_batch_or_named(tmp_path):
    (tmp_path / "plates").mkdir()
    _picture(tmp_path / "plates" / "a.png", 0)
    (request,) = _batch(tmp_path, {"name": "a", "image": "plates\\a.png"})
    assert Path(request.image).is_file()
    if os.name != "nt":
        with pytest.raises(job_folder.UserError, match="Windows machine"):
            _batch(tmp_path, {"name": "a", "image": "D:\\plates\\a.png"})


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_a_command_that_does_not_notice_ctrl_c_is_ended_and_says_how_to_go_on():
    """As where Python only reports the interrupt, since it came amid a destructor."""
    program = (
        "import time, signal, os\nfrom engine.service import leaving\n"
        "leaving.end_soon_after_an_interrupt(130)\n"
        "end, word = time.monotonic() + 60, 'ready'\n"
        "with leaving.last_words('add --resume'):\n"
        "    while time.monotonic() < end:\n"
        "        try:\n            print(word, flush=True)\n            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n            word = 'again'\n"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for _ in range(2):  # twice: the second must not end it with a traceback
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert process.communicate(timeout=30)[1] == "add --resume\n"
    assert process.returncode == 130  # by itself it goes on for 60 s


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_stays_ignored_where_who_began_it_asked_for_that():
    program = (
        "import signal, os\nfrom engine.service import leaving\n"
        "leaving.end_soon_after_an_interrupt(130)\n"
        "os.kill(os.getpid(), signal.SIGINT)\nprint('went on', flush=True)\n"
    )
    inherited = f"trap '' INT; exec {shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    ended = subprocess.run(["sh", "-c", inherited], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "went on\n")  # as nohup and "&" ask for
