"""engine/bridge/camera_file.py: what is written reads back; what cannot be a camera path is refused
by name.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bridge import camera_file
from engine.bridge.camera_file import CameraPath
from engine.bridge.errors import UserError


def example(frames: int = 3) -> CameraPath:
    K = np.tile(np.array([[500.25, 0, 320.1], [0, 499.75, 180.3], [0, 0, 1]]), (frames, 1, 1))
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, 3] = np.arange(frames)[:, None] / 3
    return CameraPath(K, poses, 640, 360, 23.976, "m")


def test_round_trip_is_exact(tmp_path: Path) -> None:
    camera_file.write(tmp_path / "a.json", example())
    got = camera_file.read(tmp_path / "a.json")
    assert np.array_equal(got.K, example().K) and np.array_equal(
        got.world_from_camera, example().world_from_camera
    )
    assert got[2:] == example()[2:]
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_unknown_keys_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    data = camera_file.to_json(example()) | {"source": "Camera", "up": "Z"}
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(data), encoding="utf-8")
    assert camera_file.read(tmp_path / "a.json").count == 3


def changed(*keys: Any, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(camera_file.to_json(example()))
    at: Any = data
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return data


BAD = {
    "format": (changed("format", value="other"), "format"),
    "version": (changed("version", value=2), "version 2"),
    "no frames": (changed("frames", value=[]), "no frames"),
    "frames no list": (changed("frames", value={}), "no frames"),
    "frame no object": (changed("frames", 1, value=3), "Frame 1"),
    "no K": (changed("frames", 1, "K", value=None), "K of frame 1"),
    "ragged K": (changed("frames", 1, "K", value=[[1, 2], [3]]), "K of frame 1"),
    "words in K": (changed("frames", 1, "K", 0, 0, value="wide"), "K of frame 1"),
    "NaN in K": (
        changed("frames", 1, "K", 0, 0, value=float("nan")),
        "Frame 1 .* K that are not finite",
    ),
    "zero focal": (changed("frames", 2, "K", 1, 1, value=0), "Frame 2 .* focal"),
    "negative focal": (changed("frames", 2, "K", 0, 0, value=-500), "Frame 2 .* focal"),
    "skew": (changed("frames", 0, "K", 0, 1, value=5), "Frame 0 .* skew"),
    "transposed K": (changed("frames", 0, "K", 2, 0, value=320), "Frame 0 .* K that is not"),
    "NaN pose": (
        changed("frames", 2, "world_from_camera", 0, 3, value=float("nan")),
        "Frame 2 .* not finite",
    ),
    "infinite pose": (
        changed("frames", 2, "world_from_camera", 0, 3, value=float("inf")),
        "Frame 2 .* not finite",
    ),
    "3x4 pose": (
        changed("frames", 2, "world_from_camera", value=np.eye(4)[:3].tolist()),
        "world_from_camera of frame 2",
    ),
    "scaled": (
        changed("frames", 1, "world_from_camera", value=np.diag([1.01, 1.01, 1.01, 1]).tolist()),
        "Frame 1 .* not a rotation",
    ),
    "mirrored": (
        changed("frames", 1, "world_from_camera", value=np.diag([1, 1, -1, 1]).tolist()),
        "Frame 1 .* mirrored",
    ),
    "last row": (changed("frames", 1, "world_from_camera", 3, 0, value=1), "Frame 1 .* last row"),
    "width 0": (changed("width", value=0), "width"),
    "width text": (changed("width", value="640"), "width"),
    "width float": (changed("width", value=640.5), "width"),
    "width true": (changed("width", value=True), "width"),
    "height huge": (changed("height", value=10**6), "height"),
    "another size": (changed("frames", 1, "width", value=320), "Frame 1 .* another size"),
    "fps 0": (changed("fps", value=0), "fps"),
    "fps NaN": (changed("fps", value=float("nan")), "fps"),
    "fps text": (changed("fps", value="24"), "fps"),
    "unit": (changed("unit", value="feet"), "unit"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_the_frame_and_a_remedy(tmp_path: Path, case: str) -> None:
    data, words = BAD[case]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=words) as caught:
        camera_file.read(tmp_path / "bad.json")
    assert "bad.json" in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe\x00", b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.json"):
        camera_file.read(tmp_path / "bad.json")


def test_write_refuses_what_read_would_refuse_and_leaves_the_old_file(tmp_path: Path) -> None:
    camera_file.write(tmp_path / "a.json", example())
    poses = example().world_from_camera
    poses[1, 0, 3] = np.nan
    with pytest.raises(UserError, match="Frame 1"):
        camera_file.write(tmp_path / "a.json", example()._replace(world_from_camera=poses))
    assert camera_file.read(tmp_path / "a.json").count == 3


def test_missing_file_and_folder_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Could not read"):
        camera_file.read(tmp_path / "no.json")
    with pytest.raises(UserError, match="does not exist"):
        camera_file.write(tmp_path / "no" / "a.json", example())
