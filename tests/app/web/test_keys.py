"""API keys: who has none is told so before anything is read; who needs none is not asked."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from app.web.keys import is_open
from tests.app.inside import running
from tests.app.photos import assert_error
from tests.conftest import drawn_png, run_module

GOOD = drawn_png(0, size=32)
OPEN = ("/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "/")
CLOSED = ("/labels", "/info", "/nothing", "/health/", "/metrics/x", "//metrics")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# the kitchen\nfirst-key\n\n  second-key  \r\n# old-key\n")
    return path


def test_with_keys(bundle: Path, keys: Path) -> None:
    with running(bundle, api_keys_file=keys) as (url, _):
        for headers in (
            {"Authorization": "Bearer first-key"},
            {"Authorization": "bearer second-key"},
            {"X-Api-Key": "second-key"},
            {"X-Api-Key": "wrong", "Authorization": "Bearer first-key"},
        ):
            assert httpx.post(f"{url}/predict", content=GOOD, headers=headers).status_code == 200, headers
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "first-key"},
            {"Authorization": "Basic first-key"},
            {"Authorization": "Bearer"},
            {"X-Api-Key": "# old-key"},
            {"X-Api-Key": "old-key"},
            {"X-Api-Key": "first-ke"},
            {"X-Api-Key": "first-key-"},
        ):
            refused = httpx.post(f"{url}/predict", content=GOOD, headers=headers)
            assert_error(refused, "unauthorized")
            assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
            assert refused.headers["X-Request-Id"]
            assert not any(text in refused.text for text in ("first-key", "wrong", "old-key"))
        foreign = [(b"x-api-key", b"\xff\xfe"), (b"authorization", b"Bearer \xe9")]
        for pair in foreign:
            assert_error(httpx.get(f"{url}/labels", headers=[pair]), "unauthorized")
        for path in OPEN:
            assert httpx.get(url + path).status_code in (200, 404), path  # 404: no such page in this build
        for path in CLOSED:
            assert_error(httpx.get(url + path), "unauthorized")
        assert_error(httpx.post(f"{url}/", content=GOOD), "unauthorized")
        found = httpx.get(f"{url}/metrics").text
        assert 'requests_total{outcome="unauthorized",route="/predict"} 9.0' in found


def test_without_keys_nobody_is_asked(server: str) -> None:
    for headers in ({}, {"Authorization": "Bearer hf_of_another_service"}, {"X-Api-Key": "x"}):
        assert httpx.post(f"{server}/predict", content=GOOD, headers=headers).status_code == 200


def test_the_service_does_not_start_without_its_keys(bundle: Path, tmp_path: Path) -> None:
    done = run_module("app", "--bundle", bundle, "--port", "0", "--api-keys-file", tmp_path / "none")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"app: The API keys at {tmp_path / 'none'} cannot be read: ")


def test_what_is_open() -> None:
    assert all(is_open(method, path) for method in ("GET", "HEAD") for path in (*OPEN, "/static/a.js"))
    assert not any(is_open("GET", path) for path in (*CLOSED, "/static", "/predict"))
    assert not any(is_open(method, "/") for method in ("POST", "PUT", "OPTIONS"))
