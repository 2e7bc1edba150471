"""Whatever a file is called, what was written can be read back; addresses inside files cannot
lead out.
"""

from __future__ import annotations

import json
import os

import pytest

from engine import formats
from engine.bridge.errors import UserError
from engine.formats import SplatScene
from tests.format_samples import random_splats

NAMES = ["a%20b", "a b", "\u00e4 \u65e5", "a[b]", "a#b", "'q'", "100%", "-x", "a&b", "c%3Ad%5Ce"]
NAMES += ["a?b", "a:b", 'd"q'] if os.name != "nt" else []


@pytest.mark.parametrize("ending", [".gltf", ".glb", ".usda", ".usdz"])
def test_a_name_comes_back(tmp_path, ending):
    for name in NAMES if ending == ".gltf" else NAMES[:4]:
        path = tmp_path / f"{name}{ending}"
        formats.write(path, SplatScene(random_splats(5, 0)))
        assert formats.read(path).count == 5, name
    assert not [f.name for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_a_name_that_usd_takes_apart_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="another name"):
        formats.write(tmp_path / "x:SDF_FORMAT_ARGS:y.usdz", SplatScene(random_splats(5, 0)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "uri",
    [
        "../a.bin",
        "%2e%2e/a.bin",
        "/a.bin",
        "%2Fa.bin",
        "C:/a.bin",
        "C:\\a.bin",
        "..%5Ca.bin",
        "file:///a.bin",
        "a%00.bin",
    ],
)
def test_a_buffer_lies_beside_its_file(tmp_path, uri):
    path = tmp_path / "in" / "a.gltf"
    path.parent.mkdir()
    formats.write(path, SplatScene(random_splats(5, 0)))
    (tmp_path / "a.bin").write_bytes((tmp_path / "in" / "a.bin").read_bytes())
    document = json.loads(path.read_text(encoding="utf-8"))
    document["buffers"][0]["uri"] = uri
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError):
        formats.read(path)
