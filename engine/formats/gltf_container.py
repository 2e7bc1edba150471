"""glTF 2.0 as bytes: GLB chunks, buffers, views and accessors, each checked before it is
touched.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import struct
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..bridge.errors import UserError
from .scene import MOST_SPLATS, damaged, read_bytes

_GLB_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def _leads_out(name: PurePosixPath) -> bool:
    return name.is_absolute() or ".." in name.parts


class Document:
    """A parsed .gltf or .glb. Every look-up raises UserError instead of leaving the file's
    bounds.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        data = read_bytes(self.path)
        self._binary: bytes | None = None
        text = self._glb(data) if data[:4] == b"glTF" else data
        try:
            self.json: dict[str, Any] = json.loads(text.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise damaged(path, f"its JSON cannot be read ({error})") from error
        if not isinstance(self.json, dict):
            raise damaged(path, "its JSON is no object")
        version = str(self.member(self.json.get("asset"), "version", ""))
        if not version.startswith("2"):
            said = f"is glTF {version[:20]!r}" if version else "does not say that it is glTF"
            raise UserError(f"{path} {said}, not glTF 2.", "Export it again as glTF 2.")
        self._buffers: dict[int, bytes] = {}

    @staticmethod
    def member(thing: Any, name: str, default: Any = None) -> Any:
        """thing[name] of an object, or the default when either is missing."""
        return thing.get(name, default) if isinstance(thing, dict) else default

    def _glb(self, data: bytes) -> bytes:
        if len(data) < 20:
            raise damaged(self.path, "it ends inside the GLB header")
        _, version, length = struct.unpack_from("<III", data)
        if version != 2 or length > len(data):
            raise damaged(
                self.path,
                f"the GLB header (version {version}) claims {length} bytes, there are {len(data)}",
            )
        offset, text = 12, None
        while offset + 8 <= length:
            size, kind = struct.unpack_from("<II", data, offset)
            chunk = data[offset + 8 : offset + 8 + size]
            if len(chunk) != size:
                raise damaged(self.path, "a GLB chunk runs past the end of the file")
            if kind == _JSON and text is None:
                text = chunk
            elif kind == _BIN and self._binary is None:
                self._binary = chunk
            offset += 8 + size
        if text is None:
            raise damaged(self.path, "it has no JSON chunk")
        return text

    def item(self, kind: str, index: Any) -> dict[str, Any]:
        """Entry `index` of a top-level array such as "nodes"."""
        items = self.json.get(kind)
        if (
            not isinstance(items, list)
            or isinstance(index, bool)
            or not isinstance(index, int)
            or not 0 <= index < len(items)
        ):
            raise damaged(self.path, f"there is no {kind}[{index}]")
        if not isinstance(items[index], dict):
            raise damaged(self.path, f"{kind}[{index}] is not an object")
        return items[index]

    def array(self, thing: Any, name: str) -> list[Any]:
        """A list that is a member of an object; empty when it is not there."""
        value = self.member(thing, name, [])
        if not isinstance(value, list):
            raise damaged(self.path, f"{name} is not a list")
        return value

    def whole(self, thing: dict[str, Any], name: str, default: int | None = None) -> int:
        """A whole number >= 0 of an object."""
        value = thing.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise damaged(self.path, f"{name} is {value!r}")
        return value

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            buffer = self.item("buffers", index)
            uri = buffer.get("uri")
            data = self._load_uri(uri) if uri is not None else self._binary if index == 0 else None
            if data is None:
                raise damaged(self.path, f"buffer {index} has no data")
            if len(data) < self.whole(buffer, "byteLength"):
                raise damaged(
                    self.path,
                    f"buffer {index} claims {buffer['byteLength']} bytes, there are {len(data)}",
                )
            self._buffers[index] = data
        return self._buffers[index]

    def _load_uri(self, uri: Any) -> bytes:
        if not isinstance(uri, str):
            raise damaged(self.path, "a buffer's address is not text")
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.split(",", 1)[1], validate=True)
            except (IndexError, binascii.Error) as error:
                raise damaged(self.path, "a buffer's data address is broken") from error
        name = PurePosixPath(unquote(uri))
        strange = "\\\0:" if os.name == "nt" else "\\\0"
        if ":" in uri or any(c in str(name) for c in strange) or _leads_out(name):
            raise UserError(
                f"{self.path} points outside its folder: {uri!r}.",
                "Only buffers beside the .gltf are read: pack it as .glb.",
            )
        beside = self.path.parent / name
        as_written = self.path.parent / uri  # by programs that do not escape names
        return read_bytes(as_written if as_written.is_file() and not beside.is_file() else beside)

    def view(self, index: Any) -> tuple[memoryview, int]:
        """(bytes, stride or 0) of a buffer view."""
        view = self.item("bufferViews", index)
        data = self._buffer(self.whole(view, "buffer"))
        start, size = self.whole(view, "byteOffset", 0), self.whole(view, "byteLength")
        if start + size > len(data):
            raise damaged(
                self.path, f"buffer view {index} ends at byte {start + size} of {len(data)}"
            )
        return memoryview(data)[start : start + size], self.whole(view, "byteStride", 0)

    def accessor(self, index: Any, kinds: tuple[str, ...]) -> np.ndarray:
        """[n, width] float32 values (float64 for 32-bit integers), normalised where the accessor
        says so.
        """
        accessor = self.item("accessors", index)
        component = accessor.get("componentType")
        kind = accessor.get("type")
        dtype = _DTYPES.get(component) if isinstance(component, int) else None
        count = self.whole(accessor, "count")
        if kind not in kinds or dtype is None or not 1 <= count <= MOST_SPLATS:
            raise damaged(
                self.path,
                f"accessor {index} holds {count} x {kind} where {' or '.join(kinds)} was expected",
            )
        if "sparse" in accessor or "bufferView" not in accessor:
            raise UserError(
                f"{self.path} uses sparse accessors for its splats.",
                "Export it again without sparse accessors.",
            )
        data, stride = self.view(accessor["bufferView"])
        width, size = _WIDTHS[kind], np.dtype(dtype).itemsize
        stride = stride or width * size
        offset = self.whole(accessor, "byteOffset", 0)
        if stride < width * size or offset + (count - 1) * stride + width * size > len(data):
            raise damaged(self.path, f"accessor {index} needs more bytes than its view has")
        values = np.ndarray(
            (count, width), dtype, buffer=data, offset=offset, strides=(stride, size)
        )
        out: np.ndarray = values.astype(np.float64 if dtype == "<u4" else np.float32)
        if accessor.get("normalized"):
            out = np.maximum(out / float(np.iinfo(dtype).max), -1.0) if dtype != "<f4" else out
        return out


class Builder:
    """Collects arrays into one buffer and hands out accessor indices."""

    def __init__(self) -> None:
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.parts: list[np.ndarray] = []
        self.size = 0

    def add_view(self, data: np.ndarray, target: int | None = None) -> int:
        """Index of a new buffer view with the array's bytes, starting at a multiple of four."""
        data = np.ascontiguousarray(data)
        view: dict[str, Any] = {"buffer": 0, "byteOffset": self.size, "byteLength": data.nbytes}
        if target is not None:
            view["target"] = target
        self.views.append(view)
        self.parts.append(data)
        self.size += data.nbytes + -data.nbytes % 4
        return len(self.views) - 1

    def add(self, values: np.ndarray, *, bounds: bool = False, target: int | None = 34962) -> int:
        """Index of an accessor over [n] or [n, width] float32, uint8 (normalised colour) or
        uint16 (indices).
        """
        values = np.ascontiguousarray(values)
        width = 1 if values.ndim == 1 else values.shape[1]
        component = {"float32": 5126, "uint8": 5121, "uint16": 5123}[values.dtype.name]
        kind = ("SCALAR", "VEC2", "VEC3", "VEC4")[width - 1]
        accessor: dict[str, Any] = {
            "bufferView": self.add_view(values, target),
            "componentType": component,
            "count": len(values),
            "type": kind,
        }
        if values.dtype == np.uint8:
            accessor["normalized"] = True
        if bounds:
            table = values.reshape(len(values), width)
            accessor |= {"min": table.min(axis=0).tolist(), "max": table.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def describe(self, document: dict[str, Any], uri: str | None = None) -> bytes:
        """The document's JSON with buffer, views and accessors filled in."""
        buffer: dict[str, Any] = {"byteLength": self.size}
        if uri is not None:
            buffer["uri"] = uri
        document = document | {"buffers": [buffer], "bufferViews": self.views}
        if self.accessors:
            document["accessors"] = self.accessors
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()

    def write_binary(self, file: Any) -> None:
        """All parts, padded to fours."""
        for part in self.parts:
            file.write(part.data.cast("B"))
            file.write(b"\0" * (-part.nbytes % 4))

    def write_glb(self, file: Any, document: dict[str, Any]) -> None:
        """A whole .glb. UserError beyond 4 GiB, which its header cannot say."""
        text = self.describe(document)
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self.size
        if total >= 1 << 32:
            raise UserError(
                "The scene needs more than 4 GiB, the most a .glb can hold.",
                "Write .gltf, or lower the SH degree.",
            )
        file.write(
            struct.pack("<III", _GLB_MAGIC, 2, total) + struct.pack("<II", len(text), _JSON) + text
        )
        file.write(struct.pack("<II", self.size, _BIN))
        self.write_binary(file)
