"""The unmodified `tritonclient.http`, with gevent and with asyncio, against a running service."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.app.inside import running
from tests.app.photos import predict
from tests.conftest import drawn_png

PHOTOS = [drawn_png(index) for index in range(4)]


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[Any]:
    found = triton.InferenceServerClient(server.removeprefix("http://"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def model(server: str) -> dict[str, str]:
    found: dict[str, str] = httpx.get(f"{server}/info").json()["model"]
    return found


def image(photos: list[bytes], *, binary: bool = True, library: Any = triton) -> Any:
    """The input tensor of these photos, or base64 texts in JSON."""
    tensor = library.InferInput("IMAGE", [len(photos), 1], "BYTES")
    elements = photos if binary else [base64.b64encode(photo) for photo in photos]
    tensor.set_data_from_numpy(np.array(elements, dtype=np.object_).reshape(-1, 1), binary_data=binary)
    return tensor


def labels(result: Any) -> list[str]:
    array = result.as_numpy("LABEL")
    assert array.dtype == np.object_
    return [one.decode() if isinstance(one, bytes) else one for one in array.reshape(-1)]


def test_health_and_metadata(client: Any, model: dict[str, str]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model["name"])
    assert client.is_model_ready(model["name"], model["version"])
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["name"] == "food-vision"
    found = client.get_model_metadata(model["name"])
    assert found == client.get_model_metadata(model["name"], model["version"])
    assert (found["name"], found["versions"]) == (model["name"], [model["version"]])
    assert found["inputs"] == [{"name": "IMAGE", "datatype": "BYTES", "shape": [-1, 1]}]
    assert {one["name"]: one["datatype"] for one in found["outputs"]} == {"LABEL": "BYTES", "SCORE": "FP32"}


def test_config(client: Any, model: dict[str, str]) -> None:
    config = client.get_model_config(model["name"])
    assert config["name"] == model["name"]
    assert config["max_batch_size"] == 32
    assert [one["data_type"] for one in config["input"] + config["output"]] == [
        "TYPE_STRING",
        "TYPE_STRING",
        "TYPE_FP32",
    ]


@pytest.mark.parametrize("in_binary", [True, False])
@pytest.mark.parametrize("out_binary", [True, False, None])
def test_several_photos_in_each_way(
    server: str, client: Any, model: dict[str, str], in_binary: bool, out_binary: bool | None
) -> None:
    expected = [predict(server, photo) for photo in PHOTOS]
    assert len({one["label"] for one in expected}) > 1  # or the order could not be seen
    outputs = None
    if out_binary is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=out_binary) for name in ("SCORE", "LABEL")]
    result = client.infer(
        model["name"],
        [image(PHOTOS, binary=in_binary)],
        model_version=model["version"],
        outputs=outputs,
        request_id="7",
    )
    assert labels(result) == [one["label"] for one in expected]
    scores = result.as_numpy("SCORE")
    assert (scores.shape, scores.dtype) == ((4, 1), np.float32)
    assert scores.reshape(-1) == pytest.approx([one["confidence"] for one in expected], abs=1e-4)
    head = result.get_response()
    assert (head["id"], head["model_name"], head["model_version"]) == ("7", model["name"], model["version"])
    assert ["data" in one for one in head["outputs"]] == [out_binary is False] * 2


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("classes", [1, 3, 1000])
def test_classification(server: str, client: Any, model: dict[str, str], classes: int, binary: bool) -> None:
    output = triton.InferRequestedOutput("LABEL", binary_data=binary, class_count=classes)
    found = client.infer(model["name"], [image(PHOTOS[:2])], outputs=[output]).as_numpy("LABEL")
    count = min(classes, 16)
    assert found.shape == (2, count)
    for row, photo in zip(found, PHOTOS, strict=False):
        top = predict(server, photo, top_k=count)["top"]
        texts = [one.decode() if isinstance(one, bytes) else one for one in row]
        parts = [text.split(":") for text in texts]
        scores = [float(score) for score, *_ in parts]
        assert scores == sorted(scores, reverse=True)
        # by label, since two that are nearly as likely may change places in another batch
        assert {(int(number), label): score for score, (_, number, label) in zip(scores, parts, strict=True)} == (
            pytest.approx({(one["class_id"], one["label"]): one["confidence"] for one in top}, abs=1e-4)
        )


def test_the_asynchronous_client(server: str, model: dict[str, str]) -> None:
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(server.removeprefix("http://")) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_config(model["name"]))["name"] == model["name"]
            ways = [image([photo], library=triton_aio, binary=binary) for photo in PHOTOS for binary in (True, False)]
            return await asyncio.gather(*(client.infer(model["name"], [way]) for way in ways))

    expected = [predict(server, photo)["label"] for photo in PHOTOS for _ in range(2)]
    assert [labels(one)[0] for one in asyncio.run(ask())] == expected


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(server: str, bundle: Path, model: dict[str, str], algorithm: str) -> None:
    with running(bundle, accept_compressed=True) as (url, _):
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        result = client.infer(
            model["name"],
            [image(PHOTOS[:1])],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        client.close()
    assert labels(result) == [predict(server, PHOTOS[0])["label"]]


def test_a_raw_binary_request_is_the_photo_alone(server: str, model: dict[str, str]) -> None:
    answer = httpx.post(
        f"{server}/v2/models/{model['name']}/infer",
        content=PHOTOS[0],
        headers={"Inference-Header-Content-Length": "0"},
    )
    size = int(answer.headers["Inference-Header-Content-Length"])
    head = json.loads(answer.content[:size])
    assert "id" not in head
    assert answer.headers["content-type"] == "application/octet-stream"
    assert [one["parameters"]["binary_data_size"] for one in head["outputs"]] == [len(answer.content) - size - 4, 4]
    assert answer.content[size + 4 : -4].decode() == predict(server, PHOTOS[0])["label"]


def test_a_raw_binary_request_may_ask_for_json(server: str, model: dict[str, str]) -> None:
    headers = {"Inference-Header-Content-Length": "0", "Accept": "application/json"}
    answer = httpx.post(f"{server}/v2/models/{model['name']}/infer", content=PHOTOS[0], headers=headers)
    assert answer.json()["outputs"][0]["data"] == [predict(server, PHOTOS[0])["label"]]
    assert "Inference-Header-Content-Length" not in answer.headers


def test_the_binary_data_of_an_output_wins_over_that_of_the_request(server: str, model: dict[str, str]) -> None:
    body = {
        "inputs": [
            {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": base64.b64encode(PHOTOS[0]).decode()}
        ],
        "outputs": [{"name": "LABEL", "parameters": {"binary_data": False}}, {"name": "SCORE"}],
        "parameters": {"binary_data_output": True},
    }
    answer = httpx.post(f"{server}/v2/models/{model['name']}/infer", json=body)
    head = json.loads(answer.content[: int(answer.headers["Inference-Header-Content-Length"])])
    expected = predict(server, PHOTOS[0])
    assert head["outputs"][0] == {"name": "LABEL", "datatype": "BYTES", "shape": [1, 1], "data": [expected["label"]]}
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 4}
    assert np.frombuffer(answer.content[-4:], "<f4") == pytest.approx(expected["confidence"], abs=1e-4)


def test_statistics_count_what_happened(client: Any, model: dict[str, str]) -> None:
    def now() -> dict[str, Any]:
        (found,) = client.get_inference_statistics(model["name"])["model_stats"]
        assert client.get_inference_statistics()["model_stats"] == [found]
        assert (found["name"], found["version"]) == (model["name"], model["version"])
        return dict(found)

    before, began = now(), time.perf_counter_ns()
    client.infer(model["name"], [image(PHOTOS)])
    client.infer(model["name"], [image(PHOTOS[:1])])
    with pytest.raises(InferenceServerException):
        client.infer(model["name"], [image([b"no photo"])])
    after, waited = now(), time.perf_counter_ns() - began
    assert after["inference_count"] - before["inference_count"] == 5
    assert 2 <= after["execution_count"] - before["execution_count"] <= 5
    grown = {
        stage: {key: value[key] - before["inference_stats"][stage][key] for key in ("count", "ns")}
        for stage, value in after["inference_stats"].items()
    }
    assert {stage: value["count"] for stage, value in grown.items()} == {
        "success": 2, "fail": 1, "queue": 2, "compute_input": 2, "compute_infer": 2, "compute_output": 2,
        "cache_hit": 0, "cache_miss": 0,
    }  # fmt: skip
    assert 0 < grown["compute_infer"]["ns"] < grown["success"]["ns"] < waited
    assert all(value["ns"] > 0 for stage, value in grown.items() if not stage.startswith(("cache", "queue")))
    assert after["last_inference"] > 1_700_000_000_000


def test_errors_can_be_read_through_the_client(client: Any, model: dict[str, str]) -> None:
    cases: list[tuple[str, dict[str, Any], str, str]] = [
        ("another", {}, "404", "There is no model 'another'"),
        (model["name"], {"model_version": "9"}, "404", "There is no version '9'"),
        (model["name"], {"outputs": [triton.InferRequestedOutput("MASK")]}, "400", "There is no output 'MASK'."),
    ]
    for name, options, status, sentence in cases:
        with pytest.raises(InferenceServerException) as failed:
            client.infer(name, [image(PHOTOS[:1])], **options)
        assert failed.value.status() == status
        assert sentence in failed.value.message()
    with pytest.raises(InferenceServerException, match="Element 2 of IMAGE: The 8 bytes") as failed:
        client.infer(model["name"], [image([*PHOTOS[:2], b"no photo", PHOTOS[2]])])
    assert failed.value.status() == "415"
    assert "Bad elements" not in failed.value.message()
    damaged = PHOTOS[0][:100]
    with pytest.raises(InferenceServerException, match="Element 1 of IMAGE: The 8 bytes") as failed:
        client.infer(model["name"], [image([PHOTOS[0], b"no photo", PHOTOS[1], damaged, damaged])])
    assert failed.value.message().endswith(" Bad elements: 1, 3, 4.")
