"""Formats on splats and bytes that nobody thought of."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine import formats
from engine.bridge.errors import UserError
from engine.bridge.splat_file import Splats
from engine.formats import SplatScene
from tests.format_samples import covariances, opacity, random_splats

QUICK = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@st.composite
def splats(draw) -> Splats:
    n, degree = draw(st.integers(1, 12)), draw(st.integers(0, 3))

    def numbers(shape, low, high):
        return draw(hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32)))

    quats = numbers((n, 4), -2, 2)
    quats[np.abs(quats).max(axis=1) < 1e-3] = (1, 0, 0, 0)
    return Splats(
        numbers((n, 3), -100, 100),
        quats,
        numbers((n, 3), -9, 5),
        numbers((n,), -15, 15),
        numbers((n, 3), -1.5, 1.5),
        numbers((n, (degree + 1) ** 2 - 1, 3), -0.875, 0.875),
    )


@QUICK
@given(splats())
@pytest.mark.parametrize("ending", [".glb", ".ply"])
def test_lossless_formats_return_what_they_were_given(ending, given_splats):
    _assert_lossless(ending, given_splats)


@settings(parent=QUICK, max_examples=10)  # each is read in a process of its own
@given(splats())
def test_usd_returns_what_it_was_given(given_splats):
    _assert_lossless(".usdc", given_splats)


def _assert_lossless(ending: str, given_splats: Splats) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        formats.write(path, SplatScene(given_splats))
        back = formats.read(path).in_axes("opencv").splats
    np.testing.assert_array_equal(back.means, given_splats.means)
    np.testing.assert_array_equal(back.sh_dc, given_splats.sh_dc)
    np.testing.assert_array_equal(back.sh_rest, given_splats.sh_rest)
    np.testing.assert_allclose(opacity(back), opacity(given_splats), atol=1e-7)
    a, b = covariances(given_splats), covariances(back)
    assert (
        np.linalg.norm(a - b, axis=(1, 2)) <= 1e-5 * np.linalg.norm(a, axis=(1, 2)) + 1e-12
    ).all()


@QUICK
@given(splats(), st.sampled_from([3, 4]))
def test_writing_spz_again_changes_nothing(given_splats, version):
    """Quantisation is a projection: a second trip returns the same bytes."""
    from engine.formats import spz

    first = spz.encode(given_splats, version=version)
    again = spz.encode(spz.decode(first)[0], version=version)
    a, b = spz.decode(first)[0], spz.decode(again)[0]
    np.testing.assert_allclose(a.means, b.means, atol=1e-6)
    np.testing.assert_array_equal(a.scales_log, b.scales_log)
    np.testing.assert_array_equal(a.sh_dc, b.sh_dc)
    np.testing.assert_array_equal(a.sh_rest, b.sh_rest)
    np.testing.assert_allclose(opacity(a), opacity(b), atol=1e-6)


_SEEDS: dict[str, bytes] = {}


def _seed(ending: str) -> bytes:
    if ending not in _SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a{ending}"
            formats.write(path, SplatScene(random_splats(20, 1)))
            _SEEDS[ending] = path.read_bytes()
    return _SEEDS[ending]


@settings(parent=QUICK, max_examples=150)
@given(
    data=st.data(), ending=st.sampled_from([".ply", ".compressed.ply", ".spz", ".splat", ".glb"])
)
def test_damaged_bytes_give_a_scene_or_a_user_error_and_nothing_else(data, ending):
    raw = bytearray(_seed(ending))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(raw) - 1, 1500)))
        raw[at] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(1, len(raw)))] if data.draw(st.booleans()) else raw
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        path.write_bytes(raw)
        try:
            scene = formats.read(path)
        except UserError:
            return
    assert scene.count >= 1
    assert all(np.isfinite(array).all() for array in scene.splats)
    assert scene.splats.quats.any(axis=1).all()
