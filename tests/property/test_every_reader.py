"""Every reader of the engine on damaged files: a result or a UserError, in time and within memory.

The same readers and damages as `benchmarks/damaged_files.py`, which tries thousands; here a few
each.
"""

from __future__ import annotations

import logging
import random
import shutil

import pytest

from benchmarks import damaged_files

_SEED, _CASES = 7, 12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "group", ["_splats", "_cameras", "_pictures", "_job", "_job_folder", "_blender"]
)
def test_damaged_files_end_in_a_result_or_one_clear_error(tmp_path, group):
    (tmp_path / "made").mkdir()
    logging.disable(logging.CRITICAL)
    faults = []
    try:
        for reader in getattr(damaged_files, group)(tmp_path / "made"):
            for case in range(max(1, round(_CASES * min(reader.share, 1)))):
                place = tmp_path / "case"
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                wrong = damaged_files.attempt(reader, case, _SEED, place)
                faults += [f"{reader.name}, case {case}: {wrong}"] if wrong else []
    finally:
        logging.disable(logging.NOTSET)
    assert faults == []


@pytest.mark.parametrize("group", ["_splats", "_cameras", "_pictures"])
def test_the_files_that_are_damaged_are_sound_before(tmp_path, group):
    (tmp_path / "made").mkdir()
    for reader in getattr(damaged_files, group)(tmp_path / "made"):
        place = tmp_path / reader.name
        place.mkdir()
        for name, data in reader.files.items():
            (place / name).write_bytes(data)
        assert reader.read(place / next(iter(reader.files))) is not None, reader.name


def test_the_damage_is_the_same_for_the_same_seed():
    once, twice = (damaged_files.damaged(bytes(range(200)), random.Random("a 0 1")) for _ in "ab")
    assert once == twice != bytes(range(200))
