"""A real browser for tests: Debian's Chromium, driven by Playwright, which watches every address a page asks for."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import drawn_png

GOOD = drawn_png(0, 256)
TEXT = b"this is no picture\n"

# The last five keep Chromium itself from asking its makers' hosts at every start.
PATIENCE = 60_000  # milliseconds; a browser on a busy machine may be slow, and nothing here asks how slow
expect.set_options(timeout=PATIENCE)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium; skips the test where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=FLAGS, headless=True)
        try:
            yield started
        finally:
            started.close()


class Watched:
    """What went wrong or out on a page: hosts asked beside its own, console errors, refused by policy, exceptions."""

    def __init__(self, page: Page, url: str) -> None:
        self.hosts: set[str] = set()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        own = urlsplit(url).netloc

        def note(address: str) -> None:
            parts = urlsplit(address)
            self.requests.append(address)
            if parts.scheme not in ("data", "blob") and parts.netloc != own:
                self.hosts.add(parts.netloc)

        page.on("request", lambda request: note(request.url))
        page.on("websocket", lambda socket: note(socket.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)


def choose(page: Page, name: str, data: bytes, kind: str = "image/png", field: str = "#pick") -> None:
    page.locator(field).set_input_files({"name": name, "mimeType": kind, "buffer": data})


def hand_over(page: Page, event: str, data: bytes) -> None:
    """Drop or paste a file as a person would, but for the mouse."""
    page.evaluate(
        """([event, text]) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dinner.png", { type: "image/png" }));
          const options = { bubbles: true, cancelable: true };
          document.body.dispatchEvent(event === "paste"
            ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
            : new DragEvent("drop", { ...options, dataTransfer: transfer }));
        }""",
        [event, base64.b64encode(data).decode()],
    )


def labelled(page: Page, server: str) -> dict[str, object]:
    """Wait for an answer on the page and return what the service says of the same picture."""
    expect(page.locator("#top li").first).to_be_visible()
    answer: dict[str, object] = httpx.post(f"{server}/predict", content=GOOD, params={"top_k": 5}).json()
    return answer
