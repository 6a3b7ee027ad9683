"""Behind a proxy with a prefix: every address that the service names is right, and inside all is as without."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.settings import LONGEST_PREFIX, networks, prefix_from
from app.web.openapi import ADDRESS
from app.web.prefix import Prefix, is_bare, prefix_of
from contract.errors import ContractError
from tests.app.inside import running
from tests.app.photos import assert_error
from tests.app.prefix_proxy import behind_proxy
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)
JSON = {"Accept": "application/json"}
LOOPBACK = {"trusted_proxies": "127.0.0.0/8"}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings, and what the proxy does
    "root_path, stripped": ({"root_path": "/food"}, {"strips": True}),
    "root_path, not stripped": ({"root_path": "/food/"}, {"strips": False}),
    "header, stripped": (LOOPBACK, {"strips": True, "says": "/food"}),
    "header, not stripped": (LOOPBACK, {"strips": False, "says": "/food/, /other"}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", ["", "first-key"])
def test_every_address_is_right(bundle: Path, tmp_path: Path, way: str, key: str) -> None:
    settings, proxy = WAYS[way]
    if key:
        (tmp_path / "keys").write_text(key)
        settings = settings | {"api_keys_file": tmp_path / "keys"}
    with (
        running(bundle, **settings) as (url, _),
        behind_proxy(url, "/food", **proxy) as outside,
        httpx.Client(base_url=outside, headers={"X-Api-Key": key} if key else {}) as client,
    ):
        assert client.post("/food/predict", content=GOOD).json()["prediction"]
        assert client.post("/food/", content=GOOD).json()[0]["label"]
        links = client.get("/food/", headers=JSON).json()
        assert links["page"] == "/food/"
        for address in links.values():
            assert client.get(address).status_code in (200, 405), address
        assert "static/page.js" in client.get("/food/").text
        assert client.get("/food/static/page.js").status_code == 200
        assert client.get("/food/static/swagger-ui.css").status_code == 200
        document = client.get("/food/openapi.json").json()
        assert document["servers"] == [{"url": "/food"}]
        samples = [one["x-codeSamples"][0]["source"] for path in document["paths"].values() for one in path.values()]
        assert all(f" {ADDRESS}/food/" in one for one in samples)
        missing = client.get("/food/nothing")
        assert_error(missing, "not_found")
        assert missing.json()["error"] == "There is no route /food/nothing; see /food/docs."
        wrong = client.get("/food/predict")
        assert_error(wrong, "method_not_allowed")
        assert wrong.json()["error"] == "The route /food/predict does not answer GET; see /food/docs."
        assert wrong.headers["allow"] == "POST"
        if key:
            for path in ("/food/labels", "/food//docs", "/food/nothing", "/food/food/labels"):
                assert_error(httpx.get(f"{outside}{path}"), "unauthorized")
            assert_error(httpx.post(f"{outside}/food", content=GOOD), "unauthorized")
        routes = set(re.findall(r'route="([^"]+)"', client.get("/food/metrics").text))
        assert routes >= {"/predict", "/", "other"}
        assert not [route for route in routes if "food" in route]


def test_the_prefix_alone(bundle: Path) -> None:
    """A page needs the slash for its addresses; a program does not."""
    with running(bundle, root_path="/food") as (url, _):
        moved = httpx.get(f"{url}/food")
        assert (moved.status_code, moved.headers["location"]) == (307, "/food/")
        assert httpx.get(f"{url}/food", headers=JSON).json()["predict"] == "/food/predict"
        assert httpx.post(f"{url}/food", content=GOOD).json()[0]["label"]
        assert httpx.get(f"{url}/").status_code == 200
        assert httpx.get(f"{url}/health/live").status_code == 200, "probes go past the proxy"
        assert_error(httpx.get(f"{url}/foodie/health"), "not_found")


def test_a_header_of_anybody_else_is_nothing(bundle: Path) -> None:
    said = {"X-Forwarded-Prefix": "/food"}
    for trusted in ("", "10.0.0.0/8, ::1"):
        with running(bundle, trusted_proxies=trusted) as (url, _):
            assert "servers" not in httpx.get(f"{url}/openapi.json", headers=said).json()
            assert httpx.get(f"{url}/", headers=said | JSON).json()["docs"] == "/docs"
            assert_error(httpx.get(f"{url}/food/labels", headers=said), "not_found")


@pytest.mark.parametrize(
    ("prefix", "path"),
    [("/predict", "/predict"), ("/v2", "/v2/health/ready"), ("/docs", "/docs"), ("/food", "/predict")],
)
def test_a_header_that_begins_a_path_of_the_service(bundle: Path, prefix: str, path: str) -> None:
    """The proxy has taken it off: what is left is no prefix, but the path that the client asked for."""
    with (
        running(bundle, trusted_proxies="*") as (url, _),
        behind_proxy(url, prefix, strips=True, says=prefix) as outside,
    ):
        method, content = ("POST", GOOD) if path == "/predict" else ("GET", b"")
        inside, found = (httpx.request(method, at + path, content=content) for at in (url, outside + prefix))
        assert (found.status_code, _shape(found)) == (200, _shape(inside))
        assert httpx.get(f"{outside}{prefix}/", headers=JSON).json()["predict"] == f"{prefix}/predict"


def _shape(answer: httpx.Response) -> object:
    return sorted(answer.json()) if "json" in answer.headers["content-type"] else answer.text


def test_one_prefix_is_not_in_the_document_of_another(bundle: Path) -> None:
    with running(bundle, trusted_proxies="*") as (url, _):
        plain = httpx.get(f"{url}/openapi.json")
        for prefix in ("/one", "/two/three"):
            found = httpx.get(f"{url}/openapi.json", headers={"X-Forwarded-Prefix": prefix})
            assert found.json()["servers"] == [{"url": prefix}]
            assert "X-Forwarded-Prefix" in found.headers["vary"]
            assert found.text.count(prefix) == 1 + plain.text.count(ADDRESS)
        again = httpx.get(f"{url}/openapi.json")
        assert again.json() == plain.json()
        assert "servers" not in again.json()


def test_what_is_a_prefix() -> None:
    good = {
        "/food": "/food",
        " /food/ ": "/food",
        "/a/b-c.d_~1": "/a/b-c.d_~1",
        "/.hidden": "/.hidden",
        "": "",
        "/": "",
    }
    assert {text: prefix_from(text) for text in good} == good
    for text in ("food", "//food", "/a//b", "/food//", "//evil.example", "https://evil.example", "/a b", "/a\nb", "/é",
                 "/%2e%2e", "/..", "/a/../b", "/a/.", "/a?b", "/a#b", "/a\\b", '/"', "/<b>", "/a:b", "/a,b",
                 "/" + "a" * LONGEST_PREFIX):  # fmt: skip
        assert prefix_from(text) is None, text
    assert prefix_from("/" + "a" * (LONGEST_PREFIX - 1)) is not None


@pytest.mark.parametrize("name", ["/predict", "/v2", "/static/", "/health"])
def test_a_root_path_that_is_a_route_is_refused(bundle: Path, name: str) -> None:
    with pytest.raises(ContractError, match="root_path cannot be"), running(bundle, root_path=name):
        pass


def seen(
    path: str, header: str | None = None, peer: str | None = "10.1.2.3", root: str = "", trusted: str = "10.0.0.0/8"
) -> Scope:
    """What the application sees."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    headers = [] if header is None else [(b"x-forwarded-prefix", header.encode("latin-1"))]
    client = None if peer is None else (peer, 1)
    scope = {"type": "http", "path": path, "raw_path": path.encode(), "headers": headers, "client": client}
    asyncio.run(Prefix(app, root, networks(trusted.split(",")))(scope, receive, send))
    return scopes[0]


@pytest.mark.parametrize(
    ("peer", "trusted", "believed"),
    [
        ("10.1.2.3", "10.0.0.0/8", True), ("11.1.2.3", "10.0.0.0/8", False), ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("fd00::7", "fd00::/8", True), ("fd00::7", "10.0.0.0/8", False), ("fe80::1%eth0", "fe80::/10", True),
        ("10.1.2.3", "10.1.2.3", True), ("10.1.2.4", "10.1.2.3", False), ("10.1.2.4", "10.1.2.3,10.1.2.4", True),
        ("1.2.3.4", "*", True), ("fd00::7", "*", True), (None, "10.0.0.0/8", False), ("a-socket", "10.0.0.0/8", False),
    ],
)  # fmt: skip
def test_who_is_believed(peer: str | None, trusted: str, believed: bool) -> None:
    scope = seen("/food/labels", "/food", peer, trusted=trusted)
    assert prefix_of(scope) == ("/food" if believed else "")
    assert scope["path"] == ("/labels" if believed else "/food/labels")


def test_the_header_takes_the_place_of_root_path_if_it_is_a_prefix() -> None:
    for header, prefix in (("/a/b", "/a/b"), ("//a", "/food"), ("", "/food"), ("/", "/food"), ("/\xe9", "/food")):
        assert prefix_of(seen("/labels", header, root="/food")) == prefix
    assert prefix_of(seen("/labels", "/a", "11.0.0.1", root="/food")) == "/food"


def test_the_paths_inside() -> None:
    for path, inside, bare in (
        ("/food", "/", True), ("/food/", "/", False), ("/food//a", "//a", False), ("/food/food/a", "/food/a", False),
        ("/foodie", "/foodie", False), ("/a/food/b", "/a/food/b", False), ("/", "/", False),
    ):  # fmt: skip
        scope = seen(path, root="/food")
        assert (scope["path"], scope["raw_path"], is_bare(scope)) == (inside, inside.encode(), bare)
