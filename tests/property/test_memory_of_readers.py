"""Small files that hold or claim much: what reading one takes of memory is at most three times what
its result needs, and nothing where it is refused.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from engine.media.images import write_exr
from tests.format_samples import ROOT

_SLACK_MB = 24  # of the decoders themselves
_SIDE = 2000

# Runs in a process of its own, whose peak is forgotten before each file: [name, MB taken, MB of the
# result].
_PROGRAM = """
import json, logging, sys
from pathlib import Path
from engine import formats
from engine.bridge.errors import UserError
from engine.cameras import trajectory
from engine.geometry.depth_file import read_depth
from engine.media.photos import load_image

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

def picture(file):
    return load_image(file).pixels.numel() * 4 / 2**20

def depth(file):
    return read_depth(file).nbytes / 2**20

def cameras(file):
    return trajectory.load(file).count * 25 * 8 / 2**20

def splats(file):
    return formats.read(file).count * 240 / 2**20

logging.disable(logging.CRITICAL)
reading = {"picture": picture, "depth": depth, "cameras": cameras, "splats": splats}
files = [Path(name) for name in sys.argv[1:]]
for file in [files[0], *files]:  # the first one once more: what is loaded with it is not the file's
    read = reading[file.name.split("_")[0]]
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    try:
        need = read(file)
    except UserError as error:
        need = 0.0
    print(json.dumps([file.name, peak() - before, need]), flush=True)
"""


def _png(bits: int, colour: int, side: int = _SIDE) -> bytes:
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = bytes(1 + (side * channels * bits + 7) // 8)
    size = side.to_bytes(4, "big") * 2
    head = (b"IHDR", size + bytes((bits, colour, 0, 0, 0)))
    parts = (head, (b"IDAT", zlib.compress(row * side, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(d).to_bytes(4, "big") + k + d + zlib.crc32(k + d).to_bytes(4, "big") for k, d in parts
    )


def _sog(entry: bytes) -> bytes:
    meta = {"version": 2, "count": 9, "means": {"mins": [0] * 3, "maxs": [1] * 3}}
    meta["means"]["files"] = ["means_l.webp", "means_u.webp"]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", json.dumps(meta))
        archive.writestr("means_l.webp", entry)
    return out.getvalue()


def _npz(frames: int) -> bytes:
    out = io.BytesIO()
    w2c = np.tile(np.eye(4), (frames, 1, 1))
    np.savez_compressed(out, w2c=w2c, intrinsics=np.tile([0.8, 1.4, 0.5, 0.5], (frames, 1)))
    return out.getvalue()


def _lying_npy() -> bytes:
    out = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (20_000, 20_000)}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + bytes(100)


def _files(folder: Path) -> list[Path]:
    made = {
        "picture_1_bit.png": _png(1, 0),
        "picture_16_bits.png": _png(16, 2),
        "picture_16_bits_alpha.png": _png(16, 6),
        "picture_giant.png": _png(1, 0, 9900),
        "depth_lie.npy": _lying_npy(),
        "cameras_many.npz": _npz(90_000),
        "cameras_flood.npz": _npz(600_000),
        "splats_flood.sog": _sog(bytes(300 << 20)),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    blank = np.zeros((_SIDE, _SIDE), np.float32)
    write_exr(folder / "picture_alpha.exr", dict.fromkeys("RGBA", blank))
    slope = np.broadcast_to(np.linspace(1, 9, _SIDE, dtype=np.float32), blank.shape)
    write_exr(folder / "depth_slope.exr", {"Z": slope})
    return sorted(folder.iterdir())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="looks at /proc")
def test_reading_takes_at_most_three_times_what_the_result_needs(tmp_path):
    files = _files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, files)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: (took, need) for name, took, need in map(json.loads, done.stdout.splitlines())}
    assert len(found) == len(files)
    too_much = {n: pair for n, pair in found.items() if pair[0] > 3 * pair[1] + _SLACK_MB}
    assert too_much == {}, found
    refused = {name for name, (_, need) in found.items() if not need}
    assert refused == {
        "picture_giant.png",
        "depth_lie.npy",
        "cameras_flood.npz",
        "splats_flood.sog",
    }
