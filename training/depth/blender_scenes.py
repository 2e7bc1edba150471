"""Renders scenes of `scenes.py` with Blender's Cycles: a part of what the network learns from.

Same scenes, other light: light that is thrown on from surface to surface, soft shadows, a sky of
air and sun, floors that reflect, glass, bevelled edges, uneven ground and hills, leaves one by one.
Runs where `bpy` is. OUT gets one file a shape, 96x64.npz and so on: image uint8 [n, h, w, 3], depth
float16 [n, h, w] (metres along z, inf: sky), facts float32 [n, 4] as `train.py` keeps them. What
lies there already is kept and added to.

    python -m training.depth.blender_scenes textures.npy OUT --count 1000 [--sheet x.png]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector

from . import scenes, solids

PHOTOS = 8  # pictures from the bank in one scene
GLASS = solids.PHOTO + PHOTOS  # materials: the textures of solids.py, the pictures, glass
_SPP = 12  # denoised
_BIG = 60.0  # half a side from which a flat box is the ground


def _template(kind: int, chamfer: float, fine: int):
    """Unit solid: (points [n, 3], quads [m, 4], axis of each quad: 0 x, 1 y, 2 z, 3 round)."""
    if kind in (solids.ELLIPSOID, solids.CYLINDER):
        around = 2 * np.pi * np.arange(2 * fine) / (2 * fine)
        rings = np.linspace(-np.pi / 2, np.pi / 2, fine + 1)
        out = np.cos(rings) if kind == solids.ELLIPSOID else np.array([0, 1, 1, 0.0])
        up = np.sin(rings) if kind == solids.ELLIPSOID else np.array([-1, -1, 1, 1.0])
        points = np.stack(
            [np.outer(out, np.cos(around)), np.outer(up, around**0), np.outer(out, np.sin(around))],
            2,
        ).reshape(-1, 3)
        i, j = np.meshgrid(np.arange(len(up) - 1), np.arange(2 * fine), indexing="ij")
        a, b, k = i * 2 * fine, (i + 1) * 2 * fine, (j + 1) % (2 * fine)
        quads = np.stack([a + j, b + j, b + k, a + k], 2)
        lid = (kind == solids.CYLINDER) & (i != 1)
        return points, quads.reshape(-1, 4), np.where(lid, 1, 3).ravel()
    points, quads, axes = [], [], []
    for axis in range(3):
        for side in (-1, 1):
            face = np.zeros((4, 3))
            face[:, axis] = side
            face[:, (axis + 1) % 3] = np.array([-1, 1, 1, -1]) * (1 - chamfer)
            face[:, (axis + 2) % 3] = np.array([-1, -1, 1, 1]) * side * (1 - chamfer)
            quads.append(np.arange(4) + 4 * len(points))
            points.append(face)
            axes.append(axis)
    points, faces = np.concatenate(points), np.array(quads)
    if kind == solids.GABLE:  # the top shrinks to a ridge along z
        points[points[:, 1] > 0, 0] = 0.0
    elif chamfer > 0:  # strips along the twelve edges; the eight corners stay open
        for axis in range(3):
            b, c = (axis + 1) % 3, (axis + 2) % 3
            for sb in (-1, 1):
                for sc in (-1, 1):
                    near = np.abs(points[:, b] * sb + points[:, c] * sc - 2 + chamfer) < 1e-6
                    k = np.nonzero(near)[0]
                    k = k[np.lexsort((points[k, b] * sb, points[k, axis]))]
                    faces = np.concatenate([faces, k[None, [0, 1, 3, 2]]])
                    axes.append(b)
    return points, faces, np.array(axes)


def _waves(points: np.ndarray, rng: np.random.Generator, octaves: int = 4) -> np.ndarray:
    """Smooth noise [n] of about -1..1 at points [n, 3], its longest waves about 6 long."""
    total = np.zeros(len(points))
    for k in range(octaves * 4):
        way = rng.normal(size=3) * 2.0 ** (k // 4)
        total += np.sin(points @ way + rng.uniform(0, 6.3)) * 0.5 ** (k // 4) * 0.4
    return total


def _leaves(rng: np.random.Generator, count: int):
    """A cloud of leaves in the unit ball, as `_template` gives a solid."""
    middle = rng.normal(size=(count, 1, 3))
    middle *= rng.uniform(0.45, 1.05, (count, 1, 1)) / np.linalg.norm(middle, axis=2, keepdims=True)
    a, b = rng.normal(size=(2, count, 1, 3)) * rng.uniform(0.5, 1.2) / math.sqrt(count)
    points = middle + np.concatenate([-a, -b, a, b], 1)
    return points.reshape(-1, 3), np.arange(4 * count).reshape(-1, 4), np.full(count, 3)


def _ground(rng: np.random.Generator, half: float, rough: float):
    """A disc round the camera that is flat or waves, finer near it, as `_template` gives a
    solid.
    """
    radii = np.concatenate([[0.0], np.geomspace(0.5, half, 40)])
    around = 2 * np.pi * np.arange(64) / 64
    x, z = np.outer(radii, np.cos(around)).ravel(), np.outer(radii, np.sin(around)).ravel()
    rise = _waves(np.stack([x, z, 0 * x], 1) * 0.5, rng) * rough * np.minimum(np.hypot(x, z), 30)
    i, j = np.meshgrid(np.arange(40), np.arange(64), indexing="ij")
    k = (j + 1) % 64
    quads = np.stack([i * 64 + j, (i + 1) * 64 + j, (i + 1) * 64 + k, i * 64 + k], 2)
    return np.stack([x, rise - abs(rough), z], 1), quads.reshape(-1, 4), np.full(40 * 64, 1)


def solids_mesh(rows: np.ndarray, rng: np.random.Generator, outdoors: bool) -> bpy.types.Object:
    """All solids [n, columns of solids.py] as one object; its x, y, z are their x, z, y."""
    points, corners, uvs, slots, smooth = [], [], [], [], []
    colours: list[list[np.ndarray]] = [[], [], []]
    bevel = rng.random() < 0.6
    rough = rng.uniform(0.004, 0.03) if outdoors and rng.random() < 0.6 else 0.0
    count = 0
    for row in rows:
        kind, texture, half = (
            int(row[solids.KIND]),
            int(row[solids.TEXTURE]),
            row[solids.HX : solids.HZ + 1],
        )
        middle, big = row[solids.CX : solids.CX + 3], float(half.max())
        first, second = row[solids.FIRST : solids.FIRST + 3], row[solids.SECOND : solids.SECOND + 3]
        leafy = texture == solids.LEAVES and kind == solids.ELLIPSOID and big < 8
        flat = kind == solids.BOX and half[0] >= _BIG and half[2] >= _BIG
        if leafy:
            unit, quads, axes = _leaves(rng, int(np.clip(90 * big, 60, 260)))
        elif flat:
            unit, quads, axes = _ground(rng, half[0], rough if row[solids.GLOSS] < 0.5 else 0.0)
            middle, half = middle + np.array([0, half[1], 0]), np.ones(3)
        else:
            edge = min(0.02 / float(half.min()), 0.3) if bevel and 0.02 < big < 3 else 0.0
            unit, quads, axes = _template(kind, edge, 24 if big > 8 else 8)
        lumpy = (
            kind == solids.ELLIPSOID
            and outdoors
            and texture in (solids.CLOUDY, solids.PHOTO, solids.LEAVES)
        )
        if lumpy and not leafy and big > 0.25:
            unit = unit * (1 + rng.uniform(0.04, 0.2) * _waves(unit * 1.5, rng))[:, None]
        local = unit * half
        c, s = row[solids.COS], row[solids.SIN]
        x, z = c * local[:, 0] - s * local[:, 2], s * local[:, 0] + c * local[:, 2]
        points.append(np.stack([x, z, local[:, 1]], 1) + middle[[0, 2, 1]])
        corners.append(quads + count)
        count += len(unit)
        at, axis = local[quads], np.repeat(axes[:, None], 4, 1)
        angle = np.arctan2(unit[quads][..., 2], unit[quads][..., 0])
        angle = np.where(angle < angle[:, :1] - 3.2, angle + 6.2832, angle)
        angle = np.where(angle > angle[:, :1] + 3.2, angle - 6.2832, angle)
        u = np.choose(axis, [at[..., 2], at[..., 0], at[..., 0], angle * big])
        v = np.choose(axis, [at[..., 1], at[..., 2], at[..., 1], at[..., 1]])
        uvs.append(np.stack([u, v], 2) * row[solids.SCALE] + row[solids.PICTURE])
        slot = (
            solids.PHOTO + int(row[solids.PICTURE]) % PHOTOS if texture == solids.PHOTO else texture
        )
        if (
            kind != solids.BOX
            and texture == solids.PLAIN
            and big < 0.4
            and row[solids.GLOW] == 0
            and rng.random() < 0.2
        ):
            slot = GLASS
        n = len(quads)
        slots.append(np.full(n, slot))
        smooth.append((axes == 3) & (not leafy) | flat)
        blend = rng.random((n, 1)) if leafy else np.zeros((n, 1))
        colours[0].append(first + (second - first) * blend)
        colours[1].append(np.repeat(second[None], n, 0))
        colours[2].append(np.repeat([[row[solids.GLOSS], row[solids.GLOW], 0.0]], n, 0))
    mesh = bpy.data.meshes.new("scene")
    vertices, quads = np.concatenate(points), np.concatenate(corners)
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", vertices.astype(np.float32).ravel())
    mesh.loops.add(quads.size)
    mesh.loops.foreach_set("vertex_index", quads.astype(np.int32).ravel())
    mesh.polygons.add(len(quads))
    mesh.polygons.foreach_set("loop_start", np.arange(0, quads.size, 4, dtype=np.int32))
    for slot in range(GLASS + 1):
        mesh.materials.append(bpy.data.materials[f"texture {slot}"])
    mesh.polygons.foreach_set("material_index", np.concatenate(slots).astype(np.int32))
    mesh.polygons.foreach_set("use_smooth", np.concatenate(smooth))
    layer = mesh.attributes.new("uv", "FLOAT2", "CORNER")
    layer.data.foreach_set("vector", np.concatenate(uvs).astype(np.float32).ravel())
    for name, parts in zip(("first", "second", "rest"), colours, strict=True):
        values = np.concatenate(parts).astype(np.float32)
        mesh.attributes.new(name, "FLOAT_VECTOR", "FACE").data.foreach_set("vector", values.ravel())
    mesh.update(calc_edges=True)
    made = bpy.data.objects.new("scene", mesh)
    bpy.context.scene.collection.objects.link(made)
    return made


def _node(tree: bpy.types.NodeTree, kind: str, inputs: dict | None = None, **fields):
    """A new shader node; `inputs` are values or sockets to link, by the input's name or place."""
    node = tree.nodes.new("ShaderNode" + kind)
    for name, value in fields.items():
        setattr(node, name, value)
    for name, value in (inputs or {}).items():
        if isinstance(value, bpy.types.NodeSocket):
            tree.links.new(value, node.inputs[name])
        else:
            node.inputs[name].default_value = value
    return node


# Of the textures laid out in rows: width, height and joint in metres, shift of every second row.
_ROWS = {
    solids.PLANKS: (2.5, 0.3, 0.015, 0.37),
    solids.TILES: (0.6, 0.6, 0.02, 0.0),
    solids.BRICKS: (0.5, 0.2, 0.02, 0.5),
    solids.STRIPES: (30.0, 0.4, 0.1, 0.0),
    solids.FACADE: (2.0, 2.6, 0.55, 0.0),  # the joints are the wall, what they frame are windows
}


def _material(slot: int) -> None:
    """The material of a slot: its colours, gloss and glow come from the faces."""
    material = bpy.data.materials.new(f"texture {slot}")
    if material.node_tree is None:  # before Blender 5
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    first, second, uv, rest = (
        _node(tree, "Attribute", attribute_name=name).outputs["Vector"]
        for name in ("first", "second", "uv", "rest")
    )
    out = _node(tree, "OutputMaterial")
    if slot == GLASS:
        glass = {"Transmission Weight": 1.0, "Roughness": 0.05, "Base Color": first}
        shader = _node(tree, "BsdfPrincipled", glass)
        tree.links.new(shader.outputs[0], out.inputs[0])
        return
    share, height = 0.0, None  # of the second colour; what the bumps follow
    if slot >= solids.PHOTO:
        picture = bpy.data.images.new(f"picture {slot - solids.PHOTO}", 96, 96, float_buffer=True)
        halved = _node(tree, "VectorMath", {0: uv, "Scale": 0.5}, operation="SCALE").outputs[0]
        height = second = _node(tree, "TexImage", {"Vector": halved}, image=picture).outputs[0]
        share = 0.8
    elif slot in (solids.CLOUDY, solids.LEAVES):
        scale = 1.0 if slot == solids.CLOUDY else 3.0
        noise = _node(tree, "TexNoise", {"Vector": uv, "Scale": scale, "Detail": 5.0})
        share = height = noise.outputs[0]
    elif slot in _ROWS:
        wide, high, joint, shift = _ROWS[slot]
        sizes = {"Brick Width": wide, "Row Height": high, "Mortar Size": joint, "Scale": 1.0}
        plain, other = (second, first) if slot == solids.FACADE else (first, second)
        colours = {"Color1": plain, "Color2": plain, "Mortar": other}
        brick = _node(tree, "TexBrick", {"Vector": uv, **sizes, **colours}, offset=shift)
        share, second, height = 1.0, brick.outputs["Color"], brick.outputs["Fac"]
    colour = _node(tree, "Mix", {0: share, 6: first, 7: second}, data_type="RGBA").outputs[2]
    parts = _node(tree, "SeparateXYZ", {0: rest}).outputs
    rough = _node(tree, "MapRange", {"Value": parts[0], "To Min": 0.75, "To Max": 0.04})
    glow = _node(tree, "Math", {0: parts[1], 1: 6.0}, operation="MULTIPLY")
    inputs = {"Base Color": colour, "Emission Color": colour, "Roughness": rough.outputs[0]}
    shader = _node(tree, "BsdfPrincipled", {**inputs, "Emission Strength": glow.outputs[0]})
    if height is not None:
        bump = _node(tree, "Bump", {"Strength": 0.35, "Distance": -0.02, "Height": height})
        tree.links.new(bump.outputs[0], shader.inputs["Normal"])
    tree.links.new(shader.outputs[0], out.inputs[0])


def prepare() -> None:
    """An empty file with Cycles, the materials and a world; once for all scenes."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = _SPP, True
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.max_bounces, scene.cycles.diffuse_bounces = 4, 2
    scene.cycles.sample_clamp_indirect = 4.0
    scene.cycles.caustics_reflective = scene.cycles.caustics_refractive = False
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_depth = "32"
    scene.world = bpy.data.worlds.new("sky")
    if scene.world.node_tree is None:  # before Blender 5
        scene.world.use_nodes = True
    scene.world.cycles.sampling_method = "NONE"
    for slot in [*range(GLASS + 1)]:
        _material(slot)


def _sky(rng: np.random.Generator, given: np.ndarray, sun: np.ndarray, night: bool) -> None:
    """The world: Blender's sky without its disc (a lamp is the sun), or the given one's colours;
    clouds in front.
    """
    tree = bpy.context.scene.world.node_tree
    tree.nodes.clear()
    strength = 1.0
    if not night and rng.random() < 0.6:
        sky = _node(tree, "TexSky", sun_rotation=math.atan2(sun[0], sun[2]))
        types = sky.bl_rna.properties["sky_type"].enum_items.keys()
        sky.sky_type = "NISHITA" if "NISHITA" in types else "MULTIPLE_SCATTERING"
        sky.sun_elevation, sky.sun_disc = max(math.asin(sun[1]), 0.02), False
        colour, strength = sky.outputs[0], rng.uniform(0.04, 0.2)
        white = (*(np.ones(3) * rng.uniform(0.5, 4)), 1)
    else:
        way = _node(tree, "TexCoord").outputs["Generated"]
        up = _node(tree, "SeparateXYZ", {0: way}).outputs["Z"]
        ends = {0: up, 6: (*given[0:3], 1), 7: (*given[3:6], 1)}
        colour = _node(tree, "Mix", ends, data_type="RGBA").outputs[2]
        white = (*given[6:9], 1)
    if rng.random() < 0.6:
        way = _node(tree, "TexCoord").outputs["Generated"]
        place = {0: way, "Location": rng.uniform(-50, 50, 3), "Scale": (1, 1, rng.uniform(2, 6))}
        place = _node(tree, "Mapping", place).outputs[0]
        noise = _node(
            tree, "TexNoise", {"Vector": place, "Scale": rng.uniform(1, 4), "Detail": 6.0}
        )
        low = rng.uniform(0.35, 0.6)
        ends = {0: noise.outputs[0], "From Min": low, "From Max": low + rng.uniform(0.05, 0.3)}
        cover = {0: _node(tree, "MapRange", ends).outputs[0], 6: colour, 7: white}
        colour = _node(tree, "Mix", cover, data_type="RGBA").outputs[2]
    back = _node(tree, "Background", {"Color": colour, "Strength": strength})
    tree.links.new(back.outputs[0], _node(tree, "OutputWorld").inputs[0])


def _lamp(kind: str, colour: np.ndarray, power: float, size: float) -> bpy.types.Object:
    data = bpy.data.lights.new("lamp", kind)
    strength = float(max(colour.max(), 1e-3))
    data.color, data.energy = colour / strength, power * strength
    if kind == "SUN":
        data.angle = size
    else:
        data.shadow_soft_size = size
    made = bpy.data.objects.new("lamp", data)
    bpy.context.scene.collection.objects.link(made)
    return made


def camera_matrix(height: float, pitch_deg: float, roll_deg: float) -> Matrix:
    """Blender's camera to world for the stance of `scenes.py`; it looks along y."""
    cp, sp = math.cos(math.radians(pitch_deg)), math.sin(math.radians(pitch_deg))
    cr, sr = math.cos(math.radians(roll_deg)), math.sin(math.radians(roll_deg))
    right, ahead, down = Vector((1, 0, 0)), Vector((0, cp, -sp)), Vector((0, -sp, -cp))
    x, y = right * cr + down * sr, right * sr - down * cr
    turn = Matrix((x, y, -ahead)).transposed().to_4x4()
    turn.translation = (0, 0, height)
    return turn


def true_depth(view: Matrix, focal: float, w: int, h: int) -> np.ndarray:
    """Depth along z [h, w] of what the rays through the pixels' middles hit, inf: nothing."""
    graph = bpy.context.evaluated_depsgraph_get()
    scene, origin, turn = bpy.context.scene, view.translation, view.to_3x3()
    depth = np.full((h, w), np.inf)
    for j in range(h):
        for i in range(w):
            ray = Vector(((i + 0.5 - w / 2) / focal, (h / 2 - j - 0.5) / focal, -1.0))
            way = turn @ ray
            hit, place, *_ = scene.ray_cast(graph, origin, way)
            if hit:
                depth[j, i] = (place - origin).length / ray.length
    return depth


def _rendered(view: Matrix, focal: float, w: int, h: int, seed: int) -> np.ndarray:
    """Linear light [h, w, 3] of the scene as it stands."""
    scene = bpy.context.scene
    if scene.camera is None:
        camera = bpy.data.cameras.new("camera")
        camera.clip_start, camera.clip_end = 0.02, 20000.0
        scene.camera = bpy.data.objects.new("camera", camera)
        scene.collection.objects.link(scene.camera)
    scene.camera.matrix_world = view
    scene.camera.data.sensor_fit = "HORIZONTAL"
    scene.camera.data.lens = focal / w * scene.camera.data.sensor_width
    scene.render.resolution_x, scene.render.resolution_y = w, h
    scene.cycles.seed = seed % 2**31
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "shot.exr")
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(scene.render.filepath)
        pixels = np.empty(w * h * image.channels, np.float32)
        image.pixels.foreach_get(pixels)
        channels = image.channels
        bpy.data.images.remove(image)
    return pixels.reshape(h, w, channels)[::-1, :, :3].astype(np.float64)


def _clear() -> None:
    for made in [o for o in bpy.data.objects if o.type != "CAMERA"]:
        data = made.data
        (bpy.data.meshes if made.type == "MESH" else bpy.data.lights).remove(data)


def sample(seed: int, bank: np.ndarray, w: int, h: int) -> scenes.Sample:
    """The render of this seed, w x h pixels; bank float32 [n, s, s, 3] linear textures. After
    `prepare`.
    """
    rng = np.random.default_rng([2, seed])
    for _ in range(20):
        number, rows, focal, height, pitch, roll, sky, lamp, light, ambient, fog, indoor, _ = (
            scenes.made_scene(rng, w, h)
        )
        _clear()
        solids_mesh(rows, rng, indoor == 0)
        view = camera_matrix(height, pitch, roll)
        bpy.context.view_layer.update()
        look = true_depth(view, focal / 4, w // 4, h // 4)
        if scenes.worth_making(look, indoor > 0, rng):
            break
    for k in range(PHOTOS):
        texture = bank[rng.integers(len(bank))]
        picture = bpy.data.images[f"picture {k}"]
        if tuple(picture.size) != texture.shape[1::-1]:
            picture.scale(texture.shape[1], texture.shape[0])
        rgba = np.concatenate([texture, np.ones_like(texture[..., :1])], 2)
        picture.pixels.foreach_set(rgba.astype(np.float32).ravel())
        picture.update()
    if indoor > 0:
        _sky(rng, sky, np.array([0, 1.0, 0]), True)
        _lamp("POINT", light, rng.uniform(15, 80), rng.uniform(0.05, 0.5)).location = lamp[
            [0, 2, 1]
        ]
        if rng.random() < 0.7:  # from behind the camera, as rooms mostly are lit from all over
            _lamp("POINT", ambient, rng.uniform(5, 60), 0.5).location = (0, -0.2, height + 0.3)
    else:
        night = float(sky[0:6].mean()) < 0.2
        _sky(rng, sky, lamp, night)
        sun = _lamp("SUN", light, rng.uniform(1.5, 5.0), math.radians(rng.uniform(0.5, 8)))
        sun.matrix_world = Vector(lamp[[0, 2, 1]]).to_track_quat("Z", "Y").to_matrix().to_4x4()
    image = _rendered(view, focal, w, h, seed)
    depth = true_depth(view, focal, w, h)
    if fog > 0:
        clear = np.exp(-fog * np.where(np.isfinite(depth), depth, 0.0))[..., None]
        mist = sky[0:3] if not np.isinf(depth).any() else image[np.isinf(depth)].mean(0)
        image = image * clear + mist * (1 - clear)
    image = scenes.developed(image, rng)
    return scenes.Sample(
        image.astype(np.float32), depth.astype(np.float32), focal, pitch, roll, number
    )


def save(folder: Path, made: dict[tuple[int, int], list[scenes.Sample]]) -> None:
    """Adds the new samples to the files of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for (w, h), new in made.items():
        path = folder / f"{w}x{h}.npz"
        values = {
            "image": np.stack([np.rint(m.image * 255) for m in new]).astype(np.uint8),
            "depth": np.stack([np.minimum(m.depth, 6e4) for m in new]).astype(np.float16),
            "facts": np.array([scenes.facts(m) for m in new], np.float32),
        }
        if path.exists():
            with np.load(path) as old:
                values = {k: np.concatenate([old[k], v]) for k, v in values.items()}
        fresh = path.with_suffix(".new.npz")
        np.savez(fresh, **values)
        fresh.replace(path)


def _sheet(made: list[scenes.Sample], out: Path) -> None:
    """Pictures beside their depth, six in a row."""
    tiles = []
    for m in made:
        seen = np.isfinite(m.depth)
        g = np.log(np.where(seen, m.depth, 1.0))
        low, high = np.percentile(g[seen], [2, 98])
        grey = np.where(seen, 0.1 + 0.9 * np.clip((high - g) / (high - low + 1e-6), 0, 1), 0)
        tile = np.concatenate([m.image, np.repeat(grey[..., None], 3, 2)], 1)
        tile = tile[:96, :224]
        tiles.append(np.pad(tile, ((0, 96 - tile.shape[0]), (0, 224 - tile.shape[1]), (0, 0))))
    rows = [np.concatenate(tiles[a : a + 6], 1) for a in range(0, len(tiles) - 5, 6)]
    sheet = np.concatenate(rows, 0)[::-1]
    image = bpy.data.images.new("sheet", sheet.shape[1], sheet.shape[0])
    image.pixels.foreach_set(
        np.concatenate([sheet, np.ones_like(sheet[..., :1])], 2).astype(np.float32).ravel()
    )
    image.filepath_raw, image.file_format = str(out), "PNG"
    image.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("textures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    bank = np.load(arguments.textures).astype(np.float32)
    prepare()
    waiting: dict[tuple[int, int], list[scenes.Sample]] = {}
    shown: list[scenes.Sample] = []
    for k in range(arguments.count):
        seed = arguments.first + k
        pick = np.random.default_rng([3, seed]).choice(len(scenes.SHAPES), p=scenes.SHAPE_SHARES)
        w, h = scenes.SHAPES[pick]
        made = sample(seed, bank, w, h)
        waiting.setdefault((w, h), []).append(made)
        shown.append(made)
        if len(shown) % 20 == 0 or k + 1 == arguments.count:
            save(arguments.out, waiting)
            waiting = {}
    if arguments.sheet:
        _sheet(shown[:72], arguments.sheet)


if __name__ == "__main__":
    main()
