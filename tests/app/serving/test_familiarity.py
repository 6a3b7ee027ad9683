"""Is this food at all? Photos that do not look like the training photos get no label, by every protocol."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient, constants

from tests.app.chosen_familiarity import KNOWN, STRANGE, STRANGER, by_red, photo
from tests.app.inside import running
from tests.app.other_bundles import changed
from tests.app.photos import answer, assert_error, predict, upload
from tests.app.telemetry.test_metrics import scrape, value

NAMED = ("prediction", "class_id", "label")
TOLD = ("familiarity", "unfamiliar")
TEXT = base64.b64encode(photo(STRANGE)).decode()
MODES = "'off', 'mark' or 'abstain'"


@pytest.fixture(scope="module")
def url(familiar_bundle: Path) -> Iterator[str]:
    """A service as it is by default, whose engine finds photos as familiar as they are red."""
    with pytest.MonkeyPatch.context() as patch:
        by_red(patch)
        patch.setenv("AIP_PREDICT_ROUTE", "/vertex")
        with running(familiar_bundle) as (url, _):
            patch.delenv("AIP_PREDICT_ROUTE")  # other servers start meanwhile
            yield url


@pytest.fixture(scope="module")
def infer(url: str) -> str:
    """Where the Open Inference Protocol asks."""
    return f"/v2/models/{httpx.get(f'{url}/info').json()['model']['name']}/infer"


def test_what_is_strange_has_no_label(url: str) -> None:
    known, strange = predict(url, photo(KNOWN)), predict(url, photo(STRANGE))
    assert (known["familiarity"], known["unfamiliar"], known["abstained"]) == (KNOWN, False, None)
    assert known["label"] == known["top"][0]["label"]
    assert [strange[name] for name in (*NAMED, *TOLD)] == [None, None, None, STRANGE, True]
    assert strange["abstained"] == {
        "reason": "unfamiliar",
        "message": "It does not look like what the model was trained on: only 0.78 % of the training photos look less "
        "like the rest, below 1 %.",
        "min_confidence": None,
        "min_familiarity": 0.01,
    }
    assert len(strange["top"]) == 5, "what it would have said is there all the same"
    assert predict(url, photo(STRANGER), min_confidence=1)["abstained"]["reason"] == "unfamiliar"
    assert predict(url, photo(KNOWN), min_confidence=1)["abstained"]["reason"] == "low_confidence"


def test_the_request_says_what_becomes_of_it(url: str) -> None:
    marked, off = predict(url, photo(STRANGE), unfamiliar="mark"), predict(url, photo(STRANGE), unfamiliar="off")
    for found in (marked, off):
        assert found["abstained"] is None
        assert found["label"] == found["top"][0]["label"]
    assert [marked[name] for name in TOLD] == [STRANGE, True]
    assert [off[name] for name in TOLD] == [None, None]
    assert predict(url, photo(STRANGE), unfamiliar="abstain")["label"] is None


def test_the_settings_hold_where_the_request_says_nothing(familiar_bundle: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        by_red(patch)
        with running(familiar_bundle, unfamiliar="mark", unfamiliar_below=0.7) as (url, _):
            found = predict(url, photo(KNOWN))
            assert (found["label"] is None, found["unfamiliar"]) == (False, True)
            assert predict(url, photo(KNOWN), unfamiliar="abstain")["abstained"]["min_familiarity"] == 0.7
            info = httpx.get(f"{url}/info").json()["familiarity"]
    assert (info["unfamiliar"], info["below"]) == ("mark", 0.7)


def test_each_photo_of_a_batch_is_judged_alone_and_counted(url: str) -> None:
    before, shares = scrape(url), [KNOWN, STRANGER, STRANGE, KNOWN]
    files = [upload(one, "images") for one in (*map(photo, shares), b"no photo")]
    found = answer(httpx.post(f"{url}/predict/batch", files=files))["results"]
    predict(url, photo(STRANGE), unfamiliar="mark")
    predict(url, photo(STRANGE), unfamiliar="off")
    predict(url, photo(KNOWN), min_confidence=1)
    after = scrape(url)
    assert [one.get("familiarity") for one in found] == [*shares, None]
    assert [one.get("label") is None for one in found] == [False, True, True, False, True]

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("abstained_total", reason="unfamiliar") == 2
    assert more("abstained_total", reason="low_confidence") == 1
    assert more("unfamiliar_total") == 3, "what is marked, too"
    below = {le: more("familiarity_bucket", le=le) for le in ("0.001", "0.003", "0.01", "0.6", "0.7", "+Inf")}
    assert below == {"0.001": 1, "0.003": 1, "0.01": 3, "0.6": 3, "0.7": 6, "+Inf": 6}


def test_a_bundle_that_cannot_tell_answers_as_ever(server: str) -> None:
    assert httpx.get(f"{server}/info").json()["familiarity"] is None
    for mode in ("abstain", "mark", "off"):
        found = predict(server, photo(STRANGER), unfamiliar=mode)
        assert [found[name] for name in TOLD] == [None, None]
        assert found["label"] is not None


def test_what_the_bundle_knows_is_told(url: str) -> None:
    info = httpx.get(f"{url}/info").json()
    assert set(info["familiarity"]) == {"photos", "directions", "neighbours", "unfamiliar", "below", "check"}
    assert (info["familiarity"]["unfamiliar"], info["familiarity"]["below"]) == ("abstain", 0.01)


def test_a_demonstration_says_that_it_is_one(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    with running(changed(tmp_path / "bundle", format_version=5, demonstration=True)) as (url, _):
        assert httpx.get(f"{url}/info").json()["demonstration"] is True
    (said,) = [one.getMessage() for one in caplog.records if "demonstration" in one.getMessage()]
    assert "a demonstration, trained on drawn pictures: " in said
    assert "FOOD_VISION_BUNDLE" in said


@pytest.mark.parametrize("wrong", ["refuse", "ABSTAIN", "", "true"])
def test_another_word_is_refused(url: str, infer: str, wrong: str) -> None:
    json_photo = {"instances": [{"b64": TEXT}]}
    for path, body in (
        ("/predict", {"content": photo(KNOWN)}),
        ("/predict/batch", {"files": [upload(photo(KNOWN), "images")]}),
        ("/", {"content": photo(KNOWN)}),
        ("/vertex", {"json": json_photo}),
        (infer, {"json": {}}),
    ):
        refused: Any = httpx.post(url + path, params={"unfamiliar": wrong}, **body)
        sentence = assert_error(refused, "invalid_parameter")
        assert f"unfamiliar is wrong: Input should be {MODES}, not {wrong!r}." in sentence


@pytest.mark.parametrize("wrong", ["refuse", "", True, 1, [], {"mode": "off"}])
def test_another_word_in_json_is_refused(url: str, infer: str, wrong: Any) -> None:
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [TEXT]}
    for path, body in (
        ("/", {"inputs": TEXT}),
        ("/vertex", {"instances": [{"b64": TEXT}]}),
        (infer, {"inputs": [tensor]}),
    ):
        refused = httpx.post(url + path, json={**body, "parameters": {"unfamiliar": wrong}})
        sentence = assert_error(refused, "invalid_parameter")
        assert sentence.startswith("The parameter unfamiliar must be off, mark or abstain, not ")


def test_hugging_face_gets_the_ranking_and_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # or the client refuses this machine, too
    for one in InferenceClient(model=url).image_classification(photo(STRANGE), top_k=3):
        assert (one["familiarity"], one["unfamiliar"]) == (STRANGE, True)
        assert one["abstained"] == {
            "reason": "unfamiliar",
            "message": one["abstained"]["message"],
            "min_familiarity": 0.01,
        }
    (off,) = InferenceClient(model=f"{url}/?unfamiliar=off").image_classification(photo(STRANGE), top_k=1)
    assert not {"familiarity", "unfamiliar", "abstained"} & set(off)
    body = {"inputs": TEXT, "parameters": {"unfamiliar": "mark", "top_k": 1}}
    (marked,) = answer(httpx.post(f"{url}/", json=body, params={"unfamiliar": "off"}))
    told: Any = marked
    assert (told["unfamiliar"], "abstained" in told) == (True, False), "the body's word comes before the URL's"


def test_what_an_abstention_must_hold_is_there_in_every_face(url: str) -> None:
    """Hugging Face's entries leave out what is null."""
    described = httpx.get(f"{url}/openapi.json").json()["components"]["schemas"]["Abstention"]
    cases: list[dict[str, Any]] = [{}, {"min_confidence": 1.0, "unfamiliar": "off"}]
    for asked in cases:
        entry: Any = httpx.post(f"{url}/", content=photo(STRANGE), params={"top_k": 1, **asked}).json()[0]
        for found in (entry["abstained"], predict(url, photo(STRANGE), **asked)["abstained"]):
            assert set(described["required"]) <= set(found) <= set(described["properties"])


def test_triton_gets_an_empty_label_and_may_ask_how_familiar(url: str, infer: str) -> None:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    model = infer.split("/")[3]
    names = [one["name"] for one in client.get_model_metadata(model)["outputs"]]
    assert (
        names == [one["name"] for one in client.get_model_config(model)["output"]] == ["LABEL", "SCORE", "FAMILIARITY"]
    )
    tensor = triton.InferInput("IMAGE", [3, 1], "BYTES")
    photos = [[photo(KNOWN)], [photo(STRANGE)], [photo(STRANGER)]]
    tensor.set_data_from_numpy(np.array(photos, dtype=np.object_))
    found = client.infer(model, [tensor])
    assert [bool(one) for one in found.as_numpy("LABEL").ravel()] == [True, False, False]
    assert found.as_numpy("FAMILIARITY").ravel() == pytest.approx([KNOWN, STRANGE, STRANGER], abs=1e-6)
    for how in ({"parameters": {"unfamiliar": "off"}}, {"query_params": {"unfamiliar": "off"}}):
        off = client.infer(model, [tensor], **how)
        assert all(off.as_numpy("LABEL").ravel())
        assert off.as_numpy("FAMILIARITY").ravel().tolist() == [-1, -1, -1], "its tensor has no null"
    ranked = triton.InferRequestedOutput("FAMILIARITY", class_count=2)
    with pytest.raises(triton.InferenceServerException, match="classification of FAMILIARITY must be left out, not 2"):
        client.infer(model, [tensor], outputs=[ranked])
    client.close()


def test_triton_cannot_ask_a_model_that_cannot_tell(server: str) -> None:
    name = httpx.get(f"{server}/info").json()["model"]["name"]
    tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [TEXT]}
    body: dict[str, Any] = {"inputs": [tensor]}
    found = answer(httpx.post(f"{server}/v2/models/{name}/infer", json=body))
    assert [one["name"] for one in found["outputs"]] == ["LABEL", "SCORE"]
    body["outputs"] = [{"name": "FAMILIARITY"}]
    sentence = assert_error(httpx.post(f"{server}/v2/models/{name}/infer", json=body), "bad_request")
    assert sentence == "There is no output 'FAMILIARITY'. Ask for LABEL or SCORE."


def test_vertex_answers_as_predict(url: str) -> None:
    body: dict[str, Any] = {"instances": [{"b64": TEXT}]}
    (found,) = answer(httpx.post(f"{url}/vertex", json=body))["predictions"]
    assert (found["prediction"], found["abstained"]["reason"]) == (None, "unfamiliar")
    body["parameters"] = {"unfamiliar": "mark"}
    (found,) = answer(httpx.post(f"{url}/vertex", json=body))["predictions"]
    assert (found["prediction"] is None, found["unfamiliar"]) == (False, True)
