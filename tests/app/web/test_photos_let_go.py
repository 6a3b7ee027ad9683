"""Photos leave the memory with their answer, whatever it is: without the garbage collector, which
comes when it likes.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import tracemalloc
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.app.inside import running, until
from tests.conftest import drawn_png

SIZE = 2_000_000
GOOD = drawn_png(0, size=32) + bytes(SIZE)  # what follows the end of a picture is not looked at
BAD = b"\x89PNG\r\n\x1a\n" + bytes(SIZE)
FORM = {"content-type": "multipart/form-data; boundary=cut"}


def form(*photos: bytes) -> bytes:
    head = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return b"".join(head + photo + b"\r\n" for photo in photos) + b"--cut--\r\n"


def in_json(photo: bytes) -> bytes:
    return b'{"inputs": "' + base64.b64encode(photo) + b'"}'


def requests(infer: str) -> dict[str, tuple[str, bytes | list[bytes], dict[str, str]]]:
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [base64.b64encode(BAD).decode()]}
    late = {"X-Request-Timeout-Ms": "1"}
    return {
        "raw": ("/predict", GOOD, {}),
        "raw, refused": ("/predict", BAD, {}),
        "form": ("/predict", form(GOOD), FORM),
        "form, refused": ("/predict", form(BAD), FORM),
        "form, cut": ("/predict", form(GOOD)[:-9], FORM),
        "batch": ("/predict/batch", form(GOOD, BAD), FORM),
        "caption": ("/caption", GOOD, {}),
        "JSON": ("/", in_json(GOOD), {}),
        "JSON, refused": ("/", in_json(BAD), {}),
        "no JSON": ("/", b"{" + GOOD, {}),
        "no base64": ("/", in_json(BAD)[:-4] + b'#"}', {}),
        "binary": (infer, GOOD, {"Inference-Header-Content-Length": "0"}),
        "Triton's JSON, refused": (infer, json.dumps({"inputs": [tensor]}).encode(), {}),
        "late": ("/predict", GOOD, late),
        "batch, late": ("/predict/batch", form(GOOD, GOOD), FORM | late),
        "too many bytes": ("/predict", [GOOD] * 5, {}),
    }


@pytest.fixture(scope="module")
def traced(bundle: Path) -> Iterator[tuple[str, str]]:
    """A server whose memory is looked at, and its path of the Open Inference Protocol."""
    with running(bundle, max_body_bytes=4 * SIZE, decode_processes=1) as (url, app):
        httpx.post(f"{url}/predict", content=GOOD)
        tracemalloc.start()
        gc.collect()
        gc.disable()
        yield url, f"/v2/models/{app.state.service.bundle.manifest.name}/infer"
        gc.enable()
        tracemalloc.stop()


@pytest.mark.parametrize("name", requests(""))
def test_nothing_of_a_photo_is_left(traced: tuple[str, str], name: str) -> None:
    url, infer = traced
    path, body, headers = requests(infer)[name]
    before = tracemalloc.get_traced_memory()[0]
    client = HTTPConnection(urlsplit(url).netloc, timeout=60)  # kept open: an idle connection must hold no photo either
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            client.request("POST", path, body if isinstance(body, bytes) else iter(body), headers)
            client.getresponse().read()
    until(lambda: tracemalloc.get_traced_memory()[0] - before < SIZE / 2)
    client.close()
