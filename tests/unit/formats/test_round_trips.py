"""What comes back from a written file, format by format, beside the numbers that each promises."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest

from engine import formats
from engine.bridge.camera_file import CameraPath
from engine.bridge.colour import linear_to_srgb, srgb_to_linear
from engine.bridge.errors import UserError
from engine.bridge.harmonics import SH_C0, basis, sphere_directions
from engine.bridge.splat_file import Splats
from engine.formats import SplatScene, WriteOptions
from engine.formats.scene import DISPLAY, LINEAR, Metadata
from engine.scene.morton import morton_order
from tests.format_samples import covariances, opacity, random_splats, rotation_error

# ending -> largest error of: centre (metres), rotation (1 - |q.q'|), log scale, opacity, DC, SH
PROMISES = {
    ".ply": (0, 0, 0, 0, 0, 0),
    ".glb": (0, 3e-7, 1e-6, 1e-6, 0, 0),
    ".gltf": (0, 3e-7, 1e-6, 1e-6, 0, 0),
    ".usdc": (0, 3e-7, 1e-6, 1e-6, 0, 0),
    ".usda": (1e-6, 3e-7, 1e-6, 1e-6, 1e-6, 1e-6),
    ".usdz": (0, 3e-7, 1e-6, 1e-6, 0, 0),
    ".spz": (2**-16, 1e-5, 1 / 32 + 1e-6, 0.5 / 255 + 1e-6, 0.5 / 255 / 0.15 + 1e-6, 2.5 / 128),
    ".splat": (0, 1e-4, 1e-6, 0.5 / 255 + 1e-6, 0.5 / 255 / SH_C0 + 1e-6, None),
    # 11-bit positions and scales inside chunks of at most the whole scene
    ".compressed.ply": (0.012, 1e-5, 0.01, 0.5 / 255 + 1e-6, 0.02, 1 / 32 + 1e-6),
    # 16-bit positions on a logarithmic scale, codebooks of 256, 8-bit rotations; a palette promises
    # nothing of random SH
    ".sog": (6e-4, 3e-5, 0.05, 0.5 / 255 + 1e-6, 0.02, None),
}


def _written(tmp_path, ending: str, splats: Splats, **options) -> SplatScene:
    path = tmp_path / f"scene{ending}"
    formats.write(path, SplatScene(splats), WriteOptions(**options))
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part" or ".part" in p.name] == []
    return formats.read(path)


def _check(before: Splats, after: Splats, promise) -> None:
    errors = {
        "centre": np.abs(before.means - after.means).max(),
        "rotation": rotation_error(before, after),
        "scale": np.abs(before.scales_log - after.scales_log).max(),
        "opacity": np.abs(opacity(before) - opacity(after)).max(),
        "dc": np.abs(before.sh_dc - after.sh_dc).max(),
    }
    if promise[5] is not None and before.sh_rest.size:
        assert after.sh_rest.shape == before.sh_rest.shape
        errors["sh"] = np.abs(before.sh_rest - after.sh_rest).max()
    for (name, error), limit in zip(errors.items(), promise, strict=False):
        assert error <= (limit if name != "rotation" else max(limit, 3e-7)), (
            f"{name}: {error} > {limit}"
        )


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("ending", PROMISES)
def test_every_format_keeps_what_it_promises(tmp_path, ending, degree):
    splats = random_splats(700, degree, seed=degree)
    scene = _written(tmp_path, ending, splats).in_axes("opencv", 1.0)
    if ending in (".compressed.ply", ".sog"):
        splats = Splats(*(array[morton_order(splats.means)] for array in splats))
    _check(splats, scene.splats, PROMISES[ending])


@pytest.mark.parametrize("count", [1, 255, 256, 257])
@pytest.mark.parametrize("ending", [".compressed.ply", ".spz", ".glb", ".splat", ".usdc", ".sog"])
def test_any_number_of_splats_fits(tmp_path, ending, count):
    assert _written(tmp_path, ending, random_splats(count, 1)).count == count


def test_sog_beside_its_pictures_is_the_bundle(tmp_path):
    """meta.json as the target writes the pictures beside it; both hold the same bytes."""
    splats = random_splats(900, 2)
    bundle = _written(tmp_path, ".sog", splats).splats
    (tmp_path / "folder").mkdir()
    formats.write(tmp_path / "folder" / "meta.json", SplatScene(splats))
    for a, b in zip(bundle, formats.read(tmp_path / "folder").splats, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ply_is_bit_equal_even_for_odd_floats(tmp_path):
    splats = random_splats(64, 3)
    splats.means[0] = (-0.0, 1e-42, 3.4e38)
    splats.opacities_logit[:2] = (200.0, -200.0)
    after = _written(tmp_path, ".ply", splats).splats
    for name, before, back in zip(Splats._fields, splats, after, strict=True):
        assert before.tobytes() == np.ascontiguousarray(back).tobytes(), name


@pytest.mark.parametrize("version", [2, 3, 4])
def test_all_spz_versions_come_back(tmp_path, version):
    splats = random_splats(300, 3)
    scene = _written(tmp_path, ".spz", splats, spz_version=version).in_axes("opencv")
    head = (tmp_path / "scene.spz").read_bytes()[:4]
    assert head == b"NGSP" if version == 4 else head[:2] == b"\x1f\x8b"
    promise = list(PROMISES[".spz"])
    promise[1] = (
        8e-3 if version == 2 else promise[1]
    )  # w comes from 8-bit x y z: poor where w is near zero
    _check(splats, scene.splats, promise)


def test_spz_in_gltf_comes_back_and_is_smaller(tmp_path):
    splats = random_splats(2000, 3)
    plain, packed = tmp_path / "plain.glb", tmp_path / "packed.glb"
    formats.write(plain, SplatScene(splats))
    formats.write(packed, SplatScene(splats), WriteOptions(compress_spz=True))
    assert packed.stat().st_size * 3 < plain.stat().st_size
    _check(splats, formats.read(packed).in_axes("opencv").splats, PROMISES[".spz"])


def test_spz_far_away_gives_up_fraction_bits_before_it_gives_up(tmp_path):
    splats = random_splats(10, 0)
    far = splats._replace(means=splats.means + np.float32(100_000))
    error = np.abs(_written(tmp_path, ".spz", far).in_axes("opencv").splats.means - far.means).max()
    assert 1e-4 < error <= 2**-6
    with pytest.raises(UserError, match="too far"):
        _written(tmp_path, ".spz", splats._replace(means=splats.means + np.float32(1e8)))


@pytest.mark.parametrize("axes", ["unreal", "unity", "blender", "supersplat", "houdini"])
@pytest.mark.parametrize("ending", [".ply", ".splat", ".spz"])
def test_axes_and_units_are_baked_and_can_be_taken_back(tmp_path, ending, axes):
    splats = random_splats(100, 0)
    path = tmp_path / f"scene{ending}"
    formats.write(path, SplatScene(splats), WriteOptions(axes=axes))
    back = formats.read(path, axes=axes).in_axes("opencv", 1.0)
    np.testing.assert_allclose(back.splats.means, splats.means, atol=1e-4)
    rtol = 0.15 if ending == ".spz" else 0.05 if ending == ".splat" else 1e-4
    a, b = covariances(splats), covariances(back.splats)
    assert (np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(a, axis=(1, 2))).max() < rtol
    if axes != "supersplat":
        wrong = formats.read(path, axes="opencv").in_axes("opencv", 1.0)
        assert np.abs(wrong.splats.means - splats.means).max() > 1


def test_ply_remembers_axes_units_colour_and_comments(tmp_path):
    metadata = Metadata(comments=("made by hand",), blend_linear=True)
    path = tmp_path / "a.ply"
    formats.write(path, SplatScene(random_splats(5, 0), metadata), WriteOptions(axes="unreal"))
    said = formats.read(path).metadata
    assert (said.axes, said.metres_per_unit, said.blend_linear, said.comments) == (
        "unreal",
        0.01,
        True,
        ("made by hand",),
    )


@pytest.mark.parametrize("ending", [".glb", ".usdc"])
def test_a_kept_transform_sits_on_the_node_and_reads_back_baked(tmp_path, ending):
    splats = random_splats(50, 2)
    angle = 0.4
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = 2.0 * turn, (1, 2, 3)
    baked, kept = tmp_path / f"baked{ending}", tmp_path / f"kept{ending}"
    from engine.bridge.axes import transform_splats

    formats.write(baked, SplatScene(transform_splats(splats, matrix)))
    formats.write(kept, SplatScene(splats), WriteOptions(node_matrix=matrix))
    a, b = formats.read(baked).splats, formats.read(kept).splats
    np.testing.assert_allclose(a.means, b.means, atol=1e-5)
    np.testing.assert_allclose(covariances(a), covariances(b), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(a.sh_rest, b.sh_rest, atol=1e-5)
    with pytest.raises(UserError, match="no nodes"):
        formats.write(tmp_path / "a.spz", SplatScene(splats), WriteOptions(node_matrix=matrix))


def _camera_path() -> CameraPath:
    frames = 7
    world = np.tile(np.eye(4), (frames, 1, 1))
    for i in range(frames):
        a = 0.1 * i
        world[i, :3, :3] = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
        world[i, :3, 3] = (0.2 * i, -0.1 * i, 0.3 * i)
    K = np.tile(np.array([[500.0, 0, 320], [0, 500, 180], [0, 0, 1]]), (frames, 1, 1))
    return CameraPath(K, world, 640, 360, 25.0, "m")


@pytest.mark.parametrize("axes", ["gltf", "blender"])
def test_usd_carries_an_animated_lens_with_shift_in_both_up_axes(tmp_path, axes):
    path = _camera_path()
    K = path.K.copy()
    K[:, 0, 0] = np.linspace(400, 600, 7)
    K[:, 1, 1] = K[:, 0, 0] * 1.1
    K[:, 0, 2], K[:, 1, 2] = 300, 200
    path = path._replace(K=K)
    target = tmp_path / "a.usda"
    formats.write(target, SplatScene(random_splats(5, 0), cameras=path), WriteOptions(axes=axes))
    back = formats.read(target).cameras
    np.testing.assert_allclose(back.world_from_camera, path.world_from_camera, atol=1e-6)
    np.testing.assert_allclose(back.K, path.K, rtol=1e-5)
    assert (back.width, back.height, back.fps, back.unit) == (640, 360, 25.0, "m")


@pytest.mark.parametrize("unit", [0.01, 1.0])
def test_usd_focal_length_is_in_tenths_of_the_stage_unit(tmp_path, unit):
    from pxr import Usd, UsdGeom

    target = tmp_path / "a.usda"
    formats.write(
        target,
        SplatScene(random_splats(5, 0), cameras=_camera_path()),
        WriteOptions(metres_per_unit=unit),
    )
    stage = Usd.Stage.Open(str(target))
    camera = UsdGeom.Camera(stage.GetPrimAtPath("/scene/camera"))
    millimetres = (
        camera.GetHorizontalApertureAttr().Get() / 10 * UsdGeom.GetStageMetersPerUnit(stage) * 1000
    )
    assert millimetres == pytest.approx(36.0)
    np.testing.assert_allclose(
        formats.read(target).cameras.world_from_camera[-1, :3, 3],
        _camera_path().world_from_camera[-1, :3, 3],
        atol=1e-6,
    )


def test_glb_carries_the_animated_camera(tmp_path):
    path = _camera_path()
    target = tmp_path / "a.glb"
    formats.write(target, SplatScene(random_splats(5, 0), cameras=path))
    back = formats.read(target).cameras
    np.testing.assert_allclose(back.world_from_camera, path.world_from_camera, atol=1e-5)
    assert back.fps == pytest.approx(25.0, rel=1e-4)
    assert back.height / back.K[0, 1, 1] == pytest.approx(360 / 500)


def test_linear_blending_is_said_where_a_format_can_say_it(tmp_path):
    """Display-coded colours blended in linear light become linear colours in glTF and USD: each
    splat's colour is the same light.
    """
    splats = random_splats(200, 0)
    for ending in (".glb", ".usdc"):
        path = tmp_path / f"a{ending}"
        formats.write(path, SplatScene(splats, Metadata(blend_linear=True)))
        back = formats.read(path)
        assert back.metadata.colour_space == LINEAR
        np.testing.assert_allclose(
            back.splats.sh_dc * SH_C0 + 0.5, srgb_to_linear(splats.sh_dc * SH_C0 + 0.5), atol=1e-5
        )


def test_recoding_view_dependent_colour_fits_it_in_every_direction():
    from engine.formats.scene import recoded

    rng = np.random.default_rng(0)
    splats = random_splats(40, 3)._replace(sh_dc=rng.uniform(-0.3, 0.3, (40, 3)).astype(np.float32))
    splats = splats._replace(sh_rest=(splats.sh_rest * 0.03).astype(np.float32))
    directions = sphere_directions(200)

    def colour(s: Splats) -> np.ndarray:
        return (
            np.einsum(
                "dk,nkc->ndc",
                basis(directions, 3),
                np.concatenate([s.sh_dc[:, None], s.sh_rest], axis=1),
            )
            + 0.5
        )

    there = recoded(splats, srgb_to_linear)
    assert np.abs(colour(there) - srgb_to_linear(colour(splats))).max() < 5e-3
    assert np.abs(colour(recoded(there, linear_to_srgb)) - colour(splats)).max() < 1e-2


def test_formats_that_cannot_name_a_colour_space_get_display_colours(tmp_path):
    scene = SplatScene(random_splats(20, 0), Metadata(colour_space=LINEAR))
    formats.write(tmp_path / "a.spz", scene)
    back = formats.read(tmp_path / "a.spz")
    np.testing.assert_allclose(
        back.splats.sh_dc * SH_C0 + 0.5,
        linear_to_srgb(scene.splats.sh_dc * SH_C0 + 0.5),
        atol=0.005,
    )
    with pytest.raises(UserError, match="cannot say"):
        formats.write(tmp_path / "b.spz", scene, WriteOptions(colour_space=LINEAR))
    assert back.metadata.colour_space == DISPLAY


def test_a_lower_degree_drops_whole_bands(tmp_path):
    splats = random_splats(20, 3)
    back = _written(tmp_path, ".ply", splats, sh_degree=1).splats
    np.testing.assert_array_equal(back.sh_rest, splats.sh_rest[:, :3])
    with pytest.raises(UserError, match="degree"):
        _written(tmp_path, ".ply", splats, sh_degree=4)


def test_fixed_axes_are_defended(tmp_path):
    scene = SplatScene(random_splats(3, 0))
    for name, axes in (
        ("a.glb", "unity"),
        ("a.glb", "blender"),
        ("a.usda", "unreal"),
        ("a.usda", "opencv"),
    ):
        with pytest.raises(UserError, match="axes"):
            formats.write(tmp_path / name, scene, WriteOptions(axes=axes))
    assert list(tmp_path.iterdir()) == []


def test_sheared_nodes_are_refused_on_the_way_out(tmp_path):
    with pytest.raises(UserError, match="unequally"):
        formats.write(
            tmp_path / "a.glb",
            SplatScene(random_splats(3, 0)),
            WriteOptions(node_matrix=np.diag([1.0, 2, 3, 1])),
        )


def test_metadata_names_the_format_read(tmp_path):
    for ending in PROMISES:
        assert dataclasses.asdict(_written(tmp_path, ending, random_splats(4, 0)).metadata)[
            "source"
        ] in ending.replace("glb", "gltf").replace("usdc", "usd")


def test_spz_that_names_its_axes_is_turned(tmp_path):
    """The coordinate-system extension of version 4: record 0xADBE0003, 6 is x right, y down, z
    forward.
    """
    from engine.formats import spz

    splats = random_splats(30, 3)
    data = spz.encode(splats, version=4)
    record = struct.pack("<III", 0xADBE0003, 4, 6) + struct.pack("<II", 0x12340001, 3) + b"abc"
    header = bytearray(data[:32])
    header[14] |= 2
    struct.pack_into("<I", header, 16, 32 + len(record))
    path = tmp_path / "a.spz"
    path.write_bytes(bytes(header) + record + data[32:])
    _check(splats, formats.read(path).in_axes("opencv").splats, PROMISES[".spz"])
    path.write_bytes(bytes(header) + record[:-1] + data[32:])
    with pytest.raises(UserError):
        formats.read(path)
