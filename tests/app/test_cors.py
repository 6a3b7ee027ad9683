"""Pages of other origins: refused unless the setting names them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.app.inside import running
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)
OURS, THEIRS = "https://menu.example", "https://elsewhere.example"
ALLOWED = "Access-Control-Allow-Origin"


def preflight(url: str, origin: str, header: str = "authorization") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": header}
    return httpx.options(f"{url}/predict", headers=asked)


def test_off_by_default(server: str) -> None:
    assert ALLOWED not in httpx.post(f"{server}/predict", content=GOOD, headers={"Origin": OURS}).headers
    assert_error(preflight(server, OURS), "method_not_allowed")


def test_named_origins(bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("key\n")
    with running(bundle, cors_origins=f"{OURS}, http://other:3000", api_keys_file=keys) as (url, _):
        allowed = preflight(url, OURS)  # a browser sends it without the key
        assert (allowed.status_code, allowed.headers[ALLOWED]) == (200, OURS)
        assert "authorization" in allowed.headers["Access-Control-Allow-Headers"].lower()
        for refused in (preflight(url, THEIRS), preflight(url, OURS, header="x-unknown")):
            assert_error(refused, "bad_request")
            assert "Disallowed CORS" in refused.json()["error"]
            assert refused.headers["Vary"] == allowed.headers["Vary"]  # a cache must not hand either to another page
        assert ALLOWED not in preflight(url, THEIRS).headers
        good = httpx.post(f"{url}/predict", content=GOOD, headers={"Origin": OURS, "X-Api-Key": "key"})
        assert (good.status_code, good.headers[ALLOWED]) == (200, OURS)
        exposed = good.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"X-Request-Id", "Server-Timing", "Retry-After"} == set(exposed)
        unknown = httpx.post(f"{url}/predict", content=GOOD, headers={"Origin": OURS})
        assert_error(unknown, "unauthorized")
        assert unknown.headers[ALLOWED] == OURS  # else the page could not read why
        assert ALLOWED not in httpx.get(f"{url}/health", headers={"Origin": THEIRS}).headers


@pytest.mark.parametrize("origin", [OURS, THEIRS])
def test_all_origins(bundle: Path, origin: str) -> None:
    with running(bundle, cors_origins="*") as (url, _):
        assert preflight(url, origin).headers[ALLOWED] == "*"
        assert httpx.get(f"{url}/labels", headers={"Origin": origin}).headers[ALLOWED] == "*"
