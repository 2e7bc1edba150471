"""The viewer as one HTML file that sends no request, and the same page for the local server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from ...bridge.errors import UserError
from ...bridge.whole_file import replacing
from .contents import Contents

_FOLDER = Path(__file__).parent
_PARTS = ("spark.js", "packing.js", "paths.js", "viewer.js")
# what browsers still open within seconds; their limit for one text is 512 MB
MOST_BYTES = 100_000_000


def write(path: Path, shown: Contents) -> int:
    """Write one file that opens from disk with no network. Returns its size in bytes.

    UserError where it would be too large for a browser, with the number of splats that fits.
    """
    size = size_of(shown)
    if size > MOST_BYTES:
        fits = int(shown.count * (MOST_BYTES - size_of_viewer()) / (size - size_of_viewer()) * 0.95)
        raise UserError(
            f"{path.name} would be {size / 1e6:.0f} MB with {shown.count:,} splats; browsers open "
            f"up to about {MOST_BYTES / 1e6:.0f} MB.",
            f"Add --count {fits // 10_000 * 10_000 or fits}, or use python -m engine view.",
        )
    with replacing(path) as file:
        file.write(page(shown))
    return size


def size_of(shown: Contents) -> int:
    """Bytes that the page will have, without making it."""
    coded = sum(4 * -(-len(b) // 3) for b in (shown.packed, shown.labels or b""))
    return size_of_viewer() + coded + len(json.dumps(shown.facts()))


@cache
def size_of_viewer() -> int:
    """Bytes of the page without a scene."""
    return sum(len(_text(name)) for name in (*_PARTS, "viewer.css", "viewer.html"))


def page(shown: Contents) -> bytes:
    """The page with its scene inside."""
    return _filled(
        shown.facts(),
        shown.title,
        {"splats": shown.packed, "labels": shown.labels or b""},
        connect="'none'",
    )


def served_page(facts: dict[str, Any]) -> bytes:
    """The page that asks its server for the scene; `facts` as `state.json` has them."""
    return _filled({**facts, "served": True}, facts["title"], {}, connect="'self'")


@cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def policy(connect: str) -> str:
    """The content security policy: nothing but these scripts, this style, and what they make.

    Spark sorts in WebAssembly, in a worker of its own code (a blob); pictures are in the page. No
    scheme or host is named, so no request can leave.
    """
    scripts = " ".join(_hash(_text(name)) for name in _PARTS)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {scripts} 'wasm-unsafe-eval'",
            f"style-src {_hash(_text('viewer.css'))}",
            "img-src data: blob:",
            "worker-src blob:",
            f"connect-src {connect}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _filled(facts: dict[str, Any], title: str, data: dict[str, bytes], connect: str) -> bytes:
    """The template with every place filled once; what is put in is not searched for places."""
    values = {
        "policy": html.escape(policy(connect)),
        "title": html.escape(title),
        "style": _text("viewer.css"),
        "page": _as_script_data(facts),
        **{name: base64.b64encode(data.get(name, b"")).decode() for name in ("splats", "labels")},
        **{name.split(".")[0]: _text(name) for name in _PARTS[1:]},
        "library": _text("spark.js"),
    }
    parts = re.split(r"\{\{(\w+)\}\}", _text("viewer.html"))
    filled = [values[part] if i % 2 else part for i, part in enumerate(parts)]
    return "".join(filled).encode()


def _as_script_data(facts: dict[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(facts, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
