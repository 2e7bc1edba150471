"""A file appears whole or not at all, and nothing else stays in its folder."""

from __future__ import annotations

import pytest

from engine.bridge.errors import UserError
from engine.bridge.whole_file import replacing, replacing_path


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "ä.txt"
    path.write_text("old")
    with replacing_path(path) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == tmp_path
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no_such_folder/a.bin", "x" * 300 + ".bin"])
def test_what_the_system_refuses_is_said(tmp_path, name):
    with pytest.raises(UserError, match="cannot be written"), replacing(tmp_path / name) as file:
        file.write(b"x")


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".bin")
    with replacing(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"
