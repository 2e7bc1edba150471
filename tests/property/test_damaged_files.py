"""Every reader on files with wrong bytes: sound splats or one clear error, whatever the damage."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine import formats
from engine.bridge.errors import UserError
from engine.formats import SplatScene, WriteOptions
from tests.format_samples import random_splats
from tests.unit.formats.test_round_trips import _camera_path

CASES = {"": {}, "version 3": {"spz_version": 3}, "holding spz": {"compress_spz": True}}
FILES = [
    (ending, "")
    for ending in (
        ".ply",
        ".compressed.ply",
        ".splat",
        ".spz",
        ".glb",
        ".gltf",
        ".usda",
        ".usdc",
        ".sog",
    )
]
FILES += [(".spz", "version 3"), (".glb", "holding spz")]
_WORDS = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80", b"\x00\xe1\xf5\x05")


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four of: a flipped bit, a telling byte or word, a cut, bytes lost, added or repeated.
    Headers are hit most.
    """
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(min(len(out), rng.choice((32, 128, 1024, len(out)))))
        far = rng.randrange(len(out))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice((0, 1, 127, 128, 255, *b"0123456789-e"))
        elif kind == 2:
            out[at : at + 4] = rng.choice(_WORDS)
        elif kind == 3:
            del out[max(1, far) :]
        elif kind == 4:
            del out[max(1, far) : far + rng.randrange(1, 64)]
        elif kind == 5:
            out[at:at] = rng.randbytes(rng.randrange(1, 16))
        else:
            out[at : at + 16] = out[far : far + 16]
    return bytes(out)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("ending", "case"), FILES)
def test_a_damaged_file_is_refused_or_read_as_sound_splats(tmp_path, ending, case):
    good, bad = tmp_path / f"good{ending}", tmp_path / f"bad{ending}"
    cameras = _camera_path() if ending in (".glb", ".gltf", ".usda", ".usdc") else None
    formats.write(
        good, SplatScene(random_splats(40, 2), cameras=cameras), WriteOptions(**CASES[case])
    )
    data, rng = good.read_bytes(), random.Random(ending + case)
    refused = 0
    for _ in range(
        6 if ending in (".usdc", ".usda") else 120
    ):  # USD is read in a process of its own, which takes time
        bad.write_bytes(_damaged(data, rng))
        try:
            scene = formats.read(bad)
        except UserError as error:
            assert error.hint, error
            refused += 1
        else:
            assert all(np.isfinite(array).all() for array in scene.splats)
    assert refused > 0
