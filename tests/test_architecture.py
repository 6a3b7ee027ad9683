"""docs/architecture.md: its picture and table are made from the code, and a photo walks as it says."""

from __future__ import annotations

import re
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import httpx
import pytest

from scripts import architecture
from scripts.architecture import PAGE, drawn, expected, files, house, main, picture, place_of
from tests.app.inside import running, until
from tests.app.photos import drawn as picture_of
from tests.app.photos import encoded
from tests.app.trace import Trace

MOST_STEPS = 20
STEP = re.compile(r"^\d+\. .*?(?=^\d+\. |^$)", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\]\(\.\./((?:app|contract)/[\w/]+\.py)\)")


def steps() -> list[list[str]]:
    """The modules that each step of the walk names, in order."""
    walk = PAGE.read_text(encoding="utf-8").split("\n## One photo's walk\n")[1].split("\n## ")[0]
    found = STEP.findall(walk + "\n\n")
    assert found
    return [[path.removesuffix(".py").replace("/", ".") for path in FILE.findall(step)] for step in found]


def test_picture_and_table_are_what_the_code_says() -> None:
    for path, text in expected().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python -m scripts.architecture --write"


def test_the_picture_has_every_place_once_and_no_arrow_upwards() -> None:
    modules = house()
    drawing = ET.fromstring(picture(modules))
    titles = [
        one.text or "" for one in drawing.iter("{http://www.w3.org/2000/svg}text") if one.get("font-weight") == "bold"
    ]
    places = {place_of(name) for name in modules.paths if name != "app"}
    assert sorted(titles) == sorted(
        ["app/", *(place.removeprefix("app.") + ("/" if files(modules, place) else ".py") for place in places)]
    )
    ways = [one.get("d", "") for one in drawing.iter("{http://www.w3.org/2000/svg}path") if one.get("marker-end")]
    assert len(ways) == sum(map(len, drawn(modules).values()))
    for way in ways:
        numbers = [float(number) for number in re.findall(r"[\d.]+", way)]
        assert numbers[1] < numbers[-1], way


def test_a_change_is_told_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PICTURE", "PAGE"):
        copy = tmp_path / getattr(architecture, name).name
        copy.write_text(getattr(architecture, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(architecture, name, copy)
    monkeypatch.setattr(architecture, "ROOT", tmp_path)
    found = house()
    monkeypatch.setattr("scripts.architecture.house", lambda: found)
    assert main([]) == 0
    del found.paths["app.cores"], found.imports["app.cores"]
    assert main([]) == 1
    assert main(["--write"]) == 0
    assert main([]) == 0
    assert "cores.py" not in (tmp_path / "architecture.svg").read_text(encoding="utf-8")


def test_a_photo_walks_as_the_page_says(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form with one JPEG through a real server; the decoder is a process of its own, traced too."""
    inside_decoder = tmp_path / "decoder"
    monkeypatch.setattr("app.decoding.pool.PROGRAM", ("-m", "tests.app.trace", str(inside_decoder)))
    trace = Trace()
    threading.setprofile(trace.note)
    try:
        with running(bundle) as (url, app), httpx.Client(base_url=url) as client:
            photo = {"image": encoded(picture_of(3), "JPEG")}
            assert client.post("/predict", files=photo).status_code == 200  # the first is measured, not compared
            inside_decoder.unlink()
            trace.on = True
            assert client.post("/predict", files=photo).status_code == 200
            until(lambda: app.state.metrics.in_flight._value.get() == 0 and "app.telemetry.logs" in trace.entered)
            trace.on = False
    finally:
        threading.setprofile(None)
    walk = steps()
    assert len(walk) <= MOST_STEPS
    named = [name for step in walk for name in step]
    decoder = inside_decoder.read_text(encoding="utf-8").split("\n")
    assert set(named) == {*trace.entered, *decoder}
    firsts = [step[0] for step in walk]
    assert [one for one in firsts if one in trace.entered] == sorted(
        (one for one in firsts if one in trace.entered), key=trace.entered.index
    )
