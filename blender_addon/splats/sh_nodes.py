"""Colour of Gaussians from their spherical harmonics, as geometry nodes.

The real basis in the order and with the signs of 3DGS (Kerbl et al. 2023), written as polynomials
of the unit direction from the camera to the mean, in the object's space. 0.5 is added to the sum
and negative values are cut, as there; decoding to linear light is IEC 61966-2-1's sRGB curve,
which goes on above 1.
"""

from __future__ import annotations

from typing import NamedTuple

from ...engine.bridge.harmonics import SH_C0
from .node_builder import NodeBuilder, Value

_C1 = 0.4886025119029199
_C2 = (
    1.0925484305920792,
    -1.0925484305920792,
    0.31539156525252005,
    -1.0925484305920792,
    0.5462742152960396,
)
_C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)

BASE = "radiance:base"
TABLE_SIDE = 33  # display values a channel in a view's table
TABLE_UNIT = 2.0**-10  # its entries are sign(x) log2(1 + |x| / TABLE_UNIT)


def coefficient_name(index: int) -> str:
    """The attribute of the index-th coefficient above the constant, as Blender 5.3 calls it."""
    return f"radiance:sh_{index}"


class Light(NamedTuple):
    """How stored colours become light, each a single value."""

    linear: Value  # boolean: decode to linear light
    matched: Value  # boolean: look them up in `table` instead
    # image: what light a scene's view transform shows as which colour, see `view_colours`
    table: Value


def constant_colour(b: NodeBuilder, light: Light) -> Value:
    """RGB [point] of the constant coefficient alone, the mean over all directions."""
    return _decode(b, b.attribute(BASE, "FLOAT_COLOR") * SH_C0 + (0.5, 0.5, 0.5), light)


def colour_nodes(b: NodeBuilder, direction: Value, degree: Value, light: Light) -> Value:
    """RGB [point] seen along `direction` (unit); degree (integer) is a single value."""
    colour = b.attribute(BASE, "FLOAT_COLOR") * SH_C0 + (0.5, 0.5, 0.5)
    for band in (1, 2, 3):
        with_band = b.group(
            f"SH degree {band}", _BandGroup(band), {"Direction": direction, "Colour": colour}
        )["Colour"]
        colour = b.switch(1.0 - degree.less_than(band - 0.5), colour, with_band, "VECTOR")
    return _decode(b, colour, light)


class _BandGroup:
    """Adds one degree to a colour."""

    def __init__(self, band: int) -> None:
        self.band = band

    def __call__(self, b: NodeBuilder, inputs: dict[str, Value]) -> dict[str, Value]:
        colour = inputs["Colour"]
        for index, factor in enumerate(
            _basis(inputs["Direction"], self.band), start=self.band**2 - 1
        ):
            colour = b.multiply_add(
                b.attribute(coefficient_name(index), "FLOAT_VECTOR"), factor, colour
            )
        return {"Colour": colour}


def _basis(direction: Value, band: int) -> list[Value]:
    """The 2 band + 1 basis functions of one degree."""
    x, y, z = direction.xyz()
    if band == 1:
        return [y * -_C1, z * _C1, x * -_C1]
    xx, yy, zz = x * x, y * y, z * z
    if band == 2:
        return [
            x * y * _C2[0],
            y * z * _C2[1],
            (zz * 2.0 - xx - yy) * _C2[2],
            x * z * _C2[3],
            (xx - yy) * _C2[4],
        ]
    side = zz * 4.0 - xx - yy
    return [
        y * (xx * 3.0 - yy) * _C3[0],
        x * y * z * _C3[1],
        y * side * _C3[2],
        z * (zz * 2.0 - xx * 3.0 - yy * 3.0) * _C3[3],
        x * side * _C3[4],
        z * (xx - yy) * _C3[5],
        x * (xx - yy * 3.0) * _C3[6],
    ]


def _decode(b: NodeBuilder, colour: Value, light: Light) -> Value:
    """Without negative values and, where asked for, in linear light or as the view's table says."""
    colour = colour.maximum((0.0, 0.0, 0.0))
    decoded = b.group("sRGB to linear light", _srgb_to_linear, {"Colour": colour})["Colour"]
    as_made = b.switch(light.linear, colour, decoded, "VECTOR")
    looked_up = b.group(
        "Light for this view", _from_table, {"Colour": colour, "Table": light.table}
    )["Colour"]
    return b.switch(light.matched, as_made, looked_up, "VECTOR")


def _from_table(b: NodeBuilder, inputs: dict[str, Value]) -> dict[str, Value]:
    """`view_colours.Table` as nodes: between two slices of the table, then out of its logarithm."""
    last = float(TABLE_SIDE - 1)
    red, green, blue = (inputs["Colour"].minimum((1.0, 1.0, 1.0)) * last).xyz()
    lower = b.math("FLOOR", blue).minimum(last - 1.0)
    share = blue - lower
    v = (green + 0.5) / float(TABLE_SIDE)
    slices = []
    for number in (lower, lower + 1.0):
        u = (number * float(TABLE_SIDE) + red + 0.5) / float(TABLE_SIDE * TABLE_SIDE)
        node = b.node(
            "GeometryNodeImageTexture",
            {"Image": inputs["Table"], "Vector": b.vector(u, v, 0.0)},
            interpolation="Linear",
            extension="EXTEND",
        )
        slices.append(Value(b, node.outputs["Color"]))
    lower_slice, upper_slice = slices
    channels = []
    for low, high in zip(_rgb(b, lower_slice), _rgb(b, upper_slice), strict=True):
        code = low * (1.0 - share) + high * share
        size = b.math("POWER", 2.0, b.math("ABSOLUTE", code)) - 1.0
        channels.append(size * b.math("SIGN", code) * TABLE_UNIT)
    return {"Colour": b.vector(*channels)}


def _rgb(b: NodeBuilder, colour: Value) -> list[Value]:
    node = b.node("FunctionNodeSeparateColor", {0: colour})
    return [Value(b, node.outputs[i]) for i in range(3)]


def _srgb_to_linear(b: NodeBuilder, inputs: dict[str, Value]) -> dict[str, Value]:
    channels = []
    for value in inputs["Colour"].xyz():
        curve = b.math("POWER", (value + 0.055) / 1.055, 2.4)
        channels.append(b.switch(value.less_than(0.04045), curve, value / 12.92, "FLOAT"))
    return {"Colour": b.vector(*channels)}
