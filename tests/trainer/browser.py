"""A real Chromium without a window, driven through a pipe by the DevTools protocol; nothing but the standard library.

The protocol: JSON messages, each ended by a zero byte, read by the browser from descriptor 3 and written to 4.
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 60.0
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_browser() -> str:
    """Skips the test when there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs one of {', '.join(NAMES)} in PATH (Debian: apt-get install chromium)")
    return found


class Browser:
    """Use with `with`; leaving ends the browser and all of its processes.

    Args:
        profile: an empty folder for what the browser writes.
    """

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._buffer = b""
        self._calls = 0
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        program = find_browser()
        pipes = [*os.pipe(), *os.pipe()]
        # away from 3 and 4, which they become in the browser
        far = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes]
        for end in pipes:
            os.close(end)
        commands, self._send, self._receive, answers = far
        shell = f'exec "$@" 3<&{commands} 4>&{answers}'
        with (self._profile / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", shell, "browser", program, *OPTIONS, f"--user-data-dir={self._profile}"],
                pass_fds=(commands, answers),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(commands)
        os.close(answers)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._send)
        os.close(self._receive)

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """One command's result. Raises RuntimeError with the browser's reason."""
        self._calls += 1
        number = self._calls
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._send, data) :]
        while True:
            answer = self._read()
            if answer.get("id") != number:
                self._waiting.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def events(self, session: str, until: str = "") -> list[dict[str, Any]]:
        """What a page told since the last call: method and params; waits for a method if one is named."""
        while until and not any(told.get("method") == until for told in self._waiting):
            self._waiting.append(self._read())
        told = [event for event in self._waiting if event.get("sessionId") == session]
        self._waiting = [event for event in self._waiting if event.get("sessionId") != session]
        return told

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._receive, 1 << 20) if ready else b""
            if not part:
                log = (self._profile / "browser.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the browser {'is gone' if ready else 'does not answer'}: {log}")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


class Page:
    """A file opened in a tab of its own.

    Args:
        width, height: of the window, in CSS pixels.
        dark: whether the reader prefers dark pages.
        scripts: whether the page may run its own; `evaluate` works without them too.

    `problems` is whatever the page complained about: errors, warnings, refused content; `requests` what it asked for.
    """

    def __init__(
        self,
        browser: Browser,
        file: Path,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
    ) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.call("Page.navigate", url=file.as_uri())
        self._note(browser.events(self._session, until="Page.loadEventFired"))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression. Raises RuntimeError with what it threw."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        self._note(self._browser.events(self._session))
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """The whole page, from its top to its end, as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self) -> bytes:
        """As it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _note(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            told = event["params"]
            match event["method"]:
                case "Network.requestWillBeSent":
                    self.requests.append(told["request"]["url"])
                case "Log.entryAdded":
                    self.problems.append(told["entry"]["text"])
                case "Runtime.exceptionThrown":
                    self.problems.append(json.dumps(told["exceptionDetails"]))
                case "Runtime.consoleAPICalled":
                    self.problems.append(json.dumps(told["args"]))
