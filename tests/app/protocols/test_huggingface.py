"""The unmodified `huggingface_hub` clients, synchronous and asynchronous, against a running service."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError

from tests.app.inside import running
from tests.app.other_bundles import only_captions
from tests.app.photos import assert_error, predict
from tests.conftest import drawn_png

GOOD = drawn_png(0)
TEXT = base64.b64encode(GOOD).decode()


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # or the client refuses this machine, too


@pytest.fixture
def client(server: str) -> InferenceClient:
    return InferenceClient(model=server)


def expected(server: str, top_k: int) -> list[Any]:
    return [
        (one["label"], pytest.approx(one["confidence"], abs=1e-4)) for one in predict(server, GOOD, top_k=top_k)["top"]
    ]


def pairs(found: Any) -> list[tuple[str, float]]:
    return [(one.label, one.score) for one in found]


def test_image_classification_of_bytes_and_of_a_path(server: str, client: InferenceClient, tmp_path: Path) -> None:
    (tmp_path / "dinner.png").write_bytes(GOOD)
    assert pairs(client.image_classification(GOOD)) == expected(server, 5)
    assert pairs(client.image_classification(str(tmp_path / "dinner.png"))) == expected(server, 5)


@pytest.mark.parametrize("top_k", [1, 3, 16])
def test_image_classification_with_top_k(server: str, client: InferenceClient, top_k: int) -> None:
    found = client.image_classification(GOOD, top_k=top_k, function_to_apply="softmax")
    assert found == client.image_classification(GOOD, top_k=float(top_k))  # type: ignore[arg-type]
    assert len(found) == top_k
    assert pairs(found) == expected(server, top_k)


def test_top_k_of_the_url(server: str) -> None:
    photo = drawn_png(0)
    text = base64.b64encode(photo).decode()
    assert len(httpx.post(server, content=photo).json()) == 5
    assert len(httpx.post(f"{server}/?top_k=2", content=photo).json()) == 2
    assert len(httpx.post(f"{server}/?top_k=2", json={"inputs": text}).json()) == 2
    body = {"inputs": text, "parameters": {"top_k": 3}}
    assert len(httpx.post(f"{server}/?top_k=2", json=body).json()) == 3, "the body wins"
    assert_error(httpx.post(f"{server}/?top_k=0", content=photo), "invalid_parameter")


def test_image_to_text(server: str, client: InferenceClient, tmp_path: Path) -> None:
    (tmp_path / "dinner.png").write_bytes(GOOD)
    caption = predict(server, GOOD)["raw_output"]
    assert client.image_to_text(GOOD).generated_text == caption
    assert client.image_to_text(tmp_path / "dinner.png").generated_text == caption


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client's own HTTP library
def test_the_asynchronous_client(server: str) -> None:
    async def ask() -> tuple[Any, Any, Any]:
        async with AsyncInferenceClient(model=server) as client:
            return await asyncio.gather(
                client.image_classification(GOOD),
                client.image_classification(GOOD, top_k=2),
                client.image_to_text(GOOD),
            )

    plain, two, text = asyncio.run(ask())
    assert pairs(plain) == expected(server, 5)
    assert pairs(two) == expected(server, 2)
    assert text.generated_text == predict(server, GOOD)["raw_output"]


def test_health_and_info(server: str) -> None:
    client = InferenceClient(provider="hf-inference", model=server)
    assert client.health_check()
    assert client.get_endpoint_info()["provider"] == "cpu"


def test_a_token_is_no_fault(server: str) -> None:
    assert InferenceClient(model=server, token="hf_some_token").image_classification(GOOD)


@pytest.mark.parametrize(
    ("photo", "options", "sentence"),
    [
        (b"a photo of delicious 6", {}, "not an image in a supported format"),
        (GOOD[:300], {}, "cannot be decoded: image file is truncated"),
        (GOOD, {"top_k": 101}, "The parameter top_k must be a whole number from 1 to 100, not 101."),
        (GOOD, {"top_k": 0}, "not 0."),
        (GOOD, {"function_to_apply": "sigmoid"}, "function_to_apply can only be 'softmax', not 'sigmoid'."),
    ],
)
def test_errors_can_be_read_through_the_client(
    client: InferenceClient, photo: bytes, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(HfHubHTTPError) as failed:
        client.image_classification(photo, **options)
    assert sentence in str(failed.value)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"content": b""}, "missing_image"),
    "empty JSON": ({"json": {}}, "missing_image"),
    "no text": ({"json": {"inputs": ""}}, "missing_image"),
    "a number": ({"json": {"inputs": 6}}, "bad_request"),
    "a list": ({"json": [TEXT]}, "bad_request"),
    "a URL": ({"json": {"inputs": "http://example.com/dinner.jpg"}}, "bad_request"),
    "a letter more": ({"json": {"inputs": TEXT + "A"}}, "bad_request"),
    "half JSON": ({"content": b'{"inputs": "', "headers": {"content-type": "application/json"}}, "bad_request"),
    "half JSON of no type": ({"content": b'{"inputs": "'}, "bad_request"),
    "a deep hole": ({"content": b'{"inputs":' + b"[" * 200_000}, "bad_request"),
    "not UTF-8": ({"content": b'{"inputs": "\xff"}'}, "bad_request"),
    "half a character": ({"content": b'{"inputs": "\\ud800"}'}, "bad_request"),
    "a long number": ({"content": b'{"inputs": ' + b"1" * 9000 + b"}"}, "bad_request"),
    "parameters that are none": ({"json": {"inputs": TEXT, "parameters": [3]}}, "bad_request"),
    "top_k of five": ({"json": {"inputs": TEXT, "parameters": {"top_k": "five"}}}, "invalid_parameter"),
    "top_k of two and a half": ({"json": {"inputs": TEXT, "parameters": {"top_k": 2.5}}}, "invalid_parameter"),
    "top_k of true": ({"json": {"inputs": TEXT, "parameters": {"top_k": True}}}, "invalid_parameter"),
    "text of a text": ({"json": {"inputs": base64.b64encode(b"beignets").decode()}}, "unsupported_format"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_requests_are_refused(server: str, name: str) -> None:
    request, slug = BROKEN[name]
    assert_error(httpx.post(server, **request), slug)


def test_other_ways_of_sending(server: str) -> None:
    best = predict(server, GOOD)["label"]
    ways: list[dict[str, Any]] = [
        {"content": GOOD, "headers": {"content-type": "image/png"}},
        {"json": {"inputs": TEXT, "parameters": None}},
        {"json": {"inputs": f"data:image/png;base64,{TEXT}", "parameters": {"top_k": None}}},
        {"json": {"inputs": base64.encodebytes(GOOD).decode()}},
        {"files": {"image": GOOD}},
    ]
    for way in ways:
        assert httpx.post(server, **way).json()[0]["label"] == best


def test_a_model_without_labels_gives_its_free_caption(bundle: Path, tmp_path: Path) -> None:
    with running(only_captions(bundle, tmp_path / "captions")) as (url, _):
        caption = httpx.post(f"{url}/caption", content=GOOD).json()["caption"]
        assert httpx.post(url, content=GOOD).json() == [{"generated_text": caption}]
        assert InferenceClient(model=url).image_to_text(GOOD).generated_text == caption
