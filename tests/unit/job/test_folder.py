"""A job folder never loses finished work, never mixes two jobs, and never shows half a file."""

from __future__ import annotations

import hashlib
import json
import ntpath
import os
import posixpath
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.bridge import settings
from engine.bridge.errors import UserError
from engine.bridge.whole_file import whole_file
from engine.job import folder as job_module
from engine.job.run import prepared_job
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
    with job_module.locked(job.folder), pytest.raises(UserError, match="Another engine"):
        _prepare(tmp_path, inputs, seed=3)
    assert _prepare(tmp_path, inputs, seed=3).settings.output.seed == 3


def test_resume_with_other_settings_is_refused(tmp_path, inputs):
    _prepare(tmp_path, inputs)
    assert _prepare(tmp_path, inputs, resume=True).settings.output.seed == 0
    with pytest.raises(UserError, match="another job"):
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
    with pytest.raises(UserError, match="the picture"):
        job.start()


def test_a_job_of_an_older_engine_can_be_resumed(tmp_path, inputs):
    """Its settings.json lacks what has been added since; its job.json names no models."""
    folder = _prepare(tmp_path, inputs, prior="patch", depth="box").folder
    written = json.loads((folder / "settings.json").read_text())
    del written["video"]["licences"]
    (folder / "settings.json").write_text(json.dumps(written))
    job = job_module.Job(folder)
    old = hashlib.sha256(json.dumps(written, sort_keys=True).encode())  # as version 0.1.0 did
    for file in sorted((folder / "input").iterdir()):
        old.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    (folder / "job.json").write_text(json.dumps({"format": 1, "fingerprint": old.hexdigest()}))
    again = job_module.Job(folder)
    again.start()
    assert again.settings.video.licences == "any" and again.models() == {}
    assert again.known_identity() == job.identity(), "from now on it says what it is made of"
    (folder / "job.json").write_text(json.dumps({"format": 1, "fingerprint": old.hexdigest()}))
    with job.new_segment(0):
        pass
    with pytest.raises(UserError, match=r"made by version 0\.1\.0") as caught:
        job_module.Job(folder).start()
    assert "--restart" in caught.value.hint
    job.image.write_bytes(b"another picture")
    (folder / "job.json").write_text(json.dumps({"format": 1, "fingerprint": old.hexdigest()}))
    with pytest.raises(UserError, match="another job"):
        job_module.Job(folder).start()


@pytest.fixture
def written_by_0_1_0(tmp_path):
    """A folder that version 0.1.0 (commit 7f06cef) prepared and began, --preset draft --similarity
    latent --layers 1 --fps 12 and small sizes.
    """
    return shutil.copytree(Path(__file__).parent / "job_0_1_0", tmp_path / "job")


def test_a_folder_that_the_older_engine_wrote_is_resumed_and_says_what_it_loses(written_by_0_1_0):
    with prepared_job(written_by_0_1_0, None, None, None, {}, resume=True) as job:
        assert job.start() == []
    assert [text.split()[0] for text in job.left_out] == ["layers", "similarity", "fps"]
    assert job.settings.output.width == 64 and job.settings.cameras.segment_length == 6
    assert job_module.Job(written_by_0_1_0).left_out == job.left_out, "said at every start"


def test_segments_of_the_older_engine_are_refused_with_a_way_on(written_by_0_1_0):
    """Its method cut and sized otherwise; --restart keeps them."""
    made = written_by_0_1_0 / "segments" / "000"
    made.mkdir(parents=True)
    (made / "gaussians.npz").write_bytes(b"of version 0.1.0")
    with pytest.raises(UserError, match=r"made by version 0\.1\.0") as caught:
        job_module.Job(written_by_0_1_0).start()
    assert "--restart" in caught.value.hint
    assert (made / "gaussians.npz").read_bytes() == b"of version 0.1.0"


def test_the_models_of_finished_segments_are_kept(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    job.start()
    job.keep_models({"prior": "patch", "depth": "box"})
    assert job.models() == {}  # nothing is made with them yet
    with job.new_segment(0) as folder:
        (folder / "gaussians.npz").write_bytes(b"Gaussians")
    again = job_module.Job(job.folder)
    again.start()
    assert again.models() == {"prior": "patch", "depth": "box"}
    assert again.known_identity() == job.identity()


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


def test_a_whole_file_keeps_the_old_file_when_the_writer_fails(tmp_path):
    target = tmp_path / "scene.ply"
    target.write_text("old")
    with pytest.raises(RuntimeError), whole_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["scene.ply"]


def test_two_engines_cannot_work_in_one_folder_and_a_dead_one_frees_it(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    program = (
        "import sys, pathlib; from engine.job.folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(job.folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another engine"), job_module.locked(job.folder):
            pass
        other.kill()
        other.wait()
    with job_module.locked(job.folder):
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


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_read_json_has_numbers_alone(tmp_path, number):
    (tmp_path / "job.json").write_text(f'{{"models": {{"prior": {number}}}}}')
    with pytest.raises(UserError, match=r"job\.json is damaged"):
        job_module.read_json(tmp_path / "job.json")


def test_written_json_is_json(tmp_path):
    job_module.write_json(tmp_path / "a.json", {"x": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, None]}


def _begun(tmp_path, inputs, segments=2, **values):
    """A job with finished segments and a result."""
    job = _prepare(tmp_path, inputs, **values)
    with job_module.locked(job.folder):
        job.start()
        for index in range(segments):
            with job.new_segment(index) as folder:
                (folder / "frame.png").write_bytes(b"frame")
                (folder / "gaussians.npz").write_bytes(bytes([index]) * 9)
        (job.folder / "scene.ply").write_bytes(b"result")
        job.keep_results({"scene": str(job.folder / "scene.ply")})
    return job_module.Job(job.folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": b"other"}, "the picture"),
        ({"path": b'{"a": 1}'}, "the camera path"),
        ({"depth": b"depth"}, "the depth map"),
        ({"initial": b"ply"}, "the first Gaussians"),
        ({"seed": 5}, r"seed \(5, was 0\)"),
    ],
)
def test_what_has_changed_is_refused_by_name_and_nothing_is_touched(
    tmp_path, inputs, change, named
):
    job = _begun(tmp_path, inputs)
    before = {f: f.read_bytes() for f in job.folder.rglob("*") if f.is_file()}
    values = {name: change[name] for name in change if name == "seed"}
    for name in change.keys() - values.keys():
        inputs[name] = tmp_path / ("other.png" if name == "image" else f"other_{name}.json")
        inputs[name].write_bytes(change[name])
    with pytest.raises(job_module.AnotherJob, match=named) as refused:
        _prepare(tmp_path, inputs, resume=True, **values)
    assert "--restart" in refused.value.hint
    assert {f: f.read_bytes() for f in job.folder.rglob("*") if f.is_file()} == before


def test_the_same_job_from_other_places_is_the_same(tmp_path, inputs):
    _begun(tmp_path, inputs)
    moved = {part: tmp_path / f"moved{file.suffix}" for part, file in inputs.items()}
    for part, file in inputs.items():
        file.rename(moved[part])
    assert _prepare(tmp_path, moved, resume=True).finished_segments() == 2


def test_an_input_that_is_changed_in_the_folder_is_refused_by_name(tmp_path, inputs):
    job = _begun(tmp_path, inputs)
    job.path.write_text("[]")
    with pytest.raises(job_module.AnotherJob, match="the camera path"):
        job.start()


def test_a_job_is_done_as_long_as_its_results_are_as_they_were_made(tmp_path, inputs):
    job = _begun(tmp_path, inputs)
    scene = job.folder / "scene.ply"
    assert job.results() == {"scene": str(scene)}
    job.start()
    assert job.results() == {"scene": str(scene)}
    scene.write_bytes(b"Result")
    assert job.results() is None
    with job_module.locked(job.folder):
        (line,) = job.put_changed_results_aside()
    assert (
        "earlier/001" in line and (job.folder / "earlier/001/scene.ply").read_bytes() == b"Result"
    )
    assert not scene.exists() and job.results() is None


def test_results_outside_the_folder_are_nobodys(tmp_path, inputs):
    job = _begun(tmp_path, inputs)
    data = json.loads((job.folder / "job.json").read_text())
    for name in ("../photo.PNG", "C:/x.ply", "\\\\host\\x", ""):
        content = hashlib.sha256(b"picture").hexdigest()
        data["results"] = {"outputs": {"scene": name}, "files": {name: content}}
        (job.folder / "job.json").write_text(json.dumps(data))
        assert job.results() is None
        assert job.put_changed_results_aside() == []


def _cut(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        ({2: "cut"}, 2),  # one damaged file costs one segment
        ({2: "missing"}, 2),
        ({1: "cut"}, 3),  # nobody needs it while the last is whole
        ({1: "cut", 2: "cut"}, 0),
        ({0: "cut", 2: "cut"}, 2),
        ({2: "no list"}, 2),
        ({1: "no list"}, 0),  # segment 1 keeps no Gaussians to go on from
        ({1: "frame"}, 0),
        ({2: "frame"}, 2),
    ],
)
def test_of_damaged_segments_no_more_is_made_again_than_must_be(tmp_path, inputs, damage, kept):
    job = _begun(tmp_path, inputs, segments=3)
    with job_module.locked(job.folder):
        job.drop_old_gaussians()
    for index, what in damage.items():
        segment = job.segment_folder(index)
        if what == "missing":
            (segment / "gaussians.npz").unlink()
        elif what == "no list":
            (segment / "files.json").write_text("[")
        elif what == "frame":
            _cut(segment / "frame.png")
        elif (segment / "gaussians.npz").exists():
            _cut(segment / "gaussians.npz")
    with job_module.locked(job.folder):
        lines = job.start()
    assert [bool(lines), job.finished_segments()] == [kept < 3, kept]
    if lines:
        assert "damaged" in lines[0] and " made again" in lines[0]
    assert (job.results() is None) == (kept < 3)
    assert len(list((job.folder / "segments").iterdir())) == kept


def test_the_last_two_segments_keep_their_gaussians(tmp_path, inputs):
    job = _begun(tmp_path, inputs, segments=4)
    with job_module.locked(job.folder):
        job.drop_old_gaussians()
        assert job.start() == []
    held = [f.parent.name for f in sorted(job.folder.glob("segments/*/gaussians.npz"))]
    assert held == ["002", "003"]


def test_restart_keeps_everything_under_a_number(tmp_path, inputs):
    job = _begun(tmp_path, inputs)
    (job.folder / "notes.txt").write_text("mine")
    for number in ("001", "002"):
        with job_module.locked(job.folder):
            again = job_module.prepare_locked(
                job.folder, settings.make("draft", seed=7), inputs, resume=False, restart=True
            )
            assert again.finished_segments() == 0
            again.start()
            with again.new_segment(0):
                pass
        assert (job.folder / "earlier" / number / "segments" / "000").is_dir()
    assert (job.folder / "earlier/001/scene.ply").read_bytes() == b"result"
    assert (job.folder / "earlier/001/notes.txt").read_text() == "mine"
    assert job_module.Job(job.folder / "earlier/001").settings.output.seed == 0


def test_putting_aside_is_finished_by_the_next_engine(tmp_path, inputs):
    job = _begun(tmp_path, inputs)
    partial = job.folder / "earlier" / ".001.partial"
    partial.mkdir(parents=True)
    (job.folder / "input").rename(partial / "input")  # killed after the first of its renames
    with job_module.locked(job.folder):
        assert not job_module.holds_job(job.folder)
    old = job_module.Job(job.folder / "earlier" / "001")
    assert old.finished_segments() == 2 and old.image.read_bytes() == b"picture"


@pytest.mark.skipif(os.name == "nt", reason="makes symbolic links and a pipe")
@pytest.mark.parametrize(
    "name", ["engine.log", "job.lock", ".job.1.partial.json", "cameras.json", "frames/0000.png"]
)
def test_no_link_in_a_folder_is_written_through(tmp_path, inputs, name):
    job = _prepare(tmp_path, inputs)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (job.folder / "frames").mkdir()
    (job.folder / name).unlink(missing_ok=True)
    (job.folder / name).symlink_to(victim)
    with pytest.raises(UserError, match=r"is a link|it is a link"), job_module.locked(job.folder):
        pass
    assert victim.read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="makes symbolic links and a pipe")
def test_pipes_and_linked_folders_are_refused(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    os.mkfifo(job.folder / "input" / "depth.npy")
    with pytest.raises(UserError, match="no ordinary file"), job_module.locked(job.folder):
        pass
    (job.folder / "input" / "depth.npy").unlink()
    (job.folder / "segments").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match="is a link"), job_module.locked(job.folder):
        pass


def test_files_that_settings_name_must_be_inputs(tmp_path, inputs):
    (tmp_path / "far.npy").write_bytes(b"")
    for values in ({"depth": str(tmp_path / "far.npy")}, {"depth": "../far.npy"}):
        job = job_module.prepare(
            tmp_path / "out", settings.make("draft", **values), inputs, resume=False
        )
        with pytest.raises(UserError, match="not among its inputs"):
            job.start()


def test_leftovers_of_every_kind_go_and_other_files_stay(tmp_path, inputs):
    job = _prepare(tmp_path, inputs)
    (job.folder / "segments" / ".000.partial" / "frames").mkdir(parents=True)
    (job.folder / "frames").mkdir()
    left = (
        ".scene.77.partial.ply",
        ".scene.ply.x7_a.part",
        "flythrough.part.mp4",
        "cameras.json.tmp",
    )
    left += ("preview.npy.partial", ".0123abcd.part.usdc", "frames/.0001.partial.png")
    for name in left:
        (job.folder / name).write_bytes(b"x")
    (job.folder / "thesis.part").write_bytes(b"mine")
    (job.folder / "blender.json.partial").write_bytes(b"Blender may be at it")
    with job_module.locked(job.folder):
        pass
    names = {f.relative_to(job.folder).as_posix() for f in job.folder.rglob("*") if f.is_file()}
    assert names == {
        "job.lock",
        "settings.json",
        "input/image.png",
        "input/path.json",
        "thesis.part",
        "blender.json.partial",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"start": "<script>alert(1)</script>"},
        {"gaussians": None},
        {"seconds": {"x": "<b>"}},
        {"losses": "abc"},
        {"seam": "<i>"},
        {"mu_mean": float("1e400")},
        {"peak_mb": []},
        {"peak_vram_mb": {"refine": "<b>"}},
    ],
)
def test_numbers_of_a_strangers_segment_are_numbers(tmp_path, change):
    from engine.job.report import read_stats

    numbers = ("start", "stop", "unknown_share", "lambda_mean", "mu_mean", "gaussians")
    stats = {name: 1 for name in (*numbers, "opacity_mean")}
    stats |= {"drift_psnr": None, "unseen_detail": 0.5, "seam": None, "losses": [0.1]}
    stats |= {"seconds": {"render": 1.0}, "peak_mb": {}}
    file = tmp_path / "stats.json"
    file.write_text(json.dumps(stats))
    assert read_stats(file) == stats
    file.write_text(json.dumps(stats | change))
    with pytest.raises(UserError, match="is damaged"):
        read_stats(file)


def _stays_inside(name: str, flavour: ModuleType, base: str) -> bool:
    """By the rules of one system: whether the file is below the folder that the name is put in."""
    place = flavour.normpath(flavour.join(base, name))
    return place.startswith(base + flavour.sep) and "\0" not in name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../x",
            "..\\x",
            "C:x",
            "C:/x",
            "C:\\x",
            "\\x",
            "/x",
            "\\\\host\\share\\x",
            "//host/share/x",
        ),
        *(
            "a/../../x",
            "a\\..\\..\\x",
            "a/..\\../x",
            "\\\\?\\C:\\x",
            "D:",
            "",
            "a\0b",
            "..",
            "a/b:c",
        ),
    ],
)
def test_names_that_lead_out_here_or_on_windows_are_seen(name):
    assert job_module.leads_out(name)


@pytest.mark.parametrize("name", ["a.png", "frames/0001.png", "a b/ü.ply", "..a/b..", "segments/0"])
def test_names_that_stay_inside_on_both_systems_are_let_through(name):
    assert _stays_inside(name, posixpath, "/job") and _stays_inside(name, ntpath, "C:\\job")
    assert not job_module.leads_out(name)


@given(st.text(alphabet="ab./\\:C\0", max_size=9))
def test_no_name_that_is_let_through_leaves_the_folder(name):
    if not job_module.leads_out(name):
        assert _stays_inside(name, posixpath, "/job") or name.strip("./") == ""
        assert _stays_inside(name, ntpath, "C:\\job") or name.strip("./\\") == ""
