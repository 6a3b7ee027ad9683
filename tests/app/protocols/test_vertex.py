"""What Vertex AI asks of a container: its routes, its port, its instances."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.server import create_app
from app.settings import ENV_PREFIX, load_settings
from contract.bundle import read_bundle
from contract.errors import ContractError
from tests.app.inside import running
from tests.app.photos import answer, assert_error, predict, scores
from tests.conftest import drawn_png, run_module

PHOTOS = [drawn_png(index) for index in range(3)]
TEXTS = [base64.b64encode(photo).decode() for photo in PHOTOS]
PATH = "/v1/endpoints/1/deployedModels/2"


@pytest.fixture(scope="module")
def vertex(bundle: Path) -> Iterator[str]:
    """A service on paths like those of Vertex."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # only at the start: another server may start meanwhile
            patch.setenv("AIP_HEALTH_ROUTE", PATH)
            patch.setenv("AIP_PREDICT_ROUTE", f"{PATH}:predict")
            url, _ = stack.enter_context(running(bundle))
        yield url


def ask(url: str, path: str = f"{PATH}:predict", **body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body)


def test_health(vertex: str) -> None:
    assert answer(httpx.get(vertex + PATH)) == {"status": "ok"}
    head = httpx.head(vertex + PATH)
    assert (head.status_code, head.content) == (200, b"")


def test_the_probe_needs_no_key(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "keys").write_text("secret-1\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("AIP_HEALTH_ROUTE", PATH)
        patch.setenv("AIP_PREDICT_ROUTE", PATH)  # the same path, another method
        caplog.set_level("INFO")
        url, app = stack.enter_context(running(bundle, api_keys_file=tmp_path / "keys"))
        assert answer(httpx.get(url + PATH)) == {"status": "ok"}
        assert httpx.head(url + PATH).status_code == 200
        assert_error(ask(url, PATH, instances=[{"b64": TEXTS[0]}]), "unauthorized")
        lines = [one.getMessage() for one in caplog.records if one.name == "food_vision.requests"]
        assert [line.split(" ")[0] for line in lines if PATH in line] == ["POST"], "a probe is quiet"
        document = httpx.get(f"{url}/openapi.json").json()["paths"][PATH]
        assert ("security" in document["get"], "security" in document["post"]) == (False, True)
        app.state.service.state = "draining"
        assert_error(httpx.get(url + PATH), "not_ready")
        app.state.service.state = "ready"


def test_a_probe_of_a_route_that_needs_a_key_still_does(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret-1\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("AIP_HEALTH_ROUTE", "/info")
        url, _ = stack.enter_context(running(bundle, api_keys_file=tmp_path / "keys"))
        assert_error(httpx.get(f"{url}/info"), "unauthorized")


def test_instances_in_every_form(vertex: str) -> None:
    forms: list[dict[str, Any]] = [
        {"b64": TEXTS[0]}, {"image_bytes": {"b64": TEXTS[1]}}, {"image": TEXTS[2]}, {"image": {"b64": TEXTS[0]}},
        {"image_bytes": TEXTS[1], "key": "mine"},
    ]  # fmt: skip
    found = answer(ask(vertex, instances=forms, parameters={}))["predictions"]
    expected = [predict(vertex, PHOTOS[index]) for index in (0, 1, 2, 0, 1)]
    assert len({one["label"] for one in expected}) > 1  # or the order could not be seen
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        assert one["label"] == other["label"]
        assert scores(one) == pytest.approx(scores(other), abs=1e-4)


def test_top_k(vertex: str) -> None:
    for query, parameters, count in (("", {"top_k": 2}, 2), ("?top_k=3", {}, 3), ("?top_k=3", {"top_k": 2}, 2)):
        url = f"{PATH}:predict{query}"
        (found,) = answer(ask(vertex, url, instances=[{"b64": TEXTS[0]}], parameters=parameters))["predictions"]
        assert len(found["top"]) == count


def test_a_bad_photo_fails_alone(vertex: str) -> None:
    bad = base64.b64encode(b"no photo at all").decode()
    found = answer(ask(vertex, instances=[{"b64": TEXTS[0]}, {"b64": bad}, {"b64": TEXTS[1]}]))["predictions"]
    assert [one.get("error_type") for one in found] == [None, "unsupported_format", None]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no instances": ({}, "bad_request"),
    "instances that are none": ({"instances": {"b64": TEXTS[0]}}, "bad_request"),
    "empty instances": ({"instances": []}, "missing_image"),
    "an instance of text": ({"instances": [TEXTS[0]]}, "bad_request"),
    "an instance without a photo": ({"instances": [{"text": "a"}]}, "bad_request"),
    "an instance with two photos": ({"instances": [{"b64": TEXTS[0], "image": TEXTS[0]}]}, "bad_request"),
    "no base64": ({"instances": [{"b64": "dinner.jpg"}]}, "bad_request"),
    "a photo that is null": ({"instances": [{"image_bytes": {"jpeg": TEXTS[0]}}]}, "bad_request"),
    "an empty photo": ({"instances": [{"b64": ""}]}, "missing_image"),
    "33 instances": ({"instances": [{"b64": TEXTS[0]}] * 33}, "too_many_images"),
    "top_k of 0": ({"instances": [{"b64": TEXTS[0]}], "parameters": {"top_k": 0}}, "invalid_parameter"),
    "parameters of text": ({"instances": [{"b64": TEXTS[0]}], "parameters": "top_k"}, "bad_request"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_requests_are_refused(vertex: str, name: str) -> None:
    body, slug = BROKEN[name]
    assert_error(ask(vertex, **body), slug)


def test_a_broken_instance_is_named(vertex: str) -> None:
    assert "Instance 1 " in assert_error(ask(vertex, instances=[{"b64": TEXTS[0]}, {"b64": "%"}]), "bad_request")


def test_its_routes_are_in_the_api_description(vertex: str) -> None:
    paths = httpx.get(f"{vertex}/openapi.json").json()["paths"]
    assert set(paths[PATH]) == {"get"}
    assert set(paths[f"{PATH}:predict"]["post"]["responses"]) >= {"200", "400", "413", "503"}
    assert set(paths["/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "image/*"}


def test_without_vertex_there_are_no_such_routes(server: str) -> None:
    assert_error(ask(server, instances=[{"b64": TEXTS[0]}]), "not_found")
    assert_error(ask(server, "/predict", instances=[{"b64": TEXTS[0]}]), "unsupported_format")


def test_paths_that_the_service_has_already(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/health")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    with running(bundle) as (url, _):
        label = predict(url, PHOTOS[0])["label"]
        assert answer(httpx.post(f"{url}/predict", content=PHOTOS[0]))["label"] == label
        assert answer(ask(url, "/predict", instances=[{"b64": TEXTS[0]}]))["predictions"][0]["label"] == label
        assert answer(httpx.get(f"{url}/health")) == {"status": "ok"}
        assert "GET" in assert_error(httpx.get(f"{url}/predict"), "method_not_allowed")
        paths = httpx.get(f"{url}/openapi.json").json()["paths"]
        assert set(paths["/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
        assert paths["/health"]["get"]["operationId"] == "health"


@pytest.mark.parametrize(("name", "value"), [("AIP_PREDICT_ROUTE", "predict"), ("AIP_HEALTH_ROUTE", "/{x}")])
def test_a_route_that_is_no_path_is_named(bundle: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ContractError) as told:
        create_app(read_bundle(bundle), load_settings(bundle=bundle))
    assert str(told.value) == f"The variable {name} must be a path like /predict, not {value!r}."


def test_a_route_that_is_no_path_as_a_user_sees_it(bundle: Path) -> None:
    done = run_module("app", "--bundle", bundle, "--port", 0, env={"AIP_PREDICT_ROUTE": "predict"})
    assert (done.returncode, done.stderr) == (
        1,
        "app: The variable AIP_PREDICT_ROUTE must be a path like /predict, not 'predict'.\n",
    )


def test_its_port_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Path("b")
    monkeypatch.delenv(f"{ENV_PREFIX}PORT", raising=False)
    assert load_settings(bundle=bundle).port == 8000
    monkeypatch.setenv("AIP_HTTP_PORT", "8080")
    assert load_settings(bundle=bundle).port == 8080
    assert load_settings(bundle=bundle, port="9000").port == 9000
    monkeypatch.setenv(f"{ENV_PREFIX}PORT", "7000")
    assert load_settings(bundle=bundle).port == 7000


@pytest.mark.parametrize("text", ["http", "-1", "65536", "800000"])
def test_a_port_that_is_none_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"{ENV_PREFIX}PORT", raising=False)
    monkeypatch.setenv("AIP_HTTP_PORT", text)
    with pytest.raises(ContractError, match=f"^The variable AIP_HTTP_PORT must be a port, 0 to 65535, not '{text}'.$"):
        load_settings(bundle=Path("b"))
