"""The pages over HTTP: what they hold, what they may load, and that nothing of them comes from another host."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from app.web.page import STATIC, wants_json
from tests.conftest import ROOT, drawn_png

PAGES = ("/", "/docs")
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
LOADS = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("form", "action")}


class Parsed(HTMLParser):
    """What an HTML text loads, and what a strict policy would refuse in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.refused: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value for name, value in attrs if (tag, name) in LOADS and value]
        self.refused += [f"{tag} {name}" for name, _ in attrs if name == "style" or name.startswith("on")]
        self._script = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.refused.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._script = False


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, headers=BROWSER) as client:
        yield client


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    rules = (rule.split() for rule in answer.headers["content-security-policy"].split(";"))
    return {name: values for name, *values in rules}


@pytest.mark.parametrize("path", PAGES)
def test_everything_comes_from_this_server(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    found = Parsed(answer.text)
    assert not found.refused
    assert len(found.loads) >= 3
    for address in found.loads:
        assert not urlsplit(address).netloc
        assert not address.startswith("/"), "relative, for a proxy that adds a prefix"
        part = client.get(urljoin(path, address))
        assert part.status_code == 200
        assert part.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", [path.name for path in sorted(STATIC.iterdir()) if path.suffix != ".png"])
def test_our_files_name_no_other_host(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w", text)
    assert "@import" not in text
    assert len(text.splitlines()) <= 300


def test_there_is_a_picture_to_try(client: httpx.Client) -> None:
    picture = client.get("/static/example.png")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert len(picture.content) < 40_000
    drawn = Image.open(io.BytesIO(drawn_png(1))).convert("RGB")  # `python -m training.drawn --index 1000001`
    shown = Image.open(io.BytesIO(picture.content)).convert("RGB")
    assert shown.size == drawn.size
    assert np.abs(np.asarray(shown, int) - np.asarray(drawn, int)).mean() < 1, "a drawn one, never trained on"


@pytest.mark.parametrize("path", PAGES)
def test_policy(client: httpx.Client, path: str) -> None:
    for answer in (client.get(path), client.head(path)):
        rules = policy(answer)
        assert (
            rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == ["'none'"]
        )
        assert rules["script-src"] == rules["connect-src"] == ["'self'"]
        assert rules["style-src"] == (["'self'"] if path == "/" else ["'self'", "'unsafe-inline'"])
        assert not {value for values in rules.values() for value in values} & {"*", "http:", "https:", "'unsafe-eval'"}
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_pages_that_would_need_a_cdn_are_gone(client: httpx.Client) -> None:
    assert client.get("/redoc").status_code == 404


def test_files_are_checked_again_but_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/static/page.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/static/none.js", "/static/", "/static/../page.py", "/static/%2e%2e/page.py", "/static"]
)
def test_no_other_file_is_served(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error_type"] == "not_found"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", True), ("application/json, */*;q=0.5", True), ("", False), ("*/*", False),
        (BROWSER["Accept"], False), ("text/html, application/json;q=0.5", False),
    ],
)  # fmt: skip
def test_a_program_gets_links(client: httpx.Client, accept: str, expected: bool) -> None:
    assert wants_json(accept) == expected
    answer = client.get("/", headers={"Accept": accept})
    assert "Accept" in answer.headers["vary"]
    assert answer.headers["content-type"].startswith("application/json" if expected else "text/html")
    if expected:
        known = set(client.get("/openapi.json").json()["paths"]) | {"/docs", "/openapi.json"}
        assert set(answer.json().values()) <= known


@pytest.mark.skipif(find_spec("setuptools") is None, reason="needs setuptools in the environment")
def test_the_wheel_carries_the_page(tmp_path: Path) -> None:
    source = tmp_path / "source"  # setuptools would leave its files beside the sources, and take them the next time
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for room in ("app", "contract", "export", "modeling", "training"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"  # as pip would
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert {f"app/web/static/{path.name}" for path in STATIC.iterdir()} <= set(wheel.namelist())
        licences = {name.split("/", 1)[1] for name in wheel.namelist() if ".dist-info/licenses/" in name}
        licence = "contract/LICENSE-APACHE-2.0"
        assert licences == {"licenses/LICENSE", "licenses/NOTICE", f"licenses/{licence}"}
        assert licence in wheel.namelist(), "what is written beside weights"
