"""The answers: fields, types and order of every route, and an OpenAPI document that tells the truth about them."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.faults import ERRORS
from contract.bundle import Bundle, read_bundle
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0)
TRUE_LABELS = 8  # pictures with a known label that are sent


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server) as client:
        yield client


@pytest.fixture(scope="module")
def served(bundle: Path) -> Bundle:
    return read_bundle(bundle)


def test_predict(client: httpx.Client, served: Bundle) -> None:
    answer = client.post("/predict", files={"image": ("dinner.png", GOOD, "image/png")})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {
        "prediction", "raw_output", "class_id", "label", "confidence", "abstained", "familiarity", "unfamiliar",
        "top", "model", "timings_ms",
    }  # fmt: skip
    assert served.labels is not None
    assert served.manifest.caption is not None
    best = served.labels[body["class_id"]]
    assert (body["label"], body["prediction"]) == (best.name, best.display)
    assert body["raw_output"] == served.manifest.caption.render(best) == f"a photo of delicious {best.id}"
    assert body["model"] == {"name": served.manifest.name, "version": served.manifest.version}
    assert {key: body[key] for key in ("class_id", "label", "prediction", "confidence")} == body["top"][0]


def test_top_is_sorted_and_as_long_as_asked(client: httpx.Client, served: Bundle) -> None:
    assert served.labels is not None
    count = len(served.labels)
    for top_k, length in ((None, min(5, count)), (1, 1), (3, min(3, count)), (100, min(100, count))):
        parameters = {} if top_k is None else {"top_k": top_k}
        top = client.post("/predict", content=GOOD, params=parameters).json()["top"]
        confidences = [one["confidence"] for one in top]
        assert len(top) == length
        assert len({one["class_id"] for one in top}) == length
        assert confidences == sorted(confidences, reverse=True)
        assert all(0 <= one <= 1 for one in confidences)
        assert sum(confidences) <= 1 + 1e-4
        if length == count:
            assert sum(confidences) == pytest.approx(1, abs=1e-4)


def test_timings_are_milliseconds_of_the_stages(client: httpx.Client) -> None:
    began = time.perf_counter()
    timings = client.post("/predict", content=GOOD).json()["timings_ms"]
    waited = 1000 * (time.perf_counter() - began)
    assert set(timings) == {"decode", "queue", "encode", "score", "total"}
    assert all(0 <= value <= waited for value in timings.values())
    assert timings["total"] + 0.01 >= timings["decode"] + timings["queue"] + timings["encode"] + timings["score"]


def test_the_way_of_sending_does_not_matter(client: httpx.Client) -> None:
    answers = [
        client.post("/predict", content=GOOD),
        client.post("/predict", content=iter([GOOD[:1000], GOOD[1000:]])),  # chunked
        client.post("/predict", content=GOOD, headers={"Content-Type": "image/png"}),
        client.post("/predict", files={"image": GOOD}),
        client.post("/predict", files={"images": ("a.png", GOOD)}),
        client.post("/predict", files={"image": ("a.png", GOOD)}, data={"comment": "my dinner"}),
    ]
    bodies = [answer.json() for answer in answers]
    assert all(answer.status_code == 200 for answer in answers)
    assert all(body["top"] == bodies[0]["top"] for body in bodies)


def test_batch_keeps_the_order_and_a_bad_photo_fails_alone(client: httpx.Client) -> None:
    photos = [drawn_png(index) for index in range(5)]
    alone = [client.post("/predict", content=photo).json() for photo in photos]
    assert len({one["class_id"] for one in alone}) > 1  # or the order could not be seen
    mixed = [photos[0], photos[1], b"no photo", photos[2], b"", photos[3], photos[4]]
    files = [("images", (f"{index}.png", photo)) for index, photo in enumerate(mixed)]
    answer = client.post("/predict/batch", files=files, params={"top_k": 2})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert len(results) == len(mixed)
    for place, slug in ((2, "unsupported_format"), (4, "empty_image")):
        assert set(results[place]) == {"error", "error_type"}
        assert results[place]["error_type"] == slug
    good = [results[place] for place in (0, 1, 3, 5, 6)]
    for one, expected in zip(good, alone, strict=True):
        assert one["class_id"] == expected["class_id"]
        assert one["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)  # other batch, other rounding
        assert len(one["top"]) == 2


def test_caption(client: httpx.Client, served: Bundle) -> None:
    assert served.labels is not None
    assert served.manifest.caption is not None
    named = 0
    for index in range(TRUE_LABELS):
        answer = client.post("/caption", content=drawn_png(index))
        assert answer.status_code == 200
        body = answer.json()
        assert set(body) == {"caption", "prediction", "model", "timings_ms"}
        assert set(body["timings_ms"]) == {"decode", "queue", "encode", "generate", "total"}
        found = served.manifest.caption.parse(body["caption"], served.labels)
        assert body["prediction"] == (found.display if found is not None else None)
        named += found is not None
    assert named >= TRUE_LABELS // 2  # it was tuned to say nothing else


def test_labels(client: httpx.Client, served: Bundle) -> None:
    assert served.labels is not None
    assert client.get("/labels").json() == {"labels": [label.model_dump() for label in served.labels]}


def test_info(client: httpx.Client, served: Bundle) -> None:
    info = client.get("/info").json()
    assert served.labels is not None
    assert info["provider"] == "cpu"
    assert info["state"] == "ready"
    assert info["model"] == {"name": served.manifest.name, "version": served.manifest.version}
    assert info["labels"] == len(served.labels)
    assert info["image_size"] == served.manifest.image_size
    assert info["limits"]["max_batch"] == 16
    assert info["queued"] == {"predict": 0, "caption": 0}
    assert info["tower"] == served.manifest.model_dump()["tower"], "None for a bundle from before it was recorded"


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def open_inference_protocol(photos: set[str]) -> dict[tuple[str, str], set[str]]:
    found = {
        ("GET", "/v2"): {"200", "401"},
        ("GET", "/v2/health/live"): {"200", "503"},
        ("GET", "/v2/health/ready"): {"200", "503"},
        ("GET", "/v2/models/stats"): {"200", "401"},
    }
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found |= {("GET", model + tail): {"200", "401", "404"} for tail in ("", "/config", "/stats")}
        found |= {("GET", f"{model}/ready"): {"200", "401", "404", "503"}, ("POST", f"{model}/infer"): photos | {"404"}}
    return found


def test_openapi_lists_every_route_and_its_errors(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    found = {
        (method.upper(), path): one["responses"] for path, methods in paths.items() for method, one in methods.items()
    }
    photos = {"200", "400", "401", "408", "409", "413", "415", "431", "500", "503", "504"}
    assert {key: set(value) for key, value in found.items()} == {
        ("POST", "/predict"): photos,
        ("POST", "/predict/batch"): photos,
        ("POST", "/caption"): photos,
        ("GET", "/"): {"200"},
        ("POST", "/"): photos - {"409"},
        ("GET", "/labels"): {"200", "401", "409"},
        ("GET", "/info"): {"200", "401"},
        ("GET", "/health"): {"200", "503"},
        ("GET", "/health/live"): {"200", "503"},
        ("GET", "/health/ready"): {"200", "503"},
    } | open_inference_protocol(photos)
    for responses in found.values():
        for status, response in responses.items():
            if status != "200":
                assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}


def test_every_error_is_documented_or_comes_from_any_route(client: httpx.Client) -> None:
    text = client.get("/openapi.json").text
    generic = {"not_found": client.get("/nothing"), "method_not_allowed": client.get("/predict")}
    for slug, kind in ERRORS.items():
        if slug in generic:
            assert_error(generic[slug], slug)
        else:
            assert f"`{slug}`: {kind.meaning}" in text


def test_openapi_says_how_a_photo_is_sent(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/predict", "/caption"):
        body = paths[path]["post"]["requestBody"]
        assert body["required"]
        assert set(body["content"]) == {"multipart/form-data", "image/*"}
        assert body["content"]["multipart/form-data"]["schema"]["required"] == ["image"]


def test_size_and_shape_do_not_matter(client: httpx.Client) -> None:
    for size in ((30, 700), (1200, 800)):
        file = io.BytesIO()
        Image.open(io.BytesIO(GOOD)).resize(size).save(file, format="PNG")
        assert client.post("/predict", content=file.getvalue()).status_code == 200
