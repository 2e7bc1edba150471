"""Preferences: install, check and weights, as far as that goes without a network. Timers do not
fire here: `pump`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy", reason="bpy is not installed in this Python")
from scene_splatter.blender_addon.jobs import engine_location  # noqa: E402
from scene_splatter.blender_addon.ui import engine_setup, properties, weights_panel  # noqa: E402

pytestmark = pytest.mark.blender

WAIT_S = 60.0


@pytest.fixture
def engine(addon: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """This Python as the engine's: it has no torch, which doctor and weights can live without."""
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, sys.executable)
    yield
    for task in engine_setup.tasks.values():
        task.cancel()
        finish(task)


def finish(task: Any) -> None:
    end = time.monotonic() + WAIT_S
    while task.running:
        assert time.monotonic() < end
        engine_setup.pump()
        time.sleep(0.02)


def why_grey(operator: Any) -> str:
    """What Blender would show on a grey button."""
    with pytest.raises(RuntimeError) as caught:
        operator()
    return str(caught.value)


def test_nothing_is_fetched_while_blender_may_not_go_online(engine: Any) -> None:
    assert not bpy.app.online_access
    for operator in (
        bpy.ops.scene_splatter.install_engine,
        bpy.ops.scene_splatter.download_weights,
    ):
        assert not operator.poll()
        assert "not allowed to go online" in why_grey(operator)


def test_nothing_is_installed_under_an_engine_at_work(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_setup, "why_offline", lambda: "")
    install = engine_setup.SCENESPLATTER_OT_install_engine
    assert install.why_not(bpy.context) == ""
    monkeypatch.setattr(engine_setup.side_job, "running", True)
    monkeypatch.setattr(engine_setup.side_job, "title", "Export Scene")
    assert "at work: Export Scene" in install.why_not(bpy.context)
    monkeypatch.setattr(engine_setup.side_job, "running", False)
    busy = type(engine_setup.delivery.session.status)()
    busy.phase = engine_setup.delivery.Phase.RUNNING
    monkeypatch.setattr(engine_setup.delivery.session, "status", busy)
    assert "wait for the job or cancel it" in install.why_not(bpy.context)


def test_the_check_names_what_is_wrong_and_the_priors_that_are_there(engine: Any) -> None:
    bpy.ops.scene_splatter.check_engine()
    assert not bpy.ops.scene_splatter.check_engine.poll()  # one at a time
    finish(engine_setup.tasks["check"])
    findings = engine_setup.findings_of(engine_setup.tasks["check"])
    states = {check["name"]: check["state"] for check in findings["checks"]}
    assert findings["ok"] is False and states["torch"] == "fail" and states["python"] == "ok"
    assert "patch" in properties.MODEL_NAMES["prior"]


def test_the_models_are_listed_with_size_and_licence(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    bpy.ops.scene_splatter.list_weights()
    finish(engine_setup.tasks["weights"])
    assert engine_setup.tasks["weights"].code == 0, list(engine_setup.tasks["weights"].log)
    listed = weights_panel.known()
    assert {"viewcrafter_25"} <= {facts["name"] for facts in listed}
    assert all(
        facts["licence"] and facts["size_gb"] > 0 and facts["present"] is False for facts in listed
    )
    assert "viewcrafter_25" in properties.MODEL_NAMES["prior"]


def test_weights_that_are_here_can_be_verified(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    (tmp_path / "moge_2").mkdir()
    (tmp_path / "moge_2" / "model.pt").write_bytes(b"not it")
    bpy.ops.scene_splatter.verify_weights(model="moge_2")
    finish(engine_setup.tasks["verify"])
    assert (
        weights_panel.verdict()
        == "moge_2: model.pt has another checksum than the released file. Download it again"
    )
    (tmp_path / "moge_2_small").mkdir()
    (tmp_path / "moge_2_small" / "model.pt").write_bytes(b"it may be")
    bpy.ops.scene_splatter.verify_weights(model="moge_2_small")
    finish(engine_setup.tasks["verify"])
    assert weights_panel.verdict().endswith("no checksum of them is known")


def test_a_licence_with_conditions_must_be_accepted_first(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bpy.ops.scene_splatter.list_weights()
    finish(engine_setup.tasks["weights"])
    bound = next(facts for facts in weights_panel.known() if not facts["commercial_use"])
    monkeypatch.setattr(engine_setup, "why_offline", lambda: "")
    with pytest.raises(RuntimeError, match="Accept the licence"):
        bpy.ops.scene_splatter.download_weights(model=bound["name"])
    with pytest.raises(RuntimeError, match="no model 'nobody'"):
        bpy.ops.scene_splatter.download_weights(model="nobody", accept=True)
    assert not engine_setup.tasks["download"].running


def test_an_engine_of_ones_own_choice(
    addon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable of the farm the preference decides; here the extension is not enabled,
    so its own engine it is.
    """
    monkeypatch.delenv(engine_location.PYTHON_VARIABLE, raising=False)
    assert engine_location.engine_python(bpy.context) == engine_location.own_python()
    assert "press Install" in engine_location.why_no_engine(bpy.context)
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, str(tmp_path / "python"))
    assert engine_location.engine_python(bpy.context) == tmp_path / "python"
    assert "does not exist" in engine_location.why_no_engine(bpy.context)


@pytest.mark.parametrize("build", ["auto", "cpu", "cuda"])
def test_the_installer_understands_our_command(addon: Any, build: str) -> None:
    command = [*engine_setup.install_command(build), "--check"]  # changes nothing
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    expected = ("not complete", "No NVIDIA card") if build == "cuda" else ("not complete",)
    assert done.returncode == 1 and any(words in done.stdout for words in expected), (
        done.stdout + done.stderr
    )


def test_a_model_without_weights_gets_no_tick_and_no_command_line(
    addon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, str]] = []
    monkeypatch.setattr(
        engine_setup, "draw_wrapped", lambda _, text, __, icon="NONE": drawn.append((text, icon))
    )
    monkeypatch.setattr(engine_location, "why_no_engine", lambda _: "")
    found = {
        "checks": [
            {"name": "python", "state": "ok", "text": "3.11"},
            {"name": "prior x", "state": "ok", "text": "ready", "data": {"ready": True}},
            {
                "name": "depth y",
                "state": "ok",
                "text": "no weights (1 GB, MIT)",
                "remedy": "python -m engine weights download y",
                "data": {"ready": False},
            },
            {"name": "disk", "state": "warn", "text": "low", "remedy": "Free some space."},
        ]
    }
    monkeypatch.setattr(engine_setup, "findings_of", lambda _: found)
    engine_setup.draw_check(Layout(), bpy.context)
    icons = dict(drawn)
    assert icons["python: 3.11"] == icons["prior x: ready"] == "CHECKMARK"
    assert icons["depth y: no weights (1 GB, MIT)"] == "RADIOBUT_OFF"
    assert "Free some space." in icons and not any("python -m" in text for text in icons)
    assert any("Model Weights, below" in text for text in icons)


class Layout:
    """Where the preferences draw a button."""

    def operator(self, *_: Any, **__: Any) -> None:
        """It is not looked at."""


@pytest.mark.skipif(os.name == "nt", reason="the stand-in of nvidia-smi is a shell script")
def test_the_preferences_say_which_torch_will_come_and_why(
    addon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real installer's own plan, on a machine whose nvidia-smi tells of a card."""
    from scene_splatter.engine.models import nvidia

    if nvidia.from_cuda() is not None or nvidia.from_nvml() is not None:
        pytest.skip("needs a machine without NVIDIA's driver")
    drawn: list[tuple[str, str]] = []
    monkeypatch.setattr(
        engine_setup, "draw_wrapped", lambda _, text, __, icon="NONE": drawn.append((text, icon))
    )
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4070, 8.9, 580.88'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(engine_setup._planned, "for", ("", 0))
    monkeypatch.setattr(engine_setup, "PLAN_S", WAIT_S)
    assert engine_setup.planned("auto") == {}, "asked, and nobody waits"
    engine_setup._await_plan("auto")
    told = engine_setup.planned("auto")
    assert (told["build"], told["moves"], told["complete"]) == ("cu130", True, False)
    engine_setup.draw_plan(None, "auto")
    words = " ".join(text for text, _ in drawn)
    assert "for CUDA 13.0: NVIDIA GeForce RTX 4070 (8.9), driver 580.88" in words
    assert "3.5 GB to download" in words
    engine_setup._await_plan("cpu")
    assert engine_setup.planned("cpu")["build"] == "cpu"
    smi.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 5090, 12.0, 551.23'\n")
    engine_setup._await_plan("cuda")
    drawn.clear()
    engine_setup.draw_plan(None, "cuda")
    ((problem, icon),) = drawn
    assert icon == "ERROR" and "speaks only CUDA 12.4" in problem and "580 or newer" in problem
    assert not engine_setup.why_busy(), "the plan keeps nobody waiting"


def test_the_button_says_that_it_moves(addon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    has = {"has": "2.13.0+cpu, built for CPUs", "moves": True}
    monkeypatch.setattr(engine_setup, "planned", lambda build: {**has, "build": build})
    assert engine_setup.install_label("cu130") == "Install Engine"
    monkeypatch.setattr(engine_setup.engine_location, "own_python", lambda: Path(sys.executable))
    assert engine_setup.install_label("cu130") == "Move Engine to CUDA"
    assert engine_setup.install_label("cpu") == "Move Engine to the CPU"
    has["moves"] = False
    assert engine_setup.install_label("cpu") == "Repair or Update Engine"
