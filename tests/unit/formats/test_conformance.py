"""Our files in the hands of others: splat-transform, usd-core, plyfile, the glTF validator; and
theirs in ours.
"""

from __future__ import annotations

import json
import subprocess

import numpy as np
import plyfile
import pytest

from engine import formats
from engine.bridge.axes import similarity, transform_splats
from engine.bridge.splat_file import Splats
from engine.formats import SplatScene, WriteOptions
from engine.scene.morton import morton_order
from tests.format_samples import (
    covariances,
    node_folder,
    opacity,
    random_splats,
    rotation_error,
    splat_transform,
)


def _matched(reference: Splats, other: Splats) -> Splats:
    """`other` in the order of `reference`, each splat used once, found by its centre."""
    from scipy.spatial import cKDTree

    _, index = cKDTree(other.means).query(reference.means)
    assert len(set(index)) == len(index)
    return Splats(*(array[index] for array in other))


def test_biker_spz_version_4_equals_its_compressed_ply_within_quantisation(shared_data):
    folder = shared_data / "splats" / "biker"
    spz = formats.read(folder / "biker.spz").in_axes("opencv").splats
    ply = formats.read(folder / "biker.compressed.ply").splats
    assert len(spz.means) == len(ply.means) == 152_746
    assert np.abs(spz.means - ply.means).max() < 2**-12
    assert rotation_error(spz, ply) < 1e-5
    assert np.abs(opacity(spz) - opacity(ply)).max() < 1 / 255
    assert np.abs(spz.sh_dc - ply.sh_dc).max() < 0.5 / 255 / 0.15 + 1e-4
    inside = ply.scales_log > -10  # smaller ones are clamped by SPZ
    assert np.abs(spz.scales_log - ply.scales_log)[inside].max() < 1 / 32 + 1e-3


def test_three_real_splats_agree_in_ply_splat_and_spz(shared_data):
    base = shared_data / "splats" / "train3" / "test-splat.3-points-from-train"
    ply = formats.read(f"{base}.ply").splats
    for ending, centre in ((".splat", 1e-6), (".spz", 2**-12)):
        other = formats.read(f"{base}{ending}").in_axes("opencv").splats
        assert np.abs(ply.means - other.means).max() < centre
        assert rotation_error(ply, other) < 1e-4
        assert np.abs(ply.scales_log - other.scales_log).max() < 1 / 32 + 1e-3
        assert np.abs(ply.sh_dc - other.sh_dc).max() < 0.5 / 255 / 0.15 + 1e-3
    sh = formats.read(f"{base}.spz").in_axes("opencv").splats.sh_rest
    assert np.abs(sh - ply.sh_rest).max() < 0.08


def test_leica_sog_holds_the_splats_of_its_ply(shared_data):
    folder = shared_data / "splats" / "leica-sofort"
    ply = formats.read(folder / "leica-sofort-top8192.ply").splats
    sog = _matched(ply, formats.read(folder / "leica-sofort-top8192.sog").splats)
    assert np.abs(ply.means - sog.means).max() < 2e-3
    assert rotation_error(ply, sog) < 2e-4
    assert np.abs(ply.scales_log - sog.scales_log).max() < 0.1
    assert np.abs(ply.sh_dc - sog.sh_dc).max() < 0.05
    assert np.abs(ply.sh_rest - sog.sh_rest).max() < 0.05


def test_unbundled_sog_reads_from_folder_and_from_meta_json(shared_data):
    folder = shared_data / "splats" / "playbot_sog_lod3"
    a, b = formats.read(folder), formats.read(folder / "meta.json")
    assert a.count == b.count == 31_000
    assert a.splats.sh_rest.shape == (31_000, 8, 3)


def test_small_fixtures_of_other_tools_agree(shared_data):
    folder = shared_data / "splats" / "fixtures"
    splat = formats.read(folder / "minimal.splat").splats
    ksplat = formats.read(folder / "minimal.ksplat").splats
    np.testing.assert_allclose(ksplat.means, splat.means, atol=1e-6)
    np.testing.assert_allclose(ksplat.sh_dc, splat.sh_dc, atol=1e-5)
    v3, v4 = (
        formats.read(folder / "minimal-v3.spz").splats,
        formats.read(folder / "minimal-v4.spz").splats,
    )
    for a, b in zip(v3, v4, strict=True):
        np.testing.assert_array_equal(a, b)
    raw, v2 = (
        formats.read(folder / "minimal-raw.spz").splats,
        formats.read(folder / "minimal-v2.spz").splats,
    )
    np.testing.assert_array_equal(raw.means, v2.means)


def test_khr_conformance_fixture(shared_data):
    """All component types of the extension, in one file, as .glb and as .gltf."""
    folder = shared_data / "splats" / "fixtures"
    glb, gltf = (formats.read(folder / f"khr_conformance_matrix.{e}") for e in ("glb", "gltf"))
    for a, b in zip(glb.splats, gltf.splats, strict=True):
        np.testing.assert_array_equal(a, b)
    assert glb.count == 15
    np.testing.assert_allclose(
        np.exp(glb.splats.scales_log[6]), (2, 3, 4), rtol=1e-6
    )  # 16-bit integers, not normalised
    np.testing.assert_allclose(glb.cameras.world_from_camera[0, :3, 3], (4, -5, -6))


def test_plyfile_reads_our_ply(tmp_path):
    splats = random_splats(100, 3)
    formats.write(tmp_path / "a.ply", SplatScene(splats))
    vertex = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    np.testing.assert_array_equal(vertex["y"], splats.means[:, 1])
    np.testing.assert_array_equal(vertex["rot_0"], splats.quats[:, 0])
    np.testing.assert_array_equal(
        vertex["f_rest_16"], splats.sh_rest[:, 1, 1]
    )  # channel-major: 15 red, then green
    np.testing.assert_array_equal(vertex["opacity"], splats.opacities_logit)


def test_usd_core_reads_our_stage(tmp_path):
    from pxr import Usd, UsdGeom, UsdVol

    splats = random_splats(60, 2)
    formats.write(tmp_path / "a.usdc", SplatScene(splats))
    stage = Usd.Stage.Open(str(tmp_path / "a.usdc"))
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0 and UsdGeom.GetStageUpAxis(stage) == "Y"
    field = UsdVol.ParticleField3DGaussianSplat(
        next(p for p in stage.Traverse() if p.GetTypeName() == "ParticleField3DGaussianSplat")
    )
    assert field.GetRadianceSphericalHarmonicsDegreeAttr().Get() == 2
    place = np.array(field.GetPositionsAttr().Get())
    np.testing.assert_allclose(place, splats.means * (1, -1, -1))
    q = field.GetOrientationsAttr().Get()[7]
    expected = splats.quats[7] / np.linalg.norm(splats.quats[7]) * (1, 1, -1, -1)
    np.testing.assert_allclose((q.GetReal(), *q.GetImaginary()), expected, atol=1e-6)
    np.testing.assert_allclose(
        np.array(field.GetScalesAttr().Get()), np.exp(splats.scales_log), rtol=1e-6
    )
    coefficients = np.array(field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get()).reshape(
        60, 9, 3
    )
    np.testing.assert_array_equal(coefficients[:, 0], splats.sh_dc)
    np.testing.assert_array_equal(
        coefficients[:, 2], splats.sh_rest[:, 1] * -1
    )  # band 1, m = 0: z turned round
    low, high = np.array(field.GetExtentAttr().Get())
    assert (place >= low).all() and (place <= high).all()


def _sources(shared_data):
    folder = shared_data / "splats"
    return {
        "train1000": folder / "train1000" / "train-1000.ply",
        "leica": folder / "leica-sofort" / "leica-sofort-top8192.ply",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train1000", "leica"])
@pytest.mark.parametrize("ending", [".ply", ".compressed.ply", ".spz", ".splat", ".sog"])
def test_splat_transform_reads_our_files_splat_by_splat(tmp_path, shared_data, name, ending):
    """Ours -> splat-transform -> .ply, read by plyfile's dialect, against what our own reader
    sees.
    """
    node_folder()
    scene = formats.read(_sources(shared_data)[name])
    ours, theirs = tmp_path / f"ours{ending}", tmp_path / "theirs.ply"
    formats.write(ours, scene)
    splat_transform(ours, theirs)
    mine, other = formats.read(ours).in_axes("opencv").splats, formats.read(theirs).splats
    assert np.abs(mine.means - other.means).max() < 1e-5
    assert rotation_error(mine, other) < (
        1e-4 if ending == ".splat" else 1e-6
    )  # they map bytes 0..255 to -1..1
    np.testing.assert_allclose(
        opacity(mine), opacity(other), atol=1.1e-3
    )  # what 255 means: 1, or just below
    finite = mine.scales_log > -20
    assert np.abs(mine.scales_log - other.scales_log)[finite].max() < 1e-4
    assert np.abs(mine.sh_dc - other.sh_dc).max() < 1e-4
    if ending != ".splat":
        assert np.abs(mine.sh_rest - other.sh_rest).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "arguments"),
    [
        (".spz", ("--spz-version", "3")),
        (".spz", ("--spz-version", "4")),
        (".compressed.ply", ()),
        (".glb", ()),
        (".sog", ()),
    ],
)
def test_we_read_what_splat_transform_writes(tmp_path, shared_data, ending, arguments):
    node_folder()
    source = _sources(shared_data)["train1000"]
    path = tmp_path / f"theirs{ending}"
    splat_transform(source, path, *arguments)
    before = formats.read(source).splats
    scene = formats.read(path)
    if ending == ".spz":
        after = scene.in_axes("opencv").splats
    elif ending == ".glb":
        after = _turned_like_playcanvas(scene)
    else:
        after = _matched(before, scene.splats)
    spread = np.ptp(before.means, axis=0).max()
    assert np.abs(before.means - after.means).max() < (
        2e-3 * spread if ending in (".sog", ".compressed.ply") else 2**-11
    )
    limit = {".glb": 1e-5, ".sog": 0.35, ".compressed.ply": 0.05}.get(ending, 0.15)
    a, b = covariances(before), covariances(after)
    assert (
        np.quantile(np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(a, axis=(1, 2)), 0.99)
        < limit
    )
    assert np.abs(opacity(before) - opacity(after)).max() < 3 / 255


def _turned_like_playcanvas(scene: SplatScene) -> Splats:
    """PlayCanvas calls a .ply's axes right-handed y-up turned by 180 degrees about z."""
    return transform_splats(scene.splats, similarity(np.diag([-1.0, -1.0, 1.0])))


def test_their_order_of_compressed_splats_is_a_z_curve_too():
    means = random_splats(1000, 0).means
    ordered = means[morton_order(means)]
    steps = np.linalg.norm(np.diff(ordered, axis=0), axis=1).mean()
    assert steps < 0.5 * np.linalg.norm(np.diff(means, axis=0), axis=1).mean()


_READ_GLB = """
const { NodeIO } = require('@gltf-transform/core'), fs = require('fs');
new NodeIO().read(process.argv[1]).then((document) => {
  for (const mesh of document.getRoot().listMeshes()) for (const primitive of mesh.listPrimitives())
    for (const name of primitive.listSemantics()) {
      const values = new Float32Array(primitive.getAttribute(name).getArray());
      const to = process.argv[2] + '/' + name.replace(':', '+');
      fs.writeFileSync(to, new Uint8Array(values.buffer));
    }
});
"""


@pytest.mark.parametrize("ending", [".glb", ".gltf"])
@pytest.mark.parametrize("name", ["train1000", "leica"])
def test_gltf_transform_reads_our_gltf_splat_by_splat(tmp_path, shared_data, name, ending):
    """A general glTF library, which knows nothing of splats, finds the numbers of the .ply under
    the extension's names.
    """
    folder = node_folder()
    s = formats.read(_sources(shared_data)[name]).splats
    target = tmp_path / f"a{ending}"
    formats.write(target, SplatScene(s))
    subprocess.run(
        ["node", "-e", _READ_GLB, str(target), str(tmp_path)], cwd=folder, timeout=120, check=True
    )

    def attribute(semantic: str, width: int) -> np.ndarray:
        return np.fromfile(tmp_path / semantic, "<f4").reshape(-1, width)

    base = "KHR_gaussian_splatting+"
    np.testing.assert_array_equal(attribute("POSITION", 3), s.means * (1, -1, -1))
    unit = s.quats / np.linalg.norm(s.quats, axis=1, keepdims=True)
    np.testing.assert_allclose(
        attribute(f"{base}ROTATION", 4), unit[:, [1, 2, 3, 0]] * (1, -1, -1, 1), atol=1e-6
    )
    np.testing.assert_allclose(attribute(f"{base}SCALE", 3), np.exp(s.scales_log), rtol=1e-6)
    np.testing.assert_allclose(attribute(f"{base}OPACITY", 1)[:, 0], opacity(s), atol=1e-6)
    np.testing.assert_array_equal(attribute(f"{base}SH_DEGREE_0_COEF_0", 3), s.sh_dc)
    signs = (
        -1,
        -1,
        1,
        -1,
        1,
        1,
        -1,
        1,
        -1,
        1,
        -1,
        -1,
        1,
        -1,
        1,
    )  # bands 1 to 3, y and z turned round: by the parity of each polynomial
    i = 0
    for degree in (1, 2, 3):
        for order in range(2 * degree + 1):
            np.testing.assert_array_equal(
                attribute(f"{base}SH_DEGREE_{degree}_COEF_{order}", 3), s.sh_rest[:, i] * signs[i]
            )
            i += 1


_VALIDATE = """
const fs = require('fs'), v = require('gltf-validator'), path = require('path');
const file = process.argv[1];
v.validateBytes(new Uint8Array(fs.readFileSync(file)), {
  uri: path.basename(file), maxIssues: 1000,
  externalResourceFunction: (uri) =>
    Promise.resolve(new Uint8Array(fs.readFileSync(path.join(path.dirname(file), uri))))
}).then((report) => console.log(JSON.stringify(report.issues)));
"""


@pytest.mark.parametrize("ending", [".glb", ".gltf"])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_khronos_validator_finds_no_error(tmp_path, ending, compressed):
    """Camera, animation and image plane included. The validator does not know the extension's
    attribute names yet.
    """
    from PIL import Image

    from tests.unit.formats.test_round_trips import _camera_path

    folder = node_folder()
    picture = tmp_path / "plate.png"
    Image.new("RGB", (8, 4), (200, 100, 50)).save(picture)
    target = tmp_path / f"a{ending}"
    scene = SplatScene(random_splats(50, 3), cameras=_camera_path())
    formats.write(target, scene, WriteOptions(compress_spz=compressed, image_plane=picture))
    done = subprocess.run(
        ["node", "-e", _VALIDATE, str(target)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    issues = json.loads(done.stdout)
    errors = [
        m
        for m in issues["messages"]
        if m["severity"] == 0 and "/attributes/KHR_gaussian_splatting:" not in m.get("pointer", "")
    ]
    assert errors == [], errors
    warnings = {m["code"] for m in issues["messages"] if m["severity"] == 1}
    assert warnings <= {"UNSUPPORTED_EXTENSION"}, issues["messages"]
