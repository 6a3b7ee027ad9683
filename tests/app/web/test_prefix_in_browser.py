"""The page and `/docs` behind a proxy with a prefix, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.app.browser import GOOD, Watched, choose, labelled
from tests.app.inside import running
from tests.app.prefix_proxy import behind_proxy

pytestmark = pytest.mark.browser
TRUSTED = {"trusted_proxies": "127.0.0.1"}


@pytest.mark.parametrize(
    ("settings", "proxy"),
    [({"root_path": "/a/food"}, {"strips": True}), (TRUSTED, {"strips": True, "says": "/a/food"}),
     ({"root_path": "/a/food"}, {"strips": False}), (TRUSTED, {"strips": False, "says": "/a/food"})],
    ids=["root_path, stripped", "header, stripped", "root_path, as it is", "header, as it is"],
)  # fmt: skip
def test_a_photo_is_labelled_by_the_page_and_by_docs(
    bundle: Path, chromium: Browser, settings: dict[str, Any], proxy: dict[str, Any]
) -> None:
    with running(bundle, **settings) as (url, _), behind_proxy(url, "/a/food", **proxy) as outside:
        page = chromium.new_page()
        watched = Watched(page, outside)
        page.goto(f"{outside}/a/food/")
        choose(page, "dinner.png", GOOD)
        labelled(page, url)
        page.get_by_role("link", name="API").click()
        page.locator("[id$=-predict] .opblock-summary-control").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.locator(".opblock.is-open input[type=file]").set_input_files(
            {"name": "dinner.png", "mimeType": "image/png", "buffer": GOOD}
        )
        with page.expect_response("**/predict") as answer:
            page.get_by_role("button", name="Execute").click()
        assert (urlsplit(answer.value.url).path, answer.value.status) == ("/a/food/predict", 200)
        expect(page.locator(".opblock.is-open .live-responses-table")).to_contain_text("raw_output")
        expect(page.locator(".opblock.is-open .curl")).to_contain_text(f"{outside}/a/food/predict")
        assert not watched.hosts
        assert not watched.complaints
        page.close()
