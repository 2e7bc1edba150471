"""glTF 2.0 (.glb, .gltf) with KHR_gaussian_splatting and its SPZ compression, cameras included.

Splats are point primitives with POSITION, COLOR_0 (fallback for other viewers) and attributes
named KHR_gaussian_splatting:*: ROTATION x y z w of unit length, SCALE linear, OPACITY 0..1 and raw
SH coefficients, one VEC3 each. Lossless but for float32 rounding of exp and sigmoid. glTF fixes
axes (x right, y up, z back) and metres. From the Khronos extension text (release candidate, 2026).
"""

from __future__ import annotations

import mimetypes
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..bridge.axes import transform_splats
from ..bridge.camera_file import CameraPath
from ..bridge.colour import srgb_to_linear
from ..bridge.errors import UserError
from ..bridge.harmonics import COEFFICIENTS, SH_C0, degree_of
from ..bridge.quaternions import rotation_of
from ..bridge.splat_file import Splats
from ..bridge.splats import sigmoid
from ..bridge.whole_file import replacing, replacing_path
from . import spz
from .camera_nodes import (
    node_matrices,
    path_from_nodes,
    plane_corners,
    quaternions_xyzw,
    vertical_fov,
)
from .gltf_container import Builder, Document
from .scene import (
    COLOUR_SPACES,
    DISPLAY,
    MOST_SPLATS,
    Metadata,
    SplatScene,
    damaged,
    in_colour_space,
    log,
    log_scale,
    logit,
    read_bytes,
)

_BASE = "KHR_gaussian_splatting"
# the name that shipping readers (Cesium, luma.gl) know comes first: it is the one written
_SPZ_NAMES = (f"{_BASE}_compression_spz_2", f"{_BASE}_compression_spz")
_INSTANCES = 64  # of the same splats in a file, beyond two million in all
_KNOWN_EXTENSIONS = (_BASE, *_SPZ_NAMES, "KHR_materials_unlit", "KHR_texture_transform")
_IDENTITY = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


# ---- reading


def read(path: Path) -> SplatScene:
    """All splat primitives of the scene, node transforms applied; the first camera if there is one.

    UserError for broken files, unknown kernels or colour spaces, sheared nodes and files without
    splats.
    """
    document = Document(path)
    _refuse_unknown_extensions(document)
    parts: list[SplatScene] = []
    total = 0
    cameras: list[tuple[int, np.ndarray]] = []
    for node_index, matrix in _world_matrices(document):
        node = document.item("nodes", node_index)
        if "camera" in node:
            cameras.append((node_index, matrix))
        if "mesh" in node:
            for primitive in document.array(document.item("meshes", node["mesh"]), "primitives"):
                part = _primitive(document, primitive)
                if part is not None:
                    total += part.count
                    if total > MOST_SPLATS or total > _INSTANCES * part.count + MOST_SPLATS // 50:
                        raise damaged(
                            path, f"its nodes repeat {part.count} splats {len(parts)} times"
                        )
                    parts.append(SplatScene(transform_splats(part.splats, matrix), part.metadata))
    if not parts:
        _refuse_drafts(document, document.json.get("extensionsUsed"))
        raise UserError(
            f"{path} holds no {_BASE} primitive.", "Export it as Gaussian splats, not as a mesh."
        )
    return SplatScene(*_merged(parts), _camera_path(document, cameras))


def _refuse_unknown_extensions(document: Document) -> None:
    """UserError that names an extension without which the file cannot be read."""
    required = document.array(document.json, "extensionsRequired")
    unknown = [str(name) for name in required if name not in _KNOWN_EXTENSIONS]
    if unknown:
        raise UserError(
            f"{document.path} needs the glTF extension {', '.join(unknown[:3])}, which is not "
            "known here.",
            f"Export it with {_BASE} as Khronos published it, uncompressed or with "
            f"{_SPZ_NAMES[0]}.",
        )


def _world_matrices(document: Document) -> list[tuple[int, np.ndarray]]:
    """(node, [4, 4]) of every node of the default scene, parents first."""
    scenes = document.json.get("scenes")
    if scenes:
        roots = document.array(document.item("scenes", document.json.get("scene", 0)), "nodes")
    else:
        roots = list(range(len(document.array(document.json, "nodes"))))
    waiting = [(index, np.eye(4)) for index in roots]
    seen: set[int] = set()
    out = []
    while waiting:
        index, parent = waiting.pop(0)
        node = document.item("nodes", index)
        if index in seen:
            raise damaged(document.path, f"node {index} has two parents")
        seen.add(index)
        matrix = parent @ _local_matrix(document, node)
        out.append((index, matrix))
        waiting += [(child, matrix) for child in document.array(node, "children")]
    return out


def _numbers(
    document: Document, node: dict[str, Any], name: str, default: list[float]
) -> np.ndarray:
    value = node.get(name, default)
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise damaged(document.path, f"a node's {name} is {value!r}") from error
    if array.shape != (len(default),) or not np.isfinite(array).all():
        raise damaged(document.path, f"a node's {name} is {value!r}")
    return array


def _local_matrix(document: Document, node: dict[str, Any]) -> np.ndarray:
    if "matrix" in node:
        return _numbers(document, node, "matrix", _IDENTITY).reshape(4, 4).T
    return _trs(
        _numbers(document, node, "translation", [0.0, 0.0, 0.0]),
        _numbers(document, node, "rotation", [0.0, 0.0, 0.0, 1.0]),
        _numbers(document, node, "scale", [1.0, 1.0, 1.0]),
    )


def _trs(translation: np.ndarray, rotation_xyzw: np.ndarray, scale: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    if rotation_xyzw.any():
        matrix[:3, :3] = rotation_of(rotation_xyzw[None, [3, 0, 1, 2]])[0]
    matrix[:3, :3] = matrix[:3, :3] * scale
    matrix[:3, 3] = translation
    return matrix


def _refuse_drafts(document: Document, extensions: Any) -> None:
    """UserError where one of the extensions holds splats, but not as they were published."""
    names = map(str, extensions) if isinstance(extensions, dict | list) else ()
    drafts = [name for name in names if re.search("gauss|splat|spz", name, re.I)]
    drafts = [name for name in drafts if name not in _KNOWN_EXTENSIONS]
    if drafts:
        raise UserError(
            f"{document.path} holds splats in the glTF extension {drafts[0]!r}, a draft or a "
            "maker's own.",
            f"Export it again with a current tool, which writes {_BASE}.",
        )


def _primitive(document: Document, primitive: Any) -> SplatScene | None:
    extensions = document.member(primitive, "extensions")
    extension = document.member(extensions, _BASE)
    if extension is None:
        _refuse_drafts(document, extensions)
        return None
    kernel, space = (
        document.member(extension, "kernel", "ellipse"),
        document.member(extension, "colorSpace", DISPLAY),
    )
    if kernel != "ellipse" or space not in COLOUR_SPACES:
        raise UserError(
            f"{document.path} has splats of kernel {kernel!r} in colour space {space!r}.",
            f"Only kernel 'ellipse' in {' or '.join(COLOUR_SPACES)} is known.",
        )
    for name in _SPZ_NAMES:
        packed = document.member(document.member(extension, "extensions"), name)
        if packed is not None:
            view, _ = document.view(document.member(packed, "bufferView"))
            splats, said = spz.decode(bytes(view), document.path)
            return SplatScene(
                splats,
                Metadata(
                    "gltf",
                    1.0,
                    space,
                    antialiased=said.antialiased,
                    source="gltf",
                    lossy=said.lossy,
                ),
            )
    return SplatScene(
        _plain_splats(document, document.member(primitive, "attributes", {})),
        Metadata("gltf", 1.0, space, source="gltf"),
    )


def _plain_splats(document: Document, attributes: dict[str, Any]) -> Splats:
    if not isinstance(attributes, dict):
        raise damaged(document.path, "a primitive's attributes are no object")
    needed = (
        "POSITION",
        *(f"{_BASE}:{n}" for n in ("ROTATION", "SCALE", "OPACITY", "SH_DEGREE_0_COEF_0")),
    )
    missing = [name for name in needed if name not in attributes]
    others = [
        name for name in attributes if name not in needed and not name.startswith(f"{_BASE}:")
    ]
    if len(missing) > 1 and any(re.search("rotation|scale|opacity|sh_?", n, re.I) for n in others):
        raise UserError(
            f"{document.path} names its splats as a draft of {_BASE} did: {', '.join(others)}.",
            "Export it again with a current tool; the published names are "
            f"{', '.join(needed[1:])}.",
        )

    def values(name: str, *kinds: str) -> np.ndarray:
        if name not in attributes:
            raise damaged(document.path, f"the attribute {name} is missing")
        return document.accessor(attributes[name], kinds)

    means = values("POSITION", "VEC3")
    dc = values(f"{_BASE}:SH_DEGREE_0_COEF_0", "VEC3")
    rest = []
    for degree in (1, 2, 3):
        if f"{_BASE}:SH_DEGREE_{degree}_COEF_0" not in attributes:
            break
        rest += [
            values(f"{_BASE}:SH_DEGREE_{degree}_COEF_{i}", "VEC3") for i in range(2 * degree + 1)
        ]
    columns = [
        means,
        values(f"{_BASE}:ROTATION", "VEC4"),
        values(f"{_BASE}:SCALE", "VEC3"),
        values(f"{_BASE}:OPACITY", "SCALAR"),
        dc,
        *rest,
    ]
    if len({len(c) for c in columns}) != 1:
        raise damaged(
            document.path, f"its attributes hold {sorted({len(c) for c in columns})} splats"
        )
    if (columns[2] < 0).any() or (columns[3] < 0).any() or (columns[3] > 1).any():
        log.warning(
            "%s: negative scales lose their sign, opacities are clamped to 0..1", document.path
        )
    return Splats(
        means=means.astype(np.float32),
        quats=np.ascontiguousarray(columns[1][:, [3, 0, 1, 2]], np.float32),
        scales_log=log_scale(np.abs(columns[2])),
        opacities_logit=logit(np.clip(columns[3][:, 0], 0, 1)),
        sh_dc=dc.astype(np.float32),
        sh_rest=np.stack(rest, axis=1).astype(np.float32)
        if rest
        else np.zeros((len(means), 0, 3), np.float32),
    )


def _merged(parts: list[SplatScene]) -> tuple[Splats, Metadata]:
    first = parts[0].metadata
    parts = [in_colour_space(part, first.colour_space) for part in parts]
    most = max(part.splats.sh_rest.shape[1] for part in parts)
    padded = [
        p.splats._replace(
            sh_rest=np.pad(
                p.splats.sh_rest, ((0, 0), (0, most - p.splats.sh_rest.shape[1]), (0, 0))
            )
        )
        for p in parts
    ]
    return (
        padded[0]
        if len(padded) == 1
        else Splats(*(np.concatenate(arrays) for arrays in zip(*padded, strict=True)))
    ), first


def _camera_path(document: Document, cameras: list[tuple[int, np.ndarray]]) -> CameraPath | None:
    """The first perspective camera; animated when a linear animation moves its node at the root."""
    for index, matrix in cameras:
        lens = document.member(
            document.item("cameras", document.item("nodes", index)["camera"]), "perspective"
        )
        if (
            not isinstance(lens, dict)
            or not isinstance(lens.get("yfov"), int | float)
            or not 0 < lens["yfov"] < np.pi
        ):
            continue
        height = 720
        aspect = lens.get("aspectRatio")
        width = max(
            1,
            round(
                height
                * (aspect if isinstance(aspect, int | float) and 0.01 < aspect < 100 else 16 / 9)
            ),
        )
        f = height / (2 * np.tan(lens["yfov"] / 2))
        times, matrices = _animated(document, index, matrix)
        K = np.tile(
            np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]]), (len(matrices), 1, 1)
        )
        fps = (
            (len(times) - 1) / float(times[-1] - times[0])
            if len(times) > 1 and times[-1] > times[0]
            else 24.0
        )
        return path_from_nodes(matrices, K, (width, height), round(fps, 6), "gltf", 1.0)
    return None


def _animated(
    document: Document, node_index: int, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    tracks: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for animation in document.array(document.json, "animations")[:1]:
        samplers = document.array(animation, "samplers")
        for channel in document.array(animation, "channels"):
            target, number = document.member(channel, "target"), document.member(channel, "sampler")
            kind = document.member(target, "path")
            if document.member(target, "node") != node_index or kind not in (
                "translation",
                "rotation",
            ):
                continue
            if not isinstance(number, int) or not 0 <= number < len(samplers):
                raise damaged(document.path, f"there is no animation sampler {number!r}")
            sampler = samplers[number]
            if document.member(sampler, "interpolation", "LINEAR") != "LINEAR":
                log.warning(
                    "%s: its camera animation is not linear; only its rest pose is read",
                    document.path,
                )
                return np.zeros(1), matrix[None]
            times = document.accessor(document.member(sampler, "input"), ("SCALAR",))[:, 0]
            tracks[kind] = (
                times,
                document.accessor(
                    document.member(sampler, "output"),
                    ("VEC3",) if kind == "translation" else ("VEC4",),
                ),
            )
    if (
        set(tracks) != {"translation", "rotation"}
        or len({len(a) for track in tracks.values() for a in track}) != 1
    ):
        return np.zeros(1), matrix[None]
    times = tracks["translation"][0]
    pairs = zip(tracks["translation"][1], tracks["rotation"][1], strict=True)
    return times, np.stack([_trs(t.astype(float), r.astype(float), np.ones(3)) for t, r in pairs])


# ---- writing


def write(
    path: Path,
    scene: SplatScene,
    *,
    node_matrix: np.ndarray | None = None,
    compress_spz: bool = False,
    image_plane: Path | None = None,
) -> None:
    """A .glb, or a .gltf with its .bin beside it. `scene` must be in glTF's axes and metres.

    `node_matrix` [4, 4] stays on the node (it must be a similarity without mirror).
    """
    if (
        scene.metadata.axes not in ("gltf", "houdini", "nuke")
        or scene.metadata.metres_per_unit != 1.0
    ):
        raise ValueError(f"glTF needs its own axes in metres, got {scene.metadata.axes}")
    builder = Builder()
    used = [_BASE]
    primitive = (
        _spz_primitive(builder, scene, used) if compress_spz else _plain_primitive(builder, scene)
    )
    node: dict[str, Any] = {"name": "splats", "mesh": 0}
    if node_matrix is not None:
        if np.linalg.det(node_matrix[:3, :3]) <= 0:
            raise UserError(
                "The object is mirrored, which a glTF splat node cannot be.",
                "Bake the transform, or take the mirror off.",
            )
        node["matrix"] = np.asarray(node_matrix, np.float64).T.reshape(-1).tolist()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "Scene Splatter"},
        "extensionsUsed": used,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
        "meshes": [{"name": "splats", "primitives": [primitive]}],
    }
    if compress_spz:
        document["extensionsRequired"] = list(used)
    if scene.metadata.comments:
        document["asset"]["extras"] = {"comments": list(scene.metadata.comments)}
    if scene.cameras is not None:
        _add_camera(builder, document, scene.cameras, image_plane)
    _save(path, builder, document)


def _save(path: Path, builder: Builder, document: dict[str, Any]) -> None:
    path = Path(path)
    if path.suffix.lower() != ".gltf":
        with replacing(path) as file:
            builder.write_glb(file, document)
        return
    binary = path.with_suffix(".bin")
    with replacing_path(path) as text_name, replacing_path(binary) as binary_name:
        text_name.write_bytes(builder.describe(document, quote(binary.name)))
        with binary_name.open("wb") as file:
            builder.write_binary(file)
            file.flush()
            os.fsync(file.fileno())


def _extension(scene: SplatScene) -> dict[str, Any]:
    return {
        "kernel": "ellipse",
        "colorSpace": scene.metadata.colour_space,
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }


def _fallback_colour(scene: SplatScene) -> np.ndarray:
    """[n, 4] uint8 for COLOR_0, which is linear light by glTF's rule."""
    rgb = np.clip(scene.splats.sh_dc * SH_C0 + 0.5, 0, 1)
    if scene.metadata.colour_space == DISPLAY:
        rgb = srgb_to_linear(rgb)
    return np.rint(
        np.concatenate([rgb, sigmoid(scene.splats.opacities_logit)[:, None]], axis=1) * 255
    ).astype(np.uint8)


def _plain_primitive(builder: Builder, scene: SplatScene) -> dict[str, Any]:
    s = scene.splats
    unit = s.quats / np.linalg.norm(s.quats, axis=1, keepdims=True)
    attributes = {
        "POSITION": builder.add(s.means, bounds=True),
        "COLOR_0": builder.add(_fallback_colour(scene)),
        f"{_BASE}:ROTATION": builder.add(unit[:, [1, 2, 3, 0]].astype(np.float32)),
        f"{_BASE}:SCALE": builder.add(np.exp(np.minimum(s.scales_log, 88)).astype(np.float32)),
        f"{_BASE}:OPACITY": builder.add(sigmoid(s.opacities_logit)),
        f"{_BASE}:SH_DEGREE_0_COEF_0": builder.add(s.sh_dc),
    }
    for degree in range(1, degree_of(s.sh_rest.shape[1]) + 1):
        for i in range(2 * degree + 1):
            attributes[f"{_BASE}:SH_DEGREE_{degree}_COEF_{i}"] = builder.add(
                s.sh_rest[:, COEFFICIENTS[degree - 1] + i]
            )
    return {"mode": 0, "attributes": attributes, "extensions": {_BASE: _extension(scene)}}


def _spz_primitive(builder: Builder, scene: SplatScene, used: list[str]) -> dict[str, Any]:
    """SPZ version 3 inside: the readers of the extension know gzip streams, few know version 4."""
    blob = spz.encode(scene.splats, version=3, antialiased=scene.metadata.antialiased)
    view = builder.add_view(np.frombuffer(blob, np.uint8))
    used.append(_SPZ_NAMES[0])
    n, s = scene.count, scene.splats

    def empty(component: int, kind: str, **more: Any) -> int:
        builder.accessors.append({"componentType": component, "count": n, "type": kind, **more})
        return len(builder.accessors) - 1

    attributes = {
        "POSITION": empty(
            5126, "VEC3", min=s.means.min(axis=0).tolist(), max=s.means.max(axis=0).tolist()
        ),
        "COLOR_0": empty(5121, "VEC4", normalized=True),
        f"{_BASE}:ROTATION": empty(5126, "VEC4"),
        f"{_BASE}:SCALE": empty(5126, "VEC3"),
    }
    for degree in range(1, degree_of(s.sh_rest.shape[1]) + 1):
        for i in range(2 * degree + 1):
            attributes[f"{_BASE}:SH_DEGREE_{degree}_COEF_{i}"] = empty(5126, "VEC3")
    extension = _extension(scene) | {"extensions": {_SPZ_NAMES[0]: {"bufferView": view}}}
    return {"mode": 0, "attributes": attributes, "extensions": {_BASE: extension}}


def _add_camera(
    builder: Builder, document: dict[str, Any], path: CameraPath, image_plane: Path | None
) -> None:
    fov = vertical_fov(path)
    if np.ptp(fov) > 1e-4:
        log.warning(
            "glTF cores have no animated lens: the field of view of the first frame is written"
        )
    aspect = path.width / path.height * float(path.K[0, 1, 1] / path.K[0, 0, 0])
    document["cameras"] = [
        {
            "type": "perspective",
            "name": "camera",
            "perspective": {"yfov": float(fov[0]), "aspectRatio": aspect, "znear": 0.01},
        }
    ]
    matrices = node_matrices(path, "gltf", 1.0)
    quats = quaternions_xyzw(matrices).astype(np.float32)
    translations = matrices[:, :3, 3].astype(np.float32)
    node = {
        "name": "camera",
        "camera": 0,
        "translation": translations[0].tolist(),
        "rotation": quats[0].tolist(),
    }
    document["nodes"].append(node)
    index = len(document["nodes"]) - 1
    document["scenes"][0]["nodes"].append(index)
    if path.count > 1:
        times = builder.add(
            (np.arange(path.count) / path.fps).astype(np.float32), bounds=True, target=None
        )
        outputs = [builder.add(values, target=None) for values in (translations, quats)]
        document["animations"] = [
            {
                "name": "camera",
                "samplers": [
                    {"input": times, "output": out, "interpolation": "LINEAR"} for out in outputs
                ],
                "channels": [
                    {"sampler": i, "target": {"node": index, "path": name}}
                    for i, name in enumerate(("translation", "rotation"))
                ],
            }
        ]
    if image_plane is not None:
        _add_image_plane(builder, document, path, image_plane, index)


def _add_image_plane(
    builder: Builder, document: dict[str, Any], path: CameraPath, picture: Path, camera: int
) -> None:
    """An unlit quad with the picture, far behind what the first camera sees, moving with the
    camera.
    """
    mime = mimetypes.guess_type(picture.name)[0]
    if mime not in ("image/png", "image/jpeg"):
        raise UserError(
            f"{picture} cannot be an image plane in glTF.", "Use a PNG or JPEG picture."
        )
    distance = 100.0
    corners = plane_corners(path.K[0], path.width, path.height, distance).astype(np.float32)
    attributes = {
        "POSITION": builder.add(corners, bounds=True),
        "TEXCOORD_0": builder.add(np.array([(0, 1), (1, 1), (1, 0), (0, 0)], np.float32)),
    }
    indices = builder.add(np.array([0, 1, 2, 0, 2, 3], np.uint16), target=34963)
    view = builder.add_view(np.frombuffer(read_bytes(picture), np.uint8))
    document["images"] = [{"bufferView": view, "mimeType": mime, "name": picture.stem}]
    document["textures"] = [{"source": 0}]
    document["materials"] = [
        {
            "name": "image_plane",
            "extensions": {"KHR_materials_unlit": {}},
            "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0},
        }
    ]
    document["extensionsUsed"].append("KHR_materials_unlit")
    document["meshes"].append(
        {
            "name": "image_plane",
            "primitives": [{"attributes": attributes, "indices": indices, "material": 0}],
        }
    )
    document["nodes"].append({"name": "image_plane", "mesh": len(document["meshes"]) - 1})
    document["nodes"][camera]["children"] = [len(document["nodes"]) - 1]
