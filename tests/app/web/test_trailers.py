"""Trailers are never headers: what comes after a body is read and forgotten, whatever it claims."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.app.inside import running
from tests.app.raw import PROBE, Answer, answers, connected
from tests.conftest import drawn_png

PHOTO = drawn_png(0)


def with_trailer(url: str, path: str, body: bytes, trailer: bytes, headers: bytes = b"") -> Answer:
    """The answer to a body in chunks with a trailer; the connection goes on behind it."""
    with connected(url) as line:
        line.sendall(
            b"POST %b HTTP/1.1\r\nHost: t\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (path.encode(), headers)
            + b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (len(body), body, trailer)
            + PROBE
        )
        found, probe = answers(line)
    assert probe[0] == 200
    return found


@pytest.mark.parametrize("trailer", [b"X-Api-Key: a-key", b"Authorization: Bearer a-key"])
def test_a_key_is_no_trailer(bundle: Path, tmp_path: Path, trailer: bytes) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    with running(bundle, api_keys_file=keys) as (url, _):
        assert with_trailer(url, "/predict", PHOTO, b"X: y", trailer + b"\r\n")[0] == 200
        status, _, body = with_trailer(url, "/predict", PHOTO, trailer)
        assert (status, json.loads(body)["error_type"]) == (401, "unauthorized")


@pytest.mark.parametrize("name", [b"X-Request-Id", b"X-Amzn-Trace-Id", b"traceparent"])
def test_an_id_is_no_trailer(server: str, name: bytes) -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" if name == b"traceparent" else "Root=1-2-3"
    field = name + b": " + given.encode()
    as_header = with_trailer(server, "/predict", PHOTO, b"X: y", field + b"\r\n")
    as_trailer = with_trailer(server, "/predict", PHOTO, field)
    assert as_header[0] == as_trailer[0] == 200
    assert as_header[1]["x-request-id"] in given
    assert as_trailer[1]["x-request-id"] not in given


def test_the_length_of_a_json_head_is_no_trailer(server: str, bundle: Path) -> None:
    model = json.loads((bundle / "manifest.json").read_text())["name"]
    tensor = struct.pack("<I", len(PHOTO)) + PHOTO
    described = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}
    head = json.dumps({"inputs": [described]}).encode()
    field = b"Inference-Header-Content-Length: %d" % len(head)
    path = f"/v2/models/{model}/infer"
    assert with_trailer(server, path, head + tensor, b"X: y", field + b"\r\n")[0] == 200
    status, _, body = with_trailer(server, path, head + tensor, field)
    assert (status, json.loads(body)["error_type"]) == (400, "bad_request")


@pytest.mark.parametrize("trailer", [b"Content-Type: text/plain", b"Content-Encoding: gzip", b"Expect: 100-continue"])
def test_what_describes_a_body_is_no_trailer(server: str, trailer: bytes) -> None:
    assert with_trailer(server, "/predict", PHOTO, trailer)[0] == 200
