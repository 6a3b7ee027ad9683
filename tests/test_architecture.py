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
from scripts.imports import reduced
from tests.app.inside import running, until
from tests.app.photos import drawn as picture_of
from tests.app.photos import encoded
from tests.app.trace import Trace

MOST_STEPS = 20
STEP = re.compile(r"^\d+\. `([\w.]+)`(.*?)(?=^\d+\. |\Z)", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\]\(\.\./((?:app|contract)/[\w/]+)\.py\)")


def walk() -> list[tuple[str, set[str]]]:
    """Each step of the page: its function, and the modules that it names."""
    text = PAGE.read_text(encoding="utf-8").split("\n## One photo's walk\n")[1].split("\n## ")[0]
    found = STEP.findall(text)
    assert len(found) == len(re.findall(r"^\d+\. ", text, re.MULTILINE))
    return [(function, {path.replace("/", ".") for path in FILE.findall(rest)}) for function, rest in found]


def test_picture_and_table_are_what_the_code_says() -> None:
    for path, text in expected().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python -m scripts.architecture --write"


def test_every_file_says_what_it_holds() -> None:
    modules = house()
    assert not [name for name in modules.paths if not modules.summary(name)]


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
    assert drawn(modules) == reduced(drawn(modules))
    for way in ways:
        numbers = [float(number) for number in re.findall(r"[\d.]+", way)]
        assert numbers[1] < numbers[-1], way


def test_a_change_is_told_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PICTURE", "PAGE"):
        copy = tmp_path / getattr(architecture, name).name
        copy.write_text(getattr(architecture, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(architecture, name, copy)
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
        with running(bundle) as (url, _), httpx.Client(base_url=url) as client:
            photo = {"image": encoded(picture_of(3), "JPEG")}
            assert client.post("/predict", files=photo).status_code == 200  # the first is measured, not compared
            inside_decoder.unlink()
            trace.on = True
            assert client.post("/predict", files=photo).status_code == 200
            until(lambda: "app.telemetry.logs:request_line" in trace.entered)
            trace.on = False
    finally:
        threading.setprofile(None)
    steps = walk()
    assert len(steps) <= MOST_STEPS
    decoder = inside_decoder.read_text(encoding="utf-8").split("\n")
    sent = trace.entered.index("app.decoding.client:Decoder.send") + 1
    entered = [*trace.entered[:sent], *decoder, *trace.entered[sent:]]
    assert set().union(*(modules for _, modules in steps)) == {name.partition(":")[0] for name in entered}
    calls = [name.partition(":")[2] for name in entered]
    functions = [function for function, _ in steps]
    assert functions == sorted(functions, key=calls.index)
