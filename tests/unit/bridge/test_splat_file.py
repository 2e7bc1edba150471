"""The .ply of Gaussian splats: bit-exact round trips, every dialect, plain words for broken
files.
"""

from __future__ import annotations

import stat
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bridge import splat_file
from engine.bridge.errors import UserError
from engine.bridge.harmonics import SH_C0
from engine.bridge.splat_file import Splats, read_ply, write_ply

K_OF_DEGREE = {0: 0, 1: 3, 2: 8, 3: 15}


def random_splats(n: int = 50, degree: int = 3, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    shapes = ((n, 3), (n, 4), (n, 3), (n,), (n, 3), (n, K_OF_DEGREE[degree], 3))
    return Splats(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def assert_same_bits(a: Splats, b: Splats) -> None:
    for name, x, y in zip(Splats._fields, a, b, strict=True):
        assert x.dtype == y.dtype == np.float32 and x.shape == y.shape, name
        assert x.tobytes() == y.tobytes(), name


def raw_ply(
    path: Path,
    columns: dict[str, np.ndarray],
    form: str = "binary_little_endian",
    kind: str = "float",
) -> Path:
    """A vertex element written by hand, without plyfile: the tests' own idea of the format."""
    n = len(next(iter(columns.values())))
    header = (
        f"ply\nformat {form} 1.0\nelement vertex {n}\n"
        + "".join(f"property {kind} {c}\n" for c in columns)
        + "end_header\n"
    )
    table = np.stack(list(columns.values()), axis=1)
    if form == "ascii":
        body = "\n".join(" ".join(repr(float(v)) for v in row) for row in table).encode() + b"\n"
    else:
        body = (
            table.astype({"float": "f4", "double": "f8"}[kind])
            .astype(("<" if "little" in form else ">") + {"float": "f4", "double": "f8"}[kind])
            .tobytes()
        )
    path.write_bytes(header.encode() + body)
    return path


def columns_of(splats: Splats) -> dict[str, np.ndarray]:
    """Channel-major f_rest, written out as loops from the reference description."""
    columns = {"xyz"[i]: splats.means[:, i] for i in range(3)}
    columns |= {f"f_dc_{i}": splats.sh_dc[:, i] for i in range(3)}
    number = 0
    for channel in range(3):
        for coefficient in range(splats.sh_rest.shape[1]):
            columns[f"f_rest_{number}"] = splats.sh_rest[:, coefficient, channel]
            number += 1
    columns["opacity"] = splats.opacities_logit
    columns |= {f"scale_{i}": splats.scales_log[:, i] for i in range(3)}
    columns |= {f"rot_{i}": splats.quats[:, i] for i in range(4)}
    return columns


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip_keeps_every_bit(tmp_path: Path, degree: int) -> None:
    splats = random_splats(5000, degree)
    write_ply(tmp_path / "a.ply", splats)
    assert_same_bits(read_ply(tmp_path / "a.ply"), splats)


@settings(deadline=None)
@given(st.integers(1, 40), st.sampled_from([0, 1, 2, 3]), st.integers(0, 2**31))
def test_round_trip_keeps_every_bit_of_any_finite_float(n: int, degree: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [a.shape for a in random_splats(n, degree)]
    raw = [rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32) for shape in shapes]
    splats = Splats(*(np.where(np.isfinite(a), a, np.float32(-0.0)) for a in raw))
    splats.quats[:, 0] = 1.0
    with tempfile.TemporaryDirectory() as folder:
        write_ply(Path(folder) / "a.ply", splats)
        assert_same_bits(read_ply(Path(folder) / "a.ply"), splats)


def test_layout_is_the_reference_one(tmp_path: Path) -> None:
    splats = random_splats(7, 1)
    write_ply(tmp_path / "a.ply", splats, ["one", "two"])
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"] + [
        f"f_rest_{i}" for i in range(9)
    ]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        "comment one",
        "comment two",
        "element vertex 7",
        *(f"property float {n}" for n in names),
    ]
    assert head.decode().splitlines() == lines
    row = struct.unpack("<26f", body[:104])
    by_name = dict(zip(names, row, strict=True))
    assert (
        by_name["f_rest_1"] == splats.sh_rest[0, 1, 0]
        and by_name["f_rest_3"] == splats.sh_rest[0, 0, 1]
    )
    assert (by_name["nx"], by_name["ny"], by_name["nz"]) == (0, 0, 0)


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_order_number_type_and_coding_do_not_matter(tmp_path: Path, form: str, kind: str) -> None:
    splats = random_splats(3000 if form != "ascii" else 20, 2)
    columns = columns_of(splats)
    alphabetical = raw_ply(tmp_path / "a.ply", dict(sorted(columns.items())), form, kind)
    assert_same_bits(read_ply(alphabetical), splats)
    with_more = raw_ply(
        tmp_path / "b.ply",
        {"red": columns["x"], **columns, "nx": columns["y"], "confidence": columns["z"]},
        form,
        kind,
    )
    assert_same_bits(read_ply(with_more), splats)


def test_degree_four_keeps_its_first_three_degrees(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splats = random_splats(9, 3)
    columns = {name: c for name, c in columns_of(splats).items() if not name.startswith("f_rest")}
    rest = np.random.default_rng(1).normal(size=(9, 24, 3)).astype(np.float32)
    columns |= {f"f_rest_{c * 24 + j}": rest[:, j, c] for c in range(3) for j in range(24)}
    assert_same_bits(
        read_ply(raw_ply(tmp_path / "a.ply", columns)),
        splats._replace(sh_rest=np.ascontiguousarray(rest[:, :15])),
    )
    assert "degree 3" in caplog.text


def test_infinities_that_tools_write_on_purpose_become_finite(tmp_path: Path) -> None:
    splats = random_splats(4, 0)
    splats.opacities_logit[:2] = np.inf, -np.inf
    splats.scales_log[3, 1] = -np.inf
    read = read_ply(raw_ply(tmp_path / "a.ply", columns_of(splats)))
    opacity = 1 / (1 + np.exp(-read.opacities_logit.astype(np.float64)))
    assert 1 - 1e-7 < opacity[0] < 1 and 0 < opacity[1] < 1e-7
    assert 0 < np.exp(read.scales_log[3, 1]) < 1e-8
    assert read.opacities_logit[2:].tobytes() == splats.opacities_logit[2:].tobytes()


# --- PlayCanvas' compressed form -----------------------------------------------------------------


def pack_compressed(path: Path, splats: Splats, *, colour_limits: bool = True) -> None:
    """An encoder written from the format's description, one Gaussian at a time."""
    n, k = splats.sh_rest.shape[:2]
    colour = splats.sh_dc.astype(np.float64) * SH_C0 + 0.5
    opacity = 1 / (1 + np.exp(-splats.opacities_logit.astype(np.float64)))
    ends = [
        f"{e}_{a}"
        for s in ("", "scale_")
        for e in ("min", "max")
        for a in (s + "x", s + "y", s + "z")
    ]
    ends += [f"{e}_{a}" for e in ("min", "max") for a in "rgb"] if colour_limits else []
    chunks, vertices, shs = b"", b"", b""
    for start in range(0, n, 256):
        rows = slice(start, min(start + 256, n))
        groups = [
            splats.means[rows].astype(np.float64),
            splats.scales_log[rows].astype(np.float64),
        ] + ([colour[rows]] if colour_limits else [])
        limits = [(g.min(0), g.max(0)) for g in groups]
        chunks += b"".join(np.concatenate(pair).astype("<f4").tobytes() for pair in limits)
        shares = [
            (g - low) / (high - low + 1e-12) for g, (low, high) in zip(groups, limits, strict=True)
        ]
        for i in range(rows.stop - start):
            words = []
            for share in shares[:2]:
                x, y, z = (
                    round(float(v) * m) for v, m in zip(share[i], (2047, 1023, 2047), strict=True)
                )
                words.append(x << 21 | y << 11 | z)
            q = splats.quats[start + i].astype(np.float64)
            q /= np.linalg.norm(q)
            largest = int(np.abs(q).argmax())
            q *= np.sign(q[largest])
            a, b, c = (round((q[j] / np.sqrt(2) + 0.5) * 1023) for j in range(4) if j != largest)
            rotation = largest << 30 | a << 20 | b << 10 | c
            red, green, blue = (
                round(float(np.clip(v, 0, 1)) * 255)
                for v in (shares[2][i] if colour_limits else colour[start + i])
            )
            packed = red << 24 | green << 16 | blue << 8 | round(float(opacity[start + i]) * 255)
            vertices += struct.pack("<4I", words[0], rotation, words[1], packed)
            channel_major = splats.sh_rest[start + i].T.ravel()
            shs += bytes(int(np.clip(np.floor((v / 8 + 0.5) * 256), 0, 255)) for v in channel_major)
    header = f"ply\nformat binary_little_endian 1.0\nelement chunk {(n + 255) // 256}\n" + "".join(
        f"property float {e}\n" for e in ends
    )
    header += f"element vertex {n}\n" + "".join(
        f"property uint packed_{w}\n" for w in ("position", "rotation", "scale", "color")
    )
    if k:
        header += f"element sh {n}\n" + "".join(
            f"property uchar f_rest_{i}\n" for i in range(3 * k)
        )
    path.write_bytes(header.encode() + b"end_header\n" + chunks + vertices + shs)


@pytest.mark.parametrize("colour_limits", [True, False])
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_compressed_agrees_with_an_encoder_within_its_steps(
    tmp_path: Path, degree: int, colour_limits: bool
) -> None:
    splats = random_splats(600, degree)
    if not colour_limits:
        splats = splats._replace(sh_dc=np.clip(splats.sh_dc, -1.7, 1.7))
    pack_compressed(tmp_path / "a.ply", splats, colour_limits=colour_limits)
    read = read_ply(tmp_path / "a.ply")
    assert np.abs(read.means - splats.means).max() < 8 / 1023
    assert np.abs(read.scales_log - splats.scales_log).max() < 8 / 1023
    unit = splats.quats / np.linalg.norm(splats.quats, axis=1, keepdims=True)
    assert np.abs((read.quats * unit).sum(1)).min() > 1 - 1e-5
    assert np.abs(np.linalg.norm(read.quats, axis=1) - 1).max() < 1e-6
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    assert (
        np.abs(sigmoid(read.opacities_logit) - sigmoid(splats.opacities_logit)).max() <= 0.51 / 255
    )
    step = 8 if colour_limits else 1 / SH_C0  # width of the colours' range, in units of sh_dc
    assert np.abs(read.sh_dc - splats.sh_dc).max() <= 0.51 * step / 255
    assert read.sh_rest.shape == splats.sh_rest.shape
    if degree:
        inside = np.abs(splats.sh_rest) < 3.9
        assert np.abs(read.sh_rest - splats.sh_rest)[inside].max() <= 0.51 * 8 / 256


def test_compressed_opacity_ends_stay_finite(tmp_path: Path) -> None:
    splats = random_splats(300, 0)
    splats.opacities_logit[0], splats.opacities_logit[1] = 50, -50
    pack_compressed(tmp_path / "a.ply", splats)
    read = read_ply(tmp_path / "a.ply")
    assert (
        np.isfinite(read.opacities_logit).all()
        and read.opacities_logit[0] > 6
        and read.opacities_logit[1] < -6
    )


def test_compressed_with_too_few_chunks_is_refused(tmp_path: Path) -> None:
    pack_compressed(tmp_path / "a.ply", random_splats(257, 0))
    data = (tmp_path / "a.ply").read_bytes().replace(b"element chunk 2", b"element chunk 1")
    head, body = data.split(b"end_header\n")
    (tmp_path / "b.ply").write_bytes(head + b"end_header\n" + body[72:])
    with pytest.raises(UserError, match="1 chunks for 257"):
        read_ply(tmp_path / "b.ply")


# --- real files ----------------------------------------------------------------------------------


def test_real_reference_order_file(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "splats/train1000/train-1000.ply"
    table = np.frombuffer(path.read_bytes().split(b"end_header\n", 1)[1], "<f4").reshape(1000, 62)
    splats = read_ply(path)
    assert splats.means.tobytes() == np.ascontiguousarray(table[:, :3]).tobytes()
    assert splats.quats.tobytes() == np.ascontiguousarray(table[:, 58:]).tobytes()
    assert (
        splats.sh_rest[:, 4, 2].tobytes()
        == np.ascontiguousarray(table[:, 9 + 2 * 15 + 4]).tobytes()
    )
    write_ply(tmp_path / "again.ply", splats)
    again = (tmp_path / "again.ply").read_bytes().split(b"end_header\n", 1)[1]
    assert np.array_equal(np.frombuffer(again, "<f4").reshape(1000, 62)[:, 6:], table[:, 6:])


def test_real_alphabetical_file_and_real_compressed_file(shared_data: Path) -> None:
    brush = read_ply(shared_data / "splats/leica-sofort/leica-sofort-top8192.ply")
    assert (
        brush.sh_rest.shape == (8192, 15, 3)
        and 0.9 < np.median(np.linalg.norm(brush.quats, axis=1)) < 1.1
    )
    biker = read_ply(shared_data / "splats/biker/biker.compressed.ply")
    assert biker.means.shape == (152746, 3) and biker.sh_rest.shape == (152746, 0, 3)
    assert splat_file.read_comments(shared_data / "splats/biker/biker.compressed.ply") == [
        "Generated by SuperSplat 2.7.1"
    ]


# --- comments ------------------------------------------------------------------------------------


def test_comments_come_back_and_name_the_blending(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats(), ["seed 7", "scene_splatter blending linear"])
    comments = splat_file.read_comments(tmp_path / "a.ply")
    assert comments == ["seed 7", "scene_splatter blending linear"]
    assert splat_file.blending_of(comments) == "linear"
    assert splat_file.blending_of(["seed 7"]) == "display"
    with pytest.raises(UserError, match="sideways"):
        splat_file.blending_of(["scene_splatter blending sideways"])


def test_comments_that_would_break_the_header_are_written_so_that_they_do_not(
    tmp_path: Path,
) -> None:
    splats = random_splats()
    write_ply(tmp_path / "a.ply", splats, ["two\nend_header\r\nlines", "Ä × ✓", "ring\abell"])
    assert splat_file.read_comments(tmp_path / "a.ply") == [
        "two end_header  lines",
        "\\xc4 \\xd7 \\u2713",
        "ring bell",
    ]
    assert_same_bits(read_ply(tmp_path / "a.ply"), splats)


# --- broken files --------------------------------------------------------------------------------


def test_every_truncation_is_named(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats(20, 1))
    whole = (tmp_path / "a.ply").read_bytes()
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        (tmp_path / "cut.ply").write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            read_ply(tmp_path / "cut.ply")
        assert caught.value.hint


@pytest.mark.parametrize(
    "count", ["0", "19", "21", "4000000000", "99999999999999999999", "-3", "many", ""]
)
@pytest.mark.parametrize("form", ["binary_little_endian", "ascii"])
def test_a_count_that_lies_is_refused(tmp_path: Path, count: str, form: str) -> None:
    raw_ply(tmp_path / "a.ply", columns_of(random_splats(20, 0)), form)
    data = (
        (tmp_path / "a.ply")
        .read_bytes()
        .replace(b"element vertex 20", f"element vertex {count}".encode())
    )
    (tmp_path / "b.ply").write_bytes(data)
    if count == "19":  # what lies behind the announced rows is no harm; in a binary file it is said
        found = splat_file.read(tmp_path / "b.ply")
        assert len(found.splats.means) == 19
        assert ("bytes behind" in " ".join(found.lost)) == (form != "ascii")
        return
    with pytest.raises(UserError):
        read_ply(tmp_path / "b.ply")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["x", "rot_2", "f_rest_4", "f_dc_1", "scale_0"])
def test_splats_with_nan_and_stray_infinities_are_left_out_and_counted(
    tmp_path: Path, column: str, value: float
) -> None:
    columns = {name: c.copy() for name, c in columns_of(random_splats(20, 1)).items()}
    columns[column][[6, 9]] = value
    found = splat_file.read(raw_ply(tmp_path / "a.ply", columns))
    assert found.repairs == ("left out 2 of 20 splats that hold NaN or infinity",)
    kept = np.delete(np.arange(20), [6, 9])
    assert_same_bits(found.splats, Splats(*(a[kept] for a in random_splats(20, 1))))


def test_a_rotation_of_length_zero_becomes_the_identity(tmp_path: Path) -> None:
    splats = random_splats(5, 0)
    splats.quats[3] = 0
    found = splat_file.read(raw_ply(tmp_path / "a.ply", columns_of(splats)))
    np.testing.assert_array_equal(found.splats.quats[3], (1, 0, 0, 0))
    assert "1 splats have a zero quaternion" in found.repairs[0]


def test_files_that_are_no_splats_are_refused(tmp_path: Path) -> None:
    columns = columns_of(random_splats(5, 1))
    for name in ("x", "opacity", "rot_3", "scale_1", "f_dc_2"):
        with pytest.raises(UserError, match=f"lacks {name}"):
            read_ply(raw_ply(tmp_path / "a.ply", {k: v for k, v in columns.items() if k != name}))
    with pytest.raises(UserError, match="8 f_rest"):
        read_ply(raw_ply(tmp_path / "a.ply", {k: v for k, v in columns.items() if k != "f_rest_3"}))
    (tmp_path / "mesh.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty "
        "float z\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n3 0 0 0\n"
    )
    for name, content in {
        "mesh.ply": None,
        "text.ply": b"hello",
        "empty.ply": b"",
        "other.ply": b"\x89PNG\r\n",
    }.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            read_ply(tmp_path / name)
    for missing in (tmp_path / "absent.ply", tmp_path):
        with pytest.raises(UserError, match="Could not read"):
            read_ply(missing)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_a_user_error(junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for head in (
            b"",
            b"ply\n",
            b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\n",
        ):
            path = Path(folder) / "a.ply"
            path.write_bytes(head + junk)
            with pytest.raises(UserError):
                read_ply(path)


# --- writing -------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ply(tmp_path / "a.ply", random_splats(5, 0))
    before = (tmp_path / "a.ply").read_bytes()

    def full_disk(self: object, stream: object) -> None:
        stream.write(b"ply")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(splat_file.plyfile.PlyData, "write", full_disk)
    with pytest.raises(UserError, match="No space left"):
        write_ply(tmp_path / "a.ply", random_splats(9, 0))
    assert (tmp_path / "a.ply").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        write_ply(tmp_path / "absent" / "a.ply", random_splats())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats())
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a.ply").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "b").stat().st_mode
    )


def test_shapes_are_checked(tmp_path: Path) -> None:
    splats = random_splats(5, 1)
    for wrong in (
        splats._replace(quats=splats.quats[:4]),
        splats._replace(sh_rest=splats.sh_rest[:, :2]),
        random_splats(0),
    ):
        with pytest.raises(ValueError, match="expected"):
            write_ply(tmp_path / "a.ply", wrong)


def test_a_million_gaussians_read_in_well_under_a_second(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats(1_000_000, 0))
    best = min(_seconds(tmp_path / "a.ply") for _ in range(3))
    assert best < 0.5


def _seconds(path: Path) -> float:
    start = time.thread_time()
    read_ply(path)
    return time.thread_time() - start
