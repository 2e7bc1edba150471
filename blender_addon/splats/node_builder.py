"""Node trees written as formulas: a thin layer over Blender's nodes.

`Value` wraps an output socket; its operators make Math and Vector Math nodes. A plain number or
a tuple of three stands for a constant. Nodes are placed in columns by what they depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, Union

import bpy

Operand: TypeAlias = Union["Value", float, tuple[float, float, float]]

_COLUMN_WIDTH, _ROW_HEIGHT = 180, 60
_GROUP_NODES = {"GeometryNodeTree": "GeometryNodeGroup", "ShaderNodeTree": "ShaderNodeGroup"}
_SOCKETS = {
    "VALUE": "NodeSocketFloat",
    "INT": "NodeSocketInt",
    "BOOLEAN": "NodeSocketBool",
    "VECTOR": "NodeSocketVector",
    "RGBA": "NodeSocketColor",
    "ROTATION": "NodeSocketRotation",
    "OBJECT": "NodeSocketObject",
    "MATERIAL": "NodeSocketMaterial",
    "GEOMETRY": "NodeSocketGeometry",
    "IMAGE": "NodeSocketImage",
}


class Value:
    """An output socket that can be calculated with."""

    def __init__(self, builder: NodeBuilder, socket: bpy.types.NodeSocket) -> None:
        self.builder = builder
        self.socket = socket

    @property
    def is_vector(self) -> bool:
        return self.socket.type in ("VECTOR", "RGBA")

    def _combine(self, operation: str, a: Operand, b: Operand) -> Value:
        if any(isinstance(x, tuple) or (isinstance(x, Value) and x.is_vector) for x in (a, b)):
            return self.builder.vector_math(operation, a, b)
        return self.builder.math(operation, a, b)

    def __add__(self, other: Operand) -> Value:
        return self._combine("ADD", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self._combine("SUBTRACT", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self._combine("SUBTRACT", other, self)

    def __mul__(self, other: Operand) -> Value:
        """Product of numbers, vector by number, or vectors component by component."""
        if (
            self.is_vector
            and not isinstance(other, tuple)
            and not (isinstance(other, Value) and other.is_vector)
        ):
            return self.builder.scale(self, other)
        if isinstance(other, Value) and other.is_vector and not self.is_vector:
            return self.builder.scale(other, self)
        return self._combine("MULTIPLY", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self._combine("DIVIDE", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self._combine("DIVIDE", other, self)

    def __pow__(self, exponent: float) -> Value:
        return self.builder.math("POWER", self, exponent)

    __radd__ = __add__
    __rmul__ = __mul__

    def dot(self, other: Operand) -> Value:
        return self.builder.vector_math("DOT_PRODUCT", self, other, output="Value")

    def cross(self, other: Operand) -> Value:
        return self.builder.vector_math("CROSS_PRODUCT", self, other)

    def normalized(self) -> Value:
        return self.builder.vector_math("NORMALIZE", self)

    def length(self) -> Value:
        return self.builder.vector_math("LENGTH", self, output="Value")

    def maximum(self, other: Operand) -> Value:
        return self._combine("MAXIMUM", self, other)

    def minimum(self, other: Operand) -> Value:
        return self._combine("MINIMUM", self, other)

    def sqrt(self) -> Value:
        return self.builder.math("SQRT", self)

    def less_than(self, other: Operand) -> Value:
        """1 where self < other, else 0."""
        return self.builder.math("LESS_THAN", self, other)

    def xyz(self) -> tuple[Value, Value, Value]:
        node = self.builder.node("ShaderNodeSeparateXYZ", {0: self})
        x, y, z = (Value(self.builder, socket) for socket in node.outputs)
        return x, y, z


class NodeBuilder:
    """Makes nodes in one tree."""

    def __init__(self, tree: bpy.types.NodeTree) -> None:
        self.tree = tree
        self._column: dict[str, int] = {}

    def node(
        self, kind: str, inputs: Mapping[Any, Any] | None = None, **properties: Any
    ) -> bpy.types.Node:
        """A node with its properties set, then its inputs linked (Value) or given a constant.

        An input is named by index, or by the name of an enabled socket (several sockets share
        names).
        """
        node = self.tree.nodes.new(kind)
        for name, value in properties.items():
            setattr(node, name, value)
        column = 0
        for key, value in (inputs or {}).items():
            socket = (
                node.inputs[key]
                if isinstance(key, int)
                else next(s for s in node.inputs if s.name == key and s.enabled)
            )
            if isinstance(value, Value):
                self.tree.links.new(value.socket, socket)
                column = max(column, self._column[value.socket.node.name] + 1)
            else:
                socket.default_value = value
        node.hide = True
        self._column[node.name] = column
        return node

    def arrange(self) -> None:
        """Put every node into the column after the last one that it depends on.

        All at once: setting one location makes Blender look at the whole tree again, as all edits
        of a tree do.
        """
        rows: dict[int, int] = {}
        locations = []
        for node in self.tree.nodes:
            column = self._column[node.name]
            rows[column] = rows.get(column, 0) + 1
            locations += [column * _COLUMN_WIDTH, -rows[column] * _ROW_HEIGHT]
        self.tree.nodes.foreach_set("location", locations)

    def group(
        self,
        name: str,
        build: Callable[[NodeBuilder, dict[str, Value]], dict[str, Value]],
        inputs: dict[str, Value],
    ) -> dict[str, Value]:
        """A node group of its own, made by `build` from its inputs; returns the outputs that
        `build` names.

        Small trees are not only readable: the time of an edit grows with the size of its tree.
        """
        tree = bpy.data.node_groups.new(name, self.tree.bl_idname)
        for key, value in inputs.items():
            tree.interface.new_socket(key, in_out="INPUT", socket_type=_SOCKETS[value.socket.type])
        inner = NodeBuilder(tree)
        entry = inner.node("NodeGroupInput")
        results = build(inner, {key: Value(inner, entry.outputs[key]) for key in inputs})
        for key, value in results.items():
            tree.interface.new_socket(key, in_out="OUTPUT", socket_type=_SOCKETS[value.socket.type])
        inner.node("NodeGroupOutput", {key: results[key] for key in results})
        inner.arrange()
        node = self.node(_GROUP_NODES[self.tree.bl_idname], inputs, node_tree=tree)
        return {key: Value(self, node.outputs[key]) for key in results}

    def output(
        self,
        kind: str,
        output: int | str = 0,
        inputs: Mapping[Any, Any] | None = None,
        **properties: Any,
    ) -> Value:
        """One output of a new node."""
        node = self.node(kind, inputs, **properties)
        if isinstance(output, int):
            return Value(self, [s for s in node.outputs if s.enabled][output])
        return Value(self, next(s for s in node.outputs if s.name == output and s.enabled))

    def math(self, operation: str, a: Operand, b: Operand | None = None) -> Value:
        return self.output(
            "ShaderNodeMath", 0, {0: a} if b is None else {0: a, 1: b}, operation=operation
        )

    def vector_math(
        self, operation: str, a: Operand, b: Operand | None = None, output: str = "Vector"
    ) -> Value:
        inputs = {0: self._vector(a)} if b is None else {0: self._vector(a), 1: self._vector(b)}
        return self.output("ShaderNodeVectorMath", output, inputs, operation=operation)

    def _vector(self, operand: Operand) -> Operand:
        return (float(operand),) * 3 if isinstance(operand, (int, float)) else operand

    def scale(self, vector: Operand, factor: Operand) -> Value:
        return self.output(
            "ShaderNodeVectorMath", "Vector", {"Vector": vector, "Scale": factor}, operation="SCALE"
        )

    def vector(self, x: Operand, y: Operand, z: Operand) -> Value:
        return self.output("ShaderNodeCombineXYZ", 0, {0: x, 1: y, 2: z})

    def multiply_add(self, a: Operand, b: Operand, c: Operand) -> Value:
        """a * b + c of vectors; a number stands for three equal components."""
        return self.output(
            "ShaderNodeVectorMath", "Vector", {0: a, 1: b, 2: c}, operation="MULTIPLY_ADD"
        )

    def attribute(self, name: str, data_type: str) -> Value:
        """A named attribute, in geometry nodes."""
        return self.output(
            "GeometryNodeInputNamedAttribute", 0, {"Name": name}, data_type=data_type
        )

    def store(self, geometry: Value, name: str, data_type: str, value: Value) -> Value:
        """Geometry with a point (or instance) attribute, in geometry nodes."""
        return self.output(
            "GeometryNodeStoreNamedAttribute",
            0,
            {"Geometry": geometry, "Name": name, "Value": value},
            data_type=data_type,
        )

    def remove(self, geometry: Value, name: str) -> Value:
        """Geometry without the attributes whose names match (* is anything)."""
        node = self.node("GeometryNodeRemoveAttribute", {"Geometry": geometry, "Name": name})
        if "*" in name and hasattr(node, "pattern_mode"):
            node.pattern_mode = "WILDCARD"
        elif "*" in name:  # an input since Blender 5.0
            node.inputs["Pattern Mode"].default_value = "Wildcard"
        return Value(self, node.outputs[0])

    def switch(self, condition: Value, if_false: Any, if_true: Any, input_type: str) -> Value:
        """One of two values; only the wanted one is computed where the condition is the same for
        all points.
        """
        return self.output(
            "GeometryNodeSwitch",
            0,
            {"Switch": condition, "False": if_false, "True": if_true},
            input_type=input_type,
        )
