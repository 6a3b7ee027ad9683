"""Requests of every kind through real nginx and HAProxy, with the files of docs/proxies: photo in, label out."""

from __future__ import annotations

import io
import re
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.app.inside import until
from tests.app.photos import assert_error
from tests.conftest import serving
from tests.proxies.conftest import PATIENT, Photo
from tests.proxies.started import PATIENCE, Front, Proxy, free_ports, haproxy, needed, nginx
from tests.proxies.wire import connected, head, read_answer

pytestmark = pytest.mark.proxies

HTTP_1_1 = "        proxy_http_version 1.1;"
UNBUFFERED = {HTTP_1_1: f"{HTTP_1_1}\n        proxy_request_buffering off;\n        proxy_buffering off;"}
ENDED = {HTTP_1_1: f"{UNBUFFERED[HTTP_1_1]}\n        keepalive_timeout 0;"}
KEPT = {"proxy_pass http://food_vision/;": "proxy_pass http://food_vision;"}  # the prefix stays on the path
FRONTS: dict[str, tuple[Front, dict[str, str]]] = {
    "nginx": (nginx, {}),
    "nginx, nothing buffered": (nginx, UNBUFFERED | KEPT),
    "nginx, HTTP/1.0 upstream": (nginx, {HTTP_1_1: "", '        proxy_set_header Connection "";': ""}),
    "haproxy": (haproxy, {}),
    "haproxy, waits for bodies": (
        haproxy,
        {
            "    http-reuse safe": "    http-reuse safe\n    option http-buffer-request",
            "    http-request replace-path": "    #",  # the prefix stays on the path
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=FRONTS)
def front(service: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Each proxy in turn before the service."""
    start, changes = FRONTS[request.param]
    with start(tmp_path_factory.mktemp("proxy"), [service], changes) as proxy:
        yield proxy


@pytest.fixture
def client(front: Proxy, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of the proxy, with one connection that is kept.

    An nginx that buffers nothing closes it unannounced after an answer that came before the body's end: whether the
    next request is lost is a matter of who is quicker. There the client ends each connection itself.
    """
    kept = 0 if request.node.callspec.params["front"] == "nginx, nothing buffered" else 1
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=kept)
    with httpx.Client(base_url=front.url, limits=limits, timeout=PATIENCE) as client:
        yield client


def test_a_photo_by_every_way_and_below_a_prefix(client: httpx.Client, photo: Photo) -> None:
    for path in ("/predict", "/food/predict"):
        for _ in range(3):
            assert client.post(path, content=photo.data).json()["prediction"] == photo.label
            assert client.post(path, files={"image": photo.data}).json()["prediction"] == photo.label
            pieces = (photo.data[at : at + 1000] for at in range(0, len(photo.data), 1000))
            assert client.post(path, content=pieces).json()["prediction"] == photo.label, "in chunks"
    page = client.get("/food/").text
    for address in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert client.get(f"/food/{address}").status_code == 200, address


def test_the_prefix_is_that_of_the_proxy(client: httpx.Client) -> None:
    forged = {"X-Forwarded-Prefix": "/elsewhere"}
    for path, servers in (("/openapi.json", None), ("/food/openapi.json", [{"url": "/food"}])):
        for headers in ({}, forged):
            assert client.get(path, headers=headers).json().get("servers") == servers
    moved = client.get("/food")
    assert moved.status_code in (301, 308)
    assert moved.headers["location"].endswith("/food/")


def test_a_large_photo(client: httpx.Client, photo: Photo) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(photo.data)).convert("RGB").resize((2600, 2600)).save(file, "BMP")
    assert len(file.getvalue()) > 20e6
    answer = client.post("/predict", content=file.getvalue())
    assert (answer.status_code, answer.json()["prediction"]) == (200, photo.label)
    assert client.post("/predict", files={"image": file.getvalue()}).json()["prediction"] == photo.label


def test_the_id_of_a_request_goes_through(client: httpx.Client, photo: Photo) -> None:
    answer = client.post("/predict", content=photo.data, headers={"X-Request-Id": "order-7"})
    assert answer.headers.get_list("x-request-id") == ["order-7"]
    own = client.post("/predict", content=photo.data).headers.get_list("x-request-id")
    assert re.fullmatch(r"[0-9a-f-]{32,36}", own[0]), own
    assert len(own) == 1


def test_refusals_keep_their_shape_and_the_client_its_connection(client: httpx.Client, photo: Photo) -> None:
    for _ in range(5):
        assert_error(client.post("/nothing", content=photo.data * 10), "not_found")
        assert_error(client.post("/labels", content=photo.data), "method_not_allowed")
        assert_error(client.post("/predict", content=b"text"), "unsupported_format")
        assert_error(client.post("/predict?top_k=0", content=photo.data * 100), "invalid_parameter")
        assert client.head("/health/live").status_code == 200
        assert client.post("/predict", content=photo.data).json()["prediction"] == photo.label


@pytest.mark.parametrize(
    ("start", "changes"),
    [FRONTS["nginx"], (nginx, ENDED), FRONTS["haproxy"]],
    ids=["nginx", "nginx, nothing buffered, each connection ended", "haproxy"],
)
def test_an_answer_before_the_end_of_the_body_says_whether_the_connection_stays(
    start: Front, changes: dict[str, str], service: str, tmp_path: Path
) -> None:
    """The rest of the body and another request come after the answer, if the proxy gives one so early."""
    whole, half = 100_000, 40_000
    with start(tmp_path, [service], changes) as proxy, connected(proxy.url) as (wire, file):
        wire.sendall(f"POST /nothing HTTP/1.1\r\nHost: t\r\nContent-Length: {whole}\r\n\r\n".encode() + bytes(half))
        early = bool(select.select([wire], [], [], 1.0)[0])  # both are right; a busy machine may call an early one late
        if early:
            told = read_answer(file)
        wire.sendall(bytes(whole - half))
        if not early:
            told = read_answer(file)
        assert told.startswith(b"HTTP/1.1 404 "), told
        if b"\r\nconnection: close\r\n" not in told.lower():
            wire.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: t\r\n\r\n")
            assert file.readline().startswith(b"HTTP/1.1 200 "), told


def test_a_body_that_is_too_large(client: httpx.Client, photo: Photo) -> None:
    assert_error(client.post("/predict", content=bytes(33 << 20)), "body_too_large")
    assert_error(client.post("/predict", content=(bytes(1 << 20) for _ in range(33))), "body_too_large")
    assert client.post("/predict", content=photo.data).json()["prediction"] == photo.label


def test_a_client_that_waits_for_100(front: Proxy, photo: Photo) -> None:
    with connected(front.url) as (wire, file):
        for _ in range(3):
            wire.sendall(head(len(photo.data), "Expect: 100-continue\r\n"))
            assert file.readline().startswith(b"HTTP/1.1 100 ")
            assert file.readline() == b"\r\n"
            wire.sendall(photo.data)
            assert photo.label.encode() in read_answer(file)
        wire.sendall(head(40 << 20, "Expect: 100-continue\r\n"))
        first = read_answer(file)
        if first.startswith(b"HTTP/1.1 100 "):  # of a proxy that wants the body's begin itself
            wire.sendall(bytes(64 << 10))
            first = read_answer(file)
        assert b'"body_too_large"' in first


def test_a_slow_client_holds_nobody_up(front: Proxy, photo: Photo) -> None:
    with connected(front.url) as (wire, file):
        wire.sendall(head(len(photo.data)))
        for at in range(0, len(photo.data), 1 + len(photo.data) // 5):
            wire.sendall(photo.data[at : at + 1 + len(photo.data) // 5])
            assert httpx.post(f"{front.url}/predict", content=photo.data).json()["prediction"] == photo.label
        assert photo.label.encode() in read_answer(file)


def test_http_1_0(front: Proxy, photo: Photo) -> None:
    with connected(front.url) as (wire, file):
        wire.sendall(f"POST /predict HTTP/1.0\r\nContent-Length: {len(photo.data)}\r\n\r\n".encode() + photo.data)
        whole = file.read()
    assert photo.label.encode() in whole
    assert b"chunked" not in whole


@pytest.mark.parametrize("way", ["--http1.0", "--http1.1", "--http2"])
def test_tls(front: Proxy, photo: Photo, way: str) -> None:
    needed("curl")
    url = f"{front.tls_url}/predict"
    for body in (["-F", f"image=@{photo.path}"], ["--data-binary", f"@{photo.path}"]):
        flags = ["-sS", "--insecure", "--noproxy", "*", "-w", "\n%{http_version} %{num_connects}\n", way, *body]
        done = subprocess.run(["curl", *flags, url, url], capture_output=True, text=True, timeout=PATIENCE, check=True)
        lines = done.stdout.splitlines()
        assert [photo.label in line for line in lines] == [True, False] * 2, done.stdout
        version = "2" if way == "--http2" else "1.1"
        assert [lines[1], lines[3]] == [f"{version} 1", f"{version} {int(way == '--http1.0')}"]


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_overload_and_no_service(name: str, bundle: Path, photo: Photo, tmp_path: Path) -> None:
    """The service's word that it is full comes through; where there is no service the proxy's has the same shape."""
    start, changes = FRONTS[name]
    none = f"http://127.0.0.1:{free_ports(1)[0]}"
    with serving(bundle, *PATIENT, "--max-requests", 1) as url, start(tmp_path, [url], changes) as proxy:
        until(lambda: httpx.get(f"{proxy.url}/health").status_code == 200)
        with connected(url) as (wire, _):
            wire.sendall(head(100) + b"part")
            until(lambda: httpx.post(f"{url}/predict", content=photo.data).status_code == 503)
            answer = httpx.post(f"{proxy.url}/predict", content=photo.data)
            assert_error(answer, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
    with start(tmp_path, [none], changes) as proxy:
        answer = httpx.post(f"{proxy.url}/predict", content=photo.data)
        assert_error(answer, "not_ready")
        assert answer.headers["retry-after"] == "1"
