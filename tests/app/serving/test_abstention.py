"""Abstention: below a wanted confidence the service names no food, says why, and still shows what it saw."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient, constants

from tests.app.inside import running
from tests.app.photos import answer, assert_error, predict, upload
from tests.app.telemetry.test_metrics import scrape, value
from tests.conftest import drawn_png

GOOD = drawn_png(0)
TEXT = base64.b64encode(GOOD).decode()
NAMED = ("prediction", "class_id", "label")


@pytest.fixture(scope="module")
def strict(bundle: Path) -> Iterator[str]:
    """A service that is never sure enough, unless the request says otherwise."""
    with running(bundle, abstain_below=1) as (url, _):
        yield url


@pytest.fixture(scope="module")
def model(server: str) -> str:
    name: str = httpx.get(f"{server}/info").json()["model"]["name"]
    return name


def test_by_default_every_photo_is_answered(server: str) -> None:
    for photo in (GOOD, drawn_png(1)):
        found = predict(server, photo)
        assert found["abstained"] is None
        assert {name: found[name] for name in NAMED} == {name: found["top"][0][name] for name in NAMED}
    assert httpx.get(f"{server}/info").json()["abstain_below"] == 0


def test_the_request_sets_the_line(server: str) -> None:
    sure = predict(server, GOOD, min_confidence=0)
    line = sure["confidence"]
    assert 0 < line < 1, "or the picture shows nothing here"
    assert predict(server, GOOD, min_confidence=line)["prediction"] == sure["prediction"], "the line itself is enough"
    above = round(line + 1e-6, 6)
    unsure = predict(server, GOOD, min_confidence=above)
    assert [unsure[name] for name in NAMED] == [None] * 3, "nothing that a program would act on"
    for name in ("raw_output", "confidence", "top", "model"):
        assert unsure[name] == sure[name], name
    assert unsure["abstained"] == {
        "reason": "low_confidence",
        "message": f"The best label has a probability of {line:g}, below {above:g}.",
        "min_confidence": above,
        "min_familiarity": None,
    }


def test_the_setting_holds_where_the_request_says_nothing(strict: str) -> None:
    assert httpx.get(f"{strict}/info").json()["abstain_below"] == 1
    found = predict(strict, GOOD, top_k=3)
    assert (found["prediction"], found["abstained"]["min_confidence"], len(found["top"])) == (None, 1, 3)
    assert predict(strict, GOOD, min_confidence=0)["prediction"] is not None


def test_each_photo_of_a_batch_is_judged_alone(server: str) -> None:
    photos = [drawn_png(index) for index in range(6)]
    lower, upper = sorted(predict(server, photo)["confidence"] for photo in photos)[2:4]
    assert upper - lower > 0.01, "or rounding decides: photos of a batch are computed together"
    middle = (lower + upper) / 2
    files = [upload(one, "images") for one in (*photos, b"no photo")]
    found = answer(httpx.post(f"{server}/predict/batch", files=files, params={"min_confidence": middle}))["results"]
    assert found.pop()["error_type"] == "unsupported_format"
    assert [one["prediction"] is None for one in found] == [one["confidence"] < middle for one in found]
    assert sum(one["prediction"] is None for one in found) == 3
    assert [one["abstained"] is None for one in found] == [one["prediction"] is not None for one in found]


@pytest.mark.parametrize("wrong", ["-0.1", "1.01", "nan", "inf", "sure", ""])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/"])
def test_a_line_outside_of_0_to_1_is_refused(server: str, path: str, wrong: str) -> None:
    refused = httpx.post(f"{server}{path}", content=GOOD, params={"min_confidence": wrong})
    assert "min_confidence" in assert_error(refused, "invalid_parameter")


@pytest.mark.parametrize("wrong", [-0.1, 1.01, "0.5", True, [], float("nan")])
def test_a_line_in_json_is_checked_too(server: str, model: str, wrong: Any) -> None:
    parameters = {"min_confidence": wrong}
    photo = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [TEXT]}
    for path, body in (
        ("/", {"inputs": TEXT, "parameters": parameters}),
        (f"/v2/models/{model}/infer", {"inputs": [photo], "parameters": parameters}),
    ):
        text = json.dumps(body)  # httpx refuses NaN
        headers = {"Content-Type": "application/json"}
        refused = httpx.post(server + path, content=text, headers=headers)
        assert "min_confidence must be a number from 0 to 1" in assert_error(refused, "invalid_parameter")


def test_hugging_face_gets_the_ranking_and_is_told(server: str, strict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # or the client refuses this machine, too
    sure = InferenceClient(model=server).image_classification(GOOD, top_k=3)
    assert not any(hasattr(one, "abstained") for one in sure)
    for model in (strict, f"{server}/?min_confidence=1"):
        client = InferenceClient(model=model)
        found = client.image_classification(GOOD, top_k=3)
        assert [one.label for one in found] == [one.label for one in sure]
        assert [one.score for one in found] == pytest.approx([one.score for one in sure], abs=1e-5)
        assert all(one["abstained"]["reason"] == "low_confidence" for one in found)
        assert client.image_to_text(GOOD)["abstained"]["min_confidence"] == 1
    body = {"inputs": TEXT, "parameters": {"min_confidence": 0}}
    told: Any = answer(httpx.post(f"{strict}/", json=body, params={"min_confidence": 1}))
    assert "abstained" not in told[0], "the body's word comes before the URL's"


def test_triton_gets_an_empty_label(strict: str, model: str) -> None:
    client = triton.InferenceServerClient(strict.removeprefix("http://"))
    tensor = triton.InferInput("IMAGE", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[GOOD], [drawn_png(1)]], dtype=np.object_))
    sure = client.infer(model, [tensor], parameters={"min_confidence": 0.0})
    assert all(len(one) for one in sure.as_numpy("LABEL").ravel())
    for how in ({}, {"parameters": {"min_confidence": 1.0}}, {"query_params": {"min_confidence": 1}}):
        unsure = client.infer(model, [tensor], **how)
        assert unsure.as_numpy("LABEL").ravel().tolist() == [b"", b""]
        assert unsure.as_numpy("SCORE") == pytest.approx(sure.as_numpy("SCORE"), abs=1e-5)
    ranked = [triton.InferRequestedOutput("LABEL", class_count=2)]
    both = [client.infer(model, [tensor], outputs=ranked, parameters={"min_confidence": line}) for line in (0.0, 1.0)]
    # confidence:number:label
    sure_ones, unsure_ones = ([b.split(b":", 1)[1] for b in one.as_numpy("LABEL").ravel()] for one in both)
    assert sure_ones == unsure_ones, "a ranking, not a decision"
    assert len(sure_ones) == 4
    client.close()


def test_vertex_answers_as_predict(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/vertex")
    with running(bundle) as (url, _):
        body: dict[str, Any] = {"instances": [{"b64": TEXT}], "parameters": {"min_confidence": 1}}
        (unsure,) = answer(httpx.post(f"{url}/vertex", json=body))["predictions"]
        assert (unsure["prediction"], unsure["abstained"]["min_confidence"]) == (None, 1)
        body["parameters"] = {"min_confidence": 2}
        assert_error(httpx.post(f"{url}/vertex", json=body), "invalid_parameter")


def test_abstentions_are_counted(bundle: Path, model: str) -> None:
    with running(bundle, abstain_below=1) as (url, _):
        assert value(scrape(url), "abstained_total", reason="low_confidence") == 0
        predict(url, GOOD)
        predict(url, GOOD, min_confidence=0)
        httpx.post(f"{url}/predict/batch", files=[upload(one, "images") for one in (GOOD, b"no photo", GOOD)])
        tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [2, 1], "data": [TEXT, TEXT[:400]]}
        failed = httpx.post(f"{url}/v2/models/{model}/infer", json={"inputs": [tensor]})
        assert_error(failed, "bad_image")
        found = scrape(url)
        counted = [value(found, "abstained_total", reason=reason) for reason in ("low_confidence", "unfamiliar")]
        assert counted == [3, 0], "a request that fails as a whole has no photo answered"
        assert value(found, "familiarity_count") == 0, "this bundle cannot tell"
