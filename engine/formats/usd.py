"""OpenUSD: UsdVol.ParticleField3DGaussianSplat with an animated camera, units and up axis.

Positions point3f[], orientations quatf[] (unit), scales float3[] (linear), opacities float[] 0..1,
radiance:sphericalHarmonicsCoefficients float3[], (degree + 1)^2 per particle one after another,
constant term first. Lossless but for float32 rounding of exp and sigmoid. Stages are right-handed
and either Y-up ("gltf", "houdini", "nuke") or Z-up ("blender"). Camera focal length and apertures
are tenths of the stage's unit, as UsdGeom.Camera defines them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.harmonics import degree_of
from ..bridge.splats import sigmoid
from ..bridge.whole_file import replacing_path, scratch_folder
from . import usd_guard
from .camera_nodes import node_matrices, plane_corners
from .scene import (
    DISPLAY,
    LINEAR,
    SplatScene,
)

try:
    from pxr import Gf, Sdf, Tf, Usd, UsdGeom, UsdShade, UsdUtils, UsdVol, Vt
except ImportError as error:
    raise UserError(
        "USD needs the package usd-core, which this engine lacks.",
        "Press Install in the add-on's preferences, or pip install usd-core.",
    ) from error

Y_UP = ("gltf", "houdini", "nuke")
Z_UP = ("blender",)
_ROOT = Path(__file__).resolve().parents[2]
_FREE_BYTES = 1 << 30
_SENSOR_MM = 36.0
_FIRST_FRAME = 1  # the first time code, as Blender, Nuke and Houdini count
_COLOUR_NAMES = {
    DISPLAY: "srgb_rec709_scene",
    LINEAR: "lin_rec709_scene",
}  # the names USD's colour API knows


# ---- writing


def write(
    path: Path,
    scene: SplatScene,
    *,
    node_matrix: np.ndarray | None = None,
    image_plane: Path | None = None,
) -> None:
    """A .usd, .usda, .usdc or .usdz stage. `scene` must be in one of Y_UP or Z_UP axes.

    `node_matrix` [4, 4] becomes the splats' own transform. UserError when the file cannot be
    written.
    """
    axes = scene.metadata.axes
    if axes not in Y_UP + Z_UP:
        raise ValueError(f"USD stages are Y-up or Z-up and right-handed, got {axes}")
    path = Path(path)
    if ":SDF_FORMAT_ARGS:" in path.name:
        raise UserError(
            f"USD takes a part of the name {path.name} for arguments.", "Choose another name."
        )
    if path.suffix.lower() != ".usdz":
        with replacing_path(path) as temporary:
            _write_stage(temporary, scene, node_matrix, image_plane)
        return
    with replacing_path(path) as package, scratch_folder(path) as folder:
        stage_file = folder / "scene.usdc"
        _write_stage(stage_file, scene, node_matrix, image_plane)
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(stage_file)), str(package)):
            raise UserError(f"Could not pack {path}.", "Write .usdc instead.")


def _write_stage(
    path: Path, scene: SplatScene, node_matrix: np.ndarray | None, image_plane: Path | None
) -> None:
    try:
        stage = Usd.Stage.CreateNew(str(path))
        _fill(stage, scene, node_matrix, image_plane)
        stage.GetRootLayer().Save()
    except Tf.ErrorException as error:
        raise UserError(
            f"USD could not write {path}: {error}.", "Check the folder and the free space."
        ) from error


def _fill(
    stage: Any, scene: SplatScene, node_matrix: np.ndarray | None, image_plane: Path | None
) -> None:
    axes, unit = scene.metadata.axes, scene.metadata.metres_per_unit
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z if axes in Z_UP else UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, unit)
    root = UsdGeom.Xform.Define(stage, "/scene")
    stage.SetDefaultPrim(root.GetPrim())
    if scene.metadata.comments:
        root.GetPrim().SetCustomDataByKey("comments", Vt.StringArray(list(scene.metadata.comments)))
    _write_splats(stage, scene, node_matrix)
    if scene.cameras is not None:
        _write_camera(stage, scene.cameras, axes, unit)
        if image_plane is not None:
            _write_image_plane(stage, scene.cameras, unit, image_plane)


def _write_splats(stage: Any, scene: SplatScene, node_matrix: np.ndarray | None) -> None:
    s = scene.splats
    field = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/scene/splats")
    unit = s.quats / np.linalg.norm(s.quats, axis=1, keepdims=True)
    scales = np.exp(np.minimum(s.scales_log, 88)).astype(np.float32)
    coefficients = np.concatenate([s.sh_dc[:, None], s.sh_rest], axis=1).reshape(-1, 3)
    field.CreatePositionsAttr(Vt.Vec3fArray.FromNumpy(s.means))
    field.CreateOrientationsAttr(
        Vt.QuatfArray.FromNumpy(np.ascontiguousarray(unit[:, [1, 2, 3, 0]], np.float32))
    )
    field.CreateScalesAttr(Vt.Vec3fArray.FromNumpy(scales))
    field.CreateOpacitiesAttr(Vt.FloatArray.FromNumpy(sigmoid(s.opacities_logit)))
    field.CreateRadianceSphericalHarmonicsDegreeAttr(degree_of(s.sh_rest.shape[1]))
    field.CreateRadianceSphericalHarmonicsCoefficientsAttr(
        Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(coefficients, np.float32))
    )
    field.CreateProjectionModeHintAttr("perspective")
    field.CreateSortingModeHintAttr("cameraDistance")
    reach = 3 * scales.max(axis=1, keepdims=True)  # bounds of the 3 sigma spheres
    extent = np.stack([(s.means - reach).min(axis=0), (s.means + reach).max(axis=0)]).astype(
        np.float32
    )
    field.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(extent))
    Usd.ColorSpaceAPI.Apply(field.GetPrim()).CreateColorSpaceNameAttr(
        _COLOUR_NAMES[scene.metadata.colour_space]
    )
    if node_matrix is not None:
        UsdGeom.Xformable(field).AddTransformOp().Set(_gf_matrix(node_matrix))


def _gf_matrix(matrix: np.ndarray) -> Any:
    """Column-vector [4, 4] -> Gf's row-vector matrix."""
    return Gf.Matrix4d(*np.asarray(matrix, np.float64).T.reshape(-1).tolist())


def _write_camera(stage: Any, path: CameraPath, axes: str, unit: float) -> None:
    camera = UsdGeom.Camera.Define(stage, "/scene/camera")
    stage.SetTimeCodesPerSecond(path.fps)
    stage.SetFramesPerSecond(path.fps)
    stage.SetStartTimeCode(_FIRST_FRAME)
    stage.SetEndTimeCode(_FIRST_FRAME + path.count - 1)
    tenths = _SENSOR_MM / 1000 / unit * 10  # the sensor's width in tenths of the stage's unit
    fx, fy, cx, cy = path.K[:, 0, 0], path.K[:, 1, 1], path.K[:, 0, 2], path.K[:, 1, 2]
    focal = fx / path.width * tenths
    values = {
        camera.CreateFocalLengthAttr(): focal,
        camera.CreateHorizontalApertureAttr(): np.full(path.count, tenths),
        camera.CreateVerticalApertureAttr(): path.height / fy * focal,
        camera.CreateHorizontalApertureOffsetAttr(): (path.width / 2 - cx) / fx * focal,
        camera.CreateVerticalApertureOffsetAttr(): (cy - path.height / 2) / fy * focal,
    }
    for attribute, series in values.items():
        if np.ptp(series) < 1e-9:
            attribute.Set(float(series[0]))
        else:
            for i, value in enumerate(series):
                attribute.Set(float(value), _FIRST_FRAME + i)
    camera.CreateClippingRangeAttr(Gf.Vec2f(0.01 / unit, 10000 / unit))
    for name, value in (("width", path.width), ("height", path.height)):
        camera.GetPrim().CreateAttribute(
            f"userProperties:resolution_{name}", Sdf.ValueTypeNames.Int, custom=True
        ).Set(value)
    transform = camera.AddTransformOp()
    for i, matrix in enumerate(node_matrices(path, axes, unit)):
        transform.Set(_gf_matrix(matrix), _FIRST_FRAME + i)


def _write_image_plane(stage: Any, path: CameraPath, unit: float, picture: Path) -> None:
    """A textured card far behind the scene, child of the camera, hidden from the splats by
    nothing but distance.
    """
    mesh = UsdGeom.Mesh.Define(stage, "/scene/camera/image_plane")
    corners = plane_corners(path.K[0], path.width, path.height, 100.0 / unit).astype(np.float32)
    mesh.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(corners))
    mesh.CreateFaceVertexCountsAttr([4])
    mesh.CreateFaceVertexIndicesAttr([0, 1, 2, 3])
    mesh.CreateExtentAttr(
        Vt.Vec3fArray.FromNumpy(np.stack([corners.min(axis=0), corners.max(axis=0)]))
    )
    st = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
        "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
    )
    st.Set([(0, 0), (1, 0), (1, 1), (0, 1)])
    material = UsdShade.Material.Define(stage, "/scene/camera/image_plane/material")
    surface = UsdShade.Shader.Define(stage, "/scene/camera/image_plane/material/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    texture = UsdShade.Shader.Define(stage, "/scene/camera/image_plane/material/texture")
    texture.CreateIdAttr("UsdUVTexture")
    texture.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(Sdf.AssetPath(picture.as_posix()))
    reader = UsdShade.Shader.Define(stage, "/scene/camera/image_plane/material/st")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
    texture.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(
        reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
    )
    rgb = texture.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
    surface.CreateInput("emissiveColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(rgb)
    surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).Set(Gf.Vec3f(0, 0, 0))
    material.CreateSurfaceOutput().ConnectToSource(
        surface.CreateOutput("surface", Sdf.ValueTypeNames.Token)
    )
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)


# ---- reading, which `usd_stage` does in a process of its own


def read(path: Path) -> SplatScene:
    """All Gaussian particle fields of a stage, transforms applied; the first camera if there is
    one.

    UserError for files that USD cannot open, fields whose arrays do not fit, and stages without
    any.
    """
    scene = usd_guard.read(path, "scene")
    assert isinstance(scene, SplatScene)
    return scene


def cameras_of(path: Path) -> CameraPath | None:
    """The first camera of a stage file that need not hold splats, or None. Raises UserError."""
    cameras = usd_guard.read(path, "cameras")
    assert not isinstance(cameras, SplatScene)
    return cameras
