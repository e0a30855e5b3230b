"""Chromium without a window, spoken to by the DevTools protocol over a pipe: no driver and no package is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
# The browser reads its orders from descriptor 3 and answers on 4.
START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 120.0  # seconds to an answer, after which the browser counts as dead
KEYS = {"Enter": ("\r", 13), " ": (" ", 32), "Tab": ("", 9)}


class Page:
    """A page of the browser, and what it complained of and asked the network for."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders, self._answers, self._content = orders, answers, b""
        self._count, self._session = 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._orders, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._content:
            assert select.select([self._answers], [], [], PATIENCE)[0], "the browser does not answer"
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser has ended"
            self._content += more
        content, _, self._content = self._content.partition(b"\0")
        answer: dict[str, Any] = json.loads(content)
        match answer.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"]))
            case "Log.entryAdded":
                self.errors.append(answer["params"]["entry"]["text"])
            case "Runtime.consoleAPICalled":
                self.errors.append(str(answer["params"]["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"][:100])
            case "Page.loadEventFired":
                self._loaded = True
        return answer

    def close(self) -> None:
        os.close(self._orders)
        os.close(self._answers)

    def attach(self, offline: bool) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        if offline:
            rates = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
            self.send("Network.emulateNetworkConditions", offline=True, **rates)

    def open(
        self, place: Path | str, width: int = 1280, height: int = 800, dark: bool = False, still: bool = False
    ) -> None:
        """Load a file or an address into a window of this size. still: the reader prefers reduced motion."""
        self.errors, self.requests, self._loaded = [], [], False
        window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **window)
        wishes = {"prefers-color-scheme": "dark" if dark else "light"}
        wishes["prefers-reduced-motion"] = "reduce" if still else "no-preference"
        media = [{"name": name, "value": value} for name, value in wishes.items()]
        self.send("Emulation.setEmulatedMedia", features=media)
        self.send("Page.navigate", url=place if isinstance(place, str) else place.resolve().as_uri())
        while not self._loaded:
            self._read()

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        told = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def becomes(self, expression: str, tries: int = 600) -> bool:
        """Whether it is true at one of the next frames that are drawn."""
        frames = f"for (let i = 0; i < {tries} && !({expression}); i++) await new Promise(requestAnimationFrame)"
        return bool(self.ask(f"(async () => {{ {frames}; return Boolean({expression}); }})()"))

    def press(self, key: str, times: int = 1) -> None:
        text, code = KEYS.get(key, ("", {"End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}.get(key, 0)))
        for _ in range(times):
            down = {"type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code}
            self.send("Input.dispatchKeyEvent", **down, code={" ": "Space"}.get(key, key))
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def picture(self, file: Path, whole: bool = True) -> None:
        """A PNG of the page."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip} if whole else {}
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", **options)["data"]))


@contextmanager
def browser(profile: Path, offline: bool = True) -> Iterator[Page]:
    """profile: an empty folder."""
    assert CHROMIUM
    (ours, orders), (answers, theirs) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", START, str(ours), str(theirs), CHROMIUM, *FLAGS.split()]
    command += [f"--user-data-dir={profile}", "about:blank"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, pass_fds=(ours, theirs), **quiet) as process:  # type: ignore[call-overload]
        os.close(ours)
        os.close(theirs)
        page = Page(orders, answers)
        try:
            page.attach(offline)
            yield page
        finally:
            process.kill()
            page.close()
