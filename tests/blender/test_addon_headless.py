"""The same without a window: the function for scripts and the command for farms, with exit
codes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
from scene_splatter.blender_addon.jobs import delivery, folders, headless  # noqa: E402
from scene_splatter.blender_addon.ui import properties  # noqa: E402
from scene_splatter.engine.bridge import settings as engine_settings  # noqa: E402

pytestmark = pytest.mark.blender
SMALL = {
    "width": 64,
    "refine_steps": 2,
    "segment_length": 4,
    "overlap": 2,
    "steps": 2,
    "frame_step": 1,
}


def small() -> list[str]:
    return [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


def test_settings_from_the_command_line_reach_the_job(ready: Any) -> None:
    headless._assign(
        ready.scene_splatter,
        [
            f"{name}={value}"
            for name, value in {**SMALL, "lambda_0": 0.35, "lambda_coverage": "false"}.items()
        ],
    )
    read = properties.read(ready.scene_splatter)
    assert read == engine_settings.make(
        **SMALL, lambda_0=0.35, lambda_coverage=False, blending="linear"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "no_such=1"], "names no setting"),
        (["--set", "lambda_0"], "names no setting"),
        (["--set", "lambda_0=much"], "lambda_0 must be a number"),
        (["--set", "lambda_0=2"], "lambda_0 is 2.0. It must lie between 0.0 and 1.0"),
        (["--set", "overlap=30"], "overlap (30) must be less than segment_length (25)"),
        (["--image", "/no/picture.png"], "picture.png does not exist"),
        (["--camera", "Nobody"], "There is no camera 'Nobody'"),
        (["--scene", "Nowhere"], "There is no scene 'Nowhere'"),
        (["--blend", "/no/file.blend"], "file.blend cannot be opened"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    ready: Any, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert headless.run_command(["generate", *arguments]) == headless.EXIT_USER_ERROR
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and words in said and "Traceback" not in said


def test_wrong_usage_is_exit_code_2_and_help_is_0(ready: Any) -> None:
    assert headless.run_command(["generate", "--no-such-option"]) == 2
    assert headless.run_command([]) == 2
    assert headless.run_command(["generate", "--help"]) == 0


def test_an_engine_that_fails_is_exit_code_1_and_leaves_no_engine(
    ready: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """This Python has no torch, so the engine starts but the job cannot."""
    assert (
        headless.run_command(["generate", "--out", str(tmp_path / "jobs"), *small()])
        == headless.EXIT_FAILED
    )
    assert "error: " in capsys.readouterr().err
    assert delivery.session.engine_pid is None


@pytest.mark.slow
def test_generate_from_python_makes_a_splat_object(
    real_engine: Any, made: Path, tmp_path: Path
) -> None:
    real_engine.scene_splatter.depth_source = "BOX"
    headless._assign(
        real_engine.scene_splatter, [f"{name}={value}" for name, value in SMALL.items()]
    )
    outcome = headless.generate(bpy.context, tmp_path / "jobs")
    assert outcome.problem is None, outcome.problem
    cloud = bpy.data.objects[outcome.object_name]
    assert cloud.type == "POINTCLOUD" and len(cloud.data.points) > 1000
    assert outcome.folder.parent == tmp_path / "jobs" and (outcome.folder / "scene.ply").is_file()
    assert (
        json.loads((outcome.folder / "settings.json").read_text())["output"]["blending"] == "linear"
    )
    ticket = folders.read_ticket(outcome.folder)
    assert ticket is not None and ticket.imported == outcome.object_name
    shutil.copytree(outcome.folder, made)
    delivery.session.close()


@pytest.mark.slow
def test_the_command_generates_saves_and_exits_with_0(
    real_engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "with scene.blend"
    code = headless.run_command(
        ["generate", "--out", str(tmp_path / "jobs"), "--save", str(saved), *small()]
    )
    said = capsys.readouterr()
    assert code == headless.EXIT_OK, said.err
    assert Path(said.out.strip().splitlines()[-1]).is_dir()
    bpy.ops.wm.open_mainfile(filepath=str(saved))
    assert [ob.type for ob in bpy.data.objects].count("POINTCLOUD") == 1
