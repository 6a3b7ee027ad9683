"""Strange decoding processes, and a browser; its driver is imported only by the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    from tests.app.browser import browser

    with browser() as started:
        yield started


@pytest.fixture(params=[None])
def page(chromium: Browser, server: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty page whose base is the server; parametrize indirectly with options of the browser's context."""
    from tests.app.browser import PATIENCE

    context = chromium.new_context(base_url=server, **(request.param or {}))
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding processes that some photos kill, stall or fail: `tests.app.strange_decoder`."""
    monkeypatch.setattr("app.decoding.pool.PROGRAM", ("-m", "tests.app.strange_decoder"))
