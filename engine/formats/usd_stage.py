"""What an OpenUSD stage holds, read in the guard process that `usd_guard` starts; no other process
opens one.

Composition stops at the file itself: layers, references and payloads are followed inside a .usdz,
and in a file's own reference to itself, and nowhere else. What was not followed is named.
"""

from __future__ import annotations

import contextlib
import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pxr import Sdf, Tf, Usd, UsdGeom, UsdVol

from ..bridge.axes import transform_splats
from ..bridge.camera_file import MAX_FRAMES, CameraPath
from ..bridge.errors import UserError
from ..bridge.splats import Splats
from .camera_nodes import path_from_nodes
from .scene import DISPLAY, LINEAR, Metadata, SplatScene, damaged, log_scale, logit

_MOST_LAYERS = 1000
_MOST_PRIMS = 200_000


def scene_of(path: Path) -> SplatScene:
    """All Gaussian particle fields of a stage, transforms applied; the first camera if there is
    one. Raises UserError.
    """
    with _complaints_of_usd(path):
        stage, left_out = opened(path)
        return _read_stage(stage, path, left_out)


def cameras_of(path: Path) -> CameraPath | None:
    """The first camera of a stage that need not hold splats, or None. Raises UserError."""
    with _complaints_of_usd(path):
        stage, left_out = opened(path)
        axes = "blender" if UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.z else "gltf"
        found = read_cameras(stage, axes, UsdGeom.GetStageMetersPerUnit(stage))
        if found is None or not left_out:
            return found
        return found._replace(notes=(*found.notes, _not_followed(left_out)))


def opened(path: Path) -> tuple[Any, list[str]]:
    """The stage with every way out of the file cut, and the names that were cut. Raises
    UserError.
    """
    root = Sdf.Layer.FindOrOpen(str(path))
    if root is None:
        raise damaged(path, "USD cannot read it")
    members = _members(path)
    waiting, seen, left_out = [(root, "")], {root.identifier}, []
    kept = [root]  # an edited layer lives as long as something holds it
    while waiting:
        layer, folder = waiting.pop()
        for asset in list(layer.GetCompositionAssetDependencies()):
            inside = _inside(asset, folder, members, path)
            if inside is None:
                left_out.append(asset)
                layer.UpdateCompositionAssetDependency(asset, "")
            elif inside:
                found = Sdf.Layer.FindOrOpen(f"{path}[{inside}]")
                if found is not None and found.identifier not in seen and len(seen) < _MOST_LAYERS:
                    seen.add(found.identifier)
                    kept.append(found)
                    waiting.append((found, posixpath.dirname(inside)))
        _cut_clips(layer)
    if any(_prims(layer) > _MOST_PRIMS for layer in kept):
        raise damaged(path, f"its references compose into more than {_MOST_PRIMS:,} prims")
    stage = Usd.Stage.Open(root)
    if stage is None:
        raise damaged(path, "USD cannot read it")
    _KEPT.extend(kept)
    return stage, sorted(set(left_out))


_KEPT: list[Any] = []  # the process ends with the one file that it reads


def _members(path: Path) -> frozenset[str]:
    if not zipfile.is_zipfile(path):
        return frozenset()
    with zipfile.ZipFile(path) as archive:
        return frozenset(archive.namelist())


def _inside(asset: str, folder: str, members: frozenset[str], path: Path) -> str | None:
    """The member of the package that an asset path means, "" for the file itself, None for all
    else.
    """
    if not members:
        own = asset.removeprefix("./") == path.name
        return "" if own else None
    name = posixpath.normpath(posixpath.join(folder, asset))
    if asset.startswith("/") or ":" in asset or "\\" in asset or name.startswith(".."):
        return None
    for candidate in (
        name,
        posixpath.normpath(asset),
    ):  # a search path counts from the package's root
        if candidate in members:
            return candidate
    return None


def _prims(layer: Any) -> int:
    """How many prims a layer's references to itself compose into: a short text can double at every
    level.
    """
    sizes: dict[Any, int] = {}

    def size(place: Any, depth: int) -> int:
        spec = layer.GetPrimAtPath(place)
        if spec is None or depth > 200:
            return 0
        if place not in sizes:
            sizes[place] = 0  # a circle adds nothing
            total = 1 + sum(size(child.path, depth + 1) for child in spec.nameChildren)
            arcs = [r.primPath for r in _listed(spec.referenceList) if not r.assetPath]
            arcs += [*_listed(spec.inheritPathList), *_listed(spec.specializesList)]
            total += sum(size(arc, depth + 1) for arc in arcs if arc != Sdf.Path.emptyPath)
            sizes[place] = min(total, _MOST_PRIMS + 1)
        return sizes[place]

    return sum(size(prim.path, 0) for prim in layer.rootPrims)


def _listed(edits: Any) -> list[Any]:
    return [*edits.explicitItems, *edits.prependedItems, *edits.appendedItems, *edits.addedItems]


def _cut_clips(layer: Any) -> None:
    """Value clips name files too, outside composition."""

    def cut(place: Any) -> None:
        spec = layer.GetObjectAtPath(place)
        for key in ("clips", "clipSets"):
            if isinstance(spec, Sdf.PrimSpec) and spec.HasInfo(key):
                spec.ClearInfo(key)

    layer.Traverse(Sdf.Path.absoluteRootPath, cut)


def _not_followed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"references to other files were not followed ({', '.join(names[:3])}{more}); "
        "flatten the stage (usdcat --flatten), or pack it as .usdz"
    )


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


def _read_stage(stage: Any, path: Path, left_out: list[str]) -> SplatScene:
    axes = "blender" if UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.z else "gltf"
    unit = UsdGeom.GetStageMetersPerUnit(stage)
    fields = [
        UsdVol.ParticleField3DGaussianSplat(p)
        for p in stage.Traverse()
        if p.IsA(UsdVol.ParticleField3DGaussianSplat)
    ]
    if not fields:
        if left_out:
            raise UserError(
                f"{path} holds no Gaussian particle field itself, but refers to other files "
                f"({left_out[0]}).",
                "Flatten the stage (usdcat --flatten), or pack it as .usdz.",
            )
        raise UserError(
            f"{path} holds no Gaussian particle field.",
            "Export ParticleField3DGaussianSplat prims (OpenUSD 26.03 or newer).",
        )
    lost = [_not_followed(left_out)] if left_out else []
    parts = [_read_field(field, path, lost) for field in fields]
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
    cameras = None
    try:
        cameras = read_cameras(stage, axes, unit)
    except UserError as error:
        lost.append(f"the camera was left out: {error.message}")
    metadata = Metadata(
        axes=axes,
        metres_per_unit=unit,
        colour_space=colour_space,
        comments=comments,
        source="usd",
        lost=tuple(dict.fromkeys(lost)),
    )
    return SplatScene(splats, metadata, cameras)


def _read_field(field: Any, path: Path, lost: list[str]) -> Splats:
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
        lost.append("SH degree 4 is more than this engine keeps; the fourth band is dropped")
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
    if not 0 <= last - first < MAX_FRAMES:  # NaN fails this too
        raise UserError(
            f"The stage spans the frames {first:g} to {last:g}.", "Mend its time range."
        )
    frames = np.arange(first, last + 0.5)
    count = len(frames)
    if not _moves(prim):
        frames = frames[:1]
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
    if len(frames) < count:
        matrices, Ks = matrices * count, Ks * count
    return path_from_nodes(
        np.array(matrices), np.array(Ks), (width, height), stage.GetTimeCodesPerSecond(), axes, unit
    )


def _moves(prim: Any) -> bool:
    """Whether the camera, its lens or anything above it changes with time."""
    lens = any(attribute.ValueMightBeTimeVarying() for attribute in prim.GetAttributes())
    while not lens and prim and not prim.IsPseudoRoot():
        place = UsdGeom.Xformable(prim)
        if place and place.TransformMightBeTimeVarying():
            return True
        prim = prim.GetParent()
    return lens


def _resolution(prim: Any, name: str) -> int:
    """What our writer said about the picture's size; 0 in stages of others."""
    attribute = prim.GetAttribute(f"userProperties:resolution_{name}")
    value = attribute.Get() if attribute else None
    return value if isinstance(value, int) and 0 < value <= 65536 else 0
