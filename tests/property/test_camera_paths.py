"""Camera paths of any shape survive their files, and segments cover any path."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bridge import camera_file
from engine.bridge.camera_file import CameraPath
from engine.bridge.segments import plan_segments
from engine.cameras import trajectory
from engine.cameras.readers import resample


@st.composite
def paths(draw: st.DrawFn) -> CameraPath:
    frames = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width, height = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    u, _, vt = np.linalg.svd(rng.normal(size=(frames, 3, 3)))
    R = u @ vt * np.linalg.det(u @ vt)[:, None, None]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = (
        R,
        rng.normal(size=(frames, 3)) * 10.0 ** draw(st.integers(-6, 6)),
    )
    K = np.tile(np.eye(3), (frames, 1, 1))
    K[:, [0, 1], [0, 1]] = rng.uniform(0.1, 4, (frames, 2)) * width
    K[:, :2, 2] = rng.uniform(-1, 2, (frames, 2)) * width
    return CameraPath(
        K,
        poses,
        width,
        height,
        draw(st.floats(0.01, 1000)),
        draw(st.sampled_from(camera_file.UNITS)),
    )


@given(paths())
def test_json_round_trip_is_exact(path: CameraPath) -> None:
    got = camera_file.from_json(json.loads(json.dumps(camera_file.to_json(path))))
    assert (
        np.array_equal(got.K, path.K)
        and np.array_equal(got.world_from_camera, path.world_from_camera)
        and got[2:] == path[2:]
    )


@given(paths(), st.integers(1, 4000), st.integers(1, 4000))
def test_resizing_there_and_back_changes_nothing(path: CameraPath, width: int, height: int) -> None:
    back = trajectory.scaled_to(trajectory.scaled_to(path, width, height), path.width, path.height)
    assert np.allclose(back.K, path.K, rtol=1e-12)


@given(paths())
def test_relative_to_first_is_idempotent_and_keeps_distances(path: CameraPath) -> None:
    once = trajectory.relative_to_first(path)
    twice = trajectory.relative_to_first(once)
    assert np.allclose(once.world_from_camera, twice.world_from_camera)
    p, q = path.world_from_camera[:, :3, 3], once.world_from_camera[:, :3, 3]
    size = np.abs(p).max()
    assert np.allclose(
        np.linalg.norm(p[:, None] - p, axis=-1),
        np.linalg.norm(q[:, None] - q, axis=-1),
        atol=1e-9 * size,
    )


@settings(max_examples=300)
@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_segments_cover_every_frame_once_as_new(m: int, n: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, n - 1))
    segments = plan_segments(m, n, overlap)
    new = [frame for s in segments for frame in range(s.new, s.stop)]
    assert new == list(range(m))
    h = max(0, -(-(m - n) // (n - overlap))) + 1  # the paper's
    assert len(segments) in (h, h - 1)
    for before, s in pairwise(segments):
        assert s.stop - s.start == n and s.new == before.stop and s.stop > s.new
        shared = s.new - s.start
        assert shared >= overlap if len(segments) == h else shared >= overlap // 2
    own = [s.stop - s.new for s in segments[1:]]
    assert not own or max(own) - min(own) <= 1
    assert segments[0].start == segments[0].new == 0 and segments[-1].stop == m


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.integers(2, 80))
def test_resampled_lines_keep_their_ends_and_their_own_values(
    values: list[float], count: int
) -> None:
    got = resample(values, count)
    assert len(got) == count and np.allclose(got[[0, -1]], [values[0], values[-1]])
    again = resample(values, (len(values) - 1) * 3 + 1)[::3]
    assert np.allclose(again, values)
