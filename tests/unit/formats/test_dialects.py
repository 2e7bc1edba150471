"""Splat files as other tools write them: read as what they are, with what was left out said, or
named.
"""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engine import formats
from engine.bridge import splat_file
from engine.bridge.errors import UserError
from engine.bridge.kinds import kind_of
from engine.formats import SplatScene
from tests.format_samples import covariances, opacity, random_splats


def _columns(splats: splat_file.Splats) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in splat_file._columns(splats)}


def _ply(
    path: Path,
    columns: dict[str, np.ndarray],
    before: bytes = b"",
    after: bytes = b"",
    head: str = "",
) -> Path:
    """A little-endian .ply with the columns' own types; raw bytes and header lines of other
    elements around them.
    """
    table = np.zeros(len(next(iter(columns.values()))), [(n, c.dtype) for n, c in columns.items()])
    for name, column in columns.items():
        table[name] = column
    kinds = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int"}
    lines = "".join(f"property {kinds[c.dtype.str[1:]]} {n}\n" for n, c in columns.items())
    text = (
        f"ply\nformat binary_little_endian 1.0\n{head}element vertex "
        f"{len(table)}\n{lines}end_header\n"
    )
    path.write_bytes(text.encode() + before + table.tobytes() + after)
    return path


def _same(a: splat_file.Splats, b: splat_file.Splats) -> None:
    assert all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("comment", ["Straße", "日本語", "é" * 300])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_comments_of_any_encoding_are_no_harm(tmp_path, comment, encoding):
    splats = random_splats(5, 1)
    path = _ply(tmp_path / "a.ply", _columns(splats), head="comment X\n")
    path.write_bytes(path.read_bytes().replace(b"X", comment.encode(encoding, "replace"), 1))
    _same(splat_file.read(path).splats, splats)


def test_other_elements_lists_and_trailing_bytes_are_stepped_over_and_said(tmp_path):
    splats = random_splats(6, 0)
    head = "element face 2\nproperty list uchar int vertex_indices\nproperty float w\n"
    faces = b"\3" + bytes(12) + bytes(4) + b"\1" + bytes(4) + bytes(4)
    found = splat_file.read(_ply(tmp_path / "a.ply", _columns(splats), faces, b"tail!", head))
    _same(found.splats, splats)
    said = " ".join(found.lost)
    assert "5 bytes behind" in said and "face" in said


def test_a_property_that_is_not_understood_is_named(tmp_path):
    columns = _columns(random_splats(5, 0)) | {"confidence": np.ones(5, np.float32)}
    path = _ply(tmp_path / "a.ply", columns)
    assert "confidence" in " ".join(splat_file.read(path).lost)
    formats.write(tmp_path / "b.ply", formats.read(path))
    assert "lossless" not in formats.write(tmp_path / "c.ply", formats.read(path)).loss


def test_discs_of_2dgs_lie_flat_across_their_third_axis(tmp_path):
    splats = random_splats(20, 0)
    columns = _columns(splats)
    del columns["scale_2"]
    found = splat_file.read(_ply(tmp_path / "a.ply", columns))
    np.testing.assert_array_equal(found.splats.scales_log[:, :2], splats.scales_log[:, :2])
    assert (found.splats.scales_log[:, 2] < splats.scales_log[:, :2].min(axis=1) - 6).all()
    assert "2DGS" in found.lost[0]


def test_the_mip_splatting_filter_is_fused(tmp_path):
    """Sigma + f^2 I, and the opacity times the ratio of the volumes, worked out from the
    covariances.
    """
    splats = random_splats(30, 0)
    f = np.random.default_rng(1).uniform(0, 2, 30).astype(np.float32)
    found = splat_file.read(_ply(tmp_path / "a.ply", _columns(splats) | {"filter_3D": f})).splats
    wanted = covariances(splats) + (f.astype(float) ** 2)[:, None, None] * np.eye(3)
    np.testing.assert_allclose(covariances(found), wanted, rtol=1e-4, atol=1e-7)
    ratio = np.sqrt(np.linalg.det(covariances(splats)) / np.linalg.det(wanted))
    np.testing.assert_allclose(opacity(found), opacity(splats) * ratio, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("prefix", ["scalar_", "scal_", "scalar_scal_", "scalar_Scalar_"])
def test_names_of_cloudcompare_are_read(tmp_path, prefix):
    splats = random_splats(5, 1)
    columns = {n if n in "xyz" else prefix + n: c for n, c in _columns(splats).items()}
    _same(splat_file.read(_ply(tmp_path / "a.ply", columns)).splats, splats)
    columns = {name.upper(): c for name, c in _columns(splats).items()}
    _same(splat_file.read(_ply(tmp_path / "b.ply", columns)).splats, splats)


def _as_text(splats: splat_file.Splats, parted: str = " ") -> bytes:
    columns = _columns(splats)
    head = "".join(f"property float {name}\n" for name in columns)
    rows = zip(*columns.values(), strict=True)
    body = "\n".join(parted.join(f"{v:.9g}" for v in row) for row in rows)
    count = len(splats.means)
    text = f"ply\nformat ascii 1.0\nelement vertex {count}\n{head}end_header\n{body}\n"
    return text.encode()


@pytest.mark.parametrize("change", ["mark", "utf-16", "utf-16-be", "blank", "commas", "parted"])
def test_text_as_editors_and_tables_save_it_is_the_same_splats(tmp_path, change):
    splats = random_splats(40, 1)
    data = _as_text(splats, ", " if change == "parted" else " ")
    if change == "mark":
        data = b"\xef\xbb\xbf" + data
    elif change.startswith("utf-16"):
        mark = b"\xfe\xff" if change.endswith("be") else b""
        data = mark + data.decode().encode(change)
    elif change == "blank":
        data = b"\r\n\n" + data
    elif change == "commas":
        head, body = data.split(b"end_header\n")
        data = head + b"end_header\n" + body.replace(b".", b",")
    (tmp_path / "a.ply").write_bytes(data)
    _same(splat_file.read(tmp_path / "a.ply").splats, splats)
    _same(formats.read(tmp_path / "a.ply").splats, splats)


def test_binary_numbers_bear_a_mark_but_no_second_encoding(tmp_path):
    splats = random_splats(40, 1)
    data = _ply(tmp_path / "a.ply", _columns(splats)).read_bytes()
    (tmp_path / "a.ply").write_bytes(b"\xef\xbb\xbf" + data)
    _same(splat_file.read(tmp_path / "a.ply").splats, splats)
    (tmp_path / "a.ply").write_bytes(data.decode("latin-1").encode("utf-16"))
    with pytest.raises(UserError, match="saved as text"):
        splat_file.read(tmp_path / "a.ply")


def test_plain_colours_stand_for_missing_harmonics(tmp_path):
    splats = random_splats(5, 0)
    columns = {n: c for n, c in _columns(splats).items() if not n.startswith("f_dc")}
    levels = np.array([0, 51, 102, 204, 255], np.uint8)
    columns |= {"red": levels, "green": levels[::-1].copy(), "blue": levels}
    found = splat_file.read(_ply(tmp_path / "a.ply", columns))
    shown = 0.5 + 0.28209479177387814 * found.splats.sh_dc
    np.testing.assert_allclose(shown[:, 0], levels / 255, atol=1e-6)
    np.testing.assert_allclose(shown[:, 1], levels[::-1] / 255, atol=1e-6)
    assert "red, green and blue" in " ".join(found.lost)


def test_blender_and_the_engine_say_the_same_of_a_file(tmp_path):
    """Blender reads through `splat_file`, the engine through `formats`: one repair, one text."""
    splats = random_splats(9, 1)
    columns = _columns(splats) | {"filter_3D": np.full(9, 0.1, np.float32)}
    columns |= {"label": np.zeros(9, np.int32)}
    columns["x"][0] = np.nan
    for part in range(4):
        columns[f"rot_{part}"][2] = 0.0
    path = _ply(tmp_path / "a.ply", columns, after=b"tail")
    here, there = splat_file.read(path), formats.read(path)
    assert sorted((*here.repairs, *here.lost)) == sorted(there.metadata.lost)
    assert len(there.metadata.lost) == 5
    _same(here.splats, there.splats)


def test_what_64_bits_lose_is_said_for_this_file(tmp_path):
    columns = _columns(random_splats(5, 0))
    columns["x"] = columns["x"].astype(np.float64)
    path = _ply(tmp_path / "a.ply", columns)
    assert splat_file.read(path).lost == ()  # every value is a float
    columns["x"] += 4.5e5 + 1 / 3
    said = " ".join(splat_file.read(_ply(path, columns)).lost)
    assert "64-bit" in said and "0.01" in said


@pytest.mark.parametrize("ending", [".ply", ".spz", ".splat", ".compressed.ply"])
@pytest.mark.parametrize("pack", ["gz", "zip"])
def test_a_splat_file_in_an_archive_is_read(tmp_path, ending, pack):
    plain = tmp_path / f"scene{ending}"
    formats.write(plain, SplatScene(random_splats(50, 1)))
    packed = tmp_path / f"scene{ending}.{pack}"
    if pack == "gz":
        packed.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(plain, f"gs_scene/{plain.name}")
            archive.writestr("gs_scene/preview.jpg", b"x")
    _same(formats.read(packed).splats, formats.read(plain).splats)


def test_of_a_trainings_folder_the_last_iteration_is_read(tmp_path):
    for i, n in ((7000, 5), (30000, 9)):
        formats.write(tmp_path / f"{i}.ply", SplatScene(random_splats(n, 0)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in (30000, 7000):
            archive.write(tmp_path / f"{i}.ply", f"point_cloud/iteration_{i}/point_cloud.ply")
        archive.write(tmp_path / "7000.ply", "input.ply")
    assert formats.read(tmp_path / "a.zip").count == 9
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    with pytest.raises(UserError, match="no splat file"):
        formats.read(tmp_path / "b.zip")


@pytest.mark.parametrize("ending", [".spz", ".compressed.ply", ".sog"])
def test_a_floater_costs_the_others_nothing_and_is_said(tmp_path, ending):
    splats = random_splats(700, 0)
    alone = tmp_path / f"alone{ending}"
    formats.write(alone, SplatScene(splats))
    splats.means[5] = (2e6, -1e6, 3e5)
    written = formats.write(tmp_path / f"a{ending}", SplatScene(splats))
    read = formats.read(tmp_path / f"a{ending}").in_axes("opencv").splats.means.astype(float)
    nearest = np.abs(read[None] - np.delete(splats.means, 5, 0)[:, None]).max(2).min(1)
    assert np.quantile(nearest, 0.6) < 0.01  # 2 million units in 24 bits would be steps of 0.25
    if ending != ".sog":  # whose steps are logarithmic
        assert "far outside the scene" in written.loss


def test_a_floater_moved_nearer_looks_the_same_from_the_scene():
    from engine.formats.floaters import drawn_in, floaters

    splats = random_splats(100, 0)
    splats.means[7] *= 1e5
    far = floaters(splats.means)
    assert far.sum() == 1 and far[7]
    after = drawn_in(splats, far, 50.0)
    centre = np.median(np.delete(splats.means, 7, 0), axis=0)
    before_angle = np.exp(splats.scales_log[7]) / np.linalg.norm(splats.means[7] - centre)
    after_angle = np.exp(after.scales_log[7]) / np.linalg.norm(after.means[7] - centre)
    np.testing.assert_allclose(after_angle, before_angle, rtol=1e-4)
    assert np.abs(after.means).max() <= 50 and (after.means[:7] == splats.means[:7]).all()


def test_a_sky_of_many_splats_is_no_floater():
    from engine.formats.floaters import floaters

    means = np.random.default_rng(0).normal(0, 1, (100, 3)).astype(np.float32)
    means[:20] *= 1000
    assert not floaters(means).any()


FOREIGN = {
    "a.ply": (b"<!DOCTYPE html><html>", "web page"),
    "b.ply": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "c.splat": (b"\xff\xd8\xff\xe0", "JPEG photo"),
    "d.ply": (b"LASF" + bytes(200), "point cloud"),
    "e.spz": (b"\x80\x02ccollections", "pickle"),
    "f.ply": (b"404: Not Found", "server's answer"),
    "g.ply": (bytes(200), "zeros"),
    "h.obj": (b"v 0 0 0\n", "mesh"),
    "i.ply": (b"Kaydara FBX Binary  \x00", "FBX"),
    "j.ply": (b'{"error": "gone"}', "server's answer"),
    "k.splatv": (b"KG\0\0" + bytes(9), "splat format that is not read"),
    "l.json": (b'{"asset": {"version": "1.1"}, "geometricError": 5}', "3D Tiles"),
    "m.e57": (b"ASTM-E57\1\0\0\0", "point cloud"),
    "n.gltf": (b'{"asset": {"version": "1.0"}}', "not glTF 2"),
    "o.gltf": (
        b'{"asset": {"version": "2.0"}, "extensionsUsed": ["KHR_spz_gaussian_splats_compression"]}',
        "KHR_spz_gaussian_splats_compression",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_kinds_are_named_with_a_remedy(tmp_path, name):
    data, words = FOREIGN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        formats.read(tmp_path / name)
    assert caught.value.hint and "damaged" not in str(caught.value)


def test_a_point_cloud_and_a_mesh_are_told_from_splats(tmp_path):
    xyz = {n: np.zeros(3, np.float32) for n in "xyz"}
    with pytest.raises(UserError, match="point cloud"):
        splat_file.read(_ply(tmp_path / "a.ply", xyz))
    head = "element face 1\nproperty list uchar int vertex_indices\n"
    with pytest.raises(UserError, match="mesh"):
        splat_file.read(_ply(tmp_path / "b.ply", xyz, b"\3" + bytes(12), head=head))


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.ply")
    for path in (tmp_path / "a.ply", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match=r"pipe or a device|folder"):
            splat_file.read(path)


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a.heic", "HEIF"),
        (b"\0\0\0\x18ftypheix\0\0\0\0mif1heix", "a.HIF", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "a.avif", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "a.mp4", "film"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a.cr3", "raw"),
        (b"II*\0" + bytes(60), "a.NEF", "raw"),
        (b"II*\0" + bytes(60), "a.tif", "TIFF"),
        (b"\xff\x0a\0\0", "a.jxl", "JPEG XL"),
        (b"#?RADIANCE\n", "a.hdr", "HDR"),
    ],
)
def test_pictures_of_other_kinds_are_told_apart(head, name, kind):
    found = kind_of(head, name)
    assert found is not None and kind.lower() in found.name.lower()
