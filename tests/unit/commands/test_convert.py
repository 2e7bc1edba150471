"""The convert command and the job of the same name, which Blender's Import and Export call."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from engine import formats
from engine.bridge import camera_file
from engine.bridge.camera_file import CameraPath
from engine.bridge.errors import UserError
from engine.cameras import trajectory
from engine.commands import convert
from engine.formats import SplatScene
from engine.service.server import run_job as server_job
from tests.format_samples import ROOT, covariances, random_splats


@pytest.fixture
def folder(tmp_path):
    formats.write(tmp_path / "in.ply", SplatScene(random_splats(40, 2)))
    return tmp_path


def _job(folder, **request):
    (folder / "convert.json").write_text(json.dumps({"input": "in.ply"} | request))
    seen = []
    result = convert.run_job(folder, lambda *a, **k: seen.append(a[:3]))
    assert seen[-1] == ("convert", 3, 3)
    return result


def test_a_file_is_not_written_over_itself(folder):
    before = (folder / "in.ply").read_bytes()
    with pytest.raises(UserError, match="over itself"):
        convert.convert(
            {"input": "in.ply", "output": str(folder / "in.ply"), "sh_degree": 0}, folder
        )
    assert (folder / "in.ply").read_bytes() == before


def test_command_line_end_to_end(folder):
    command = [
        sys.executable,
        "-m",
        "engine",
        "convert",
        str(folder / "in.ply"),
        str(folder / "out.glb"),
        "--sh-degree",
        "1",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "40 splats" in done.stdout and "cut to a lower degree" in done.stdout
    assert formats.read(folder / "out.glb").splats.sh_rest.shape == (40, 3, 3)


def test_command_line_says_what_is_wrong_in_one_line(folder):
    command = [
        sys.executable,
        "-m",
        "engine",
        "convert",
        str(folder / "missing.ply"),
        str(folder / "out.glb"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Could not read") and done.stderr.count("\n") == 1
    assert not (folder / "out.glb").exists()


def test_transform_then_unit_scale_are_baked(folder):
    splats = formats.read(folder / "in.ply").splats
    matrix = np.array([[0, -2, 0, 1], [2, 0, 0, 2], [0, 0, 2, 3], [0, 0, 0, 1.0]])
    result = _job(folder, output="out.ply", transform=matrix.reshape(-1).tolist(), unit_scale=10)
    after = formats.read(folder / "out.ply").splats
    np.testing.assert_allclose(
        after.means, 10 * (splats.means @ matrix[:3, :3].T + matrix[:3, 3]), rtol=1e-5, atol=1e-4
    )
    full = 10 * matrix[:3, :3]
    np.testing.assert_allclose(
        covariances(after), full @ covariances(splats) @ full.T, rtol=1e-3, atol=1e-5
    )
    assert (
        result["count"] == 40
        and result["bytes"] == (folder / "out.ply").stat().st_size
        and result["sh_coefficients"] == 8
    )


def test_a_kept_transform_equals_a_baked_one(folder):
    matrix = [2, 0, 0, 1, 0, 0, -2, 2, 0, 2, 0, 3, 0, 0, 0, 1]
    _job(folder, output="baked.glb", transform=matrix, unit_scale=3.0)
    _job(folder, output="kept.glb", transform=matrix, unit_scale=3.0, keep_transform=True)
    a, b = formats.read(folder / "baked.glb").splats, formats.read(folder / "kept.glb").splats
    np.testing.assert_allclose(a.means, b.means, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(a.scales_log, b.scales_log, atol=1e-5)


def test_cameras_travel_in_the_file_and_beside_it(folder):
    world = np.tile(np.eye(4), (3, 1, 1))
    world[:, 0, 3] = (0, 1, 2)
    path = CameraPath(
        np.tile(np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]), (3, 1, 1)),
        world,
        64,
        48,
        24.0,
        "m",
    )
    camera_file.write(folder / "cameras.json", path)
    _job(
        folder,
        output="out.usda",
        cameras="cameras.json",
        export_cameras="transforms.json",
        axes_out="blender",
        unit_scale=2.0,
    )
    np.testing.assert_allclose(
        formats.read(folder / "out.usda").cameras.world_from_camera[2, :3, 3], (4, 0, 0), atol=1e-6
    )
    beside = trajectory.load(folder / "transforms.json")
    np.testing.assert_allclose(
        beside.world_from_camera[:, :3, 3], [(0, 0, 0), (2, 0, 0), (4, 0, 0)], atol=1e-9
    )
    np.testing.assert_allclose(
        beside.world_from_camera[0, :3, 2], (0, 1, 0), atol=1e-9
    )  # forward is Blender's +Y


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"output": "a.xyz"},
        {"output": "a.ksplat"},
        {"output": "a.ply", "axes_in": "maya"},
        {"output": "a.ply", "unit_scale": 0},
        {"output": "a.ply", "unit_scale": "2"},
        {"output": "a.ply", "sh_degree": 9},
        {"output": "a.ply", "transform": [1, 2]},
        {"output": "a.ply", "transform": ["x"] * 16},
        {"output": "a.ply", "colour_space": "acescg"},
        {"output": "a.ply", "unknown": 1},
        {"output": "a.ply", "export_cameras": "transforms.json"},
        {"output": "a.spz", "spz_version": 9},
    ],
)
def test_requests_that_make_no_sense_are_refused_with_a_reason(folder, request_):
    with pytest.raises(UserError) as caught:
        _job(folder, **request_)
    assert caught.value.message


def test_the_server_runs_it(folder):
    from engine.bridge.protocol import Done, Start

    answer = server_job(
        Start(
            job="1",
            kind="convert",
            folder=str(folder),
            settings={"input": "in.ply", "output": "o.spz"},
        ),
        lambda *a, **k: None,
    )
    assert isinstance(answer, Done) and answer.outputs["format"] == "spz"


def test_fewer_splats_in_several_levels(folder):
    K = np.tile(np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]]), (3, 1, 1))
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3, 3] = [[0, 0, -6], [0.2, 0, -6], [0.4, 0, -6]]
    camera_file.write(folder / "cameras.json", CameraPath(K, poses, 80, 60, 24.0, "m"))
    result = _job(folder, output="web.compressed.ply", count=[5, 20, 1000])
    names = [f"web_{n}.compressed.ply" for n in (1000, 20, 5)]
    assert [level["count"] for level in result["levels"]] == [40, 20, 5]
    assert [formats.read(folder / name).count for name in names] == [40, 20, 5]
    whole, more, less = (level.get("likeness_db") for level in result["levels"])
    assert whole is None and more > less > 0


def test_a_share_of_the_splats_without_cameras(folder):
    result = _job(folder, output="out.ply", share=0.25)
    assert result["count"] == formats.read(folder / "out.ply").count == 10
    assert "likeness_db" not in result


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": [0]},
        {"count": ["5"]},
        {"share": 0.0},
        {"share": 1.5},
        {"count": [5], "share": 0.5},
    ],
)
def test_counts_that_make_no_sense_are_said(folder, wrong):
    with pytest.raises(UserError):
        _job(folder, output="out.ply", **wrong)
    assert not (folder / "out.ply").exists()
