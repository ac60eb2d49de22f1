"""Headless Chromium for the tests, spoken to in the DevTools protocol: one process, and tabs that share no state."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--remote-debugging-port=0",
)
DOMAINS = ("Page", "Runtime", "Network", "Log", "Audits")
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), "ArrowDown": (40, ""), " ": (32, " ")}
SHIFT = 8
START_S = 30.0
ANSWER_S = 30.0


def executable() -> str | None:
    """The path of Chromium on this machine."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@dataclass
class Browser:
    """The connection to a running Chromium; one thread uses it."""

    connection: ClientConnection
    tabs: dict[str, Tab] = field(default_factory=dict)
    sent: int = 0

    def call(self, method: str, session: str | None = None, **arguments: Any) -> Any:
        """The result of a command; AssertionError with the browser's words when it refuses."""
        number = self._send(method, session, arguments)
        while (message := self._read(ANSWER_S)).get("id") != number:
            pass
        assert "error" not in message, (method, message.get("error"))
        return message["result"]

    def drain(self) -> None:
        """Reads the events that have come."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._read(0)

    @contextlib.contextmanager
    def tab(self, width: int = 1280, height: int = 900) -> Iterator[Tab]:
        """A blank tab with a profile of its own, closed at the end."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self.tabs[session] = Tab(self, session)
        for domain in DOMAINS:
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        tab.resize(width, height)
        try:
            yield tab
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)
            del self.tabs[session]

    def _send(self, method: str, session: str | None, arguments: dict[str, Any]) -> int:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": arguments}
        self.connection.send(json.dumps({**message, "sessionId": session} if session else message))
        return self.sent

    def _read(self, seconds: float) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.connection.recv(seconds))
        tab = self.tabs.get(message.get("sessionId", ""))
        if tab and "method" in message:
            tab.events.append((message["method"], message["params"]))
            if message["method"] == "Page.javascriptDialogOpening":  # the page waits for it, and so would a command
                self._send("Page.handleJavaScriptDialog", tab.session, {"accept": True})
        return message


@dataclass
class Tab:
    """One page, and what the browser told about it."""

    browser: Browser
    session: str
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def call(self, method: str, **arguments: Any) -> Any:
        return self.browser.call(method, self.session, **arguments)

    def open(self, url: str, ready: str = "document.readyState === 'complete'") -> None:
        """Loads `url` and waits until `ready` holds there."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && {ready}")

    def forget(self) -> None:
        """Leaves the page, and what it stored."""
        if self.js("location.protocol") != "about:":
            self.js("sessionStorage.clear(), localStorage.clear()")
        self.call("Page.navigate", url="about:blank")
        self.call("Emulation.setEmulatedMedia", features=[])
        self.resize(1280)
        self.events.clear()

    def js(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression, awaited."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0) -> None:
        """Returns when `expression` is true."""
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}\n{self.js('document.body.innerText')}"
            time.sleep(0.01)

    def count(self, selector: str) -> int:
        return int(self.js(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def text(self, selector: str) -> str:
        """The text that is seen in the first such element."""
        return str(self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """A press of the mouse in the middle of the first such element."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{element}.scrollIntoView({{block: 'nearest', behavior: 'instant'}})")
        x, y = self.js(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, modifiers: int = 0) -> None:
        """One key down and up."""
        code, text = KEYS[key]
        pressed = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, modifiers=modifiers, **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **pressed)

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.call("Input.insertText", text=text)

    def write(self, letters: str) -> None:
        """Types letter by letter, with the keys' own events: lists find their entries by them."""
        for letter in letters:
            self.call("Input.dispatchKeyEvent", type="keyDown", text=letter, key=letter)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=letter)

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        # What the page does about its new size comes with the next frame.
        self.js("globalThis.drawn = 0; requestAnimationFrame(() => requestAnimationFrame(() => { drawn = 2 }))")
        self.wait("globalThis.drawn === 2")

    def scheme(self, name: str) -> None:
        """name: dark or light, as the system would have it."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """The events of these kinds so far."""
        self.browser.drain()
        return [event for method, event in self.events if method in methods]

    def picture(self, path: Path) -> None:
        """A PNG of what is seen."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A Chromium until the end of the block. path: of its executable."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [path, *FLAGS, f"--user-data-dir={folder}"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            with connect(_address(Path(folder) / "DevToolsActivePort", process), max_size=None) as connection:
                yield Browser(connection)
        finally:
            process.terminate()
            process.wait(20)


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    """Where Chromium listens: it writes the port and the path into `file`."""
    end = time.monotonic() + START_S
    while not (file.is_file() and file.read_text().count("\n")):
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        assert time.monotonic() < end, f"Chromium did not start in {START_S:.0f} s"
        time.sleep(0.02)
    port, path = file.read_text().split()
    return f"ws://127.0.0.1:{port}{path}"
