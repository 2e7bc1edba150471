"""The viewer on this machine alone: loopback, a free port, a secret in the address.

What it serves comes from a `Source`, which is asked anew whenever the page asks: a job that grows
shows its newest scene.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from ...bridge.errors import UserError
from .contents import Contents
from .page import policy, served_page

log = logging.getLogger(__name__)
_HOST = "127.0.0.1"
_TOKEN_BYTES = 16


class State(NamedTuple):
    """What a source shows now."""

    version: str  # another one when the scene has changed
    live: bool  # whether it may change yet
    note: str  # for people, beside the count of splats
    contents: Contents  # of the first frame


class Source(Protocol):
    """Where the scenes come from."""

    frames: int  # of a sequence; 1 for a scene
    fps: float

    def state(self) -> State:
        """The scene as it is now. Raises UserError."""

    def frame(self, index: int) -> bytes:
        """SPZ bytes of one frame of a sequence. Raises UserError."""


class Server:
    """The page's server; `serve` until interrupted, then `close`."""

    def __init__(
        self, source: Source, port: int = 0, variants: Mapping[str, Source] | None = None
    ) -> None:
        """Take `port` of the loopback interface, 0 for a free one. UserError where it is taken.

        `variants` are the sources among which the page lets choose, by name, `source` among them.
        """
        self._token = secrets.token_urlsafe(_TOKEN_BYTES)
        handler = type(
            "Handler",
            (_Handler,),
            {"source": source, "token": self._token, "variants": variants or {}},
        )
        try:
            self._http = _Http((_HOST, port), handler)
        except OSError as error:
            raise UserError(
                f"Port {port} of this machine cannot be used: {error.strerror or error}.",
                "Leave --port out for a free one, or name another.",
            ) from error
        self.port = self._http.server_address[1]

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://{_HOST}:{self.port}/{self._token}/"

    def serve(self) -> None:
        """Answer until `shut_down` from another thread, or an interrupt."""
        self._http.serve_forever(poll_interval=0.2)

    def shut_down(self) -> None:
        """End `serve`, from another thread."""
        self._http.shutdown()

    def close(self) -> None:
        """Give the port back."""
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False  # on Windows a second server would share the port

    def server_bind(self) -> None:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        # as HTTPServer's, without asking a name server for this machine's name
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = _HOST, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.info("a request to the viewer broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers to GET alone, under the token alone."""

    source: Source
    variants: Mapping[str, Source]
    token: str
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "scene-splatter", ""
    timeout = 60

    def do_GET(self) -> None:
        name = self._asked()
        if name is None:
            return self._answer(404, "text/plain", b"")
        try:
            found = self._found(name)
        except UserError as error:
            return self._answer(503, "text/plain; charset=utf-8", str(error).encode())
        if found is None:
            return self._answer(404, "text/plain", b"")
        self._answer(200, *found)

    def _asked(self) -> str | None:
        """What is asked for below the token. None for a stranger: a page of another site that found
        the port knows no token, and one that renamed this machine sends its own name as host.
        """
        hosts = {f"{_HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}"}  # type: ignore[attr-defined]
        path = urlsplit(self.path).path.split("/", 2)
        if self.headers.get("Host") not in hosts or len(path) != 3:
            return None
        return path[2] if secrets.compare_digest(path[1].encode(), self.token.encode()) else None

    def _found(self, name: str) -> tuple[str, bytes] | None:
        """Kind and content."""
        binary, source, home = "application/octet-stream", self.source, ""
        variant, slash, rest = name.partition("/")
        if slash and variant in self.variants:  # its page lies in a folder of its own
            source, name, home = self.variants[variant], rest, "../"
        if name == "":
            return "text/html; charset=utf-8", served_page(self._facts(source, home))
        if name == "state.json":
            return "application/json", json.dumps(self._facts(source, home)).encode()
        if name == "labels":
            packed = source.state().contents.labels
            return None if packed is None else (binary, packed)
        folder, _, file = name.partition("/")
        number = file.removesuffix(".spz")
        if folder != "scene" or not number.isdecimal() or int(number) >= source.frames:
            return None
        index = int(number)
        return binary, source.frame(index) if index else source.state().contents.spz

    def _facts(self, source: Source, home: str) -> dict[str, Any]:
        """What a page reads of its scene; `home` leads from there to where variants are named."""
        state = source.state()
        now = next((name for name, other in self.variants.items() if other is source), None)
        return {
            **state.contents.facts(),
            "served": True,
            "version": state.version,
            "live": state.live,
            "note": state.note,
            "sequence": {"frames": source.frames, "fps": source.fps} if source.frames > 1 else None,
            "variants": {"names": list(self.variants), "now": now, "home": home} if now else None,
        }

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", policy("'self'") + "; frame-ancestors 'none'")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
