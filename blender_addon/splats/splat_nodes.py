"""The geometry nodes that turn a splat point cloud into one camera-facing quad per Gaussian.

Everything happens in the object's own space, with the scene camera brought into it. Two forms:

As projected (default): the Gaussian's image under the local affine approximation of the perspective
projection (Zwicker et al. 2001, EWA splatting, section 5), blurred by `Low-pass` px^2 as 3DGS does,
and lying in the plane z = z(mean). This is what the engine's rasteriser and other viewers draw:
    J = [[1, 0, -x/z], [0, 1, -y/z]],  cov = J R S (J R S)^T + low_pass (z / f)^2
The quad spans the ellipse at which alpha falls to 1/255; inside it the shader sees `ss_a`, the
coordinates in which the ellipse is a circle.

Along rays: the exact maximum of the Gaussian along each camera ray, with no approximation and the
blur emulated by sqrt(scale^2 + low_pass (z / f)^2). The quad faces the camera in the space where
the Gaussian is a unit sphere. There `ss_a` is W (P - mean) and `ss_b` is
W (P - camera), W = S^-1 R^T; the squared distance of the ray from the mean is |a x b|^2 / |b|^2.

In both forms the corners slide along their rays onto the plane z = z(mean), parallel to the image:
there linear interpolation is exact, and the order along every ray is 3DGS's order of centres.
"""

from __future__ import annotations

import math

import bpy

from .native_material import native_material
from .node_builder import NodeBuilder, Value
from .sh_nodes import BASE, Light, colour_nodes, constant_colour

GROUP_NAME = "Scene Splatter Gaussians"
FILTER_NAME = "Scene Splatter Screen Filter"
GROUP_VERSION = 3  # raise it when the tree changes: an older tree in a file is left as it is

ALPHA_MIN = 1.0 / 255.0  # the engine's rasterize.constants, which are gsplat 1.5.3's
FRUSTUM_MARGIN = 0.15
NEAR_M = 0.01
_DEPTH_STEP = 4e-6  # relative; some 30 times the rounding of single precision
# relative, far enough for a ray caster; no divisor of the step, so that neighbouring steps do not
# meet
_DEPTH_GAP = 0.9e-6
_DEPTH_GAPS = 2039  # then the gaps repeat: a wall is never thicker than 0.2 % of its distance

COLOUR, A, B = (
    "ss_colour",
    "ss_a",
    "ss_b",
)  # what the shader reads; the name `color` reads 0 in Cycles
_MEAN, _U, _V, _CORNER, _SCALE, _DEPTH = (
    "ss_mean",
    "ss_u",
    "ss_v",
    "ss_corner",
    "ss_scale",
    "ss_depth",
)

_Values = dict[str, Value]
_LIGHT = ("Linear Light", "Match View", "View Table")  # the inputs of a `Light`, in its order
FREE_LIMIT = (
    200_000  # quads of an object in a free view: what the nodes sort in some tenths of a second
)

# name, socket type, default, minimum, maximum, text
_INPUTS = (
    ("Material", "Material", None, None, None, "Material of the quads and points"),
    (
        "Linear Light",
        "Bool",
        True,
        None,
        None,
        "Blend in linear light, as Blender does; off: colours are emitted as they are stored",
    ),
    (
        "Match View",
        "Bool",
        False,
        None,
        None,
        "Emit the light that the scene's view transform shows as the stored colours: right under "
        "AgX and Filmic",
    ),
    (
        "Match in Renders",
        "Bool",
        True,
        None,
        None,
        "Off: renders are in linear light, and the compositor matches them",
    ),
    (
        "View Table",
        "Image",
        None,
        None,
        None,
        "The light for each colour, made for the view transform",
    ),
    (
        "Along Rays",
        "Bool",
        False,
        None,
        None,
        "Exact along each ray; off: as projected by the engine and other viewers",
    ),
    (
        "Low-pass",
        "Float",
        0.3,
        0.0,
        100.0,
        "Variance added to the image of every Gaussian, in square pixels; 3DGS has 0.3",
    ),
    ("SH Degree", "Int", 3, 0, 3, "View-dependent colour up to this degree"),
)
_VIEWPORT_INPUTS = (
    (
        "Exact in Viewport",
        "Bool",
        False,
        None,
        None,
        "Quads in the viewport too; they face the scene camera",
    ),
    (
        "Percentage",
        "Float",
        100.0,
        0.0,
        100.0,
        "Share of the Gaussians that the viewport shows; renders show all",
    ),
    (
        "Point Size",
        "Float",
        1.0,
        0.0,
        100.0,
        "Radius of the points in standard deviations along the surface",
    ),
    (
        "Crop",
        "Bool",
        False,
        None,
        None,
        "The viewport shows only what lies in the crop box; renders show all",
    ),
    (
        "Crop Box",
        "Object",
        None,
        None,
        None,
        "An object whose unit cube (-1 to 1 on its axes) is the crop box, e.g. a Cube empty",
    ),
)
_FREE_VIEW_INPUTS = (
    (
        "From View",
        "Bool",
        False,
        None,
        None,
        "The viewport's quads face the place below, not the scene camera",
    ),
    (
        "As Splats",
        "Bool",
        False,
        None,
        None,
        "Where the viewport shows points, show this Blender's own splats instead",
    ),
    ("View Centre", "Vector", None, None, None, "The eye, in the object's axes"),
    ("View Right", "Vector", None, None, None, "Unit, in the object's axes"),
    ("View Up", "Vector", None, None, None, "Unit, in the object's axes"),
    ("View Forward", "Vector", None, None, None, "Unit, in the object's axes"),
    ("View Focal", "Float", 1000.0, 1e-3, 1e9, "Focal length in pixels"),
    ("View Width", "Float", 1920.0, 1.0, 1e6, "Pixels"),
    ("View Height", "Float", 1080.0, 1.0, 1e6, "Pixels"),
)
CAMERA_INPUTS = (
    ("Focal X", "Float", 1000.0, 1e-3, 1e9, "Focal length in pixels, along the width"),
    ("Focal Y", "Float", 1000.0, 1e-3, 1e9, "Focal length in pixels, along the height"),
    ("Width", "Float", 1920.0, 1.0, 1e6, "Width of the render in pixels"),
    ("Height", "Float", 1080.0, 1.0, 1e6, "Height of the render in pixels"),
    ("Centre X", "Float", 960.0, -1e6, 1e6, "Principal point in pixels from the left"),
    ("Centre Y", "Float", 540.0, -1e6, 1e6, "Principal point in pixels from the top"),
)


_FREE_NAMES = tuple(row[0] for row in _FREE_VIEW_INPUTS if row[0] != "As Splats")


def splat_group() -> bpy.types.NodeTree:
    """The node group, shared by all splat objects of the file; made when it is first asked for."""
    for group in bpy.data.node_groups:
        if group.get("scene_splatter_version") == GROUP_VERSION and group.library is None:
            return group
    group = bpy.data.node_groups.new(GROUP_NAME, "GeometryNodeTree")
    group["scene_splatter_version"] = GROUP_VERSION
    group.is_modifier = True
    _make_interface(group, _INPUTS, _VIEWPORT_INPUTS, _FREE_VIEW_INPUTS)
    _make_tree(group)
    return group


def filter_group() -> bpy.types.NodeTree:
    """The group that gives Blender's own splats the blur of 3DGS; made when it is first asked for.

    Blender 5.3 draws each Gaussian along the rays and without blur. Widened here by what a pixel
    measures at its depth, scale' = sqrt(scale^2 + low_pass (z / f)^2), it looks as other viewers
    draw it.
    """
    for group in bpy.data.node_groups:
        if group.get("scene_splatter_filter") == 1 and group.library is None:
            return group
    group = bpy.data.node_groups.new(FILTER_NAME, "GeometryNodeTree")
    group["scene_splatter_filter"] = 1
    group.is_modifier = True
    low_pass = tuple(row for row in _INPUTS if row[0] == "Low-pass")
    _make_interface(group, low_pass, (), ())
    b = NodeBuilder(group)
    entry = b.node("NodeGroupInput")
    inputs = {socket.name: Value(b, socket) for socket in entry.outputs if socket.name}
    depth = b.group("Scene camera", _scene_camera, {})["Depth"]
    scale = _blurred_scale(b, inputs | {"Depth": depth})
    b.node("NodeGroupOutput", {0: b.store(inputs["Geometry"], "scale", "FLOAT_VECTOR", scale)})
    b.arrange()
    return group


def socket_identifier(group: bpy.types.NodeTree, name: str) -> str:
    """The identifier under which a modifier keeps the input `name`."""
    return next(
        item.identifier
        for item in group.interface.items_tree
        if item.item_type == "SOCKET" and item.in_out == "INPUT" and item.name == name
    )


def _make_interface(
    group: bpy.types.NodeTree, rows: tuple, viewport_rows: tuple, free_rows: tuple
) -> None:
    interface = group.interface
    interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    viewport = interface.new_panel("Viewport") if viewport_rows else None
    camera = interface.new_panel("Camera (follows the scene camera)", default_closed=True)
    free = interface.new_panel("Free view", default_closed=True) if free_rows else None
    for parent, members in (
        (None, rows),
        (viewport, viewport_rows),
        (camera, CAMERA_INPUTS),
        (free, free_rows),
    ):
        for name, kind, default, low, high, text in members:
            socket = interface.new_socket(
                name,
                in_out="INPUT",
                socket_type=f"NodeSocket{kind}",
                parent=parent,
                description=text,
            )
            if default is not None:
                socket.default_value = default
            if low is not None:
                socket.min_value, socket.max_value = low, high


def _make_tree(group: bpy.types.NodeTree) -> None:
    b = NodeBuilder(group)
    entry = b.node("NodeGroupInput")
    inputs = {socket.name: Value(b, socket) for socket in entry.outputs if socket.name}
    in_viewport = b.output("GeometryNodeIsViewport")
    inputs["Match View"] = inputs["Match View"] * in_viewport.maximum(inputs["Match in Renders"])
    exact = (1.0 - in_viewport).maximum(inputs["Exact in Viewport"])
    thinned = b.group(
        "Viewport share",
        _thinned,
        {
            name: inputs[name]
            for name in ("Geometry", "Percentage", "Crop", "Crop Box", "From View")
        },
    )["Geometry"]
    points = b.switch(in_viewport, inputs["Geometry"], thinned, "GEOMETRY")
    of_points = (*_LIGHT, "Material", "Point Size", "As Splats")
    as_points = b.group(
        "Points", _as_points, {"Geometry": points} | {name: inputs[name] for name in of_points}
    )["Geometry"]
    of_quads = (
        *_LIGHT,
        "Material",
        "Along Rays",
        "Low-pass",
        "SH Degree",
        *(row[0] for row in CAMERA_INPUTS),
    )
    free = {row[0]: inputs[row[0]] for row in _FREE_VIEW_INPUTS}
    free["From View"] = inputs["From View"] * in_viewport
    as_quads = b.group(
        "Quads",
        _as_quads,
        {"Geometry": points} | {name: inputs[name] for name in of_quads} | free,
    )["Geometry"]
    b.node("NodeGroupOutput", {0: b.switch(exact, as_points, as_quads, "GEOMETRY")})
    b.arrange()


def _thinned(b: NodeBuilder, inputs: _Values) -> _Values:
    """What the viewport shows of the Gaussians: a fixed random share, inside the crop box; in a
    free view no more than FREE_LIMIT.
    """
    size = b.node("GeometryNodeAttributeDomainSize", {"Geometry": inputs["Geometry"]})
    size.component = "POINTCLOUD"
    count = Value(b, size.outputs["Point Count"]).maximum(1.0)
    allowed = b.switch(inputs["From View"], 1.0, count**-1.0 * float(FREE_LIMIT), "FLOAT")
    drawn = b.output(
        "FunctionNodeRandomValue",
        0,
        {"Probability": (inputs["Percentage"] / 100.0).minimum(allowed), "Seed": 0},
        data_type="BOOLEAN",
    )
    box = b.node(
        "GeometryNodeObjectInfo", {"Object": inputs["Crop Box"]}, transform_space="RELATIVE"
    )
    inverse = b.output("FunctionNodeInvertMatrix", 0, {0: Value(b, box.outputs["Transform"])})
    inside = b.output(
        "FunctionNodeTransformPoint", 0, {0: b.output("GeometryNodeInputPosition"), 1: inverse}
    )
    x, y, z = b.vector_math("ABSOLUTE", inside).xyz()
    outside = 1.0 - x.maximum(y).maximum(z).less_than(1.0)
    hidden = (outside * inputs["Crop"]).maximum(1.0 - drawn)
    return {
        "Geometry": b.output(
            "GeometryNodeDeleteGeometry",
            0,
            {"Geometry": inputs["Geometry"], "Selection": hidden},
            domain="POINT",
        )
    }


def _as_points(b: NodeBuilder, inputs: _Values) -> _Values:
    """Plain points in the constant colour: fast from every side."""
    points = b.store(inputs["Geometry"], COLOUR, "FLOAT_COLOR", constant_colour(b, _light(inputs)))
    x, y, z = b.attribute("scale", "FLOAT_VECTOR").xyz()
    flat = (
        x.minimum(y).minimum(z).maximum(1e-12)
    )  # surfaces are flat: their thickness says nothing of the gap to the next point
    radius = (x * y * z / flat).sqrt() * inputs["Point Size"]
    points = b.output("GeometryNodeSetPointRadius", 0, {"Points": points, "Radius": radius})
    points = b.output(
        "GeometryNodeSetMaterial", 0, {"Geometry": points, "Material": inputs["Material"]}
    )
    if hasattr(bpy.types, "GeometryNodePointsSetType"):
        node = b.node("GeometryNodePointsSetType", {"Points": inputs["Geometry"]})
        node.inputs["Type"].default_value = "3D Gaussian Splat"
        own = b.output(
            "GeometryNodeSetMaterial",
            0,
            {"Geometry": Value(b, node.outputs[0]), "Material": native_material()},
        )
        points = b.switch(inputs["As Splats"], points, own, "GEOMETRY")
    return {"Geometry": points}


def _light(inputs: _Values) -> Light:
    return Light(*(inputs[name] for name in _LIGHT))


def _seen_from(b: NodeBuilder, i: _Values) -> _Values:
    """The scene camera, or the eye of a free view, with its lens."""
    camera, free = b.group("Scene camera", _scene_camera, {}), i["From View"]
    axes = {
        name: b.switch(free, camera[name], i[f"View {name}"], "VECTOR")
        for name in ("Centre", "Right", "Up", "Forward")
    }
    lens = {
        name: b.switch(free, i[name], other, "FLOAT")
        for name, other in (
            ("Focal X", i["View Focal"]),
            ("Focal Y", i["View Focal"]),
            ("Width", i["View Width"]),
            ("Height", i["View Height"]),
            ("Centre X", i["View Width"] * 0.5),
            ("Centre Y", i["View Height"] * 0.5),
        )
    }
    return _looking(b, axes) | lens


def _scene_camera(b: NodeBuilder, _inputs: _Values) -> _Values:
    """The scene camera in the object's space: centre, unit axes (x right, y up, z forward), and how
    each point lies from it.
    """
    info = b.node(
        "GeometryNodeObjectInfo",
        {"Object": b.output("GeometryNodeInputActiveCamera")},
        transform_space="RELATIVE",
    )
    rotation, centre = Value(b, info.outputs["Rotation"]), Value(b, info.outputs["Location"])
    axes = {"Right": (1.0, 0.0, 0.0), "Up": (0.0, 1.0, 0.0), "Forward": (0.0, 0.0, -1.0)}
    found = {
        name: b.output("FunctionNodeRotateVector", 0, {"Vector": axis, "Rotation": rotation})
        for name, axis in axes.items()
    }
    return _looking(b, found | {"Centre": centre})


def _looking(b: NodeBuilder, axes: _Values) -> _Values:
    """The axes of an eye, and how each point lies from it."""
    position = b.output("GeometryNodeInputPosition")
    offset = position - axes["Centre"]
    return axes | {
        "Position": position,
        "Offset": offset,
        "Depth": offset.dot(axes["Forward"]),
    }


def _as_quads(b: NodeBuilder, inputs: _Values) -> _Values:
    """One quad per Gaussian that the camera can see, from back to front."""
    eye = b.group(
        "Seen from",
        _seen_from,
        {name: inputs[name] for name in (*_FREE_NAMES, *(row[0] for row in CAMERA_INPUTS))},
    )
    lens = {row[0]: eye.pop(row[0]) for row in CAMERA_INPUTS}
    camera = eye
    opacity = _alpha(b, b.attribute(BASE, "FLOAT_COLOR"))
    unseen = camera["Depth"].less_than(NEAR_M).maximum(opacity.less_than(ALPHA_MIN))
    points = b.output(
        "GeometryNodeDeleteGeometry",
        0,
        {"Geometry": inputs["Geometry"], "Selection": unseen},
        domain="POINT",
    )
    points = b.group("Order in depth", _ordered, {"Points": points, "Depth": camera["Depth"]})[
        "Points"
    ]
    colour = colour_nodes(b, camera["Offset"].normalized(), inputs["SH Degree"], _light(inputs))
    red, green, blue = colour.xyz()
    points = b.store(
        points,
        COLOUR,
        "FLOAT_COLOR",
        b.output("FunctionNodeCombineColor", 0, {0: red, 1: green, 2: blue, 3: opacity}),
    )
    points = b.store(points, _MEAN, "FLOAT_VECTOR", camera["Position"])
    of_lens = camera | lens | {"Low-pass": inputs["Low-pass"], "Radius": _radius(b, opacity)}
    projected = b.group("As projected", _projected_axes, of_lens)
    facing = b.group("Along rays", _facing_axes, of_lens)
    along = inputs["Along Rays"]
    for name in (_U, _V):
        points = b.store(
            points, name, "FLOAT_VECTOR", b.switch(along, projected[name], facing[name], "VECTOR")
        )
    with_scale = b.store(points, _SCALE, "FLOAT_VECTOR", facing["Scale"])
    points = b.switch(along, b.remove(points, "rotation"), with_scale, "GEOMETRY")
    for name in (
        "radiance:*",
        "scene_splatter:*",
        "scale",
        "radius",
    ):  # or every corner of every quad would carry them
        points = b.remove(points, name)
    return b.group(
        "Quads from axes",
        _quads_from_axes,
        camera | {"Points": points, "Along Rays": along, "Material": inputs["Material"]},
    )


def _ordered(b: NodeBuilder, i: _Values) -> _Values:
    """Points from back to front, each with a depth of its own.

    Walls and floors have many means at one depth. The engine draws those in the order of their
    numbers; here their computed depths differ by rounding, and of hits at exactly one distance
    Cycles sees only the first. So depths are counted in steps of _DEPTH_STEP, sorted (equal ones by
    number), and the quads that share a step are set apart by _DEPTH_GAP. Moving a quad along its
    rays does not change its picture.
    """
    step = b.math("FLOOR", b.math("LOGARITHM", i["Depth"], math.e) / _DEPTH_STEP)
    points = b.output(
        "GeometryNodeSortElements",
        0,
        {"Geometry": i["Points"], "Sort Weight": step},
        domain="POINT",
    )
    group = b.output("FunctionNodeFloatToInt", 0, {0: step})
    rank = b.output(
        "GeometryNodeAccumulateField",
        "Trailing",
        {"Value": 1, "Group ID": group},
        data_type="INT",
        domain="POINT",
    )
    gap = b.math("MODULO", rank, float(_DEPTH_GAPS)) * _DEPTH_GAP
    points = b.store(points, _DEPTH, "FLOAT", b.math("EXPONENT", step * _DEPTH_STEP) * (gap + 1.0))
    last_first = b.output("GeometryNodeInputIndex") * -1.0
    return {
        "Points": b.output(
            "GeometryNodeSortElements",
            0,
            {"Geometry": points, "Sort Weight": last_first},
            domain="POINT",
        )
    }


def _alpha(b: NodeBuilder, colour: Value) -> Value:
    return b.output("FunctionNodeSeparateColor", "Alpha", {0: colour})


def _radius(b: NodeBuilder, opacity: Value) -> Value:
    """Standard deviations at which opacity exp(-r^2 / 2) falls to ALPHA_MIN."""
    return (b.math("LOGARITHM", (opacity / ALPHA_MIN).maximum(1.0), math.e) * 2.0).sqrt()


def _rotation(b: NodeBuilder, *, inverted: bool) -> Value:
    rotation = b.attribute("rotation", "QUATERNION")
    return b.output("FunctionNodeInvertRotation", 0, {0: rotation}) if inverted else rotation


def _rotate(b: NodeBuilder, vector: Value, rotation: Value) -> Value:
    return b.output("FunctionNodeRotateVector", 0, {"Vector": vector, "Rotation": rotation})


def _projected_axes(b: NodeBuilder, i: _Values) -> _Values:
    """Half axes of the projected, blurred ellipse in the plane z = z(mean), `Radius` standard
    deviations long.
    """
    margin_x, margin_y = i["Width"] * FRUSTUM_MARGIN, i["Height"] * FRUSTUM_MARGIN
    # The slopes at which the projection is linearised end a little outside the frame, as in gsplat;
    # y is up here and down in pixels.
    slope_x = i["Offset"].dot(i["Right"]) / i["Depth"]
    slope_x = slope_x.maximum((i["Centre X"] + margin_x) / i["Focal X"] * -1.0).minimum(
        (i["Width"] - i["Centre X"] + margin_x) / i["Focal X"]
    )
    slope_y = i["Offset"].dot(i["Up"]) / i["Depth"]
    slope_y = slope_y.maximum(
        (i["Height"] - i["Centre Y"] + margin_y) / i["Focal Y"] * -1.0
    ).minimum((i["Centre Y"] + margin_y) / i["Focal Y"])
    inverse, scale = _rotation(b, inverted=True), b.attribute("scale", "FLOAT_VECTOR")
    g = _rotate(b, i["Right"] - i["Forward"] * slope_x, inverse) * scale
    h = _rotate(b, i["Up"] - i["Forward"] * slope_y, inverse) * scale
    pixel_x, pixel_y = i["Depth"] / i["Focal X"], i["Depth"] / i["Focal Y"]
    xx = g.dot(g) + pixel_x * pixel_x * i["Low-pass"]
    yy = h.dot(h) + pixel_y * pixel_y * i["Low-pass"]
    xy = g.dot(h)
    middle, half = (xx + yy) * 0.5, (xx - yy) * 0.5
    larger = middle + (half * half + xy * xy).sqrt()
    smaller = ((xx * yy - xy * xy) / larger).maximum(larger * 1e-12)
    angle = b.math("ARCTAN2", xy, half) * 0.5
    cosine, sine = b.math("COSINE", angle), b.math("SINE", angle)
    u = (i["Right"] * cosine + i["Up"] * sine) * (larger.sqrt() * i["Radius"])
    v = (i["Up"] * cosine - i["Right"] * sine) * (smaller.sqrt() * i["Radius"])
    return {_U: u, _V: v}


def _facing_axes(b: NodeBuilder, i: _Values) -> _Values:
    """Half axes of a disc that hides the Gaussian's ellipsoid of `Radius` from the camera, through
    the mean; and its blurred scale.

    In the space where the ellipsoid is a sphere the tangent cone from distance D cuts the plane
    through the centre at r D / sqrt(D^2 - r^2). Where the camera is (nearly) inside, the disc is 4
    r wide.
    """
    scale = _blurred_scale(b, i)
    to_camera = _rotate(b, i["Offset"] * -1.0, _rotation(b, inverted=True)) / scale
    ratio = (i["Radius"] / to_camera.length()).minimum(0.968)
    wide = i["Radius"] / (1.0 - ratio * ratio).sqrt()
    align = b.output("FunctionNodeAlignRotationToVector", 0, {"Vector": to_camera}, axis="Z")
    axes = {"Scale": scale}
    for name, axis in ((_U, (1.0, 0.0, 0.0)), (_V, (0.0, 1.0, 0.0))):
        in_sphere = b.output("FunctionNodeRotateVector", 0, {"Vector": axis, "Rotation": align})
        axes[name] = _rotate(b, in_sphere * scale, _rotation(b, inverted=False)) * wide
    return axes


def _blurred_scale(b: NodeBuilder, i: _Values) -> Value:
    """Standard deviations [point], widened by the variance `Low-pass` px^2 at each mean's depth."""
    blur = i["Depth"] * i["Depth"] * i["Low-pass"] / (i["Focal X"] * i["Focal Y"])
    unblurred = b.attribute("scale", "FLOAT_VECTOR")
    return b.vector(
        *(component.sqrt() for component in b.multiply_add(unblurred, unblurred, blur).xyz())
    )


def _quads_from_axes(b: NodeBuilder, i: _Values) -> _Values:
    """Mean +- u +- v for every point, with what the shader reads."""
    quad = b.output(
        "GeometryNodeMeshGrid", 0, {"Size X": 2.0, "Size Y": 2.0, "Vertices X": 2, "Vertices Y": 2}
    )
    quad = b.store(quad, _CORNER, "FLOAT_VECTOR", b.output("GeometryNodeInputPosition"))
    quad = b.output("GeometryNodeSetMaterial", 0, {"Geometry": quad, "Material": i["Material"]})
    quads = b.output("GeometryNodeInstanceOnPoints", 0, {"Points": i["Points"], "Instance": quad})
    quads = b.output("GeometryNodeRealizeInstances", 0, {"Geometry": quads})
    mean, corner = b.attribute(_MEAN, "FLOAT_VECTOR"), b.attribute(_CORNER, "FLOAT_VECTOR")
    x, y, _ = corner.xyz()
    vertex = mean + b.attribute(_U, "FLOAT_VECTOR") * x + b.attribute(_V, "FLOAT_VECTOR") * y
    ray = vertex - i["Centre"]
    reach = b.attribute(_DEPTH, "FLOAT") / ray.dot(i["Forward"]).maximum(1e-6)
    quads = b.output(
        "GeometryNodeSetPosition", 0, {"Geometry": quads, "Position": i["Centre"] + ray * reach}
    )
    inverse, scale = _rotation(b, inverted=True), b.attribute(_SCALE, "FLOAT_VECTOR")
    offset, direction = (
        _rotate(b, vector, inverse) / scale for vector in (i["Position"] - mean, i["Offset"])
    )
    flat = corner * _radius(b, _alpha(b, b.attribute(COLOUR, "FLOAT_COLOR")))
    ahead = b.output("FunctionNodeInputVector", 0, vector=(0.0, 0.0, 1.0))
    quads = b.store(quads, A, "FLOAT_VECTOR", b.switch(i["Along Rays"], flat, offset, "VECTOR"))
    quads = b.store(quads, B, "FLOAT_VECTOR", b.switch(i["Along Rays"], ahead, direction, "VECTOR"))
    for name in (_MEAN, _U, _V, _CORNER, _SCALE, _DEPTH, "rotation", "UVMap"):
        quads = b.remove(quads, name)
    return {"Geometry": quads}
