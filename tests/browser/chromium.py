"""A Chromium without a window, driven over a pipe by its own protocol, DevTools.

Everything that the page asks of a network, says on the console or throws is kept.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 300  # for one answer: drawing by the CPU waits for other work on it
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root in a container has none
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--no-first-run",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
)
_KEYS = {"KeyW": "w", "KeyK": "k", "Space": " ", "Digit1": "1", "Digit2": "2", "Digit3": "3"}


def found() -> str | None:
    """The browser's program, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One open page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **parameters: Any) -> Any:
        return self._browser.send(method, self._session, **parameters)

    def run(self, expression: str, timeout_s: float = PATIENCE_S) -> Any:
        """The value of a JavaScript expression, awaited. AssertionError with what it threw."""
        done = self._browser.send(
            "Runtime.evaluate",
            self._session,
            timeout_s=timeout_s,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def arrive(self, there: str = "true") -> None:
        """Wait for a page on its way, where `there` holds, until its scene is ready; a report has
        none of its own.
        """
        page = "('viewer' in globalThis || document.querySelector('h1') !== null)"
        loaded = f"{there} && document.readyState === 'complete' && {page}"
        deadline = time.monotonic() + PATIENCE_S
        while not self._run_if_it_stays(loaded):
            assert time.monotonic() < deadline, self._browser.complaints()
            time.sleep(0.05)
        self.run("globalThis.viewer?.ready")

    def _run_if_it_stays(self, expression: str) -> Any:
        """`run`; None where the page left while it was asked."""
        try:
            return self.run(expression)
        except AssertionError as error:
            if "navigated" in str(error) or "context" in str(error):
                return None
            raise

    def pixels(self, first: str = "0") -> np.ndarray:
        """[h, w, 3] 0..1: the canvas, sorted and drawn after the JavaScript expression `first`."""
        url = self.run(f"({first}, viewer.pixels())")
        picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")
        return np.asarray(picture, np.float32) / 255

    def press(self, code: str, until: str = "true") -> None:
        """A key of the keyboard, held down until a JavaScript expression is true."""
        common = {"code": code, "key": _KEYS[code]}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common)
        self.wait(until)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def wait(self, expression: str) -> None:
        """Until a JavaScript expression is true; between two looks the page may draw."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.run(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.02)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 5) -> None:
        """The left button, from one pixel of the page to another."""
        for i, kind in enumerate(["mousePressed", *["mouseMoved"] * steps, "mouseReleased"]):
            share = min(i / steps, 1)
            x, y = (a + (b - a) * share for a, b in zip(start, end, strict=True))
            held = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, clickCount=1, **held)

    def wheel(self, x: float, y: float, delta: int) -> None:
        """The wheel over a pixel of the page; above 0 is towards the user."""
        at = {"x": x, "y": y, "deltaX": 0, "deltaY": delta}
        self.send("Input.dispatchMouseEvent", type="mouseWheel", **at)

    def click(self, identity: str) -> None:
        """The middle of an element, by its id, with the mouse."""
        x, y = self.run(
            f"(() => {{ const r = document.getElementById('{identity}').getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        self.drag((x, y), (x, y), steps=1)

    def screenshot(self, path: Path) -> None:
        """What a person would see, as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


class Browser:
    """A running Chromium; `close` ends it."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="scene_splatter_browser_")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={self._profile}", "--remote-debugging-pipe"]
        # it reads commands from descriptor 3 and answers on 4
        script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *flags, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._last = b"", 0
        self.events: list[dict[str, Any]] = []

    def send(
        self,
        method: str,
        session: str | None = None,
        *,
        timeout_s: float = PATIENCE_S,
        **parameters: Any,
    ) -> Any:
        """The answer to one command of the protocol. AssertionError where it refuses."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer {method}")
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str, width: int, height: int, *, phone: bool = False) -> Page:
        """A page of this size, loaded, with its scene ready if it is a viewer's."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        page.send("Emulation.setEmulatedMedia", features=still)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        page.send("Emulation.setDeviceMetricsOverride", **size)
        page.send("Page.navigate", url=url)
        page.arrive()
        return page

    def requests(self) -> list[str]:
        """Addresses that pages asked for; what a page made itself (data:, blob:) is left out."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:", "about:"))]

    def complaints(self) -> list[str]:
        """What pages wrote on the console as a warning or an error, or threw."""
        said = []
        for event in self.events:
            values = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                said.append(json.dumps(values["exceptionDetails"]))
            elif event.get("method") == "Runtime.consoleAPICalled":
                if values["type"] in ("error", "warning", "assert"):
                    said.append(json.dumps(values["args"]))
            elif event.get("method") == "Log.entryAdded" and values["entry"]["level"] == "error":
                said.append(values["entry"]["text"])
        return said

    def close(self) -> None:
        """End the browser and remove its profile."""
        with contextlib.suppress(OSError, AssertionError, TimeoutError):
            self.send("Browser.close", timeout_s=5)
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """A browser for the block. It must be `found`."""
    program = found()
    assert program is not None
    browser = Browser(program)
    try:
        yield browser
    finally:
        browser.close()
