"""The page in a real browser: what a person does, and what the page then says."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, FileChooser, Page, TimeoutError, expect

from tests.app.browser import GOOD, TEXT, Watched, choose, hand_over, labelled
from tests.app.inside import running

pytestmark = pytest.mark.browser
# Each bar's part of its track is the share, to 2 %.
BARS = """(shares) => {
  const bars = [...document.querySelectorAll("#top .fill")];
  return bars.length === shares.length
    && bars.every((bar, i) => Math.abs(bar.offsetWidth / bar.parentElement.offsetWidth - shares[i]) < 0.02);
}"""


def test_a_photo_is_labelled(page: Page, server: str) -> None:
    watched = Watched(page, server)
    page.goto("/")
    expect(page.locator("#outcome")).to_be_hidden()
    choose(page, "dinner.png", GOOD)
    answer = labelled(page, server)
    assert isinstance(answer["top"], list)
    expect(page.locator("#label")).to_have_text(str(answer["prediction"]))
    expect(page.locator("#caption")).to_have_text(str(answer["raw_output"]))
    expect(page.locator("#top .name")).to_have_text([one["prediction"] for one in answer["top"]])
    expect(page.locator("#top .share")).to_have_text([f"{100 * one['confidence']:.1f} %" for one in answer["top"]])
    expect(page.locator("#times li")).to_have_count(6)
    for stage in ("decode", "queue", "encode", "score", "total", "round trip"):
        expect(page.locator("#times")).to_contain_text(re.compile(rf"{stage} [\d.]+ ms"))
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator("[role=status]")).to_have_text(
        f"{answer['prediction']}, {100 * answer['top'][0]['confidence']:.1f} %"
    )
    page.wait_for_function(BARS, arg=[one["confidence"] for one in answer["top"]])  # they grow
    assert not watched.hosts
    assert not watched.complaints, "the policy, or the script"


def test_a_photo_that_is_not_sure_enough(bundle: Path, chromium: Browser) -> None:
    with running(bundle, abstain_below=1) as (url, app):
        page = chromium.new_page()
        page.goto(url)
        expect(page.locator("#info div", has_text="Abstains below").locator("dd")).to_have_text("100 %")
        choose(page, "dinner.png", GOOD)
        answer = labelled(page, url)
        sentence = answer["abstained"]["message"]  # type: ignore[index]
        expect(page.locator("#label")).to_have_text("Not sure")
        expect(page.locator("#unsure")).to_have_text(sentence)
        expect(page.locator("[role=status]")).to_have_text(f"Not sure. {sentence}")
        expect(page.locator("#caption-part")).to_be_hidden()
        expect(page.locator("#top li")).to_have_count(5)
        app.state.service.settings = app.state.service.settings.model_copy(update={"abstain_below": 0.0})
        choose(page, "dinner.png", GOOD)
        expect(page.locator("#unsure")).to_be_hidden()
        expect(page.locator("#caption-part")).to_be_visible()
        expect(page.locator("#label")).to_have_text(labelled(page, url)["prediction"])  # type: ignore[arg-type]
        page.close()


def test_the_model_is_described(page: Page, server: str) -> None:
    info = httpx.get(f"{server}/info").json()
    page.goto("/")
    for name, value in (("Name", info["model"]["name"]), ("Version", info["model"]["version"]), ("Provider", "CPU")):
        expect(page.locator("#info div", has_text=name).locator("dd")).to_have_text(value)


def test_the_labels_are_listed(page: Page, server: str) -> None:
    page.goto("/")
    page.get_by_text("Labels", exact=True).last.click()
    expect(page.locator("#labels li")).to_have_text(
        [one["display"] for one in httpx.get(f"{server}/labels").json()["labels"]]
    )
    page.route("**/labels", lambda route: route.fulfill(status=503, json={"error": "The service is stopping."}))
    page.locator("#labels-part summary").click()
    page.locator("#labels-part summary").click()
    expect(page.locator("#labels-error")).to_have_text("The service is stopping.")
    expect(page.locator("#labels li")).to_have_count(0)


@pytest.mark.parametrize("way", ["drop", "paste", "camera"])
def test_other_ways_in(page: Page, server: str, way: str) -> None:
    page.goto("/")
    if way == "camera":
        assert page.locator("#camera").get_attribute("capture") == "environment"
        choose(page, "dinner.png", GOOD, field="#camera")
    else:
        hand_over(page, way, GOOD)
    expect(page.locator("#label")).to_have_text(str(labelled(page, server)["prediction"]))


def test_the_keyboard_alone(page: Page, server: str) -> None:
    page.on("filechooser", lambda chooser: None)  # the browser catches choosers from here on, not just when one is due
    page.goto("/")
    expect(page.locator("#info")).to_contain_text("ready")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pick"
    assert (
        page.locator("label.button", has=page.locator("#pick")).evaluate("e => getComputedStyle(e).outlineStyle")
        == "solid"
    )
    pressed(page).set_files({"name": "dinner.png", "mimeType": "image/png", "buffer": GOOD})
    labelled(page, server)
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert seen[:5] == ["Try a drawn picture", "Labels", "API key", "API", "health"]  # the tests' model is of drawings


def pressed(page: Page) -> FileChooser:
    """The chooser that Space opens; pressed again once, since a busy browser can lose a key."""
    with suppress(TimeoutError), page.expect_file_chooser(timeout=5000) as chooser:
        page.keyboard.press("Space")
        return chooser.value
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    return chooser.value


def test_every_field_has_a_name(page: Page) -> None:
    page.goto("/")
    page.locator("#key-part summary").click()
    assert page.get_by_label("Choose a photo").count() == 1
    assert page.get_by_label("Take a photo").count() == 1
    assert page.get_by_label("Only if this service asks for one").count() == 1


def test_an_error_sentence_is_shown_as_it_is(page: Page, server: str) -> None:
    page.goto("/")
    choose(page, "dinner.png", GOOD)
    labelled(page, server)
    sentence = httpx.post(f"{server}/predict", content=TEXT).json()["error"]
    choose(page, "dinner.jpg", TEXT, "image/jpeg")
    expect(page.get_by_role("alert")).to_have_text(sentence)
    expect(page.locator("#result")).to_be_hidden()
    expect(page.locator("#preview")).to_be_hidden()
    choose(page, "dinner.png", GOOD)  # and it goes away
    labelled(page, server)
    expect(page.locator("#error")).to_be_hidden()


def test_a_name_cannot_become_markup(page: Page, server: str) -> None:
    page.goto("/")
    page.route("**/predict?*", lambda route: route.fulfill(status=400, json={"error": "<img src=x onerror=alert(1)>"}))
    choose(page, "<b>dinner</b>.png", GOOD)
    expect(page.get_by_role("alert")).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("#outcome img, #drop b").count() == 0


def test_an_answer_of_a_proxy_and_no_answer_at_all(page: Page) -> None:
    page.goto("/")
    page.route("**/predict?*", lambda route: route.fulfill(status=502, body="<html>Bad Gateway</html>"))
    choose(page, "dinner.png", GOOD)
    expect(page.get_by_role("alert")).to_contain_text("The answer was 502")
    page.unroute("**/predict?*")
    page.route("**/predict?*", lambda route: route.abort())
    choose(page, "dinner.png", GOOD)
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")


def test_the_key_is_sent_and_stays_in_the_tab(page: Page, server: str) -> None:
    page.goto("/")
    page.locator("#key-part summary").click()
    page.locator("#key").fill("secret-1")
    page.locator("#key").press("Tab")
    page.reload()
    assert page.locator("#key").input_value() == "secret-1"
    with page.expect_request("**/predict?*") as asked:
        choose(page, "dinner.png", GOOD)
    assert asked.value.headers["x-api-key"] == "secret-1"
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    other = page.context.new_page()
    other.goto("/")
    assert other.locator("#key").input_value() == ""


def test_a_service_that_asks_for_a_key(bundle: Path, chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("secret-1\n", encoding="utf-8")
    with running(bundle, api_keys_file=file) as (url, _):
        page = chromium.new_page()
        page.goto(url)
        expect(page.locator("#info-error")).to_contain_text("An API key is needed.")
        expect(page.locator("#labels-part")).to_be_hidden()
        for link in page.locator("footer a").evaluate_all("all => all.map((one) => one.href)"):
            assert httpx.get(link).status_code == 200, "no link leads to a bare refusal"
        choose(page, "dinner.png", GOOD)
        expect(page.locator("#error")).to_contain_text("An API key is needed.")
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Tab")
        expect(page.locator("#info-error")).to_contain_text("The API key is not known.")
        page.locator("#key").fill("secret-1")
        page.keyboard.press("Tab")
        expect(page.locator("#info")).to_contain_text("ready")
        expect(page.locator("#info-error")).to_be_hidden()
        choose(page, "dinner.png", GOOD)
        expect(page.locator("#top li")).to_have_count(5)
        page.locator("#labels-part summary").click()
        expect(page.locator("#labels li")).to_have_count(16)
        page.close()


def test_a_model_without_labels_captions(page: Page, server: str) -> None:
    info = httpx.get(f"{server}/info").json() | {"labels": 0}
    page.route("**/info", lambda route: route.fulfill(json=info))
    page.goto("/")
    expect(page.locator("#info")).to_contain_text("captions only")
    expect(page.locator("#labels-part")).to_be_hidden()
    choose(page, "dinner.png", GOOD)
    expect(page.locator("#caption")).to_contain_text("a photo of")
    expect(page.locator("#top-part")).to_be_hidden()
    expect(page.locator("#times")).to_contain_text("generate")


def test_a_service_that_starts_is_waited_for(page: Page, server: str) -> None:
    info = httpx.get(f"{server}/info").json()
    page.route("**/info", lambda route: route.fulfill(json=info | {"state": "starting", "provider": None}), times=1)
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.goto("/")
    expect(page.locator("#info")).to_contain_text("starting")
    page.clock.run_for(1000)
    expect(page.locator("#info")).to_contain_text("ready")


def test_a_fault_of_the_service_leaves_no_old_result(
    bundle: Path, chromium: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object) -> None:
        raise RuntimeError("boom")

    with running(bundle) as (url, app):
        page = chromium.new_page()
        page.goto(url)
        choose(page, "dinner.png", GOOD)
        labelled(page, url)
        monkeypatch.setattr(app.state.service, "predict", broken)
        choose(page, "dinner.png", GOOD)
        expect(page.get_by_role("alert")).to_contain_text("The service failed on this request")
        expect(page.locator("#result")).to_be_hidden()
        page.close()
