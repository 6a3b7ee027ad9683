"""A service, a photo and its label, for what real proxies and real clients ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import drawn_png, serving

PATIENT = ("--threads", 1, "--log-level", "error", "--request-timeout-ms", 60_000)  # a busy machine is no error


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the load of test_load.py lasts."""
    parser.addoption("--requests", type=int, default=2000, help="requests through each proxy (default: 2000)")


@dataclass(frozen=True)
class Photo:
    """A photo, its file and its label."""

    data: bytes
    path: Path
    label: str


@pytest.fixture(scope="session")
def service(bundle: Path) -> Iterator[str]:
    """The base URL of a service."""
    with serving(bundle, *PATIENT, "--trusted-proxies", "127.0.0.1") as url:
        yield url


@pytest.fixture(scope="session")
def photo(service: str, tmp_path_factory: pytest.TempPathFactory) -> Photo:
    """A drawn picture, and what the service says of it when it is asked directly."""
    path = tmp_path_factory.mktemp("photo") / "a.png"
    path.write_bytes(drawn_png(0))
    answer = httpx.post(f"{service}/predict", content=path.read_bytes())
    return Photo(path.read_bytes(), path, answer.json()["prediction"])
