"""USD is read in a process of its own: it follows nothing outside the file, and its bombs end
nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import formats
from engine.bridge.errors import UserError
from engine.formats import SplatScene, usd
from tests.format_samples import random_splats

ROOT = Path(__file__).resolve().parents[3]


# Reads a file and prints the highest memory of the guard process, and whether it was refused. In
# a process of its own: a system keeps one maximum over all children that ever ended.
READ_AND_WEIGH = """
import resource, sys
from engine import formats
from engine.bridge.errors import UserError
try:
    formats.read(sys.argv[1])
    refused = False
except UserError:
    refused = True
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024, refused)
"""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    formats.write(folder / "secret.usda", SplatScene(random_splats(7, 0)))
    return folder / "secret.usda"


@pytest.mark.parametrize(
    "text",
    [
        "#usda 1.0\n(\n    subLayers = [@{0}@]\n)\n",
        '#usda 1.0\ndef "a" (\n    references = @{0}@</scene>\n)\n{{\n}}\n',
        '#usda 1.0\ndef "a" (\n    payload = @{0}@</scene>\n)\n{{\n}}\n',
        '#usda 1.0\ndef "a" (\n    variants = {{ string v = "x" }}\n    prepend variantSets = '
        '"v"\n)\n{{\n'
        '    variantSet "v" = {{ "x" ( references = @{0}@</scene> ) {{ }} }}\n}}\n',
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_other_files_are_not_followed_and_are_named(tmp_path, secret, text, relative):
    name = "elsewhere/secret.usda" if relative else str(secret)
    (tmp_path / "a.usda").write_text(text.format(name))
    with pytest.raises(UserError, match=r"refers to other files .*secret") as caught:
        formats.read(tmp_path / "a.usda")
    assert "usdcat --flatten" in caught.value.hint


def test_splats_beside_a_reference_are_read_and_the_reference_is_named(tmp_path, secret):
    path = tmp_path / "a.usda"
    formats.write(path, SplatScene(random_splats(5, 0)))
    path.write_text(
        path.read_text() + f'\ndef "b" (\n    references = @{secret}@</scene>\n)\n{{\n}}\n'
    )
    scene = formats.read(path)
    assert scene.count == 5 and "secret.usda" in " ".join(scene.metadata.lost)


def test_a_package_may_refer_to_what_is_in_it(tmp_path):
    from pxr import Sdf, UsdUtils

    formats.write(tmp_path / "part.usdc", SplatScene(random_splats(6, 0)))
    (tmp_path / "top.usda").write_text(
        '#usda 1.0\n(\n    defaultPrim = "a"\n    upAxis = "Y"\n)\ndef "a" (\n    references = '
        "@./part.usdc@</scene>\n)\n{\n}\n"
    )
    assert UsdUtils.CreateNewUsdzPackage(
        Sdf.AssetPath(str(tmp_path / "top.usda")), str(tmp_path / "a.usdz")
    )
    scene = formats.read(tmp_path / "a.usdz")
    assert scene.count == 6 and scene.metadata.lost == ()


def test_a_layer_that_is_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.usda")
    (tmp_path / "a.usda").write_text("#usda 1.0\n(\n    subLayers = [@./pipe.usda@]\n)\n")
    with pytest.raises(UserError):
        formats.read(tmp_path / "a.usda")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX resource figures")
def test_a_text_that_doubles_at_every_level_ends_in_an_error(tmp_path):
    levels = "".join(
        f'class "l{i}"\n{{\n    def "a" ( references = </l{i + 1}> ) {{ }}\n    def "b" ( '
        f"references = </l{i + 1}> ) {{ }}\n}}\n"
        for i in range(21)
    )
    text = f'#usda 1.0\n{levels}class "l21"\n{{\n}}\ndef "top" ( references = </l0> )\n{{\n}}\n'
    (tmp_path / "a.usda").write_text(text)
    said = subprocess.run(
        [sys.executable, "-c", READ_AND_WEIGH, str(tmp_path / "a.usda")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert said[1] == "True" and 0 < int(said[0]) < 1500


def test_a_million_frames_of_a_still_camera_cost_nothing(tmp_path):
    path = tmp_path / "a.usda"
    path.write_text(
        '#usda 1.0\n(\n    startTimeCode = 1\n    endTimeCode = 999999\n)\ndef Camera "c"\n{\n}\n'
    )
    with pytest.raises(UserError, match="spans"):
        usd.cameras_of(path)
    path.write_text(path.read_text().replace("999999", "5000"))
    cameras = usd.cameras_of(path)
    assert cameras is not None and cameras.count == 5000 and np.ptp(cameras.K, axis=0).max() == 0
