"""Requests of the Open Inference Protocol that are broken, too large or too late, and its bytes alone."""

from __future__ import annotations

import base64
import gzip
import json
import random
import threading
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine.engine import Engine
from app.faults import ServiceError
from app.protocols.oip.request import pack_bytes, parse_request, unpack_bytes
from app.serving.service import Service
from tests.app.inside import Gate, running
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)
TEXT = base64.b64encode(GOOD).decode()
HEAD = "Inference-Header-Content-Length"


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [TEXT]} | fields


def in_json(whole: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"json": {"inputs": [tensor(**fields)]} | (whole or {})}


def in_binary(data: bytes, *, size: Any = None, **fields: Any) -> dict[str, Any]:
    one = tensor(parameters={"binary_data_size": len(data) if size is None else size}, **fields)
    del one["data"]
    head = json.dumps({"inputs": [one]}).encode()
    return {"content": head + data, "headers": {HEAD: str(len(head))}}


def with_head(length: str, content: bytes = b"{}") -> dict[str, Any]:
    return {"content": content, "headers": {HEAD: length}}


PACKED = pack_bytes([GOOD])
PLAIN = json.dumps({"inputs": [tensor()]}).encode()
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"content": b""}, "bad_request"),
    "half JSON": ({"content": b'{"inputs": ['}, "bad_request"),
    "no inputs": ({"json": {}}, "bad_request"),
    "inputs of numbers": ({"json": {"inputs": [1]}}, "bad_request"),
    "two inputs": ({"json": {"inputs": [tensor(), tensor()]}}, "bad_request"),
    "another input": (in_json(name="PIXELS"), "bad_request"),
    "an unhashable name": (in_json(name=["IMAGE"]), "bad_request"),
    "another datatype": (in_json(datatype="UINT8"), "bad_request"),
    "shape [1]": (in_json(shape=[1]), "bad_request"),
    "shape [1, 2]": (in_json(shape=[1, 2]), "bad_request"),
    "shape [0, 1]": (in_json(shape=[0, 1], data=[]), "bad_request"),
    "shape [-1, 1]": (in_json(shape=[-1, 1]), "bad_request"),
    "shape [true, true]": (in_json(shape=[True, True]), "bad_request"),
    "no shape": (in_json(shape=None), "bad_request"),
    "more elements than the shape": (in_json(data=[TEXT, TEXT]), "bad_request"),
    "fewer elements than the shape": (in_json(shape=[2, 1]), "bad_request"),
    "33 photos": (in_json(shape=[33, 1], data=[TEXT] * 33), "too_many_images"),
    "a huge shape": (in_json(shape=[10**30, 1]), "too_many_images"),
    "numbers as data": (in_json(data=[6]), "bad_request"),
    "no base64": (in_json(data=["dinner.jpg!"]), "bad_request"),
    "an empty text": (in_json(data=[""]), "missing_image"),
    "data and binary": (in_json(parameters={"binary_data_size": 3}), "bad_request"),
    "shared memory": (
        {"json": {"inputs": [{k: v for k, v in tensor().items() if k != "data"}]}}, "bad_request",
    ),
    "an output that is none": (in_json({"outputs": [{"name": "MASK"}]}), "bad_request"),
    "an output twice": (in_json({"outputs": [{"name": "LABEL"}] * 2}), "bad_request"),
    "outputs that are no list": (in_json({"outputs": {"name": "LABEL"}}), "bad_request"),
    "outputs of zero": (in_json({"outputs": 0}), "bad_request"),
    "outputs of no text": (in_json({"outputs": ""}), "bad_request"),
    "half a photo": (in_json(shape=[1.5, 1]), "bad_request"),
    "half a class": (
        in_json({"outputs": [{"name": "LABEL", "parameters": {"classification": 0.5}}]}), "invalid_parameter",
    ),
    "binary_data of one": (in_json({"parameters": {"binary_data_output": 1}}), "invalid_parameter"),
    "a number as id": (in_json({"id": 42}), "bad_request"),
    "timeout in words": (in_json({"parameters": {"timeout": "soon"}}), "invalid_parameter"),
    "timeout before now": (in_json({"parameters": {"timeout": -1}}), "invalid_parameter"),
    "parameters that are none": (in_json({"parameters": []}), "bad_request"),
    "a head longer than the body": (with_head("3"), "bad_request"),
    "a head of minus one": (with_head("-1"), "bad_request"),
    "a head in words": (with_head("two"), "bad_request"),
    "a head of many digits": (with_head("9" * 5000), "bad_request"),
    "an empty raw request": (with_head("0", b""), "missing_image"),
    "a raw request of no photo": (with_head("0", b"no photo at all"), "unsupported_format"),
    "short binary data": (in_binary(PACKED[:-1]), "bad_request"),
    "two bytes of binary data": (in_binary(PACKED[:2]), "bad_request"),
    "trailing binary data": (in_binary(PACKED + b"\0"), "bad_request"),
    "a size that is not so": (in_binary(PACKED, size=len(PACKED) - 1), "bad_request"),
    "a size in words": (in_binary(PACKED, size="all"), "bad_request"),
    "binary data for two": (in_binary(PACKED, shape=[2, 1]), "bad_request"),
    "binary data that nobody names": (with_head(str(len(PLAIN)), PLAIN + b"xyz"), "bad_request"),
    "an empty element": (in_binary(pack_bytes([b""])), "empty_image"),
    "an encoding": ({"content": gzip.compress(b"{}"), "headers": {"content-encoding": "gzip"}}, "unsupported_encoding"),
    "an id of a megabyte": (in_json({"id": "i" * (1 << 20)}), "bad_request"),
    "an output of a megabyte": (in_json({"outputs": [{"name": "x" * (1 << 20)}]}), "bad_request"),
    "a thousand inputs": ({"json": {"inputs": [tensor()] * 1000}}, "bad_request"),
    "a thousand outputs": (in_json({"outputs": [{"name": "LABEL"}] * 1000}), "bad_request"),
    "a shape of thousands": (in_json(shape=[1] * 5000), "bad_request"),
    "thousands of parameters": (in_json({"parameters": {str(i): i for i in range(5000)}}), "bad_request"),
    "a deep shape": (in_json(shape=[[1]], data=[[[TEXT]]]), "bad_request"),
    "an endless shape": ({"content": b'{"inputs": [{"name": "IMAGE", "shape": [Infinity, 1]}]}'}, "bad_request"),
}  # fmt: skip


@pytest.fixture(scope="module")
def infer(server: str) -> str:
    name = httpx.get(f"{server}/info").json()["model"]["name"]
    return f"{server}/v2/models/{name}/infer"


@pytest.mark.parametrize("name", BROKEN)
def test_broken_requests_are_refused(infer: str, name: str) -> None:
    request, slug = BROKEN[name]
    assert_error(httpx.post(infer, **request), slug)


def test_other_ways_that_are_right(infer: str) -> None:
    for request in (
        in_json(data=TEXT), in_json(data=[[TEXT]]), in_json({"outputs": []}), in_json({"parameters": None}),
        in_json({"parameters": {"timeout": 0, "priority": 1, "mine": "x"}}), in_binary(PACKED),
        in_json({"outputs": None}), in_json(shape=[1.0, 1.0]), in_json({"parameters": {"timeout": 1e7}}),
    ):  # fmt: skip
        answer = httpx.post(infer, **request)
        assert answer.status_code == 200, answer.text
        assert [one["name"] for one in answer.json()["outputs"]] == ["LABEL", "SCORE"]


def test_a_version_is_part_of_the_path_alone(infer: str) -> None:
    assert httpx.post(infer, params={"version": "another"}, **in_json()).status_code == 200
    model = httpx.get(infer.removesuffix("/infer"), params={"version": "another"})
    assert model.status_code == 200
    assert_error(httpx.get(f"{infer.removesuffix('/infer')}/versions/another"), "unknown_model")


def test_an_id_comes_back_as_it_was(infer: str) -> None:
    for text in ("", "a b", "\ud800", "é" * 100):
        assert httpx.post(infer, content=json.dumps(in_json({"id": text})["json"])).json()["id"] == text


@pytest.mark.parametrize(
    "path", ["", "/ready", "/config", "/stats", "/versions/1", "/versions/1/ready", "/versions/1/stats"]
)
def test_unknown_models_and_versions(server: str, infer: str, path: str) -> None:
    known = infer.removesuffix("/infer") if "versions" in path else f"{server}/v2/models/another"
    assert_error(httpx.get(known + path), "unknown_model")


def test_a_body_that_grows_beyond_the_limit_is_refused(bundle: Path) -> None:
    with running(bundle, max_body_bytes=20_000, accept_compressed=True) as (url, app):
        infer = f"{url}/v2/models/{app.state.service.bundle.manifest.name}/infer"
        for encode, encoding in ((gzip.compress, "gzip"), (zlib.compress, "deflate")):
            sent = encode(bytes(1_000_000))
            assert len(sent) < 20_000
            sentence = assert_error(
                httpx.post(infer, content=sent, headers={"content-encoding": encoding}), "body_too_large"
            )
            assert "20000" in sentence


def test_a_timeout_in_microseconds(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, given = Gate(monkeypatch), []
    gate.open.set()
    deadline = Service._deadline

    def noted(service: Service, timeout_ms: int | None) -> float:
        given.append(timeout_ms)
        return deadline(service, timeout_ms)

    monkeypatch.setattr(Service, "_deadline", noted)
    with running(bundle, request_timeout_ms=3_600_000) as (url, app):
        infer = f"{url}/v2/models/{app.state.service.bundle.manifest.name}/infer"
        gate.open.clear()
        try:
            late = httpx.post(infer, **in_json({"parameters": {"timeout": 200_000}}))
            assert_error(late, "deadline_exceeded")  # the setting's own deadline is an hour
        finally:
            gate.open.set()
        assert httpx.post(infer, **in_json({"parameters": {"timeout": 60_000_000}})).status_code == 200
    assert given == [200, 60_000]


def test_before_the_model_is_loaded_it_is_not_ready(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm, real = threading.Event(), Engine.warm_up

    def waits(engine: Engine) -> None:
        assert warm.wait(60)
        real(engine)

    monkeypatch.setattr(Engine, "warm_up", waits)
    with running(bundle, wait=False) as (url, app):
        try:
            model = f"{url}/v2/models/{app.state.service.bundle.manifest.name}"
            assert httpx.get(f"{url}/v2/health/live").json() == {"live": True}
            for path in (f"{url}/v2/health/ready", f"{model}/ready"):
                assert_error(httpx.get(path), "not_ready")
            assert_error(httpx.post(f"{model}/infer", **in_json()), "not_ready")
            assert httpx.get(model).status_code == 200
        finally:
            warm.set()


def test_bytes_tensors_of_any_elements_come_back() -> None:
    chance = random.Random(1)
    for count in range(8):
        elements = [chance.randbytes(chance.choice([0, 1, 5, 300])) for _ in range(count)]
        assert unpack_bytes(pack_bytes(elements), count, "X") == elements


def test_random_damage_is_a_service_error_or_a_request() -> None:
    chance, whole = random.Random(3), in_binary(PACKED)
    refused = 0
    for _ in range(2000):
        body = bytearray(whole["content"])
        for _ in range(chance.choice([1, 2, 8])):
            body[chance.randrange(min(len(body), 220))] = chance.randrange(256)
        try:
            parse_request(bytes(body), whole["headers"][HEAD], 32)
        except ServiceError as error:
            refused += 1
            str(error).encode()  # no half characters of the client's
    assert 0 < refused < 2000
