"""A headless Chromium, driven over its debugging pipe: what a page looks like where it is read, without another dependency."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE = 60  # seconds for one answer, on a busy machine


@dataclass(frozen=True)
class Seen:
    """A page as it is in the browser.

    Attributes:
        text: What a reader sees, hidden parts included.
        width: Of everything that can be scrolled to, in CSS pixels.
        viewport: Width of the window.
        complaints: What the console was told: errors, warnings and violations of the page's own policy.
        values: What the given expressions evaluated to.
    """

    text: str
    width: int
    viewport: int
    complaints: tuple[str, ...]
    values: tuple[Any, ...]


class Browser:
    """One page of a running Chromium."""

    def __init__(self, process: subprocess.Popen[bytes], requests: int, answers: int) -> None:
        self._process, self._requests, self._answers = process, requests, answers
        self._rest, self._number = b"", 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def look(self, page: Path, *, width: int, expressions: tuple[str, ...] = ()) -> Seen:
        """Open a file in a window of this width and say what is there; below 600 pixels it is a phone's."""
        phone = width < 600
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self._events.clear()
        self._ask("Page.navigate", url=page.resolve().as_uri())
        self._await("Page.loadEventFired")
        found = [
            self._evaluate(text) for text in ("document.body.textContent", _WIDTH, "window.innerWidth", *expressions)
        ]
        return Seen(found[0], found[1], found[2], tuple(self._complaints()), tuple(found[3:]))

    def _complaints(self) -> Iterator[str]:
        for event in self._events:
            told = event["params"]
            if event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                yield told["entry"]["text"]
            if event["method"] == "Runtime.exceptionThrown":
                yield told["exceptionDetails"]["text"]
            if event["method"] == "Runtime.consoleAPICalled":
                yield str(told["args"])

    def _evaluate(self, expression: str) -> Any:
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _await(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._next()

    def _next(self) -> dict[str, Any]:
        """Return the next message; events are kept too."""
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0, until - time.monotonic()))
            piece = os.read(self._answers, 1 << 16) if ready else b""
            assert piece, f"Chromium said nothing for {_PATIENCE} s (it has ended with {self._process.poll()})"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._events.append(message)
        return message


_WIDTH = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium with an empty profile, and end it."""
    theirs_in, requests = os.pipe()
    answers, theirs_out = os.pipe()
    # Chromium reads file 3 and writes file 4; above 9 nothing of ours is in the way of these.
    source, target = (fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (theirs_in, theirs_out))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # its helpers may write a moment longer
        command = ["bash", "-c", f'exec "$@" 3<&{source} 4>&{target}', "bash", str(CHROMIUM), *_FLAGS]
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(source, target),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (theirs_in, theirs_out, source, target):
            os.close(each)
        try:
            yield Browser(process, requests, answers)
        finally:
            process.kill()
            process.wait()
            os.close(requests)
            os.close(answers)
