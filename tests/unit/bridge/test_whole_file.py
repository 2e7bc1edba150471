"""A file appears whole or not at all, and nothing else stays in its folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from engine.bridge.errors import UserError
from engine.bridge.whole_file import (
    is_partial,
    partial_name,
    replacing,
    replacing_path,
    scratch_folder,
    temporary_folder,
    whole_file,
)


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


@pytest.mark.parametrize(
    ("name", "said"),
    [("no_such_folder/a.bin", "does not exist"), ("x" * 300 + ".bin", "cannot be written")],
)
def test_what_the_system_refuses_is_said(tmp_path, name, said):
    with pytest.raises(UserError, match=said), replacing(tmp_path / name) as file:
        file.write(b"x")


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".bin")
    with replacing(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def _dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_writer_left_goes_with_the_next_and_a_living_one_s_stays(tmp_path):
    path, mine = tmp_path / "scene.ply", f".{os.getpid()}."
    name = partial_name(path).name
    dead, living = name.replace(mine, f".{_dead()}."), name.replace(mine, f".{os.getppid()}.")
    (tmp_path / dead).write_bytes(b"half")
    (tmp_path / living).write_bytes(b"at work")
    (tmp_path / dead.replace(".ply", ".parts")).mkdir()
    assert all(is_partial(n) for n in (name, dead, living))
    with whole_file(path) as temporary:
        temporary.write_bytes(b"whole")
    assert {f.name for f in tmp_path.iterdir()} == {"scene.ply", living}
    with scratch_folder(path) as folder:
        (folder / "a").write_bytes(b"")
    assert {f.name for f in tmp_path.iterdir()} == {"scene.ply", living}


@pytest.mark.skipif(os.name == "nt", reason="makes symbolic links")
def test_no_link_is_written_through(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "a.json"
    victim.write_text("mine")
    for link in (partial_name(path), path):
        link.symlink_to(victim)
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert victim.read_text() == "mine" and path.read_text() == "new" and not path.is_symlink()


def test_temporary_folders_of_killed_processes_go(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone, living = (tmp_path / f"scene_splatter_{n}_abc" for n in (_dead(), os.getppid()))
    for folder in (gone, living, tmp_path / "scene_splatter_notes"):
        folder.mkdir()
    with temporary_folder() as folder:
        assert folder.parent == tmp_path and not gone.exists() and living.exists()
    assert {f.name for f in tmp_path.iterdir()} == {living.name, "scene_splatter_notes"}
