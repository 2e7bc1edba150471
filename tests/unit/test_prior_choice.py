"""The recommended prior fits, is allowed, and is there."""

from __future__ import annotations

import json

import pytest

from engine import weights
from engine.__main__ import main
from engine.priors import REGISTRY, choice
from engine.priors.memory import GIB


def test_every_prior_is_ranked_once_and_names_its_weights():
    assert sorted(c.name for c in choice.RANKING) == sorted(REGISTRY)
    for candidate in choice.RANKING:
        assert all(name in weights.WEIGHTS for name in candidate.needs)
    assert choice.RANKING[-1].name == "patch"


@pytest.mark.parametrize(
    ("gib", "commercial", "expected"),
    [(None, False, "patch"), (4, False, "patch"), (7, False, "viewcrafter_25_512"),
     (9, True, "wan_vace_1.3b"), (80, False, "viewcrafter_25")],
)
def test_the_best_that_fits(gib, commercial, expected):
    found = choice.suitable(None if gib is None else gib * GIB, commercial=commercial)
    assert found[0].name == expected
    assert found[-1].name == "patch"


def test_commercial_use_leaves_out_what_has_conditions():
    names = {c.name for c in choice.suitable(80 * GIB, commercial=True)}
    assert names.isdisjoint({"svd", "ltx", "cogvideox_i2v"}) and "viewcrafter_25" in names
    assert {"svd", "ltx", "cogvideox_i2v"} <= {c.name for c in choice.suitable(80 * GIB)}


def test_only_what_is_there_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    assert choice.best_here(80 * GIB) == "patch"
    (tmp_path / "svd").mkdir()
    (tmp_path / "svd" / "model_index.json").write_text("{}")
    assert choice.best_here(80 * GIB) == "svd"
    assert choice.best_here(80 * GIB, commercial=True) == "patch"
    (tmp_path / "viewcrafter_16").mkdir()
    (tmp_path / "viewcrafter_16" / "model.ckpt").write_bytes(b"x")
    assert choice.best_here(80 * GIB) == "viewcrafter_16"
    assert choice.best_here(9 * GIB) == "svd"


def test_the_command_tells_both(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    assert main(["weights", "--json", "recommend", "--commercial"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["here"] == "patch" and data["best"] in REGISTRY
