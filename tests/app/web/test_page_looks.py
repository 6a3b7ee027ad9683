"""How the page looks in a real browser: contrast in light and dark, a narrow phone; and `/docs`."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.browser import GOOD, TEXT, Watched, choose, labelled
from tests.app.inside import running
from tests.conftest import drawn_png

pytestmark = pytest.mark.browser
READABLE = 4.5  # contrast of text to its ground that WCAG AA asks for
# Each element with text of its own, with the contrast of its colour to the first ground that is not transparent.
CONTRASTS = """() => {
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const c = parts(getComputedStyle(e).backgroundColor); if (c.length === 3) return c; } };
  return [...document.querySelectorAll("body *")].filter((e) => e.offsetParent && e.offsetWidth > 1
      && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    return [e.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)];
  });
}"""
DARK_AND_LIGHT = [{"color_scheme": "dark"}, {"color_scheme": "light"}]


@pytest.mark.parametrize("page", DARK_AND_LIGHT, indirect=True, ids=["dark", "light"])
def test_text_is_readable(page: Page, server: str, request: pytest.FixtureRequest) -> None:
    info = httpx.get(f"{server}/info").json() | {"demonstration": True}
    page.route("**/info", lambda route: route.fulfill(json=info))
    page.goto("/")
    expect(page.locator("#demonstration")).to_be_visible()
    for summary in ("#key-part", "#labels-part"):
        page.locator(f"{summary} summary").click()
    expect(page.locator("#labels li")).to_have_count(16)
    choose(page, "dinner.png", GOOD)
    labelled(page, server)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == ("dark" in request.node.name)
    seen = page.evaluate(CONTRASTS)
    choose(page, "dinner.jpg", TEXT, "image/jpeg")
    expect(page.get_by_role("alert")).to_be_visible()
    seen += page.evaluate(CONTRASTS)
    assert len(seen) > 30
    assert not {text: ratio for text, ratio in seen if ratio < READABLE}


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("page", [PHONE], indirect=True, ids=["phone"])
def test_a_narrow_phone(page: Page, server: str) -> None:
    page.goto("/")
    expect(page.locator("label.camera")).to_be_visible()
    choose(page, "x" * 200 + ".png", GOOD)
    labelled(page, server)
    for summary in ("#key-part", "#labels-part"):
        page.locator(f"{summary} summary").click()
    assert page.evaluate("[document.documentElement.scrollWidth, visualViewport.scale]") == [360, 1]


@pytest.mark.parametrize("page", [PHONE | {"viewport": {"width": 360, "height": 420}}], indirect=True, ids=["low"])
def test_what_came_of_it_is_in_sight(page: Page, server: str) -> None:
    page.goto("/")
    choose(page, "dinner.png", drawn_png(0, 512))
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator("#label")).to_be_in_viewport(ratio=1)
    page.evaluate("scrollTo(0, 0)")
    expect(page.locator("#label")).not_to_be_in_viewport()
    choose(page, "dinner.jpg", TEXT, "image/jpeg")
    expect(page.get_by_role("alert")).to_be_in_viewport(ratio=1)


def test_docs_take_a_key_where_one_is_asked_for(bundle: Path, chromium: Browser, tmp_path: Path) -> None:
    page = chromium.new_page()
    (tmp_path / "keys").write_text("secret-1\n", encoding="utf-8")
    with running(bundle, api_keys_file=tmp_path / "keys") as (url, _):
        page.goto(f"{url}/docs")
        page.locator("[id$=-info] .opblock-summary-control").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".opblock.is-open .live-responses-table")).to_contain_text("An API key is needed")
        page.locator("button.authorize").first.click()
        page.locator(".auth-container input").first.fill("secret-1")
        page.locator(".auth-container button[type=submit]").first.click()
        page.locator(".btn-done").first.click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".opblock.is-open .live-responses-table")).to_contain_text("image_size")
    page.close()


def test_docs_ask_no_other_host(page: Page, server: str) -> None:
    watched = Watched(page, server)
    page.goto("/docs")
    expect(page.locator("#operations-default-predict, [id$=-predict]").first).to_be_visible()
    expect(page.locator("button.authorize")).to_have_count(0)  # no key is asked for here
    page.locator("[id$=-predict] .opblock-summary-control").first.click()
    expect(page.locator(".opblock.is-open")).to_contain_text("unsupported_format")
    page.get_by_role("button", name="Try it out").click()
    page.locator(".opblock.is-open input[type=file]").set_input_files(
        {"name": "dinner.png", "mimeType": "image/png", "buffer": GOOD}
    )
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".opblock.is-open .live-responses-table")).to_contain_text("raw_output")
    assert not watched.hosts
    assert not watched.complaints
    assert any(address.endswith("/static/swagger-ui-bundle.js") for address in watched.requests)
