"""Headless Chromium over WebDriver, spoken directly: real keys, real widths, and what a page asked the network for."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {"Right": "\ue014", "Left": "\ue012", "Up": "\ue013", "Down": "\ue015", "Tab": "\ue004", "Enter": "\ue007",
        "Home": "\ue011", "End": "\ue010"}  # fmt: skip
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--disable-dev-shm-usage",
]  # fmt: skip


def why_missing() -> str:
    """Empty if the browser can be driven, else what is not there."""
    absent = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"{' and '.join(absent)} not installed: the page is not tried in a browser" if absent else ""


class Browser:
    """One tab."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, path: str, method: str = "POST", **body: Any) -> Any:
        data = None if method == "GET" else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()[:400]}") from None

    def open(self, page: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.devtools("Emulation.setFocusEmulationEnabled", enabled=True)  # or no focus event in a window behind others
        self.call("/url", url=page.resolve().as_uri())

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.call("/goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str) -> Any:
        """The value of a JavaScript function body."""
        return self.call("/execute/sync", script=script, args=[])

    def press(self, *keys: str) -> None:
        pressed = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("/actions", actions=[{"type": "key", "id": "keyboard", "actions": pressed}])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def console(self) -> list[str]:
        """Warnings and errors since the last call."""
        return [entry["message"] for entry in self.call("/se/log", type="browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.call("/se/log", type="performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]


@contextmanager
def browser() -> Iterator[Browser]:
    """A fresh browser with an empty profile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_for(base)
            options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            session = Browser(base).call("/session", capabilities={"alwaysMatch": wanted})
            tab = Browser(f"{base}/session/{session['sessionId']}")
            try:
                tab.call("/url", url="about:blank")  # not the browser's own start page
                tab.requests()
                yield tab
            finally:
                tab.call("", method="DELETE")
        finally:
            driver.terminate()
            driver.wait(timeout=20)


def _wait_for(base: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(base + "/status", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("chromedriver did not start")
