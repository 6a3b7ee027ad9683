"""The page in a real browser: photos that do not look like the training photos, and a demonstration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.browser import Watched, choose
from tests.app.chosen_familiarity import KNOWN, STRANGE, STRANGER, by_red, photo
from tests.app.inside import running

pytestmark = pytest.mark.browser
SENTENCE = "This does not look like what the model was trained on"


@pytest.fixture(scope="module")
def server(familiar_bundle: Path) -> Iterator[str]:
    """A service whose engine finds photos as familiar as they are red."""
    with pytest.MonkeyPatch.context() as patch:
        by_red(patch)
        with running(familiar_bundle) as (url, _):
            yield url


def test_what_is_strange_is_said_in_words(page: Page) -> None:
    page.goto("/")
    expect(page.locator("#info div", has_text="Unfamiliar below").locator("dd")).to_have_text("1 %")
    for share, told in (
        (STRANGE, "More familiar than only 0.78 % of the training photos."),
        (STRANGER, "Less familiar than every training photo."),
    ):
        choose(page, "dog.png", photo(share))
        expect(page.locator("#familiarity")).to_have_text(told)
        expect(page.locator("#label")).to_have_text(SENTENCE)
        expect(page.locator("[role=status]")).to_have_text(f"{SENTENCE}. {told}")
        for hidden in ("#caption-part", "#unsure"):
            expect(page.locator(hidden)).to_be_hidden()
        expect(page.locator("#top-heading")).to_have_text("Nearest guesses")
        expect(page.locator("#top li")).to_have_count(5)
        expect(page.locator("#top .track").first).to_be_hidden()
        small, text = (page.locator(one).first.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")
                       for one in ("#top .name", "#label"))  # fmt: skip
        assert small < 0.7 * text
    choose(page, "dinner.png", photo(KNOWN))
    expect(page.locator("#familiarity")).to_have_text("More familiar than 62 % of the training photos.")
    expect(page.locator("#label")).not_to_contain_text("trained")
    expect(page.locator("#top-heading")).to_have_text("Best labels")
    expect(page.locator("#top .track").first).to_be_visible()
    expect(page.locator("#caption-part")).to_be_visible()


def test_what_is_only_marked_has_its_label(page: Page, server: str) -> None:
    info = httpx.get(f"{server}/info").json() | {"demonstration": False}
    page.route("**/info", lambda route: route.fulfill(json=info))
    page.route("**/predict?*", lambda route: route.continue_(url=f"{route.request.url}&unfamiliar=mark"))
    page.goto("/")
    choose(page, "dog.png", photo(STRANGE))
    expect(page.locator("#unsure")).to_have_text(f"{SENTENCE}.")
    name = page.locator("#top .name").first.inner_text()
    expect(page.locator("#label")).to_have_text(name)
    expect(page.locator("[role=status]")).to_contain_text(f" %. {SENTENCE}.")
    expect(page.locator("#info")).to_contain_text("ready")
    expect(page.locator("#demonstration")).to_be_hidden()
    expect(page.locator("#example")).to_be_hidden()


def test_what_is_marked_and_not_sure_either_is_told_both(page: Page, server: str) -> None:
    info = httpx.get(f"{server}/info").json()
    info["abstain_below"], info["familiarity"]["below"] = 1, 0.0005
    page.route("**/info", lambda route: route.fulfill(json=info))
    asked = "unfamiliar=mark&min_confidence=1"
    page.route("**/predict?*", lambda route: route.continue_(url=f"{route.request.url}&{asked}"))
    page.goto("/")
    for name, told in (("Abstains below", "100 %"), ("Unfamiliar below", "0.05 %")):
        expect(page.locator("#info div", has_text=name).locator("dd")).to_have_text(told)
    choose(page, "dog.png", photo(STRANGE))
    expect(page.locator("#label")).to_have_text("Not sure")
    expect(page.locator("#unsure")).to_contain_text(f", below 1. {SENTENCE}.")
    expect(page.locator("[role=status]")).to_contain_text(f", below 1. {SENTENCE}.")


def test_a_demonstration_says_so_and_brings_a_picture(page: Page, server: str) -> None:
    info = httpx.get(f"{server}/info").json() | {"demonstration": True}
    page.route("**/info", lambda route: route.fulfill(json=info))
    watched = Watched(page, server)
    page.goto("/")
    expect(page.locator("#demonstration")).to_contain_text("it was trained on drawn pictures, not photos")
    page.get_by_role("button", name="Try a drawn picture").click()
    expect(page.locator("#file")).to_have_text("example.png, 31 kB")
    expect(page.locator("#top li")).to_have_count(5)
    expect(page.locator("#preview")).to_be_visible()
    assert not watched.complaints
    page.route("**/static/example.png", lambda route: route.abort())
    page.get_by_role("button", name="Try a drawn picture").click()
    expect(page.get_by_role("alert")).to_have_text("The drawn picture cannot be fetched. Is the service running?")


def test_a_photo_of_ones_own_is_not_replaced_by_a_picture_that_is_still_on_its_way(page: Page, server: str) -> None:
    info = httpx.get(f"{server}/info").json() | {"demonstration": True}
    page.route("**/info", lambda route: route.fulfill(json=info))
    page.route("**/static/example.png", lambda route: None)  # never answered
    page.goto("/")
    page.get_by_role("button", name="Try a drawn picture").click()
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/static/example.png")):
        choose(page, "dinner.png", photo(KNOWN))
    expect(page.locator("#familiarity")).to_have_text("More familiar than 62 % of the training photos.")
    expect(page.locator("#file")).to_contain_text("dinner.png")
    expect(page.locator("#error")).to_be_hidden()


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def test_it_fits_a_narrow_phone(chromium: Browser, server: str) -> None:
    context = chromium.new_context(base_url=server, **PHONE)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto("/")
    choose(page, "dog.png", photo(STRANGE))
    expect(page.locator("#label")).to_have_text(SENTENCE)
    expect(page.locator("#label")).to_be_in_viewport(ratio=1)
    assert page.evaluate("[document.documentElement.scrollWidth, visualViewport.scale]") == [360, 1]
    context.close()
