"""docs/usd_recipe.md as far as usd-core can follow it: our stage in other people's stages, what the
schema knows of it, what OpenUSD's own validators say, and NVIDIA's published rules for splats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pxr import Gf, Usd, UsdGeom, UsdValidation, UsdVol

from engine.__main__ import main
from engine.bridge import splat_file
from tests.format_samples import random_splats

COUNT = 60
IN_FRONT = np.array([[0.0, 0.0, 2.0]], np.float32)  # of the camera, in OpenCV's axes: 2 m
ISAAC = ("--axes-out", "blender")  # Z up; the default is Y up, as Houdini's
RECIPES = pytest.mark.parametrize("flags", [(), ISAAC], ids=["Houdini", "Isaac"])


@pytest.fixture(scope="module")
def ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splats = random_splats(COUNT, 2, 7)
    splats.means[:1] = IN_FRONT
    file = tmp_path_factory.mktemp("scene") / "scene.ply"
    splat_file.write_ply(file, splats)
    return file


def converted(ply: Path, folder: Path, name: str, *flags: str) -> Path:
    assert main(["convert", str(ply), str(folder / name), *flags]) == 0
    return folder / name


def field_of(stage: Any) -> Any:
    found = [p for p in stage.Traverse() if p.GetTypeName() == "ParticleField3DGaussianSplat"]
    assert len(found) == 1
    return UsdVol.ParticleField3DGaussianSplat(found[0])


def in_world(field: Any) -> np.ndarray:
    points = np.asarray(field.GetPositionsAttr().Get(), np.float64)
    matrix = np.array(UsdGeom.XformCache().GetLocalToWorldTransform(field.GetPrim()))
    return points @ matrix[:3, :3] + matrix[3, :3]


def complaints(stage: Any) -> list[str]:
    every = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    return [error.GetMessage() for error in UsdValidation.ValidationContext(every).Validate(stage)]


def centimetre_stage(room: Path, up: str) -> Any:
    """A Z-up stage in centimetres with our file under an Xform, turned and scaled as told."""
    stage = Usd.Stage.CreateNew(str(room.with_name(f"shot_{up}.usda")))
    UsdGeom.SetStageUpAxis(stage, "Z")
    UsdGeom.SetStageMetersPerUnit(stage, 0.01)
    world = UsdGeom.Xform.Define(stage, "/World")
    stage.SetDefaultPrim(world.GetPrim())
    holder = UsdGeom.Xform.Define(stage, "/World/room")
    holder.AddTranslateOp().Set(Gf.Vec3d(0, 0, 160))  # the camera is 1.6 m above the ground
    if up == "Y":
        holder.AddRotateXOp().Set(90.0)
    holder.AddScaleOp().Set(Gf.Vec3f(100.0))
    holder.GetPrim().GetReferences().AddReference(f"./{room.name}")
    stage.GetRootLayer().Save()
    return stage


@pytest.mark.parametrize("up", ["Y", "Z"])
def test_it_stands_where_it_should_in_a_centimetre_stage(up: str, ply: Path, tmp_path: Path):
    room = converted(ply, tmp_path, "room.usdc", *(ISAAC if up == "Z" else ()))
    assert UsdGeom.GetStageUpAxis(Usd.Stage.Open(str(room))) == up
    stage = centimetre_stage(room, up)
    field, splats = field_of(stage), splat_file.read_ply(ply)
    x, y, z = splats.means.astype(np.float64).T  # right, down, forward
    expected = 100.0 * np.stack([x, z, -y], axis=1) + [0, 0, 160]
    world = in_world(field)
    np.testing.assert_allclose(world, expected, atol=1e-3)
    np.testing.assert_allclose(world[0], [0, 200, 160], atol=1e-3)  # 2 m ahead, at eye height
    box = UsdGeom.BBoxCache(Usd.TimeCode.Default(), [UsdGeom.Tokens.default_])
    bound = box.ComputeWorldBound(stage.GetPrimAtPath("/World")).ComputeAlignedRange()
    reach = 300.0 * np.exp(splats.scales_log).max(axis=1, keepdims=True)  # three sigma
    np.testing.assert_allclose(bound.GetMin(), (expected - reach).min(axis=0), rtol=1e-4, atol=0.1)
    np.testing.assert_allclose(bound.GetMax(), (expected + reach).max(axis=0), rtol=1e-4, atol=0.1)
    assert complaints(stage) == []


def test_isaac_needs_no_transform(ply: Path, tmp_path: Path):
    stage = Usd.Stage.Open(str(converted(ply, tmp_path, "room.usdc", *ISAAC)))
    assert UsdGeom.GetStageUpAxis(stage) == "Z" and UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    np.testing.assert_allclose(in_world(field_of(stage))[0], [0, 2, 0], atol=1e-6)


@RECIPES
def test_the_schema_knows_all_that_is_written(flags, ply: Path, tmp_path: Path):
    stage = Usd.Stage.Open(str(converted(ply, tmp_path, "room.usdc", *flags)))
    prim = field_of(stage).GetPrim()
    schema, authored = prim.GetPrimDefinition(), prim.GetAuthoredAttributes()
    assert {"positions", "orientations", "scales", "opacities"} <= {a.GetName() for a in authored}
    for attribute in authored:
        name = attribute.GetName()
        assert name in schema.GetPropertyNames() and not attribute.IsCustom(), name
        known = schema.GetAttributeDefinition(name)
        assert attribute.GetTypeName() == known.GetTypeName(), name
        tokens = known.GetMetadata("allowedTokens")
        assert not tokens or attribute.Get() in tokens, name
    assert UsdGeom.Imageable(prim).ComputePurpose() == UsdGeom.Tokens.default_
    assert UsdGeom.Imageable(prim).ComputeVisibility() == UsdGeom.Tokens.inherited


@RECIPES
def test_the_published_rules_for_splats_hold(flags, ply: Path, tmp_path: Path):
    """VG.035 of Omniverse's asset requirements, SPL.001 to SPL.006 of SimReady's."""
    stage = Usd.Stage.Open(str(converted(ply, tmp_path, "room.usdc", *flags)))
    field = field_of(stage)
    degree = field.GetRadianceSphericalHarmonicsDegreeAttr().Get()
    positions, scales, opacities = (
        np.asarray(a.Get())
        for a in (field.GetPositionsAttr(), field.GetScalesAttr(), field.GetOpacitiesAttr())
    )
    turns = np.asarray(field.GetOrientationsAttr().Get())
    colours = np.asarray(field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get())
    assert degree == 2
    assert positions.shape == (COUNT, 3) and np.isfinite(positions).all()
    assert scales.shape == (COUNT, 3) and (scales > 0).all()
    assert opacities.shape == (COUNT,) and (opacities >= 0).all() and (opacities <= 1).all()
    np.testing.assert_allclose(np.linalg.norm(turns, axis=1), 1.0, atol=1e-6)
    assert colours.shape == (COUNT * (degree + 1) ** 2, 3) and np.isfinite(colours).all()


@pytest.mark.parametrize("name", ["room.usdc", "room.usda", "room.usdz"])
def test_the_validators_of_openusd_have_no_complaint(name: str, ply: Path, tmp_path: Path):
    file = converted(ply, tmp_path, name, *ISAAC)
    assert complaints(Usd.Stage.Open(str(file))) == []


def test_the_validators_do_complain_of_a_bare_stage():
    stage = Usd.Stage.CreateInMemory()
    stage.DefinePrim("/splats", "ParticleField3DGaussianSplat")
    assert len(complaints(stage)) >= 3  # default prim, metres per unit, up axis


def test_a_lower_degree_is_one_flag(ply: Path, tmp_path: Path):
    file = converted(ply, tmp_path, "room.usdc", *ISAAC, "--sh-degree", "0")
    stage = Usd.Stage.Open(str(file))
    field = field_of(stage)
    assert field.GetRadianceSphericalHarmonicsDegreeAttr().Get() == 0
    assert len(field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get()) == COUNT
