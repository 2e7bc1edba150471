"""Settings: few are shown first, files of older versions are read, and what they lose is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.bridge import settings
from engine.bridge.errors import UserError

# as version 0.1.0 wrote it for --similarity latent --layers 1 --fps 12 --reuse 0.05
# --anchor-weight 0.3 --guidance 3
OLD = json.loads((Path(__file__).parent / "settings_0_1_0.json").read_text(encoding="utf-8"))
CHANGED_THERE = ("layers", "similarity", "guidance", "reuse", "anchor_weight", "fps")


def test_at_most_ten_settings_are_basic_and_fewer_than_forty_there_are():
    rows = settings.table()
    assert 5 <= sum(row.basic for row in rows) <= 10
    assert len(rows) < 40


def test_names_are_unique_over_all_groups_and_differ_from_the_groups():
    rows = settings.table()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert not set(names) & {row.group for row in rows}


def test_settings_of_an_older_version_are_read():
    read = settings.from_json(OLD)
    assert read == settings.make(
        "draft",
        width=64,
        move_frames=12,
        segment_length=6,
        overlap=2,
        refine_steps=5,
        steps=2,
        depth="box",
        horizon=0.45,
        camera_height=1.6,
    )
    assert settings.from_json(settings.to_json(read)) == read


def test_what_is_left_out_is_said_where_it_had_been_changed():
    said = settings.left_out(OLD)
    assert [text.split()[0] for text in said] == list(CHANGED_THERE)
    assert settings.left_out(settings.to_json(settings.from_json(OLD))) == []


def test_every_setting_of_the_older_version_is_known_or_named_as_gone():
    known = {row.name for row in settings.table()}
    assert {name for group in OLD.values() for name in group} <= known | set(settings.GONE)
    assert not known & set(settings.GONE)


def test_without_diffusion_meant_no_prior():
    assert settings.from_json({"momentum": {"diffusion": False}}).video.prior == "none"
    assert settings.left_out({"momentum": {"diffusion": False}}) == []


@pytest.mark.parametrize("data", [[], {"path": 3}, {"path": {"lambda_9": 1}}])
def test_what_no_version_wrote_is_refused(data):
    with pytest.raises(UserError):
        settings.from_json(data)
