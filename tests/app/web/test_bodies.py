"""Slow senders, endless headers and forms: each within its limit, each refused in the one shape.

How long a slow sender is waited for, to the millisecond: `test_body_patience`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.faults import ERRORS
from app.web.body import LARGEST_HEAD
from tests.app.inside import running
from tests.app.photos import assert_error, predict, scores
from tests.app.telemetry.test_metrics import scrape, value
from tests.conftest import drawn_png, serving

GOOD = drawn_png(0, size=64)
LIMIT = 60_000
HEAD = b"POST /predict HTTP/1.1\r\nHost: t\r\nX-A: "  # the begin of one


@pytest.fixture(scope="module")
def strict(bundle: Path) -> Iterator[str]:
    """A server with a small limit for bodies."""
    with running(bundle, max_body_bytes=LIMIT) as (url, _):
        yield url


@pytest.fixture(scope="module")
def hasty(bundle: Path) -> Iterator[str]:
    """A server with so little patience that a busy machine may be too slow for it."""
    flags = ("--body-timeout-ms", 300, "--log-level", "warning", "--accept-compressed", True)
    with serving(bundle, *flags) as url:
        yield url


# -- over a raw socket ------------------------------------------------------------------------------------------------


def connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=60)


def assert_refused(connection: socket.socket, slug: str) -> str:
    """The server answers with this slug and then closes; gives the sentence."""
    return refusal(connection.makefile("rb").read(), slug)  # read() returns when it has closed


def refusal(answer: bytes, slug: str) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % ERRORS[slug].status), head
    assert b"connection: close" in head.lower()
    found = json.loads(body)
    assert found["error_type"] == slug
    assert re.fullmatch(r"[A-Z].*\.", found["error"])
    return str(found["error"])


def refused_after(url: str, sent: bytes, words: str) -> None:
    """Who sends this and falls silent gets a `body_timeout` with these words.

    Again where a busy machine brought no byte, or no whole head, of it in time.
    """
    for _ in range(100):
        with connected(url) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            answer = connection.makefile("rb").read()
            if answer and words in refusal(answer, "body_timeout"):
                return
    raise AssertionError("never refused in these words")


def post_head(extra: str) -> bytes:
    return f"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: 5000\r\n{extra}\r\n".encode()


@pytest.mark.parametrize(("extra", "begin"), [
    ("", GOOD[:99]),
    ("Content-Type: multipart/form-data; boundary=cut\r\n", b"--cut\r\nContent-Dis"),
    ("Content-Encoding: gzip\r\n", gzip.compress(GOOD)[:99]),
], ids=["raw", "form", "gzip"])  # fmt: skip
@pytest.mark.parametrize("silent", [True, False])
def test_a_sender_that_falls_silent_is_let_go(hasty: str, extra: str, begin: bytes, silent: bool) -> None:
    sent = post_head(extra) + (b"" if silent else begin)
    refused_after(hasty, sent, "Too little of the request body came in 0.3 seconds")


@pytest.mark.parametrize(
    "sent", [b"no HTTP at all\r\n\r\n", b"GET /health HTTP/9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
def test_what_is_no_http_is_told_so(strict: str, sent: bytes) -> None:
    with connected(strict) as connection:
        connection.sendall(sent)
        assert_refused(connection, "bad_request")


def test_refusals_before_there_is_a_request_are_counted(strict: str) -> None:
    def count(slug: str) -> tuple[float, float]:
        found = scrape(strict)
        of_all = value(found, "requests_total", route="other", outcome=slug)
        return of_all, value(found, "rejected_total", reason=slug)

    slugs = ("headers_too_large", "bad_request")
    before = {slug: count(slug) for slug in slugs}
    with connected(strict) as connection:
        connection.sendall(b"\0\r\n\r\n")
        assert_refused(connection, "bad_request")
    with connected(strict) as connection:
        # no more than is refused: a connection that is closed with bytes unread may lose the answer
        connection.sendall(b"GET /a HTTP/1.1\r\nX-A: ".ljust(LARGEST_HEAD + 1, b"a"))
        assert_refused(connection, "headers_too_large")
    whole = httpx.get(f"{strict}/labels", headers={"x-a": "a" * LARGEST_HEAD})
    assert_error(whole, "headers_too_large")
    for slug, limit in (("headers_too_large", 2), ("bad_request", 0)):
        of_all, rejected = (after - old for after, old in zip(count(slug), before[slug], strict=True))
        assert rejected == limit, slug
        assert of_all == 1, slug


def test_a_head_that_came_too_slowly_is_counted(bundle: Path) -> None:
    with running(bundle, body_timeout_ms=100) as (url, app):
        refused_after(url, HEAD, "The headers of the request were not there within 0.1 seconds")
        labels = {"route": "other", "outcome": "body_timeout"}
        registry = app.state.metrics.registry
        assert registry.get_sample_value("food_vision_requests_total", labels) == 1
        assert registry.get_sample_value("food_vision_rejected_total", {"reason": "body_timeout"}) == 1


@pytest.mark.parametrize("sent", [b"", b"POST /predict HT", HEAD])
def test_headers_that_do_not_come_are_not_waited_for(hasty: str, sent: bytes) -> None:
    if sent:
        refused_after(hasty, sent, "The headers of the request were not there within 0.3 seconds")
    else:
        with connected(hasty) as connection:
            assert connection.recv(1) == b"", "a connection without a request is closed without a word"


@pytest.mark.parametrize("one", [b"X-A: " + b"a" * (1 << 20), b"X-A: b\r\n" * 30_000])
def test_endless_headers_are_refused(strict: str, one: bytes) -> None:
    with connected(strict) as connection:
        try:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\n")
            for at in range(0, len(one), 20_000):
                connection.sendall(one[at : at + 20_000])
        except OSError:
            return  # it has closed already
        with contextlib.suppress(ConnectionResetError):  # closed with bytes unread, which may take the answer along
            assert_refused(connection, "headers_too_large")


def test_whole_headers_over_the_limit_are_refused(server: str) -> None:
    response = httpx.get(f"{server}/health", headers={"x-a": "a" * LARGEST_HEAD})
    assert str(LARGEST_HEAD) in assert_error(response, "headers_too_large")
    assert httpx.get(f"{server}/health", headers={"x-a": "a" * (LARGEST_HEAD - 1000)}).status_code == 200


def test_parts_of_a_form_are_counted(server: str) -> None:
    part = b'--cut\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'
    headers = {"content-type": "multipart/form-data; boundary=cut"}
    for body in (part * 20_000, part.replace(b'"x"', b'"x"; filename="a"') * 20_000):
        response = httpx.post(f"{server}/predict", content=body + b"--cut--\r\n", headers=headers, timeout=30)
        assert response.json()["error_type"] in ("bad_request", "too_many_images")
    many = part.replace(b"\r\n\r\n", b"\r\nX-A: b" * 20_000 + b"\r\n\r\n", 1) + b"--cut--\r\n"
    assert_error(httpx.post(f"{server}/predict", content=many, headers=headers, timeout=30), "bad_request")


def test_after_all_that_a_good_photo_is_answered(strict: str) -> None:
    assert scores(predict(strict, GOOD))


def test_a_large_upload_needs_no_folder_to_write_to(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing here"))
    large = GOOD + bytes(3 << 20)  # what follows the end of a picture is not looked at
    with running(bundle) as (url, _):
        assert scores(predict(url, large)) == pytest.approx(scores(predict(url, GOOD)), abs=1e-5)
