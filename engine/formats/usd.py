"""OpenUSD: UsdVol.ParticleField3DGaussianSplat with an animated camera, units and up axis.

Positions point3f[], orientations quatf[] (unit), scales float3[] (linear), opacities float[] 0..1,
radiance:sphericalHarmonicsCoefficients float3[], (degree + 1)^2 per particle one after another,
constant term first. Lossless but for float32 rounding of exp and sigmoid. Stages are right-handed
and either Y-up ("gltf", "houdini", "nuke") or Z-up ("blender"). Camera focal length and apertures
are tenths of the stage's unit, as UsdGeom.Camera defines them.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..bridge.axes import transform_splats
from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.harmonics import degree_of
from ..bridge.splat_file import Splats
from .camera_nodes import node_matrices, path_from_nodes, plane_corners
from .scene import (
    DISPLAY,
    LINEAR,
    Metadata,
    SplatScene,
    damaged,
    log,
    log_scale,
    logit,
    replacing_path,
    sigmoid,
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

    `node_matrix` [4, 4] becomes the splats' own transform. UserError when the file cannot be written.
    """
    axes = scene.metadata.axes
    if axes not in Y_UP + Z_UP:
        raise ValueError(f"USD stages are Y-up or Z-up and right-handed, got {axes}")
    path = Path(path)
    if path.suffix.lower() != ".usdz":
        with replacing_path(path) as temporary:
            _write_stage(temporary, scene, node_matrix, image_plane)
        return
    with replacing_path(path) as package, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        stage_file = Path(folder) / "scene.usdc"
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
    """A textured card far behind the scene, child of the camera, hidden from the splats by nothing but distance."""
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


# ---- reading


def read(path: Path) -> SplatScene:
    """All Gaussian particle fields of a stage, transforms applied; the first camera if there is one.

    UserError for files that USD cannot open, fields whose arrays do not fit, and stages without any.
    """
    with _complaints_of_usd(path):
        return _read_stage(_open(path), path)


def _read_stage(stage: Any, path: Path) -> SplatScene:
    axes = "blender" if UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.z else "gltf"
    unit = UsdGeom.GetStageMetersPerUnit(stage)
    fields = [
        UsdVol.ParticleField3DGaussianSplat(p)
        for p in stage.Traverse()
        if p.IsA(UsdVol.ParticleField3DGaussianSplat)
    ]
    if not fields:
        raise UserError(
            f"{path} holds no Gaussian particle field.",
            "Export ParticleField3DGaussianSplat prims (OpenUSD 26.03 or newer).",
        )
    parts = [_read_field(field, path) for field in fields]
    most = max(p.sh_rest.shape[1] for p in parts)
    parts = [
        p._replace(sh_rest=np.pad(p.sh_rest, ((0, 0), (0, most - p.sh_rest.shape[1]), (0, 0))))
        for p in parts
    ]
    splats = (
        parts[0]
        if len(parts) == 1
        else Splats(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    )
    name = (
        Usd.ColorSpaceAPI(fields[0].GetPrim()).GetColorSpaceNameAttr().Get()
        if fields[0].GetPrim().HasAPI(Usd.ColorSpaceAPI)
        else None
    )
    colour_space = LINEAR if name and name.startswith("lin_") else DISPLAY
    comments = tuple(
        (stage.GetDefaultPrim() or stage.GetPseudoRoot()).GetCustomDataByKey("comments") or ()
    )
    metadata = Metadata(
        axes=axes, metres_per_unit=unit, colour_space=colour_space, comments=comments, source="usd"
    )
    return SplatScene(splats, metadata, read_cameras(stage, axes, unit))


@contextlib.contextmanager
def _complaints_of_usd(path: Path) -> Iterator[None]:
    """USD's errors, which it raises at any access, as one of ours."""
    try:
        yield
    except (Tf.ErrorException, UnicodeDecodeError, RuntimeError) as error:
        try:
            reason = (
                str(error).strip().splitlines()[-1].rpartition(" : ")[2].strip("' ")
            )  # without its C++ function and line
        except UnicodeDecodeError:  # the message quotes the file
            reason = "it holds bytes that are no text"
        raise damaged(path, f"USD cannot read it ({reason})") from error


def _open(path: Path) -> Any:
    """The stage. Damaged binary files can end the process that reads them or fill its memory: one with a limit tries first."""
    with Path(path).open("rb") as file:
        binary = file.read(8).startswith((b"PXR-USDC", b"PK"))
    if binary:
        limit_s = 30 + Path(path).stat().st_size / 5e6
        command = [sys.executable, "-m", __name__, str(Path(path).resolve())]
        try:
            done = subprocess.run(
                command, cwd=_ROOT, capture_output=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise damaged(path, f"USD has not read it in {limit_s:.0f} s") from error
        if done.returncode != 0:
            raise damaged(path, "USD cannot read it")
    return Usd.Stage.Open(str(path))


def _read_field(field: Any, path: Path) -> Splats:
    when = Usd.TimeCode.EarliestTime()

    def values(name: str, width: int) -> np.ndarray:
        for attribute in (
            field.GetPrim().GetAttribute(name),
            field.GetPrim().GetAttribute(name + "h"),
        ):
            value = attribute.Get(when) if attribute else None
            if value is not None and len(value):
                return np.array(value, np.float32).reshape(-1, width)
        return np.zeros((0, width), np.float32)

    means, quats, scales = values("positions", 3), values("orientations", 4), values("scales", 3)
    opacities, coefficients = (
        values("opacities", 1),
        values("radiance:sphericalHarmonicsCoefficients", 3),
    )
    n = len(means)
    degree = field.GetRadianceSphericalHarmonicsDegreeAttr().Get()
    if degree is None or not 0 <= degree <= 4:
        raise damaged(path, f"SH degree {degree} is unknown")
    per_splat = (degree + 1) ** 2
    sizes = {
        "orientations": len(quats),
        "scales": len(scales),
        "opacities": len(opacities),
        "coefficients": len(coefficients) / per_splat,
    }
    if n == 0 or any(size != n for size in sizes.values()):
        raise damaged(path, f"{field.GetPath()} has {n} positions but {sizes}")
    if degree == 4:
        log.warning(
            "%s: SH degree 4 is more than this engine keeps; the fourth band is dropped", path
        )
    coefficients = coefficients.reshape(n, per_splat, 3)[:, :16]
    splats = Splats(
        means=means,
        quats=np.ascontiguousarray(quats[:, [3, 0, 1, 2]]),
        scales_log=log_scale(np.maximum(scales, 0)),
        opacities_logit=logit(np.clip(opacities[:, 0], 0, 1)),
        sh_dc=np.ascontiguousarray(coefficients[:, 0]),
        sh_rest=np.ascontiguousarray(coefficients[:, 1:]),
    )
    world = UsdGeom.Xformable(field).ComputeLocalToWorldTransform(when)
    return transform_splats(splats, np.array(world).T)


def read_cameras(stage: Any, axes: str, unit: float) -> CameraPath | None:
    """The first camera of a stage at every whole time code, or None."""
    prims = [p for p in stage.Traverse() if p.IsA(UsdGeom.Camera)]
    if not prims:
        return None
    prim = prims[0]
    first, last = (
        (stage.GetStartTimeCode(), stage.GetEndTimeCode())
        if stage.HasAuthoredTimeCodeRange()
        else (0.0, 0.0)
    )
    if not 0 <= last - first <= 1_000_000:  # NaN fails this too
        raise UserError(
            f"The stage spans the frames {first:g} to {last:g}.", "Mend its time range."
        )
    frames = np.arange(first, last + 0.5)
    width, height = (_resolution(prim, name) for name in ("width", "height"))
    Ks, matrices = [], []
    for frame in frames:
        camera = UsdGeom.Camera(prim).GetCamera(float(frame))
        if (
            camera.focalLength <= 0
            or camera.horizontalAperture <= 0
            or camera.verticalAperture <= 0
        ):
            raise damaged(
                stage.GetRootLayer().identifier,
                "its camera has no positive focal length and aperture",
            )
        if not (width and height):
            width, height = (
                1280,
                max(1, round(1280 * camera.verticalAperture / camera.horizontalAperture)),
            )
        fx, fy = (
            camera.focalLength / camera.horizontalAperture * width,
            camera.focalLength / camera.verticalAperture * height,
        )
        cx = width / 2 - camera.horizontalApertureOffset / camera.horizontalAperture * width
        cy = height / 2 + camera.verticalApertureOffset / camera.verticalAperture * height
        Ks.append([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        matrices.append(np.array(camera.transform).T)
    return path_from_nodes(
        np.array(matrices), np.array(Ks), (width, height), stage.GetTimeCodesPerSecond(), axes, unit
    )


def _resolution(prim: Any, name: str) -> int:
    """What our writer said about the picture's size; 0 in stages of others."""
    attribute = prim.GetAttribute(f"userProperties:resolution_{name}")
    value = attribute.Get() if attribute else None
    return value if isinstance(value, int) and 0 < value <= 65536 else 0


def cameras_of(path: Path) -> CameraPath | None:
    """The first camera of a stage file that need not hold splats, or None. Raises UserError."""
    with _complaints_of_usd(path):
        stage = _open(path)
        axes = "blender" if UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.z else "gltf"
        return read_cameras(stage, axes, UsdGeom.GetStageMetersPerUnit(stage))


def _try(path: Path) -> None:
    """Touch all that `read` and `cameras_of` would, within memory that a sound file of this size can need."""
    if sys.platform == "linux":
        import resource

        most = _FREE_BYTES + 40 * path.stat().st_size
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    stage = Usd.Stage.Open(str(path))
    for touch in (lambda: read_cameras(stage, "gltf", 1.0), lambda: _read_stage(stage, path)):
        with contextlib.suppress(UserError):  # for the reader itself to say
            touch()


if __name__ == "__main__":
    _try(Path(sys.argv[1]))
