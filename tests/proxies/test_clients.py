"""Clients of other languages, straight to the service and through the proxies: the right label each time.

Each posts the photo as multipart and as raw bytes, over connections that are kept.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.proxies.conftest import Photo
from tests.proxies.started import haproxy, needed, nginx

pytestmark = pytest.mark.proxies

CLIENTS = Path(__file__).parent / "clients"
COUNT = 100  # of each kind
LONGEST = 300.0  # seconds


@dataclass(frozen=True)
class Way:
    """To the service: its URL, and the one with TLS (HTTP/2) if there is one."""

    url: str
    tls_url: str = ""


@pytest.fixture(scope="module", params=["straight", "nginx", "haproxy"])
def way(service: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """Straight to the service, and through each proxy."""
    if request.param == "straight":
        yield Way(f"{service}/predict")
        return
    start = {"nginx": nginx, "haproxy": haproxy}[request.param]
    with start(tmp_path_factory.mktemp("proxy"), [service], {}) as proxy:
        yield Way(f"{proxy.url}/predict", f"{proxy.tls_url}/predict")


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client in Go, compiled."""
    needed("go")
    program = tmp_path_factory.mktemp("go") / "client"
    run(["go", "build", "-o", program, CLIENTS / "client.go"])
    return program


@pytest.fixture(scope="module")
def java_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the client in Java, compiled."""
    needed("java", "javac")
    folder = tmp_path_factory.mktemp("java")
    run(["javac", "-d", folder, CLIENTS / "Client.java"])
    return folder


@pytest.mark.parametrize("version", [[], ["1.1"]], ids=["wishes for HTTP/2", "HTTP/1.1"])
def test_java(java_client: Path, way: Way, photo: Photo, version: list[str]) -> None:
    found = asked(["java", "-cp", java_client, "Client"], way.url, photo, version)
    assert found == {photo.label: 2 * COUNT}


def test_go(go_client: Path, way: Way, photo: Photo) -> None:
    for url in filter(None, (way.url, way.tls_url)):
        assert asked([go_client], url, photo) == {photo.label: 2 * COUNT, "connections": 1}


def test_node_fetch(way: Way, photo: Photo) -> None:
    needed("node")
    assert asked(["node", CLIENTS / "fetch.mjs"], way.url, photo) == {photo.label: 2 * COUNT}


def test_node_http(way: Way, photo: Photo) -> None:
    needed("node")
    found = asked(["node", CLIENTS / "http.mjs"], way.url, photo)
    assert found == {photo.label: 2 * COUNT, "connections": 1}


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
@pytest.mark.parametrize("body", ["form", "raw"])
def test_curl(way: Way, photo: Photo, version: str, body: str) -> None:
    """`--http2` on a plain port is a wish for HTTP/2 (Upgrade: h2c) in the first request of a connection."""
    needed("curl")
    what = ["-F", f"image=@{photo.path}"] if body == "form" else ["--data-binary", f"@{photo.path}"]
    for url in filter(None, (way.url, way.tls_url)):
        command = ["curl", "-sS", "--insecure", "--noproxy", "*", version, *what]
        lines = run([*command, "-w", "\n%{num_connects}\n", *[url] * COUNT]).splitlines()
        assert [photo.label in line for line in lines[::2]] == [True] * COUNT, lines
        connections = sum(map(int, lines[1::2]))
        assert connections == (COUNT if version == "--http1.0" else 1)


def asked(command: Sequence[str | Path], url: str, photo: Photo, more: Sequence[str] = ()) -> dict[str, int]:
    """What the program prints: labels, and how often each came."""
    lines = run([*command, url, photo.path, str(COUNT), *more]).splitlines()
    return {name: int(times) for name, times in (line.rsplit("\t", 1) for line in lines)}


def run(command: Sequence[str | Path]) -> str:
    """What a program prints; the test fails where the program does."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LONGEST, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
