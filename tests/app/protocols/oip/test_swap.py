"""A model that is replaced while a request of the Open Inference Protocol comes in: who was met is who answers."""

from __future__ import annotations

import json
import socket
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.app.inside import running, until
from tests.app.other_bundles import changed, hotter
from tests.app.protocols.oip.test_broken import PLAIN
from tests.app.serving.test_lifecycle import in_loop, names_of, point


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("renamed", [True, False])
def test_the_model_that_was_met_answers(bundle: Path, tmp_path: Path, versioned: bool, renamed: bool) -> None:
    other, link, old = hotter(bundle, tmp_path / "other"), tmp_path / "current", names_of(bundle)[0]
    if renamed:
        changed(other, name="another")
    link.symlink_to(bundle)
    with running(link) as (url, app):
        name = app.state.service.bundle.manifest.name
        path = f"/v2/models/{name}{f'/versions/{old}' * versioned}/infer"
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=60) as client:
            client.sendall(f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(PLAIN)}\r\n\r\n".encode())
            client.sendall(PLAIN[:-1])
            until(lambda: app.state.budget.bytes == len(PLAIN) - 1)
            point(link, other)
            assert in_loop(app.state.service)
            client.sendall(PLAIN[-1:])
            answer = HTTPResponse(client)
            answer.begin()
            found: dict[str, Any] = json.loads(answer.read())
        assert (answer.status, found.get("model_version")) == (200, old), found
        counted = app.state.oip_statistics
        assert counted.of(name, old).inference_count == 1
        assert counted.of(found["model_name"], names_of(other)[0]).inference_count == 0
        until(lambda: not app.state.service._retiring)
