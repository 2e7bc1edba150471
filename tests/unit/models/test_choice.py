"""The chosen models fit, are allowed, are there, and are told; a job goes on with those it was
begun with.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.__main__ import main
from engine.bridge import estimate, settings, speeds
from engine.bridge.errors import UserError
from engine.geometry import make_depth_source
from engine.geometry.learned import LEARNED
from engine.models import choice, memory, registry, weights
from engine.models.choice import GIB, Wish
from engine.models.registry import DEPTHS, PRIORS
from engine.priors import make_prior


def test_every_row_is_there_once_and_names_rows_with_files():
    names = [row.name for row in registry.MODELS]
    assert len(set(names)) == len(names)
    for row in registry.MODELS:
        assert set(row.weights) <= set(registry.WITH_FILES)
        assert (row.kind in ("prior", "depth", "finisher")) == bool(row.factory)
    assert list(PRIORS)[-1] == "patch"  # it needs nothing, so the search for the best ends there


@pytest.mark.parametrize(
    ("gib", "commercial", "expected"),
    [
        (None, False, "patch"),
        (4, False, "patch"),
        (5.9, False, "wan_fun_inp_1.3b"),
        (7, False, "viewcrafter_16"),
        (8, True, "viewcrafter_25"),
        (80, False, "viewcrafter_25"),
    ],
)
def test_the_best_that_fits(gib, commercial, expected):
    found = choice.suitable(None if gib is None else gib * GIB, Wish(commercial=commercial))
    assert found[0].name == expected
    assert found[-1].name == "patch"


TRIED = [row for row in PRIORS.values() if not row.untried]
CARD = 100.0  # 1e12 operations a second


def test_quality_goes_by_rank_and_speed_by_reckoned_seconds():
    fits = choice.suitable(80 * GIB, Wish("quality"))
    assert fits == TRIED
    fast = choice.suitable(80 * GIB, Wish("speed"))
    sees = [c for c in fast if c.sees_render and c.name != "patch"]
    assert fast[: len(sees)] == sees and fast[-1].name == "patch"
    taken = [choice.seconds(c, Wish()) for c in sees]
    assert taken == sorted(taken) and fast[0].name == "wan_vace_1.3b_fast"


def test_balanced_is_the_best_that_is_not_too_long_on_this_card():
    for tera in (4.0, 12.0, 30.0, 165.0, 989.0):
        wish = Wish("balanced", tera=tera)
        ranked = [c for c in TRIED if c.name != "patch"]
        soon = [c for c in ranked if choice.seconds(c, wish) <= choice.LONG_S]
        late = sorted((c for c in ranked if c not in soon), key=lambda c: choice.seconds(c, wish))
        assert choice.suitable(80 * GIB, wish) == [*soon, *late, PRIORS["patch"]]
    assert choice.suitable(80 * GIB, Wish("balanced", tera=989.0))[0].name == "viewcrafter_25"
    assert choice.suitable(80 * GIB, Wish("balanced", tera=25.0))[0].name != "viewcrafter_25"
    # of an unknown card nothing is reckoned
    assert choice.suitable(80 * GIB, Wish("balanced")) == TRIED


def test_the_reason_tells_the_minutes(here):
    here("wan_vace_1.3b", "wan_1.3b_rcm")

    def told(priority: str, tera: float | None) -> str:
        wish = settings.make(prior="auto", priority=priority)
        return choice.settle(wish, (832, 480), 80 * GIB, tera=tera).facts["automatic prior"]

    assert "the fastest, of those" in told("speed", CARD) and "_fast" in told("speed", CARD)
    assert told("quality", 4.0).startswith("wan_vace_1.3b,") and "min a segment" in told(
        "quality", 4.0
    )
    assert told("balanced", 4.0).startswith("wan_vace_1.3b_fast, the best within 15 minutes")
    assert "none being within 15 minutes" in told("balanced", 0.1)
    assert "reckoned" not in told("balanced", None)


def test_commercial_use_leaves_out_what_has_conditions():
    names = {c.name for c in choice.suitable(80 * GIB, Wish(commercial=True))}
    assert names.isdisjoint({"svd", "ltx", "cogvideox_i2v"}) and "viewcrafter_25" in names
    assert {"svd", "ltx", "cogvideox_i2v"} <= {c.name for c in choice.suitable(80 * GIB)}


def test_only_what_is_there_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    assert choice.best_here(80 * GIB) == "patch"
    (tmp_path / "svd").mkdir()
    (tmp_path / "svd" / "model_index.json").write_text("{}")
    assert choice.best_here(80 * GIB) == "svd"
    assert choice.best_here(80 * GIB, Wish(commercial=True)) == "patch"
    (tmp_path / "viewcrafter_16").mkdir()
    (tmp_path / "viewcrafter_16" / "model.ckpt").write_bytes(b"x")
    assert choice.best_here(80 * GIB) == "viewcrafter_16"
    assert choice.best_here(6 * GIB) == "patch"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Pretends that the weights of these names are there."""
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))

    def put(*names: str) -> None:
        for name in names:
            for file in weights.known(name).needs:
                path = tmp_path / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"{}")

    return put


def test_every_depth_model_is_ranked_once():
    assert sorted(DEPTHS) == sorted(LEARNED)
    assert all(callable(registry.factory(row, "engine.geometry")) for row in DEPTHS.values())
    assert choice.GIB == memory.GIB


def test_what_is_chosen_fits(monkeypatch):
    """With the memory that a prior is said to need, memory.py finds an arrangement for it: at its
    trained size and below.
    """
    from benchmarks import prior_memory

    ranked = dict(PRIORS)
    known = list(prior_memory.demands())
    assert {"viewcrafter_25", "wan_vace_1.3b", "wan_vace_14b", "svd", "ltx", "cogvideox_i2v"} <= {
        name for name, _, _ in known
    }
    for name, clip, demand in known:
        frames, height, width = (int(n) for n in clip.split(" x "))
        for shrunk in (1, 2, 4) if demand.width else (1,):
            free = registry.needed_gib(ranked[name], (width // shrunk, height // shrunk))
            smaller = demand.at(width // shrunk) if demand.width else demand
            memory.plan(int(free * GIB) + 1, smaller)
        assert frames <= ranked[name].most_frames + ranked[name].options.get("tail", 0)


def test_the_width_at_work_decides_between_variants(here):
    here("viewcrafter_25", "viewcrafter_25_512", "wan_vace_1.3b")
    assert choice.best_here(80 * GIB, Wish(size=(1024, 576))) == "viewcrafter_25"
    assert choice.best_here(80 * GIB, Wish(size=(512, 288))) == "wan_vace_1.3b"
    assert choice.best_here(3.5 * GIB, Wish(size=(512, 288))) == "patch"
    assert choice.best_here(6 * GIB, Wish(size=(512, 288))) == "viewcrafter_25_512"
    # smaller frames need less than the trained size does
    assert choice.best_here(6.5 * GIB, Wish(size=(512, 288))) == "wan_vace_1.3b"
    assert choice.best_here(7.2 * GIB, Wish(size=(1024, 576))) == "patch"
    assert choice.best_here(8 * GIB, Wish(size=(1024, 576))) == "viewcrafter_25"


def test_a_prior_is_chosen_that_makes_segments_of_this_length(here):
    here("viewcrafter_16", "svd")
    assert choice.best_here(80 * GIB, Wish(size=(1024, 576), frames=16)) == "viewcrafter_16"
    assert choice.best_here(80 * GIB, Wish(size=(1024, 576), frames=25)) == "svd"
    assert choice.best_here(80 * GIB, Wish(size=(1024, 576), frames=30)) == "patch"


def test_a_prior_of_one_size_is_chosen_at_that_size_alone(here):
    here("cogvideox_i2v")
    assert choice.best_here(80 * GIB, Wish(size=(720, 480))) == "cogvideox_i2v"
    assert choice.best_here(80 * GIB, Wish(size=(720, 400))) == "patch"


def settled(
    size=(1024, 576), free=80 * GIB, earlier=None, preset="standard", **values
) -> choice.Chosen:
    return choice.settle(settings.make(preset, **values), size, free, earlier)


def test_without_weights_or_gpu_the_default_is_what_needs_neither(here):
    for free in (None, 80 * GIB):
        chosen = settled(free=free)
        assert (chosen.settings.video.prior, chosen.settings.geometry.depth) == ("patch", "small")
        assert ("no GPU" in chosen.facts["automatic prior"]) == (free is None)
        assert "weights download moge_2" in chosen.facts["automatic depth"]
        assert (
            chosen.facts["commercial use"]
            == "free: no weights are used but those that ship with the program"
        )


def test_the_default_is_the_best_that_is_here(here):
    here("viewcrafter_25", "depth_anything_3", "depth_anything_v2_indoor")
    chosen = settled()
    assert (chosen.settings.video.prior, chosen.settings.geometry.depth) == (
        "viewcrafter_25",
        "depth_anything_3",
    )
    assert "80.0 GiB" in chosen.facts["automatic prior"]
    assert (
        "Apache-2.0" in chosen.facts["commercial use"]
        and "allowed" in chosen.facts["commercial use"]
    )
    assert "note on the width" not in chosen.facts
    narrow = settled(size=(256, 144), width=256)
    assert (
        narrow.settings.video.prior == "viewcrafter_25"
        and "try width 1024" in narrow.facts["note on the width"]
    )


def test_what_is_not_settled_is_said_to_be_so():
    with pytest.raises(UserError, match="still to be chosen"):
        make_prior(settings.make(), torch.zeros(3, 8, 8), "cpu")
    with pytest.raises(UserError, match="still to be chosen"):
        make_depth_source(settings.make().geometry, "cpu")


def test_names_are_kept_as_they_are(here):
    here("viewcrafter_25", "moge_2")
    chosen = settled(prior="patch", depth="box")
    assert chosen.settings == settings.make(prior="patch", depth="box")
    assert set(chosen.facts) == {"commercial use"}


def test_a_begun_job_goes_on_with_its_models(here):
    here("viewcrafter_25", "moge_2")
    chosen = settled(earlier={"prior": "patch", "depth": "box"})
    assert (chosen.settings.video.prior, chosen.settings.geometry.depth) == ("patch", "box")
    assert "was begun" in chosen.facts["automatic prior"]


def test_commercial_safe_takes_only_what_is_allowed_and_says_so(here):
    here("svd", "depth_pro", "zoedepth")
    free = settled(preset="commercial-safe")
    assert (free.settings.video.prior, free.settings.geometry.depth) == ("patch", "zoedepth")
    assert (
        free.facts["commercial use"].startswith("commercial-safe was asked for; allowed")
        and "MIT" in free.facts["commercial use"]
    )
    chosen = settled()
    assert (chosen.settings.video.prior, chosen.settings.geometry.depth) == ("svd", "depth_pro")
    assert (
        chosen.facts["commercial use"].startswith("NO")
        and "research only" in chosen.facts["commercial use"]
    )


@pytest.mark.parametrize(
    "values",
    [{"prior": "svd"}, {"depth": "depth_pro"}, {"initialiser": "flash3d"}, {"prior": "ltx"}],
)
def test_commercial_safe_refuses_and_explains_what_is_not_allowed(here, values):
    with pytest.raises(UserError, match="not free for commercial use") as caught:
        settled(preset="commercial-safe", **values)
    assert "licences to any" in caught.value.hint
    choice.check(settings.make(**values))  # without the preset nothing is refused


def test_weights_that_are_not_used_are_not_asked_for(here):
    choice.check(settings.make("commercial-safe", prior="none"))


def test_given_files_are_said_to_have_licences_of_their_own(here):
    text = settled(initialiser="sharp.ply").facts["commercial use"]
    assert "only you know the licence: sharp.ply" in text


def test_missing_weights_are_told_before_any_work_all_at_once(here):
    with pytest.raises(UserError, match=r"ViewCrafter 25 frames.*Flash3D") as caught:
        settled(preset="paper")
    assert "viewcrafter_25, flash3d" in caught.value.hint
    here("viewcrafter_25")
    with pytest.raises(UserError, match="Flash3D") as caught:
        settled(preset="paper")
    assert "weights download flash3d" in caught.value.hint
    here("flash3d")
    assert settled(preset="paper").facts["commercial use"].startswith("NO")


def test_the_papers_preset_is_viewcrafter_and_flash3d():
    paper = settings.make("paper")
    assert (paper.video.prior, paper.geometry.initialiser) == ("viewcrafter_25", "flash3d")


def test_a_wrong_model_is_told_before_a_folder_is_made(tmp_path, capsys):
    picture = Path(__file__).resolve().parents[3] / "engine" / "demo" / "image.jpg"
    arguments = [
        "--image",
        str(picture),
        "--out",
        str(tmp_path / "out"),
        "--preset",
        "commercial-safe",
        "--prior",
        "cogvideox_i2v",
    ]
    assert main(["generate", *arguments]) == 2
    assert (
        "not free for commercial use" in capsys.readouterr().err and not (tmp_path / "out").exists()
    )


def test_the_command_tells_both(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    assert main(["weights", "--json", "recommend", "--commercial"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["here"] == "patch" and data["best"] in PRIORS
    assert data["depth"] == "small" and data["best_depth"] == "moge_2"


def test_the_command_lists_what_fits_with_what_is_weighed(capsys, monkeypatch, here):
    """As on a card of 24 GiB: minutes, memory, what is to fetch and the licence of every prior."""
    here("wan_vace_1.3b")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    monkeypatch.setattr(memory, "free_bytes", lambda *_: 22 * GIB)
    assert main(["weights", "--json", "recommend", "--priority", "speed"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["here"] == "wan_vace_1.3b" and data["best"] == "wan_vace_1.3b_fast"
    assert data["download"] == ["wan_1.3b_rcm"]
    rows = {row["name"]: row for row in data["fitting"]}
    assert rows["wan_vace_1.3b_fast"]["download_gb"] == 2.84
    assert 0 < rows["wan_vace_1.3b_fast"]["seconds"] < rows["wan_vace_1.3b"]["seconds"] / 10
    assert not rows["svd"]["commercial_use"] and rows["patch"]["seconds"] is None
    assert main(["weights", "recommend"]) == 0
    told = capsys.readouterr().out
    assert "after a download of viewcrafter_25: --prior viewcrafter_25" in told
    assert any(
        all(word in line for word in ("wan_vace_1.3b ", "min", "GiB", "here", "yes", "measured"))
        for line in told.splitlines()
    )


def test_what_a_prior_took_here_is_told_in_place_of_what_is_reckoned(
    capsys, monkeypatch, here, tmp_path
):
    card = "NVIDIA GeForce RTX 4090"
    monkeypatch.setenv(speeds.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    monkeypatch.setattr(memory, "free_bytes", lambda *_: 22 * GIB)

    def told() -> dict:
        assert main(["weights", "--json", "recommend"]) == 0
        return {row["name"]: row for row in json.loads(capsys.readouterr().out)["fitting"]}

    before = told()
    assert not any(row["took_here"] for row in before.values())
    asked = settings.make(prior="viewcrafter_25", device="cuda", width=1024)
    work = estimate.work_of(asked, 25, 9 / 16)
    ran = estimate.Speeds({"generate": 0.2}, 50, True)
    speeds.keep(work, ran, "Tesla T4")  # another card's
    assert told() == before
    speeds.keep(work, ran, card)
    after = told()
    assert after["viewcrafter_25"]["seconds"] == pytest.approx(0.2 * 25 * 0.589824 * 50)
    assert [name for name, row in after.items() if row["took_here"]] == ["viewcrafter_25"]
    assert main(["weights", "recommend"]) == 0
    assert "2 min" in (line := _line(capsys.readouterr().out, "viewcrafter_25 "))
    assert "time as the last job with it took here" in line


def _line(text: str, words: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(words))


def test_the_figures_in_the_documents_are_those_that_are_weighed():
    from benchmarks import prior_memory

    text = (Path(__file__).parents[3] / "docs/video_priors.md").read_text(encoding="utf-8")
    for row in prior_memory.figures():
        assert row in text
